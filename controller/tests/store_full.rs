//! No room for what is to be written: the system refuses it, the store says so, reads go on, and writing goes on when
//! there is room again.
//!
//! The limit is that of a process for its files, for which this program starts itself in a shell that sets it. It
//! fails as a full disk does, in the midst of a write.

use std::{error::Error, path::Path, process::Command};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use weft_controller::store::{
    CommitError, Store, StoreError, Transaction,
    redb::{Options, RedbStore},
};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Tells this program that it is the one with the limit, and where its store is.
const PLACE: &str = "WEFT_STORE_FULL";
/// In units of 512 bytes, as `ulimit` of a shell counts by POSIX: 1 MiB.
const LIMIT: u64 = 2048;

#[test]
fn without_room_writes_are_refused_and_reads_go_on() -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    // The process with the limit is this test once more.
    if let Some(place) = std::env::var_os(PLACE) {
        return runtime.block_on(fill(Path::new(&place)));
    }
    let directory = tempfile::tempdir()?;
    let place = directory.path().join("store");
    // An ignored signal stays ignored in what is started: the write fails instead of ending the process.
    let script = format!(
        "trap '' XFSZ; ulimit -S -f {LIMIT}; exec \"$0\" --exact without_room_writes_are_refused_and_reads_go_on --nocapture"
    );
    let status = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe()?)
        .env(PLACE, &place)
        .status()?;
    assert!(status.success(), "{status}");
    let store = RedbStore::open(&place, &Options::default())?;
    let found = runtime.block_on(store.list("after/"))?;
    assert_eq!(found.entries.len(), 10);
    Ok(())
}

async fn fill(place: &Path) -> Outcome {
    let store = RedbStore::open(place, &Options::default())?;
    let mut written = 0;
    let refused = loop {
        let key = format!("fill/{written:05}");
        match store
            .commit(Transaction::new().put(key, vec![b'x'; 10_000]))
            .await
        {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&refused, CommitError::Store(StoreError::Io(text)) if text.contains("make room")),
        "{refused}"
    );
    assert!((20..200).contains(&written), "{written} were written");
    let before = store.list("").await?;
    assert_eq!(before.entries.len(), written);
    for _ in 0..5 {
        let outcome = store
            .commit(Transaction::new().put("refused", vec![b'x'; 1_000_000]))
            .await;
        assert!(
            matches!(outcome, Err(CommitError::Store(StoreError::Io(_)))),
            "{outcome:?}"
        );
        assert_eq!(store.list("").await?, before);
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE)?;
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard)?;
    for index in 0..10 {
        store
            .commit(Transaction::new().put(format!("after/{index}"), vec![b'x'; 10_000]))
            .await?;
    }
    assert_eq!(store.get("refused").await?, None);
    drop(store);
    let store = RedbStore::open(place, &Options::default())?;
    assert_eq!(store.list("fill/").await?.entries, before.entries);
    Ok(())
}
