//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::{demo::DemoArgs, dev_certs::DevCertsArgs};

/// The Weft sidecar: carries a workload's traffic over mutually authenticated HTTP/3.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 invalid input or failure, 2 wrong use of the command line.\n\n\
    See it work: weft-proxy demo --once";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a sidecar until SIGTERM, then finish what is under way
    #[command(after_help = "Example: weft-proxy run --config web.yaml\n\n\
        Files named in the configuration are read again when they change, and on SIGHUP.")]
    Run {
        /// The proxy's file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        log: LogArgs,
    },
    /// Check a configuration, its documents and its certificates, and say all that is wrong
    #[command(after_help = "Example: weft-proxy check --config web.yaml")]
    Check {
        /// The proxy's file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// How to print the result
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Make a development CA and certificates for workloads
    DevCerts(DevCertsArgs),
    /// Run example services with a sidecar each on this machine, and send traffic through them
    Demo(DemoArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example: weft-proxy completion bash > /etc/bash_completion.d/weft-proxy")]
    Completion {
        /// For which shell
        shell: Shell,
    },
    /// An example service or load, for the demo
    #[command(subcommand, hide = true)]
    Lab(weft_lab::cli::Command),
}

/// How to log.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// What to log, as a level or by module, such as `info,weft_transport=debug`
    #[arg(long, env = "WEFT_LOG", value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
    /// How to print the log, which goes to standard error
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) log_format: Output,
}

/// Text for people or JSON for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}
