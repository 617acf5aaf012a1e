//! Frames: the incremental decoder against a naive one, order on a stream, content-length, caps.

use bytes::{Bytes, BytesMut};
use http::Method;
use proptest::prelude::*;

use super::{block, chunks};
use crate::fuzz::frames::{LIMIT, decoded, reference};
use crate::h3::error::{H3Error, MessageError};
use crate::h3::frame::kind;
use crate::h3::*;

fn frame(kind: u64, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    frame::encode_frame_header(kind, payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out.freeze()
}

proptest! {
    #[test]
    fn decoder_equals_the_naive_one_at_any_chunking(
        frames in proptest::collection::vec(
            (
                prop_oneof![4 => Just(0u64), 3 => Just(1), 2 => Just(0x21), 1 => 0u64..0x10, 1 => 0u64..varint::MAX],
                prop_oneof![3 => 0usize..40, 1 => 0usize..100, 1 => Just(0)],
            ),
            0..12,
        ),
        cut in 0usize..30,
        lengths in proptest::collection::vec(1usize..40, 1..6),
        is_client: bool,
    ) {
        let role = if is_client { Role::Client } else { Role::Server };
        let mut stream = BytesMut::new();
        for (index, (kind, length)) in frames.iter().enumerate() {
            let payload: Vec<u8> = (0..*length).map(|byte| (byte + index) as u8).collect();
            stream.extend_from_slice(&frame(*kind, &payload));
        }
        stream.truncate(stream.len().saturating_sub(cut));
        let stream = stream.freeze();
        let expected = reference(&stream, role);
        prop_assert_eq!(&decoded(&stream, role, &lengths), &expected);
        prop_assert_eq!(&decoded(&stream, role, &[1]), &expected);
        prop_assert_eq!(&decoded(&stream, role, &[usize::MAX]), &expected);
    }

    #[test]
    fn decoder_equals_the_naive_one_on_random_bytes(
        bytes in proptest::collection::vec(prop_oneof![3 => 0u8..4, 2 => any::<u8>()], 0..200),
        lengths in proptest::collection::vec(1usize..20, 1..6),
    ) {
        let stream = Bytes::from(bytes);
        prop_assert_eq!(decoded(&stream, Role::Server, &lengths), reference(&stream, Role::Server));
    }
}

#[test]
fn frames_that_may_not_be_on_a_request_stream() {
    for kind in [0x2, 0x6, 0x8, 0x9] {
        let error = decoded(&frame(kind, b""), Role::Server, &[1]).error.unwrap();
        assert_eq!(error, H3Error::ReservedFrame(kind));
        assert_eq!(
            (error.code(), error.scope()),
            (Code::H3_FRAME_UNEXPECTED, Scope::Connection)
        );
    }
    for role in [Role::Client, Role::Server] {
        for kind in [kind::CANCEL_PUSH, kind::SETTINGS, kind::GOAWAY, kind::MAX_PUSH_ID] {
            let error = decoded(&frame(kind, b""), role, &[1]).error;
            assert_eq!(error, Some(H3Error::UnexpectedFrame(kind)));
        }
    }
    let promise = frame(kind::PUSH_PROMISE, b"\0");
    assert_eq!(
        decoded(&promise, Role::Client, &[1]).error.unwrap().code(),
        Code::H3_ID_ERROR
    );
    assert_eq!(
        decoded(&promise, Role::Server, &[1]).error.unwrap().code(),
        Code::H3_FRAME_UNEXPECTED
    );
}

#[test]
fn data_and_whole_headers_are_slices_of_the_chunk() {
    let stream: Bytes = [frame(kind::HEADERS, b"section"), frame(kind::DATA, b"content")]
        .concat()
        .into();
    let mut decoder = FrameDecoder::new(Role::Server, LIMIT);
    decoder.push(stream.clone());
    let range = stream.as_ptr_range();
    for _ in 0..2 {
        let (Frame::Headers(bytes) | Frame::Data(bytes)) = decoder.next().unwrap().unwrap();
        assert!(range.contains(&bytes.as_ptr()));
    }
}

#[test]
fn a_declared_length_allocates_nothing() {
    // Headers over the limit are refused at their length, before a byte of them is kept.
    let mut out = BytesMut::new();
    frame::encode_frame_header(kind::HEADERS, LIMIT as u64 + 1, &mut out);
    let error = decoded(&out.freeze(), Role::Server, &[1]).error.unwrap();
    assert_eq!(error, H3Error::FieldSectionTooLarge);
    assert_eq!(
        (error.code(), error.scope()),
        (Code::H3_EXCESSIVE_LOAD, Scope::Stream)
    );
    // Unknown frames of any length stream by.
    let mut decoder = FrameDecoder::new(Role::Server, LIMIT);
    let mut out = BytesMut::new();
    frame::encode_frame_header(0x21, varint::MAX, &mut out);
    decoder.push(out.freeze());
    assert_eq!(decoder.next(), Ok(None));
    for _ in 0..100 {
        decoder.push(Bytes::from_static(&[0; 65_536]));
        assert_eq!(decoder.next(), Ok(None));
        assert_eq!(decoder.buffered(), 0);
    }
    assert_eq!(decoder.finish(), Err(H3Error::TruncatedFrame));
    // A large HEADERS within the limit grows as it arrives.
    let mut decoder = FrameDecoder::new(Role::Server, 1 << 30);
    let mut out = BytesMut::new();
    frame::encode_frame_header(kind::HEADERS, 1 << 30, &mut out);
    out.extend_from_slice(b"x");
    decoder.push(out.freeze());
    assert_eq!(decoder.next(), Ok(None));
    assert_eq!(decoder.buffered(), 1);
}

#[test]
fn a_flood_of_useless_frames_ends_the_connection() {
    for useless in [frame(kind::DATA, b""), frame(0x21, b""), frame(0x21, b"xyz")] {
        let flood: Bytes = useless.repeat(129).into();
        assert_eq!(
            decoded(&flood, Role::Server, &[7]).error,
            Some(H3Error::UselessFrames)
        );
        // What carries something makes up for it.
        let mixed: Bytes = [useless.repeat(128), frame(kind::DATA, b"x").to_vec()]
            .concat()
            .repeat(5)
            .into();
        assert_eq!(decoded(&mixed, Role::Server, &[7]).error, None);
    }
}

#[test]
fn pushing_before_the_chunk_is_drained_loses_nothing() {
    let stream = frame(kind::DATA, b"content");
    let mut decoder = FrameDecoder::new(Role::Server, LIMIT);
    chunks(&stream, &[2])
        .into_iter()
        .for_each(|chunk| decoder.push(chunk));
    assert_eq!(
        decoder.next(),
        Ok(Some(Frame::Data(Bytes::from_static(b"content"))))
    );
    assert_eq!(decoder.finish(), Ok(()));
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "web"),
    (":path", "/"),
];

fn get(length: Option<&str>) -> Bytes {
    let length = length.map(|length| ("content-length", length));
    frame(
        kind::HEADERS,
        &block(&GET.into_iter().chain(length).collect::<Vec<_>>()),
    )
}

fn status(fields: &[(&str, &str)]) -> Bytes {
    frame(kind::HEADERS, &block(fields))
}

/// Reads a whole message and returns its first error.
fn read(mut reader: MessageReader, frames: &[Bytes]) -> Result<(), H3Error> {
    for chunk in chunks(&frames.concat().into(), &[3]) {
        reader.push(chunk);
        while reader.next()?.is_some() {}
    }
    reader.finish()
}

fn server() -> MessageReader {
    MessageReader::request(FieldLimits::default())
}

fn client(method: Method) -> MessageReader {
    MessageReader::response(FieldLimits::default(), method)
}

fn data(content: &[u8]) -> Bytes {
    frame(kind::DATA, content)
}

fn trailers() -> Bytes {
    frame(kind::HEADERS, &block(&[("x", "y")]))
}

#[test]
fn order_of_frames() {
    let connect = status(&[(":method", "CONNECT"), (":authority", "db:1")]);
    let ok = status(&[(":status", "200")]);
    let hints = status(&[(":status", "103")]);
    let unexpected = |kind| Err(H3Error::UnexpectedFrame(kind));
    assert_eq!(read(server(), &[get(None)]), Ok(()));
    assert_eq!(
        read(
            server(),
            &[get(None), data(b"a"), data(b""), data(b"b"), trailers()]
        ),
        Ok(())
    );
    assert_eq!(read(server(), &[get(None), trailers()]), Ok(()));
    assert_eq!(
        read(server(), &[frame(0x21, b"x"), get(None), frame(0x21, b"x")]),
        Ok(())
    );
    assert_eq!(read(server(), &[data(b"a"), get(None)]), unexpected(kind::DATA));
    assert_eq!(read(server(), &[data(b""), get(None)]), unexpected(kind::DATA));
    assert_eq!(
        read(server(), &[get(None), trailers(), data(b"a")]),
        unexpected(kind::DATA)
    );
    assert_eq!(
        read(server(), &[get(None), trailers(), data(b"")]),
        unexpected(kind::DATA)
    );
    assert_eq!(
        read(server(), &[get(None), trailers(), trailers()]),
        unexpected(kind::HEADERS)
    );
    assert_eq!(read(server(), &[connect.clone(), data(b"a")]), Ok(()));
    assert_eq!(
        read(server(), &[connect, data(b"a"), trailers()]),
        unexpected(kind::HEADERS)
    );
    assert_eq!(read(server(), &[]), Err(H3Error::RequestIncomplete));
    assert_eq!(
        read(server(), &[frame(0x21, b"")]),
        Err(H3Error::RequestIncomplete)
    );

    assert_eq!(
        read(
            client(Method::GET),
            &[hints.clone(), hints.clone(), ok.clone(), data(b"a"), trailers()]
        ),
        Ok(())
    );
    assert_eq!(
        read(client(Method::GET), &[hints.clone(), data(b"a")]),
        unexpected(kind::DATA)
    );
    let incomplete = Err(MessageError::ResponseIncomplete.into());
    assert_eq!(read(client(Method::GET), &[]), incomplete);
    assert_eq!(
        read(client(Method::GET), std::slice::from_ref(&hints)),
        incomplete
    );
    assert_eq!(
        read(client(Method::GET), &vec![hints; 17]),
        Err(H3Error::UselessFrames)
    );
    assert_eq!(read(client(Method::CONNECT), &[ok.clone(), data(b"a")]), Ok(()));
    assert_eq!(
        read(client(Method::CONNECT), &[ok, trailers()]),
        unexpected(kind::HEADERS)
    );
    let refused = status(&[(":status", "503"), ("content-length", "1")]);
    assert_eq!(
        read(client(Method::CONNECT), &[refused, data(b"a"), trailers()]),
        Ok(())
    );
}

#[test]
fn content_length_against_data() {
    let too_long = Err(H3Error::Message(MessageError::ContentTooLong));
    let too_short = Err(H3Error::Message(MessageError::ContentTooShort));
    assert_eq!(
        read(server(), &[get(Some("5")), data(b"ab"), data(b"cde")]),
        Ok(())
    );
    assert_eq!(read(server(), &[get(Some("5")), data(b"abcd")]), too_short);
    assert_eq!(read(server(), &[get(Some("5"))]), too_short);
    assert_eq!(
        read(server(), &[get(Some("5")), data(b"abcd"), trailers()]),
        too_short
    );
    assert_eq!(read(server(), &[get(Some("5")), data(b"abcdef")]), too_long);
    assert_eq!(read(server(), &[get(Some("0")), data(b"a")]), too_long);
    assert_eq!(read(server(), &[get(Some("0")), data(b"")]), Ok(()));

    let response = |status_code, length| status(&[(":status", status_code), ("content-length", length)]);
    assert_eq!(
        read(client(Method::GET), &[response("200", "2"), data(b"ab")]),
        Ok(())
    );
    assert_eq!(
        read(client(Method::GET), &[response("200", "2"), data(b"a")]),
        too_short
    );
    assert_eq!(read(client(Method::HEAD), &[response("200", "2")]), Ok(()));
    assert_eq!(
        read(client(Method::HEAD), &[response("200", "2"), data(b"ab")]),
        too_long
    );
    assert_eq!(read(client(Method::GET), &[response("304", "2")]), Ok(()));
    assert_eq!(
        read(client(Method::GET), &[response("304", "2"), data(b"ab")]),
        too_long
    );
    assert_eq!(
        read(client(Method::GET), &[status(&[(":status", "204")]), data(b"a")]),
        too_long
    );
    assert_eq!(
        read(client(Method::CONNECT), &[response("200", "2"), data(b"abc")]),
        Ok(()),
        "means nothing"
    );
}

#[test]
fn trailers_of_a_message_that_is_too_short_are_not_handed_out() {
    let mut reader = server();
    reader.push([get(Some("5")), data(b"abcd"), trailers()].concat().into());
    assert!(matches!(reader.next(), Ok(Some(Part::Request(_)))));
    assert!(matches!(reader.next(), Ok(Some(Part::Data(_)))));
    assert_eq!(
        reader.next().unwrap_err(),
        H3Error::Message(MessageError::ContentTooShort)
    );
}

#[test]
fn fin_in_the_middle_of_a_frame_is_a_connection_error() {
    let message: Bytes = [get(Some("5")), data(b"abcde")].concat().into();
    for cut in 0..message.len() {
        let mut reader = server();
        reader.push(message.slice(..cut));
        while reader.next().unwrap().is_some() {}
        let error = reader.finish().unwrap_err();
        let expected = match cut {
            0 => H3Error::RequestIncomplete,
            cut if cut == get(Some("5")).len() => H3Error::Message(MessageError::ContentTooShort),
            _ => H3Error::TruncatedFrame,
        };
        assert_eq!(error, expected, "{cut}");
    }
}

#[test]
fn content_in_tiny_frames_is_gathered() {
    let mut decoder = FrameDecoder::new(Role::Server, LIMIT);
    let bytes: Vec<u8> = (0..1_000_u32).map(|index| index as u8).collect();
    let frames: Vec<Bytes> = bytes.iter().map(|byte| frame(kind::DATA, &[*byte])).collect();
    decoder.push(frames.concat().into());
    assert_eq!(decoder.next(), Ok(Some(Frame::Data(bytes.into()))));
    assert_eq!(decoder.next(), Ok(None));
    // One alone, and large ones, are handed out as they lie in the chunk.
    let chunk: Bytes = [frame(kind::DATA, b"x"), frame(kind::DATA, &[7; 1_000])]
        .concat()
        .into();
    decoder.push(chunk.clone());
    assert_eq!(decoder.next(), Ok(Some(Frame::Data(chunk.slice(2..3)))));
    assert_eq!(decoder.next(), Ok(Some(Frame::Data(chunk.slice(6..)))));
}
