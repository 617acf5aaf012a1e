//! The receiving half of a stream.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;

use super::{End, Half};
use crate::{
    error::{Error, ErrorKind},
    h3::{BodyLength, Code, H3Error, MessageReader, Part, ResponseHead, Scope},
};

/// The receiving half.
pub struct RecvStream {
    pub(super) half: Half,
    pub(super) reader: Option<MessageReader>,
    /// Content that was read to see whether there is any.
    pub(super) peeked: Option<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) end: End,
    pub(super) abort_code: Code,
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

    /// Has the peer acknowledged nothing for so long that new requests do not wait for it? The task that waits for this
    /// stream is woken when that begins. A peer that is slow to answer, but alive, acknowledges.
    pub fn is_unresponsive(&self) -> bool {
        let now = tokio::time::Instant::now().into_std();
        self.half.connection.is_unresponsive(now)
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

    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, Error>> {
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
    pub(super) fn on_violation(&mut self, error: H3Error) -> Error {
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
