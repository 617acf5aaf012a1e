//! The command line.

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;

use crate::{capture::command::CaptureCommand, dev_certs::DevCertsArgs, run_args::RunArgs, wait::WaitArgs};

/// The Weft sidecar: carries a workload's traffic over mutually authenticated HTTP/3.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  invalid input, or failure
  2  wrong use of the command line

See it work:
  weft demo --once";

const RUN_HELP: &str = "\
With a file that has them, certificates and documents are read again when they change, and at once on SIGHUP; the last good ones stay in use \
while what is read is wrong. The configuration itself is read once. SIGTERM and SIGINT finish what is under way, up \
to its drainTimeout, and end.

With a controller, the first certificate is asked for with a join token and the others with the one before; key, \
certificates and the last configuration are kept in the state directory, from which a restart goes on without the \
controller. Names and addresses of services are asked of it at their first use.

Examples:
  weft-proxy run --controller 10.0.0.1:15010 --join TOKEN --service-account web --port 8080
  weft-proxy run --config web.yaml
  weft-proxy run --config web.yaml --log info,weft_transport=debug --log-format json

Exit codes: 0 ended as told, 1 the configuration is wrong or the proxy could not start, 2 wrong use.";

const WAIT_HELP: &str = "\
Ready means: identity and configuration are there, and whatever else /ready asks for.

Examples:
  weft-proxy wait
  weft-proxy wait --timeout 30s -- ./server --port 8080

Exit codes: 0 ready (without a command), 1 failure, 2 wrong use, 3 not ready in time, 126 the command could not be run, \
127 there is no such command; else those of the command.";

const CHECK_HELP: &str = "\
Reads what a proxy would read, and starts nothing. Errors are lines `FILE:LINE: FIELD: MESSAGE`, all of them at once. \
What works, but hardly as it was meant, is a warning.

Examples:
  weft-proxy check --config web.yaml
  weft-proxy check --config web.yaml --output json

Exit codes: 0 no errors, 1 errors, 2 wrong use.";

const CAPTURE_HELP: &str = "\
Takes root, or CAP_NET_ADMIN, and nft, the program of nftables.

Examples:
  weft-proxy capture install --config web.yaml --proxy-uid 1337
  weft-proxy capture show
  weft-proxy capture remove";

const DEV_CERTS_HELP: &str = "\
Examples:
  weft-proxy dev-certs certs web db        for web and db of the namespace default
  weft-proxy dev-certs certs shop/web      for web of the namespace shop
  weft-proxy dev-certs certs web --force   replace the certificate and key of web

In the configuration of a proxy:
  identity: {certificate: certs/web.pem, key: certs/web.key, trustBundle: certs/ca.pem}";

const COMPLETION_HELP: &str = "\
Examples:
  weft-proxy completion bash > /etc/bash_completion.d/weft-proxy
  weft-proxy completion zsh > ~/.zfunc/_weft-proxy
  weft-proxy completion fish > ~/.config/fish/completions/weft-proxy.fish";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a sidecar until SIGTERM, then finish what is under way
    #[command(after_help = RUN_HELP)]
    Run {
        #[command(flatten)]
        source: Box<RunArgs>,
        #[command(flatten)]
        log: LogArgs,
    },
    /// Check a configuration, its documents and its certificates, and say all that is wrong
    #[command(after_help = CHECK_HELP)]
    Check {
        #[command(flatten)]
        source: Box<RunArgs>,
        /// How to print the result
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Wait until the sidecar beside this is ready, then run a command
    #[command(after_help = WAIT_HELP)]
    Wait(WaitArgs),
    /// Bring an application's connections to its sidecar without its knowledge
    #[command(subcommand, after_help = CAPTURE_HELP)]
    Capture(CaptureCommand),
    /// Make a development CA and certificates for workloads
    #[command(after_help = DEV_CERTS_HELP)]
    DevCerts(DevCertsArgs),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETION_HELP)]
    Completion {
        /// For which shell
        shell: Shell,
    },
    /// An example service or load, for tests
    #[command(subcommand, hide = true)]
    Lab(weft_lab::cli::Command),
}

/// How to log.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// What to log, as a level or by module, such as `info,weft_transport=debug`
    #[arg(long, env = "WEFT_LOG", value_name = "FILTER", default_value = "info", value_parser = log_filter)]
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

/// A filter is checked before anything starts: a misspelt one is wrong use, and would hide what it was to show.
fn log_filter(text: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn kind(line: &str) -> ErrorKind {
        parse(line).unwrap_err().kind()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_has_defaults() {
        let Command::Run { source, log } = parse("weft-proxy run --config web.yaml").unwrap().command else {
            panic!()
        };
        assert_eq!(source.file(), "web.yaml");
        assert_eq!((log.log.as_str(), log.log_format), ("info", Output::Text));
        let line = "weft-proxy run --config web.yaml --log warn,weft_transport=debug --log-format json";
        let Command::Run { log, .. } = parse(line).unwrap().command else {
            panic!()
        };
        assert_eq!(
            (log.log.as_str(), log.log_format),
            ("warn,weft_transport=debug", Output::Json)
        );
    }

    #[test]
    fn check_prints_text_unless_it_is_told_otherwise() {
        for (arguments, wanted) in [
            ("", Output::Text),
            ("--output json", Output::Json),
            ("-o json", Output::Json),
        ] {
            let Command::Check { output, .. } =
                parse(&format!("weft-proxy check --config web.yaml {arguments}"))
                    .unwrap()
                    .command
            else {
                panic!()
            };
            assert_eq!(output, wanted);
        }
    }

    #[test]
    fn wrong_use_is_refused_with_exit_code_2() {
        for (line, wanted) in [
            ("weft-proxy run", ErrorKind::MissingRequiredArgument),
            ("weft-proxy check", ErrorKind::MissingRequiredArgument),
            (
                "weft-proxy check --config a --output yaml",
                ErrorKind::InvalidValue,
            ),
            (
                "weft-proxy run --config a --log weft=loud",
                ErrorKind::ValueValidation,
            ),
            (
                "weft-proxy run --config a --log info,,=",
                ErrorKind::ValueValidation,
            ),
            ("weft-proxy completion csh", ErrorKind::InvalidValue),
            ("weft-proxy dev-certs certs", ErrorKind::MissingRequiredArgument),
            ("weft-proxy dev-certs certs ca", ErrorKind::ValueValidation),
            ("weft-proxy start", ErrorKind::InvalidSubcommand),
        ] {
            assert_eq!(kind(line), wanted, "{line}");
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        for line in [
            "weft-proxy --help",
            "weft-proxy run --help",
            "weft-proxy --version",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
        }
    }

    #[test]
    fn every_command_has_examples_that_are_right() {
        let commands: Vec<_> = Cli::command().get_subcommands().cloned().collect();
        let nested = commands.iter().filter(|command| !command.is_hide_set());
        let nested: Vec<_> = nested
            .flat_map(|command| command.get_subcommands().cloned())
            .collect();
        for mut command in commands.into_iter().chain(nested) {
            let help = command.render_long_help().to_string();
            let examples: Vec<&str> = help
                .lines()
                .filter(|line| line.starts_with("  weft-proxy "))
                .collect();
            assert!(!examples.is_empty() || command.is_hide_set(), "{help}");
            for line in examples {
                // What follows is a remark, or the shell's.
                let line = line.trim_start().split("   ").next().unwrap_or_default();
                let line = line.split(" >").next().unwrap_or_default();
                assert!(parse(line).is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn there_is_a_completion_script_for_every_shell() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "weft-proxy", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("dev-certs"), "{shell}");
        }
    }
}
