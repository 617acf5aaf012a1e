//! Times as numbers, for atomics.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Counts from the first time that it is asked.
#[derive(Debug, Default)]
pub(crate) struct Since(OnceLock<Instant>);

impl Since {
    /// How long it is since the beginning; nothing for what another thread saw before.
    pub(crate) fn time(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.0.get_or_init(|| now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_begins_when_it_is_first_asked() {
        let (since, now) = (Since::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(since.time(now + second), Duration::ZERO);
        assert_eq!(
            since.time(now),
            Duration::ZERO,
            "another worker's clock was read before"
        );
        assert_eq!(since.time(now + 3 * second), 2 * second);
    }
}
