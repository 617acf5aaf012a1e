//! Which endpoints are left alone for a while, because they fail.
//!
//! An endpoint is ejected for failures in a row, or because it stood out in an interval. When its time is over it is not
//! back: one request is let through to it, and only if that succeeds others follow. [`Ejector`] is made with each
//! snapshot from what the policy says; what happened so far is in [`Facts`] and [`Health`], which outlive it. The lock is
//! taken when an endpoint comes or goes, and once an interval.

mod health;
mod judge;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

use weft_proto::model::policy::OutlierEjection;

use self::health::Input;
pub(crate) use self::health::{Admission, Health, Phase, Probe};
use crate::{balance::ticks, snapshot::Endpoint};

/// How a request fared at an endpoint. What was refused for what it asked, and what the caller gave up, is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was answered.
    Success,
    /// It was not, or too late, or by 502, 503 or 504.
    Failure,
}

/// Ejects the endpoints of one backend, as its policy says.
#[derive(Debug)]
pub(crate) struct Ejector {
    config: OutlierEjection,
    facts: Arc<Facts>,
    /// Which of the ejectors with the same facts it is: the newest alone ejects.
    generation: u64,
    total: u32,
}

/// What outlives the ejectors of one backend.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Endpoints of the newest ejector that are not admitted.
    ejected: AtomicU32,
    /// Counts changes of that.
    changes: AtomicU32,
    /// When the interval ends, in ticks; 0: none began.
    interval_end: AtomicU64,
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    /// Of the newest ejector.
    generation: u64,
    list: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    uid: Arc<str>,
    port: u16,
    health: Arc<Health>,
}

impl Ejector {
    /// For these endpoints, with the health of each, in their order. `starts_slowly`: new ones are to be known as new.
    pub(crate) fn new(
        config: &OutlierEjection,
        facts: Arc<Facts>,
        endpoints: &[Arc<Endpoint>],
        starts_slowly: bool,
        now: Instant,
    ) -> (Self, Vec<Arc<Health>>) {
        let now = ticks::millis(now);
        let mut members = facts.lock();
        let list = members.update(endpoints, starts_slowly, now);
        members.generation += 1;
        let ejector = Self {
            config: config.clone(),
            generation: members.generation,
            total: u32::try_from(list.len()).unwrap_or(u32::MAX),
            facts: facts.clone(),
        };
        let healths = list.iter().map(|member| member.health.clone()).collect();
        members.list = list;
        ejector.reconcile(&members, now);
        facts.recount(&members);
        drop(members);
        (ejector, healths)
    }

    /// A request had this result at an endpoint, after so long. A probe's decides whether that comes back; others of an endpoint that is
    /// ejected began before that, or in a panic, and count for nothing.
    pub(crate) fn on_result(
        &self,
        health: &Health,
        probe: Option<&Probe>,
        outcome: Outcome,
        latency: Duration,
        now: Instant,
    ) {
        if !self.is_on() {
            return;
        }
        let now = ticks::millis(now);
        if let Some(probe) = probe
            && self.end_probe(health, probe, outcome, now)
        {
            return;
        }
        if self.watches_intervals() {
            self.close_interval(now);
        }
        if !health.is_admitted() {
            return;
        }
        if self.watches_intervals() {
            health.count((outcome == Outcome::Success).then_some(latency));
        }
        match outcome {
            Outcome::Success => health.end_failures(),
            Outcome::Failure => {
                let limit = self.config.consecutive_failures;
                if health.add_failure() >= limit && limit > 0 {
                    self.eject(health, now);
                }
            }
        }
    }

    /// Endpoints that are not admitted now.
    pub(crate) fn ejected(&self) -> u32 {
        self.facts.ejected.load(Acquire)
    }

    /// Counts changes of who is admitted.
    pub(crate) fn changes(&self) -> u32 {
        self.facts.changes.load(Acquire)
    }

    /// Whether so few are left that all are used.
    pub(crate) fn panics(&self) -> bool {
        let (total, ejected) = (u64::from(self.total), u64::from(self.ejected()));
        let left = total.saturating_sub(ejected);
        ejected > 0 && left * 100 < u64::from(self.config.panic_percent) * total
    }

    fn is_on(&self) -> bool {
        self.config.consecutive_failures > 0 || self.watches_intervals()
    }

    fn watches_intervals(&self) -> bool {
        self.config.success_rate.is_some() || self.config.latency_factor.is_some()
    }

    /// How many may be ejected at a time. One alone never is.
    fn most(&self) -> u32 {
        match self.is_on() && self.total > 1 {
            true => (u64::from(self.total) * u64::from(self.config.max_percent.min(100)) / 100) as u32,
            false => 0,
        }
    }

    /// Makes what was ejected under another policy, or among other endpoints, fit this one: those whose time is over first
    /// come back first.
    fn reconcile(&self, members: &Members, now: u64) {
        let until = |member: &&Member| match member.health.phase() {
            Phase::Admitted { .. } => None,
            Phase::Ejected { until } | Phase::Probing { until } => Some(until),
        };
        let mut ejected: Vec<_> = members
            .list
            .iter()
            .filter(|member| until(member).is_some())
            .collect();
        ejected.sort_by_key(until);
        let surplus = ejected.len().saturating_sub(self.most() as usize);
        for (index, member) in ejected.into_iter().enumerate() {
            let input = match index < surplus {
                true => Input::Release,
                false => Input::Shorten(&self.config),
            };
            member.health.apply(input, now);
        }
        let end = self.facts.interval_end.load(Relaxed);
        self.facts
            .interval_end
            .store(end.min(now.saturating_add(self.interval())), Relaxed);
    }

    fn interval(&self) -> u64 {
        ticks::whole_millis(self.config.interval).max(1)
    }

    /// Whether it was one that still counts.
    fn end_probe(&self, health: &Health, probe: &Probe, outcome: Outcome, now: u64) -> bool {
        let input = match outcome {
            Outcome::Success => Input::ProbeSucceeded(probe.turn()),
            Outcome::Failure => Input::ProbeFailed(probe.turn(), &self.config),
        };
        let members = self.facts.lock();
        let counts = health.apply(input, now).is_some();
        if counts {
            health.forget_results();
            self.facts.recount(&members);
        }
        counts
    }

    /// Ejects it, unless enough are.
    fn eject(&self, health: &Health, now: u64) {
        // With everything failing, this is what each result comes to.
        if self.ejected() >= self.most() {
            return;
        }
        let members = self.facts.lock();
        self.eject_locked(&members, health, now);
    }

    fn eject_locked(&self, members: &Members, health: &Health, now: u64) {
        let is_newest = members.generation == self.generation;
        if !is_newest || members.ejected() >= self.most() {
            return;
        }
        if health.apply(Input::Eject(&self.config), now).is_some() {
            health.forget_results();
            self.facts.recount(members);
        }
    }

    /// The first result after the end of an interval judges it.
    fn close_interval(&self, now: u64) {
        let end = self.facts.interval_end.load(Relaxed);
        if now < end {
            return;
        }
        let members = self.facts.lock();
        let is_newest = members.generation == self.generation;
        if !is_newest || self.facts.interval_end.load(Relaxed) != end {
            return;
        }
        let next = now.saturating_add(self.interval());
        self.facts.interval_end.store(next, Relaxed);
        let counts: Vec<_> = members
            .list
            .iter()
            .map(|member| member.health.take_counts())
            .collect();
        for index in judge::outliers(&counts, &self.config) {
            if let Some(member) = members.list.get(index) {
                self.eject_locked(&members, &member.health, now);
            }
        }
    }
}

impl Facts {
    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recount(&self, members: &Members) {
        self.ejected.store(members.ejected(), Release);
        self.changes.fetch_add(1, Release);
    }
}

impl Members {
    fn ejected(&self) -> u32 {
        let ejected = self.list.iter().filter(|member| !member.health.is_admitted());
        u32::try_from(ejected.count()).unwrap_or(u32::MAX)
    }

    /// The members that these endpoints are. If most of them are new, none counts as new: there is nobody who could have
    /// the greater share meanwhile.
    fn update(&self, endpoints: &[Arc<Endpoint>], starts_slowly: bool, now: u64) -> Vec<Member> {
        let known: rustc_hash::FxHashMap<_, _> = self
            .list
            .iter()
            .map(|member| ((&*member.uid, member.port), &member.health))
            .collect();
        let find = |endpoint: &Endpoint| known.get(&(&*endpoint.uid, endpoint.port)).copied();
        let new = endpoints
            .iter()
            .filter(|endpoint| find(endpoint).is_none())
            .count();
        let is_slow = starts_slowly && new * 2 <= endpoints.len();
        let member = |endpoint: &Arc<Endpoint>| Member {
            uid: endpoint.uid.clone(),
            port: endpoint.port,
            health: find(endpoint).cloned().unwrap_or_else(|| {
                let health = Health::default();
                if is_slow {
                    health.admit_as_new(now);
                }
                Arc::new(health)
            }),
        };
        endpoints.iter().map(member).collect()
    }
}

#[cfg(test)]
mod tests;
