//! What the demo tells, as it goes and at its end.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    fleet::Used,
    plan::{self, Subnet},
    traffic::{Outcome, Step},
};
use crate::cli::Output;

/// Where the telling goes: to standard output, or out of the way of JSON there.
pub(super) struct Screen {
    output: Output,
    has_colours: bool,
}

/// One kind of traffic, and between whom it went.
pub(super) struct Row {
    pub(super) step: Step,
    pub(super) outcome: Outcome,
    /// Of all sidecars concerned.
    pub(super) cpu_per_request: Duration,
    /// Both ends' identities, each as the other end's TLS has proved it.
    pub(super) caller: String,
    pub(super) peer: String,
    pub(super) peers: Vec<Peer>,
}

/// A workload that was called.
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) connections: usize,
    pub(super) streams: u64,
    pub(super) rtt: Duration,
}

#[derive(Clone, Copy)]
enum Colour {
    Bold,
    Green,
    Red,
    Dim,
}

impl Screen {
    pub(super) fn new(output: Output) -> Self {
        let is_terminal = match output {
            Output::Text => io::stdout().is_terminal(),
            Output::Json => io::stderr().is_terminal(),
        };
        let has_colours = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { output, has_colours }
    }

    /// A line.
    pub(super) fn say(&self, line: impl Display) {
        self.write(format_args!("{line}\n"));
    }

    pub(super) fn starting(&self, name: &str) {
        self.write(format_args!("starting {name:<9} ... "));
    }

    pub(super) fn started(&self, pids: &[(&str, u32)]) {
        let ready = self.paint(Colour::Green, "ready");
        let pids: Vec<_> = pids
            .iter()
            .map(|(role, pid)| format!("{role} pid {pid}"))
            .collect();
        self.say(format_args!("{ready} ({})", pids.join(", ")));
    }

    pub(super) fn head(&self) {
        let head = format!(
            "{:<9}{:<10}{:>9}{:>8}{:>11}{:>11}{:>14}",
            "SERVICE", "PROTOCOL", "REQUESTS", "FAILED", "P50", "P99", "CPU/REQUEST"
        );
        self.say(format_args!("\n{}", self.paint(Colour::Bold, &head)));
    }

    pub(super) fn row(&self, row: &Row) {
        let Row { step, outcome, .. } = row;
        let failed = format!("{:>8}", outcome.failed());
        let failed = if outcome.failed() == 0 {
            failed
        } else {
            self.paint(Colour::Red, &failed)
        };
        self.say(format_args!(
            "{:<9}{:<10}{:>9}{failed}{:>11}{:>11}{:>14}",
            step.application.service,
            step.protocol,
            outcome.requests,
            milliseconds(outcome.p50),
            milliseconds(outcome.p99),
            format!("{} µs", row.cpu_per_request.as_micros()),
        ));
        self.say(format_args!("  {} -> {}", row.caller, row.peer));
        for Peer {
            name,
            connections,
            streams,
            rtt,
        } in &row.peers
        {
            let text = format!(
                "  {name}: {connections} QUIC connection{}, {streams} streams, RTT {}",
                if *connections == 1 { "" } else { "s" },
                milliseconds(*rtt)
            );
            self.say(self.paint(Colour::Dim, &text));
        }
    }

    /// All that was measured: a line for people, a document for programs.
    pub(super) fn summary(&self, subnet: Subnet, rows: &[Row], used: &[Used], took: Duration) {
        let connections: usize = rows
            .iter()
            .flat_map(|row| &row.peers)
            .map(|peer| peer.connections)
            .sum();
        let sums: Vec<_> = rows
            .iter()
            .map(|row| format!("{} {} {}", row.outcome.requests, row.step.protocol, row.step.unit))
            .collect();
        let rss: Vec<_> = used
            .iter()
            .map(|used| format!("{} {:.0}", used.name, mebibytes(used.rss)))
            .collect();
        self.say(format_args!(
            "\nMemory of the sidecars, in MiB: {}",
            rss.join(", ")
        ));
        self.say(format_args!(
            "{} {}, 0 failed, over {connections} QUIC connections with mutual TLS, in {:.1} s",
            self.paint(Colour::Green, "OK:"),
            sums.join(", "),
            took.as_secs_f64()
        ));
        if matches!(self.output, Output::Json) {
            let sidecars: Vec<_> = used.iter().map(|used| used.to_json()).collect();
            let services: Vec<_> = rows.iter().map(Row::to_json).collect();
            let document = json!({
                "ok": true,
                "subnet": subnet.to_string(),
                "seconds": took.as_secs_f64(),
                "services": services,
                "sidecars": sidecars,
            });
            print(format_args!("{document}\n"));
        }
    }

    pub(super) fn error(&self, error: &dyn Display, rows: &[Row]) {
        let label = if io::stderr().is_terminal() {
            self.paint(Colour::Red, "error:")
        } else {
            "error:".to_owned()
        };
        // Behind a line that may be unfinished.
        eprintln!("\n{label} {error}");
        if matches!(self.output, Output::Json) {
            let services: Vec<_> = rows.iter().map(Row::to_json).collect();
            let document = json!({ "ok": false, "error": error.to_string(), "services": services });
            print(format_args!("{document}\n"));
        }
    }

    /// What to do with a mesh that stays up.
    pub(super) fn invitation(&self, subnet: Subnet, directory: &std::path::Path) {
        let client = subnet.outbound(plan::CLIENT);
        let (bind, directory) = (subnet.bind(), directory.display());
        let (admin, metrics) = (subnet.admin(plan::CLIENT), subnet.metrics(plan::CLIENT));
        let web = plan::SERVERS.first().map_or(admin, |web| subnet.admin(web));
        let lines = [
            ("HTTP", format!("curl -H 'Host: web' http://{client}/")),
            (
                "as a proxy",
                format!("http_proxy=http://{client} curl http://web.default/headers"),
            ),
            (
                "gRPC",
                format!(
                    "grpcurl -plaintext -authority greeter.default -import-path {directory} -proto {} \
                     -d '{{\"text\": \"hello\"}}' {client} weft.lab.v1.Echo/Unary",
                    plan::ECHO_PROTO_FILE
                ),
            ),
            ("TCP", format!("nc {} {}", bind.ip(), bind.port())),
            ("connections", format!("curl http://{admin}/connections")),
            ("what it knows", format!("curl http://{admin}/snapshot")),
            ("the other side", format!("curl http://{web}/connections")),
            ("metrics", format!("curl http://{metrics}/metrics")),
            ("access logs", format!("tail -f {directory}/*-access.log")),
        ];
        self.say("\nThe mesh stays up. Try, as its client:\n");
        for (what, line) in lines {
            self.say(format_args!("  {what:<15} {}", self.paint(Colour::Bold, &line)));
        }
        self.say("\nCtrl-C ends it.");
    }

    fn write(&self, text: std::fmt::Arguments<'_>) {
        match self.output {
            Output::Text => print(text),
            Output::Json => eprint!("{text}"),
        }
    }

    fn paint(&self, colour: Colour, text: &str) -> String {
        if !self.has_colours {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Bold => 1,
            Colour::Dim => 2,
            Colour::Red => 31,
            Colour::Green => 32,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

impl Row {
    fn to_json(&self) -> Value {
        let Self { step, outcome, .. } = self;
        let peer = |peer: &Peer| {
            json!({
                "workload": peer.name,
                "connections": peer.connections,
                "streams": peer.streams,
                "rttMicros": micros(peer.rtt),
            })
        };
        json!({
            "service": step.application.service,
            "protocol": step.protocol,
            "caller": self.caller,
            "peer": self.peer,
            "requests": outcome.requests,
            "failed": outcome.failed(),
            "failures": outcome.failures,
            "p50Micros": micros(outcome.p50),
            "p99Micros": micros(outcome.p99),
            "cpuMicrosPerRequest": micros(self.cpu_per_request),
            "peers": self.peers.iter().map(peer).collect::<Vec<_>>(),
        })
    }
}

impl Used {
    fn to_json(self) -> Value {
        json!({ "workload": self.name, "pid": self.pid, "cpuMicros": micros(self.cpu), "rssBytes": self.rss })
    }
}

/// Whoever reads may have gone: that is no reason to leave the mesh half down.
fn print(text: std::fmt::Arguments<'_>) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_fmt(text).and_then(|()| stdout.flush());
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
