//! The table of a running demo, as lines of text: who calls whom, and how the sidecars are.

use std::{collections::BTreeMap, time::Duration};

use weft_proto::mesh::v1::{ProxyStatus, proxy_status::State};

use super::{
    board::{Flow, Recent, Version},
    pages::Connections,
    plan::TRUST_DOMAIN,
};
use crate::cli::human;

/// Bytes of a root's hash that are shown: enough to tell two from each other.
const ROOT_BYTES: usize = 4;

/// What the table shows.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) flows: Vec<FlowRow>,
    /// The versions of the catalog, as customers get them.
    pub(super) versions: BTreeMap<&'static str, Version>,
    pub(super) sidecars: Vec<SidecarRow>,
    /// How long a certificate lives, in seconds.
    pub(super) leaf_lifetime: u64,
    /// The time of now, in seconds since 1970.
    pub(super) now: u64,
}

/// One who calls, and whom.
#[derive(Clone, Debug)]
pub(super) struct FlowRow {
    pub(super) flow: Flow,
    pub(super) recent: Recent,
    /// To all workloads of the service.
    pub(super) connections: Vec<Connections>,
}

/// One sidecar, as the controller knows it; `None` while there is no controller.
#[derive(Clone, Debug)]
pub(super) struct SidecarRow {
    pub(super) name: &'static str,
    pub(super) status: Option<ProxyStatus>,
}

impl View {
    /// Its lines. The first of each part is a heading, which `heading` marks as such.
    pub(super) fn lines(&self, heading: &dyn Fn(&str) -> String) -> Vec<String> {
        let head = format!(
            "{:<11}{:<18}{:<24}{:<10}{:>7}{:>8}{:>11}{:>11}  CONNECTIONS",
            "FROM", "TO", "PROVED TO BE", "PROTOCOL", "REQ/S", "FAILED", "P50", "P99"
        );
        let mut lines = vec![heading(&head)];
        lines.extend(self.flows.iter().map(FlowRow::line));
        lines.push(String::new());
        let head = format!(
            "{:<12}{:>7}{:>8}{:>11}{:>8}  REPLICAS",
            "CATALOG", "REQ/S", "SHARE", "ANSWERED", "FAILED"
        );
        lines.push(heading(&head));
        lines.extend(
            self.versions
                .iter()
                .map(|(name, version)| version_line(name, version)),
        );
        lines.push(String::new());
        let head = format!(
            "{:<14}{:<44}{:<14}{:<20}{:<22}ROOT",
            "SIDECAR", "IDENTITY", "STATE", "CONFIG", "CERTIFICATE"
        );
        lines.push(heading(&head));
        lines.extend(
            self.sidecars
                .iter()
                .map(|row| row.line(self.leaf_lifetime, self.now)),
        );
        lines
    }
}

/// How one version of the catalog does.
fn version_line(name: &str, version: &Version) -> String {
    let replicas: Vec<_> = version
        .replicas
        .iter()
        .map(|(name, percent)| format!("{name} {percent}%"))
        .collect();
    format!(
        "{name:<12}{:>7.0}{:>7}%{:>11}{:>8}  {}",
        version.rate,
        version.share,
        version.answered,
        version.failed,
        replicas.join(", ")
    )
}

impl FlowRow {
    fn line(&self) -> String {
        let Self { flow, recent, .. } = self;
        let shares: Vec<_> = recent
            .shares
            .iter()
            .map(|(version, percent)| format!("{version} {percent}%"))
            .collect();
        let line = format!(
            "{:<11}{:<18}{:<24}{:<10}{:>7.0}{:>8}{:>11}{:>11}  {}  {}",
            flow.from().account,
            flow.name(),
            self.identity(),
            flow.protocol(),
            recent.rate,
            recent.failed,
            milliseconds(recent.p50),
            milliseconds(recent.p99),
            self.carried(),
            shares.join(", "),
        );
        line.trim_end().to_owned()
    }

    /// Who all peers have proved to be, by TLS.
    fn identity(&self) -> String {
        let mut proved = self
            .connections
            .iter()
            .filter(|connections| connections.count > 0)
            .map(|connections| connections.identity.as_deref());
        let first = proved.next().flatten();
        match first {
            Some(identity) if proved.all(|other| other == Some(identity)) => short(identity).to_owned(),
            _ => "-".to_owned(),
        }
    }

    fn carried(&self) -> String {
        let count: usize = self.connections.iter().map(|connections| connections.count).sum();
        let used = self.connections.iter().find(|connections| connections.count > 0);
        match used {
            Some(used) => format!("{count} {}", used.transport),
            None => "-".to_owned(),
        }
    }
}

impl SidecarRow {
    fn line(&self, leaf_lifetime: u64, now: u64) -> String {
        let Some(status) = &self.status else {
            return format!(
                "{:<14}(the controller knows nothing of it, or does not answer)",
                self.name
            );
        };
        let left = status.certificate_not_after.saturating_sub(now);
        let certificate = match (status.certificate_not_after, left) {
            (0, _) => "-".to_owned(),
            (_, 0) => "expired".to_owned(),
            _ => format!(
                "{} old, {} left",
                seconds(leaf_lifetime.saturating_sub(left)),
                seconds(left)
            ),
        };
        let config = match (status.is_current, status.nacked.is_empty(), status.acked_revision) {
            (_, false, acked) => format!("refused, has {acked}"),
            (true, true, acked) => format!("acked {acked}"),
            (false, true, acked) => format!("acked {acked}, behind"),
        };
        let root: String = status
            .certificate_root
            .iter()
            .take(ROOT_BYTES)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let line = format!(
            "{:<14}{:<44}{:<14}{config:<20}{certificate:<22}{root}",
            self.name,
            status.identity,
            state(status),
        );
        line.trim_end().to_owned()
    }
}

fn state(status: &ProxyStatus) -> &'static str {
    match status.state() {
        State::Connected => "connected",
        State::Lost => "lost",
        State::Gone => "gone",
        State::Unspecified => "-",
    }
}

/// An identity of the demo's mesh without what they have in common.
fn short(identity: &str) -> &str {
    identity
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.strip_prefix(TRUST_DOMAIN))
        .map_or(identity, |path| path.trim_start_matches('/'))
}

fn seconds(seconds: u64) -> String {
    human::duration(Duration::from_secs(seconds))
}

/// A latency for people.
pub(super) fn milliseconds(duration: Duration) -> String {
    match duration.as_secs_f64() * 1e3 {
        long if long >= 100.0 => format!("{long:.0} ms"),
        short => format!("{short:.2} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        text.to_owned()
    }

    fn proved(count: usize, identity: Option<&str>) -> Connections {
        Connections {
            count,
            transport: "h3".to_owned(),
            identity: identity.map(str::to_owned),
        }
    }

    fn row(connections: Vec<Connections>) -> FlowRow {
        FlowRow {
            flow: Flow::Catalog,
            recent: Recent {
                rate: 99.6,
                failed: 2,
                p50: Duration::from_micros(420),
                p99: Duration::from_millis(1_250),
                shares: [("v1", 51), ("v2", 49)].into(),
                ..Recent::default()
            },
            connections,
        }
    }

    #[test]
    fn a_flow_is_a_line() {
        let identity = Some("spiffe://weft.demo/ns/default/sa/catalog");
        let line = row(vec![proved(1, identity), proved(2, identity)]).line();
        assert_eq!(
            line,
            "frontend   catalog           ns/default/sa/catalog   HTTP/1.1      100       2    0.42 ms    1250 ms  3 h3  \
             v1 51%, v2 49%"
        );
    }

    #[test]
    fn a_version_is_a_line_with_its_replicas() {
        let version = Version {
            rate: 44.6,
            share: 90,
            answered: 1_234,
            failed: 3,
            replicas: [("catalog-v1-0", 46), ("catalog-v1-1", 44)].into(),
        };
        let view = View {
            versions: [("v1", version)].into(),
            ..View::default()
        };
        let lines = view.lines(&plain);
        let line = lines.iter().find(|line| line.starts_with("v1"));
        assert_eq!(
            line.map(String::as_str),
            Some("v1               45     90%       1234       3  catalog-v1-0 46%, catalog-v1-1 44%")
        );
    }

    #[test]
    fn nobody_is_proved_to_be_two() {
        let (one, other) = (Some("spiffe://weft.demo/a"), Some("spiffe://weft.demo/b"));
        assert_eq!(row(vec![proved(1, one), proved(1, other)]).identity(), "-");
        assert_eq!(row(vec![proved(1, one), proved(1, None)]).identity(), "-");
        assert_eq!(row(vec![proved(1, one), Connections::default()]).identity(), "a");
        assert_eq!(row(vec![]).identity(), "-");
        assert_eq!(row(vec![]).carried(), "-");
    }

    #[test]
    fn a_sidecar_tells_its_certificate_and_its_configuration() {
        let status = ProxyStatus {
            identity: "spiffe://weft.demo/ns/default/sa/cart".to_owned(),
            state: State::Connected.into(),
            acked_revision: 17,
            is_current: true,
            certificate_not_after: 1_020,
            certificate_root: vec![0xab, 1, 2, 3, 4, 5].into(),
            ..ProxyStatus::default()
        };
        let row = |status| SidecarRow {
            name: "cart-0",
            status,
        };
        let line = row(Some(status.clone())).line(30, 1_000);
        for part in ["connected", "acked 17 ", "10s old, 20s left", "ab010203"] {
            assert!(line.contains(part), "{line}");
        }
        let behind = ProxyStatus {
            is_current: false,
            ..status
        };
        let line = row(Some(behind)).line(30, 1_021);
        assert!(
            line.contains("acked 17, behind") && line.contains("expired"),
            "{line}"
        );
        let view = View {
            sidecars: vec![row(None)],
            ..View::default()
        };
        let lines = view.lines(&plain);
        assert!(lines.last().unwrap().contains("does not answer"), "{lines:?}");
    }
}
