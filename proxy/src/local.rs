//! The application side: plain HTTP and TCP between this sidecar and the application beside it.
//!
//! [`server`] reads what the application sends to the outbound port; [`pool`] calls the application for requests
//! that arrive from the mesh. Both run hyper on a worker's own thread: nothing here is `Send`, and hyper's tasks are
//! local tasks. What is ours is around it: canonical heads ([`target`], [`headers`]), `Expect: 100-continue` end to
//! end ([`body`]), upgrades ([`upgrade`], [`websocket`]) and which idle connection may carry which request ([`pool`]).
//!
//! # What does not pass
//! hyper writes no informational response but 100 and 101, so 103 ends here. It writes trailers over HTTP/1.1 only if
//! the request said `TE: trailers` and only the fields that the head announced in `Trailer`. Reason phrases and the
//! case of field names are not kept. An HTTP/2 caller gets no 100: its body flows as soon as it sends it. A client
//! that closes its sending half before the response came counts as gone, as with other HTTP proxies.

pub(crate) mod body;
pub(crate) mod connect;
pub(crate) mod error;
pub(crate) mod headers;
pub(crate) mod io;
pub(crate) mod pool;
pub(crate) mod server;
pub(crate) mod target;
mod timer;
pub(crate) mod upgrade;
pub(crate) mod websocket;

/// The most bytes a head may have, and so what a connection buffers at most. Common servers take 8 to 64 KiB.
/// hyper also caps the fields of a head at 100.
const MAX_HEAD: usize = 64 * 1024;

/// HTTP/2 flow control. On a loopback connection 128 KiB of a stream in flight fills it; the connection's window is
/// that of 128 streams whose reader has stalled, so that they stop nobody else.
const HTTP2_STREAM_WINDOW: u32 = 128 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 128 * HTTP2_STREAM_WINDOW;

/// The HTTP that an application speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum HttpVersion {
    /// HTTP/1.1, and HTTP/1.0 from callers.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

impl HttpVersion {
    /// The ALPN-like name, as in `weft-protocol`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }

    /// Reads [`as_str`](Self::as_str) back.
    pub(crate) fn parse(name: &[u8]) -> Option<Self> {
        match name {
            b"http/1.1" => Some(Self::Http1),
            b"h2" => Some(Self::Http2),
            _ => None,
        }
    }
}

/// Runs hyper's tasks on the thread that spawned them.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
