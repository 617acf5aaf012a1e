//! Medians of the rounds, ratios between pairs, and the targets that these must reach.

use crate::arguments::Options;
use crate::ground::{Layer, Load};
use crate::pairs::Pair;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use weft_lab::load::Errors;

const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;

/// One load on one pair.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measurement {
    pub(crate) pair: Pair,
    pub(crate) layer: Layer,
    pub(crate) connections: usize,
    pub(crate) round: usize,
    pub(crate) figures: Figures,
    /// Datagrams that the hosts dropped for want of a receive buffer.
    pub(crate) udp_receive_buffer_errors: u64,
    /// The part of the machine's time that a hypervisor gave to others.
    pub(crate) steal: f64,
    /// The CPU time of the load generator per request, which is not part of the pair's.
    pub(crate) load_cpu_us: f64,
    pub(crate) errors: Errors,
}

/// What is measured. Without sidecars they have no CPU time and no memory.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Figures {
    /// CPU time of both sidecars per request.
    pub(crate) cpu_us: Option<f64>,
    /// CPU time of both sidecars per GiB of answers.
    pub(crate) cpu_seconds_per_gib: Option<f64>,
    pub(crate) requests_per_second: Option<f64>,
    pub(crate) gbit_per_second: Option<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) p99_9_ms: Option<f64>,
    /// Memory of the larger sidecar before any load.
    pub(crate) idle_rss_mib: Option<f64>,
    /// The most memory that the larger sidecar had so far.
    pub(crate) peak_rss_mib: Option<f64>,
}

/// A line of the table: the medians of the rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) pair: Pair,
    pub(crate) layer: Layer,
    pub(crate) connections: usize,
    pub(crate) rounds: usize,
    pub(crate) figures: Figures,
    /// Of all rounds.
    pub(crate) udp_receive_buffer_errors: u64,
    /// The most of any round.
    pub(crate) steal: f64,
    /// Of all rounds.
    pub(crate) errors: Errors,
}

/// A figure of Weft beside that of a peer, or beside a limit.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Comparison {
    pub(crate) what: String,
    pub(crate) weft: f64,
    /// The peer's figure; without it Weft's own is compared with the limit.
    pub(crate) peer: Option<f64>,
    /// Weft's figure, divided by the peer's if there is one.
    pub(crate) value: f64,
    pub(crate) target: Option<Target>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Target {
    pub(crate) limit: f64,
    /// Whether the value must be at least the limit, and not at most.
    pub(crate) is_floor: bool,
    pub(crate) is_met: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:.3}", if self.is_floor { ">=" } else { "<=" }, self.limit)
    }
}

/// Under which conditions it was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Conditions {
    pub(crate) cpus: usize,
    pub(crate) mtu: u32,
    pub(crate) loss_percent: f64,
    pub(crate) is_bulk: bool,
    pub(crate) seconds: f64,
    pub(crate) receive_buffer_limit: Option<u64>,
}

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub(crate) conditions: Conditions,
    pub(crate) rows: Vec<Row>,
    pub(crate) comparisons: Vec<Comparison>,
    pub(crate) measurements: Vec<Measurement>,
    /// Pairs that could not be measured, with the round and the reason.
    pub(crate) failures: Vec<String>,
}

impl Measurement {
    pub(crate) fn new(pair: Pair, layer: Layer, round: usize, idle_rss: Option<u64>, load: Load) -> Self {
        let Load { report, steal } = load;
        let cpu_seconds: f64 = report.watched.iter().map(|watched| watched.cpu_seconds).sum();
        let has_sidecars = !report.watched.is_empty();
        let has_answers = report.requests > 0;
        let is_bulk = report.work == "bulk" && has_answers;
        let small = |figure: f64| (report.work != "bulk" && has_answers).then_some(figure);
        let peak_rss = report.watched.iter().map(|watched| watched.peak_rss).max();
        let figures = Figures {
            cpu_us: small(report.watched_cpu_us_per_request()).filter(|_| has_sidecars),
            cpu_seconds_per_gib: (is_bulk && has_sidecars)
                .then_some(cpu_seconds / (as_f64(report.bytes) / GIB)),
            requests_per_second: small(report.requests_per_second),
            gbit_per_second: is_bulk.then_some(report.gbit_per_second),
            p50_ms: small(report.latency.p50_us / 1e3),
            p99_ms: small(report.latency.p99_us / 1e3),
            p99_9_ms: small(report.latency.p99_9_us / 1e3),
            idle_rss_mib: idle_rss.map(|bytes| as_f64(bytes) / MIB),
            peak_rss_mib: peak_rss.map(|bytes| as_f64(bytes) / MIB),
        };
        Self {
            pair,
            layer,
            connections: report.connections,
            round,
            figures,
            udp_receive_buffer_errors: report.watched.iter().map(|w| w.udp.receive_buffer_errors).sum(),
            steal,
            load_cpu_us: report.own_cpu_seconds * 1e6 / as_f64(report.requests.max(1)),
            errors: report.errors,
        }
    }
}

impl Row {
    fn new(key: (Layer, Pair, usize), measurements: &[&Measurement]) -> Self {
        let (layer, pair, connections) = key;
        let median = |figure: fn(&Figures) -> Option<f64>| {
            median(
                measurements
                    .iter()
                    .filter_map(|measurement| figure(&measurement.figures))
                    .collect(),
            )
        };
        let mut errors = Errors::new();
        for (error, count) in measurements.iter().flat_map(|measurement| &measurement.errors) {
            *errors.entry(error.clone()).or_default() += count;
        }
        Self {
            pair,
            layer,
            connections,
            rounds: measurements.len(),
            figures: Figures {
                cpu_us: median(|figures| figures.cpu_us),
                cpu_seconds_per_gib: median(|figures| figures.cpu_seconds_per_gib),
                requests_per_second: median(|figures| figures.requests_per_second),
                gbit_per_second: median(|figures| figures.gbit_per_second),
                p50_ms: median(|figures| figures.p50_ms),
                p99_ms: median(|figures| figures.p99_ms),
                p99_9_ms: median(|figures| figures.p99_9_ms),
                idle_rss_mib: median(|figures| figures.idle_rss_mib),
                peak_rss_mib: median(|figures| figures.peak_rss_mib),
            },
            udp_receive_buffer_errors: measurements.iter().map(|m| m.udp_receive_buffer_errors).sum(),
            steal: measurements
                .iter()
                .map(|measurement| measurement.steal)
                .fold(0.0, f64::max),
            errors,
        }
    }
}

impl Outcome {
    pub(crate) fn new(options: &Options, measurements: Vec<Measurement>, failures: Vec<String>) -> Self {
        let key = |m: &Measurement| (m.layer, m.pair, m.connections);
        let keys: BTreeSet<_> = measurements.iter().map(key).collect();
        let rows = keys.into_iter().map(|wanted| {
            let of_row: Vec<_> = measurements.iter().filter(|m| key(m) == wanted).collect();
            Row::new(wanted, &of_row)
        });
        let rows: Vec<_> = rows.collect();
        let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max");
        let conditions = Conditions {
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            mtu: options.mtu,
            loss_percent: options.loss,
            is_bulk: options.bulk,
            seconds: options.duration(),
            receive_buffer_limit: limit.ok().and_then(|text| text.trim().parse().ok()),
        };
        let comparisons = compare(&conditions, &rows);
        Self {
            conditions,
            rows,
            comparisons,
            measurements,
            failures,
        }
    }

    pub(crate) fn has_errors(&self) -> bool {
        !self.failures.is_empty() || self.rows.iter().any(|row| !row.errors.is_empty())
    }

    pub(crate) fn has_missed_targets(&self) -> bool {
        self.comparisons
            .iter()
            .any(|comparison| comparison.target.is_some_and(|target| !target.is_met))
    }
}

/// What a target bounds.
#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
    /// For information.
    None,
}

type Figure = fn(&Figures) -> Option<f64>;

fn compare(conditions: &Conditions, rows: &[Row]) -> Vec<Comparison> {
    use Layer::{L4, L7};
    use Pair::{EnvoyH2, EnvoyTcp};
    let by_key: BTreeMap<_, _> = rows
        .iter()
        .map(|row| ((row.layer, row.pair, row.connections), row))
        .collect();
    let figure = |layer, pair, connections, figure: Figure| {
        by_key
            .get(&(layer, pair, connections))
            .and_then(|row| figure(&row.figures))
    };
    let ratio = |what: &str, layer, peer, connections, of: Figure, limit| {
        let (weft, theirs) = (
            figure(layer, Pair::Weft, connections, of)?,
            figure(layer, peer, connections, of)?,
        );
        let what = format!("{what}, of {}", peer.name());
        Some(Comparison {
            what,
            weft,
            peer: Some(theirs),
            value: weft / theirs,
            target: judge(weft / theirs, limit),
        })
    };
    let beside_weft = |what: &str, layer, pair, connections, of: Figure, limit| {
        let other = figure(layer, pair, connections, of)?;
        let plain = figure(layer, Pair::Weft, connections, of)?;
        let how = match pair {
            Pair::WeftCaptured => "captured, of the explicit port",
            _ => "with a route and a policy, of none",
        };
        Some(Comparison {
            what: format!("{what}, {how}"),
            weft: other,
            peer: Some(plain),
            value: other / plain,
            target: judge(other / plain, limit),
        })
    };
    let absolute = |what: &str, layer, connections, of: Figure, limit| {
        let weft = figure(layer, Pair::Weft, connections, of)?;
        Some(Comparison {
            what: what.to_owned(),
            weft,
            peer: None,
            value: weft,
            target: judge(weft, limit),
        })
    };
    let (cpu, rps, gbit): (Figure, Figure, Figure) =
        (|f| f.cpu_us, |f| f.requests_per_second, |f| f.gbit_per_second);
    let (p50, p99, idle): (Figure, Figure, Figure) = (|f| f.p50_ms, |f| f.p99_ms, |f| f.idle_rss_mib);
    let comparisons = if conditions.is_bulk {
        vec![
            ratio("L4 bulk Gbit/s", L4, EnvoyTcp, 1, gbit, Limit::None),
            ratio("L7 bulk Gbit/s", L7, EnvoyH2, 1, gbit, Limit::None),
            ratio("L7 bulk Gbit/s", L7, Pair::EnvoyH3, 1, gbit, Limit::AtLeast(10.0)),
        ]
    } else if conditions.loss_percent > 0.0 {
        vec![
            absolute("L7 p99 ms, 1 connection", L7, 1, p99, Limit::AtMost(10.0)),
            absolute("L7 p99 ms, 16 connections", L7, 16, p99, Limit::AtMost(10.0)),
            absolute("L4 p99 ms, 1 connection", L4, 1, p99, Limit::AtMost(10.0)),
            absolute("L4 p99 ms, 16 connections", L4, 16, p99, Limit::AtMost(10.0)),
            ratio("L7 p99, 1 connection", L7, EnvoyH2, 1, p99, Limit::None),
            ratio("L7 p99, 16 connections", L7, EnvoyH2, 16, p99, Limit::None),
        ]
    } else {
        vec![
            ratio(
                "L7 CPU a request, 128 connections",
                L7,
                EnvoyH2,
                128,
                cpu,
                Limit::AtMost(1.0 / 3.0),
            ),
            ratio(
                "L4 CPU a request, 128 connections",
                L4,
                EnvoyTcp,
                128,
                cpu,
                Limit::AtMost(1.0 / 2.0),
            ),
            ratio(
                "L7 p50, 1 connection",
                L7,
                EnvoyH2,
                1,
                p50,
                Limit::AtMost(1.0 / 2.0),
            ),
            ratio(
                "L7 requests/s, 128 connections",
                L7,
                EnvoyH2,
                128,
                rps,
                Limit::None,
            ),
            ratio(
                "L4 requests/s, 128 connections",
                L4,
                EnvoyTcp,
                128,
                rps,
                Limit::None,
            ),
            ratio(
                "L7 CPU a request, 128 connections",
                L7,
                Pair::EnvoyH3,
                128,
                cpu,
                Limit::None,
            ),
            beside_weft(
                "L7 CPU a request, 128 connections",
                L7,
                Pair::WeftRouted,
                128,
                cpu,
                Limit::AtMost(1.05),
            ),
            beside_weft(
                "L7 CPU a request, 128 connections",
                L7,
                Pair::WeftCaptured,
                128,
                cpu,
                Limit::AtMost(1.05),
            ),
            beside_weft(
                "L4 CPU a request, 128 connections",
                L4,
                Pair::WeftCaptured,
                128,
                cpu,
                Limit::AtMost(1.05),
            ),
            absolute("idle RSS of a sidecar, MiB", L7, 1, idle, Limit::AtMost(18.0)),
        ]
    };
    comparisons.into_iter().flatten().collect()
}

fn judge(value: f64, limit: Limit) -> Option<Target> {
    match limit {
        Limit::AtMost(limit) => Some(Target {
            limit,
            is_floor: false,
            is_met: value <= limit,
        }),
        Limit::AtLeast(limit) => Some(Target {
            limit,
            is_floor: true,
            is_met: value >= limit,
        }),
        Limit::None => None,
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (middle, is_even) = (values.len() / 2, values.len().is_multiple_of(2));
    let upper = *values.get(middle)?;
    if is_even {
        Some(f64::midpoint(upper, *values.get(middle - 1)?))
    } else {
        Some(upper)
    }
}

/// Counts here stay far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
