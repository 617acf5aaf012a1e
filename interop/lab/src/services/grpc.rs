//! A gRPC application on HTTP/2 with prior knowledge, framed by hand: the protocol is a five-byte prefix and
//! trailers, and hand-framing lets it be wrong on purpose. Messages are opaque bytes.
//!
//! | method of [`SERVICE`] | what it does |
//! |---|---|
//! | `Unary` | answers the message |
//! | `ClientStream` | answers `N messages, M bytes` when the client has closed its side |
//! | `ServerStream` | the message is a decimal number N below 65,536: answers `0`, `1`, .. N-1 |
//! | `BidiStream` | answers each message as it comes |
//!
//! The request field `lab-status: N` makes a call end with that status after its messages.
//! Other methods end with UNIMPLEMENTED, trailers-only. Calls are counted and can be made to fail as those of
//! [`http`](super::http) are: `/counts` and `/fault`, over HTTP/1.1 too.

use super::accept;
use super::http::{Application, Body, Options, Routes, connection, empty};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream::unfold;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tokio::net::TcpListener;

/// The service's full name.
pub const SERVICE: &str = "weft.lab.v1.Echo";

/// The field that chooses a call's final status.
pub const STATUS_FIELD: &str = "lab-status";

/// The status codes used here (the gRPC specification's numbers).
pub mod code {
    /// OK.
    pub const OK: u32 = 0;
    /// INVALID_ARGUMENT.
    pub const INVALID_ARGUMENT: u32 = 3;
    /// RESOURCE_EXHAUSTED.
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    /// UNIMPLEMENTED.
    pub const UNIMPLEMENTED: u32 = 12;
    /// INTERNAL.
    pub const INTERNAL: u32 = 13;
}

/// gRPC's customary limit of a message.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// The compressed flag and the length.
const PREFIX: usize = 5;

/// Serves until dropped.
///
/// # Errors
/// Only when the listener fails.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    serve_with(listener, Options::named("grpc")).await
}

/// The same by another name.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with(listener: TcpListener, options: Options) -> io::Result<()> {
    let application = Arc::new(Application::new(options));
    accept(listener, |stream, _| {
        connection(stream, Arc::clone(&application), Routes::Grpc)
    })
    .await
}

/// A message with its prefix, as it crosses the wire.
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// Reads messages out of DATA, wherever DATA is cut.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: BytesMut,
}

impl Deframer {
    /// Adds received bytes.
    pub fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// The status with which the call ends: the message is compressed or too long.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, u32> {
        let Some((&[compressed, a, b, c, d], rest)) = self.buffer.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if compressed != 0 {
            return Err(code::UNIMPLEMENTED);
        }
        if length > MAX_MESSAGE {
            return Err(code::RESOURCE_EXHAUSTED);
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Whether a message was cut off.
    pub fn is_cut_off(&self) -> bool {
        !self.buffer.is_empty()
    }
}

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

pub(super) fn answer(request: Request<Incoming>) -> Response<Body> {
    let method = match request
        .uri()
        .path()
        .strip_prefix('/')
        .and_then(|path| path.split_once('/'))
    {
        Some((SERVICE, "Unary")) => Method::Unary,
        Some((SERVICE, "ClientStream")) => Method::ClientStream {
            messages: 0,
            bytes: 0,
        },
        Some((SERVICE, "ServerStream")) => Method::ServerStream,
        Some((SERVICE, "BidiStream")) => Method::BidiStream,
        _ => return trailers_only(code::UNIMPLEMENTED),
    };
    let status = request
        .headers()
        .get(STATUS_FIELD)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let call = Call {
        method,
        body: request.into_body(),
        deframer: Deframer::default(),
        outgoing: VecDeque::new(),
        state: State::Reading,
        status: status.unwrap_or(code::OK),
    };
    grpc_response(StreamBody::new(unfold(call, Call::next_frame)).boxed_unsync())
}

enum Method {
    Unary,
    ClientStream { messages: u64, bytes: u64 },
    ServerStream,
    BidiStream,
}

enum State {
    /// The client's side is open.
    Reading,
    /// What remains is to be sent, then this status.
    Ending(u32),
    Ended,
}

/// A call being served.
struct Call {
    method: Method,
    body: Incoming,
    deframer: Deframer,
    outgoing: VecDeque<Bytes>,
    state: State,
    status: u32,
}

impl Call {
    /// The answer's next frame.
    async fn next_frame(mut self) -> Option<(Result<Frame<Bytes>, hyper::Error>, Self)> {
        loop {
            if let Some(message) = self.outgoing.pop_front() {
                return Some((Ok(Frame::data(frame(&message))), self));
            }
            match self.state {
                State::Ended => return None,
                State::Ending(status) => {
                    self.state = State::Ended;
                    return Some((Ok(Frame::trailers(status_fields(status))), self));
                }
                State::Reading => {}
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.on_data(data);
                    }
                }
                Some(Err(error)) => {
                    return Some((
                        Err(error),
                        Self {
                            state: State::Ended,
                            ..self
                        },
                    ));
                }
                None => self.on_end(),
            }
        }
    }

    fn on_data(&mut self, data: &[u8]) {
        self.deframer.push(data);
        loop {
            match self.deframer.next_message() {
                Ok(Some(message)) => self.on_message(message),
                Ok(None) => return,
                Err(status) => return self.state = State::Ending(status),
            }
        }
    }

    fn on_message(&mut self, message: Bytes) {
        match &mut self.method {
            Method::Unary | Method::BidiStream => self.outgoing.push_back(message),
            Method::ClientStream { messages, bytes } => {
                *messages += 1;
                *bytes += message.len() as u64;
            }
            Method::ServerStream => {
                match std::str::from_utf8(&message)
                    .ok()
                    .and_then(|text| text.parse::<u16>().ok())
                {
                    Some(count) => self
                        .outgoing
                        .extend((0..count).map(|n| Bytes::from(n.to_string()))),
                    None => self.status = code::INVALID_ARGUMENT,
                }
            }
        }
    }

    fn on_end(&mut self) {
        if self.deframer.is_cut_off() {
            self.state = State::Ending(code::INTERNAL);
            return;
        }
        if let Method::ClientStream { messages, bytes } = self.method {
            self.outgoing
                .push_back(format!("{messages} messages, {bytes} bytes").into());
        }
        self.state = State::Ending(self.status);
    }
}

pub(super) fn trailers_only(status: u32) -> Response<Body> {
    let mut response = grpc_response(empty());
    response.headers_mut().extend(status_fields(status));
    response
}

fn grpc_response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn status_fields(status: u32) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", HeaderValue::from(status));
    if status != code::OK {
        fields.insert(
            "grpc-message",
            HeaderValue::from_static("asked for by the caller"),
        );
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_cut() {
        let wire: Vec<u8> = [frame(b"first"), frame(b""), frame(b"third")].concat();
        for size in 1..wire.len() {
            let (mut deframer, mut messages) = (Deframer::default(), Vec::new());
            for piece in wire.chunks(size) {
                deframer.push(piece);
                while let Some(message) = deframer.next_message().unwrap() {
                    messages.push(message);
                }
            }
            assert_eq!(messages, [&b"first"[..], b"", b"third"], "cut every {size} bytes");
            assert!(!deframer.is_cut_off());
        }
    }

    #[test]
    fn compressed_and_oversized_messages_are_refused() {
        let mut deframer = Deframer::default();
        deframer.push(&[1, 0, 0, 0, 0]);
        assert_eq!(deframer.next_message(), Err(code::UNIMPLEMENTED));
        let mut deframer = Deframer::default();
        deframer.push(&[0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(deframer.next_message(), Err(code::RESOURCE_EXHAUSTED));
    }
}
