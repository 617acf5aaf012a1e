//! What went wrong on the way to a peer, and whether the peer can have acted on the request.

use std::{fmt, time::Duration};

use crate::{
    h3::{Code, H3Error},
    verify::Refusal,
};

/// A failure of the transport. Cheap to clone: one lost connection fails many streams.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
}

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Earlier dials failed; the next is not before this much time has passed.
    Backoff {
        /// What is left of the wait.
        remaining: Duration,
        /// Why the last dial failed.
        last: DialFailure,
    },
    /// No connection could be made.
    Dial(DialFailure),
    /// The peer's limit of concurrent streams left no room within the deadline.
    StreamLimit,
    /// The peer's GOAWAY says that it did not process this stream (RFC 9114 section 5.2).
    GoAway,
    /// The peer reset the stream, or asked us to stop sending on it.
    Reset(Code),
    /// The connection ended under the stream.
    Lost(Lost),
    /// The peer's message breaks a rule of HTTP/3.
    Malformed(H3Error),
    /// The peer's head or trailers are larger than we take.
    TooLarge,
    /// Nobody read this stream for so long that it endangered the others of its connection.
    Stalled,
    /// The peer has acknowledged nothing for so long that whoever can go elsewhere should not wait for it.
    Unresponsive,
    /// Our own side ended the stream before.
    Closed,
    /// What we were asked to send is not what was announced, or can't be said in HTTP/3.
    Unsendable(&'static str),
}

/// Why a dial failed. Every case is proof that no request was processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DialFailure {
    /// The peer did not answer, or did not confirm the handshake, in time.
    Timeout,
    /// We refused the peer's certificate.
    PeerRefused(Refusal),
    /// The peer refused ours, or could not agree on TLS parameters: its TLS alert (RFC 8446 section 6.2).
    Alert(u8),
    /// Our own certificate has ended, so nobody was asked.
    OwnExpired,
    /// The peer refuses new connections (CONNECTION_REFUSED, RFC 9000 section 20.1).
    ConnectionRefused,
    /// The peer broke QUIC or HTTP/3, or speaks another version.
    Protocol,
    /// The peer closed the connection before it confirmed the handshake.
    Closed,
    /// This host's address changed before the handshake was confirmed; until then a connection can't move.
    Moved,
    /// We could not start: an unusable address, or no socket for its family.
    Local,
}

/// How an established connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lost {
    /// Nothing was heard from the peer for the idle timeout.
    TimedOut,
    /// The peer no longer knows the connection: it was restarted.
    StatelessReset,
    /// The peer closed it with an HTTP/3 code.
    PeerClosed(Code),
    /// The peer's or our own QUIC gave up: the transport error code (RFC 9000 section 20.1).
    Transport(u64),
    /// We closed it because the peer broke HTTP/3.
    Violation(Code),
    /// We closed it: drain, idle, an endpoint that left.
    Local,
    /// It had lasted as long as its certificates allow.
    CertificateExpired,
    /// The root of the peer's certificate was retired.
    CertificateUntrusted,
}

/// Can the peer have acted on the request?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Processed {
    /// Proved that it did not: any request may go to another endpoint.
    No,
    /// It may have: only what may be repeated is repeated.
    Maybe,
}

impl Error {
    /// What happened.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Whether the peer can have acted on a request that fails so (the proofs of RFC 9114 section 4.1.1).
    pub fn processed(&self) -> Processed {
        match &self.kind {
            ErrorKind::Backoff { .. } | ErrorKind::Dial(_) | ErrorKind::StreamLimit | ErrorKind::GoAway => {
                Processed::No
            }
            ErrorKind::Reset(code) if *code == Code::H3_REQUEST_REJECTED => Processed::No,
            ErrorKind::Reset(_)
            | ErrorKind::Lost(_)
            | ErrorKind::Malformed(_)
            | ErrorKind::TooLarge
            | ErrorKind::Stalled
            | ErrorKind::Unresponsive
            | ErrorKind::Closed
            | ErrorKind::Unsendable(_) => Processed::Maybe,
        }
    }

    /// A label for metrics and logs, from a fixed set.
    pub fn reason(&self) -> &'static str {
        match &self.kind {
            ErrorKind::Backoff { .. } => "dial_backoff",
            ErrorKind::Dial(failure) => failure.reason(),
            ErrorKind::StreamLimit => "stream_limit",
            ErrorKind::GoAway => "goaway",
            ErrorKind::Reset(code) if *code == Code::H3_REQUEST_REJECTED => "request_rejected",
            ErrorKind::Reset(_) => "stream_reset",
            ErrorKind::Lost(lost) => lost.reason(),
            ErrorKind::Malformed(_) => "peer_protocol_error",
            ErrorKind::TooLarge => "peer_head_too_large",
            ErrorKind::Stalled => "stalled_reader",
            ErrorKind::Unresponsive => "peer_unresponsive",
            ErrorKind::Closed => "closed",
            ErrorKind::Unsendable(_) => "unsendable",
        }
    }
}

impl DialFailure {
    /// A label for metrics and logs, from a fixed set.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Timeout => "dial_timeout",
            Self::PeerRefused(_) => "peer_certificate_refused",
            Self::Alert(_) => "own_certificate_refused",
            Self::OwnExpired => "own_certificate_expired",
            Self::ConnectionRefused => "connection_refused",
            Self::Protocol => "dial_protocol_error",
            Self::Closed => "dial_closed",
            Self::Moved => "dial_moved",
            Self::Local => "dial_local_error",
        }
    }
}

impl Lost {
    /// A label for metrics and logs, from a fixed set.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TimedOut => "connection_timed_out",
            Self::StatelessReset => "connection_reset",
            Self::PeerClosed(_) => "connection_closed_by_peer",
            Self::Transport(_) => "connection_transport_error",
            Self::Violation(_) => "peer_protocol_error",
            Self::Local => "connection_closed",
            Self::CertificateExpired => "certificate_expiry",
            Self::CertificateUntrusted => "certificate_untrusted",
        }
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self { kind }
    }
}

impl From<Lost> for Error {
    fn from(lost: Lost) -> Self {
        ErrorKind::Lost(lost).into()
    }
}

impl From<DialFailure> for Error {
    fn from(failure: DialFailure) -> Self {
        ErrorKind::Dial(failure).into()
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ErrorKind::Backoff { remaining, last } => {
                write!(
                    f,
                    "waiting {} ms before the next dial, because: {last}",
                    remaining.as_millis()
                )
            }
            ErrorKind::Dial(failure) => write!(f, "{failure}"),
            ErrorKind::StreamLimit => f.write_str("the peer takes no more concurrent streams"),
            ErrorKind::GoAway => f.write_str("the peer is going away and did not process the request"),
            ErrorKind::Reset(code) => write!(f, "the peer reset the stream: {code}"),
            ErrorKind::Lost(lost) => write!(f, "{lost}"),
            ErrorKind::Malformed(error) => write!(f, "malformed message from the peer: {error}"),
            ErrorKind::TooLarge => f.write_str("head or trailers from the peer are too large"),
            ErrorKind::Stalled => f.write_str("the stream was not read and held up its connection"),
            ErrorKind::Unresponsive => f.write_str("the peer has acknowledged nothing for too long"),
            ErrorKind::Closed => f.write_str("the stream is closed"),
            ErrorKind::Unsendable(what) => write!(f, "can't send the message: {what}"),
        }
    }
}

impl fmt::Display for DialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("the peer did not answer the handshake in time"),
            Self::PeerRefused(refusal) => write!(f, "the peer's certificate is refused: {refusal}"),
            Self::Alert(alert) => write!(f, "the peer refused our certificate or TLS (alert {alert})"),
            Self::OwnExpired => f.write_str("our own certificate has ended"),
            Self::ConnectionRefused => f.write_str("the peer refuses new connections"),
            Self::Protocol => f.write_str("the peer broke the protocol during the handshake"),
            Self::Closed => f.write_str("the peer closed the connection during the handshake"),
            Self::Moved => f.write_str("this host's address changed during the handshake"),
            Self::Local => f.write_str("the dial could not be started from here"),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("the connection timed out"),
            Self::StatelessReset => f.write_str("the peer was restarted and no longer knows the connection"),
            Self::PeerClosed(code) => write!(f, "the peer closed the connection: {code}"),
            Self::Transport(code) => write!(f, "QUIC transport error {code:#x}"),
            Self::Violation(code) => write!(
                f,
                "the connection was closed because the peer broke HTTP/3: {code}"
            ),
            Self::Local => f.write_str("the connection was closed here"),
            Self::CertificateExpired => {
                f.write_str("the connection lasted as long as its certificates allow")
            }
            Self::CertificateUntrusted => f.write_str("the peer's certificate is no longer trusted"),
        }
    }
}
