//! A mesh whose documents change one by one: each change is checked against the whole, by the same rules as
//! documents that are read all at once, and applied whole or not at all.
//!
//! A change costs what it concerns, not what there is: services that share a cluster IP, workloads that share a
//! port, and so on, are found by index. Only another MeshConfig is checked against all documents.
//!
//! ```
//! use std::sync::Arc;
//! use weft_proto::Source;
//! use weft_proto::mesh_set::{Change, MeshSet, Unserved};
//! use weft_proto::parse::parse_document;
//!
//! let document = |text: &str| parse_document(&Source::new("a.json", text)).map(Arc::new);
//! let config = r#"{"apiVersion":"weft.dev/v1alpha1","kind":"MeshConfig","metadata":{"name":"mesh"},
//!     "spec":{"trustDomain":"mesh.example","serviceRanges":["10.96.0.0/12"]}}"#;
//! let web = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},
//!     "spec":{"clusterIP":"10.0.0.1","selector":{"app":"web"},"ports":[{"port":80}]}}"#;
//! let mut set = MeshSet::new();
//! set.apply([Change::Put(document(config)?)], Unserved::Refuse)?;
//! let errors = set.apply([Change::Put(document(web)?)], Unserved::Refuse).err().unwrap_or_default();
//! assert_eq!(
//!     errors[0].to_string(),
//!     "a.json: spec.clusterIP: 10.0.0.1 is in none of the MeshConfig's serviceRanges: nothing would lead there"
//! );
//! assert_eq!(set.len(), 1);
//! # Ok::<(), Vec<weft_proto::DocumentError>>(())
//! ```

use crate::error::{DocumentError, Errors};
use crate::kinds::{DocumentKey, Kind};
use crate::model::{
    ExternalService, Mesh, MeshConfig, Name, ReferenceGrant, Route, Service, TrafficPolicy, Workload,
};
use crate::names::DnsLabel;
pub use crate::parse::Unserved;
use crate::parse::check::{Changed, Place, Reporter, check};
use crate::parse::index::{Claim, Id, Index, Trait};
use crate::parse::{MAX_DOCUMENTS, Parsed, Unread};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The documents of a mesh, consistent with each other: what holds of a [`Mesh`] holds of these, but for what
/// [`Unserved`] lets pass. Without any document it is empty; once it is not, it has a MeshConfig.
#[derive(Clone, Debug, Default)]
pub struct MeshSet {
    index: Index,
    ids: BTreeMap<DocumentKey, Id>,
}

/// A change of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The document is there from now on, in place of the one with the same key, if any.
    Put(Arc<Parsed>),
    /// The document with this key is there no longer, if it was.
    Remove(DocumentKey),
}

/// What a change did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// How many documents were put.
    pub put: usize,
    /// How many are there no longer, those that were replaced not counted.
    pub removed: usize,
    /// The ports of services, among those that the change concerns, to which no workload answers now.
    pub unserved: Vec<DocumentError>,
}

impl Change {
    /// The document that it changes.
    pub fn key(&self) -> &DocumentKey {
        match self {
            Change::Put(document) => &document.key,
            Change::Remove(key) => key,
        }
    }
}

impl MeshSet {
    /// No documents.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes all of the changes, or none.
    ///
    /// No changes are no change: nothing is removed that is not named. Removing what is not there is none either.
    ///
    /// # Errors
    /// All that is wrong with the whole as it would be, in the order of the changes. Each error names its document
    /// by its [source](Parsed::source); its line is 0. Nothing has changed then.
    pub fn apply(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
        unserved: Unserved,
    ) -> Result<Applied, Vec<DocumentError>> {
        let changes: Vec<Change> = changes.into_iter().collect();
        check_distinct(&changes)?;
        let old: Vec<(Id, Arc<Parsed>)> = changes
            .iter()
            .filter_map(|change| self.ids.get(change.key()).copied())
            .filter_map(|id| Some((id, self.index.remove(id)?)))
            .collect();
        let put: Vec<&Arc<Parsed>> = changes.iter().filter_map(put).collect();
        let new: Vec<Id> = put
            .iter()
            .map(|document| self.index.insert((*document).clone()))
            .collect();
        if old.is_empty() && new.is_empty() {
            return Ok(Applied::default());
        }
        match self.check(&new, &old, unserved) {
            Ok(unserved) => {
                let replaced = old
                    .iter()
                    .filter(|(_, old)| put.iter().any(|new| new.key == old.key))
                    .count();
                let applied = Applied {
                    put: new.len(),
                    removed: old.len() - replaced,
                    unserved,
                };
                for (_, document) in &old {
                    self.ids.remove(&document.key);
                }
                self.ids
                    .extend(put.iter().map(|document| document.key.clone()).zip(new));
                Ok(applied)
            }
            Err(errors) => {
                for id in new {
                    self.index.remove(id);
                }
                for (id, document) in old {
                    self.index.restore(id, document);
                }
                Err(sorted(errors, &changes))
            }
        }
    }

    /// Checks the index as it is after a change.
    fn check(
        &mut self,
        new: &[Id],
        old: &[(Id, Arc<Parsed>)],
        unserved: Unserved,
    ) -> Result<Vec<DocumentError>, Vec<DocumentError>> {
        let (errors, reported) = (Errors::new(), Errors::new());
        if self.index.len() > MAX_DOCUMENTS {
            let message = format!(
                "there would be {} documents, more than the {MAX_DOCUMENTS} allowed",
                self.index.len()
            );
            errors.push(error_of("", "", message));
        }
        let place = |_: Id, _: &Parsed, _: &str| Place { line: 0, column: 0 };
        let report = |errors| Reporter {
            errors,
            place: &place,
        };
        let changed = Changed {
            new,
            old,
            unread: Unread::default(),
            unserved,
        };
        check(&mut self.index, &changed, &report(&errors), &report(&reported));
        if errors.count() > 0 {
            return Err(errors.into_vec());
        }
        Ok(reported.into_vec())
    }

    /// A document.
    pub fn get(&self, key: &DocumentKey) -> Option<&Arc<Parsed>> {
        self.index.get(*self.ids.get(key)?)
    }

    /// All documents, in the order of their keys.
    pub fn documents(&self) -> impl Iterator<Item = &Arc<Parsed>> {
        self.ids.values().filter_map(|id| self.index.get(*id))
    }

    /// How many documents there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The MeshConfig.
    pub fn config(&self) -> Option<&MeshConfig> {
        self.index.config().map(|(_, config)| config)
    }

    /// The service of this name.
    pub fn service(&self, name: &Name) -> Option<&Service> {
        self.get(&DocumentKey::of(Kind::Service, name))?.model.service()
    }

    /// The routes that have a service as a parent, which need not be in the set.
    pub fn routes_of(&self, service: &Name) -> impl Iterator<Item = &Route> {
        let route = |id| self.index.get(id)?.model.route();
        self.index
            .with(&Trait::RouteOf(service.clone()))
            .filter_map(route)
    }

    /// The policies that have a service, or one of its ports, as a target; it need not be in the set.
    pub fn policies_of(&self, service: &Name) -> impl Iterator<Item = &TrafficPolicy> {
        let policy = |id| self.index.get(id)?.model.traffic_policy();
        self.index
            .with(&Trait::PolicyOf(service.clone()))
            .filter_map(policy)
    }

    /// The grants of a namespace.
    pub fn grants_of(&self, namespace: &DnsLabel) -> impl Iterator<Item = &ReferenceGrant> {
        let grant = |id| self.index.get(id)?.model.reference_grant();
        self.index
            .with(&Trait::GrantOf(namespace.clone()))
            .filter_map(grant)
    }

    /// The service that has a cluster IP.
    pub fn service_at(&self, address: IpAddr) -> Option<&Service> {
        let (id, _) = self.index.owner(&Claim::ClusterIp(address))?;
        self.index.get(id)?.model.service()
    }

    /// The workloads at an address: several, if they listen on ports of their own.
    pub fn workloads_at(&self, address: IpAddr) -> impl Iterator<Item = &Workload> {
        let workload = |id| self.index.get(id)?.model.workload();
        self.index.with(&Trait::Address(address)).filter_map(workload)
    }

    /// The workloads that stand behind a service.
    pub fn workloads_of<'s>(&'s self, service: &'s Service) -> impl Iterator<Item = &'s Workload> {
        self.index.selected(service)
    }

    /// The services that select a workload, which need not be in the set.
    pub fn services_of<'s>(&'s self, workload: &'s Workload) -> impl Iterator<Item = &'s Service> {
        self.index
            .selecting(workload)
            .filter_map(|id| self.index.get(id)?.model.service())
    }

    /// The external services with a host, in lower case: several, if their ports differ.
    pub fn external_services_of(&self, host: &str) -> impl Iterator<Item = &ExternalService> {
        let external = |id| self.index.get(id)?.model.external_service();
        self.index
            .with(&Trait::ExternalHost(host.into()))
            .filter_map(external)
    }

    /// All as a mesh, those of a kind in the order of their names; `None` while there are none.
    pub fn mesh(&self) -> Option<Mesh> {
        self.index.mesh(self.documents())
    }
}

fn put(change: &Change) -> Option<&Arc<Parsed>> {
    match change {
        Change::Put(document) => Some(document),
        Change::Remove(_) => None,
    }
}

/// Of one document there is one change: of two, one would be lost.
fn check_distinct(changes: &[Change]) -> Result<(), Vec<DocumentError>> {
    let errors = Errors::new();
    let mut seen = HashSet::new();
    for change in changes.iter().filter(|change| !seen.insert(change.key())) {
        let message = format!("the {} is in the change already", change.key());
        let file = put(change).map_or_else(
            || change.key().to_string(),
            |document| document.source.to_string(),
        );
        errors.push(error_of(&file, "metadata.name", message));
    }
    if errors.count() > 0 {
        return Err(errors.into_vec());
    }
    Ok(())
}

fn error_of(file: &str, path: &str, message: String) -> DocumentError {
    DocumentError {
        file: file.to_owned(),
        line: 0,
        column: 0,
        path: path.to_owned(),
        message,
    }
}

/// The errors in the order of the changes; those of documents that did not change come last.
fn sorted(mut errors: Vec<DocumentError>, changes: &[Change]) -> Vec<DocumentError> {
    let mut rank: HashMap<&str, usize> = HashMap::new();
    for (index, document) in changes.iter().filter_map(put).enumerate() {
        rank.entry(&document.source).or_insert(index);
    }
    errors.sort_by_key(|error| rank.get(error.file.as_str()).copied().unwrap_or(usize::MAX));
    errors
}
