//! A connection's way through the network, and how it leaves it for another (see [`crate::migrate`]).

use std::{net::SocketAddr, rc::Rc, task::Context, time::Instant};

use super::{Connection, Inner, Phase};
use crate::{
    config::Side,
    error::DialFailure,
    migrate::{Remedy, Route, ack_eliciting},
    sockets::SocketId,
    stats::Move,
};

impl Connection {
    pub(crate) fn is_dialled(&self) -> bool {
        self.side == Side::Dial
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        self.inner.borrow().remote
    }

    pub(crate) fn socket(&self) -> SocketId {
        self.inner.borrow().way.socket()
    }

    pub(crate) fn uses(&self, socket: SocketId) -> bool {
        self.inner.borrow().way.uses(socket)
    }

    pub(crate) fn route(&self) -> Option<Route> {
        self.inner.borrow().way.route()
    }

    /// Only the dialling side can, and only once the handshake is confirmed (RFC 9000 section 9).
    pub(super) fn may_move(&self, inner: &Inner) -> bool {
        self.side == Side::Dial && matches!(inner.phase, Phase::Open | Phase::Draining)
    }

    /// What there was to send has been sent.
    pub(crate) fn on_transmitted(&self, now: Instant) {
        let inner = &mut *self.inner.borrow_mut();
        if self.may_move(inner) {
            let stats = inner.proto.stats();
            inner
                .way
                .on_sent(ack_eliciting(&stats.frame_tx), stats.path.rtt, now);
        }
    }

    /// What to do about a path that has been silent for too long.
    pub(crate) fn remedy(&self, now: Instant) -> Option<Remedy> {
        let inner = &mut *self.inner.borrow_mut();
        if !self.may_move(inner) {
            return None;
        }
        let remedy = inner.way.remedy(inner.streams.open_count() > 0, now);
        if remedy.is_some() && inner.way.is_unresponsive(now) {
            // Whoever can go elsewhere does not wait for the end of the connection.
            inner.streams.wake_all();
        }
        remedy
    }

    /// Should new requests go elsewhere, because the peer has not answered for long?
    pub(crate) fn is_unresponsive(&self, now: Instant) -> bool {
        self.inner.borrow().way.is_unresponsive(now)
    }

    /// Wakes the task when the peer answers again.
    pub(crate) fn wait_responsive(&self, cx: &mut Context<'_>) {
        let watchers = &mut self.inner.borrow_mut().watchers;
        if !watchers.iter().any(|waker| waker.will_wake(cx.waker())) {
            watchers.push(cx.waker().clone());
        }
    }

    /// The kernel sends to the peer by another route now.
    pub(crate) fn on_rerouted(self: &Rc<Self>, route: Route, socket: SocketId, now: Instant) {
        if !self.may_move(&self.inner.borrow()) {
            return self.abandon(now, DialFailure::Moved);
        }
        let inner = &mut *self.inner.borrow_mut();
        let address_changed = inner.way.route().is_none_or(|old| old.source != route.source);
        inner.way.set_route(route);
        if address_changed {
            tracing::debug!(remote = %inner.remote, from = %route.source, "moving to another local address");
            inner.way.leave_for(socket);
            inner.proto.local_address_changed();
            inner.migrations += 1;
            self.stats.moved(Move::Address);
        }
        inner.proto.path_changed(now);
        inner
            .way
            .allow_window(inner.proto.congestion_state().initial_window());
        self.mark_dirty();
    }

    /// Nothing comes back on the path: it is left for one from another port.
    pub(crate) fn on_silent_path(self: &Rc<Self>, socket: SocketId, now: Instant) {
        let inner = &mut *self.inner.borrow_mut();
        tracing::debug!(remote = %inner.remote, "the path is silent: moving to another port");
        inner.way.leave_for(socket);
        inner.proto.local_address_changed();
        inner.proto.path_changed(now);
        inner.way.allow_probe();
        inner.migrations += 1;
        self.stats.moved(Move::Silence);
        self.mark_dirty();
    }

    /// The socket `closed` goes, in favour of `socket`.
    pub(crate) fn on_socket_closed(self: &Rc<Self>, closed: SocketId, socket: SocketId) {
        let inner = &mut *self.inner.borrow_mut();
        if inner.way.socket() != closed {
            return;
        }
        inner.way.leave_for(socket);
        inner.proto.local_address_changed();
        inner.migrations += 1;
        self.stats.moved(Move::Silence);
        self.mark_dirty();
    }

    /// Asks the peer for a sign of life.
    pub(crate) fn probe(self: &Rc<Self>) {
        let inner = &mut *self.inner.borrow_mut();
        inner.proto.ping();
        inner.way.allow_probe();
        self.mark_dirty();
    }
}
