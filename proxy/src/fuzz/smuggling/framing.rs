//! Where a message ends: codings, lengths and chunks.

use super::Expected::{Refused, Served, Unfinished};
use super::{Case, Expected, SMUGGLED, case, get, post};

/// Values of Transfer-Encoding.
const CODINGS: [(&str, &str, Expected); 24] = [
    ("upper", "CHUNKED", Served(1)),
    ("mixed", "cHuNkEd", Served(1)),
    ("tabs", "\tchunked\t", Served(1)),
    ("x-prefix", "xchunked", Refused),
    ("suffix", "chunkedx", Refused),
    ("identity", "identity", Refused),
    ("gzip", "gzip", Refused),
    ("identity-chunked", "identity, chunked", Refused),
    ("gzip-chunked", "gzip, chunked", Refused),
    ("chunked-identity", "chunked, identity", Refused),
    ("chunked-chunked", "chunked, chunked", Refused),
    ("chunked-twice-spaced", "chunked chunked", Refused),
    ("comma-first", ",chunked", Refused),
    ("comma-last", "chunked,", Refused),
    ("parameter", "chunked;q=1", Refused),
    ("quoted", "\"chunked\"", Refused),
    ("empty", "", Refused),
    ("vertical-tab", "chunked\x0b", Refused),
    ("vertical-tab-first", "\x0bchunked", Refused),
    ("nul", "chunked\0", Refused),
    ("newline", "\n chunked", Refused),
    ("folded", "\r\n chunked", Refused),
    ("folded-empty", "chunked\r\n ", Refused),
    ("latin-1", "chunked\u{a0}", Refused),
];

/// Transfer-Encoding in many spellings, before a chunked content that hides a request.
pub(super) fn codings() -> Vec<Case> {
    let hidden = format!("5\r\nhello\r\n0\r\n\r\n{SMUGGLED}");
    let length = hidden.len();
    let mut cases = Vec::new();
    // The length is dropped and the connection closed (RFC 9112 section 6.1), so the rest is never read.
    for (name, fields) in [
        (
            "length-then-coding",
            format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
        ),
        (
            "coding-then-length",
            format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        ),
        (
            "short-length-then-coding",
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n".into(),
        ),
        (
            "zero-length-then-coding",
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n".into(),
        ),
        (
            "coding-then-zero-length",
            "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n".into(),
        ),
    ] {
        cases.push(case(name, post(&fields, &hidden), Served(1)));
    }
    for (name, value, expected) in CODINGS {
        // With a length that takes the hidden request for content, and alone.
        let fields = format!("Content-Length: {length}\r\nTransfer-Encoding: {value}\r\n");
        cases.push(case(
            &format!("coding-{name}-with-length"),
            post(&fields, &hidden),
            expected,
        ));
        let fields = format!("Transfer-Encoding: {value}\r\n");
        cases.push(case(
            &format!("coding-{name}"),
            post(
                &fields,
                if expected == Served(1) {
                    "5\r\nhello\r\n0\r\n\r\n"
                } else {
                    &hidden
                },
            ),
            expected,
        ));
    }
    for (name, fields) in [
        (
            "twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "chunked-then-identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        ),
        (
            "identity-then-chunked",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        ),
        ("space-before-colon", "Transfer-Encoding : chunked\r\n"),
        ("tab-before-colon", "Transfer-Encoding\t: chunked\r\n"),
        ("nul-in-name", "Transfer-Encoding\0: chunked\r\n"),
        ("space-before-name", " Transfer-Encoding: chunked\r\n"),
        ("after-bare-cr", "X: y\rTransfer-Encoding: chunked\r\n"),
        ("name-in-two-lines", "Transfer-\r\nEncoding: chunked\r\n"),
    ] {
        cases.push(case(&format!("codings-{name}"), post(fields, &hidden), Refused));
    }
    // Another field, so there is no content, and what follows is a request with that name and no more.
    let fields = format!("Transfer_Encoding: chunked\r\nContent-Length: {length}\r\n");
    cases.push(case("codings-underscore", post(&fields, &hidden), Served(1)));
    cases
}

/// Values of Content-Length, before five bytes of content.
const LENGTHS: [(&str, &str, Expected); 22] = [
    ("plain", "5", Served(1)),
    ("zeros", "0000005", Served(1)),
    ("tab-after", "5\t", Served(1)),
    ("plus", "+5", Refused),
    ("minus", "-5", Refused),
    ("list", "5,5", Refused),
    ("list-spaced", "5, 5", Refused),
    ("list-differing", "5, 6", Refused),
    ("two-words", "5 5", Refused),
    ("hexadecimal", "0x5", Refused),
    ("fraction", "5.0", Refused),
    ("exponent", "5e0", Refused),
    ("semicolon", "5;", Refused),
    ("empty", "", Refused),
    ("letters", "five", Refused),
    ("arabic-digit", "\u{665}", Refused),
    ("nul", "5\0", Refused),
    ("vertical-tab", "5\x0b", Refused),
    ("folded", "\r\n 5", Refused),
    ("over-64-bits", "18446744073709551616", Refused),
    ("far-over-64-bits", "99999999999999999999999999", Refused),
    ("wraps-to-5", "18446744073709551621", Refused),
];

/// Content-Length in many spellings.
pub(super) fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, value, expected) in LENGTHS {
        let content = format!("hello{}", if expected == Refused { SMUGGLED } else { "" });
        let fields = format!("Content-Length: {value}\r\n");
        cases.push(case(&format!("length-{name}"), post(&fields, &content), expected));
    }
    cases.push(case(
        "length-huge",
        post("Content-Length: 18446744073709551000\r\n", "hello"),
        Unfinished,
    ));
    let hidden = format!("hello{SMUGGLED}");
    let all = hidden.len();
    for (name, fields, expected) in [
        (
            "twice-differing",
            format!("Content-Length: 5\r\nContent-Length: {all}\r\n"),
            Refused,
        ),
        (
            "twice-differing-reversed",
            format!("Content-Length: {all}\r\nContent-Length: 5\r\n"),
            Refused,
        ),
        (
            "twice-one-empty",
            "Content-Length: 5\r\nContent-Length:\r\n".into(),
            Refused,
        ),
        ("space-before-colon", "Content-Length : 5\r\n".into(), Refused),
        ("nul-in-name", "Content-Length\0: 5\r\n".into(), Refused),
        ("after-bare-cr", "X: y\rContent-Length: 5\r\n".into(), Refused),
        ("space-before-name", " Content-Length: 5\r\n".into(), Refused),
        (
            "content-is-a-request",
            format!("Content-Length: {all}\r\n"),
            Served(1),
        ),
        (
            "underscore",
            format!("Content_Length: 0\r\nContent-Length: {all}\r\n"),
            Served(1),
        ),
    ] {
        cases.push(case(&format!("lengths-{name}"), post(&fields, &hidden), expected));
    }
    cases.push(case(
        "lengths-twice-equal",
        post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        Served(1),
    ));
    cases.push(case(
        "lengths-get-with-content",
        get("Content-Length: 5\r\n") + "hello",
        Served(1),
    ));
    cases.push(case(
        "lengths-short",
        post("Content-Length: 10\r\n", "hello"),
        Unfinished,
    ));
    cases
}

/// Contents.
const CHUNKS: [(&str, &str, Expected); 35] = [
    ("plain", "5\r\nhello\r\n0\r\n\r\n", Served(1)),
    ("upper-hex", "A\r\nhellohello\r\n0\r\n\r\n", Served(1)),
    ("zeros", "0005\r\nhello\r\n000\r\n\r\n", Served(1)),
    ("extension", "5;a=b\r\nhello\r\n0;c\r\n\r\n", Served(1)),
    ("extension-quoted", "5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", Served(1)),
    ("trailers", "5\r\nhello\r\n0\r\nchecksum: 1\r\n\r\n", Served(1)),
    (
        "trailer-length",
        "5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n",
        Served(1),
    ),
    (
        "trailer-coding",
        "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        Served(1),
    ),
    (
        "trailer-host",
        "5\r\nhello\r\n0\r\nHost: other\r\n\r\n",
        Served(1),
    ),
    (
        "trailer-caller",
        "5\r\nhello\r\n0\r\nweft-caller: spiffe://a/b\r\n\r\n",
        Served(1),
    ),
    (
        "trailer-space-before-colon",
        "5\r\nhello\r\n0\r\nA : b\r\n\r\n",
        Refused,
    ),
    ("trailer-folded", "5\r\nhello\r\n0\r\na: b\r\n c\r\n\r\n", Refused),
    ("trailer-nul", "5\r\nhello\r\n0\r\na: b\0\r\n\r\n", Refused),
    ("extension-line-feed", "5;a\nb\r\nhello\r\n0\r\n\r\n", Refused),
    ("extension-crlf", "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n", Refused),
    ("overflow", "10000000000000005\r\nhello\r\n0\r\n\r\n", Refused),
    (
        "overflow-by-zeros",
        "00000000000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
        Served(1),
    ),
    ("largest", "ffffffffffffffff\r\nhello\r\n0\r\n\r\n", Unfinished),
    ("minus", "-5\r\nhello\r\n0\r\n\r\n", Refused),
    ("plus", "+5\r\nhello\r\n0\r\n\r\n", Refused),
    ("prefix-0x", "0x5\r\nhello\r\n0\r\n\r\n", Refused),
    ("no-digit", "g\r\nhello\r\n0\r\n\r\n", Refused),
    ("empty-size", "\r\nhello\r\n0\r\n\r\n", Refused),
    ("space-first", " 5\r\nhello\r\n0\r\n\r\n", Refused),
    ("line-feed-after-size", "5\nhello\r\n0\r\n\r\n", Refused),
    ("carriage-return-after-size", "5\rhello\r\n0\r\n\r\n", Refused),
    ("line-feed-after-data", "5\r\nhello\n0\r\n\r\n", Refused),
    ("no-line-end-after-data", "5\r\nhello0\r\n\r\n", Refused),
    ("data-too-long", "5\r\nhelloX\r\n0\r\n\r\n", Refused),
    ("data-too-short", "6\r\nhello\r\n0\r\n\r\n", Refused),
    ("no-last-chunk", "5\r\nhello\r\n", Unfinished),
    ("no-last-line", "5\r\nhello\r\n0\r\n", Unfinished),
    ("bare-line-feeds", "5\nhello\n0\n\n", Refused),
    ("nul-in-size", "5\0\r\nhello\r\n0\r\n\r\n", Refused),
    ("underscore", "0_5\r\nhello\r\n0\r\n\r\n", Refused),
];

/// The chunks of a message that is otherwise sound.
pub(super) fn chunks() -> Vec<Case> {
    let chunked = |content: &str| post("Transfer-Encoding: chunked\r\n", content);
    let mut cases = Vec::new();
    for (name, content, expected) in CHUNKS {
        let hidden = if expected == Refused { SMUGGLED } else { "" };
        cases.push(case(
            &format!("chunks-{name}"),
            chunked(content) + hidden,
            expected,
        ));
    }
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20_000));
    cases.push(case("chunks-extension-flood", chunked(&extension), Refused));
    let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(2_000));
    cases.push(case("chunks-trailer-flood", chunked(&trailers), Refused));
    cases
}
