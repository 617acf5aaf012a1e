//! A proxy that knows what a test says, and what it would do.

use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use serde_json::Value;
use tokio::sync::watch;
use weft_proto::{Source, names::Labels, parse::parse_documents};

use super::*;
use crate::{
    compile::{Client, Facts, Unready, compile},
    snapshot::Inbound,
};

/// The workload `shop/frontend-0`.
fn frontend() -> Workload {
    Workload {
        name: "frontend-0".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        service_account: "frontend".parse().unwrap(),
        labels: Labels::default(),
    }
}

/// One that knows nothing yet.
pub(crate) fn without_snapshot() -> Explainer {
    Explainer::new(frontend())
}

/// The sidecar of `shop/frontend-0`, with these documents.
pub(crate) struct Sidecar {
    pub(crate) explainer: Explainer,
    pub(crate) snapshot: Arc<Snapshot>,
}

impl Sidecar {
    /// With a workload for each of these that is not ready.
    pub(crate) fn new(documents: &str, unready: &[&str]) -> Self {
        let mesh = parse_documents(&[Source::new("test", documents)]).unwrap();
        let unready: Unready = mesh
            .workloads
            .iter()
            .map(|workload| workload.name.clone())
            .filter(|name| unready.contains(&name.to_string().as_str()))
            .collect();
        let inbound = Inbound {
            identity: "spiffe://mesh.test/ns/shop/sa/frontend".parse().unwrap(),
            mode: mesh.config.inbound,
            authorization: mesh.config.authorization,
            ports: Vec::new(),
            plaintext_ports: Vec::new(),
            names: Vec::new(),
        };
        let snapshot = Arc::new(compile(
            &mesh,
            &unready,
            &Client {
                namespace: "shop",
                own: None,
                asked: None,
            },
            inbound,
            &Facts::default(),
            12,
        ));
        let (_, snapshots) = watch::channel(snapshot.clone());
        let explainer = without_snapshot();
        let own: SocketAddr = ([127, 0, 0, 1], 15001).into();
        explainer.begin(Known {
            snapshots,
            demand: None,
            listeners: OwnListeners::new([own], Vec::new),
        });
        Self { explainer, snapshot }
    }

    /// Without a controller nothing is waited for.
    pub(crate) fn explain(&self, method: &str, url: &str, fields: &[&str]) -> Value {
        let question = Question::parse(method, url, fields.iter().copied()).unwrap();
        let mut explained = std::pin::pin!(self.explainer.explain(question));
        match explained.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(explained) => explained.unwrap(),
            Poll::Pending => panic!("it waits"),
        }
    }

    pub(crate) fn get(&self, url: &str) -> Value {
        self.explain("GET", url, &[])
    }
}

/// A mesh, with more settings that begin with a comma.
pub(crate) fn mesh(settings: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec: {{trustDomain: mesh.test, meshRanges: [10.0.0.0/16], serviceRanges: [10.96.0.0/16]{settings}}}
"
    )
}

/// A service of one port, 80.
pub(crate) fn service(name: &str, ip: u8) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{app: {name}}}
  clusterIP: 10.96.0.{ip}
  ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]
"
    )
}

/// A workload of it, with a sidecar if there is a port of it.
pub(crate) fn workload(service: &str, number: u8, sidecar: &str) -> String {
    format!(
        "---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {{name: {service}-{number}, namespace: shop, labels: {{app: {service}, version: v{number}}}}}
spec:
  address: 10.0.0.{number}
  serviceAccount: {service}
  ports: [{{name: http, port: 8080}}]
{sidecar}"
    )
}

/// For [`workload`]: it has one.
pub(crate) const SIDECAR: &str = "  meshPort: 15008\n";

/// `catalog` with one workload.
pub(crate) fn shop(settings: &str) -> String {
    mesh(settings) + &service("catalog", 1) + &workload("catalog", 1, SIDECAR)
}
