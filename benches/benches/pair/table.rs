//! The outcome for people.

use crate::ground::Layer;
use crate::outcome::{Comparison, Outcome, Row};
use crate::pairs::Pair;
use std::fmt;

/// The socket buffer that weft-proxy asks for; the kernel gives at most its limit.
const WANTED_RECEIVE_BUFFER: u64 = 4 * 1024 * 1024;

/// Displays an outcome as tables.
pub(crate) struct Table<'a>(pub(crate) &'a Outcome);

/// A column of a table of rows.
struct Column {
    title: &'static str,
    cell: fn(&Row) -> String,
}

/// Columns of small requests.
const SMALL: &[Column] = &[
    Column {
        title: "CPU µs/req",
        cell: |row| number(row.figures.cpu_us, 1),
    },
    Column {
        title: "requests/s",
        cell: |row| number(row.figures.requests_per_second, 0),
    },
    Column {
        title: "p50 ms",
        cell: |row| number(row.figures.p50_ms, 3),
    },
    Column {
        title: "p99 ms",
        cell: |row| number(row.figures.p99_ms, 2),
    },
    Column {
        title: "p99.9 ms",
        cell: |row| number(row.figures.p99_9_ms, 2),
    },
];

/// Columns of bulk downloads.
const BULK: &[Column] = &[
    Column {
        title: "Gbit/s",
        cell: |row| number(row.figures.gbit_per_second, 2),
    },
    Column {
        title: "CPU-s/GiB",
        cell: |row| number(row.figures.cpu_seconds_per_gib, 2),
    },
];

/// The columns that every table ends with.
const COMMON: &[Column] = &[
    Column {
        title: "idle RSS",
        cell: |row| number(row.figures.idle_rss_mib, 1),
    },
    Column {
        title: "peak RSS",
        cell: |row| number(row.figures.peak_rss_mib, 1),
    },
    Column {
        title: "UDP drops",
        cell: |row| row.udp_receive_buffer_errors.to_string(),
    },
    Column {
        title: "steal",
        cell: |row| format!("{:.1}%", row.steal * 100.0),
    },
    Column {
        title: "rounds",
        cell: |row| row.rounds.to_string(),
    },
];

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.conditions(f)?;
        let (l7, l4): (Vec<_>, Vec<_>) = self.0.rows.iter().partition(|row| row.layer == Layer::L7);
        if !l7.is_empty() {
            writeln!(f, "\nL7: sidecars that understand HTTP")?;
            self.rows(f, l7.iter().copied())?;
        }
        if !l4.is_empty() {
            writeln!(f, "\nL4: sidecars that carry the same HTTP/1.1 as opaque TCP")?;
            // What has no sidecars stands beside both.
            let direct = l7.iter().copied().filter(|row| row.pair == Pair::None);
            self.rows(f, direct.chain(l4.iter().copied()))?;
        }
        self.comparisons(f)?;
        self.0
            .failures
            .iter()
            .try_for_each(|failure| writeln!(f, "\nFAILED: {failure}"))
    }
}

impl Table<'_> {
    fn conditions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conditions = &self.0.conditions;
        let loss = match conditions.loss_percent {
            0.0 => "offloads on, no loss".to_owned(),
            percent => format!("offloads off, {percent}% of packets dropped at random both ways"),
        };
        let (mtu, cpus, seconds) = (conditions.mtu, conditions.cpus, conditions.seconds);
        writeln!(
            f,
            "\nTwo network namespaces joined by a veth pair, MTU {mtu}, {loss}; one worker a sidecar;"
        )?;
        writeln!(
            f,
            "load, application and sidecars share {cpus} CPUs. Medians of interleaved rounds."
        )?;
        if conditions.is_bulk {
            writeln!(f, "One download over one connection a round.")?;
        } else {
            writeln!(
                f,
                "Keep-alive HTTP/1.1, answers of 200 bytes, {seconds} s a round."
            )?;
        }
        writeln!(
            f,
            "CPU: user and system time of both sidecars. RSS: MiB of the larger sidecar."
        )?;
        match conditions.receive_buffer_limit {
            Some(limit @ ..WANTED_RECEIVE_BUFFER) => writeln!(
                f,
                "net.core.rmem_max is {limit}: UDP drops are to be expected (sysctl -w \
                 net.core.rmem_max={WANTED_RECEIVE_BUFFER} net.core.wmem_max={WANTED_RECEIVE_BUFFER})."
            ),
            _ => Ok(()),
        }
    }

    fn rows<'a>(&self, f: &mut fmt::Formatter<'_>, rows: impl Iterator<Item = &'a Row>) -> fmt::Result {
        let figures = if self.0.conditions.is_bulk { BULK } else { SMALL };
        write!(f, "{:<20}{:>6}", "pair", "conn")?;
        for Column { title, .. } in figures.iter().chain(COMMON) {
            write!(f, "{title:>12}")?;
        }
        writeln!(f)?;
        for row in rows {
            write!(f, "{:<20}{:>6}", row.pair.name(), row.connections)?;
            for Column { cell, .. } in figures.iter().chain(COMMON) {
                write!(f, "{:>12}", cell(row))?;
            }
            for (error, count) in &row.errors {
                write!(f, "  ERROR {error}: {count}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn comparisons(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.comparisons.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n{:<60}{:>10}{:>10}{:>10}{:>10}",
            "Weft", "figure", "peer's", "value", "target"
        )?;
        for Comparison {
            what,
            weft,
            peer,
            value,
            target,
        } in &self.0.comparisons
        {
            let (weft, peer) = (number(Some(*weft), 2), number(*peer, 2));
            write!(f, "{what:<60}{weft:>10}{peer:>10}{value:>10.3}")?;
            match target {
                None => writeln!(f, "{:>10}", "-")?,
                Some(target) => {
                    let verdict = if target.is_met { "met" } else { "MISSED" };
                    writeln!(f, "{:>10}  {verdict}", target.to_string())?;
                }
            }
        }
        Ok(())
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}
