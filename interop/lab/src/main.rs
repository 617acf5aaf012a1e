//! `weft-lab`: example services and a load generator on the command line.

use clap::Parser;
use std::process::ExitCode;

/// Example services and a load generator for trying a mesh.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: weft_lab::cli::Command,
}

fn main() -> ExitCode {
    weft_lab::cli::run(&Arguments::parse().command)
}
