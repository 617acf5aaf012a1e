//! What is attached to Services by name: routes, policies, grants. A document finds its place here whether the Services
//! that it names are there or not, so that they find it when they come.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

use weft_proto::kinds::DocumentKey;

use super::Meaning;

/// Documents under what they name. Nothing empty is kept.
#[derive(Debug)]
struct By<K>(HashMap<K, BTreeSet<DocumentKey>>);

impl<K> Default for By<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> By<K> {
    fn get<Q: Hash + Eq + ?Sized>(&self, name: &Q) -> impl Iterator<Item = &DocumentKey>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.get(name).into_iter().flatten()
    }

    fn set(&mut self, name: K, document: &DocumentKey, is_there: bool) {
        if is_there {
            self.0.entry(name).or_default().insert(document.clone());
        } else if let Some(documents) = self.0.get_mut(&name) {
            documents.remove(document);
            if documents.is_empty() {
                self.0.remove(&name);
            }
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Attached {
    routes_of: By<DocumentKey>,
    routes_to: By<DocumentKey>,
    /// The routes of other namespaces that send requests to one.
    routes_into: By<Box<str>>,
    policies_of: By<DocumentKey>,
    grants_of: By<Box<str>>,
}

impl Attached {
    /// Enters a document, or takes it out.
    pub(super) fn set(&mut self, key: &DocumentKey, meaning: &Meaning, is_there: bool) {
        match meaning {
            Meaning::Route { parents, backends } => {
                for parent in parents {
                    self.routes_of.set(parent.clone(), key, is_there);
                }
                for backend in backends {
                    self.routes_to.set(backend.clone(), key, is_there);
                    if backend.namespace() != key.namespace() {
                        self.routes_into.set(backend.namespace().into(), key, is_there);
                    }
                }
            }
            Meaning::Policy { targets, .. } => {
                for target in targets {
                    self.policies_of.set(target.clone(), key, is_there);
                }
            }
            Meaning::Grant { .. } => self.grants_of.set(key.namespace().into(), key, is_there),
            Meaning::MeshConfig
            | Meaning::Service { .. }
            | Meaning::Workload { .. }
            | Meaning::ExternalService { .. } => {}
        }
    }

    /// The routes with this parent.
    pub(super) fn routes_of(&self, service: &DocumentKey) -> impl Iterator<Item = &DocumentKey> {
        self.routes_of.get(service)
    }

    /// The routes with this backend.
    pub(super) fn routes_to(&self, service: &DocumentKey) -> impl Iterator<Item = &DocumentKey> {
        self.routes_to.get(service)
    }

    /// The routes of other namespaces with backends in this one.
    pub(super) fn routes_into(&self, namespace: &str) -> impl Iterator<Item = &DocumentKey> {
        self.routes_into.get(namespace)
    }

    /// The policies with this target.
    pub(super) fn policies_of(&self, service: &DocumentKey) -> impl Iterator<Item = &DocumentKey> {
        self.policies_of.get(service)
    }

    /// The grants of a namespace.
    pub(super) fn grants_of(&self, namespace: &str) -> impl Iterator<Item = &DocumentKey> {
        self.grants_of.get(namespace)
    }
}
