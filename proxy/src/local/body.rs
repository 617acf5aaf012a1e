//! The body of an application's request, with `Expect: 100-continue` kept end to end.
//!
//! hyper writes `100 Continue` when the body of a request that expects it is first polled (RFC 9110 section 10.1.1).
//! Who forwards a body polls it at once, so it must not reach hyper before the far application has said 100:
//! [`RequestBody`] holds such polls back until [`Continue::send`]. If the far side answers without 100, the body is
//! dropped unread and hyper neither writes 100 nor keeps the connection. A far side that ignores the expectation
//! would wait for the body while the caller waits for 100, so after [`PATIENCE`] the body opens by itself, as a
//! client would (a proxy may send 100 of its own accord).

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::Sleep;

/// How long a body waits for the far side's 100. curl waits as long before it sends a body unasked.
const PATIENCE: Duration = Duration::from_secs(1);

/// The body of a request from the application.
#[derive(Debug)]
pub(crate) struct RequestBody {
    incoming: Incoming,
    gate: Option<Box<Gate>>,
}

/// Tells the caller to send its body. Dropping it sends nothing.
#[derive(Debug)]
pub(crate) struct Continue(oneshot::Sender<()>);

impl RequestBody {
    /// The body of a request whose head hyper read.
    pub(crate) fn new(request: http::Request<Incoming>) -> http::Request<Self> {
        let (head, incoming) = request.into_parts();
        // hyper's HTTP/2 server never writes 100, and HTTP/1.0 has none.
        let waits =
            head.version == Version::HTTP_11 && !incoming.is_end_stream() && expects_continue(&head.headers);
        let gate = waits.then(|| Box::new(Gate::new()));
        http::Request::from_parts(head, Self { incoming, gate })
    }

    /// For a caller that waits for 100: what sends it. `None` for other callers, and the second time.
    pub(crate) fn take_continue(&mut self) -> Option<Continue> {
        self.gate.as_mut()?.sender.take().map(Continue)
    }
}

impl Continue {
    /// The far application said 100: the body may flow.
    pub(crate) fn send(self) {
        // The body may be gone already, with its request.
        let _ = self.0.send(());
    }
}

/// Makes a request to the application tell of its 100: the future is true once it came, and false if it cannot come
/// any more.
pub(crate) fn on_continue<B>(request: &mut http::Request<B>) -> impl Future<Output = bool> + use<B> {
    let (sender, receiver) = oneshot::channel();
    // hyper wants the callback `Sync`; it is called on this thread.
    let sender = Mutex::new(Some(sender));
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE
            && let Some(sender) = sender.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            // Whoever asked may have lost interest.
            let _ = sender.send(());
        }
    });
    async move { receiver.await.is_ok() }
}

/// Whether a head says `Expect: 100-continue`.
pub(crate) fn expects_continue(headers: &http::HeaderMap) -> bool {
    let mut values = headers.get_all(http::header::EXPECT).iter();
    values.any(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll_open(cx));
            self.gate = None;
        }
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

#[derive(Debug)]
struct Gate {
    sender: Option<oneshot::Sender<()>>,
    opened: Option<oneshot::Receiver<()>>,
    patience: Pin<Box<Sleep>>,
}

impl Gate {
    fn new() -> Self {
        let (sender, opened) = oneshot::channel();
        Self {
            sender: Some(sender),
            opened: Some(opened),
            patience: Box::pin(tokio::time::sleep(PATIENCE)),
        }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(opened) = &mut self.opened {
            match Pin::new(opened).poll(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(()),
                Poll::Ready(Err(_dropped)) => self.opened = None,
                Poll::Pending => {}
            }
        }
        self.patience.as_mut().poll(cx)
    }
}
