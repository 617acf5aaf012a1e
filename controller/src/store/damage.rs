//! Files that are not as they were written, and files that are something else: a clear error, or the right contents,
//! and never another ending.

use std::{fs, path::Path};

use ::redb::{Database, TableDefinition};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    Listing, Store, StoreError, Transaction,
    redb::{Options, RedbStore},
};

fn open(path: &Path) -> Result<RedbStore, StoreError> {
    RedbStore::open(path, &Options::default())
}

/// A store with some history, closed.
async fn filled(path: &Path) -> Listing {
    let store = open(path).unwrap();
    let mut random = StdRng::seed_from_u64(1);
    for round in 0..10 {
        let mut transaction = Transaction::new();
        for index in 0..20 {
            let size = if random.random_bool(0.1) {
                20_000
            } else {
                random.random_range(1..600)
            };
            transaction = transaction.put(format!("key/{round}/{index}"), vec![round; size]);
        }
        store.commit(transaction).await.unwrap();
        store
            .commit(Transaction::new().delete(format!("key/{round}/3")))
            .await
            .unwrap();
    }
    store.list("").await.unwrap()
}

/// One of the ways in which files are damaged.
fn damage(bytes: &mut Vec<u8>, random: &mut StdRng) {
    // The header is little of the file, and most of what matters.
    let end = if random.random_bool(0.4) { 512 } else { bytes.len() };
    match random.random_range(0..6) {
        0 => bytes.truncate(random.random_range(0..bytes.len())),
        1 => {
            let begin = random.random_range(0..end);
            let length = random.random_range(1..5_000).min(bytes.len() - begin);
            let with = if random.random_bool(0.5) {
                0
            } else {
                random.random()
            };
            bytes[begin..begin + length].fill(with);
        }
        2 => bytes.extend((0..random.random_range(1..10_000)).map(|_| 0xa5)),
        _ => {
            for _ in 0..random.random_range(1..4) {
                bytes[random.random_range(0..end)] ^= random.random_range(1..=255);
            }
        }
    }
}

#[tokio::test]
async fn a_damaged_file_is_refused_or_right() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let whole = filled(&path).await;
    let original = fs::read(&path).unwrap();
    let seeds = if std::env::var_os("WEFT_FULL").is_some() {
        5_000
    } else {
        200
    };
    let mut refused = 0;
    for seed in 0..seeds {
        let mut bytes = original.clone();
        damage(&mut bytes, &mut StdRng::seed_from_u64(seed));
        fs::write(&path, bytes).unwrap();
        match open(&path) {
            Ok(store) => assert_eq!(store.list("").await.unwrap(), whole, "seed {seed}"),
            Err(StoreError::Damaged(text)) => {
                assert!(
                    text.starts_with(path.to_str().unwrap()) && text.contains("move it away"),
                    "{text}"
                );
                refused += 1;
            }
            Err(error) => panic!("seed {seed}: {error:?}"),
        }
    }
    println!("{seeds} damaged files: {refused} refused, the others were right");
    assert!(refused > seeds / 3);
}

#[tokio::test]
async fn a_file_that_is_something_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    for text in ["", "x", "kind: Service\n", &"long ".repeat(100_000)] {
        fs::write(&path, text).unwrap();
        let outcome = open(&path);
        assert!(
            matches!(outcome, Err(StoreError::Damaged(_))),
            "{} bytes: {outcome:?}",
            text.len()
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "it was changed");
    }
    fs::remove_file(&path).unwrap();
    let other = Database::create(&path).unwrap();
    let write = other.begin_write().unwrap();
    write
        .open_table(TableDefinition::<u64, u64>::new("other"))
        .unwrap()
        .insert(1, 2)
        .unwrap();
    write.commit().unwrap();
    drop(other);
    let error = open(&path).unwrap_err();
    assert!(
        matches!(&error, StoreError::Damaged(text) if text.contains("is no store of this controller")),
        "{error}"
    );
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Io(_)), "{error:?}");
}

#[tokio::test]
async fn a_newer_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let whole = filled(&path).await;
    let set_format = |format: u64| {
        let database = Database::open(&path).unwrap();
        let write = database.begin_write().unwrap();
        let meta = TableDefinition::<&str, &[u8]>::new("meta");
        write
            .open_table(meta)
            .unwrap()
            .insert("format", format.to_le_bytes().as_slice())
            .unwrap();
        write.commit().unwrap();
    };
    set_format(2);
    let error = open(&path).unwrap_err();
    assert!(
        matches!(&error, StoreError::Newer(text) if text.contains("start the newer version")),
        "{error}"
    );
    set_format(1);
    assert_eq!(open(&path).unwrap().list("").await.unwrap(), whole);
}

#[tokio::test]
async fn a_file_that_is_open_is_refused_until_it_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let first = open(&path).unwrap();
    let error = open(&path).unwrap_err();
    assert!(
        matches!(&error, StoreError::Locked(text) if text.contains("another process")),
        "{error:?}"
    );
    let copy = first.clone();
    drop(first);
    assert!(matches!(open(&path), Err(StoreError::Locked(_))));
    drop(copy);
    open(&path).unwrap();
}
