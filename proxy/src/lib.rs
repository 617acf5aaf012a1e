//! The Weft sidecar.

mod access_log;
mod admin;
mod app;
mod authorize;
mod balance;
#[cfg(feature = "bench")]
pub mod bench;
mod body;
mod capture;
mod check;
mod cli;
mod compile;
mod config;
mod control;
mod deadline;
mod demand;
mod detect;
mod dev_certs;
mod direct;
mod documents;
mod drain;
mod explain;
mod fault;
mod forward;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod health;
mod hedge;
mod identity;
mod inbound;
mod limit;
mod local;
mod log;
mod memory;
mod metrics;
mod mirror;
mod network;
mod outbound;
mod outlier;
mod plain;
mod policy;
mod publish;
mod resolve;
mod respond;
mod retry;
mod rotation;
mod route;
mod run_args;
mod snapshot;
mod status;
mod telemetry;
mod thread;
mod tunnel;
mod upload;
mod wait;
mod watch_files;
mod worker;

use std::{error::Error, io, process::ExitCode};

use clap::{CommandFactory, Parser};

use crate::{
    cli::{Cli, Command, LogArgs},
    run_args::RunArgs,
};

/// The whole of the binary `weft-proxy`.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run { source, log } => run(&source, &log),
        Command::Check { source, output } => return check::run(&source, output),
        Command::Wait(args) => return wait::run(&args),
        Command::Capture(command) => return capture::command::run(&command),
        Command::DevCerts(args) => dev_certs(&args),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "weft-proxy", &mut io::stdout());
            Ok(())
        }
        Command::Lab(command) => return weft_lab::cli::run(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(source: &RunArgs, log: &LogArgs) -> Result<(), Box<dyn Error>> {
    let log = log::Log::start(log)?;
    let config = source.config().map_err(documents::ConfigErrors)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(app::run(config, log));
    // Not a drop: that would wait for workers whose peers do not say goodbye.
    runtime.shutdown_background();
    result
}

fn dev_certs(args: &dev_certs::DevCertsArgs) -> Result<(), Box<dyn Error>> {
    for written in dev_certs::write(args)? {
        println!("{written}");
    }
    Ok(())
}
