//! What this proxy has from the controller: resources by key and version, and the mesh that they make. No I/O.
//!
//! An update is taken whole or not at all. Everything in it is read as strictly as an operator's file, and all that is
//! wrong is reported at once, by document and field; what was there before then stays as it was.

use std::collections::{BTreeMap, HashSet};

use rustc_hash::FxHashSet;
use weft_proto::{
    DocumentError, Source, TrustDomain,
    kinds::{DocumentKey, Kind},
    mesh::v1 as mesh,
    mesh_set::{Change, MeshSet, Unserved},
    model::{Mesh, Name},
    parse::{Model, Parsed, parse_document},
    wire::{Digest, check_features},
};

use crate::compile::Unready;

/// The most problems that are told of one update.
const MAX_PROBLEMS: usize = 100;
/// The largest document. A Service has a few hundred bytes, a MeshConfig with many ranges some thousands.
const MAX_DOCUMENT_BYTES: usize = 1 << 20;

/// The resources in use.
#[derive(Debug)]
pub(crate) struct Holdings {
    trust_domain: TrustDomain,
    set: MeshSet,
    held: BTreeMap<DocumentKey, Held>,
    digest: Digest,
    /// Which controller's versions they are; versions of another are not comparable.
    controller: String,
}

#[derive(Clone, Debug)]
struct Held {
    version: u64,
    /// Whose version that is.
    controller: String,
    /// As it came, for the cache.
    resource: mesh::Resource,
}

/// What there is to compile.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) mesh: Mesh,
    pub(crate) unready: Unready,
}

/// An update that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Whether now is held what the controller believes.
    pub(crate) agrees: bool,
    /// Whether anything changed.
    pub(crate) changed: bool,
}

impl Holdings {
    /// None yet, for a proxy of this trust domain.
    pub(crate) fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            set: MeshSet::new(),
            held: BTreeMap::new(),
            digest: Digest::default(),
            controller: String::new(),
        }
    }

    /// From now on updates are from this controller.
    pub(crate) fn on_welcome(&mut self, controller: &str) {
        controller.clone_into(&mut self.controller);
    }

    /// Takes an update.
    ///
    /// # Errors
    /// All that is wrong with it. Nothing has changed then.
    pub(crate) fn on_update(&mut self, update: &mesh::Update) -> Result<Taken, Vec<mesh::Problem>> {
        let staged = self.stage(update)?;
        let removals = self.removals(update, &staged)?;
        self.check_config(&staged, &removals)?;
        let changed = !(staged.is_empty() && removals.is_empty());
        let put = staged.iter().map(|staged| Change::Put(staged.parsed.clone()));
        let remove = removals.iter().map(|key| Change::Remove(key.clone()));
        // Workloads come and go one by one: that a port of a service has none now is no mistake.
        self.set
            .apply(put.chain(remove), Unserved::Report)
            .map_err(problems)?;
        for key in &removals {
            self.forget(key);
        }
        for staged in staged {
            self.forget(&staged.parsed.key);
            self.digest.add(&staged.parsed.key, staged.resource.version);
            let held = Held {
                version: staged.resource.version,
                controller: self.controller.clone(),
                resource: staged.resource,
            };
            self.held.insert(staged.parsed.key.clone(), held);
        }
        let agrees = update.digest.is_empty() || self.is_same(&update.digest);
        Ok(Taken { agrees, changed })
    }

    /// Whether a digest is that of what is held.
    pub(crate) fn is_same(&self, digest: &[u8]) -> bool {
        digest == self.digest.to_bytes()
    }

    /// What is held, for the beginning of a stream.
    pub(crate) fn held(&self) -> Vec<mesh::Held> {
        let held = self.held.iter().map(|(key, held)| mesh::Held {
            key: Some(key_message(key)),
            version: held.version,
        });
        held.collect()
    }

    /// How many resources there are.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Everything as one update, for the cache.
    pub(crate) fn whole(&self) -> mesh::Update {
        mesh::Update {
            is_whole: true,
            changed: self.held.values().map(|held| held.resource.clone()).collect(),
            ..mesh::Update::default()
        }
    }

    /// What there is to compile; `None` before the settings of the mesh are there.
    pub(crate) fn view(&self) -> Option<View> {
        let unready = self.held.iter().filter_map(|(key, held)| {
            let is_ready = !matches!(
                held.resource.readiness(),
                mesh::Readiness::NotReady | mesh::Readiness::Draining
            );
            (key.kind() == Kind::Workload && !is_ready).then(|| key.namespaced_name())?
        });
        Some(View {
            unready: unready.collect::<FxHashSet<Name>>(),
            mesh: self.set.mesh()?,
        })
    }

    /// How a workload is, as far as this proxy was told.
    pub(crate) fn readiness(&self, key: &DocumentKey) -> Option<mesh::Readiness> {
        self.held.get(key).map(|held| held.resource.readiness())
    }

    fn forget(&mut self, key: &DocumentKey) {
        if let Some(before) = self.held.remove(key) {
            self.digest.remove(key, before.version);
        }
    }

    /// Reads all resources of an update.
    fn stage(&self, update: &mesh::Update) -> Result<Vec<Staged>, Vec<mesh::Problem>> {
        let (mut staged, mut found) = (Vec::with_capacity(update.changed.len()), Vec::new());
        for resource in &update.changed {
            match self.read(resource) {
                Ok(parsed) => staged.push(Staged {
                    parsed: parsed.into(),
                    resource: resource.clone(),
                }),
                Err(more) => found.extend(more),
            }
        }
        if found.is_empty() {
            return Ok(staged);
        }
        found.truncate(MAX_PROBLEMS);
        Err(found)
    }

    fn read(&self, resource: &mesh::Resource) -> Result<Parsed, Vec<mesh::Problem>> {
        let key = resource.key.as_ref().ok_or_else(|| one("", "key", "missing"))?;
        let key = read_key(key)?;
        let name = key.to_string();
        if let Err(feature) = check_features(resource.requires.iter().map(String::as_str)) {
            let feature: String = feature.chars().take(64).collect();
            let message =
                format!("this proxy lacks {feature:?}, without which it would misread the resource");
            return Err(one(&name, "requires", &message));
        }
        if let Some(held) = self.held.get(&key)
            && held.controller == self.controller
            && resource.version < held.version
        {
            let message = format!("goes back, from {} to {}", held.version, resource.version);
            return Err(one(&name, "version", &message));
        }
        if resource.document.len() > MAX_DOCUMENT_BYTES {
            return Err(one(&name, "", "the document is larger than 1 MiB"));
        }
        let text = std::str::from_utf8(&resource.document)
            .map_err(|_| one(&name, "", "the document is not UTF-8"))?;
        let parsed = parse_document(&Source::new(name.clone(), text)).map_err(problems)?;
        if parsed.key != key {
            let message = format!("the document calls itself {}", parsed.key);
            return Err(one(&name, "metadata", &message));
        }
        if let Model::MeshConfig(config) = &parsed.model
            && config.trust_domain != self.trust_domain
        {
            let message = format!(
                "{} is not the trust domain of this proxy's certificate, {}",
                config.trust_domain, self.trust_domain
            );
            return Err(one(&name, "spec.trustDomain", &message));
        }
        Ok(parsed)
    }

    /// What goes. Of a whole update that is all that it does not have.
    fn removals(
        &self,
        update: &mesh::Update,
        staged: &[Staged],
    ) -> Result<Vec<DocumentKey>, Vec<mesh::Problem>> {
        let mut removals = Vec::new();
        for key in &update.removed {
            let key = read_key(key)?;
            if self.held.contains_key(&key) {
                removals.push(key);
            }
        }
        if update.is_whole {
            let kept: HashSet<&DocumentKey> = staged.iter().map(|staged| &staged.parsed.key).collect();
            removals = self
                .held
                .keys()
                .filter(|key| !kept.contains(key))
                .cloned()
                .collect();
        }
        Ok(removals)
    }

    /// The settings of a mesh are replaced, and never taken away: without them everything would have to be refused, and
    /// an empty list is no order to forget everything.
    fn check_config(&self, staged: &[Staged], removals: &[DocumentKey]) -> Result<(), Vec<mesh::Problem>> {
        let is_config = |key: &DocumentKey| key.kind() == Kind::MeshConfig;
        let has_new = staged.iter().any(|staged| is_config(&staged.parsed.key));
        let removed = removals.iter().find(|key| is_config(key));
        match removed {
            Some(key) if !has_new => Err(one(
                &key.to_string(),
                "",
                "is to be removed, and a mesh has its settings: the last good configuration stays",
            )),
            Some(_) | None => Ok(()),
        }
    }
}

/// A resource that was read.
struct Staged {
    parsed: std::sync::Arc<Parsed>,
    resource: mesh::Resource,
}

/// A key as a message has it.
pub(crate) fn key_message(key: &DocumentKey) -> mesh::ResourceKey {
    mesh::ResourceKey {
        kind: key.kind().name().to_owned(),
        namespace: key.namespace().to_owned(),
        name: key.name().to_owned(),
    }
}

fn read_key(key: &mesh::ResourceKey) -> Result<DocumentKey, Vec<mesh::Problem>> {
    let shown = |text: &str| text.chars().take(64).collect::<String>();
    let named = format!(
        "{} {}/{}",
        shown(&key.kind),
        shown(&key.namespace),
        shown(&key.name)
    );
    let kind = Kind::from_name(&key.kind)
        .ok_or_else(|| one(&named, "kind", "is no kind of resource that this proxy knows"))?;
    DocumentKey::new(kind, &key.namespace, &key.name).map_err(|error| one(&named, "key", &error.to_string()))
}

fn one(document: &str, field: &str, message: &str) -> Vec<mesh::Problem> {
    vec![mesh::Problem {
        document: document.to_owned(),
        line: 0,
        field: field.to_owned(),
        message: message.to_owned(),
    }]
}

fn problems(errors: Vec<DocumentError>) -> Vec<mesh::Problem> {
    let problems = errors.into_iter().take(MAX_PROBLEMS).map(|error| mesh::Problem {
        document: error.file,
        // JSON in one line has no lines worth telling.
        line: 0,
        field: error.path,
        message: error.message,
    });
    problems.collect()
}

#[cfg(test)]
mod tests;
