//! TCP streams to and from the application.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::capture::OutgoingGuard;

/// A TCP stream, and the bytes of it that were read before its owner was known.
#[derive(Debug)]
pub(crate) struct LocalStream {
    prefix: Bytes,
    stream: TcpStream,
    /// Of a connection that we opened: it is ours as long as it is open.
    _outgoing: Option<OutgoingGuard>,
}

impl LocalStream {
    /// Takes over an accepted stream. `prefix` was read from it already and is read again first.
    pub(crate) fn new(stream: TcpStream, prefix: Bytes) -> Self {
        tune(&stream);
        Self {
            prefix,
            stream,
            _outgoing: None,
        }
    }

    /// Takes over a stream that was opened by us.
    pub(super) fn outgoing(stream: TcpStream, guard: OutgoingGuard) -> Self {
        Self {
            _outgoing: Some(guard),
            ..Self::new(stream, Bytes::new())
        }
    }

    /// Puts bytes back, in front of those that are still to be read.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        if self.prefix.is_empty() {
            self.prefix = bytes;
        } else {
            self.prefix = [bytes, std::mem::take(&mut self.prefix)].concat().into();
        }
    }

    /// The stream, for its addresses and options.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.stream
    }

    /// Bytes read before and not taken since.
    #[cfg(test)]
    pub(crate) fn prefix(&self) -> &Bytes {
        &self.prefix
    }

    /// Aborts the connection: the other side sees a reset, never a clean end.
    pub(crate) fn reset(self) {
        // A lingering time of zero makes close() send RST. The call can't block.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Whether an idle connection is still usable: it has neither ended nor anything to say. One system call.
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(&self.stream).peek(&mut byte) {
            Ok(_) => false,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

/// Sets the options of a connection with the application. Each call fails only on a connection that is gone, or where
/// the kernel lacks the option: then it works all the same.
fn tune(stream: &TcpStream) {
    // A proxy never waits to fill a segment: what it has to say is all that there is to say.
    let _ = stream.set_nodelay(true);
    let on_this_host = match (stream.peer_addr(), stream.local_addr()) {
        (Ok(peer), Ok(local)) => peer.ip().is_loopback() || peer.ip() == local.ip(),
        _ => false,
    };
    if on_this_host {
        // BBR, the default of many hosts, paces: a timer for each send, on a path that has no queue to protect. Reno is
        // in every kernel and allowed to everyone.
        let _ = SockRef::from(stream).set_tcp_congestion(b"reno");
    }
}

impl AsyncRead for LocalStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix[..length]);
        self.prefix.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LocalStream {
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
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn the_prefix_is_read_first_and_once() {
        let (mut client, server) = pair().await;
        let mut stream = LocalStream::new(server, Bytes::from_static(b"ab"));
        stream.unread(Bytes::from_static(b"__"));
        assert_eq!(stream.prefix().as_ref(), b"__ab");
        client.write_all(b"cd").await.unwrap();
        drop(client);
        let mut first = [0; 1];
        stream.read_exact(&mut first).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!((&first[..], &rest[..]), (&b"_"[..], &b"_abcd"[..]));
    }

    #[tokio::test]
    async fn a_reset_is_seen_as_a_reset() {
        let (mut client, server) = pair().await;
        LocalStream::new(server, Bytes::new()).reset();
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn quiet_means_open_and_silent() {
        let (client, server) = pair().await;
        let stream = LocalStream::new(server, Bytes::new());
        assert!(stream.is_quiet());
        drop(client);
        stream.tcp().readable().await.unwrap();
        assert!(!stream.is_quiet(), "ended");

        let (mut client, server) = pair().await;
        let stream = LocalStream::new(server, Bytes::new());
        client.write_all(b"x").await.unwrap();
        stream.tcp().readable().await.unwrap();
        assert!(!stream.is_quiet(), "has something to say");
    }
}
