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

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

/// Counts the transactions of a store, from 1. It never goes back.
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
    /// How often it was written since it was made, from 1: a document's generation.
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
    /// It could not be made durable. Nothing was changed; later ones may succeed.
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
}

/// Keys and values with a history. Cheap to share.
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, StoreError>>;

    /// All whose key begins so, as of one revision.
    fn list(&self, prefix: &str) -> BoxFuture<'_, Result<Listing, StoreError>>;

    /// Happens whole and durable, or not at all.
    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Revision, CommitError>>;

    /// All changes of keys that begin so after a revision, in order, none left out. A watcher that does not keep up
    /// is ended, and lists anew.
    fn watch(&self, prefix: &str, after: Revision) -> Result<mpsc::Receiver<Changes>, StoreError>;

    /// The last revision.
    fn revision(&self) -> Revision;
}

/// A store of whatever kind.
pub type SharedStore = Arc<dyn Store>;
