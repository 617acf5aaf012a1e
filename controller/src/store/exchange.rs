//! What is exported is imported as it was, whole and unaltered, or not at all.

use std::{fs, path::Path};

use super::{
    Exported, Store, StoreError, Transaction,
    redb::{Options, RedbStore},
};

async fn exported() -> (RedbStore, Vec<u8>) {
    let store = RedbStore::in_memory().unwrap();
    let text = Transaction::new()
        .put("docs/Service/shop/web", "{\"kind\":\"Service\"}")
        .put("docs/x", "\u{0}\n\"");
    store.commit(text).await.unwrap();
    store
        .commit(
            Transaction::new()
                .put("binary", vec![0xff, 0, 0x80])
                .put("empty", ""),
        )
        .await
        .unwrap();
    store
        .commit(
            Transaction::new()
                .put("tokens/1", "a hash")
                .put("docs/x", vec![0; 1 << 20]),
        )
        .await
        .unwrap();
    store.commit(Transaction::new().delete("empty")).await.unwrap();
    let mut out = Vec::new();
    let told = store.export(&mut out).unwrap();
    assert_eq!((told.entries, told.revision), (3, store.revision()));
    (store, out)
}

fn import(path: &Path, mut lines: &[u8]) -> Result<Exported, StoreError> {
    RedbStore::import(path, &mut lines)
}

#[tokio::test]
async fn an_import_is_the_store_that_was_exported_without_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let (store, lines) = exported().await;
    let text = String::from_utf8(lines.clone()).unwrap();
    assert!(!text.contains("tokens/") && !text.contains("a hash"));
    assert_eq!(text.lines().count(), 5);
    assert_eq!(import(&path, &lines).unwrap().entries, 3);
    let imported = RedbStore::open(&path, &Options::default()).unwrap();
    assert_eq!(imported.revision(), store.revision());
    let mut expected = store.list("").await.unwrap();
    expected.entries.retain(|entry| !entry.key.starts_with("tokens/"));
    assert_eq!(imported.list("").await.unwrap(), expected);
    assert_ne!(imported.id(), store.id());
    let next = imported
        .commit(Transaction::new().put("next", "x"))
        .await
        .unwrap();
    assert!(next > store.revision(), "revisions go on");
}

#[tokio::test]
async fn an_export_that_is_not_whole_makes_no_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let (_, lines) = exported().await;
    let refused = |lines: &[u8], what: &str| {
        let error = import(&path, lines).expect_err(what);
        assert!(matches!(error, StoreError::Damaged(_)), "{what}: {error:?}");
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            0,
            "{what}: something was left"
        );
        error.to_string()
    };
    let ends: Vec<_> = (1..=lines.len()).filter(|at| lines[at - 1] == b'\n').collect();
    for end in &ends[..ends.len() - 1] {
        let told = refused(&lines[..*end], "cut off after a line");
        assert!(told.contains("cut off"), "{told}");
    }
    refused(&lines[..lines.len() - 1], "cut off in the last line");
    refused(&[&lines[..], b"\n"].concat(), "more after the last line");
    refused(
        &[&lines[..ends[0]], &lines[ends[1]..]].concat(),
        "a line is missing",
    );
    refused(
        &[&lines[..ends[1]], &lines[ends[0]..]].concat(),
        "a line is there twice",
    );
    refused(b"", "nothing");
    refused(b"kind: Service\n", "something else");
    // Every byte counts, whatever it is in; most of the large value is passed over.
    for at in (0..lines.len()).filter(|at| at % 99_991 == 0 || *at < ends[1] || *at >= ends[3]) {
        let mut altered = lines.clone();
        altered[at] ^= 1;
        let told = import(&path, &altered);
        assert!(
            matches!(told, Err(StoreError::Damaged(_) | StoreError::Newer(_))),
            "byte {at}: {told:?}"
        );
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            0,
            "byte {at}: something was left"
        );
    }
}

#[tokio::test]
async fn nothing_is_imported_over_a_file_or_from_a_newer_format() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let (_, lines) = exported().await;
    let newer = String::from_utf8(lines.clone())
        .unwrap()
        .replacen("\"format\":1", "\"format\":2", 1);
    assert!(matches!(
        import(&path, newer.as_bytes()),
        Err(StoreError::Newer(_))
    ));
    fs::write(&path, "precious").unwrap();
    assert!(matches!(import(&path, &lines), Err(StoreError::Invalid(_))));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}
