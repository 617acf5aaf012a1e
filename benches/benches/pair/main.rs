//! The whole mesh beside TCP meshes: `cargo bench -p weft-benches --bench pair`.
//!
//! Real processes in two network namespaces joined by a veth pair, as two hosts would be: on the left the load
//! generator and the client's sidecar, on the right the server's sidecar and the application. Every pair of
//! sidecars gets the same load in the same run, in interleaved rounds, because machines drift: trust the ratios of
//! one run and not figures of different runs. CPU is user and system time of both sidecars, from `/proc`, divided
//! by the answers in the same time.
//!
//! - `arguments`: the command line.
//! - `ground`: the two hosts, the applications, and one load on them.
//! - `pairs`: what can stand between load and application; `envoy`, `weft`, `certificates`.
//! - `outcome`: medians, ratios and targets; `table`: how they are printed.

mod arguments;
mod certificates;
mod envoy;
mod ground;
mod outcome;
mod pairs;
mod table;
mod weft;

use arguments::{Arguments, Options, Output, Subcommand};
use clap::Parser;
use ground::{Ground, Work};
use outcome::{Measurement, Outcome};
use pairs::{Pair, Prepared};
use std::error::Error;
use std::process::ExitCode;
use weft_lab::netns;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Subcommand::Lab { command }) = arguments.command {
        return weft_lab::cli::run(&command);
    }
    match compare(&arguments.options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<ExitCode> {
    netns::acquire_rights()?;
    let prepared = Prepared::new(options)?;
    let (mut measurements, mut failures) = (Vec::new(), Vec::new());
    for round in 0..options.most_rounds() {
        for pair in prepared.pairs_of_round(round) {
            eprintln!(
                "round {} of {}: {}",
                round + 1,
                options.most_rounds(),
                pair.name()
            );
            match measure(options, &prepared, *pair, round) {
                Ok(measured) => measurements.extend(measured),
                Err(error) => failures.push(format!("{}, round {}: {error}", pair.name(), round + 1)),
            }
        }
    }
    let outcome = Outcome::new(options, measurements, failures);
    match options.output {
        Output::Text => print!("{}", table::Table(&outcome)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&outcome)?),
    }
    let failed = outcome.has_errors() || (options.check && outcome.has_missed_targets());
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// One round of one pair, on hosts and with processes of its own.
fn measure(options: &Options, prepared: &Prepared, pair: Pair, round: usize) -> Result<Vec<Measurement>> {
    let ground = Ground::new(options)?;
    let running = prepared.start(pair, &ground)?;
    let mut measurements = Vec::new();
    for target in &running.targets {
        for connections in options.connections() {
            if round >= options.rounds_at(connections) {
                continue;
            }
            let work = if options.bulk { Work::Bulk } else { Work::Small };
            let load = ground.load(options, target, work, connections, &running.sidecar_pids())?;
            if !load.report.is_clean() {
                eprintln!(
                    "{}: wrong answers; the end of the logs:\n{}",
                    pair.name(),
                    running.logs()
                );
            }
            measurements.push(Measurement::new(
                pair,
                target.layer,
                round,
                running.idle_rss,
                load,
            ));
        }
    }
    running.verify()?;
    Ok(measurements)
}
