//! The heads of messages, and trailers: a field section of each kind.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use weft_proto::fuzz::Target;

use super::{MEMORY, rules, split};
use crate::h3::frame::Frame;
use crate::h3::{
    Encoding, FieldLimits, FrameDecoder, RequestHead, ResponseHead, Role, decode_request, decode_response,
    decode_trailers, encode_request, encode_response, encode_trailers,
};

pub(super) const TARGET: Target = Target {
    name: "heads",
    body,
    memory: MEMORY,
};

fn body(input: &[u8]) {
    let (how, block) = split(input);
    let limits = FieldLimits::default();
    let encoding = Encoding {
        huffman: how & 4 != 0,
        ..Encoding::default()
    };
    match how & 3 {
        0 | 1 => {
            if let Ok(head) = decode_request(block, &limits) {
                rules::request(&head);
                let again = decode_request(&request_block(&head, encoding), &limits).unwrap();
                assert_same_request(&head, &again);
            }
        }
        2 => {
            if let Ok(head) = decode_response(block, &limits) {
                rules::response(&head);
                let again = decode_response(&response_block(&head, encoding), &limits).unwrap();
                assert_same_response(&head, &again);
            }
        }
        _ => {
            if let Ok(trailers) = decode_trailers(block, &limits) {
                rules::trailers(&trailers);
                let mut out = BytesMut::new();
                encode_trailers(&trailers, encoding, &mut out).unwrap();
                let again = decode_trailers(&headers_of(out), &limits).unwrap();
                assert_eq!(again, trailers);
            }
        }
    }
}

fn request_block(head: &RequestHead, encoding: Encoding) -> Bytes {
    let mut out = BytesMut::new();
    encode_request(head, encoding, &mut out).unwrap();
    headers_of(out)
}

fn response_block(head: &ResponseHead, encoding: Encoding) -> Bytes {
    let mut out = BytesMut::new();
    encode_response(head, encoding, &mut out).unwrap();
    headers_of(out)
}

/// The payload of the one HEADERS frame.
fn headers_of(frame: BytesMut) -> Bytes {
    let mut decoder = FrameDecoder::new(Role::Server, usize::MAX);
    decoder.push(frame.freeze());
    let Ok(Some(Frame::Headers(block))) = decoder.next() else {
        panic!("no HEADERS");
    };
    assert!(matches!(decoder.next(), Ok(None)) && decoder.finish().is_ok());
    block
}

pub(super) fn assert_same_request(left: &RequestHead, right: &RequestHead) {
    assert_eq!(left.method, right.method);
    assert_eq!(left.scheme, right.scheme);
    assert_eq!(left.authority, right.authority);
    assert_eq!(left.path, right.path);
    assert_eq!(left.protocol, right.protocol);
    assert_eq!(normal(&left.headers), normal(&right.headers));
}

pub(super) fn assert_same_response(left: &ResponseHead, right: &ResponseHead) {
    assert_eq!(left.status, right.status);
    let (mut left_fields, mut right_fields) = (normal(&left.headers), normal(&right.headers));
    // The one that these may have says 0, and is not passed on.
    if left.is_interim() || left.status == StatusCode::NO_CONTENT {
        left_fields.remove("content-length");
        right_fields.remove("content-length");
    }
    assert_eq!(left_fields, right_fields);
}

/// `te` is written in one case, and once.
fn normal(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    headers.remove("te");
    headers
}

/// The methods whose responses are read in a way of their own, and one of the others.
pub(super) fn method(how: u8) -> Method {
    match how & 3 {
        0 => Method::HEAD,
        1 => Method::CONNECT,
        _ => Method::GET,
    }
}
