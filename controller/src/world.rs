//! The configuration as it is now, indexed so that a change finds at once whom it concerns.
//!
//! The store has the documents and their history; the world has what of them is needed to tell each proxy its part:
//! which workloads a service selects, what an address or a host leads to, and each document's JSON, shared by all who
//! are sent it. It is changed by [`World::apply`] alone, which says what the change touches, by topic: whoever asked
//! for something of a topic has to look again at the keys that come with it, and nobody else has.
//!
//! Several services may share a cluster IP, and several workloads an address, each with ports of its own: so an address
//! leads to a set.

mod attached;
mod labels;
mod meaning;
#[cfg(test)]
pub(crate) mod testing;
mod touch;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use bytes::Bytes;
use weft_proto::{
    kinds::{DocumentKey, Kind},
    mesh::v1 as mesh,
    model::Readiness,
    names::Labels,
};

use attached::Attached;
use labels::LabelIndex;
pub use meaning::{Meaning, is_for};
pub use touch::{Affected, Touched};

/// A document and its place in the history.
#[derive(Clone, Debug)]
pub struct Versioned {
    /// Grows with each change of this document, its readiness included, and never goes back.
    pub version: u64,
    /// The document as compact JSON.
    pub json: Bytes,
    /// Features without which it would be misread: names of [`weft_proto::wire::FEATURES`].
    pub requires: Vec<String>,
    /// Of a workload.
    pub readiness: Readiness,
    /// What of it matters here.
    pub meaning: Meaning,
}

/// What became of one document.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which.
    pub key: DocumentKey,
    /// `None`: it is gone.
    pub document: Option<Versioned>,
}

/// Something that a proxy can ask for, or has without asking.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The mesh's settings.
    MeshConfig,
    /// A service by its key, there or not.
    Service(DocumentKey),
    /// A host outside the mesh.
    Host(Box<str>),
    /// Whatever has this address.
    Address(IpAddr),
    /// A workload by its key: its own proxy's.
    Workload(DocumentKey),
}

/// The configuration as it is now. See the module.
#[derive(Debug, Default)]
pub struct World {
    revision: u64,
    items: HashMap<DocumentKey, Item>,
    configs: BTreeSet<DocumentKey>,
    by_address: HashMap<IpAddr, BTreeSet<DocumentKey>>,
    by_host: HashMap<Box<str>, BTreeSet<DocumentKey>>,
    namespaces: HashMap<Box<str>, Namespace>,
    attached: Attached,
}

#[derive(Debug)]
struct Item {
    version: u64,
    resource: mesh::Resource,
    meaning: Meaning,
    /// Of a service: the workloads that it selects. Of a workload: the services that select it.
    related: BTreeSet<DocumentKey>,
    /// Of a service: the pair of its selector under which it is found.
    indexed: Option<(String, String)>,
}

/// The indexes by label of one namespace; no selector reaches further.
#[derive(Debug, Default)]
struct Namespace {
    /// Every workload under each of its labels.
    workloads: LabelIndex,
    /// Every service under one pair of its selector.
    services: LabelIndex,
}

impl World {
    /// A world of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of the store, after the last change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many documents there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The mesh's settings: of several documents, which the catalog refuses, the first by name.
    pub fn config(&self) -> Option<&DocumentKey> {
        self.configs.first()
    }

    /// The version of a document that is there.
    pub fn version(&self, key: &DocumentKey) -> Option<u64> {
        self.items.get(key).map(|item| item.version)
    }

    /// The resource, made once: a clone shares its document.
    pub fn resource(&self, key: &DocumentKey) -> Option<&mesh::Resource> {
        self.items.get(key).map(|item| &item.resource)
    }

    /// What a document that is there means.
    pub fn meaning(&self, key: &DocumentKey) -> Option<&Meaning> {
        self.items.get(key).map(|item| &item.meaning)
    }

    /// The workloads that a service selects, or the services that select a workload.
    pub fn related(&self, key: &DocumentKey) -> impl Iterator<Item = &DocumentKey> {
        self.items.get(key).into_iter().flat_map(|item| &item.related)
    }

    /// Everything with this address.
    pub fn at_address(&self, address: IpAddr) -> impl Iterator<Item = &DocumentKey> {
        self.by_address.get(&address).into_iter().flatten()
    }

    /// The external services with this host.
    pub fn with_host(&self, host: &str) -> impl Iterator<Item = &DocumentKey> {
        self.by_host.get(host).into_iter().flatten()
    }

    /// The routes with this parent, which need not be there itself.
    pub fn routes_of(&self, service: &DocumentKey) -> impl Iterator<Item = &DocumentKey> {
        self.attached.routes_of(service)
    }

    /// The routes with this backend, which need not be there itself.
    pub fn routes_to(&self, service: &DocumentKey) -> impl Iterator<Item = &DocumentKey> {
        self.attached.routes_to(service)
    }

    /// The routes that a grant is for.
    pub fn routes_granted<'a>(&'a self, grant: &'a DocumentKey) -> impl Iterator<Item = &'a DocumentKey> {
        let into = self.attached.routes_into(grant.namespace());
        into.filter(|route| self.is_granted(grant, route))
    }

    /// Whether the sidecars of a Service's workloads have something to do for it.
    pub fn is_at_server(&self, service: &DocumentKey) -> bool {
        self.attached.policies_of(service).any(|policy| {
            let meaning = self.meaning(policy);
            matches!(
                meaning,
                Some(Meaning::Policy {
                    is_at_server: true,
                    ..
                })
            )
        })
    }

    /// A Service, with what goes wherever it goes: its workloads and its policies.
    pub fn with_service<'a>(&'a self, service: &'a DocumentKey) -> impl Iterator<Item = &'a DocumentKey> {
        let workloads = self.related(service);
        [service]
            .into_iter()
            .chain(workloads)
            .chain(self.attached.policies_of(service))
    }

    /// A route, with what it takes to follow it: its backends with all of theirs, and the grants that may allow them.
    pub fn with_route<'a>(&'a self, route: &'a DocumentKey) -> impl Iterator<Item = &'a DocumentKey> {
        let backends = match self.meaning(route) {
            Some(Meaning::Route { backends, .. }) => Some(backends),
            _ => None,
        };
        let backends = backends.into_iter().flatten();
        let strange: BTreeSet<&str> = backends
            .clone()
            .map(DocumentKey::namespace)
            .filter(|namespace| *namespace != route.namespace())
            .collect();
        let grants = strange
            .into_iter()
            .flat_map(|namespace| self.attached.grants_of(namespace));
        let grants = grants.filter(|grant| self.is_granted(grant, route));
        let there = backends.filter(|backend| self.items.contains_key(*backend));
        let backends = there.flat_map(|backend| self.with_service(backend));
        [route].into_iter().chain(backends).chain(grants)
    }

    /// Whether a grant is for routes of this kind and namespace.
    fn is_granted(&self, grant: &DocumentKey, route: &DocumentKey) -> bool {
        let Some(Meaning::Grant { from }) = self.meaning(grant) else {
            return false;
        };
        from.iter()
            .any(|(kind, namespace)| *kind == route.kind() && namespace.as_str() == route.namespace())
    }

    /// Every document that is there, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &DocumentKey> {
        self.items.keys()
    }

    /// Applies the changes of one or several revisions, the last of which is given. A document of a version that
    /// is there already, with the same content, touches nobody.
    pub fn apply(&mut self, changes: Vec<Change>, revision: u64) -> Affected {
        let mut affected = Affected::new();
        for Change { key, document } in changes {
            match document {
                Some(document) => self.put(key, document, &mut affected),
                None => self.remove(&key, &mut affected),
            }
        }
        self.revision = self.revision.max(revision);
        affected
    }

    fn put(&mut self, key: DocumentKey, document: Versioned, affected: &mut Affected) {
        let resource = resource(&key, &document);
        if let Some(item) = self.items.get_mut(&key) {
            if item.resource == resource {
                return;
            }
            // The common change of an endpoint, its readiness, leaves every index as it is.
            if item.meaning == document.meaning {
                item.version = document.version;
                item.resource = resource;
                self.touch_version(&key, affected);
                return;
            }
            self.unlink(&key, affected);
        }
        let item = Item {
            version: document.version,
            resource,
            meaning: document.meaning,
            related: BTreeSet::new(),
            indexed: None,
        };
        self.items.insert(key.clone(), item);
        self.link(&key, affected);
    }

    fn remove(&mut self, key: &DocumentKey, affected: &mut Affected) {
        if self.items.contains_key(key) {
            self.unlink(key, affected);
            self.items.remove(key);
        }
    }

    /// Enters a document into the indexes, and touches whom it now concerns.
    fn link(&mut self, key: &DocumentKey, affected: &mut Affected) {
        let Some(mut item) = self.items.remove(key) else {
            return;
        };
        let (related, indexed) = match &item.meaning {
            Meaning::MeshConfig => {
                self.configs.insert(key.clone());
                (BTreeSet::new(), None)
            }
            Meaning::Service { address, selector } => {
                self.insert_addresses(key, address.as_slice());
                self.link_service(key, selector)
            }
            Meaning::Workload { address, labels } => {
                self.insert_addresses(key, &[*address]);
                (self.link_workload(key, labels), None)
            }
            Meaning::ExternalService { hosts, addresses } => {
                for host in hosts {
                    let documents = self.by_host.entry(host.as_str().into()).or_default();
                    documents.insert(key.clone());
                }
                self.insert_addresses(key, addresses);
                (BTreeSet::new(), None)
            }
            meaning @ (Meaning::Route { .. } | Meaning::Policy { .. } | Meaning::Grant { .. }) => {
                self.attached.set(key, meaning, true);
                (BTreeSet::new(), None)
            }
        };
        for other in &related {
            if let Some(other) = self.items.get_mut(other) {
                other.related.insert(key.clone());
            }
        }
        item.related = related;
        item.indexed = indexed;
        self.items.insert(key.clone(), item);
        self.touch(key, affected);
    }

    /// Takes a document out of the indexes, and touches whom it concerned. The document itself stays.
    fn unlink(&mut self, key: &DocumentKey, affected: &mut Affected) {
        self.touch(key, affected);
        let Some(mut item) = self.items.remove(key) else {
            return;
        };
        for other in std::mem::take(&mut item.related) {
            if let Some(other) = self.items.get_mut(&other) {
                other.related.remove(key);
            }
        }
        match &item.meaning {
            Meaning::MeshConfig => {
                self.configs.remove(key);
            }
            Meaning::Service { address, .. } => {
                self.remove_addresses(key, address.as_slice());
                if let (Some(namespace), Some((label, value))) =
                    (self.namespaces.get_mut(key.namespace()), item.indexed.take())
                {
                    namespace.services.remove(&label, &value, key);
                }
            }
            Meaning::Workload { address, labels } => {
                self.remove_addresses(key, &[*address]);
                if let Some(namespace) = self.namespaces.get_mut(key.namespace()) {
                    for (label, value) in labels {
                        namespace.workloads.remove(label, value, key);
                    }
                }
            }
            Meaning::ExternalService { hosts, addresses } => {
                for host in hosts {
                    if let Some(documents) = self.by_host.get_mut(host.as_str()) {
                        documents.remove(key);
                        if documents.is_empty() {
                            self.by_host.remove(host.as_str());
                        }
                    }
                }
                self.remove_addresses(key, addresses);
            }
            meaning @ (Meaning::Route { .. } | Meaning::Policy { .. } | Meaning::Grant { .. }) => {
                self.attached.set(key, meaning, false);
            }
        }
        self.items.insert(key.clone(), item);
    }

    /// Indexes a service under the rarest pair of its selector, and finds its workloads through the rarest of theirs.
    fn link_service(
        &mut self,
        key: &DocumentKey,
        selector: &Labels,
    ) -> (BTreeSet<DocumentKey>, Option<(String, String)>) {
        let namespace = self.namespaces.entry(key.namespace().into()).or_default();
        let rarest = |index: &LabelIndex| {
            let pairs = selector.iter();
            pairs
                .min_by_key(|(label, value)| index.count(label, value))
                .map(|(label, value)| (label.clone(), value.clone()))
        };
        let indexed = rarest(&namespace.services);
        if let Some((label, value)) = &indexed {
            namespace.services.insert(label, value, key.clone());
        }
        let candidates = rarest(&namespace.workloads)
            .and_then(|(label, value)| namespace.workloads.get(&label, &value))
            .into_iter()
            .flatten();
        let is_selected = |workload: &&DocumentKey| match self.items.get(*workload).map(|item| &item.meaning)
        {
            Some(Meaning::Workload { labels, .. }) => labels.are_selected_by(selector),
            _ => false,
        };
        (candidates.filter(is_selected).cloned().collect(), indexed)
    }

    /// Indexes a workload under all of its labels, and finds the services that select it.
    fn link_workload(&mut self, key: &DocumentKey, labels: &Labels) -> BTreeSet<DocumentKey> {
        let namespace = self.namespaces.entry(key.namespace().into()).or_default();
        for (label, value) in labels {
            namespace.workloads.insert(label, value, key.clone());
        }
        let selects = |service: &&DocumentKey| match self.items.get(*service).map(|item| &item.meaning) {
            Some(Meaning::Service { selector, .. }) => labels.are_selected_by(selector),
            _ => false,
        };
        let candidates = labels
            .iter()
            .filter_map(|(label, value)| namespace.services.get(label, value))
            .flatten();
        candidates.filter(selects).cloned().collect()
    }

    fn insert_addresses(&mut self, key: &DocumentKey, addresses: &[IpAddr]) {
        for address in addresses {
            self.by_address.entry(*address).or_default().insert(key.clone());
        }
    }

    fn remove_addresses(&mut self, key: &DocumentKey, addresses: &[IpAddr]) {
        for address in addresses {
            if let Some(documents) = self.by_address.get_mut(address) {
                documents.remove(key);
                if documents.is_empty() {
                    self.by_address.remove(address);
                }
            }
        }
    }
}

/// The envelope of a document.
fn resource(key: &DocumentKey, document: &Versioned) -> mesh::Resource {
    let readiness = match (key.kind(), document.readiness) {
        (Kind::Workload, Readiness::Ready) => mesh::Readiness::Ready,
        (Kind::Workload, Readiness::NotReady) => mesh::Readiness::NotReady,
        (Kind::Workload, Readiness::Draining) => mesh::Readiness::Draining,
        _ => mesh::Readiness::Unspecified,
    };
    mesh::Resource {
        key: Some(key_message(key)),
        version: document.version,
        requires: document.requires.clone(),
        document: document.json.clone(),
        readiness: readiness.into(),
    }
}

/// A key on the wire.
pub fn key_message(key: &DocumentKey) -> mesh::ResourceKey {
    mesh::ResourceKey {
        kind: key.kind().name().to_owned(),
        namespace: key.namespace().to_owned(),
        name: key.name().to_owned(),
    }
}
