//! The size of datagrams: as large as the path takes, and no larger.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::time::Duration;

use common::{MILLISECOND, SECOND, body_of, get, pass, pour, start_get};
use http::StatusCode;
use tokio::time::Instant;
use weft_transport::{
    Config, Incoming,
    h3::ResponseHead,
    sim::{self, Link, Pair},
};

const MIB: usize = 1 << 20;

/// Answers with 8 MiB.
fn generous(seed: u64, link: Link) -> Pair {
    sim::pair(seed, link, Config::default(), |incoming: Incoming| {
        tokio::task::spawn_local(async move {
            let mut stream = incoming.stream;
            stream.request_head().await.unwrap();
            stream.mark_processed();
            stream
                .send
                .queue_response(&ResponseHead::new(StatusCode::OK))
                .unwrap();
            pour(&mut stream.send, 64 << 10, 8 * MIB).await.1.unwrap();
            stream.send.queue_end().unwrap();
            stream.send.flush().await.unwrap();
        });
    })
}

async fn download(pair: &Pair) -> Duration {
    let started = Instant::now();
    assert_eq!(get(&pair.pool, &pair.peer, "/").await.unwrap().1.len(), 8 * MIB);
    started.elapsed()
}

/// What both ends believe.
async fn mtus(pair: &Pair) -> (u16, u16) {
    let dialled = pair.pool.connections()[0].1.path.mtu;
    (dialled, pair.listener.connections().await[0].path.mtu)
}

#[test]
fn both_ends_find_the_mtu_of_the_path() {
    for (link_mtu, least) in [
        (1_200, 1_200),
        (1_452, 1_430),
        (4_000, 3_980),
        (8_952, 8_930),
        (65_000, 8_930),
    ] {
        sim::run(async move {
            let pair = generous(
                1,
                Link {
                    mtu: link_mtu,
                    ..Link::default()
                },
            );
            download(&pair).await;
            pass(SECOND).await;
            download(&pair).await;
            let (dialled, listening) = mtus(&pair).await;
            for mtu in [dialled, listening] {
                assert!(
                    usize::from(mtu) >= least && usize::from(mtu) <= link_mtu.min(8_952),
                    "{mtu} of {link_mtu}"
                );
            }
        });
    }
}

#[test]
fn a_burst_never_exceeds_what_one_send_takes() {
    for link_mtu in [1_200, 1_452, 4_000, 8_952] {
        sim::run(async move {
            let pair = generous(
                2,
                Link {
                    mtu: link_mtu,
                    ..Link::default()
                },
            );
            download(&pair).await;
            download(&pair).await;
            let counts = pair.network.counts();
            assert_eq!(counts.refused, 0, "at {link_mtu}");
            assert_eq!(pair.listener_stats.sends_too_long.get(), 0);
            // And it is used: a burst is nearly as large as it may be.
            let most = 65_507.min(64 * link_mtu);
            assert!(counts.largest_send <= most, "{}", counts.largest_send);
            assert!(
                counts.largest_send > most / 10 * 8,
                "{} of {most} at {link_mtu}",
                counts.largest_send
            );
        });
    }
}

#[test]
fn a_path_that_begins_to_drop_large_datagrams_is_noticed_and_survived() {
    sim::run(async {
        let jumbo = Link {
            mtu: 8_952,
            ..Link::default()
        };
        let pair = generous(3, jumbo);
        download(&pair).await;
        pass(SECOND).await;
        assert!(mtus(&pair).await.1 > 8_900);
        let mut stream = start_get(&pair.pool, &pair.peer, "/").await.unwrap();
        stream.recv.response_head().await.unwrap();
        pair.network.set_link(Link { mtu: 1_400, ..jumbo });
        let started = Instant::now();
        assert_eq!(body_of(&mut stream.recv).await.unwrap().len(), 8 * MIB);
        assert!(started.elapsed() < 3 * SECOND, "{:?}", started.elapsed());
        drop(stream);
        let took = download(&pair).await;
        assert!(took < SECOND, "{took:?}");
        let info = &pair.listener.connections().await[0];
        assert!(
            info.path.mtu <= 1_400 && info.path.black_holes > 0,
            "{:?}",
            info.path
        );
        assert_eq!(pair.pool_stats.handshakes.get(), 1, "on one connection");
    });
}

#[test]
fn a_download_takes_the_time_that_the_path_takes() {
    sim::run(async {
        let link = Link {
            latency: 10 * MILLISECOND,
            ..Link::default()
        };
        let pair = generous(4, link);
        download(&pair).await;
        let took = download(&pair).await;
        // 8 MiB in windows of at most 1 MiB, 20 ms each.
        assert!(took < 400 * MILLISECOND, "{took:?}");
    });
}
