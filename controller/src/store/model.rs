//! A store does what the simplest one imaginable does: random transactions, watches and restarts on both.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use proptest::{collection::vec, prelude::*, test_runner::TestCaseError};

use super::{
    Changes, CommitError, Condition, Entry, Event, Operation, Revision, Store, StoreError, Transaction,
    redb::{Options, RedbStore},
};

/// Few keys, one of them the beginning of others, so that transactions meet.
const KEYS: [&str; 5] = ["a", "a/1", "a/2", "b", "b/1"];
const PREFIXES: [&str; 4] = ["", "a", "a/", "b/1"];
/// Less than the revisions of a run, so that some watches ask for what is not kept.
const HISTORY: usize = 12;

/// All that there ever was.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) entries: BTreeMap<String, Entry>,
    history: Vec<Changes>,
    /// What was before is not told any more.
    floor: usize,
}

/// What a condition expects, seen from what is there.
#[derive(Clone, Debug)]
enum Expectation {
    Absent,
    Revision(u64),
    Generation(u64),
}

/// Conditions, and what becomes of which keys.
type Tried = (Vec<(usize, Expectation)>, BTreeMap<usize, Option<u8>>);

#[derive(Clone, Debug)]
enum Step {
    /// Sent at once, in this order.
    Commit(Vec<Tried>),
    /// From so many revisions ago.
    Watch(usize, u64),
    Restart,
}

impl Model {
    pub(super) fn commit(&mut self, transaction: &Transaction) -> Result<Revision, Condition> {
        for condition in &transaction.conditions {
            let entry = self.entries.get(condition.key());
            let holds = match condition {
                Condition::Absent(_) => entry.is_none(),
                Condition::Unchanged(_, revision) => entry.map(|entry| entry.modified) == Some(*revision),
                Condition::Generation(_, generation) => {
                    entry.map(|entry| entry.generation) == Some(*generation)
                }
            };
            if !holds {
                return Err(condition.clone());
            }
        }
        let revision = Revision(self.history.len() as u64 + 1);
        let mut events = Vec::new();
        for operation in &transaction.operations {
            match operation {
                Operation::Put(key, value) => {
                    let before = self.entries.get(key);
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        created: before.map_or(revision, |entry| entry.created),
                        modified: revision,
                        generation: before.map_or(0, |entry| entry.generation) + 1,
                    };
                    self.entries.insert(key.clone(), entry.clone());
                    events.push(Event::Put(entry));
                }
                Operation::Delete(key) => {
                    if self.entries.remove(key).is_some() {
                        events.push(Event::Deleted {
                            key: key.clone(),
                            revision,
                        });
                    }
                }
            }
        }
        if !events.is_empty() {
            self.history.push(Changes { revision, events });
        }
        Ok(self.revision())
    }

    pub(super) fn revision(&self) -> Revision {
        Revision(self.history.len() as u64)
    }

    /// What a watcher is to see from there to the end, if it may begin there.
    fn watched(&self, prefix: &str, after: Revision) -> Vec<Changes> {
        let of_prefix = |changes: &Changes| Changes {
            revision: changes.revision,
            events: changes
                .events
                .iter()
                .filter(|event| event.key().starts_with(prefix))
                .cloned()
                .collect(),
        };
        let after = self.history.iter().filter(|changes| changes.revision > after);
        after
            .map(of_prefix)
            .filter(|changes| !changes.events.is_empty())
            .collect()
    }

    fn keeps(&self, after: Revision) -> bool {
        let kept = self.floor.max(self.history.len().saturating_sub(HISTORY));
        (kept as u64..=self.revision().0).contains(&after.0)
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let expectation = prop_oneof![
        Just(Expectation::Absent),
        (0..3_u64).prop_map(Expectation::Revision),
        (1..4_u64).prop_map(Expectation::Generation),
    ];
    let conditions = vec((0..KEYS.len(), expectation), 0..2);
    let operations =
        proptest::collection::btree_map(0..KEYS.len(), proptest::option::weighted(0.7, any::<u8>()), 0..4);
    let step = prop_oneof![
        8 => vec((conditions, operations), 1..6).prop_map(Step::Commit),
        3 => (0..PREFIXES.len(), 0..20_u64).prop_map(|(prefix, back)| Step::Watch(prefix, back)),
        1 => Just(Step::Restart),
    ];
    vec(step, 1..30)
}

/// Some conditions hold, and some only nearly: a revision is given by how far it is from the one that would hold.
fn transaction(
    model: &Model,
    conditions: &[(usize, Expectation)],
    operations: &BTreeMap<usize, Option<u8>>,
) -> Transaction {
    let mut transaction = Transaction::new();
    for (key, expectation) in conditions {
        let key = KEYS[*key].to_owned();
        let modified = model.entries.get(&key).map_or(0, |entry| entry.modified.0);
        transaction = transaction.when(match expectation {
            Expectation::Absent => Condition::Absent(key),
            Expectation::Revision(off) => Condition::Unchanged(key, Revision(modified.saturating_sub(*off))),
            Expectation::Generation(generation) => Condition::Generation(key, *generation),
        });
    }
    for (key, value) in operations {
        transaction = match value {
            Some(value) => transaction.put(KEYS[*key], vec![*value]),
            None => transaction.delete(KEYS[*key]),
        };
    }
    transaction
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let open = || RedbStore::open(&path, &Options { history: HISTORY }).unwrap();
    let mut store = open();
    let mut model = Model::default();
    let mut watchers = Vec::new();
    for step in steps {
        match step {
            Step::Commit(group) => {
                let group: Vec<_> = group
                    .iter()
                    .map(|(conditions, operations)| transaction(&model, conditions, operations))
                    .collect();
                let outcomes =
                    join_all(group.iter().map(|transaction| store.commit(transaction.clone()))).await;
                for (transaction, outcome) in group.iter().zip(outcomes) {
                    let outcome = outcome.map_err(|error| match error {
                        CommitError::Conflict(condition) => condition,
                        CommitError::Store(error) => panic!("{error}"),
                    });
                    prop_assert_eq!(outcome, model.commit(transaction));
                }
            }
            Step::Watch(prefix, back) => {
                let (prefix, after) = (
                    PREFIXES[prefix],
                    Revision(model.revision().0.saturating_sub(back)),
                );
                match store.watch(prefix, after).await {
                    Ok(changes) => {
                        prop_assert!(model.keeps(after), "{after:?} is not kept");
                        watchers.push((prefix, after, changes));
                    }
                    Err(StoreError::Compacted(revision)) => {
                        prop_assert_eq!(revision, after);
                        prop_assert!(!model.keeps(after), "{after:?} is kept");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Restart => {
                drop(store);
                check_watchers(&model, &mut watchers).await?;
                model.floor = model.history.len();
                store = open();
            }
        }
        check_contents(&model, &store).await?;
    }
    drop(store);
    check_watchers(&model, &mut watchers).await
}

async fn check_contents(model: &Model, store: &RedbStore) -> Result<(), TestCaseError> {
    prop_assert_eq!(store.revision(), model.revision());
    for prefix in PREFIXES {
        let listing = store.list(prefix).await.unwrap();
        let of_prefix = model
            .entries
            .values()
            .filter(|entry| entry.key.starts_with(prefix));
        prop_assert_eq!(listing.entries, of_prefix.cloned().collect::<Vec<_>>());
        prop_assert_eq!(listing.revision, model.revision());
    }
    for key in KEYS {
        prop_assert_eq!(store.get(key).await.unwrap(), model.entries.get(key).cloned());
    }
    Ok(())
}

type Watching = (&'static str, Revision, tokio::sync::mpsc::Receiver<Changes>);

/// The store is closed, so each sees its end after everything else.
async fn check_watchers(model: &Model, watchers: &mut Vec<Watching>) -> Result<(), TestCaseError> {
    for (prefix, after, mut changes) in watchers.drain(..) {
        let mut seen = Vec::new();
        while let Some(changes) = changes.recv().await {
            seen.push(changes);
        }
        prop_assert_eq!(seen, model.watched(prefix, after));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_the_model_does(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(steps))?;
    }
}
