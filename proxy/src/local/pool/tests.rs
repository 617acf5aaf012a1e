use std::cell::Cell;

use http::header::HOST;
use http_body_util::{BodyExt, Either, Empty, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;

use super::*;
use crate::capture::OutgoingSockets;
use crate::local::websocket::WebSocketKey;

type Stream = futures_util::stream::BoxStream<'static, Result<http_body::Frame<Bytes>, std::io::Error>>;

/// Empty, whole or streamed.
struct TestBody(Either<Either<Empty<Bytes>, Full<Bytes>>, StreamBody<Stream>>);

impl Default for TestBody {
    fn default() -> Self {
        Self(Either::Left(Either::Left(Empty::new())))
    }
}

impl Body for TestBody {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

fn full(text: &'static str) -> TestBody {
    TestBody(Either::Left(Either::Right(Full::new(Bytes::from_static(
        text.as_bytes(),
    )))))
}

fn streamed(frames: impl futures_util::Stream<Item = &'static str> + Send + 'static) -> TestBody {
    use futures_util::StreamExt;
    let frames = frames.map(|text| Ok(http_body::Frame::data(Bytes::from_static(text.as_bytes()))));
    TestBody(Either::Right(StreamBody::new(frames.boxed())))
}

fn pool() -> AppPool<TestBody> {
    AppPool::new(Connector::new(
        None,
        Duration::from_secs(5),
        OutgoingSockets::default(),
    ))
}

fn get() -> Request<TestBody> {
    Request::get("http://web:80/path?query")
        .body(TestBody::default())
        .unwrap()
}

fn post(body: TestBody) -> Request<TestBody> {
    Request::post("http://web/").body(body).unwrap()
}

/// An application: each accepted connection goes to `serve`, with its number.
async fn application<F: Future<Output = ()> + 'static>(
    serve: impl Fn(usize, TcpStream) -> F + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(serve(number, stream));
        }
    });
    address
}

/// Reads one request: its head, and its body if it has a length or chunks.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut request = String::new();
    loop {
        let mut byte = [0];
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        request.push(byte[0] as char);
        let Some(head) = request.find("\r\n\r\n") else {
            continue;
        };
        let length = request
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.trim().parse().unwrap());
        let done = match request.contains("transfer-encoding: chunked") {
            true => request.ends_with("\r\n0\r\n\r\n"),
            false => request.len() == head + 4 + length,
        };
        if done {
            return Some(request);
        }
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers every request on a connection.
async fn answer_all(mut stream: TcpStream) {
    while read_request(&mut stream).await.is_some() {
        stream.write_all(OK).await.unwrap();
    }
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

async fn send(
    pool: &AppPool<TestBody>,
    address: SocketAddr,
    request: Request<TestBody>,
) -> Result<String, AppError> {
    let response = pool.send(address, HttpVersion::Http1, request).await?;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    // The connection's task, not the response, puts the connection back.
    tokio::task::yield_now().await;
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

fn counter() -> (Rc<Cell<usize>>, Rc<Cell<usize>>) {
    let count = Rc::new(Cell::new(0));
    (count.clone(), count)
}

#[tokio::test]
async fn the_request_as_the_application_sees_it() {
    local(async {
        let (seen, mut requests) = mpsc::unbounded_channel();
        let address = application(move |_, mut stream| {
            let seen = seen.clone();
            async move {
                while let Some(request) = read_request(&mut stream).await {
                    seen.send(request).unwrap();
                    stream.write_all(OK).await.unwrap();
                }
            }
        })
        .await;
        let pool = pool();
        send(&pool, address, get()).await.unwrap();
        assert_eq!(
            requests.recv().await.unwrap(),
            "GET /path?query HTTP/1.1\r\nhost: web:80\r\n\r\n"
        );
        send(&pool, address, post(full("body"))).await.unwrap();
        let request = requests.recv().await.unwrap();
        assert!(
            request.starts_with("POST / HTTP/1.1\r\n") && request.ends_with("\r\n\r\nbody"),
            "{request}"
        );
        // A GET may have a body, also one of unknown length.
        let mut request = get();
        *request.body_mut() = streamed(futures_util::stream::iter(["a", "b"]));
        send(&pool, address, request).await.unwrap();
        let request = requests.recv().await.unwrap();
        assert!(
            request.ends_with("\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n"),
            "{request}"
        );
        assert_eq!(pool.idle(), 1, "all on one connection");
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_shared_only_one_after_the_other() {
    local(async {
        let (count, connections) = counter();
        let address = application(move |_, stream| {
            count.set(count.get() + 1);
            answer_all(stream)
        })
        .await;
        let pool = pool();
        for _ in 0..10 {
            assert_eq!(send(&pool, address, get()).await.unwrap(), "ok");
        }
        assert_eq!(connections.get(), 1);
        let requests = (0..10).map(|_| send(&pool, address, post(full("x"))));
        for result in futures_util::future::join_all(requests).await {
            assert_eq!(result.unwrap(), "ok");
        }
        assert_eq!(connections.get(), 10);
        assert_eq!(pool.idle(), 10);
    })
    .await;
}

/// A server that closes a connection after it was idle for a second, as some do, in paused time: each kind of request
/// is sent at every distance from that moment. None may be lost.
#[tokio::test(start_paused = true)]
async fn an_application_that_keeps_connections_for_a_second_loses_nothing() {
    local(async {
        let address = application(|_, mut stream| async move {
            loop {
                match tokio::time::timeout(Duration::from_secs(1), read_request(&mut stream)).await {
                    Ok(Some(_)) => stream.write_all(OK).await.unwrap(),
                    _ => return,
                }
            }
        })
        .await;
        for pause in (0..1100).step_by(50).chain(980..1020) {
            let pool = pool();
            for make in [
                get,
                || post(full("body")),
                || post(streamed(futures_util::stream::iter(["a"]))),
            ] {
                assert_eq!(send(&pool, address, make()).await.unwrap(), "ok");
                tokio::time::sleep(Duration::from_millis(pause)).await;
                assert_eq!(
                    send(&pool, address, make()).await.unwrap(),
                    "ok",
                    "after {pause} ms"
                );
            }
        }
    })
    .await;
}

/// The application reads the request and closes: what a client may send twice is sent twice, the rest is not.
#[tokio::test]
async fn only_what_may_be_repeated_is_repeated_and_only_once() {
    local(async {
        for (request, repeated) in [
            ((|| get()) as fn() -> Request<TestBody>, true),
            (
                || Request::delete("http://web/").body(TestBody::default()).unwrap(),
                true,
            ),
            (|| Request::put("http://web/").body(full("x")).unwrap(), false),
            (|| post(TestBody::default()), false),
            (|| post(full("x")), false),
        ] {
            let (count, requests) = counter();
            let address = application(move |_, mut stream| {
                let count = count.clone();
                async move {
                    let mut first = true;
                    while read_request(&mut stream).await.is_some() {
                        count.set(count.get() + 1);
                        if !std::mem::take(&mut first) {
                            return;
                        }
                        stream.write_all(OK).await.unwrap();
                    }
                }
            })
            .await;
            let pool = pool();
            send(&pool, address, get()).await.unwrap();
            let result = send(&pool, address, request()).await;
            match repeated {
                true => assert_eq!((result.unwrap().as_str(), requests.get()), ("ok", 3)),
                false => {
                    let error = result.unwrap_err();
                    assert_eq!(
                        (error.kind, error.processed),
                        (AppErrorKind::Closed, Processed::Maybe)
                    );
                    assert_eq!(requests.get(), 2);
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_connection_that_dies_is_not_tried_again() {
    local(async {
        let (count, connections) = counter();
        let address = application(move |_, mut stream| {
            count.set(count.get() + 1);
            async move {
                read_request(&mut stream).await;
            }
        })
        .await;
        let error = send(&pool(), address, get()).await.unwrap_err();
        assert_eq!(
            (error.kind, error.processed),
            (AppErrorKind::Closed, Processed::Maybe)
        );
        assert_eq!(connections.get(), 1);
    })
    .await;
}

/// The application closes an idle connection, and a POST is sent before our event loop could turn and hear of it.
#[tokio::test]
async fn a_closed_connection_is_never_given_to_a_post() {
    use std::io::{Read, Write};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (close, closes) = std::sync::mpsc::channel::<()>();
    let (closed, is_closed) = std::sync::mpsc::channel::<()>();
    let application = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            assert_ne!(stream.read(&mut [0; 1024]).unwrap(), 0);
            stream.write_all(OK).unwrap();
            if closes.recv().is_ok() {
                drop(stream);
                closed.send(()).unwrap();
            }
        }
    });
    local(async {
        let pool = pool();
        send(&pool, address, get()).await.unwrap();
        assert_eq!(pool.idle(), 1);
        close.send(()).unwrap();
        is_closed.recv().unwrap();
        assert_eq!(send(&pool, address, post(full("x"))).await.unwrap(), "ok");
    })
    .await;
    drop(close);
    application.join().unwrap();
}

#[tokio::test(start_paused = true)]
async fn idle_connections_close_after_their_time() {
    for (header, kept) in [
        ("", 2000),
        ("Keep-Alive: timeout=5, max=100\r\n", 2000),
        ("Keep-Alive: max=100, Timeout=1\r\n", 800),
        ("Keep-Alive: timeout=0\r\n", 0),
        ("Connection: close\r\n", 0),
        ("Transfer-Encoding: chunked\r\n", 0),
    ] {
        local(async {
            let (ended, mut ends) = mpsc::unbounded_channel();
            let address = application(move |_, mut stream| {
                let ended = ended.clone();
                async move {
                    read_request(&mut stream).await;
                    let body = if header.contains("chunked") {
                        "2\r\nok\r\n0\r\n\r\n"
                    } else {
                        "ok"
                    };
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{header}\r\n{body}");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    let answered = tokio::time::Instant::now();
                    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
                    ended.send(answered.elapsed().as_millis()).unwrap();
                }
            })
            .await;
            let pool = pool();
            assert_eq!(send(&pool, address, get()).await.unwrap(), "ok");
            let elapsed = ends.recv().await.unwrap();
            assert!((kept..=kept + 500).contains(&elapsed), "{header:?}: {elapsed}");
            assert_eq!(pool.idle(), 0);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_keep_alive_of_the_application_is_honoured_with_a_margin() {
    local(async {
        let (count, connections) = counter();
        let address = application(move |_, mut stream| {
            count.set(count.get() + 1);
            async move {
                while read_request(&mut stream).await.is_some() {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=1\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                }
            }
        })
        .await;
        let pool = pool();
        for (pause, expected) in [(0, 1), (750, 1), (850, 2)] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            send(&pool, address, get()).await.unwrap();
            assert_eq!(connections.get(), expected, "after {pause} ms");
        }
    })
    .await;
}

#[tokio::test]
async fn dropping_the_pool_closes_idle_connections() {
    local(async {
        let (ended, mut ends) = mpsc::unbounded_channel();
        let address = application(move |_, stream| {
            let ended = ended.clone();
            async move {
                answer_all(stream).await;
                ended.send(()).unwrap();
            }
        })
        .await;
        let pool = pool();
        send(&pool, address, get()).await.unwrap();
        drop(pool);
        ends.recv().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_connection_whose_response_was_not_read_is_not_used_again() {
    local(async {
        let (count, connections) = counter();
        let address = application(move |_, mut stream| {
            count.set(count.get() + 1);
            async move {
                while read_request(&mut stream).await.is_some() {
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
                        .await;
                }
            }
        })
        .await;
        let pool = pool();
        for _ in 0..3 {
            let response = pool.send(address, HttpVersion::Http1, get()).await.unwrap();
            drop(response);
            tokio::task::yield_now().await;
        }
        assert_eq!((connections.get(), pool.idle()), (3, 0));
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_request_closes_its_connection() {
    local(async {
        let (ended, mut ends) = mpsc::unbounded_channel();
        let arrived = Rc::new(Notify::new());
        let arrives = arrived.clone();
        let address = application(move |_, mut stream| {
            let (ended, arrived) = (ended.clone(), arrived.clone());
            async move {
                read_request(&mut stream).await.unwrap();
                arrived.notify_one();
                assert!(read_request(&mut stream).await.is_none());
                ended.send(()).unwrap();
            }
        })
        .await;
        let pool = pool();
        tokio::select! {
            _ = send(&pool, address, get()) => panic!("there is no answer"),
            () = arrives.notified() => {}
        }
        ends.recv().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_answer_before_the_body_ends_is_passed_on() {
    local(async {
        let address = application(|_, mut stream| async move {
            let mut head = [0; 16];
            stream.read_exact(&mut head).await.unwrap();
            stream
                .write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
                .await
                .unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let pool = pool();
        let endless = futures_util::stream::StreamExt::chain(
            futures_util::stream::iter(["start"]),
            futures_util::stream::pending(),
        );
        let response = pool
            .send(address, HttpVersion::Http1, post(streamed(endless)))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(pool.idle(), 0, "the body is still on its way");
    })
    .await;
}

#[tokio::test]
async fn what_is_not_an_answer_is_an_error() {
    local(async {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n",
        ] {
            let address = application(move |_, mut stream| async move {
                read_request(&mut stream).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
            })
            .await;
            let error = send(&pool(), address, get()).await.unwrap_err();
            assert_eq!(
                (error.kind, error.processed),
                (AppErrorKind::BadResponse, Processed::Maybe),
                "{answer}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn an_application_that_is_not_there_processed_nothing() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        for version in [HttpVersion::Http1, HttpVersion::Http2] {
            let error = pool().send(address, version, get()).await.unwrap_err();
            assert_eq!(
                (error.kind, error.processed),
                (AppErrorKind::Refused, Processed::No)
            );
        }
    })
    .await;
}

#[tokio::test]
async fn the_100_of_the_application_is_told() {
    local(async {
        let address = application(|_, mut stream| async move {
            let mut byte = [0];
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).await.unwrap();
                head.push(byte[0]);
            }
            stream
                .write_all(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
                .await
                .unwrap();
            let mut body = [0; 4];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(OK).await.unwrap();
        })
        .await;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let body = futures_util::stream::once(async move {
            receiver.await.unwrap();
            "body"
        });
        let mut request = post(streamed(body));
        request
            .headers_mut()
            .insert("content-length", "4".parse().unwrap());
        request
            .headers_mut()
            .insert("expect", "100-continue".parse().unwrap());
        let continued = crate::local::body::on_continue(&mut request);
        let pool = pool();
        let answer = send(&pool, address, request);
        let (answer, ()) = tokio::join!(answer, async move {
            assert!(continued.await);
            sender.send(()).unwrap();
        });
        assert_eq!(answer.unwrap(), "ok");
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_gives_the_stream_or_the_answer() {
    local(async {
        let key = WebSocketKey::generate();
        for answers in [true, false] {
            let expected = key.clone();
            let address = application(move |_, mut stream| {
                let key = expected.clone();
                async move {
                    let request = read_request(&mut stream).await.unwrap();
                    assert!(
                        request.contains("upgrade: websocket\r\n") && request.contains("host: web:80\r\n")
                    );
                    if !answers {
                        stream
                            .write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n")
                            .await
                            .unwrap();
                        tokio::task::yield_now().await;
                        stream.write_all(b"no").await.unwrap();
                        return;
                    }
                    let accept = key.accept();
                    let head = format!(
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Accept: {}\r\n\r\nearly ",
                        accept.to_str().unwrap()
                    );
                    stream.write_all(head.as_bytes()).await.unwrap();
                    let mut rest = Vec::new();
                    stream.read_to_end(&mut rest).await.unwrap();
                    stream.write_all(&rest).await.unwrap();
                }
            })
            .await;
            let mut request = get();
            key.add_to_request(request.headers_mut());
            match pool().upgrade(address, request).await.unwrap() {
                UpgradeAnswer::Switched(head, mut stream) => {
                    assert!(answers && key.is_answered_by(&head.headers));
                    stream.write_all(b"late").await.unwrap();
                    stream.shutdown().await.unwrap();
                    let mut output = String::new();
                    stream.read_to_string(&mut output).await.unwrap();
                    assert_eq!(output, "early late");
                }
                UpgradeAnswer::Declined(response) => {
                    assert!(!answers);
                    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
                    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "no");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_was_opened_for_nothing_serves_a_request() {
    local(async {
        let (count, connections) = counter();
        let address = application(move |_, stream| {
            count.set(count.get() + 1);
            answer_all(stream)
        })
        .await;
        let pool = pool();
        let stream = pool.connect(address).await.unwrap();
        pool.adopt(address, stream);
        tokio::task::yield_now().await;
        assert_eq!(pool.idle(), 1);
        assert_eq!(send(&pool, address, post(full("x"))).await.unwrap(), "ok");
        assert_eq!(connections.get(), 1);
    })
    .await;
}

/// An HTTP/2 application that answers with its connection's number; `/refuse` is refused, `/last` is the last before
/// it goes away, `/silent` has no answer.
async fn http2_application(number: usize, stream: TcpStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.uri().authority().unwrap(), "web");
        assert!(!request.headers().contains_key(HOST));
        match request.uri().path() {
            "/refuse" => respond.send_reset(h2::Reason::REFUSED_STREAM),
            "/silent" => return,
            path => {
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data(number.to_string().into(), true).unwrap();
                if path == "/last" {
                    connection.graceful_shutdown();
                }
            }
        }
    }
}

async fn send2(pool: &AppPool<TestBody>, address: SocketAddr, path: &str) -> Result<String, AppError> {
    let request = Request::get(format!("http://web{path}"))
        .header(HOST, "x")
        .body(TestBody::default())
        .unwrap();
    let response = pool.send(address, HttpVersion::Http2, request).await?;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn http2_requests_share_one_connection_that_is_replaced_when_it_goes() {
    local(async {
        let address = application(http2_application).await;
        let pool = pool();
        let answers = (0..50).map(|_| send2(&pool, address, "/"));
        for answer in futures_util::future::join_all(answers).await {
            assert_eq!(answer.unwrap(), "0", "however many wait, one connects");
        }
        let error = send2(&pool, address, "/refuse").await.unwrap_err();
        assert_eq!(
            (error.kind, error.processed),
            (AppErrorKind::Closed, Processed::No)
        );
        assert_eq!(send2(&pool, address, "/last").await.unwrap(), "0");
        // The application goes away gracefully: no request is lost.
        for _ in 0..20 {
            assert!(matches!(
                send2(&pool, address, "/").await.unwrap().as_str(),
                "0" | "1"
            ));
        }
        assert_eq!(send2(&pool, address, "/").await.unwrap(), "1");
        let error = send2(&pool, address, "/silent").await.unwrap_err();
        assert_eq!(
            (error.kind, error.processed),
            (AppErrorKind::Closed, Processed::Maybe)
        );
        assert_eq!(send2(&pool, address, "/").await.unwrap(), "2");
    })
    .await;
}

/// Reads HTTP/2 frames up to the first HEADERS.
async fn read_headers(stream: &mut TcpStream) {
    stream.read_exact(&mut [0; 24]).await.unwrap();
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.unwrap();
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
        if header[3] == 1 {
            return;
        }
    }
}

/// RFC 9113 section 6.8: what a GOAWAY does not cover was not processed, what it covers may have been.
#[tokio::test]
async fn a_goaway_tells_what_was_processed() {
    for (last_stream, processed) in [(0, Processed::No), (1, Processed::Maybe)] {
        local(async {
            let address = application(move |_, mut stream| async move {
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
                read_headers(&mut stream).await;
                let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last_stream, 0, 0, 0, 0];
                stream.write_all(&goaway).await.unwrap();
            })
            .await;
            let error = send2(&pool(), address, "/").await.unwrap_err();
            assert_eq!((error.kind, error.processed), (AppErrorKind::Closed, processed));
        })
        .await;
    }
}
