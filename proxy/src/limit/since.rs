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
