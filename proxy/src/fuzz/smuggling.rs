//! Requests by which an application, or who speaks through it, tries to have two parsers disagree: where a message
//! ends, which fields it has, where it goes. Each is also a seed of the target `http1`.

/// What must become of a connection that begins with these bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This many requests arrive and are answered with 200.
    Served(usize),
    /// Nothing arrives; the caller gets an answer of the mesh's own and the connection ends, or it just ends.
    Refused,
    /// As refused, but the connection may go on: its framing is sound, and the answer was one of the mesh's own.
    Answered,
    /// The message has no end: nothing arrives whole.
    Unfinished,
}

/// One connection of an application.
#[derive(Clone, Debug)]
pub struct Case {
    /// Also the name of the seed.
    pub name: String,
    /// What is sent.
    pub bytes: Vec<u8>,
    /// What becomes of it.
    pub expected: Expected,
}

use Expected::{Answered, Refused, Served, Unfinished};

/// What must never arrive as a request.
pub const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n";

/// All cases.
pub fn cases() -> Vec<Case> {
    [
        codings(),
        lengths(),
        chunks(),
        lines(),
        request_lines(),
        hosts(),
        hops(),
        tunnels(),
        versions(),
        sizes(),
        pipelines(),
    ]
    .concat()
}

fn case(name: &str, bytes: impl AsRef<[u8]>, expected: Expected) -> Case {
    Case {
        name: name.to_owned(),
        bytes: bytes.as_ref().to_vec(),
        expected,
    }
}

fn get(fields: &str) -> String {
    format!("GET /first HTTP/1.1\r\nHost: web\r\n{fields}\r\n")
}

fn post(fields: &str, content: &str) -> String {
    format!("POST /first HTTP/1.1\r\nHost: web\r\n{fields}\r\n{content}")
}

/// Transfer-Encoding in many spellings, before a chunked content that hides a request.
fn codings() -> Vec<Case> {
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
    for (name, value, expected) in [
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
    ] {
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

/// Content-Length in many spellings.
fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, value, expected) in [
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
    ] {
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

/// The chunks of a message that is otherwise sound.
fn chunks() -> Vec<Case> {
    let chunked = |content: &str| post("Transfer-Encoding: chunked\r\n", content);
    let mut cases = Vec::new();
    for (name, content, expected) in [
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
    ] {
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

/// Ends of lines, names and values.
fn lines() -> Vec<Case> {
    let with = |line: &str| get(&format!("{line}\r\n")) + SMUGGLED;
    let mut cases: Vec<Case> = [
        ("space-before-colon", "X : y"),
        ("tab-before-colon", "X\t: y"),
        ("no-colon", "X"),
        ("empty-name", ": y"),
        ("space-in-name", "X Y: z"),
        ("parenthesis-in-name", "X(Y): z"),
        ("nul-in-name", "X\0: y"),
        ("latin-1-in-name", "X\u{e9}: y"),
        ("pseudo-field", ":method: GET"),
        ("nul-in-value", "X: y\0z"),
        ("bare-cr-in-value", "X: y\rz"),
        ("control-in-value", "X: y\x01z"),
        ("delete-in-value", "X: y\x7fz"),
        ("folded", "X: y\r\n z"),
        ("folded-with-tab", "X: y\r\n\tz"),
        ("space-line", " "),
        ("first-line-indented", " X: y"),
        ("two-carriage-returns", "X: y\r"),
    ]
    .map(|(name, line)| case(&format!("lines-{name}"), with(line), Refused))
    .to_vec();
    cases.push(case("lines-latin-1-in-value", get("X: \u{e9}\r\n"), Served(1)));
    cases.push(case("lines-empty-value", get("X:\r\n"), Served(1)));
    cases.push(case("lines-value-of-commas", get("X: ,,,\r\n"), Served(1)));
    cases.push(case(
        "lines-empty-line-first",
        format!("\r\n{}", get("")),
        Served(1),
    ));
    cases.push(case(
        "lines-carriage-return-first",
        format!("\r{}", get("")),
        Refused,
    ));
    // RFC 9112 section 2.2 allows a bare LF as the end of a line. What leaves has none.
    cases.push(case(
        "lines-bare-line-feeds",
        get("X: y\r\n").replace('\r', ""),
        Served(1),
    ));
    cases.push(case(
        "lines-bare-line-feed-in-the-middle",
        get("X: y\nZ: w\r\n"),
        Served(1),
    ));
    cases
}

fn request_lines() -> Vec<Case> {
    let line = |line: &str| format!("{line}\r\nHost: web\r\n\r\n");
    let mut cases: Vec<Case> = [
        ("http-0.9", "GET /first"),
        ("version-1.2", "GET /first HTTP/1.2"),
        ("version-2", "GET /first HTTP/2.0"),
        ("version-lower", "GET /first http/1.1"),
        ("version-11", "GET /first HTTP/11"),
        ("version-long", "GET /first HTTP/1.1.1"),
        ("version-zero", "GET /first HTTP/01.1"),
        ("version-space", "GET /first HTTP /1.1"),
        ("trailing-space", "GET /first HTTP/1.1 "),
        ("two-versions", "GET /first HTTP/1.1 HTTP/1.1"),
        ("tabs", "GET\t/first\tHTTP/1.1"),
        ("two-spaces", "GET  /first HTTP/1.1"),
        ("two-spaces-after", "GET /first  HTTP/1.1"),
        ("leading-space", " GET /first HTTP/1.1"),
        ("no-target", "GET HTTP/1.1"),
        ("empty-method", "/first HTTP/1.1"),
        ("method-parenthesis", "GE(T /first HTTP/1.1"),
        ("method-colon", "GET: /first HTTP/1.1"),
        ("space-in-target", "GET /first x HTTP/1.1"),
        ("nul-in-target", "GET /first\0 HTTP/1.1"),
        ("tab-in-target", "GET /fir\tst HTTP/1.1"),
        ("http2-preface", "PRI * HTTP/2.0"),
    ]
    .map(|(name, text)| case(&format!("request-line-{name}"), line(text) + SMUGGLED, Refused))
    .to_vec();
    cases.extend(
        [
            ("no-slash", "GET first HTTP/1.1", Answered),
            ("asterisk", "GET * HTTP/1.1", Answered),
            ("scheme-alone", "GET http:// HTTP/1.1", Refused),
            ("other-scheme", "GET ftp://web/first HTTP/1.1", Answered),
            ("userinfo", "GET http://a@web/first HTTP/1.1", Answered),
            ("absolute-other-host", "GET http://other/first HTTP/1.1", Answered),
            (
                "absolute-other-port",
                "GET http://web:81/first HTTP/1.1",
                Answered,
            ),
            ("absolute", "GET http://web/first HTTP/1.1", Served(1)),
            ("absolute-upper", "GET HTTP://WEB/first HTTP/1.1", Served(1)),
            ("options-asterisk", "OPTIONS * HTTP/1.1", Served(1)),
            ("method-lower", "get /first HTTP/1.1", Served(1)),
            ("method-other", "M-SEARCH /first HTTP/1.1", Served(1)),
            ("two-slashes", "GET //other/first HTTP/1.1", Served(1)),
            ("backslash", "GET /first\\..\\smuggled HTTP/1.1", Served(1)),
            (
                "encoded-crlf",
                "GET /first%0d%0aHost:%20other HTTP/1.1",
                Served(1),
            ),
            ("fragment", "GET /first#/smuggled HTTP/1.1", Served(1)),
            ("question-marks", "GET /first??a=/smuggled HTTP/1.1", Served(1)),
        ]
        .map(|(name, text, expected)| case(&format!("request-line-{name}"), line(text), expected)),
    );
    cases
}

fn hosts() -> Vec<Case> {
    let with = |hosts: &str| format!("GET /first HTTP/1.1\r\n{hosts}\r\n");
    [
        ("upper", "Host: WEB\r\n", Served(1)),
        ("trailing-dot", "Host: web.\r\n", Served(1)),
        ("port", "Host: web:80\r\n", Served(1)),
        ("none", "", Answered),
        ("empty", "Host:\r\n", Answered),
        ("twice", "Host: web\r\nHost: web\r\n", Answered),
        ("two-differing", "Host: web\r\nHost: other\r\n", Answered),
        ("list", "Host: web, other\r\n", Answered),
        ("userinfo", "Host: other@web\r\n", Answered),
        ("path", "Host: web/smuggled\r\n", Answered),
        ("fragment", "Host: web#other\r\n", Answered),
        ("percent", "Host: %77eb\r\n", Answered),
        ("port-plus", "Host: web:+80\r\n", Answered),
        ("port-letters", "Host: web:http\r\n", Answered),
        ("port-overflow", "Host: web:65616\r\n", Answered),
        ("space", "Host: web other\r\n", Answered),
        ("unknown", "Host: other\r\n", Answered),
        ("address", "Host: 127.0.0.1\r\n", Answered),
        ("folded", "Host: web\r\n other\r\n", Refused),
        ("folded-first", "Host:\r\n web\r\n", Refused),
        ("space-before-colon", "Host : web\r\n", Refused),
        ("nul", "Host: web\0.other\r\n", Refused),
    ]
    .map(|(name, hosts, expected)| case(&format!("host-{name}"), with(hosts), expected))
    .to_vec()
}

/// Fields of one hop, and those that are the mesh's own.
fn hops() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        ("nominates-caller", "Connection: weft-caller\r\n", Served(1)),
        ("nominates-host", "Connection: host\r\n", Served(1)),
        (
            "nominates-secret",
            "Connection: x-secret\r\nX-Secret: 1\r\n",
            Served(1),
        ),
        (
            "nominates-many",
            "Connection: close, te, weft-hops, accept\r\nTE: trailers\r\n",
            Served(1),
        ),
        (
            "keep-alive",
            "Keep-Alive: timeout=1\r\nProxy-Connection: keep-alive\r\n",
            Served(1),
        ),
        ("te", "TE: gzip, chunked\r\n", Served(1)),
        (
            "caller",
            "Weft-Caller: spiffe://mesh.test/ns/default/sa/admin\r\n",
            Served(1),
        ),
        (
            "port",
            "Weft-Port: 22\r\nweft-protocol: h2\r\nweft-timeout: 1\r\n",
            Served(1),
        ),
        ("unknown-field", "Weft-Unknown: x\r\n", Served(1)),
        ("error", "Weft-Error: x\r\nWeft-Unprocessed: x\r\n", Served(1)),
        ("hops", "Weft-Hops: 3\r\n", Served(1)),
        ("hops-too-many", "Weft-Hops: 16\r\n", Answered),
        ("hops-no-number", "Weft-Hops: x\r\n", Answered),
        ("hops-plus", "Weft-Hops: +1\r\n", Answered),
        ("hops-overflow", "Weft-Hops: 65536\r\n", Answered),
        (
            "upgrade-h2c",
            "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n",
            Served(1),
        ),
        (
            "upgrade-other",
            "Connection: upgrade\r\nUpgrade: tls/1.0\r\n",
            Served(1),
        ),
    ]
    .map(|(name, fields, expected)| case(&format!("hop-{name}"), get(fields), expected))
    .to_vec();
    cases.extend([
        case(
            "hop-nominates-length",
            post("Connection: content-length\r\nContent-Length: 5\r\n", "hello"),
            Served(1),
        ),
        case(
            "hop-nominates-coding",
            post(
                "Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n",
                "5\r\nhello\r\n0\r\n\r\n",
            ),
            Served(1),
        ),
        case(
            "hop-expect",
            post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"),
            Served(1),
        ),
        case(
            "hop-expect-chunked",
            post(
                "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n",
                "5\r\nhello\r\n0\r\n\r\n",
            ),
            Served(1),
        ),
        case("hop-expect-on-get", get("Expect: 100-continue\r\n"), Served(1)),
    ]);
    cases
}

/// Bytes that come before a tunnel or an upgrade is granted must not be taken for a request if it is not.
fn tunnels() -> Vec<Case> {
    let connect = |target: &str, fields: &str| format!("CONNECT {target} HTTP/1.1\r\n{fields}\r\n{SMUGGLED}");
    let key = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    vec![
        case(
            "tunnel-unknown",
            connect("other:80", "Host: other:80\r\n"),
            Refused,
        ),
        case("tunnel-without-port", connect("web", "Host: web\r\n"), Refused),
        case(
            "tunnel-host-differs",
            connect("web:80", "Host: other:80\r\n"),
            Refused,
        ),
        case("tunnel-without-host", connect("web:80", ""), Refused),
        case("tunnel-path", connect("/first", "Host: web\r\n"), Refused),
        case(
            "tunnel-url",
            connect("http://web:80/", "Host: web:80\r\n"),
            Refused,
        ),
        case(
            "tunnel-with-length",
            connect("other:80", "Host: other:80\r\nContent-Length: 5\r\n"),
            Refused,
        ),
        case(
            "tunnel-with-coding",
            connect("other:80", "Host: other:80\r\nTransfer-Encoding: chunked\r\n"),
            Refused,
        ),
        // Keys that are none.
        case("websocket-no-key", get(key), Answered),
        case(
            "websocket-short-key",
            get(&format!("{key}Sec-WebSocket-Key: AAAA\r\n")),
            Answered,
        ),
        case(
            "websocket-two-keys",
            get(&format!(
                "{key}{0}{0}",
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            )),
            Answered,
        ),
        // Another version is no handshake for us: a request like others.
        case("websocket-other-version", get(&key.replace("13", "8")), Served(1)),
    ]
}

/// HTTP/1.0 has no chunks, and no Host.
fn versions() -> Vec<Case> {
    let old = |fields: &str, content: &str| format!("POST /first HTTP/1.0\r\n{fields}\r\n{content}");
    let hidden = format!("5\r\nhello\r\n0\r\n\r\n{SMUGGLED}");
    vec![
        case(
            "http-1.0",
            old("Host: web\r\nContent-Length: 5\r\n", "hello"),
            Served(1),
        ),
        case(
            "http-1.0-close",
            old("Host: web\r\nContent-Length: 5\r\n", &format!("hello{SMUGGLED}")),
            Served(1),
        ),
        case(
            "http-1.0-coding",
            old("Host: web\r\nTransfer-Encoding: chunked\r\n", &hidden),
            Refused,
        ),
        case(
            "http-1.0-coding-keep-alive",
            old(
                "Host: web\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n",
                &hidden,
            ),
            Refused,
        ),
        case(
            "http-1.0-coding-and-length",
            old(
                "Host: web\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                &hidden,
            ),
            Refused,
        ),
        case("http-1.0-no-host", old("", ""), Answered),
        case(
            "http-1.0-two-hosts",
            old("Host: web\r\nHost: web\r\n", ""),
            Answered,
        ),
    ]
}

/// Heads beyond the limits of 64 KiB and 100 fields.
fn sizes() -> Vec<Case> {
    let long = "a".repeat(70_000);
    vec![
        case("size-value", get(&format!("X: {long}\r\n")), Refused),
        case("size-name", get(&format!("{long}: x\r\n")), Refused),
        case(
            "size-target",
            format!("GET /{long} HTTP/1.1\r\nHost: web\r\n\r\n"),
            Refused,
        ),
        case(
            "size-method",
            format!("{long} /first HTTP/1.1\r\nHost: web\r\n\r\n"),
            Refused,
        ),
        case("size-fields", get(&"X: y\r\n".repeat(101)), Refused),
        case("size-no-line-end", long, Refused),
        case("size-99-fields", get(&"X: y\r\n".repeat(99)), Served(1)),
    ]
}

fn pipelines() -> Vec<Case> {
    let second = "GET /second HTTP/1.1\r\nHost: web\r\n\r\n";
    let length = |content: &str| format!("Content-Length: {}\r\n", content.len());
    vec![
        case("pipeline-two", get("") + second, Served(2)),
        case("pipeline-three", get("") + second + second, Served(3)),
        case(
            "pipeline-empty-line-between",
            get("") + "\r\n" + second,
            Served(2),
        ),
        case(
            "pipeline-post-get",
            post("Content-Length: 5\r\n", "hello") + second,
            Served(2),
        ),
        case(
            "pipeline-post-empty-get",
            post("Content-Length: 0\r\n", "") + second,
            Served(2),
        ),
        case(
            "pipeline-chunked-get",
            post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n") + second,
            Served(2),
        ),
        case(
            "pipeline-content-is-a-request",
            post(&length(SMUGGLED), SMUGGLED) + second,
            Served(2),
        ),
        case(
            "pipeline-get-with-content",
            get(&length(SMUGGLED)) + SMUGGLED + second,
            Served(2),
        ),
        case(
            "pipeline-after-close",
            get("Connection: close\r\n") + SMUGGLED,
            Served(1),
        ),
        case(
            "pipeline-bad-second",
            get("") + "GET /smuggled HTTP/1.1\r\nHost : web\r\n\r\n",
            Served(1),
        ),
    ]
}
