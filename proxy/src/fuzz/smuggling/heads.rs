//! What a head says, and to whom: lines, targets, hosts, and fields of one hop.

use super::Expected::{Answered, Refused, Served};
use super::{Case, SMUGGLED, case, get, post};

/// Ends of lines, names and values.
pub(super) fn lines() -> Vec<Case> {
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

pub(super) fn request_lines() -> Vec<Case> {
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

pub(super) fn hosts() -> Vec<Case> {
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
pub(super) fn hops() -> Vec<Case> {
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
