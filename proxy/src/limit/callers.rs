//! Token buckets by caller.

use std::{
    hash::BuildHasher,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustc_hash::{FxBuildHasher, FxHashMap};
use weft_proto::{
    SpiffeId,
    model::policy::{RateLimit, RateScope},
};

use super::Buckets;

/// Parts of the table that are locked apart.
const SHARDS: usize = 16;
/// Callers that are known at a time, by shard: 4,096 together, in about half a mebibyte.
const PER_SHARD: usize = 256;

/// The buckets of the callers of one port, for limits of scope [`RateScope::Caller`]. Shared by all workers.
///
/// A table that grows can't be of atomics alone. Its locks are taken only where such a limit is set, each by a sixteenth
/// of the callers, and only to look one up.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    callers: FxHashMap<SpiffeId, Caller>,
    /// Counts look-ups.
    clock: u64,
}

#[derive(Debug)]
struct Caller {
    buckets: Arc<Buckets>,
    last: u64,
}

impl Callers {
    /// Takes a token of this caller's, as [`Buckets::take`] does.
    ///
    /// # Errors
    /// The time until there is one.
    pub(crate) fn take(&self, caller: &SpiffeId, now: Instant, rates: &[RateLimit]) -> Result<(), Duration> {
        if rates.iter().all(|rate| rate.scope != RateScope::Caller) {
            return Ok(());
        }
        self.buckets(caller).take(now, rates, RateScope::Caller)
    }

    /// A caller that comes when all room is taken takes that of the one that was not seen for longest.
    fn buckets(&self, caller: &SpiffeId) -> Arc<Buckets> {
        let index = FxBuildHasher.hash_one(caller) as usize % SHARDS;
        let Some(shard) = self.shards.get(index) else {
            return Arc::default();
        };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.clock += 1;
        let clock = shard.clock;
        if !shard.callers.contains_key(caller) && shard.callers.len() >= PER_SHARD {
            shard.forget_oldest();
        }
        let known = shard.callers.entry(caller.clone()).or_insert_with(|| Caller {
            buckets: Arc::default(),
            last: clock,
        });
        known.last = clock;
        known.buckets.clone()
    }
}

impl Shard {
    fn forget_oldest(&mut self) {
        let oldest = self.callers.iter().min_by_key(|(_, caller)| caller.last);
        if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
            self.callers.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(number: usize) -> SpiffeId {
        let id = format!("spiffe://mesh/ns/a/sa/w{number}");
        SpiffeId::parse_workload(&id).unwrap()
    }

    fn one_an_hour() -> [RateLimit; 1] {
        [RateLimit::new(1, Duration::from_secs(3600), RateScope::Caller)]
    }

    fn known(callers: &Callers) -> usize {
        let shards = callers.shards.iter();
        shards.map(|shard| shard.lock().unwrap().callers.len()).sum()
    }

    #[test]
    fn each_caller_has_a_bucket_of_its_own() {
        let callers = Callers::default();
        let now = Instant::now();
        for number in 0..100 {
            assert!(callers.take(&caller(number), now, &one_an_hour()).is_ok());
        }
        for number in 0..100 {
            assert!(callers.take(&caller(number), now, &one_an_hour()).is_err());
        }
    }

    #[test]
    fn however_many_callers_there_are_the_table_stays_small_and_who_calls_is_kept() {
        let callers = Callers::default();
        let now = Instant::now();
        let regular = caller(0);
        assert!(callers.take(&regular, now, &one_an_hour()).is_ok());
        for number in 1..20_000 {
            assert!(callers.take(&caller(number), now, &one_an_hour()).is_ok());
            assert!(callers.take(&regular, now, &one_an_hour()).is_err(), "{number}");
        }
        assert!(known(&callers) <= SHARDS * PER_SHARD);
        assert!(known(&callers) > SHARDS * PER_SHARD / 2);
        assert!(
            callers.take(&caller(1), now, &one_an_hour()).is_ok(),
            "it was forgotten"
        );
    }

    #[test]
    fn without_a_limit_by_caller_nobody_is_remembered() {
        let callers = Callers::default();
        let others = [RateLimit::new(1, Duration::from_secs(1), RateScope::Endpoint)];
        for _ in 0..2 {
            assert!(callers.take(&caller(1), Instant::now(), &others).is_ok());
        }
        assert_eq!(known(&callers), 0);
    }
}
