//! What a peer with a certificate of the mesh cannot get from the other's sidecar.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use http::{Method, StatusCode, uri::Scheme};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};
use weft_lab::netns::{Host, Link, LinkOptions, privileged};
use weft_transport::{
    EndpointState, PeerKey, Pool, PoolOptions,
    credentials::Credentials,
    h3::{Protocol, RequestHead, ResponseHead, fields},
};

use crate::common::{
    Mesh, SOON, TRUST_DOMAIN, Workload, app,
    http::{self as client, raw},
    port,
    raw::{Ended, RawPeer},
    soon,
};

/// RFC 9114 section 8.1.
const H3_MESSAGE_ERROR: u64 = 0x10e;

/// A peer that says what it likes.
struct Peer {
    pool: Pool,
    web: PeerKey,
}

impl Peer {
    fn new(directory: &Path, web: &Workload) -> Self {
        let read = |name: &str| std::fs::read(directory.join("certs").join(name)).expect("a file");
        let credentials = Credentials::from_pem(&read("client.pem"), &read("client.key"), &read("ca.pem"));
        let pool = Pool::new(
            &PoolOptions::default(),
            Arc::default(),
            &EndpointState::ephemeral().expect("state"),
            Arc::new(credentials.expect("credentials")),
            Arc::default(),
        );
        let identity = format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/web")
            .parse()
            .expect("an identity");
        let web = PeerKey {
            uid: "default/web-0".into(),
            address: web.at(15_008),
            identity,
        };
        Self {
            pool: pool.expect("a pool"),
            web,
        }
    }

    /// The head of the answer, and its first content.
    async fn ask(&self, head: &RequestHead, content: &'static [u8]) -> (ResponseHead, Bytes) {
        soon("an answer", async {
            let mut stream = self.pool.stream(&self.web).await.expect("a stream");
            stream.queue_request(head).expect("a head");
            stream
                .send
                .queue_data(Bytes::from_static(content))
                .expect("content");
            stream.send.flush().await.ok();
            let answer = stream.recv.response_head().await.expect("an answer");
            let first = std::future::poll_fn(|cx| stream.recv.poll_data(cx)).await;
            (answer, first.ok().flatten().unwrap_or_default())
        })
        .await
    }

    async fn connect(&self, authority: &str) -> (ResponseHead, Bytes) {
        self.ask(
            &RequestHead::connect(authority.parse().expect("an authority")),
            b"hello",
        )
        .await
    }
}

fn get(path: &str) -> RequestHead {
    let path = path.parse().expect("a path");
    RequestHead::new(
        Method::GET,
        Scheme::HTTP,
        "web".parse().expect("an authority"),
        path,
    )
}

fn error(head: &ResponseHead) -> (u16, &str) {
    let reason = head
        .headers
        .get(fields::WEFT_ERROR)
        .map_or("", |reason| reason.to_str().expect("text"));
    (head.status.as_u16(), reason)
}

#[tokio::test]
async fn a_tunnel_leads_to_declared_ports_of_this_workload_alone() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut mesh = Mesh::of_web();
            app::serve_web(&mesh.named("web-0")).await;
            mesh.start();
            let web = mesh.named("web-0");
            let peer = Rc::new(Peer::new(mesh.directory(), &web));
            for name in [web.address.to_string(), "web-0.default".to_owned()] {
                let (head, echo) = peer.connect(&format!("{name}:{}", port::TCP)).await;
                assert_eq!((head.status, &*echo), (StatusCode::OK, &b"hello"[..]), "{name}");
            }
            let own = web.address;
            let client = mesh.named("client-0").address;
            for (authority, reason) in [
                // Listeners of its sidecar, and ports of the host.
                (format!("{own}:15000"), "undeclared_port"),
                (format!("{own}:15001"), "undeclared_port"),
                (format!("{own}:15020"), "undeclared_port"),
                (format!("web-0.default:{}", 22), "undeclared_port"),
                // Other places, and other spellings of this one.
                (format!("127.0.0.1:{}", port::TCP), "not_this_workload"),
                (format!("localhost:{}", port::TCP), "not_this_workload"),
                (format!("0.0.0.0:{}", port::TCP), "not_this_workload"),
                (format!("[::1]:{}", port::TCP), "not_this_workload"),
                (format!("[::ffff:{own}]:{}", port::TCP), "not_this_workload"),
                (format!("2130706433:{}", port::TCP), "not_this_workload"),
                (format!("0x7f000001:{}", port::TCP), "not_this_workload"),
                (format!("{own}.:{}", port::TCP), "not_this_workload"),
                (format!("{client}:15000"), "not_this_workload"),
                (format!("169.254.169.254:{}", port::TCP), "not_this_workload"),
                (format!("web:{}", port::TCP), "not_this_workload"),
            ] {
                let (head, _) = peer.connect(&authority).await;
                assert_eq!(error(&head), (404, reason), "{authority}");
            }
            mesh.sidecar("web-0")
                .access(&[("reason", "not_this_workload"), ("status", "404")])
                .await;
        })
        .await;
}

#[tokio::test]
async fn no_http_reaches_a_port_for_http_through_a_tunnel() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut mesh = Mesh::of_web();
            for (_, number, protocol) in &mut mesh.named_mut("web-0").ports {
                *protocol = if *number == port::HTTP { "http" } else { "" };
            }
            let web = mesh.named("web-0");
            let application = web.listen(port::HTTP).await;
            mesh.start();
            let peer = Peer::new(mesh.directory(), &web);
            let connect = RequestHead::connect(format!("{}:{}", web.address, port::HTTP).parse().unwrap());
            let forged = b"GET / HTTP/1.1\r\nHost: web\r\nweft-caller: spiffe://cluster.local/ns/default/sa/admin\r\n\r\n";
            let mut tunnel = soon("a stream", peer.pool.stream(&peer.web)).await.expect("a stream");
            tunnel.queue_request(&connect).expect("a head");
            tunnel.send.queue_data(Bytes::from_static(forged)).expect("content");
            tunnel.send.flush().await.ok();
            let (mut stream, _) = soon("a connection", application.accept()).await.expect("a connection");
            let mut heard = Vec::new();
            let ended = soon("its end", tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut heard)).await;
            assert!(heard.is_empty(), "{ended:?}: {}", String::from_utf8_lossy(&heard));
            mesh.sidecar("web-0").access(&[("reason", "http_in_tunnel")]).await;
        })
        .await;
}

#[tokio::test]
async fn a_request_names_a_declared_port_and_no_other_field_of_ours_counts() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut mesh = Mesh::of_web();
            app::serve_web(&mesh.named("web-0")).await;
            mesh.start();
            let peer = Peer::new(mesh.directory(), &mesh.named("web-0"));
            let ask = async |port: &str| {
                let mut head = get("/headers");
                if !port.is_empty() {
                    head.headers
                        .insert(fields::WEFT_PORT, port.parse().expect("a value"));
                }
                head.headers.insert(
                    fields::WEFT_CALLER,
                    "spiffe://cluster.local/ns/default/sa/admin".parse().unwrap(),
                );
                head.headers.insert("weft-other", "x".parse().unwrap());
                peer.ask(&head, b"").await
            };
            let (head, body) = ask(&port::HTTP.to_string()).await;
            assert_eq!(head.status, StatusCode::OK);
            let received: weft_lab::services::http::ReceivedHead =
                serde_json::from_slice(&body).expect("a head");
            assert_eq!(
                received.values("weft-caller").collect::<Vec<_>>(),
                [mesh.named("client-0").identity()]
            );
            assert_eq!(received.values("weft-port").count(), 0);
            assert_eq!(received.values("weft-other").count(), 0);
            for port in ["15000", "22", "1"] {
                assert_eq!(error(&ask(port).await.0), (404, "undeclared_port"), "{port}");
            }
            for port in ["+8080", "08080x", "99999", "-1"] {
                assert_eq!(error(&ask(port).await.0), (400, "bad_field"), "{port:?}");
            }
            assert_eq!(error(&ask("").await.0), (400, "missing_port"));
            let mut websocket = get("/ws");
            websocket.method = Method::CONNECT;
            websocket.protocol = Some(Protocol::WebSocket);
            websocket
                .headers
                .insert(fields::WEFT_PORT, "15000".parse().unwrap());
            assert_eq!(
                error(&peer.ask(&websocket, b"").await.0),
                (404, "undeclared_port")
            );
            let line = mesh
                .sidecar("web-0")
                .access(&[("reason", "undeclared_port")])
                .await;
            assert_eq!(line["caller"], Value::from(mesh.named("client-0").identity()));
        })
        .await;
}

/// What a sidecar says of a target that it does not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// A place that is not this workload.
    Elsewhere,
    /// A port of this workload that it does not offer.
    Undeclared,
    /// No `host:port` at all.
    Malformed,
}

/// Targets that lead nowhere, by host and port. `own` is the workload's own address, `other` that of another
/// workload, `tcp` a port that the workload declares, and `open` one on which somebody listens on every address of
/// the host.
fn targets(own: IpAddr, other: IpAddr, open: u16) -> Vec<(String, Refused)> {
    use Refused::{Elsewhere, Malformed, Undeclared};
    let tcp = port::TCP;
    let IpAddr::V4(v4) = own else {
        panic!("workloads of these tests have IPv4 addresses")
    };
    let number = u32::from(v4);
    let [a, b, c, d] = v4.octets();
    let mut targets = Vec::new();
    let mut add = |refused: Refused, target: String| targets.push((target, refused));
    // Listeners of the sidecar, and of the host, beside the application's.
    for port in [15_000, 15_001, 15_006, 15_008, 15_020, 22, 1, open, 65_535] {
        add(Undeclared, format!("{own}:{port}"));
    }
    add(Undeclared, format!("web-0.default:{open}"));
    // Other places.
    for host in [
        "127.0.0.1",
        "localhost",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[fe80::1]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "metadata.google.internal",
        "255.255.255.255",
        "224.0.0.1",
        // Names that resolve to the loopback address, and the service, whose endpoints are others too.
        "ip6-localhost",
        "127.0.0.1.nip.io",
        "localtest.me",
        "web",
        "web.default",
        "web.default.svc.cluster.local",
        "client-0.default",
        "web-1.default",
    ] {
        add(Elsewhere, format!("{host}:{open}"));
    }
    add(Elsewhere, format!("{other}:15000"));
    add(Elsewhere, format!("{other}:{open}"));
    // Other spellings of an address that could be reached: of this workload, and of the loopback.
    for host in [
        format!("[::ffff:{own}]"),
        format!("{number}"),
        format!("{number:#x}"),
        format!("{number:#o}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        format!("{a}.{}", number & 0xff_ffff),
        format!("{a}.{b}.{}", number & 0xffff),
        format!("{own}."),
        format!("00{a}.{b}.{c}.{d}"),
        format!("{own}.nip.io"),
        "web-0.default.".to_owned(),
        "web-0".to_owned(),
        "127.1".to_owned(),
        "2130706433".to_owned(),
        "0x7f000001".to_owned(),
        "017700000001".to_owned(),
        "0177.0.0.1".to_owned(),
    ] {
        add(Elsewhere, format!("{host}:{tcp}"));
    }
    // What is no target.
    for target in [
        format!("{own}"),
        format!("{own}:"),
        format!(":{tcp}"),
        format!("{own}:0{open}x"),
        format!("{own}:+{tcp}"),
        format!("{own}:-1"),
        format!("{own}:65536"),
        format!("{own}:{}", 65_536 + u32::from(tcp)),
        format!("{own}: {tcp}"),
        format!("{own}:{tcp} "),
        format!(" {own}:{tcp}"),
        format!("user@{own}:{tcp}"),
        format!("user:secret@{own}:{tcp}"),
        format!("127.0.0.1:{open}@{own}:{tcp}"),
        format!("{own}:{tcp}@127.0.0.1:{open}"),
        format!("{own}:{tcp}:{open}"),
        format!("http://{own}:{tcp}"),
        format!("{own}:{tcp}/"),
        format!("{own}:{tcp}?x"),
        format!("{own}:{tcp}#x"),
        format!("{own}%00:{tcp}"),
        format!("%31{}:{tcp}", &own.to_string()[1..]),
        format!("127%2e0%2e0%2e1:{open}"),
        format!("[fe80::1%25lo]:{open}"),
        format!("[fe80::1%lo]:{open}"),
        format!("[::1:{open}"),
        format!("::1:{open}"),
        format!("{own}\\@127.0.0.1:{open}"),
        format!("{own},127.0.0.1:{open}"),
        format!("127\u{3002}0\u{3002}0\u{3002}1:{open}"),
        "\u{ff4c}ocalhost:80".to_owned(),
        "*".to_owned(),
        "/var/run/docker.sock".to_owned(),
        String::new(),
    ] {
        add(Malformed, target);
    }
    // Zero is a number and no port.
    add(Undeclared, format!("{own}:0"));
    targets
}

/// Accepts on every address of the host, and counts.
#[derive(Clone)]
struct Recorder {
    port: u16,
    arrived: Rc<Cell<usize>>,
}

impl Recorder {
    /// On a free port.
    async fn start() -> Self {
        Self::on(
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))
                .await
                .expect("a port"),
        )
    }

    fn on(listener: TcpListener) -> Self {
        let arrived = Rc::new(Cell::new(0));
        let (port, count) = (listener.local_addr().expect("an address").port(), arrived.clone());
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.set(count.get() + 1);
                tokio::task::spawn_local(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        Self { port, arrived }
    }

    /// Nothing has arrived so far, and something would be seen: a connection of the test's own is.
    async fn assert_untouched(&self, address: SocketAddr) {
        assert_eq!(self.arrived.get(), 0, "something arrived on {address}");
        let mut stream = TcpStream::connect(address).await.expect("connect");
        client::ping(&mut stream).await.expect("an echo");
        assert_eq!(self.arrived.get(), 1);
    }
}

/// A mesh of which the application and the rest of the host only record who comes.
async fn recorded() -> (Mesh, Recorder, Recorder) {
    let mesh = Mesh::of_web();
    let application = Recorder::on(mesh.named("web-0").listen(port::TCP).await);
    (mesh, application, Recorder::start().await)
}

#[tokio::test]
async fn no_spelling_of_a_target_leads_elsewhere() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let (mut mesh, application, host) = recorded().await;
            mesh.start();
            let web = mesh.named("web-0");
            let peer = RawPeer::connect(mesh.directory(), "client", web.at(15_008)).await;
            let _control = peer.control().await;
            let targets = targets(web.address, mesh.named("client-0").address, host.port);
            assert!(targets.len() >= 40);
            for (target, expected) in targets {
                let answer = peer
                    .ask(&[(":method", b"CONNECT"), (":authority", target.as_bytes())])
                    .await;
                let said = match &answer {
                    Ok(head) => error(head),
                    Err(Ended::Reset(H3_MESSAGE_ERROR)) => (400, "malformed_request"),
                    Err(other) => panic!("{target:?}: {other:?}"),
                };
                let refused = match said {
                    (404, "not_this_workload") => Refused::Elsewhere,
                    (404, "undeclared_port") => Refused::Undeclared,
                    (400, _) => Refused::Malformed,
                    other => panic!("{target:?}: {other:?}"),
                };
                // A port that is no number is no port of this place either.
                let expected = match refused {
                    Refused::Elsewhere if expected == Refused::Malformed => refused,
                    _ => expected,
                };
                assert_eq!(refused, expected, "{target:?}: {said:?}");
            }
            application.assert_untouched(web.at(port::TCP)).await;
            host.assert_untouched(SocketAddr::new(web.address, host.port))
                .await;
            // And the one spelling that is meant arrives.
            let target = web.at(port::TCP).to_string();
            let answer = peer
                .ask(&[(":method", b"CONNECT"), (":authority", target.as_bytes())])
                .await;
            assert_eq!(answer.expect("an answer").status, StatusCode::OK);
            assert_eq!(application.arrived.get(), 2);
        })
        .await;
}

#[tokio::test]
async fn no_spelling_of_a_port_leads_elsewhere() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let (mut mesh, application, host) = recorded().await;
            mesh.start();
            let web = mesh.named("web-0");
            let peer = RawPeer::connect(mesh.directory(), "client", web.at(15_008)).await;
            let _control = peer.control().await;
            let open = host.port.to_string();
            let tcp = port::TCP.to_string();
            let own = web.address.to_string();
            let wrapped = (65_536 + u32::from(port::TCP)).to_string();
            let other_digits: String = tcp
                .chars()
                .map(|digit| char::from_u32(digit as u32 + 0xfee0).unwrap())
                .collect();
            let texts = [
                "15000",
                "15001",
                "15006",
                "15008",
                "15020",
                "22",
                "0",
                &open,
                "65535",
                "65536",
                &wrapped,
                "-1",
                &format!("+{tcp}"),
                &format!("0x{:x}", port::TCP),
                &format!("0o{:o}", port::TCP),
                &format!("{tcp}.0"),
                &format!("{tcp}e0"),
                &format!("{tcp},{open}"),
                &format!("{tcp} {open}"),
                &format!("{tcp};{open}"),
                &format!("{own}:{tcp}"),
                &format!("127.0.0.1:{open}"),
                &format!(":{open}"),
                "http",
                "tcp",
                "",
                "''",
                &format!("\"{tcp}\""),
                &format!("%3{}", &tcp),
                &other_digits,
                "18446744073709559698",
                "99999999999999999999",
            ];
            for text in texts {
                for method in ["GET", "websocket"] {
                    let mut head: Vec<(&str, &[u8])> = vec![
                        (":method", if method == "GET" { b"GET" } else { b"CONNECT" }),
                        (":scheme", b"http"),
                        (":authority", b"web"),
                        (":path", b"/"),
                    ];
                    if method != "GET" {
                        head.push((":protocol", b"websocket"));
                    }
                    head.push(("weft-port", text.as_bytes()));
                    let answer = peer.ask(&head).await;
                    match answer.as_ref().map(error) {
                        Ok((404, "undeclared_port") | (400, "bad_field"))
                        | Err(Ended::Reset(H3_MESSAGE_ERROR)) => {}
                        other => panic!("{method} to port {text:?}: {other:?}"),
                    }
                }
            }
            // Two that contradict each other.
            let mut twice = vec![
                (":method", &b"GET"[..]),
                (":scheme", b"http"),
                (":authority", b"web"),
                (":path", b"/"),
                ("weft-port", tcp.as_bytes()),
                ("weft-port", open.as_bytes()),
            ];
            for _ in 0..2 {
                assert_eq!(
                    error(&peer.ask(&twice).await.expect("an answer")),
                    (400, "bad_field")
                );
                twice.swap(4, 5);
            }
            // An authority that says otherwise is the application's business, and leads to the port all the same.
            application.assert_untouched(web.at(port::TCP)).await;
            host.assert_untouched(SocketAddr::new(web.address, host.port))
                .await;
        })
        .await;
}

/// The first frame of the answer that tells something, as one letter: `H` a success, `h` another head, `R` a reset
/// stream, `G` a closed connection.
async fn ask_http2(address: SocketAddr, fields: &[(&str, &[u8])], ends: bool) -> char {
    soon("an answer", async {
        let mut block = Vec::new();
        for (name, value) in fields {
            // Literal without indexing (RFC 7541 section 6.2.2); all lengths are below 127.
            block.push(0);
            for text in [name.as_bytes(), value] {
                block.push(u8::try_from(text.len()).expect("a short text"));
                block.extend_from_slice(text);
            }
        }
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        bytes.extend_from_slice(&u32::try_from(block.len()).expect("a short block").to_be_bytes()[1..]);
        bytes.extend_from_slice(&[1, 4 | u8::from(ends), 0, 0, 0, 1]);
        bytes.extend_from_slice(&block);
        let mut stream = TcpStream::connect(address).await.expect("connect");
        stream.write_all(&bytes).await.expect("send");
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return 'G';
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if stream.read_exact(&mut payload).await.is_err() {
                return 'G';
            }
            match head[3] {
                // The indexed field `:status: 200` of RFC 7541's table.
                1 if payload[0] == 0x88 => return 'H',
                1 => return 'h',
                3 => return 'R',
                7 => return 'G',
                _ => {}
            }
        }
    })
    .await
}

/// Everything that the application's own side may say, at the port where it names its destination itself.
async fn assert_refused_to_the_application(outbound: SocketAddr, target: &str) {
    let http1 = [
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"),
        format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"),
        // A Host that could be reached does not lend its good name.
        format!("CONNECT {target} HTTP/1.1\r\nHost: web:5432\r\nConnection: close\r\n\r\n"),
    ];
    for request in http1 {
        let answer = raw(outbound, &request).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5"),
            "{request:?}: {answer:?}"
        );
    }
    let connect = [(":method", &b"CONNECT"[..]), (":authority", target.as_bytes())];
    let get = [
        (":method", &b"GET"[..]),
        (":scheme", b"http"),
        (":authority", target.as_bytes()),
        (":path", b"/"),
    ];
    for (fields, ends) in [(&connect[..], false), (&get[..], true)] {
        let answer = ask_http2(outbound, fields, ends).await;
        assert_ne!(answer, 'H', "{target:?} over HTTP/2");
    }
}

#[tokio::test]
async fn the_application_reaches_services_of_the_mesh_alone() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let (mut mesh, application, host) = recorded().await;
            mesh.start();
            let (client, web) = (mesh.named("client-0"), mesh.named("web-0"));
            // What is refused to a peer of the client is refused to its application too: `own` is its sidecar.
            for (target, _) in targets(client.address, Workload::new("no", "no").address, host.port) {
                // The names of services are what the application may reach, also on ports that they do not have.
                assert_refused_to_the_application(mesh.outbound(), &target).await;
            }
            application.assert_untouched(web.at(port::TCP)).await;
            host.assert_untouched(SocketAddr::new(web.address, host.port))
                .await;
            // HTTP/2 is understood at all.
            let connect = [(":method", &b"CONNECT"[..]), (":authority", b"web:5432")];
            assert_eq!(ask_http2(mesh.outbound(), &connect, false).await, 'H');
        })
        .await;
}

/// One exchange over HTTP/1.1 from within a host.
fn exchange(host: &Host, request: &str) -> String {
    use std::io::{Read, Write};
    let talk = || {
        let mut stream = std::net::TcpStream::connect("127.0.0.1:15001").expect("connect");
        stream.set_read_timeout(Some(SOON)).expect("set a timeout");
        stream.write_all(request.as_bytes()).expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    host.run(talk).expect("a thread in the host")
}

/// As on a real host: the sidecar's own listeners are on the loopback, which is not of the mesh.
fn egress_from_a_host(subnet: u8) {
    let (left, right) = (Host::new("left").unwrap(), Host::new("right").unwrap());
    let link = Link::join(&left, &right, subnet, LinkOptions::default()).unwrap();
    let mut mesh = Mesh::new();
    let address = link.left()[0];
    mesh.workload(Workload {
        address,
        host: Some(left.clone()),
        ..Workload::new("client-0", "client")
    });
    mesh.config = format!("egress: allow\nmeshRanges: [\"{address}/32\"]");
    mesh.start();
    for port in [15_000, 15_001] {
        for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"] {
            let target = format!("{host}:{port}");
            for line in [
                format!("CONNECT {target}"),
                format!("GET http://{target}/snapshot"),
                "GET /snapshot".to_owned(),
            ] {
                let request = format!("{line} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
                let answer = exchange(&left, &request);
                assert!(
                    answer.starts_with("HTTP/1.1 508 ") && answer.contains("weft-error: own_listener"),
                    "{line}: {answer}"
                );
            }
        }
    }
}

#[test]
fn egress_does_not_lead_back_into_the_sidecar() {
    privileged(|| egress_from_a_host(7)).unwrap();
}
