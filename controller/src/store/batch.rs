//! Transactions that are made durable together: what each of them does, decided one after the other.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Changes, Condition, Entry, Event, Operation, Revision, Transaction};

/// What is kept of a key, besides the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) value: Bytes,
    pub(super) created: Revision,
    pub(super) modified: Revision,
    pub(super) generation: u64,
}

/// All keys and what is there.
pub(super) type Records = BTreeMap<String, Record>;

/// What the transactions of a group change together. Each sees what those before it did.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    /// What is durable.
    base: &'a Records,
    revision: Revision,
    /// What becomes of the keys in the end; none: removed.
    writes: BTreeMap<String, Option<Record>>,
    changes: Vec<Changes>,
}

/// What is left of a batch: to be made durable, then to be shown.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// Of the last transaction.
    pub(super) revision: Revision,
    /// What becomes of the keys; none: removed.
    pub(super) writes: BTreeMap<String, Option<Record>>,
    /// A revision each.
    pub(super) changes: Vec<Changes>,
}

impl Record {
    /// With its key.
    pub(super) fn entry(&self, key: &str) -> Entry {
        Entry {
            key: key.to_owned(),
            value: self.value.clone(),
            created: self.created,
            modified: self.modified,
            generation: self.generation,
        }
    }
}

impl<'a> Batch<'a> {
    /// Begins with what is durable, as of a revision.
    pub(super) fn new(base: &'a Records, revision: Revision) -> Self {
        Self {
            base,
            revision,
            writes: BTreeMap::new(),
            changes: Vec::new(),
        }
    }

    /// Does one more transaction, or nothing and returns the condition that does not hold.
    pub(super) fn apply(&mut self, transaction: Transaction) -> Result<Revision, Condition> {
        if let Some(failed) = transaction
            .conditions
            .iter()
            .find(|condition| !self.holds(condition))
        {
            return Err(failed.clone());
        }
        let revision = Revision(self.revision.0 + 1);
        let mut events = Vec::with_capacity(transaction.operations.len());
        for operation in transaction.operations {
            match operation {
                Operation::Put(key, value) => {
                    let record = self.put(&key, value, revision);
                    events.push(Event::Put(record.entry(&key)));
                    self.writes.insert(key, Some(record));
                }
                Operation::Delete(key) => {
                    if self.get(&key).is_some() {
                        self.writes.insert(key.clone(), None);
                        events.push(Event::Deleted { key, revision });
                    }
                }
            }
        }
        if !events.is_empty() {
            self.revision = revision;
            self.changes.push(Changes { revision, events });
        }
        Ok(self.revision)
    }

    /// What is to be done for all of them.
    pub(super) fn decided(self) -> Decided {
        Decided {
            revision: self.revision,
            writes: self.writes,
            changes: self.changes,
        }
    }

    fn get(&self, key: &str) -> Option<&Record> {
        match self.writes.get(key) {
            Some(written) => written.as_ref(),
            None => self.base.get(key),
        }
    }

    fn holds(&self, condition: &Condition) -> bool {
        let record = self.get(condition.key());
        match condition {
            Condition::Absent(_) => record.is_none(),
            Condition::Unchanged(_, revision) => record.is_some_and(|record| record.modified == *revision),
            Condition::Generation(_, generation) => {
                record.is_some_and(|record| record.generation == *generation)
            }
        }
    }

    fn put(&self, key: &str, value: Bytes, revision: Revision) -> Record {
        let (created, generation) = match self.get(key) {
            Some(record) => (record.created, record.generation + 1),
            None => (revision, 1),
        };
        Record {
            value,
            created,
            modified: revision,
            generation,
        }
    }
}
