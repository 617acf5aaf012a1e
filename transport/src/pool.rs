//! The dialling side: streams to peers, over connections that are shared by all requests of this worker.

mod dialling;
mod keeper;
mod peer;

use std::{
    cell::RefCell,
    future::poll_fn,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use quinn_proto::Endpoint;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustc_hash::FxHashMap;
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinHandle},
};

use crate::{
    config::Config,
    connection::{Connection, ConnectionInfo},
    credentials::Credentials,
    driver::{self, Command, Driver, Mailbox},
    error::{DialFailure, Error, ErrorKind},
    listener::StartError,
    peer::{Advice, PeerKey},
    socket::{DatagramSocket, KernelSocket, SocketOptions},
    sockets::Rebind,
    state::EndpointState,
    stats::TransportStats,
    stream::RequestStream,
};

use self::{
    dialling::dial,
    peer::{Held, Peer, same_leaf},
};

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
    keeper: RefCell<Option<AbortHandle>>,
    /// Wakes the keeper.
    news: Rc<Notify>,
}

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
            (config.clone(), stats.clone()),
            StdRng::from_seed(seed).random(),
        );
        let inner = Rc::new(Inner {
            mailbox,
            config,
            stats,
            credentials: RefCell::new(credentials),
            peers: RefCell::default(),
            rng: RefCell::new(StdRng::from_seed(seed)),
            driver: driver::spawn(driver),
            keeper: RefCell::default(),
            news: Rc::default(),
        });
        let keeper = tokio::task::spawn_local(keeper::keep(Rc::downgrade(&inner), inner.news.clone()));
        inner.keeper.replace(Some(keeper.abort_handle()));
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

    /// Dials with other credentials from now on. If the leaf is another, each connection in use is replaced, spread
    /// over a part of what the old leaf has left, half a minute at the most; it serves until then, and finishes what
    /// is under way. If a root is missing that was there, connections to peers whose chain now fails take no more
    /// requests, and have a few seconds to finish what is under way.
    pub fn set_credentials(&self, credentials: Arc<Credentials>) {
        let now = tokio::time::Instant::now().into_std();
        let old = self.inner.credentials.replace(credentials.clone());
        if !credentials.bundle().includes(old.bundle()) {
            self.inner
                .mailbox
                .command(Command::Trust(credentials.shared_bundle()));
        }
        if !same_leaf(&credentials, &old) {
            let rng = &mut *self.inner.rng.borrow_mut();
            for peer in self.inner.peers.borrow_mut().values_mut() {
                peer.on_renewed(now, rng);
            }
            self.inner.news.notify_one();
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
            peer.connections()
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
        // What goes away now is not replaced.
        if let Some(keeper) = self.inner.keeper.take() {
            keeper.abort();
        }
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
                    dial(&self.inner, key);
                    connection
                }
                Choice::Fail(error) => return Poll::Ready(Err(error)),
                Choice::Wait => {
                    *waited = true;
                    return Poll::Pending;
                }
                Choice::Dial => {
                    *waited = true;
                    dial(&self.inner, key);
                    continue;
                }
            };
            let opened = connection.inner.borrow_mut().poll_open(cx);
            match opened {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(id)) => return Poll::Ready(Ok(RequestStream::new(connection, id))),
                // It ended between two looks at it; there may be another.
                Poll::Ready(Err(_)) => {
                    if let Some(peer) = self.inner.peers.borrow_mut().get_mut(key) {
                        peer.forget(&connection);
                    }
                }
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
        peer.settle();
        let answers = |held: &&Held| !held.connection.is_unresponsive(now);
        let fresh = || peer.held.iter().filter(|held| !held.is_due(now));
        if let Some(held) = fresh().filter(answers).find(|held| !held.connection.is_crowded()) {
            return Choice::Use(held.connection.clone());
        }
        let crowded = fresh().rfind(answers).map(|held| held.connection.clone());
        let count = fresh().count();
        if let Some(connection) = &crowded
            && count >= self.inner.config.max_connections_per_peer
        {
            return Choice::Use(connection.clone());
        }
        let due = peer.held.iter().filter(|held| held.is_due(now)).find(answers);
        let due = due.map(|held| held.connection.clone());
        match (peer.dial.on_demand(now), due.or(crowded)) {
            (Advice::Dial, Some(connection)) if count == 0 => Choice::Replace(connection),
            (Advice::Wait, Some(connection)) if count == 0 => Choice::Use(connection),
            (Advice::Dial, _) => Choice::Dial,
            (Advice::Wait, _) => {
                peer.waiting.push(cx.waker().clone());
                // An old connection that answers again will do as well.
                for connection in peer.connections() {
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
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.driver.abort();
        if let Some(keeper) = self.keeper.get_mut() {
            keeper.abort();
        }
        for peer in self.peers.get_mut().values_mut() {
            if let Some(dialling) = &peer.dialling {
                dialling.abort();
            }
        }
    }
}
