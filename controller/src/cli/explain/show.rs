//! An explanation for people. It is the sidecar's, of whatever version that is: what is not there is not shown.

use std::time::Duration;

use serde_json::Value;

use super::headline::{self, percent, place};
use crate::cli::{
    describe::section,
    failure::Failure,
    human,
    json::{list, shown as text},
    screen::{Colour, Screen, clean},
    table::{Cell, Table},
};

/// The whole page.
///
/// # Errors
/// It could not be written.
pub(super) fn page(answer: &Value, screen: &mut Screen) -> Result<(), Failure> {
    let line = headline::of(answer);
    let line = screen.paint(Colour::Bold, &clean(&line)).into_owned();
    screen.line(format_args!("{line}\n"))?;
    facts(answer, screen)?;
    considered(answer, screen)?;
    if let Some(route) = answer.get("route").filter(|route| !route.is_null()) {
        effects(route, screen)?;
    }
    for each in list(answer.get("backends")) {
        backend(each, screen)?;
    }
    authorization(answer, screen)
}

/// Who asks, what was called, and by which configuration.
fn facts(answer: &Value, screen: &mut Screen) -> Result<(), Failure> {
    let at = |pointer: &str| text(answer.pointer(pointer));
    let called = match (at("/service/name"), at("/service/port"), at("/service/protocol")) {
        (name, ..) if name.is_empty() => String::new(),
        (name, port, protocol) => format!("{name}, port {port} ({protocol})"),
    };
    let headers: Vec<String> = list(answer.pointer("/request/headers"))
        .iter()
        .map(|name| text(Some(name)))
        .collect();
    for (field, text) in [
        ("Called", called),
        ("Headers", headers.join(", ")),
        ("Caller", at("/from/identity")),
        ("Generation", at("/generation")),
    ] {
        if !text.is_empty() {
            screen.line(format_args!("{:<13}{}", format!("{field}:"), clean(&text)))?;
        }
    }
    Ok(())
}

/// The rules in the order in which they were tried.
fn considered(answer: &Value, screen: &mut Screen) -> Result<(), Failure> {
    let rules = list(answer.get("considered"));
    if rules.is_empty() {
        return Ok(());
    }
    section("Rules, in the order in which they count", screen)?;
    let mut table = Table::new(vec!["ROUTE", "RULE", "REQUESTS WITH", "MATCHES"]);
    for rule in rules {
        let matches = match rule.get("matched").and_then(Value::as_bool) {
            Some(true) => Cell::painted("yes", Colour::Green),
            _ => match text(rule.get("because")) {
                because if because.is_empty() => Cell::from("no"),
                because => Cell::from(format!("no: {because}")),
            },
        };
        let cell = |name: &str| Cell::from(text(rule.get(name)));
        table.row(vec![cell("route"), cell("rule"), cell("match"), matches]);
    }
    table.print(screen, false)
}

/// What the rule does besides choosing where the request goes.
fn effects(route: &Value, screen: &mut Screen) -> Result<(), Failure> {
    let mut lines: Vec<String> = list(route.get("filters"))
        .iter()
        .map(|filter| text(Some(filter)))
        .collect();
    for (name, what) in [
        ("requestMs", "the request, all tries together"),
        ("backendRequestMs", "each try"),
    ] {
        let limit = route.get("timeouts").and_then(|timeouts| timeouts.get(name));
        match limit.and_then(Value::as_u64) {
            None => {}
            Some(0) => lines.push(format!("time for {what}: without limit")),
            Some(limit) => {
                let limit = human::duration(Duration::from_millis(limit));
                lines.push(format!("time for {what}: {limit}"));
            }
        }
    }
    let retry = text(route.get("retry"));
    if !retry.is_empty() {
        lines.push(format!("retries: {retry}"));
    }
    if lines.is_empty() {
        return Ok(());
    }
    let head = format!("{}, rule {}", text(route.get("route")), text(route.get("rule")));
    section(&clean(&head), screen)?;
    lines
        .iter()
        .try_for_each(|line| screen.line(format_args!("  {}", clean(line))))
}

/// A place that the rule names: its endpoints, and what holds for it.
fn backend(backend: &Value, screen: &mut Screen) -> Result<(), Failure> {
    let number = |name: &str| backend.get(name).and_then(Value::as_u64);
    let mut head = format!("Backend {}", place(&text(backend.get("service")), number("port")));
    if let (Some(share), Some(weight)) = (backend.get("share").and_then(Value::as_f64), number("weight")) {
        head.push_str(&format!(": {} of the requests (weight {weight})", percent(share)));
    }
    section(&clean(&head), screen)?;
    if let Some(error) = backend.get("error").filter(|error| !error.is_null()) {
        let [status, reason, detail] = ["status", "reason", "detail"].map(|name| text(error.get(name)));
        let said = format!("answered {status}: {reason}: {detail}");
        let said = screen.paint(Colour::Red, &clean(&said)).into_owned();
        screen.line(format_args!("  {said}"))?;
    }
    if let Some(redirect) = backend.get("redirect").filter(|redirect| !redirect.is_null()) {
        let [status, location] = ["status", "location"].map(|name| text(redirect.get(name)));
        let said = format!("redirected, {status} to {location}");
        screen.line(format_args!("  {}", clean(&said)))?;
    }
    for filter in list(backend.get("filters")) {
        screen.line(format_args!("  {}", clean(&text(Some(filter)))))?;
    }
    // One that is none has none.
    if backend.get("endpoints").is_some() {
        endpoints(backend, screen)?;
    }
    for (count, what) in [
        (number("notReady"), "not ready, or ending"),
        (
            number("unmeshedDenied"),
            "without a sidecar, which MeshConfig does not allow",
        ),
    ] {
        if let Some(count @ 1..) = count {
            screen.line(format_args!("  and {count} {what}"))?;
        }
    }
    match backend.get("policy").filter(|policy| !policy.is_null()) {
        Some(policy) => self::policy(policy, screen),
        None => Ok(()),
    }
}

fn endpoints(backend: &Value, screen: &mut Screen) -> Result<(), Failure> {
    let all = list(backend.get("endpoints"));
    if all.is_empty() {
        return screen.line("  no endpoint that may be used");
    }
    let mut table = Table::new(vec![
        "WORKLOAD",
        "ADDRESS",
        "VERSION",
        "IN FLIGHT",
        "LATENCY",
        "WEIGHT",
        "ELIGIBLE",
    ]);
    for endpoint in all {
        let cell = |name: &str| Cell::from(text(endpoint.get(name)));
        let latency = endpoint.get("latencyMs").and_then(Value::as_f64);
        let (word, colour) = match endpoint.get("eligible").and_then(Value::as_bool) {
            Some(true) => ("yes", Colour::Green),
            _ => ("no", Colour::Yellow),
        };
        let eligible = match text(endpoint.get("because")) {
            because if because.is_empty() => Cell::painted(word, colour),
            because => Cell::painted(format!("{word}: {because}"), colour),
        };
        table.row(vec![
            cell("workload"),
            cell("address"),
            cell("version"),
            cell("inFlight"),
            Cell::from(
                latency
                    .map(|latency| format!("{latency:.2}ms"))
                    .unwrap_or_default(),
            ),
            cell("weight"),
            eligible,
        ]);
    }
    table.print(screen, false)
}

/// What holds for a backend, and which document says it.
fn policy(policy: &Value, screen: &mut Screen) -> Result<(), Failure> {
    let mut table = Table::new(vec!["POLICY", "SAID BY", "IN USE"]);
    for (name, field) in [
        ("load balancing", "loadBalancing"),
        ("retries", "retries"),
        ("limits", "limits"),
        ("outlier ejection", "outlierEjection"),
        ("timeouts", "timeouts"),
        ("faults", "faults"),
    ] {
        let source = match text(policy.get("sources").and_then(|sources| sources.get(field))) {
            source if source.is_empty() => "default".to_owned(),
            source => source,
        };
        let lines: Vec<String> = match policy.get(field) {
            Some(Value::Array(lines)) => lines.iter().map(|line| text(Some(line))).collect(),
            other => vec![text(other)],
        };
        for line in lines.iter().filter(|line| !line.is_empty()) {
            table.row(vec![
                Cell::from(name),
                Cell::from(source.as_str()),
                Cell::from(line.as_str()),
            ]);
        }
    }
    if table.is_empty() {
        return Ok(());
    }
    screen.line("")?;
    table.print(screen, false)
}

fn authorization(answer: &Value, screen: &mut Screen) -> Result<(), Failure> {
    let at = |name: &str| {
        let authorization = answer.get("authorization");
        text(authorization.and_then(|authorization| authorization.get(name)))
    };
    let (word, colour) = match at("decision").as_str() {
        "allow" => ("allowed", Colour::Green),
        "deny" => ("denied", Colour::Red),
        _ => return Ok(()),
    };
    section("Authorization", screen)?;
    let word = screen.paint(colour, word).into_owned();
    let mut line = String::new();
    for (before, text) in [(" by ", at("by")), (", ", at("where"))] {
        if !text.is_empty() {
            line.push_str(&format!("{before}{}", clean(&text)));
        }
    }
    screen.line(format_args!("  {word}{line}"))
}
