//! Points in time as numbers that fit into an atomic.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// What the numbers count from: some time before the first one that is asked for.
static ORIGIN: OnceLock<Instant> = OnceLock::new();
/// Workers do not ask in the order of their clocks.
const HEADROOM: Duration = Duration::from_secs(3600);

/// Milliseconds since the origin. Never 0 in practice: 0 stands for "long ago".
pub(crate) fn millis(now: Instant) -> u64 {
    let origin = ORIGIN.get_or_init(|| now.checked_sub(HEADROOM).unwrap_or(now));
    whole_millis(now.saturating_duration_since(*origin))
}

/// A duration in the same unit.
pub(crate) fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
