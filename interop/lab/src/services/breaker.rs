//! Connections that the application can break from within an answer.

use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Breaks one connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Breaker(Arc<State>);

#[derive(Debug, Default)]
struct State {
    with_reset: AtomicBool,
    broken: Notify,
}

/// A connection that ends as its [`Breaker`] says.
pub(super) struct Breakable {
    stream: TcpStream,
    breaker: Breaker,
}

impl Breaker {
    /// Ends it with RST: what was written and not yet sent is lost.
    pub(super) fn reset(&self) {
        self.0.with_reset.store(true, Ordering::Relaxed);
        self.close();
    }

    /// Ends it with FIN.
    pub(super) fn close(&self) {
        self.0.broken.notify_one();
    }

    /// Waits until it is to be ended, by dropping the stream.
    pub(super) async fn broken(&self) {
        self.0.broken.notified().await;
    }

    /// The stream with which this is done.
    pub(super) fn guard(&self, stream: TcpStream) -> Breakable {
        Breakable {
            stream,
            breaker: self.clone(),
        }
    }
}

/// Makes close(2) send RST.
pub(super) fn reset_on_close(stream: &TcpStream) {
    // That is what a linger time of zero is for.
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(stream, sockopt::Linger, &at_once).ok();
}

impl Drop for Breakable {
    fn drop(&mut self) {
        if self.breaker.0.with_reset.load(Ordering::Relaxed) {
            reset_on_close(&self.stream);
        }
    }
}

impl AsyncRead for Breakable {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
