//! A proxy that speaks to a hub without a network, and a registrar that keeps nothing but what it was told.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use weft_proto::{
    kinds::{DocumentKey, Kind},
    mesh::v1::{self as mesh, controller_message::Message, proxy_message},
    wire::Digest,
};

use super::{Bundle, Hub, Options, Outgoing, Registrar, RenewHint, Trust, TrustSink};
use crate::{
    fleet::{Proxy, Registered, WriteError},
    world::{Change, Meaning, Versioned, testing::labels},
};

/// Keeps what is registered, and publishes it as a catalog would.
#[derive(Default)]
pub(crate) struct FakeRegistrar {
    pub(crate) hub: OnceLock<Hub>,
    pub(crate) state: Mutex<Kept>,
}

#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) registered: BTreeMap<DocumentKey, Registered>,
    pub(crate) writes: usize,
    /// Names that are given by documents.
    pub(crate) taken: HashSet<DocumentKey>,
    pub(crate) revision: u64,
}

impl FakeRegistrar {
    fn write(&self, key: DocumentKey, registered: Option<Registered>) -> Result<(u64, Change), WriteError> {
        let mut state = self.state.lock().unwrap();
        if state.taken.contains(&key) {
            return Err(WriteError::Refused(format!("{key} is a document")));
        }
        state.writes += 1;
        state.revision += 1;
        let version = state.revision;
        match &registered {
            Some(registered) => state.registered.insert(key.clone(), registered.clone()),
            None => state.registered.remove(&key),
        };
        let document = registered.map(|registered| {
            let document: serde_json::Value = serde_json::from_slice(&registered.document).unwrap();
            let address = document["spec"]["address"].as_str().unwrap().parse().unwrap();
            let app = document["metadata"]["labels"]["app"].as_str().unwrap_or("none");
            Versioned {
                version,
                json: registered.document,
                requires: Vec::new(),
                readiness: registered.readiness,
                meaning: Meaning::Workload {
                    address,
                    labels: labels(&[("app", app)]),
                },
            }
        });
        Ok((version, Change { key, document }))
    }

    pub(crate) fn revision(&self) -> u64 {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        state.revision
    }
}

/// The registrar of a test.
pub(crate) struct Shared(pub(crate) Arc<FakeRegistrar>);

impl Shared {
    fn write(
        &self,
        key: DocumentKey,
        registered: Option<Registered>,
    ) -> BoxFuture<'static, Result<(), WriteError>> {
        let registrar = self.0.clone();
        Box::pin(async move {
            let (revision, change) = registrar.write(key, registered)?;
            let hub = registrar.hub.get().unwrap().clone();
            hub.publish(revision, vec![change]).await.unwrap();
            Ok(())
        })
    }
}

impl Registrar for Shared {
    fn register(
        &self,
        key: DocumentKey,
        registered: Registered,
    ) -> BoxFuture<'static, Result<(), WriteError>> {
        self.write(key, Some(registered))
    }

    fn deregister(&self, key: DocumentKey) -> BoxFuture<'static, Result<(), WriteError>> {
        self.write(key, None)
    }
}

/// Keeps which proxies acked which roots.
#[derive(Default)]
pub(crate) struct FakeSink(pub(crate) Mutex<BTreeMap<DocumentKey, u64>>);

impl TrustSink for FakeSink {
    fn on_ack(&self, proxy: &Proxy, trust_version: u64) {
        self.0.lock().unwrap().insert(proxy.key.clone(), trust_version);
    }

    fn on_certificate(&self, _: &Proxy, _: &[u8]) -> Option<RenewHint> {
        None
    }
}

/// A hub, and what stands around it.
pub(crate) struct Setup {
    pub(crate) hub: Hub,
    pub(crate) registrar: Arc<FakeRegistrar>,
    pub(crate) sink: Arc<FakeSink>,
    pub(crate) bundle: watch::Sender<Arc<Bundle>>,
    pub(crate) renew: watch::Sender<RenewHint>,
}

impl Setup {
    pub(crate) fn new(options: Options, before: Vec<(DocumentKey, Registered)>) -> Self {
        let registrar = Arc::new(FakeRegistrar::default());
        let sink = Arc::new(FakeSink::default());
        let (bundle, bundle_receiver) = watch::channel(Arc::new(Bundle {
            version: 1,
            trust_domain: "mesh.test".to_owned(),
            roots: vec![Bytes::from_static(b"root")],
        }));
        let (renew, renew_receiver) = watch::channel(RenewHint::default());
        let trust = Trust {
            bundle: bundle_receiver,
            renew: renew_receiver,
            sink: sink.clone(),
        };
        let hub = Hub::start(options, before, Arc::new(Shared(registrar.clone())), trust);
        registrar.hub.set(hub.clone()).unwrap();
        Self {
            hub,
            registrar,
            sink,
            bundle,
            renew,
        }
    }

    pub(crate) async fn publish(&self, changes: Vec<Change>) {
        let revision = self.registrar.revision();
        self.hub.publish(revision, changes).await.unwrap();
    }

    pub(crate) async fn status(&self, workload: &str) -> mesh::ProxyStatus {
        let request = mesh::FleetRequest {
            namespace: "shop".to_owned(),
            name: workload.to_owned(),
        };
        self.hub.fleet(request).await.unwrap().proxies.pop().unwrap()
    }
}

impl Setup {
    /// Waits until acks that are on their way have come.
    pub(crate) async fn until_current(&self, workload: &str) -> mesh::ProxyStatus {
        loop {
            let status = self.status(workload).await;
            if status.is_current {
                return status;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// A hello of a proxy in the namespace `shop`.
pub(crate) fn hello(workload: &str, names: &[&str]) -> mesh::Hello {
    mesh::Hello {
        version: "test".to_owned(),
        holder: Some(mesh::Holder {
            workload: workload.to_owned(),
            instance: "1".to_owned(),
        }),
        subscribe: Some(mesh::Subscribe {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            ..mesh::Subscribe::default()
        }),
        trust_version: 1,
        ..mesh::Hello::default()
    }
}

/// What a proxy registers: a workload with the label `app: APP`.
pub(crate) fn registration(workload: &str, app: &str, address: &str) -> mesh::Registration {
    let document = format!(
        r#"{{"apiVersion":"weft.dev/v1alpha1","kind":"Workload","metadata":{{"name":"{workload}","labels":{{"app":"{app}"}}}},"spec":{{"address":"{address}"}}}}"#
    );
    mesh::Registration {
        document: document.into(),
        readiness: mesh::Readiness::Ready.into(),
        grace_ms: 0,
    }
}

/// A proxy.
pub(crate) struct Peer {
    out: mpsc::UnboundedSender<Result<mesh::ProxyMessage, Status>>,
    incoming: Outgoing,
    pub(crate) held: BTreeMap<DocumentKey, u64>,
    pub(crate) readiness: BTreeMap<DocumentKey, i32>,
    pub(crate) unknown: BTreeSet<String>,
}

impl Peer {
    /// Connects as the service account `web`.
    pub(crate) async fn connect(hub: &Hub, hello: mesh::Hello) -> Self {
        Self::connect_as(hub, "web", hello).await.unwrap()
    }

    pub(crate) async fn connect_as(hub: &Hub, account: &str, hello: mesh::Hello) -> Result<Self, Status> {
        let (out, messages) = mpsc::unbounded_channel();
        let identity = format!("spiffe://mesh.test/ns/shop/sa/{account}")
            .parse()
            .unwrap();
        let held = hello
            .held
            .iter()
            .map(|held| (key_of(held.key.as_ref().unwrap()), held.version));
        let held = held.collect();
        let hello = proxy_message::Message::Hello(hello);
        out.send(Ok(mesh::ProxyMessage { message: Some(hello) })).unwrap();
        let messages = stream::unfold(messages, async |mut messages| {
            Some((messages.recv().await?, messages))
        });
        let incoming = hub.connect(identity, String::new(), Box::pin(messages)).await?;
        Ok(Self {
            out,
            incoming,
            held,
            readiness: BTreeMap::new(),
            unknown: BTreeSet::new(),
        })
    }

    pub(crate) fn send(&self, message: proxy_message::Message) {
        self.send_raw(mesh::ProxyMessage {
            message: Some(message),
        });
    }

    pub(crate) fn send_raw(&self, message: mesh::ProxyMessage) {
        // The stream may be over.
        let _ = self.out.send(Ok(message));
    }

    pub(crate) fn ask_for(&self, names: &[&str]) {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        self.send(proxy_message::Message::Subscribe(mesh::Subscribe {
            names,
            ..Default::default()
        }));
    }

    pub(crate) fn report(&self, readiness: mesh::Readiness, trust_version: u64) {
        let report = mesh::Report {
            readiness: readiness.into(),
            trust_version,
            ..mesh::Report::default()
        };
        self.send(proxy_message::Message::Report(report));
    }

    /// The next message; `None`: the stream ended. Waits for a minute of virtual time.
    pub(crate) async fn next(&mut self) -> Option<Result<Message, Status>> {
        let next = tokio::time::timeout(Duration::from_secs(60), self.incoming.next()).await;
        let next = next.expect("a message within a minute")?;
        Some(next.map(|message| message.message.unwrap()))
    }

    /// The next update, not acked.
    pub(crate) async fn unacked(&mut self) -> mesh::Update {
        loop {
            match self.next().await {
                Some(Ok(Message::Update(update))) => return update,
                Some(Ok(_)) => {}
                other => panic!("no update but {other:?}"),
            }
        }
    }

    /// The next update, taken as a proxy does.
    pub(crate) async fn update(&mut self) -> mesh::Update {
        let update = self.unacked().await;
        self.take(&update);
        update
    }

    pub(crate) fn take(&mut self, update: &mesh::Update) {
        if update.is_whole {
            self.held.clear();
        }
        for resource in &update.changed {
            let key = key_of(resource.key.as_ref().unwrap());
            self.readiness.insert(key.clone(), resource.readiness);
            self.held.insert(key, resource.version);
        }
        for key in &update.removed {
            assert!(self.held.remove(&key_of(key)).is_some(), "{key:?} is not held");
        }
        self.unknown.extend(update.unknown.iter().cloned());
        for known in &update.known {
            self.unknown.remove(known);
        }
        assert_eq!(update.digest, self.digest(), "{update:?}");
        self.send(proxy_message::Message::Ack(mesh::Ack {
            nonce: update.nonce,
            trust_version: 1,
        }));
    }

    pub(crate) fn digest(&self) -> Vec<u8> {
        let mut digest = Digest::default();
        self.held
            .iter()
            .for_each(|(key, version)| digest.add(key, *version));
        digest.to_bytes().to_vec()
    }

    pub(crate) fn holds(&self) -> Vec<String> {
        self.held.keys().map(ToString::to_string).collect()
    }

    /// How the stream ends, whatever comes before.
    pub(crate) async fn end(&mut self) -> Option<Status> {
        loop {
            match self.next().await {
                Some(Ok(_)) => {}
                Some(Err(status)) => return Some(status),
                None => return None,
            }
        }
    }
}

pub(crate) fn key_of(key: &mesh::ResourceKey) -> DocumentKey {
    DocumentKey::new(Kind::from_name(&key.kind).unwrap(), &key.namespace, &key.name).unwrap()
}
