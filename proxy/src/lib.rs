//! The Weft sidecar.

mod access_log;
mod admin;
mod app;
mod authorize;
mod balance;
mod body;
mod capture;
mod check;
mod cli;
mod compile;
mod config;
mod detect;
mod dev_certs;
mod direct;
mod documents;
mod drain;
mod forward;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod identity;
mod inbound;
mod local;
mod memory;
mod metrics;
mod network;
mod outbound;
mod plain;
mod respond;
mod snapshot;
mod status;
mod telemetry;
mod thread;
mod tunnel;
mod upload;
mod watch_files;
mod worker;

use std::{error::Error, io, path::Path, process::ExitCode};

use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command, LogArgs, Output};

/// The whole of the binary `weft-proxy`.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run { config, log } => run(&config, &log),
        Command::Check { config, output } => return check::run(&config, output),
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

fn run(config: &Path, log: &LogArgs) -> Result<(), Box<dyn Error>> {
    start_log(log)?;
    let config = config::Config::load(config).map_err(documents::ConfigErrors)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(app::run(config));
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

fn start_log(log: &LogArgs) -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_new(&log.log).map_err(|error| format!("--log {}: {error}", log.log))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match log.log_format {
        Output::Text => subscriber.init(),
        Output::Json => subscriber.json().init(),
    }
    Ok(())
}
