//! Token buckets, in one number each: the time at which the bucket will be full (GCRA, the generic cell rate algorithm).

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use weft_proto::model::policy::{MAX_RATES, RateLimit, RateScope};

use super::Since;

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
        let mut waits = of_scope.filter_map(|(bucket, rate)| bucket.next(now, Rate::from(rate)).err());
        waits.next().map_or(Ok(()), Err)
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
        let whole = now.saturating_add(rate.whole);
        let full = self.0.load(Relaxed).clamp(now, whole);
        (whole - full) / rate.interval.max(1)
    }

    /// Takes a token at this time, in nanoseconds.
    fn take(&self, now: u64, rate: Rate) -> Result<(), Duration> {
        let mut wait = Duration::ZERO;
        let taken = self.0.fetch_update(Relaxed, Relaxed, |full| {
            let then = rate.after_one(full, now);
            wait = then.err().unwrap_or_default();
            then.ok()
        });
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(wait),
        }
    }

    /// Whether there is a token.
    fn next(&self, now: u64, rate: Rate) -> Result<(), Duration> {
        rate.after_one(self.0.load(Relaxed), now).map(drop)
    }

    fn put_back(&self, rate: Rate) {
        let _ = self
            .0
            .fetch_update(Relaxed, Relaxed, |full| Some(full.saturating_sub(rate.interval)));
    }
}

impl Rate {
    /// When the bucket will be full once a token is taken, if there is one; else the time until then.
    fn after_one(self, full: u64, now: u64) -> Result<u64, Duration> {
        // A limit that was changed finds the bucket empty at most.
        let full = full.clamp(now, now.saturating_add(self.whole));
        let then = full.saturating_add(self.interval);
        match then.saturating_sub(now.saturating_add(self.whole)) {
            0 => Ok(then),
            wait => Err(Duration::from_nanos(wait)),
        }
    }
}

impl From<&RateLimit> for Rate {
    fn from(limit: &RateLimit) -> Self {
        let interval = nanos(limit.per).div_ceil(u64::from(limit.requests).max(1));
        Self {
            interval,
            whole: interval.saturating_mul(u64::from(limit.burst).max(1)),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
