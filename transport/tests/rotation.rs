//! Leaves that are renewed, roots that are replaced, and certificates that nobody renews: what becomes of the
//! connections and of the requests on them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::{
    cell::Cell,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::{
    MILLISECOND, SECOND, echo, get,
    load::{Seen, Sent, load, noting},
    pass, start_get,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{task::JoinHandle, time::Instant};
use weft_transport::{
    Config, DialFailure, Error, ErrorKind, HandshakeFailure, Lost, Pool, Processed, TransportStats,
    credentials::{Credentials, Svid, TrustBundle, testing::Authority},
    sim::{self, Link, Pair},
};

const DAY: Duration = Duration::from_secs(86_400);

/// Issued now, as the controller does: backdated by a tenth of the lifetime, a minute at the most.
fn issue(authority: &Authority, name: &str, lifetime: Duration) -> Svid {
    let now = sim::wall_clock();
    let not_before = now - (lifetime / 10).min(60 * SECOND);
    authority.svid_between("default", name, (not_before, now + lifetime))
}

fn bundle(authorities: &[&Authority]) -> TrustBundle {
    let pem: String = authorities
        .iter()
        .map(|authority| authority.bundle_pem())
        .collect();
    TrustBundle::from_pem(&"example.org".parse().unwrap(), pem.as_bytes()).unwrap()
}

/// Gives each side a leaf with a lifetime of its own.
fn renew(pair: &Pair, client: Option<Duration>, server: Option<Duration>) {
    let authority = &pair.authority;
    if let Some(lifetime) = client {
        let svid = issue(authority, "client", lifetime);
        let credentials = Credentials::new(svid, authority.bundle()).unwrap();
        pair.pool.set_credentials(Arc::new(credentials));
    }
    if let Some(lifetime) = server {
        let svid = issue(authority, "server", lifetime);
        let credentials = Credentials::new(svid, authority.bundle()).unwrap();
        pair.listener.set_credentials(&credentials).unwrap();
    }
}

fn echoing(seed: u64) -> Pair {
    sim::pair(seed, Link::default(), Config::default(), |incoming| {
        tokio::task::spawn_local(echo(incoming));
    })
}

/// A pair whose listener answers all but `/wait`.
fn answering(seed: u64) -> Pair {
    sim::pair(seed, Link::default(), Config::default(), |incoming| {
        tokio::task::spawn_local(async move {
            let mut stream = incoming.stream;
            let Ok(head) = stream.request_head().await else {
                return;
            };
            stream.mark_processed();
            if head.path.unwrap() == "/wait" {
                std::future::pending::<()>().await;
            }
            let _ = common::respond(stream, b"done").await;
        });
    })
}

/// Waits for the tasks of a load; how many requests they sent, and how many of them they had to send again.
async fn sum(tasks: Vec<JoinHandle<Sent>>) -> (u64, u64) {
    let (mut sent, mut repeated) = (0, 0);
    for task in tasks {
        let (of_task, of_those) = task
            .await
            .unwrap()
            .unwrap_or_else(|(id, error)| panic!("request {id} is lost: {error}"));
        sent += of_task;
        repeated += of_those;
    }
    (sent, repeated)
}

/// Each request was processed once.
fn assert_once(seen: &Seen, sent: u64) {
    let seen = seen.borrow();
    assert_eq!(seen.len() as u64, sent);
    assert!(seen.values().all(|count| *count == 1));
}

fn assert_nothing_cut(pair: &Pair) {
    for stats in [&pair.pool_stats, &pair.listener_stats] {
        assert_eq!(stats.expired_streams.get(), 0);
        assert_eq!(stats.untrusted_streams.get(), 0);
    }
}

fn failures(stats: &TransportStats, kind: HandshakeFailure) -> u64 {
    stats.handshake_failures[kind as usize].get()
}

#[test]
fn renewals_of_both_sides_under_load_lose_no_request() {
    // What the controller issues at the shortest, and for a longer time.
    for (seed, lifetime, link) in [
        (1, 10 * SECOND, Link::default()),
        (2, 10 * SECOND, lossy()),
        (3, 10 * SECOND, lossy()),
        (4, 30 * SECOND, lossy()),
        (5, 300 * SECOND, Link::default()),
    ] {
        sim::run(async move {
            let seen = Seen::default();
            let pair = sim::pair(seed, link, Config::default(), noting(&seen));
            renew(&pair, Some(lifetime), Some(lifetime));
            let stop = Rc::new(Cell::new(false));
            let tasks = load(&pair, 8, lifetime / 500, &stop);
            let started = Instant::now();
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut client_at, mut server_at) = (started, started);
            let mut half = || lifetime.mul_f64(rng.random_range(0.45..0.55));
            (client_at, server_at) = (client_at + half(), server_at + half());
            let mut renewals = 0u32;
            while started.elapsed() < lifetime * 8 {
                let next = client_at.min(server_at);
                tokio::time::sleep_until(next).await;
                let (client, server) = (client_at == next, server_at == next);
                renew(&pair, client.then_some(lifetime), server.then_some(lifetime));
                if client {
                    client_at = next + half();
                } else {
                    server_at = next + half();
                }
                renewals += 1;
            }
            stop.set(true);
            let (sent, repeated) = sum(tasks).await;
            assert_once(&seen, sent);
            assert_nothing_cut(&pair);
            assert!(renewals >= 28, "{renewals}");
            if link.loss == 0.0 {
                assert_eq!(repeated, 0, "a rotation made requests be sent again");
            }
            // Each renewal led to a new connection, and little else did.
            let handshakes = pair.pool_stats.handshakes.get();
            assert!(
                (20..=2 * u64::from(renewals)).contains(&handshakes),
                "{handshakes} for {renewals} renewals"
            );
            pass(2 * SECOND).await;
            let connections = pair.pool.connections().len();
            assert!(connections <= 2, "{connections}");
        });
    }
}

fn lossy() -> Link {
    Link {
        latency: Duration::from_micros(300),
        jitter: MILLISECOND,
        loss: 0.05,
        duplicate: 0.02,
        ..Link::default()
    }
}

#[test]
fn a_connection_in_use_is_replaced_at_half_of_what_its_peer_has_left_without_a_request() {
    sim::run(async {
        let pair = echoing(10);
        renew(&pair, None, Some(400 * SECOND));
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        // It ends a tenth of 440 s before the leaf.
        let left = 400 * SECOND - 44 * SECOND;
        let first = pair.pool.connections()[0].1.age;
        pass(left.mul_f64(0.39) - first).await;
        assert_eq!(pair.pool_stats.handshakes.get(), 1);
        pass(left.mul_f64(0.12)).await;
        assert_eq!(pair.pool_stats.handshakes.get(), 2);
        assert_eq!(pair.listener.connections().await.len(), 1, "the old one has gone");
        // The new one was never used: nobody dials for it, and it ends in silence.
        pass(100 * SECOND).await;
        assert_eq!(pair.pool_stats.handshakes.get(), 2);
        assert_eq!(pair.pool.connections().len(), 1);
        pass(100 * SECOND).await;
        assert_eq!(pair.pool_stats.handshakes.get(), 2);
        assert_eq!(pair.pool.connections().len(), 0);
        assert_nothing_cut(&pair);
    });
}

#[test]
fn a_replacement_that_fails_leaves_the_old_connection_in_use_and_is_tried_again() {
    sim::run(async {
        let pair = echoing(11);
        renew(&pair, Some(DAY), Some(DAY));
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        // The listener refuses the new leaf.
        let stranger = Authority::with_root("example.org", "another root");
        let refused =
            Credentials::unchecked(issue(&stranger, "client", 600 * SECOND), pair.authority.bundle());
        pair.pool.set_credentials(Arc::new(refused));
        for _ in 0..600 {
            let started = Instant::now();
            get(&pair.pool, &pair.peer, "/").await.unwrap();
            assert!(started.elapsed() < 5 * MILLISECOND, "{:?}", started.elapsed());
            pass(SECOND).await;
        }
        assert_eq!(pair.pool_stats.handshakes.get(), 1);
        let tried = failures(&pair.pool_stats, HandshakeFailure::Alert);
        assert!((2..=5).contains(&tried), "{tried}");
        renew(&pair, Some(DAY), None);
        for _ in 0..320 {
            get(&pair.pool, &pair.peer, "/").await.unwrap();
            pass(SECOND).await;
        }
        assert_eq!(pair.pool_stats.handshakes.get(), 2);
        assert_eq!(pair.pool.connections().len(), 1);
        assert_nothing_cut(&pair);
    });
}

/// Asks every few milliseconds; when the first request failed, and how.
async fn until_failure(pair: &Pair) -> (SystemTime, Error) {
    loop {
        if let Err(error) = get(&pair.pool, &pair.peer, "/").await {
            return (sim::wall_clock(), error);
        }
        pass(3 * MILLISECOND).await;
    }
}

#[test]
fn leaves_that_nobody_renews_serve_to_their_end_and_no_longer() {
    for (client, server) in [(10, 86_400), (86_400, 10), (10, 10)] {
        sim::run(async move {
            let pair = echoing(12);
            let end = sim::wall_clock() + 10 * SECOND;
            renew(&pair, Some(client * SECOND), Some(server * SECOND));
            let (at, error) = until_failure(&pair).await;
            let off = at.duration_since(end).unwrap_or_else(|early| early.duration());
            assert!(off <= SECOND, "{client} {server}: {off:?}");
            // The one that was under way in the last millisecond may have been processed.
            let cut = pair.pool_stats.expired_streams.get();
            assert!(error.processed() == Processed::No || cut == 1, "{error}");
            pass(5 * SECOND).await;
            assert_eq!(pair.listener.connections().await.len(), 0);
            let error = get(&pair.pool, &pair.peer, "/").await.unwrap_err();
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::Dial(DialFailure::OwnExpired | DialFailure::PeerRefused(_))
                        | ErrorKind::Backoff { .. }
                ),
                "{error}"
            );
        });
    }
}

#[test]
fn a_stream_that_crosses_the_end_is_cut_with_its_reason_and_nothing_younger_is() {
    for seed in 0..8 {
        sim::run(async move {
            let lifetime = 10 * SECOND;
            let pair = answering(100 + seed);
            renew(&pair, Some(lifetime), Some(lifetime));
            let started = Instant::now();
            let mut stream = start_get(&pair.pool, &pair.peer, "/wait").await.unwrap();
            let long = tokio::task::spawn_local(async move {
                let error = stream.recv.response_head().await.unwrap_err();
                (error, started.elapsed())
            });
            let renewals = async {
                for _ in 0..4 {
                    pass(lifetime / 2).await;
                    renew(&pair, Some(lifetime), Some(lifetime));
                }
            };
            let requests = async {
                for _ in 0..2_000 {
                    get(&pair.pool, &pair.peer, "/").await.unwrap();
                    pass(9 * MILLISECOND).await;
                }
            };
            tokio::join!(renewals, requests);
            let (error, age) = long.await.unwrap();
            assert!(
                matches!(error.kind(), ErrorKind::Lost(Lost::CertificateExpired)),
                "{error:?}"
            );
            assert_eq!(
                (error.reason(), error.processed()),
                ("certificate_expiry", Processed::Maybe)
            );
            assert!((8_800..=9_000).contains(&age.as_millis()), "{age:?}");
            assert_eq!(pair.pool_stats.expired_streams.get(), 1);
            assert_eq!(pair.listener_stats.expired_streams.get(), 1);
        });
    }
}

#[test]
fn peers_do_not_dial_all_at_once_when_a_listener_renews() {
    sim::run(async {
        const PEERS: u8 = 100;
        let pair = echoing(13);
        renew(&pair, None, Some(DAY));
        let pools: Vec<Pool> = (2..2 + PEERS).map(|index| pair.another_pool(index)).collect();
        for pool in &pools {
            get(pool, &pair.peer, "/").await.unwrap();
        }
        let before = pair.listener_stats.handshakes.get();
        pass(60 * SECOND).await;
        renew(&pair, None, Some(DAY));
        let mut counts = Vec::new();
        for _ in 0..35 {
            let count = pair.listener_stats.handshakes.get();
            pass(SECOND).await;
            counts.push(pair.listener_stats.handshakes.get() - count);
        }
        assert!(counts.iter().all(|count| *count <= 12), "{counts:?}");
        let after = pair.listener_stats.handshakes.get();
        assert_eq!(after - before, u64::from(PEERS));
    });
}

#[test]
fn a_dialler_that_renews_does_not_dial_all_its_peers_at_once() {
    sim::run(async {
        let pair = echoing(14);
        renew(&pair, Some(DAY), None);
        let peers: Vec<_> = (0..100)
            .map(|index| weft_transport::PeerKey {
                uid: format!("default/{index}").into(),
                ..pair.peer.clone()
            })
            .collect();
        for peer in &peers {
            get(&pair.pool, peer, "/").await.unwrap();
        }
        pass(60 * SECOND).await;
        renew(&pair, Some(DAY), None);
        let mut counts = Vec::new();
        for _ in 0..35 {
            let count = pair.pool_stats.handshakes.get();
            pass(SECOND).await;
            counts.push(pair.pool_stats.handshakes.get() - count);
        }
        assert!(counts.iter().all(|count| *count <= 12), "{counts:?}");
        assert_eq!(pair.pool_stats.handshakes.get(), 200);
        assert_eq!(pair.pool.connections().len(), 100);
    });
}

#[test]
fn a_leaf_that_is_renewed_during_a_handshake_counts_for_it() {
    for at_listener in [false, true] {
        sim::run(async move {
            let link = Link {
                latency: 100 * MILLISECOND,
                ..Link::default()
            };
            let pair = sim::pair(15, link, Config::default(), |incoming| {
                tokio::task::spawn_local(echo(incoming));
            });
            let renewal = async {
                pass(150 * MILLISECOND).await;
                let (client, server) = (!at_listener, at_listener);
                renew(&pair, client.then_some(DAY), server.then_some(DAY));
            };
            let (answer, ()) = tokio::join!(get(&pair.pool, &pair.peer, "/"), renewal);
            answer.unwrap();
            assert_eq!(pair.pool_stats.handshakes.get(), 1);
            pass(31 * SECOND).await;
            assert_eq!(pair.pool_stats.handshakes.get(), 2, "{at_listener}");
        });
    }
}

/// Both sides' credentials in a rotation of the root: leaves of one authority, roots of several.
fn set_both(pair: &Pair, leaves: &Authority, roots: &[&Authority]) {
    let credentials = |name| Credentials::new(leaves.svid("default", name), bundle(roots)).unwrap();
    pair.pool.set_credentials(Arc::new(credentials("client")));
    pair.listener.set_credentials(&credentials("server")).unwrap();
}

#[test]
fn a_root_is_replaced_under_load_and_no_request_is_lost() {
    sim::run(async {
        let seen = Seen::default();
        let pair = sim::pair(20, lossy(), Config::default(), noting(&seen));
        let old = Authority::with_root("example.org", "old root");
        let new = Authority::with_root("example.org", "new root");
        set_both(&pair, &old, &[&old]);
        let stop = Rc::new(Cell::new(false));
        let tasks = load(&pair, 8, 20 * MILLISECOND, &stop);
        pass(SECOND).await;
        let handshakes = || pair.pool_stats.handshakes.get();
        assert_eq!(handshakes(), 1);
        // Distribute: nobody needs another connection for that.
        set_both(&pair, &old, &[&old, &new]);
        pass(40 * SECOND).await;
        assert_eq!(handshakes(), 1);
        // Sign with it.
        set_both(&pair, &new, &[&old, &new]);
        pass(40 * SECOND).await;
        assert!((2..=3).contains(&handshakes()), "{}", handshakes());
        let replaced = handshakes();
        // Retire the old one: nothing depends on it any more.
        set_both(&pair, &new, &[&new]);
        pass(40 * SECOND).await;
        assert_eq!(handshakes(), replaced);
        stop.set(true);
        let (sent, _) = sum(tasks).await;
        assert_once(&seen, sent);
        assert_nothing_cut(&pair);

        // And a leaf of the old root is refused.
        let late = pair.another_pool(2);
        let refused = Credentials::unchecked(old.svid("default", "client"), bundle(&[&old, &new]));
        late.set_credentials(Arc::new(refused));
        let error = late.stream(&pair.peer).await.err().unwrap();
        assert!(
            matches!(error.kind(), ErrorKind::Dial(DialFailure::Alert(_))),
            "{error:?}"
        );
    });
}

#[test]
fn a_retired_root_ends_the_connections_that_stand_on_it_after_they_were_replaced() {
    sim::run(async {
        // Everyone has new leaves, but this connection was made before: only its chains are of the old root.
        let seen = Seen::default();
        let pair = sim::pair(21, lossy(), Config::default(), noting(&seen));
        let old = Authority::with_root("example.org", "old root");
        let new = Authority::with_root("example.org", "new root");
        set_both(&pair, &old, &[&old, &new]);
        let stop = Rc::new(Cell::new(false));
        let tasks = load(&pair, 8, 5 * MILLISECOND, &stop);
        pass(SECOND).await;
        assert_eq!(pair.pool_stats.handshakes.get(), 1);
        set_both(&pair, &new, &[&new]);
        pass(100 * MILLISECOND).await;
        assert_eq!(pair.pool_stats.handshakes.get(), 2);
        pass(2 * SECOND).await;
        assert_eq!(pair.pool.connections().len(), 1);
        assert_eq!(pair.listener.connections().await.len(), 1);
        stop.set(true);
        let (sent, _) = sum(tasks).await;
        assert_once(&seen, sent);
        assert_nothing_cut(&pair);
    });
}

/// One side retires the root of the other's leaf, which the other still has. `long`: a request that does not end.
async fn retire_root_of_peer(pair: &Pair, at_listener: bool) -> (Error, Duration) {
    let old = Authority::with_root("example.org", "old root");
    let new = Authority::with_root("example.org", "new root");
    set_both(pair, &old, &[&old, &new]);
    get(&pair.pool, &pair.peer, "/").await.unwrap();
    let mut long = start_get(&pair.pool, &pair.peer, "/wait").await.unwrap();
    pass(SECOND).await;
    let credentials = |name| Credentials::new(new.svid("default", name), bundle(&[&new])).unwrap();
    if at_listener {
        pair.listener.set_credentials(&credentials("server")).unwrap();
    } else {
        pair.pool.set_credentials(Arc::new(credentials("client")));
    }
    let started = Instant::now();
    pass(50 * MILLISECOND).await;
    // No new request goes there, and there is nowhere else to go.
    let error = get(&pair.pool, &pair.peer, "/").await.unwrap_err();
    assert_eq!(error.processed(), Processed::No, "{error}");
    let error = long.recv.response_head().await.unwrap_err();
    let cut = started.elapsed();
    pass(SECOND).await;
    assert_eq!(pair.listener.connections().await.len(), 0);
    (error, cut)
}

#[test]
fn a_listener_ends_the_connections_of_a_retired_root_although_the_peer_knows_no_better() {
    sim::run(async {
        let pair = answering(22);
        let (error, cut) = retire_root_of_peer(&pair, true).await;
        assert!(
            matches!(error.kind(), ErrorKind::Lost(Lost::PeerClosed(_))),
            "{error:?}"
        );
        assert!((4_900..=5_100).contains(&cut.as_millis()), "{cut:?}");
        assert_eq!(pair.listener_stats.untrusted_streams.get(), 1);
        assert_eq!(pair.listener_stats.expired_streams.get(), 0);
        assert!(failures(&pair.listener_stats, HandshakeFailure::PeerCertificate) > 0);
    });
}

#[test]
fn every_connection_that_stands_on_a_retired_root_ends_and_no_other() {
    sim::run(async {
        let pair = echoing(25);
        let old = Authority::with_root("example.org", "old root");
        let new = Authority::with_root("example.org", "new root");
        set_both(&pair, &new, &[&old, &new]);
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        let others: Vec<Pool> = (2..52).map(|index| pair.another_pool(index)).collect();
        for pool in &others {
            let credentials = Credentials::new(old.svid("default", "client"), bundle(&[&old, &new]));
            pool.set_credentials(Arc::new(credentials.unwrap()));
            get(pool, &pair.peer, "/").await.unwrap();
        }
        assert_eq!(pair.listener.connections().await.len(), 51);
        let retired = Credentials::new(new.svid("default", "server"), bundle(&[&new])).unwrap();
        pair.listener.set_credentials(&retired).unwrap();
        pass(SECOND).await;
        assert_eq!(pair.listener.connections().await.len(), 1);
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        assert_eq!(pair.pool_stats.untrusted_streams.get(), 0);
    });
}

#[test]
fn a_dialler_ends_the_connections_to_a_retired_root_although_the_peer_knows_no_better() {
    sim::run(async {
        let pair = answering(23);
        let (error, cut) = retire_root_of_peer(&pair, false).await;
        assert!(
            matches!(error.kind(), ErrorKind::Lost(Lost::CertificateUntrusted)),
            "{error:?}"
        );
        assert_eq!(error.reason(), "certificate_untrusted");
        assert!((4_900..=5_100).contains(&cut.as_millis()), "{cut:?}");
        assert_eq!(pair.pool_stats.untrusted_streams.get(), 1);
        assert!(failures(&pair.pool_stats, HandshakeFailure::PeerCertificate) > 0);
    });
}

#[test]
fn a_root_that_is_retired_during_a_handshake_counts_for_it() {
    let link = Link {
        latency: 100 * MILLISECOND,
        ..Link::default()
    };
    let old = Authority::with_root("example.org", "old root");
    let new = Authority::with_root("example.org", "new root");
    let retired = |name| Credentials::new(new.svid("default", name), bundle(&[&new])).unwrap();
    // The first flight of each side is on its way.
    for (at_listener, after) in [(false, 50), (false, 150), (false, 250), (true, 150)] {
        let (old, retired) = (&old, &retired);
        sim::run(async move {
            let pair = sim::pair(24, link, Config::default(), |incoming| {
                tokio::task::spawn_local(echo(incoming));
            });
            let new = Authority::with_root("example.org", "new root");
            set_both(&pair, old, &[old, &new]);
            let (pool, peer) = (pair.pool.clone(), pair.peer.clone());
            let request = tokio::task::spawn_local(async move { get(&pool, &peer, "/").await });
            pass(after * MILLISECOND).await;
            if at_listener {
                pair.listener.set_credentials(&retired("server")).unwrap();
            } else {
                pair.pool.set_credentials(Arc::new(retired("client")));
            }
            let error = request.await.unwrap().unwrap_err();
            assert_eq!(error.processed(), Processed::No, "{at_listener} {after}: {error}");
        });
    }
}
