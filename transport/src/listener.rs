//! The listening side: takes handshakes within its means, and hands requests to its owner.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::{
    ConnectionHandle, Endpoint, ServerConfig, StreamId, Transmit, ValidationTokenConfig,
    crypto::rustls::QuicServerConfig,
};
use rustc_hash::FxHashMap;
use tokio::task::AbortHandle;
use weft_proto::SpiffeId;

use crate::{
    config::{Config, Side},
    connection::{Connection, ConnectionInfo},
    credentials::{Credentials, CredentialsError, quic_server},
    driver::{self, Command, Driver, Mailbox},
    socket::{DatagramSocket, KernelSocket, SocketOptions},
    state::EndpointState,
    stats::{HandshakeFailure, TransportStats},
    stream::RequestStream,
    term::Leaf,
    verify::OnRefusal,
};

/// Bytes of one handshake that we hold before we look at it: a client's flight is two or three datagrams.
const HANDSHAKE_BUFFER: u64 = 16 << 10;
/// Requests of one caller that begin in one turn of the driver; the others' begin in the same turn, however many
/// connections and requests one has. As many as a sidecar of ours sends at once.
const REQUESTS_PER_TURN: usize = 32;
/// A Retry token is good for one round trip of a slow network.
const RETRY_LIFETIME: Duration = Duration::from_secs(15);

/// A request of a peer, or a tunnel.
pub struct Incoming {
    /// Who sends it, from its certificate.
    pub caller: SpiffeId,
    /// From where.
    pub remote: SocketAddr,
    /// The stream, of which nothing has been read.
    pub stream: RequestStream,
}

/// Where and how to listen.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// The UDP address.
    pub address: SocketAddr,
    /// The index of this worker, which its connection IDs carry.
    pub worker: u8,
    /// How many workers share the address.
    pub workers: u8,
    /// The mark of our packets (`SO_MARK`); takes CAP_NET_ADMIN.
    pub mark: Option<u32>,
}

/// A UDP port that serves the peers of the mesh. Dropping it ends its connections at once.
pub struct Listener {
    mailbox: Rc<Mailbox>,
    stats: Arc<TransportStats>,
    task: AbortHandle,
    done: Option<tokio::task::JoinHandle<()>>,
}

/// The failure to start a listener or a pool.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The UDP socket can't be had.
    #[error("UDP {address}: {source}")]
    Socket {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The credentials can't be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

impl Listener {
    /// Starts to listen, on a local task of the current thread. `on_request` is called for every request stream,
    /// and should only spawn.
    ///
    /// # Errors
    /// The address can't be bound, or TLS refuses the credentials.
    pub fn bind(
        options: &ListenerOptions,
        config: Arc<Config>,
        state: &EndpointState,
        credentials: &Credentials,
        stats: Arc<TransportStats>,
        on_request: impl Fn(Incoming) + 'static,
    ) -> Result<Self, StartError> {
        let socket_options = SocketOptions {
            buffer: config.socket_buffer,
            reuse_port: options.workers > 1,
            mark: options.mark,
        };
        let socket =
            KernelSocket::bind(options.address, socket_options).map_err(|source| StartError::Socket {
                address: options.address,
                source,
            })?;
        if options.workers > 1 && options.worker == 0 {
            crate::steer::attach(&socket, state.cid_key.worker_mask()).map_err(|source| {
                StartError::Socket {
                    address: options.address,
                    source,
                }
            })?;
        }
        let endpoint = config.endpoint(state, options.worker, None);
        Ok(Self::start(
            Box::new(socket),
            endpoint,
            config,
            credentials,
            stats,
            rand::random(),
            on_request,
        )?)
    }

    pub(crate) fn start(
        socket: Box<dyn DatagramSocket>,
        endpoint: quinn_proto::EndpointConfig,
        config: Arc<Config>,
        credentials: &Credentials,
        stats: Arc<TransportStats>,
        seed: [u8; 32],
        on_request: impl Fn(Incoming) + 'static,
    ) -> Result<Self, CredentialsError> {
        let crypto = quic_server(credentials, count_refusals(&stats))?;
        let own = (crypto, credentials.clone());
        let acceptor = Acceptor::new(config.clone(), own, stats.clone(), Rc::new(on_request));
        let server = acceptor.fallback();
        let mtu_discovery = !socket.may_fragment();
        let endpoint = Endpoint::new(Arc::new(endpoint), Some(server), mtu_discovery, None);
        let (driver, mailbox) = Driver::new(
            socket,
            None,
            endpoint,
            Some(acceptor),
            (config, stats.clone()),
            seed,
        );
        let done = driver::spawn(driver);
        Ok(Self {
            mailbox,
            stats,
            task: done.abort_handle(),
            done: Some(done),
        })
    }

    /// The address in use, with its port.
    pub fn local_addr(&self) -> SocketAddr {
        self.mailbox.local_addr()
    }

    /// Serves new connections with other credentials. If the leaf is another, the peers of the present connections
    /// are asked to dial anew, spread over a part of what the old leaf has left, half a minute at the most. If a root
    /// is missing that was there, peers whose chain now fails are told to go at once, and have a few seconds to
    /// finish what is under way.
    ///
    /// # Errors
    /// TLS refuses the credentials; the old ones stay.
    pub fn set_credentials(&self, credentials: &Credentials) -> Result<(), CredentialsError> {
        let crypto = quic_server(credentials, count_refusals(&self.stats))?;
        self.mailbox.command(Command::Serve(crypto, credentials.clone()));
        Ok(())
    }

    /// Says GOAWAY on every connection, takes no more, and returns when the last request is done and every
    /// connection is closed. Requests that come meanwhile are refused as unprocessed.
    pub async fn drain(&mut self) {
        self.mailbox.command(Command::Drain);
        self.mailbox.shut_down();
        if let Some(done) = self.done.take() {
            let _ = done.await;
        }
    }

    /// What each connection is doing.
    pub async fn connections(&self) -> Vec<ConnectionInfo> {
        self.view().connections().await
    }

    /// Looks at the connections from elsewhere on the thread.
    pub fn view(&self) -> ListenerView {
        ListenerView {
            mailbox: self.mailbox.clone(),
        }
    }
}

/// Sees the connections of a [`Listener`].
#[derive(Clone)]
pub struct ListenerView {
    mailbox: Rc<Mailbox>,
}

impl ListenerView {
    /// Ends every connection now, also with requests under way: their callers see that they were cut short.
    pub fn close(&self) {
        self.mailbox.command(Command::Close);
    }

    /// What each connection is doing; none once the listener has ended.
    pub async fn connections(&self) -> Vec<ConnectionInfo> {
        let now = tokio::time::Instant::now().into_std();
        self.mailbox
            .connections()
            .await
            .iter()
            .map(|connection| connection.info(now))
            .collect()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn count_refusals(stats: &Arc<TransportStats>) -> OnRefusal {
    let stats = stats.clone();
    Arc::new(move |refusal| {
        stats.handshake_failed(HandshakeFailure::PeerCertificate);
        tracing::info!(%refusal, "refused the certificate of a peer that dialled");
    })
}

/// The driver's part of a listener.
pub(crate) struct Acceptor {
    config: Arc<Config>,
    crypto: Arc<QuicServerConfig>,
    /// What `crypto` was made of.
    credentials: Credentials,
    /// Settings by the MTU of the link to the peer.
    by_mtu: FxHashMap<u16, Arc<ServerConfig>>,
    pending: VecDeque<quinn_proto::Incoming>,
    handshakes: Rc<()>,
    draining: bool,
    stats: Arc<TransportStats>,
    on_request: Rc<dyn Fn(Incoming)>,
    /// Requests begun in this turn of the driver, by caller.
    begun: RefCell<FxHashMap<SpiffeId, usize>>,
    /// Requests had to wait for the next turn.
    kept_waiting: Cell<bool>,
}

/// What to do with a peer's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Take it on in its turn.
    Queue,
    /// Let the peer prove its address first; costs us nothing.
    Retry,
    /// Say that we take none.
    Refuse,
    /// Not even that.
    Ignore,
}

/// Held while a handshake is under way.
pub(crate) struct Handshake {
    _counted: Rc<()>,
}

impl Acceptor {
    fn new(
        config: Arc<Config>,
        (crypto, credentials): (Arc<QuicServerConfig>, Credentials),
        stats: Arc<TransportStats>,
        on_request: Rc<dyn Fn(Incoming)>,
    ) -> Self {
        Self {
            config,
            crypto,
            credentials,
            by_mtu: FxHashMap::default(),
            pending: VecDeque::new(),
            handshakes: Rc::new(()),
            draining: false,
            stats,
            on_request,
            begun: RefCell::default(),
            kept_waiting: Cell::new(false),
        }
    }

    /// Takes none any more. Returns those that were to be taken on.
    pub(crate) fn drain(&mut self) -> VecDeque<quinn_proto::Incoming> {
        self.draining = true;
        std::mem::take(&mut self.pending)
    }

    /// New credentials. Returns the old ones as well.
    pub(crate) fn serve(
        &mut self,
        crypto: Arc<QuicServerConfig>,
        credentials: Credentials,
    ) -> (Arc<ServerConfig>, Credentials) {
        self.crypto = crypto;
        self.by_mtu.clear();
        let old = std::mem::replace(&mut self.credentials, credentials);
        (self.fallback(), old)
    }

    /// The leaf that peers are shown.
    pub(crate) fn leaf(&self) -> Leaf {
        self.credentials.svid().into()
    }

    /// Decides about a peer's first packet, and keeps it if it is to be taken on; else gives it back.
    pub(crate) fn admit(
        &mut self,
        incoming: quinn_proto::Incoming,
    ) -> Option<(Admission, quinn_proto::Incoming)> {
        let under_way = Rc::strong_count(&self.handshakes) - 1 + self.pending.len();
        let admission = admission(
            self.draining,
            under_way,
            self.config.max_handshakes,
            incoming.remote_address_validated(),
        );
        match admission {
            Admission::Queue => {
                self.pending.push_back(incoming);
                None
            }
            Admission::Retry => {
                self.stats.retries_sent.add(1);
                Some((admission, incoming))
            }
            Admission::Refuse | Admission::Ignore => {
                self.stats.handshakes_shed.add(1);
                Some((admission, incoming))
            }
        }
    }

    pub(crate) fn next(&mut self) -> Option<quinn_proto::Incoming> {
        self.pending.pop_front()
    }

    /// Begins the handshake. The error holds the refusal to send, if there is one.
    pub(crate) fn accept(
        &mut self,
        endpoint: &mut Endpoint,
        incoming: quinn_proto::Incoming,
        link_mtu: u16,
        now: Instant,
        answer: &mut Vec<u8>,
    ) -> Result<(ConnectionHandle, quinn_proto::Connection, Handshake), Option<Transmit>> {
        let server = self.server_config(link_mtu);
        match endpoint.accept(incoming, now, answer, Some(server)) {
            Ok((handle, proto)) => Ok((
                handle,
                proto,
                Handshake {
                    _counted: self.handshakes.clone(),
                },
            )),
            Err(error) => {
                self.stats.handshake_failed(HandshakeFailure::Protocol);
                tracing::debug!(error = %error.cause, "refused a first packet");
                Err(error.response)
            }
        }
    }

    /// Another turn of the driver begins. Returns whether requests of the last one had to wait for it.
    pub(crate) fn on_turn(&self) -> bool {
        self.begun.borrow_mut().clear();
        self.kept_waiting.take()
    }

    /// May another request of `caller` begin in this turn?
    pub(crate) fn may_begin(&self, caller: &SpiffeId) -> bool {
        let mut begun = self.begun.borrow_mut();
        let Some(count) = begun.get_mut(caller) else {
            begun.insert(caller.clone(), 1);
            return true;
        };
        *count += 1;
        let may = *count <= REQUESTS_PER_TURN;
        self.kept_waiting.set(self.kept_waiting.get() || !may);
        may
    }

    /// Gives a request to the owner of the listener.
    pub(crate) fn hand_over(
        &self,
        connection: &Rc<Connection>,
        id: StreamId,
        caller: SpiffeId,
        remote: SocketAddr,
    ) {
        let stream = RequestStream::new(connection.clone(), id);
        (self.on_request)(Incoming {
            caller,
            remote,
            stream,
        });
    }

    fn server_config(&mut self, link_mtu: u16) -> Arc<ServerConfig> {
        let link_mtu = link_mtu.min(self.config.max_udp_payload);
        if let Some(config) = self.by_mtu.get(&link_mtu) {
            return config.clone();
        }
        let config = Arc::new(self.make_server_config(link_mtu));
        self.by_mtu.insert(link_mtu, config.clone());
        config
    }

    /// What quinn-proto holds first packets to before we have seen them.
    fn fallback(&self) -> Arc<ServerConfig> {
        Arc::new(self.make_server_config(self.config.max_udp_payload))
    }

    fn make_server_config(&self, link_mtu: u16) -> ServerConfig {
        let mut tokens = ValidationTokenConfig::default();
        // Tokens for later connections would need a memory of those that were used.
        tokens.sent(0);
        let mut config = ServerConfig::with_crypto(self.crypto.clone());
        config
            .transport_config(Arc::new(self.config.transport(Side::Listen, link_mtu)))
            .validation_token_config(tokens)
            .retry_token_lifetime(RETRY_LIFETIME)
            .migration(true)
            .max_incoming(self.config.max_handshakes)
            .incoming_buffer_size(HANDSHAKE_BUFFER)
            .incoming_buffer_size_total(HANDSHAKE_BUFFER * self.config.max_handshakes as u64);
        config
    }
}

/// Above half of the handshakes that we work on at once, peers must prove their address: then spoofed first
/// packets, which cost their sender nothing, cost us no handshake either.
fn admission(draining: bool, under_way: usize, max: usize, validated: bool) -> Admission {
    if draining {
        Admission::Refuse
    } else if under_way >= max {
        Admission::Ignore
    } else if under_way * 2 >= max && !validated {
        Admission::Retry
    } else {
        Admission::Queue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_prove_their_address_only_under_load() {
        assert_eq!(admission(false, 0, 512, false), Admission::Queue);
        assert_eq!(admission(false, 255, 512, false), Admission::Queue);
        assert_eq!(admission(false, 256, 512, false), Admission::Retry);
        assert_eq!(admission(false, 256, 512, true), Admission::Queue);
        assert_eq!(admission(false, 512, 512, true), Admission::Ignore);
        assert_eq!(admission(true, 0, 512, true), Admission::Refuse);
    }
}
