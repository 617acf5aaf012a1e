//! Their client calls our listener.

use bytes::Bytes;
use h3::error::Code;
use http::{HeaderMap, Method};
use weft_transport::{ErrorKind, h3::H3Error};

use crate::{
    ours::{Ours, Saw, fields, listen, pattern},
    theirs::{Shows, TheirClient, code_of, connect_quic, peer_of, their_body},
};

const CLIENT: &str = "spiffe://example.org/ns/default/sa/client";
const SERVER: &str = "spiffe://example.org/ns/default/sa/server";

async fn joined() -> (Ours, TheirClient) {
    let ours = listen();
    let theirs = TheirClient::connect(&ours.authority, ours.listener.local_addr()).await;
    (ours, theirs)
}

/// The connection is as good as new.
async fn is_well(theirs: &TheirClient) {
    assert_eq!(theirs.get("/hello").await.unwrap().1, b"hello");
}

pub(crate) async fn requests_carry_the_callers_identity() {
    let (mut ours, theirs) = joined().await;
    assert_eq!(peer_of(&theirs.connection), SERVER);
    let (head, body) = theirs.get("/hello").await.unwrap();
    assert_eq!((head.status().as_u16(), body.as_slice()), (200, &b"hello"[..]));
    assert_eq!(head.headers()["content-length"], "5");
    let Saw { caller, path, result } = ours.seen.recv().await.unwrap();
    assert_eq!((caller.as_str(), path.as_str()), (CLIENT, "/hello"));
    result.unwrap();
    assert_eq!(theirs.get("/nowhere").await.unwrap().0.status(), 404);
}

pub(crate) async fn large_bodies_pass_both_ways() {
    let (_ours, theirs) = joined().await;
    let sent = pattern(16 << 20);
    let (mut send, mut recv) = theirs
        .start(Method::POST, "/echo", HeaderMap::new())
        .await
        .unwrap()
        .split();
    let body = sent.clone();
    let upload = async {
        for chunk in (0..body.len()).step_by(100_000) {
            send.send_data(body.slice(chunk..body.len().min(chunk + 100_000)))
                .await
                .unwrap();
        }
        send.finish().await.unwrap();
    };
    let download = async {
        recv.recv_response().await.unwrap();
        their_body(&mut recv).await.unwrap()
    };
    let ((), received) = tokio::join!(upload, download);
    assert!(received == sent);
}

pub(crate) async fn trailers_pass_both_ways() {
    let (_ours, theirs) = joined().await;
    let trailers = fields(&[("grpc-status", "0"), ("checksum", "abc")]);
    let mut stream = theirs
        .start(Method::POST, "/echo", HeaderMap::new())
        .await
        .unwrap();
    stream.send_data(Bytes::from_static(b"body")).await.unwrap();
    stream.send_trailers(trailers.clone()).await.unwrap();
    stream.finish().await.unwrap();
    stream.recv_response().await.unwrap();
    assert_eq!(their_body(&mut stream).await.unwrap(), b"body");
    assert_eq!(stream.recv_trailers().await.unwrap(), Some(trailers));
}

pub(crate) async fn a_response_to_head_has_no_content() {
    let (_ours, theirs) = joined().await;
    let mut stream = theirs
        .start(Method::HEAD, "/hello", HeaderMap::new())
        .await
        .unwrap();
    stream.finish().await.unwrap();
    assert_eq!(
        stream.recv_response().await.unwrap().headers()["content-length"],
        "5"
    );
    assert_eq!(their_body(&mut stream).await.unwrap(), b"");
}

pub(crate) async fn a_thousand_requests_at_once() {
    let (_ours, theirs) = joined().await;
    let requests = (0..1_000).map(|_| theirs.get("/hello"));
    for result in futures_util::future::join_all(requests).await {
        assert_eq!(result.unwrap().1, b"hello");
    }
}

pub(crate) async fn their_cancelled_download_reaches_our_application() {
    let (mut ours, theirs) = joined().await;
    let mut stream = theirs
        .start(Method::GET, "/hang", HeaderMap::new())
        .await
        .unwrap();
    stream.finish().await.unwrap();
    stream.recv_response().await.unwrap();
    stream.stop_sending(Code::H3_REQUEST_CANCELLED);
    // It only waited, and was told.
    assert_eq!(ours.seen.recv().await.unwrap().path, "/hang");
    is_well(&theirs).await;
}

pub(crate) async fn their_cancelled_upload_reaches_our_application() {
    let (mut ours, theirs) = joined().await;
    let mut stream = theirs
        .start(Method::POST, "/echo", HeaderMap::new())
        .await
        .unwrap();
    stream.send_data(pattern(10_000)).await.unwrap();
    stream.recv_response().await.unwrap();
    stream.stop_stream(Code::H3_REQUEST_CANCELLED);
    let error = ours.seen.recv().await.unwrap().result.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Reset(code) if *code == weft_transport::h3::Code::H3_REQUEST_CANCELLED),
        "{error:?}"
    );
    is_well(&theirs).await;
}

pub(crate) async fn our_aborts_say_what_they_mean() {
    let (_ours, theirs) = joined().await;
    for (path, code) in [
        ("/refused", Code::H3_REQUEST_REJECTED),
        ("/half", Code::H3_INTERNAL_ERROR),
    ] {
        let error = theirs.get(path).await.unwrap_err();
        assert_eq!(code_of(&error), Some(code.value()), "{path}: {error:?}");
    }
    is_well(&theirs).await;
}

pub(crate) async fn an_early_answer_arrives() {
    let (_ours, theirs) = joined().await;
    for _ in 0..10 {
        let (mut send, mut recv) = theirs
            .start(Method::POST, "/early", HeaderMap::new())
            .await
            .unwrap()
            .split();
        let upload = async {
            loop {
                if let Err(error) = send.send_data(pattern(10_000)).await {
                    return error;
                }
            }
        };
        let error = upload.await;
        assert_eq!(code_of(&error), Some(Code::H3_NO_ERROR.value()), "{error:?}");
        recv.recv_response().await.unwrap();
        assert_eq!(their_body(&mut recv).await.unwrap(), b"early");
    }
}

pub(crate) async fn a_content_length_that_lies_ends_its_stream_alone() {
    let (mut ours, theirs) = joined().await;
    let mut other = theirs
        .start(Method::POST, "/echo", HeaderMap::new())
        .await
        .unwrap();
    for length in [0, 9, 11] {
        let announced = fields(&[("content-length", "10")]);
        let mut stream = theirs.start(Method::POST, "/echo", announced).await.unwrap();
        if length > 0 {
            stream.send_data(pattern(length)).await.unwrap();
        }
        let _ = stream.finish().await;
        let error = match stream.recv_response().await {
            Ok(_) => their_body(&mut stream).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(
            code_of(&error),
            Some(Code::H3_MESSAGE_ERROR.value()),
            "{length}: {error:?}"
        );
        let error = ours.seen.recv().await.unwrap().result.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Malformed(_)), "{error:?}");
    }
    other.send_data(Bytes::from_static(b"untouched")).await.unwrap();
    other.finish().await.unwrap();
    other.recv_response().await.unwrap();
    assert_eq!(their_body(&mut other).await.unwrap(), b"untouched");
}

pub(crate) async fn malformed_requests_end_their_streams_alone() {
    let (mut ours, theirs) = joined().await;
    // h3 lets these out.
    for headers in [
        fields(&[("connection", "close")]),
        fields(&[("transfer-encoding", "chunked")]),
        fields(&[("te", "gzip")]),
        fields(&[("content-length", "+5")]),
    ] {
        let mut stream = theirs
            .start(Method::GET, "/hello", headers.clone())
            .await
            .unwrap();
        let _ = stream.finish().await;
        let error = stream.recv_response().await.unwrap_err();
        // An answer of REQUEST_REJECTED would send it to the next endpoint.
        assert_eq!(
            code_of(&error),
            Some(Code::H3_MESSAGE_ERROR.value()),
            "{headers:?}: {error:?}"
        );
        let Saw { path, result, .. } = ours.seen.recv().await.unwrap();
        assert_eq!(path, "", "the application must not see {headers:?}");
        assert!(matches!(
            result.unwrap_err().kind(),
            ErrorKind::Malformed(H3Error::Message(_))
        ));
    }
    // CONNECT as h3 0.0.8 says it, with :scheme and :path (RFC 9114 section 4.4).
    let stream = theirs.start(Method::CONNECT, "/", HeaderMap::new()).await;
    let error = stream.unwrap().recv_response().await.unwrap_err();
    assert_eq!(code_of(&error), Some(Code::H3_MESSAGE_ERROR.value()), "{error:?}");
    is_well(&theirs).await;
}

/// A HEADERS frame of a terabyte, on a bare QUIC stream.
pub(crate) async fn an_endless_frame_is_not_buffered() {
    let (_ours, theirs) = joined().await;
    let (mut send, mut recv) = theirs.connection.open_bi().await.unwrap();
    let mut head = vec![0x01, 0xc0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff];
    head.resize(20_000, 0);
    let mut sent = 0usize;
    let stopped = loop {
        match send.write(&head).await {
            Ok(written) => sent += written,
            Err(error) => break error,
        }
        assert!(sent < 4 << 20, "it is being buffered");
    };
    assert!(matches!(stopped, quinn::WriteError::Stopped(_)), "{stopped:?}");
    assert!(recv.read(&mut [0; 10]).await.is_err());
    is_well(&theirs).await;
}

pub(crate) async fn goaway_finishes_what_was_taken() {
    let (mut ours, theirs) = joined().await;
    let mut slow = theirs
        .start(Method::GET, "/slow", HeaderMap::new())
        .await
        .unwrap();
    slow.finish().await.unwrap();
    // Taken before the drain begins.
    is_well(&theirs).await;
    let late = async {
        loop {
            match theirs.get("/hello").await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return error,
            }
        }
    };
    let finish = async {
        slow.recv_response().await.unwrap();
        let body = their_body(&mut slow).await.unwrap();
        drop(slow);
        body
    };
    let ((), finished, error) = tokio::join!(ours.listener.drain(), finish, late);
    assert_eq!(finished, b"finished");
    // Either it knew of the GOAWAY, or it was told that the request was not looked at.
    if let Some(code) = code_of(&error) {
        assert_eq!(code, Code::H3_REQUEST_REJECTED.value(), "{error:?}");
    }
}

pub(crate) async fn callers_without_our_certificates_are_refused() {
    let mut ours = listen();
    let address = ours.listener.local_addr();
    let stranger = weft_transport::credentials::testing::Authority::new("stranger.org");
    for shows in [Shows::None, Shows::Of(&stranger)] {
        let error = match connect_quic(&ours.authority, shows, address).await {
            // In TLS 1.3 the client is done before the server has looked at its certificate.
            Ok((_endpoint, connection)) => connection.closed().await,
            Err(error) => error,
        };
        let quinn::ConnectionError::ConnectionClosed(close) = error else {
            panic!("{error:?}")
        };
        // A TLS alert (RFC 9001 section 4.8).
        assert_eq!(u64::from(close.error_code) & !0xff, 0x100, "{close:?}");
    }
    assert!(ours.seen.try_recv().is_err());
    is_well(&TheirClient::connect(&ours.authority, address).await).await;
}
