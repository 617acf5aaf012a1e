//! Services that misbehave on command, and that tell what reached them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_lab::client::grpc::Connection;
use weft_lab::services::counts::{Counts, ID_FIELD};
use weft_lab::services::grpc::{self, STATUS_FIELD, code};
use weft_lab::services::http::{self as http_service, NAME_FIELD, Options, VERSION_FIELD};
use weft_lab::services::small_answer;

/// A service and a client that has a connection for each request.
struct Service(SocketAddr);

impl Service {
    async fn http() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let options = Options {
            version: Some("v2".to_owned()),
            ..Options::named("web-0")
        };
        tokio::spawn(http_service::serve(listener, options));
        Self(address)
    }

    async fn send(&self, request: Request<Empty<Bytes>>) -> hyper::Result<http::Response<Incoming>> {
        let io = TokioIo::new(TcpStream::connect(self.0).await.unwrap());
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await
    }

    async fn ask(&self, method: Method, path: &str) -> (StatusCode, HeaderMap, Bytes) {
        let answer = self.send(request(method, path, "")).await.unwrap();
        let (head, body) = answer.into_parts();
        (
            head.status,
            head.headers,
            body.collect().await.unwrap().to_bytes(),
        )
    }

    async fn fault(&self, query: &str) {
        let (status, _, said) = self.ask(Method::PUT, &format!("/fault?{query}")).await;
        assert_eq!(status, StatusCode::OK, "{said:?}");
    }

    async fn counts(&self) -> Counts {
        serde_json::from_slice(&self.ask(Method::GET, "/counts").await.2).unwrap()
    }
}

fn request(method: Method, path: &str, id: &str) -> Request<Empty<Bytes>> {
    let builder = Request::builder().method(method).uri(path);
    let builder = builder.header("host", "web").header(ID_FIELD, id);
    builder.body(Empty::new()).unwrap()
}

#[tokio::test]
async fn answers_tell_who_gave_them() {
    let service = Service::http().await;
    let is_told = |fields: &HeaderMap| (fields[NAME_FIELD] == "web-0") && (fields[VERSION_FIELD] == "v2");
    assert!(is_told(&service.ask(Method::GET, "/").await.1));
    service.fault("kind=status&code=503").await;
    assert!(is_told(&service.ask(Method::GET, "/").await.1));
}

#[tokio::test]
async fn a_status_is_answered_until_it_is_changed() {
    let service = Service::http().await;
    service.fault("kind=status&code=503").await;
    for path in ["/", "/headers", "/nowhere"] {
        assert_eq!(
            service.ask(Method::GET, path).await.0,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
    let (status, _, said) = service.ask(Method::GET, "/fault").await;
    assert_eq!(
        (status, &said[..]),
        (StatusCode::OK, &b"kind=status&code=503&share=100\n"[..])
    );
    let (status, _, said) = service.ask(Method::PUT, "/fault?kind=odd").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{said:?}");
    assert_eq!(
        service.ask(Method::GET, "/").await.0,
        StatusCode::SERVICE_UNAVAILABLE,
        "what is wrong changes nothing"
    );
    service.fault("kind=none").await;
    assert_eq!(service.ask(Method::GET, "/").await.2, small_answer("web-0"));
}

#[tokio::test]
async fn a_share_of_the_requests_is_hit() {
    let service = Service::http().await;
    service.fault("kind=status&code=500&share=25").await;
    let mut hit = 0;
    for _ in 0..40 {
        hit += u32::from(service.ask(Method::GET, "/").await.0 == StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(hit, 10);
}

#[tokio::test]
async fn a_reset_is_one_and_a_cut_comes_after_half() {
    let service = Service::http().await;
    let ask = async || {
        let mut stream = TcpStream::connect(service.0).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut received = Vec::new();
        let end = stream
            .read_to_end(&mut received)
            .await
            .map_err(|error| error.kind());
        (received, end.map(drop))
    };
    service.fault("kind=reset").await;
    assert_eq!(
        ask().await,
        (Vec::new(), Err(std::io::ErrorKind::ConnectionReset))
    );
    service.fault("kind=cut").await;
    let (received, end) = ask().await;
    assert_eq!(end, Ok(()));
    let received = String::from_utf8(received).unwrap();
    let (head, body) = received.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("content-length: 200"),
        "{head}"
    );
    assert_eq!(body.as_bytes(), &small_answer("web-0")[..100]);
}

#[tokio::test(start_paused = true)]
async fn slow_answers_come_and_others_never() {
    let service = Service::http().await;
    service.fault("kind=slow&ms=700").await;
    let begun = tokio::time::Instant::now();
    assert_eq!(service.ask(Method::GET, "/").await.2, small_answer("web-0"));
    assert!(begun.elapsed() >= Duration::from_millis(700));
    service.fault("kind=hang").await;
    let hour = Duration::from_secs(3_600);
    let hung = tokio::time::timeout(hour, service.send(request(Method::GET, "/", "")));
    assert!(hung.await.is_err());
}

#[tokio::test]
async fn what_came_is_counted_whatever_becomes_of_it() {
    let service = Service::http().await;
    for fault in ["kind=none", "kind=status&code=503", "kind=reset"] {
        service.fault(fault).await;
        for (method, id) in [(Method::GET, "a"), (Method::POST, fault)] {
            // A reset is an error here.
            service.send(request(method, "/digest", id)).await.ok();
        }
    }
    let counts = service.counts().await;
    assert_eq!((counts.total, counts.untracked), (6, 0), "control is not counted");
    assert_eq!(counts.methods["GET"].repeated, [("a".to_owned(), 3)].into());
    assert_eq!(counts.methods["POST"].seen, [(1, 3)].into());
    let ids = service.ask(Method::GET, "/counts/ids?method=GET").await.2;
    assert_eq!(ids, "a 3\n");
    let (status, ..) = service.ask(Method::DELETE, "/counts").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(service.counts().await, Counts::default());
}

#[tokio::test]
async fn grpc_calls_end_with_the_status_that_was_chosen() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = Service(listener.local_addr().unwrap());
    tokio::spawn(grpc::serve(listener));
    let mut connection = Connection::open(service.0, "echo").await.unwrap();
    let mut fields = HeaderMap::new();
    fields.insert(ID_FIELD, "call".parse().unwrap());
    let mut call = async |fields: &HeaderMap| {
        let messages = vec![Bytes::from_static(b"x")];
        connection
            .call_with("Unary", fields.clone(), messages)
            .await
            .unwrap()
    };
    service.fault("kind=grpc&code=14").await;
    let refused = call(&fields).await;
    assert_eq!((refused.status, refused.http_status), (Some(14), StatusCode::OK));
    assert!(refused.messages.is_empty() && refused.trailers.is_none());
    service.fault("kind=none").await;
    assert_eq!(call(&fields).await.status, Some(code::OK));
    // One call can choose for itself.
    fields.insert(STATUS_FIELD, "8".parse().unwrap());
    assert_eq!(call(&fields).await.status, Some(code::RESOURCE_EXHAUSTED));
    assert_eq!(
        service.counts().await.methods["POST"].repeated,
        [("call".to_owned(), 3)].into()
    );
}
