//! What a peer with a certificate of the mesh cannot get from the other's sidecar.

use std::{path::Path, rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{Method, StatusCode, uri::Scheme};
use serde_json::Value;
use tokio::task::LocalSet;
use weft_transport::{
    EndpointState, PeerKey, Pool, PoolOptions,
    credentials::Credentials,
    h3::{Protocol, RequestHead, ResponseHead, fields},
};

use crate::common::{Mesh, TRUST_DOMAIN, Workload, app, port, soon};

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
