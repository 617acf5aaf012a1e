//! What RFC 9114 says of a message that is not malformed (sections 4.1 to 4.4), asked of a message that was accepted.
//! Written from the RFC and not from the decoder.

use http::{HeaderMap, Method};

use crate::h3::{RequestHead, ResponseHead};

/// Sections 4.3.1 and 4.4, and RFC 9220 section 3.
pub(super) fn request(head: &RequestHead) {
    let authority = head.authority.as_ref().unwrap().as_str();
    assert!(!authority.is_empty() && !authority.contains(['@', '/', '%', ' ', '\\', ',']));
    assert_eq!(authority, authority.to_ascii_lowercase());
    let is_connect = head.method == Method::CONNECT;
    match (is_connect, head.protocol) {
        (true, None) => {
            assert!(head.scheme.is_none() && head.path.is_none());
            assert!(
                head.authority
                    .as_ref()
                    .is_some_and(|authority| authority.port_u16().is_some())
            );
        }
        (true, Some(_)) | (false, None) => assert!(head.scheme.is_some()),
        (false, Some(_)) => panic!("{head:?}"),
    }
    if let Some(path) = &head.path {
        let path = path.as_str();
        let is_asterisk = path == "*" && head.method == Method::OPTIONS;
        assert!(path.starts_with('/') || is_asterisk, "{path:?}");
        assert!(
            !path.contains(['#', ' ']) && !path.contains(char::is_control),
            "{path:?}"
        );
    }
    fields(&head.headers);
    assert!(!head.headers.contains_key("host"));
    assert!(
        head.headers
            .get_all("te")
            .iter()
            .all(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"))
    );
    assert!(head.headers.get_all("cookie").iter().count() <= 1);
    if is_connect {
        assert!(!head.headers.contains_key("content-length"));
    }
}

/// Section 4.3.2.
pub(super) fn response(head: &ResponseHead) {
    assert!((100..600).contains(&head.status.as_u16()) && head.status != 101);
    fields(&head.headers);
    assert!(!head.headers.contains_key("host") && !head.headers.contains_key("te"));
    if head.is_interim() || head.status == 204 {
        let length = head.headers.get("content-length");
        assert!(length.is_none_or(|length| length.as_bytes().iter().all(|byte| *byte == b'0')));
    }
}

/// RFC 9110 section 6.5.1.
pub(super) fn trailers(trailers: &HeaderMap) {
    fields(trailers);
    for name in ["host", "content-length", "te"] {
        assert!(!trailers.contains_key(name));
    }
}

/// Sections 4.2 and 10.3, RFC 9110 sections 5.5 and 8.6.
fn fields(headers: &HeaderMap) {
    for (name, value) in headers {
        let name = name.as_str();
        let is_specific = matches!(
            name,
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
        );
        assert!(
            !is_specific && !name.is_empty() && !name.contains([':', ' ']),
            "{name:?}"
        );
        assert_eq!(name, name.to_ascii_lowercase());
        let value = value.as_bytes();
        assert!(
            !value.iter().any(|byte| matches!(byte, b'\0' | b'\r' | b'\n')),
            "{value:?}"
        );
        assert_eq!(value.trim_ascii(), value);
    }
    let mut lengths = headers.get_all("content-length").iter();
    if let Some(length) = lengths.next() {
        let digits = length.to_str().unwrap();
        assert!(digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u64>().is_ok());
        assert!(lengths.next().is_none());
    }
}
