//! Documents for tests.

use bytes::Bytes;
use weft_proto::{
    kinds::{DocumentKey, Kind},
    model::Readiness,
    names::{DnsLabel, Labels},
};

use super::{Change, Meaning, Versioned};

/// A key in the namespace `shop`, or none for a MeshConfig.
pub(crate) fn key(kind: Kind, name: &str) -> DocumentKey {
    let namespace = if kind.is_namespaced() { "shop" } else { "" };
    DocumentKey::new(kind, namespace, name).unwrap()
}

/// A key in any namespace.
pub(crate) fn key_in(kind: Kind, namespace: &str, name: &str) -> DocumentKey {
    DocumentKey::new(kind, namespace, name).unwrap()
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    let mut labels = Labels::default();
    for (key, value) in pairs {
        labels.insert(key, value).unwrap();
    }
    labels
}

pub(crate) fn put(key: DocumentKey, version: u64, meaning: Meaning) -> Change {
    let json = Bytes::from(format!(r#"{{"kind":"{}","version":{version}}}"#, key.kind()));
    let document = Versioned {
        version,
        json,
        requires: Vec::new(),
        readiness: Readiness::Ready,
        meaning,
    };
    Change {
        key,
        document: Some(document),
    }
}

pub(crate) fn remove(key: DocumentKey) -> Change {
    Change { key, document: None }
}

pub(crate) fn config(version: u64) -> Change {
    put(key(Kind::MeshConfig, "mesh"), version, Meaning::MeshConfig)
}

/// A service that selects `app: APP`.
pub(crate) fn service(name: &str, version: u64, app: &str) -> Change {
    let meaning = Meaning::Service {
        address: None,
        selector: labels(&[("app", app)]),
    };
    put(key(Kind::Service, name), version, meaning)
}

/// A workload with the label `app: APP`.
pub(crate) fn workload(name: &str, version: u64, app: &str, address: &str) -> Change {
    let meaning = Meaning::Workload {
        address: address.parse().unwrap(),
        labels: labels(&[("app", app)]),
    };
    put(key(Kind::Workload, name), version, meaning)
}

/// An HTTPRoute in the namespace `shop` for Services, to others.
pub(crate) fn route(name: &str, version: u64, parents: &[DocumentKey], backends: &[DocumentKey]) -> Change {
    route_of(key(Kind::HttpRoute, name), version, parents, backends)
}

pub(crate) fn route_of(
    key: DocumentKey,
    version: u64,
    parents: &[DocumentKey],
    backends: &[DocumentKey],
) -> Change {
    let meaning = Meaning::Route {
        parents: parents.iter().cloned().collect(),
        backends: backends.iter().cloned().collect(),
    };
    put(key, version, meaning)
}

/// A TrafficPolicy for Services of the namespace `shop`.
pub(crate) fn policy(name: &str, version: u64, targets: &[DocumentKey], is_at_server: bool) -> Change {
    let meaning = Meaning::Policy {
        targets: targets.iter().cloned().collect(),
        is_at_server,
    };
    put(key(Kind::TrafficPolicy, name), version, meaning)
}

/// A ReferenceGrant in a namespace for the HTTPRoutes of another.
pub(crate) fn grant(namespace: &str, name: &str, version: u64, from: &str) -> Change {
    let from = DnsLabel::parse(from).unwrap();
    let meaning = Meaning::Grant {
        from: vec![(Kind::HttpRoute, from)],
    };
    put(key_in(Kind::ReferenceGrant, namespace, name), version, meaning)
}
