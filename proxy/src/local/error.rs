//! What went wrong with the application, and whether it may have acted on the request.

use std::error::Error as StdError;
use std::{fmt, io};

/// A request to the application failed before its response head came.
#[derive(Debug)]
pub(crate) struct AppError {
    /// What happened.
    pub(crate) kind: AppErrorKind,
    /// Whether the application may have acted on the request.
    pub(crate) processed: Processed,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What happened. The variants are label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AppErrorKind {
    /// Nothing listens at the application's port.
    Refused,
    /// The connection was not established in time.
    ConnectTimeout,
    /// The connection could not be established for another reason.
    Connect,
    /// The application ended or reset the connection, or refused the stream, before a response head.
    Closed,
    /// The response head is not one.
    BadResponse,
    /// The body of the request failed: the caller's doing.
    RequestBody,
}

/// Whether the application may have acted on the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Processed {
    /// It saw nothing of it: another endpoint may be tried, whatever the method.
    No,
    /// Nobody can tell.
    Maybe,
}

impl AppErrorKind {
    /// The reason as it stands in logs and labels.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Refused => "application_refused",
            Self::ConnectTimeout => "application_connect_timeout",
            Self::Connect => "application_unreachable",
            Self::Closed => "application_closed",
            Self::BadResponse => "application_bad_response",
            Self::RequestBody => "request_body_failed",
        }
    }
}

impl AppError {
    pub(super) fn new(kind: AppErrorKind, processed: Processed) -> Self {
        Self {
            kind,
            processed,
            source: None,
        }
    }

    pub(super) fn with(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Connecting failed, so nothing was sent.
    pub(super) fn connect(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => AppErrorKind::Refused,
            io::ErrorKind::TimedOut => AppErrorKind::ConnectTimeout,
            _ => AppErrorKind::Connect,
        };
        Self::new(kind, Processed::No).with(error)
    }

    /// A request that was written, at least in part, got no response.
    pub(super) fn exchange(error: hyper::Error) -> Self {
        let processed = if is_unprocessed(&error) {
            Processed::No
        } else {
            Processed::Maybe
        };
        let kind = match () {
            () if error.is_user() => AppErrorKind::RequestBody,
            () if error.is_parse() => AppErrorKind::BadResponse,
            () => AppErrorKind::Closed,
        };
        Self::new(kind, processed).with(error)
    }
}

impl fmt::Display for AppError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.kind {
            AppErrorKind::Refused => "the application refused the connection",
            AppErrorKind::ConnectTimeout => "the application did not take the connection in time",
            AppErrorKind::Connect => "the application could not be reached",
            AppErrorKind::Closed => "the application closed the connection before it answered",
            AppErrorKind::BadResponse => "the application's answer is not HTTP",
            AppErrorKind::RequestBody => "the body of the request failed",
        })
    }
}

impl StdError for AppError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The error of a body or a handler that resets the stream which carries it. Over HTTP/1.1 the connection ends.
#[derive(Debug)]
pub(crate) struct Reset(h2::Error);

impl Reset {
    /// With this code of RFC 9113 section 7.
    pub(crate) fn new(code: h2::Reason) -> Self {
        Self(code.into())
    }
}

impl fmt::Display for Reset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the stream was reset")
    }
}

impl StdError for Reset {
    /// hyper takes the code from here.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

/// Whether a connection ended before a byte of the response, in a way that an idle connection ends: then a client
/// sends a request that it may send twice once more (RFC 9112 section 9.3.1).
pub(super) fn ended_early(error: &hyper::Error) -> bool {
    error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || find::<io::Error>(error).is_some_and(|error| {
            use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
            matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
        })
}

/// The application said that it did not act: REFUSED_STREAM, or a GOAWAY below this stream (RFC 9113 section 8.7).
/// h2 gives the GOAWAY to the streams above its last stream id alone.
fn is_unprocessed(error: &hyper::Error) -> bool {
    error.is_canceled()
        || find::<h2::Error>(error).is_some_and(|error| {
            error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
        })
}

fn find<'e, E: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
