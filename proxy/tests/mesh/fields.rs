//! Fields that end at a hop, and those of the mesh's own.

use http::StatusCode;
use tokio::io::AsyncWriteExt;
use weft_lab::services::http::ReceivedHead;

use crate::common::{
    Mesh, app,
    http::{Answer, get, raw, read_head},
    port,
};

fn received(answer: &str) -> ReceivedHead {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    serde_json::from_str(body).expect("a head")
}

#[tokio::test]
async fn an_application_sees_its_caller_and_no_field_of_another_hop() {
    let mut mesh = Mesh::of_web();
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    let answer = raw(
        mesh.outbound(),
        "GET /headers HTTP/1.1\r\nHost: web\r\nConnection: close, X-Private, Weft-Hops-Too\r\nX-Private: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nTE: gzip\r\n\
         Weft-Caller: spiffe://cluster.local/ns/default/sa/admin\r\nWEFT-CALLER: again\r\nWeft-Port: 1\r\n\
         Weft-Protocol: h2\r\nWeft-Timeout: 5\r\nWeft-Error: x\r\nWeft-Unprocessed: x\r\nWeft-Anything: x\r\n\
         Weft-Hops: 3\r\nX-Kept: first\r\nX-Kept: second\r\n\r\n",
    )
    .await;
    let head = received(&answer);
    assert_eq!(
        (head.version.as_str(), head.uri.as_str()),
        ("HTTP/1.1", "/headers")
    );
    let mut names: Vec<_> = head.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["host", "weft-caller", "weft-hops", "x-kept", "x-kept"]);
    let values = |name| head.values(name).collect::<Vec<_>>();
    assert_eq!(values("weft-caller"), [mesh.named("client-0").identity()]);
    assert_eq!(values("weft-hops"), ["4"]);
    assert_eq!(values("host"), ["web"]);
    assert_eq!(values("x-kept"), ["first", "second"]);
}

#[tokio::test]
async fn an_answer_of_the_application_cannot_pass_for_one_of_the_mesh() {
    let mut mesh = Mesh::of_web();
    app::serve_with(&mesh.named("web-0"), port::HTTP, async |mut stream, _| {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nWeft-Unprocessed: draining\r\n\
            Weft-Error: denied\r\nWeft-Caller: x\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\n\
            Keep-Alive: timeout=1\r\nX-Kept: 1\r\n\r\nmine";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    mesh.start();
    let Answer {
        status,
        mut headers,
        body,
        ..
    } = get(mesh.outbound(), "web", "/").await;
    assert_eq!((status, &*body), (StatusCode::SERVICE_UNAVAILABLE, &b"mine"[..]));
    // The application sent none; a recipient with a clock may add it (RFC 9110 section 6.6.1).
    headers.remove("date");
    let mut names: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "x-kept"]);
    // It was not taken for a refusal of the sidecar, which would be tried again.
    let line = mesh.sidecar("client-0").access(&[("status", "503")]).await;
    assert_eq!(
        (&line["tries"], &line["reason"]),
        (&1.into(), &serde_json::Value::Null)
    );
}

#[tokio::test]
async fn a_request_that_goes_in_circles_ends() {
    let mut mesh = Mesh::of_web();
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    let with_hops =
        |hops: &str| format!("GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\nWeft-Hops: {hops}\r\n\r\n");
    let answer = raw(mesh.outbound(), with_hops("15")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let answer = raw(mesh.outbound(), with_hops("16")).await;
    assert!(
        answer.starts_with("HTTP/1.1 508 ") && answer.contains("weft-error: loop"),
        "{answer}"
    );
    let answer = raw(mesh.outbound(), with_hops("many")).await;
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("weft-error: bad_field"),
        "{answer}"
    );
}
