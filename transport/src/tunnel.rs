//! A byte stream of the application carried as the DATA frames of a CONNECT stream (RFC 9114 section 4.4).
//!
//! FIN is half-close in both directions. An abort of either side is an abort of the other: a TCP reset becomes
//! H3_CONNECT_ERROR, and a reset stream becomes a TCP reset (by the caller, who owns the socket).

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    error::Error,
    h3::Code,
    stream::{RecvStream, RequestStream, SendStream},
};

/// What one read of the application takes at the most.
const READ_SIZE: usize = 64 << 10;

thread_local! {
    /// Shared by all tunnels of the thread, so that an idle tunnel holds no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_SIZE].into_boxed_slice());
}

/// How a tunnel ended.
#[derive(Debug)]
pub struct TunnelEnd {
    /// Bytes from the application to the peer.
    pub sent: u64,
    /// Bytes from the peer to the application.
    pub received: u64,
    /// What cut it short, if it did not end by both sides' FIN.
    pub error: Option<TunnelError>,
}

/// What cut a tunnel short.
#[derive(Debug)]
pub enum TunnelError {
    /// The application's connection failed.
    Application(io::Error),
    /// The peer or the way to it failed; the application's connection should be reset.
    Peer(Error),
}

/// Carries bytes both ways until both sides have ended or one has failed.
pub async fn copy_tunnel<T>(application: &mut T, stream: RequestStream) -> TunnelEnd
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut tunnel = Tunnel {
        up: Up {
            send: stream.send,
            // First of all: the head that opened the tunnel may still be queued.
            phase: Phase::Writing,
            count: 0,
        },
        down: Down {
            recv: stream.recv,
            pending: Bytes::new(),
            phase: Phase::Reading,
            count: 0,
        },
    };
    let result = poll_fn(|cx| tunnel.poll(Pin::new(&mut *application), cx)).await;
    if let Err(TunnelError::Application(_)) = &result {
        tunnel.up.send.reset(Code::H3_CONNECT_ERROR);
        tunnel.down.recv.stop(Code::H3_CONNECT_ERROR);
    }
    TunnelEnd {
        sent: tunnel.up.count,
        received: tunnel.down.count,
        error: result.err(),
    }
}

struct Tunnel {
    up: Up,
    down: Down,
}

/// Application to peer.
struct Up {
    send: SendStream,
    phase: Phase,
    count: u64,
}

/// Peer to application.
struct Down {
    recv: RecvStream,
    pending: Bytes,
    phase: Phase,
    count: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Looks for more to carry.
    Reading,
    /// Hands on what it has read.
    Writing,
    /// The source has ended; the end is being handed on.
    Ending,
    Done,
}

impl Tunnel {
    fn poll<T>(&mut self, mut application: Pin<&mut T>, cx: &mut Context<'_>) -> Poll<Result<(), TunnelError>>
    where
        T: AsyncRead + AsyncWrite,
    {
        let up = self.up.poll(application.as_mut(), cx)?;
        let down = self.down.poll(application, cx)?;
        if up.is_ready() && down.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }
}

impl Up {
    fn poll<T: AsyncRead>(
        &mut self,
        mut application: Pin<&mut T>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), TunnelError>> {
        loop {
            match self.phase {
                Phase::Reading => {
                    let data = ready!(read(application.as_mut(), cx)).map_err(TunnelError::Application)?;
                    self.count += data.len() as u64;
                    if data.is_empty() {
                        self.send.queue_end().map_err(TunnelError::Peer)?;
                        self.phase = Phase::Ending;
                    } else {
                        self.send.queue_data(data).map_err(TunnelError::Peer)?;
                        self.phase = Phase::Writing;
                    }
                }
                Phase::Writing | Phase::Ending => {
                    ready!(self.send.poll_flush(cx)).map_err(TunnelError::Peer)?;
                    self.phase = if self.phase == Phase::Ending {
                        Phase::Done
                    } else {
                        Phase::Reading
                    };
                }
                Phase::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl Down {
    fn poll<T: AsyncWrite>(
        &mut self,
        mut application: Pin<&mut T>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), TunnelError>> {
        loop {
            match self.phase {
                Phase::Reading => match self.recv.poll_data(cx) {
                    Poll::Ready(Ok(Some(data))) => {
                        self.pending = data;
                        self.phase = Phase::Writing;
                    }
                    Poll::Ready(Ok(None)) => self.phase = Phase::Ending,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(TunnelError::Peer(error))),
                    Poll::Pending => {
                        // An upgraded HTTP/1.1 connection may hold what was written.
                        return match application.as_mut().poll_flush(cx) {
                            Poll::Ready(Err(error)) => Poll::Ready(Err(TunnelError::Application(error))),
                            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                        };
                    }
                },
                Phase::Writing => {
                    while !self.pending.is_empty() {
                        let written = ready!(application.as_mut().poll_write(cx, &self.pending))
                            .map_err(TunnelError::Application)?;
                        if written == 0 {
                            let error = io::ErrorKind::WriteZero.into();
                            return Poll::Ready(Err(TunnelError::Application(error)));
                        }
                        self.count += written as u64;
                        self.pending.advance(written);
                    }
                    self.phase = Phase::Reading;
                }
                Phase::Ending => {
                    ready!(application.as_mut().poll_shutdown(cx)).map_err(TunnelError::Application)?;
                    self.phase = Phase::Done;
                }
                Phase::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Reads what there is; empty at the end.
fn read<T: AsyncRead>(source: Pin<&mut T>, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(source.poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
    })
}
