//! Which endpoint of a backend gets a request.
//!
//! A [`Balancer`] is made with each snapshot, from what the policy says; what is known of the endpoints outlives it: their
//! [`Load`], their health, and [`Facts`]. A pick first chooses how far the request goes (`locality`), then draws
//! among the endpoints there until one will do, and looks at all of them only if chance does not find one.

mod draw;
pub(crate) mod explain;
mod hash;
mod load;
mod locality;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod ticks;

use std::{
    net::IpAddr,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Release},
        },
    },
    time::Instant,
};

use http::HeaderMap;
use rand::Rng;
use weft_proto::{
    model::{
        Locality,
        policy::{Algorithm, LoadBalancing, LocalityMode, OutlierEjection},
    },
    names::Labels,
};

use self::{
    draw::Search,
    hash::Table,
    load::Attempt,
    locality::{TIERS, Tier},
};
pub(crate) use self::{
    explain::{Eligibility, Standing},
    load::{InFlight, Load},
};
use crate::{
    outlier::{self, Ejector, Health, Outcome, Probe},
    snapshot::Endpoint,
};

/// What a policy says of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings<'a> {
    pub(crate) load_balancing: &'a LoadBalancing,
    pub(crate) outlier_ejection: &'a OutlierEjection,
    /// Requests, or connections, in flight to one endpoint.
    pub(crate) endpoint_limit: Option<u32>,
    /// Where this proxy is.
    pub(crate) home: Option<&'a Locality>,
}

/// Chooses among the endpoints of one backend.
#[derive(Debug)]
pub(crate) struct Balancer {
    algorithm: Algorithm,
    /// How long a share grows, in milliseconds; 0: not.
    slow_start: u64,
    endpoint_limit: Option<u32>,
    overflow: u8,
    /// Those that the policy allows, the nearest first.
    members: Box<[Member]>,
    tiers: [Range<usize>; TIERS],
    /// For a consistent hash, one a tier.
    tables: Option<[Arc<Table>; TIERS]>,
    /// The others.
    outside: Box<[Arc<Endpoint>]>,
    ejector: Ejector,
    /// A [`View`].
    view: AtomicU64,
    facts: Arc<Facts>,
}

/// What outlives the balancers of one backend. A snapshot has one balancer with it: the newest alone ejects.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// For `RoundRobin`: who is next. 0: nobody was first.
    cursor: AtomicUsize,
    /// Those of the newest balancer: most snapshots are made because of other endpoints.
    tables: Mutex<Vec<Arc<Table>>>,
    outlier: Arc<outlier::Facts>,
}

#[derive(Debug)]
struct Member {
    endpoint: Arc<Endpoint>,
    health: Arc<Health>,
    hash: u64,
}

/// A request that wants an endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pick<'a> {
    /// The uids of those it was sent to before.
    pub(crate) tried: &'a [Arc<str>],
    /// See [`Balancer::key`].
    pub(crate) key: Option<u64>,
    /// Whether it may be the one that shows if an ejected endpoint is well again: its result must be told then.
    pub(crate) may_probe: bool,
    pub(crate) now: Instant,
}

/// The endpoint for a request.
#[derive(Debug)]
pub(crate) struct Picked<'a> {
    pub(crate) endpoint: &'a Arc<Endpoint>,
    health: &'a Arc<Health>,
    probe: Option<Probe>,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPick {
    /// The backend has none, or none with the labels that the policy asks for.
    NoEndpoint,
    /// It was sent to all of them.
    AllTried,
    /// The others are ejected.
    AllEjected,
    /// As many requests as may be are in flight to each of the others that are not ejected.
    AllFull,
}

impl Balancer {
    pub(crate) fn new(
        settings: &Settings<'_>,
        endpoints: &[Arc<Endpoint>],
        facts: &Arc<Facts>,
        now: Instant,
    ) -> Self {
        let policy = settings.load_balancing;
        let is_inside = |endpoint: &&Arc<Endpoint>| has_all(&endpoint.labels, &policy.subset);
        let (inside, outside): (Vec<_>, Vec<_>) = endpoints.iter().partition(is_inside);
        let (home, overflow) = match policy.locality {
            LocalityMode::Prefer { overflow } => (settings.home, overflow),
            LocalityMode::Ignore => (None, 100),
        };
        let distance = |endpoint: &Arc<Endpoint>| locality::distance(home, endpoint.locality.as_ref());
        let mut inside: Vec<_> = inside.into_iter().cloned().collect();
        inside.sort_by_key(distance);
        let slow_start = policy.slow_start.map_or(0, ticks::whole_millis);
        let (ejector, healths) = Ejector::new(
            settings.outlier_ejection,
            facts.outlier.clone(),
            &inside,
            slow_start > 0,
            now,
        );
        let tier = |tier| {
            let start = inside.partition_point(|endpoint| distance(endpoint) < tier);
            start..inside.partition_point(|endpoint| distance(endpoint) <= tier)
        };
        let tiers = std::array::from_fn(tier);
        let member = |(endpoint, health): (Arc<Endpoint>, _)| Member {
            hash: hash::endpoint(&endpoint.uid, endpoint.port),
            endpoint,
            health,
        };
        let members: Box<[Member]> = inside.into_iter().zip(healths).map(member).collect();
        let balancer = Self {
            tables: matches!(policy.algorithm, Algorithm::ConsistentHash(_))
                .then(|| facts.tables(&members, &tiers)),
            algorithm: policy.algorithm.clone(),
            slow_start,
            endpoint_limit: settings.endpoint_limit,
            overflow,
            members,
            tiers,
            outside: outside.into_iter().cloned().collect(),
            view: AtomicU64::new(0),
            ejector,
            facts: facts.clone(),
        };
        balancer.look(balancer.ejector.changes());
        balancer
    }

    /// The endpoint for a request. If that is ejected and its time is over, the request is the one that probes it.
    ///
    /// # Errors
    /// If there is none for it.
    pub(crate) fn pick(&self, request: &Pick<'_>, rng: &mut impl Rng) -> Result<Picked<'_>, NoPick> {
        let search = Search::new(self, request, self.view());
        search.run(rng).ok_or_else(|| search.why_none())
    }

    /// What a consistent hash has of this request. `None`: it has nothing of it, or the endpoint is chosen otherwise.
    pub(crate) fn key(&self, headers: &HeaderMap, source: Option<IpAddr>) -> Option<u64> {
        match &self.algorithm {
            Algorithm::ConsistentHash(of) => hash::key(of, headers, source),
            Algorithm::LeastLatency | Algorithm::RoundRobin | Algorithm::Random => None,
        }
    }

    /// A request had this result: the head of its answer came, or none will. What the caller gave up, and what was refused
    /// for what it asked, has none. A failure after the head is one more result.
    pub(crate) fn on_result(&self, in_flight: &mut InFlight, outcome: Outcome, now: Instant) {
        let Some(attempt) = &mut in_flight.attempt else {
            return;
        };
        let latency = now.saturating_duration_since(attempt.started);
        let (load, ticks) = (&in_flight.load, ticks::millis(now));
        let is_first = !std::mem::replace(&mut attempt.is_answered, true);
        let probe = attempt.probe.take();
        match outcome {
            Outcome::Success if is_first => load.on_success(latency, ticks),
            Outcome::Success => return,
            Outcome::Failure => load.on_failure(is_first.then_some(latency), ticks),
        }
        if probe.is_some() && outcome == Outcome::Success {
            load.on_recovery();
        }
        self.ejector
            .on_result(&attempt.health, probe.as_ref(), outcome, latency, now);
    }

    /// What is known of who is admitted; looked at again only if that has changed.
    fn view(&self) -> View {
        let changes = self.ejector.changes();
        let view = View::unpack(self.view.load(Acquire));
        match view.changes == changes & CHANGES_MASK {
            true => view,
            false => self.look(changes),
        }
    }

    fn look(&self, changes: u32) -> View {
        let ejected = self.ejector.ejected();
        let panics = self.ejector.panics();
        let tier = |range: &Range<usize>| {
            let members = self.members.get(range.clone()).unwrap_or_default();
            let healthy = members.iter().filter(|member| member.health.is_admitted());
            Tier {
                healthy: healthy.count(),
                total: members.len(),
            }
        };
        let tiers = self.tiers.each_ref().map(tier);
        let view = View {
            changes: changes & CHANGES_MASK,
            some_ejected: ejected > 0,
            panics,
            shares: match panics {
                // Then near ones are no better than others.
                true => locality::spread(tiers.map(|tier| tier.total)),
                false => locality::shares(tiers, self.overflow),
            },
        };
        self.view.store(view.pack(), Release);
        view
    }
}

impl Facts {
    /// One a tier.
    fn tables(&self, members: &[Member], tiers: &[Range<usize>; TIERS]) -> [Arc<Table>; TIERS] {
        let mut known = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let table = |tier: &Range<usize>| {
            let members = members.get(tier.clone()).unwrap_or_default();
            let hashes: Vec<_> = members.iter().map(|member| member.hash).collect();
            let same = known.iter().find(|table| table.is_for(&hashes));
            same.cloned().unwrap_or_else(|| Arc::new(Table::new(hashes)))
        };
        let tables = tiers.each_ref().map(table);
        *known = tables.to_vec();
        tables
    }
}

impl Picked<'_> {
    /// The request is sent there.
    pub(crate) fn begin(self, now: Instant) -> InFlight {
        let attempt = Attempt {
            health: self.health.clone(),
            started: now,
            probe: self.probe,
            is_answered: false,
        };
        InFlight::with(&self.endpoint.load, attempt)
    }
}

/// What a pick has to know of who is admitted.
#[derive(Clone, Copy, Debug)]
struct View {
    /// Of which count of changes it is.
    changes: u32,
    some_ejected: bool,
    /// So few are left that all are used.
    panics: bool,
    /// See [`locality::shares`].
    shares: [u8; TIERS],
}

/// What of a count of changes tells two views apart.
const CHANGES_MASK: u32 = u32::MAX >> 2;

impl View {
    fn pack(self) -> u64 {
        let flags = (u32::from(self.some_ejected) << 1) | u32::from(self.panics);
        let high = (self.changes << 2) | flags;
        (u64::from(high) << 32) | u64::from(u32::from_be_bytes(self.shares))
    }

    fn unpack(packed: u64) -> Self {
        let high = (packed >> 32) as u32;
        Self {
            changes: high >> 2,
            some_ejected: high & 2 != 0,
            panics: high & 1 != 0,
            shares: (packed as u32).to_be_bytes(),
        }
    }
}

/// Whether there are all of them; none: always.
fn has_all(labels: &Labels, subset: &Labels) -> bool {
    subset.is_empty() || labels.are_selected_by(subset)
}

#[cfg(test)]
mod tests;
