//! Our pool calls their server.

use std::{future::poll_fn, rc::Rc};

use bytes::Bytes;
use http::{Method, StatusCode};
use weft_transport::{
    DialFailure, Error, ErrorKind, PeerKey, Processed, credentials::testing::Authority, h3::Code,
};

use crate::{
    ours::{Dialler, TRUST_DOMAIN, body_of, dial, fields, pattern},
    theirs::{TheirServer, serve},
};

fn joined() -> (TheirServer, Rc<Dialler>) {
    joined_with(1)
}

fn joined_with(beyond: usize) -> (TheirServer, Rc<Dialler>) {
    let authority = Authority::new(TRUST_DOMAIN);
    let theirs = serve(&authority, beyond);
    let ours = dial(&authority, theirs.address);
    (theirs, ours)
}

async fn is_well(ours: &Dialler) {
    assert_eq!(ours.get("/hello").await.unwrap(), b"hello");
    assert_eq!(ours.stats.handshakes.get(), 1, "on the same connection");
}

fn code_of(error: &Error) -> Option<Code> {
    match error.kind() {
        ErrorKind::Reset(code) => Some(*code),
        _ => None,
    }
}

pub(crate) async fn requests_carry_our_identity() {
    let (mut theirs, ours) = joined();
    assert_eq!(ours.get("/hello").await.unwrap(), b"hello");
    let (caller, path, code) = theirs.seen.recv().await.unwrap();
    assert_eq!(
        (caller.as_str(), path.as_str(), code),
        ("spiffe://example.org/ns/default/sa/client", "/hello", None)
    );
    let mut stream = ours.start(Method::GET, "/nowhere").await.unwrap();
    assert_eq!(
        stream.recv.response_head().await.unwrap().status,
        StatusCode::NOT_FOUND
    );
    let (key, info) = &ours.pool.connections()[0];
    assert_eq!(info.identity.as_ref(), Some(&key.identity));
}

pub(crate) async fn large_bodies_pass_both_ways() {
    let (_theirs, ours) = joined();
    let sent = pattern(16 << 20);
    let stream = ours.start(Method::POST, "/echo").await.unwrap();
    let (mut send, mut recv) = (stream.send, stream.recv);
    let body = sent.clone();
    let upload = async {
        for chunk in (0..body.len()).step_by(100_000) {
            send.queue_data(body.slice(chunk..body.len().min(chunk + 100_000)))
                .unwrap();
            send.flush().await.unwrap();
        }
        send.queue_end().unwrap();
        send.flush().await.unwrap();
    };
    let download = async {
        recv.response_head().await.unwrap();
        body_of(&mut recv).await.unwrap()
    };
    let ((), received) = tokio::join!(upload, download);
    assert!(received == sent);
}

pub(crate) async fn trailers_pass_both_ways() {
    let (_theirs, ours) = joined();
    let trailers = fields(&[("grpc-status", "0"), ("checksum", "abc")]);
    let mut stream = ours.start(Method::POST, "/echo").await.unwrap();
    // h3 0.0.8 takes an empty DATA frame for an error: ours never sends one.
    stream.send.queue_data(Bytes::new()).unwrap();
    stream.send.queue_data(Bytes::from_static(b"body")).unwrap();
    stream.send.queue_trailers(&trailers).unwrap();
    stream.send.queue_end().unwrap();
    stream.send.flush().await.unwrap();
    stream.recv.response_head().await.unwrap();
    assert_eq!(body_of(&mut stream.recv).await.unwrap(), b"body");
    assert_eq!(stream.recv.trailers(), Some(trailers));
}

pub(crate) async fn a_response_to_head_has_no_content() {
    let (_theirs, ours) = joined();
    let mut stream = ours.start(Method::HEAD, "/hello").await.unwrap();
    assert_eq!(
        stream.recv.response_head().await.unwrap().headers["content-length"],
        "5"
    );
    assert_eq!(body_of(&mut stream.recv).await.unwrap(), b"");
}

/// quinn allows a hundred at once.
pub(crate) async fn more_requests_than_streams() {
    let (_theirs, ours) = joined();
    let requests = (0..1_000).map(|_| ours.get("/hello"));
    for result in futures_util::future::join_all(requests).await {
        assert_eq!(result.unwrap(), b"hello");
    }
    is_well(&ours).await;
}

pub(crate) async fn our_cancelled_download_reaches_their_application() {
    let (mut theirs, ours) = joined();
    let mut stream = ours.start(Method::GET, "/endless").await.unwrap();
    stream.recv.response_head().await.unwrap();
    poll_fn(|cx| stream.recv.poll_data(cx)).await.unwrap();
    drop(stream);
    let (_, path, code) = theirs.seen.recv().await.unwrap();
    assert_eq!(
        (path.as_str(), code),
        ("/endless", Some(Code::H3_REQUEST_CANCELLED.value()))
    );
    is_well(&ours).await;
}

pub(crate) async fn our_cancelled_upload_reaches_their_application() {
    let (mut theirs, ours) = joined();
    let mut stream = ours.start(Method::POST, "/echo").await.unwrap();
    stream.send.queue_data(pattern(10_000)).unwrap();
    stream.send.flush().await.unwrap();
    stream.recv.response_head().await.unwrap();
    stream.send.reset(Code::H3_REQUEST_CANCELLED);
    let (_, path, code) = theirs.seen.recv().await.unwrap();
    assert_eq!(
        (path.as_str(), code),
        ("/echo", Some(Code::H3_REQUEST_CANCELLED.value()))
    );
    drop(stream);
    is_well(&ours).await;
}

pub(crate) async fn their_aborts_are_told_apart() {
    let (_theirs, ours) = joined();
    for (path, code, processed) in [
        ("/refused", Code::H3_REQUEST_REJECTED, Processed::No),
        ("/half", Code::H3_INTERNAL_ERROR, Processed::Maybe),
    ] {
        let error = ours.get(path).await.unwrap_err();
        assert_eq!(
            (code_of(&error), error.processed()),
            (Some(code), processed),
            "{path}"
        );
    }
    is_well(&ours).await;
}

pub(crate) async fn an_early_answer_arrives() {
    let (_theirs, ours) = joined();
    for _ in 0..200 {
        let mut stream = ours.start(Method::POST, "/early").await.unwrap();
        let error = loop {
            stream.send.queue_data(pattern(1_000)).unwrap();
            if let Err(error) = stream.send.flush().await {
                break error;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(code_of(&error), Some(Code::H3_NO_ERROR));
        stream.recv.response_head().await.unwrap();
        assert_eq!(body_of(&mut stream.recv).await.unwrap(), b"early");
    }
    is_well(&ours).await;
}

pub(crate) async fn a_content_length_that_lies_ends_its_stream_alone() {
    let (_theirs, ours) = joined();
    let mut other = ours.start(Method::POST, "/echo").await.unwrap();
    for path in ["/short", "/long"] {
        let error = ours.get(path).await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Malformed(_)),
            "{path}: {error:?}"
        );
    }
    other.send.queue_data(Bytes::from_static(b"untouched")).unwrap();
    other.send.queue_end().unwrap();
    other.send.flush().await.unwrap();
    other.recv.response_head().await.unwrap();
    assert_eq!(body_of(&mut other.recv).await.unwrap(), b"untouched");
    is_well(&ours).await;
}

pub(crate) async fn their_goaway_moves_us_to_another_connection() {
    let (theirs, ours) = joined_with(1);
    let mut slow = ours.start(Method::GET, "/slow").await.unwrap();
    assert_eq!(ours.get("/hello").await.unwrap(), b"hello");
    theirs.go_away.notify_waiters();
    // No request is lost on the way: one that met the GOAWAY is known to be unprocessed.
    while ours.stats.handshakes.get() < 2 {
        match ours.get("/hello").await {
            Ok(body) => assert_eq!(body, b"hello"),
            Err(error) => assert_eq!(error.processed(), Processed::No, "{error}"),
        }
    }
    slow.recv.response_head().await.unwrap();
    assert_eq!(body_of(&mut slow.recv).await.unwrap(), b"finished");
}

/// What their GOAWAY names is unprocessed by the letter of RFC 9114 section 5.2, whatever h3 0.0.8 does with it.
pub(crate) async fn a_request_at_their_goaway_is_unprocessed() {
    let (theirs, ours) = joined_with(0);
    assert_eq!(ours.get("/hello").await.unwrap(), b"hello");
    let mut slow = ours.start(Method::GET, "/slow").await.unwrap();
    // On a second connection, to know that the first has taken it.
    while theirs.seen.is_empty() {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    theirs.go_away.notify_waiters();
    let error = slow.recv.response_head().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::GoAway), "{error:?}");
    assert_eq!(error.processed(), Processed::No);
}

pub(crate) async fn another_identity_is_refused() {
    let (_theirs, ours) = joined();
    let other = Authority::new(TRUST_DOMAIN).id("default", "other");
    let peer = PeerKey {
        identity: other,
        ..ours.peer.clone()
    };
    let error = ours.pool.stream(&peer).await.err().unwrap();
    assert!(
        matches!(error.kind(), ErrorKind::Dial(DialFailure::PeerRefused(_))),
        "{error:?}"
    );
    is_well(&ours).await;
}
