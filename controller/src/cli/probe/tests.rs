//! Probes of a sidecar that is none: quinn and h3 with a certificate of the mesh, that answers as it is told.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::Response;
use quinn::crypto::rustls::QuicServerConfig;
use tokio::sync::mpsc;
use weft_proto::mesh::v1;
use weft_tls::{Credentials, credentials::ALPN_H3, testing::Authority};

use crate::cli::testing::{Fake, Said, Typing};

/// What it answers to every request.
#[derive(Clone)]
struct Told {
    status: u16,
    field: Option<(&'static str, &'static str)>,
    text: &'static str,
}

const WELL: Told = Told {
    status: 200,
    field: None,
    text: "hello",
};

/// Listens; gives its address, and the heads of requests as they come.
fn sidecar(
    credentials: &Credentials,
    told: Told,
) -> (SocketAddr, mpsc::UnboundedReceiver<http::request::Parts>) {
    let tls = credentials.server_config(ALPN_H3, Arc::new(|_| {})).unwrap();
    let tls = QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();
    let (heads, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let (told, heads) = (told.clone(), heads.clone());
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else {
                    return;
                };
                let connection = h3_quinn::Connection::new(connection);
                let mut requests: h3::server::Connection<_, Bytes> =
                    h3::server::Connection::new(connection).await.unwrap();
                while let Ok(Some(resolver)) = requests.accept().await {
                    let (request, mut stream) = resolver.resolve_request().await.unwrap();
                    let _ = heads.send(request.into_parts().0);
                    let mut response = Response::builder().status(told.status);
                    if let Some((name, value)) = told.field {
                        response = response.header(name, value);
                    }
                    stream.send_response(response.body(()).unwrap()).await.unwrap();
                    stream
                        .send_data(Bytes::from_static(told.text.as_bytes()))
                        .await
                        .unwrap();
                    stream.finish().await.unwrap();
                }
            });
        }
    });
    (address, received)
}

/// A service `shop/web` with one endpoint there.
fn resolved(address: &str, protocol: &str) -> Fake {
    Fake {
        resolved: v1::ResolveResponse {
            service: Some(v1::ResourceKey {
                kind: "Service".to_owned(),
                namespace: "shop".to_owned(),
                name: "web".to_owned(),
            }),
            port: 80,
            protocol: protocol.to_owned(),
            endpoints: vec![v1::Endpoint {
                workload: "shop/web-0".to_owned(),
                mesh_address: address.to_owned(),
                identity: "spiffe://mesh.test/ns/shop/sa/web".to_owned(),
                port: 8080,
                readiness: v1::Readiness::Ready.into(),
            }],
        },
        ..Fake::default()
    }
}

async fn probe(fake: &Fake, credentials: &Credentials, line: &str) -> Said {
    let typing = Typing {
        credentials: Some(credentials.clone()),
        ..Typing::default()
    };
    typing.type_to(fake, line).await
}

#[tokio::test]
async fn each_hop_is_told() {
    let authority = Authority::new("mesh.test");
    let (address, mut heads) = sidecar(&authority.credentials("shop", "web"), WELL);
    let (fake, own) = (
        resolved(&address.to_string(), "http"),
        authority.credentials("weft-ops", "ann"),
    );
    let line = "weft probe web:80 -n shop --path /health?x=1 --method POST --header x-canary:1";
    let said = probe(&fake, &own, line).await;
    assert_eq!(said.code, 0, "{said:?}");
    let hops: Vec<&str> = said
        .out
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(hops, ["resolve", "shop/web-0", "handshake", "identity", "answer"]);
    assert!(
        said.out
            .contains("identity   spiffe://mesh.test/ns/shop/sa/web proved\n"),
        "{}",
        said.out
    );
    assert!(said.out.contains("answer     200 OK in "), "{}", said.out);
    let head = heads.recv().await.unwrap();
    assert_eq!(
        (head.method.as_str(), head.uri.to_string().as_str()),
        ("POST", "https://web.shop/health?x=1")
    );
    assert_eq!(head.headers["weft-port"], "8080");
    assert_eq!(head.headers["x-canary"], "1");
    assert!(fake.calls.lock().unwrap()[0].contains("web.shop:80"));
}

#[tokio::test]
async fn refusals_are_in_words() {
    let authority = Authority::new("mesh.test");
    let own = authority.credentials("weft-ops", "ann");
    for (told, wanted) in [
        (
            Told {
                status: 403,
                field: Some(("weft-error", "denied")),
                text: "weft: denied: denied by mesh_default_deny\n",
            },
            "mesh       failed: the mesh's policy does not let you call it (denied: denied by mesh_default_deny; not \
             retried elsewhere)\n",
        ),
        (
            Told {
                status: 503,
                field: Some(("weft-unprocessed", "application_refused")),
                text: "weft: application_refused: connection refused\n",
            },
            "application failed: the application refuses the connection: does it listen on that port, at that address? \
             (application_refused: connection refused; only here and now: callers try another endpoint)\n",
        ),
        (
            Told {
                status: 500,
                field: None,
                text: "",
            },
            "application failed: the application says 500 Internal Server Error\n",
        ),
    ] {
        let (address, _heads) = sidecar(&authority.credentials("shop", "web"), told);
        let said = probe(&resolved(&address.to_string(), "http"), &own, "weft probe web").await;
        assert_eq!(said.code, 1);
        assert!(said.out.contains(wanted), "{wanted}{}", said.out);
    }
}

#[tokio::test]
async fn who_is_there_must_be_the_endpoint() {
    let authority = Authority::new("mesh.test");
    let own = authority.credentials("weft-ops", "ann");
    let (address, mut heads) = sidecar(&authority.credentials("shop", "thief"), WELL);
    let said = probe(
        &resolved(&address.to_string(), "http"),
        &own,
        "weft probe web -o json",
    )
    .await;
    let value: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        (&value["endpoints"][0]["failedAt"], said.code),
        (&serde_json::json!("identity"), 1)
    );
    assert!(heads.try_recv().is_err());

    // And ours must be one that it accepts.
    let stranger = Authority::with_root("mesh.test", "another root");
    let both = format!("{}{}", authority.bundle_pem(), stranger.bundle_pem());
    let pem = stranger.svid_pem("weft-ops", "ann");
    let own = Credentials::from_pem(pem.chain.as_bytes(), pem.key.as_bytes(), both.as_bytes()).unwrap();
    let (address, _heads) = sidecar(&authority.credentials("shop", "web"), WELL);
    let said = probe(&resolved(&address.to_string(), "http"), &own, "weft probe web").await;
    assert_eq!(said.code, 1);
    assert!(
        said.out
            .contains("identity   failed: the sidecar does not accept the certificate"),
        "{}",
        said.out
    );
}

#[tokio::test]
async fn nobody_there_is_silence() {
    let authority = Authority::new("mesh.test");
    let own = authority.credentials("weft-ops", "ann");
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    let said = probe(
        &resolved(&address, "http"),
        &own,
        "weft probe web --timeout 200ms",
    )
    .await;
    assert_eq!(said.code, 1);
    assert!(
        said.out
            .contains("network    failed: nothing came back over UDP within 0.2 s"),
        "{}",
        said.out
    );
    let said = probe(&resolved("", "http"), &own, "weft probe web").await;
    assert!(
        said.out.contains("resolve    failed: it has no sidecar"),
        "{}",
        said.out
    );
    let empty = Fake::default();
    let said = probe(&empty, &own, "weft probe web").await;
    assert_eq!(said.code, 1);
    assert!(said.out.contains("no workload stands behind it"), "{}", said.out);
}

#[tokio::test]
async fn what_is_no_http_is_not_sent_any() {
    let authority = Authority::new("mesh.test");
    let own = authority.credentials("weft-ops", "ann");
    let (address, mut heads) = sidecar(&authority.credentials("shop", "web"), WELL);
    let said = probe(&resolved(&address.to_string(), "tcp"), &own, "weft probe web").await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.out.contains("none asked for: the port is no HTTP"),
        "{}",
        said.out
    );
    assert!(heads.try_recv().is_err());
}
