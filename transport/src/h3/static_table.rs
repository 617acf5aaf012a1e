//! The QPACK static table (RFC 9204 appendix A).

use http::HeaderValue;

/// Number of entries.
pub(crate) const LEN: usize = 99;

macro_rules! table {
    ($($name:literal $value:literal)*) => {
        /// Name and value of each entry.
        pub(crate) const ENTRIES: [(&str, &str); LEN] = [$(($name, $value),)*];
        static VALUES: [HeaderValue; LEN] = [$(HeaderValue::from_static($value),)*];
    };
}

table! {
    ":authority" ""
    ":path" "/"
    "age" "0"
    "content-disposition" ""
    "content-length" "0"
    "cookie" ""
    "date" ""
    "etag" ""
    "if-modified-since" ""
    "if-none-match" ""
    "last-modified" ""
    "link" ""
    "location" ""
    "referer" ""
    "set-cookie" ""
    ":method" "CONNECT"
    ":method" "DELETE"
    ":method" "GET"
    ":method" "HEAD"
    ":method" "OPTIONS"
    ":method" "POST"
    ":method" "PUT"
    ":scheme" "http"
    ":scheme" "https"
    ":status" "103"
    ":status" "200"
    ":status" "304"
    ":status" "404"
    ":status" "503"
    "accept" "*/*"
    "accept" "application/dns-message"
    "accept-encoding" "gzip, deflate, br"
    "accept-ranges" "bytes"
    "access-control-allow-headers" "cache-control"
    "access-control-allow-headers" "content-type"
    "access-control-allow-origin" "*"
    "cache-control" "max-age=0"
    "cache-control" "max-age=2592000"
    "cache-control" "max-age=604800"
    "cache-control" "no-cache"
    "cache-control" "no-store"
    "cache-control" "public, max-age=31536000"
    "content-encoding" "br"
    "content-encoding" "gzip"
    "content-type" "application/dns-message"
    "content-type" "application/javascript"
    "content-type" "application/json"
    "content-type" "application/x-www-form-urlencoded"
    "content-type" "image/gif"
    "content-type" "image/jpeg"
    "content-type" "image/png"
    "content-type" "text/css"
    "content-type" "text/html; charset=utf-8"
    "content-type" "text/plain"
    "content-type" "text/plain;charset=utf-8"
    "range" "bytes=0-"
    "strict-transport-security" "max-age=31536000"
    "strict-transport-security" "max-age=31536000; includesubdomains"
    "strict-transport-security" "max-age=31536000; includesubdomains; preload"
    "vary" "accept-encoding"
    "vary" "origin"
    "x-content-type-options" "nosniff"
    "x-xss-protection" "1; mode=block"
    ":status" "100"
    ":status" "204"
    ":status" "206"
    ":status" "302"
    ":status" "400"
    ":status" "403"
    ":status" "421"
    ":status" "425"
    ":status" "500"
    "accept-language" ""
    "access-control-allow-credentials" "FALSE"
    "access-control-allow-credentials" "TRUE"
    "access-control-allow-headers" "*"
    "access-control-allow-methods" "get"
    "access-control-allow-methods" "get, post, options"
    "access-control-allow-methods" "options"
    "access-control-expose-headers" "content-length"
    "access-control-request-headers" "content-type"
    "access-control-request-method" "get"
    "access-control-request-method" "post"
    "alt-svc" "clear"
    "authorization" ""
    "content-security-policy" "script-src 'none'; object-src 'none'; base-uri 'none'"
    "early-data" "1"
    "expect-ct" ""
    "forwarded" ""
    "if-range" ""
    "origin" ""
    "purpose" "prefetch"
    "server" ""
    "timing-allow-origin" "*"
    "upgrade-insecure-requests" "1"
    "user-agent" ""
    "x-forwarded-for" ""
    "x-frame-options" "deny"
    "x-frame-options" "sameorigin"
}

/// For each entry the next one with the same name, or 0.
const NEXT: [u8; LEN] = chain();

static TABLE: [(&str, &str); LEN] = ENTRIES;

/// Name and value of an entry.
pub(crate) fn entry(index: usize) -> Option<(&'static str, &'static str)> {
    TABLE.get(index).copied()
}

/// The value of an entry.
pub(crate) fn value(index: usize) -> Option<&'static str> {
    TABLE.get(index).map(|entry| entry.1)
}

/// The value of an entry as a `HeaderValue` whose clone does not allocate.
pub(crate) fn header_value(index: usize) -> Option<&'static HeaderValue> {
    VALUES.get(index)
}

/// The entry with `value` among those that have the name of the entry `first`, the first of its name.
pub(crate) fn find_value(first: u8, value: &[u8]) -> Option<u8> {
    let mut index = first;
    loop {
        let (_, candidate) = TABLE.get(usize::from(index))?;
        if candidate.as_bytes() == value {
            return Some(index);
        }
        index = *NEXT.get(usize::from(index))?;
        if index == 0 {
            return None;
        }
    }
}

const fn chain() -> [u8; LEN] {
    let mut next = [0; LEN];
    let mut index = 0;
    while index < LEN {
        let mut later = index + 1;
        while later < LEN {
            if same(ENTRIES[index].0, ENTRIES[later].0) {
                next[index] = later as u8;
                break;
            }
            later += 1;
        }
        index += 1;
    }
    next
}

/// String equality at compile time.
pub(crate) const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut index = 0;
    while index < a.len() {
        if a[index] != b[index] {
            return false;
        }
        index += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_rfc_9204_appendix_a() {
        for (index, name, value) in [
            (0, ":authority", ""),
            (1, ":path", "/"),
            (17, ":method", "GET"),
            (25, ":status", "200"),
            (
                58,
                "strict-transport-security",
                "max-age=31536000; includesubdomains; preload",
            ),
            (71, ":status", "500"),
            (75, "access-control-allow-headers", "*"),
            (
                85,
                "content-security-policy",
                "script-src 'none'; object-src 'none'; base-uri 'none'",
            ),
            (98, "x-frame-options", "sameorigin"),
        ] {
            assert_eq!(ENTRIES[index], (name, value));
        }
    }

    #[test]
    fn every_entry_is_found_by_its_value() {
        for (index, (name, value)) in ENTRIES.iter().enumerate() {
            let first = ENTRIES.iter().position(|(other, _)| other == name).unwrap();
            assert_eq!(find_value(first as u8, value.as_bytes()), Some(index as u8));
            assert_eq!(header_value(index).unwrap(), value);
        }
        assert_eq!(find_value(33, b"x-none"), None);
        assert_eq!(header_value(99), None);
    }
}
