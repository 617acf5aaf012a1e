//! Sidecars for people: all in a table, or one with all that is known of it.

use std::time::{Duration, SystemTime};

use weft_proto::mesh::v1;

use super::{Standing, name};
use crate::cli::{
    failure::{Failure, describe, many},
    get::ready,
    human, json,
    screen::{Colour, Screen, clean},
    table::{Cell, Table},
};

/// A certificate of less is worth a look: sidecars renew long before.
const SHORT: Duration = Duration::from_secs(60 * 60);

/// A table of all, and below it what is wrong.
pub(super) fn all(
    fleet: &v1::FleetResponse,
    is_wide: bool,
    now: SystemTime,
    screen: &mut Screen,
) -> Result<(), Failure> {
    if fleet.proxies.is_empty() {
        screen.note(
            "no sidecars\n  Let one join: weft token create --service-account NAME prints what to type there.",
        );
        return Ok(());
    }
    let mut head = vec![
        "NAMESPACE",
        "WORKLOAD",
        "READY",
        "CONFIG",
        "CERTIFICATE",
        "SEEN",
        "VERSION",
    ];
    if is_wide {
        head.extend(["ADDRESS", "ACKED", "RESOURCES", "REQUESTS", "FAILED", "IDENTITY"]);
    }
    let mut table = Table::new(head);
    for proxy in &fleet.proxies {
        let mut row = vec![
            Cell::from(proxy.namespace.as_str()),
            Cell::from(proxy.workload.as_str()),
            ready(proxy.readiness()),
            Cell::painted(Standing::of(proxy).as_str(), colour(Standing::of(proxy))),
            certificate(proxy, now),
            Cell::from(human::ago(now, proxy.last_seen)),
            Cell::from(proxy.version.as_str()),
        ];
        if is_wide {
            let traffic = proxy.traffic.unwrap_or_default();
            row.extend([
                Cell::from(proxy.address.as_str()),
                Cell::from(format!("{} of {}", proxy.acked_revision, fleet.revision)),
                Cell::from(u64::from(proxy.resources)),
                Cell::from(traffic.requests),
                Cell::from(traffic.failed),
                Cell::from(proxy.identity.as_str()),
            ]);
        }
        table.row(row);
    }
    table.print(screen, false)?;
    let wrong = fleet.proxies.iter().flat_map(|proxy| {
        let name = clean(&name(proxy)).into_owned();
        complaints(proxy, now)
            .into_iter()
            .map(move |line| format!("{name}: {line}"))
    });
    for (index, line) in wrong.enumerate() {
        let separator = if index == 0 { "\n" } else { "" };
        screen.line(format_args!("{separator}{line}"))?;
    }
    summary(fleet, screen)
}

fn summary(fleet: &v1::FleetResponse, screen: &mut Screen) -> Result<(), Failure> {
    let count = |standing| {
        fleet
            .proxies
            .iter()
            .filter(|proxy| Standing::of(proxy) == standing)
            .count()
    };
    let mut parts = Vec::new();
    for standing in [
        Standing::Current,
        Standing::Behind,
        Standing::Nacked,
        Standing::Lost,
        Standing::Gone,
    ] {
        match count(standing) {
            0 => {}
            number => {
                let text = format!("{number} {}", standing.as_str());
                parts.push(screen.paint(colour(standing), &text).into_owned());
            }
        }
    }
    screen.line(format_args!(
        "\n{}: {}",
        many(fleet.proxies.len(), "sidecar"),
        parts.join(", ")
    ))
}

/// All that is known of one.
pub(super) fn one(
    proxy: &v1::ProxyStatus,
    fleet: &v1::FleetResponse,
    now: SystemTime,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let standing = Standing::of(proxy);
    let config = screen.paint(colour(standing), standing.as_str()).into_owned();
    let traffic = proxy.traffic.unwrap_or_default();
    let moment = |seconds| match seconds {
        0 => "-".to_owned(),
        seconds => format!("{} ({} ago)", human::date(seconds), human::ago(now, seconds)),
    };
    let or_dash = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            clean(text).into_owned()
        }
    };
    let expiry = match proxy.certificate_not_after {
        0 => "-".to_owned(),
        seconds => format!("{} ({})", human::date(seconds), human::until(now, seconds)),
    };
    let root = json::hex(&proxy.certificate_root);
    for (field, value) in [
        ("Workload", or_dash(&name(proxy))),
        ("Identity", or_dash(&proxy.identity)),
        ("Version", or_dash(&proxy.version)),
        ("Address", or_dash(&proxy.address)),
        ("Readiness", or_dash(json::readiness(proxy.readiness()))),
        ("Configuration", config),
        (
            "Acknowledged",
            format!("revision {} of {}", proxy.acked_revision, fleet.revision),
        ),
        ("Resources", proxy.resources.to_string()),
        (
            "Trust bundle",
            format!("version {} of {}", proxy.trust_version, fleet.trust_version),
        ),
        ("Certificate ends", expiry),
        ("Certificate's root", or_dash(root.get(..16).unwrap_or_default())),
        ("Connected since", moment(proxy.connected_since)),
        ("Last seen", moment(proxy.last_seen)),
        (
            "Traffic",
            format!(
                "{} requests, {} failed, {} connections",
                traffic.requests, traffic.failed, traffic.connections
            ),
        ),
    ] {
        screen.line(format_args!("{:<20}{value}", format!("{field}:")))?;
    }
    list("Asks for", proxy.names.iter().map(String::as_str), screen)?;
    let complaints = complaints(proxy, now);
    list("To look at", complaints.iter().map(String::as_str), screen)
}

fn list<'a>(head: &str, lines: impl Iterator<Item = &'a str>, screen: &mut Screen) -> Result<(), Failure> {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return Ok(());
    }
    screen.line(format_args!("{head}:"))?;
    lines.try_for_each(|line| screen.line(format_args!("  {}", clean(line))))
}

/// What is wrong with a sidecar, in words.
pub(crate) fn complaints(proxy: &v1::ProxyStatus, now: SystemTime) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    match Standing::of(proxy) {
        Standing::Lost => lines.push(format!(
            "lost {} ago: still an endpoint for its grace",
            human::ago(now, proxy.last_seen)
        )),
        Standing::Gone => lines.push(format!(
            "gone: not seen for {}; if it will not come back: weft proxy evict {}",
            human::ago(now, proxy.last_seen),
            clean(&name(proxy))
        )),
        Standing::Nacked | Standing::Behind | Standing::Current => {}
    }
    lines.extend(
        proxy
            .nacked
            .iter()
            .map(|problem| format!("refused: {}", describe(problem))),
    );
    if proxy.readiness() != v1::Readiness::Ready && !proxy.reason.is_empty() {
        lines.push(format!(
            "{}: {}",
            json::readiness(proxy.readiness()),
            clean(&proxy.reason)
        ));
    }
    if proxy.renewal_failing_since != 0 {
        lines.push(format!(
            "its certificate cannot be renewed since {} ago: {}",
            human::ago(now, proxy.renewal_failing_since),
            clean(&proxy.renewal_error)
        ));
    }
    lines.extend(proxy.warnings.iter().map(|warning| clean(warning).into_owned()));
    lines
}

fn certificate(proxy: &v1::ProxyStatus, now: SystemTime) -> Cell {
    if proxy.certificate_not_after == 0 {
        return Cell::from("");
    }
    match human::left(now, proxy.certificate_not_after) {
        None => Cell::painted("expired", Colour::Red),
        Some(left) if proxy.renewal_failing_since != 0 => Cell::painted(human::duration(left), Colour::Red),
        Some(left) if left < SHORT => Cell::painted(human::duration(left), Colour::Yellow),
        Some(left) => Cell::from(human::duration(left)),
    }
}

fn colour(standing: Standing) -> Colour {
    match standing {
        Standing::Current => Colour::Green,
        Standing::Behind => Colour::Yellow,
        Standing::Nacked | Standing::Lost => Colour::Red,
        Standing::Gone => Colour::Dim,
    }
}
