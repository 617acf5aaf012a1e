//! When to dial a peer: one dial at a time however many wait, and longer pauses the more dials fail.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::Rng;
use weft_proto::SpiffeId;

use crate::error::DialFailure;

/// Whom to dial. A changed address or identity is another peer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey {
    /// The workload.
    pub uid: Arc<str>,
    /// Its mesh address.
    pub address: SocketAddr,
    /// The identity that it must prove.
    pub identity: SpiffeId,
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} as {}", self.uid, self.address, self.identity)
    }
}

/// The first pause after a failed dial; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause: short enough that a peer that came back is found soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The state machine of one peer's dials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dial {
    /// No dial is under way, and nothing speaks against one.
    Idle,
    /// One is under way; `failures` came before it.
    UnderWay { failures: u32 },
    /// The last one failed.
    Paused {
        until: Instant,
        failures: u32,
        last: DialFailure,
    },
}

/// What to do for a request that needs a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Start a dial, then wait for it.
    Dial,
    /// Wait for the one under way.
    Wait,
    /// Fail at once, so that another endpoint can serve the request.
    Fail { remaining: Duration, last: DialFailure },
}

impl Dial {
    /// A request needs a connection and there is none.
    pub(crate) fn on_demand(&mut self, now: Instant) -> Advice {
        match *self {
            Self::UnderWay { .. } => Advice::Wait,
            Self::Paused { until, last, .. } if now < until => Advice::Fail {
                remaining: until - now,
                last,
            },
            Self::Paused { failures, .. } => self.start(failures),
            Self::Idle => self.start(0),
        }
    }

    /// The peer confirmed the handshake: only this ends the pauses.
    pub(crate) fn on_confirmed(&mut self) {
        *self = Self::Idle;
    }

    /// The dial failed.
    pub(crate) fn on_failed(&mut self, failure: DialFailure, now: Instant, rng: &mut impl Rng) {
        let failures = match *self {
            Self::UnderWay { failures } | Self::Paused { failures, .. } => failures.saturating_add(1),
            Self::Idle => 1,
        };
        let pause = FIRST_PAUSE
            .saturating_mul(1 << (failures - 1).min(10))
            .min(LONGEST_PAUSE);
        // Half of it is chance, so that the proxies of a mesh do not return all at once.
        let pause = pause.mul_f64(rng.random_range(0.5..1.0));
        *self = Self::Paused {
            until: now + pause,
            failures,
            last: failure,
        };
    }

    /// A dial failed for which nobody waited: a request that comes now may try at once.
    pub(crate) fn on_failed_ahead(&mut self, failure: DialFailure, now: Instant, rng: &mut impl Rng) {
        match *self {
            Self::UnderWay { failures: 0 } => *self = Self::Idle,
            Self::Idle | Self::UnderWay { .. } | Self::Paused { .. } => self.on_failed(failure, now, rng),
        }
    }

    fn start(&mut self, failures: u32) -> Advice {
        *self = Self::UnderWay { failures };
        Advice::Dial
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    #[test]
    fn many_requests_start_one_dial() {
        let now = Instant::now();
        let mut dial = Dial::Idle;
        assert_eq!(dial.on_demand(now), Advice::Dial);
        for _ in 0..100 {
            assert_eq!(dial.on_demand(now), Advice::Wait);
        }
    }

    #[test]
    fn a_failed_dial_makes_requests_fail_until_the_pause_is_over() {
        let (now, mut rng) = (Instant::now(), StdRng::seed_from_u64(1));
        let mut dial = Dial::Idle;
        dial.on_demand(now);
        dial.on_failed(DialFailure::Timeout, now, &mut rng);
        let Advice::Fail { remaining, last } = dial.on_demand(now) else {
            panic!("{dial:?}")
        };
        assert!(remaining <= FIRST_PAUSE && last == DialFailure::Timeout);
        assert_eq!(dial.on_demand(now + remaining), Advice::Dial);
    }

    #[test]
    fn a_confirmed_handshake_ends_the_pauses() {
        let (now, mut rng) = (Instant::now(), StdRng::seed_from_u64(1));
        let mut dial = Dial::Idle;
        for _ in 0..20 {
            dial.on_failed(DialFailure::Timeout, now, &mut rng);
        }
        dial.on_confirmed();
        dial.on_failed(DialFailure::Timeout, now, &mut rng);
        let Advice::Fail { remaining, .. } = dial.on_demand(now) else {
            panic!("{dial:?}")
        };
        assert!(remaining <= FIRST_PAUSE, "{remaining:?}");
    }

    proptest! {
        #[test]
        fn pauses_grow_and_stay_within_their_bounds(seed: u64, failures in 1u32..64) {
            let (now, mut rng) = (Instant::now(), StdRng::seed_from_u64(seed));
            let mut dial = Dial::Idle;
            for _ in 0..failures {
                dial.on_failed(DialFailure::Closed, now, &mut rng);
            }
            let Dial::Paused { until, .. } = dial else { panic!() };
            let pause = until - now;
            let full = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(10)).min(LONGEST_PAUSE);
            prop_assert!(pause >= full / 2 && pause <= full);
        }
    }
}
