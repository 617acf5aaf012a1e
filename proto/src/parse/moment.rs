//! Moments as Kubernetes writes them (RFC 3339): `2026-01-31T12:00:00Z`.

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// Reads one, of any offset, as seconds since 1970. A part of a second is left out.
///
/// # Errors
/// It is none of the years 0 to 9999: a sentence to follow the text itself.
pub fn parse(text: &str) -> Result<i64, &'static str> {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        // With its offset it may be of a year that cannot be written.
        .and_then(|moment| moment.checked_to_offset(UtcOffset::UTC))
        .filter(|moment| moment.year() >= 0)
        .map(OffsetDateTime::unix_timestamp)
        .ok_or("is not a moment, such as 2026-01-31T12:00:00Z")
}

/// What [`parse`] reads as so many seconds; `None` if there is no such text.
pub fn to_text(seconds: i64) -> Option<String> {
    let moment = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    moment.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn moments() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-01-31T12:00:00Z", 1_769_860_800),
            ("2026-01-31T13:00:00.999+01:00", 1_769_860_800),
            ("2024-02-29T23:59:59-00:30", 1_709_252_999),
            ("1969-12-31T23:59:59Z", -1),
            ("0000-01-01T00:00:00Z", -62_167_219_200),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(parse(text), Ok(seconds), "{text}");
        }
        for text in [
            "",
            "now",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-02-29T12:00:00Z",
            "2026-01-31T24:00:00Z",
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "10000-01-01T00:00:00Z",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_moment_comes_back(seconds in -62_167_219_200..=253_402_300_799_i64) {
            prop_assert_eq!(parse(&to_text(seconds).unwrap()), Ok(seconds));
        }
    }
}
