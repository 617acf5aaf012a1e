//! One QUIC connection that speaks HTTP/3: its life, its events, its control streams.
//!
//! The driver feeds it datagrams and timers and sends what it has to send. Streams (see [`crate::stream`])
//! read and write through it in short synchronous steps on the same thread, and mark it dirty when that leaves
//! something to send.

mod ended;
mod events;
mod info;
mod leave;
mod moves;
mod owner;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn_proto::{ConnectionEvent, ConnectionHandle, Dir, StreamId, VarInt};
use tokio::sync::Notify;

use crate::{
    amplification,
    budget::Budget,
    config::{Config, Side},
    control::Control,
    driver::Mailbox,
    error::{DialFailure, Error, ErrorKind, Lost},
    h3::{Code, GoAwaySender},
    listener::{Acceptor, Handshake},
    sockets::SocketId,
    stats::{Move, TransportStats},
    streams::Streams,
    term::{Leaf, Term},
    verify::{PeerIdentity, TrustBundle},
    way::Way,
    window::SendWindow,
};

pub(crate) use self::ended::Ended;
pub use self::info::{ConnectionInfo, PathInfo};

/// How long a listener leaves it to the dialler to close a connection that it drained. If it closed first and its
/// GOAWAY was lost, a request on its way would not be known to be unprocessed.
const LINGER: Duration = Duration::from_secs(1);

/// A connection, shared by the driver, the pool and the streams on it.
pub(crate) struct Connection {
    handle: ConnectionHandle,
    side: Side,
    mailbox: Rc<Mailbox>,
    stats: Arc<TransportStats>,
    config: Arc<Config>,
    /// In the driver's list already.
    dirty: Cell<bool>,
    /// The timer entry that counts.
    armed: Cell<Option<Instant>>,
    /// quinn-proto has forgotten it, and its handle may be another's.
    drained: Cell<bool>,
    pub(crate) inner: RefCell<Inner>,
}

/// What the connections of one driver have in common.
pub(crate) struct Shared {
    pub(crate) mailbox: Rc<Mailbox>,
    pub(crate) stats: Arc<TransportStats>,
    pub(crate) config: Arc<Config>,
}

/// What one connection begins with.
pub(crate) struct Beginning {
    /// Present on the listening side.
    pub(crate) handshake: Option<Handshake>,
    pub(crate) way: Way,
    /// The leaf that we show.
    pub(crate) own: Leaf,
    /// What its chances are drawn from.
    pub(crate) luck: u64,
}

pub(crate) struct Inner {
    pub(crate) proto: quinn_proto::Connection,
    pub(crate) phase: Phase,
    pub(crate) streams: Streams,
    pub(crate) control: Control,
    peer: Option<PeerIdentity>,
    /// What the peer has left to waste.
    budget: Budget,
    window: SendWindow,
    /// Counts as a handshake of the listener's until it is over.
    handshake: Option<Handshake>,
    /// Who waits for the phase to change.
    watchers: Vec<Waker>,
    /// What we showed the peer.
    own: Leaf,
    /// What its chances are drawn from.
    luck: u64,
    /// When it ends by its certificates, once they are known.
    term: Option<Term>,
    /// The workload has another leaf by now.
    renewed: bool,
    /// Replaces the roots that the handshake was begun with; asked when it is done.
    trust: Option<Arc<TrustBundle>>,
    /// It was told to take no more requests, before it ended.
    went_away: bool,
    /// Who wants to know that it takes no more requests.
    keeper: Option<Rc<Notify>>,
    /// Listening side: which requests are taken, and what GOAWAY says of it.
    goaway: GoAwaySender,
    /// Listening side: when the exact GOAWAY is due.
    exact_goaway: Option<Instant>,
    /// Accepted, and not yet handed to the listener's owner.
    accepted: VecDeque<StreamId>,
    started: Instant,
    /// When the last stream ended, while there is none.
    idle_since: Option<Instant>,
    /// Counted as established until it is dropped.
    established: bool,
    /// When a drained-out connection of the listener's ends, if the peer does not end it before.
    linger: Option<Instant>,
    /// Where the peer was last.
    remote: SocketAddr,
    /// How it is reached.
    way: Way,
    migrations: u64,
}

/// Where a connection is in its life.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// TLS is under way.
    Handshaking,
    /// We are satisfied; the server has not yet said that it accepted our certificate (HANDSHAKE_DONE).
    Confirming,
    /// Requests pass.
    Open,
    /// One side said GOAWAY: no new requests, those under way finish.
    Draining,
    /// Over.
    Closed(Ended),
}

/// Between the GOAWAY that asks the peer to send no more and the exact one (RFC 9114 section 5.2): at least this, and
/// three round trips, in which requests that were on their way are still taken.
const LATE_REQUESTS: Duration = Duration::from_millis(20);

/// How often a connection in use looks at its timers. The runtime's own are no finer.
const TICK: Duration = Duration::from_millis(1);
/// A deadline as near as this is an acknowledgement's or a probe's.
const IN_USE: Duration = Duration::from_millis(10);

impl Connection {
    pub(crate) fn new(
        handle: ConnectionHandle,
        proto: quinn_proto::Connection,
        shared: Shared,
        beginning: Beginning,
        now: Instant,
    ) -> Rc<Self> {
        let Beginning {
            handshake,
            way,
            own,
            luck,
        } = beginning;
        let side = match handshake {
            Some(_) => Side::Listen,
            None => Side::Dial,
        };
        let Shared {
            mailbox,
            stats,
            config,
        } = shared;
        let remote = proto.remote_address();
        let inner = Inner {
            proto,
            phase: Phase::Handshaking,
            streams: Streams::new(side, &config),
            control: Control::new(side, &config),
            peer: None,
            budget: Budget::new(now),
            window: SendWindow::new(mailbox.windows(), config.send_window.into()),
            handshake,
            watchers: Vec::new(),
            own,
            luck,
            term: None,
            renewed: false,
            trust: None,
            went_away: false,
            keeper: None,
            goaway: GoAwaySender::default(),
            exact_goaway: None,
            accepted: VecDeque::new(),
            started: now,
            idle_since: Some(now),
            established: false,
            linger: None,
            remote,
            way,
            migrations: 0,
        };
        Rc::new(Self {
            handle,
            side,
            mailbox,
            stats,
            config,
            dirty: Cell::new(false),
            armed: Cell::new(None),
            drained: Cell::new(false),
            inner: RefCell::new(inner),
        })
    }

    pub(crate) fn handle(&self) -> ConnectionHandle {
        self.handle
    }

    /// Returns whether a socket that it had left is not needed any more.
    pub(crate) fn on_datagram(
        self: &Rc<Self>,
        event: ConnectionEvent,
        length: usize,
        socket: SocketId,
        now: Instant,
    ) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        inner.proto.handle_event(event);
        let idle = inner.streams.open_count() == 0;
        inner.window.follow(&mut inner.proto, idle);
        inner.streams.on_datagram(length);
        let heard = inner.way.on_heard(socket, now);
        if heard.recovered {
            inner.wake_watchers();
        }
        self.mark_dirty();
        heard.settled
    }

    /// The timer entry `at` came up. Returns whether there is something to do.
    pub(crate) fn on_timer(&self, at: Instant, now: Instant) -> bool {
        if self.armed.get() == Some(at) {
            self.armed.set(None);
        }
        let inner = &mut *self.inner.borrow_mut();
        let mut due = false;
        if inner.proto.poll_timeout().is_some_and(|at| at <= now) {
            inner.proto.handle_timeout(now);
            due = true;
        }
        due |= self.on_term(inner, now);
        if inner.linger.is_some_and(|at| at <= now) {
            inner.linger = None;
            inner.close(now, Code::H3_NO_ERROR, Lost::Local);
            due = true;
        }
        if inner.exact_goaway.is_some_and(|at| at <= now) {
            inner.send_exact_goaway();
            due = true;
        }
        if inner.streams.scan_due(now) {
            let reset = inner.streams.scan(&mut inner.proto, now);
            self.stats.stalled_streams.add(reset);
            due = true;
        }
        due
    }

    /// The next time for [`Self::on_timer`], if an earlier entry than the armed one is needed.
    ///
    /// A connection in use looks at its timers every [`TICK`]: its deadlines for acknowledgements and probes move
    /// with every packet, and to set the runtime's timer forward costs a system call and a wake-up each time.
    pub(crate) fn arm(&self, now: Instant) -> Option<Instant> {
        let inner = &mut *self.inner.borrow_mut();
        let next = [
            inner.proto.poll_timeout(),
            inner.next_term(),
            inner.exact_goaway,
            inner.linger,
            inner.streams.next_scan(),
            self.may_move(inner).then(|| inner.way.next_remedy()).flatten(),
        ];
        let next = next.into_iter().flatten().min()?;
        let next = if next <= now + IN_USE {
            next.min(now + TICK)
        } else {
            next
        };
        if self.armed.get().is_some_and(|armed| armed <= next) {
            return None;
        }
        self.armed.set(Some(next));
        Some(next)
    }

    pub(crate) fn mtu(&self) -> u16 {
        self.inner.borrow().proto.current_mtu()
    }

    pub(crate) fn poll_transmit(
        &self,
        now: Instant,
        datagrams: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<quinn_proto::Transmit> {
        let inner = &mut *self.inner.borrow_mut();
        if self.side == Side::Dial || !matches!(inner.phase, Phase::Handshaking) {
            return inner.proto.poll_transmit(now, datagrams, buffer);
        }
        let transmit = inner.proto.poll_transmit(now, 1, buffer)?;
        amplification::may_send(&inner.proto).then_some(transmit)
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.drained.get()
    }

    pub(crate) fn mark_dirty(self: &Rc<Self>) {
        // Streams may outlive it; nothing that they do is of interest to anyone.
        if !self.drained.get() && !self.dirty.replace(true) {
            self.mailbox.push_dirty(self.clone());
        }
    }

    /// A task has written all that it has for now.
    pub(crate) fn on_written(&self) {
        self.mailbox.on_written();
    }

    pub(crate) fn clear_dirty(&self) {
        self.dirty.set(false);
    }

    /// Exchanges events with the endpoint and hands out those for us.
    pub(crate) fn process(&self, now: Instant, endpoint: &mut quinn_proto::Endpoint) {
        let inner = &mut *self.inner.borrow_mut();
        loop {
            let mut quiet = true;
            while let Some(event) = inner.proto.poll_endpoint_events() {
                quiet = false;
                self.drained.set(self.drained.get() || event.is_drained());
                if let Some(answer) = endpoint.handle_event(self.handle, event) {
                    inner.proto.handle_event(answer);
                }
            }
            while let Some(event) = inner.proto.poll() {
                quiet = false;
                self.on_event(inner, event, now);
            }
            if quiet {
                break;
            }
        }
        inner.streams.on_announced();
        let remote = inner.proto.remote_address();
        if remote != inner.remote {
            tracing::debug!(from = %inner.remote, to = %remote, "the peer's address moved");
            inner.remote = remote;
            inner.migrations += 1;
            // Also for a change of port alone, where it is optional (RFC 9000 section 9.4): the new path may take less,
            // and large datagrams with the challenge in them would never prove it.
            inner.proto.path_changed(now);
            self.stats.moved(Move::Peer);
            if let Err(overload) = inner.budget.on_moved(now) {
                self.on_overload(inner, overload, now);
            }
        }
        if matches!(inner.phase, Phase::Confirming) && inner.proto.stats().frame_rx.handshake_done > 0 {
            self.on_confirmed(inner);
        }
        // Said to a dialler that was not confirmed yet, it counts when it is.
        if matches!(inner.phase, Phase::Open) && inner.control.peer_goes_away() {
            inner.set_phase(Phase::Draining);
        }
        self.end_if_drained_out(inner, now);
    }

    /// Gives accepted streams to the listener's owner, outside of any borrow, as far as the caller's share of this turn
    /// goes.
    pub(crate) fn hand_over_accepted(self: &Rc<Self>, acceptor: &Acceptor) {
        loop {
            let (id, caller, remote) = {
                let inner = &mut *self.inner.borrow_mut();
                let Some(peer) = &inner.peer else { return };
                if inner.accepted.is_empty() || !acceptor.may_begin(&peer.id) {
                    return;
                }
                let Some(id) = inner.accepted.pop_front() else {
                    return;
                };
                (id, peer.id.clone(), inner.remote)
            };
            acceptor.hand_over(self, id, caller, remote);
        }
    }

    /// Are there accepted streams that their owner has not been given yet?
    pub(crate) fn has_accepted(&self) -> bool {
        !self.inner.borrow().accepted.is_empty()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.inner.get_mut().established {
            self.established().decrement();
        }
    }
}

impl Inner {
    fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
        self.went_away |= matches!(self.phase, Phase::Draining);
        if !matches!(self.phase, Phase::Handshaking) {
            self.handshake = None;
        }
        self.wake_watchers();
        if let Some(keeper) = &self.keeper {
            keeper.notify_one();
        }
        // Who waits for a stream must learn that there will be none here.
        if !matches!(self.phase, Phase::Open) {
            self.streams.on_available();
        }
    }

    fn wake_watchers(&mut self) {
        for waker in self.watchers.drain(..) {
            waker.wake();
        }
    }

    fn close(&mut self, now: Instant, code: Code, lost: Lost) {
        if matches!(self.phase, Phase::Closed(_)) {
            return;
        }
        let wire = VarInt::from_u64(code.value()).unwrap_or(VarInt::MAX);
        self.proto.close(now, wire, Bytes::new());
        let ended = match self.phase {
            Phase::Handshaking | Phase::Confirming => Ended::Dial(DialFailure::Closed),
            _ => Ended::Lost(lost),
        };
        self.end(ended);
    }

    fn end(&mut self, ended: Ended) {
        if matches!(self.phase, Phase::Closed(_)) {
            return;
        }
        self.set_phase(Phase::Closed(ended));
        self.accepted.clear();
        self.streams.wake_all();
    }

    fn send_exact_goaway(&mut self) {
        self.exact_goaway = None;
        if let Some(id) = self.goaway.finish() {
            self.control.send_goaway(&mut self.proto, id);
        }
    }

    /// The error of a stream that can't go on because its connection can't.
    pub(crate) fn ended(&self) -> Option<Error> {
        match self.phase {
            Phase::Closed(ended) => Some(ended.into()),
            _ => None,
        }
    }

    /// Opens a request stream, or waits until the peer allows one.
    pub(crate) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<StreamId, Error>> {
        match self.phase {
            Phase::Open => {}
            Phase::Draining => return Poll::Ready(Err(ErrorKind::GoAway.into())),
            Phase::Closed(_) | Phase::Handshaking | Phase::Confirming => {
                // No stream was opened, so nothing was sent on one.
                return Poll::Ready(Err(ErrorKind::Dial(DialFailure::Closed).into()));
            }
        }
        let Some(id) = self.proto.streams().open(Dir::Bi) else {
            self.streams.wait_for_room(cx);
            return Poll::Pending;
        };
        self.streams.insert_local(id);
        self.idle_since = None;
        Poll::Ready(Ok(id))
    }
}

impl Phase {
    fn label(&self) -> &'static str {
        match self {
            Self::Handshaking => "handshaking",
            Self::Confirming => "confirming",
            Self::Open => "open",
            Self::Draining => "draining",
            Self::Closed(_) => "closed",
        }
    }
}

/// Refuses a request before anyone has looked at it: the peer may send it elsewhere (RFC 9114 section 4.1.1).
pub(crate) fn reject(proto: &mut quinn_proto::Connection, id: StreamId) {
    let code = VarInt::from_u64(Code::H3_REQUEST_REJECTED.value()).unwrap_or(VarInt::MAX);
    let _ = proto.recv_stream(id).stop(code);
    let _ = proto.send_stream(id).reset(code);
}
