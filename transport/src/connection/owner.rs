//! What the pool and the listener ask of a connection, and how they end it.

use std::{
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn_proto::VarInt;

use super::{Connection, Ended, Phase};
use crate::{
    config::{Config, Side},
    error::{DialFailure, Lost},
    h3::Code,
};

impl Connection {
    pub(crate) fn side(&self) -> Side {
        self.side
    }

    pub(crate) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Ready when the handshake is over: confirmed, or failed.
    pub(crate) fn poll_established(&self, cx: &mut Context<'_>) -> Poll<Result<(), DialFailure>> {
        let inner = &mut *self.inner.borrow_mut();
        match &inner.phase {
            Phase::Handshaking | Phase::Confirming => {
                inner.watchers.push(cx.waker().clone());
                Poll::Pending
            }
            Phase::Open | Phase::Draining => Poll::Ready(Ok(())),
            Phase::Closed(Ended::Dial(failure)) => Poll::Ready(Err(*failure)),
            Phase::Closed(Ended::Lost(_)) => Poll::Ready(Err(DialFailure::Closed)),
        }
    }

    /// Ready when the connection is over.
    pub(crate) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.inner.borrow_mut();
        if matches!(inner.phase, Phase::Closed(_)) {
            return Poll::Ready(());
        }
        inner.watchers.push(cx.waker().clone());
        Poll::Pending
    }

    /// May new requests use it?
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.inner.borrow().phase, Phase::Open)
    }

    /// Does it finish what is under way, and take no more?
    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.inner.borrow().phase, Phase::Draining)
    }

    /// Has it carried a request?
    pub(crate) fn is_used(&self) -> bool {
        self.inner.borrow().streams.total() > 0
    }

    /// Was it told to take no more requests, by its peer or by its own certificates, rather than lost?
    pub(crate) fn went_away(&self) -> bool {
        self.inner.borrow().went_away
    }

    /// Do unread streams hold so much of its window that new requests should go elsewhere?
    pub(crate) fn is_crowded(&self) -> bool {
        self.inner.borrow().streams.is_crowded()
    }

    /// How long it has carried no stream.
    pub(crate) fn idle_for(&self, now: Instant) -> Option<Duration> {
        self.inner
            .borrow()
            .idle_since
            .map(|since| now.saturating_duration_since(since))
    }

    /// Ends it at once; streams on it fail with `lost`.
    pub(crate) fn close(self: &Rc<Self>, now: Instant, code: Code, lost: Lost) {
        self.inner.borrow_mut().close(now, code, lost);
        self.mark_dirty();
    }

    /// The peer broke HTTP/3: nothing more that it says can be trusted.
    pub(crate) fn on_violation(self: &Rc<Self>, now: Instant, code: Code) {
        self.stats.violations.add(1);
        self.close(now, code, Lost::Violation(code));
    }

    /// Ends a handshake that took too long, or that nobody waits for.
    pub(crate) fn abandon(self: &Rc<Self>, now: Instant, failure: DialFailure) {
        let inner = &mut *self.inner.borrow_mut();
        if matches!(inner.phase, Phase::Handshaking | Phase::Confirming) {
            inner.proto.close(now, VarInt::from_u32(0), Bytes::new());
            inner.end(Ended::Dial(failure));
        }
        self.mark_dirty();
    }

    /// Its driver is gone: nothing moves on it any more.
    pub(crate) fn orphan(&self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.end(match inner.phase {
            Phase::Handshaking | Phase::Confirming => Ended::Dial(DialFailure::Local),
            _ => Ended::Lost(Lost::Local),
        });
    }
}
