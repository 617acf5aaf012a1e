//! HTTP/2 with prior knowledge, and gRPC on it.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use weft_lab::{
    client::grpc::Connection as Grpc,
    services::{
        Pattern,
        grpc::{STATUS_FIELD, code},
        http::ReceivedHead,
    },
};

use crate::common::{
    Mesh, app, eventually,
    http::{Connection, empty, pieces},
    port, soon,
};

/// gRPC's UNAVAILABLE and PERMISSION_DENIED.
const UNAVAILABLE: u32 = 14;
const PERMISSION_DENIED: u32 = 7;

async fn web() -> Mesh {
    let mut mesh = Mesh::of_web();
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    mesh
}

fn status(code: u32) -> HeaderMap {
    HeaderMap::from_iter([(STATUS_FIELD.parse().unwrap(), HeaderValue::from(code))])
}

#[tokio::test]
async fn http2_stays_http2_with_trailers() {
    let mesh = web().await;
    let mut connection = Connection::http2(mesh.outbound()).await;
    let request = Request::get("http://web/headers")
        .header("weft-caller", "me")
        .body(empty())
        .unwrap();
    let head: ReceivedHead = serde_json::from_slice(&connection.send(request).await.body).unwrap();
    assert_eq!(head.version, "HTTP/2.0");
    assert_eq!(head.uri, "http://web/headers");
    assert_eq!(
        head.values("weft-caller").collect::<Vec<_>>(),
        [mesh.named("client-0").identity()]
    );
    // Over HTTP/2 trailers need no announcement.
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "42".parse().unwrap());
    let content: Vec<Bytes> = (0..64).map(|_| Pattern::default().next(100_000)).collect();
    let request = Request::post("http://web/echo")
        .body(pieces(content.clone(), Some(trailers)))
        .unwrap();
    let answer = connection.send(request).await;
    assert!(answer.body == content.concat());
    assert_eq!(answer.trailers.expect("trailers")["x-sum"], "42");
}

#[tokio::test]
async fn many_streams_of_one_connection_are_answered_each() {
    let mesh = web().await;
    let Connection::Http2(sender) = Connection::http2(mesh.outbound()).await else {
        unreachable!()
    };
    let requests = (0..50).map(|index| {
        let mut connection = Connection::Http2(sender.clone());
        async move {
            let request = Request::get(format!("http://web/bytes?n={}", index * 1000))
                .body(empty())
                .unwrap();
            assert_eq!(connection.send(request).await.body.len(), index * 1000);
        }
    });
    futures_util::future::join_all(requests).await;
}

#[tokio::test]
async fn every_kind_of_grpc_call_passes_with_its_status() {
    let mesh = web().await;
    let mut grpc = Grpc::open(mesh.outbound(), "web:50051").await.unwrap();
    let ask = |text: &str| vec![Bytes::from(text.to_owned())];
    let unary = grpc
        .call_with("Unary", HeaderMap::new(), ask("hello"))
        .await
        .unwrap();
    assert_eq!((unary.status, unary.messages), (Some(code::OK), ask("hello")));
    assert!(unary.trailers.is_some());
    let parts = vec![Bytes::from("a"), Bytes::from("bc")];
    let sum = grpc
        .call_with("ClientStream", HeaderMap::new(), parts)
        .await
        .unwrap();
    assert_eq!(
        (sum.status, sum.messages),
        (Some(code::OK), ask("2 messages, 3 bytes"))
    );
    let many = grpc
        .call_with("ServerStream", HeaderMap::new(), ask("300"))
        .await
        .unwrap();
    assert_eq!((many.status, many.messages.len()), (Some(code::OK), 300));
    assert_eq!(many.messages[299], "299");
    // The application's own failures, after messages and without any.
    let failed = grpc.call_with("Unary", status(5), ask("hello")).await.unwrap();
    assert_eq!((failed.status, failed.messages.len()), (Some(5), 1));
    assert_eq!(failed.message, "asked for by the caller");
    let unknown = grpc
        .call_with("Nothing", HeaderMap::new(), ask("hello"))
        .await
        .unwrap();
    assert_eq!(
        (unknown.status, unknown.trailers),
        (Some(code::UNIMPLEMENTED), None)
    );
    let empty = grpc
        .call_with("Unary", HeaderMap::new(), Vec::new())
        .await
        .unwrap();
    assert_eq!((empty.status, empty.messages.len()), (Some(code::OK), 0));
}

#[tokio::test]
async fn messages_of_a_bidirectional_call_go_to_and_fro() {
    let mesh = web().await;
    let mut grpc = Grpc::open(mesh.outbound(), "web:50051").await.unwrap();
    let (sender, mut receiver) = grpc.call("BidiStream", HeaderMap::new()).await.unwrap();
    for turn in 0..20 {
        // The next message is sent only when the last one has come back.
        let message = format!("turn {turn}");
        sender.send(message.clone()).await.unwrap();
        let answer = soon("an answer", receiver.next()).await.unwrap();
        assert_eq!(answer.as_deref(), Some(message.as_bytes()));
    }
    drop(sender);
    let outcome = soon("the end", receiver.finish()).await.unwrap();
    assert_eq!((outcome.status, outcome.messages.len()), (Some(code::OK), 0));
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_the_application() {
    let mut mesh = web().await;
    let mut grpc = Grpc::open(mesh.outbound(), "web:50051").await.unwrap();
    let (sender, mut receiver) = grpc.call("BidiStream", HeaderMap::new()).await.unwrap();
    sender.send("hello").await.unwrap();
    soon("an answer", receiver.next()).await.unwrap();
    drop((receiver, sender, grpc));
    let line = mesh
        .sidecar("web-0")
        .access(&[("direction", "inbound"), ("protocol", "h2")])
        .await;
    assert_ne!(line["reason"], serde_json::Value::Null, "{line}");
}

#[tokio::test]
async fn the_mesh_answers_grpc_callers_in_their_form() {
    let mut mesh = web().await;
    // A service without a workload.
    mesh.service("nobody", &[("grpc", 50_051, port::GRPC, "grpc")]);
    mesh.config = "authorization: deny".to_owned();
    mesh.publish();
    let denied = async |mesh: &Mesh| {
        let mut grpc = Grpc::open(mesh.outbound(), "web:50051").await.unwrap();
        grpc.call_with("Unary", HeaderMap::new(), vec![Bytes::from("hello")])
            .await
            .unwrap()
    };
    for name in ["client-0", "web-0"] {
        let sidecar = mesh.sidecar(name);
        eventually("the new policy", async || {
            sidecar.json("/snapshot").await["generation"] == 2
        })
        .await;
    }
    let outcome = denied(&mesh).await;
    assert_eq!(
        (outcome.http_status, outcome.status),
        (StatusCode::OK, Some(PERMISSION_DENIED))
    );
    assert!(
        outcome.trailers.is_none() && outcome.message.contains("denied"),
        "{outcome:?}"
    );
    for (authority, wanted) in [
        ("nobody:50051", UNAVAILABLE),
        ("unknown:50051", code::UNIMPLEMENTED),
    ] {
        let mut grpc = Grpc::open(mesh.outbound(), authority).await.unwrap();
        let outcome = grpc
            .call_with("Unary", HeaderMap::new(), Vec::new())
            .await
            .unwrap();
        assert_eq!(
            (outcome.http_status, outcome.status),
            (StatusCode::OK, Some(wanted)),
            "{authority}"
        );
        assert!(outcome.trailers.is_none());
    }
    // To others it says the same in HTTP's.
    let mut connection = Connection::http2(mesh.outbound()).await;
    let answer = connection
        .send(Request::get("http://nobody:50051/").body(empty()).unwrap())
        .await;
    assert_eq!(
        (answer.status, answer.field("weft-error")),
        (StatusCode::SERVICE_UNAVAILABLE, Some("no_endpoint"))
    );
    mesh.sidecar("web-0")
        .access(&[("protocol", "h2"), ("reason", "denied")])
        .await;
}
