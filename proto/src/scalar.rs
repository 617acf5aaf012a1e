//! What YAML takes a scalar for that is not in quotes.

/// YAML 1.2 section 10.3.2.
pub(crate) fn is_null(plain: &str) -> bool {
    matches!(plain, "" | "~" | "null" | "Null" | "NULL")
}

pub(crate) fn is_decimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'))
        && !text.is_empty()
}

/// Whether a plain scalar is a string to YAML 1.2 (section 10.3.2) and to YAML 1.1, which Kubernetes reads.
pub(crate) fn is_string(plain: &str) -> bool {
    !is_null(plain) && !is_boolean(plain) && !is_number(plain)
}

pub(crate) fn is_boolean(plain: &str) -> bool {
    ["true", "false", "yes", "no", "on", "off"]
        .iter()
        .any(|word| word.eq_ignore_ascii_case(plain))
}

pub(crate) fn is_number(plain: &str) -> bool {
    let unsigned = plain.strip_prefix(['+', '-']).unwrap_or(plain);
    let digits = |prefix: &str, radix: u32| {
        unsigned
            .strip_prefix(prefix)
            .is_some_and(|digits| !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix) || c == '_'))
    };
    let is_float = || {
        // Rust reads "inf" and "nan" as well, which are strings to YAML.
        unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            && unsigned.replace('_', "").parse::<f64>().is_ok()
    };
    digits("0x", 16)
        || digits("0o", 8)
        || digits("0b", 2)
        || is_float()
        || [".inf", ".nan"]
            .iter()
            .any(|word| word.eq_ignore_ascii_case(unsigned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_scalar_is() {
        for text in ["", "~", "null", "Null", "NULL"] {
            assert!(is_null(text) && !is_string(text), "{text}");
        }
        for text in ["true", "False", "YES", "no", "On", "off"] {
            assert!(is_boolean(text) && !is_string(text), "{text}");
        }
        for text in [
            "0", "1", "-1", "+1", "007", "1.5", "1.", ".5", "1e3", "-1.5E-3", "0x1F", "0o17", "0b1", "1_000",
            ".inf", "-.INF", ".nan",
        ] {
            assert!(is_number(text) && !is_string(text), "{text}");
        }
        for text in [
            "a", "1a", "1.2.3", "10.0.0.1", "::1", "0x", "0xg", "e3", ".", "-", "inf", "nan", "infinity",
            "v1", "1-2", "nul", "truee", "1 2", "_1",
        ] {
            assert!(is_string(text), "{text}");
        }
    }

    #[test]
    fn decimals() {
        for text in ["0", "1", "65535", "99999999999999999999999"] {
            assert!(is_decimal(text), "{text}");
        }
        for text in ["", "00", "080", "-1", "+1", "1.0", "1_0", " 1", "0x1", "\u{661}"] {
            assert!(!is_decimal(text), "{text}");
        }
    }
}
