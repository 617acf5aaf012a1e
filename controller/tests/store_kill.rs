//! The store under kill -9: a writer is killed in the middle of writing, again and again, and nothing that it was told to
//! be durable is lost.
//!
//! `WEFT_FULL=1`: 100 kills in 20,000 writes, instead of 10 in 2,000.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use weft_controller::store::{
    CommitError, Condition, Revision, Store, Transaction,
    redb::{Options, RedbStore},
};

/// Writers at a time, each with one write under way.
const WRITERS: usize = 4;
/// Acknowledged writes between two kills, on average.
const WRITES: usize = 200;
/// Where the child finds the store.
const PATH: &str = "WEFT_STORE_KILL_PATH";

/// What the children were told, over all kills.
#[derive(Default)]
struct Told {
    /// The last acknowledged number of each writer.
    written: BTreeMap<usize, u64>,
    /// How often each token was used with success.
    used: BTreeMap<u64, u32>,
    revision: u64,
    count: usize,
}

#[test]
fn nothing_acknowledged_is_lost_and_no_token_used_twice() {
    // What is killed is this test once more, as a process of its own, which then does nothing but write.
    if let Some(path) = std::env::var_os(PATH) {
        return write_until_killed(Path::new(&path));
    }
    let kills = if std::env::var_os("WEFT_FULL").is_some() {
        100
    } else {
        10
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let mut random = StdRng::seed_from_u64(4);
    let mut told = Told::default();
    for kill in 0..kills {
        run_and_kill(&path, random.random_range(1..2 * WRITES), &mut told);
        check(&path, &told, kill);
    }
    let tokens: u32 = told.used.values().sum();
    println!(
        "{kills} kills in {} acknowledged writes: none lost, {tokens} tokens used, revision {}",
        told.count, told.revision
    );
    assert!(told.count > kills * WRITES / 2 && tokens > 0);
}

/// Kills the writer after so many acknowledgements; those that it could still tell count as well.
fn run_and_kill(path: &Path, acknowledged: usize, told: &mut Told) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "nothing_acknowledged_is_lost_and_no_token_used_twice",
            "--nocapture",
        ])
        .env(PATH, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = 0;
    for line in lines {
        let Ok(line) = line else { break };
        let words: Vec<&str> = line.split(' ').collect();
        let ["acknowledged", what, who, number, revision] = words.as_slice() else {
            continue;
        };
        let (who, number, revision): (usize, u64, u64) = (
            who.parse().unwrap(),
            number.parse().unwrap(),
            revision.parse().unwrap(),
        );
        match *what {
            "write" => assert!(
                told.written
                    .insert(who, number)
                    .is_none_or(|before| before < number),
                "{line}"
            ),
            _ => *told.used.entry(number).or_default() += 1,
        }
        told.revision = told.revision.max(revision);
        told.count += 1;
        seen += 1;
        if seen == acknowledged {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= acknowledged, "the writer ended by itself after {seen}");
}

fn check(path: &Path, told: &Told, kill: usize) {
    let store = RedbStore::open(path, &Options::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let listing = runtime.block_on(store.list("")).unwrap();
    assert!(
        store.revision().0 >= told.revision,
        "kill {kill}: the revision went back"
    );
    let mut newest: BTreeMap<usize, u64> = BTreeMap::new();
    for entry in &listing.entries {
        assert!(entry.modified <= store.revision(), "kill {kill}: {entry:?}");
        let parts: Vec<&str> = entry.key.split('/').collect();
        if let ["docs", who, number] = parts.as_slice() {
            let number: u64 = number.parse().unwrap();
            assert_eq!(entry.value, value(number), "kill {kill}: half of {}", entry.key);
            newest.insert(who.parse().unwrap(), number);
        }
    }
    for (who, acknowledged) in &told.written {
        let count = listing
            .entries
            .iter()
            .filter(|entry| entry.key.starts_with(&format!("docs/{who}/")))
            .count();
        let newest = newest.get(who).copied().unwrap_or(0);
        assert_eq!(count as u64, newest, "kill {kill}: writer {who} has a gap");
        // One may have become durable whose acknowledgement was not told.
        assert!(
            (*acknowledged..=acknowledged + 1).contains(&newest),
            "kill {kill}: writer {who} was told {acknowledged}, and there is {newest}"
        );
    }
    for (token, times) in &told.used {
        assert_eq!(*times, 1, "kill {kill}: token {token}");
        let entry = listing
            .entries
            .iter()
            .find(|entry| entry.key == token_key(*token))
            .unwrap();
        assert_eq!(
            (&*entry.value, entry.generation),
            (&b"used"[..], 2),
            "kill {kill}: {entry:?}"
        );
    }
}

fn token_key(number: u64) -> String {
    format!("tokens/{number:08}")
}

/// Long enough to be in several pages.
fn value(number: u64) -> Vec<u8> {
    format!("{number} ").repeat(200).into_bytes()
}

fn write_until_killed(path: &Path) {
    let store = Arc::new(RedbStore::open(path, &Options::default()).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let writers = (0..WRITERS).map(|who| tokio::spawn(write(store.clone(), who)));
        let tokens = tokio::spawn(use_tokens(store.clone()));
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        tokens.await.unwrap();
    });
}

/// Keys without a gap, one after the other.
async fn write(store: Arc<RedbStore>, who: usize) {
    let listing = store.list(&format!("docs/{who}/")).await.unwrap();
    let mut number = listing.entries.len() as u64;
    loop {
        number += 1;
        let key = format!("docs/{who}/{number:08}");
        let transaction = Transaction::new()
            .when(Condition::Absent(key.clone()))
            .put(key, value(number));
        let Revision(revision) = store.commit(transaction).await.unwrap();
        println!("acknowledged write {who} {number} {revision}");
    }
}

/// Makes a token, and has two use it at once: exactly one may.
async fn use_tokens(store: Arc<RedbStore>) {
    let mut number = store.list("tokens/").await.unwrap().entries.len() as u64;
    loop {
        number += 1;
        let key = token_key(number);
        let made = store
            .commit(Transaction::new().put(key.clone(), "new"))
            .await
            .unwrap();
        let use_it = || {
            let transaction = Transaction::new()
                .when(Condition::Unchanged(key.clone(), made))
                .put(key.clone(), "used");
            store.commit(transaction)
        };
        let (first, second) = tokio::join!(use_it(), use_it());
        for used in [first, second] {
            match used {
                Ok(Revision(revision)) => println!("acknowledged token 0 {number} {revision}"),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}
