//! Messages: their heads, the order of their frames, and the length of their content.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, StatusCode};

use super::error::{H3Error, MessageError};
use super::field_map::content_length;
use super::frame::kind;

/// The head of a request.
///
/// | request | scheme | authority | path | protocol |
/// |---|---|---|---|---|
/// | any but CONNECT | some | some | some | none |
/// | CONNECT (RFC 9114 section 4.4) | none | some, with a port | none | none |
/// | extended CONNECT (RFC 9220) | some | some | some | some |
///
/// A decoded head never has `host`: it is merged into `authority`, which is in lower case.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// `:method`.
    pub method: Method,
    /// `:scheme`, `http` or `https`.
    pub scheme: Option<Scheme>,
    /// `:authority`, or `host` where that is absent.
    pub authority: Option<Authority>,
    /// `:path`.
    pub path: Option<PathAndQuery>,
    /// `:protocol`.
    pub protocol: Option<Protocol>,
    /// The regular fields.
    pub headers: HeaderMap,
}

impl RequestHead {
    /// A request other than CONNECT.
    pub fn new(method: Method, scheme: Scheme, authority: Authority, path: PathAndQuery) -> RequestHead {
        RequestHead {
            method,
            scheme: Some(scheme),
            authority: Some(authority),
            path: Some(path),
            protocol: None,
            headers: HeaderMap::new(),
        }
    }

    /// A plain CONNECT to `authority`, which must have a port.
    pub fn connect(authority: Authority) -> RequestHead {
        RequestHead {
            method: Method::CONNECT,
            scheme: None,
            authority: Some(authority),
            path: None,
            protocol: None,
            headers: HeaderMap::new(),
        }
    }

    /// Whether the stream becomes a tunnel: CONNECT, plain or extended.
    pub fn is_connect(&self) -> bool {
        self.method == Method::CONNECT
    }
}

/// The head of a response, interim or final.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// `:status`, never 101.
    pub status: StatusCode,
    /// The regular fields.
    pub headers: HeaderMap,
}

impl ResponseHead {
    /// A response without fields.
    pub fn new(status: StatusCode) -> ResponseHead {
        ResponseHead {
            status,
            headers: HeaderMap::new(),
        }
    }

    /// Whether it is interim (1xx): the final response is still to come.
    pub fn is_interim(&self) -> bool {
        self.status.is_informational()
    }
}

/// What an extended CONNECT asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 9220.
    WebSocket,
    /// RFC 9298.
    ConnectUdp,
}

impl Protocol {
    /// The value of `:protocol`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::WebSocket => "websocket",
            Protocol::ConnectUdp => "connect-udp",
        }
    }

    pub(crate) fn from_bytes(value: &[u8]) -> Option<Protocol> {
        [Protocol::WebSocket, Protocol::ConnectUdp]
            .into_iter()
            .find(|known| known.as_str().as_bytes() == value)
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// From the client.
    Request,
    /// From the server.
    Response,
}

/// Where one direction of a request stream stands (RFC 9114 section 4.1).
///
/// The same machine serves both directions and both ends: what must not be received must not be sent either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageState {
    /// Nothing yet, or interim responses only.
    #[default]
    Head,
    /// The head is through: DATA, trailers or the end may follow.
    Body,
    /// CONNECT: only DATA and the end may follow (RFC 9114 section 4.4).
    Tunnel,
    /// The trailers are through: only the end may follow.
    Trailers,
    /// The end.
    Ended,
}

/// What a HEADERS frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// A request or response head, interim or final.
    Head,
    /// Trailers.
    Trailers,
}

/// What a head makes of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// An interim response: another head follows.
    Interim,
    /// Content may follow.
    Final,
    /// A CONNECT request, or the 2xx response to one.
    Tunnel,
}

impl MessageState {
    /// What a HEADERS frame that comes now holds.
    pub fn section(self) -> Result<Section, H3Error> {
        match self {
            MessageState::Head => Ok(Section::Head),
            MessageState::Body => Ok(Section::Trailers),
            MessageState::Tunnel | MessageState::Trailers | MessageState::Ended => {
                Err(H3Error::UnexpectedFrame(kind::HEADERS))
            }
        }
    }

    /// A head came.
    pub fn on_head(&mut self, head: HeadKind) -> Result<(), H3Error> {
        *self = match (*self, head) {
            (MessageState::Head, HeadKind::Interim) => MessageState::Head,
            (MessageState::Head, HeadKind::Final) => MessageState::Body,
            (MessageState::Head, HeadKind::Tunnel) => MessageState::Tunnel,
            _ => return Err(H3Error::UnexpectedFrame(kind::HEADERS)),
        };
        Ok(())
    }

    /// DATA came.
    pub fn on_data(&mut self) -> Result<(), H3Error> {
        match self {
            MessageState::Body | MessageState::Tunnel => Ok(()),
            MessageState::Head | MessageState::Trailers | MessageState::Ended => {
                Err(H3Error::UnexpectedFrame(kind::DATA))
            }
        }
    }

    /// Trailers came.
    pub fn on_trailers(&mut self) -> Result<(), H3Error> {
        match self {
            MessageState::Body => {
                *self = MessageState::Trailers;
                Ok(())
            }
            _ => Err(H3Error::UnexpectedFrame(kind::HEADERS)),
        }
    }

    /// FIN came. An end before the (final) head is an error.
    pub fn on_end(&mut self, message: MessageKind) -> Result<(), H3Error> {
        match (*self, message) {
            (MessageState::Head, MessageKind::Request) => Err(H3Error::RequestIncomplete),
            (MessageState::Head, MessageKind::Response) => Err(MessageError::ResponseIncomplete.into()),
            _ => {
                *self = MessageState::Ended;
                Ok(())
            }
        }
    }
}

/// Checks `content-length` against DATA (RFC 9114 section 4.1.2), in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// No `content-length`, or a tunnel: any length is right.
    Unknown,
    /// This much must still come.
    Missing(u64),
    /// There can be no content: responses to HEAD, 204 and 304. Whatever `content-length` says is right.
    Empty,
}

impl BodyLength {
    /// For a request.
    pub fn of_request(head: &RequestHead) -> Result<BodyLength, MessageError> {
        if head.is_connect() {
            return Ok(BodyLength::Unknown);
        }
        Ok(content_length(&head.headers)?.map_or(BodyLength::Unknown, BodyLength::Missing))
    }

    /// For a final response to a request with `method`.
    pub fn of_response(method: &Method, head: &ResponseHead) -> Result<BodyLength, MessageError> {
        // RFC 9110 section 9.3.6: content-length in a successful response to CONNECT means nothing.
        if *method == Method::CONNECT && head.status.is_success() {
            return Ok(BodyLength::Unknown);
        }
        let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if bodiless || *method == Method::HEAD {
            return Ok(BodyLength::Empty);
        }
        Ok(content_length(&head.headers)?.map_or(BodyLength::Unknown, BodyLength::Missing))
    }

    /// `length` bytes of content came.
    pub fn on_data(&mut self, length: usize) -> Result<(), MessageError> {
        match self {
            BodyLength::Unknown => Ok(()),
            BodyLength::Missing(missing) => {
                *missing = missing
                    .checked_sub(length as u64)
                    .ok_or(MessageError::ContentTooLong)?;
                Ok(())
            }
            BodyLength::Empty if length == 0 => Ok(()),
            BodyLength::Empty => Err(MessageError::ContentTooLong),
        }
    }

    /// The content ended: at trailers or FIN.
    pub fn on_end(&self) -> Result<(), MessageError> {
        match self {
            BodyLength::Missing(missing) if *missing > 0 => Err(MessageError::ContentTooShort),
            _ => Ok(()),
        }
    }
}

/// What the head of a response to `method` makes of its stream.
pub fn response_kind(method: &Method, head: &ResponseHead) -> HeadKind {
    if head.is_interim() {
        HeadKind::Interim
    } else if *method == Method::CONNECT && head.status.is_success() {
        HeadKind::Tunnel
    } else {
        HeadKind::Final
    }
}

/// Whether a response with this status must not carry `content-length` (RFC 9110 section 8.6).
pub(crate) fn forbids_content_length(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT
}
