//! Who changed what, when, from which generation: written in the same transaction as the change.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use serde::{Deserialize, Serialize};
use weft_proto::mesh::v1::AuditEntry;

use crate::{
    store::{Entry, Operation, Store, StoreError},
    unix::now_ms,
};

/// Where entries are.
pub const PREFIX: &str = "audit/";
/// The most entries that are kept: the oldest go.
const KEPT: usize = 10_000;
/// How many more there may be before some go.
const SLACK: usize = 500;
/// The most bytes of a detail.
const MAX_DETAIL: usize = 1_000;

/// A change, as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// A SPIFFE ID, or `controller`.
    pub who: String,
    /// Such as `apply`, `delete`, `token.create`, `ca.rotate`.
    pub what: String,
    /// Such as `Service default/web`.
    pub target: String,
    /// The generation before; 0: there was none.
    pub from_generation: u64,
    /// The generation after; 0: it is gone.
    pub to_generation: u64,
    /// More, for people; never a secret.
    pub detail: String,
}

impl Record {
    /// What `who` does to `target`, now.
    pub fn new(who: &str, what: &str, target: impl Into<String>) -> Self {
        Self {
            at_ms: now_ms(),
            who: who.to_owned(),
            what: what.to_owned(),
            target: target.into(),
            ..Self::default()
        }
    }

    /// With generations.
    #[must_use]
    pub fn generations(self, from: u64, to: u64) -> Self {
        Self {
            from_generation: from,
            to_generation: to,
            ..self
        }
    }

    /// With more for people; what is too long is cut.
    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        let end = (0..=MAX_DETAIL.min(detail.len()))
            .rev()
            .find(|end| detail.is_char_boundary(*end));
        detail.truncate(end.unwrap_or(0));
        Self { detail, ..self }
    }

    /// The write of it, for the transaction of the change.
    pub fn operation(&self) -> Operation {
        static SEQUENCE: AtomicU32 = AtomicU32::new(0);
        // In the order of time, and never twice: a counter tells apart what falls into one millisecond.
        let sequence = SEQUENCE.fetch_add(1, Relaxed);
        let key = format!(
            "{PREFIX}{:016x}-{sequence:08x}-{:04x}",
            self.at_ms,
            rand::random::<u16>()
        );
        Operation::Put(key, serde_json::to_vec(self).unwrap_or_default().into())
    }
}

/// The last entries, at most `limit`, newest last.
///
/// # Errors
/// The store can't be read.
pub async fn last(
    store: &dyn Store,
    limit: usize,
    after_revision: u64,
) -> Result<Vec<AuditEntry>, StoreError> {
    let listing = store.list(PREFIX).await?;
    let after = listing
        .entries
        .iter()
        .filter(|entry| entry.modified.0 > after_revision);
    let mut entries: Vec<AuditEntry> = after.rev().take(limit).filter_map(show).collect();
    entries.reverse();
    Ok(entries)
}

/// Removes the oldest when there are too many.
///
/// # Errors
/// The store can't be read or written.
pub async fn prune(store: &dyn Store) -> Result<usize, crate::store::CommitError> {
    let listing = store.list(PREFIX).await?;
    let count = listing.entries.len();
    if count <= KEPT + SLACK {
        return Ok(0);
    }
    let oldest = listing.entries.into_iter().take(count - KEPT);
    let transaction = crate::store::Transaction {
        conditions: Vec::new(),
        operations: oldest.map(|entry| Operation::Delete(entry.key)).collect(),
    };
    store.commit(transaction).await?;
    Ok(count - KEPT)
}

fn show(entry: &Entry) -> Option<AuditEntry> {
    let record: Record = serde_json::from_slice(&entry.value).ok()?;
    Some(AuditEntry {
        revision: entry.modified.0,
        at_ms: record.at_ms,
        who: record.who,
        what: record.what,
        target: record.target,
        from_generation: record.from_generation,
        to_generation: record.to_generation,
        detail: record.detail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_time_and_never_the_same() {
        let keys: Vec<String> = (0..100)
            .map(|at_ms| {
                let record = Record {
                    at_ms,
                    ..Record::new("x", "apply", "y")
                };
                match record.operation() {
                    Operation::Put(key, _) => key,
                    Operation::Delete(_) => panic!(),
                }
            })
            .collect();
        assert!(keys.is_sorted() && keys.iter().all(|key| key.starts_with(PREFIX)));
        let mut unique = keys.clone();
        unique.dedup();
        assert_eq!(unique, keys);
    }

    #[test]
    fn a_detail_is_cut_between_characters() {
        let record = Record::new("x", "apply", "y").detail("\u{e9}".repeat(1_000));
        assert_eq!(record.detail, "\u{e9}".repeat(MAX_DETAIL / 2));
    }
}
