//! Where the controller keeps what must survive it: keys and values, changed in transactions.
//!
//! Everything is in one history of revisions. A transaction that is acknowledged is durable, and is seen whole or not
//! at all. The shape is that of etcd, which is to be another implementation for replicas.
//!
//! | keys | what |
//! |---|---|
//! | `docs/KIND/NAMESPACE/NAME` | a document as it was applied; NAMESPACE is empty for kinds without |
//! | `fleet/NAMESPACE/NAME` | a workload that registered through its proxy |
//! | `tokens/ID` | a join token, hashed |
//! | `ledger/HOLDER/SERIAL` | a leaf that was issued |
//! | `trust/state` | the step of the rotation of the root |
//! | `audit/REVISION` | what was changed by whom |
//! | `meta/...` | the trust domain, the format |
//!
//! No private key is ever in it.

pub mod redb;

mod batch;
#[cfg(test)]
pub(crate) mod conformance;
mod contents;
#[cfg(test)]
mod damage;
mod disk;
#[cfg(test)]
mod exchange;
mod export;
mod failure;
#[cfg(test)]
mod faults;
mod medium;
#[cfg(test)]
mod model;
#[cfg(test)]
mod power_loss;
#[cfg(test)]
mod sim;
mod writer;

pub use export::Exported;

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

/// The longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// The largest value, in bytes: a document is at most this.
pub const MAX_VALUE: usize = 1 << 20;
/// The largest transaction: keys and values together, in bytes. A server of etcd is to be run with `--max-request-bytes`
/// above it.
pub const MAX_TRANSACTION: usize = 8 << 20;
/// The most operations in a transaction. A server of etcd is to be run with `--max-txn-ops` of it.
pub const MAX_OPERATIONS: usize = 10_000;

/// Counts the transactions of a store that changed something, from 1. It never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// A value and its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// What is there.
    pub value: Bytes,
    /// When it was made.
    pub created: Revision,
    /// When it was last changed.
    pub modified: Revision,
    /// How often it was written since it was made, from 1: a document's generation. It begins anew after a removal.
    pub generation: u64,
}

/// What must hold for a transaction to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is no such key.
    Absent(String),
    /// The key is there and was last written by this revision.
    Unchanged(String, Revision),
    /// The key is there in this generation.
    Generation(String, u64),
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes a key, new or not.
    Put(String, Bytes),
    /// Removes a key; none is there: nothing happens.
    Delete(String),
}

/// Conditions and changes: all or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// No key is in it twice.
    pub operations: Vec<Operation>,
}

impl Transaction {
    /// One that changes nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a condition more.
    #[must_use]
    pub fn when(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// Also writes a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.operations.push(Operation::Put(key.into(), value.into()));
        self
    }

    /// Also removes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.operations.push(Operation::Delete(key.into()));
        self
    }

    /// The bytes of its keys and values.
    #[must_use]
    pub fn size(&self) -> usize {
        let conditions = self.conditions.iter().map(|condition| condition.key().len());
        let operations = self.operations.iter().map(|operation| match operation {
            Operation::Put(key, value) => key.len() + value.len(),
            Operation::Delete(key) => key.len(),
        });
        conditions.chain(operations).sum()
    }

    /// Whether a store takes it: every store asks this first.
    ///
    /// # Errors
    /// `TooLarge`, and `Invalid` for an empty key or one that is changed twice.
    pub fn check(&self) -> Result<(), StoreError> {
        let mut keys = HashSet::new();
        for operation in &self.operations {
            let (key, value) = match operation {
                Operation::Put(key, value) => (key, value.len()),
                Operation::Delete(key) => (key, 0),
            };
            check_sizes(key, value)?;
            if !keys.insert(key) {
                return Err(StoreError::Invalid(format!(
                    "{key} is changed twice in one transaction"
                )));
            }
        }
        for condition in &self.conditions {
            check_sizes(condition.key(), 0)?;
        }
        if self.operations.len() + self.conditions.len() > MAX_OPERATIONS {
            let text = format!("more than {MAX_OPERATIONS} operations and conditions in one transaction");
            return Err(StoreError::TooLarge(text));
        }
        if self.size() > MAX_TRANSACTION {
            let text = format!(
                "a transaction of {} bytes: at most {MAX_TRANSACTION}",
                self.size()
            );
            return Err(StoreError::TooLarge(text));
        }
        Ok(())
    }
}

impl Condition {
    /// The key that it is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::Unchanged(key, _) | Self::Generation(key, _) => key,
        }
    }
}

/// Whether a key and its value may be in a store.
fn check_sizes(key: &str, value: usize) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::Invalid("an empty key".into()));
    }
    if key.len() > MAX_KEY {
        let text = format!("a key of {} bytes: at most {MAX_KEY}", key.len());
        return Err(StoreError::TooLarge(text));
    }
    if value > MAX_VALUE {
        let text = format!("the value of {key} has {value} bytes: at most {MAX_VALUE}");
        return Err(StoreError::TooLarge(text));
    }
    Ok(())
}

/// What a listing found, as of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// Of the store.
    pub revision: Revision,
}

/// A change that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key was written.
    Put(Entry),
    /// A key was removed.
    Deleted {
        /// Which.
        key: String,
        /// By which transaction.
        revision: Revision,
    },
}

/// The changes of one revision that a watcher asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Which revision.
    pub revision: Revision,
    /// In the order of the transaction. Never empty.
    pub events: Vec<Event>,
}

/// Why a transaction did not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// A condition does not hold. Nothing was changed.
    #[error("{0:?} does not hold")]
    Conflict(Condition),
    /// It could not be made durable, and nothing that is read shows it; later ones may succeed. Only if the process
    /// ends before the store has recovered may it be found done after all.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is wrong with a store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is damaged, or none of ours.
    #[error("{0}")]
    Damaged(String),
    /// The file was written by a newer version.
    #[error("{0}")]
    Newer(String),
    /// Another process has it open.
    #[error("{0}")]
    Locked(String),
    /// Reading or writing failed, such as for want of space.
    #[error("{0}")]
    Io(String),
    /// The changes after that revision are not kept any more: list, and watch from there.
    #[error("the changes after revision {} are not kept any more", .0.0)]
    Compacted(Revision),
    /// Larger than a store takes.
    #[error("{0}")]
    TooLarge(String),
    /// A transaction that makes no sense, such as one with a key twice.
    #[error("{0}")]
    Invalid(String),
    /// The store was closed.
    #[error("the store was closed")]
    Closed,
}

/// Keys and values with a history. Cheap to share.
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, StoreError>>;

    /// All whose key begins so, as of one revision.
    fn list(&self, prefix: &str) -> BoxFuture<'_, Result<Listing, StoreError>>;

    /// Happens whole and durable, or not at all. One that changes nothing, as its conditions hold but it has no
    /// operations or removes what is not there, makes no new revision and returns the last. It may happen even if the
    /// future is dropped.
    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Revision, CommitError>>;

    /// All changes of keys that begin so after a revision, in order, none left out. A watcher that does not keep up
    /// is ended, as is every one when the store is closed, and lists anew.
    ///
    /// `Compacted` is returned for a revision whose successors are not kept any more, and for one that is still to
    /// come: it was seen in another store.
    fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<Changes>, StoreError>>;

    /// The last revision that is seen by reads.
    fn revision(&self) -> Revision;
}

/// A store of whatever kind.
pub type SharedStore = Arc<dyn Store>;
