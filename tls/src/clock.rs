//! The wall clock, which certificates are held against.

use std::time::{Duration, SystemTime};

use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

/// The time now. A test may have its own (see `testing::Clock`).
#[must_use]
pub fn now() -> SystemTime {
    #[cfg(any(test, feature = "testing"))]
    if let Some(now) = crate::testing::Clock::now() {
        return now;
    }
    SystemTime::now()
}

/// Seconds since 1970; anything earlier counts as 1970.
pub(crate) fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn system_time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

/// Lets rustls see the same clock.
#[derive(Debug)]
pub(crate) struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(now()))
    }
}
