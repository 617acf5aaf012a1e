//! The peer's unidirectional streams (RFC 9114 section 6.2, RFC 9204 section 4.2), and our own control stream.
//!
//! At most three of the peer's streams mean something: control, QPACK encoder and QPACK decoder. Each is read as it
//! arrives; of the control stream only the payload of a known frame is kept, and only up to a cap. Streams of other
//! types are stopped without being read.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use super::error::{Code, H3Error};
use super::frame::kind;
use super::settings::Settings;
use super::uni::{ControlFrame, ControlFrames, DecoderStream, EncoderStream};
use super::{Role, varint};

/// Stream types.
mod stream_type {
    pub(super) const CONTROL: u64 = 0x0;
    pub(super) const PUSH: u64 = 0x1;
    pub(super) const QPACK_ENCODER: u64 = 0x2;
    pub(super) const QPACK_DECODER: u64 = 0x3;
}

/// The unidirectional streams that must stay open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UniStreamKind {
    /// Control stream (RFC 9114 section 6.2.1).
    Control,
    /// QPACK encoder stream (RFC 9204 section 4.2).
    QpackEncoder,
    /// QPACK decoder stream (RFC 9204 section 4.2).
    QpackDecoder,
}

impl fmt::Display for UniStreamKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UniStreamKind::Control => "control stream",
            UniStreamKind::QpackEncoder => "QPACK encoder stream",
            UniStreamKind::QpackDecoder => "QPACK decoder stream",
        })
    }
}

/// What the peer said, or what to do about a stream of its.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlEvent {
    /// The peer's SETTINGS, once.
    Settings(Settings),
    /// GOAWAY: to a client the first request that was not processed, to a server a push ID.
    GoAway(u64),
    /// Send STOP_SENDING on this stream; what still arrives on it is ignored.
    StopStream(u64, Code),
}

/// Reads the peer's unidirectional streams.
#[derive(Debug)]
pub struct ControlIn {
    role: Role,
    streams: Vec<(u64, Stream)>,
    /// Kinds that were opened, by their discriminant.
    opened: [bool; 3],
    frames: ControlFrames,
    goaway: Option<u64>,
    max_push_id: Option<u64>,
    chatter: u64,
}

#[derive(Debug)]
enum Stream {
    /// The type is not known yet.
    Type(varint::Incremental),
    Control,
    Encoder(EncoderStream),
    Decoder(DecoderStream),
}

impl Stream {
    fn kind(&self) -> Option<UniStreamKind> {
        match self {
            Stream::Type(_) => None,
            Stream::Control => Some(UniStreamKind::Control),
            Stream::Encoder(_) => Some(UniStreamKind::QpackEncoder),
            Stream::Decoder(_) => Some(UniStreamKind::QpackDecoder),
        }
    }
}

impl ControlIn {
    /// For the peer of an end with `role`.
    pub fn new(role: Role) -> ControlIn {
        ControlIn {
            role,
            streams: Vec::with_capacity(4),
            opened: [false; 3],
            frames: ControlFrames::default(),
            goaway: None,
            max_push_id: None,
            chatter: 0,
        }
    }

    /// The peer opened a unidirectional stream.
    pub fn on_open(&mut self, stream: u64) {
        if self.position(stream).is_none() {
            self.chatter += 1;
            self.streams
                .push((stream, Stream::Type(varint::Incremental::default())));
        }
    }

    /// Bytes arrived on a stream; what they mean is appended to `events`. Bytes of streams that were stopped are
    /// ignored.
    pub fn on_data(
        &mut self,
        stream: u64,
        chunk: Bytes,
        events: &mut Vec<ControlEvent>,
    ) -> Result<(), H3Error> {
        let mut chunk = chunk;
        while !chunk.is_empty() {
            let Some(position) = self.position(stream) else {
                return Ok(());
            };
            let Some((_, state)) = self.streams.get_mut(position) else {
                return Ok(());
            };
            match state {
                Stream::Type(reader) => {
                    let mut rest: &[u8] = &chunk;
                    let kind = reader.decode(&mut rest);
                    let used = chunk.len() - rest.len();
                    chunk.advance(used);
                    if let Some(kind) = kind {
                        self.on_type(position, kind, events)?;
                    }
                }
                Stream::Control => {
                    while let Some(frame) = self.frames.next(&mut chunk)? {
                        self.on_frame(frame, events)?;
                    }
                }
                // Each byte of these is, or is a part of, an instruction that changes nothing for us.
                Stream::Encoder(encoder) => {
                    self.chatter += chunk.len() as u64;
                    encoder.on_data(&std::mem::take(&mut chunk))?;
                }
                Stream::Decoder(decoder) => {
                    self.chatter += chunk.len() as u64;
                    decoder.on_data(&std::mem::take(&mut chunk))?;
                }
            }
        }
        Ok(())
    }

    /// FIN came: an error on a critical stream, however clean (RFC 9114 section 6.2.1).
    pub fn on_end(&mut self, stream: u64) -> Result<(), H3Error> {
        let Some(position) = self.position(stream) else {
            return Ok(());
        };
        // Streams may end before their type is known (RFC 9114 section 6.2).
        match self.streams.swap_remove(position).1.kind() {
            Some(kind) => Err(H3Error::ClosedCriticalStream(kind)),
            None => Ok(()),
        }
    }

    /// The peer reset the stream.
    pub fn on_reset(&mut self, stream: u64) -> Result<(), H3Error> {
        self.on_end(stream)
    }

    /// How much came since the last call of what may be sent and means nothing: streams that were opened, frames
    /// beyond SETTINGS, pieces of a kilobyte of those that are skipped, bytes of QPACK's streams.
    pub fn take_chatter(&mut self) -> u64 {
        std::mem::take(&mut self.chatter) + self.frames.take_chatter()
    }

    /// Whether SETTINGS arrived.
    pub fn has_settings(&self) -> bool {
        self.frames.has_settings()
    }

    fn position(&self, stream: u64) -> Option<usize> {
        self.streams.iter().position(|(id, _)| *id == stream)
    }

    fn on_type(&mut self, position: usize, kind: u64, events: &mut Vec<ControlEvent>) -> Result<(), H3Error> {
        let (kind, state) = match kind {
            stream_type::CONTROL => (UniStreamKind::Control, Stream::Control),
            stream_type::QPACK_ENCODER => (UniStreamKind::QpackEncoder, Stream::Encoder(EncoderStream)),
            stream_type::QPACK_DECODER => (
                UniStreamKind::QpackDecoder,
                Stream::Decoder(DecoderStream::default()),
            ),
            // Only servers push, and a push stream needs a push ID, of which we never allow one.
            stream_type::PUSH => {
                return Err(match self.role {
                    Role::Client => H3Error::PushId,
                    Role::Server => H3Error::PushStreamFromClient,
                });
            }
            _ => {
                let (stream, _) = self.streams.swap_remove(position);
                events.push(ControlEvent::StopStream(stream, Code::H3_STREAM_CREATION_ERROR));
                return Ok(());
            }
        };
        match self.opened.get_mut(kind as usize) {
            Some(opened) if !*opened => *opened = true,
            _ => return Err(H3Error::DuplicateStream(kind)),
        }
        if let Some((_, stream)) = self.streams.get_mut(position) {
            *stream = state;
        }
        Ok(())
    }

    fn on_frame(&mut self, frame: ControlFrame, events: &mut Vec<ControlEvent>) -> Result<(), H3Error> {
        match frame {
            ControlFrame::Settings(settings) => events.push(ControlEvent::Settings(settings)),
            ControlFrame::GoAway(id) => {
                if self.role == Role::Client && !id.is_multiple_of(4) {
                    return Err(H3Error::GoAwayStreamType);
                }
                if self.goaway.is_some_and(|last| id > last) {
                    return Err(H3Error::GoAwayIncreased);
                }
                self.goaway = Some(id);
                events.push(ControlEvent::GoAway(id));
            }
            // A client has allowed no push ID and a server has promised none (RFC 9114 section 7.2.3).
            ControlFrame::CancelPush(_) => return Err(H3Error::PushId),
            ControlFrame::MaxPushId(_) if self.role == Role::Client => {
                return Err(H3Error::UnexpectedFrame(kind::MAX_PUSH_ID));
            }
            ControlFrame::MaxPushId(id) => {
                if self.max_push_id.is_some_and(|last| id < last) {
                    return Err(H3Error::MaxPushIdReduced);
                }
                self.max_push_id = Some(id);
            }
        }
        Ok(())
    }
}

/// Appends the beginning of our control stream: its type and SETTINGS.
pub fn encode_control_stream(settings: &Settings, seed: u64, out: &mut BytesMut) {
    varint::encode(stream_type::CONTROL, out);
    settings.encode(seed, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h3::error::SettingsError;
    use crate::h3::frame::{encode_frame_header, encode_goaway};
    use proptest::prelude::*;

    fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        encode_frame_header(kind, payload.len() as u64, &mut out);
        out.extend_from_slice(payload);
        out.to_vec()
    }

    fn settings() -> Vec<u8> {
        frame(kind::SETTINGS, &[0x33, 1])
    }

    /// Feeds one stream in pieces of `size`.
    fn feed(
        control: &mut ControlIn,
        id: u64,
        bytes: &[u8],
        size: usize,
    ) -> Result<Vec<ControlEvent>, H3Error> {
        let mut events = Vec::new();
        control.on_open(id);
        for chunk in bytes.chunks(size.max(1)) {
            control.on_data(id, Bytes::copy_from_slice(chunk), &mut events)?;
        }
        Ok(events)
    }

    /// A control stream with SETTINGS and then `frames`.
    fn control(role: Role, frames: &[u8]) -> Result<Vec<ControlEvent>, H3Error> {
        let bytes = [&[0], &settings()[..], frames].concat();
        let mut whole = ControlIn::new(role);
        let result = feed(&mut whole, 3, &bytes, usize::MAX);
        for size in 1..4 {
            let mut pieces = ControlIn::new(role);
            assert_eq!(
                feed(&mut pieces, 3, &bytes, size),
                result,
                "chunking must not matter"
            );
        }
        result
    }

    #[test]
    fn settings_come_first_and_once() {
        let mut peer = ControlIn::new(Role::Client);
        assert!(!peer.has_settings());
        let mut out = BytesMut::new();
        let ours = Settings {
            h3_datagram: true,
            ..Settings::default()
        };
        encode_control_stream(&ours, 0x1234_5678, &mut out);
        assert_eq!(
            feed(&mut peer, 3, &out, 1).unwrap(),
            [ControlEvent::Settings(ours)]
        );
        assert!(peer.has_settings());
        for first in [
            frame(kind::GOAWAY, &[0]),
            frame(0x21, b"grease"),
            frame(kind::DATA, b""),
            frame(0x2, b""),
        ] {
            let bytes = [&[0], &first[..]].concat();
            let result = feed(&mut ControlIn::new(Role::Client), 3, &bytes, 1);
            assert_eq!(result, Err(H3Error::MissingSettings));
        }
        assert_eq!(
            control(Role::Client, &settings()),
            Err(H3Error::UnexpectedFrame(kind::SETTINGS))
        );
        let bad = [&[0], &frame(kind::SETTINGS, &[0x2, 0])[..]].concat();
        let result = feed(&mut ControlIn::new(Role::Client), 3, &bad, 1);
        assert_eq!(result, Err(SettingsError::Reserved(2).into()));
        let mut long = BytesMut::from(&[0][..]);
        encode_frame_header(kind::SETTINGS, 4097, &mut long);
        let result = feed(&mut ControlIn::new(Role::Client), 3, &long, 1);
        assert_eq!(result, Err(H3Error::FrameTooLong(kind::SETTINGS)));
    }

    #[test]
    fn frames_by_role() {
        let both = [Role::Client, Role::Server];
        for role in both {
            for kind in [kind::DATA, kind::HEADERS, kind::PUSH_PROMISE] {
                assert_eq!(
                    control(role, &frame(kind, b"x")),
                    Err(H3Error::UnexpectedFrame(kind))
                );
            }
            for kind in [0x2, 0x6, 0x8, 0x9] {
                assert_eq!(
                    control(role, &frame(kind, b"")),
                    Err(H3Error::ReservedFrame(kind))
                );
            }
            for kind in [kind::GOAWAY, kind::CANCEL_PUSH, kind::MAX_PUSH_ID] {
                for payload in [&b""[..], &[0x40], &[0, 0], &[0; 9]] {
                    assert_eq!(
                        control(role, &frame(kind, payload)),
                        Err(H3Error::MalformedFrame(kind))
                    );
                }
            }
            assert_eq!(
                control(role, &frame(kind::CANCEL_PUSH, &[0])),
                Err(H3Error::PushId)
            );
            assert_eq!(
                control(role, &frame(0x21, &[7; 300])).unwrap().len(),
                1,
                "skipped"
            );
        }
        let raised = [frame(kind::MAX_PUSH_ID, &[1]), frame(kind::MAX_PUSH_ID, &[5])].concat();
        assert_eq!(control(Role::Server, &raised).unwrap().len(), 1);
        let reduced = [frame(kind::MAX_PUSH_ID, &[5]), frame(kind::MAX_PUSH_ID, &[1])].concat();
        assert_eq!(control(Role::Server, &reduced), Err(H3Error::MaxPushIdReduced));
        let to_client = control(Role::Client, &frame(kind::MAX_PUSH_ID, &[1]));
        assert_eq!(to_client, Err(H3Error::UnexpectedFrame(kind::MAX_PUSH_ID)));
    }

    #[test]
    fn goaway() {
        let frames = |ids: &[u64]| {
            let mut out = BytesMut::new();
            ids.iter().for_each(|id| encode_goaway(*id, &mut out));
            out
        };
        let events = control(Role::Client, &frames(&[400, 8, 8, 0])).unwrap();
        assert_eq!(events[1..], [400, 8, 8, 0].map(ControlEvent::GoAway));
        assert_eq!(
            control(Role::Client, &frames(&[8, 12])),
            Err(H3Error::GoAwayIncreased)
        );
        assert_eq!(
            control(Role::Client, &frames(&[9])),
            Err(H3Error::GoAwayStreamType)
        );
        assert_eq!(
            control(Role::Server, &frames(&[9])).unwrap()[1],
            ControlEvent::GoAway(9),
            "a push ID"
        );
        assert_eq!(
            control(Role::Server, &frames(&[9, 10])),
            Err(H3Error::GoAwayIncreased)
        );
    }

    #[test]
    fn critical_streams_are_single_and_stay_open() {
        for (kind, stream) in [
            (0, UniStreamKind::Control),
            (2, UniStreamKind::QpackEncoder),
            (3, UniStreamKind::QpackDecoder),
        ] {
            let mut peer = ControlIn::new(Role::Client);
            feed(&mut peer, 3, &[kind], 1).unwrap();
            assert_eq!(
                feed(&mut peer, 7, &[kind], 1),
                Err(H3Error::DuplicateStream(stream))
            );
            let mut peer = ControlIn::new(Role::Client);
            feed(&mut peer, 3, &[kind], 1).unwrap();
            let error = peer.on_end(3).unwrap_err();
            assert_eq!(error, H3Error::ClosedCriticalStream(stream));
            assert_eq!(error.code(), Code::H3_CLOSED_CRITICAL_STREAM);
            let mut peer = ControlIn::new(Role::Client);
            feed(&mut peer, 3, &[kind], 1).unwrap();
            assert_eq!(peer.on_reset(3), Err(H3Error::ClosedCriticalStream(stream)));
        }
        // Ended before the type is known.
        let mut peer = ControlIn::new(Role::Client);
        feed(&mut peer, 3, &[0x40], 1).unwrap();
        assert_eq!(peer.on_end(3), Ok(()));
        assert_eq!(peer.on_end(3), Ok(()));
    }

    #[test]
    fn other_streams_are_stopped_and_ignored() {
        let mut peer = ControlIn::new(Role::Server);
        let events = feed(&mut peer, 2, &[0x21, 1, 2, 3, 4], 1).unwrap();
        assert_eq!(
            events,
            [ControlEvent::StopStream(2, Code::H3_STREAM_CREATION_ERROR)]
        );
        assert_eq!(peer.on_end(2), Ok(()));
        assert!(peer.streams.is_empty());
        assert_eq!(
            feed(&mut ControlIn::new(Role::Client), 3, &[1, 0], 1),
            Err(H3Error::PushId)
        );
        let from_client = feed(&mut ControlIn::new(Role::Server), 2, &[1, 0], 1).unwrap_err();
        assert_eq!(from_client.code(), Code::H3_STREAM_CREATION_ERROR);
    }

    #[test]
    fn qpack_streams_know_that_there_is_no_table() {
        for (bytes, is_legal) in [
            (&[0x20][..], true),
            (&[0x20, 0x20], true),
            (&[0x21], false),
            (&[0x3f, 0x01], false),
            (&[0x80, 0x00], false),
            (&[0xc0, 0x00], false),
            (&[0x41, b'a', 0x00], false),
            (&[0x00], false),
        ] {
            let result = feed(&mut ControlIn::new(Role::Client), 3, &[&[2], bytes].concat(), 1);
            assert_eq!(
                result.err(),
                (!is_legal).then_some(H3Error::QpackEncoderStream),
                "{bytes:?}"
            );
        }
        for (bytes, is_legal) in [
            (&[0x40][..], true),
            (&[0x44, 0x48], true),
            (&[0x7f, 0x80, 0x01, 0x40], true),
            (&[0x80], false),
            (&[0x84], false),
            (&[0x01], false),
            (&[0x00], false),
            (
                &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
                false,
            ),
        ] {
            let result = feed(&mut ControlIn::new(Role::Client), 3, &[&[3], bytes].concat(), 1);
            assert_eq!(
                result.err(),
                (!is_legal).then_some(H3Error::QpackDecoderStream),
                "{bytes:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn random_streams_never_panic_and_chunking_does_not_matter(
            bytes in proptest::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..200),
            size in 1usize..20,
            with_settings: bool,
        ) {
            let start = if with_settings { [&[0], &settings()[..]].concat() } else { Vec::new() };
            let bytes = [start, bytes].concat();
            let whole = feed(&mut ControlIn::new(Role::Server), 2, &bytes, usize::MAX);
            let pieces = feed(&mut ControlIn::new(Role::Server), 2, &bytes, size);
            prop_assert_eq!(whole, pieces);
        }
    }
}
