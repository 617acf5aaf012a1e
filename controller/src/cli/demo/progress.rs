//! How far a change, a renewal or a rotation is, from what the controller says: plain data, fed with its answers and
//! with how long it has taken so far.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use weft_proto::mesh::v1::{FleetResponse, ProxyStatus, TrustStatusResponse, proxy_status::State};

use crate::cli::failure;

/// Where a rotation of the root begins and ends.
const STABLE: &str = "stable";
/// Of those who hold up a step, so many are named.
const NAMED: usize = 3;

/// Who has acknowledged a revision.
#[derive(Debug)]
pub(super) struct Acks {
    revision: u64,
    waiting: Vec<&'static str>,
    acked: Vec<(&'static str, Duration)>,
}

/// Who has a new certificate.
#[derive(Debug)]
pub(super) struct Renewals {
    /// When each one's certificate ended before, in seconds since 1970.
    before: BTreeMap<String, u64>,
    renewed: Vec<Renewal>,
}

/// A new certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Renewal {
    pub(super) name: String,
    /// When the old and the new one end, in seconds since 1970.
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) took: Duration,
}

/// How far a rotation of the root is.
#[derive(Debug)]
pub(super) struct Rotation {
    /// The trusted roots before it: SHA-256 of their DER.
    before: Vec<Vec<u8>>,
    step: String,
    /// The steps so far, and when each began.
    steps: Vec<(String, Duration)>,
    awaited: String,
    phase: Phase,
}

/// Whether a rotation has begun and ended: it is stable before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Asked,
    UnderWay,
    Done,
}

impl Acks {
    /// Of this revision, by these.
    pub(super) fn new(revision: u64, names: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            revision,
            waiting: names.into_iter().collect(),
            acked: Vec::new(),
        }
    }

    /// What the controller says now; gives who has acknowledged it since.
    ///
    /// # Errors
    /// Someone refuses it: who, and why.
    pub(super) fn on_fleet(
        &mut self,
        fleet: &FleetResponse,
        elapsed: Duration,
    ) -> Result<Vec<&'static str>, String> {
        let mut new = Vec::new();
        for proxy in &fleet.proxies {
            if let Some(problem) = proxy.nacked.first() {
                return Err(format!(
                    "{} refuses it: {}",
                    proxy.workload,
                    failure::describe(problem)
                ));
            }
            let has_acked = proxy.is_current && proxy.acked_revision >= self.revision;
            let position = self.waiting.iter().position(|name| *name == proxy.workload);
            if let (true, Some(position)) = (has_acked, position) {
                new.push(self.waiting.swap_remove(position));
            }
        }
        self.acked.extend(new.iter().map(|name| (*name, elapsed)));
        Ok(new)
    }

    /// Who has not acknowledged it yet.
    pub(super) fn waiting(&self) -> &[&'static str] {
        &self.waiting
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let acked: serde_json::Map<_, _> = self
            .acked
            .iter()
            .map(|(name, took)| ((*name).to_owned(), json!(took.as_millis() as u64)))
            .collect();
        json!({ "revision": self.revision, "ackedAfterMillis": acked })
    }
}

impl Renewals {
    /// From how it is now.
    pub(super) fn new(fleet: &FleetResponse, names: impl IntoIterator<Item = &'static str>) -> Self {
        let ends = |name: &'static str| {
            let status = of(fleet, name).map(|proxy| proxy.certificate_not_after);
            (name.to_owned(), status.unwrap_or_default())
        };
        Self {
            before: names.into_iter().map(ends).collect(),
            renewed: Vec::new(),
        }
    }

    /// What the controller says now; gives the certificates that are new since.
    pub(super) fn on_fleet(&mut self, fleet: &FleetResponse, elapsed: Duration) -> &[Renewal] {
        let known = self.renewed.len();
        for proxy in &fleet.proxies {
            let to = proxy.certificate_not_after;
            let before = self.before.get(&proxy.workload);
            let Some(from) = before.copied().filter(|from| to > *from) else {
                continue;
            };
            self.before.remove(&proxy.workload);
            self.renewed.push(Renewal {
                name: proxy.workload.clone(),
                from,
                to,
                took: elapsed,
            });
        }
        self.renewed.get(known..).unwrap_or_default()
    }

    /// Whose certificate is still the old one.
    pub(super) fn waiting(&self) -> Vec<&str> {
        self.before.keys().map(String::as_str).collect()
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let renewal = |renewal: &Renewal| {
            json!({
                "workload": renewal.name,
                "notAfterBefore": renewal.from,
                "notAfter": renewal.to,
                "afterMillis": renewal.took.as_millis() as u64,
            })
        };
        json!({ "renewed": self.renewed.iter().map(renewal).collect::<Vec<_>>() })
    }
}

impl Rotation {
    /// From how it was before it was asked for.
    pub(super) fn new(before: &TrustStatusResponse) -> Self {
        Self {
            before: before.roots.iter().map(|root| root.id.to_vec()).collect(),
            step: String::new(),
            steps: Vec::new(),
            awaited: String::new(),
            phase: Phase::Asked,
        }
    }

    /// What the controller says now; gives what there is to tell.
    pub(super) fn on_trust(&mut self, trust: &TrustStatusResponse, elapsed: Duration) -> Vec<String> {
        let mut lines = Vec::new();
        let is_new = trust
            .roots
            .iter()
            .all(|root| !self.before.iter().any(|id| **id == *root.id));
        self.phase = match (trust.step.as_str(), is_new) {
            (STABLE, true) => Phase::Done,
            // Not begun, or given up: nothing has changed.
            (STABLE, false) => self.phase,
            _ => Phase::UnderWay,
        };
        if self.phase == Phase::Asked {
            return lines;
        }
        if trust.step != self.step {
            self.step.clone_from(&trust.step);
            self.steps.push((trust.step.clone(), elapsed));
            lines.push(describe(trust));
            self.awaited.clear();
        }
        let awaited = awaited(trust);
        if awaited != self.awaited && !awaited.is_empty() {
            lines.push(format!("  awaited: {awaited}"));
        }
        self.awaited = awaited;
        lines
    }

    /// Whether the old root is retired.
    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Where it is, and who is awaited.
    pub(super) fn state(&self) -> String {
        match (self.phase, self.awaited.as_str()) {
            (Phase::Asked, _) => "it has not begun".to_owned(),
            (_, "") => format!("it is at {}", self.step),
            (_, awaited) => format!("it is at {}, and waits for {awaited}", self.step),
        }
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let step =
            |(step, at): &(String, Duration)| json!({ "step": step, "afterMillis": at.as_millis() as u64 });
        json!({ "steps": self.steps.iter().map(step).collect::<Vec<_>>() })
    }
}

/// What of these is not connected and current, and why.
pub(super) fn missing(fleet: &FleetResponse, names: impl IntoIterator<Item = &'static str>) -> Vec<String> {
    let why = |name: &'static str| {
        let why = match of(fleet, name) {
            None => "unknown",
            Some(proxy) if proxy.state() != State::Connected => "not connected",
            Some(proxy) if !proxy.is_current => "behind",
            Some(_) => return None,
        };
        Some(format!("{name} ({why})"))
    };
    names.into_iter().filter_map(why).collect()
}

/// What the controller knows of a workload.
pub(super) fn of<'a>(fleet: &'a FleetResponse, name: &str) -> Option<&'a ProxyStatus> {
    fleet.proxies.iter().find(|proxy| proxy.workload == name)
}

/// What a step is.
fn describe(trust: &TrustStatusResponse) -> String {
    let what = match trust.step.as_str() {
        "distributing" => "every sidecar gets the new root beside the old one",
        "signing" => "the new root signs; every sidecar gets a leaf of it",
        "retiring" => "every sidecar forgets the old root",
        STABLE => "only the new root is trusted",
        _ => "",
    };
    let roots = match trust.roots.len() {
        1 => "1 root".to_owned(),
        roots => format!("{roots} roots"),
    };
    format!("{:<13} {what} ({roots})", trust.step)
}

/// Who holds up the step.
fn awaited(trust: &TrustStatusResponse) -> String {
    let mut names: Vec<_> = trust
        .waiting
        .iter()
        .map(|waiting| match waiting.why.as_str() {
            "" => waiting.workload.clone(),
            why => format!("{} ({why})", waiting.workload),
        })
        .collect();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use weft_proto::mesh::v1::{Problem, Root, Waiting};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn proxy(name: &str, acked: u64, not_after: u64) -> ProxyStatus {
        ProxyStatus {
            workload: name.to_owned(),
            acked_revision: acked,
            is_current: true,
            certificate_not_after: not_after,
            state: State::Connected.into(),
            ..ProxyStatus::default()
        }
    }

    fn fleet(proxies: Vec<ProxyStatus>) -> FleetResponse {
        FleetResponse {
            proxies,
            ..FleetResponse::default()
        }
    }

    #[test]
    fn an_ack_counts_once_and_only_if_all_that_concerns_the_sidecar_is_acked() {
        let mut acks = Acks::new(7, ["a", "b"]);
        let behind = ProxyStatus {
            is_current: false,
            ..proxy("b", 7, 0)
        };
        let now = fleet(vec![proxy("a", 7, 0), behind, proxy("stranger", 7, 0)]);
        assert_eq!(acks.on_fleet(&now, 5 * MS), Ok(vec!["a"]));
        assert_eq!(acks.on_fleet(&now, 6 * MS), Ok(vec![]));
        assert_eq!(acks.waiting(), ["b"]);
        let old = fleet(vec![proxy("b", 6, 0)]);
        assert_eq!(acks.on_fleet(&old, 7 * MS), Ok(vec![]));
        let now = fleet(vec![proxy("b", 9, 0)]);
        assert_eq!(acks.on_fleet(&now, 8 * MS), Ok(vec!["b"]));
        assert!(acks.waiting().is_empty());
        assert_eq!(acks.to_json()["ackedAfterMillis"], json!({ "a": 5, "b": 8 }));
    }

    #[test]
    fn a_nack_is_told_with_its_reason() {
        let mut acks = Acks::new(7, ["a"]);
        let nacked = ProxyStatus {
            nacked: vec![Problem {
                document: "MeshConfig mesh".to_owned(),
                message: "no".to_owned(),
                ..Problem::default()
            }],
            ..proxy("a", 6, 0)
        };
        let error = acks.on_fleet(&fleet(vec![nacked]), MS).unwrap_err();
        assert!(
            error.contains("a refuses") && error.contains("MeshConfig mesh: no"),
            "{error}"
        );
    }

    #[test]
    fn a_certificate_is_new_when_it_ends_later() {
        let mut renewals = Renewals::new(&fleet(vec![proxy("a", 0, 100), proxy("b", 0, 101)]), ["a", "b"]);
        assert!(renewals.on_fleet(&fleet(vec![proxy("a", 0, 100)]), MS).is_empty());
        let now = fleet(vec![proxy("a", 0, 107), proxy("b", 0, 101)]);
        let renewed = renewals.on_fleet(&now, 2 * MS);
        assert_eq!(renewed.len(), 1);
        assert_eq!(
            (renewed[0].from, renewed[0].to, renewed[0].took),
            (100, 107, 2 * MS)
        );
        assert_eq!(renewals.waiting(), ["b"]);
        assert!(renewals.on_fleet(&now, 3 * MS).is_empty());
    }

    fn trust(step: &str, roots: &[u8], names: &[&str]) -> TrustStatusResponse {
        let root = |id: &u8| Root {
            id: vec![*id].into(),
            ..Root::default()
        };
        let waiting = |name: &&str| Waiting {
            workload: (*name).to_owned(),
            ..Waiting::default()
        };
        TrustStatusResponse {
            step: step.to_owned(),
            roots: roots.iter().map(root).collect(),
            waiting: names.iter().map(waiting).collect(),
            ..TrustStatusResponse::default()
        }
    }

    #[test]
    fn a_rotation_is_told_step_by_step_and_ends_with_the_new_root_alone() {
        let mut rotation = Rotation::new(&trust("stable", &[1], &[]));
        assert!(rotation.on_trust(&trust("stable", &[1], &[]), MS).is_empty());
        assert!(!rotation.is_done());
        let distributing = trust("distributing", &[1, 2], &["a", "b", "c", "d"]);
        let lines = rotation.on_trust(&distributing, 2 * MS);
        assert!(lines[0].starts_with("distributing"), "{lines:?}");
        assert_eq!(lines[1], "  awaited: a, b, c, 1 more");
        assert!(rotation.on_trust(&distributing, 3 * MS).is_empty());
        let lines = rotation.on_trust(&trust("distributing", &[1, 2], &["d"]), 4 * MS);
        assert_eq!(lines, ["  awaited: d"]);
        assert!(rotation.state().contains("waits for d"), "{}", rotation.state());
        assert_eq!(
            rotation.on_trust(&trust("signing", &[1, 2], &[]), 5 * MS).len(),
            1
        );
        assert!(!rotation.is_done());
        assert_eq!(rotation.on_trust(&trust("retiring", &[2], &[]), 6 * MS).len(), 1);
        assert!(!rotation.is_done());
        assert_eq!(rotation.on_trust(&trust("stable", &[2], &[]), 7 * MS).len(), 1);
        assert!(rotation.is_done());
        assert_eq!(rotation.to_json()["steps"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn a_rotation_that_was_too_quick_to_be_seen_is_done_all_the_same() {
        let mut rotation = Rotation::new(&trust("stable", &[1], &[]));
        rotation.on_trust(&trust("stable", &[2], &[]), MS);
        assert!(rotation.is_done());
    }

    #[test]
    fn who_is_missing_is_told_with_why() {
        let lost = ProxyStatus {
            state: State::Lost.into(),
            ..proxy("b", 1, 0)
        };
        let behind = ProxyStatus {
            is_current: false,
            ..proxy("c", 1, 0)
        };
        let now = fleet(vec![proxy("a", 1, 0), lost, behind]);
        assert_eq!(
            missing(&now, ["a", "b", "c", "d"]),
            ["b (not connected)", "c (behind)", "d (unknown)"]
        );
    }
}
