//! Integers and frames of request streams.

use bytes::{Bytes, BytesMut};
use weft_proto::fuzz::Target;

use super::{MEMORY, chunks, split};
use crate::h3::frame::{encode_frame_header, kind};
use crate::h3::{Frame, FrameDecoder, H3Error, Role, varint};

pub(super) const TARGET: Target = Target {
    name: "frames",
    body,
    memory: MEMORY,
};

/// The longest HEADERS that the decoder takes here.
pub(crate) const LIMIT: usize = 64;

fn body(input: &[u8]) {
    let (how, stream) = split(input);
    integers(stream);
    let role = if how & 1 == 0 { Role::Client } else { Role::Server };
    let stream = Bytes::copy_from_slice(stream);
    let expected = reference(&stream, role);
    for lengths in [&[usize::MAX][..], &[1], &[usize::from(how >> 1), 1]] {
        assert_eq!(
            decoded(&stream, role, lengths),
            expected,
            "in pieces of {lengths:?}"
        );
    }
    if expected.error.is_none() {
        let again = decoded(&encode(&expected), role, &[usize::MAX]);
        assert_eq!(again, expected);
    }
}

/// What stands at the front of the input as an integer is the same in pieces, and comes back when it is written.
fn integers(input: &[u8]) {
    let mut rest = input;
    let whole = varint::decode(input);
    assert_eq!(
        varint::Incremental::default().decode(&mut rest),
        whole.map(|(value, _)| value)
    );
    let Some((value, used)) = whole else {
        assert!(input.len() < 8);
        return;
    };
    assert_eq!((rest.len(), value <= varint::MAX), (input.len() - used, true));
    let mut out = BytesMut::new();
    varint::encode(value, &mut out);
    assert!(out.len() == varint::len(value) && out.len() <= used);
    assert_eq!(varint::decode(&out), Some((value, out.len())));
    assert!((0..out.len()).all(|cut| varint::decode(&out[..cut]).is_none()));
}

/// What a stream holds: frames, and how it ends.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// Headers sections, and what is between them.
    pub(crate) frames: Vec<(bool, Vec<u8>)>,
    pub(crate) error: Option<H3Error>,
}

impl Outcome {
    fn push(&mut self, frame: Frame) {
        match frame {
            Frame::Headers(block) => self.frames.push((true, block.to_vec())),
            Frame::Data(piece) => match self.frames.last_mut() {
                // Pieces of one frame and of the next are alike.
                Some((false, data)) => data.extend_from_slice(&piece),
                _ => self.frames.push((false, piece.to_vec())),
            },
        }
    }
}

fn encode(outcome: &Outcome) -> Bytes {
    let mut out = BytesMut::new();
    for (is_headers, payload) in &outcome.frames {
        let kind = if *is_headers { kind::HEADERS } else { kind::DATA };
        encode_frame_header(kind, payload.len() as u64, &mut out);
        out.extend_from_slice(payload);
    }
    out.freeze()
}

/// The decoder, written naively over the whole stream.
pub(crate) fn reference(stream: &[u8], role: Role) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut rest, mut useless) = (stream, 0);
    while !rest.is_empty() {
        let Some((frame_kind, used)) = varint::decode(rest) else {
            break;
        };
        let Some((length, more)) = varint::decode(&rest[used..]) else {
            break;
        };
        rest = &rest[used + more..];
        let is_useless = match frame_kind {
            kind::DATA => length == 0,
            kind::HEADERS => false,
            _ => true,
        };
        useless = if is_useless { useless + 1 } else { 0 };
        outcome.error = match frame_kind {
            kind::HEADERS if length > LIMIT as u64 => Some(H3Error::FieldSectionTooLarge),
            kind::PUSH_PROMISE if role == Role::Client => Some(H3Error::PushId),
            0x3 | 0x4 | 0x5 | 0x7 | 0xd => Some(H3Error::UnexpectedFrame(frame_kind)),
            0x2 | 0x6 | 0x8 | 0x9 => Some(H3Error::ReservedFrame(frame_kind)),
            _ if useless > 128 => Some(H3Error::UselessFrames),
            _ => None,
        };
        if outcome.error.is_some() {
            return outcome;
        }
        let available = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
        let payload = Bytes::copy_from_slice(&rest[..available]);
        rest = &rest[available..];
        let is_whole = available as u64 == length;
        match frame_kind {
            kind::DATA if available > 0 || is_whole => outcome.push(Frame::Data(payload)),
            kind::HEADERS if is_whole => outcome.push(Frame::Headers(payload)),
            _ => {}
        }
        if !is_whole {
            outcome.error = Some(H3Error::TruncatedFrame);
            return outcome;
        }
    }
    if !rest.is_empty() {
        outcome.error = Some(H3Error::TruncatedFrame);
    }
    outcome
}

/// What the decoder makes of a stream that comes in pieces.
pub(crate) fn decoded(stream: &Bytes, role: Role, lengths: &[usize]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut decoder = FrameDecoder::new(role, LIMIT);
    for chunk in chunks(stream, lengths) {
        decoder.push(chunk);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => outcome.push(frame),
                Ok(None) => break,
                Err(error) => {
                    outcome.error = Some(error);
                    return outcome;
                }
            }
        }
        assert!(decoder.buffered() <= LIMIT + 16);
    }
    outcome.error = decoder.finish().err();
    outcome
}
