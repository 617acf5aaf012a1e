//! Requests between two endpoints on an in-memory network in virtual time.

mod common;

use std::{cell::RefCell, rc::Rc, time::Duration};

use bytes::Bytes;
use common::{body_of, echo, get, pattern, post, respond};
use http::StatusCode;
use tokio::time::Instant;
use weft_transport::{
    Config, DialFailure, ErrorKind, Lost, PeerKey, Processed,
    h3::{Code, ResponseHead},
    sim::{self, Link},
};

#[test]
fn a_request_and_its_answer_with_the_callers_identity() {
    sim::run(async {
        let caller = Rc::new(RefCell::new(None));
        let seen = caller.clone();
        let pair = sim::pair(1, Link::default(), Config::default(), move |incoming| {
            seen.replace(Some(incoming.caller.clone()));
            tokio::task::spawn_local(echo(incoming));
        });
        let mut stream = pair.pool.stream(&pair.peer).await.unwrap();
        stream.queue_request(&post("/echo")).unwrap();
        stream.send.queue_data(Bytes::from_static(b"hello")).unwrap();
        stream.send.queue_end().unwrap();
        stream.send.flush().await.unwrap();
        let head = stream.recv.response_head().await.unwrap();
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(body_of(&mut stream.recv).await.unwrap(), b"hello");
        assert_eq!(caller.borrow().as_ref(), Some(&sim::client_identity()));
    });
}

#[test]
fn a_thousand_waiting_requests_share_one_dial_and_one_connection() {
    sim::run(async {
        let pair = sim::pair(2, Link::default(), Config::default(), |incoming| {
            tokio::task::spawn_local(echo(incoming));
        });
        let requests = (0..1_000).map(|_| {
            let (pool, peer) = (pair.pool.clone(), pair.peer.clone());
            tokio::task::spawn_local(async move { get(&pool, &peer, "/").await })
        });
        for request in requests.collect::<Vec<_>>() {
            assert_eq!(request.await.unwrap().unwrap().0.status, StatusCode::OK);
        }
        assert_eq!(pair.listener_stats.handshakes.get(), 1);
        assert_eq!(pair.pool.connections().len(), 1);
    });
}

#[test]
fn large_bodies_cross_a_bad_network_whole_both_ways() {
    for seed in 0..8 {
        sim::run(async move {
            let link = Link {
                latency: Duration::from_millis(2),
                jitter: Duration::from_millis(2),
                loss: 0.05,
                duplicate: 0.02,
                corrupt: 0.02,
                mtu: 1_452,
            };
            let pair = sim::pair(seed, link, Config::default(), |incoming| {
                tokio::task::spawn_local(echo(incoming));
            });
            let sent = pattern(1 << 20);
            let mut stream = pair.pool.stream(&pair.peer).await.unwrap();
            stream.queue_request(&post("/echo")).unwrap();
            let mut send = stream.send;
            let body = sent.clone();
            let sender = tokio::task::spawn_local(async move {
                for chunk in body.chunks(10_000) {
                    send.queue_data(Bytes::copy_from_slice(chunk)).unwrap();
                    send.flush().await.unwrap();
                }
                send.queue_end().unwrap();
                send.flush().await.unwrap();
            });
            stream.recv.response_head().await.unwrap();
            let received = body_of(&mut stream.recv).await.unwrap();
            sender.await.unwrap();
            assert!(received == sent, "seed {seed}: {} bytes differ", received.len());
        });
    }
}

#[test]
fn one_seed_is_one_run() {
    let run = |seed| {
        sim::run(async move {
            let started = Instant::now();
            let link = Link {
                loss: 0.1,
                jitter: Duration::from_millis(1),
                ..Link::default()
            };
            let pair = sim::pair(seed, link, Config::default(), |incoming| {
                tokio::task::spawn_local(echo(incoming));
            });
            for _ in 0..50 {
                get(&pair.pool, &pair.peer, "/").await.unwrap();
            }
            (pair.network.counts(), started.elapsed())
        })
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn a_lone_lost_packet_costs_milliseconds() {
    sim::run(async {
        let pair = sim::pair(3, Link::default(), Config::default(), |incoming| {
            tokio::task::spawn_local(echo(incoming));
        });
        for _ in 0..20 {
            get(&pair.pool, &pair.peer, "/").await.unwrap();
        }
        // Everything that is sent in the next half round trip is lost: the request itself.
        let mut worst = Duration::ZERO;
        for _ in 0..20 {
            let started = Instant::now();
            let request = get(&pair.pool, &pair.peer, "/");
            pair.network.set_cut(true);
            let mend = async {
                tokio::time::sleep(Duration::from_micros(50)).await;
                pair.network.set_cut(false);
            };
            let (response, ()) = tokio::join!(request, mend);
            response.unwrap();
            worst = worst.max(started.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(worst > Duration::from_millis(1), "nothing was lost: {worst:?}");
        // With the default max_ack_delay of 25 ms it would be over 28.
        assert!(worst < Duration::from_millis(15), "{worst:?}");
    });
}

#[test]
fn a_dropped_message_never_looks_complete() {
    sim::run(async {
        let pair = sim::pair(4, Link::default(), Config::default(), |incoming| {
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                stream.request_head().await.unwrap();
                stream.mark_processed();
                stream
                    .send
                    .queue_response(&ResponseHead::new(StatusCode::OK))
                    .unwrap();
                stream.send.queue_data(Bytes::from_static(b"half of it")).unwrap();
                stream.send.flush().await.unwrap();
                // Dropped without an end.
            });
        });
        let error = get(&pair.pool, &pair.peer, "/").await.unwrap_err();
        let ErrorKind::Reset(code) = error.kind() else {
            panic!("{error:?}")
        };
        assert_eq!(
            (*code, error.processed()),
            (Code::H3_INTERNAL_ERROR, Processed::Maybe)
        );
    });
}

#[test]
fn a_request_that_is_dropped_unseen_is_unprocessed() {
    sim::run(async {
        let pair = sim::pair(5, Link::default(), Config::default(), drop);
        let error = get(&pair.pool, &pair.peer, "/").await.unwrap_err();
        assert_eq!(error.processed(), Processed::No, "{error}");
    });
}

#[test]
fn another_identity_than_the_expected_one_is_refused_and_said_so() {
    sim::run(async {
        let pair = sim::pair(6, Link::default(), Config::default(), drop);
        let peer = PeerKey {
            identity: pair.authority.id("default", "other"),
            ..pair.peer.clone()
        };
        let error = pair.pool.stream(&peer).await.err().unwrap();
        let ErrorKind::Dial(DialFailure::PeerRefused(_)) = error.kind() else {
            panic!("{error:?}")
        };
        assert_eq!(error.processed(), Processed::No);
        // And the next one does not dial again at once.
        let error = pair.pool.stream(&peer).await.err().unwrap();
        assert!(matches!(error.kind(), ErrorKind::Backoff { .. }), "{error:?}");
    });
}

#[test]
fn a_silent_peer_fails_the_dial_in_time() {
    sim::run(async {
        let pair = sim::pair(7, Link::default(), Config::default(), drop);
        pair.network.set_cut(true);
        let started = Instant::now();
        let error = pair.pool.stream(&pair.peer).await.err().unwrap();
        assert!(
            matches!(error.kind(), ErrorKind::Dial(DialFailure::Timeout)),
            "{error:?}"
        );
        assert!(
            started.elapsed() <= Duration::from_millis(3_100),
            "{:?}",
            started.elapsed()
        );
    });
}

#[test]
fn a_drained_listener_finishes_what_it_took_and_refuses_the_rest() {
    sim::run(async {
        let release = Rc::new(tokio::sync::Notify::new());
        let gate = release.clone();
        let sim::Pair {
            pool,
            peer,
            mut listener,
            ..
        } = sim::pair(8, Link::default(), Config::default(), move |incoming| {
            let gate = gate.clone();
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                stream.request_head().await.unwrap();
                stream.mark_processed();
                gate.notified().await;
                respond(stream, b"finished").await.unwrap();
            });
        });
        let (first_pool, first_peer) = (pool.clone(), peer.clone());
        let taken = tokio::task::spawn_local(async move { get(&first_pool, &first_peer, "/").await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let drained = tokio::task::spawn_local(async move { listener.drain().await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let error = get(&pool, &peer, "/").await.unwrap_err();
        assert_eq!(error.processed(), Processed::No, "{error}");
        assert!(!drained.is_finished());
        release.notify_one();
        assert_eq!(taken.await.unwrap().unwrap().1, b"finished");
        drained.await.unwrap();
    });
}

#[test]
fn an_idle_connection_closes() {
    sim::run(async {
        let config = Config {
            idle_connection: Duration::from_secs(60),
            ..Config::default()
        };
        let pair = sim::pair(9, Link::default(), config, |incoming| {
            tokio::task::spawn_local(echo(incoming));
        });
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(
            pair.pool.connections().len(),
            1,
            "kept alive while it may be wanted"
        );
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(pair.pool.connections().len(), 0);
        assert_eq!(pair.listener.connections().await.len(), 0);
    });
}

#[test]
fn a_peer_that_vanishes_is_noticed() {
    sim::run(async {
        let pair = sim::pair(10, Link::default(), Config::default(), |incoming| {
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                stream.request_head().await.unwrap();
                std::future::pending::<()>().await;
            });
        });
        let (pool, peer) = (pair.pool.clone(), pair.peer.clone());
        let request = tokio::task::spawn_local(async move { get(&pool, &peer, "/").await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        pair.network.set_cut(true);
        let error = request.await.unwrap().unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Lost(Lost::TimedOut)),
            "{error:?}"
        );
        assert_eq!(error.processed(), Processed::Maybe);
    });
}
