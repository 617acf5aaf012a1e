//! Two endpoints on an in-memory network in virtual time: the real driver, pool and listener, on sockets that
//! lose, delay, reorder, duplicate and corrupt as a seed says.
//!
//! Run it on a paused tokio clock (`#[tokio::test(start_paused = true)]`, or
//! [`run`]): time then moves only when every task waits, so a minute of network passes in milliseconds and two
//! runs with one seed are the same run. Sizes are the same in every run because [`testing::Authority`] issues
//! Ed25519 certificates, whose signatures have one length.

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use quinn_udp::{RecvMeta, Transmit};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, Sleep};
use weft_proto::SpiffeId;

use crate::{
    Config, EndpointState, Incoming, Listener, PeerKey, Pool, TransportStats,
    config::MAX_UDP_SEND,
    credentials::{Credentials, testing},
    socket::DatagramSocket,
};

/// What Linux takes in one send (UDP_MAX_SEGMENTS before 6.9).
const MAX_GSO_SEGMENTS: usize = 64;

/// What a network does to a datagram, in each direction alike.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// One way.
    pub latency: Duration,
    /// Up to this much more, evenly; more than the gap between two datagrams reorders them.
    pub jitter: Duration,
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// Share delivered twice.
    pub duplicate: f64,
    /// Share with one bit changed.
    pub corrupt: f64,
    /// Larger UDP payloads are lost without a word.
    pub mtu: usize,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(100),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            mtu: 1_452,
        }
    }
}

/// The network.
#[derive(Clone)]
pub struct Network {
    shared: Rc<RefCell<Shared>>,
}

struct Shared {
    rng: StdRng,
    link: Link,
    cut: bool,
    inboxes: BTreeMap<SocketAddr, Inbox>,
    sequence: u64,
    counts: Counts,
}

/// What the network has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams delivered.
    pub delivered: u64,
    /// Datagrams lost: by chance, by size, to nobody, or while the network was cut.
    pub lost: u64,
    /// Bytes delivered.
    pub bytes: u64,
    /// The largest datagram delivered.
    pub largest_datagram: usize,
    /// The largest send, several datagrams of it or one.
    pub largest_send: usize,
    /// Sends refused as Linux refuses them: too many bytes or datagrams in one.
    pub refused: u64,
}

#[derive(Default)]
struct Inbox {
    datagrams: BinaryHeap<Reverse<Datagram>>,
    waker: Option<Waker>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Datagram {
    at: Instant,
    sequence: u64,
    from: SocketAddr,
    payload: Vec<u8>,
}

impl Network {
    /// A network whose chances follow `seed`.
    pub fn new(seed: u64, link: Link) -> Self {
        let shared = Shared {
            rng: StdRng::seed_from_u64(seed),
            link,
            cut: false,
            inboxes: BTreeMap::new(),
            sequence: 0,
            counts: Counts::default(),
        };
        Self {
            shared: Rc::new(RefCell::new(shared)),
        }
    }

    /// Changes what happens to datagrams sent from now on.
    pub fn set_link(&self, link: Link) {
        self.shared.borrow_mut().link = link;
    }

    /// Cuts the network, or mends it.
    pub fn set_cut(&self, cut: bool) {
        self.shared.borrow_mut().cut = cut;
    }

    /// What it has done.
    pub fn counts(&self) -> Counts {
        self.shared.borrow().counts
    }

    fn socket(&self, address: SocketAddr) -> Socket {
        self.shared.borrow_mut().inboxes.insert(address, Inbox::default());
        Socket {
            network: self.clone(),
            address,
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }
}

impl Shared {
    fn send(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let lost = self.cut || payload.len() > self.link.mtu || self.rng.random_bool(self.link.loss);
        if lost || !self.inboxes.contains_key(&to) {
            self.counts.lost += 1;
            return;
        }
        let copies = if self.rng.random_bool(self.link.duplicate) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            self.deliver(from, to, payload.to_vec());
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, mut payload: Vec<u8>) {
        if self.rng.random_bool(self.link.corrupt) {
            let bit = self.rng.random_range(0..payload.len() * 8);
            if let Some(byte) = payload.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
        self.counts.delivered += 1;
        self.counts.bytes += payload.len() as u64;
        self.counts.largest_datagram = self.counts.largest_datagram.max(payload.len());
        let delay = self.link.latency + self.link.jitter.mul_f64(self.rng.random_range(0.0..1.0));
        self.sequence += 1;
        let datagram = Datagram {
            at: Instant::now() + delay,
            sequence: self.sequence,
            from,
            payload,
        };
        if let Some(inbox) = self.inboxes.get_mut(&to) {
            inbox.datagrams.push(Reverse(datagram));
            if let Some(waker) = inbox.waker.take() {
                waker.wake();
            }
        }
    }
}

/// A socket on a [`Network`].
struct Socket {
    network: Network,
    address: SocketAddr,
    sleep: Pin<Box<Sleep>>,
}

impl DatagramSocket for Socket {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let shared = &mut *self.network.shared.borrow_mut();
        let Some(inbox) = shared.inboxes.get_mut(&self.address) else {
            return Poll::Pending;
        };
        let now = Instant::now();
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let due = inbox
                .datagrams
                .peek()
                .is_some_and(|Reverse(datagram)| datagram.at <= now);
            let Some(Reverse(datagram)) = due.then(|| inbox.datagrams.pop()).flatten() else {
                break;
            };
            let length = datagram.payload.len().min(buffer.len());
            buffer[..length].copy_from_slice(&datagram.payload[..length]);
            *meta = RecvMeta {
                addr: datagram.from,
                len: length,
                stride: length,
                ..RecvMeta::default()
            };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        inbox.waker = Some(cx.waker().clone());
        if let Some(Reverse(next)) = inbox.datagrams.peek() {
            self.sleep.as_mut().reset(next.at);
            if self.sleep.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    fn try_send(&mut self, transmit: &Transmit<'_>) -> io::Result<()> {
        let shared = &mut *self.network.shared.borrow_mut();
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        if transmit.contents.len() > MAX_UDP_SEND || transmit.contents.len().div_ceil(size) > MAX_GSO_SEGMENTS
        {
            shared.counts.refused += 1;
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        shared.counts.largest_send = shared.counts.largest_send.max(transmit.contents.len());
        for payload in transmit.contents.chunks(size) {
            shared.send(self.address, transmit.destination, payload);
        }
        Ok(())
    }

    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn max_gso_segments(&self) -> usize {
        MAX_GSO_SEGMENTS
    }

    fn may_fragment(&self) -> bool {
        false
    }

    fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn link_mtu(&self, _: SocketAddr) -> u16 {
        u16::MAX
    }
}

/// A dialling and a listening endpoint on one network.
pub struct Pair {
    /// Between them.
    pub network: Network,
    /// The dialling side, workload `default/client`.
    pub pool: Pool,
    /// The listening side, workload `default/server`.
    pub listener: Listener,
    /// Leads from one to the other.
    pub peer: PeerKey,
    /// Of the dialling side.
    pub pool_stats: Arc<TransportStats>,
    /// Of the listening side.
    pub listener_stats: Arc<TransportStats>,
    /// Issued the certificates of both.
    pub authority: testing::Authority,
    seed: u64,
    config: Arc<Config>,
}

/// Joins two endpoints. Call it inside [`run`].
pub fn pair(seed: u64, link: Link, config: Config, on_request: impl Fn(Incoming) + 'static) -> Pair {
    let network = Network::new(seed, link);
    let authority = testing::Authority::new("example.org");
    let server = authority.credentials("default", "server");
    let address = SocketAddr::from(([10, 0, 0, 2], 15_008));
    let config = Arc::new(config);
    let (pool_stats, listener_stats) = (Arc::<TransportStats>::default(), Arc::<TransportStats>::default());
    let listener = listen(
        &network,
        (seed, &listener_state(1)),
        address,
        &config,
        &server,
        &listener_stats,
        on_request,
    );
    let pool = dial(
        &network,
        (seed, 1),
        &config,
        authority.credentials("default", "client"),
        &pool_stats,
    );
    let peer = PeerKey {
        uid: "default/server".into(),
        address,
        identity: server.svid().id().clone(),
    };
    Pair {
        network,
        pool,
        listener,
        peer,
        pool_stats,
        listener_stats,
        authority,
        seed,
        config,
    }
}

impl Pair {
    /// Another dialling side, `index` from 2 to 250, of the same workload.
    pub fn another_pool(&self, index: u8) -> Pool {
        let client = self.authority.credentials("default", "client");
        dial(
            &self.network,
            (self.seed, index),
            &self.config,
            client,
            &self.pool_stats,
        )
    }

    /// Kills the listening side as a crash would, and starts a process at its address that has `state`: of the
    /// same directory (see [`listener_state`]) or of another.
    pub fn restart_listener(&mut self, state: &EndpointState, on_request: impl Fn(Incoming) + 'static) {
        self.seed = self.seed.wrapping_add(1);
        self.listener = listen(
            &self.network,
            (self.seed, state),
            self.peer.address,
            &self.config,
            &self.authority.credentials("default", "server"),
            &self.listener_stats,
            on_request,
        );
    }
}

/// What the listening side's state directory gives to its process number `epoch`; the first is 1.
pub fn listener_state(epoch: u16) -> EndpointState {
    EndpointState::from_secrets(&[2; 64], epoch)
}

fn listen(
    network: &Network,
    (seed, state): (u64, &EndpointState),
    address: SocketAddr,
    config: &Arc<Config>,
    credentials: &Credentials,
    stats: &Arc<TransportStats>,
    on_request: impl Fn(Incoming) + 'static,
) -> Listener {
    let endpoint = config.endpoint(state, 0, Some(seed_bytes(seed, 2)));
    let socket = Box::new(network.socket(address));
    #[expect(clippy::expect_used, reason = "a test's own credentials")]
    Listener::start(
        socket,
        endpoint,
        config.clone(),
        credentials,
        stats.clone(),
        on_request,
    )
    .expect("the test authority's credentials serve")
}

fn dial(
    network: &Network,
    (seed, index): (u64, u8),
    config: &Arc<Config>,
    credentials: Credentials,
    stats: &Arc<TransportStats>,
) -> Pool {
    let seed = seed.wrapping_add(u64::from(index) << 32);
    let endpoint = config.endpoint(
        &EndpointState::from_secrets(&[1; 64], 1),
        0,
        Some(seed_bytes(seed, 1)),
    );
    let socket = Box::new(network.socket(SocketAddr::from(([10, 0, 1, index], 40_000))));
    let link_mtu = Box::new(|_| u16::MAX);
    let seed = seed_bytes(seed, 3);
    Pool::start(
        socket,
        endpoint,
        config.clone(),
        Arc::new(credentials),
        stats.clone(),
        seed,
        link_mtu,
    )
}

fn seed_bytes(seed: u64, purpose: u8) -> [u8; 32] {
    let mut bytes = [purpose; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// The longest run: with keep-alives, a run that waits for what never comes would go on for ever.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Runs `future` on a worker's runtime whose clock is virtual.
///
/// # Panics
/// It takes more than an hour of virtual time.
pub fn run<F: Future>(future: F) -> F::Output {
    #[expect(clippy::expect_used, reason = "for tests and benches")]
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    #[expect(clippy::expect_used, reason = "for tests and benches")]
    tokio::task::LocalSet::new()
        .block_on(&runtime, async { tokio::time::timeout(LONGEST, future).await })
        .expect("done within an hour of virtual time")
}

/// The identity of the dialling side of a [`Pair`].
#[expect(clippy::expect_used, reason = "for tests and benches")]
pub fn client_identity() -> SpiffeId {
    "spiffe://example.org/ns/default/sa/client"
        .parse()
        .expect("a SPIFFE ID")
}
