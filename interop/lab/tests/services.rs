//! The example services, each judged by a client of its protocol.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE, TRAILER};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_lab::client::grpc::{Connection, Outcome};
use weft_lab::client::websocket::WebSocket;
use weft_lab::services::grpc::{STATUS_FIELD, code};
use weft_lab::services::http::{Options, ReceivedHead};
use weft_lab::services::websocket::{Frame as WebSocketFrame, Opcode};
use weft_lab::services::{Pattern, grpc, http as http_service, instant, small_answer, tcp};

async fn start<F: Future<Output = io::Result<()>> + Send + 'static>(
    service: impl FnOnce(TcpListener) -> F,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(service(listener));
    address
}

async fn start_http() -> SocketAddr {
    start(|listener| http_service::serve(listener, Options::named("web"))).await
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

async fn send(address: SocketAddr, version: Version, request: Request<Body>) -> Response<Incoming> {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    if version == Version::HTTP_2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
            .await
            .unwrap();
        tokio::spawn(connection);
        return sender.send_request(request).await.unwrap();
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::get(format!("http://web{path}"))
        .header("host", "web")
        .body(Empty::new().boxed_unsync())
        .unwrap()
}

async fn bytes(response: Response<Incoming>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

#[tokio::test]
async fn http_answers_on_both_versions() {
    let address = start_http().await;
    for version in VERSIONS {
        assert_eq!(
            bytes(send(address, version, get("/")).await).await,
            small_answer("web")
        );
        let response = send(address, version, get("/status?code=418")).await;
        assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
        assert_eq!(
            send(address, version, get("/nowhere")).await.status(),
            StatusCode::NOT_FOUND
        );
        assert_eq!(
            send(address, version, get("/status?code=101")).await.status(),
            StatusCode::BAD_REQUEST
        );
    }
}

#[tokio::test]
async fn http_tells_what_it_received() {
    let address = start_http().await;
    for (version, name) in [(Version::HTTP_11, "HTTP/1.1"), (Version::HTTP_2, "HTTP/2.0")] {
        let mut request = get("/headers");
        request
            .headers_mut()
            .append("x-twice", HeaderValue::from_static("one"));
        request
            .headers_mut()
            .append("x-twice", HeaderValue::from_static("two"));
        let head: ReceivedHead =
            serde_json::from_slice(&bytes(send(address, version, request).await).await).unwrap();
        assert_eq!((head.method.as_str(), head.version.as_str()), ("GET", name));
        assert_eq!(head.values("x-twice").collect::<Vec<_>>(), ["one", "two"]);
    }
}

#[tokio::test]
async fn http_bytes_are_the_pattern_with_its_length() {
    let address = start_http().await;
    for version in VERSIONS {
        let response = send(address, version, get("/bytes?n=1000003")).await;
        assert_eq!(response.headers()["content-length"], "1000003");
        let body = bytes(response).await;
        assert_eq!(body.len(), 1_000_003);
        assert!(Pattern::default().matches(&body));
    }
}

#[tokio::test]
async fn http_echoes_body_and_trailers() {
    let address = start_http().await;
    for version in VERSIONS {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("42"));
        let frames = [
            Ok(Frame::data(Bytes::from("some "))),
            Ok(Frame::data(Bytes::from("text"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let request = Request::post("http://web/echo")
            .header("host", "web")
            .header(TE, "trailers")
            .header(TRAILER, "x-sum")
            .header(CONTENT_TYPE, "text/plain")
            .body(body)
            .unwrap();
        let response = send(address, version, request).await;
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain");
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(
            collected.trailers().map(|fields| &fields["x-sum"]),
            Some(&HeaderValue::from_static("42"))
        );
        assert_eq!(collected.to_bytes(), "some text");
    }
}

#[tokio::test]
async fn http_digests_an_upload() {
    let address = start_http().await;
    let body = Pattern::default().next(200_000);
    let request = Request::post("http://web/digest").header("host", "web");
    let request = request.body(Full::new(body.clone()).boxed_unsync()).unwrap();
    assert_eq!(
        bytes(send(address, Version::HTTP_11, request).await).await,
        tcp::receipt(&body)
    );
}

#[tokio::test]
async fn http_closes_idle_connections_after_its_keep_alive_and_not_busy_ones() {
    let keep_alive = Some(Duration::from_millis(50));
    let options = Options {
        keep_alive,
        ..Options::named("web")
    };
    let address = start(|listener| http_service::serve(listener, options)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let started = Instant::now();
    stream
        .write_all(b"GET /slow?ms=200 HTTP/1.1\r\nHost: web\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(
        answer.ends_with(&small_answer("web")),
        "cut off while it was served"
    );
    assert!(
        started.elapsed() >= Duration::from_millis(250),
        "closed before its keep-alive"
    );
}

async fn grpc_call(connection: &mut Connection, method: &str, messages: &[&'static str]) -> Outcome {
    let messages = messages.iter().map(|message| Bytes::from(*message)).collect();
    connection
        .call_with(method, HeaderMap::new(), messages)
        .await
        .unwrap()
}

#[tokio::test]
async fn grpc_methods_of_every_kind_work() {
    let dedicated = start(grpc::serve).await;
    for address in [dedicated, start_http().await] {
        let mut connection = Connection::open(address, "db").await.unwrap();
        let unary = grpc_call(&mut connection, "Unary", &["ping"]).await;
        assert_eq!(
            (unary.status, unary.messages),
            (Some(code::OK), vec![Bytes::from("ping")])
        );
        assert!(unary.trailers.is_some(), "the status must be in trailers");
        let client = grpc_call(&mut connection, "ClientStream", &["a", "bcd", ""]).await;
        assert_eq!(
            (client.status, client.messages),
            (Some(code::OK), vec![Bytes::from("3 messages, 4 bytes")])
        );
        let server = grpc_call(&mut connection, "ServerStream", &["3"]).await;
        assert_eq!(
            (server.status, server.messages),
            (Some(code::OK), vec!["0".into(), "1".into(), "2".into()])
        );
        let unknown = grpc_call(&mut connection, "Unknown", &[]).await;
        assert_eq!(
            (unknown.status, unknown.trailers),
            (Some(code::UNIMPLEMENTED), None)
        );
    }
}

#[tokio::test]
async fn grpc_bidi_messages_go_to_and_fro() {
    let mut connection = Connection::open(start(grpc::serve).await, "db").await.unwrap();
    let (sender, mut receiver) = connection.call("BidiStream", HeaderMap::new()).await.unwrap();
    for round in 0..5 {
        let message = format!("round {round}");
        sender.send(message.clone()).await.unwrap();
        assert_eq!(receiver.next().await.unwrap(), Some(message.into()));
    }
    drop(sender);
    assert_eq!(receiver.finish().await.unwrap().status, Some(code::OK));
}

#[tokio::test]
async fn grpc_ends_with_the_status_asked_for() {
    let mut connection = Connection::open(start(grpc::serve).await, "db").await.unwrap();
    let fields = HeaderMap::from_iter([(STATUS_FIELD.parse().unwrap(), HeaderValue::from_static("7"))]);
    let outcome = connection
        .call_with("Unary", fields, vec![Bytes::from("x")])
        .await
        .unwrap();
    assert_eq!((outcome.status, outcome.messages.len()), (Some(7), 1));
    assert!(!outcome.message.is_empty());
}

#[tokio::test]
async fn websocket_echoes_messages_pings_and_close() {
    let address = start_http().await;
    let mut socket = WebSocket::open(address, "web", "/ws").await.unwrap().unwrap();
    for frame in [
        WebSocketFrame::whole(Opcode::Text, "hello"),
        WebSocketFrame::whole(Opcode::Binary, vec![0; 70_000]),
        WebSocketFrame {
            fin: false,
            ..WebSocketFrame::whole(Opcode::Text, "first ")
        },
        WebSocketFrame::whole(Opcode::Continuation, "second"),
    ] {
        socket.send(&frame).await.unwrap();
        assert_eq!(socket.next().await.unwrap(), Some(frame));
    }
    socket
        .send(&WebSocketFrame::whole(Opcode::Ping, "?"))
        .await
        .unwrap();
    assert_eq!(
        socket.next().await.unwrap(),
        Some(WebSocketFrame::whole(Opcode::Pong, "?"))
    );
    socket.close().await.unwrap();
}

#[tokio::test]
async fn websocket_refusals_are_told() {
    let refusal = WebSocket::open(start_http().await, "web", "/nowhere")
        .await
        .unwrap()
        .err()
        .unwrap();
    assert_eq!(refusal.status, 404);
    let response = send(start_http().await, Version::HTTP_11, get("/ws")).await;
    assert_eq!(response.status(), StatusCode::UPGRADE_REQUIRED);
}

#[tokio::test]
async fn instant_answers_pipelined_posts_and_bytes() {
    let address = start(|listener| async move { instant::serve(listener, "app").await }).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(
            b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhelloGET /bytes?n=3 HTTP/1.1\r\n\r\n\
              GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
        )
        .await
        .unwrap();
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).await.unwrap();
    let text = String::from_utf8_lossy(&answers);
    assert_eq!(text.matches("200 OK").count(), 3);
    assert_eq!(text.matches("app says hello").count(), 2);
    assert!(text.contains("content-length: 3\r\n\r\n\0\u{1}\u{2}HTTP"));
}

#[tokio::test]
async fn tcp_echo_sends_the_rest_after_fin() {
    let mut stream = TcpStream::connect(start(tcp::echo).await).await.unwrap();
    let sent = Pattern::default().next(100_000);
    let (mut reader, mut writer) = stream.split();
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    tokio::join!(write, async { reader.read_to_end(&mut received).await.unwrap() });
    assert_eq!(received, sent);
}

#[tokio::test]
async fn tcp_greeter_speaks_first() {
    let address = start(|listener| async move { tcp::greeter(listener, "mail").await }).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut banner = vec![0; tcp::banner("mail").len()];
    stream.read_exact(&mut banner).await.unwrap();
    assert_eq!(banner, tcp::banner("mail").as_bytes());
}

#[tokio::test]
async fn tcp_sink_answers_after_fin() {
    let mut stream = TcpStream::connect(start(tcp::sink).await).await.unwrap();
    stream.write_all(b"some bytes").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, tcp::receipt(b"some bytes"));
    assert!(answer.starts_with("10 "));
}

#[tokio::test]
async fn tcp_reset_resets() {
    let mut stream = TcpStream::connect(start(tcp::resetter).await).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_dropped_service_drops_its_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = tokio::spawn(tcp::echo(listener));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 1);
    service.abort();
    assert!(matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    assert!(TcpStream::connect(address).await.is_err());
}
