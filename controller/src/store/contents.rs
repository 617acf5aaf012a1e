//! All that is in a store, in memory: what reads and watches are served from, whatever becomes of the disk.
//!
//! The contents of a mesh are small (a document is a kilobyte or so), and a read must neither wait for the disk nor fail
//! with it. A transaction comes in here when it is durable, so what is read was acknowledged or is about to be.

use std::{
    collections::VecDeque,
    ops::Bound,
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use tokio::sync::mpsc;

use super::{
    Changes, Entry, Event, Listing, Revision, StoreError,
    batch::{Decided, Record, Records},
};

/// The changes that wait for one watcher beyond those it asked for from the past. More is a watcher that does not keep
/// up; listing anew is then less work for it.
const WATCH_CAPACITY: usize = 1024;
/// The bytes of values that the past may hold which are not there any more otherwise.
const HISTORY_BYTES: usize = 16 << 20;

/// What is in a store. The lock is held for moments only: never while something is written to disk.
#[derive(Debug)]
pub(super) struct Contents(RwLock<State>);

/// As of one revision.
#[derive(Debug)]
pub(super) struct State {
    pub(super) records: Records,
    pub(super) revision: Revision,
    history: History,
    watchers: Vec<Watcher>,
    closed: bool,
}

/// The last changes, without a gap.
#[derive(Debug)]
struct History {
    changes: VecDeque<Changes>,
    bytes: usize,
    /// How many revisions are kept.
    limit: usize,
    /// All changes after this one are here.
    floor: Revision,
}

#[derive(Debug)]
struct Watcher {
    prefix: String,
    sender: mpsc::Sender<Changes>,
}

impl Contents {
    /// With what was found, and no history.
    pub(super) fn new(records: Records, revision: Revision, history: usize) -> Self {
        Self(RwLock::new(State {
            records,
            revision,
            history: History {
                changes: VecDeque::new(),
                bytes: 0,
                limit: history,
                floor: revision,
            },
            watchers: Vec::new(),
            closed: false,
        }))
    }

    /// As it is now, and stays while this is held.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy, for what takes longer than the lock may be held. The values are shared.
    pub(super) fn snapshot(&self) -> (Records, Revision) {
        let state = self.read();
        (state.records.clone(), state.revision)
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.read().records.get(key).map(|record| record.entry(key))
    }

    /// All whose key begins so.
    pub(super) fn list(&self, prefix: &str) -> Listing {
        let state = self.read();
        let entries = state
            .with_prefix(prefix)
            .map(|(key, record)| record.entry(key))
            .collect();
        Listing {
            entries,
            revision: state.revision,
        }
    }

    /// The changes after a revision, and then those that come.
    pub(super) fn watch(&self, prefix: &str, after: Revision) -> Result<mpsc::Receiver<Changes>, StoreError> {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(StoreError::Closed);
        }
        if after < state.history.floor || after > state.revision {
            return Err(StoreError::Compacted(after));
        }
        let past: Vec<_> = state
            .history
            .after(after)
            .filter_map(|changes| only(changes, prefix))
            .collect();
        let (sender, receiver) = mpsc::channel(past.len() + WATCH_CAPACITY);
        for changes in past {
            // There is room, and the receiver is here.
            let _ = sender.try_send(changes);
        }
        state.watchers.retain(|watcher| !watcher.sender.is_closed());
        state.watchers.push(Watcher {
            prefix: prefix.to_owned(),
            sender,
        });
        Ok(receiver)
    }

    /// Shows what has become durable.
    pub(super) fn publish(&self, decided: Decided) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        state.revision = decided.revision;
        for (key, record) in decided.writes {
            match record {
                Some(record) => state.records.insert(key, record),
                None => state.records.remove(&key),
            };
        }
        for changes in decided.changes {
            state.watchers.retain(|watcher| watcher.on_changes(&changes));
            state.history.push(changes);
        }
    }

    /// Ends all watchers.
    pub(super) fn close(&self) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        state.watchers.clear();
    }
}

impl State {
    /// All whose key begins so, in order.
    fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Record)> {
        self.records
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }
}

impl History {
    fn push(&mut self, changes: Changes) {
        self.bytes += size(&changes);
        self.changes.push_back(changes);
        while self.changes.len() > self.limit || self.bytes > HISTORY_BYTES {
            let Some(oldest) = self.changes.pop_front() else {
                break;
            };
            self.bytes -= size(&oldest);
            self.floor = oldest.revision;
        }
    }

    /// Revisions follow one another without a gap, so the place of one is known.
    fn after(&self, revision: Revision) -> impl Iterator<Item = &Changes> {
        let skipped = usize::try_from(revision.0.saturating_sub(self.floor.0)).unwrap_or(usize::MAX);
        self.changes.iter().skip(skipped)
    }
}

impl Watcher {
    /// Whether it stays.
    fn on_changes(&self, changes: &Changes) -> bool {
        match only(changes, &self.prefix) {
            Some(changes) => match self.sender.try_send(changes) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    tracing::debug!(
                        prefix = self.prefix,
                        "a watcher of the store does not keep up, and is ended"
                    );
                    false
                }
            },
            None => !self.sender.is_closed(),
        }
    }
}

impl Event {
    /// The key that it is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }
}

/// Those of keys that begin so, if there are any.
fn only(changes: &Changes, prefix: &str) -> Option<Changes> {
    let events: Vec<_> = changes
        .events
        .iter()
        .filter(|event| event.key().starts_with(prefix))
        .cloned()
        .collect();
    (!events.is_empty()).then_some(Changes {
        revision: changes.revision,
        events,
    })
}

fn size(changes: &Changes) -> usize {
    let of = |event: &Event| match event {
        Event::Put(entry) => entry.key.len() + entry.value.len(),
        Event::Deleted { key, .. } => key.len(),
    };
    changes.events.iter().map(of).sum()
}
