//! A table of malformed heads, each with the rule that it breaks, and of odd ones that are legal.

use super::block;
use crate::h3::error::{H3Error, MessageError};
use crate::h3::*;

type Fields = &'static [(&'static str, &'static str)];

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "web"),
    (":path", "/"),
];

fn request(fields: &[(&str, &str)]) -> Result<RequestHead, H3Error> {
    decode_request(&block(fields), &FieldLimits::default())
}

/// GET with further fields.
fn get_with(fields: Fields) -> Result<RequestHead, H3Error> {
    request(&[&GET[..], fields].concat())
}

/// GET with one pseudo-header field replaced.
fn get_where(name: &str, value: &str) -> Result<RequestHead, H3Error> {
    let mut fields = GET;
    fields
        .iter_mut()
        .filter(|field| field.0 == name)
        .for_each(|field| field.1 = Box::leak(value.into()));
    request(&fields)
}

fn response(fields: Fields) -> Result<ResponseHead, H3Error> {
    decode_response(&block(fields), &FieldLimits::default())
}

fn trailers(fields: Fields) -> Result<http::HeaderMap, H3Error> {
    decode_trailers(&block(fields), &FieldLimits::default())
}

#[test]
fn pseudo_header_fields_of_requests() {
    use MessageError::*;
    let table: &[(Fields, MessageError)] = &[
        (&[], MissingPseudo(":method")),
        (
            &[(":scheme", "https"), (":authority", "web"), (":path", "/")],
            MissingPseudo(":method"),
        ),
        (
            &[(":method", "GET"), (":authority", "web"), (":path", "/")],
            MissingPseudo(":scheme"),
        ),
        (
            &[(":method", "GET"), (":scheme", "https"), (":path", "/")],
            MissingPseudo(":authority"),
        ),
        (
            &[(":method", "GET"), (":scheme", "https"), (":authority", "web")],
            MissingPseudo(":path"),
        ),
        (
            &[(":method", "GET"), (":method", "GET")],
            DuplicatePseudo(":method"),
        ),
        (
            &[(":method", "GET"), (":method", "POST")],
            DuplicatePseudo(":method"),
        ),
        (
            &[(":scheme", "http"), (":scheme", "https")],
            DuplicatePseudo(":scheme"),
        ),
        (
            &[(":authority", "a"), (":authority", "a")],
            DuplicatePseudo(":authority"),
        ),
        (&[(":path", "/"), (":path", "/a")], DuplicatePseudo(":path")),
        (
            &[(":protocol", "websocket"), (":protocol", "websocket")],
            DuplicatePseudo(":protocol"),
        ),
        (&[(":status", "200")], MisplacedPseudo(":status")),
        (&[(":version", "3")], UnknownPseudo),
        (&[(":", "")], UnknownPseudo),
        (&[(":Method", "GET")], UnknownPseudo),
        (
            &[(":method", "GET"), ("accept", "*/*"), (":path", "/")],
            LatePseudo,
        ),
        (&[(":method", "GET"), ("host", "web"), (":path", "/")], LatePseudo),
        (&[("x", ""), (":version", "3")], UnknownPseudo),
        (&[(":method", "")], InvalidMethod),
        (&[(":method", "GE T")], InvalidMethod),
        (&[(":method", "GET\r\n")], InvalidMethod),
        (&[(":scheme", "ftp")], InvalidScheme),
        (&[(":scheme", "HTTPS")], InvalidScheme),
        (&[(":scheme", "")], InvalidScheme),
    ];
    for (fields, rule) in table {
        assert_eq!(
            request(fields).unwrap_err(),
            H3Error::Message(*rule),
            "{fields:?}"
        );
    }
}

#[test]
fn authorities_and_paths() {
    use MessageError::*;
    for (authority, rule) in [
        ("", EmptyAuthority),
        (":80", EmptyAuthority),
        ("user@web", UserInfo),
        ("user:password@web", UserInfo),
        ("@", UserInfo),
        ("web:", InvalidAuthority),
        ("web:080", InvalidAuthority),
        ("web:65536", InvalidAuthority),
        ("web:+80", InvalidAuthority),
        ("web:80:80", InvalidAuthority),
        ("web/", InvalidAuthority),
        ("web?", InvalidAuthority),
        ("web#", InvalidAuthority),
        ("we b", InvalidAuthority),
        (" web", InvalidAuthority),
        ("web,other", InvalidAuthority),
        ("w%65b", InvalidAuthority),
        ("web\r\nx: y", InvalidAuthority),
        ("web\0", InvalidAuthority),
        ("w\u{fc}b", InvalidAuthority),
        ("[::1", InvalidAuthority),
        ("[::1]x", InvalidAuthority),
        ("[fe80::1%25eth0]", InvalidAuthority),
        ("[web]", InvalidAuthority),
        ("2001:db8::1", InvalidAuthority),
        ("::1", EmptyAuthority),
    ] {
        assert_eq!(
            get_where(":authority", authority).unwrap_err(),
            H3Error::Message(rule),
            "{authority:?}"
        );
    }
    for path in [
        "",
        "index",
        "*",
        "//\u{7f}",
        "/a b",
        "/a\tb",
        "/a\r\nx: y",
        "/\0",
        "/a#b",
        "#",
        "?a=b",
        "http://web/",
        "*/",
        " /",
    ] {
        assert_eq!(
            get_where(":path", path).unwrap_err(),
            H3Error::Message(InvalidPath),
            "{path:?}"
        );
    }
}

#[test]
fn fields_of_requests() {
    use MessageError::*;
    let table: &[(Fields, MessageError)] = &[
        (&[("Accept", "*/*")], UppercaseName),
        (&[("x-A", "")], UppercaseName),
        (&[("", "x")], InvalidName),
        (&[("a b", "x")], InvalidName),
        (&[("a:b", "x")], InvalidName),
        (&[("a\r\nb", "x")], InvalidName),
        (&[("a\0", "x")], InvalidName),
        (&[("a\"", "x")], InvalidName),
        (&[("caf\u{e9}", "x")], InvalidName),
        (&[("x", "a\r\nb: c")], InvalidValue),
        (&[("x", "a\nb")], InvalidValue),
        (&[("x", "a\rb")], InvalidValue),
        (&[("x", "a\0b")], InvalidValue),
        (&[("x", "a\x0bb")], InvalidValue),
        (&[("x", "\x7f")], InvalidValue),
        (&[("accept", "\x01")], InvalidValue),
        (&[("x", " a")], PaddedValue),
        (&[("x", "a ")], PaddedValue),
        (&[("x", "\ta")], PaddedValue),
        (&[("x", "a\t")], PaddedValue),
        (&[("x", " ")], PaddedValue),
        (&[("connection", "close")], ConnectionSpecific("connection")),
        (&[("keep-alive", "timeout=5")], ConnectionSpecific("keep-alive")),
        (
            &[("proxy-connection", "close")],
            ConnectionSpecific("proxy-connection"),
        ),
        (
            &[("transfer-encoding", "chunked")],
            ConnectionSpecific("transfer-encoding"),
        ),
        (&[("upgrade", "h2c")], ConnectionSpecific("upgrade")),
        (&[("te", "gzip")], Te),
        (&[("te", "trailers, gzip")], Te),
        (&[("te", "")], Te),
        (&[("host", "web"), ("host", "web")], DuplicateHost),
        (&[("host", "other")], HostDisagrees),
        (&[("host", "web:443")], HostDisagrees),
        (&[("host", "web.")], HostDisagrees),
        (&[("host", "")], EmptyAuthority),
        (&[("host", "user@web")], UserInfo),
        (&[("host", "web, web")], InvalidAuthority),
        (
            &[("content-length", "1"), ("content-length", "1")],
            DuplicateContentLength,
        ),
        (
            &[("content-length", "1"), ("content-length", "2")],
            DuplicateContentLength,
        ),
        (&[("content-length", "1, 1")], InvalidContentLength),
        (&[("content-length", "+5")], InvalidContentLength),
        (&[("content-length", "-1")], InvalidContentLength),
        (&[("content-length", " 5")], InvalidContentLength),
        (&[("content-length", "5 ")], InvalidContentLength),
        (&[("content-length", "0x5")], InvalidContentLength),
        (&[("content-length", "")], InvalidContentLength),
        (
            &[("content-length", "18446744073709551616")],
            InvalidContentLength,
        ),
        (&[(":protocol", "websocket")], ProtocolWithoutConnect),
    ];
    for (fields, rule) in table {
        assert_eq!(
            get_with(fields).unwrap_err(),
            H3Error::Message(*rule),
            "{fields:?}"
        );
    }
}

#[test]
fn connect_requests() {
    use MessageError::*;
    let table: &[(Fields, MessageError)] = &[
        (&[(":authority", "db")], ConnectPort),
        (&[], MissingPseudo(":authority")),
        (
            &[(":authority", "db:1"), (":scheme", "https")],
            ConnectWith(":scheme"),
        ),
        (&[(":authority", "db:1"), (":path", "/")], ConnectWith(":path")),
        (
            &[(":authority", "db:1"), ("content-length", "0")],
            MisplacedContentLength,
        ),
        (
            &[(":authority", "db:1"), (":protocol", "websocket")],
            MissingPseudo(":scheme"),
        ),
        (
            &[
                (":authority", "w"),
                (":protocol", "websocket"),
                (":scheme", "https"),
            ],
            MissingPseudo(":path"),
        ),
        (
            &[(":protocol", "websocket"), (":scheme", "https"), (":path", "/")],
            MissingPseudo(":authority"),
        ),
        (&[(":authority", "db:1"), (":protocol", "")], InvalidValue),
        (
            &[(":authority", "db:1"), (":protocol", "web socket")],
            InvalidValue,
        ),
    ];
    for (fields, rule) in table {
        let fields = [&[(":method", "CONNECT")], *fields].concat();
        assert_eq!(
            request(&fields).unwrap_err(),
            H3Error::Message(*rule),
            "{fields:?}"
        );
    }
    let extended = |protocol| {
        request(&[
            (":method", "CONNECT"),
            (":protocol", protocol),
            (":scheme", "https"),
            (":authority", "w"),
            (":path", "/"),
        ])
    };
    assert_eq!(extended("websocket").unwrap().protocol, Some(Protocol::WebSocket));
    assert_eq!(
        extended("connect-udp").unwrap().protocol,
        Some(Protocol::ConnectUdp)
    );
    for unknown in ["connect-ip", "webtransport", "WebSocket"] {
        assert_eq!(extended(unknown).unwrap_err(), H3Error::UnsupportedProtocol);
    }
    let connect = request(&[(":method", "CONNECT"), (":authority", "10.0.0.1:5432")]).unwrap();
    assert!(connect.is_connect() && connect.path.is_none() && connect.scheme.is_none());
}

#[test]
fn responses_and_trailers() {
    use MessageError::*;
    let table: &[(Fields, MessageError)] = &[
        (&[], MissingPseudo(":status")),
        (&[("server", "x")], MissingPseudo(":status")),
        (
            &[(":status", "200"), (":status", "200")],
            DuplicatePseudo(":status"),
        ),
        (&[("server", "x"), (":status", "200")], LatePseudo),
        (&[(":status", "20")], InvalidStatus),
        (&[(":status", "2000")], InvalidStatus),
        (&[(":status", "+20")], InvalidStatus),
        (&[(":status", "099")], InvalidStatus),
        (&[(":status", "600")], InvalidStatus),
        (&[(":status", "999")], InvalidStatus),
        (&[(":status", "")], InvalidStatus),
        (&[(":status", "101")], SwitchingProtocols),
        (
            &[(":status", "200"), (":method", "GET")],
            MisplacedPseudo(":method"),
        ),
        (&[(":path", "/"), (":status", "200")], MisplacedPseudo(":path")),
        (&[(":status", "200"), (":reason", "OK")], UnknownPseudo),
        (
            &[(":status", "200"), ("transfer-encoding", "chunked")],
            ConnectionSpecific("transfer-encoding"),
        ),
        (&[(":status", "200"), ("te", "trailers")], Te),
        (&[(":status", "200"), ("host", "web")], HostInResponse),
        (&[(":status", "200"), ("Server", "x")], UppercaseName),
        (&[(":status", "200"), ("x", "a\r\nb")], InvalidValue),
        (
            &[(":status", "200"), ("content-length", "1, 2")],
            InvalidContentLength,
        ),
        (
            &[(":status", "204"), ("content-length", "5")],
            MisplacedContentLength,
        ),
        (
            &[(":status", "103"), ("content-length", "5")],
            MisplacedContentLength,
        ),
    ];
    for (fields, rule) in table {
        assert_eq!(
            response(fields).unwrap_err(),
            H3Error::Message(*rule),
            "{fields:?}"
        );
    }
    let table: &[(Fields, MessageError)] = &[
        (&[(":status", "200")], MisplacedPseudo(":status")),
        (&[("x", "y"), (":path", "/")], MisplacedPseudo(":path")),
        (&[(":x", "y")], UnknownPseudo),
        (&[("content-length", "5")], ForbiddenTrailer),
        (&[("host", "web")], ForbiddenTrailer),
        (&[("te", "trailers")], Te),
        (&[("connection", "close")], ConnectionSpecific("connection")),
        (&[("X", "y")], UppercaseName),
        (&[("x", "\0")], InvalidValue),
    ];
    for (fields, rule) in table {
        assert_eq!(
            trailers(fields).unwrap_err(),
            H3Error::Message(*rule),
            "{fields:?}"
        );
    }
}

#[test]
fn malformed_messages_end_the_stream_alone() {
    let error = get_with(&[("connection", "close")]).unwrap_err();
    assert_eq!(
        (error.code(), error.scope()),
        (Code::H3_MESSAGE_ERROR, Scope::Stream)
    );
}

#[test]
fn odd_but_legal() {
    for fields in [
        &[("te", "trailers")][..],
        &[("te", "Trailers")],
        &[("host", "WEB")],
        &[("x", "")],
        &[("x", "a\tb")],
        &[("x", "caf\u{e9}")],
        &[("content-length", "18446744073709551615")],
        &[("content-length", "007")],
        &[("x", "1"), ("x", "2")],
    ] {
        get_with(Box::leak(fields.into())).unwrap();
    }
    for authority in [
        "Web.Default:65535",
        "a_b~c",
        "[::1]",
        "[2001:DB8::1]:80",
        "127.0.0.1:0",
        "web.",
    ] {
        let head = get_where(":authority", authority).unwrap();
        assert_eq!(head.authority.unwrap().as_str(), authority.to_ascii_lowercase());
    }
    for path in ["//", "/a?b=c?d", "/%2e%2e/", "/;x", "/\u{fc}", "/a\"{}"] {
        assert_eq!(get_where(":path", path).unwrap().path.unwrap().as_str(), path);
    }
    let options = [
        (":method", "OPTIONS"),
        (":scheme", "http"),
        (":authority", "web"),
        (":path", "*"),
    ];
    assert_eq!(request(&options).unwrap().path.unwrap(), "*");
    assert_eq!(
        response(&[(":status", "204"), ("content-length", "0")])
            .unwrap()
            .status,
        204
    );
    assert_eq!(response(&[(":status", "599")]).unwrap().status, 599);
    assert!(trailers(&[]).unwrap().is_empty());
}

#[test]
fn host_alone_is_the_authority_and_never_a_field() {
    let head = request(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        ("host", "Web:80"),
    ])
    .unwrap();
    assert_eq!(head.authority.unwrap().as_str(), "web:80");
    assert!(head.headers.is_empty());
    let head = get_with(&[("host", "web")]).unwrap();
    assert!(head.headers.is_empty());
}

#[test]
fn cookie_crumbs_are_joined() {
    let head = get_with(&[
        ("cookie", "a=1"),
        ("x", "y"),
        ("cookie", "b=2"),
        ("cookie", "c=3"),
    ])
    .unwrap();
    let cookies: Vec<_> = head.headers.get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2; c=3"]);
    assert!(cookies[0].is_sensitive());
}

#[test]
fn limits_hold_while_decoding() {
    let limits = FieldLimits {
        max_section_size: 400,
        max_fields: 6,
    };
    let section = |fields: &[(&str, &str)]| decode_request(&block(&[&GET[..], fields].concat()), &limits);
    // The four pseudo-header fields count 7+3+32, 7+5+32, 10+3+32 and 5+1+32.
    let used = 42 + 44 + 45 + 38;
    let fits = "v".repeat(400 - used - 33);
    assert!(section(&[("x", &fits)]).is_ok());
    assert_eq!(
        section(&[("x", &(fits.clone() + "v"))]).unwrap_err(),
        H3Error::FieldSectionTooLarge
    );
    assert!(section(&[("a", ""), ("b", "")]).is_ok());
    assert_eq!(
        section(&[("a", ""), ("b", ""), ("c", "")]).unwrap_err(),
        H3Error::FieldSectionTooLarge
    );
    // The limit comes before what follows is looked at.
    let late = section(&[("a", ""), ("b", ""), ("c", ""), ("Bad", "\0")]);
    assert_eq!(late.unwrap_err(), H3Error::FieldSectionTooLarge);
}
