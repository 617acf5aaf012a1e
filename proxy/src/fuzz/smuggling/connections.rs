//! What follows on a connection: tunnels, versions, limits and further requests.

use super::Expected::{Answered, Refused, Served};
use super::{Case, SMUGGLED, case, get, post};

/// Bytes that come before a tunnel or an upgrade is granted must not be taken for a request if it is not.
pub(super) fn tunnels() -> Vec<Case> {
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
pub(super) fn versions() -> Vec<Case> {
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
pub(super) fn sizes() -> Vec<Case> {
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

pub(super) fn pipelines() -> Vec<Case> {
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
