//! HTTP/1.1 through both sidecars.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use weft_lab::services::{Pattern, small_answer, tcp::receipt};

use crate::common::{
    Mesh, app,
    http::{Connection, empty, full, get, pieces, raw, read_head},
    port, soon,
};

const LARGE: usize = 16 << 20;

async fn web() -> Mesh {
    let mut mesh = Mesh::of_web();
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    mesh
}

#[tokio::test]
async fn a_service_answers_to_every_spelling_of_its_name() {
    let mut mesh = Mesh::of_web();
    mesh.service(
        "several",
        &[
            ("one", 8001, port::HTTP, "http"),
            ("two", 8002, port::HTTP, "http"),
        ],
    );
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    let outbound = mesh.outbound();
    for name in [
        "web",
        "web.default",
        "web.default.svc",
        "web.default.svc.cluster.local",
        "WEB.Default",
        "web.",
    ] {
        for host in [name.to_owned(), format!("{name}:80")] {
            let answer = get(outbound, &host, "/").await;
            assert_eq!(
                (answer.status, &answer.body),
                (StatusCode::OK, &small_answer("web-0")),
                "{host}"
            );
        }
    }
    for (host, reason) in [
        ("nobody", "unknown_service"),
        ("web.elsewhere", "unknown_service"),
        ("web:82", "unknown_port"),
        ("several", "ambiguous_port"),
    ] {
        let answer = get(outbound, host, "/").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{host}");
        assert_eq!(answer.field("weft-error"), Some(reason), "{host}");
    }
    let line = mesh.sidecar("client-0").access(&[("authority", "nobody")]).await;
    assert_eq!(
        (&line["reason"], &line["status"]),
        (&"unknown_service".into(), &404.into())
    );
}

#[tokio::test]
async fn the_access_log_of_both_sides_says_who_called_whom() {
    let mut mesh = web().await;
    get(mesh.outbound(), "web", "/?secret").await;
    let (client, web) = (mesh.named("client-0").identity(), mesh.named("web-0").identity());
    let line = mesh
        .sidecar("client-0")
        .access(&[("direction", "outbound")])
        .await;
    assert_eq!(line["service"], "default/web");
    assert_eq!(
        (&line["path"], &line["status"], &line["tries"]),
        (&"/".into(), &200.into(), &1.into())
    );
    assert_eq!((&line["peer"], &line["transport"]), (&web.into(), &"h3".into()));
    let line = mesh.sidecar("web-0").access(&[("direction", "inbound")]).await;
    assert_eq!((&line["caller"], &line["status"]), (&client.into(), &200.into()));
}

#[tokio::test]
async fn bodies_pass_with_a_length_and_chunked() {
    let mesh = web().await;
    let mut connection = Connection::http1(mesh.outbound()).await;
    let parts: Vec<Bytes> = ["one ", "", "two ", "three"].map(Bytes::from).into();
    for body in [full("one two three"), pieces(parts, None)] {
        let request = Request::post("/echo").header("host", "web").body(body).unwrap();
        let answer = connection.send(request).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "one two three"));
    }
    // The length is passed on, and chunked comes back where there is none.
    let answer = get(mesh.outbound(), "web", "/bytes?n=1000").await;
    assert_eq!(answer.field("content-length"), Some("1000"));
    let answer = raw(
        mesh.outbound(),
        "POST /echo HTTP/1.1\r\nHost: web\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    )
    .await;
    assert!(
        answer.to_lowercase().contains("transfer-encoding: chunked\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_in_step() {
    let mesh = web().await;
    let mut connection = Connection::http1(mesh.outbound()).await;
    for _ in 0..2 {
        let head = Request::head("/bytes?n=1000")
            .header("host", "web")
            .body(empty())
            .unwrap();
        let answer = connection.send(head).await;
        assert_eq!(
            (answer.status, answer.field("content-length")),
            (StatusCode::OK, Some("1000"))
        );
        for code in [204, 304, 200, 500] {
            let request = Request::get(format!("/status?code={code}"))
                .header("host", "web")
                .body(empty());
            let answer = connection.send(request.unwrap()).await;
            assert_eq!((answer.status.as_u16(), answer.body.len()), (code, 0));
        }
        let request = Request::get("/").header("host", "web").body(empty()).unwrap();
        assert_eq!(connection.send(request).await.body, small_answer("web-0"));
    }
}

#[tokio::test]
async fn announced_trailers_pass_both_ways() {
    let mesh = web().await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "42".parse().unwrap());
    let request = Request::post("/echo")
        .header("host", "web")
        .header("te", "trailers")
        .header("trailer", "x-sum")
        .body(pieces(vec![Bytes::from("content")], Some(trailers)))
        .unwrap();
    let answer = Connection::http1(mesh.outbound()).await.send(request).await;
    assert_eq!(answer.text(), "content");
    assert_eq!(answer.trailers.expect("trailers")["x-sum"], "42");
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let mesh = web().await;
    let mut connection = Connection::http1(mesh.outbound()).await;
    let request = Request::get(format!("/bytes?n={LARGE}"))
        .header("host", "web")
        .body(empty())
        .unwrap();
    let answer = connection.send(request).await;
    assert_eq!(answer.body.len(), LARGE);
    assert!(Pattern::default().matches(&answer.body));
    for body in [full(answer.body.clone()), pieces(vec![answer.body.clone()], None)] {
        let request = Request::post("/digest").header("host", "web").body(body).unwrap();
        assert_eq!(connection.send(request).await.text(), receipt(&answer.body));
    }
    // Both at once.
    let request = Request::post("/echo")
        .header("host", "web")
        .body(full(answer.body.clone()))
        .unwrap();
    assert!(connection.send(request).await.body == answer.body);
}

#[tokio::test]
async fn the_application_says_100_continue_and_nobody_else() {
    let mut mesh = Mesh::of_web();
    let (web, bodies) = (mesh.named("web-0"), Arc::new(Mutex::new(Vec::new())));
    let kept = bodies.clone();
    app::serve_with(&web, port::HTTP, move |mut stream, _| {
        let kept = kept.clone();
        async move {
            let head = read_head(&mut stream).await;
            assert!(head.to_lowercase().contains("expect: 100-continue\r\n"), "{head}");
            let mut body = Vec::new();
            if head.contains("/refuse") {
                stream
                    .write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
                    .await
                    .unwrap();
            } else {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
                body = vec![0; 4];
                stream.read_exact(&mut body).await.unwrap();
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await
                    .unwrap();
            }
            // Whatever else comes, up to the end of the connection.
            stream.read_to_end(&mut body).await.ok();
            kept.lock().unwrap().push(String::from_utf8(body).unwrap());
        }
    })
    .await;
    mesh.start();
    let head = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    };
    let mut stream = TcpStream::connect(mesh.outbound()).await.unwrap();
    stream.write_all(head("/refuse").as_bytes()).await.unwrap();
    let answer = read_head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    drop(stream);
    let mut stream = TcpStream::connect(mesh.outbound()).await.unwrap();
    stream.write_all(head("/take").as_bytes()).await.unwrap();
    let answer = read_head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 100 "), "{answer}");
    stream.write_all(b"body").await.unwrap();
    let answer = read_head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let mut body = [0; 2];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"ok");
    drop(stream);
    crate::common::eventually("the end of both connections", async || {
        bodies.lock().unwrap().len() == 2
    })
    .await;
    let mut bodies = bodies.lock().unwrap().clone();
    bodies.sort();
    assert_eq!(bodies, ["", "body"]);
}

#[tokio::test]
async fn it_is_a_proxy_for_clients_that_know_one() {
    let mut mesh = web().await;
    let answer = raw(
        mesh.outbound(),
        "GET http://web.default/ HTTP/1.1\r\nHost: web.default\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("web-0 says hello"),
        "{answer}"
    );
    let mut stream = TcpStream::connect(mesh.outbound()).await.unwrap();
    stream
        .write_all(b"CONNECT web:5432 HTTP/1.1\r\nHost: web:5432\r\n\r\n")
        .await
        .unwrap();
    let answer = read_head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.to_lowercase().contains("content-length"), "{answer}");
    stream.write_all(b"through the tunnel").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    soon("the echo", stream.read_to_end(&mut echoed)).await.unwrap();
    assert_eq!(echoed, b"through the tunnel");
    mesh.sidecar("web-0")
        .access(&[("protocol", "tcp"), ("bytes_received", "18")])
        .await;
    for (target, status) in [
        ("nobody:80", "404"),
        ("web:82", "404"),
        ("127.0.0.1:15000", "502"),
    ] {
        let answer = raw(
            mesh.outbound(),
            format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"),
        )
        .await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{target}: {answer}"
        );
    }
}

#[tokio::test]
async fn malformed_heads_are_refused_and_harm_nobody() {
    let mesh = web().await;
    for head in [
        "GET / HTTP/1.1\r\nHost: web\r\nHost: nobody\r\n",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: web\r\nX-\x01: 1\r\n",
        "GET / HTTP/1.1\r\nHost: web\r\nX: 1\r\n folded\r\n",
        "POST /echo HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\nContent-Length: 4\r\n",
        "POST /echo HTTP/1.1\r\nHost: web\r\nContent-Length: -1\r\n",
        "GET http://web/ HTTP/1.1\r\nHost: nobody\r\n",
        "GET http://web@nobody/ HTTP/1.1\r\nHost: web\r\n",
        "GET web HTTP/1.1\r\nHost: web\r\n",
    ] {
        let answer = raw(mesh.outbound(), format!("{head}Connection: close\r\n\r\n")).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") || answer.is_empty(),
            "{head:?}: {answer}"
        );
    }
    assert_eq!(get(mesh.outbound(), "web", "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_interrupted_answer_does_not_look_complete() {
    let mut mesh = Mesh::of_web();
    let head_seen = Arc::new(Notify::new());
    let seen = head_seen.clone();
    app::serve_with(&mesh.named("web-0"), port::HTTP, move |mut stream, _| {
        let seen = seen.clone();
        async move {
            let head = read_head(&mut stream).await;
            let answer = match head.contains("/length") {
                true => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
                false => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
            seen.notified().await;
        }
    })
    .await;
    mesh.start();
    for path in ["/length", "/chunked"] {
        let request = Request::get(path).header("host", "web").body(empty()).unwrap();
        let mut connection = Connection::http1(mesh.outbound()).await;
        let answer = soon("a head", connection.begin(request)).await.expect("a head");
        assert_eq!(answer.status(), StatusCode::OK);
        head_seen.notify_one();
        soon("the end", answer.into_body().collect())
            .await
            .expect_err(path);
    }
    let line = mesh.sidecar("web-0").access(&[("path", "/length")]).await;
    assert_eq!(line["reason"], "application_closed");
}
