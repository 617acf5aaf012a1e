//! `weft-lab`: example services, a load generator and impaired links on the command line.

use clap::Parser;
use std::process::ExitCode;

/// Example services, a load generator and impaired links for trying a mesh.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: weft_lab::cli::Command,
}

fn main() -> ExitCode {
    weft_lab::cli::run(&Arguments::parse().command)
}
