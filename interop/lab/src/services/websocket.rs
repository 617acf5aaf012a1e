//! The WebSocket echo (RFC 6455) at `/ws` of [`super::http`]: answers each text and binary message, PING with
//! PONG, CLOSE with CLOSE.
//!
//! Frames are written by hand, for the service and for the client: a mesh carries them as opaque bytes, so that
//! a test needs to see them as they are.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longer frames end the connection.
pub const MAX_PAYLOAD: u64 = 16 * 1024 * 1024;

/// What a frame is for (RFC 6455 section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// The next part of a message.
    Continuation,
    /// A message of UTF-8 text.
    Text,
    /// A message of bytes.
    Binary,
    /// The end of the conversation.
    Close,
    /// Asks for a PONG of the same content.
    Ping,
    /// The answer to a PING.
    Pong,
}

impl Opcode {
    const ALL: [(Self, u8); 6] = [
        (Self::Continuation, 0),
        (Self::Text, 1),
        (Self::Binary, 2),
        (Self::Close, 8),
        (Self::Ping, 9),
        (Self::Pong, 10),
    ];

    fn number(self) -> u8 {
        Self::ALL
            .iter()
            .find(|(opcode, _)| *opcode == self)
            .map_or(0, |(_, number)| *number)
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == number)
            .map(|(opcode, _)| *opcode)
    }
}

/// A frame, unmasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whether it ends its message.
    pub fin: bool,
    /// What it is for.
    pub opcode: Opcode,
    /// Its content.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A whole message or a control frame.
    pub fn whole(opcode: Opcode, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            fin: true,
            opcode,
            payload: payload.into(),
        }
    }

    /// The frame as it crosses the wire. A client masks every frame, a server none (RFC 6455 section 5.3).
    pub fn encode(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let mask_bit = if mask.is_some() { 0x80 } else { 0 };
        let mut wire = vec![if self.fin { 0x80 } else { 0 } | self.opcode.number()];
        match (
            u8::try_from(self.payload.len()),
            u16::try_from(self.payload.len()),
        ) {
            (Ok(short @ ..126), _) => wire.push(mask_bit | short),
            (_, Ok(medium)) => {
                wire.push(mask_bit | 126);
                wire.extend_from_slice(&medium.to_be_bytes());
            }
            _ => {
                wire.push(mask_bit | 127);
                wire.extend_from_slice(&(self.payload.len() as u64).to_be_bytes());
            }
        }
        wire.extend_from_slice(mask.as_ref().map_or(&[], |mask| mask.as_slice()));
        let start = wire.len();
        wire.extend_from_slice(&self.payload);
        apply_mask(
            wire.get_mut(start..).unwrap_or_default(),
            mask.unwrap_or_default(),
        );
        wire
    }

    /// Reads a frame; `None` at an end of the stream between frames.
    ///
    /// # Errors
    /// The stream's, and `InvalidData` for a frame that breaks the protocol or is longer than [`MAX_PAYLOAD`].
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let mut first = [0];
        if stream.read(&mut first).await? == 0 {
            return Ok(None);
        }
        let [first] = first;
        let second = stream.read_u8().await?;
        let opcode = Opcode::from_number(first & 0x0f).ok_or(io::ErrorKind::InvalidData)?;
        // The reserved bits belong to extensions, and none was agreed.
        if first & 0x70 != 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let length = match second & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        if length > MAX_PAYLOAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut mask = [0; 4];
        if second & 0x80 != 0 {
            stream.read_exact(&mut mask).await?;
        }
        let mut payload = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        stream.read_exact(&mut payload).await?;
        apply_mask(&mut payload, mask);
        Ok(Some(Self {
            fin: first & 0x80 != 0,
            opcode,
            payload,
        }))
    }
}

/// The `Sec-WebSocket-Accept` that proves that a server read `key` (RFC 6455 section 4.2.2).
pub fn accept_value(key: &[u8]) -> String {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()))
}

/// Answers a request for an upgrade, and serves the connection once it is upgraded.
pub(super) fn answer(mut request: Request<Incoming>) -> Response<()> {
    let mut response = Response::new(());
    let Some(key) = upgrade_key(request.headers()) else {
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        response
            .headers_mut()
            .insert(UPGRADE, HeaderValue::from_static("websocket"));
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response
            .headers_mut()
            .insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return response;
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(stream) = upgraded.await {
            echo(TokioIo::new(stream)).await.ok();
        }
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert(UPGRADE, HeaderValue::from_static("websocket"));
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(value) = HeaderValue::try_from(accept_value(key.as_bytes())) {
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, value);
    }
    response
}

fn upgrade_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let is = |name, wanted: &[u8]| {
        headers
            .get(name)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(wanted))
    };
    if !is(UPGRADE, b"websocket") || !is(SEC_WEBSOCKET_VERSION, b"13") {
        return None;
    }
    headers.get(SEC_WEBSOCKET_KEY).cloned()
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    while let Some(mut frame) = Frame::read(&mut stream).await? {
        match frame.opcode {
            Opcode::Pong => continue,
            Opcode::Ping => frame.opcode = Opcode::Pong,
            Opcode::Continuation | Opcode::Text | Opcode::Binary | Opcode::Close => {}
        }
        stream.write_all(&frame.encode(None)).await?;
        stream.flush().await?;
        if frame.opcode == Opcode::Close {
            break;
        }
    }
    stream.shutdown().await
}

fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        // RFC 6455 section 1.3.
        assert_eq!(
            accept_value(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[tokio::test]
    async fn frames_of_every_length_form_survive() {
        for length in [0, 125, 126, 65_535, 65_536] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let frame = Frame::whole(Opcode::Binary, vec![7; length]);
                let wire = frame.encode(mask);
                let read = Frame::read(&mut wire.as_slice()).await.unwrap();
                assert_eq!(read, Some(frame), "{length} bytes, mask {mask:?}");
            }
        }
    }

    #[tokio::test]
    async fn the_example_of_the_rfc_is_read() {
        // RFC 6455 section 5.7: a masked "Hello".
        let wire = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let frame = Frame::read(&mut &wire[..]).await.unwrap();
        assert_eq!(frame, Some(Frame::whole(Opcode::Text, "Hello")));
    }

    #[tokio::test]
    async fn a_frame_too_long_is_refused_before_it_is_read() {
        let wire = [0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0];
        let error = Frame::read(&mut &wire[..]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
