//! What every client here is told to do and what it tells, and what every server tells: plain data, so that a
//! stack may be code in this process, a program in another language, or a proxy.

use std::{collections::BTreeMap, rc::Rc};

use aws_lc_rs::digest;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

/// Fields of a message, which here are all different.
pub(crate) type Fields = BTreeMap<String, String>;

/// A request to make.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    /// `:path`; for a plain CONNECT, `:authority`.
    pub(crate) target: String,
    /// `:protocol` of an extended CONNECT.
    pub(crate) protocol: Option<&'static str>,
    pub(crate) headers: Fields,
    /// How many bytes of [`pattern`] to send.
    pub(crate) content: usize,
    pub(crate) trailers: Fields,
    pub(crate) midway: Midway,
    pub(crate) then: Then,
}

/// What the client does in the midst of the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Midway {
    Nothing,
    /// Sends an empty DATA frame.
    EmptyData,
    /// Sends a frame of a reserved type (RFC 9114 section 7.2.8).
    UnknownFrame,
    /// Updates the keys of its packets (RFC 9001 section 6).
    KeyUpdate,
    /// Goes on from another UDP port, as behind a NAT that was restarted (RFC 9000 section 9.3).
    Rebind,
}

/// How the client goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Then {
    /// Sends and reads to the end.
    Finish,
    /// Cancels when the first content has come.
    CancelDownload,
    /// Cancels when its content is sent and the head of the response has come.
    CancelUpload,
    /// Sends content until it is asked to stop, then reads to the end.
    SendUntilStopped,
}

/// What a client saw of a request.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Outcome {
    /// Interim responses.
    pub(crate) interim: Vec<u16>,
    pub(crate) status: Option<u16>,
    pub(crate) headers: Fields,
    /// Bytes of content, and their SHA-256.
    pub(crate) length: usize,
    pub(crate) sha256: String,
    pub(crate) trailers: Fields,
    /// With what code the server asked to stop sending.
    pub(crate) stopped: Option<u64>,
    pub(crate) end: End,
}

/// How a message ended. Codes are those of HTTP/3; none where a stack hides them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum End {
    /// As it should.
    Complete,
    /// By the one who tells.
    #[default]
    Cancelled,
    /// The other side reset it, or stopped reading.
    Reset(Option<u64>),
    /// The other side proved that it did not look at it: by GOAWAY, or H3_REQUEST_REJECTED.
    Unprocessed,
    /// The one who tells found it malformed.
    Malformed,
    /// The one who tells found its head too large, for itself or for the other side.
    TooLarge,
    /// The one who tells refused the other's certificate.
    PeerRefused,
    /// The connection ended, or never came about; with the code of the other side.
    Closed(Option<u64>),
}

/// What the application of a server saw of a request.
#[derive(Debug, Deserialize)]
pub(crate) struct Seen {
    /// The caller's SPIFFE ID.
    pub(crate) caller: String,
    /// Empty if it never saw the head.
    pub(crate) target: String,
    pub(crate) end: End,
}

impl Call {
    pub(crate) fn new(method: &'static str, target: &str) -> Self {
        Self {
            method,
            target: target.to_owned(),
            protocol: None,
            headers: Fields::new(),
            content: 0,
            trailers: Fields::new(),
            midway: Midway::Nothing,
            then: Then::Finish,
        }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub(crate) fn post(target: &str, content: usize) -> Self {
        Self {
            content,
            ..Self::new("POST", target)
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn midway(self, midway: Midway) -> Self {
        Self { midway, ..self }
    }

    pub(crate) fn then(self, then: Then) -> Self {
        Self { then, ..self }
    }

    /// CONNECT without `:protocol`: a tunnel to an address (RFC 9114 section 4.4).
    pub(crate) fn is_plain_connect(&self) -> bool {
        self.method == "CONNECT" && self.protocol.is_none()
    }
}

impl Outcome {
    /// Asserts that it is a whole response with this status and content.
    #[track_caller]
    pub(crate) fn assert_is(&self, status: u16, content: &[u8]) {
        let (length, sha256) = (content.len(), sha256(content));
        let is_right = self.end == End::Complete
            && self.status == Some(status)
            && (self.length, &self.sha256) == (length, &sha256);
        assert!(
            is_right,
            "not {status} with the right {length} bytes of content: {self:?}"
        );
    }

    /// Asserts that the other side reset the stream, with this code if the stack shows it.
    #[track_caller]
    pub(crate) fn assert_reset(&self, code: u64) {
        let is_right = match self.end {
            End::Reset(shown) => shown.is_none_or(|shown| shown == code),
            _ => false,
        };
        assert!(is_right, "not reset with {code:#x}: {self:?}");
    }
}

/// Where requests to `/hold` wait.
pub(crate) struct Gate {
    waiting: Semaphore,
    open: Semaphore,
}

impl Gate {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            waiting: Semaphore::new(0),
            open: Semaphore::new(0),
        })
    }

    /// Waits to be let through.
    pub(crate) async fn pass(&self) {
        self.waiting.add_permits(1);
        self.open.acquire().await.unwrap().forget();
    }

    /// Waits until one waits.
    pub(crate) async fn someone(&self) {
        self.waiting.acquire().await.unwrap().forget();
    }

    /// Lets one through.
    pub(crate) fn open(&self) {
        self.open.add_permits(1);
    }
}

/// Content in which every eight bytes differ, so that none can be lost or misplaced unseen.
pub(crate) fn pattern(length: usize) -> Bytes {
    let words = length.div_ceil(8) as u64;
    let mut bytes: Vec<u8> = (0..words).flat_map(u64::to_le_bytes).collect();
    bytes.truncate(length);
    bytes.into()
}

pub(crate) fn sha256(content: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, content).as_ref())
}

/// Content as it comes.
pub(crate) struct Content {
    length: usize,
    digest: digest::Context,
}

impl Content {
    pub(crate) fn new() -> Self {
        Self {
            length: 0,
            digest: digest::Context::new(&digest::SHA256),
        }
    }

    pub(crate) fn push(&mut self, data: &[u8]) {
        self.length += data.len();
        self.digest.update(data);
    }

    pub(crate) fn tell(&self, outcome: &mut Outcome) {
        outcome.length = self.length;
        outcome.sha256 = hex(self.digest.clone().finish().as_ref());
    }
}

pub(crate) fn to_fields(headers: &http::HeaderMap) -> Fields {
    headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}

pub(crate) fn to_headers(fields: &Fields) -> http::HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
