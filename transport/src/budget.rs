//! What a peer may waste of our work before its connection ends with H3_EXCESSIVE_LOAD (RFC 9114 section 10.5).
//!
//! Limits on what is open at once do not bound how often it is opened: QUIC gives the credit of a stream back when
//! the stream ends, so that a peer can ask and take back as fast as it can send (CVE-2023-44487). And frames that
//! mean nothing cost their sender two bytes each. Both are legal in moderation, so both have a budget: a burst, a
//! rate, and what is earned back by requests that are served.
//!
//! A sidecar carries the requests of many clients on one connection and must never be cut for what they do. When
//! one of them goes away with a thousand requests under way, these have waited for their answers; when a backend
//! hangs, all requests to it end at their deadline. So a request counts as wasted only when it is taken back within
//! [`YOUNG`], and such requests are bounded by what a peer asks in that time.

use std::time::{Duration, Instant};

/// A request that is taken back before it is this old is wasted. How many older ones there can be is bounded by the
/// limit on streams; a deadline as short as this is not met by a network with a lost packet either.
pub(crate) const YOUNG: Duration = Duration::from_millis(50);

/// Wasted requests. The burst is what a client of 20,000 requests a second, more than a worker serves, has under way
/// within [`YOUNG`], all of it taken back at once. Each request that is served earns one, so that a caller may
/// send every request twice and take back the slower one. What is left is for the impatient: a hundred a second
/// cost less than a thousandth of a core.
const ABORTS: Rate = Rate {
    burst: 1_024,
    per_second: 100,
};

/// Frames and streams that mean nothing to us, and [`SKIPPED_PER_UNIT`]. GREASE needs a handful a connection; a peer with
/// priorities (RFC 9218) sends a PRIORITY_UPDATE or two with each request, and one without a dynamic table may
/// still cancel each stream for QPACK.
const CHATTER: Rate = Rate {
    burst: 1_024,
    per_second: 50,
};
/// What each request that is served earns of [`CHATTER`].
const CHATTER_PER_REQUEST: u64 = 8;
/// So many bytes of the payload of a frame that is skipped count as another frame.
pub(crate) const SKIPPED_PER_UNIT: u64 = 1_024;

/// Moves of the peer's address: more than a NAT, a roaming host or a network under repair ever makes. Each lets a peer
/// that lies about its address send two datagrams there that nobody asked for, beyond the threefold of what it sent
/// (RFC 9000 section 8).
const MOVES: Rate = Rate {
    burst: 64,
    per_second: 1,
};

/// What one peer has left to waste on one connection.
#[derive(Debug)]
pub(crate) struct Budget {
    aborts: Bucket,
    chatter: Bucket,
    moves: Bucket,
}

/// Which budget a peer has used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    /// It takes back its requests as fast as it makes them.
    Aborts,
    /// It sends frames or opens streams that mean nothing.
    Chatter,
    /// Its address never stays.
    Moves,
}

impl Overload {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// All, in the order of [`TransportStats::overloads`](crate::TransportStats::overloads).
    pub const ALL: [Self; Self::COUNT] = [Self::Aborts, Self::Chatter, Self::Moves];

    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Aborts => "aborted_requests",
            Self::Chatter => "useless_frames",
            Self::Moves => "address_moves",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u64,
    per_second: u64,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    left: u64,
    /// To when the rate has been paid out.
    paid: Instant,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            aborts: Bucket::new(ABORTS, now),
            chatter: Bucket::new(CHATTER, now),
            moves: Bucket::new(MOVES, now),
        }
    }

    /// The peer's address moved.
    pub(crate) fn on_moved(&mut self, now: Instant) -> Result<(), Overload> {
        if self.moves.spend(1, now) {
            Ok(())
        } else {
            Err(Overload::Moves)
        }
    }

    /// A request of the peer ended, and not by its doing.
    pub(crate) fn on_served(&mut self) {
        self.aborts.earn(1);
        self.chatter.earn(CHATTER_PER_REQUEST);
    }

    /// The peer took a request of `age` back, or broke a rule in it.
    pub(crate) fn on_aborted(&mut self, age: Duration, now: Instant) -> Result<(), Overload> {
        if age >= YOUNG || self.aborts.spend(1, now) {
            Ok(())
        } else {
            Err(Overload::Aborts)
        }
    }

    /// The peer sent so many frames, streams, or pieces of [`SKIPPED_PER_UNIT`] bytes that mean nothing.
    pub(crate) fn on_chatter(&mut self, units: u64, now: Instant) -> Result<(), Overload> {
        if units == 0 || self.chatter.spend(units, now) {
            Ok(())
        } else {
            Err(Overload::Chatter)
        }
    }
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            left: rate.burst,
            paid: now,
        }
    }

    fn earn(&mut self, units: u64) {
        self.left = self.left.saturating_add(units).min(self.rate.burst);
    }

    /// `false`: there is not so much left.
    fn spend(&mut self, units: u64, now: Instant) -> bool {
        let each = Duration::from_secs(1) / u32::try_from(self.rate.per_second).unwrap_or(u32::MAX);
        let due = now.saturating_duration_since(self.paid).as_nanos() / each.as_nanos().max(1);
        if due > 0 {
            let due = u64::try_from(due).unwrap_or(u64::MAX);
            self.earn(due);
            // What is left of the last unit's time still counts, unless the bucket is full.
            self.paid = match u32::try_from(due) {
                Ok(units) if self.left < self.rate.burst => self.paid + each * units,
                _ => now,
            };
        }
        match self.left.checked_sub(units) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const YOUNG_AGE: Duration = Duration::ZERO;

    #[test]
    fn a_peer_may_move_once_a_second_for_ever_but_not_without_end_at_once() {
        let mut now = Instant::now();
        let mut budget = Budget::new(now);
        for _ in 0..10_000 {
            now += 1_000 * MS;
            assert_eq!(budget.on_moved(now), Ok(()));
        }
        let allowed = (0..1_000).take_while(|_| budget.on_moved(now).is_ok()).count();
        assert!((60..=64).contains(&allowed), "{allowed}");
        assert_eq!(budget.on_moved(now + 500 * MS), Err(Overload::Moves));
    }

    fn start() -> (Budget, Instant) {
        let now = Instant::now();
        (Budget::new(now), now)
    }

    /// When a peer is cut that takes back a request every `gap`, for at most a minute.
    fn cut_after(gap: Duration, served_between: u32, age: Duration) -> Option<Duration> {
        let (mut budget, begin) = start();
        let mut now = begin;
        while now < begin + Duration::from_secs(60) {
            now += gap;
            (0..served_between).for_each(|_| budget.on_served());
            if budget.on_aborted(age, now).is_err() {
                return Some(now - begin);
            }
        }
        None
    }

    #[test]
    fn a_rapid_reset_ends_within_a_third_of_a_second() {
        // 5,000 a second.
        let cut = cut_after(MS / 5, 0, YOUNG_AGE).unwrap();
        assert!(cut < Duration::from_millis(300), "{cut:?}");
        // A slower one lasts longer, and ends too.
        assert!(cut_after(5 * MS, 0, YOUNG_AGE).is_some());
    }

    #[test]
    fn a_client_that_goes_away_takes_its_requests_back_at_once() {
        let (mut budget, now) = start();
        // Ten thousand that waited, and as many as are asked within 50 ms at 20,000 a second.
        for _ in 0..10_000 {
            budget.on_aborted(YOUNG, now).unwrap();
        }
        for _ in 0..1_000 {
            budget.on_aborted(YOUNG - MS, now).unwrap();
        }
        // The next one may do so ten seconds later.
        let later = now + 10 * Duration::from_secs(1);
        for _ in 0..1_000 {
            budget.on_aborted(YOUNG_AGE, later).unwrap();
        }
    }

    #[test]
    fn a_hung_backend_costs_nothing() {
        // Every request ends at a deadline of 100 ms, 10,000 a second.
        assert_eq!(cut_after(MS / 10, 0, 100 * MS), None);
    }

    #[test]
    fn half_of_all_requests_may_be_taken_back() {
        assert_eq!(cut_after(MS / 10, 1, YOUNG_AGE), None);
        // Served requests save nothing up beyond the burst.
        let (mut budget, now) = start();
        (0..1_000_000).for_each(|_| budget.on_served());
        let aborted = (0..10_000).take_while(|_| budget.on_aborted(YOUNG_AGE, now).is_ok());
        assert_eq!(aborted.count() as u64, ABORTS.burst);
    }

    #[test]
    fn a_hundred_impatient_requests_a_second_are_nothing() {
        assert_eq!(cut_after(10 * MS, 0, YOUNG_AGE), None);
    }

    #[test]
    fn frames_that_mean_nothing_have_a_rate_and_requests_earn_more() {
        let (mut budget, begin) = start();
        assert_eq!(budget.on_chatter(0, begin), Ok(()));
        assert_eq!(budget.on_chatter(CHATTER.burst, begin), Ok(()));
        assert_eq!(budget.on_chatter(1, begin), Err(Overload::Chatter));
        let mut now = begin;
        for _ in 0..1_000 {
            now += 20 * MS;
            assert_eq!(budget.on_chatter(1, now), Ok(()));
        }
        for _ in 0..10_000 {
            budget.on_served();
            assert_eq!(budget.on_chatter(CHATTER_PER_REQUEST, now), Ok(()));
        }
        assert_eq!(budget.on_chatter(1, now), Err(Overload::Chatter));
    }

    #[test]
    fn fractions_of_a_unit_are_not_lost() {
        let (mut budget, begin) = start();
        assert!(budget.aborts.spend(ABORTS.burst, begin));
        let mut now = begin;
        let mut spent = 0;
        for _ in 0..10_000 {
            now += MS;
            spent += u64::from(budget.aborts.spend(1, now));
        }
        assert_eq!(spent, 10 * ABORTS.per_second);
    }
}
