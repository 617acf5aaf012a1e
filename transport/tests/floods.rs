//! Peers that take back what they ask for: how much of it is too much.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::{cell::Cell, rc::Rc, time::Duration};

use common::{MILLISECOND, SECOND, get, pass, respond, start_get};
use weft_transport::{
    Config, ErrorKind, Incoming, Lost, Overload,
    h3::Code,
    sim::{self, Link, Pair},
};

/// Answers `/small` at once and all else never; counts what was asked.
fn pair(seed: u64) -> (Pair, Rc<Cell<u64>>) {
    let asked = Rc::new(Cell::new(0));
    let count = asked.clone();
    let pair = sim::pair(
        seed,
        Link::default(),
        Config::default(),
        move |incoming: Incoming| {
            count.set(count.get() + 1);
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                let Ok(head) = stream.request_head().await else {
                    return;
                };
                stream.mark_processed();
                if head.path.unwrap() == "/small" {
                    return respond(stream, b"small").await.unwrap();
                }
                std::future::poll_fn(|cx| stream.send.poll_stopped(cx)).await;
            });
        },
    );
    (pair, asked)
}

fn overloads(pair: &Pair) -> u64 {
    pair.listener_stats.overloads[Overload::Aborts as usize].get()
}

#[test]
fn a_rapid_reset_ends_its_connection() {
    sim::run(async {
        let (pair, asked) = pair(1);
        // Alive while the other requests come and go.
        let mut waiting = start_get(&pair.pool, &pair.peer, "/").await.unwrap();
        pass(SECOND).await;
        for _ in 0..3_000 {
            // Dropped at once: reset, and stopped.
            drop(start_get(&pair.pool, &pair.peer, "/").await);
            pass(MILLISECOND / 5).await;
            if overloads(&pair) > 0 {
                break;
            }
        }
        let error = waiting.recv.response_head().await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Lost(Lost::PeerClosed(code)) if *code == Code::H3_EXCESSIVE_LOAD),
            "{error:?}"
        );
        assert_eq!(overloads(&pair), 1);
        assert!(
            (1_000..2_000).contains(&asked.get()),
            "{} were taken",
            asked.get()
        );
        // It may come again.
        assert_eq!(get(&pair.pool, &pair.peer, "/small").await.unwrap().1, b"small");
    });
}

#[test]
fn callers_that_waited_may_all_go_away_at_once() {
    sim::run(async {
        let (pair, _) = pair(2);
        for _ in 0..5 {
            let mut waiting = Vec::new();
            for _ in 0..3_000 {
                waiting.push(start_get(&pair.pool, &pair.peer, "/").await.unwrap());
            }
            pass(100 * MILLISECOND).await;
            drop(waiting);
            pass(100 * MILLISECOND).await;
        }
        assert_eq!(overloads(&pair), 0);
        assert_eq!(pair.pool.connections().len(), 1);
    });
}

#[test]
fn a_caller_may_take_back_every_second_request() {
    sim::run(async {
        let (pair, _) = pair(3);
        for _ in 0..5_000 {
            let hedge = start_get(&pair.pool, &pair.peer, "/").await.unwrap();
            assert_eq!(get(&pair.pool, &pair.peer, "/small").await.unwrap().1, b"small");
            drop(hedge);
        }
        pass(Duration::from_secs(1)).await;
        assert_eq!(overloads(&pair), 0);
        assert_eq!(pair.pool.connections().len(), 1);
    });
}
