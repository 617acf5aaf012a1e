//! Drains, rotations, expiry and restarts: what ends connections, and what that does to requests.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::{cell::Cell, ops::Range, rc::Rc, sync::Arc, time::Duration};

use common::{
    MILLISECOND, SECOND, body_of, echo, get,
    load::{Seen, load, noting},
    pass, respond, start_get,
};
use tokio::{sync::Notify, time::Instant};
use weft_transport::{
    Config, DialFailure, EndpointState, Error, ErrorKind, Lost, Processed,
    credentials::{Credentials, testing::Authority},
    sim::{self, Link, Pair},
};

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn drains_under_load_on_a_lossy_link_lose_and_repeat_nothing() {
    // Many requests at any time, and hardly any: then a connection is done as soon as it is drained.
    drains(0..8, 16, Duration::ZERO);
    drains(8..40, 1, 2 * MILLISECOND);
}

fn drains(seeds: Range<u64>, tasks: u64, pause: Duration) {
    let mut repeated = 0;
    for seed in seeds {
        repeated += sim::run(async move {
            let link = Link {
                latency: Duration::from_micros(300),
                jitter: MILLISECOND,
                loss: 0.15,
                duplicate: 0.05,
                ..Link::default()
            };
            let seen = Seen::default();
            let mut pair = sim::pair(seed, link, Config::default(), noting(&seen));
            let stop = Rc::new(Cell::new(false));

            let tasks = load(&pair, tasks, pause, &stop);
            for epoch in 2..8 {
                pass(Duration::from_millis(40 + seed * 3)).await;
                pair.listener.drain().await;
                pair.restart_listener(&sim::listener_state(epoch), noting(&seen));
            }
            pass(40 * MILLISECOND).await;
            stop.set(true);
            let (mut sent, mut repeated) = (0, 0);
            for task in tasks {
                let (of_task, of_those) = task.await.unwrap().unwrap_or_else(|(id, error)| {
                    panic!("seed {seed}: request {id} is lost: {error}");
                });
                sent += of_task;
                repeated += of_those;
            }
            let seen = seen.borrow();
            assert_eq!(seen.len() as u64, sent, "seed {seed}");
            assert!(
                seen.values().all(|count| *count == 1),
                "seed {seed}: processed twice"
            );
            assert!(sent > 5, "seed {seed}: {sent}");
            repeated
        });
    }
    assert!(repeated > 0, "no drain ever met a request on its way");
}

#[test]
fn a_drain_waits_for_what_it_took_and_no_longer() {
    sim::run(async {
        let release = Rc::new(Notify::new());
        let gate = release.clone();
        let mut pair = sim::pair(1, Link::default(), Config::default(), move |incoming| {
            let gate = gate.clone();
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                let head = stream.request_head().await.unwrap();
                stream.mark_processed();
                if head.path.unwrap() == "/slow" {
                    gate.notified().await;
                }
                respond(stream, b"done").await.unwrap();
            });
        });
        let mut taken = start_get(&pair.pool, &pair.peer, "/slow").await.unwrap();
        // A peer without requests does not hold it up.
        let idle = pair.another_pool(2);
        get(&idle, &pair.peer, "/").await.unwrap();
        pass(10 * MILLISECOND).await;
        let started = Instant::now();
        let finish = async {
            pass(3 * SECOND).await;
            assert_eq!(pair.pool.connections()[0].1.phase, "draining");
            release.notify_waiters();
            taken.recv.response_head().await.unwrap();
            assert_eq!(body_of(&mut taken.recv).await.unwrap(), b"done");
            drop(taken);
        };
        tokio::join!(pair.listener.drain(), finish);
        assert!(
            started.elapsed() < 3 * SECOND + 100 * MILLISECOND,
            "{:?}",
            started.elapsed()
        );
        // Nobody listens any more.
        let error = get(&pair.pool, &pair.peer, "/").await.unwrap_err();
        assert_eq!(error.processed(), Processed::No);
    });
}

#[test]
fn a_drained_listener_refuses_dials() {
    sim::run(async {
        let mut pair = sim::pair(2, Link::default(), Config::default(), |incoming| {
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                stream.request_head().await.unwrap();
                stream.mark_processed();
                pass(SECOND).await;
                respond(stream, b"done").await.unwrap();
            });
        });
        let _taken = start_get(&pair.pool, &pair.peer, "/").await.unwrap();
        pass(10 * MILLISECOND).await;
        let other = pair.another_pool(2);
        let refused = async {
            pass(10 * MILLISECOND).await;
            other.stream(&pair.peer).await.err().unwrap()
        };
        let (error, ()) = tokio::join!(refused, pair.listener.drain());
        assert!(
            matches!(error.kind(), ErrorKind::Dial(DialFailure::ConnectionRefused)),
            "{error:?}"
        );
        assert_eq!(error.processed(), Processed::No);
    });
}

#[test]
fn a_drained_pool_tells_its_peers_before_it_goes() {
    sim::run(async {
        let pair = sim::pair(3, Link::default(), Config::default(), |incoming| {
            tokio::task::spawn_local(echo(incoming));
        });
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        let Pair { pool, listener, .. } = pair;
        assert_eq!(listener.connections().await.len(), 1);
        pool.drain().await;
        drop(pool);
        pass(100 * MILLISECOND).await;
        assert_eq!(
            listener.connections().await.len(),
            0,
            "it waits for its idle timeout"
        );
    });
}

#[test]
fn a_dialler_that_renewed_holds_up_no_request_and_finishes_on_the_old_connection() {
    sim::run(async {
        let release = Rc::new(Notify::new());
        let gate = release.clone();
        let pair = sim::pair(20, Link::default(), Config::default(), move |incoming| {
            let gate = gate.clone();
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                let head = stream.request_head().await.unwrap();
                stream.mark_processed();
                if head.path.unwrap() == "/slow" {
                    gate.notified().await;
                }
                let _ = respond(stream, b"done").await;
            });
        });
        let mut slow = start_get(&pair.pool, &pair.peer, "/slow").await.unwrap();
        pass(10 * MILLISECOND).await;
        let renewed = pair
            .authority
            .credentials_until("default", "client", sim::wall_clock() + DAY);
        pair.pool.set_credentials(Arc::new(renewed));
        // The next requests ride on the old connection until the new one is there.
        let started = Instant::now();
        let (first, second) =
            tokio::join!(get(&pair.pool, &pair.peer, "/"), get(&pair.pool, &pair.peer, "/"));
        first.unwrap();
        second.unwrap();
        assert!(started.elapsed() <= 3 * MILLISECOND, "{:?}", started.elapsed());
        pass(31 * SECOND).await;
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        assert_eq!(pair.pool_stats.handshakes.get(), 2);
        assert_eq!(
            pair.listener.connections().await.len(),
            2,
            "the old one has a request"
        );
        release.notify_waiters();
        slow.recv.response_head().await.unwrap();
        assert_eq!(body_of(&mut slow.recv).await.unwrap(), b"done");
        drop(slow);
        pass(100 * MILLISECOND).await;
        assert_eq!(pair.listener.connections().await.len(), 1);
    });
}

#[test]
fn renewed_credentials_that_the_peer_refuses_leave_the_old_connection_in_use() {
    sim::run(async {
        let pair = sim::pair(21, Link::default(), Config::default(), |incoming| {
            tokio::task::spawn_local(echo(incoming));
        });
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        let stranger = Authority::with_root("example.org", "another root").svid("default", "client");
        let refused = Credentials::unchecked(stranger, pair.authority.bundle());
        pair.pool.set_credentials(Arc::new(refused));
        for _ in 0..100 {
            get(&pair.pool, &pair.peer, "/").await.unwrap();
            pass(SECOND).await;
        }
        assert_eq!(pair.pool_stats.handshakes.get(), 1);
    });
}

#[test]
fn a_certificate_that_expires_ends_its_connection() {
    sim::run(async {
        let pair = sim::pair(22, Link::default(), Config::default(), |incoming| {
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                stream.request_head().await.unwrap();
                stream.mark_processed();
                std::future::pending::<()>().await;
            });
        });
        let not_after = sim::wall_clock() + 60 * SECOND;
        let server = pair.authority.credentials_until("default", "server", not_after);
        pair.listener.set_credentials(&server).unwrap();
        let mut stream = start_get(&pair.pool, &pair.peer, "/").await.unwrap();
        let started = Instant::now();
        let error = stream.recv.response_head().await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Lost(Lost::CertificateExpired)),
            "{error:?}"
        );
        assert_eq!(
            (error.reason(), error.processed()),
            ("certificate_expiry", Processed::Maybe)
        );
        let lived = started.elapsed();
        assert!(lived > 57 * SECOND && lived <= 60 * SECOND, "{lived:?}");
        // Both ends have let it go.
        pass(SECOND).await;
        assert_eq!(pair.listener.connections().await.len(), 0);
    });
}

/// Kills the listener under a waiting request and starts one with `state`; how the request ended, and when.
async fn crash(pair: &mut Pair, state: &EndpointState) -> (Error, Duration) {
    let mut stream = start_get(&pair.pool, &pair.peer, "/wait").await.unwrap();
    pass(SECOND).await;
    pair.restart_listener(state, |incoming| {
        tokio::task::spawn_local(echo(incoming));
    });
    let started = Instant::now();
    let error = stream.recv.response_head().await.unwrap_err();
    (error, started.elapsed())
}

fn waiting(seed: u64) -> Pair {
    sim::pair(seed, Link::default(), Config::default(), |incoming| {
        tokio::task::spawn_local(async move {
            let mut stream = incoming.stream;
            stream.request_head().await.unwrap();
            stream.mark_processed();
            std::future::pending::<()>().await;
        });
    })
}

#[test]
fn a_restarted_process_resets_what_its_predecessor_left() {
    sim::run(async {
        let mut pair = waiting(30);
        let (error, after) = crash(&mut pair, &sim::listener_state(2)).await;
        assert!(
            matches!(error.kind(), ErrorKind::Lost(Lost::StatelessReset)),
            "{error:?}"
        );
        assert_eq!(error.processed(), Processed::Maybe);
        // As soon as the client says anything: its keep-alive at the latest.
        assert!(
            after <= Config::default().keep_alive + 100 * MILLISECOND,
            "{after:?}"
        );
        get(&pair.pool, &pair.peer, "/").await.unwrap();
    });
}

#[test]
fn the_next_request_meets_a_restarted_process_in_milliseconds() {
    sim::run(async {
        let mut pair = sim::pair(31, Link::default(), Config::default(), |incoming| {
            tokio::task::spawn_local(echo(incoming));
        });
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        pass(SECOND).await;
        pair.restart_listener(&sim::listener_state(2), |incoming| {
            tokio::task::spawn_local(echo(incoming));
        });
        let started = Instant::now();
        let error = get(&pair.pool, &pair.peer, "/").await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Lost(Lost::StatelessReset)),
            "{error:?}"
        );
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        assert!(started.elapsed() < 50 * MILLISECOND, "{:?}", started.elapsed());
    });
}

#[test]
fn a_process_with_another_state_directory_cannot_reset_them() {
    sim::run(async {
        let mut pair = waiting(32);
        let stranger = EndpointState::from_secrets(&[9; 64], 1);
        let (error, after) = crash(&mut pair, &stranger).await;
        assert!(
            matches!(error.kind(), ErrorKind::Lost(Lost::TimedOut)),
            "{error:?}"
        );
        assert!(after > 10 * SECOND, "{after:?}");
    });
}
