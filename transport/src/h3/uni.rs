//! What travels on the critical unidirectional streams, decoded as bytes arrive.

use bytes::{Buf, Bytes, BytesMut};

use super::error::H3Error;
use super::frame::kind;
use super::prefix_int;
use super::settings::Settings;
use super::varint;
use crate::budget::SKIPPED_PER_UNIT;

/// Longest SETTINGS that we take. Every known setting with GREASE takes under 100 bytes.
const MAX_SETTINGS: u64 = 4096;

/// GOAWAY, CANCEL_PUSH and MAX_PUSH_ID hold one integer.
const MAX_ID: u64 = 8;

/// A frame on the control stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ControlFrame {
    Settings(Settings),
    GoAway(u64),
    CancelPush(u64),
    MaxPushId(u64),
}

/// Decodes the control stream after its type (RFC 9114 section 6.2.1): SETTINGS first and once, unknown frames
/// skipped as they stream.
#[derive(Debug, Default)]
pub(crate) struct ControlFrames {
    state: FrameState,
    has_settings: bool,
    /// Frames that began, and bytes that were skipped, since they were last asked for.
    frames: u64,
    skipped: u64,
}

#[derive(Debug)]
enum FrameState {
    Type(varint::Incremental),
    Length {
        kind: u64,
        reader: varint::Incremental,
    },
    Payload {
        kind: u64,
        missing: usize,
        buffer: BytesMut,
    },
    Skip {
        missing: u64,
    },
}

impl Default for FrameState {
    fn default() -> FrameState {
        FrameState::Type(varint::Incremental::default())
    }
}

impl ControlFrames {
    pub(crate) fn has_settings(&self) -> bool {
        self.has_settings
    }

    /// See [`super::ControlIn::take_chatter`].
    pub(crate) fn take_chatter(&mut self) -> u64 {
        let pieces = self.skipped / SKIPPED_PER_UNIT;
        self.skipped %= SKIPPED_PER_UNIT;
        std::mem::take(&mut self.frames) + pieces
    }

    /// The next whole frame; `None` when `chunk` is used up.
    pub(crate) fn next(&mut self, chunk: &mut Bytes) -> Result<Option<ControlFrame>, H3Error> {
        loop {
            match &mut self.state {
                FrameState::Type(reader) => {
                    let Some(kind) = read_varint(reader, chunk) else {
                        return Ok(None);
                    };
                    self.check_type(kind)?;
                    self.frames += 1;
                    self.state = FrameState::Length {
                        kind,
                        reader: varint::Incremental::default(),
                    };
                }
                FrameState::Length { kind, reader } => {
                    let Some(length) = read_varint(reader, chunk) else {
                        return Ok(None);
                    };
                    self.state = begin(*kind, length)?;
                }
                FrameState::Payload {
                    kind,
                    missing,
                    buffer,
                } => {
                    let length = (*missing).min(chunk.len());
                    buffer.extend_from_slice(&chunk.split_to(length));
                    *missing -= length;
                    if *missing > 0 {
                        return Ok(None);
                    }
                    let frame = decode_payload(*kind, buffer)?;
                    self.has_settings |= matches!(frame, ControlFrame::Settings(_));
                    self.state = FrameState::default();
                    return Ok(Some(frame));
                }
                FrameState::Skip { missing } => {
                    let length = (*missing).min(chunk.len() as u64);
                    chunk.advance(length as usize);
                    *missing -= length;
                    self.skipped += length;
                    if *missing > 0 {
                        return Ok(None);
                    }
                    self.state = FrameState::default();
                }
            }
        }
    }

    /// RFC 9114 sections 6.2.1 and 7.2: which types may come now.
    fn check_type(&self, kind: u64) -> Result<(), H3Error> {
        match kind {
            kind::SETTINGS if self.has_settings => Err(H3Error::UnexpectedFrame(kind)),
            kind::SETTINGS => Ok(()),
            _ if !self.has_settings => Err(H3Error::MissingSettings),
            kind::DATA | kind::HEADERS | kind::PUSH_PROMISE => Err(H3Error::UnexpectedFrame(kind)),
            _ if kind::is_http2(kind) => Err(H3Error::ReservedFrame(kind)),
            _ => Ok(()),
        }
    }
}

fn begin(kind: u64, length: u64) -> Result<FrameState, H3Error> {
    match kind {
        kind::SETTINGS if length > MAX_SETTINGS => Err(H3Error::FrameTooLong(kind)),
        kind::GOAWAY | kind::CANCEL_PUSH | kind::MAX_PUSH_ID if length > MAX_ID => {
            Err(H3Error::MalformedFrame(kind))
        }
        kind::SETTINGS | kind::GOAWAY | kind::CANCEL_PUSH | kind::MAX_PUSH_ID => Ok(FrameState::Payload {
            kind,
            missing: length as usize,
            buffer: BytesMut::new(),
        }),
        _ => Ok(FrameState::Skip { missing: length }),
    }
}

fn decode_payload(kind: u64, payload: &[u8]) -> Result<ControlFrame, H3Error> {
    if kind == kind::SETTINGS {
        return Settings::decode(payload).map(ControlFrame::Settings);
    }
    let id = match varint::decode(payload) {
        Some((id, used)) if used == payload.len() => id,
        _ => return Err(H3Error::MalformedFrame(kind)),
    };
    match kind {
        kind::GOAWAY => Ok(ControlFrame::GoAway(id)),
        kind::CANCEL_PUSH => Ok(ControlFrame::CancelPush(id)),
        kind::MAX_PUSH_ID => Ok(ControlFrame::MaxPushId(id)),
        _ => Err(H3Error::UnexpectedFrame(kind)),
    }
}

fn read_varint(reader: &mut varint::Incremental, chunk: &mut Bytes) -> Option<u64> {
    let mut rest: &[u8] = chunk;
    let value = reader.decode(&mut rest);
    let used = chunk.len() - rest.len();
    chunk.advance(used);
    value
}

/// The peer's encoder stream. Our table has no capacity, so the one legal instruction is to set it to 0
/// (RFC 9204 sections 3.2.3 and 4.3).
#[derive(Debug)]
pub(crate) struct EncoderStream;

impl EncoderStream {
    pub(crate) fn on_data(&mut self, chunk: &[u8]) -> Result<(), H3Error> {
        // 001 capacity(5): 0 is one byte. All others insert, or set a capacity above the allowed 0.
        if chunk.iter().all(|byte| *byte == 0x20) {
            Ok(())
        } else {
            Err(H3Error::QpackEncoderStream)
        }
    }
}

/// The peer's decoder stream. We never reference dynamic entries, so there is nothing to acknowledge; streams may
/// be cancelled (RFC 9204 section 4.4).
#[derive(Debug, Default)]
pub(crate) struct DecoderStream {
    /// A stream ID of which more bytes must come.
    partial: Option<prefix_int::Incremental>,
}

impl DecoderStream {
    pub(crate) fn on_data(&mut self, chunk: &[u8]) -> Result<(), H3Error> {
        for byte in chunk {
            self.partial = match self.partial.take() {
                Some(mut reader) => match reader.next(*byte) {
                    Ok(Some(_)) => None,
                    Ok(None) => Some(reader),
                    Err(_) => return Err(H3Error::QpackDecoderStream),
                },
                // 01 stream(6): Stream Cancellation.
                None if byte & 0xc0 == 0x40 => prefix_int::Incremental::start(6, *byte).err(),
                // Section Acknowledgment or Insert Count Increment.
                None => return Err(H3Error::QpackDecoderStream),
            };
        }
        Ok(())
    }
}
