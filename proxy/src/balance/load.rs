//! What is under way at an endpoint, how long its answers take, and how often they are failures.
//!
//! The latency is a peak EWMA: a slow answer counts at once and whole, fast ones wear it down, and so does time, so that an
//! endpoint that was avoided is asked again. Only answers that are no failures can make an endpoint look fast: one that
//! refuses everything at once would have all requests otherwise. Failures count apart, as a share that multiplies the
//! cost; it fades with time as well, so that however many requests there are, an endpoint that fails them all gets about
//! one a second.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

use super::ticks;
use crate::outlier::{Health, Probe};

/// After so long without an answer an estimate is down to 37 percent: long enough to span the pauses between the requests
/// of a quiet service, short enough that an endpoint that has recovered is found out within a minute.
const DECAY: Duration = Duration::from_secs(10);
/// In microseconds. Differences below are those of schedulers and not of endpoints: to follow them would give one of
/// several equal endpoints nearly everything, until its turn to be slow.
const NOISE: f64 = 5_000.0;
/// How much one failure adds to the share of failures, and one success takes from it.
const FAILURE_STEP: f64 = 0.2;
/// Below this, the share of failures is none.
const FAILURE_FLOOR: f64 = 0.01;
/// A share above this costs no more: 100 times.
const FAILURE_CEILING: f64 = 0.9;

/// What is known of an endpoint by calling it, from all workers and for all services with this port of the workload.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: AtomicU32,
    /// An [`Estimate`] in microseconds; 0: there was no answer yet.
    latency: AtomicU64,
    /// An [`Estimate`] in parts of [`SHARE_UNIT`].
    failures: AtomicU64,
}

/// Counts as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(super) load: Arc<Load>,
    pub(super) attempt: Option<Attempt>,
}

/// What a result is told with.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) health: Arc<Health>,
    pub(super) started: Instant,
    /// Whether it is the one request that decides if an ejected endpoint comes back.
    pub(super) probe: Option<Probe>,
    /// The head of the answer came, or none will: its time is known.
    pub(super) is_answered: bool,
}

impl Load {
    /// Requests and tunnels under way.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// One more under way, of which no result is told.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight {
            load: self.clone(),
            attempt: None,
        }
    }

    /// How long answers take. `None`: there was none yet.
    pub(crate) fn latency(&self, now: u64) -> Option<Duration> {
        self.micros(now)
            .map(|micros| Duration::from_secs_f64(micros / 1e6))
    }

    /// How many of the last answers were failures, from 0 to 1.
    pub(crate) fn failing(&self, now: u64) -> f64 {
        Estimate::unpack(self.failures.load(Relaxed)).decayed(now) / SHARE_UNIT
    }

    /// An answer that is no failure came after so long.
    pub(super) fn on_success(&self, latency: Duration, now: u64) {
        let sample = (latency.as_secs_f64() * 1e6).max(1.0);
        update(&self.latency, |estimate| {
            let kept = estimate.weight(now);
            let mean = estimate.value * kept + sample * (1.0 - kept);
            let value = if estimate.value == 0.0 {
                sample
            } else {
                mean.max(sample)
            };
            Some(Estimate { value, at: now })
        });
        update(&self.failures, |share| {
            let value = share.decayed(now) * (1.0 - FAILURE_STEP);
            let value = if value < FAILURE_FLOOR * SHARE_UNIT {
                0.0
            } else {
                value
            };
            (share.value > 0.0).then_some(Estimate { value, at: now })
        });
    }

    /// A failure; in place of an answer, if there was none, after so long. It may show the endpoint to be slow, and never to
    /// be fast.
    pub(super) fn on_failure(&self, latency: Option<Duration>, now: u64) {
        let sample = latency.unwrap_or_default().as_secs_f64() * 1e6;
        update(&self.latency, |estimate| {
            let value = estimate.value.max(sample);
            (estimate.value > 0.0).then_some(Estimate { value, at: now })
        });
        update(&self.failures, |share| {
            let share = share.decayed(now);
            let value = share + (SHARE_UNIT - share) * FAILURE_STEP;
            Some(Estimate { value, at: now })
        });
    }

    /// It was probed and is well again: what it failed before is forgiven, or it would have nothing as long as the others
    /// are idle.
    pub(super) fn on_recovery(&self) {
        self.failures.store(0, Relaxed);
    }

    /// In microseconds.
    fn micros(&self, now: u64) -> Option<f64> {
        let estimate = Estimate::unpack(self.latency.load(Relaxed));
        (estimate.value > 0.0).then(|| estimate.decayed(now))
    }

    /// What another request costs here, apart from the latency.
    fn queue(&self, now: u64) -> f64 {
        let waiting = f64::from(self.in_flight()) + 1.0;
        let share = self.failing(now);
        if share < FAILURE_FLOOR {
            return waiting;
        }
        let success = 1.0 - share.min(FAILURE_CEILING);
        waiting / (success * success)
    }
}

/// Whether `other` is the better of the two. One that was never measured counts as being as fast as the other.
pub(super) fn is_lighter(other: &Load, than: &Load, now: u64) -> bool {
    match (other.micros(now), than.micros(now)) {
        (Some(other_latency), Some(latency)) => {
            other_latency.max(NOISE) * other.queue(now) < latency.max(NOISE) * than.queue(now)
        }
        _ => other.queue(now) < than.queue(now),
    }
}

impl InFlight {
    /// The same, with what its result is told with.
    pub(super) fn with(load: &Arc<Load>, attempt: Attempt) -> Self {
        let mut in_flight = load.begin();
        in_flight.attempt = Some(attempt);
        in_flight
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Relaxed);
    }
}

/// A share of 1.
const SHARE_UNIT: f64 = (1 << 25) as f64;
/// Bits of a value: 67 seconds in microseconds. The others hold milliseconds of nine years.
const VALUE_BITS: u32 = 26;
const VALUE_MASK: u64 = (1 << VALUE_BITS) - 1;

/// A value that fades with time.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    value: f64,
    /// When it was that.
    at: u64,
}

impl Estimate {
    fn unpack(packed: u64) -> Self {
        Self {
            value: (packed & VALUE_MASK) as f64,
            at: packed >> VALUE_BITS,
        }
    }

    fn pack(self) -> u64 {
        // A conversion of a float saturates.
        (self.at << VALUE_BITS) | (self.value as u64).min(VALUE_MASK)
    }

    /// What is left of a whole.
    fn weight(self, now: u64) -> f64 {
        let elapsed = now.saturating_sub(self.at) as f64;
        (-elapsed / ticks::whole_millis(DECAY) as f64).exp()
    }

    fn decayed(self, now: u64) -> f64 {
        if self.value == 0.0 {
            return 0.0;
        }
        self.value * self.weight(now)
    }
}

fn update(packed: &AtomicU64, change: impl Fn(Estimate) -> Option<Estimate>) {
    // `Err`: there is nothing to change.
    let _ = packed.fetch_update(Release, Acquire, |packed| {
        change(Estimate::unpack(packed)).map(Estimate::pack)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The latency in milliseconds, within a hundredth.
    fn is_about(load: &Load, now: u64, millis: f64) -> bool {
        let latency = load.latency(now).unwrap().as_secs_f64() * 1e3;
        (latency - millis).abs() < millis / 100.0
    }

    #[test]
    fn what_schedulers_make_of_latencies_decides_nothing() {
        let load = |latency: Duration| {
            let load = Load::default();
            load.on_success(latency, 1);
            load
        };
        let (quick, other, slow) = (load(MS), load(4 * MS), load(20 * MS));
        assert!(!is_lighter(&quick, &other, 1) && !is_lighter(&other, &quick, 1));
        assert!(is_lighter(&other, &slow, 1) && !is_lighter(&slow, &other, 1));
    }

    #[test]
    fn a_peak_counts_at_once_and_wears_off_with_answers_and_with_time() {
        let load = Load::default();
        assert_eq!(load.latency(0), None);
        load.on_success(10 * MS, 1_000);
        assert!(is_about(&load, 1_000, 10.0));
        load.on_success(500 * MS, 1_001);
        assert!(is_about(&load, 1_001, 500.0), "at once and whole");
        load.on_success(10 * MS, 1_101);
        assert!(is_about(&load, 1_101, 495.12), "one fast answer is not much");
        for step in 1..=200 {
            load.on_success(10 * MS, 1_101 + step * 100);
        }
        assert!(
            is_about(&load, 21_101, 75.66),
            "but many are: {:?}",
            load.latency(21_101)
        );
        assert!(is_about(&load, 31_101, 27.83), "and so is time");
        assert!(
            is_about(&load, 1_000, 75.66),
            "a clock that is behind changes nothing"
        );
    }

    #[test]
    fn what_does_not_fit_is_the_most_that_does() {
        let load = Load::default();
        load.on_success(Duration::MAX, 5);
        assert_eq!(load.latency(5), Some(Duration::from_micros(VALUE_MASK)));
        load.on_success(Duration::ZERO, u64::MAX >> VALUE_BITS);
        assert_eq!(
            load.latency(u64::MAX >> VALUE_BITS),
            Some(Duration::from_micros(1))
        );
    }

    #[test]
    fn a_failure_never_makes_an_endpoint_look_fast() {
        let load = Load::default();
        load.on_failure(Some(MS / 10), 1);
        assert_eq!(load.latency(1), None, "nothing is known of its answers");
        load.on_success(50 * MS, 1);
        for now in 1..1_000 {
            load.on_failure(Some(MS / 10), now);
        }
        assert!(is_about(&load, 999, 50.0));
        load.on_failure(Some(5_000 * MS), 1_000);
        assert!(is_about(&load, 1_000, 5_000.0), "but it may show it to be slow");
        load.on_failure(None, 1_000);
        assert!(is_about(&load, 1_000, 5_000.0));
    }

    #[test]
    fn failures_cost_more_the_more_of_the_answers_they_are() {
        let load = Load::default();
        assert!((load.queue(0) - 1.0).abs() < 1e-9);
        load.on_failure(None, 0);
        assert!((load.queue(0) - 1.5625).abs() < 1e-3, "one is not much");
        for _ in 0..50 {
            load.on_failure(None, 0);
        }
        assert!((load.queue(0) - 100.0).abs() < 1e-3, "{}", load.queue(0));
        assert!(load.queue(10_000) < 2.6, "it fades with time");
        for _ in 0..30 {
            load.on_success(MS, 0);
        }
        assert!(
            (load.queue(0) - 1.0).abs() < 1e-9,
            "and with successes, to nothing"
        );
        assert!(load.failing(0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_lighter_one_has_less_latency_times_requests() {
        let (one, other) = (Arc::<Load>::default(), Arc::<Load>::default());
        let held = one.begin();
        assert!(is_lighter(&other, &one, 0), "not measured: by requests alone");
        one.on_success(10 * MS, 0);
        assert!(is_lighter(&other, &one, 0));
        other.on_success(21 * MS, 0);
        assert!(
            !is_lighter(&other, &one, 0),
            "two at 10 ms are better than one at 21 ms"
        );
        let more = one.begin();
        assert!(is_lighter(&other, &one, 0), "three are not");
        drop((held, more));
        assert_eq!(one.in_flight(), 0);
    }
}
