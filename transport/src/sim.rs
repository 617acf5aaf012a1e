//! Two endpoints on an in-memory network in virtual time: the real driver, pool and listener, on sockets that
//! lose, delay, reorder, duplicate and corrupt as a seed says.
//!
//! Run it on a paused tokio clock (`#[tokio::test(start_paused = true)]`, or
//! [`run`], which moves the wall clock along with it): time then moves only when every task waits, so a minute of
//! network passes in milliseconds and two runs with one seed are the same run. Sizes are the same in every run because [`testing::Authority`] issues
//! Ed25519 certificates, whose signatures have one length.

mod nat;
mod network;

use std::{
    cell::Cell,
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use weft_proto::SpiffeId;

pub use self::network::{Counts, Cut, Link, Network};
use crate::{
    Config, EndpointState, Incoming, Listener, PeerKey, Pool, TransportStats,
    credentials::{Credentials, testing},
};

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

/// A second listening side on the network of a pair, of the same workload at another address.
pub struct Another {
    /// It, until it is dropped.
    pub listener: Listener,
    /// Leads to it.
    pub peer: PeerKey,
}

/// See [`Another`].
pub fn another_listener(
    pair: &Pair,
    ip: std::net::IpAddr,
    on_request: impl Fn(Incoming) + 'static,
) -> Another {
    let address = SocketAddr::new(ip, pair.peer.address.port());
    let server = pair.authority.credentials("default", "server");
    let listener = listen(
        &pair.network,
        (pair.seed.wrapping_add(99), &listener_state(1)),
        address,
        &pair.config,
        &server,
        &pair.listener_stats,
        on_request,
    );
    let peer = PeerKey {
        address,
        ..pair.peer.clone()
    };
    Another { listener, peer }
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
        seed_bytes(seed, 4),
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
    let (network, next_port) = (network.clone(), Cell::new(40_000));
    let bind = move || {
        let port = next_port.replace(next_port.get() + 1);
        Box::new(network.socket(SocketAddr::from(([10, 0, 1, index], port)))) as _
    };
    let socket = bind();
    let seed = seed_bytes(seed, 3);
    Pool::start(
        socket,
        Box::new(move || Ok(bind())),
        endpoint,
        config.clone(),
        Arc::new(credentials),
        stats.clone(),
        seed,
    )
}

fn seed_bytes(seed: u64, purpose: u8) -> [u8; 32] {
    let mut bytes = [purpose; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// The longest run: with keep-alives, a run that waits for what never comes would go on for ever.
const LONGEST: Duration = Duration::from_secs(3_600);
/// What the wall clock says when a run begins, since 1970: within the lifetime of the authority's certificates.
const BEGINNING: Duration = Duration::from_secs(1_750_000_000);

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
        .block_on(&runtime, async {
            let begun = tokio::time::Instant::now();
            let _clock = testing::Clock::set(move || SystemTime::UNIX_EPOCH + BEGINNING + begun.elapsed());
            tokio::time::timeout(LONGEST, future).await
        })
        .expect("done within an hour of virtual time")
}

/// What the wall clock says in a run.
pub fn wall_clock() -> SystemTime {
    weft_tls::clock::now()
}

/// The identity of the dialling side of a [`Pair`].
#[expect(clippy::expect_used, reason = "for tests and benches")]
pub fn client_identity() -> SpiffeId {
    "spiffe://example.org/ns/default/sa/client"
        .parse()
        .expect("a SPIFFE ID")
}
