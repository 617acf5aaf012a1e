use clap::{CommandFactory, Parser, ValueEnum, error::ErrorKind};
use clap_complete::Shell;

use crate::cli::args::Cli;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn wrong_use_is_refused_with_exit_code_2() {
    for (line, wanted) in [
        ("weft apply", ErrorKind::MissingRequiredArgument),
        ("weft get", ErrorKind::MissingRequiredArgument),
        ("weft get svc -o xml", ErrorKind::InvalidValue),
        ("weft get svc -l app", ErrorKind::ValueValidation),
        ("weft get svc -n A", ErrorKind::ValueValidation),
        ("weft delete", ErrorKind::MissingRequiredArgument),
        ("weft delete svc web -f x", ErrorKind::ArgumentConflict),
        ("weft token create", ErrorKind::MissingRequiredArgument),
        (
            "weft token create --role admin",
            ErrorKind::MissingRequiredArgument,
        ),
        ("weft token create --role root --name x", ErrorKind::InvalidValue),
        (
            "weft token create --service-account web --ttl 0s",
            ErrorKind::ValueValidation,
        ),
        ("weft status --timeout 1m", ErrorKind::MissingRequiredArgument),
        ("weft status --watch --wait", ErrorKind::ArgumentConflict),
        ("weft ca rotate --root r.pem", ErrorKind::MissingRequiredArgument),
        ("weft probe web --path x", ErrorKind::ValueValidation),
        ("weft probe web --method CONNECT", ErrorKind::ValueValidation),
        ("weft probe web --header weft-port:1", ErrorKind::ValueValidation),
        ("weft explain GET http://web/", ErrorKind::MissingRequiredArgument),
        ("weft explain --from a GET web", ErrorKind::ValueValidation),
        (
            "weft explain --from a GET https://web/",
            ErrorKind::ValueValidation,
        ),
        (
            "weft explain --from a CONNECT http://web/",
            ErrorKind::ValueValidation,
        ),
        (
            "weft explain --from a GET http://web/ -H x",
            ErrorKind::ValueValidation,
        ),
        ("weft login t --controller :1", ErrorKind::ValueValidation),
        ("weft fly", ErrorKind::InvalidSubcommand),
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.kind(), wanted, "{line}");
        assert_eq!(error.exit_code(), 2, "{line}");
    }
    for line in ["weft --help", "weft get --help", "weft --version"] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
    }
}

#[test]
fn every_command_has_examples_that_are_right() {
    let all = Cli::command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set());
    let mut commands: Vec<clap::Command> = shown.cloned().collect();
    let nested: Vec<_> = commands
        .iter()
        .flat_map(|command| command.get_subcommands().cloned())
        .collect();
    commands.extend(nested);
    commands.push(Cli::command());
    for mut command in commands {
        let help = command.render_long_help().to_string();
        let examples: Vec<&str> = help.lines().filter(|line| line.starts_with("  weft ")).collect();
        assert!(!examples.is_empty(), "{help}");
        for line in examples {
            // What follows is a remark, or the shell's.
            let line = line.trim_start().split("   ").next().unwrap_or_default();
            let line = line
                .split([' '])
                .take_while(|word| !["<", ">"].contains(word))
                .collect::<Vec<_>>();
            assert!(parse(&line.join(" ")).is_ok(), "{line:?}");
        }
    }
}

#[test]
fn there_is_a_completion_script_for_every_shell() {
    for shell in Shell::value_variants() {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Cli::command(), "weft", &mut script);
        assert!(
            String::from_utf8(script).unwrap().contains("log-level"),
            "{shell}"
        );
    }
}
