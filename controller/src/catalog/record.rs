//! A workload that registered through its proxy, as it is stored.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weft_proto::{
    SpiffeId,
    kinds::{DocumentKey, Kind},
    model::Readiness,
};

use crate::fleet::Registered;

/// Where they are.
pub(super) const PREFIX: &str = "fleet/";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The whole document, JSON.
    pub document: String,
    readiness: String,
    identity: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grace_ms: Option<u64>,
}

impl Record {
    /// As it is written.
    pub fn of(registered: &Registered) -> Self {
        Self {
            document: String::from_utf8_lossy(&registered.document).into_owned(),
            readiness: registered.readiness.as_str().to_owned(),
            identity: registered.identity.as_str().to_owned(),
            grace_ms: registered
                .grace
                .map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// As it was written; `None`: it is none.
    pub fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }

    /// For the store.
    pub fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Whether it takes requests.
    pub fn readiness(&self) -> Option<Readiness> {
        let all = [Readiness::Ready, Readiness::NotReady, Readiness::Draining];
        all.into_iter()
            .find(|readiness| readiness.as_str() == self.readiness)
    }

    /// What was registered.
    pub fn registered(self) -> Option<Registered> {
        Some(Registered {
            readiness: self.readiness()?,
            identity: SpiffeId::parse(&self.identity).ok()?,
            grace: self.grace_ms.map(Duration::from_millis),
            document: self.document.into(),
        })
    }
}

/// Where a workload's record is.
pub(super) fn path_of(key: &DocumentKey) -> String {
    format!("{PREFIX}{}/{}", key.namespace(), key.name())
}

/// Whose record is there.
pub(super) fn key_of(path: &str) -> Option<DocumentKey> {
    let (namespace, name) = path.strip_prefix(PREFIX)?.split_once('/')?;
    DocumentKey::new(Kind::Workload, namespace, name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back() {
        let registered = Registered {
            document: Bytes::from_static(b"{\"kind\":\"Workload\"}"),
            readiness: Readiness::Draining,
            identity: "spiffe://mesh.test/ns/shop/sa/web".parse().unwrap(),
            grace: Some(Duration::from_millis(1_500)),
        };
        let read = Record::read(&Record::of(&registered).to_bytes()).unwrap();
        assert_eq!(read.registered(), Some(registered));
        assert_eq!(Record::read(b"{}"), None);
        let key = DocumentKey::new(Kind::Workload, "shop", "web-0").unwrap();
        assert_eq!(key_of(&path_of(&key)), Some(key));
    }
}
