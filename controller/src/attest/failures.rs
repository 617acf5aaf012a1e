//! How many failed joins a second are answered and told in the log: one bucket for all.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Failures a second in the long run.
const RATE: f64 = 2.0;
/// Failures at once: a script that an operator runs over hosts with the wrong token.
const BURST: f64 = 50.0;

/// The bucket.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Option<Bucket>>);

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Failures {
    /// Whether one more may be answered.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = bucket.unwrap_or(Bucket { left: BURST, at: now });
        let passed = now.saturating_duration_since(before.at).as_secs_f64();
        let left = (before.left + passed * RATE).min(BURST);
        let may = left >= 1.0;
        *bucket = Some(Bucket {
            left: if may { left - 1.0 } else { left },
            at: now,
        });
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_is_answered_and_then_so_many_a_second() {
        let failures = Failures::default();
        let start = Instant::now();
        let answered = |at: Instant| (0..200).filter(|_| failures.take(at)).count();
        assert_eq!(answered(start), 50);
        assert_eq!(answered(start + Duration::from_secs(10)), 20);
        assert_eq!(answered(start + Duration::from_secs(3600)), 50);
    }
}
