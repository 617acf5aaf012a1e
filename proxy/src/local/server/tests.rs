use std::cell::RefCell;

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{CONTENT_LENGTH, TRAILER};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::*;
use crate::local::headers::{clean_request, clean_response};
use crate::local::target::Target;
use crate::local::upgrade::{PendingUpgrade, UpgradedStream};
use crate::local::websocket;

type TestBody = http_body_util::combinators::UnsyncBoxBody<Bytes, Reset>;

fn full(text: &'static str) -> TestBody {
    Full::new(Bytes::from_static(text.as_bytes()))
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn empty() -> TestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn frames(frames: Vec<Result<Frame<Bytes>, Reset>>) -> TestBody {
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

fn data(text: &'static str) -> Result<Frame<Bytes>, Reset> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

/// Runs a test that spawns local tasks.
async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

/// Serves one connection and gives its other end.
async fn serving<F>(
    version: HttpVersion,
    handler: impl Fn(Request<RequestBody>) -> F + 'static,
) -> (TcpStream, tokio::task::JoinHandle<Result<(), hyper::Error>>)
where
    F: Future<Output = Result<Response<TestBody>, Reset>> + 'static,
{
    serving_until(version, handler, std::future::pending()).await
}

async fn serving_until<F>(
    version: HttpVersion,
    handler: impl Fn(Request<RequestBody>) -> F + 'static,
    drain: impl Future<Output = ()> + 'static,
) -> (TcpStream, tokio::task::JoinHandle<Result<(), hyper::Error>>)
where
    F: Future<Output = Result<Response<TestBody>, Reset>> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let stream = LocalStream::new(stream, Bytes::new());
    (
        client,
        tokio::task::spawn_local(serve(stream, version, handler, drain)),
    )
}

/// What reached the handler: method, target, body.
type Seen = Rc<RefCell<Vec<String>>>;

type Answer = Pin<Box<dyn Future<Output = Result<Response<TestBody>, Reset>>>>;

/// A handler as the proxy's: canonical target, clean head, then the body.
fn recorder() -> (Seen, impl Fn(Request<RequestBody>) -> Answer) {
    let seen = Seen::default();
    let record = seen.clone();
    let handler = move |request: Request<RequestBody>| {
        let record = record.clone();
        let answer: Answer = Box::pin(async move {
            let (mut head, body) = request.into_parts();
            let target = match Target::read(&head) {
                Ok(target) => target,
                Err(error) => {
                    return Ok(Response::builder()
                        .status(error.status())
                        .body(full(error.reason()))
                        .unwrap());
                }
            };
            if let Err(error) = clean_request(&mut head.headers) {
                return Ok(Response::builder()
                    .status(error.status())
                    .body(full(error.reason()))
                    .unwrap());
            }
            let body = body
                .collect()
                .await
                .map_err(|_| Reset::new(h2::Reason::CANCEL))?
                .to_bytes();
            record.borrow_mut().push(format!(
                "{} {} {} [{}]{}",
                head.method,
                target
                    .authority
                    .map_or("-".to_owned(), |authority| authority.to_string()),
                target.path.map_or("-".to_owned(), |path| path.to_string()),
                String::from_utf8_lossy(&body),
                head.headers.get(CONTENT_LENGTH).map_or("", |_| " length"),
            ));
            Ok(Response::new(full("ok")))
        });
        answer
    };
    (seen, handler)
}

/// Sends bytes, ends the sending side when the server has answered all there is, and gives what came back.
async fn exchange(input: &[u8]) -> (String, Vec<String>) {
    local(async {
        let (seen, handler) = recorder();
        let (mut client, server) = serving(HttpVersion::Http1, handler).await;
        client.write_all(input).await.unwrap();
        // What the server had to answer is answered when it waits for more, or it has closed.
        let mut output = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                biased;
                read = client.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(count) => output.extend_from_slice(&buffer[..count]),
                },
                () = quiescent(&output, &seen) => {
                    client.shutdown().await.unwrap();
                    while let Ok(count) = client.read(&mut buffer).await && count > 0 {
                        output.extend_from_slice(&buffer[..count]);
                    }
                    break;
                }
            }
        }
        drop(client);
        let _ = server.await.unwrap();
        (String::from_utf8(output).unwrap(), seen.take())
    })
    .await
}

/// All tasks of this thread have nothing left to do. Loopback delivers at once, so enough turns of the event loop
/// mean that the server waits for bytes.
async fn quiescent(_output: &[u8], _seen: &Seen) {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

fn statuses(output: &str) -> Vec<&str> {
    output
        .split("HTTP/1.")
        .skip(1)
        .map(|answer| &answer[2..5])
        .collect()
}

/// Each a whole connection: what is sent, the statuses that come back, the requests that got through.
#[tokio::test]
async fn request_smuggling() {
    const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n";
    let big = "a".repeat(70 * 1024);
    let many = "x: y\r\n".repeat(101);
    let cases: Vec<(&str, String, &[&str], &[&str])> = vec![
        ("plain", "GET / HTTP/1.1\r\nHost: web\r\n\r\n".into(), &["200"], &["GET web / []"]),
        ("pipelined", "GET /a HTTP/1.1\r\nHost: web\r\n\r\nGET /b HTTP/1.1\r\nHost: web\r\n\r\n".into(), &["200", "200"], &["GET web /a []", "GET web /b []"]),
        // Both framings: the coding counts, the length is gone, and the connection ends with the answer.
        ("CL.TE", format!("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"), &["200"], &["POST web / []"]),
        ("TE.CL", format!("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n2\r\nok\r\n0\r\n\r\n{SMUGGLED}"), &["200"], &["POST web / [ok]"]),
        ("two lengths", format!("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n{SMUGGLED}"), &["400"], &[]),
        ("length list", "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2, 2\r\n\r\nok".into(), &["400"], &[]),
        ("equal lengths", "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok".into(), &["200"], &["POST web / [ok] length"]),
        ("length +2", "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: +2\r\n\r\nok".into(), &["400"], &[]),
        ("length -2", "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: -2\r\n\r\nok".into(), &["400"], &[]),
        ("length 0x2", "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0x2\r\n\r\nok".into(), &["400"], &[]),
        ("length overflow", "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 18446744073709551617\r\n\r\nok".into(), &["400"], &[]),
        ("length blank", "POST / HTTP/1.1\r\nHost: web\r\nContent-Length:\r\n\r\nok".into(), &["400"], &[]),
        ("gzip coding", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: gzip\r\n\r\n".into(), &["400"], &[]),
        ("chunked not last", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n".into(), &["400"], &[]),
        ("second coding line", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n".into(), &["400"], &[]),
        ("gzip, chunked", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".into(), &["501"], &[]),
        ("chunked twice", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), &["501"], &[]),
        ("chunked with a vertical tab", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n".into(), &["400"], &[]),
        ("xchunked", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".into(), &["400"], &[]),
        ("coding over HTTP/1.0", "POST / HTTP/1.0\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), &["400"], &[]),
        ("space before colon", format!("POST / HTTP/1.1\r\nHost: web\r\nContent-Length : 40\r\n\r\n{SMUGGLED}"), &["400"], &[]),
        ("obs-fold", "GET / HTTP/1.1\r\nHost: web\r\nX: a\r\n b\r\n\r\n".into(), &["400"], &[]),
        ("folded first line", "GET / HTTP/1.1\r\n Host: web\r\n\r\n".into(), &["400"], &[]),
        ("bare CR in a value", "GET / HTTP/1.1\r\nHost: web\r\nX: a\rContent-Length: 5\r\n\r\n".into(), &["400"], &[]),
        ("NUL in a value", "GET / HTTP/1.1\r\nHost: web\r\nX: a\0b\r\n\r\n".into(), &["400"], &[]),
        ("no colon", "GET / HTTP/1.1\r\nHost: web\r\nX\r\n\r\n".into(), &["400"], &[]),
        ("empty name", "GET / HTTP/1.1\r\nHost: web\r\n: x\r\n\r\n".into(), &["400"], &[]),
        ("name with a parenthesis", "GET / HTTP/1.1\r\nHost: web\r\nX(: x\r\n\r\n".into(), &["400"], &[]),
        ("two spaces in the request line", "GET  / HTTP/1.1\r\nHost: web\r\n\r\n".into(), &["400"], &[]),
        ("tab in the request line", "GET\t/ HTTP/1.1\r\nHost: web\r\n\r\n".into(), &["400"], &[]),
        ("space in the target", "GET /a b HTTP/1.1\r\nHost: web\r\n\r\n".into(), &["400"], &[]),
        ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: web\r\n\r\n".into(), &["400"], &[]),
        ("HTTP/0.9", "GET /\r\n\r\n".into(), &["400"], &[]),
        ("lower-case version", "GET / http/1.1\r\nHost: web\r\n\r\n".into(), &["400"], &[]),
        ("two Hosts", "GET / HTTP/1.1\r\nHost: web\r\nHost: api\r\n\r\n".into(), &["400"], &[]),
        ("no Host", "GET / HTTP/1.1\r\n\r\n".into(), &["400"], &[]),
        ("Host contradicts the target", "GET http://api/ HTTP/1.1\r\nHost: web\r\n\r\n".into(), &["400"], &[]),
        ("Host with user information", "GET / HTTP/1.1\r\nHost: x@web\r\n\r\n".into(), &["400"], &[]),
        ("chunk size +2", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\nok\r\n0\r\n\r\n".into(), &[], &[]),
        ("chunk size overflow", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n0\r\n\r\n".into(), &[], &[]),
        ("chunk size 0x2", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n".into(), &[], &[]),
        ("chunk longer than its size", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n2\r\noops\r\n0\r\n\r\n".into(), &[], &[]),
        ("chunk ended by LF", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n".into(), &[], &[]),
        ("LF in a chunk extension", format!("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n2;x\nok\r\n0\r\n\r\n{SMUGGLED}"), &[], &[]),
        ("chunk extension", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n2;x=\"y\"\r\nok\r\n0\r\n\r\n".into(), &["200"], &["POST web / [ok]"]),
        ("body cut short", "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nok".into(), &[], &[]),
        ("refused CONNECT", format!("CONNECT / HTTP/1.1\r\nHost: web\r\n\r\n{SMUGGLED}"), &["400"], &[]),
        ("bytes after an upgrade that is not taken", format!("GET / HTTP/1.1\r\nHost: web\r\nConnection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n{SMUGGLED}"), &["200", "200"], &["GET web / []", "GET web /smuggled []"]),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), &[], &[]),
        ("a head too large", format!("GET / HTTP/1.1\r\nHost: web\r\nX: {big}\r\n\r\n"), &["431"], &[]),
        ("too many fields", format!("GET / HTTP/1.1\r\nHost: web\r\n{many}\r\n"), &["431"], &[]),
    ];
    assert!(cases.len() > 25);
    for (name, input, expected, requests) in cases {
        let (output, seen) = exchange(input.as_bytes()).await;
        assert_eq!(statuses(&output), expected, "{name}: {output}");
        assert_eq!(seen, requests, "{name}");
        if expected == ["400"] && !name.contains("Host") {
            assert!(output.contains("connection: close"), "{name}: {output}");
        }
    }
}

#[tokio::test]
async fn a_refused_tunnel_ends_the_connection() {
    let (output, seen) =
        exchange(b"CONNECT db:1 HTTP/1.1\r\nHost: web:1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n")
            .await;
    assert_eq!(statuses(&output), ["400"]);
    assert!(output.contains("connection: close"));
    assert!(seen.is_empty());
}

async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut output = Vec::new();
    while !output.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let count = stream.read(&mut byte).await.unwrap();
        assert_ne!(count, 0, "ended after {:?}", String::from_utf8_lossy(&output));
        output.push(byte[0]);
    }
    String::from_utf8(output).unwrap()
}

async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut output = Vec::new();
    stream.read_to_end(&mut output).await.unwrap();
    String::from_utf8(output).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_caller_is_told_to_continue_when_the_far_side_says_so() {
    local(async {
        let (sender, mut continues) = mpsc::unbounded_channel();
        let (mut client, _server) = serving(HttpVersion::Http1, move |mut request| {
            sender.send(request.body_mut().take_continue().unwrap()).unwrap();
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, "hello");
                Ok(Response::new(full("done")))
            }
        })
        .await;
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n")
            .await
            .unwrap();
        let far = continues.recv().await.unwrap();
        // The handler polls the body, and still nothing is written.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            client.try_read(&mut [0; 16]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        far.send();
        assert_eq!(
            read_until(&mut client, "\r\n\r\n").await,
            "HTTP/1.1 100 Continue\r\n\r\n"
        );
        client.write_all(b"hello").await.unwrap();
        assert!(
            read_until(&mut client, "done")
                .await
                .starts_with("HTTP/1.1 200 OK\r\n")
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_far_side_that_ignores_the_expectation_gets_the_body_all_the_same() {
    for dropped in [false, true] {
        local(async move {
            let (mut client, _server) = serving(HttpVersion::Http1, move |mut request| async move {
                let far = request.body_mut().take_continue();
                if dropped {
                    drop(far);
                } else {
                    std::mem::forget(far);
                }
                let asked = tokio::time::Instant::now();
                request.into_body().collect().await.unwrap();
                assert!(asked.elapsed() >= Duration::from_secs(1));
                Ok(Response::new(empty()))
            })
            .await;
            client
                .write_all(
                    b"POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
                )
                .await
                .unwrap();
            assert_eq!(
                read_until(&mut client, "\r\n\r\n").await,
                "HTTP/1.1 100 Continue\r\n\r\n"
            );
            client.write_all(b"hello").await.unwrap();
            assert!(
                read_until(&mut client, "\r\n\r\n")
                    .await
                    .starts_with("HTTP/1.1 200 OK\r\n")
            );
        })
        .await;
    }
}

#[tokio::test]
async fn an_expectation_that_is_refused_is_never_continued() {
    local(async {
        let (mut client, server) = serving(HttpVersion::Http1, |request| async move {
            drop(request);
            Ok(Response::builder()
                .status(StatusCode::EXPECTATION_FAILED)
                .body(empty())
                .unwrap())
        })
        .await;
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            .await
            .unwrap();
        let output = read_all(&mut client).await;
        assert_eq!(
            statuses(&output),
            ["417"],
            "and the connection is closed: the body may or may not follow"
        );
        let _ = server.await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_cut_off_and_an_idle_connection_is_not() {
    local(async {
        let (mut client, server) =
            serving(HttpVersion::Http1, |_| async { Ok(Response::new(full("ok"))) }).await;
        // Idle for an hour, before the first request and between two.
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
                .await
                .unwrap();
            read_until(&mut client, "ok").await;
        }
        // A byte now and then does not help.
        let begun = tokio::time::Instant::now();
        let mut rest = b"GET / HTTP/1.1\r\nHost: web\r\nX: "
            .iter()
            .chain(std::iter::repeat(&b'x'));
        let mut buffer = [0; 1];
        loop {
            let byte = [*rest.next().unwrap()];
            if client.write_all(&byte).await.is_err() {
                break;
            }
            tokio::select! {
                read = client.read(&mut buffer) => { assert!(matches!(read, Ok(0) | Err(_))); break }
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
        let took = begun.elapsed();
        assert!(
            took >= HEAD_TIMEOUT && took <= HEAD_TIMEOUT + Duration::from_secs(2),
            "{took:?}"
        );
        assert!(server.await.unwrap().unwrap_err().is_timeout());
    })
    .await;
}

#[tokio::test]
async fn chunks_and_announced_trailers_pass_both_ways() {
    local(async {
        let (mut client, _server) = serving(HttpVersion::Http1, |request| async move {
            let collected = request.into_body().collect().await.unwrap();
            assert_eq!(collected.trailers().unwrap()["checksum"], "1");
            assert_eq!(collected.to_bytes(), "hello");
            let mut trailers = HeaderMap::new();
            trailers.insert("checksum", "2".parse().unwrap());
            trailers.insert("unannounced", "3".parse().unwrap());
            let body = frames(vec![data("wor"), data("ld"), Ok(Frame::trailers(trailers))]);
            Ok(Response::builder()
                .header(TRAILER, "checksum")
                .body(body)
                .unwrap())
        })
        .await;
        client
            .write_all(
                b"POST / HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n\
                  3\r\nhel\r\n2\r\nlo\r\n0\r\nChecksum: 1\r\n\r\n",
            )
            .await
            .unwrap();
        let output = read_until(&mut client, "0\r\nchecksum: 2\r\n\r\n").await;
        assert!(output.contains("3\r\nwor\r\n2\r\nld\r\n"), "{output}");
        assert!(!output.contains("unannounced"), "hyper cannot send it");
    })
    .await;
}

#[tokio::test]
async fn head_keeps_its_length_and_has_no_body() {
    local(async {
        let (mut client, _server) = serving(HttpVersion::Http1, |request| async move {
            assert_eq!(request.method(), Method::HEAD);
            Ok(Response::builder()
                .header(CONTENT_LENGTH, "1234")
                .body(empty())
                .unwrap())
        })
        .await;
        for _ in 0..2 {
            client
                .write_all(b"HEAD / HTTP/1.1\r\nHost: web\r\n\r\n")
                .await
                .unwrap();
            let output = read_until(&mut client, "\r\n\r\n").await;
            assert!(output.contains("content-length: 1234\r\n"), "{output}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_http_1_0_caller_learns_that_a_body_was_cut_short() {
    for (fails, version) in [(false, "1.0"), (true, "1.0"), (true, "1.1")] {
        local(async move {
            let (mut client, _server) = serving(HttpVersion::Http1, move |_| async move {
                let mut parts = vec![data("hel")];
                if fails {
                    parts.push(Err(Reset::new(h2::Reason::CANCEL)));
                }
                Ok(Response::new(frames(parts)))
            })
            .await;
            client
                .write_all(format!("GET / HTTP/{version}\r\nHost: web\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let mut output = Vec::new();
            let ended = client.read_to_end(&mut output).await;
            match (fails, version) {
                (false, _) => assert!(ended.is_ok() && output.ends_with(b"\r\n\r\nhel")),
                (true, "1.0") => assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset),
                _ => assert!(ended.is_ok() && !output.ends_with(b"0\r\n\r\n"), "no last chunk"),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_reset_handler_ends_an_http_1_connection_without_an_answer() {
    local(async {
        let (mut client, _server) = serving(HttpVersion::Http1, |_| async {
            Err(Reset::new(h2::Reason::CANCEL))
        })
        .await;
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(read_all(&mut client).await, "");
    })
    .await;
}

#[tokio::test]
async fn the_handler_of_a_caller_that_went_away_is_dropped() {
    local(async {
        let (started, starts) = oneshot::channel();
        let (dropped, drops) = oneshot::channel::<()>();
        let parts = RefCell::new(Some((started, dropped)));
        let (mut client, _server) = serving(HttpVersion::Http1, move |_| {
            let (started, dropped) = parts.take().unwrap();
            async move {
                let _dropped = dropped;
                started.send(()).unwrap();
                std::future::pending().await
            }
        })
        .await;
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
            .await
            .unwrap();
        starts.await.unwrap();
        drop(client);
        assert!(drops.await.is_err());
    })
    .await;
}

#[tokio::test]
async fn draining_finishes_the_request_and_closes_idle_connections() {
    local(async {
        // Idle: closed at once.
        let (drain, drained) = oneshot::channel::<()>();
        let (mut client, server) = serving_until(
            HttpVersion::Http1,
            |_| async { Ok(Response::new(full("ok"))) },
            async { drained.await.unwrap() },
        )
        .await;
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
            .await
            .unwrap();
        assert!(!read_until(&mut client, "ok").await.contains("close"));
        drain.send(()).unwrap();
        assert_eq!(read_all(&mut client).await, "");
        server.await.unwrap().unwrap();

        // Busy: answered, told to close, then closed.
        let (drain, drained) = oneshot::channel::<()>();
        let (started, starts) = oneshot::channel();
        let (finish, finished) = oneshot::channel::<()>();
        let parts = RefCell::new(Some((started, finished)));
        let (mut client, server) = serving_until(
            HttpVersion::Http1,
            move |_| {
                let (started, finished) = parts.take().unwrap();
                async move {
                    started.send(()).unwrap();
                    finished.await.unwrap();
                    Ok(Response::new(full("ok")))
                }
            },
            async { drained.await.unwrap() },
        )
        .await;
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
            .await
            .unwrap();
        starts.await.unwrap();
        drain.send(()).unwrap();
        tokio::task::yield_now().await;
        finish.send(()).unwrap();
        let output = read_all(&mut client).await;
        assert!(
            output.contains("connection: close\r\n") && output.ends_with("ok"),
            "{output}"
        );
        server.await.unwrap().unwrap();
    })
    .await;
}

/// Answers CONNECT and WebSocket handshakes, then echoes.
async fn echo_upgrade(mut request: Request<RequestBody>) -> Result<Response<TestBody>, Reset> {
    let pending = PendingUpgrade::take(&mut request);
    let (mut head, _) = request.into_parts();
    let key = websocket::handshake(&head).unwrap();
    let Some(pending) = pending.filter(|_| key.is_some() || head.method == Method::CONNECT) else {
        clean_request(&mut head.headers).unwrap();
        assert!(!head.headers.contains_key("upgrade"));
        return Ok(Response::new(full("plain")));
    };
    tokio::task::spawn_local(async move {
        let mut stream = pending.complete().await.unwrap();
        let mut buffer = [0; 16];
        while let Ok(count) = stream.read(&mut buffer).await
            && count > 0
        {
            stream.write_all(&buffer[..count]).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        match stream {
            UpgradedStream::Tcp(_) => assert_eq!(head.version, Version::HTTP_11),
            UpgradedStream::Http2(_) => assert_eq!(head.version, Version::HTTP_2),
        }
    });
    let mut response = Response::new(empty());
    if let Some(key) = key {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        key.add_to_response(response.headers_mut());
    }
    Ok(response)
}

#[tokio::test]
async fn tunnels_and_websockets_keep_early_bytes_and_half_close() {
    for (request, status) in [
        (
            "CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
        ),
        (
            "GET /chat HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n",
        ),
    ] {
        local(async {
            let (mut client, server) = serving(HttpVersion::Http1, echo_upgrade).await;
            client
                .write_all(format!("{request}early ").as_bytes())
                .await
                .unwrap();
            let output = read_until(&mut client, "\r\n\r\n").await;
            assert!(output.starts_with(status), "{output}");
            assert!(
                !output.contains("transfer-encoding") && !output.contains("content-length"),
                "{output}"
            );
            if request.starts_with("GET") {
                assert!(output.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
            }
            server.await.unwrap().unwrap();
            client.write_all(b"late").await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(read_all(&mut client).await, "early late");
        })
        .await;
    }
}

#[tokio::test]
async fn other_upgrades_are_served_as_plain_requests() {
    local(async {
        let (mut client, _server) = serving(HttpVersion::Http1, echo_upgrade).await;
        for _ in 0..2 {
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n")
                .await
                .unwrap();
            assert!(
                read_until(&mut client, "plain")
                    .await
                    .starts_with("HTTP/1.1 200 OK\r\n")
            );
        }
    })
    .await;
}

async fn http2(client: TcpStream) -> h2::client::SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(client).await.unwrap();
    tokio::task::spawn_local(connection);
    sender
}

#[tokio::test]
async fn http2_streams_trailers_and_resets_with_a_code() {
    local(async {
        let (cut, cuts) = oneshot::channel::<()>();
        let cuts = Rc::new(RefCell::new(Some(cuts)));
        let (client, _server) = serving(HttpVersion::Http2, move |request| {
            let cuts = cuts.clone();
            async move {
                let target = Target::read(&request.into_parts().0).unwrap();
                assert_eq!(target.authority.unwrap(), "web:80");
                match target.path.unwrap().path() {
                    "/cancel" => Err(Reset::new(h2::Reason::CANCEL)),
                    "/refuse" => Err(Reset::new(h2::Reason::REFUSED_STREAM)),
                    "/cut" => {
                        let cut = cuts.take().unwrap();
                        let end = futures_util::stream::once(async move {
                            cut.await.unwrap();
                            Err(Reset::new(h2::Reason::INADEQUATE_SECURITY))
                        });
                        let start = futures_util::stream::iter([data("x")]);
                        Ok(Response::new(BodyExt::boxed_unsync(StreamBody::new(
                            start.chain(end),
                        ))))
                    }
                    _ => {
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", "0".parse().unwrap());
                        Ok(Response::new(frames(vec![
                            data("x"),
                            Ok(Frame::trailers(trailers)),
                        ])))
                    }
                }
            }
        })
        .await;
        let sender = http2(client).await;
        let get = |path: &str| Request::get(format!("http://web:80{path}")).body(()).unwrap();
        for (path, reason) in [
            ("/cancel", h2::Reason::CANCEL),
            ("/refuse", h2::Reason::REFUSED_STREAM),
        ] {
            let (response, _) = sender.clone().send_request(get(path), true).unwrap();
            assert_eq!(response.await.unwrap_err().reason(), Some(reason), "{path}");
        }
        let (response, _) = sender.clone().send_request(get("/cut"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "x");
        cut.send(()).unwrap();
        let end = body.data().await.unwrap().unwrap_err();
        assert_eq!(end.reason(), Some(h2::Reason::INADEQUATE_SECURITY));

        let (response, _) = sender.clone().send_request(get("/"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "x");
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    })
    .await;
}

#[tokio::test]
async fn connect_over_http2_is_a_tunnel() {
    local(async {
        let (client, _server) = serving(HttpVersion::Http2, echo_upgrade).await;
        let mut sender = http2(client).await;
        let request = Request::connect("db:5432").body(()).unwrap();
        let (response, mut send) = sender.send_request(request, false).unwrap();
        send.send_data(Bytes::from_static(b"hello"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut output = Vec::new();
        while let Some(chunk) = body.data().await {
            output.extend_from_slice(&chunk.unwrap());
        }
        assert_eq!(output, b"hello");
    })
    .await;
}

#[tokio::test]
async fn a_hundred_stalled_http2_uploads_stall_nobody_else() {
    local(async {
        let (client, _server) = serving(HttpVersion::Http2, |request| async move {
            if request.uri().path() == "/stall" {
                let _body = request.into_body();
                return std::future::pending().await;
            }
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.len(), 1 << 16);
            Ok(Response::new(full("ok")))
        })
        .await;
        let mut sender = http2(client).await;
        let mut stalled = Vec::new();
        for _ in 0..100 {
            sender = sender.ready().await.unwrap();
            let request = Request::post("http://web/stall").body(()).unwrap();
            let (response, mut body) = sender.send_request(request, false).unwrap();
            body.send_data(vec![0; 1 << 20].into(), false).unwrap();
            stalled.push((response, body));
        }
        sender = sender.ready().await.unwrap();
        let request = Request::post("http://web/").body(()).unwrap();
        let (response, mut body) = sender.send_request(request, false).unwrap();
        body.send_data(vec![0; 1 << 16].into(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    })
    .await;
}

#[tokio::test]
async fn draining_http2_finishes_its_streams() {
    local(async {
        let (drain, drained) = oneshot::channel::<()>();
        let (finish, finished) = oneshot::channel::<()>();
        let (started, starts) = oneshot::channel();
        let parts = RefCell::new(Some((started, finished)));
        let (client, server) = serving_until(
            HttpVersion::Http2,
            move |_| {
                let (started, finished) = parts.take().unwrap();
                async move {
                    started.send(()).unwrap();
                    finished.await.unwrap();
                    Ok(Response::new(full("ok")))
                }
            },
            async { drained.await.unwrap() },
        )
        .await;
        let mut sender = http2(client).await;
        let request = Request::get("http://web/").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        starts.await.unwrap();
        drain.send(()).unwrap();
        finish.send(()).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "ok");
        drop(body);
        drop(sender);
        server.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_bytes_that_detection_read_are_part_of_the_request() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let stream = LocalStream::new(stream, Bytes::from_static(b"GET /x HTTP/1.1\r\nHo"));
        let (seen, handler) = recorder();
        tokio::task::spawn_local(serve(stream, HttpVersion::Http1, handler, std::future::pending()));
        client.write_all(b"st: web\r\n\r\n").await.unwrap();
        read_until(&mut client, "ok").await;
        assert_eq!(*seen.borrow(), ["GET web /x []"]);
    })
    .await;
}

#[test]
fn a_response_of_ours_is_clean() {
    let mut headers = HeaderMap::new();
    headers.insert("weft-error", "x".parse().unwrap());
    clean_response(&mut headers).unwrap();
    assert!(headers.is_empty());
}
