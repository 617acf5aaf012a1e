//! Serves HTTP to the application on one accepted connection.
//!
//! hyper parses strictly by default and nothing here loosens it: obsolete line folding, spaces before a colon, bare
//! carriage returns, differing lengths and unknown codings are refused with 400 and the end of the connection. Of a
//! request with both Transfer-Encoding and Content-Length hyper drops the length, and it closes the connection after
//! the answer (RFC 9112 section 6.1); the message travels on with framing of its own, so no two parsers disagree.

use std::cell::Cell;
use std::error::Error as StdError;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::RequestBody;
use super::error::Reset;
use super::headers::check_transfer_coding;
use super::io::LocalStream;
use super::timer::{HeadTimer, HeadWatch};
use super::{HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW, HttpVersion, LocalExecutor, MAX_HEAD};

/// How long a head may take from its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams that one HTTP/2 connection of an application may have open. Servers commonly allow 100 to 250 or have no
/// limit; a gRPC client with long streams must not find the mesh narrower than its server.
const MAX_STREAMS: u32 = 1_000;

/// Serves one connection to its end.
///
/// `handler` makes the response to a request; it is dropped if the caller goes away first. If it fails with
/// [`Reset`], an HTTP/2 stream is reset and an HTTP/1.1 connection ends without an answer. A body that fails after
/// the head does the same: a message cut short never looks complete. When `drain` is ready, idle connections close
/// and others end with the requests they have.
///
/// # Errors
/// How the connection ended, if not well. Nothing is left to do then.
pub(crate) async fn serve<H, F, B>(
    stream: LocalStream,
    version: HttpVersion,
    handler: H,
    drain: impl Future<Output = ()>,
) -> Result<(), hyper::Error>
where
    H: Fn(Request<RequestBody>) -> F + 'static,
    F: Future<Output = Result<Response<B>, Reset>> + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + 'static,
{
    match version {
        HttpVersion::Http1 => serve_http1(stream, handler, drain).await,
        HttpVersion::Http2 => serve_http2(stream, handler, drain).await,
    }
}

async fn serve_http1<H, F, B>(
    stream: LocalStream,
    handler: H,
    drain: impl Future<Output = ()>,
) -> Result<(), hyper::Error>
where
    H: Fn(Request<RequestBody>) -> F + 'static,
    F: Future<Output = Result<Response<B>, Reset>> + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + 'static,
{
    let watch = HeadWatch::default();
    let until_close = Rc::new(Cell::new(false));
    let service = {
        let until_close = until_close.clone();
        service_fn(move |request: Request<Incoming>| {
            let version = request.version();
            let doubt = Doubt::of(&request);
            let response = handler(RequestBody::new(request));
            let until_close = until_close.clone();
            async move {
                let mut response = response.await?;
                finish_http1(&mut response, doubt);
                until_close
                    .set(version == Version::HTTP_10 && !response.headers().contains_key(CONTENT_LENGTH));
                Ok::<_, Reset>(response)
            }
        })
    };
    let mut connection = http1_builder()
        .timer(HeadTimer::new(watch.clone(), HEAD_TIMEOUT))
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(ServerIo { stream, watch }), service)
        .with_upgrades();
    let mut drain = pin!(drain);
    let result = tokio::select! {
        biased;
        result = &mut connection => result,
        () = &mut drain => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    // A body to an HTTP/1.0 caller may last until the connection closes: if it fails, only a reset tells.
    if until_close.get()
        && result.as_ref().is_err_and(hyper::Error::is_user)
        && let Some(parts) = connection.into_parts()
    {
        parts.io.into_inner().stream.reset();
    }
    result
}

/// How strictly, and within which limits, an application's HTTP/1.1 is read.
pub(crate) fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD).max_header_size(MAX_HEAD);
    builder
}

async fn serve_http2<H, F, B>(
    stream: LocalStream,
    handler: H,
    drain: impl Future<Output = ()>,
) -> Result<(), hyper::Error>
where
    H: Fn(Request<RequestBody>) -> F + 'static,
    F: Future<Output = Result<Response<B>, Reset>> + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + 'static,
{
    let service = service_fn(move |request| handler(RequestBody::new(request)));
    let connection = http2::Builder::new(LocalExecutor)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .serve_connection(TokioIo::new(stream), service);
    let (mut connection, mut drain) = (pin!(connection), pin!(drain));
    tokio::select! {
        biased;
        result = connection.as_mut() => result,
        () = &mut drain => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// Whether what follows a request on its connection can be told from what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    /// A caller may have sent the first bytes of its tunnel already, which are no request if it gets none.
    UnlessAccepted,
    /// The request ends where hyper says; whoever wrote its coding may have meant otherwise.
    Always,
}

impl Doubt {
    fn of<B>(request: &Request<B>) -> Self {
        match () {
            () if check_transfer_coding(request.headers()).is_err() => Self::Always,
            () if request.method() == Method::CONNECT => Self::UnlessAccepted,
            () => Self::None,
        }
    }
}

fn finish_http1<B>(response: &mut Response<B>, doubt: Doubt) {
    // The version is this hop's; hyper knows nothing of HTTP/3.
    *response.version_mut() = Version::HTTP_11;
    let ends = match doubt {
        Doubt::None => false,
        Doubt::UnlessAccepted => !response.status().is_success(),
        Doubt::Always => true,
    };
    if ends {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// A caller's stream whose reads are watched.
#[derive(Debug)]
pub(super) struct ServerIo {
    stream: LocalStream,
    watch: HeadWatch,
}

impl ServerIo {
    /// The stream alone.
    pub(super) fn into_stream(self) -> LocalStream {
        self.stream
    }
}

impl AsyncRead for ServerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if poll.is_ready() {
            self.watch.on_read();
        }
        poll
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
