//! One direction of a request stream, received: bytes in, a checked message out.

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::Role;
use super::error::H3Error;
use super::frame::{Frame, FrameDecoder};
use super::message::{
    BodyLength, HeadKind, MessageKind, MessageState, RequestHead, ResponseHead, Section, response_kind,
};
use super::qpack::FieldLimits;
use super::request::decode_request;
use super::response::{decode_response, decode_trailers};

/// A part of a message, in the order of the message.
#[derive(Clone, Debug)]
pub enum Part {
    /// The head of a request: always the first part.
    Request(RequestHead),
    /// The head of an interim response (1xx): another head follows.
    Interim(ResponseHead),
    /// The head of the final response.
    Response(ResponseHead),
    /// A piece of the content or of the tunnel, never empty: a slice of a chunk that was fed.
    Data(Bytes),
    /// The trailers: nothing but the end follows.
    Trailers(HeaderMap),
}

/// Reads a message from the bytes of a request stream, and enforces every rule on the way.
///
/// Feed a chunk with [`push`](Self::push), call [`next`](Self::next) until it returns `None`, and at FIN call
/// [`finish`](Self::finish). A message is whole, and may be passed on as such, only when `finish` returned `Ok`.
/// An error is final.
#[derive(Debug)]
pub struct MessageReader {
    frames: FrameDecoder,
    state: MessageState,
    body: BodyLength,
    limits: FieldLimits,
    expected: Expected,
    interim: u32,
}

#[derive(Debug)]
enum Expected {
    Request,
    /// A response to a request with this method.
    Response(Method),
}

/// Interim responses before the final one. Real servers send one or two.
const MAX_INTERIM: u32 = 16;

impl MessageReader {
    /// For a server: reads a request.
    pub fn request(limits: FieldLimits) -> MessageReader {
        MessageReader::new(Role::Server, limits, Expected::Request)
    }

    /// For a client: reads the response to a request with `method`.
    pub fn response(limits: FieldLimits, method: Method) -> MessageReader {
        MessageReader::new(Role::Client, limits, Expected::Response(method))
    }

    fn new(role: Role, limits: FieldLimits, expected: Expected) -> MessageReader {
        MessageReader {
            frames: FrameDecoder::new(role, limits.max_block()),
            state: MessageState::Head,
            body: BodyLength::Unknown,
            limits,
            expected,
            interim: 0,
        }
    }

    /// Whether the head of a request is still to come.
    pub fn awaits_request(&self) -> bool {
        matches!(self.expected, Expected::Request) && self.state == MessageState::Head
    }

    /// Feeds the next bytes of the stream, when [`next`](Self::next) has returned `None`.
    pub fn push(&mut self, chunk: Bytes) {
        self.frames.push(chunk);
    }

    /// The next part; `None` when the fed bytes are used up.
    #[expect(
        clippy::should_implement_trait,
        reason = "it is fed between calls, so it is no iterator"
    )]
    pub fn next(&mut self) -> Result<Option<Part>, H3Error> {
        loop {
            match self.frames.next()? {
                None => return Ok(None),
                Some(Frame::Data(piece)) => {
                    self.state.on_data()?;
                    self.body.on_data(piece.len())?;
                    if !piece.is_empty() {
                        return Ok(Some(Part::Data(piece)));
                    }
                }
                Some(Frame::Headers(block)) => return self.section(&block).map(Some),
            }
        }
    }

    /// FIN came, and [`next`](Self::next) has returned `None`: whether the message is whole.
    pub fn finish(&mut self) -> Result<(), H3Error> {
        self.frames.finish()?;
        let message = match self.expected {
            Expected::Request => MessageKind::Request,
            Expected::Response(_) => MessageKind::Response,
        };
        self.state.on_end(message)?;
        self.body.on_end()?;
        Ok(())
    }

    /// Where the message stands.
    pub fn state(&self) -> MessageState {
        self.state
    }

    /// What is left of the content by `content-length`.
    pub fn body_length(&self) -> BodyLength {
        self.body
    }

    /// Bytes kept between calls, for memory accounting.
    pub fn buffered(&self) -> usize {
        self.frames.buffered()
    }

    fn section(&mut self, block: &[u8]) -> Result<Part, H3Error> {
        match self.state.section()? {
            Section::Head => self.head(block),
            Section::Trailers => {
                let trailers = decode_trailers(block, &self.limits)?;
                self.body.on_end()?;
                self.state.on_trailers()?;
                Ok(Part::Trailers(trailers))
            }
        }
    }

    fn head(&mut self, block: &[u8]) -> Result<Part, H3Error> {
        match &self.expected {
            Expected::Request => {
                let head = decode_request(block, &self.limits)?;
                self.state.on_head(if head.is_connect() {
                    HeadKind::Tunnel
                } else {
                    HeadKind::Final
                })?;
                self.body = BodyLength::of_request(&head)?;
                Ok(Part::Request(head))
            }
            Expected::Response(method) => {
                let head = decode_response(block, &self.limits)?;
                let kind = response_kind(method, &head);
                self.state.on_head(kind)?;
                if kind == HeadKind::Interim {
                    self.interim += 1;
                    if self.interim > MAX_INTERIM {
                        return Err(H3Error::UselessFrames);
                    }
                    return Ok(Part::Interim(head));
                }
                self.body = BodyLength::of_response(method, &head)?;
                Ok(Part::Response(head))
            }
        }
    }
}
