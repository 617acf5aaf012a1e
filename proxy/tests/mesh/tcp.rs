//! Bytes that are not HTTP, and ports of which nobody said what they speak.

use std::{io, sync::Arc};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
};
use weft_lab::services::{Pattern, small_answer, tcp};

use crate::common::{
    Mesh, app,
    http::{assert_reset, get},
    port, soon,
};

async fn echo(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    let mut echoed = vec![0; text.len()];
    soon("the echo", stream.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(echoed, text);
}

async fn rest(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut rest = Vec::new();
    soon("the end", stream.read_to_end(&mut rest)).await.map(|_| rest)
}

#[tokio::test]
async fn a_bound_port_carries_bytes_and_ends_cleanly() {
    let mut mesh = Mesh::of_web();
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    let mut stream = TcpStream::connect(mesh.bind(port::BIND_TCP)).await.unwrap();
    echo(&mut stream, b"first").await;
    echo(&mut stream, b"second").await;
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await.unwrap(), b"");
    let web = mesh.named("web-0").identity();
    let line = mesh.sidecar("client-0").access(&[("protocol", "tcp")]).await;
    assert_eq!(
        (&line["peer"], &line["service"]),
        (&web.into(), &"default/web".into())
    );
    assert_eq!(
        (&line["bytes_sent"], &line["bytes_received"]),
        (&11.into(), &11.into())
    );
    let tunnels = mesh.sidecar("client-0").metric("weft_tunnels_open", &[]).await;
    assert_eq!(tunnels, Some(0.0));
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let mut mesh = Mesh::of_web();
    tokio::spawn(tcp::sink(mesh.named("web-0").listen(port::TCP).await));
    mesh.start();
    let content = Pattern::default().next(200_000);
    let mut stream = TcpStream::connect(mesh.bind(port::BIND_TCP)).await.unwrap();
    for _ in 0..10 {
        stream.write_all(&content).await.unwrap();
    }
    // The sink answers only after this.
    stream.shutdown().await.unwrap();
    let receipt = String::from_utf8(rest(&mut stream).await.unwrap()).unwrap();
    assert_eq!(receipt, tcp::receipt(&content.repeat(10)));
}

#[tokio::test]
async fn a_reset_is_a_reset_at_the_other_end() {
    let mut mesh = Mesh::of_web();
    let web = mesh.named("web-0");
    tokio::spawn(tcp::resetter(web.listen(port::ANY).await));
    let (ends, mut end) = tokio::sync::mpsc::unbounded_channel();
    app::serve_with(&web, port::TCP, move |mut stream, _| {
        let ends = ends.clone();
        async move {
            stream.read_u8().await.unwrap();
            stream.write_all(b"!").await.unwrap();
            ends.send(stream.read_u8().await.map_err(|error| error.kind()))
                .unwrap();
        }
    })
    .await;
    mesh.start();
    // Of the application.
    let mut stream = TcpStream::connect(mesh.bind(port::BIND_ANY)).await.unwrap();
    stream.write_all(b"\0").await.unwrap();
    assert_eq!(
        rest(&mut stream).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    // Of the client.
    let mut stream = TcpStream::connect(mesh.bind(port::BIND_TCP)).await.unwrap();
    stream.write_all(b"?").await.unwrap();
    soon("an answer", stream.read_u8()).await.unwrap();
    setsockopt(
        &stream,
        sockopt::Linger,
        &libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )
    .unwrap();
    drop(stream);
    assert_eq!(
        soon("the reset", end.recv()).await,
        Some(Err(io::ErrorKind::ConnectionReset))
    );
}

#[tokio::test]
async fn on_an_undeclared_port_the_server_may_speak_first() {
    let mut mesh = Mesh::of_web();
    tokio::spawn(tcp::greeter(mesh.named("web-0").listen(port::ANY).await, "db"));
    mesh.start();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(mesh.bind(port::BIND_ANY)).await.unwrap();
        let mut banner = vec![0; tcp::banner("db").len()];
        soon("the banner", stream.read_exact(&mut banner)).await.unwrap();
        assert_eq!(banner, tcp::banner("db").as_bytes());
        echo(&mut stream, b"GET / HTTP/1.1\r\n\r\n").await;
        stream.shutdown().await.unwrap();
        assert_eq!(rest(&mut stream).await.unwrap(), b"");
    }
}

#[tokio::test]
async fn on_an_undeclared_port_the_client_may_speak_first() {
    let mut mesh = Mesh::of_web();
    tokio::spawn(tcp::echo(mesh.named("web-0").listen(port::ANY).await));
    mesh.start();
    // A ClientHello's beginning, and what is neither TLS nor HTTP; bytes that might become HTTP and do not.
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 600]].concat();
    for first in [
        &hello[..],
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"GETTING somewhere\n",
        b"G\0",
    ] {
        let mut stream = TcpStream::connect(mesh.bind(port::BIND_ANY)).await.unwrap();
        echo(&mut stream, first).await;
        echo(&mut stream, b"and more").await;
        stream.shutdown().await.unwrap();
        assert_eq!(rest(&mut stream).await.unwrap(), b"");
    }
}

#[tokio::test]
async fn http_on_an_undeclared_port_is_routed_by_request() {
    let mut mesh = Mesh::of_web();
    app::serve_http(&mesh.named("web-0"), port::ANY).await;
    mesh.start();
    for _ in 0..3 {
        // The bind says where it goes, whatever Host says.
        let answer = get(mesh.bind(port::BIND_ANY), "anything.example", "/").await;
        assert_eq!(answer.body, small_answer("web-0"));
    }
    let line = mesh.sidecar("web-0").access(&[("direction", "inbound")]).await;
    assert_eq!(
        (&line["protocol"], &line["path"]),
        (&"http/1.1".into(), &"/".into())
    );
    // The tunnels that were opened to listen for a server that speaks first are not told of.
    let log = [
        mesh.sidecar("client-0").access_log(),
        mesh.sidecar("web-0").access_log(),
    ]
    .concat();
    assert!(log.iter().all(|line| line["protocol"] == "http/1.1"), "{log:#?}");
}

#[tokio::test]
async fn a_connection_that_cannot_be_served_is_reset() {
    let mut mesh = Mesh::of_web();
    // Nobody listens on the application's port.
    mesh.start();
    assert_reset(mesh.bind(port::BIND_TCP)).await;
    mesh.sidecar("client-0")
        .access(&[("protocol", "tcp"), ("reason", "refused_by_endpoint")])
        .await;
    mesh.sidecar("web-0")
        .access(&[("protocol", "tcp"), ("reason", "application_refused")])
        .await;
}

#[tokio::test]
async fn the_application_is_not_called_from_its_own_address() {
    let mut mesh = Mesh::of_web();
    let callers = Arc::new(Mutex::new(Vec::new()));
    let seen = callers.clone();
    app::serve_with(&mesh.named("web-0"), port::TCP, move |mut stream, peer| {
        let seen = seen.clone();
        async move {
            seen.lock().await.push(peer.ip().to_string());
            stream.write_all(b"!").await.unwrap();
        }
    })
    .await;
    mesh.start();
    let mut stream = TcpStream::connect(mesh.bind(port::BIND_TCP)).await.unwrap();
    assert_eq!(rest(&mut stream).await.unwrap(), b"!");
    assert_eq!(*callers.lock().await, ["127.0.0.6"]);
}
