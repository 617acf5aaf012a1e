//! Request streams: one HTTP message each way, or a tunnel.
//!
//! Both halves work through the [`Connection`] in short synchronous steps. What is queued on a [`SendStream`]
//! leaves with one [`flush`](SendStream::flush), so that the head, the content and the end of a small message
//! share a datagram. Dropping a half before its end resets it: an unfinished message never looks complete.

use std::{
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use quinn_proto::{Chunk, ReadError, ReadableError, StreamId, VarInt, WriteError};

use crate::{
    config::Side,
    connection::Connection,
    error::{Error, ErrorKind},
    h3::{
        BodyLength, Code, EncodeError, H3Error, MessageReader, MessageState, Part, RequestHead, ResponseHead,
        Scope, encode_data_header, encode_request, encode_response, encode_trailers,
        message::{HeadKind, MessageKind, response_kind},
    },
};

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

/// The receiving half.
pub struct RecvStream {
    half: Half,
    reader: Option<MessageReader>,
    /// Content that was read to see whether there is any.
    peeked: Option<Bytes>,
    trailers: Option<HeaderMap>,
    end: End,
    abort_code: Code,
}

/// One half's hold on the stream.
struct Half {
    connection: Rc<Connection>,
    id: StreamId,
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

impl RecvStream {
    /// Reads the head of a response: interim ones (1xx) first, each as it comes, then the final one.
    ///
    /// # Errors
    /// It is malformed or too large, or the stream or connection ended.
    pub async fn response_head(&mut self) -> Result<ResponseHead, Error> {
        poll_fn(|cx| self.poll_response_head(cx)).await
    }

    /// See [`response_head`](Self::response_head).
    pub fn poll_response_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Error>> {
        Poll::Ready(match ready!(self.poll_part(cx))? {
            Some(Part::Interim(head) | Part::Response(head)) => Ok(head),
            _ => Err(ErrorKind::Malformed(H3Error::RequestIncomplete).into()),
        })
    }

    /// Has the message ended, as far as is known without waiting? Call it after the head, to tell a message
    /// without content from one whose content is still to come.
    ///
    /// # Errors
    /// As [`poll_data`](Self::poll_data).
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        if self.peeked.is_none() && self.end == End::Open {
            match self.poll_data(cx)? {
                Poll::Ready(Some(data)) => self.peeked = Some(data),
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
        Ok(self.peeked.is_none() && self.end == End::Done && self.trailers.is_none())
    }

    /// Ready when there is something to read, or the end, or an error: the next
    /// [`poll_data`](Self::poll_data) tells.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.peeked.is_some() || self.end != End::Open {
            return Poll::Ready(());
        }
        if let Some(data) = ready!(self.poll_data(cx)).ok().flatten() {
            self.peeked = Some(data);
        }
        Poll::Ready(())
    }

    /// The next piece of content or of the tunnel; `None` at the end, when [`trailers`](Self::trailers) has what
    /// came behind it.
    ///
    /// # Errors
    /// The message is malformed or cut short, or the stream or connection ended.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        if let Some(data) = self.peeked.take() {
            return Poll::Ready(Ok(Some(data)));
        }
        loop {
            return match ready!(self.poll_part(cx))? {
                Some(Part::Data(data)) => Poll::Ready(Ok(Some(data))),
                Some(Part::Trailers(trailers)) => {
                    self.trailers = Some(trailers);
                    continue;
                }
                None => Poll::Ready(Ok(None)),
                // The reader gives heads first, and the head was asked for before.
                Some(Part::Request(_) | Part::Interim(_) | Part::Response(_)) => continue,
            };
        }
    }

    /// The trailers, once [`poll_data`](Self::poll_data) has said `None`.
    pub fn trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// Whether all content that `content-length` announced has been read, though perhaps not the end behind it.
    pub fn is_content_whole(&self) -> bool {
        let length = self.reader.as_ref().map(MessageReader::body_length);
        self.end == End::Done || length == Some(BodyLength::Missing(0))
    }

    /// Whether the whole message has been read.
    pub fn is_done(&self) -> bool {
        self.end == End::Done && self.peeked.is_none()
    }

    /// Reads no more: the peer is asked to stop sending.
    pub fn stop(&mut self, code: Code) {
        if self.end == End::Open {
            self.end = End::Aborted;
            self.half.stop(code);
        }
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, Error>> {
        match self.end {
            End::Open | End::Queued => {}
            End::Done => return Poll::Ready(Ok(None)),
            End::Aborted => return Poll::Ready(Err(ErrorKind::Closed.into())),
        }
        let Some(reader) = &mut self.reader else {
            return Poll::Ready(Err(ErrorKind::Closed.into()));
        };
        let result = loop {
            match reader.next() {
                Ok(Some(part)) => break Ok(Some(part)),
                Ok(None) => {}
                Err(error) => break Err(error),
            }
            match ready!(self.half.poll_read(cx)) {
                Ok(Some(chunk)) => reader.push(chunk),
                Ok(None) => break reader.finish().map(|()| None),
                Err(error) => {
                    self.end = End::Aborted;
                    return Poll::Ready(Err(error));
                }
            }
        };
        match result {
            Ok(None) => {
                self.end = End::Done;
                Poll::Ready(Ok(None))
            }
            Ok(part) => Poll::Ready(Ok(part)),
            Err(error) => Poll::Ready(Err(self.on_violation(error))),
        }
    }

    /// The peer broke a rule: its stream or its connection ends (RFC 9114 section 8).
    fn on_violation(&mut self, error: H3Error) -> Error {
        match error.scope() {
            Scope::Stream => {
                // A request that is answered although it was not read to its end is stopped without an error
                // (RFC 9114 section 4.1): some clients would never see the end of the answer.
                let reads_head = self.reader.as_ref().is_some_and(MessageReader::awaits_request);
                let may_answer = reads_head && error.status().is_some();
                self.stop(if may_answer {
                    Code::H3_NO_ERROR
                } else {
                    error.code()
                });
                // Not as a refusal: the same request would be as wrong elsewhere.
                self.half.set_abort_code(error.code());
            }
            Scope::Connection => self.half.violation(error.code()),
        }
        self.end = End::Aborted;
        match error {
            H3Error::FieldSectionTooLarge => ErrorKind::TooLarge.into(),
            error => ErrorKind::Malformed(error).into(),
        }
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        // Nothing of the message is missed if only its end has not been read.
        let code = if self.is_content_whole() {
            Code::H3_NO_ERROR
        } else {
            self.abort_code
        };
        self.stop(code);
    }
}

impl Half {
    fn poll_read(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
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

    fn poll_write(
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

    fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<()> {
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

    fn finish(&self) -> Result<(), Error> {
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

    fn reset(&self, code: Code) {
        let _ = self
            .connection
            .inner
            .borrow_mut()
            .proto
            .send_stream(self.id)
            .reset(wire(code));
        self.connection.mark_dirty();
    }

    fn stop(&self, code: Code) {
        let inner = &mut *self.connection.inner.borrow_mut();
        let _ = inner.proto.recv_stream(self.id).stop(wire(code));
        inner.streams.on_all_read(self.id);
        self.connection.mark_dirty();
    }

    /// The peer broke a rule on this stream: `code` is how an unfinished answer on it is reset.
    fn set_abort_code(&self, code: Code) {
        let mut inner = self.connection.inner.borrow_mut();
        inner.streams.set_abort_code(self.id, code);
        inner.streams.on_aborted(self.id);
    }

    fn abort_code(&self) -> Option<Code> {
        self.connection.inner.borrow().streams.abort_code(self.id)
    }

    fn violation(&self, code: Code) {
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

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

fn wire(code: Code) -> VarInt {
    VarInt::from_u64(code.value()).unwrap_or(VarInt::MAX)
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
