//! How often one identity may call: a token bucket each.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tonic::Status;

/// Calls a second in the long run. All that have no certificate share one bucket.
const RATE: f64 = 100.0;
/// Calls at once. A thousand proxies of one service account may return together, each with a call or two.
const BURST: f64 = 2_000.0;
/// Identities that are told apart; full buckets go first, as they say nothing.
const MAX_BUCKETS: usize = 20_000;

/// The buckets.
#[derive(Debug, Default)]
pub struct Limits {
    buckets: Mutex<HashMap<Box<str>, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limits {
    /// Takes one token of `who`.
    ///
    /// # Errors
    /// None is left: the status to answer, which says when to come again.
    pub fn take(&self, who: &str, now: Instant) -> Result<(), Status> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(who) {
            buckets.retain(|_, bucket| bucket.after(now).tokens < BURST);
            if buckets.len() >= MAX_BUCKETS {
                return Err(Status::resource_exhausted(
                    "too many callers at a time: come again in a second",
                ));
            }
        }
        let bucket = buckets.entry(who.into()).or_insert(Bucket {
            tokens: BURST,
            at: now,
        });
        *bucket = bucket.after(now);
        if bucket.tokens < 1.0 {
            return Err(Status::resource_exhausted(format!(
                "more than {RATE} calls a second by {who}: come again in a second"
            )));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

impl Bucket {
    fn after(self, now: Instant) -> Self {
        let passed: Duration = now.saturating_duration_since(self.at);
        Self {
            tokens: (self.tokens + passed.as_secs_f64() * RATE).min(BURST),
            at: now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds_for_each() {
        let (limits, start) = (Limits::default(), Instant::now());
        let passed =
            |who: &str, now, tries: usize| (0..tries).filter(|_| limits.take(who, now).is_ok()).count();
        assert_eq!(passed("ann", start, 5_000), BURST as usize);
        assert_eq!(passed("bob", start, 10), 10, "another's bucket is empty");
        assert_eq!(
            passed("ann", start + Duration::from_secs(1), 5_000),
            RATE as usize
        );
        assert_eq!(
            passed("ann", start + Duration::from_secs(3_600), 5_000),
            BURST as usize
        );
    }

    #[test]
    fn the_number_of_callers_is_bounded_and_idle_ones_make_room() {
        let (limits, start) = (Limits::default(), Instant::now());
        for number in 0..MAX_BUCKETS {
            limits.take(&format!("caller {number}"), start).unwrap();
        }
        assert!(limits.take("one more", start).is_err());
        assert!(limits.take("one more", start + Duration::from_secs(1)).is_ok());
        assert!(limits.buckets.lock().unwrap().len() <= MAX_BUCKETS);
    }
}
