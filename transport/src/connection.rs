//! One QUIC connection that speaks HTTP/3: its life, its events, its control streams.
//!
//! The driver feeds it datagrams and timers and sends what it has to send. Streams (see [`crate::stream`])
//! read and write through it in short synchronous steps on the same thread, and mark it dirty when that leaves
//! something to send.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use quinn_proto::{
    ConnectionError, ConnectionEvent, ConnectionHandle, Dir, Event, StreamEvent, StreamId, VarInt,
};
use weft_proto::SpiffeId;

use crate::{
    amplification,
    budget::{Budget, Overload},
    config::{Config, Side},
    control::Control,
    driver::Mailbox,
    error::{DialFailure, Error, ErrorKind, Lost},
    h3::{Code, GoAwaySender, goaway::Admission},
    listener::{Acceptor, Handshake},
    migrate::{Remedy, Route, ack_eliciting},
    sockets::SocketId,
    stats::{HandshakeFailure, Move, TransportStats},
    streams::{Released, Streams},
    verify::{PeerIdentity, peer_identity},
    way::Way,
    window::SendWindow,
};

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
    /// When a certificate of the connection expires.
    expiry: Option<Instant>,
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

/// Why a connection is over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended {
    /// It never was confirmed.
    Dial(DialFailure),
    Lost(Lost),
}

impl From<Ended> for Error {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Dial(failure) => failure.into(),
            Ended::Lost(lost) => lost.into(),
        }
    }
}

/// What an operator sees of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Did we dial it?
    pub outbound: bool,
    /// The peer's address now.
    pub remote: SocketAddr,
    /// The peer's identity, once it has proved one.
    pub identity: Option<SpiffeId>,
    /// `handshaking`, `confirming`, `open`, `draining` or `closed`.
    pub phase: &'static str,
    /// Since it began.
    pub age: Duration,
    /// Request streams open now.
    pub streams: usize,
    /// Request streams since it began.
    pub streams_total: u64,
    /// The network path.
    pub path: PathInfo,
}

/// Figures of a connection's path.
#[derive(Clone, Copy, Debug, Default)]
pub struct PathInfo {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Congestion window, in bytes.
    pub congestion_window: u64,
    /// UDP payload that the path takes.
    pub mtu: u16,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets declared lost, path MTU probes aside.
    pub packets_lost: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Send calls that carried them.
    pub send_calls: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Bytes sent in datagrams.
    pub bytes_sent: u64,
    /// Bytes received in datagrams.
    pub bytes_received: u64,
    /// Times that the path began to lose large datagrams.
    pub black_holes: u64,
    /// Moves of either end: of the peer's address, or of this one's, or away from a path that was silent.
    pub migrations: u64,
}

impl Connection {
    pub(crate) fn new(
        handle: ConnectionHandle,
        side: Side,
        proto: quinn_proto::Connection,
        shared: Shared,
        handshake: Option<Handshake>,
        way: Way,
        now: Instant,
    ) -> Rc<Self> {
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
            expiry: None,
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

    // What the driver calls.

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
        inner.window.follow(&mut inner.proto);
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
        if inner.expiry.is_some_and(|at| at <= now) {
            inner.expiry = None;
            inner.close(now, Code::H3_NO_ERROR, Lost::CertificateExpired);
            due = true;
        }
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
            inner.expiry,
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

    /// Gives accepted streams to the listener's owner, outside of any borrow.
    pub(crate) fn hand_over_accepted(self: &Rc<Self>, acceptor: &Acceptor) {
        loop {
            let next = {
                let inner = &mut *self.inner.borrow_mut();
                let Some(id) = inner.accepted.pop_front() else {
                    return;
                };
                inner
                    .peer
                    .as_ref()
                    .map(|peer| (id, peer.id.clone(), inner.proto.remote_address()))
            };
            if let Some((id, caller, remote)) = next {
                acceptor.hand_over(self, id, caller, remote);
            }
        }
    }

    // What the pool and the listener call.

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

    /// Takes no new requests, says so (RFC 9114 section 5.2), and ends when those under way are done.
    pub(crate) fn go_away(self: &Rc<Self>, now: Instant) {
        let inner = &mut *self.inner.borrow_mut();
        match inner.phase {
            Phase::Open => {
                if let (Side::Listen, Some(id)) = (self.side, inner.goaway.announce()) {
                    inner.control.send_goaway(&mut inner.proto, id);
                    let wait = LATE_REQUESTS.max(inner.proto.rtt() * 3);
                    inner.exact_goaway = Some(now + wait);
                }
                inner.set_phase(Phase::Draining);
            }
            Phase::Handshaking | Phase::Confirming => inner.close(now, Code::H3_NO_ERROR, Lost::Local),
            Phase::Draining | Phase::Closed(_) => {}
        }
        self.mark_dirty();
    }

    pub(crate) fn info(&self, now: Instant) -> ConnectionInfo {
        let inner = &*self.inner.borrow();
        let stats = inner.proto.stats();
        ConnectionInfo {
            outbound: self.side == Side::Dial,
            remote: inner.proto.remote_address(),
            identity: inner.peer.as_ref().map(|peer| peer.id.clone()),
            phase: inner.phase.label(),
            age: now.saturating_duration_since(inner.started),
            streams: inner.streams.open_count(),
            streams_total: inner.streams.total(),
            path: PathInfo {
                rtt: stats.path.rtt,
                congestion_window: stats.path.cwnd,
                mtu: stats.path.current_mtu,
                packets_sent: stats.path.sent_packets,
                packets_lost: stats.path.lost_packets,
                datagrams_sent: stats.udp_tx.datagrams,
                send_calls: stats.udp_tx.ios,
                datagrams_received: stats.udp_rx.datagrams,
                bytes_sent: stats.udp_tx.bytes,
                bytes_received: stats.udp_rx.bytes,
                black_holes: stats.path.black_holes_detected,
                migrations: inner.migrations,
            },
        }
    }

    // Its way through the network; see `crate::migrate`.

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
    fn may_move(&self, inner: &Inner) -> bool {
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
        if self.may_move(inner) {
            inner.way.remedy(inner.streams.open_count() > 0, now)
        } else {
            None
        }
    }

    /// Should new requests go elsewhere, because the peer has not answered for long? If so, the task is woken when it
    /// answers again.
    pub(crate) fn is_unresponsive(&self, now: Instant, cx: &mut Context<'_>) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        let unresponsive = inner.way.is_unresponsive(now);
        if unresponsive {
            inner.watchers.push(cx.waker().clone());
        }
        unresponsive
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
    pub(crate) fn on_silent_path(self: &Rc<Self>, socket: SocketId) {
        let inner = &mut *self.inner.borrow_mut();
        tracing::debug!(remote = %inner.remote, "the path is silent: moving to another port");
        inner.way.leave_for(socket);
        inner.proto.local_address_changed();
        inner.way.allow_probe();
        inner.migrations += 1;
        self.stats.moved(Move::Silence);
        self.mark_dirty();
    }

    /// Its socket is closed in favour of `socket`.
    pub(crate) fn on_socket_closed(self: &Rc<Self>, socket: SocketId) {
        let inner = &mut *self.inner.borrow_mut();
        inner.way.leave_for(socket);
        inner.proto.local_address_changed();
        self.mark_dirty();
    }

    /// Asks the peer for a sign of life.
    pub(crate) fn probe(self: &Rc<Self>) {
        let inner = &mut *self.inner.borrow_mut();
        inner.proto.ping();
        inner.way.allow_probe();
        self.mark_dirty();
    }

    // Events.

    fn on_event(&self, inner: &mut Inner, event: Event, now: Instant) {
        match event {
            Event::Stream(event) => self.on_stream_event(inner, event, now),
            Event::Connected => self.on_connected(inner, now),
            Event::ConnectionLost { reason } => self.on_lost(inner, reason),
            // Datagrams are not negotiated.
            Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {}
        }
    }

    fn on_connected(&self, inner: &mut Inner, now: Instant) {
        let certificates = inner.proto.crypto_session().peer_identity();
        let certificates = certificates.and_then(|any| any.downcast::<Vec<_>>().ok());
        // The verifier has accepted the chain; without an identity in it something is badly wrong.
        match certificates.as_deref().map(|chain| peer_identity(chain)) {
            Some(Ok(peer)) => {
                inner.expiry = instant_of(peer.not_after, now);
                inner.peer = Some(peer);
            }
            _ => {
                return inner.close(
                    now,
                    Code::H3_INTERNAL_ERROR,
                    Lost::Violation(Code::H3_INTERNAL_ERROR),
                );
            }
        }
        // Reserved values that vary from connection to connection, and repeat in a test that repeats.
        let seed = (self.handle.0 as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        inner.control.open(&mut inner.proto, seed);
        match self.side {
            Side::Dial => inner.set_phase(Phase::Confirming),
            Side::Listen => self.on_confirmed(inner),
        }
    }

    fn on_confirmed(&self, inner: &mut Inner) {
        self.stats.handshakes.add(1);
        self.established().increment();
        inner.established = true;
        inner.set_phase(Phase::Open);
    }

    fn established(&self) -> &crate::stats::Gauge {
        match self.side {
            Side::Dial => &self.stats.connections_outbound,
            Side::Listen => &self.stats.connections_inbound,
        }
    }

    fn on_lost(&self, inner: &mut Inner, reason: ConnectionError) {
        let ended = match inner.phase {
            Phase::Handshaking | Phase::Confirming => {
                let failure = dial_failure(&reason);
                // The pool counts its dials, with a better reason; our own refusals were counted as they happened.
                if self.side == Side::Listen && !is_refusal(&reason) {
                    self.stats.handshake_failed(failure.into());
                }
                Ended::Dial(failure)
            }
            Phase::Open | Phase::Draining => Ended::Lost(lost(&reason)),
            Phase::Closed(ended) => ended,
        };
        tracing::debug!(remote = %inner.proto.remote_address(), %reason, "connection lost");
        inner.end(ended);
    }

    fn on_stream_event(&self, inner: &mut Inner, event: StreamEvent, now: Instant) {
        match event {
            StreamEvent::Opened { dir: Dir::Bi } => self.accept_requests(inner, now),
            StreamEvent::Opened { dir: Dir::Uni } => {
                while let Some(id) = inner.proto.streams().accept(Dir::Uni) {
                    inner.control.on_open(id);
                    self.read_control(inner, id, now);
                }
            }
            StreamEvent::Readable { id } if id.dir() == Dir::Uni => self.read_control(inner, id, now),
            StreamEvent::Readable { id } => inner.streams.on_readable(id, now),
            // Only our control stream; nobody may stop it (RFC 9114 section 6.2.1).
            StreamEvent::Stopped { id, .. } if id.dir() == Dir::Uni => {
                let code = Code::H3_CLOSED_CRITICAL_STREAM;
                self.stats.violations.add(1);
                inner.close(now, code, Lost::Violation(code));
            }
            StreamEvent::Writable { id } if id.dir() == Dir::Uni => inner.control.flush(&mut inner.proto),
            StreamEvent::Writable { id } => inner.streams.on_writable(id),
            StreamEvent::Stopped { id, .. } => inner.streams.on_stopped(id, now),
            StreamEvent::Available { dir: Dir::Bi } => inner.streams.on_available(),
            StreamEvent::Finished { .. } | StreamEvent::Available { dir: Dir::Uni } => {}
        }
    }

    fn accept_requests(&self, inner: &mut Inner, now: Instant) {
        while let Some(id) = inner.proto.streams().accept(Dir::Bi) {
            let alive = matches!(inner.phase, Phase::Open | Phase::Draining);
            if alive && inner.goaway.on_request(id.into()) == Admission::Accept {
                inner.streams.insert_remote(id, &mut inner.proto, now);
                inner.idle_since = None;
                inner.accepted.push_back(id);
            } else {
                reject(&mut inner.proto, id);
            }
        }
    }

    fn read_control(&self, inner: &mut Inner, id: StreamId, now: Instant) {
        let goaway = match inner.control.read(&mut inner.proto, id) {
            Ok(goaway) => goaway,
            Err(error) => {
                tracing::debug!(remote = %inner.proto.remote_address(), %error, "peer broke HTTP/3");
                self.stats.violations.add(1);
                return inner.close(now, error.code(), Lost::Violation(error.code()));
            }
        };
        if let Some(first_unprocessed) = goaway {
            inner.streams.fail_from(first_unprocessed, &mut inner.proto);
        }
        let chatter = inner.control.take_chatter();
        if let Err(overload) = inner.budget.on_chatter(chatter, now) {
            self.on_overload(inner, overload, now);
        }
    }

    /// Both halves of a stream were let go.
    pub(crate) fn on_released(self: &Rc<Self>, inner: &mut Inner, released: Released) {
        // Without a clock read for each request that ends as it should.
        let now = || tokio::time::Instant::now().into_std();
        match released {
            Released::Own => {}
            Released::Served => inner.budget.on_served(),
            Released::Aborted(age) => {
                let now = now();
                if let Err(overload) = inner.budget.on_aborted(age, now) {
                    self.on_overload(inner, overload, now);
                    self.mark_dirty();
                }
            }
        }
        if inner.streams.open_count() == 0 {
            inner.idle_since = Some(now());
            // A draining connection may be waiting for this.
            self.mark_dirty();
        }
    }

    /// The peer wastes our work (RFC 9114 section 10.5).
    fn on_overload(&self, inner: &mut Inner, overload: Overload, now: Instant) {
        if matches!(inner.phase, Phase::Closed(_)) {
            return;
        }
        self.stats.overloaded(overload);
        let peer = inner.peer.as_ref().map(|peer| peer.id.as_str());
        tracing::info!(remote = %inner.remote, peer, reason = overload.label(), "closed the connection of a peer that floods");
        let code = Code::H3_EXCESSIVE_LOAD;
        inner.close(now, code, Lost::Violation(code));
    }

    /// The last request of a draining connection is done, and what we sent was received.
    fn end_if_drained_out(&self, inner: &mut Inner, now: Instant) {
        // The control stream of ours never ends and always counts as one.
        let done = matches!(inner.phase, Phase::Draining)
            && inner.exact_goaway.is_none()
            && inner.streams.open_count() == 0
            && inner.accepted.is_empty()
            && inner.proto.streams().send_streams() <= 1;
        match self.side {
            _ if !done => inner.linger = None,
            Side::Dial => inner.close(now, Code::H3_NO_ERROR, Lost::Local),
            Side::Listen => {
                inner.linger.get_or_insert(now + LINGER);
            }
        }
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
        if !matches!(self.phase, Phase::Handshaking) {
            self.handshake = None;
        }
        self.wake_watchers();
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

/// The moment on the monotonic clock at which the wall clock will say `time`.
fn instant_of(time: SystemTime, now: Instant) -> Option<Instant> {
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    now.checked_add(left)
}

/// First transport error code that carries a TLS alert (RFC 9001 section 4.8).
const CRYPTO_ERROR: u64 = 0x100;
/// CONNECTION_REFUSED (RFC 9000 section 20.1).
const CONNECTION_REFUSED: u64 = 0x2;

/// What every refusal of [`crate::verify`] becomes (RFC 8446 section 6.2).
const CERTIFICATE_UNKNOWN: u64 = 46;

/// Did our own verifier end the handshake?
fn is_refusal(reason: &ConnectionError) -> bool {
    matches!(reason, ConnectionError::TransportError(error) if u64::from(error.code) == CRYPTO_ERROR + CERTIFICATE_UNKNOWN)
}

fn dial_failure(reason: &ConnectionError) -> DialFailure {
    let by_code = |code: u64| match code {
        CONNECTION_REFUSED => DialFailure::ConnectionRefused,
        alert if (CRYPTO_ERROR..CRYPTO_ERROR + 0x100).contains(&alert) => {
            DialFailure::Alert(u8::try_from(alert - CRYPTO_ERROR).unwrap_or_default())
        }
        _ => DialFailure::Protocol,
    };
    match reason {
        ConnectionError::ConnectionClosed(close) => by_code(close.error_code.into()),
        ConnectionError::TransportError(error) => by_code(error.code.into()),
        ConnectionError::TimedOut => DialFailure::Timeout,
        ConnectionError::VersionMismatch => DialFailure::Protocol,
        ConnectionError::ApplicationClosed(_) | ConnectionError::Reset => DialFailure::Closed,
        ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => DialFailure::Local,
    }
}

fn lost(reason: &ConnectionError) -> Lost {
    match reason {
        ConnectionError::ApplicationClosed(close) => Lost::PeerClosed(Code(close.error_code.into_inner())),
        ConnectionError::ConnectionClosed(close) => Lost::Transport(close.error_code.into()),
        ConnectionError::TransportError(error) => Lost::Transport(error.code.into()),
        ConnectionError::TimedOut => Lost::TimedOut,
        ConnectionError::Reset => Lost::StatelessReset,
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => Lost::Transport(0x1),
        ConnectionError::LocallyClosed => Lost::Local,
    }
}

impl From<DialFailure> for HandshakeFailure {
    fn from(failure: DialFailure) -> Self {
        match failure {
            DialFailure::Timeout => Self::Timeout,
            DialFailure::PeerRefused(_) => Self::PeerCertificate,
            DialFailure::Alert(_) => Self::Alert,
            DialFailure::ConnectionRefused => Self::Refused,
            DialFailure::Protocol => Self::Protocol,
            DialFailure::Closed | DialFailure::Moved => Self::Closed,
            DialFailure::Local => Self::Local,
        }
    }
}
