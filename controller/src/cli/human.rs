//! Durations and moments for people.

use std::time::{Duration, SystemTime};

use time::{OffsetDateTime, macros::format_description};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;

/// A duration in its two largest units, where the smaller still says something: `4s`, `2m5s`, `3h20m`, `12d`, `9y364d`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| match (seconds % large) / small {
        0 => format!("{}{large_unit}", seconds / large),
        rest => format!("{}{large_unit}{rest}{small_unit}", seconds / large),
    };
    match seconds {
        0 if !duration.is_zero() => format!("{}ms", duration.as_millis()),
        0..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => two(MINUTE, "m", 1, "s"),
        HOUR..DAY => two(HOUR, "h", MINUTE, "m"),
        DAY..10_000_000 if seconds < 10 * DAY => two(DAY, "d", HOUR, "h"),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ => two(YEAR, "y", DAY, "d"),
    }
}

/// How long ago a moment in seconds since 1970 was; a dash for 0, which stands for never.
pub(crate) fn ago(now: SystemTime, seconds: u64) -> String {
    match seconds {
        0 => "-".to_owned(),
        seconds => duration(whole(now.duration_since(moment(seconds)).unwrap_or_default())),
    }
}

/// How far away a moment in seconds since 1970 is: `in 3h`, or `5m ago`.
pub(crate) fn until(now: SystemTime, seconds: u64) -> String {
    match moment(seconds).duration_since(now) {
        Ok(ahead) => format!("in {}", duration(whole(ahead))),
        Err(_) => format!("{} ago", ago(now, seconds)),
    }
}

/// The rest of a life in seconds since 1970, as `3h20m`; `None` if it is over.
pub(crate) fn left(now: SystemTime, seconds: u64) -> Option<Duration> {
    moment(seconds).duration_since(now).ok().map(whole)
}

/// A moment in seconds since 1970 as RFC 3339 has it, in UTC.
pub(crate) fn date(seconds: u64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|date| date.format(format).ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970"))
}

/// Seconds since 1970 as a moment.
pub(crate) fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

pub(crate) use crate::unix::seconds;

/// Reads `90s`, `10m`, `24h`, `365d`, and sums of them such as `1h30m`.
///
/// # Errors
/// It is none, or 0.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    match parse_time(text)? {
        Duration::ZERO => Err(NO_DURATION.to_owned()),
        duration => Ok(duration),
    }
}

/// The same, and `0s`.
///
/// # Errors
/// It is none.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || NO_DURATION.to_owned();
    if text.is_empty() {
        return Err(wrong());
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit_first) = rest.split_at_checked(digits).ok_or_else(wrong)?;
        let letters = unit_first
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(unit_first.len());
        let (unit, after) = unit_first.split_at_checked(letters).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let part = match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(MINUTE).map(Duration::from_secs),
            "h" => number.checked_mul(HOUR).map(Duration::from_secs),
            "d" => number.checked_mul(DAY).map(Duration::from_secs),
            "y" => number.checked_mul(YEAR).map(Duration::from_secs),
            _ => None,
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = after;
    }
    Ok(total)
}

const NO_DURATION: &str = "is not a duration, such as 90s, 10m, 24h, 1h30m or 365d";

/// Nobody reads fractions of a second beside larger units.
fn whole(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (125, "2m5s"),
            (HOUR, "1h"),
            (3 * HOUR + 20 * MINUTE + 7, "3h20m"),
            (DAY + HOUR, "1d1h"),
            (12 * DAY + HOUR, "12d"),
            (400 * DAY, "400d"),
            (10 * YEAR - DAY, "9y364d"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
        assert_eq!(duration(Duration::from_millis(250)), "250ms");
    }

    #[test]
    fn moments() {
        let now = moment(1_000_000);
        assert_eq!(ago(now, 999_700), "5m");
        assert_eq!(ago(now, 1_000_005), "0s");
        assert_eq!(ago(now, 0), "-");
        assert_eq!(until(now, 1_000_060), "in 1m");
        assert_eq!(until(now, 999_940), "1m ago");
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(1_764_109_064), "2025-11-25T22:17:44Z");
        // Far beyond any calendar.
        assert!(date(u64::MAX).contains("after 1970"));
        assert_eq!(until(now, u64::MAX), "- ago".replace('-', &ago(now, u64::MAX)));
    }

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [
            ("90s", 90),
            ("10m", 600),
            ("24h", DAY),
            ("365d", YEAR),
            ("1h30m", 5400),
            ("10y", 10 * YEAR),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "10 m",
            "-1s",
            "1w",
            "0s",
            "1m2",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
