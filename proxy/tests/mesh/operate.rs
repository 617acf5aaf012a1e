//! What an operator sees and does: pages, metrics, new documents.

use http::StatusCode;
use serde_json::Value;
use weft_lab::services::small_answer;

use crate::common::{
    Mesh, app, eventually,
    http::{get, raw},
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
    assert_eq!(get(metrics, &metrics.to_string(), "/ready").await.status, StatusCode::OK);
    assert_eq!(get(metrics, &metrics.to_string(), "/snapshot").await.status, StatusCode::NOT_FOUND);

    let snapshot = sidecar.json("/snapshot").await;
    assert_eq!(snapshot["identity"]["spiffeId"], client.identity());
    let backends = snapshot["backends"].as_array().expect("a list");
    let backend = backends.iter().find(|backend| backend["destination"] == "web.default:80").expect("the service");
    assert_eq!(backend["endpoints"][0]["identity"], web.identity());

    // All of it went over one connection.
    let connections = sidecar.json("/connections").await;
    let connections = connections["workers"][0]["connections"].as_array().expect("a list");
    let [connection] = &connections[..] else { panic!("{connections:?}") };
    assert_eq!(connection["identity"], web.identity());
    assert_eq!((&connection["direction"], &connection["transport"]), (&"outbound".into(), &"h3".into()));
    assert_eq!((&connection["streams"], &connection["streamsTotal"]), (&0.into(), &3.into()));
    for figure in ["rttMicros", "congestionWindow", "mtu", "datagramsPerSend"] {
        assert!(connection[figure].as_f64().expect("a number") > 0.0, "{figure}: {connection}");
    }
    assert_eq!(connection["packetsLost"], 0);

    let requests = sidecar.metric("weft_requests_total", &["direction=\"outbound\"", "service=\"default/web"]).await;
    assert_eq!(requests, Some(3.0));
    let seconds = sidecar.metric("weft_request_duration_seconds_count", &["direction=\"outbound\""]).await;
    assert_eq!(seconds, Some(3.0));
    for (name, labels) in [
        ("weft_connections_open", &["side=\"peer\""][..]),
        ("weft_handshakes_total", &[]),
        ("weft_quic_rtt_seconds", &["median"]),
        ("weft_quic_mtu_bytes", &["min"]),
        ("weft_bytes_total", &["sent"]),
        ("weft_svid_not_after_seconds", &[]),
    ] {
        assert!(sidecar.metric(name, labels).await.is_some_and(|value| value > 0.0), "{name}");
    }
    for name in ["weft_udp_receive_drops_total", "weft_access_log_dropped_total"] {
        assert_eq!(sidecar.metric(name, &[]).await, Some(0.0), "{name}");
    }
    let requests = mesh.sidecar("web-0").metric("weft_requests_total", &["direction=\"inbound\""]).await;
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
    let answer = raw(admin, "POST /snapshot HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
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
    web.process.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    let mut last = None;
    eventually("the drain", async || {
        let page = web.page("/ready").await;
        last = Some((page.status, page.text().to_owned()));
        page.status != StatusCode::OK
    })
    .await;
    assert_eq!(last, Some((StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned())));
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
    let old = mesh.workloads.iter().position(|workload| workload.name == "web-0").expect("web-0");
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
    eventually("the problem", async || client.json("/snapshot").await["problems"]["documents"] != Value::Null).await;
    let after = client.json("/snapshot").await;
    let problem = after["problems"]["documents"].to_string();
    assert!(problem.contains("70000") && problem.contains("mesh.yaml"), "{problem}");
    assert_eq!(after["generation"], before["generation"]);
    assert_eq!(get(outbound, "web", "/").await.body, small_answer("web-1"));
    mesh.write("mesh.yaml", &good);
    let client = mesh.sidecar("client-0");
    eventually("the recovery", async || client.json("/snapshot").await["problems"]["documents"] == Value::Null).await;
    for (name, pid) in ["client-0", "web-0"].into_iter().zip(pids) {
        assert_eq!(mesh.sidecar(name).process.pid(), pid);
    }
}
