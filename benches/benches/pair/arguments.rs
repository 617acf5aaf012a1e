//! The command line.

use crate::pairs::Pair;
use clap::{Args, Parser, ValueEnum};
use std::path::PathBuf;

/// Compares sidecar pairs under the same load: Weft, Envoy, and none.
#[derive(Debug, Parser)]
#[command(name = "pair", args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Subcommand>,
    #[command(flatten)]
    pub(crate) options: Options,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Subcommand {
    /// The bench starts itself as its application and its load generator.
    #[command(hide = true)]
    Lab {
        #[command(subcommand)]
        command: weft_lab::cli::Command,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Interleaved rounds; the table has their medians.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Rounds at one connection, whose figures vary most. [default: 5, or --rounds if that is more]
    #[arg(long)]
    pub(crate) rounds_at_one: Option<usize>,
    /// Connections of the load. [default: 1,32,128; with --loss 1,16; with --bulk 1]
    #[arg(short, long, value_delimiter = ',', value_name = "N")]
    pub(crate) connections: Vec<usize>,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 4.0)]
    pub(crate) duration: f64,
    /// Seconds of load before it.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warmup: f64,
    /// A first impression in half a minute: one round of one second at 1 and 128 connections.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Percent of packets dropped at random in each direction, with offloads off.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    pub(crate) loss: f64,
    /// MTU of the link.
    #[arg(long, default_value_t = 1500)]
    pub(crate) mtu: u32,
    /// One download over one connection instead of small requests.
    #[arg(long)]
    pub(crate) bulk: bool,
    /// Size of a --bulk download in MiB.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    pub(crate) bulk_size: u64,
    /// Measure these pairs as well.
    #[arg(long, value_delimiter = ',')]
    pub(crate) peer: Vec<Pair>,
    /// Measure these pairs alone. [default: none,weft,envoy-h2,envoy-tcp]
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Pair>,
    /// This weft-proxy, instead of building one with the `dist` profile.
    #[arg(long, value_name = "PATH")]
    pub(crate) weft_proxy: Option<PathBuf>,
    /// This Envoy, instead of the one from PyPI.
    #[arg(long, value_name = "PATH")]
    pub(crate) envoy: Option<PathBuf>,
    /// Fail if a target is missed.
    #[arg(long)]
    pub(crate) check: bool,
    /// How to print the outcome.
    #[arg(short, long, default_value = "text")]
    pub(crate) output: Output,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables.
    Text,
    /// Everything, measurements of each round included.
    Json,
}

impl Options {
    /// The pairs to measure, in the order of the table.
    pub(crate) fn pairs(&self) -> Vec<Pair> {
        let mut pairs = self.only.clone();
        if pairs.is_empty() {
            pairs = vec![Pair::None, Pair::Weft, Pair::EnvoyH2, Pair::EnvoyTcp];
        }
        pairs.extend(&self.peer);
        pairs.sort();
        pairs.dedup();
        pairs
    }

    pub(crate) fn connections(&self) -> Vec<usize> {
        match () {
            () if !self.connections.is_empty() => self.connections.clone(),
            () if self.bulk => vec![1],
            () if self.loss > 0.0 => vec![1, 16],
            () if self.quick => vec![1, 128],
            () => vec![1, 32, 128],
        }
    }

    pub(crate) fn rounds_at(&self, connections: usize) -> usize {
        match connections {
            _ if self.quick => 1,
            1 if !self.bulk => self.rounds_at_one.unwrap_or(self.rounds.max(5)),
            _ => self.rounds,
        }
    }

    pub(crate) fn most_rounds(&self) -> usize {
        self.connections()
            .into_iter()
            .map(|connections| self.rounds_at(connections))
            .max()
            .unwrap_or(0)
    }

    pub(crate) fn duration(&self) -> f64 {
        if self.quick {
            self.duration.min(1.0)
        } else {
            self.duration
        }
    }

    pub(crate) fn warmup(&self) -> f64 {
        if self.quick {
            self.warmup.min(0.3)
        } else {
            self.warmup
        }
    }

    pub(crate) fn bulk_bytes(&self) -> u64 {
        self.bulk_size * 1024 * 1024
    }
}
