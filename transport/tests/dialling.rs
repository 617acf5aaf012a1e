//! Dials: how many, when again, and what a listener does with more of them than it can take.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use common::{MILLISECOND, SECOND, echo, get, pass};
use tokio::time::Instant;
use weft_transport::{
    Config, DialFailure, Error, ErrorKind, HandshakeFailure, PeerKey, Pool, Processed, TransportStats,
    credentials::testing::Authority,
    sim::{self, Link, Pair},
};

fn echoing(seed: u64, config: Config) -> Pair {
    sim::pair(seed, Link::default(), config, |incoming| {
        tokio::task::spawn_local(echo(incoming));
    })
}

/// Asks until a dial was made and failed; how long the pause before it was.
async fn next_failure(pool: &Pool, peer: &PeerKey) -> (Duration, DialFailure) {
    let started = Instant::now();
    loop {
        let asked = Instant::now();
        let error = pool.stream(peer).await.err().unwrap();
        assert_eq!(error.processed(), Processed::No);
        match *error.kind() {
            ErrorKind::Dial(failure) => return (asked - started, failure),
            ErrorKind::Backoff { remaining, .. } => {
                assert!(
                    asked.elapsed().is_zero(),
                    "a request waits out the pause of a peer that is down"
                );
                pass(remaining).await;
            }
            _ => panic!("{error:?}"),
        }
    }
}

#[test]
fn pauses_between_dials_grow_to_seconds_and_are_never_the_same() {
    let pauses = |seed| {
        sim::run(async move {
            let pair = echoing(seed, Config::default());
            pair.network.set_cut(true);
            let mut pauses = Vec::new();
            for dial in 0..12 {
                let (pause, failure) = next_failure(&pair.pool, &pair.peer).await;
                assert_eq!(failure, DialFailure::Timeout);
                if dial > 0 {
                    pauses.push(pause);
                }
            }
            pauses
        })
    };
    let (one, other) = (pauses(1), pauses(2));
    for pauses in [&one, &other] {
        assert!(pauses[0] <= 51 * MILLISECOND, "{:?}", pauses[0]);
        assert!(pauses[4] >= 400 * MILLISECOND, "{:?}", pauses[4]);
        assert!(
            pauses[8..]
                .iter()
                .all(|pause| (2_500..=5_001).contains(&pause.as_millis())),
            "{pauses:?}"
        );
    }
    assert_ne!(one, other);
}

#[test]
fn a_peer_that_came_back_is_found_at_the_next_dial_and_its_pauses_begin_anew() {
    sim::run(async {
        let pair = echoing(3, Config::default());
        pair.network.set_cut(true);
        for _ in 0..8 {
            next_failure(&pair.pool, &pair.peer).await;
        }
        pair.network.set_cut(false);
        let started = Instant::now();
        while let Err(error) = get(&pair.pool, &pair.peer, "/").await {
            let ErrorKind::Backoff { remaining, .. } = *error.kind() else {
                panic!("{error:?}")
            };
            pass(remaining).await;
        }
        assert!(
            started.elapsed() <= 5 * SECOND + 10 * MILLISECOND,
            "{:?}",
            started.elapsed()
        );
        // It dies again: the first pause is a short one.
        pair.network.set_cut(true);
        pass(20 * SECOND).await;
        next_failure(&pair.pool, &pair.peer).await;
        let (pause, _) = next_failure(&pair.pool, &pair.peer).await;
        assert!(pause <= 51 * MILLISECOND, "{pause:?}");
    });
}

#[test]
fn one_peer_that_is_down_holds_up_no_other() {
    sim::run(async {
        let pair = echoing(4, Config::default());
        let nowhere = PeerKey {
            uid: "default/gone".into(),
            address: "10.0.0.99:15008".parse().unwrap(),
            ..pair.peer.clone()
        };
        let (pool, gone) = (pair.pool.clone(), nowhere.clone());
        let waiting = tokio::task::spawn_local(async move { pool.stream(&gone).await.err().unwrap() });
        for _ in 0..100 {
            let started = Instant::now();
            get(&pair.pool, &pair.peer, "/").await.unwrap();
            assert!(started.elapsed() < 10 * MILLISECOND);
        }
        let error = waiting.await.unwrap();
        assert!(
            matches!(error.kind(), ErrorKind::Dial(DialFailure::Timeout)),
            "{error:?}"
        );
    });
}

#[test]
fn a_waiter_that_gives_up_does_not_end_the_dial_for_the_others() {
    sim::run(async {
        let link = Link {
            latency: 100 * MILLISECOND,
            ..Link::default()
        };
        let pair = sim::pair(5, link, Config::default(), |incoming| {
            tokio::task::spawn_local(echo(incoming));
        });
        let first = tokio::time::timeout(50 * MILLISECOND, pair.pool.stream(&pair.peer));
        let (first, second) = tokio::join!(first, async {
            pass(10 * MILLISECOND).await;
            get(&pair.pool, &pair.peer, "/").await
        });
        assert!(first.is_err(), "it gave up");
        second.unwrap();
        assert_eq!(pair.listener_stats.handshakes.get(), 1);
        // And one that nobody waits for is there for the next request.
        let other = pair.another_pool(2);
        let nobody = tokio::time::timeout(50 * MILLISECOND, other.stream(&pair.peer)).await;
        assert!(nobody.is_err());
        pass(SECOND).await;
        assert_eq!(pair.listener_stats.handshakes.get(), 2);
        let started = Instant::now();
        get(&other, &pair.peer, "/").await.unwrap();
        assert!(
            started.elapsed() < 250 * MILLISECOND,
            "one round trip: {:?}",
            started.elapsed()
        );
    });
}

#[test]
fn each_identity_and_each_workload_has_its_own_connection() {
    sim::run(async {
        let pair = echoing(6, Config::default());
        let twin = PeerKey {
            uid: "default/twin".into(),
            ..pair.peer.clone()
        };
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        get(&pair.pool, &twin, "/").await.unwrap();
        assert_eq!(pair.pool.connections().len(), 2);
    });
}

/// Dials `count` peers at once, all of them the listener of `pair`.
async fn storm(pair: &Pair, count: usize) -> Vec<Result<(), Error>> {
    let dials: Vec<_> = (0..count)
        .map(|index| {
            let peer = PeerKey {
                uid: format!("default/{index}").into(),
                ..pair.peer.clone()
            };
            let pool = pair.pool.clone();
            tokio::task::spawn_local(async move { get(&pool, &peer, "/").await.map(|_| ()) })
        })
        .collect();
    let mut results = Vec::new();
    for dial in dials {
        results.push(dial.await.unwrap());
    }
    results
}

#[test]
fn under_load_diallers_prove_their_address_and_get_through() {
    sim::run(async {
        let config = Config {
            max_handshakes: 40,
            ..Config::default()
        };
        let pair = echoing(7, config);
        // Few at a time: no Retry.
        for result in storm(&pair, 10).await {
            result.unwrap();
        }
        assert_eq!(pair.listener_stats.retries_sent.get(), 0);
        let pair = echoing(
            8,
            Config {
                max_handshakes: 40,
                ..Config::default()
            },
        );
        for result in storm(&pair, 200).await {
            result.unwrap();
        }
        let stats = &pair.listener_stats;
        assert!(stats.retries_sent.get() > 0);
        assert_eq!(stats.handshakes.get(), 200);
    });
}

#[test]
fn more_handshakes_than_the_cap_are_shed_and_the_rest_get_through() {
    sim::run(async {
        let config = Config {
            max_handshakes: 8,
            dial_timeout: SECOND,
            ..Config::default()
        };
        let pair = echoing(9, config);
        let results = storm(&pair, 400).await;
        let served = results.iter().filter(|result| result.is_ok()).count();
        let shed = pair.listener_stats.handshakes_shed.get();
        assert!(shed > 0, "nothing was shed");
        assert!(served >= 16, "{served}");
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            assert_eq!(error.processed(), Processed::No, "{error}");
        }
        // And the listener is as good as before.
        let calm = pair.another_pool(2);
        get(&calm, &pair.peer, "/").await.unwrap();
    });
}

#[test]
fn handshakes_that_never_end_are_forgotten() {
    sim::run(async {
        let config = Config {
            max_handshakes: 16,
            ..Config::default()
        };
        let pair = echoing(10, config);
        // First packets arrive, and then nothing more does.
        let peers = storm(&pair, 32);
        let silence = async {
            pass(Duration::from_micros(50)).await;
            pair.network.set_cut(true);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            results = peers => assert!(results.iter().all(Result::is_err)),
            () = silence => unreachable!(),
        }
        assert!(!pair.listener.connections().await.is_empty());
        pass(60 * SECOND).await;
        assert_eq!(pair.listener.connections().await.len(), 0);
        pair.network.set_cut(false);
        let calm = pair.another_pool(2);
        get(&calm, &pair.peer, "/").await.unwrap();
    });
}

/// What went wrong with handshakes so far, by label.
fn failures(stats: &TransportStats) -> Vec<(&'static str, u64)> {
    HandshakeFailure::ALL
        .iter()
        .zip(&stats.handshake_failures)
        .map(|(failure, counter)| (failure.label(), counter.get()))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[test]
fn each_end_counts_a_failed_handshake_once_and_by_its_cause() {
    sim::run(async {
        let pair = echoing(11, Config::default());
        let other = PeerKey {
            identity: pair.authority.id("default", "other"),
            ..pair.peer.clone()
        };
        pair.pool.stream(&other).await.err().unwrap();
        pass(SECOND).await;
        assert_eq!(failures(&pair.pool_stats), [("peer_certificate", 1)]);
        assert_eq!(failures(&pair.listener_stats), [("alert", 1)]);

        let stranger = Authority::new("stranger.org");
        let pair = echoing(12, Config::default());
        pair.pool
            .set_credentials(Arc::new(stranger.credentials("default", "client")));
        // It refuses the listener's certificate, as the listener would its own.
        let peer = PeerKey {
            identity: stranger.id("default", "server"),
            ..pair.peer.clone()
        };
        pair.pool.stream(&peer).await.err().unwrap();
        pass(SECOND).await;
        assert_eq!(failures(&pair.pool_stats), [("peer_certificate", 1)]);

        let pair = echoing(13, Config::default());
        pair.network.set_cut(true);
        pair.pool.stream(&pair.peer).await.err().unwrap();
        pass(SECOND).await;
        assert_eq!(failures(&pair.pool_stats), [("timeout", 1)]);
    });
}

#[test]
fn a_drain_in_a_storm_of_dials_ends() {
    // At every turn of the drivers on the way.
    for (delay, turns) in (0..6).flat_map(|delay| (1..40).map(move |turns| (delay, turns))) {
        sim::run(async move {
            let Pair {
                pool,
                peer,
                mut listener,
                ..
            } = echoing(14, Config::default());
            let dials: Vec<_> = (0..12)
                .map(|index| {
                    let peer = PeerKey {
                        uid: format!("default/{index}").into(),
                        ..peer.clone()
                    };
                    let pool = pool.clone();
                    tokio::task::spawn_local(async move { get(&pool, &peer, "/").await })
                })
                .collect();
            // A task among the drivers' tasks, so that it has its turn between two of theirs.
            let drain = tokio::task::spawn_local(async move {
                pass(delay * MILLISECOND).await;
                let mut left = turns;
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    left -= 1;
                    if left > 0 { Poll::Pending } else { Poll::Ready(()) }
                })
                .await;
                let started = Instant::now();
                listener.drain().await;
                started.elapsed()
            });
            let took = drain.await.unwrap();
            assert!(took < 2 * SECOND, "{delay} {turns}: {took:?}");
            for dial in dials {
                if let Err(error) = dial.await.unwrap() {
                    assert_eq!(error.processed(), Processed::No, "{delay} {turns}: {error}");
                }
            }
        });
    }
}
