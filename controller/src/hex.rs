//! Bytes as hexadecimal digits in lower case.

use std::fmt::Write as _;

/// Two digits a byte.
pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of an even number of digits, in lower case alone: one spelling of each.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !text.len().is_multiple_of(2) || !text.as_bytes().iter().all(is_digit) {
        return None;
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_in_one_spelling() {
        assert_eq!(encode(&[0, 0xab, 9]), "00ab09");
        assert_eq!(decode("00ab09"), Some(vec![0, 0xab, 9]));
        assert_eq!(decode(""), Some(Vec::new()));
        for text in ["0", "0g", "AB", "+1", " 1", "\u{e9}"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
