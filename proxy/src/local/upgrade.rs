//! What remains of a connection after CONNECT or a WebSocket handshake: a stream of bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::io::LocalStream;
use super::server::ServerIo;

/// The stream that a caller's connection becomes once its request is answered: CONNECT with 2xx, another upgrade
/// with 101.
#[derive(Debug)]
pub(crate) struct PendingUpgrade(OnUpgrade);

/// An upgraded connection of a caller.
#[derive(Debug)]
pub(crate) enum UpgradedStream {
    /// The whole TCP connection.
    Tcp(LocalStream),
    /// One stream of an HTTP/2 connection.
    Http2(TokioIo<Upgraded>),
}

impl PendingUpgrade {
    /// Takes the pending upgrade out of a request. `None` if the request asks for none.
    pub(crate) fn take<B>(request: &mut http::Request<B>) -> Option<Self> {
        request.extensions_mut().remove::<OnUpgrade>().map(Self)
    }

    /// Waits for the answer to be written. Bytes that the caller sent before it are the first that the stream reads.
    ///
    /// # Errors
    /// If the request was answered otherwise, or the connection ended.
    pub(crate) async fn complete(self) -> Result<UpgradedStream, hyper::Error> {
        let upgraded = self.0.await?;
        Ok(match upgraded.downcast::<TokioIo<ServerIo>>() {
            Ok(parts) => {
                let mut stream = parts.io.into_inner().into_stream();
                stream.unread(parts.read_buf);
                UpgradedStream::Tcp(stream)
            }
            Err(upgraded) => UpgradedStream::Http2(TokioIo::new(upgraded)),
        })
    }
}

impl AsyncRead for UpgradedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Http2(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for UpgradedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Http2(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Http2(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Http2(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
