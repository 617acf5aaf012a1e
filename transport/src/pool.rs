//! The dialling side: streams to peers, over connections that are shared by all requests of this worker.

use std::{
    cell::RefCell,
    future::poll_fn,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use quinn_proto::Endpoint;
use rand::{SeedableRng, rngs::StdRng};
use rustc_hash::FxHashMap;
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinHandle},
};

use crate::{
    config::Config,
    connection::{Connection, ConnectionInfo},
    credentials::{Credentials, quic_client},
    driver::{self, Command, Driver, Mailbox},
    error::{DialFailure, Error, ErrorKind, Lost},
    h3::Code,
    listener::StartError,
    peer::{Advice, Dial, PeerKey},
    socket::{DatagramSocket, KernelSocket, SocketOptions},
    sockets::Rebind,
    state::EndpointState,
    stats::TransportStats,
    stream::RequestStream,
};

/// How often connections without streams are looked at.
const SWEEP: Duration = Duration::from_secs(10);

/// How to dial.
#[derive(Clone, Debug, Default)]
pub struct PoolOptions {
    /// The index of this worker.
    pub worker: u8,
    /// The mark of our packets (`SO_MARK`); takes CAP_NET_ADMIN.
    pub mark: Option<u32>,
}

/// The connections to all peers that one worker talks to. Cheap to clone; the last clone that is dropped ends
/// them.
#[derive(Clone)]
pub struct Pool {
    inner: Rc<Inner>,
}

struct Inner {
    mailbox: Rc<Mailbox>,
    config: Arc<Config>,
    stats: Arc<TransportStats>,
    credentials: RefCell<Arc<Credentials>>,
    peers: RefCell<FxHashMap<PeerKey, Peer>>,
    rng: RefCell<StdRng>,
    driver: JoinHandle<()>,
    sweeper: RefCell<Option<AbortHandle>>,
}

struct Peer {
    dial: Dial,
    /// Normally one.
    connections: Vec<Rc<Connection>>,
    /// Made with credentials that were replaced; they serve until there is a new one.
    superseded: Vec<Rc<Connection>>,
    waiting: Vec<Waker>,
    dialling: Option<AbortHandle>,
}

type Dialled = Result<Rc<Connection>, DialFailure>;

/// Where a request finds its stream.
enum Choice {
    Use(Rc<Connection>),
    /// Use it, and dial its replacement.
    Replace(Rc<Connection>),
    Dial,
    Wait,
    Fail(Error),
}

impl Pool {
    /// Opens the socket for dialling, on a local task of the current thread.
    ///
    /// # Errors
    /// No UDP socket can be had.
    pub fn new(
        options: &PoolOptions,
        config: Arc<Config>,
        state: &EndpointState,
        credentials: Arc<Credentials>,
        stats: Arc<TransportStats>,
    ) -> Result<Self, StartError> {
        let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
        let socket_options = SocketOptions {
            buffer: config.socket_buffer,
            reuse_port: false,
            mark: options.mark,
        };
        let bind = move || KernelSocket::dialling(socket_options).map(|socket| Box::new(socket) as _);
        let socket = bind().map_err(|source| StartError::Socket { address: any, source })?;
        let endpoint = config.endpoint(state, options.worker, None);
        Ok(Self::start(
            socket,
            Box::new(bind),
            endpoint,
            config,
            credentials,
            stats,
            rand::random(),
        ))
    }

    pub(crate) fn start(
        socket: Box<dyn DatagramSocket>,
        rebind: Rebind,
        endpoint: quinn_proto::EndpointConfig,
        config: Arc<Config>,
        credentials: Arc<Credentials>,
        stats: Arc<TransportStats>,
        seed: [u8; 32],
    ) -> Self {
        let mtu_discovery = !socket.may_fragment();
        let endpoint = Endpoint::new(Arc::new(endpoint), None, mtu_discovery, None);
        let (driver, mailbox) = Driver::new(
            socket,
            Some(rebind),
            endpoint,
            None,
            config.clone(),
            stats.clone(),
        );
        let inner = Rc::new(Inner {
            mailbox,
            config,
            stats,
            credentials: RefCell::new(credentials),
            peers: RefCell::default(),
            rng: RefCell::new(StdRng::from_seed(seed)),
            driver: driver::spawn(driver),
            sweeper: RefCell::default(),
        });
        let sweeper = tokio::task::spawn_local(sweep(Rc::downgrade(&inner)));
        inner.sweeper.replace(Some(sweeper.abort_handle()));
        Self { inner }
    }

    /// A stream to `peer`, over an open connection or a new one. However many wait for a peer, it is dialled
    /// once. Waits as long as the peer's stream limit is reached: give it a deadline.
    ///
    /// # Errors
    /// The peer can't be had now. Nothing was sent: any request may go to another endpoint.
    pub async fn stream(&self, peer: &PeerKey) -> Result<RequestStream, Error> {
        let mut waited = false;
        poll_fn(|cx| self.poll_stream(peer, &mut waited, cx)).await
    }

    /// Dials with other credentials from now on. Each connection there is serves until the next request has led
    /// to a new one in its place, and then finishes what is under way.
    pub fn set_credentials(&self, credentials: Arc<Credentials>) {
        self.inner.credentials.replace(credentials);
        for peer in self.inner.peers.borrow_mut().values_mut() {
            peer.superseded.append(&mut peer.connections);
        }
    }

    /// Addresses or routes of this host may have changed: connections that the kernel would now send from another
    /// address move there, with all their streams.
    pub fn on_network_change(&self) {
        self.inner.mailbox.command(Command::Reroute);
    }

    /// What each connection is doing, with the peer that it leads to.
    pub fn connections(&self) -> Vec<(PeerKey, ConnectionInfo)> {
        let now = tokio::time::Instant::now().into_std();
        let peers = self.inner.peers.borrow();
        let of_peer = |(key, peer): (&PeerKey, &Peer)| {
            peer.all()
                .map(|connection| (key.clone(), connection.info(now)))
                .collect::<Vec<_>>()
        };
        peers.iter().flat_map(of_peer).collect()
    }

    /// Ends all connections now, also with requests under way.
    pub fn close(&self) {
        self.inner.mailbox.command(Command::Close);
    }

    /// Ends all connections when the requests on them are done.
    pub async fn drain(&self) {
        let now = tokio::time::Instant::now().into_std();
        let connections = self.inner.mailbox.connections().await;
        for connection in &connections {
            connection.go_away(now);
        }
        for connection in &connections {
            poll_fn(|cx| connection.poll_closed(cx)).await;
        }
        // The driver answers after it has sent what it had: the peers are told, even if the pool is dropped now.
        self.inner.mailbox.connections().await;
    }

    fn poll_stream(
        &self,
        key: &PeerKey,
        waited: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RequestStream, Error>> {
        loop {
            let choice = self.choose(key, *waited, cx);
            let connection = match choice {
                Choice::Use(connection) => connection,
                Choice::Replace(connection) => {
                    self.dial(key);
                    connection
                }
                Choice::Fail(error) => return Poll::Ready(Err(error)),
                Choice::Wait => {
                    *waited = true;
                    return Poll::Pending;
                }
                Choice::Dial => {
                    *waited = true;
                    self.dial(key);
                    continue;
                }
            };
            let opened = connection.inner.borrow_mut().poll_open(cx);
            match opened {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(id)) => return Poll::Ready(Ok(RequestStream::new(connection, id))),
                // It ended between two looks at it; there may be another.
                Poll::Ready(Err(_)) => self.forget(key, &connection),
            }
        }
    }

    fn choose(&self, key: &PeerKey, waited: bool, cx: &mut Context<'_>) -> Choice {
        let now = tokio::time::Instant::now().into_std();
        let mut peers = self.inner.peers.borrow_mut();
        if !peers.contains_key(key) {
            peers.insert(key.clone(), Peer::new());
        }
        let Some(peer) = peers.get_mut(key) else {
            return Choice::Fail(DialFailure::Local.into());
        };
        peer.connections.retain(|connection| connection.is_open());
        peer.superseded.retain(|connection| connection.is_open());
        let answers = |connection: &&Rc<Connection>| !connection.is_unresponsive(now);
        if let Some(connection) = peer
            .connections
            .iter()
            .filter(answers)
            .find(|connection| !connection.is_crowded())
        {
            return Choice::Use(connection.clone());
        }
        let crowded = peer.connections.iter().rfind(answers).cloned();
        if let Some(connection) = &crowded
            && peer.connections.len() >= self.inner.config.max_connections_per_peer
        {
            return Choice::Use(connection.clone());
        }
        let superseded = peer.superseded.iter().find(answers).cloned();
        match (peer.dial.on_demand(now), superseded.or(crowded)) {
            (Advice::Dial, Some(connection)) if peer.connections.is_empty() => Choice::Replace(connection),
            (Advice::Wait, Some(connection)) if peer.connections.is_empty() => Choice::Use(connection),
            (Advice::Dial, _) => Choice::Dial,
            (Advice::Wait, _) => {
                peer.waiting.push(cx.waker().clone());
                // An old connection that answers again will do as well.
                for connection in peer.all() {
                    connection.wait_responsive(cx);
                }
                Choice::Wait
            }
            // Better a connection with stalled readers on it than none.
            (Advice::Fail { .. }, Some(connection)) => Choice::Use(connection),
            (Advice::Fail { last, .. }, None) if waited => Choice::Fail(last.into()),
            (Advice::Fail { remaining, last }, None) => {
                Choice::Fail(ErrorKind::Backoff { remaining, last }.into())
            }
        }
    }

    /// Dials on a task of its own: a request that gives up must not end the dial that others wait for.
    fn dial(&self, key: &PeerKey) {
        let task = tokio::task::spawn_local(dial_task(Rc::downgrade(&self.inner), key.clone()));
        if let Some(peer) = self.inner.peers.borrow_mut().get_mut(key) {
            peer.dialling = Some(task.abort_handle());
        }
    }

    fn forget(&self, key: &PeerKey, connection: &Rc<Connection>) {
        if let Some(peer) = self.inner.peers.borrow_mut().get_mut(key) {
            peer.connections.retain(|other| !Rc::ptr_eq(other, connection));
            peer.superseded.retain(|other| !Rc::ptr_eq(other, connection));
        }
    }
}

impl Inner {
    fn start_dial(
        &self,
        key: &PeerKey,
        credentials: &Credentials,
    ) -> Result<(oneshot::Receiver<Dialled>, Refused), DialFailure> {
        let tls = quic_client(credentials, &key.identity).map_err(|error| {
            tracing::warn!(peer = ?key, %error, "can't dial with the credentials of this workload");
            DialFailure::Local
        })?;
        let (reply, connection) = oneshot::channel();
        self.mailbox.command(Command::Dial {
            remote: key.address,
            crypto: tls.config,
            reply,
        });
        Ok((connection, tls.refusal))
    }

    fn on_dialled(&self, key: &PeerKey, credentials: &Arc<Credentials>, result: Dialled) {
        let now = tokio::time::Instant::now().into_std();
        let mut peers = self.peers.borrow_mut();
        let Some(peer) = peers.get_mut(key) else { return };
        peer.dialling = None;
        match result {
            Ok(connection) => {
                peer.dial.on_confirmed();
                if Arc::ptr_eq(credentials, &self.credentials.borrow()) {
                    peer.connections.push(connection);
                    for superseded in peer.superseded.drain(..) {
                        superseded.go_away(now);
                    }
                } else {
                    peer.superseded.push(connection);
                }
            }
            Err(failure) => {
                self.stats.handshake_failed(failure.into());
                tracing::warn!(peer = ?key, reason = failure.reason(), error = %failure, "dial failed");
                peer.dial.on_failed(failure, now, &mut *self.rng.borrow_mut());
            }
        }
        for waker in peer.waiting.drain(..) {
            waker.wake();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.driver.abort();
        if let Some(sweeper) = self.sweeper.get_mut() {
            sweeper.abort();
        }
        for peer in self.peers.get_mut().values_mut() {
            if let Some(dialling) = &peer.dialling {
                dialling.abort();
            }
        }
    }
}

impl Peer {
    fn new() -> Self {
        Self {
            dial: Dial::Idle,
            connections: Vec::new(),
            superseded: Vec::new(),
            waiting: Vec::new(),
            dialling: None,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Rc<Connection>> {
        self.connections.iter().chain(&self.superseded)
    }
}

async fn dial_task(pool: Weak<Inner>, key: PeerKey) {
    loop {
        let Some((started, credentials, limit)) = pool.upgrade().map(|inner| {
            let credentials = inner.credentials.borrow().clone();
            let started = inner.start_dial(&key, &credentials);
            (started, credentials, inner.config.dial_timeout)
        }) else {
            return;
        };
        let result = match started {
            Ok((connection, refused)) => establish(connection, &refused, limit).await,
            Err(failure) => Err(failure),
        };
        if matches!(result, Err(DialFailure::Moved)) {
            // The peer is not to blame: from the new address at once.
            continue;
        }
        if let Some(inner) = pool.upgrade() {
            inner.on_dialled(&key, &credentials, result);
        }
        return;
    }
}

type Refused = Arc<std::sync::OnceLock<crate::verify::Refusal>>;

/// Waits until the peer has confirmed the handshake: not before has it accepted our certificate.
async fn establish(connection: oneshot::Receiver<Dialled>, refused: &Refused, limit: Duration) -> Dialled {
    let connection = connection.await.map_err(|_| DialFailure::Local)??;
    let established = poll_fn(|cx| connection.poll_established(cx));
    match tokio::time::timeout(limit, established).await {
        Ok(Ok(())) => Ok(connection),
        Ok(Err(failure)) => Err(refused
            .get()
            .map_or(failure, |refusal| DialFailure::PeerRefused(*refusal))),
        Err(_) => {
            connection.abandon(tokio::time::Instant::now().into_std(), DialFailure::Timeout);
            Err(DialFailure::Timeout)
        }
    }
}

/// Closes connections that nobody has used for long, and forgets peers that have none.
async fn sweep(pool: Weak<Inner>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(inner) = pool.upgrade() else { return };
        let now = tokio::time::Instant::now().into_std();
        let keep = |connection: &Rc<Connection>| {
            let idle = connection
                .idle_for(now)
                .is_some_and(|idle| idle >= inner.config.idle_connection);
            if idle {
                connection.close(now, Code::H3_NO_ERROR, Lost::Local);
            }
            !idle && connection.is_open()
        };
        inner.peers.borrow_mut().retain(|_, peer| {
            peer.connections.retain(keep);
            peer.superseded.retain(keep);
            let quiet = match peer.dial {
                Dial::Idle => true,
                Dial::UnderWay { .. } => false,
                // Remembered for a while after its pause, so that the pauses can grow.
                Dial::Paused { until, .. } => now > until + SWEEP,
            };
            !(quiet && peer.all().next().is_none())
        });
    }
}
