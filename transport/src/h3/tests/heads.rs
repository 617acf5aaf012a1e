//! Heads through encoder and decoder, and what the encoder must not let out.

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::Scheme;
use http::{Method, StatusCode};
use proptest::prelude::*;

use super::{chunks, raw_block};
use crate::h3::error::{EncodeError, MessageError};
use crate::h3::*;

fn get() -> RequestHead {
    RequestHead::new(
        Method::GET,
        Scheme::HTTPS,
        "web:80".parse().unwrap(),
        "/a?b".parse().unwrap(),
    )
}

fn encoded(head: &RequestHead) -> Result<Bytes, EncodeError> {
    let mut out = BytesMut::new();
    encode_request(head, Encoding::default(), &mut out).map(|()| out.freeze())
}

fn sent(head: &RequestHead) -> RequestHead {
    let mut reader = MessageReader::request(FieldLimits::default());
    reader.push(encoded(head).unwrap());
    match reader.next() {
        Ok(Some(Part::Request(head))) => head,
        other => panic!("{other:?}"),
    }
}

fn assert_same(a: &RequestHead, b: &RequestHead) {
    assert_eq!(a.method, b.method);
    assert_eq!(a.scheme, b.scheme);
    assert_eq!(a.authority, b.authority);
    assert_eq!(a.path, b.path);
    assert_eq!(a.protocol, b.protocol);
    assert_eq!(a.headers, b.headers);
}

#[test]
fn connection_specific_fields_never_leave() {
    let mut head = get();
    for (name, value) in [
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("host", "other"),
        ("te", "gzip"),
        ("x-kept", " padded\t"),
    ] {
        head.headers.insert(name, HeaderValue::from_static(value));
    }
    let received = sent(&head);
    assert_eq!(received.headers.len(), 1);
    assert_eq!(received.headers["x-kept"], "padded");
    assert_eq!(received.authority.unwrap(), "web:80");
    head.headers
        .insert("te", HeaderValue::from_static("gzip, trailers"));
    assert_eq!(sent(&head).headers["te"], "trailers");

    let mut trailers = head.headers.clone();
    trailers.insert("content-length", HeaderValue::from_static("5"));
    let mut out = BytesMut::new();
    encode_trailers(&trailers, Encoding::default(), &mut out).unwrap();
    let decoded = decode_trailers(&out[3..], &FieldLimits::default()).unwrap();
    assert_eq!(decoded.len(), 1);

    for (status, lengths) in [(204, 0), (103, 0), (200, 1), (304, 1)] {
        let mut response = ResponseHead::new(StatusCode::from_u16(status).unwrap());
        response.headers = trailers.clone();
        let mut out = BytesMut::new();
        encode_response(&response, Encoding::default(), &mut out).unwrap();
        let decoded = decode_response(&out[3..], &FieldLimits::default()).unwrap();
        assert_eq!(decoded.headers.len(), 1 + lengths, "{status}");
    }
}

#[test]
fn invalid_heads_of_our_own_are_not_encoded() {
    use MessageError::*;
    let edit = |change: &dyn Fn(&mut RequestHead)| {
        let mut head = get();
        change(&mut head);
        let mut out = BytesMut::from(&b"kept"[..]);
        let error = encode_request(&head, Encoding::default(), &mut out).unwrap_err();
        assert_eq!(&out[..], b"kept", "nothing is appended");
        error
    };
    type Change<'a> = &'a dyn Fn(&mut RequestHead);
    let table: &[(Change<'_>, MessageError)] = &[
        (&|head| head.scheme = None, MissingPseudo(":scheme")),
        (&|head| head.scheme = Some("ftp".parse().unwrap()), InvalidScheme),
        (&|head| head.authority = None, MissingPseudo(":authority")),
        (&|head| head.authority = Some("u@web".parse().unwrap()), UserInfo),
        (&|head| head.path = None, MissingPseudo(":path")),
        (&|head| head.path = Some("*".parse().unwrap()), InvalidPath),
        (
            &|head| head.protocol = Some(Protocol::WebSocket),
            ProtocolWithoutConnect,
        ),
        (&|head| head.method = Method::CONNECT, ConnectWith(":scheme")),
        (
            &|head| {
                head.method = Method::CONNECT;
                head.scheme = None;
            },
            ConnectWith(":path"),
        ),
        (
            &|head| *head = RequestHead::connect("web".parse().unwrap()),
            ConnectPort,
        ),
        (
            &|head| {
                head.headers
                    .append("content-length", HeaderValue::from_static("1"));
                head.headers
                    .append("content-length", HeaderValue::from_static("1"));
            },
            DuplicateContentLength,
        ),
        (
            &|head| {
                head.headers
                    .append("content-length", HeaderValue::from_static("1, 1"));
            },
            InvalidContentLength,
        ),
    ];
    for (change, rule) in table {
        assert_eq!(edit(change), EncodeError::Malformed(*rule));
    }
    for (status, rule) in [
        (101, SwitchingProtocols),
        (600, InvalidStatus),
        (999, InvalidStatus),
    ] {
        let head = ResponseHead::new(StatusCode::from_u16(status).unwrap());
        let result = encode_response(&head, Encoding::default(), &mut BytesMut::new());
        assert_eq!(result, Err(EncodeError::Malformed(rule)));
    }
}

#[test]
fn the_peers_limit_holds() {
    // 7+3, 7+5, 10+6, 5+4, and 32 for each.
    let size = 10 + 12 + 16 + 9 + 4 * 32;
    for (max_section_size, result) in [(size, Ok(())), (size - 1, Err(EncodeError::TooLarge))] {
        let encoding = Encoding {
            max_section_size,
            ..Encoding::default()
        };
        assert_eq!(encode_request(&get(), encoding, &mut BytesMut::new()), result);
        let limits = FieldLimits {
            max_section_size,
            ..FieldLimits::default()
        };
        let frame = encoded(&get()).unwrap();
        assert_eq!(
            decode_request(&frame[3..], &limits).is_ok(),
            result.is_ok(),
            "both ends count alike"
        );
    }
}

#[test]
fn shapes() {
    assert_same(&sent(&get()), &get());
    let connect = RequestHead::connect("10.0.0.1:5432".parse().unwrap());
    assert_same(&sent(&connect), &connect);
    let mut websocket = get();
    websocket.method = Method::CONNECT;
    websocket.protocol = Some(Protocol::WebSocket);
    assert_same(&sent(&websocket), &websocket);
    let mut options = get();
    options.method = Method::OPTIONS;
    options.path = Some("*".parse().unwrap());
    assert_same(&sent(&options), &options);
    // A URI like http://web?b has no path; its path is "/".
    let mut query = get();
    query.path = Some("?b".parse().unwrap());
    assert_eq!(sent(&query).path.unwrap().as_str(), "/?b");
    let mut host = get();
    host.authority = None;
    host.headers.insert("host", HeaderValue::from_static("Web:80"));
    assert_same(&sent(&host), &get());
}

fn field_name() -> impl Strategy<Value = HeaderName> {
    prop_oneof![
        "[a-z][a-z0-9-]{0,40}".prop_map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()),
        Just(http::header::ACCEPT),
        Just(http::header::AUTHORIZATION),
        Just(http::header::SET_COOKIE),
        Just(http::header::CACHE_CONTROL),
        Just(fields::WEFT_PORT),
    ]
    .prop_filter("fields with rules of their own", |name| {
        !matches!(
            name.as_str(),
            "te" | "host" | "cookie" | "upgrade" | "connection" | "keep-alive" | "content-length"
        )
    })
}

fn field_value() -> impl Strategy<Value = HeaderValue> {
    prop_oneof![
        "[!-~]([ -~]{0,80}[!-~])?".prop_map(|text| HeaderValue::from_str(&text).unwrap()),
        proptest::collection::vec(0x80u8.., 0..20).prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap()),
        Just(HeaderValue::from_static("*/*")),
        Just(HeaderValue::from_static("no-cache")),
        Just(HeaderValue::from_static("")),
    ]
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    proptest::collection::vec((field_name(), field_value()), 0..30).prop_map(|fields| {
        let mut headers = HeaderMap::new();
        fields.into_iter().for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    })
}

fn request() -> impl Strategy<Value = RequestHead> {
    let method = prop_oneof![
        Just(Method::GET),
        Just(Method::POST),
        Just(Method::PUT),
        Just(Method::DELETE),
        Just(Method::HEAD),
        Just(Method::OPTIONS),
        Just(Method::PATCH),
        "[A-Z]{1,20}".prop_map(|name| Method::from_bytes(name.as_bytes()).unwrap()),
    ]
    .prop_filter("has another shape", |method| *method != Method::CONNECT);
    let scheme = prop_oneof![Just(Scheme::HTTP), Just(Scheme::HTTPS)];
    let authority = "[a-z0-9]{1,20}(\\.[a-z0-9]{1,9}){0,3}(:[1-9][0-9]{0,3})?";
    (
        method,
        scheme,
        authority,
        "/[a-zA-Z0-9._~/-]{0,60}(\\?[a-z=&]{0,20})?",
        headers(),
    )
        .prop_map(|(method, scheme, authority, path, headers)| RequestHead {
            headers,
            ..RequestHead::new(method, scheme, authority.parse().unwrap(), path.parse().unwrap())
        })
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        Just(vec![usize::MAX]),
        proptest::collection::vec(1usize..200, 1..8)
    ]
}

/// Whole messages: the body in DATA frames of the given sizes, empty ones included.
fn append_body(body: &[Vec<u8>], out: &mut BytesMut) {
    for piece in body {
        encode_data_header(piece.len() as u64, out);
        out.extend_from_slice(piece);
    }
}

proptest! {
    #[test]
    fn requests_survive_any_chunking(
        head in request(),
        trailers in headers(),
        body in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..5),
        lengths in lengths(),
        huffman: bool,
        seed: u64,
    ) {
        let encoding = Encoding { huffman, ..Encoding::default() };
        let content = body.concat();
        let mut head = head;
        head.headers.insert("content-length", content.len().into());
        let mut out = BytesMut::new();
        encode_request(&head, encoding, &mut out).unwrap();
        frame::encode_grease(seed, &mut out);
        append_body(&body, &mut out);
        encode_trailers(&trailers, encoding, &mut out).unwrap();
        frame::encode_grease(seed, &mut out);

        let mut reader = MessageReader::request(FieldLimits::default());
        let (mut received, mut data, mut last) = (None, Vec::new(), None);
        for chunk in chunks(&out.freeze(), &lengths) {
            reader.push(chunk);
            while let Some(part) = reader.next().unwrap() {
                match part {
                    Part::Request(head) => received = Some(head),
                    Part::Data(piece) => data.extend_from_slice(&piece),
                    Part::Trailers(trailers) => last = Some(trailers),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
        reader.finish().unwrap();
        prop_assert_eq!(reader.state(), MessageState::Ended);
        prop_assert_eq!(data, content);
        prop_assert_eq!(last.unwrap(), trailers);
        assert_same(&received.unwrap(), &head);
    }

    #[test]
    fn responses_survive_any_chunking(status in 200u16..600, fields in headers(), lengths in lengths(), huffman: bool) {
        let head = ResponseHead { status: StatusCode::from_u16(status).unwrap(), headers: fields };
        let encoding = Encoding { huffman, ..Encoding::default() };
        let mut out = BytesMut::new();
        encode_response(&ResponseHead::new(StatusCode::CONTINUE), encoding, &mut out).unwrap();
        encode_response(&head, encoding, &mut out).unwrap();
        let mut reader = MessageReader::response(FieldLimits::default(), Method::GET);
        let mut parts = Vec::new();
        for chunk in chunks(&out.freeze(), &lengths) {
            reader.push(chunk);
            while let Some(part) = reader.next().unwrap() {
                parts.push(part);
            }
        }
        reader.finish().unwrap();
        let [Part::Interim(interim), Part::Response(received)] = &parts[..] else {
            return Err(TestCaseError::fail(format!("{parts:?}")));
        };
        prop_assert_eq!(interim.status, StatusCode::CONTINUE);
        prop_assert_eq!(received.status, head.status);
        prop_assert_eq!(&received.headers, &head.headers);
    }

    /// Whatever decodes as a request can be encoded, and then means the same: nothing malformed gets through.
    #[test]
    fn what_is_accepted_can_be_sent(
        fields in proptest::collection::vec(
            prop_oneof![
                Just((":method", "GET")), Just((":method", "CONNECT")), Just((":method", "OPTIONS")),
                Just((":scheme", "https")), Just((":scheme", "ws")), Just((":path", "/")), Just((":path", "*")),
                Just((":path", "a")), Just((":authority", "web:80")), Just((":authority", "")),
                Just((":protocol", "websocket")), Just((":protocol", "x")), Just((":status", "200")),
                Just(("host", "web:80")), Just(("host", "other")), Just(("te", "trailers")), Just(("te", "x")),
                Just(("cookie", "a")), Just(("connection", "close")), Just(("content-length", "1")),
                Just(("X", "")), Just(("x", " ")), Just(("x", "y")),
            ],
            0..9,
        ),
        huffman: bool,
    ) {
        let block = raw_block(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), huffman);
        if let Ok(head) = decode_request(&block, &FieldLimits::default()) {
            assert_same(&sent(&head), &head);
        }
    }

    #[test]
    fn decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let limits = FieldLimits { max_section_size: 2000, max_fields: 20 };
        let mut section = vec![0, 0];
        section.extend_from_slice(&bytes);
        for input in [&bytes, &section] {
            let _ = decode_request(input, &limits);
            let _ = decode_response(input, &limits);
            let _ = decode_trailers(input, &limits);
            let _ = Settings::decode(input);
        }
    }
}
