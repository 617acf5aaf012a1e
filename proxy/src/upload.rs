//! The sending of a request's content into the mesh, and what is kept of it so that it can be sent again.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use tokio::task::AbortHandle;
use weft_transport::{SendStream, h3::Code};

use crate::local::{
    body::{Continue, RequestBody},
    headers::clean_trailers,
};

/// Content up to this size is kept where no policy says otherwise.
pub(crate) const REPLAY: usize = 64 << 10;

/// A request's content on its way. As long as it is little, it is kept until the answer begins, so that a request that
/// was refused unprocessed half way through can go to another endpoint. The pieces are not copied.
pub(crate) struct Upload {
    /// `None`: all there is is kept.
    body: Option<RequestBody>,
    /// What was taken from `body`, while it is little enough to keep.
    kept: Option<Kept>,
    /// How much may be kept.
    cap: usize,
    phase: Phase,
    sent: u64,
}

#[derive(Clone, Default)]
struct Kept {
    chunks: Vec<Bytes>,
    size: usize,
    trailers: Option<HeaderMap>,
    whole: bool,
}

/// All of a request's content.
pub(crate) struct Whole(Kept);

impl Whole {
    /// Another one that sends it.
    pub(crate) fn upload(&self) -> Upload {
        Upload {
            body: None,
            kept: Some(self.0.clone()),
            cap: self.0.size,
            phase: Phase::Replaying(0),
            sent: 0,
        }
    }
}

/// Where the sending stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The kept pieces from this one on are to be sent first.
    Replaying(usize),
    Reading,
    /// There is nothing but the head to flush.
    Opening,
    /// All is queued; it remains to flush.
    Flushing,
    Done,
}

/// Why the sending ended early.
#[derive(Debug)]
pub(crate) enum UploadError {
    /// The application went away or broke its message: there is nobody to answer.
    Application,
    /// The peer does not want more, or is lost: its answer tells which.
    Peer,
}

impl Upload {
    /// Keeps at most `cap` bytes.
    pub(crate) fn new(body: RequestBody, cap: usize) -> Self {
        Self {
            body: Some(body),
            kept: Some(Kept::default()),
            cap,
            phase: Phase::Reading,
            sent: 0,
        }
    }

    /// None, and no end: what follows the head of a CONNECT is a tunnel's.
    pub(crate) fn open() -> Self {
        Self {
            body: None,
            kept: None,
            cap: 0,
            phase: Phase::Opening,
            sent: 0,
        }
    }

    /// All of its content, to be sent beside this one; none unless all of it is here.
    pub(crate) fn whole(&self) -> Option<Whole> {
        let ended = self.body.as_ref().is_none_or(Body::is_end_stream);
        let mut kept = self.kept.as_ref().filter(|kept| kept.whole || ended)?.clone();
        kept.whole = true;
        Some(Whole(kept))
    }

    /// Can the request be sent again from its beginning?
    pub(crate) fn can_restart(&self) -> bool {
        self.kept.is_some()
    }

    /// Starts again, on another stream.
    pub(crate) fn restart(&mut self) {
        self.phase = Phase::Replaying(0);
        self.sent = 0;
    }

    pub(crate) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Content bytes sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// The peer wants no more.
    pub(crate) fn stop(&mut self) {
        self.phase = Phase::Done;
    }

    /// Who waits for `100 Continue`, the first time that it is asked.
    pub(crate) fn take_continue(&mut self) -> Option<Continue> {
        self.body.as_mut()?.take_continue()
    }

    /// What was taken from the body and is kept, and the rest of it.
    pub(crate) fn into_parts(self) -> (Vec<Bytes>, Option<HeaderMap>, Option<RequestBody>) {
        let kept = self.kept.unwrap_or_default();
        (kept.chunks, kept.trailers, self.body)
    }

    /// Sends what there is. Queues as much as is ready before it hands anything to QUIC, so that a small request
    /// leaves whole.
    pub(crate) fn poll(
        &mut self,
        send: &mut SendStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            match self.phase {
                Phase::Replaying(index) => self.replay(index, send)?,
                Phase::Reading => {
                    let Some(body) = self.body.as_mut().filter(|body| !body.is_end_stream()) else {
                        self.end(None, send)?;
                        continue;
                    };
                    match Pin::new(body).poll_frame(cx) {
                        Poll::Ready(Some(Ok(frame))) => self.on_frame(frame, send)?,
                        Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(UploadError::Application)),
                        Poll::Ready(None) => {
                            self.end(None, send)?;
                            continue;
                        }
                        Poll::Pending => {
                            ready!(send.poll_flush(cx)).map_err(|_| UploadError::Peer)?;
                            return Poll::Pending;
                        }
                    }
                }
                Phase::Opening | Phase::Flushing => {}
                Phase::Done => return Poll::Ready(Ok(())),
            }
            if matches!(self.phase, Phase::Replaying(_)) {
                continue;
            }
            ready!(send.poll_flush(cx)).map_err(|_| UploadError::Peer)?;
            if self.phase != Phase::Reading {
                self.phase = Phase::Done;
            }
        }
    }

    fn replay(&mut self, index: usize, send: &mut SendStream) -> Result<(), UploadError> {
        let Some(kept) = &self.kept else {
            return Err(UploadError::Application);
        };
        match kept.chunks.get(index) {
            Some(chunk) => {
                self.sent += chunk.len() as u64;
                self.phase = Phase::Replaying(index + 1);
                send.queue_data(chunk.clone()).map_err(|_| UploadError::Peer)
            }
            None if kept.whole => {
                let trailers = kept.trailers.clone();
                self.end(trailers, send)
            }
            None => {
                self.phase = Phase::Reading;
                Ok(())
            }
        }
    }

    fn on_frame(&mut self, frame: http_body::Frame<Bytes>, send: &mut SendStream) -> Result<(), UploadError> {
        match frame.into_data() {
            Ok(data) => {
                self.keep(&data);
                self.sent += data.len() as u64;
                send.queue_data(data).map_err(|_| UploadError::Peer)
            }
            Err(frame) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    clean_trailers(&mut trailers);
                    self.end(Some(trailers), send)
                }
                Err(_) => Ok(()),
            },
        }
    }

    fn keep(&mut self, data: &Bytes) {
        let Some(kept) = &mut self.kept else { return };
        kept.size += data.len();
        if kept.size > self.cap {
            self.kept = None;
        } else {
            kept.chunks.push(data.clone());
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>, send: &mut SendStream) -> Result<(), UploadError> {
        if let Some(trailers) = trailers.as_ref().filter(|trailers| !trailers.is_empty()) {
            send.queue_trailers(trailers).map_err(|_| UploadError::Peer)?;
        }
        if let Some(kept) = &mut self.kept {
            kept.whole = true;
            kept.trailers = trailers;
        }
        // Fewer bytes than announced: hyper has seen to that for HTTP/1.1, and h2 for HTTP/2.
        send.queue_end().map_err(|_| UploadError::Application)?;
        self.phase = Phase::Flushing;
        Ok(())
    }

    /// Goes on beside the answer, which has begun.
    pub(crate) fn spawn(mut self, mut send: SendStream) -> UploadTask {
        // The answer has begun: there is no going back.
        self.kept = None;
        let task = tokio::task::spawn_local(async move {
            let result = poll_fn(|cx| self.poll(&mut send, cx)).await;
            if result.is_err() {
                send.reset(Code::H3_REQUEST_CANCELLED);
            }
        });
        UploadTask(task.abort_handle())
    }
}

/// Ends the sending when it is dropped.
pub(crate) struct UploadTask(AbortHandle);

impl Drop for UploadTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
