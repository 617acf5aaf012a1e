//! How many retries there may be of late, for all requests to a service together: if everything fails, retries must not
//! make it worse.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use crate::limit::Since;

/// The window slides second by second.
const SLOTS: u64 = 10;

/// Requests and retries of the last ten seconds. Shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    begun: Since,
    slots: [AtomicU64; SLOTS as usize],
}

/// What happened in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The second, modulo 2^24: half a year.
    second: u64,
    requests: u64,
    retries: u64,
}

impl Budget {
    /// A request has come. Its retries do not count as such.
    pub(crate) fn on_request(&self, now: Instant) {
        self.update(self.second(now), |slot| {
            slot.requests = (slot.requests + 1).min(Slot::MAX_REQUESTS);
            true
        });
    }

    /// Takes one retry if that is allowed: so many percent of the requests, or so many a second if that is more.
    pub(crate) fn try_withdraw(&self, now: Instant, percent: u32, floor: u32) -> bool {
        let second = self.second(now);
        let before = self.before(second);
        self.update(second, |slot| {
            let requests = before.requests + slot.requests;
            let retries = before.retries + slot.retries;
            let allowed = (requests * u64::from(percent) / 100).max(u64::from(floor) * SLOTS);
            let is_allowed = retries < allowed && slot.retries < Slot::MAX_RETRIES;
            slot.retries += u64::from(is_allowed);
            is_allowed
        })
    }

    fn second(&self, now: Instant) -> u64 {
        self.begun.time(now).as_secs()
    }

    /// The rest of the window.
    fn before(&self, second: u64) -> Slot {
        let mut sum = Slot::default();
        for age in 1..SLOTS.min(second + 1) {
            let Some(slot) = self.slot(second - age) else {
                continue;
            };
            let slot = Slot::unpack(slot.load(Relaxed));
            if slot.is_of(second - age) {
                sum.requests += slot.requests;
                sum.retries += slot.retries;
            }
        }
        sum
    }

    /// Changes what is known of a second, unless `change` says no.
    fn update(&self, second: u64, mut change: impl FnMut(&mut Slot) -> bool) -> bool {
        let Some(cell) = self.slot(second) else {
            return false;
        };
        let updated = cell.fetch_update(Relaxed, Relaxed, |packed| {
            let mut slot = Slot::unpack(packed);
            if !slot.is_of(second) {
                slot = Slot::of(second);
            }
            change(&mut slot).then(|| slot.pack())
        });
        updated.is_ok()
    }

    fn slot(&self, second: u64) -> Option<&AtomicU64> {
        self.slots.get((second % SLOTS) as usize)
    }
}

/// All in one word, so that a second begins anew in one step.
impl Slot {
    const SECOND_BITS: u32 = 24;
    const REQUEST_BITS: u32 = 22;
    const RETRY_BITS: u32 = 64 - Self::SECOND_BITS - Self::REQUEST_BITS;
    /// Beyond four million requests a second they are counted no more.
    const MAX_REQUESTS: u64 = (1 << Self::REQUEST_BITS) - 1;
    const MAX_RETRIES: u64 = (1 << Self::RETRY_BITS) - 1;
    const MAX_SECOND: u64 = (1 << Self::SECOND_BITS) - 1;

    fn of(second: u64) -> Self {
        Self {
            second: second & Self::MAX_SECOND,
            ..Self::default()
        }
    }

    fn is_of(self, second: u64) -> bool {
        self.second == second & Self::MAX_SECOND
    }

    fn pack(self) -> u64 {
        (self.second << (Self::REQUEST_BITS + Self::RETRY_BITS))
            | (self.requests << Self::RETRY_BITS)
            | self.retries
    }

    fn unpack(packed: u64) -> Self {
        Self {
            second: packed >> (Self::REQUEST_BITS + Self::RETRY_BITS),
            requests: (packed >> Self::RETRY_BITS) & Self::MAX_REQUESTS,
            retries: packed & Self::MAX_RETRIES,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const PERCENT: u32 = 20;
    const FLOOR: u32 = 3;

    /// Requests at an even rate, each of which is retried as long as the budget lets it. How many retries there were in
    /// all, and at most in ten seconds.
    fn retries(rate: u64, time: Duration, percent: u32, floor: u32) -> (u64, u64) {
        let budget = Budget::default();
        let begun = Instant::now();
        let mut times = Vec::new();
        for number in 0..rate * time.as_secs() {
            let at = Duration::from_nanos(number * 1_000_000_000 / rate);
            budget.on_request(begun + at);
            while budget.try_withdraw(begun + at, percent, floor) {
                times.push(at);
            }
        }
        let window = Duration::from_secs(SLOTS);
        let within = |from: Duration| times.partition_point(|at| *at < from + window) as u64;
        let before = |from: Duration| times.partition_point(|at| *at < from) as u64;
        let busiest = (0..time.as_secs())
            .map(Duration::from_secs)
            .map(|from| within(from) - before(from));
        (times.len() as u64, busiest.max().unwrap_or_default())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn if_everything_fails_there_is_a_fifth_more_at_most(rate in 1..2_000_u64) {
            let (total, busiest) = retries(rate, Duration::from_secs(40), PERCENT, FLOOR);
            let floor = u64::from(FLOOR) * SLOTS;
            let share = rate * SLOTS / 5;
            prop_assert!(busiest <= share.max(floor), "{busiest} in ten seconds of {rate} a second");
            prop_assert!(total <= (share * 4).max(floor * 4) + floor, "{total}");
            // And not much less: it is there to be used.
            prop_assert!(total >= (share * 3).max(floor * 3), "{total}");
        }
    }

    #[test]
    fn without_percent_and_floor_there_is_none() {
        assert_eq!(retries(100, Duration::from_secs(20), 0, 0), (0, 0));
    }

    #[test]
    fn what_happened_more_than_ten_seconds_ago_does_not_count() {
        let budget = Budget::default();
        let begun = Instant::now();
        (0..1_000).for_each(|_| budget.on_request(begun));
        let allowed = |at: u64| {
            let at = begun + Duration::from_secs(at);
            (0..1_000).filter(|_| budget.try_withdraw(at, PERCENT, 0)).count()
        };
        assert_eq!(allowed(0), 200);
        assert_eq!(allowed(9), 0, "they were used");
        assert_eq!(allowed(10), 0, "of no request");
        (0..100).for_each(|_| budget.on_request(begun + Duration::from_secs(10)));
        assert_eq!(allowed(10), 20);
        // The same place in the ring, much later.
        assert_eq!(allowed(100), 0);
        (0..10).for_each(|_| budget.on_request(begun + Duration::from_secs(100)));
        assert_eq!(allowed(100), 2);
    }

    #[test]
    fn a_changed_policy_holds_for_the_same_facts() {
        let budget = Budget::default();
        let now = Instant::now();
        (0..100).for_each(|_| budget.on_request(now));
        let allowed = |percent| {
            (0..1_000)
                .filter(|_| budget.try_withdraw(now, percent, 0))
                .count()
        };
        assert_eq!(allowed(10), 10);
        assert_eq!(allowed(30), 20);
        assert_eq!(allowed(20), 0);
    }

    #[test]
    fn workers_together_get_no_more() {
        let budget = Budget::default();
        let now = Instant::now();
        (0..10_000).for_each(|_| budget.on_request(now));
        let allowed = std::thread::scope(|scope| {
            let worker = || {
                (0..2_000)
                    .filter(|_| budget.try_withdraw(now, PERCENT, FLOOR))
                    .count()
            };
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .sum::<usize>()
        });
        assert_eq!(allowed, 2_000);
    }

    #[test]
    fn counts_end_where_their_room_does() {
        let most = Slot {
            second: Slot::MAX_SECOND,
            requests: Slot::MAX_REQUESTS,
            retries: Slot::MAX_RETRIES,
        };
        assert_eq!(most.pack(), u64::MAX);
        let again = Slot::unpack(u64::MAX);
        assert_eq!(
            (again.second, again.requests, again.retries),
            (most.second, most.requests, most.retries)
        );
        let budget = Budget::default();
        budget.slots[0].store(Slot { second: 0, ..most }.pack(), Relaxed);
        let now = Instant::now();
        budget.on_request(now);
        assert!(!budget.try_withdraw(now, 100, 0));
        assert!(Slot::unpack(budget.slots[0].load(Relaxed)).is_of(0));
    }
}
