//! What a load has measured, for people and as JSON.

use super::{Options, Work};
use crate::error::{Error, Result};
use crate::process::{Udp, Usage};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// How often each kind of failure came.
pub type Errors = BTreeMap<String, u64>;

/// The outcome of a load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `http`, `ping` or `bulk`.
    pub work: String,
    /// How many connections there were.
    pub connections: usize,
    /// The length of the measurement in seconds.
    pub seconds: f64,
    /// Requests whose right answer came within the measurement.
    pub requests: u64,
    /// These per second.
    pub requests_per_second: f64,
    /// Bytes of the answers' bodies.
    pub bytes: u64,
    /// These as Gbit/s.
    pub gbit_per_second: f64,
    /// How long right answers took, from the first byte sent to the last byte received.
    pub latency: Latency,
    /// What went wrong, in the warm-up as well; empty when every answer was right.
    pub errors: Errors,
    /// CPU time of the load generator itself, in seconds.
    pub own_cpu_seconds: f64,
    /// The most memory that the load generator had, in bytes.
    pub own_peak_rss: u64,
    /// What the watched processes used in the measurement.
    pub watched: Vec<Watched>,
}

/// Times in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50_us: f64,
    /// The 90th percentile.
    pub p90_us: f64,
    /// The 99th percentile.
    pub p99_us: f64,
    /// The 99.9th percentile.
    pub p99_9_us: f64,
    /// The longest.
    pub max_us: f64,
    /// The mean.
    pub mean_us: f64,
}

/// A watched process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    /// Its process id.
    pub pid: u32,
    /// Its CPU time within the measurement, in seconds.
    pub cpu_seconds: f64,
    /// Its resident memory at the end, in bytes.
    pub rss: u64,
    /// The most that was ever resident, in bytes.
    pub peak_rss: u64,
    /// What its network namespace counted for UDP within the measurement.
    pub udp: Udp,
}

impl Report {
    /// Whether every answer was right, and there was one.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.requests > 0
    }

    /// CPU time of all watched processes per request, in microseconds.
    pub fn watched_cpu_us_per_request(&self) -> f64 {
        let seconds: f64 = self.watched.iter().map(|watched| watched.cpu_seconds).sum();
        seconds * 1e6 / as_f64(self.requests.max(1))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latency {
            p50_us,
            p90_us,
            p99_us,
            p99_9_us,
            max_us,
            mean_us,
        } = self.latency;
        writeln!(
            f,
            "{} over {} connections for {:.2} s",
            self.work, self.connections, self.seconds
        )?;
        writeln!(
            f,
            "  {} requests, {:.0} /s, {:.3} Gbit/s",
            self.requests, self.requests_per_second, self.gbit_per_second
        )?;
        writeln!(
            f,
            "  latency µs: p50 {p50_us:.0}, p90 {p90_us:.0}, p99 {p99_us:.0}, p99.9 {p99_9_us:.0}, max {max_us:.0}, mean {mean_us:.0}"
        )?;
        writeln!(
            f,
            "  load generator: {:.1} µs CPU a request",
            self.own_cpu_seconds * 1e6 / as_f64(self.requests.max(1))
        )?;
        for Watched {
            pid,
            cpu_seconds,
            rss,
            peak_rss,
            udp,
        } in &self.watched
        {
            let (us, mib) = (cpu_seconds * 1e6 / as_f64(self.requests.max(1)), |bytes: &u64| {
                as_f64(*bytes) / 1048576.0
            });
            writeln!(
                f,
                "  process {pid}: {us:.1} µs CPU a request, RSS {:.1} MiB (peak {:.1}), UDP drops {}",
                mib(rss),
                mib(peak_rss),
                udp.receive_buffer_errors
            )?;
        }
        if self.errors.is_empty() {
            return write!(f, "  no errors");
        }
        let errors: Vec<_> = self
            .errors
            .iter()
            .map(|(error, count)| format!("{error}: {count}"))
            .collect();
        write!(f, "  ERRORS: {}", errors.join(", "))
    }
}

/// Latencies and bytes of the answers so far.
pub(super) struct Measured {
    nanoseconds: Histogram<u64>,
    bytes: u64,
}

impl Measured {
    pub(super) fn new() -> Result<Self> {
        /// From 100 ns to two minutes, with three digits.
        const BOUNDS: (u64, u64, u8) = (100, 120_000_000_000, 3);
        let (low, high, digits) = BOUNDS;
        let nanoseconds = Histogram::new_with_bounds(low, high, digits);
        let nanoseconds = nanoseconds.map_err(|error| Error::Protocol(error.to_string()))?;
        Ok(Self {
            nanoseconds,
            bytes: 0,
        })
    }

    pub(super) fn record(&mut self, took: Duration, bytes: u64) {
        self.nanoseconds
            .saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        self.bytes += bytes;
    }
}

/// The time of a measurement, with what the watched processes had used at its start.
pub(super) struct Window {
    started: Instant,
    own: Usage,
    watched: Vec<(u32, Usage, Udp)>,
}

/// What was used within a measurement.
pub(super) struct Used {
    seconds: f64,
    own_cpu: Duration,
    watched: Vec<Watched>,
}

impl Window {
    pub(super) fn start(watch: &[u32]) -> Result<Self> {
        let watched = watch
            .iter()
            .map(|pid| Ok((*pid, Usage::of(*pid)?, Udp::of(*pid)?)));
        let watched = watched.collect::<Result<_>>()?;
        Ok(Self {
            started: Instant::now(),
            own: Usage::own()?,
            watched,
        })
    }

    pub(super) fn end(self) -> Result<Used> {
        let seconds = self.started.elapsed().as_secs_f64();
        let own_cpu = Usage::own()?.cpu.saturating_sub(self.own.cpu);
        let watched = self.watched.into_iter().map(|(pid, before, udp_before)| {
            let (after, udp) = (Usage::of(pid)?, Udp::of(pid)?);
            Ok(Watched {
                pid,
                cpu_seconds: after.cpu.saturating_sub(before.cpu).as_secs_f64(),
                rss: after.rss,
                peak_rss: after.peak_rss,
                udp: Udp {
                    received: udp.received - udp_before.received,
                    receive_buffer_errors: udp.receive_buffer_errors - udp_before.receive_buffer_errors,
                    send_buffer_errors: udp.send_buffer_errors - udp_before.send_buffer_errors,
                },
            })
        });
        Ok(Used {
            seconds,
            own_cpu,
            watched: watched.collect::<Result<_>>()?,
        })
    }
}

pub(super) fn make(
    options: &Options,
    measured: Measured,
    errors: Errors,
    used: Used,
    own_peak_rss: u64,
) -> Report {
    let Measured { nanoseconds, bytes } = measured;
    let requests = nanoseconds.len();
    let at = |quantile| as_f64(nanoseconds.value_at_quantile(quantile)) / 1e3;
    let work = match options.work {
        Work::Http { .. } => "http",
        Work::Ping { .. } => "ping",
        Work::Bulk { .. } => "bulk",
    };
    Report {
        work: work.to_owned(),
        connections: options.connections,
        seconds: used.seconds,
        requests,
        requests_per_second: as_f64(requests) / used.seconds,
        bytes,
        gbit_per_second: as_f64(bytes) * 8.0 / 1e9 / used.seconds,
        latency: Latency {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            max_us: as_f64(nanoseconds.max()) / 1e3,
            mean_us: nanoseconds.mean() / 1e3,
        },
        errors,
        own_cpu_seconds: used.own_cpu.as_secs_f64(),
        own_peak_rss,
        watched: used.watched,
    }
}

/// Counts here stay far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
