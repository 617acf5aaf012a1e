//! Messages on request streams: cancelled, cut short, answered early, with trailers and interim heads.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
};

use bytes::Bytes;
use common::{
    MILLISECOND, SECOND, body_of, echo, get, pass, pattern, post, pour, request, reset_code, respond,
    start_get, start_post,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::sync::{mpsc, oneshot};
use weft_transport::{
    Config, Error, ErrorKind, Incoming, Lost, Processed, RequestStream,
    h3::{Code, RequestHead, ResponseHead},
    sim::{self, Link, Pair},
};

/// A pair whose listener runs `handler` for each request, and a handle on what it returns.
fn serve<F, T>(
    seed: u64,
    config: Config,
    handler: impl Fn(RequestStream) -> F + 'static,
) -> (Pair, mpsc::UnboundedReceiver<T>)
where
    F: Future<Output = T> + 'static,
    T: 'static,
{
    let (results, received) = mpsc::unbounded_channel();
    let pair = sim::pair(seed, Link::default(), config, move |incoming: Incoming| {
        let (results, handling) = (results.clone(), handler(incoming.stream));
        tokio::task::spawn_local(async move {
            let _ = results.send(handling.await);
        });
    });
    (pair, received)
}

/// So few streams that one that is never given back is missed at once.
fn few_streams() -> Config {
    let mut config = Config::default();
    config.streams.initial = 4;
    config.streams.max = 4;
    config
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
        .collect()
}

#[test]
fn a_request_dropped_midway_is_reset_and_never_looks_complete() {
    sim::run(async {
        let (pair, mut results) = serve(1, Config::default(), |mut stream| async move {
            stream.request_head().await.unwrap();
            let mut received = 0;
            loop {
                match poll_fn(|cx| stream.recv.poll_data(cx)).await {
                    Ok(Some(data)) => received += data.len(),
                    Ok(None) => return Ok(received),
                    Err(error) => return Err(error),
                }
            }
        });
        let mut stream = start_post(&pair.pool, &pair.peer, "/").await.unwrap();
        pour(&mut stream.send, 1_000, 50_000).await.1.unwrap();
        // Else the reset overtakes the head.
        pass(MILLISECOND).await;
        drop(stream);
        let error = results.recv().await.unwrap().unwrap_err();
        assert_eq!(reset_code(&error), Some(Code::H3_REQUEST_CANCELLED));
    });
}

#[test]
fn what_a_server_says_by_its_abort_depends_on_what_it_did() {
    type Abort = fn(RequestStream);
    let table: [(&str, Abort, Code, Processed); 5] = [
        ("dropped unseen", |_| {}, Code::H3_REQUEST_REJECTED, Processed::No),
        (
            "rejected",
            RequestStream::reject,
            Code::H3_REQUEST_REJECTED,
            Processed::No,
        ),
        (
            "dropped when the application may have seen it",
            |mut stream| stream.mark_processed(),
            Code::H3_INTERNAL_ERROR,
            Processed::Maybe,
        ),
        (
            "rejected in spite of having been processed is what the caller says",
            |mut stream| {
                stream.mark_processed();
                stream.reject();
            },
            Code::H3_REQUEST_REJECTED,
            Processed::No,
        ),
        (
            "reset with a code",
            |mut stream| stream.send.reset(Code::H3_CONNECT_ERROR),
            Code::H3_CONNECT_ERROR,
            Processed::Maybe,
        ),
    ];
    for (what, abort, code, processed) in table {
        sim::run(async move {
            let (pair, _results) = serve(2, Config::default(), move |mut stream| async move {
                stream.request_head().await.unwrap();
                abort(stream);
            });
            let error = get(&pair.pool, &pair.peer, "/").await.unwrap_err();
            assert_eq!(
                (reset_code(&error), error.processed()),
                (Some(code), processed),
                "{what}"
            );
        });
    }
}

#[test]
fn an_early_answer_stops_the_upload_and_arrives_whole() {
    sim::run(async {
        let (pair, _results) = serve(3, few_streams(), |mut stream| async move {
            stream.request_head().await.unwrap();
            stream.mark_processed();
            stream.recv.stop(Code::H3_NO_ERROR);
            respond(stream, b"too large").await
        });
        // More often than there are streams: each must be given back.
        for _ in 0..20 {
            let mut stream = start_post(&pair.pool, &pair.peer, "/").await.unwrap();
            let (_, ended) = pour(&mut stream.send, 100_000, usize::MAX).await;
            assert_eq!(reset_code(&ended.unwrap_err()), Some(Code::H3_NO_ERROR));
            assert_eq!(stream.recv.response_head().await.unwrap().status, StatusCode::OK);
            assert_eq!(body_of(&mut stream.recv).await.unwrap(), b"too large");
        }
        assert_eq!(pair.listener_stats.handshakes.get(), 1);
    });
}

/// As when policy denies a request: the application never sees it, and the answer is whole.
#[test]
fn an_answer_instead_of_the_application_stops_the_upload_without_error() {
    sim::run(async {
        let (pair, _results) = serve(3, few_streams(), |mut stream| async move {
            stream.request_head().await.unwrap();
            let RequestStream { mut send, recv } = stream;
            drop(recv);
            send.queue_response(&ResponseHead::new(StatusCode::FORBIDDEN))?;
            send.queue_end()?;
            send.flush().await
        });
        for _ in 0..20 {
            let mut stream = start_post(&pair.pool, &pair.peer, "/").await.unwrap();
            let (_, ended) = pour(&mut stream.send, 100_000, usize::MAX).await;
            // H3_REQUEST_REJECTED would say that the request may go elsewhere.
            assert_eq!(reset_code(&ended.unwrap_err()), Some(Code::H3_NO_ERROR));
            let head = stream.recv.response_head().await.unwrap();
            assert_eq!(head.status, StatusCode::FORBIDDEN);
            assert_eq!(body_of(&mut stream.recv).await.unwrap(), b"");
        }
    });
}

#[test]
fn a_cancelled_response_stops_the_server_and_gives_the_stream_back() {
    sim::run(async {
        let (pair, mut results) = serve(4, few_streams(), |mut stream| async move {
            stream.request_head().await.unwrap();
            stream.mark_processed();
            stream
                .send
                .queue_response(&ResponseHead::new(StatusCode::OK))
                .unwrap();
            pour(&mut stream.send, 100_000, usize::MAX).await.1
        });
        for _ in 0..20 {
            let mut stream = start_get(&pair.pool, &pair.peer, "/").await.unwrap();
            stream.recv.response_head().await.unwrap();
            poll_fn(|cx| stream.recv.poll_data(cx)).await.unwrap();
            drop(stream);
            let error = results.recv().await.unwrap().unwrap_err();
            assert_eq!(reset_code(&error), Some(Code::H3_REQUEST_CANCELLED));
        }
        assert_eq!(pair.listener_stats.handshakes.get(), 1);
    });
}

#[test]
fn a_server_that_only_waits_learns_that_the_client_went_away() {
    sim::run(async {
        let (pair, mut results) = serve(5, few_streams(), |mut stream| async move {
            stream.request_head().await.unwrap();
            stream.mark_processed();
            poll_fn(|cx| stream.send.poll_stopped(cx)).await;
        });
        for _ in 0..20 {
            let stream = start_get(&pair.pool, &pair.peer, "/").await.unwrap();
            pass(10 * MILLISECOND).await;
            assert!(results.is_empty(), "it waits while the client does");
            drop(stream);
            results.recv().await.unwrap();
        }
    });
}

#[test]
fn trailers_pass_both_ways() {
    sim::run(async {
        let (pair, _results) = serve(6, Config::default(), |mut stream| async move {
            stream.request_head().await.unwrap();
            stream.mark_processed();
            assert!(stream.recv.trailers().is_none(), "before the end there are none");
            let body = body_of(&mut stream.recv).await.unwrap();
            let trailers = stream.recv.trailers().unwrap();
            stream
                .send
                .queue_response(&ResponseHead::new(StatusCode::OK))
                .unwrap();
            stream.send.queue_data(body.into()).unwrap();
            stream.send.queue_trailers(&trailers).unwrap();
            stream.send.queue_end().unwrap();
            stream.send.flush().await.unwrap();
        });
        let trailers = fields(&[
            ("grpc-status", "0"),
            ("grpc-message", "fine"),
            ("checksum", "abc"),
        ]);
        let mut stream = start_post(&pair.pool, &pair.peer, "/").await.unwrap();
        stream.send.queue_data(Bytes::from(pattern(30_000))).unwrap();
        stream.send.queue_trailers(&trailers).unwrap();
        stream.send.queue_end().unwrap();
        stream.send.flush().await.unwrap();
        stream.recv.response_head().await.unwrap();
        assert_eq!(body_of(&mut stream.recv).await.unwrap(), pattern(30_000));
        assert_eq!(stream.recv.trailers(), Some(trailers));
        // Nothing may follow trailers.
        let mut stream = start_post(&pair.pool, &pair.peer, "/").await.unwrap();
        stream.send.queue_trailers(&fields(&[("a", "b")])).unwrap();
        let error = stream.send.queue_data(Bytes::from_static(b"late")).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsendable(_)), "{error:?}");
    });
}

#[test]
fn interim_heads_come_before_the_final_one_each_as_it_is_sent() {
    sim::run(async {
        let (go_on, mut went_on) = oneshot::channel();
        let gate = RefCell::new(Some(go_on));
        let gate = Rc::new(gate);
        let sender = gate.clone();
        let (pair, _results) = serve(7, Config::default(), move |mut stream| {
            let sender = sender.clone();
            async move {
                stream.request_head().await.unwrap();
                stream
                    .send
                    .queue_response(&ResponseHead::new(StatusCode::CONTINUE))
                    .unwrap();
                stream.send.flush().await.unwrap();
                // Nothing more until the client has reacted to it.
                let body = body_of(&mut stream.recv).await.unwrap();
                let _ = sender.take().unwrap().send(body);
                let mut hints = ResponseHead::new(StatusCode::from_u16(103).unwrap());
                hints.headers = fields(&[("link", "</style.css>")]);
                stream.send.queue_response(&hints).unwrap();
                respond(stream, b"final").await.unwrap();
            }
        });
        let mut stream = start_post(&pair.pool, &pair.peer, "/").await.unwrap();
        assert_eq!(
            stream.recv.response_head().await.unwrap().status,
            StatusCode::CONTINUE
        );
        stream.send.queue_data(Bytes::from_static(b"expected")).unwrap();
        stream.send.queue_end().unwrap();
        stream.send.flush().await.unwrap();
        let hints = stream.recv.response_head().await.unwrap();
        assert!(hints.is_interim() && hints.headers.contains_key("link"));
        assert_eq!(stream.recv.response_head().await.unwrap().status, StatusCode::OK);
        assert_eq!(body_of(&mut stream.recv).await.unwrap(), b"final");
        assert_eq!(went_on.try_recv().unwrap(), b"expected");
    });
}

#[test]
fn a_response_to_head_has_a_length_and_no_content() {
    sim::run(async {
        let (pair, mut results) = serve(8, Config::default(), |mut stream| async move {
            let head = stream.request_head().await.unwrap();
            stream.mark_processed();
            let mut response = ResponseHead::new(StatusCode::OK);
            response.headers = fields(&[("content-length", "1000000")]);
            stream.send.queue_response(&response).unwrap();
            let refused = stream.send.queue_data(Bytes::from_static(b"content")).is_err();
            stream.send.queue_end().unwrap();
            stream.send.flush().await.unwrap();
            (head.method, refused)
        });
        let mut stream = pair.pool.stream(&pair.peer).await.unwrap();
        stream.queue_request(&request(Method::HEAD, "/")).unwrap();
        stream.send.queue_end().unwrap();
        stream.send.flush().await.unwrap();
        let head = stream.recv.response_head().await.unwrap();
        assert_eq!(head.headers[header::CONTENT_LENGTH], "1000000");
        assert_eq!(body_of(&mut stream.recv).await.unwrap(), b"");
        assert_eq!(results.recv().await.unwrap(), (Method::HEAD, true));
    });
}

/// What one side does with a message that announced 10 bytes.
async fn send_wrong_length(stream: &mut RequestStream, length: usize) -> Error {
    let sent = match stream.send.queue_data(vec![0; length].into()) {
        Ok(()) => {
            stream.send.flush().await.unwrap();
            stream.send.queue_end()
        }
        Err(error) => Err(error),
    };
    sent.unwrap_err()
}

#[test]
fn a_message_of_another_length_than_announced_is_never_sent_as_whole() {
    for length in [0, 9, 11] {
        sim::run(async move {
            let announced = || fields(&[("content-length", "10")]);
            let (pair, mut results) = serve(9, Config::default(), move |mut stream| async move {
                let head = stream.request_head().await.unwrap();
                stream.mark_processed();
                if head.method == Method::POST {
                    return body_of(&mut stream.recv).await.map(|_| ());
                }
                let mut response = ResponseHead::new(StatusCode::OK);
                response.headers = announced();
                stream.send.queue_response(&response).unwrap();
                let error = send_wrong_length(&mut stream, length).await;
                stream.send.flush().await.unwrap();
                pass(MILLISECOND).await;
                Err(error)
            });
            // Another stream of the connection is open all the while.
            let mut other = start_post(&pair.pool, &pair.peer, "/other").await.unwrap();

            let mut stream = pair.pool.stream(&pair.peer).await.unwrap();
            let head = RequestHead {
                headers: announced(),
                ..post("/")
            };
            stream.queue_request(&head).unwrap();
            let error = send_wrong_length(&mut stream, length).await;
            assert!(matches!(error.kind(), ErrorKind::Unsendable(_)), "{error:?}");
            stream.send.flush().await.unwrap();
            pass(MILLISECOND).await;
            drop(stream);
            let error = results.recv().await.unwrap().unwrap_err();
            assert_eq!(reset_code(&error), Some(Code::H3_REQUEST_CANCELLED));

            let error = get(&pair.pool, &pair.peer, "/").await.unwrap_err();
            assert_eq!(reset_code(&error), Some(Code::H3_INTERNAL_ERROR), "{error:?}");
            results.recv().await.unwrap().unwrap_err();

            other.send.queue_end().unwrap();
            other.send.flush().await.unwrap();
            results.recv().await.unwrap().unwrap();
            assert_eq!(pair.listener_stats.handshakes.get(), 1);
        });
    }
}

#[test]
fn a_head_that_the_peer_will_not_take_is_refused_here() {
    sim::run(async {
        let (pair, _results) = serve(10, Config::default(), |stream| respond(stream, b"ok"));
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        let mut head = request(Method::GET, "/");
        let value = HeaderValue::from_str(&"x".repeat(1 << 20)).unwrap();
        head.headers.insert("large", value);
        let mut stream = pair.pool.stream(&pair.peer).await.unwrap();
        let error = stream.queue_request(&head).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsendable(_)), "{error:?}");
        drop(stream);
        get(&pair.pool, &pair.peer, "/").await.unwrap();
    });
}

#[test]
fn nothing_hangs_when_one_end_is_taken_away() {
    sim::run(async {
        let (pair, mut results) = serve(11, Config::default(), |mut stream| async move {
            stream.request_head().await.unwrap();
            stream.mark_processed();
            body_of(&mut stream.recv).await.map(|_| ())
        });
        let Pair {
            pool, peer, listener, ..
        } = pair;
        let mut stream = start_post(&pool, &peer, "/").await.unwrap();
        pass(10 * MILLISECOND).await;
        // The client's own pool ends, under its stream.
        drop(pool);
        let error = stream.recv.response_head().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Lost(Lost::Local)), "{error:?}");
        // And so does the listener, under its request.
        assert!(results.is_empty());
        drop(listener);
        let error = results.recv().await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Lost(Lost::Local)), "{error:?}");
    });
}

#[test]
fn a_stream_that_outlives_its_connection_harms_no_later_one() {
    sim::run(async {
        let config = Config {
            idle_timeout: 2 * SECOND,
            keep_alive: SECOND,
            ..Config::default()
        };
        let pair = sim::pair(12, Link::default(), config, |incoming| {
            tokio::task::spawn_local(echo(incoming));
        });
        let mut old = start_post(&pair.pool, &pair.peer, "/").await.unwrap();
        pour(&mut old.send, 1_000, 1_000).await.1.unwrap();
        old.recv.response_head().await.unwrap();
        pair.network.set_cut(true);
        let error = body_of(&mut old.recv).await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Lost(Lost::TimedOut)),
            "{error:?}"
        );
        pass(5 * SECOND).await;
        pair.network.set_cut(false);
        get(&pair.pool, &pair.peer, "/").await.unwrap();
        // quinn-proto gives the new connection the number that the old one had.
        drop(old);
        for _ in 0..10 {
            get(&pair.pool, &pair.peer, "/").await.unwrap();
            pass(SECOND).await;
        }
        assert_eq!(pair.pool_stats.handshakes.get(), 2);
    });
}

#[test]
fn each_half_ends_by_itself() {
    sim::run(async {
        let (pair, mut results) = serve(13, Config::default(), |mut stream| async move {
            stream.request_head().await.unwrap();
            stream.mark_processed();
            stream
                .send
                .queue_response(&ResponseHead::new(StatusCode::OK))
                .unwrap();
            stream.send.queue_end().unwrap();
            stream.send.flush().await.unwrap();
            body_of(&mut stream.recv).await
        });
        let mut stream = start_post(&pair.pool, &pair.peer, "/").await.unwrap();
        stream.recv.response_head().await.unwrap();
        assert_eq!(body_of(&mut stream.recv).await.unwrap(), b"");
        // The answer is whole, and the request still goes on.
        let received = Cell::new(0);
        for _ in 0..10 {
            stream.send.queue_data(Bytes::from_static(b"more")).unwrap();
            stream.send.flush().await.unwrap();
            received.set(received.get() + 4);
            pass(100 * MILLISECOND).await;
        }
        stream.send.queue_end().unwrap();
        stream.send.flush().await.unwrap();
        assert_eq!(results.recv().await.unwrap().unwrap().len(), received.get());
    });
}
