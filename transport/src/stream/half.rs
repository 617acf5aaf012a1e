//! What both halves of a stream do with their connection.

use std::{
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use quinn_proto::{Chunk, ReadError, ReadableError, StreamId, VarInt, WriteError};

use super::now;
use crate::{
    connection::Connection,
    error::{Error, ErrorKind},
    h3::Code,
};

/// One half's hold on the stream.
pub(super) struct Half {
    pub(super) connection: Rc<Connection>,
    pub(super) id: StreamId,
}

impl Half {
    pub(super) fn poll_read(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        let inner = &mut *self.connection.inner.borrow_mut();
        if let Some(verdict) = inner.streams.verdict(self.id) {
            return Poll::Ready(Err(verdict.clone().into()));
        }
        let Some((read, credit)) = read_chunk(&mut inner.proto, self.id) else {
            return Poll::Ready(Err(inner.ended().unwrap_or(ErrorKind::Closed.into())));
        };
        let result = match read {
            Ok(Some(chunk)) => {
                inner.streams.on_read(self.id);
                Poll::Ready(Ok(Some(chunk.bytes)))
            }
            // What has ended holds nothing of the window, however long its other half stays open.
            Ok(None) => {
                inner.streams.on_all_read(self.id);
                Poll::Ready(Ok(None))
            }
            Err(ReadError::Reset(code)) => {
                inner.streams.on_all_read(self.id);
                inner.streams.on_aborted(self.id);
                Poll::Ready(Err(ErrorKind::Reset(Code(code.into_inner())).into()))
            }
            Err(ReadError::Blocked) => match inner.ended() {
                Some(error) => Poll::Ready(Err(error)),
                None => {
                    inner.streams.wait_readable(self.id, cx);
                    Poll::Pending
                }
            },
        };
        if credit {
            self.connection.mark_dirty();
        }
        result
    }

    pub(super) fn poll_write(
        &self,
        chunks: &mut [Bytes],
        cx: &mut Context<'_>,
    ) -> Poll<Result<quinn_proto::Written, Error>> {
        let inner = &mut *self.connection.inner.borrow_mut();
        if let Some(verdict) = inner.streams.verdict(self.id) {
            return Poll::Ready(Err(verdict.clone().into()));
        }
        if let Some(error) = inner.ended() {
            return Poll::Ready(Err(error));
        }
        let mut stream = inner.proto.send_stream(self.id);
        let written = match stream.write_chunks(chunks) {
            // A connection without room says so first, and that may last.
            Err(WriteError::Blocked) => match stream.stopped() {
                Ok(Some(code)) => Err(WriteError::Stopped(code)),
                Ok(None) | Err(_) => Err(WriteError::Blocked),
            },
            written => written,
        };
        match written {
            Ok(written) => {
                self.connection.mark_dirty();
                Poll::Ready(Ok(written))
            }
            Err(WriteError::Blocked) => {
                inner.streams.wait_writable(self.id, cx);
                Poll::Pending
            }
            Err(WriteError::Stopped(code)) => Poll::Ready(Err(self.on_stopped(inner, code))),
            Err(WriteError::ClosedStream) => Poll::Ready(Err(ErrorKind::Closed.into())),
        }
    }

    pub(super) fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.connection.inner.borrow_mut();
        if inner.streams.verdict(self.id).is_some() || inner.ended().is_some() {
            return Poll::Ready(());
        }
        match inner.proto.send_stream(self.id).stopped() {
            Ok(None) => {}
            Ok(Some(_)) => {
                inner.streams.on_aborted(self.id);
                return Poll::Ready(());
            }
            Err(_) => return Poll::Ready(()),
        }
        inner.streams.wait_writable(self.id, cx);
        Poll::Pending
    }

    pub(super) fn finish(&self) -> Result<(), Error> {
        let inner = &mut *self.connection.inner.borrow_mut();
        if let Some(verdict) = inner.streams.verdict(self.id) {
            return Err(verdict.clone().into());
        }
        if let Some(error) = inner.ended() {
            return Err(error);
        }
        self.connection.mark_dirty();
        inner
            .proto
            .send_stream(self.id)
            .finish()
            .map_err(|error| match error {
                quinn_proto::FinishError::Stopped(code) => self.on_stopped(inner, code),
                quinn_proto::FinishError::ClosedStream => ErrorKind::Closed.into(),
            })
    }

    /// The peer asked us to stop sending: it wants RESET_STREAM with its code (RFC 9000 section 3.5), without
    /// which the stream would count as open for ever.
    fn on_stopped(&self, inner: &mut crate::connection::Inner, code: VarInt) -> Error {
        let _ = inner.proto.send_stream(self.id).reset(code);
        inner.streams.on_aborted(self.id);
        self.connection.mark_dirty();
        ErrorKind::Reset(Code(code.into_inner())).into()
    }

    pub(super) fn reset(&self, code: Code) {
        let _ = self
            .connection
            .inner
            .borrow_mut()
            .proto
            .send_stream(self.id)
            .reset(wire(code));
        self.connection.mark_dirty();
    }

    pub(super) fn stop(&self, code: Code) {
        let inner = &mut *self.connection.inner.borrow_mut();
        let _ = inner.proto.recv_stream(self.id).stop(wire(code));
        inner.streams.on_all_read(self.id);
        self.connection.mark_dirty();
    }

    /// The peer broke a rule on this stream: `code` is how an unfinished answer on it is reset.
    pub(super) fn set_abort_code(&self, code: Code) {
        let mut inner = self.connection.inner.borrow_mut();
        inner.streams.set_abort_code(self.id, code);
        inner.streams.on_aborted(self.id);
    }

    pub(super) fn abort_code(&self) -> Option<Code> {
        self.connection.inner.borrow().streams.abort_code(self.id)
    }

    pub(super) fn violation(&self, code: Code) {
        self.connection.on_violation(now(), code);
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        let inner = &mut *self.connection.inner.borrow_mut();
        if let Some(released) = inner.streams.release(self.id) {
            self.connection.on_released(inner, released);
        }
    }
}

/// One read, and whether it freed credit that the peer should be told of; `None` if the stream is closed.
fn read_chunk(
    proto: &mut quinn_proto::Connection,
    id: StreamId,
) -> Option<(Result<Option<Chunk>, ReadError>, bool)> {
    let mut stream = proto.recv_stream(id);
    let mut chunks = match stream.read(true) {
        Ok(chunks) => chunks,
        Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => return None,
    };
    let read = chunks.next(usize::MAX);
    Some((read, chunks.finalize().should_transmit()))
}

fn wire(code: Code) -> VarInt {
    VarInt::from_u64(code.value()).unwrap_or(VarInt::MAX)
}
