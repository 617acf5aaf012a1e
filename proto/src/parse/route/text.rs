//! The syntax of hosts, paths and headers in routes: checks of a text, whose errors follow the text itself.

use crate::names::DnsName;
use std::net::IpAddr;

/// The longest name of a header, or of a parameter.
const MAX_NAME_BYTES: usize = 256;
/// The longest value of a header.
const MAX_VALUE_BYTES: usize = 4_096;
/// The longest path, in characters.
const MAX_PATH_CHARACTERS: usize = 1_024;

/// HTTP's own framing, and what a connection has for itself (RFC 9110 section 7.6.1, RFC 9114 section 4.2).
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A host by name, without wildcards.
pub(in crate::parse) fn host(text: &str) -> Result<DnsName, String> {
    if text.parse::<IpAddr>().is_ok() {
        return Err("is an address: routes know hosts by name".to_owned());
    }
    DnsName::parse(text).map_err(|error| error.to_string())
}

/// The name of a header or a parameter (RFC 9110 section 5.6.2), as it is written.
pub(in crate::parse) fn field_name(text: &str) -> Result<&str, &'static str> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_token) {
        return Ok(text);
    }
    Err("is not a name (1 to 256 letters, digits and !#$%&'*+-.^_`|~)")
}

/// The name of a header that a filter may change, in lower case.
pub(in crate::parse) fn changeable_name(text: &str) -> Result<String, &'static str> {
    let name = field_name(text)?.to_ascii_lowercase();
    if FRAMING.contains(&name.as_str()) {
        return Err("frames the message or the connection: it is the proxy's to write");
    }
    if name == "host" {
        return Err("is not changed as a header: use a URLRewrite filter with a hostname");
    }
    if name.starts_with("weft-") {
        return Err("is the mesh's own: headers that begin with weft- are not for routes");
    }
    Ok(name)
}

/// The value of a header: visible ASCII, with blanks and tabs inside (RFC 9110 section 5.5).
pub(in crate::parse) fn header_value(text: &str) -> Result<&str, &'static str> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t');
    let is_edge_blank = text.trim_matches([' ', '\t']) != text;
    if (1..=MAX_VALUE_BYTES).contains(&text.len()) && text.bytes().all(is_allowed) && !is_edge_blank {
        return Ok(text);
    }
    Err("is not the value of a header (1 to 4096 visible characters of ASCII, blanks neither first nor last)")
}

/// A path, or the prefix of one: of the characters of RFC 3986 section 3.3, with nothing in it that a server would
/// resolve to another path.
pub(in crate::parse) fn path(text: &str) -> Result<&str, &'static str> {
    if text.chars().count() > MAX_PATH_CHARACTERS {
        return Err("is longer than the 1024 characters of a path");
    }
    if !text.starts_with('/') {
        return Err("is not a path: it begins with /");
    }
    if text.contains("//") {
        return Err("has a // in it, which no path has here");
    }
    if text.split('/').any(|element| matches!(element, "." | "..")) {
        return Err("has an element . or .. in it: write the path that it means");
    }
    if text.contains("%2f") || text.contains("%2F") {
        return Err("has an escaped / in it (%2f), which no path has here");
    }
    if !has_path_characters(text) {
        return Err("is not a path: of letters, digits, -._~!$&'()*+,;=:@/ and escapes such as %20");
    }
    Ok(text)
}

/// A prefix: a path without a slash at its end, but for `/` itself.
pub(in crate::parse) fn prefix(text: &str) -> Result<String, &'static str> {
    let path = path(text)?;
    let prefix = path.strip_suffix('/').unwrap_or(path);
    Ok(if prefix.is_empty() { "/" } else { prefix }.to_owned())
}

/// Whether a text has at most so many characters, and at least one.
pub(in crate::parse) fn check_length(text: &str, max: usize) -> Result<(), String> {
    match text.chars().count() {
        0 => Err("is empty".to_owned()),
        count if count > max => Err(format!("is longer than {max} characters")),
        _ => Ok(()),
    }
}

fn has_path_characters(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let is_allowed = match byte {
            b'%' => {
                let mut is_hex = || bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit());
                is_hex() && is_hex()
            }
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte),
        };
        if !is_allowed {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for text in [
            "/",
            "/a",
            "/a/b/",
            "/a.b/..c",
            "/%20a",
            "/~!$&'()*+,;=:@-_",
            "/.well-known",
        ] {
            assert_eq!(path(text), Ok(text));
        }
        for text in [
            "", "a", "//", "/a//b", "/./a", "/a/..", "/a/.", "/../a", "/a%2fb", "/a%2Fb", "/a#b", "/a?b",
            "/a b", "/%", "/%2", "/%g0", "/\u{e9}", "/a\n", "/\"", "/{a}",
        ] {
            assert!(path(text).is_err(), "{text}");
        }
        let long = format!("/{}", "a".repeat(1_023));
        assert!(path(&long).is_ok());
        assert!(path(&format!("{long}a")).is_err());
        for (text, wanted) in [("/", "/"), ("/a", "/a"), ("/a/", "/a"), ("/a/b/", "/a/b")] {
            assert_eq!(prefix(text).as_deref(), Ok(wanted));
        }
    }

    #[test]
    fn headers() {
        assert_eq!(field_name("X-Version"), Ok("X-Version"));
        assert_eq!(changeable_name("X-Version").as_deref(), Ok("x-version"));
        for name in ["", ":path", "a b", "a/b", "\u{e9}", "a\r\n", "a:"] {
            assert!(field_name(name).is_err(), "{name}");
        }
        assert!(field_name(&"a".repeat(256)).is_ok());
        assert!(field_name(&"a".repeat(257)).is_err());
        for name in [
            "Connection",
            "content-length",
            "keep-alive",
            "proxy-connection",
            "TE",
            "trailer",
            "Transfer-Encoding",
            "upgrade",
            "Host",
            "weft-caller",
            "Weft-Port",
            "weft-",
        ] {
            assert!(changeable_name(name).is_err(), "{name}");
        }
        for value in ["a", "a b", "a\tb", "!~", &"a".repeat(4_096)] {
            assert_eq!(header_value(value), Ok(value));
        }
        for value in [
            "",
            " ",
            " a",
            "a ",
            "a\r\nb",
            "a\0",
            "\u{e9}",
            "\u{7f}",
            &"a".repeat(4_097),
        ] {
            assert!(header_value(value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn hosts() {
        assert_eq!(host("web.example").unwrap(), "web.example");
        for text in ["10.0.0.1", "::1", "*.a", "*", "A.b", "a.", "a:80", ""] {
            assert!(host(text).is_err(), "{text}");
        }
    }
}
