//! Request streams: one HTTP message each way, or a tunnel.
//!
//! Both halves work through the [`Connection`] in short synchronous steps. What is queued on a [`SendStream`]
//! leaves with one [`flush`](SendStream::flush), so that the head, the content and the end of a small message
//! share a datagram. Dropping a half before its end resets it: an unfinished message never looks complete.

mod half;
mod recv;

use std::{
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use quinn_proto::StreamId;

use crate::{
    config::Side,
    connection::Connection,
    error::{Error, ErrorKind},
    h3::{
        BodyLength, Code, EncodeError, H3Error, MessageReader, MessageState, Part, RequestHead, ResponseHead,
        encode_data_header, encode_request, encode_response, encode_trailers,
        message::{HeadKind, MessageKind, response_kind},
    },
};

use self::half::Half;
pub use self::recv::RecvStream;

/// Content up to this length is copied behind its frame header: one segment to send instead of two.
const COPY_UP_TO: usize = 1_024;
/// A message that has sent this much gives way to others on its connection.
const BULK: u64 = 64 << 10;

/// A request stream.
pub struct RequestStream {
    /// What we send.
    pub send: SendStream,
    /// What the peer sends.
    pub recv: RecvStream,
}

/// The sending half.
pub struct SendStream {
    half: Half,
    /// Frames that are not handed to QUIC yet, behind those in `queue`.
    staged: BytesMut,
    queue: Vec<Bytes>,
    state: MessageState,
    body: BodyLength,
    /// Server: what the request asked, for the rules of its response.
    method: Method,
    end: End,
    abort_code: Code,
    sent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// More may come.
    Open,
    /// The end is queued behind what is not flushed yet.
    Queued,
    /// The end was handed over, or seen.
    Done,
    /// Reset or stopped, by either side.
    Aborted,
}

impl RequestStream {
    /// Both halves of a stream that `connection` has just opened or accepted.
    pub(crate) fn new(connection: Rc<Connection>, id: StreamId) -> Self {
        let half = |connection: Rc<Connection>| Half { connection, id };
        let side = connection.side();
        let reader = match side {
            Side::Listen => Some(MessageReader::request(connection.config().limits)),
            // Made when the request says its method.
            Side::Dial => None,
        };
        let (send_abort, recv_abort) = match side {
            Side::Dial => (Code::H3_REQUEST_CANCELLED, Code::H3_REQUEST_CANCELLED),
            // The response says what becomes of the request: it is refused until someone says that the
            // application has seen it. To stop reading is within our rights in any case (RFC 9114 section 4.1);
            // with another code, some clients would never see the end of an answer.
            Side::Listen => (Code::H3_REQUEST_REJECTED, Code::H3_NO_ERROR),
        };
        let send = SendStream {
            half: half(connection.clone()),
            staged: BytesMut::new(),
            queue: Vec::new(),
            state: MessageState::Head,
            body: BodyLength::Unknown,
            method: Method::GET,
            end: End::Open,
            abort_code: send_abort,
            sent: 0,
        };
        let recv = RecvStream {
            half: half(connection),
            reader,
            peeked: None,
            trailers: None,
            end: End::Open,
            abort_code: recv_abort,
        };
        Self { send, recv }
    }

    /// Queues the head of a request.
    ///
    /// # Errors
    /// It can't be said in HTTP/3, or is larger than the peer takes.
    pub fn queue_request(&mut self, head: &RequestHead) -> Result<(), Error> {
        let limits = self.recv.half.connection.config().limits;
        self.recv.reader = Some(MessageReader::response(limits, head.method.clone()));
        self.send.queue_request(head)
    }

    /// Reads the head of a request.
    ///
    /// # Errors
    /// It is malformed or too large (the stream is then reset, and [`H3Error::status`] says what may be
    /// answered), or the stream or connection ended.
    pub async fn request_head(&mut self) -> Result<RequestHead, Error> {
        match poll_fn(|cx| self.recv.poll_part(cx)).await? {
            Some(Part::Request(head)) => {
                self.send.method = head.method.clone();
                Ok(head)
            }
            _ => Err(ErrorKind::Malformed(H3Error::RequestIncomplete).into()),
        }
    }

    /// From now on the application may have acted on the request: an abort is no longer a refusal.
    pub fn mark_processed(&mut self) {
        self.send.mark_processed();
    }

    /// Refuses the request as unprocessed (RFC 9114 section 4.1.1): the peer may send it elsewhere.
    pub fn reject(mut self) {
        self.send.reset(Code::H3_REQUEST_REJECTED);
        self.recv.stop(Code::H3_REQUEST_REJECTED);
    }
}

/// Counts as a tunnel of its connection until it is dropped.
pub struct TunnelSlot {
    connection: Rc<Connection>,
}

impl Drop for TunnelSlot {
    fn drop(&mut self) {
        self.connection.inner.borrow_mut().streams.release_tunnel();
    }
}

/// A connection carries as many tunnels as it may; requests still pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection carries as many tunnels as it may")]
pub struct TunnelLimit;

impl SendStream {
    fn queue_request(&mut self, head: &RequestHead) -> Result<(), Error> {
        let encoding = self.half.connection.inner.borrow().control.encoding();
        encode_request(head, encoding, &mut self.staged).map_err(unsendable)?;
        let kind = if head.is_connect() {
            HeadKind::Tunnel
        } else {
            HeadKind::Final
        };
        self.state.on_head(kind).map_err(out_of_order)?;
        self.body = BodyLength::of_request(head).map_err(|_| ErrorKind::Unsendable("content-length"))?;
        Ok(())
    }

    /// Queues the head of a response, interim or final.
    ///
    /// # Errors
    /// It can't be said in HTTP/3, or is larger than the peer takes.
    pub fn queue_response(&mut self, head: &ResponseHead) -> Result<(), Error> {
        let encoding = self.half.connection.inner.borrow().control.encoding();
        encode_response(head, encoding, &mut self.staged).map_err(unsendable)?;
        self.state
            .on_head(response_kind(&self.method, head))
            .map_err(out_of_order)?;
        if !head.is_interim() {
            self.body = BodyLength::of_response(&self.method, head)
                .map_err(|_| ErrorKind::Unsendable("content-length"))?;
        }
        Ok(())
    }

    /// Queues content, or bytes of a tunnel. Flush before queueing more, or there is no backpressure.
    ///
    /// # Errors
    /// More than `content-length` announced.
    pub fn queue_data(&mut self, data: Bytes) -> Result<(), Error> {
        self.state.on_data().map_err(out_of_order)?;
        self.body
            .on_data(data.len())
            .map_err(|_| ErrorKind::Unsendable("more content than announced"))?;
        if data.is_empty() {
            // Legal, but some peers take an empty DATA frame for an error.
            return Ok(());
        }
        encode_data_header(data.len() as u64, &mut self.staged);
        if data.len() <= COPY_UP_TO {
            self.staged.extend_from_slice(&data);
        } else {
            self.queue.push(self.staged.split().freeze());
            self.queue.push(data);
        }
        Ok(())
    }

    /// Queues trailers.
    ///
    /// # Errors
    /// They can't be said in HTTP/3, or are larger than the peer takes; or less content than
    /// `content-length` announced.
    pub fn queue_trailers(&mut self, trailers: &HeaderMap) -> Result<(), Error> {
        self.body
            .on_end()
            .map_err(|_| ErrorKind::Unsendable("less content than announced"))?;
        let encoding = self.half.connection.inner.borrow().control.encoding();
        encode_trailers(trailers, encoding, &mut self.staged).map_err(unsendable)?;
        self.state.on_trailers().map_err(out_of_order)
    }

    /// Queues the end of the message, or of the tunnel's direction.
    ///
    /// # Errors
    /// Less content than `content-length` announced: the message must not look complete.
    pub fn queue_end(&mut self) -> Result<(), Error> {
        self.body
            .on_end()
            .map_err(|_| ErrorKind::Unsendable("less content than announced"))?;
        self.state.on_end(MessageKind::Response).map_err(out_of_order)?;
        if self.end == End::Open {
            self.end = End::Queued;
        }
        Ok(())
    }

    /// Hands all that is queued to QUIC; waits while the peer or our own buffers have no room for it.
    ///
    /// # Errors
    /// The peer stopped reading, or the stream or connection ended.
    pub async fn flush(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// See [`flush`](Self::flush).
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let flushed = !self.staged.is_empty() || !self.queue.is_empty();
        if !self.staged.is_empty() {
            self.queue.push(self.staged.split().freeze());
        }
        while !self.queue.is_empty() {
            let written = ready!(self.half.poll_write(&mut self.queue, cx));
            let written = written.inspect_err(|_| self.end = End::Aborted)?;
            self.queue.drain(..written.chunks);
            self.on_sent(written.bytes as u64);
        }
        if self.end == End::Queued {
            self.half.finish().inspect_err(|_| self.end = End::Aborted)?;
            self.end = End::Done;
        }
        if flushed {
            self.half.connection.on_written();
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the peer has asked us to stop sending, or the stream or connection has ended: nobody waits for
    /// what we send any more.
    pub fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.end != End::Open {
            return Poll::Pending;
        }
        self.half.poll_stopped(cx)
    }

    /// Abandons the message: the peer sees that it is not complete.
    pub fn reset(&mut self, code: Code) {
        if matches!(self.end, End::Open | End::Queued) {
            self.end = End::Aborted;
            self.half.reset(code);
        }
    }

    /// See [`RequestStream::mark_processed`].
    pub fn mark_processed(&mut self) {
        self.abort_code = Code::H3_INTERNAL_ERROR;
    }

    /// Takes the stream on as a tunnel, which may stay open for long.
    ///
    /// # Errors
    /// The connection carries as many tunnels as it may.
    pub fn admit_tunnel(&self) -> Result<TunnelSlot, TunnelLimit> {
        let connection = self.half.connection.clone();
        let admitted = connection.inner.borrow_mut().streams.admit_tunnel();
        if admitted {
            Ok(TunnelSlot { connection })
        } else {
            Err(TunnelLimit)
        }
    }

    /// Has the final head of a response been queued?
    pub fn head_queued(&self) -> bool {
        self.state != MessageState::Head
    }

    fn on_sent(&mut self, bytes: u64) {
        let before = self.sent;
        self.sent += bytes;
        if before < BULK && self.sent >= BULK {
            let _ = self
                .half
                .connection
                .inner
                .borrow_mut()
                .proto
                .send_stream(self.half.id)
                .set_priority(-1);
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        self.reset(self.half.abort_code().unwrap_or(self.abort_code));
    }
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

fn unsendable(error: EncodeError) -> Error {
    ErrorKind::Unsendable(match error {
        EncodeError::Malformed(_) => "malformed",
        EncodeError::TooLarge => "larger than the peer takes",
    })
    .into()
}

fn out_of_order(_: H3Error) -> Error {
    ErrorKind::Unsendable("out of order").into()
}
