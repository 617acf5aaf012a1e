//! Every rule of HTTP/3 that a peer can break, with its error code and its scope (RFC 9114 section 8).

use std::fmt;

use http::StatusCode;

use super::control::UniStreamKind;

/// An HTTP/3 or QPACK error code, as it travels in RESET_STREAM, STOP_SENDING and CONNECTION_CLOSE.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u64);

/// Codes of RFC 9114 section 8.1, RFC 9204 section 6 and RFC 9297 section 5.2.
impl Code {
    /// No error: the way to close a connection or to stop reading what is not needed.
    pub const H3_NO_ERROR: Code = Code(0x100);
    /// A protocol rule was broken that has no code of its own.
    pub const H3_GENERAL_PROTOCOL_ERROR: Code = Code(0x101);
    /// A fault of the sender's own.
    pub const H3_INTERNAL_ERROR: Code = Code(0x102);
    /// A stream was opened that the receiver does not accept.
    pub const H3_STREAM_CREATION_ERROR: Code = Code(0x103);
    /// A control or QPACK stream was closed or reset.
    pub const H3_CLOSED_CRITICAL_STREAM: Code = Code(0x104);
    /// A frame came where it is not permitted.
    pub const H3_FRAME_UNEXPECTED: Code = Code(0x105);
    /// A frame is cut short, too long or has a wrong layout.
    pub const H3_FRAME_ERROR: Code = Code(0x106);
    /// The peer causes more work or memory than we are willing to spend.
    pub const H3_EXCESSIVE_LOAD: Code = Code(0x107);
    /// A stream or push ID was used wrongly.
    pub const H3_ID_ERROR: Code = Code(0x108);
    /// The payload of SETTINGS breaks a rule.
    pub const H3_SETTINGS_ERROR: Code = Code(0x109);
    /// The control stream does not begin with SETTINGS.
    pub const H3_MISSING_SETTINGS: Code = Code(0x10a);
    /// The server refused a request without any application processing: the client may retry it.
    pub const H3_REQUEST_REJECTED: Code = Code(0x10b);
    /// The request or its response is no longer wanted.
    pub const H3_REQUEST_CANCELLED: Code = Code(0x10c);
    /// The client's stream ended before a whole request.
    pub const H3_REQUEST_INCOMPLETE: Code = Code(0x10d);
    /// A message is malformed (RFC 9114 section 4.1.2).
    pub const H3_MESSAGE_ERROR: Code = Code(0x10e);
    /// The TCP connection behind a CONNECT stream was reset or failed.
    pub const H3_CONNECT_ERROR: Code = Code(0x10f);
    /// The request must be repeated over HTTP/1.1.
    pub const H3_VERSION_FALLBACK: Code = Code(0x110);
    /// A field section cannot be decoded.
    pub const QPACK_DECOMPRESSION_FAILED: Code = Code(0x200);
    /// An instruction on the QPACK encoder stream is wrong.
    pub const QPACK_ENCODER_STREAM_ERROR: Code = Code(0x201);
    /// An instruction on the QPACK decoder stream is wrong.
    pub const QPACK_DECODER_STREAM_ERROR: Code = Code(0x202);
    /// An HTTP datagram or capsule is malformed (RFC 9297).
    pub const H3_DATAGRAM_ERROR: Code = Code(0x33);

    /// The code on the wire.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The registered name, for codes that have one.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Code::H3_NO_ERROR => "H3_NO_ERROR",
            Code::H3_GENERAL_PROTOCOL_ERROR => "H3_GENERAL_PROTOCOL_ERROR",
            Code::H3_INTERNAL_ERROR => "H3_INTERNAL_ERROR",
            Code::H3_STREAM_CREATION_ERROR => "H3_STREAM_CREATION_ERROR",
            Code::H3_CLOSED_CRITICAL_STREAM => "H3_CLOSED_CRITICAL_STREAM",
            Code::H3_FRAME_UNEXPECTED => "H3_FRAME_UNEXPECTED",
            Code::H3_FRAME_ERROR => "H3_FRAME_ERROR",
            Code::H3_EXCESSIVE_LOAD => "H3_EXCESSIVE_LOAD",
            Code::H3_ID_ERROR => "H3_ID_ERROR",
            Code::H3_SETTINGS_ERROR => "H3_SETTINGS_ERROR",
            Code::H3_MISSING_SETTINGS => "H3_MISSING_SETTINGS",
            Code::H3_REQUEST_REJECTED => "H3_REQUEST_REJECTED",
            Code::H3_REQUEST_CANCELLED => "H3_REQUEST_CANCELLED",
            Code::H3_REQUEST_INCOMPLETE => "H3_REQUEST_INCOMPLETE",
            Code::H3_MESSAGE_ERROR => "H3_MESSAGE_ERROR",
            Code::H3_CONNECT_ERROR => "H3_CONNECT_ERROR",
            Code::H3_VERSION_FALLBACK => "H3_VERSION_FALLBACK",
            Code::QPACK_DECOMPRESSION_FAILED => "QPACK_DECOMPRESSION_FAILED",
            Code::QPACK_ENCODER_STREAM_ERROR => "QPACK_ENCODER_STREAM_ERROR",
            Code::QPACK_DECODER_STREAM_ERROR => "QPACK_DECODER_STREAM_ERROR",
            Code::H3_DATAGRAM_ERROR => "H3_DATAGRAM_ERROR",
            _ => return None,
        })
    }
}

/// How much an error ends (RFC 9114 section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Only the stream: reset and stop it with the code.
    Stream,
    /// The whole connection: close it with the code.
    Connection,
}

/// A rule that the peer broke. `code` and `scope` say what to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum H3Error {
    /// A frame that may not appear here: on a request stream, on the control stream, or in this order
    /// (RFC 9114 sections 4.1 and 7.2).
    #[error("frame of type {0:#x} is not permitted here")]
    UnexpectedFrame(u64),
    /// A frame type of HTTP/2 that HTTP/3 reserves (RFC 9114 section 7.2.8).
    #[error("frame type {0:#x} is reserved for HTTP/2")]
    ReservedFrame(u64),
    /// FIN in the middle of a frame (RFC 9114 section 7.1).
    #[error("the stream ended in the middle of a frame")]
    TruncatedFrame,
    /// The payload does not fill its frame exactly (RFC 9114 section 7.1).
    #[error("payload of frame type {0:#x} does not match its length")]
    MalformedFrame(u64),
    /// A frame on the control stream is longer than any sane one.
    #[error("frame of type {0:#x} is too long")]
    FrameTooLong(u64),
    /// Too many empty DATA and unknown frames in a row.
    #[error("too many frames that carry nothing")]
    UselessFrames,
    /// A field section is larger than we advertised, encoded or decoded (RFC 9114 section 4.2.2).
    #[error("field section is too large")]
    FieldSectionTooLarge,
    /// A push ID where we have never allowed one (RFC 9114 section 7.2).
    #[error("push ID that was never allowed or promised")]
    PushId,
    /// MAX_PUSH_ID went down (RFC 9114 section 7.2.7).
    #[error("MAX_PUSH_ID went down")]
    MaxPushIdReduced,
    /// GOAWAY went up (RFC 9114 section 5.2).
    #[error("GOAWAY identifier went up")]
    GoAwayIncreased,
    /// GOAWAY from a server names a stream that is not a request (RFC 9114 section 7.2.6).
    #[error("GOAWAY does not name a client-initiated bidirectional stream")]
    GoAwayStreamType,
    /// The control stream does not begin with SETTINGS (RFC 9114 section 6.2.1).
    #[error("the control stream does not begin with SETTINGS")]
    MissingSettings,
    /// SETTINGS breaks a rule.
    #[error("SETTINGS: {0}")]
    Settings(#[from] SettingsError),
    /// A critical stream was ended, reset or stopped (RFC 9114 section 6.2.1, RFC 9204 section 4.2).
    #[error("{0} was closed")]
    ClosedCriticalStream(UniStreamKind),
    /// A second stream of a kind of which there is one.
    #[error("second {0}")]
    DuplicateStream(UniStreamKind),
    /// A client opened a push stream (RFC 9114 section 6.2.2).
    #[error("push stream from a client")]
    PushStreamFromClient,
    /// A field section that cannot be decoded.
    #[error("QPACK: {0}")]
    Qpack(#[from] QpackError),
    /// An instruction that uses the dynamic table, whose capacity is 0 (RFC 9204 section 3.2.3).
    #[error("QPACK encoder stream uses the dynamic table, whose capacity is 0")]
    QpackEncoderStream,
    /// An acknowledgement of something never sent (RFC 9204 section 4.4).
    #[error("QPACK decoder stream acknowledges what was never sent")]
    QpackDecoderStream,
    /// A request stream ended before its HEADERS (RFC 9114 section 4.1.1).
    #[error("the request ended before its head")]
    RequestIncomplete,
    /// A malformed message (RFC 9114 section 4.1.2).
    #[error("malformed message: {0}")]
    Message(#[from] MessageError),
    /// A well-formed extended CONNECT with a `:protocol` that we do not serve (RFC 9220 section 3).
    #[error("extended CONNECT for a protocol that is not supported")]
    UnsupportedProtocol,
}

/// Why a SETTINGS payload is wrong (RFC 9114 section 7.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The same identifier twice.
    #[error("identifier {0:#x} appears twice")]
    Duplicate(u64),
    /// An identifier of HTTP/2 that HTTP/3 reserves (RFC 9114 section 7.2.4.1).
    #[error("identifier {0:#x} is reserved for HTTP/2")]
    Reserved(u64),
    /// A boolean setting with another value than 0 and 1.
    #[error("setting {0:#x} must be 0 or 1")]
    NotBoolean(u64),
}

/// Why a field section cannot be decoded (RFC 9204 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QpackError {
    /// The section ends inside a prefix, integer or string.
    #[error("the field section ends too early")]
    Truncated,
    /// An integer beyond 62 bits (RFC 9204 section 4.1.1).
    #[error("integer is too large")]
    IntegerOverflow,
    /// The section needs dynamic entries, but the table has no capacity.
    #[error("reference to the dynamic table, whose capacity is 0")]
    DynamicReference,
    /// Base lies below zero (RFC 9204 section 4.5.1.2).
    #[error("negative Base")]
    NegativeBase,
    /// An index past the end of the static table.
    #[error("no static table entry {0}")]
    StaticIndex(u64),
    /// A Huffman-coded string with EOS, an unknown code or wrong padding (RFC 7541 section 5.2).
    #[error("invalid Huffman code or padding")]
    Huffman,
}

/// The rule that a malformed message breaks. The same rules are applied before a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A mandatory pseudo-header field is absent (RFC 9114 section 4.3).
    #[error("{0} is missing")]
    MissingPseudo(&'static str),
    /// A pseudo-header field appears twice.
    #[error("{0} appears twice")]
    DuplicatePseudo(&'static str),
    /// A pseudo-header field after a regular one.
    #[error("pseudo-header field after a regular field")]
    LatePseudo,
    /// A pseudo-header field that is not defined.
    #[error("unknown pseudo-header field")]
    UnknownPseudo,
    /// A pseudo-header field of requests in a response, of responses in a request, or any in trailers.
    #[error("{0} does not belong in this section")]
    MisplacedPseudo(&'static str),
    /// An upper-case letter in a field name (RFC 9114 section 4.2).
    #[error("upper-case letter in a field name")]
    UppercaseName,
    /// A field name that is empty or has a character that is not a token's.
    #[error("invalid character in a field name")]
    InvalidName,
    /// A control character in a field value (RFC 9110 section 5.5).
    #[error("control character in a field value")]
    InvalidValue,
    /// White space at the beginning or end of a field value.
    #[error("field value begins or ends with white space")]
    PaddedValue,
    /// A connection-specific field (RFC 9114 section 4.2).
    #[error("connection-specific field {0}")]
    ConnectionSpecific(&'static str),
    /// `te` with another value than `trailers`, or outside a request.
    #[error("te other than trailers")]
    Te,
    /// Several `host` fields.
    #[error("host appears twice")]
    DuplicateHost,
    /// `host` and `:authority` differ (RFC 9114 section 4.3.1).
    #[error("host and :authority differ")]
    HostDisagrees,
    /// `host` in a response.
    #[error("host in a response")]
    HostInResponse,
    /// An empty `:authority` or `host`.
    #[error("empty authority")]
    EmptyAuthority,
    /// User information in an authority (RFC 9114 section 4.3.1).
    #[error("user information in the authority")]
    UserInfo,
    /// An authority that is not host and optional port.
    #[error("invalid authority")]
    InvalidAuthority,
    /// CONNECT without a port (RFC 9110 section 9.3.6).
    #[error("CONNECT without a port")]
    ConnectPort,
    /// A plain CONNECT with `:scheme` or `:path` (RFC 9114 section 4.4).
    #[error("CONNECT with {0}")]
    ConnectWith(&'static str),
    /// `:protocol` with another method than CONNECT (RFC 8441 section 4).
    #[error(":protocol without CONNECT")]
    ProtocolWithoutConnect,
    /// A method that is not a token.
    #[error("invalid :method")]
    InvalidMethod,
    /// A scheme other than `http` and `https`.
    #[error(":scheme is neither http nor https")]
    InvalidScheme,
    /// A path that does not begin with `/`, or has a fragment or a character that a path cannot have.
    #[error("invalid :path")]
    InvalidPath,
    /// A status that is not three digits from 100 to 599.
    #[error("invalid :status")]
    InvalidStatus,
    /// 101, which HTTP/3 does not have (RFC 9114 section 4.5).
    #[error("101 (Switching Protocols) in HTTP/3")]
    SwitchingProtocols,
    /// A `content-length` that is not one decimal number below 2^64.
    #[error("invalid content-length")]
    InvalidContentLength,
    /// Several `content-length` fields.
    #[error("content-length appears twice")]
    DuplicateContentLength,
    /// `content-length` in a message that cannot have one.
    #[error("content-length in a message without content")]
    MisplacedContentLength,
    /// A field that cannot be a trailer (RFC 9110 section 6.5.1).
    #[error("field that is not permitted in trailers")]
    ForbiddenTrailer,
    /// More DATA than `content-length` says, or DATA in a message that has none.
    #[error("content is longer than content-length")]
    ContentTooLong,
    /// Less DATA than `content-length` says.
    #[error("content is shorter than content-length")]
    ContentTooShort,
    /// A response stream ended before a final response.
    #[error("the response ended before its final head")]
    ResponseIncomplete,
}

/// Why a message of our own was not encoded. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It would be malformed.
    #[error("message would be malformed: {0}")]
    Malformed(#[from] MessageError),
    /// It is larger than the peer accepts (RFC 9114 section 4.2.2).
    #[error("field section is larger than the peer's limit")]
    TooLarge,
}

impl H3Error {
    /// The code to send.
    pub const fn code(self) -> Code {
        match self {
            H3Error::UnexpectedFrame(_) | H3Error::ReservedFrame(_) => Code::H3_FRAME_UNEXPECTED,
            H3Error::TruncatedFrame | H3Error::MalformedFrame(_) => Code::H3_FRAME_ERROR,
            H3Error::FrameTooLong(_) | H3Error::UselessFrames | H3Error::FieldSectionTooLarge => {
                Code::H3_EXCESSIVE_LOAD
            }
            H3Error::PushId
            | H3Error::MaxPushIdReduced
            | H3Error::GoAwayIncreased
            | H3Error::GoAwayStreamType => Code::H3_ID_ERROR,
            H3Error::MissingSettings => Code::H3_MISSING_SETTINGS,
            H3Error::Settings(_) => Code::H3_SETTINGS_ERROR,
            H3Error::ClosedCriticalStream(_) => Code::H3_CLOSED_CRITICAL_STREAM,
            H3Error::DuplicateStream(_) | H3Error::PushStreamFromClient => Code::H3_STREAM_CREATION_ERROR,
            H3Error::Qpack(_) => Code::QPACK_DECOMPRESSION_FAILED,
            H3Error::QpackEncoderStream => Code::QPACK_ENCODER_STREAM_ERROR,
            H3Error::QpackDecoderStream => Code::QPACK_DECODER_STREAM_ERROR,
            H3Error::RequestIncomplete => Code::H3_REQUEST_INCOMPLETE,
            H3Error::Message(_) | H3Error::UnsupportedProtocol => Code::H3_MESSAGE_ERROR,
        }
    }

    /// Whether the stream or the connection ends.
    pub const fn scope(self) -> Scope {
        match self {
            H3Error::FieldSectionTooLarge
            | H3Error::RequestIncomplete
            | H3Error::Message(_)
            | H3Error::UnsupportedProtocol => Scope::Stream,
            _ => Scope::Connection,
        }
    }

    /// What a server may answer before it resets the stream; `None` where no answer is possible.
    pub const fn status(self) -> Option<StatusCode> {
        match self {
            H3Error::FieldSectionTooLarge => Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            H3Error::Message(_) => Some(StatusCode::BAD_REQUEST),
            H3Error::UnsupportedProtocol => Some(StatusCode::NOT_IMPLEMENTED),
            _ => None,
        }
    }
}

impl From<Code> for u64 {
    fn from(code: Code) -> u64 {
        code.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_registered_values_and_names() {
        assert_eq!(Code::H3_REQUEST_REJECTED.value(), 0x10b);
        assert_eq!(Code::QPACK_DECODER_STREAM_ERROR.value(), 0x202);
        assert_eq!(Code::H3_MESSAGE_ERROR.to_string(), "H3_MESSAGE_ERROR");
        assert_eq!(Code(0x1234).to_string(), "0x1234");
        for value in (0x100..=0x110).chain(0x200..=0x202) {
            assert!(Code(value).name().is_some(), "{value:#x}");
        }
    }

    #[test]
    fn only_message_faults_are_stream_errors() {
        assert_eq!(H3Error::Message(MessageError::UserInfo).scope(), Scope::Stream);
        assert_eq!(H3Error::RequestIncomplete.scope(), Scope::Stream);
        assert_eq!(H3Error::FieldSectionTooLarge.scope(), Scope::Stream);
        assert_eq!(H3Error::Qpack(QpackError::Huffman).scope(), Scope::Connection);
        assert_eq!(H3Error::TruncatedFrame.scope(), Scope::Connection);
    }

    #[test]
    fn answers_follow_the_fault() {
        assert_eq!(
            H3Error::FieldSectionTooLarge.status().map(|s| s.as_u16()),
            Some(431)
        );
        assert_eq!(
            H3Error::UnsupportedProtocol.status().map(|s| s.as_u16()),
            Some(501)
        );
        assert_eq!(
            H3Error::Message(MessageError::UserInfo)
                .status()
                .map(|s| s.as_u16()),
            Some(400)
        );
        assert_eq!(H3Error::TruncatedFrame.status(), None);
    }
}
