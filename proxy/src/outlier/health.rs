//! The state of one endpoint of a backend: admitted, ejected, or probed.

use std::{
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
    time::Duration,
};

use weft_proto::model::policy::OutlierEjection;

use super::judge::Counts;
use crate::balance::ticks;

/// How long nobody else may probe, in milliseconds: a probe that has no answer by then is lost rather than slow. Its
/// answer still counts if it comes before that of the next.
const PROBE_LEASE: u64 = 5_000;
/// Ejections beyond this are not counted: the time is at its maximum long before.
const MAX_EJECTIONS: u8 = 63;

/// How an endpoint of a backend has fared. It outlives snapshots and is shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// A [`State`].
    state: AtomicU64,
    /// Failures since the last success.
    failures_in_a_row: AtomicU32,
    /// Of this interval: requests in the upper half, failures in the lower one.
    requests: AtomicU64,
    /// Of this interval: how long the answers that were no failures took, in microseconds.
    micros: AtomicU64,
}

/// Whether an endpoint gets requests. Times are [`ticks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It does.
    Admitted {
        /// Since when; 0: since ever.
        since: u64,
    },
    /// It does not, and after `until` one comes to see whether it may again.
    Ejected { until: u64 },
    /// One is on its way; after `until` it is taken for lost.
    Probing { until: u64 },
}

/// The right to decide whether an ejected endpoint comes back.
#[derive(Debug)]
pub(crate) struct Probe {
    turn: u16,
}

/// What a request may do at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Open,
    /// It may ask for the right to probe.
    Due,
    Closed,
}

/// What happens to an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) enum Input<'a> {
    /// It fares worse than it may.
    Eject(&'a OutlierEjection),
    /// A request wants to probe it.
    Claim,
    /// The probe of this turn succeeded.
    ProbeSucceeded(u16),
    /// The probe of this turn failed.
    ProbeFailed(u16, &'a OutlierEjection),
    /// It is not to be left alone any more, whatever it did.
    Release,
    /// It is not to be left alone longer than this policy says.
    Shorten(&'a OutlierEjection),
}

impl Health {
    pub(crate) fn phase(&self) -> Phase {
        self.load().phase
    }

    pub(crate) fn is_admitted(&self) -> bool {
        matches!(self.phase(), Phase::Admitted { .. })
    }

    pub(crate) fn admission(&self, now: u64) -> Admission {
        match self.phase() {
            Phase::Admitted { .. } => Admission::Open,
            Phase::Ejected { until } | Phase::Probing { until } if until <= now => Admission::Due,
            Phase::Ejected { .. } | Phase::Probing { .. } => Admission::Closed,
        }
    }

    /// The right to probe, if it is due and nobody else has it.
    pub(crate) fn claim(&self, now: u64) -> Option<Probe> {
        self.apply(Input::Claim, now)
            .map(|state| Probe { turn: state.turn })
    }

    /// It is new: its share grows from now on.
    pub(super) fn admit_as_new(&self, now: u64) {
        let state = State {
            phase: Phase::Admitted { since: now },
            ..State::unpack(0)
        };
        self.state.store(state.pack(), Relaxed);
    }

    /// The new state. `None`: nothing changed.
    pub(super) fn apply(&self, input: Input<'_>, now: u64) -> Option<State> {
        let next = |packed| State::unpack(packed).next(input, now);
        let before = self
            .state
            .fetch_update(AcqRel, Acquire, |packed| next(packed).map(State::pack))
            .ok()?;
        next(before)
    }

    /// The failures in a row that this one makes.
    pub(super) fn add_failure(&self) -> u32 {
        self.failures_in_a_row.fetch_add(1, Relaxed).saturating_add(1)
    }

    pub(super) fn end_failures(&self) {
        // Nearly always there are none, and then the cache line is only read.
        if self.failures_in_a_row.load(Relaxed) > 0 {
            self.failures_in_a_row.store(0, Relaxed);
        }
    }

    /// Counts a result of this interval: a success with its latency; that of a failure says nothing.
    pub(super) fn count(&self, success: Option<Duration>) {
        let failed = u64::from(success.is_none());
        self.requests.fetch_add((1 << 32) + failed, Relaxed);
        if let Some(latency) = success {
            // An hour, so that four billion of them fit.
            let micros = latency.as_micros().min(3_600_000_000) as u64;
            self.micros.fetch_add(micros, Relaxed);
        }
    }

    /// What this interval counted; the next one begins.
    pub(super) fn take_counts(&self) -> Counts {
        let requests = self.requests.swap(0, Relaxed);
        Counts {
            requests: requests >> 32,
            failures: requests & u64::from(u32::MAX),
            micros: self.micros.swap(0, Relaxed),
        }
    }

    pub(super) fn forget_results(&self) {
        self.take_counts();
        self.end_failures();
    }

    fn load(&self) -> State {
        State::unpack(self.state.load(Acquire))
    }
}

impl Probe {
    pub(super) fn turn(&self) -> u16 {
        self.turn
    }
}

/// All of it, in 64 bits so that it changes whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    phase: Phase,
    /// How often it was ejected, as far as that is remembered.
    ejections: u8,
    /// Counts ejections and returns: a result is of the turn in which its request began.
    turn: u16,
}

const TIME_BITS: u32 = 40;
const TURN_BITS: u32 = 16;
const EJECTION_BITS: u32 = 6;
/// Milliseconds of 34 years.
const MAX_TIME: u64 = (1 << TIME_BITS) - 1;

impl State {
    /// Every transition there is.
    fn next(self, input: Input<'_>, now: u64) -> Option<Self> {
        let next_turn = |phase, ejections| Self {
            phase,
            ejections,
            turn: self.turn.wrapping_add(1),
        };
        match (self.phase, input) {
            (Phase::Admitted { since }, Input::Eject(config)) => {
                let healthy = now.saturating_sub(since);
                let ejections = remembered(self.ejections, healthy, config) + 1;
                let until = now.saturating_add(length(ejections, config));
                Some(next_turn(Phase::Ejected { until }, ejections.min(MAX_EJECTIONS)))
            }
            (Phase::Ejected { until } | Phase::Probing { until }, Input::Claim) if until <= now => {
                Some(Self {
                    phase: Phase::Probing {
                        until: now.saturating_add(PROBE_LEASE),
                    },
                    ..self
                })
            }
            (Phase::Probing { .. }, Input::ProbeSucceeded(turn)) if turn == self.turn => {
                Some(next_turn(Phase::Admitted { since: now }, self.ejections))
            }
            (Phase::Probing { .. }, Input::ProbeFailed(turn, config)) if turn == self.turn => {
                let ejections = self.ejections.saturating_add(1).min(MAX_EJECTIONS);
                let until = now.saturating_add(length(ejections, config));
                Some(next_turn(Phase::Ejected { until }, ejections))
            }
            (Phase::Ejected { .. } | Phase::Probing { .. }, Input::Release) => {
                Some(next_turn(Phase::Admitted { since: now }, self.ejections))
            }
            (Phase::Ejected { until }, Input::Shorten(config)) => {
                let latest = now.saturating_add(length(self.ejections, config));
                (until > latest).then_some(Self {
                    phase: Phase::Ejected { until: latest },
                    ..self
                })
            }
            _ => None,
        }
    }

    fn pack(self) -> u64 {
        let (tag, time) = match self.phase {
            Phase::Admitted { since } => (0, since),
            Phase::Ejected { until } => (1, until),
            Phase::Probing { until } => (2, until),
        };
        let high = (tag << EJECTION_BITS) | u64::from(self.ejections.min(MAX_EJECTIONS));
        (((high << TURN_BITS) | u64::from(self.turn)) << TIME_BITS) | time.min(MAX_TIME)
    }

    fn unpack(packed: u64) -> Self {
        let time = packed & MAX_TIME;
        let high = packed >> (TIME_BITS + TURN_BITS);
        Self {
            phase: match high >> EJECTION_BITS {
                0 => Phase::Admitted { since: time },
                1 => Phase::Ejected { until: time },
                _ => Phase::Probing { until: time },
            },
            ejections: (high & u64::from(MAX_EJECTIONS)) as u8,
            turn: (packed >> TIME_BITS) as u16,
        }
    }
}

/// How long the ejection with this number lasts: twice as long each time.
fn length(ejections: u8, config: &OutlierEjection) -> u64 {
    let base = ticks::whole_millis(config.base_time);
    let doublings = u32::from(ejections.saturating_sub(1)).min(40);
    base.saturating_mul(1 << doublings)
        .min(ticks::whole_millis(config.max_time))
}

/// How many ejections are remembered after so long in health: one is forgotten for each time that it was as long in health
/// as it was left alone.
fn remembered(ejections: u8, healthy: u64, config: &OutlierEjection) -> u8 {
    let mut left = healthy;
    let mut ejections = ejections;
    while ejections > 0 {
        match left.checked_sub(length(ejections, config).max(1)) {
            Some(rest) => left = rest,
            None => break,
        }
        ejections -= 1;
    }
    ejections
}
