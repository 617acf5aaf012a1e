//! The documents of the mesh: those that were applied, and the workloads that registered through their proxies.
//!
//! A change is checked against the whole, made durable with its entry in the audit, and only then acknowledged and
//! handed on to whoever plans for the proxies; in one order, that of revisions. What the store refuses has not happened.
//!
//! | store | what |
//! |---|---|
//! | `docs/KIND/NAMESPACE/NAME` | a document, compact JSON |
//! | `fleet/NAMESPACE/NAME` | a registered workload: [`Record`] |
//!
//! Routes and policies are stored with the moment at which they were made (`metadata.creationTimestamp`).

mod age;
mod batch;
mod change;
pub mod record;
mod standing;
mod stored;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::{Mutex, mpsc};
use weft_proto::{
    DocumentError, Source, TrustDomain,
    document::split,
    kinds::{DocumentKey, Kind},
    mesh_set::{self, MeshSet, Unserved},
    parse::{Model, parse_document},
};

use crate::{
    audit,
    fleet::{Registered, WriteError},
    push::Registrar,
    store::{CommitError, Condition, Operation, Revision, SharedStore, StoreError, Transaction},
    unix,
    world::Change,
};
use batch::{Batch, Item};
pub use change::{CatalogError, Changed, Outcome, Request};
use record::Record;
pub use stored::{Origin, Stored, key_of, stored};

/// The name of the MeshConfig that a new mesh begins with.
const FIRST_CONFIG: &str = "mesh";

/// All documents. See the module.
pub struct Catalog {
    store: SharedStore,
    trust_domain: TrustDomain,
    state: Mutex<State>,
    published: mpsc::UnboundedSender<Published>,
}

/// Changes to hand on, in the order of their revisions.
#[derive(Debug)]
pub struct Published {
    /// Of the store, with these changes.
    pub revision: u64,
    /// What became of which documents.
    pub changes: Vec<Change>,
}

/// A document among others.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Which.
    pub key: DocumentKey,
    /// As it is stored.
    pub stored: Stored,
    /// What became of it, in Kubernetes' form; `None` if it is of a kind of which there is nothing to say.
    pub status: Option<Value>,
}

struct State {
    set: MeshSet,
    documents: BTreeMap<DocumentKey, Stored>,
    revision: Revision,
}

impl Catalog {
    /// Reads what is stored, and begins with a MeshConfig if there is nothing. The first thing published is all of it.
    ///
    /// # Errors
    /// The store can't be read, or what is in it is not valid for this version.
    pub async fn open(
        store: SharedStore,
        trust_domain: TrustDomain,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Published>), CatalogError> {
        let listing = store.list("").await?;
        let mut state = State {
            set: MeshSet::new(),
            documents: BTreeMap::new(),
            revision: listing.revision,
        };
        let mut parsed = Vec::new();
        let mut errors = Vec::new();
        for entry in &listing.entries {
            match stored::read(entry) {
                Some(Ok((stored, document))) => {
                    state.documents.insert(document.key.clone(), stored);
                    parsed.push(mesh_set::Change::Put(Arc::new(document)));
                }
                Some(Err(found)) => errors.extend(found),
                None => {}
            }
        }
        if errors.is_empty()
            && let Err(found) = state.set.apply(parsed, Unserved::Report)
        {
            errors = found;
        }
        if !errors.is_empty() {
            return Err(CatalogError::Invalid(errors));
        }
        let (published, changes) = mpsc::unbounded_channel();
        let catalog = Self {
            store,
            trust_domain,
            state: Mutex::new(state),
            published,
        };
        catalog.publish_all().await;
        catalog.begin().await?;
        Ok((catalog, changes))
    }

    /// A mesh has a MeshConfig from its first moment.
    async fn begin(&self) -> Result<(), CatalogError> {
        if self.state.lock().await.set.config().is_some() {
            return Ok(());
        }
        let config = serde_json::json!({
            "apiVersion": Kind::MeshConfig.api_version(),
            "kind": Kind::MeshConfig.name(),
            "metadata": {"name": FIRST_CONFIG},
            "spec": {"trustDomain": self.trust_domain.as_str()},
        });
        let first = Source::new("the first MeshConfig", config.to_string());
        self.apply(&[first], &Request::by("controller")).await?;
        Ok(())
    }

    async fn publish_all(&self) {
        let state = self.state.lock().await;
        let changes = state.documents.iter().filter_map(|(key, stored)| {
            let document = stored.versioned(&state.set.get(key)?.model);
            Some(Change {
                key: key.clone(),
                document: Some(document),
            })
        });
        let _ = self.published.send(Published {
            revision: state.revision.0,
            changes: changes.collect(),
        });
    }

    /// Makes documents so, all of them or none. What is not in the sources stays.
    ///
    /// # Errors
    /// Nothing was changed: why.
    pub async fn apply(&self, sources: &[Source], request: &Request) -> Result<Outcome, CatalogError> {
        let found = split(sources, &request.namespace).map_err(CatalogError::Invalid)?;
        let items = found.iter().map(batch::item).collect();
        let placed = |error: DocumentError| {
            let found = found
                .iter()
                .find(|found| found.document.key.to_string() == error.file);
            match found {
                Some(found) => found.placed(error),
                None => error,
            }
        };
        match self.change(items, request, "apply").await {
            Err(CatalogError::Invalid(errors)) => {
                Err(CatalogError::Invalid(errors.into_iter().map(placed).collect()))
            }
            Ok(mut outcome) => {
                outcome.warnings = outcome.warnings.into_iter().map(placed).collect();
                Ok(outcome)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes documents, all of them or none.
    ///
    /// # Errors
    /// Nothing was changed: why.
    pub async fn delete(
        &self,
        keys: Vec<DocumentKey>,
        ignore_missing: bool,
        request: &Request,
    ) -> Result<Outcome, CatalogError> {
        let mut items = Vec::new();
        let state = self.state.lock().await;
        for key in keys {
            match state.documents.contains_key(&key) {
                true => items.push(Item::Remove(key)),
                false if ignore_missing => {}
                false => return Err(CatalogError::Missing(key)),
            }
        }
        drop(state);
        self.change(items, request, "delete").await
    }

    async fn change(&self, items: Vec<Item>, request: &Request, what: &str) -> Result<Outcome, CatalogError> {
        let mut state = self.state.lock().await;
        for (key, expected) in &request.expected {
            let generation = state.documents.get(key).map_or(0, |stored| stored.generation);
            if generation != *expected {
                return Err(CatalogError::Conflict(key.clone(), generation, *expected));
            }
        }
        let now = unix::seconds(SystemTime::now());
        let batch = Batch::new(items, &state, i64::try_from(now).unwrap_or(i64::MAX))?;
        self.check_trust_domain(&batch)?;
        let applied = state
            .set
            .apply(batch.for_set(), Unserved::Report)
            .map_err(CatalogError::Invalid)?;
        let mut warnings = applied.unserved;
        warnings.extend(
            batch
                .parsed()
                .flat_map(|parsed| standing::warnings(&state.set, parsed)),
        );
        if request.dry_run || batch.is_empty() {
            let changes = batch.outcome(Revision(state.revision.0 + 1));
            state.undo(&batch);
            return Ok(Outcome {
                changes,
                revision: state.revision.0,
                warnings,
            });
        }
        let revision = match self.store.commit(batch.transaction(&request.who, what)).await {
            Ok(revision) => revision,
            Err(error) => {
                state.undo(&batch);
                return Err(match error {
                    CommitError::Store(error) => error.into(),
                    CommitError::Conflict(condition) => StoreError::Io(format!(
                        "another controller changed it at the same time ({condition:?}): try again"
                    ))
                    .into(),
                });
            }
        };
        let changes = batch.outcome(revision);
        self.commit(&mut state, revision, &changes);
        Ok(Outcome {
            changes,
            revision: revision.0,
            warnings,
        })
    }

    /// Takes over what is durable, and hands it on.
    fn commit(&self, state: &mut State, revision: Revision, changes: &[Changed]) {
        state.revision = revision;
        let mut published = Vec::new();
        for Changed { key, after, before } in changes {
            if after == before {
                continue;
            }
            let document = after.as_ref().and_then(|after| {
                state.documents.insert(key.clone(), after.clone());
                Some(after.versioned(&state.set.get(key)?.model))
            });
            if after.is_none() {
                state.documents.remove(key);
            }
            published.push(Change {
                key: key.clone(),
                document,
            });
        }
        let _ = self.published.send(Published {
            revision: revision.0,
            changes: published,
        });
    }

    /// Identities are made of the trust domain: another one would make all of them strangers.
    fn check_trust_domain(&self, batch: &Batch) -> Result<(), CatalogError> {
        let strangers = batch.parsed().filter_map(|parsed| match &parsed.model {
            Model::MeshConfig(config) if config.trust_domain != self.trust_domain => Some(DocumentError {
                file: parsed.source.to_string(),
                line: 0,
                column: 0,
                path: "spec.trustDomain".to_owned(),
                message: format!(
                    "{} is not that of this controller's certificate authority, {}: it can't be changed",
                    config.trust_domain, self.trust_domain
                ),
            }),
            _ => None,
        });
        let strangers: Vec<DocumentError> = strangers.collect();
        match strangers.is_empty() {
            true => Ok(()),
            false => Err(CatalogError::Invalid(strangers)),
        }
    }

    /// Writes or removes what a proxy registered.
    ///
    /// # Errors
    /// It may not be, with the reason; or it can't be now.
    async fn write(&self, key: &DocumentKey, registered: Option<&Registered>) -> Result<(), WriteError> {
        let mut state = self.state.lock().await;
        if let Some(stored) = state.documents.get(key)
            && stored.origin == Origin::Document
        {
            return match registered {
                Some(_) => Err(WriteError::Refused(format!(
                    "{key} is a document: delete it (weft delete), or give the proxy another name"
                ))),
                None => Ok(()),
            };
        }
        let item = match registered {
            Some(registered) => registration(key, registered)?,
            None => Item::Remove(key.clone()),
        };
        let batch = Batch::of_fleet(item, &state);
        let refused = |errors: Vec<DocumentError>| {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            WriteError::Refused(errors.join("; "))
        };
        state
            .set
            .apply(batch.for_set(), Unserved::Report)
            .map_err(refused)?;
        match self.store.commit(batch.fleet_transaction(registered)).await {
            Ok(revision) => {
                let changes = batch.outcome(revision);
                self.commit(&mut state, revision, &changes);
                Ok(())
            }
            Err(error) => {
                state.undo(&batch);
                Err(WriteError::Unavailable(error.to_string()))
            }
        }
    }

    /// What registered before this controller started.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn registered(&self) -> Result<Vec<(DocumentKey, Registered)>, StoreError> {
        let listing = self.store.list(record::PREFIX).await?;
        let records = listing.entries.iter().filter_map(|entry| {
            let key = record::key_of(&entry.key)?;
            Some((key, Record::read(&entry.value)?.registered()?))
        });
        Ok(records.collect())
    }

    /// A document.
    pub async fn get(&self, key: &DocumentKey) -> Option<Stored> {
        self.state.lock().await.documents.get(key).cloned()
    }

    /// All documents for which `wanted` holds, in the order of their keys, and the revision.
    pub async fn list(&self, mut wanted: impl FnMut(&DocumentKey, &Model) -> bool) -> (Vec<Listed>, u64) {
        let state = self.state.lock().await;
        let documents = state.documents.iter().filter_map(|(key, stored)| {
            let model = &state.set.get(key)?.model;
            wanted(key, model).then(|| Listed {
                key: key.clone(),
                stored: stored.clone(),
                status: standing::status(&state.set, model),
            })
        });
        (documents.collect(), state.revision.0)
    }

    /// What became of a document, in Kubernetes' form; `None` if it is of a kind of which there is nothing to say.
    pub async fn status(&self, key: &DocumentKey) -> Option<Value> {
        let state = self.state.lock().await;
        standing::status(&state.set, &state.set.get(key)?.model)
    }

    /// Something that is read of all documents at one moment.
    pub async fn with_set<T>(&self, look: impl FnOnce(&MeshSet) -> T) -> T {
        look(&self.state.lock().await.set)
    }
}

impl State {
    /// Takes back what the set was told and the store did not take.
    fn undo(&mut self, batch: &Batch) {
        // What there was is consistent: it was before.
        if let Err(errors) = self.set.apply(batch.undo(), Unserved::Report) {
            tracing::error!(
                ?errors,
                "a change could not be taken back: restart this controller"
            );
        }
    }
}

/// What a proxy says of its workload, as it would be stored.
fn registration(key: &DocumentKey, registered: &Registered) -> Result<Item, WriteError> {
    let text = String::from_utf8_lossy(&registered.document).into_owned();
    let parsed = parse_document(&Source::new(key.to_string(), text)).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        WriteError::Refused(errors.join("; "))
    })?;
    if parsed.key != *key {
        return Err(WriteError::Refused(format!(
            "{key} can't register {}",
            parsed.key
        )));
    }
    Ok(Item::Put {
        parsed: Arc::new(parsed),
        json: registered.document.clone(),
        origin: Origin::Proxy {
            readiness: registered.readiness,
        },
    })
}

impl Registrar for Arc<Catalog> {
    fn register(
        &self,
        key: DocumentKey,
        registered: Registered,
    ) -> BoxFuture<'static, Result<(), WriteError>> {
        let catalog = self.clone();
        Box::pin(async move { catalog.write(&key, Some(&registered)).await })
    }

    fn deregister(&self, key: DocumentKey) -> BoxFuture<'static, Result<(), WriteError>> {
        let catalog = self.clone();
        Box::pin(async move { catalog.write(&key, None).await })
    }
}
