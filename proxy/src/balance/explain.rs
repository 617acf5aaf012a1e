//! Why an endpoint gets requests or not, for operators.

use std::{sync::Arc, time::Instant};

use serde_json::{Value, json};

use super::{Balancer, Member, NoPick, View, draw::Verdict, locality, ticks};
use crate::{outlier::Phase, snapshot::Endpoint};

/// What an endpoint of a backend is to the next request.
#[derive(Debug)]
pub(crate) struct Eligibility {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) standing: Standing,
    /// How far away: from 0, the same subzone, to 3. `None`: the policy excludes it.
    pub(crate) tier: Option<usize>,
    /// Of a hundred requests, how many go as far as that now.
    pub(crate) tier_percent: u8,
    /// What of its share it gets, from 0 to 1: less while it is new, or just back.
    pub(crate) share: f64,
    pub(crate) in_flight: u32,
    /// In microseconds. `None`: it was not called yet.
    pub(crate) latency_micros: Option<u64>,
    /// How many of the last answers were failures, from 0 to 1.
    pub(crate) failing: f64,
}

/// Whether it gets requests. Times are milliseconds from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Eligible,
    /// Ejected, and used because too few are left.
    Panic {
        until: u64,
    },
    Ejected {
        until: u64,
    },
    /// The next request probes it.
    ProbeDue,
    /// One is on its way to see whether it comes back.
    Probing {
        until: u64,
    },
    /// As many as may be are in flight to it.
    Full,
    /// It has not the labels that the policy asks for.
    OtherSubset,
}

impl Balancer {
    /// What each endpoint is to the next request.
    pub(crate) fn explain(&self, now: Instant) -> Vec<Eligibility> {
        let now = ticks::millis(now);
        let view = self.view();
        let tier = |(tier, range): (usize, &std::ops::Range<usize>)| {
            let members = self.members.get(range.clone()).unwrap_or_default();
            members.iter().map(move |member| (tier, member))
        };
        let members = self.tiers.iter().enumerate().flat_map(tier);
        let inside = members.map(|(tier, member)| Eligibility {
            standing: self.standing(member, view, now),
            tier: Some(tier),
            tier_percent: view.percent(tier),
            share: self.share(member, now),
            ..Eligibility::excluded(&member.endpoint, now)
        });
        let outside = self.outside.iter();
        inside
            .chain(outside.map(|endpoint| Eligibility::excluded(endpoint, now)))
            .collect()
    }

    fn standing(&self, member: &Member, view: View, now: u64) -> Standing {
        let verdict = self.verdict(member, view, now);
        let left = |until: u64| until.saturating_sub(now);
        match (verdict, member.health.phase()) {
            (Verdict::Full, _) => Standing::Full,
            (Verdict::Due, _) => Standing::ProbeDue,
            (Verdict::Fit, Phase::Ejected { until } | Phase::Probing { until }) => {
                Standing::Panic { until: left(until) }
            }
            (_, Phase::Ejected { until }) => Standing::Ejected { until: left(until) },
            (_, Phase::Probing { until }) => Standing::Probing { until: left(until) },
            (_, Phase::Admitted { .. }) => Standing::Eligible,
        }
    }
}

impl View {
    fn percent(self, tier: usize) -> u8 {
        let up_to = |tier: usize| self.shares.get(tier).copied().unwrap_or(100);
        up_to(tier) - tier.checked_sub(1).map_or(0, up_to)
    }
}

impl Eligibility {
    /// Why the next request would find no endpoint among these, if it would find none.
    pub(crate) fn why_none(all: &[Self]) -> Option<NoPick> {
        let mut why = NoPick::NoEndpoint;
        for endpoint in all {
            match endpoint.standing {
                standing if standing.is_eligible() => return None,
                Standing::Full => why = NoPick::AllFull,
                Standing::OtherSubset => {}
                _ if why == NoPick::NoEndpoint => why = NoPick::AllEjected,
                _ => {}
            }
        }
        Some(why)
    }

    /// One that the policy excludes.
    fn excluded(endpoint: &Arc<Endpoint>, now: u64) -> Self {
        let load = &endpoint.load;
        let micros = |latency: std::time::Duration| u64::try_from(latency.as_micros()).ok();
        Self {
            endpoint: endpoint.clone(),
            standing: Standing::OtherSubset,
            tier: None,
            tier_percent: 0,
            share: 0.0,
            in_flight: load.in_flight(),
            latency_micros: load.latency(now).and_then(micros),
            failing: load.failing(now),
        }
    }

    /// For `/snapshot` and `weft explain`.
    pub(crate) fn to_json(&self) -> Value {
        let rounded = |share: f64| (share * 100.0).round() / 100.0;
        json!({
            "workload": &*self.endpoint.uid,
            "port": self.endpoint.port,
            "standing": self.standing.as_str(),
            "untilMillis": self.standing.until(),
            "locality": self.tier.and_then(|tier| locality::NAMES.get(tier)),
            "localityPercent": self.tier_percent,
            "share": rounded(self.share),
            "inFlight": self.in_flight,
            "latencyMicros": self.latency_micros,
            "failing": rounded(self.failing),
        })
    }
}

impl Standing {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Eligible => "eligible",
            Self::Panic { .. } => "ejected_but_used",
            Self::Ejected { .. } => "ejected",
            Self::ProbeDue => "probe_due",
            Self::Probing { .. } => "probing",
            Self::Full => "full",
            Self::OtherSubset => "other_subset",
        }
    }

    /// Whether the next request may go there.
    pub(crate) fn is_eligible(self) -> bool {
        matches!(self, Self::Eligible | Self::Panic { .. } | Self::ProbeDue)
    }

    /// How long it lasts at least, in milliseconds.
    fn until(self) -> Option<u64> {
        match self {
            Self::Panic { until } | Self::Ejected { until } | Self::Probing { until } => Some(until),
            Self::Eligible | Self::ProbeDue | Self::Full | Self::OtherSubset => None,
        }
    }
}
