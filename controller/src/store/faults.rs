//! A disk that fails and is mended: writes are refused meanwhile, reads go on, and nothing acknowledged is lost, not
//! even if the power goes afterwards.

use std::io::ErrorKind;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    CommitError, Condition, Store, StoreError, Transaction,
    disk::Disk,
    model::Model,
    redb::{Options, RedbStore},
    sim::{Fault, SimDisk},
};

const FAULTS: [Fault; 5] = [
    Fault::Write(ErrorKind::StorageFull),
    Fault::Write(ErrorKind::ReadOnlyFilesystem),
    Fault::Write(ErrorKind::Other),
    Fault::Sync,
    Fault::All,
];

fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    drop(Disk::create(disk.medium(), [7; 16]).unwrap());
    disk
}

fn open(disk: &SimDisk) -> RedbStore {
    RedbStore::open_on(disk.medium(), &Options::default()).unwrap()
}

fn transaction(random: &mut StdRng) -> Transaction {
    let key = |random: &mut StdRng, of: &str| format!("{of}/{}", random.random_range(0..30));
    let size = if random.random_bool(0.1) {
        20_000
    } else {
        random.random_range(1..400)
    };
    Transaction::new()
        .put(key(random, "put"), vec![random.random(); size])
        .put("always", size.to_string())
        .delete(key(random, "put"))
}

async fn same(store: &RedbStore, model: &Model) {
    assert_eq!(store.revision(), model.revision());
    let entries = store.list("").await.unwrap().entries;
    assert!(
        entries.iter().eq(model.entries.values()),
        "another content at {:?}",
        model.revision()
    );
}

/// Writes while all is well.
async fn write(store: &RedbStore, model: &mut Model, random: &mut StdRng) {
    for _ in 0..random.random_range(1..4) {
        let transaction = transaction(random);
        if transaction.check().is_ok() {
            assert_eq!(
                store.commit(transaction.clone()).await.unwrap(),
                model.commit(&transaction).unwrap()
            );
        }
    }
}

#[tokio::test]
async fn a_failing_disk_refuses_writes_and_loses_nothing() {
    let mut refused = 0;
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let disk = disk(seed);
        let mut model = Model::default();
        let mut store = open(&disk);
        for round in 0..5 {
            write(&store, &mut model, &mut random).await;
            let fault = FAULTS[random.random_range(0..FAULTS.len())];
            disk.fail(Some(fault));
            for _ in 0..random.random_range(1..4) {
                // Between others, so that pages are split which this one is not on.
                let between = format!("put/{}-lost", random.random_range(0..30));
                let lost = Transaction::new()
                    .put("lost", "x")
                    .put(between, vec![0; random.random_range(1..1_500)]);
                let outcome = store.commit(lost).await;
                match outcome {
                    Err(CommitError::Store(StoreError::Io(_) | StoreError::Damaged(_))) => refused += 1,
                    other => panic!("{fault:?}: {other:?}"),
                }
                same(&store, &model).await;
            }
            disk.fail(None);
            // What was not acknowledged did not happen, even if it had come to the disk.
            let absent = Transaction::new()
                .when(Condition::Absent("lost".into()))
                .put("round", round.to_string());
            assert_eq!(
                store.commit(absent.clone()).await.unwrap(),
                model.commit(&absent).unwrap(),
                "{fault:?}"
            );
            if random.random_bool(0.5) {
                write(&store, &mut model, &mut random).await;
            }
            if random.random_bool(0.5) {
                // Before the store is closed.
                disk.lose_power_after(0);
            }
            drop(store);
            disk.restart();
            store = open(&disk);
            same(&store, &model).await;
        }
    }
    assert!(refused > 300 * 5);
}

#[tokio::test]
async fn a_write_that_nobody_was_told_of_is_undone_if_it_came_to_the_disk() {
    let disk = disk(1);
    let store = open(&disk);
    store
        .commit(Transaction::new().put("token", "unused"))
        .await
        .unwrap();
    // Somewhere between the first write of a transaction and the answer to its sync.
    let mut model_revision = store.revision();
    for operations in 0..40 {
        disk.lose_power_after(operations);
        let used = Transaction::new()
            .when(Condition::Generation("token".into(), 1))
            .delete("token");
        let outcome = store.commit(used).await;
        disk.power_is_back();
        match outcome {
            Ok(revision) => {
                assert_eq!(store.get("token").await.unwrap(), None);
                store
                    .commit(Transaction::new().put("token", "unused"))
                    .await
                    .unwrap();
                assert!(revision > model_revision);
                model_revision = store.revision();
            }
            Err(CommitError::Store(_)) => {
                assert!(store.get("token").await.unwrap().is_some());
                assert_eq!(store.revision(), model_revision);
            }
            Err(conflict) => panic!("{conflict}"),
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_told_with_what_to_do() {
    let disk = disk(1);
    let store = open(&disk);
    disk.fail(Some(Fault::Write(ErrorKind::StorageFull)));
    let error = store.commit(Transaction::new().put("a", "x")).await.unwrap_err();
    assert!(
        error.to_string().ends_with("make room, and writing goes on"),
        "{error}"
    );
}
