//! Lengths of time as Gateway API writes them (GEP-2257): `1h30m10s500ms`.

use std::fmt::Write;
use std::time::Duration;

/// The longest: 99999h59m59s999ms.
pub const MAX: Duration = Duration::from_millis(((99_999 * 60 + 59) * 60 + 59) * 1_000 + 999);

/// The units, the largest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The most numbers in one, and digits in a number.
const MAX_NUMBERS: usize = 4;
const MAX_DIGITS: usize = 5;

/// Reads one: one to four whole numbers of at most five digits, each with its unit, which are added up.
///
/// # Errors
/// It is none, or longer than [`MAX`]: a sentence to follow the text itself.
pub fn parse(text: &str) -> Result<Duration, &'static str> {
    let total = milliseconds(text).ok_or("is not a duration, such as 30s, 500ms or 1m30s")?;
    let total = Duration::from_millis(total);
    if total > MAX {
        return Err("is longer than 99999h59m59s999ms");
    }
    Ok(total)
}

/// The one way to write it that has each unit at most once, the largest first. What is less than a millisecond is
/// left out; nothing is `0s`.
pub fn to_text(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, milliseconds) in UNITS {
        let number = rest / milliseconds;
        rest %= milliseconds;
        if number > 0 {
            // Writing to a string does not fail.
            let _ = write!(text, "{number}{unit}");
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// At most four numbers of five digits of hours: no sum overflows.
fn milliseconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0;
    for _ in 0..MAX_NUMBERS {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=MAX_DIGITS).contains(&digits) {
            return None;
        }
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.bytes().take_while(|byte| !byte.is_ascii_digit()).count();
        let (unit, after) = after.split_at_checked(letters)?;
        let (_, milliseconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total += number.parse::<u64>().ok()? * milliseconds;
        rest = after;
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("0h0m0s0ms", 0),
            ("500ms", 500),
            ("00090s", 90_000),
            ("1h30m10s500ms", 5_410_500),
            ("1s1s", 2_000),
            ("1ms1h", 3_600_001),
            ("99999h59m59s999ms", 359_999_999_999),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in [
            "",
            "0",
            "1",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "1 s",
            " 1s",
            "1s ",
            "1d",
            "1us",
            "1S",
            "1hm",
            "100000s",
            "1h1m1s1ms1h",
            "1\u{e9}",
            "\u{661}s",
            "1ss",
            "1h1",
        ] {
            assert_eq!(
                parse(text),
                Err("is not a duration, such as 30s, 500ms or 1m30s"),
                "{text}"
            );
        }
        for text in ["99999h60m", "99999h99999h", "99999h59m59s1000ms"] {
            assert_eq!(parse(text), Err("is longer than 99999h59m59s999ms"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_comes_back(milliseconds in 0..=359_999_999_999_u64) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse(&to_text(duration)), Ok(duration));
        }

        #[test]
        fn a_text_means_what_its_shortest_form_means(text in "([0-9]{1,5}(h|m|s|ms)){1,4}") {
            if let Ok(duration) = parse(&text) {
                prop_assert_eq!(parse(&to_text(duration)), Ok(duration));
            }
        }
    }
}
