//! The way of one connection through the network: the socket that it sends on, the route that leads to the peer, and
//! whether it answers.

use std::time::{Duration, Instant};

use crate::{
    congestion::Progress,
    migrate::{Remedy, Route, Watch},
    sockets::SocketId,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Way {
    socket: SocketId,
    /// The socket that it sent on before, until something came on the present one.
    left: Option<SocketId>,
    /// As the kernel had it when the connection last began to send this way; unknown if it had none.
    route: Option<Route>,
    watch: Watch,
    /// Frames sent so far that the peer must acknowledge.
    ack_eliciting: u64,
    progress: Progress,
    /// Packets acknowledged that the watch knows of.
    acknowledged: u64,
    quiet: Quiet,
}

/// Whether to ask a peer that is heard no more, while requests are under way: what we wait for may have been sent on a
/// path that no longer leads here, and QUIC's own keep-alive asks but every few seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quiet {
    /// It was heard; ask at this time.
    Heard(Instant),
    /// It was asked, and has not been heard since.
    Asked,
    /// The answer came, and nothing else since.
    Answered,
}

/// How long to wait before asking.
const QUIET: Duration = Duration::from_secs(1);
/// What a probe may send although the congestion window is full: one or two datagrams of any size.
const PROBE_ALLOWANCE: u64 = 16 << 10;

/// What a datagram means for the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The socket that was left is not needed any more.
    pub(crate) settled: bool,
    /// New requests may use the connection again that could not before.
    pub(crate) recovered: bool,
}

impl Way {
    pub(crate) fn new(socket: SocketId, route: Option<Route>, progress: Progress) -> Self {
        Self {
            socket,
            left: None,
            route,
            watch: Watch::default(),
            ack_eliciting: 0,
            progress,
            acknowledged: 0,
            quiet: Quiet::Answered,
        }
    }

    /// The socket to send on.
    pub(crate) fn socket(&self) -> SocketId {
        self.socket
    }

    pub(crate) fn uses(&self, socket: SocketId) -> bool {
        self.socket == socket || self.left == Some(socket)
    }

    pub(crate) fn route(&self) -> Option<Route> {
        self.route
    }

    /// Sends on `socket` from now on, whatever it was before.
    pub(crate) fn leave_for(&mut self, socket: SocketId) {
        if self.socket != socket {
            self.left = Some(self.socket);
            self.socket = socket;
        }
    }

    pub(crate) fn set_route(&mut self, route: Route) {
        self.route = Some(route);
    }

    /// A datagram of the peer's came on `socket`, and the connection has dealt with it. That something comes does not
    /// mean that anything arrives: only an acknowledgement does.
    pub(crate) fn on_heard(&mut self, socket: SocketId, now: Instant) -> Heard {
        self.quiet = match self.quiet {
            Quiet::Asked => Quiet::Answered,
            Quiet::Heard(_) | Quiet::Answered => Quiet::Heard(now + QUIET),
        };
        let before = std::mem::replace(&mut self.acknowledged, self.progress.acknowledged());
        Heard {
            settled: self.socket == socket && self.left.take().is_some(),
            recovered: self.acknowledged > before && self.watch.on_acknowledged(now),
        }
    }

    /// `ack_eliciting` frames have been sent since the connection began.
    pub(crate) fn on_sent(&mut self, ack_eliciting: u64, rtt: Duration, now: Instant) {
        if ack_eliciting > self.ack_eliciting {
            self.ack_eliciting = ack_eliciting;
            self.watch.on_sent(now, rtt);
        }
    }

    /// What to do about the path, if anything is due. `waiting`: requests are under way.
    pub(crate) fn remedy(&mut self, waiting: bool, now: Instant) -> Option<Remedy> {
        let quiet = matches!(self.quiet, Quiet::Heard(ask) if ask <= now);
        if quiet {
            self.quiet = if waiting { Quiet::Asked } else { Quiet::Answered };
        }
        let remedy = self.watch.remedy(now);
        remedy.or((quiet && waiting).then_some(Remedy::Probe))
    }

    /// When [`Self::remedy`] may be due.
    pub(crate) fn next_remedy(&self) -> Option<Instant> {
        let ask = match self.quiet {
            Quiet::Heard(ask) => Some(ask),
            Quiet::Asked | Quiet::Answered => None,
        };
        ask.into_iter().chain(self.watch.next_remedy()).min()
    }

    /// Lets a probe be sent although the congestion window may be full of what was lost.
    pub(crate) fn allow_probe(&self) {
        self.progress.allow(PROBE_ALLOWANCE);
    }

    /// Lets a window's worth be sent on a new path.
    pub(crate) fn allow_window(&self, window: u64) {
        self.progress.allow(window);
    }

    /// See [`Watch::is_unresponsive`].
    pub(crate) fn is_unresponsive(&self, now: Instant) -> bool {
        self.watch.is_unresponsive(now)
    }
}
