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
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that are too many for a number are long enough.
        return Some(text.parse().map_or(MAX, Duration::from_secs).min(MAX));
    }
    let until = PrimitiveDateTime::parse(text, IMF_FIXDATE).ok()?.assume_utc();
    let wait = until - OffsetDateTime::from(now);
    Some(Duration::try_from(wait).unwrap_or_default().min(MAX))
}
