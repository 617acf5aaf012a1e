//! Vectors of RFC 9204 appendix B (what needs no dynamic table), and every way to break a field section.

use super::block;
use crate::h3::error::{H3Error, QpackError};
use crate::h3::qpack::{self, BlockWriter, FieldVisitor, Name, Value};
use crate::h3::*;
use bytes::BytesMut;

#[derive(Default)]
struct List(Vec<(String, String, bool)>);

impl FieldVisitor for List {
    fn field(&mut self, name: Name<'_>, value: Value<'_>) -> Result<(), H3Error> {
        let name = match name {
            Name::Known(known) => known.as_str().to_owned(),
            Name::Other(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        };
        let sensitive = value.sensitive;
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        assert_eq!(value.into_bytes(), text.as_bytes());
        self.0.push((name, text, sensitive));
        Ok(())
    }
}

fn decode(block: &[u8]) -> Result<Vec<(String, String, bool)>, H3Error> {
    let mut list = List::default();
    qpack::decode(block, &FieldLimits::default(), &mut list)?;
    Ok(list.0)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn field(name: &str, value: &str) -> (String, String, bool) {
    (name.to_owned(), value.to_owned(), false)
}

#[test]
fn rfc_9204_appendix_b1_literal_with_name_reference() {
    let section = hex("0000 510b 2f69 6e64 6578 2e68 746d 6c");
    assert_eq!(decode(&section).unwrap(), [field(":path", "/index.html")]);
    let mut out = BytesMut::new();
    BlockWriter::new(&mut out, false).with_name_of(1, b"/index.html");
    assert_eq!(out, section);
}

#[test]
fn rfc_9204_appendix_b2_and_b4_need_the_dynamic_table() {
    for section in ["0381 10 11", "0500 80 c1 81", "0482 80 10 11"] {
        assert_eq!(
            decode(&hex(section)),
            Err(QpackError::DynamicReference.into()),
            "{section}"
        );
    }
}

#[test]
fn representations() {
    // Indexed static: 25 with 6 bits, 98 with a continuation byte.
    assert_eq!(
        decode(&hex("0000 d9 ff23")).unwrap(),
        [field(":status", "200"), field("x-frame-options", "sameorigin")]
    );
    // Literal with name reference, N, Huffman: cookie: a8eb10649cbf = no-cache.
    assert_eq!(
        decode(&hex("0000 75 86 a8eb10649cbf")).unwrap(),
        [("cookie".to_owned(), "no-cache".to_owned(), true)]
    );
    // Literal with literal name, both Huffman-coded: custom-key: custom-value (RFC 7541 appendix C.4.3).
    assert_eq!(
        decode(&hex("0000 2f01 25a849e95ba97d7f 89 25a849e95bb8e8b4bf")).unwrap(),
        [field("custom-key", "custom-value")]
    );
    // A Delta Base without dynamic references means nothing.
    assert_eq!(decode(&hex("0005 d9")).unwrap(), [field(":status", "200")]);
    assert_eq!(decode(&hex("0000")).unwrap(), []);
}

#[test]
fn broken_sections() {
    use QpackError::*;
    for (section, error) in [
        ("", Truncated),
        ("00", Truncated),
        ("ff", Truncated),
        ("01 00 d9", DynamicReference),
        ("ff 80808080808080808001 00", IntegerOverflow),
        ("00 80 d9", NegativeBase),
        ("00 85 d9", NegativeBase),
        ("00 7f", Truncated),
        ("0000 80", DynamicReference),
        ("0000 bf", DynamicReference),
        ("0000 10", DynamicReference),
        ("0000 1f", DynamicReference),
        ("0000 00 00", DynamicReference),
        ("0000 08 00", DynamicReference),
        ("0000 40 00", DynamicReference),
        ("0000 60 00", DynamicReference),
        ("0000 ff24", StaticIndex(99)),
        ("0000 ffffffffffffffffffff", IntegerOverflow),
        ("0000 5f54 00", StaticIndex(99)),
        ("0000 51", Truncated),
        ("0000 51 05 2f", Truncated),
        ("0000 51 ff", Truncated),
        ("0000 51 7f ffffffffffffff3f", Truncated),
        ("0000 23 61", Truncated),
        ("0000 21 61", Truncated),
        ("0000 51 81 ff", Huffman),
        ("0000 51 81 00", Huffman),
        ("0000 51 84 ffffffff", Huffman),
        ("0000 29 ff 00", Huffman),
    ] {
        let result = decode(&hex(section));
        assert_eq!(result, Err(H3Error::Qpack(error)), "{section}");
    }
    let error = H3Error::Qpack(Huffman);
    assert_eq!(
        (error.code(), error.scope()),
        (Code::QPACK_DECOMPRESSION_FAILED, Scope::Connection)
    );
}

#[test]
fn sensitive_fields_are_never_indexed() {
    let mut head = RequestHead::new(
        http::Method::GET,
        http::uri::Scheme::HTTPS,
        "web".parse().unwrap(),
        "/".parse().unwrap(),
    );
    let mut secret = http::HeaderValue::from_static("s");
    secret.set_sensitive(true);
    for name in [
        "authorization",
        "cookie",
        "proxy-authorization",
        "set-cookie",
        "x-open",
    ] {
        head.headers.insert(name, http::HeaderValue::from_static("s"));
    }
    head.headers.insert("x-marked", secret.clone());
    // In the static table with this value, which an indexed field line would put on the wire.
    let mut accept = http::HeaderValue::from_static("*/*");
    accept.set_sensitive(true);
    head.headers.insert("accept", accept);
    let mut out = BytesMut::new();
    encode_request(&head, Encoding::default(), &mut out).unwrap();
    for (name, _, sensitive) in decode(&out[3..]).unwrap().into_iter().skip(4) {
        assert_eq!(sensitive, name != "x-open", "{name}");
    }
    let decoded = decode_request(&out[3..], &FieldLimits::default()).unwrap();
    assert!(decoded.headers["x-marked"].is_sensitive());
    assert!(decoded.headers["authorization"].is_sensitive());
    assert!(!decoded.headers["x-open"].is_sensitive());
}

#[test]
fn what_is_in_the_static_table_takes_one_or_two_bytes() {
    let mut head = ResponseHead::new(http::StatusCode::OK);
    head.headers
        .insert("content-type", http::HeaderValue::from_static("application/json"));
    head.headers.insert(
        "access-control-allow-headers",
        http::HeaderValue::from_static("*"),
    );
    let mut out = BytesMut::new();
    encode_response(&head, Encoding::default(), &mut out).unwrap();
    assert_eq!(out[..], hex("01 4006 0000 d9 ee ff0c"));
}

#[test]
fn a_value_does_not_pin_the_received_chunk() {
    let section = block(&[(":status", "200"), ("x-long-name", "value")]);
    let chunk = bytes::Bytes::from([&section[..], &[0; 65_536]].concat());
    let section = chunk.slice(..section.len());
    let head = decode_response(&section, &FieldLimits::default()).unwrap();
    drop(section);
    assert!(chunk.is_unique(), "the head holds no reference to the chunk");
    assert_eq!(head.headers["x-long-name"], "value");
}

#[test]
fn a_section_past_16_kib_gets_a_longer_length() {
    let mut head = ResponseHead::new(http::StatusCode::OK);
    head.headers
        .insert("x", http::HeaderValue::from_str(&"v".repeat(20_000)).unwrap());
    let mut out = BytesMut::from(&b"before"[..]);
    encode_response(&head, Encoding::default(), &mut out).unwrap();
    let frame = out.split_off(6).freeze();
    assert_eq!(&out[..], b"before");
    let mut reader = MessageReader::response(FieldLimits::default(), http::Method::GET);
    reader.push(frame);
    let Ok(Some(Part::Response(decoded))) = reader.next() else {
        panic!("no response")
    };
    assert_eq!(decoded.headers, head.headers);
}
