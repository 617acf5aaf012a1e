//! A sidecar's answers for people. They are its pages, of whatever version it is: what is not there is not shown.

use std::time::Duration;

use serde_json::Value;

use crate::cli::{
    failure::{Failure, many},
    human,
    json::{list, shown as text},
    screen::{Screen, clean},
    table::{Cell, Table},
};

/// Its identity and settings, and where its services lead.
pub(super) fn config(value: &Value, screen: &mut Screen) -> Result<(), Failure> {
    for (field, pointer) in [
        ("Identity", "/identity/spiffeId"),
        ("Generation", "/generation"),
        ("Trust domain", "/mesh/trustDomain"),
        ("Egress", "/mesh/egress"),
        ("Inbound", "/inbound/mode"),
        ("Authorization", "/inbound/authorization"),
        ("Capture", "/capture"),
    ] {
        let text = text(value.pointer(pointer));
        if !text.is_empty() {
            screen.line(format_args!("{:<15}{}", format!("{field}:"), clean(&text)))?;
        }
    }
    let ports = list(value.pointer("/inbound/ports"));
    let ports: Vec<String> = ports
        .iter()
        .map(|port| format!("{}/{}", text(port.get("port")), text(port.get("protocol"))))
        .collect();
    if !ports.is_empty() {
        screen.line(format_args!("{:<15}{}", "Own ports:", clean(&ports.join(", "))))?;
    }
    for (name, problem) in value
        .pointer("/problems")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let problem = text(Some(problem));
        if !problem.is_empty() {
            screen.line(format_args!(
                "Problem:       {}: {}",
                clean(name),
                clean(&problem)
            ))?;
        }
    }
    screen.line("")?;
    backends(value).print(screen, false)
}

/// Where each of its services leads.
fn backends(value: &Value) -> Table {
    let mut table = Table::new(vec![
        "DESTINATION",
        "SERVICE",
        "PROTOCOL",
        "WORKLOAD",
        "ADDRESS",
        "OVER",
        "IDENTITY",
    ]);
    for backend in list(value.get("backends")) {
        let of_backend = ["destination", "name", "protocol"].map(|name| text(backend.get(name)));
        let mut row = |of_endpoint: [String; 4]| {
            let cells = of_backend.iter().cloned().chain(of_endpoint);
            table.row(cells.map(Cell::from).collect());
        };
        let endpoints = list(backend.get("endpoints"));
        if endpoints.is_empty() {
            row(["none", "", "", ""].map(str::to_owned));
        }
        for endpoint in endpoints {
            row(["workload", "address", "transport", "identity"].map(|name| text(endpoint.get(name))));
        }
    }
    table
}

/// Its connections, those of all workers together.
pub(super) fn connections(value: &Value, screen: &mut Screen) -> Result<(), Failure> {
    let mut table = Table::new(vec![
        "DIRECTION",
        "PEER",
        "ADDRESS",
        "OVER",
        "PHASE",
        "AGE",
        "STREAMS",
        "RTT",
        "LOST",
        "MTU",
    ]);
    let mut count = 0;
    for worker in list(value.get("workers")) {
        if let Some(error) = worker.get("error") {
            screen.warn(format_args!(
                "worker {}: {}",
                clean(&text(worker.get("worker"))),
                clean(&text(Some(error)))
            ));
        }
        for connection in list(worker.get("connections")) {
            count += 1;
            table.row(connection_row(connection));
        }
    }
    table.print(screen, false)?;
    screen.line(format_args!("\n{}", many(count, "connection")))
}

fn connection_row(connection: &Value) -> Vec<Cell> {
    let cell = |name: &str| Cell::from(text(connection.get(name)));
    let number = |name: &str| connection.get(name).and_then(Value::as_u64);
    let peer = match text(connection.get("identity")) {
        identity if identity.is_empty() => text(connection.get("workload")),
        identity => identity,
    };
    let streams = format!(
        "{} of {}",
        text(connection.get("streams")),
        text(connection.get("streamsTotal"))
    );
    let rtt = number("rttMicros")
        .map(Duration::from_micros)
        .map(milliseconds)
        .unwrap_or_default();
    let lost = match (number("packetsLost"), number("packetsSent")) {
        (Some(lost), Some(sent)) => format!("{lost} of {sent}"),
        _ => String::new(),
    };
    let age = number("ageSeconds")
        .map(Duration::from_secs)
        .map(human::duration)
        .unwrap_or_default();
    vec![
        cell("direction"),
        Cell::from(peer),
        cell("address"),
        cell("transport"),
        cell("phase"),
        Cell::from(age),
        Cell::from(streams),
        Cell::from(rtt),
        Cell::from(lost),
        cell("mtu"),
    ]
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.2}ms", duration.as_secs_f64() * 1e3)
}
