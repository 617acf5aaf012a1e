//! Documents for tests.

use bytes::Bytes;
use weft_proto::{
    kinds::{DocumentKey, Kind},
    model::Readiness,
    names::Labels,
};

use super::{Change, Meaning, Versioned};

/// A key in the namespace `shop`, or none for a MeshConfig.
pub(crate) fn key(kind: Kind, name: &str) -> DocumentKey {
    let namespace = if kind.is_namespaced() { "shop" } else { "" };
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
