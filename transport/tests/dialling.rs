//! Dials: how many, when again, and what a listener does with more of them than it can take.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::time::Duration;

use common::{MILLISECOND, SECOND, echo, get, pass};
use tokio::time::Instant;
use weft_transport::{
    Config, DialFailure, Error, ErrorKind, PeerKey, Pool, Processed,
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
