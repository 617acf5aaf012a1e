//! Messages: what a request stream carries from its first byte to FIN.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use weft_proto::fuzz::Target;

use super::{MEMORY, chunks, heads, rules, split};
use crate::h3::{
    Encoding, FieldLimits, H3Error, MessageReader, Part, RequestHead, ResponseHead, encode_data_header,
    encode_request, encode_response, encode_trailers,
};

pub(super) const TARGET: Target = Target {
    name: "messages",
    body,
    memory: MEMORY,
};

fn body(input: &[u8]) {
    let (how, stream) = split(input);
    let stream = Bytes::copy_from_slice(stream);
    let method = (how & 1 == 1).then(|| heads::method(how >> 1));
    let whole = read(&stream, method.as_ref(), &[usize::MAX]);
    for lengths in [&[1][..], &[usize::from(how >> 3), 1, 7]] {
        let pieces = read(&stream, method.as_ref(), lengths);
        assert_eq!(pieces.end, whole.end, "in pieces of {lengths:?}");
        assert_same(&pieces, &whole);
    }
    if whole.end.is_ok() {
        is_whole(&whole, method.as_ref());
        let again = read(&encode(&whole), method.as_ref(), &[usize::MAX]);
        assert_eq!(again.end, Ok(()));
        assert_same(&again, &whole);
    }
}

/// A message as far as it was read, and how it ended.
struct Message {
    request: Option<RequestHead>,
    responses: Vec<ResponseHead>,
    content: Vec<u8>,
    trailers: Option<HeaderMap>,
    end: Result<(), H3Error>,
}

/// The answer to a request with `method`; without one, a request.
fn read(stream: &Bytes, method: Option<&Method>, lengths: &[usize]) -> Message {
    let limits = FieldLimits::default();
    let mut reader = match method {
        Some(method) => MessageReader::response(limits, method.clone()),
        None => MessageReader::request(limits),
    };
    let mut message = Message {
        request: None,
        responses: Vec::new(),
        content: Vec::new(),
        trailers: None,
        end: Ok(()),
    };
    for chunk in chunks(stream, lengths) {
        reader.push(chunk);
        loop {
            match reader.next() {
                Ok(Some(part)) => message.take(part),
                Ok(None) => break,
                Err(error) => {
                    message.end = Err(error);
                    return message;
                }
            }
        }
        assert!(reader.buffered() <= limits.max_block() + 16);
    }
    message.end = reader.finish();
    message
}

impl Message {
    /// The order of RFC 9114 section 4.1.
    fn take(&mut self, part: Part) {
        assert!(self.trailers.is_none(), "something after trailers");
        let is_final = self.responses.last().is_some_and(|head| !head.is_interim());
        let has_head = self.request.is_some() || is_final;
        match part {
            Part::Request(head) => {
                assert!(self.request.is_none() && self.responses.is_empty());
                rules::request(&head);
                self.request = Some(head);
            }
            Part::Interim(head) | Part::Response(head) => {
                assert!(!has_head && self.responses.len() < 17);
                rules::response(&head);
                self.responses.push(head);
            }
            Part::Data(piece) => {
                assert!(has_head && !piece.is_empty());
                self.content.extend_from_slice(&piece);
            }
            Part::Trailers(trailers) => {
                assert!(has_head);
                rules::trailers(&trailers);
                self.trailers = Some(trailers);
            }
        }
    }
}

/// RFC 9114 section 4.1.2 and RFC 9110 section 6.4.1.
fn is_whole(message: &Message, method: Option<&Method>) {
    let (headers, is_tunnel, is_bodiless) = match (method, &message.request, message.responses.last()) {
        (None, Some(head), None) => (&head.headers, head.is_connect(), false),
        (Some(method), None, Some(head)) => {
            assert!(!head.is_interim());
            let is_tunnel = *method == Method::CONNECT && head.status.is_success();
            let is_bodiless = *method == Method::HEAD || matches!(head.status.as_u16(), 204 | 304);
            (&head.headers, is_tunnel, is_bodiless && !is_tunnel)
        }
        _ => panic!("no head"),
    };
    assert!(!is_tunnel || message.trailers.is_none());
    assert!(!is_bodiless || message.content.is_empty());
    if let Some(length) = headers.get("content-length")
        && !is_tunnel
        && !is_bodiless
    {
        assert_eq!(length.to_str().unwrap().parse(), Ok(message.content.len()));
    }
}

fn assert_same(left: &Message, right: &Message) {
    assert_eq!(left.request.is_some(), right.request.is_some());
    if let (Some(left), Some(right)) = (&left.request, &right.request) {
        heads::assert_same_request(left, right);
    }
    assert_eq!(left.responses.len(), right.responses.len());
    for (left, right) in left.responses.iter().zip(&right.responses) {
        heads::assert_same_response(left, right);
    }
    // What comes with the fault may have been passed on before it was seen, or not.
    match left.end {
        Ok(()) => assert_eq!(left.content, right.content),
        Err(_) => {
            assert!(left.content.starts_with(&right.content) || right.content.starts_with(&left.content))
        }
    }
    assert_eq!(left.trailers, right.trailers);
}

fn encode(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    let encoding = Encoding::default();
    if let Some(head) = &message.request {
        encode_request(head, encoding, &mut out).unwrap();
    }
    for head in &message.responses {
        encode_response(head, encoding, &mut out).unwrap();
    }
    if !message.content.is_empty() {
        encode_data_header(message.content.len() as u64, &mut out);
        out.extend_from_slice(&message.content);
    }
    if let Some(trailers) = &message.trailers {
        encode_trailers(trailers, encoding, &mut out).unwrap();
    }
    out.freeze()
}
