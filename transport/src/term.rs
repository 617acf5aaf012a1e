//! How long a connection lives, which its certificates say, and when the dialler replaces it.
//!
//! ```text
//! established     replacement     own renewal     stop       end         notAfter
//!      |---------------|---------------|------------|----------|--------------|
//!        new requests ------------------------------>            a tenth of the
//!        requests under way ------------------------------------> leaf's lifetime
//! ```
//! The tenth is for clocks that differ and for all that is slow. Everything is sized by the lifetime of the leaf
//! that ends first, be it ten seconds or a day, and everything that many connections do at once is spread by chance.

use std::time::{Duration, Instant, SystemTime};

use rand::Rng;

use crate::{credentials::Svid, error::Lost, verify::PeerIdentity};

/// A connection stops at most this long before it ends: no request that is worth waiting for takes longer.
const LONGEST_MARGIN: Duration = Duration::from_secs(60);
/// Connections whose leaf was renewed are replaced within this time: a listener that serves a thousand peers then
/// makes some thirty handshakes a second.
const LONGEST_SPREAD: Duration = Duration::from_secs(30);
/// A replacement that can't be had is tried again at least so often.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// What is under way on a connection whose peer is no longer trusted may take this long to finish.
const LONGEST_GRACE: Duration = Duration::from_secs(5);
/// No certificate that we know of lives longer; a clock can be asked for this.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// From when to when a leaf is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Whose leaf ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Own,
    Peer,
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    /// From now on it takes no new request.
    pub(crate) stop: Instant,
    /// What is under way now is cut.
    pub(crate) end: Instant,
    /// How its streams end then.
    pub(crate) why: Lost,
    limit: Limit,
    /// Of the leaf that ends first.
    lifetime: Duration,
}

impl Leaf {
    fn lifetime(self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// When a connection that is made at `now` with this leaf ends: a tenth of the lifetime before the leaf does.
    /// When that is over or all but over, a new connection would be over at once, and the leaf is still good.
    fn end(self, now: SystemTime) -> SystemTime {
        let lifetime = self.lifetime();
        let early = self.not_after.checked_sub(lifetime / 10);
        early
            .filter(|early| early.duration_since(now).is_ok_and(|left| left > lifetime / 20))
            .unwrap_or(self.not_after)
    }
}

impl From<&PeerIdentity> for Leaf {
    fn from(peer: &PeerIdentity) -> Self {
        Self {
            not_before: peer.not_before,
            not_after: peer.not_after,
        }
    }
}

impl From<&Svid> for Leaf {
    fn from(svid: &Svid) -> Self {
        Self {
            not_before: svid.not_before(),
            not_after: svid.not_after(),
        }
    }
}

impl Term {
    /// Of a connection that is established `now`, when the wall clock says `wall`.
    pub(crate) fn new(own: Leaf, peer: Leaf, wall: SystemTime, now: Instant, rng: &mut impl Rng) -> Self {
        let (own_end, peer_end) = (own.end(wall), peer.end(wall));
        let (leaf, end, limit) = if peer_end < own_end {
            (peer, peer_end, Limit::Peer)
        } else {
            (own, own_end, Limit::Own)
        };
        let left = end.duration_since(wall).unwrap_or_default().min(FOREVER);
        let lifetime = leaf.lifetime();
        let margin = LONGEST_MARGIN.min(lifetime / 20).min(left / 4);
        Self {
            stop: now + (left - margin.mul_f64(rng.random_range(0.25..1.0))),
            end: now + left,
            why: Lost::CertificateExpired,
            limit,
            lifetime,
        }
    }

    /// When the dialler dials the replacement of a connection that was established `now`, if nobody renews before:
    /// at half of what it has left, so that what began on it has as much again to finish. Not when a new
    /// connection would end with the old one.
    pub(crate) fn replacement(&self, now: Instant, rng: &mut impl Rng) -> Instant {
        let half = self.left(now).mul_f64(rng.random_range(0.4..0.5));
        match self.limit {
            Limit::Peer if half >= self.lifetime / 20 => now + half,
            // So near the end, halves of what is left would be ever more dials for ever less.
            Limit::Own | Limit::Peer => self.stop,
        }
    }

    /// When a connection is replaced of which one leaf was renewed `now`. The old leaf is still good: there is time
    /// to spread the handshakes.
    pub(crate) fn after_renewal(&self, now: Instant, rng: &mut impl Rng) -> Instant {
        let spread = (self.left(now) / 8).min(LONGEST_SPREAD);
        self.stop.min(now + spread.mul_f64(rng.random()))
    }

    /// When to try again to replace a connection whose replacement could not be had `now`.
    pub(crate) fn after_failure(&self, now: Instant, rng: &mut impl Rng) -> Instant {
        let pause = (self.left(now) / 16).min(LONGEST_PAUSE);
        self.stop.min(now + pause.mul_f64(rng.random_range(0.5..1.0)))
    }

    /// The end of a connection of which one leaf was renewed: it takes no new request from `stop` on, and what is
    /// under way has the time that it had.
    pub(crate) fn stopping(self, stop: Instant) -> Self {
        Self {
            stop: self.stop.min(stop),
            ..self
        }
    }

    /// The end of a connection whose peer is no longer trusted from `now` on.
    pub(crate) fn distrusted(self, now: Instant) -> Self {
        let grace = LONGEST_GRACE.min(self.lifetime / 10);
        Self {
            stop: now,
            end: self.end.min(now + grace),
            why: Lost::CertificateUntrusted,
            ..self
        }
    }

    /// Is the end so near that a peer with another clock may have seen it?
    pub(crate) fn is_near(&self, now: Instant) -> bool {
        self.left(now) <= self.lifetime / 10
    }

    fn left(&self, now: Instant) -> Duration {
        self.end.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    /// A leaf as the controller issues it at `at`: backdated by a tenth of its lifetime, a minute at the most.
    fn leaf(at: SystemTime, lifetime: Duration) -> Leaf {
        Leaf {
            not_before: at - (lifetime / 10).min(Duration::from_secs(60)),
            not_after: at + lifetime,
        }
    }

    fn wall() -> SystemTime {
        SystemTime::UNIX_EPOCH + 20_000 * DAY
    }

    fn lifetimes() -> impl Strategy<Value = Duration> {
        prop_oneof![Just(10u64), 10u64..600, Just(86_400), 600u64..40_000_000].prop_map(Duration::from_secs)
    }

    #[test]
    fn a_connection_ends_a_tenth_of_the_lifetime_before_the_first_of_its_leaves() {
        let mut rng = StdRng::seed_from_u64(1);
        let (now, wall) = (Instant::now(), wall());
        let (long, short) = (leaf(wall, DAY), leaf(wall, DAY / 2));
        let minute = Duration::from_secs(60);
        let expected = now + DAY / 2 - (DAY / 2 + minute) / 10;
        for (own, peer, limit) in [(long, short, Limit::Peer), (short, long, Limit::Own)] {
            let term = Term::new(own, peer, wall, now, &mut rng);
            assert_eq!((term.end, term.limit), (expected, limit));
            assert_eq!(term.why, Lost::CertificateExpired);
        }
    }

    #[test]
    fn a_connection_that_is_made_in_the_last_tenth_ends_with_the_leaf() {
        let mut rng = StdRng::seed_from_u64(2);
        let (now, wall) = (Instant::now(), wall());
        let mut end_after = |seconds| {
            let own = leaf(wall, Duration::from_secs(100));
            let at = wall + Duration::from_secs(seconds);
            let term = Term::new(own, leaf(at, DAY), at, now, &mut rng);
            (term.end - now).as_secs()
        };
        assert_eq!(end_after(80), 100 - 11 - 80);
        assert_eq!(end_after(84), 100 - 84);
        assert_eq!(end_after(95), 5);
        assert_eq!(end_after(100), 0);
        assert_eq!(end_after(120), 0, "a leaf that ended before");
    }

    #[test]
    fn certificates_without_end_are_a_long_time() {
        let mut rng = StdRng::seed_from_u64(3);
        let now = Instant::now();
        let endless = Leaf {
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799),
        };
        let term = Term::new(endless, endless, wall(), now, &mut rng);
        assert_eq!(term.end, now + FOREVER);
        let backwards = Leaf {
            not_before: endless.not_after,
            not_after: endless.not_before,
        };
        assert_eq!(Term::new(backwards, endless, wall(), now, &mut rng).end, now);
    }

    #[test]
    fn no_dial_is_made_for_a_connection_that_would_end_with_the_old_one() {
        let mut rng = StdRng::seed_from_u64(4);
        let (now, wall) = (Instant::now(), wall());
        let own_ends_first = Term::new(leaf(wall, DAY / 2), leaf(wall, DAY), wall, now, &mut rng);
        assert_eq!(own_ends_first.replacement(now, &mut rng), own_ends_first.stop);
    }

    #[test]
    fn an_end_is_near_in_the_last_tenth_of_the_lifetime() {
        let mut rng = StdRng::seed_from_u64(5);
        let (now, wall) = (Instant::now(), wall());
        let own = leaf(wall, Duration::from_secs(1_000));
        let term = Term::new(own, leaf(wall, DAY), wall, now, &mut rng);
        let tenth = own.lifetime() / 10;
        assert!(!term.is_near(term.end - tenth - Duration::from_millis(1)));
        assert!(term.is_near(term.end - tenth) && term.is_near(term.end + tenth));
    }

    /// A peer that never renews is dialled ever sooner, but only so often.
    #[test]
    fn a_peer_that_does_not_renew_costs_few_dials() {
        for seed in 0..200 {
            let mut rng = StdRng::seed_from_u64(seed);
            for lifetime in [Duration::from_secs(10), DAY] {
                let (start, begun) = (Instant::now(), wall());
                let (mut now, mut dials) = (start, 0);
                let peer = leaf(begun, lifetime);
                while now < start + lifetime {
                    let wall = begun + (now - start);
                    let term = Term::new(leaf(wall, 2 * lifetime), peer, wall, now, &mut rng);
                    // A dial takes some time.
                    now = term.replacement(now, &mut rng) + Duration::from_millis(1);
                    dials += 1;
                }
                assert!(dials <= 16, "{lifetime:?}: {dials}");
            }
        }
    }

    proptest! {
        #[test]
        fn moments_come_in_order(
            seed: u64, own in lifetimes(), peer in lifetimes(), own_age in 0.0..1.2, peer_age in 0.0..1.2,
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let (now, wall) = (Instant::now(), wall());
            let own = leaf(wall - own.mul_f64(own_age), own);
            let peer = leaf(wall - peer.mul_f64(peer_age), peer);
            let term = Term::new(own, peer, wall, now, &mut rng);
            prop_assert!(now <= term.stop && term.stop <= term.end);
            let last = own.not_after.min(peer.not_after).duration_since(wall).unwrap_or_default();
            prop_assert!(term.end <= now + last, "no certificate is used when it has ended");
            for at in [
                term.replacement(now, &mut rng),
                term.after_renewal(now, &mut rng),
                term.after_failure(now, &mut rng),
            ] {
                prop_assert!(now <= at && at <= term.stop);
            }
            let distrusted = term.distrusted(now);
            prop_assert!(distrusted.stop == now && distrusted.end <= term.end);
            prop_assert!(distrusted.end <= now + LONGEST_GRACE);
        }

        /// What began before the replacement was there has at least half of the connection's time to finish.
        #[test]
        fn half_of_the_time_is_left_when_the_replacement_is_dialled(seed: u64, lifetime in lifetimes()) {
            let mut rng = StdRng::seed_from_u64(seed);
            let (now, wall) = (Instant::now(), wall());
            let term = Term::new(leaf(wall, 2 * lifetime), leaf(wall, lifetime), wall, now, &mut rng);
            let at = term.replacement(now, &mut rng);
            prop_assert!(term.end - at >= (term.end - now) / 2);
            prop_assert!(at - now >= (term.end - now).mul_f64(0.39), "not for nothing");
        }

        #[test]
        fn requests_have_time_to_finish_before_the_end(seed: u64, lifetime in lifetimes()) {
            let mut rng = StdRng::seed_from_u64(seed);
            let (now, wall) = (Instant::now(), wall());
            let term = Term::new(leaf(wall, lifetime), leaf(wall, lifetime), wall, now, &mut rng);
            prop_assert!(term.end - term.stop >= Duration::from_millis(125));
            prop_assert!(term.end - term.stop <= LONGEST_MARGIN);
        }
    }
}
