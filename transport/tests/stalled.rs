//! Readers that do not read: they hold their own stream up, and nobody else's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    time::Duration,
};

use common::{MILLISECOND, SECOND, body_of, get, pass, pour, reset_code, respond, start_get, start_post};
use http::StatusCode;
use tokio::time::Instant;
use weft_transport::{
    Config, Error, ErrorKind, Incoming, Processed,
    h3::{Code, ResponseHead},
    sim::{self, Link, Pair},
};

const MIB: usize = 1 << 20;

/// Answers `/big` with 4 MiB and all else with a few bytes; counts what ended early.
fn big_and_small(seed: u64, config: Config) -> (Pair, Rc<RefCell<Vec<Error>>>) {
    let cut = Rc::new(RefCell::new(Vec::new()));
    let errors = cut.clone();
    let pair = sim::pair(seed, Link::default(), config, move |incoming: Incoming| {
        let errors = errors.clone();
        tokio::task::spawn_local(async move {
            let mut stream = incoming.stream;
            let head = stream.request_head().await.unwrap();
            stream.mark_processed();
            if head.path.unwrap() == "/small" {
                return respond(stream, b"small").await.unwrap();
            }
            stream
                .send
                .queue_response(&ResponseHead::new(StatusCode::OK))
                .unwrap();
            let (_, result) = pour(&mut stream.send, 64 << 10, 4 * MIB).await;
            match result {
                Ok(()) => {
                    let _ = stream.send.queue_end();
                    let _ = stream.send.flush().await;
                }
                Err(error) => errors.borrow_mut().push(error),
            }
        });
    });
    (pair, cut)
}

/// The longest of many small requests, one after the other, within `duration`.
async fn slowest_small_request(pair: &Pair, duration: Duration) -> Duration {
    let (end, mut slowest) = (Instant::now() + duration, Duration::ZERO);
    while Instant::now() < end {
        let started = Instant::now();
        assert_eq!(get(&pair.pool, &pair.peer, "/small").await.unwrap().1, b"small");
        slowest = slowest.max(started.elapsed());
        pass(2 * MILLISECOND).await;
    }
    slowest
}

#[test]
fn a_hundred_stalled_readers_stall_nobody() {
    sim::run(async {
        let config = Config::default();
        let (max, window, stream_window) = (
            config.max_connections_per_peer,
            config.connection_window as usize,
            config.stream_window as usize,
        );
        let (pair, cut) = big_and_small(1, config);
        let mut stalled = Vec::new();
        for _ in 0..100 {
            stalled.push(start_get(&pair.pool, &pair.peer, "/big").await.unwrap());
        }
        // While the window fills, small requests share the wire with it; then they have another connection.
        let burst = slowest_small_request(&pair, SECOND).await;
        assert!(burst < 50 * MILLISECOND, "{burst:?}");
        let later = slowest_small_request(&pair, 20 * SECOND).await;
        assert!(later < 5 * MILLISECOND, "{later:?}");
        let connections = pair.pool.connections();
        assert!(
            (2..=max).contains(&connections.len()),
            "{} connections",
            connections.len()
        );

        // What is left of the stalled ones fits three quarters of the window.
        let reset = pair.pool_stats.stalled_streams.get() as usize;
        let left = 100 - reset;
        assert!(left * stream_window < window / 4 * 3, "{left} are left");
        assert!(
            (left + 1) * stream_window >= window / 4 * 3,
            "{left} are left: too many were reset"
        );
        // Each knows why.
        let mut readable = Vec::new();
        for mut stream in stalled {
            match stream.recv.response_head().await {
                Ok(_) => readable.push(stream),
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::Stalled), "{error:?}");
                    assert_eq!(error.processed(), Processed::Maybe);
                }
            }
        }
        assert_eq!(readable.len(), left);
        // The server was told to stop, and had not buffered the rest.
        assert_eq!(cut.borrow().len(), reset);
        let code = |error| reset_code(error) == Some(Code::H3_EXCESSIVE_LOAD);
        assert!(cut.borrow().iter().all(code));
        // Those that are left are read to their end after all.
        for stream in &mut readable {
            assert_eq!(body_of(&mut stream.recv).await.unwrap().len(), 4 * MIB);
        }
    });
}

#[test]
fn a_hundred_uploads_that_nobody_reads_stall_nobody_for_long() {
    sim::run(async {
        let pair = sim::pair(2, Link::default(), Config::default(), |incoming: Incoming| {
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                let head = stream.request_head().await.unwrap();
                stream.mark_processed();
                if head.path.unwrap() == "/small" {
                    return respond(stream, b"small").await.unwrap();
                }
                std::future::pending::<()>().await;
            });
        });
        let uploads: Vec<_> = {
            let mut uploads = Vec::new();
            for _ in 0..100 {
                let mut stream = start_post(&pair.pool, &pair.peer, "/big").await.unwrap();
                uploads.push(tokio::task::spawn_local(async move {
                    pour(&mut stream.send, 64 << 10, 4 * MIB).await
                }));
            }
            uploads
        };
        // The client cannot see whose fault it is that the window is full; the server sees to it.
        let burst = slowest_small_request(&pair, SECOND).await;
        assert!(burst < 1_300 * MILLISECOND, "{burst:?}");
        let later = slowest_small_request(&pair, 20 * SECOND).await;
        assert!(later < 5 * MILLISECOND, "{later:?}");
        let reset = pair.listener_stats.stalled_streams.get() as usize;
        assert!((70..90).contains(&reset), "{reset}");
        let (ended, waiting): (Vec<_>, Vec<_>) = uploads.into_iter().partition(|upload| upload.is_finished());
        assert_eq!((ended.len(), waiting.len()), (reset, 100 - reset));
        for upload in ended {
            let (sent, result) = upload.await.unwrap();
            assert!(
                sent <= MIB,
                "{sent} bytes were taken of an upload that nobody read"
            );
            assert_eq!(reset_code(&result.unwrap_err()), Some(Code::H3_EXCESSIVE_LOAD));
        }
    });
}

#[test]
fn a_stalled_reader_bounds_its_sender_and_leaves_the_others_alone() {
    sim::run(async {
        let sent = Rc::new(Cell::new(0));
        let count = sent.clone();
        let pair = sim::pair(
            3,
            Link::default(),
            Config::default(),
            move |incoming: Incoming| {
                let count = count.clone();
                tokio::task::spawn_local(async move {
                    let mut stream = incoming.stream;
                    let head = stream.request_head().await.unwrap();
                    stream.mark_processed();
                    stream
                        .send
                        .queue_response(&ResponseHead::new(StatusCode::OK))
                        .unwrap();
                    if head.path.unwrap() == "/read" {
                        pour(&mut stream.send, 64 << 10, 40 * MIB).await.1.unwrap();
                        stream.send.queue_end().unwrap();
                        return stream.send.flush().await.unwrap();
                    }
                    loop {
                        let (chunk, _) = pour(&mut stream.send, 10_000, 10_000).await;
                        count.set(count.get() + chunk);
                    }
                });
            },
        );
        let window = Config::default().stream_window as usize;
        let mut stalled = start_get(&pair.pool, &pair.peer, "/stalled").await.unwrap();
        stalled.recv.response_head().await.unwrap();
        pass(SECOND).await;
        let blocked_at = sent.get();
        assert!(blocked_at > window / 2 && blocked_at <= window, "{blocked_at}");
        let mut read = start_get(&pair.pool, &pair.peer, "/read").await.unwrap();
        read.recv.response_head().await.unwrap();
        let started = Instant::now();
        assert_eq!(body_of(&mut read.recv).await.unwrap().len(), 40 * MIB);
        assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
        pass(60 * SECOND).await;
        assert_eq!(sent.get(), blocked_at, "the sender waits");
        // What is read makes room for as much.
        let mut received = 0;
        while received < 3 * MIB {
            received += poll_fn(|cx| stalled.recv.poll_data(cx))
                .await
                .unwrap()
                .unwrap()
                .len();
        }
        pass(SECOND).await;
        assert!(
            sent.get() > blocked_at + 2 * MIB && sent.get() <= received + window,
            "{}",
            sent.get()
        );
        assert_eq!(pair.pool_stats.stalled_streams.get(), 0);
    });
}

#[test]
fn requests_that_were_read_and_wait_for_their_answer_are_not_stalled() {
    sim::run(async {
        let pair = sim::pair(4, Link::default(), Config::default(), |incoming: Incoming| {
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                stream.request_head().await.unwrap();
                stream.mark_processed();
                let body = body_of(&mut stream.recv).await.unwrap();
                if body.len() == 20_000 {
                    pass(10 * SECOND).await;
                }
                respond(stream, b"at last").await.unwrap();
            });
        });
        let mut waiting = Vec::new();
        for _ in 0..200 {
            let mut stream = start_post(&pair.pool, &pair.peer, "/").await.unwrap();
            pour(&mut stream.send, 1_000, 20_000).await.1.unwrap();
            stream.send.queue_end().unwrap();
            stream.send.flush().await.unwrap();
            waiting.push(stream);
        }
        // More than the window passes by them meanwhile.
        let mut bulk = start_post(&pair.pool, &pair.peer, "/").await.unwrap();
        pour(&mut bulk.send, 64 << 10, 40 * MIB).await.1.unwrap();
        bulk.send.queue_end().unwrap();
        bulk.send.flush().await.unwrap();
        bulk.recv.response_head().await.unwrap();
        for stream in &mut waiting {
            stream.recv.response_head().await.unwrap();
            assert_eq!(body_of(&mut stream.recv).await.unwrap(), b"at last");
        }
        assert_eq!(pair.listener_stats.stalled_streams.get(), 0);
        assert_eq!(pair.pool.connections().len(), 1);
    });
}

#[test]
fn readers_that_leave_a_little_unread_are_left_alone() {
    sim::run(async {
        let pair = sim::pair(5, Link::default(), Config::default(), |incoming: Incoming| {
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                stream.request_head().await.unwrap();
                stream.mark_processed();
                stream
                    .send
                    .queue_response(&ResponseHead::new(StatusCode::OK))
                    .unwrap();
                // Events, now and then.
                for _ in 0..5 {
                    pour(&mut stream.send, 1_000, 1_000).await.1.unwrap();
                    pass(SECOND).await;
                }
                stream.send.queue_end().unwrap();
                stream.send.flush().await.unwrap();
            });
        });
        let mut readers = Vec::new();
        for _ in 0..100 {
            readers.push(start_get(&pair.pool, &pair.peer, "/events").await.unwrap());
        }
        pass(20 * SECOND).await;
        for stream in &mut readers {
            stream.recv.response_head().await.unwrap();
            assert_eq!(body_of(&mut stream.recv).await.unwrap().len(), 5_000);
        }
        assert_eq!(pair.pool_stats.stalled_streams.get(), 0);
    });
}

#[test]
fn slow_readers_that_live_are_left_alone() {
    sim::run(async {
        let (pair, _) = big_and_small(6, Config::default());
        // Together they may hold the whole window; each takes a little every half second.
        let mut readers = Vec::new();
        for _ in 0..30 {
            let mut stream = start_get(&pair.pool, &pair.peer, "/big").await.unwrap();
            stream.recv.response_head().await.unwrap();
            readers.push(stream);
        }
        for _ in 0..20 {
            pass(SECOND / 2).await;
            for stream in &mut readers {
                poll_fn(|cx| stream.recv.poll_data(cx)).await.unwrap().unwrap();
            }
        }
        assert_eq!(pair.pool_stats.stalled_streams.get(), 0);
    });
}
