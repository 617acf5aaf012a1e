//! Tunnels: bytes of an application in a CONNECT stream, for as long as it likes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::{cell::RefCell, future::poll_fn, io, rc::Rc};

use bytes::Bytes;
use common::{MILLISECOND, SECOND, body_of, get, pass, pattern, pour, reset_code, respond};
use http::{Method, StatusCode, uri::Authority};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
};
use weft_transport::{
    Config, Error, ErrorKind, Incoming, PeerKey, Pool, Processed, RequestStream, TunnelEnd, TunnelError,
    copy_tunnel,
    h3::{Code, RequestHead, ResponseHead},
    sim::{self, Link, Pair},
};

/// Small, so that a tunnel's end soon feels what the other does.
const PIPE: usize = 4_096;

async fn connect(pool: &Pool, peer: &PeerKey) -> Result<RequestStream, Error> {
    let mut stream = pool.stream(peer).await?;
    stream.queue_request(&RequestHead::connect(Authority::from_static("server:5432")))?;
    stream.send.flush().await?;
    let head = stream.recv.response_head().await?;
    assert_eq!(head.status, StatusCode::OK);
    Ok(stream)
}

/// A listener that takes tunnels and hands out the application's end of each.
fn tunnels(
    seed: u64,
) -> (
    Pair,
    mpsc::UnboundedReceiver<DuplexStream>,
    mpsc::UnboundedReceiver<TunnelEnd>,
) {
    let (applications, accepted) = mpsc::unbounded_channel();
    let (ends, ended) = mpsc::unbounded_channel();
    let pair = sim::pair(
        seed,
        Link::default(),
        Config::default(),
        move |incoming: Incoming| {
            let (applications, ends) = (applications.clone(), ends.clone());
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                let head = stream.request_head().await.unwrap();
                assert_eq!((head.method, head.path), (Method::CONNECT, None));
                stream.mark_processed();
                stream
                    .send
                    .queue_response(&ResponseHead::new(StatusCode::OK))
                    .unwrap();
                stream.send.flush().await.unwrap();
                let (mut near, far) = tokio::io::duplex(PIPE);
                let _ = applications.send(far);
                let _ = ends.send(copy_tunnel(&mut near, stream).await);
            });
        },
    );
    (pair, accepted, ended)
}

/// The same on the dialling side: the application's end, and how the tunnel ends.
async fn open(pair: &Pair) -> (DuplexStream, tokio::task::JoinHandle<TunnelEnd>) {
    let stream = connect(&pair.pool, &pair.peer).await.unwrap();
    let (mut near, far) = tokio::io::duplex(PIPE);
    let tunnel = tokio::task::spawn_local(async move { copy_tunnel(&mut near, stream).await });
    (far, tunnel)
}

#[test]
fn bytes_pass_both_ways_and_each_way_ends_by_itself() {
    for client_first in [true, false] {
        sim::run(async move {
            let (pair, mut accepted, mut ended) = tunnels(1);
            let (client, tunnel) = open(&pair).await;
            let server = accepted.recv().await.unwrap();
            let (mut first, mut second) = if client_first {
                (client, server)
            } else {
                (server, client)
            };
            // The first side says all that it has to say.
            let sent = pattern(300_000);
            let (written, mut read) = (sent.clone(), Vec::new());
            let say = async {
                first.write_all(&written).await.unwrap();
                first.shutdown().await.unwrap();
            };
            let (_, result) = tokio::join!(say, second.read_to_end(&mut read));
            result.unwrap();
            assert!(read == sent);
            // The second, which has seen the end, can still answer.
            pass(SECOND).await;
            assert!(!tunnel.is_finished() && ended.is_empty());
            second.write_all(b"a late answer").await.unwrap();
            second.shutdown().await.unwrap();
            let mut answer = Vec::new();
            first.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"a late answer");
            let (dialled, taken) = (tunnel.await.unwrap(), ended.recv().await.unwrap());
            assert!(
                dialled.error.is_none() && taken.error.is_none(),
                "{dialled:?} {taken:?}"
            );
            assert_eq!((dialled.sent, dialled.received), (taken.received, taken.sent));
            assert_eq!(dialled.sent + dialled.received, 300_000 + 13);
        });
    }
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    sim::run(async {
        let (pair, mut accepted, _ended) = tunnels(2);
        let (mut client, _tunnel) = open(&pair).await;
        let mut server = accepted.recv().await.unwrap();
        server.write_all(b"220 ready").await.unwrap();
        let mut greeting = [0; 9];
        client.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 ready");
    });
}

/// An application connection that fails when it is read.
struct Broken;

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

impl tokio::io::AsyncWrite for Broken {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::task::Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[test]
fn a_reset_of_one_application_is_a_reset_of_the_other() {
    sim::run(async {
        let (pair, mut accepted, mut ended) = tunnels(3);
        let stream = connect(&pair.pool, &pair.peer).await.unwrap();
        let _server = accepted.recv().await.unwrap();
        let dialled = copy_tunnel(&mut Broken, stream).await;
        assert!(
            matches!(dialled.error, Some(TunnelError::Application(_))),
            "{dialled:?}"
        );
        let taken = ended.recv().await.unwrap();
        let Some(TunnelError::Peer(error)) = taken.error else {
            panic!("{taken:?}")
        };
        assert_eq!(reset_code(&error), Some(Code::H3_CONNECT_ERROR));
    });
}

#[test]
fn a_tunnel_whose_task_ends_resets_both_ways() {
    sim::run(async {
        let (pair, mut accepted, mut ended) = tunnels(4);
        let (mut client, tunnel) = open(&pair).await;
        let mut server = accepted.recv().await.unwrap();
        client.write_all(b"hello").await.unwrap();
        server.read_exact(&mut [0; 5]).await.unwrap();
        tunnel.abort();
        let taken = ended.recv().await.unwrap();
        let Some(TunnelError::Peer(error)) = taken.error else {
            panic!("{taken:?}")
        };
        assert_eq!(reset_code(&error), Some(Code::H3_REQUEST_CANCELLED));
        assert_eq!(taken.received, 5);
    });
}

#[test]
fn an_application_that_does_not_read_stops_the_one_that_writes() {
    sim::run(async {
        let (pair, mut accepted, _ended) = tunnels(5);
        let (mut client, _tunnel) = open(&pair).await;
        let mut server = accepted.recv().await.unwrap();
        let written = Rc::new(RefCell::new(0));
        let count = written.clone();
        tokio::task::spawn_local(async move {
            while client.write_all(&[0; 1_000]).await.is_ok() {
                *count.borrow_mut() += 1_000;
            }
        });
        pass(SECOND).await;
        let blocked_at = *written.borrow();
        // One stream window, both pipes and what is in hand between them.
        let window = Config::default().stream_window as usize;
        assert!(
            blocked_at > window / 2 && blocked_at < window + 20 * PIPE,
            "{blocked_at}"
        );
        pass(10 * SECOND).await;
        assert_eq!(*written.borrow(), blocked_at);
        let mut buffer = vec![0; blocked_at];
        server.read_exact(&mut buffer).await.unwrap();
        pass(SECOND).await;
        assert!(*written.borrow() > blocked_at + window / 2);
    });
}

#[test]
fn tunnels_without_end_never_take_the_room_of_requests() {
    sim::run(async {
        let mut config = Config::default();
        config.streams.initial = 64;
        config.streams.max = 4_096;
        let pair = sim::pair(6, Link::default(), config, |incoming: Incoming| {
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                let head = stream.request_head().await.unwrap();
                if head.method != Method::CONNECT {
                    return respond(stream, b"ok").await.unwrap();
                }
                let Ok(slot) = stream.send.admit_tunnel() else {
                    return stream.reject();
                };
                stream.mark_processed();
                stream
                    .send
                    .queue_response(&ResponseHead::new(StatusCode::OK))
                    .unwrap();
                stream.send.flush().await.unwrap();
                // Open until the other side ends it.
                let _ = body_of(&mut stream.recv).await;
                drop(slot);
            });
        });
        let mut open = Vec::new();
        let refused = loop {
            match connect(&pair.pool, &pair.peer).await {
                Ok(stream) => open.push(stream),
                Err(error) => break error,
            }
            if open.len() % 500 == 0 {
                get(&pair.pool, &pair.peer, "/").await.unwrap();
            }
        };
        assert_eq!(open.len(), 3_072, "three quarters of the streams");
        assert_eq!(refused.processed(), Processed::No, "another endpoint may take it");
        // Requests pass, a thousand at once, and the tunnels still work.
        let requests: Vec<_> = (0..1_000)
            .map(|_| {
                let (pool, peer) = (pair.pool.clone(), pair.peer.clone());
                tokio::task::spawn_local(async move { get(&pool, &peer, "/").await })
            })
            .collect();
        for request in requests {
            assert_eq!(request.await.unwrap().unwrap().1, b"ok");
        }
        assert_eq!(pair.pool.connections().len(), 1);
        pour(&mut open[0].send, 1_000, 1_000).await.1.unwrap();
        // One that ends makes room for one.
        let mut ended = open.pop().unwrap();
        ended.send.queue_end().unwrap();
        ended.send.flush().await.unwrap();
        let error = poll_fn(|cx| ended.recv.poll_data(cx)).await.unwrap_err();
        assert!(reset_code(&error).is_some());
        pass(10 * MILLISECOND).await;
        open.push(connect(&pair.pool, &pair.peer).await.unwrap());
        let error = connect(&pair.pool, &pair.peer).await.err().unwrap();
        assert_eq!(error.processed(), Processed::No);
    });
}

#[test]
fn when_every_stream_is_taken_a_request_waits_for_one() {
    sim::run(async {
        let mut config = Config::default();
        config.streams.initial = 4;
        config.streams.max = 4;
        let pair = sim::pair(7, Link::default(), config, |incoming: Incoming| {
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                stream.request_head().await.unwrap();
                pass(SECOND).await;
                let _ = respond(stream, b"ok").await;
            });
        });
        let started = tokio::time::Instant::now();
        let requests: Vec<_> = (0..12)
            .map(|_| {
                let (pool, peer) = (pair.pool.clone(), pair.peer.clone());
                tokio::task::spawn_local(async move { get(&pool, &peer, "/").await })
            })
            .collect();
        for request in requests {
            request.await.unwrap().unwrap();
        }
        let took = started.elapsed();
        assert!(took > 3 * SECOND && took < 4 * SECOND, "{took:?}");
    });
}

#[test]
fn a_connect_that_is_answered_with_a_failure_is_a_message() {
    sim::run(async {
        let pair = sim::pair(8, Link::default(), Config::default(), |incoming: Incoming| {
            tokio::task::spawn_local(async move {
                let mut stream = incoming.stream;
                stream.request_head().await.unwrap();
                stream.mark_processed();
                stream
                    .send
                    .queue_response(&ResponseHead::new(StatusCode::NOT_FOUND))
                    .unwrap();
                stream
                    .send
                    .queue_data(Bytes::from_static(b"no such port"))
                    .unwrap();
                stream.send.queue_end().unwrap();
                stream.send.flush().await.unwrap();
            });
        });
        let mut stream = pair.pool.stream(&pair.peer).await.unwrap();
        stream
            .queue_request(&RequestHead::connect(Authority::from_static("server:1")))
            .unwrap();
        stream.send.flush().await.unwrap();
        assert_eq!(
            stream.recv.response_head().await.unwrap().status,
            StatusCode::NOT_FOUND
        );
        assert_eq!(body_of(&mut stream.recv).await.unwrap(), b"no such port");
        // What the tunnel would have carried goes nowhere.
        let (_, result) = pour(&mut stream.send, 10_000, 100 << 20).await;
        assert!(matches!(result.unwrap_err().kind(), ErrorKind::Reset(_)));
    });
}
