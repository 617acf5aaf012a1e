//! Changes of documents that happen together: for the set that checks them, for the store, and for who asked.

use std::sync::Arc;

use bytes::Bytes;
use weft_proto::{
    document::Found,
    kinds::{DocumentKey, Kind},
    mesh_set::Change,
    parse::Parsed,
};

use super::{
    CatalogError, Changed, Condition, Operation, Origin, Revision, Stored, Transaction, age, audit, record,
};
use crate::fleet::Registered;

/// Where documents are.
pub(super) const PREFIX: &str = "docs/";

/// Of more documents at once, the audit has one entry for all.
const MAX_AUDITED: usize = 1_000;

/// Which document is at a path of the store.
pub(super) fn key_of(path: &str) -> Option<DocumentKey> {
    let mut parts = path.strip_prefix(PREFIX)?.splitn(3, '/');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    DocumentKey::new(Kind::from_name(kind)?, namespace, name).ok()
}

fn path_of(key: &DocumentKey) -> String {
    format!("{PREFIX}{}/{}/{}", key.kind(), key.namespace(), key.name())
}

/// What is to become of a document.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// It is to be so.
    Put {
        parsed: Arc<Parsed>,
        /// Compact.
        json: Bytes,
        origin: Origin,
    },
    /// It is to be gone.
    Remove(DocumentKey),
}

/// A document that was found in a source. Errors of the set call it by its key, and are placed afterwards.
pub(super) fn item(found: &Found<'_>) -> Item {
    let mut parsed = found.parsed.clone();
    parsed.source = parsed.key.to_string().into();
    Item::Put {
        parsed: Arc::new(parsed),
        json: Bytes::copy_from_slice(found.document.json.as_bytes()),
        origin: Origin::Document,
    }
}

/// See the module.
pub(super) struct Batch {
    items: Vec<Row>,
}

/// An item and what there was.
struct Row {
    item: Item,
    before: Option<Before>,
}

struct Before {
    stored: Stored,
    parsed: Arc<Parsed>,
}

impl Batch {
    /// Of documents, those that are new made now: what proxies registered is not theirs to change.
    pub(super) fn new(items: Vec<Item>, state: &super::State, now: i64) -> Result<Self, CatalogError> {
        let rows = items.into_iter().map(|item| {
            let mut row = Row::new(item, state);
            let before = row.before.as_ref().map(|before| &before.parsed.model);
            row.item = age::dated(row.item, before, now);
            match &row.before {
                Some(before) if before.stored.origin != Origin::Document => {
                    Err(CatalogError::Registered(row.item.key().clone()))
                }
                _ => Ok(row),
            }
        });
        Ok(Self {
            items: rows.collect::<Result<_, _>>()?,
        })
    }

    /// Of one registration.
    pub(super) fn of_fleet(item: Item, state: &super::State) -> Self {
        Self {
            items: vec![Row::new(item, state)],
        }
    }

    /// The documents that are put.
    pub(super) fn parsed(&self) -> impl Iterator<Item = &Arc<Parsed>> {
        self.items.iter().filter_map(|row| match &row.item {
            Item::Put { parsed, .. } => Some(parsed),
            Item::Remove(_) => None,
        })
    }

    /// Whether nothing would be different.
    pub(super) fn is_empty(&self) -> bool {
        self.items.iter().all(Row::is_unchanged)
    }

    /// For the set that checks them.
    pub(super) fn for_set(&self) -> Vec<Change> {
        let change = |row: &Row| match &row.item {
            Item::Put { parsed, .. } => Change::Put(parsed.clone()),
            Item::Remove(key) => Change::Remove(key.clone()),
        };
        self.items.iter().map(change).collect()
    }

    /// For the set: what takes it back.
    pub(super) fn undo(&self) -> Vec<Change> {
        let change = |row: &Row| match &row.before {
            Some(before) => Change::Put(before.parsed.clone()),
            None => Change::Remove(row.item.key().clone()),
        };
        self.items.iter().map(change).collect()
    }

    /// The documents that change, with an entry in the audit for each.
    pub(super) fn transaction(&self, who: &str, what: &str) -> Transaction {
        let mut transaction = Transaction::default();
        let changed = self.items.iter().filter(|row| !row.is_unchanged()).count();
        for row in self.items.iter().filter(|row| !row.is_unchanged()) {
            let key = row.item.key();
            row.write(&mut transaction, path_of(key), row.item.json());
            let before = row.before.as_ref().map_or(0, |before| before.stored.generation);
            let after = match row.item {
                Item::Put { .. } => before + 1,
                Item::Remove(_) => 0,
            };
            if changed > MAX_AUDITED {
                continue;
            }
            let audit = audit::Record::new(who, what, key.to_string()).generations(before, after);
            transaction.operations.push(audit.operation());
        }
        if changed > MAX_AUDITED {
            let audit = audit::Record::new(who, what, format!("{changed} documents"));
            transaction.operations.push(audit.operation());
        }
        transaction
    }

    /// The registration. Sidecars come and go by the hundred: that is logged, not audited.
    pub(super) fn fleet_transaction(&self, registered: Option<&Registered>) -> Transaction {
        let mut transaction = Transaction::default();
        for row in &self.items {
            let value = registered.map(|registered| record::Record::of(registered).to_bytes());
            row.write(&mut transaction, record::path_of(row.item.key()), value);
        }
        transaction
    }

    /// What became of each document, once it is durable by this revision.
    pub(super) fn outcome(&self, revision: Revision) -> Vec<Changed> {
        let changed = |row: &Row| {
            let before = row.before.as_ref().map(|before| before.stored.clone());
            let after = match &row.item {
                Item::Put { .. } if row.is_unchanged() => before.clone(),
                Item::Put { json, origin, .. } => Some(Stored {
                    json: json.clone(),
                    generation: before.as_ref().map_or(0, |before| before.generation) + 1,
                    revision,
                    origin: origin.clone(),
                }),
                Item::Remove(_) => None,
            };
            Changed {
                key: row.item.key().clone(),
                before,
                after,
            }
        };
        self.items.iter().map(changed).collect()
    }
}

impl Row {
    fn new(item: Item, state: &super::State) -> Self {
        let key = item.key();
        let before = state.documents.get(key).zip(state.set.get(key));
        let before = before.map(|(stored, parsed)| Before {
            stored: stored.clone(),
            parsed: parsed.clone(),
        });
        Self { item, before }
    }

    fn is_unchanged(&self) -> bool {
        match (&self.item, &self.before) {
            (Item::Put { json, origin, .. }, Some(before)) => {
                before.stored.json == *json && before.stored.origin == *origin
            }
            (Item::Remove(_), None) => true,
            (Item::Put { .. }, None) | (Item::Remove(_), Some(_)) => false,
        }
    }

    /// On the condition that nobody else has changed it since.
    fn write(&self, transaction: &mut Transaction, path: String, value: Option<Bytes>) {
        transaction.conditions.push(match &self.before {
            Some(before) => Condition::Unchanged(path.clone(), before.stored.revision),
            None => Condition::Absent(path.clone()),
        });
        transaction.operations.push(match value {
            Some(value) => Operation::Put(path, value),
            None => Operation::Delete(path),
        });
    }
}

impl Item {
    fn key(&self) -> &DocumentKey {
        match self {
            Self::Put { parsed, .. } => &parsed.key,
            Self::Remove(key) => key,
        }
    }

    fn json(&self) -> Option<Bytes> {
        match self {
            Self::Put { json, .. } => Some(json.clone()),
            Self::Remove(_) => None,
        }
    }
}
