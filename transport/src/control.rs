//! The control streams of one connection: ours, and what the peer says on its.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use quinn_proto::{Connection, Dir, ReadError, ReadableError, StreamId, VarInt};

use crate::{
    config::{Config, Side},
    h3::{
        Code, ControlEvent, ControlIn, Encoding, H3Error, Role, Settings, control::encode_control_stream,
        frame::encode_goaway,
    },
};

/// The most that a peer that has not said otherwise is sent in one field section.
const DEFAULT_SECTION: u64 = 64 << 10;

/// Both control streams.
pub(crate) struct Control {
    incoming: ControlIn,
    outgoing: Option<StreamId>,
    /// What the control stream could not take yet; a full one holds a few hundred bytes.
    unsent: BytesMut,
    settings: Settings,
    peer: Option<Settings>,
    /// The peer said GOAWAY.
    goes_away: bool,
}

impl Control {
    pub(crate) fn new(side: Side, config: &Arc<Config>) -> Self {
        let role = match side {
            Side::Dial => Role::Client,
            Side::Listen => Role::Server,
        };
        let settings = Settings {
            max_field_section_size: Some(config.limits.max_section_size),
            enable_connect_protocol: side == Side::Listen,
            ..Settings::default()
        };
        Self {
            incoming: ControlIn::new(role),
            outgoing: None,
            unsent: BytesMut::new(),
            settings,
            peer: None,
            goes_away: false,
        }
    }

    /// Opens our control stream with SETTINGS (RFC 9114 section 6.2.1). `seed` varies what peers must ignore.
    pub(crate) fn open(&mut self, proto: &mut Connection, seed: u64) {
        self.outgoing = proto.streams().open(Dir::Uni);
        // Reserved settings and frames, so that peers keep ignoring what they do not know (GREASE).
        encode_control_stream(&self.settings, seed, &mut self.unsent);
        self.flush(proto);
    }

    /// Says that requests from stream `first_refused` on are not processed (RFC 9114 section 5.2).
    pub(crate) fn send_goaway(&mut self, proto: &mut Connection, first_refused: u64) {
        encode_goaway(first_refused, &mut self.unsent);
        self.flush(proto);
    }

    /// Has the peer said that it takes no new requests?
    pub(crate) fn peer_goes_away(&self) -> bool {
        self.goes_away
    }

    /// How to encode messages for this peer.
    pub(crate) fn encoding(&self) -> Encoding {
        let limit = self.peer.and_then(|settings| settings.max_field_section_size);
        Encoding {
            max_section_size: limit.unwrap_or(DEFAULT_SECTION),
            ..Encoding::default()
        }
    }

    pub(crate) fn on_open(&mut self, id: StreamId) {
        self.incoming.on_open(id.into());
    }

    /// Reads what there is on a unidirectional stream of the peer's. Returns the id of a GOAWAY.
    pub(crate) fn read(&mut self, proto: &mut Connection, id: StreamId) -> Result<Option<u64>, H3Error> {
        let mut goaway = None;
        loop {
            let chunk = match read_chunk(proto, id) {
                Chunk::Data(chunk) => chunk,
                Chunk::Nothing => return Ok(goaway),
                Chunk::End => return self.incoming.on_end(id.into()).map(|()| goaway),
                Chunk::Reset => return self.incoming.on_reset(id.into()).map(|()| goaway),
            };
            let mut events = Vec::new();
            self.incoming.on_data(id.into(), chunk, &mut events)?;
            for event in events {
                match event {
                    ControlEvent::Settings(settings) => self.peer = Some(settings),
                    ControlEvent::GoAway(first_unprocessed) => {
                        self.goes_away = true;
                        goaway = Some(first_unprocessed);
                    }
                    ControlEvent::StopStream(stream, code) => stop(proto, stream, code),
                }
            }
        }
    }

    /// What the peer sent since the last call that means nothing, in frames and streams: see
    /// [`ControlIn::take_chatter`].
    pub(crate) fn take_chatter(&mut self) -> u64 {
        self.incoming.take_chatter()
    }

    /// Sends what the control stream has room for.
    pub(crate) fn flush(&mut self, proto: &mut Connection) {
        let Some(id) = self.outgoing else { return };
        if let Ok(written) = proto.send_stream(id).write(&self.unsent) {
            self.unsent.advance(written);
        }
    }
}

enum Chunk {
    Data(Bytes),
    Nothing,
    End,
    Reset,
}

fn read_chunk(proto: &mut Connection, id: StreamId) -> Chunk {
    let mut stream = proto.recv_stream(id);
    let mut chunks = match stream.read(true) {
        Ok(chunks) => chunks,
        // Stopped by us before.
        Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => return Chunk::Nothing,
    };
    let read = chunks.next(usize::MAX);
    // Flow control credit goes out with the next packet of the connection.
    let _ = chunks.finalize();
    match read {
        Ok(Some(chunk)) => Chunk::Data(chunk.bytes),
        Ok(None) => Chunk::End,
        Err(ReadError::Blocked) => Chunk::Nothing,
        Err(ReadError::Reset(_)) => Chunk::Reset,
    }
}

fn stop(proto: &mut Connection, stream: u64, code: Code) {
    let (Ok(stream), Ok(code)) = (VarInt::from_u64(stream), VarInt::from_u64(code.value())) else {
        return;
    };
    let _ = proto.recv_stream(stream.into()).stop(code);
}
