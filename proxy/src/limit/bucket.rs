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
}

impl Bucket {
    /// Takes a token at this time, in nanoseconds.
    fn take(&self, now: u64, rate: Rate) -> Result<(), Duration> {
        let mut wait = 0;
        let taken = self.0.fetch_update(Relaxed, Relaxed, |full| {
            // A limit that was changed finds the bucket empty at most.
            let full = full.clamp(now, now.saturating_add(rate.whole));
            let then = full.saturating_add(rate.interval);
            wait = then.saturating_sub(now.saturating_add(rate.whole));
            (wait == 0).then_some(then)
        });
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(Duration::from_nanos(wait)),
        }
    }

    fn put_back(&self, rate: Rate) {
        let _ = self
            .0
            .fetch_update(Relaxed, Relaxed, |full| Some(full.saturating_sub(rate.interval)));
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
