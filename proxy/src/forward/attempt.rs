//! One try of a request, at one endpoint: a stream, the head, the content, and the head of the answer.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::StatusCode;
use tokio::time::{Instant, Sleep, sleep_until};
use weft_transport::{
    Error, ErrorKind, PeerKey, RequestStream,
    h3::{Code, RequestHead, ResponseHead, fields},
};

use crate::{
    local::body::Continue,
    respond::{Failure, Late},
    snapshot::{Endpoint, Reach},
    upload::{Upload, UploadError},
    worker::Worker,
};

/// How long a request waits for a stream to a peer, a dial or room under the peer's stream limit, where no policy says
/// otherwise.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);

/// How long a try may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// To a stream.
    pub(crate) connect: Duration,
    /// To the head of the answer, if that is limited, and by what.
    pub(crate) answer: Option<(Instant, Late)>,
    /// Whether the request could be done at another endpoint: if not, a peer that has fallen silent is waited for.
    pub(crate) elsewhere: bool,
}

/// Sends the request on a stream to the sidecar of an endpoint and waits for the head of the answer; the content goes
/// along.
///
/// # Errors
/// There is no answer. What was sent is taken back. An endpoint without a sidecar is no place for it.
pub(crate) async fn attempt(
    worker: &Worker,
    endpoint: &Endpoint,
    head: &RequestHead,
    upload: &mut Upload,
    expects: &mut Option<Continue>,
    patience: Patience,
) -> Result<(RequestStream, ResponseHead), Failure> {
    let Reach::Mesh(peer) = &endpoint.reach else {
        return Err(Failure::Unsupported("this at an endpoint without a sidecar"));
    };
    let mut stream = open(worker, peer, patience).await?;
    stream.queue_request(head)?;
    let mut timer = patience.answer.map(|(at, _)| Box::pin(sleep_until(at)));
    let answer = poll_fn(|cx| {
        if !upload.is_done() {
            match upload.poll(&mut stream.send, cx) {
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(UploadError::Application)) => return Poll::Ready(Err(callers_end().into())),
                // The answer, or its absence, tells more than the end of our sending.
                Poll::Ready(Err(UploadError::Peer)) => upload.stop(),
            }
        }
        match poll_answer(&mut stream, expects, cx) {
            Poll::Ready(answer) => Poll::Ready(answer.map_err(Failure::Transport)),
            Poll::Pending if patience.elsewhere && stream.recv.is_unresponsive() => {
                Poll::Ready(Err(Failure::Transport(ErrorKind::Unresponsive.into())))
            }
            Poll::Pending => poll_timer(timer.as_mut(), patience, cx).map(Err),
        }
    });
    let answer = answer.await;
    match answer {
        Ok(answer) => Ok((stream, answer)),
        Err(failure) => {
            stream.send.reset(Code::H3_REQUEST_CANCELLED);
            Err(failure)
        }
    }
}

/// The head of the answer; a 100 on the way goes to the application, other interim ones nowhere.
fn poll_answer(
    stream: &mut RequestStream,
    expects: &mut Option<Continue>,
    cx: &mut Context<'_>,
) -> Poll<Result<ResponseHead, Error>> {
    loop {
        match stream.recv.poll_response_head(cx) {
            Poll::Ready(Ok(interim)) if interim.is_interim() => {
                if interim.status == StatusCode::CONTINUE
                    && let Some(expects) = expects.take()
                {
                    expects.send();
                }
            }
            other => return other,
        }
    }
}

fn poll_timer(
    timer: Option<&mut Pin<Box<Sleep>>>,
    patience: Patience,
    cx: &mut Context<'_>,
) -> Poll<Failure> {
    match (timer, patience.answer) {
        (Some(timer), Some((_, late))) => timer.as_mut().poll(cx).map(|()| Failure::TimedOut(late)),
        _ => Poll::Pending,
    }
}

/// A stream to `peer`, within the time that a request may wait for one.
///
/// # Errors
/// There is none: the peer has seen nothing of the request.
async fn open(worker: &Worker, peer: &PeerKey, patience: Patience) -> Result<RequestStream, Failure> {
    let mut stream = std::pin::pin!(worker.pool.stream(peer));
    // A warm peer has one at once: then no timer is made.
    if let Poll::Ready(stream) = poll_fn(|cx| Poll::Ready(stream.as_mut().poll(cx))).await {
        return stream.map_err(Failure::Transport);
    }
    let connect = Instant::now() + patience.connect;
    let (until, late) = match patience.answer {
        Some((at, late)) if at < connect => (at, Some(late)),
        _ => (connect, None),
    };
    match (tokio::time::timeout_at(until, stream).await, late) {
        (Ok(stream), _) => stream.map_err(Failure::Transport),
        (Err(_), Some(Late::Request)) => Err(Failure::TimedOut(Late::Request)),
        // Nothing was sent yet: that is known, whatever limited the wait.
        (Err(_), Some(Late::Try) | None) => Err(Failure::Transport(ErrorKind::StreamLimit.into())),
    }
}

/// The peer's sidecar says that its application saw nothing: its reason.
pub(crate) fn refusal(answer: &ResponseHead) -> Option<String> {
    let reason = answer.headers.get(fields::WEFT_UNPROCESSED)?;
    Some(String::from_utf8_lossy(reason.as_bytes()).into_owned())
}

/// What stands for "the application went away" among the errors of an attempt.
fn callers_end() -> Error {
    ErrorKind::Closed.into()
}

/// Whether there is nobody to answer.
pub(crate) fn is_callers_end(failure: &Failure) -> bool {
    matches!(failure, Failure::Transport(error) if matches!(error.kind(), ErrorKind::Closed))
}
