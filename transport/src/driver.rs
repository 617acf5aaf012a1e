//! One task owns a UDP socket, the quinn-proto endpoint on it and all its connections.
//!
//! A turn of [`Driver`]: take what others asked for, receive, run the timers that are due, hand out all events,
//! and send. Between the events and the sending lies a yield: the tasks that the events woke run first, so that
//! what they write, and the acknowledgements of what they read, leave in the same datagrams and system calls.

mod mailbox;
mod moves;
mod receive;
mod transmit;
mod trust;

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::BinaryHeap,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::BytesMut;
use futures_util::FutureExt;
use quinn_proto::{ClientConfig, ConnectionHandle, DatagramEvent, EcnCodepoint, Endpoint};
use quinn_udp::RecvMeta;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustc_hash::FxHashMap;
use tokio::{task::JoinHandle, time::Sleep};

use crate::{
    config::{Config, Side, cubic},
    congestion::Progress,
    connection::{Beginning, Connection, Shared},
    error::{DialFailure, Lost},
    h3::Code,
    listener::{Acceptor, Admission, Handshake},
    socket::{DatagramSocket, ETHERNET_PAYLOAD, canonical, reachable},
    sockets::{Rebind, SocketId, Sockets},
    stats::TransportStats,
    term::Leaf,
    way::Way,
};

pub(crate) use self::mailbox::{Command, Mailbox};
use self::receive::{RECEIVE_BUFFER, ReceiveBuffers};
use self::trust::Unjudged;

/// Receive calls of one turn; then connections and tasks have theirs.
const RECEIVES_PER_TURN: usize = 4;
/// Handshakes that one turn takes on.
const HANDSHAKES_PER_TURN: usize = 4;

/// The task. Ends when [`Mailbox::shut_down`] was called and the last connection is gone.
pub(crate) struct Driver {
    sockets: Sockets,
    endpoint: Endpoint,
    connections: FxHashMap<ConnectionHandle, Rc<Connection>>,
    /// Earliest first; an entry may be stale, see [`Driver::arm`].
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    sleep: Pin<Box<Sleep>>,
    mailbox: Rc<Mailbox>,
    /// Present on the listening side.
    acceptor: Option<Acceptor>,
    config: Arc<Config>,
    stats: Arc<TransportStats>,
    receive: ReceiveBuffers,
    /// What the last connection wants to send.
    burst: Vec<u8>,
    /// A socket was full: what `burst` holds goes first when it has room.
    blocked: Option<(SocketId, quinn_proto::Transmit)>,
    /// An answer of the endpoint's own: Retry, version negotiation, stateless reset, refusal.
    answer: Vec<u8>,
    /// The tasks woken by the last events have run; now send.
    send_due: bool,
    /// Connections whose events were handed out and that have not sent since.
    ready: Vec<Rc<Connection>>,
    /// A connection no longer uses a socket that it left.
    socket_left: bool,
    rng: StdRng,
    /// The roots have changed.
    unjudged: Option<Unjudged>,
}

/// Runs a driver on a local task of the current thread. A panic in it ends the process: its connections would hang,
/// and a proxy must never be half alive.
pub(crate) fn spawn(driver: Driver) -> JoinHandle<()> {
    let driver = Rc::new(RefCell::new(driver));
    driver.borrow().mailbox.driver.replace(Rc::downgrade(&driver));
    let turns = poll_fn(move |cx| driver.borrow_mut().turn(cx));
    tokio::task::spawn_local(async move {
        if std::panic::AssertUnwindSafe(turns).catch_unwind().await.is_err() {
            tracing::error!("the transport panicked: ending the process");
            std::process::abort();
        }
    })
}

impl Driver {
    pub(crate) fn new(
        socket: Box<dyn DatagramSocket>,
        rebind: Option<Rebind>,
        endpoint: Endpoint,
        acceptor: Option<Acceptor>,
        shared: (Arc<Config>, Arc<TransportStats>),
        seed: [u8; 32],
    ) -> (Self, Rc<Mailbox>) {
        let (config, stats) = shared;
        let mailbox = Mailbox::new(socket.local_addr());
        let driver = Self {
            sockets: Sockets::new(socket, rebind),
            endpoint,
            connections: FxHashMap::default(),
            timers: BinaryHeap::new(),
            sleep: Box::pin(tokio::time::sleep_until(tokio::time::Instant::now())),
            mailbox: mailbox.clone(),
            acceptor,
            config,
            stats,
            receive: ReceiveBuffers::new(),
            burst: Vec::with_capacity(RECEIVE_BUFFER),
            blocked: None,
            answer: Vec::new(),
            send_due: false,
            ready: Vec::new(),
            socket_left: false,
            rng: StdRng::from_seed(seed),
            unjudged: None,
        };
        (driver, mailbox)
    }

    /// One turn. Ready when the driver was shut down and its last connection is gone.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        *self.mailbox.waker.borrow_mut() = Some(cx.waker().clone());
        let now = tokio::time::Instant::now().into_std();
        if self.acceptor.as_ref().is_some_and(Acceptor::on_turn) {
            // Another connection of the same caller is the first to be given its share.
            let dirty = &mut *self.mailbox.dirty.borrow_mut();
            let first = usize::from(dirty.len() > 1);
            dirty.rotate_left(first);
        }
        if std::mem::take(&mut self.send_due) || self.blocked.is_some() {
            self.hand_out_events(now);
            while self.flush_blocked(cx) {
                self.transmit(now);
                if self.blocked.is_none() {
                    break;
                }
            }
        }
        let more = self.take_input(cx, now);
        let work = !self.mailbox.dirty.borrow().is_empty() || !self.ready.is_empty();
        if work && self.blocked.is_none() {
            self.hand_out_events(now);
            self.send_due = true;
        }
        if self.send_due || more {
            cx.waker().wake_by_ref();
        }
        if self.mailbox.shut_down.get() && self.connections.is_empty() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Commands, datagrams and timers in; events out. Returns whether there may be more to receive.
    fn take_input(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let commands = std::mem::take(&mut *self.mailbox.commands.borrow_mut());
        for command in commands {
            self.on_command(command, now);
        }
        let more = self.receive(cx, now);
        self.accept_pending(now);
        self.judge_some(now);
        self.run_timers(cx, now);
        more
    }

    fn on_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Dial {
                remote,
                crypto,
                own,
                reply,
            } => {
                let _ = reply.send(self.dial(remote, crypto, own, now));
            }
            Command::Reroute => self.reroute(now),
            Command::Serve(crypto, credentials) => self.serve(crypto, credentials, now),
            Command::Trust(bundle) => self.trust(bundle),
            Command::Drain => {
                let pending = self.acceptor.as_mut().map(Acceptor::drain).unwrap_or_default();
                for incoming in pending {
                    self.refuse(incoming);
                }
                self.go_away(now);
            }
            Command::Close => {
                for connection in self.connections.values() {
                    connection.close(now, Code::H3_NO_ERROR, Lost::Local);
                }
            }
            Command::Connections(reply) => {
                let _ = reply.send(self.connections.values().cloned().collect());
            }
        }
    }

    fn go_away(&self, now: Instant) {
        for connection in self.connections.values() {
            connection.go_away(now);
        }
    }

    fn dial(
        &mut self,
        remote: SocketAddr,
        crypto: Arc<dyn quinn_proto::crypto::ClientConfig>,
        own: Leaf,
        now: Instant,
    ) -> Result<Rc<Connection>, DialFailure> {
        let remote = canonical(remote);
        let id = self.sockets.newest();
        let socket = self.sockets.get(id).ok_or(DialFailure::Local)?;
        reachable(socket.local_addr(), remote).ok_or(DialFailure::Local)?;
        let route = socket.route(remote);
        let payload = route.map_or(ETHERNET_PAYLOAD, |route| route.payload);
        let mut transport = self.config.transport(Side::Dial, payload);
        let progress = Progress::default();
        transport.congestion_controller_factory(progress.control(cubic()));
        let mut config = ClientConfig::new(crypto);
        config.transport_config(Arc::new(transport));
        // The name is not used: peers are known by their SPIFFE ID. TLS needs one that parses.
        let (handle, proto) = self
            .endpoint
            .connect(now, config, remote, "weft.invalid")
            .map_err(|error| {
                tracing::debug!(%remote, %error, "dial could not be started");
                DialFailure::Local
            })?;
        let way = Way::new(id, route, progress);
        Ok(self.adopt(handle, proto, (None, way, own), now))
    }

    fn adopt(
        &mut self,
        handle: ConnectionHandle,
        proto: quinn_proto::Connection,
        (handshake, way, own): (Option<Handshake>, Way, Leaf),
        now: Instant,
    ) -> Rc<Connection> {
        let beginning = Beginning {
            handshake,
            way,
            own,
            luck: self.rng.random(),
        };
        let shared = Shared {
            mailbox: self.mailbox.clone(),
            stats: self.stats.clone(),
            config: self.config.clone(),
        };
        let connection = Connection::new(handle, proto, shared, beginning, now);
        self.connections.insert(handle, connection.clone());
        connection.mark_dirty();
        connection
    }

    fn receive(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut more = false;
        for index in 0..self.sockets.count() {
            more |= self.receive_on(index, cx, now);
        }
        if std::mem::take(&mut self.socket_left) {
            self.close_unused_sockets();
        }
        more
    }

    fn receive_on(&mut self, index: usize, cx: &mut Context<'_>, now: Instant) -> bool {
        for _ in 0..RECEIVES_PER_TURN {
            let Some((id, socket)) = self.sockets.at(index) else {
                return false;
            };
            let count = match self.receive.poll(socket, cx) {
                Poll::Pending => return false,
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) => {
                    // ICMP errors surface here on some kernels; QUIC has its own timers.
                    tracing::debug!(%error, "receive failed");
                    continue;
                }
            };
            self.stats.receive_calls.add(1);
            for buffer in 0..count {
                self.on_received(buffer, id, now);
            }
        }
        true
    }

    /// One receive buffer: a datagram, or several of one size coalesced by GRO.
    fn on_received(&mut self, buffer: usize, socket: SocketId, now: Instant) {
        let Some((meta, mut datagrams)) = self.receive.take(buffer) else {
            return;
        };
        while !datagrams.is_empty() {
            let datagram = datagrams.split_to(meta.stride.clamp(1, datagrams.len()));
            self.stats.datagrams_received.add(1);
            self.on_datagram(meta, datagram, socket, now);
        }
    }

    fn on_datagram(&mut self, meta: RecvMeta, datagram: BytesMut, socket: SocketId, now: Instant) {
        let ecn = meta.ecn.map(|ecn| ecn as u8).and_then(EcnCodepoint::from_bits);
        let length = datagram.len();
        let remote = canonical(meta.addr);
        self.answer.clear();
        let event = self
            .endpoint
            .handle(now, remote, meta.dst_ip, ecn, datagram, &mut self.answer);
        match event {
            None => {}
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(connection) = self.connections.get(&handle) {
                    self.socket_left |= connection.on_datagram(event, length, socket, now);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.on_first_packet(incoming),
            Some(DatagramEvent::Response(transmit)) => self.send_answer(&transmit),
        }
    }

    fn on_first_packet(&mut self, incoming: quinn_proto::Incoming) {
        let Some(acceptor) = &mut self.acceptor else {
            return self.endpoint.ignore(incoming);
        };
        let Some((admission, incoming)) = acceptor.admit(incoming) else {
            return;
        };
        self.answer.clear();
        match admission {
            Admission::Retry => match self.endpoint.retry(incoming, &mut self.answer) {
                Ok(transmit) => self.send_answer(&transmit),
                Err(error) => self.endpoint.ignore(error.into_incoming()),
            },
            Admission::Refuse => self.refuse(incoming),
            Admission::Queue | Admission::Ignore => self.endpoint.ignore(incoming),
        }
    }

    fn refuse(&mut self, incoming: quinn_proto::Incoming) {
        self.answer.clear();
        let transmit = self.endpoint.refuse(incoming, &mut self.answer);
        self.send_answer(&transmit);
    }

    /// Works off a few handshakes: each costs as much CPU as hundreds of requests.
    fn accept_pending(&mut self, now: Instant) {
        for _ in 0..HANDSHAKES_PER_TURN {
            let Some(acceptor) = &mut self.acceptor else {
                return;
            };
            let Some(incoming) = acceptor.next() else { return };
            self.answer.clear();
            let id = self.sockets.newest();
            let socket = self.sockets.get(id);
            let route = socket.and_then(|socket| socket.route(incoming.remote_address()));
            let payload = route.map_or(ETHERNET_PAYLOAD, |route| route.payload);
            match acceptor.accept(&mut self.endpoint, incoming, payload, now, &mut self.answer) {
                Ok((handle, proto, handshake)) => {
                    let way = Way::new(id, route, Progress::default());
                    let own = acceptor.leaf();
                    self.adopt(handle, proto, (Some(handshake), way, own), now);
                }
                Err(Some(transmit)) => self.send_answer(&transmit),
                Err(None) => {}
            }
        }
        // The rest has the next turn.
        self.mailbox.wake();
    }

    fn run_timers(&mut self, cx: &mut Context<'_>, now: Instant) {
        while let Some(&Reverse((at, key))) = self.timers.peek().filter(|Reverse((at, _))| *at <= now) {
            self.timers.pop();
            let Some(connection) = self.connections.get(&ConnectionHandle(key)).cloned() else {
                continue;
            };
            let due = connection.on_timer(at, now);
            if let Some(remedy) = connection.remedy(now) {
                self.on_silent(&connection, remedy, now);
            } else if due {
                connection.mark_dirty();
            } else {
                self.arm(&connection, now);
            }
        }
        let Some(&Reverse((at, _))) = self.timers.peek() else {
            return;
        };
        let at = tokio::time::Instant::from_std(at);
        // A timer that fires early finds nothing due and is set again: cheaper than setting it each turn.
        if at < self.sleep.deadline() || self.sleep.is_elapsed() {
            self.sleep.as_mut().reset(at);
        }
        if self.sleep.as_mut().poll(cx).is_ready() {
            self.mailbox.wake();
        }
    }

    /// Hands out the events of every connection that something happened to.
    fn hand_out_events(&mut self, now: Instant) {
        self.ready.append(&mut self.mailbox.dirty.borrow_mut());
        for connection in &self.ready {
            connection.process(now, &mut self.endpoint);
            if let Some(acceptor) = &self.acceptor {
                connection.hand_over_accepted(acceptor);
            }
        }
    }

    /// After a connection's turn: forget it if it is gone, else arm its timer.
    fn settle(&mut self, connection: &Rc<Connection>, now: Instant) {
        // What was sent may have ended the connection.
        connection.process(now, &mut self.endpoint);
        if connection.is_drained() {
            self.connections.remove(&connection.handle());
            self.socket_left = true;
            return;
        }
        if connection.has_accepted() {
            connection.mark_dirty();
        }
        connection.on_transmitted(now);
        self.arm(connection, now);
    }

    /// A connection has one entry that counts, at or before its deadline: when the deadline moves back, the
    /// entry stays and finds nothing due; only when it moves forward is another entry made.
    fn arm(&mut self, connection: &Rc<Connection>, now: Instant) {
        if let Some(at) = connection.arm(now) {
            self.timers.push(Reverse((at, connection.handle().0)));
        }
    }
}

impl Drop for Driver {
    /// Whoever still waits for a connection must not wait for ever.
    fn drop(&mut self) {
        for connection in self.connections.values() {
            connection.orphan();
        }
    }
}
