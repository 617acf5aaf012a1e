//! Token buckets, in one number each: the time at which the bucket will be full (GCRA, the generic cell rate algorithm).

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use weft_proto::model::policy::{MAX_RATES, RateLimit, RateScope};

use super::Since;

/// A century and a half, in nanoseconds: sums of such times fit.
const LONGEST: u64 = u64::MAX / 4;

/// A token bucket. Full at first. Shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

/// The buckets of one thing that has several limits at a time: a rule of a route, an endpoint, a caller.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    begun: Since,
    /// By the position of the limit in its policy.
    all: [Bucket; MAX_RATES],
}

/// A limit in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Between two tokens. Rounded up: never more than the limit says.
    interval: u64,
    /// Until an empty bucket is full.
    whole: u64,
}

impl Buckets {
    /// Takes a token for each limit of this scope; if one is missing, none is taken.
    ///
    /// # Errors
    /// The time until there is one.
    pub(crate) fn take(&self, now: Instant, rates: &[RateLimit], scope: RateScope) -> Result<(), Duration> {
        let now = nanos(self.begun.time(now));
        let of_scope = || {
            let all = self.all.iter().zip(rates);
            all.filter(move |(_, rate)| rate.scope == scope)
        };
        for (count, (bucket, rate)) in of_scope().enumerate() {
            if let Err(wait) = bucket.take(now, Rate::from(rate)) {
                for (taken, rate) in of_scope().take(count) {
                    taken.put_back(Rate::from(rate));
                }
                return Err(wait);
            }
        }
        Ok(())
    }

    /// Whether there is a token for each limit of this scope. Takes none.
    ///
    /// # Errors
    /// The time until there is one.
    pub(crate) fn look(&self, now: Instant, rates: &[RateLimit], scope: RateScope) -> Result<(), Duration> {
        let now = nanos(self.begun.time(now));
        let of_scope = self.all.iter().zip(rates).filter(|(_, rate)| rate.scope == scope);
        let mut waits = of_scope.map(|(bucket, rate)| bucket.wait(now, Rate::from(rate)));
        match waits.find(|wait| *wait > 0) {
            Some(wait) => Err(Duration::from_nanos(wait)),
            None => Ok(()),
        }
    }

    /// How many tokens there are now for each limit of this scope. Takes none.
    pub(crate) fn left<'a>(
        &'a self,
        now: Instant,
        rates: &'a [RateLimit],
        scope: RateScope,
    ) -> impl Iterator<Item = (&'a RateLimit, u64)> {
        let now = nanos(self.begun.time(now));
        let of_scope = self
            .all
            .iter()
            .zip(rates)
            .filter(move |(_, rate)| rate.scope == scope);
        of_scope.map(move |(bucket, rate)| (rate, bucket.left(now, Rate::from(rate))))
    }
}

impl Bucket {
    /// How many tokens there are at this time, in nanoseconds.
    fn left(&self, now: u64, rate: Rate) -> u64 {
        let full = rate.clamp(self.0.load(Relaxed), now);
        now.saturating_add(rate.whole).saturating_sub(full) / rate.interval.max(1)
    }

    /// Takes a token at this time, in nanoseconds.
    fn take(&self, now: u64, rate: Rate) -> Result<(), Duration> {
        let mut wait = 0;
        let _ = self.0.fetch_update(Relaxed, Relaxed, |full| {
            // A limit that was changed finds the bucket empty at most, and from then on it fills as that limit says.
            let full = rate.clamp(full, now);
            wait = rate.wait(full, now);
            Some(if wait == 0 {
                full.saturating_add(rate.interval)
            } else {
                full
            })
        });
        match wait {
            0 => Ok(()),
            _ => Err(Duration::from_nanos(wait)),
        }
    }

    /// How long until there is a token.
    fn wait(&self, now: u64, rate: Rate) -> u64 {
        rate.wait(rate.clamp(self.0.load(Relaxed), now), now)
    }

    fn put_back(&self, rate: Rate) {
        let _ = self
            .0
            .fetch_update(Relaxed, Relaxed, |full| Some(full.saturating_sub(rate.interval)));
    }
}

impl Rate {
    /// When a bucket of this limit will be full, whatever it was before.
    fn clamp(self, full: u64, now: u64) -> u64 {
        full.clamp(now, now.saturating_add(self.whole))
    }

    /// How long until a bucket that will be full then has a token.
    fn wait(self, full: u64, now: u64) -> u64 {
        let then = full.saturating_add(self.interval);
        then.saturating_sub(now.saturating_add(self.whole))
    }
}

impl From<&RateLimit> for Rate {
    fn from(limit: &RateLimit) -> Self {
        let interval = nanos(limit.per).div_ceil(u64::from(limit.requests).max(1));
        let whole = interval.saturating_mul(u64::from(limit.burst).max(1));
        Self {
            interval: interval.min(LONGEST),
            whole: whole.min(LONGEST),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const ROUTE: RateScope = RateScope::Route;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn limit(requests: u32, per: Duration, burst: u32) -> RateLimit {
        let mut limit = RateLimit::new(requests, per, ROUTE);
        limit.burst = burst;
        limit
    }

    /// A bucket as one draws it: tokens that fall in with time. They are counted in parts that divide the interval, so that
    /// nothing is rounded.
    struct Naive {
        parts: u64,
        then: u64,
    }

    impl Naive {
        fn take(&mut self, now: u64, interval: u64, burst: u64) -> bool {
            self.parts = (self.parts + (now - self.then)).min(interval * burst);
            self.then = now;
            let there = self.parts >= interval;
            self.parts -= if there { interval } else { 0 };
            there
        }
    }

    proptest! {
        #[test]
        fn it_is_a_bucket_into_which_tokens_fall(
            interval in 1..1_000_u64,
            burst in 1..20_u64,
            gaps in vec(prop_oneof![Just(0), 0..2_000_u64, 0..30_000_u64], 1..200),
        ) {
            let bucket = Bucket::default();
            let rate = Rate { interval, whole: interval * burst };
            let mut naive = Naive { parts: rate.whole, then: 0 };
            let mut now = 0;
            for gap in gaps {
                now += gap;
                match bucket.take(now, rate) {
                    Ok(()) => prop_assert!(naive.take(now, interval, burst)),
                    Err(wait) => {
                        prop_assert!(!naive.take(now, interval, burst));
                        prop_assert_eq!(wait, Duration::from_nanos(interval - naive.parts));
                    }
                }
            }
        }

        #[test]
        fn in_no_time_there_are_more_than_the_limit_says(
            requests in 1..5_000_u32,
            per in 1..100_000_u64,
            burst in 1..50_u32,
            gaps in vec(0..200_000_u64, 1..100),
        ) {
            let limits = [limit(requests, ms(per), burst)];
            let buckets = Buckets::default();
            let begun = Instant::now();
            let (mut now, mut taken) = (Duration::ZERO, 0_u128);
            for gap in gaps {
                now += Duration::from_micros(gap);
                while buckets.take(begun + now, &limits, ROUTE).is_ok() {
                    taken += 1;
                }
                let allowed = u128::from(burst) + now.as_nanos() * u128::from(requests) / ms(per).as_nanos();
                prop_assert!(taken <= allowed, "{taken} of {allowed}");
            }
        }
    }

    fn count(buckets: &Buckets, now: Instant, limits: &[RateLimit]) -> usize {
        (0..1_000)
            .take_while(|_| buckets.take(now, limits, ROUTE).is_ok())
            .count()
    }

    #[test]
    fn to_look_takes_nothing_and_says_what_to_take_would() {
        let (buckets, start) = (Buckets::default(), Instant::now());
        let limits = [limit(2, ms(100), 3), limit(5, ms(1_000), 5)];
        for step in 0..200 {
            let now = start + ms(step * 17);
            let left = || -> Vec<u64> { buckets.left(now, &limits, ROUTE).map(|(_, left)| left).collect() };
            let (looked, before) = (buckets.look(now, &limits, ROUTE), left());
            let taken = buckets.take(now, &limits, ROUTE);
            assert_eq!(looked, taken, "{step}");
            assert_eq!(taken.is_ok(), before.iter().all(|left| *left > 0), "{step}");
            let one = u64::from(taken.is_ok());
            let after: Vec<u64> = before.iter().map(|left| left - one).collect();
            assert_eq!(left(), after, "{step}");
        }
    }

    #[test]
    fn a_changed_limit_holds_at_once() {
        let buckets = Buckets::default();
        let now = Instant::now();
        let rare = [limit(1, Duration::from_secs(3600), 2)];
        assert_eq!(count(&buckets, now, &rare), 2);
        let wait = buckets.take(now, &rare, ROUTE).unwrap_err();
        assert_eq!(wait, Duration::from_secs(3600));
        let often = [limit(10, Duration::from_secs(1), 5)];
        let wait = buckets.take(now, &often, ROUTE).unwrap_err();
        assert_eq!(wait, ms(100), "the hours of the old one are forgotten");
        assert_eq!(count(&buckets, now + ms(300), &often), 3);
    }

    #[test]
    fn of_several_limits_the_least_counts_and_the_others_lose_nothing_to_it() {
        let buckets = Buckets::default();
        let now = Instant::now();
        let day = Duration::from_secs(24 * 3600);
        let limits = [limit(100, day, 100), limit(1, Duration::from_secs(1), 1)];
        for second in 0..100 {
            let at = now + Duration::from_secs(second);
            assert_eq!(count(&buckets, at, &limits), 1, "{second}");
            assert!(buckets.take(at, &limits, ROUTE).is_err());
        }
        let at = now + Duration::from_secs(100);
        assert!(buckets.take(at, &limits, ROUTE).unwrap_err() > Duration::from_secs(600));
    }

    #[test]
    fn limits_of_another_scope_are_somebody_elses() {
        let buckets = Buckets::default();
        let limits = [RateLimit::new(1, ms(1), RateScope::Caller)];
        assert_eq!(count(&buckets, Instant::now(), &limits), 1_000);
    }

    #[test]
    fn the_longest_and_the_shortest_times_are_no_trouble() {
        let now = Instant::now();
        let nanosecond = Duration::from_nanos(1);
        for (limits, most) in [
            ([limit(1, Duration::MAX, 1)], 1),
            ([limit(1, Duration::MAX, u32::MAX)], 1),
            ([limit(u32::MAX, nanosecond, u32::MAX)], 1_000),
            ([limit(u32::MAX, nanosecond, 1)], 1),
            ([limit(u32::MAX, Duration::MAX, 1)], 1),
        ] {
            let buckets = Buckets::default();
            for at in [0, 1 << 20] {
                let taken = count(&buckets, now + Duration::from_secs(at), &limits);
                assert!(taken <= most && (taken > 0 || at > 0), "{taken} of {limits:?}");
            }
        }
    }
}
