//! WebSocket, and the upgrade that is not made.

use weft_lab::{
    client::websocket::WebSocket,
    services::websocket::{Frame, Opcode},
};

use crate::common::{Mesh, app, http::raw, soon};

#[tokio::test]
async fn a_websocket_carries_frames_both_ways() {
    let mut mesh = Mesh::of_web();
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    let mut socket = soon("a handshake", WebSocket::open(mesh.outbound(), "web", "/ws"))
        .await
        .unwrap()
        .unwrap();
    for payload in [b"short".to_vec(), vec![7; 100_000]] {
        socket
            .send(&Frame::whole(Opcode::Binary, payload.clone()))
            .await
            .unwrap();
        let echo = soon("the echo", socket.next()).await.unwrap().expect("a frame");
        assert!(echo == Frame::whole(Opcode::Binary, payload));
    }
    soon("the close", socket.close()).await.unwrap();
    let (client, web) = (mesh.named("client-0").identity(), mesh.named("web-0").identity());
    let line = mesh
        .sidecar("client-0")
        .access(&[("protocol", "websocket")])
        .await;
    assert_eq!(
        (&line["peer"], &line["status"], &line["reason"]),
        (&web.into(), &101.into(), &serde_json::Value::Null)
    );
    mesh.sidecar("web-0").access(&[("caller", &client)]).await;
}

#[tokio::test]
async fn a_refused_handshake_is_passed_on_as_it_is() {
    let mut mesh = Mesh::of_web();
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    for (path, status) in [("/status?code=403", 403), ("/nothing", 404), ("/", 200)] {
        let answer = soon("an answer", WebSocket::open(mesh.outbound(), "web", path))
            .await
            .unwrap();
        let Err(refusal) = answer else {
            panic!("{path} opened")
        };
        assert_eq!(refusal.status, status, "{}", refusal.head);
        assert!(!refusal.head.contains("weft-error"), "{}", refusal.head);
    }
}

#[tokio::test]
async fn an_offer_of_h2c_is_removed_and_the_request_served() {
    let mut mesh = Mesh::of_web();
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    let answer = raw(
        mesh.outbound(),
        "GET /headers HTTP/1.1\r\nHost: web\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        !answer.contains("upgrade") && !answer.contains("http2-settings"),
        "{answer}"
    );
}
