//! `Retry-After` (RFC 9110 section 10.2.3).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header::RETRY_AFTER};
use time::{
    OffsetDateTime, PrimitiveDateTime, format_description::BorrowedFormatItem, macros::format_description,
};

/// Longer than any wait that we would make a caller wait.
const MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// The one form of a date that is still to be sent (RFC 9110 section 5.6.7).
const IMF_FIXDATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// How long the answer asks to wait. `None`: it does not say, or not in a way that is understood. A time that has passed
/// is no wait.
pub(crate) fn retry_after(headers: &HeaderMap, now: impl FnOnce() -> SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that are too many for a number are long enough.
        return Some(text.parse().map_or(MAX, Duration::from_secs).min(MAX));
    }
    let until = PrimitiveDateTime::parse(text, IMF_FIXDATE).ok()?.assume_utc();
    let wait = until - OffsetDateTime::from(now());
    Some(Duration::try_from(wait).unwrap_or_default().min(MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// 26 November 2026, 12:00:00 GMT.
    const NOW: u64 = 1_795_694_400;

    fn parse(value: &[u8]) -> Option<Duration> {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_bytes(value).unwrap())]);
        retry_after(&headers, || SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))
    }

    #[test]
    fn it_is_seconds_or_a_date() {
        assert_eq!(parse(b"120"), Some(Duration::from_secs(120)));
        assert_eq!(parse(b"0"), Some(Duration::ZERO));
        assert_eq!(
            parse(b"Thu, 26 Nov 2026 12:00:30 GMT"),
            Some(Duration::from_secs(30))
        );
        assert_eq!(
            parse(b"Thu, 26 Nov 2026 11:59:00 GMT"),
            Some(Duration::ZERO),
            "it has passed"
        );
        assert_eq!(retry_after(&HeaderMap::new(), || SystemTime::UNIX_EPOCH), None);
    }

    #[test]
    fn what_is_too_long_is_long_and_what_is_no_time_is_not_said() {
        assert_eq!(parse(b"99999999999999999999999999"), Some(MAX));
        assert_eq!(parse(b"31536001"), Some(MAX));
        assert_eq!(parse(b"Fri, 31 Dec 9999 23:59:59 GMT"), Some(MAX));
        for value in [
            &b""[..],
            b"-1",
            b"+1",
            b"1.5",
            b"1s",
            b"soon",
            b"Thu, 26 Nov 2026 12:00:30",
            b"Thu, 31 Feb 2026 12:00:30 GMT",
            b"\xff",
        ] {
            assert_eq!(parse(value), None, "{value:?}");
        }
    }
}
