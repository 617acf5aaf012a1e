//! Who may call whom, and what never leaves in the clear.

use std::net::IpAddr;

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_lab::services::{small_answer, tcp};

use crate::common::{
    Mesh, Workload, app, eventually,
    http::{assert_reset, get, raw},
    port, soon,
};

#[tokio::test]
async fn a_denied_caller_is_told_so_and_logged_by_name() {
    let mut mesh = Mesh::of_web();
    mesh.config = "authorization: deny".to_owned();
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    let answer = get(mesh.outbound(), "web", "/").await;
    assert_eq!(
        (answer.status, answer.field("weft-error")),
        (StatusCode::FORBIDDEN, Some("denied"))
    );
    let client = mesh.named("client-0").identity();
    let line = mesh
        .sidecar("web-0")
        .access(&[("direction", "inbound"), ("reason", "denied")])
        .await;
    assert_eq!((&line["caller"], &line["status"]), (&client.into(), &403.into()));
    // Tunnels as well.
    assert_reset(mesh.bind(port::BIND_TCP)).await;
    mesh.sidecar("web-0")
        .access(&[("protocol", "tcp"), ("reason", "denied")])
        .await;
}

#[tokio::test]
async fn a_peer_of_another_ca_is_refused_with_the_reason() {
    let mut mesh = Mesh::of_web();
    mesh.certify("others", &["client"]);
    let client = mesh.named_mut("client-0");
    (client.certificates, client.bundle) = ("others", "others/ca.pem".into());
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    let answer = get(mesh.outbound(), "web", "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        answer.field("weft-error"),
        Some("peer_certificate_refused"),
        "{}",
        answer.text()
    );
    let failed = mesh
        .sidecar("web-0")
        .metric("weft_handshakes_failed_total", &[])
        .await
        .expect("a metric");
    assert!(failed >= 1.0);
}

#[tokio::test]
async fn a_caller_whom_the_peer_does_not_trust_learns_that() {
    let mut mesh = Mesh::of_web();
    // The client trusts the mesh's CA, but has a certificate of another.
    mesh.certify("others", &["client"]);
    mesh.certify("certs", &["client"]);
    let key = std::fs::read_to_string(mesh.directory().join("certs/ca.pem")).unwrap()
        + &std::fs::read_to_string(mesh.directory().join("others/ca.pem")).unwrap();
    mesh.write("both.pem", &key);
    let client = mesh.named_mut("client-0");
    (client.certificates, client.bundle) = ("others", "both.pem".into());
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    let answer = get(mesh.outbound(), "web", "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        answer.field("weft-error"),
        Some("own_certificate_refused"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn an_endpoint_that_is_not_who_it_is_listed_as_is_never_used() {
    let mut mesh = Mesh::of_web();
    // Even where plaintext is allowed to those without a sidecar.
    mesh.config = "unmeshed: allow".to_owned();
    mesh.named_mut("web-0").listed_account = "other".to_owned();
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    let answer = get(mesh.outbound(), "web", "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.field("weft-error"), Some("peer_certificate_refused"));
    let line = mesh.sidecar("client-0").access(&[("status", "503")]).await;
    assert_eq!(line["reason"], "peer_certificate_refused");
    assert_eq!(
        line["peer"], "spiffe://cluster.local/ns/default/sa/other",
        "whom it wanted"
    );
    assert_ne!(line["transport"], "plaintext");
    assert!(mesh.sidecar("web-0").access_log().is_empty());
}

/// A mesh whose service `old` has no sidecar.
async fn with_unmeshed(config: &str) -> Mesh {
    let mut mesh = Mesh::of_web();
    mesh.config = config.to_owned();
    mesh.service(
        "old",
        &[("http", 80, port::HTTP, "http"), ("tcp", 5432, port::TCP, "tcp")],
    );
    let mut old = Workload::new("old-0", "old")
        .port("http", port::HTTP, "")
        .port("tcp", port::TCP, "");
    old.meshed = false;
    app::serve_http(&old, port::HTTP).await;
    tokio::spawn(tcp::echo(old.listen(port::TCP).await));
    mesh.workload(old);
    let client = mesh.named_mut("client-0");
    client.binds.push((4000, "old.default:5432".to_owned()));
    mesh.start();
    mesh
}

#[tokio::test]
async fn an_endpoint_without_a_sidecar_is_refused_by_default() {
    let mut mesh = with_unmeshed("").await;
    let address = mesh.named("old-0").at(port::HTTP).to_string();
    for host in ["old", &address] {
        let answer = get(mesh.outbound(), host, "/").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{host}");
        assert_eq!(answer.field("weft-error"), Some("unmeshed_denied"), "{host}");
    }
    assert_reset(mesh.bind(4000)).await;
    mesh.sidecar("client-0")
        .access(&[("protocol", "tcp"), ("reason", "unmeshed_denied")])
        .await;
}

#[tokio::test]
async fn plaintext_to_an_endpoint_without_a_sidecar_shows_everywhere() {
    let mut mesh = with_unmeshed("unmeshed: allow").await;
    let answer = raw(
        mesh.outbound(),
        "GET / HTTP/1.1\r\nHost: old\r\nWeft-Caller: me\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("old-0 says hello"),
        "{answer}"
    );
    let answer = raw(
        mesh.outbound(),
        "GET /headers HTTP/1.1\r\nHost: old\r\nWeft-Caller: me\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(!answer.contains("weft-"), "{answer}");
    let mut stream = TcpStream::connect(mesh.bind(4000)).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = String::new();
    soon("the echo", stream.read_to_string(&mut echoed))
        .await
        .unwrap();
    assert_eq!(echoed, "hello");
    let client = mesh.sidecar("client-0");
    for protocol in ["http/1.1", "tcp"] {
        let line = client.access(&[("protocol", protocol)]).await;
        assert_eq!(
            (&line["transport"], &line["service"]),
            (&"plaintext".into(), &"default/old".into())
        );
    }
    let plaintext = client
        .metric("weft_unmeshed_plaintext_total", &["service=\"default/old"])
        .await;
    assert_eq!(plaintext, Some(3.0));
    let snapshot = client.json("/snapshot").await.to_string();
    assert!(snapshot.contains("\"plaintext\""), "{snapshot}");
}

#[tokio::test]
async fn the_outside_is_reached_only_where_egress_allows_it() {
    let mut mesh = Mesh::of_web();
    let outside = Workload::new("outside", "outside");
    app::serve_http(&outside, port::HTTP).await;
    let host = outside.at(port::HTTP).to_string();
    mesh.start();
    let answer = get(mesh.outbound(), &host, "/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.field("weft-error"), Some("egress_denied"));
    // Allowed, but not for what belongs to the mesh and is unknown.
    let range = |address: IpAddr| format!("\"{address}/32\"");
    let stranger = Workload::new("stranger", "stranger");
    app::serve_http(&stranger, port::HTTP).await;
    let known = mesh.workloads.iter().map(|workload| workload.address);
    let ranges: Vec<_> = known.chain([stranger.address]).map(range).collect();
    let ranges = ranges.join(", ");
    mesh.config = format!("egress: allow\nmeshRanges: [{ranges}]");
    mesh.publish();
    let client = mesh.sidecar("client-0");
    eventually("the new policy", async || {
        client.json("/snapshot").await["mesh"]["egress"] == "allow"
    })
    .await;
    let answer = get(mesh.outbound(), &host, "/").await;
    assert_eq!(
        (answer.status, answer.body),
        (StatusCode::OK, small_answer("outside"))
    );
    let line = mesh.sidecar("client-0").access(&[("status", "200")]).await;
    assert_eq!(line["transport"], "plaintext");
    let answer = get(mesh.outbound(), &stranger.at(port::HTTP).to_string(), "/").await;
    assert_eq!(
        (answer.status, answer.field("weft-error")),
        (StatusCode::BAD_GATEWAY, Some("unknown_in_mesh"))
    );
}
