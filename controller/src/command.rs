//! The command line of `weft-controller`.

use std::{error::Error, io, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;
use weft_proto::TrustDomain;

use crate::{app, cli::human::parse_time};

/// The Weft controller: hands out services and certificates to the sidecars of a mesh.
#[derive(Debug, Parser)]
#[command(name = "weft-controller", version, about, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  invalid input, or failure
  2  wrong use of the command line

Start one:
  weft-controller run --data-dir weft";

const RUN_HELP: &str = "\
The first start makes a certificate authority and an admin credential in the data directory, and prints what to type \
next. The data directory is all that a controller has: back it up, and keep it secret. SIGTERM and SIGINT end it; \
sidecars go on with what they have.

Examples:
  weft-controller run --data-dir /var/lib/weft
  weft-controller run --data-dir weft --listen 127.0.0.1:15010 --trust-domain mesh.example
  weft-controller run --data-dir weft --ca-root root.pem --ca-signer ca.pem --ca-signer-key ca.key

Exit codes: 0 ended as told, 1 it could not start, 2 wrong use.";

const EXPORT_HELP: &str = "\
Takes the data directory of a controller that is not running; a running one is exported by `weft export`. There is no \
private key in it, and no token.

Examples:
  weft-controller export --data-dir /var/lib/weft > weft.export";

const IMPORT_HELP: &str = "\
Takes a data directory without a store; the certificate authority's files are not part of an export.

Examples:
  weft-controller import --data-dir /var/lib/weft weft.export";

const COMPLETION_HELP: &str = "\
Examples:
  weft-controller completion bash > /etc/bash_completion.d/weft-controller";

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run a controller until SIGTERM
    #[command(after_help = RUN_HELP)]
    Run(Box<RunArgs>),
    /// Write the store to standard output
    #[command(after_help = EXPORT_HELP)]
    Export {
        /// Of the controller
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// Make a store of an export
    #[command(after_help = IMPORT_HELP)]
    Import {
        /// Of the controller
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// The export
        file: PathBuf,
    },
    /// Print a completion script for a shell
    #[command(after_help = COMPLETION_HELP)]
    Completion {
        /// For which shell
        shell: Shell,
    },
}

/// How a controller runs.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Where its store, its certificate authority and the admin's credential are; made if it is missing
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where sidecars and operators reach it, TCP
    #[arg(long, value_name = "ADDR", default_value = "[::]:15010")]
    pub listen: SocketAddr,
    /// HTTP for probes and scrapers: /ready and /metrics
    #[arg(long, value_name = "ADDR", default_value = "[::]:15014")]
    pub metrics: SocketAddr,
    /// Of every identity of the mesh; fixed by the first start
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = trust_domain)]
    pub trust_domain: TrustDomain,
    /// How sidecars and operators call it, where they are told: HOST or HOST:PORT
    #[arg(long, value_name = "HOST[:PORT]")]
    pub advertise: Option<String>,
    /// How long a workload's certificate is valid; at least 10 s
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = leaf_lifetime)]
    pub leaf_lifetime: Duration,
    /// How long an expired certificate can still be renewed
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_time)]
    pub renew_grace: Duration,
    /// How long the endpoint of a lost sidecar stays
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    pub endpoint_grace: Duration,
    /// A root of your own, PEM
    #[arg(long, value_name = "FILE", requires_all = ["ca_signer", "ca_signer_key"])]
    pub ca_root: Option<PathBuf>,
    /// An intermediate of it that signs for this controller, PEM
    #[arg(long, value_name = "FILE", requires = "ca_root")]
    pub ca_signer: Option<PathBuf>,
    /// The intermediate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "ca_root")]
    pub ca_signer_key: Option<PathBuf>,
    /// What to log, as a level or by module
    #[arg(long, env = "WEFT_LOG", value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    pub log: String,
    /// How to print the log, which goes to standard error
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// How to print the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// The whole of the binary `weft-controller`.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Run(args) => {
            start_log(&args)?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            let result = runtime.block_on(app::run(*args));
            runtime.shutdown_background();
            result
        }
        Command::Export { data_dir } => app::export(&data_dir, &mut io::stdout().lock()),
        Command::Import { data_dir, file } => app::import(&data_dir, &file),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "weft-controller", &mut io::stdout());
            Ok(())
        }
    }
}

fn start_log(args: &RunArgs) -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| format!("--log {}: {error}", args.log))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match args.log_format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|error| error.to_string())
}

fn leaf_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = parse_time(text)?;
    match (Duration::from_secs(10)..=Duration::from_secs(90 * 24 * 3_600)).contains(&lifetime) {
        true => Ok(lifetime),
        false => Err("a certificate lives from 10s to 90d".to_owned()),
    }
}

/// A filter is checked before anything starts: a misspelt one is wrong use, and would hide what it was to show.
fn log_filter(text: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_but_the_data_directory_has_a_default() {
        let Command::Run(args) = parse("weft-controller run --data-dir d").unwrap().command else {
            panic!()
        };
        assert_eq!(args.listen, "[::]:15010".parse().unwrap());
        assert_eq!(args.leaf_lifetime, Duration::from_secs(86_400));
        assert_eq!(args.trust_domain.as_str(), "cluster.local");
    }

    #[test]
    fn wrong_use_is_refused() {
        for (line, wanted) in [
            ("weft-controller run", ErrorKind::MissingRequiredArgument),
            (
                "weft-controller run --data-dir d --leaf-lifetime 5s",
                ErrorKind::ValueValidation,
            ),
            (
                "weft-controller run --data-dir d --leaf-lifetime 1y",
                ErrorKind::ValueValidation,
            ),
            (
                "weft-controller run --data-dir d --trust-domain A/b",
                ErrorKind::ValueValidation,
            ),
            (
                "weft-controller run --data-dir d --ca-root r",
                ErrorKind::MissingRequiredArgument,
            ),
            (
                "weft-controller run --data-dir d --ca-signer r",
                ErrorKind::MissingRequiredArgument,
            ),
            ("weft-controller start", ErrorKind::InvalidSubcommand),
        ] {
            assert_eq!(parse(line).unwrap_err().kind(), wanted, "{line}");
        }
    }

    #[test]
    fn every_command_has_examples_that_are_right() {
        for mut command in Cli::command().get_subcommands().cloned() {
            let help = command.render_long_help().to_string();
            let examples: Vec<&str> = help
                .lines()
                .filter(|line| line.starts_with("  weft-controller "))
                .collect();
            assert!(!examples.is_empty(), "{help}");
            for line in examples {
                let line = line.trim_start().split(" >").next().unwrap_or_default();
                assert!(parse(line).is_ok(), "{line}");
            }
        }
    }
}
