//! What an operator sees and does: pages, metrics, new documents.

use std::time::{Duration, Instant};

use http::StatusCode;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use weft_lab::services::small_answer;

use crate::common::{
    Mesh, app, eventually,
    http::{get, raw, read_head},
    port,
};

async fn web() -> Mesh {
    let mut mesh = Mesh::of_web();
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    mesh
}

#[tokio::test]
async fn the_pages_tell_what_the_proxy_does() {
    let mut mesh = web().await;
    for _ in 0..3 {
        assert_eq!(get(mesh.outbound(), "web", "/").await.status, StatusCode::OK);
    }
    let (client, web) = (mesh.named("client-0"), mesh.named("web-0"));
    let sidecar = mesh.sidecar("client-0");
    assert_eq!(sidecar.page("/ready").await.status, StatusCode::OK);
    let metrics = client.at(15_020);
    assert_eq!(
        get(metrics, &metrics.to_string(), "/ready").await.status,
        StatusCode::OK
    );
    assert_eq!(
        get(metrics, &metrics.to_string(), "/snapshot").await.status,
        StatusCode::NOT_FOUND
    );

    let snapshot = sidecar.json("/snapshot").await;
    assert_eq!(snapshot["identity"]["spiffeId"], client.identity());
    let backends = snapshot["backends"].as_array().expect("a list");
    let backend = backends
        .iter()
        .find(|backend| backend["destination"] == "web.default:80")
        .expect("the service");
    assert_eq!(backend["endpoints"][0]["identity"], web.identity());

    // All of it went over one connection.
    let connections = sidecar.json("/connections").await;
    let connections = connections["workers"][0]["connections"]
        .as_array()
        .expect("a list");
    let [connection] = &connections[..] else {
        panic!("{connections:?}")
    };
    assert_eq!(connection["identity"], web.identity());
    assert_eq!(
        (&connection["direction"], &connection["transport"]),
        (&"outbound".into(), &"h3".into())
    );
    assert_eq!(
        (&connection["streams"], &connection["streamsTotal"]),
        (&0.into(), &3.into())
    );
    for figure in ["rttMicros", "congestionWindow", "mtu", "datagramsPerSend"] {
        assert!(
            connection[figure].as_f64().expect("a number") > 0.0,
            "{figure}: {connection}"
        );
    }
    assert_eq!(connection["packetsLost"], 0);

    let requests = sidecar
        .metric(
            "weft_requests_total",
            &["direction=\"outbound\"", "service=\"default/web"],
        )
        .await;
    assert_eq!(requests, Some(3.0));
    let seconds = sidecar
        .metric("weft_request_duration_seconds_count", &["direction=\"outbound\""])
        .await;
    assert_eq!(seconds, Some(3.0));
    for (name, labels) in [
        ("weft_connections_open", &["side=\"peer\""][..]),
        ("weft_handshakes_total", &[]),
        ("weft_quic_rtt_seconds", &["median"]),
        ("weft_quic_mtu_bytes", &["min"]),
        ("weft_bytes_total", &["flow=\"received\""]),
        ("weft_svid_not_after_seconds", &[]),
    ] {
        assert!(
            sidecar
                .metric(name, labels)
                .await
                .is_some_and(|value| value > 0.0),
            "{name}"
        );
    }
    for name in ["weft_udp_receive_drops_total", "weft_access_log_dropped_total"] {
        assert_eq!(sidecar.metric(name, &[]).await, Some(0.0), "{name}");
    }
    let requests = mesh
        .sidecar("web-0")
        .metric("weft_requests_total", &["direction=\"inbound\""])
        .await;
    assert_eq!(requests, Some(3.0));
}

#[tokio::test]
async fn admin_pages_answer_to_addresses_only() {
    let mesh = web().await;
    let admin = mesh.named("web-0").at(15_000);
    for (host, status) in [
        ("127.0.0.1:15000", StatusCode::OK),
        ("[::1]:15000", StatusCode::OK),
        ("localhost", StatusCode::OK),
        ("evil.example", StatusCode::MISDIRECTED_REQUEST),
        ("localhost.evil.example:15000", StatusCode::MISDIRECTED_REQUEST),
    ] {
        for path in ["/snapshot", "/connections", "/ready"] {
            assert_eq!(get(admin, host, path).await.status, status, "{host}");
        }
    }
    // Nothing changes anything.
    let answer = raw(
        admin,
        "POST /snapshot HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

#[tokio::test]
async fn readiness_ends_when_a_drain_begins() {
    let mut mesh = web().await;
    let slow = tokio::spawn(get(mesh.outbound(), "web", "/slow?ms=600"));
    let web = mesh.sidecar("web-0");
    let streams = async |web: &crate::common::Sidecar| {
        web.json("/connections").await["workers"][0]["connections"][0]["streams"].clone()
    };
    eventually("the request", async || streams(web).await == 1).await;
    web.process.signal(Signal::SIGTERM).unwrap();
    let mut last = None;
    eventually("the drain", async || {
        let page = web.page("/ready").await;
        last = Some((page.status, page.text().to_owned()));
        page.status != StatusCode::OK
    })
    .await;
    assert_eq!(
        last,
        Some((StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()))
    );
    assert_eq!(slow.await.unwrap().status, StatusCode::OK);
    assert_eq!(mesh.take("web-0").ended().await, Some(0));
}

#[tokio::test]
async fn new_documents_are_used_without_a_restart_and_bad_ones_never() {
    let mut mesh = web().await;
    assert_eq!(get(mesh.outbound(), "web", "/").await.body, small_answer("web-0"));
    let pids = ["client-0", "web-0"].map(|name| mesh.sidecar(name).process.pid());
    // Another workload takes the place of web-0.
    let other = mesh.workload(Mesh::web("web-1"));
    app::serve_http(&other, port::HTTP).await;
    mesh.start_one("web-1");
    let old = mesh
        .workloads
        .iter()
        .position(|workload| workload.name == "web-0")
        .expect("web-0");
    let old = mesh.workloads.remove(old);
    mesh.publish();
    let outbound = mesh.outbound();
    eventually("the new endpoint", async || {
        let answer = get(outbound, "web", "/").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.body == small_answer("web-1")
    })
    .await;
    let before = mesh.sidecar("client-0").json("/snapshot").await;
    assert_eq!(before["problems"]["documents"], Value::Null);
    assert!(!before.to_string().contains(&old.address.to_string()));

    let good = std::fs::read_to_string(mesh.directory().join("mesh.yaml")).unwrap();
    mesh.write("mesh.yaml", &good.replace("port: 5432", "port: 70000"));
    let client = mesh.sidecar("client-0");
    eventually("the problem", async || {
        client.json("/snapshot").await["problems"]["documents"] != Value::Null
    })
    .await;
    let after = client.json("/snapshot").await;
    let problem = after["problems"]["documents"].to_string();
    assert!(
        problem.contains("70000") && problem.contains("mesh.yaml"),
        "{problem}"
    );
    assert_eq!(after["generation"], before["generation"]);
    assert_eq!(get(outbound, "web", "/").await.body, small_answer("web-1"));
    mesh.write("mesh.yaml", &good);
    let client = mesh.sidecar("client-0");
    eventually("the recovery", async || {
        client.json("/snapshot").await["problems"]["documents"] == Value::Null
    })
    .await;
    for (name, pid) in ["client-0", "web-0"].into_iter().zip(pids) {
        assert_eq!(mesh.sidecar(name).process.pid(), pid);
    }
}

#[tokio::test]
async fn several_workers_share_every_port() {
    let mut mesh = Mesh::of_web();
    for name in ["client-0", "web-0"] {
        mesh.named_mut(name).extra = "workers: 2\n".to_owned();
    }
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    // Connections are spread by chance: with so many, over both workers.
    for _ in 0..40 {
        assert_eq!(get(mesh.outbound(), "web", "/").await.body, small_answer("web-0"));
    }
    let connections = mesh.sidecar("client-0").json("/connections").await;
    for worker in 0..2 {
        let connections = connections["workers"][worker]["connections"]
            .as_array()
            .expect("a list");
        assert_eq!(connections.len(), 1, "{connections:?}");
        assert!(connections[0]["streamsTotal"].as_u64() > Some(0));
    }
    let requests = mesh
        .sidecar("web-0")
        .metric("weft_requests_total", &["direction=\"inbound\""])
        .await;
    assert_eq!(requests, Some(40.0));
    for name in ["client-0", "web-0"] {
        let mut sidecar = mesh.take(name);
        sidecar.process.signal(Signal::SIGTERM).unwrap();
        assert_eq!(sidecar.ended().await, Some(0), "{name}");
    }
}

#[tokio::test]
async fn new_certificates_are_used_without_a_restart() {
    let mut mesh = web().await;
    assert_eq!(get(mesh.outbound(), "web", "/").await.status, StatusCode::OK);
    let before = mesh.sidecar("web-0").json("/snapshot").await["identity"]["notAfter"].clone();
    mesh.certify("certs", &["web", "--force", "--lifetime", "1d"]);
    let web = mesh.sidecar("web-0");
    eventually("the new certificate", async || {
        web.json("/snapshot").await["identity"]["notAfter"] != before
    })
    .await;
    let answer = get(mesh.outbound(), "web", "/").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    // One of another identity is not taken.
    let key = |name: &str| mesh.directory().join("certs").join(name);
    let read = |name: &str| std::fs::read_to_string(key(name)).unwrap();
    let (certificate, private) = (read("client.pem"), read("client.key"));
    mesh.write("certs/web.pem", &certificate);
    mesh.write("certs/web.key", &private);
    let web = mesh.sidecar("web-0");
    eventually("the problem", async || {
        web.json("/snapshot").await["problems"]["identity"] != Value::Null
    })
    .await;
    assert_eq!(get(mesh.outbound(), "web", "/").await.status, StatusCode::OK);
    let snapshot = mesh.sidecar("web-0").json("/snapshot").await;
    assert_eq!(snapshot["identity"]["spiffeId"], mesh.named("web-0").identity());
}

#[tokio::test]
async fn a_hundred_stalled_readers_stall_nobody_else() {
    let mut mesh = web().await;
    let mut stalled = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(mesh.outbound()).await.unwrap();
        stream
            .write_all(b"GET /bytes?n=1000000000 HTTP/1.1\r\nHost: web\r\n\r\n")
            .await
            .unwrap();
        stalled.push(stream);
    }
    for stream in &mut stalled {
        read_head(stream).await;
    }
    for _ in 0..20 {
        let begun = Instant::now();
        let answer = get(mesh.outbound(), "web", "/bytes?n=100000").await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 100_000));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    drop(stalled);
    let client = mesh.sidecar("client-0");
    eventually("the end of all streams", async || {
        let connections = client.json("/connections").await;
        let connections = connections["workers"][0]["connections"]
            .as_array()
            .expect("a list")
            .clone();
        connections.iter().all(|connection| connection["streams"] == 0)
    })
    .await;
}
