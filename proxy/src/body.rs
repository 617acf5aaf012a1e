//! Bodies between a stream of the mesh and hyper: content as it comes, trailers behind it, and never an end that
//! was not seen.

mod timer;

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use weft_transport::{Error, ErrorKind, RecvStream, h3::Code};

pub(crate) use timer::Timer;

use crate::{
    local::{error::Reset, headers::clean_trailers},
    telemetry::Record,
    upload::UploadTask,
};

/// The content of a request from the mesh, on its way to the application.
#[derive(Default)]
pub(crate) struct InboundBody {
    /// Boxed: a request is moved several times on its way into hyper.
    recv: Option<Box<RecvStream>>,
    ended: bool,
    received: Rc<Cell<u64>>,
}

impl InboundBody {
    /// `ended`: there is no content, as is known already. `received` counts the bytes.
    pub(crate) fn new(recv: RecvStream, ended: bool, received: Rc<Cell<u64>>) -> Self {
        Self {
            recv: Some(Box::new(recv)),
            ended,
            received,
        }
    }
}

impl Body for InboundBody {
    type Data = Bytes;
    type Error = Reset;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Reset>>> {
        let Self {
            recv: Some(recv),
            ended: ended @ false,
            received,
        } = &mut *self
        else {
            return Poll::Ready(None);
        };
        let frame = ready!(poll_frame(recv, ended, cx));
        if let Some(Ok(frame)) = &frame {
            received.set(received.get() + frame.data_ref().map_or(0, Bytes::len) as u64);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| reset_of(&error))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.recv.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            SizeHint::with_exact(0)
        } else {
            SizeHint::default()
        }
    }
}

/// The content of an answer, on its way to the application that asked.
pub(crate) enum ResponseBody {
    /// From the mesh.
    Mesh(Box<MeshBody>),
    /// From an endpoint without a sidecar, or from outside.
    Plain(Box<PlainBody>),
    /// The mesh's own.
    Own(Option<Bytes>),
}

/// The content of an answer from the mesh.
pub(crate) struct MeshBody {
    recv: RecvStream,
    ended: bool,
    /// Still sends the request.
    upload: Option<UploadTask>,
    /// How long it may take, if that is limited.
    timer: Option<Box<Timer>>,
    record: Record,
}

/// The content of an answer from outside of the mesh.
pub(crate) struct PlainBody {
    incoming: Incoming,
    record: Record,
}

impl MeshBody {
    /// `ended`: there is no content, as is known already.
    pub(crate) fn new(recv: RecvStream, ended: bool, upload: Option<UploadTask>, record: Record) -> Self {
        Self {
            recv,
            ended,
            upload,
            timer: None,
            record,
        }
    }

    /// Limits how long it may take.
    pub(crate) fn with_timer(mut self, timer: Option<Box<Timer>>) -> Self {
        self.timer = timer;
        self
    }
}

impl PlainBody {
    pub(crate) fn new(incoming: Incoming, record: Record) -> Self {
        Self { incoming, record }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Reset;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Reset>>> {
        match &mut *self {
            Self::Mesh(body) => body.poll_frame(cx),
            Self::Plain(body) => body.poll_frame(cx),
            Self::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Mesh(body) => body.ended,
            Self::Plain(body) => body.incoming.is_end_stream(),
            Self::Own(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Mesh(body) if body.ended => SizeHint::with_exact(0),
            Self::Mesh(_) => SizeHint::default(),
            Self::Plain(body) => body.incoming.size_hint(),
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

impl MeshBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Reset>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match poll_frame(&mut self.recv, &mut self.ended, cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => return self.poll_timer(cx).map(Some),
        };
        if let Some(timer) = &mut self.timer {
            timer.on_progress();
        }
        if self.ended {
            // The answer is whole: what is left of the request is of no use.
            self.upload = None;
            self.record.complete();
        }
        match frame {
            Some(Ok(frame)) => {
                self.record
                    .add_received(frame.data_ref().map_or(0, Bytes::len) as u64);
                if let Some(trailers) = frame.trailers_ref() {
                    self.record.on_fields(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.record.fail(error.reason());
                Poll::Ready(Some(Err(reset_of(&error))))
            }
            None => Poll::Ready(None),
        }
    }

    /// While nothing comes: whether it has taken too long.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame<Bytes>, Reset>> {
        let Some(timer) = &mut self.timer else {
            return Poll::Pending;
        };
        let reason = ready!(timer.poll(cx));
        self.record.fail(reason);
        self.upload = None;
        Poll::Ready(Err(Reset::new(h2::Reason::CANCEL)))
    }
}

impl Drop for MeshBody {
    fn drop(&mut self) {
        if self.recv.is_content_whole() {
            self.record.complete();
        }
    }
}

impl PlainBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Reset>>> {
        match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                self.record
                    .add_received(frame.data_ref().map_or(0, Bytes::len) as u64);
                if self.incoming.is_end_stream() {
                    self.record.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(_)) => {
                self.record.fail("application_closed");
                Poll::Ready(Some(Err(Reset::new(h2::Reason::INTERNAL_ERROR))))
            }
            None => {
                self.record.complete();
                Poll::Ready(None)
            }
        }
    }
}

/// The next frame; sets `ended` when nothing can follow.
fn poll_frame(
    recv: &mut RecvStream,
    ended: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
    match ready!(recv.poll_data(cx)) {
        Ok(Some(data)) => {
            // Who knows the length does not ask again; the end is here more often than not.
            *ended = matches!(recv.poll_ended(cx), Ok(true));
            Poll::Ready(Some(Ok(Frame::data(data))))
        }
        Ok(None) => {
            *ended = true;
            Poll::Ready(
                recv.trailers()
                    .and_then(cleaned)
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            )
        }
        Err(error) => Poll::Ready(Some(Err(error))),
    }
}

fn cleaned(mut trailers: HeaderMap) -> Option<HeaderMap> {
    clean_trailers(&mut trailers);
    (!trailers.is_empty()).then_some(trailers)
}

/// How the application is told that a message was cut short; over HTTP/1.1 its connection ends.
fn reset_of(error: &Error) -> Reset {
    Reset::new(match error.kind() {
        ErrorKind::Reset(code) if *code == Code::H3_REQUEST_CANCELLED => h2::Reason::CANCEL,
        ErrorKind::Reset(code) if *code == Code::H3_REQUEST_REJECTED => h2::Reason::REFUSED_STREAM,
        ErrorKind::Stalled | ErrorKind::TooLarge => h2::Reason::ENHANCE_YOUR_CALM,
        _ => h2::Reason::INTERNAL_ERROR,
    })
}
