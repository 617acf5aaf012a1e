//! Connections outlive a change of address: of ours, of the peer's, and of a path that has gone silent.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use common::{MILLISECOND, SECOND, body_of, echo, get, pass, pattern, pour, start_get, start_post};
use http::StatusCode;
use proptest::prelude::*;
use tokio::time::Instant;
use weft_transport::{
    Config, DialFailure, ErrorKind, Incoming, Lost, Move,
    h3::{Code, ResponseHead},
    sim::{self, Cut, Link, Pair},
};

const MIB: usize = 1 << 20;
/// Where the dialling side is at first.
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 1));
const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

fn elsewhere(index: u8) -> IpAddr {
    IpAddr::from([10, 0, 7, index])
}

/// A millisecond each way, so that a download takes a while.
fn slow() -> Link {
    Link {
        latency: MILLISECOND,
        ..Link::default()
    }
}

fn echoing(seed: u64) -> Pair {
    sim::pair(seed, slow(), Config::default(), |incoming| {
        tokio::task::spawn_local(echo(incoming));
    })
}

/// Answers `/large` with 64 MiB, and everything else with its own content.
fn generous(seed: u64) -> Pair {
    sim::pair(seed, slow(), Config::default(), |incoming: Incoming| {
        tokio::task::spawn_local(async move {
            let mut stream = incoming.stream;
            stream.request_head().await.unwrap();
            stream.mark_processed();
            stream
                .send
                .queue_response(&ResponseHead::new(StatusCode::OK))
                .unwrap();
            if pour(&mut stream.send, 64 << 10, 64 * MIB).await.1.is_ok() {
                stream.send.queue_end().unwrap();
                stream.send.flush().await.unwrap();
            }
        });
    })
}

/// Moves the dialling side, and tells it.
fn move_client(pair: &Pair, to: IpAddr) {
    pair.network.move_host(CLIENT, Some(to));
    pair.pool.on_network_change();
}

fn moves(pair: &Pair, cause: Move) -> u64 {
    pair.pool_stats.moves[cause as usize].get() + pair.listener_stats.moves[cause as usize].get()
}

fn handshakes(pair: &Pair) -> (u64, u64) {
    (
        pair.pool_stats.handshakes.get(),
        pair.listener_stats.handshakes.get(),
    )
}

#[test]
fn a_download_survives_twenty_changes_of_address() {
    sim::run(async {
        let pair = generous(1);
        let mut stream = start_get(&pair.pool, &pair.peer, "/large").await.unwrap();
        stream.recv.response_head().await.unwrap();
        let received = tokio::task::spawn_local(async move { body_of(&mut stream.recv).await });
        for index in 1..=20 {
            pass(10 * MILLISECOND).await;
            assert!(!received.is_finished(), "too short a download: {index}");
            move_client(&pair, elsewhere(index));
        }
        assert_eq!(received.await.unwrap().unwrap().len(), 64 * MIB);
        assert_eq!(handshakes(&pair), (1, 1));
        assert_eq!(
            (moves(&pair, Move::Address), moves(&pair, Move::Silence)),
            (20, 0)
        );
        let [connection] = &pair.listener.connections().await[..] else {
            panic!("one connection")
        };
        assert_eq!(connection.remote.ip(), elsewhere(20));
        assert_eq!(connection.identity, Some(sim::client_identity()));
        assert!(connection.path.migrations >= 20, "{:?}", connection.path);
        assert_eq!(pair.pool.connections()[0].1.path.migrations, 20);
    });
}

#[test]
fn an_upload_survives_a_change_of_address_in_a_few_round_trips() {
    sim::run(async {
        let pair = echoing(2);
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        let body = pattern(8 * MIB);
        let stream = start_post(&pair.pool, &pair.peer, "/").await.unwrap();
        let (mut send, mut recv) = (stream.send, stream.recv);
        let sent = Bytes::from(body.clone());
        let upload = tokio::task::spawn_local(async move {
            for chunk in sent.chunks(64 << 10) {
                send.queue_data(sent.slice_ref(chunk)).unwrap();
                send.flush().await.unwrap();
            }
            send.queue_end().unwrap();
            send.flush().await.unwrap();
        });
        pass(10 * MILLISECOND).await;
        assert!(!upload.is_finished());
        let moved = Instant::now();
        move_client(&pair, elsewhere(1));
        recv.response_head().await.unwrap();
        assert!(body_of(&mut recv).await.unwrap() == body, "the content is whole");
        upload.await.unwrap();
        assert!(moved.elapsed() < SECOND, "{:?}", moved.elapsed());
        assert_eq!(handshakes(&pair), (1, 1));
    });
}

#[test]
fn a_host_without_an_address_for_a_while_goes_on_when_it_has_one() {
    sim::run(async {
        let pair = echoing(3);
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        pair.network.move_host(CLIENT, None);
        pair.pool.on_network_change();
        let (pool, peer) = (pair.pool.clone(), pair.peer.clone());
        let request = tokio::task::spawn_local(async move { get(&pool, &peer, "/").await });
        pass(SECOND).await;
        assert!(!request.is_finished());
        let back = Instant::now();
        move_client(&pair, elsewhere(1));
        request.await.unwrap().unwrap();
        assert!(back.elapsed() < 100 * MILLISECOND, "{:?}", back.elapsed());
        assert_eq!(handshakes(&pair), (1, 1));
    });
}

#[test]
fn a_change_elsewhere_moves_nothing() {
    sim::run(async {
        let pair = echoing(4);
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        let before = pair.listener.connections().await[0].remote;
        for _ in 0..10 {
            pair.pool.on_network_change();
            get(&pair.pool, &pair.peer, "/").await.unwrap();
        }
        assert_eq!(pair.listener.connections().await[0].remote, before);
        assert_eq!(moves(&pair, Move::Address), 0);
    });
}

#[test]
fn a_host_that_moves_during_the_handshake_dials_again_and_no_request_notices() {
    sim::run(async {
        let pair = echoing(5);
        let (pool, peer) = (pair.pool.clone(), pair.peer.clone());
        let request = tokio::task::spawn_local(async move { get(&pool, &peer, "/").await });
        // The first flight is on its way.
        pass(MILLISECOND / 2).await;
        move_client(&pair, elsewhere(1));
        let moved = Instant::now();
        request.await.unwrap().unwrap();
        assert!(moved.elapsed() < 100 * MILLISECOND, "{:?}", moved.elapsed());
        assert_eq!(pair.pool_stats.handshakes.get(), 1);
    });
}

#[test]
fn a_nat_that_rebinds_is_followed() {
    sim::run(async {
        let outer = elsewhere(1);
        let pair = generous(6);
        pair.network.rebind_nat(CLIENT, outer);
        let mut stream = start_get(&pair.pool, &pair.peer, "/large").await.unwrap();
        stream.recv.response_head().await.unwrap();
        let received = tokio::task::spawn_local(async move { body_of(&mut stream.recv).await });
        let mut ports = std::collections::BTreeSet::new();
        for _ in 0..10 {
            pass(20 * MILLISECOND).await;
            let connection = &pair.listener.connections().await[0];
            ports.insert(connection.remote.port());
            pair.network.rebind_nat(CLIENT, outer);
        }
        assert_eq!(received.await.unwrap().unwrap().len(), 64 * MIB);
        assert_eq!(ports.len(), 10, "{ports:?}");
        assert_eq!(handshakes(&pair), (1, 1));
        assert_eq!((moves(&pair, Move::Address), moves(&pair, Move::Silence)), (0, 0));
    });
}

#[test]
fn a_path_that_swallows_everything_is_left_for_another_port() {
    sim::run(async {
        let pair = echoing(7);
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        let old = pair.listener.connections().await[0].remote;
        // As a firewall that has lost its state does.
        pair.network.cut(Cut::From(old));
        let started = Instant::now();
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        assert!(started.elapsed() < 700 * MILLISECOND, "{:?}", started.elapsed());
        assert_ne!(pair.listener.connections().await[0].remote, old);
        assert_eq!((handshakes(&pair), moves(&pair, Move::Silence)), ((1, 1), 1));
        // And it is the new port that stays.
        pair.network.cut(Cut::Nothing);
        for _ in 0..3 {
            pass(5 * SECOND).await;
            get(&pair.pool, &pair.peer, "/").await.unwrap();
        }
        assert_eq!(moves(&pair, Move::Silence), 1);
    });
}

#[test]
fn an_idle_connection_whose_path_died_is_moved_by_its_keep_alive() {
    sim::run(async {
        let pair = echoing(8);
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        let old = pair.listener.connections().await[0].remote;
        pair.network.cut(Cut::From(old));
        pass(6 * SECOND).await;
        assert_eq!(moves(&pair, Move::Silence), 1);
        let started = Instant::now();
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        assert!(started.elapsed() < 20 * MILLISECOND, "{:?}", started.elapsed());
        assert_eq!(handshakes(&pair), (1, 1));
    });
}

#[test]
fn requests_do_not_wait_for_a_peer_that_does_not_answer() {
    sim::run(async {
        let pair = echoing(9);
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        pair.network.set_cut(true);
        let (pool, peer) = (pair.pool.clone(), pair.peer.clone());
        let in_flight = tokio::task::spawn_local(async move { get(&pool, &peer, "/").await });
        pass(2 * SECOND).await;
        let started = Instant::now();
        let error = get(&pair.pool, &pair.peer, "/").await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Dial(DialFailure::Timeout)),
            "{error:?}"
        );
        assert!(started.elapsed() < 4 * SECOND, "{:?}", started.elapsed());
        // From now on at once, until it is worth another try.
        let error = get(&pair.pool, &pair.peer, "/").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Backoff { .. }), "{error:?}");
        // It was only the network: what was sent meanwhile is answered within a second or so, and so is all that comes.
        pair.network.set_cut(false);
        let healed = Instant::now();
        assert!(in_flight.await.unwrap().is_ok());
        assert!(healed.elapsed() < 1_100 * MILLISECOND, "{:?}", healed.elapsed());
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        assert_eq!(handshakes(&pair), (1, 1));
    });
}

#[test]
fn a_peer_that_is_gone_moves_nobody_else() {
    sim::run(async {
        let pair = echoing(15);
        let pool = &pair.pool;
        let second = sim::another_listener(&pair, [10, 0, 0, 3].into(), |incoming| {
            tokio::task::spawn_local(echo(incoming));
        });
        get(pool, &second.peer, "/").await.unwrap();
        get(pool, &pair.peer, "/").await.unwrap();
        pair.network.cut(Cut::Towards([10, 0, 0, 3].into()));
        pass(30 * SECOND).await;
        get(pool, &pair.peer, "/").await.unwrap();
        let moved: u64 = pool
            .connections()
            .iter()
            .filter(|(peer, _)| peer.address == pair.peer.address)
            .map(|(_, info)| info.path.migrations)
            .sum();
        assert_eq!(moved, 0);
    });
}

#[test]
fn whoever_waits_for_a_new_connection_is_told_when_the_old_one_answers_again() {
    sim::run(async {
        let pair = echoing(10);
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        pair.network.set_cut(true);
        let (pool, peer) = (pair.pool.clone(), pair.peer.clone());
        let _in_flight = tokio::task::spawn_local(async move { get(&pool, &peer, "/").await });
        pass(1_900 * MILLISECOND).await;
        let request = get(&pair.pool, &pair.peer, "/");
        let heal = async {
            pass(100 * MILLISECOND).await;
            pair.network.set_cut(false);
        };
        let (answer, ()) = tokio::join!(request, heal);
        answer.unwrap();
    });
}

/// What a peer can make a listener send to an address that it only claims to have (RFC 9000 section 9.3.1).
#[test]
fn an_address_that_was_not_proved_gets_three_times_what_it_sent() {
    sim::run(async {
        let pair = generous(11);
        let mut stream = start_get(&pair.pool, &pair.peer, "/large").await.unwrap();
        stream.recv.response_head().await.unwrap();
        let received = tokio::task::spawn_local(async move { body_of(&mut stream.recv).await });
        pass(20 * MILLISECOND).await;
        let victim = elsewhere(66);
        pair.network.cut(Cut::Towards(victim));
        move_client(&pair, victim);
        for _ in 0..100 {
            pass(10 * MILLISECOND).await;
            let (sent, got) = (
                pair.network.sent(SERVER, victim),
                pair.network.sent(victim, SERVER),
            );
            // On each new path quinn-proto sends a whole datagram as long as one byte of it is allowed, and when it
            // leaves one, a datagram that asks whether it still is one: that is why there is a budget of moves.
            let excess = 1_200 * (1 + moves(&pair, Move::Peer));
            assert!(got > 0 && sent <= 3 * got + excess, "{sent} bytes for {got}");
        }
        // And the connection goes on where the peer really is.
        pair.network.cut(Cut::Nothing);
        assert_eq!(received.await.unwrap().unwrap().len(), 64 * MIB);
        assert_eq!(handshakes(&pair), (1, 1));
    });
}

#[test]
fn a_peer_that_never_stops_moving_is_cut() {
    sim::run(async {
        let pair = echoing(13);
        for port in 0..=255 {
            pair.network.rebind_nat(CLIENT, elsewhere(port));
            let answer = get(&pair.pool, &pair.peer, "/").await;
            let Err(error) = answer else { continue };
            assert!(port >= 64, "cut after {port}");
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::Lost(Lost::PeerClosed(Code::H3_EXCESSIVE_LOAD))
                ),
                "{error:?}"
            );
            return;
        }
        panic!("never cut");
    });
}

#[test]
fn a_new_link_with_a_smaller_mtu_is_no_black_hole() {
    sim::run(async {
        let jumbo = Link { mtu: 8_952, ..slow() };
        let pair = sim::pair(12, jumbo, Config::default(), |incoming| {
            tokio::task::spawn_local(echo(incoming));
        });
        let upload = async |length| {
            let mut stream = start_post(&pair.pool, &pair.peer, "/").await.unwrap();
            let body = pattern(length);
            stream.send.queue_data(Bytes::from(body.clone())).unwrap();
            stream.send.queue_end().unwrap();
            let flush = stream.send.flush();
            let answer = async {
                stream.recv.response_head().await.unwrap();
                body_of(&mut stream.recv).await.unwrap()
            };
            let (flushed, answer) = tokio::join!(flush, answer);
            flushed.unwrap();
            assert!(answer == body, "the content is whole");
        };
        upload(MIB).await;
        pass(SECOND).await;
        upload(MIB).await;
        assert!(pair.pool.connections()[0].1.path.mtu > 8_900);
        pair.network.set_link(Link { mtu: 1_250, ..jumbo });
        move_client(&pair, elsewhere(1));
        let started = Instant::now();
        upload(MIB).await;
        assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
        assert_eq!(handshakes(&pair), (1, 1));
    });
}

#[test]
fn a_nat_that_rebinds_onto_a_narrower_path_is_no_black_hole() {
    sim::run(async {
        let wide = Link { mtu: 4_000, ..slow() };
        let pair = sim::pair(14, wide, Config::default(), |incoming| {
            tokio::task::spawn_local(echo(incoming));
        });
        let mut stream = start_post(&pair.pool, &pair.peer, "/").await.unwrap();
        let body = pattern(MIB);
        for narrow in [false, true] {
            if narrow {
                pair.network.set_link(Link { mtu: 1_250, ..wide });
                pair.network.rebind_nat(CLIENT, elsewhere(1));
            }
            stream.send.queue_data(Bytes::from(body.clone())).unwrap();
            let flush = stream.send.flush();
            let started = Instant::now();
            let echoed = async {
                if !narrow {
                    stream.recv.response_head().await.unwrap();
                }
                let mut echoed = Vec::new();
                while echoed.len() < body.len() {
                    let data = std::future::poll_fn(|cx| stream.recv.poll_data(cx))
                        .await
                        .unwrap();
                    echoed.extend_from_slice(&data.unwrap());
                }
                echoed
            };
            let (flushed, echoed) = tokio::join!(flush, echoed);
            flushed.unwrap();
            assert!(echoed == body, "the content is whole");
            assert!(started.elapsed() < 3 * SECOND, "{:?}", started.elapsed());
            pass(SECOND).await;
        }
        assert_eq!(handshakes(&pair), (1, 1));
    });
}

/// Something that befalls the network.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Move(u8),
    Vanish,
    Nat(u8),
    Cut(Cut),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        (1u8..200).prop_map(Fate::Move),
        Just(Fate::Vanish),
        (200u8..210).prop_map(Fate::Nat),
        Just(Fate::Cut(Cut::Everything)),
        Just(Fate::Cut(Cut::Towards(SERVER))),
        (40_000u16..40_004).prop_map(|port| Fate::Cut(Cut::From(SocketAddr::new(CLIENT, port)))),
        Just(Fate::Cut(Cut::Nothing)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn nothing_is_lost_whatever_befalls_the_network(
        seed: u64,
        fates in prop::collection::vec((fate(), 0u64..900), 1..12),
    ) {
        sim::run(async move {
            let pair = echoing(seed);
            get(&pair.pool, &pair.peer, "/").await.unwrap();
            let body = pattern(2 * MIB);
            let transfers: Vec<_> = (0..3).map(|_| {
                let (pool, peer, body) = (pair.pool.clone(), pair.peer.clone(), Bytes::from(body.clone()));
                tokio::task::spawn_local(async move {
                    let stream = start_post(&pool, &peer, "/").await.unwrap();
                    let (mut send, mut recv) = (stream.send, stream.recv);
                    let upload = async {
                        for chunk in body.chunks(16 << 10) {
                            send.queue_data(body.slice_ref(chunk)).unwrap();
                            send.flush().await.unwrap();
                        }
                        send.queue_end().unwrap();
                        send.flush().await.unwrap();
                    };
                    let answer = async {
                        recv.response_head().await.unwrap();
                        body_of(&mut recv).await.unwrap()
                    };
                    tokio::join!(upload, answer).1
                })
            }).collect();
            for (fate, wait) in fates {
                match fate {
                    Fate::Move(index) => move_client(&pair, elsewhere(index)),
                    Fate::Vanish => pair.network.move_host(CLIENT, None),
                    Fate::Nat(index) => pair.network.rebind_nat(CLIENT, elsewhere(index)),
                    Fate::Cut(cut) => pair.network.cut(cut),
                }
                pass(Duration::from_millis(wait)).await;
            }
            pair.network.cut(Cut::Nothing);
            move_client(&pair, elsewhere(250));
            for transfer in transfers {
                assert!(transfer.await.unwrap() == body, "the content is whole");
            }
            assert_eq!(handshakes(&pair), (1, 1));
        });
    }
}
