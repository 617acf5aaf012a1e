//! What can be typed, and its help.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::{
    audit, ca, check, context, demo, describe, documents, explain, get, human, login, names, probe, proxy,
    status, token, version,
};

/// Operate a Weft mesh: its documents, sidecars, certificates and tokens.
#[derive(Debug, Parser)]
#[command(name = "weft", version, about, after_help = HELP, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const HELP: &str = "\
Exit codes:
  0  done; all is as it was asked to be
  1  failed; or there are differences, errors, or sidecars that are not current
  2  wrong use of the command line

Begin, on the controller's machine:
  weft status                            what the sidecars of the mesh do
  weft token create --service-account web
  weft apply -f mesh.yaml
  weft check

Without --config and WEFT_CONFIG, contexts are in weft/config.yaml of XDG_CONFIG_HOME or ~/.config; if there is no such \
file, in the one that a controller on this machine wrote for its admin. Colours are for terminals alone; NO_COLOR=1 \
turns them off.";

const CONTEXT_HELP: &str = "\
A context is a controller, and a credential for it.

Examples:
  weft context list
  weft context use prod
  weft context show";

const TOKEN_HELP: &str = "\
A token is good for one join within its time, for one identity.

Examples:
  weft token create --service-account web
  weft token list
  weft token revoke 5f0c7c1f9b2a4de8a3c46f1d2b7e9a05";

const CA_HELP: &str = "\
Examples:
  weft ca status
  weft ca rotate --wait
  weft ca renew --within 1m";

const PROXY_HELP: &str = "\
Examples:
  weft proxy connections web-0
  weft proxy logs shop/web-0 --access -f
  weft proxy log-level web-0 info,weft_transport=debug --for 10m";

const EXPORT_HELP: &str = "\
All that the controller stores, but for secrets: no private key is in it, and no token can be used. `weft-controller \
import` reads it.

Examples:
  weft export > weft.export";

const COMPLETION_HELP: &str = "\
Examples:
  weft completion bash > /etc/bash_completion.d/weft
  weft completion zsh > ~/.zfunc/_weft
  weft completion fish > ~/.config/fish/completions/weft.fish";

/// What every command takes.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Controller")]
pub(crate) struct Global {
    /// The file of contexts
    #[arg(
        long,
        global = true,
        env = "WEFT_CONFIG",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) config: Option<PathBuf>,
    /// Another context than the current one
    #[arg(
        long,
        global = true,
        env = "WEFT_CONTEXT",
        value_name = "NAME",
        hide_env_values = true
    )]
    pub(crate) context: Option<String>,
    /// Another address than the context's
    #[arg(long, global = true, value_name = "HOST:PORT", value_parser = context::address)]
    pub(crate) controller: Option<String>,
    /// Another namespace than the context's
    #[arg(long, short, global = true, value_name = "NS", value_parser = names::namespace)]
    pub(crate) namespace: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make documents so; documents that are not given stay as they are
    #[command(after_help = documents::APPLY_HELP)]
    Apply(documents::ApplyArgs),
    /// Show what an apply would change
    #[command(after_help = documents::DIFF_HELP)]
    Diff(documents::DiffArgs),
    /// Check documents without a controller, and say all that is wrong
    #[command(after_help = documents::VALIDATE_HELP)]
    Validate(documents::ValidateArgs),
    /// List documents, or show one
    #[command(after_help = get::HELP)]
    Get(get::GetArgs),
    /// Show a document, what stands behind it, and which sidecars have it
    #[command(after_help = describe::HELP)]
    Describe(describe::DescribeArgs),
    /// Remove documents
    #[command(after_help = documents::DELETE_HELP)]
    Delete(documents::DeleteArgs),
    /// Show every sidecar: whether it is there, ready, and has its configuration
    #[command(after_help = status::HELP)]
    Status(status::StatusArgs),
    /// Ask a sidecar, change its log level, or forget it
    #[command(subcommand, after_help = PROXY_HELP)]
    Proxy(proxy::ProxyCommand),
    /// Make, list and revoke tokens, with which sidecars and operators join
    #[command(subcommand, after_help = TOKEN_HELP)]
    Token(token::TokenCommand),
    /// Look after the certificate authority
    #[command(subcommand, after_help = CA_HELP)]
    Ca(ca::CaCommand),
    /// Show who changed what
    #[command(after_help = audit::HELP)]
    Audit(audit::AuditArgs),
    /// Write all that the controller stores to standard output
    #[command(after_help = EXPORT_HELP)]
    Export,
    /// Look at this machine, the controller and all certificates for what is wrong or soon will be
    #[command(after_help = check::HELP)]
    Check(check::CheckArgs),
    /// Ask a sidecar what would become of a request of its application, and why; nothing is sent
    #[command(after_help = explain::HELP)]
    Explain(explain::ExplainArgs),
    /// Call a service as yourself, and say what happens at each hop
    #[command(after_help = probe::HELP)]
    Probe(probe::ProbeArgs),
    /// Choose among controllers
    #[command(subcommand, after_help = CONTEXT_HELP)]
    Context(context::command::ContextCommand),
    /// Trade a token for a credential, and keep it in a context
    #[command(after_help = login::HELP)]
    Login(login::LoginArgs),
    /// Run a mesh on this machine: a controller, a small shop with a sidecar each, and traffic
    #[command(after_help = demo::HELP)]
    Demo(demo::DemoArgs),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETION_HELP)]
    Completion {
        /// For which shell
        shell: Shell,
    },
    /// Print the versions of this program and of the controller, and as whom you call
    #[command(after_help = version::HELP)]
    Version(version::VersionArgs),
    /// An example service, for the demo
    #[command(subcommand, name = "__lab", hide = true)]
    Lab(weft_lab::cli::Command),
}

/// For people or for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For people, with more
    Wide,
    /// For programs
    Json,
    /// For programs, and for people who edit
    Yaml,
    /// The names alone
    Name,
}

/// How long to wait.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WaitArgs {
    /// Wait until it is done, or no longer possible
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = human::parse_duration, requires = "wait")]
    pub(crate) timeout: Duration,
}
