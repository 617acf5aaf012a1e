//! Writing PEM (RFC 7468), also of secrets: no copy is left behind.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// Bytes of base64 in a line (RFC 7468 section 2).
const LINE: usize = 64;

/// One block with a label, such as `CERTIFICATE`.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    let lines = encoded.len() / LINE + 1;
    // Room for all of it: a string that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(
        encoded.len() + lines + 2 * (label.len() + LINE),
    ));
    let mut rest = encoded.as_str();
    line(&mut text, &["-----BEGIN ", label, "-----"]);
    while !rest.is_empty() {
        let (first, after) = rest.split_at(LINE.min(rest.len()));
        line(&mut text, &[first]);
        rest = after;
    }
    line(&mut text, &["-----END ", label, "-----"]);
    text
}

/// A certificate.
pub(crate) fn certificate(der: &[u8]) -> String {
    encode("CERTIFICATE", der).to_string()
}

fn line(text: &mut String, parts: &[&str]) {
    for part in parts {
        text.push_str(part);
    }
    text.push('\n');
}
