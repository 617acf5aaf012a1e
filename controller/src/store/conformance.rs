//! What every store must do, whatever it is made of.

use super::{
    Changes, CommitError, Condition, Entry, Event, Listing, Revision, Store, StoreError, Transaction,
};
use super::{MAX_KEY, MAX_OPERATIONS, MAX_TRANSACTION, MAX_VALUE};
use futures_util::future::join_all;
use tokio::sync::mpsc;

/// All of it, on a store that nobody else writes to.
pub(crate) async fn conforms(store: &dyn Store) {
    a_written_key_is_read_with_its_history(store).await;
    a_removed_key_begins_anew(store).await;
    a_transaction_is_all_or_nothing(store).await;
    what_changes_nothing_makes_no_revision(store).await;
    each_condition_holds_only_when_it_does(store).await;
    a_listing_is_of_its_prefix_in_order(store).await;
    a_watch_tells_the_past_then_what_comes(store).await;
    a_watch_is_of_its_prefix_in_the_order_of_the_transaction(store).await;
    a_watch_of_a_revision_to_come_is_refused(store).await;
    a_watcher_that_does_not_keep_up_is_ended(store).await;
    what_is_too_large_is_refused(store).await;
    what_makes_no_sense_is_refused(store).await;
}

async fn commit(store: &dyn Store, transaction: Transaction) -> Revision {
    store.commit(transaction).await.unwrap()
}

async fn put(store: &dyn Store, key: &str, value: &'static str) -> Revision {
    commit(store, Transaction::new().put(key, value)).await
}

async fn get(store: &dyn Store, key: &str) -> Option<Entry> {
    store.get(key).await.unwrap()
}

async fn conflict(store: &dyn Store, condition: Condition) {
    let before = store.list("").await.unwrap();
    let transaction = Transaction::new().when(condition.clone()).put("conflict", "x");
    match store.commit(transaction).await {
        Err(CommitError::Conflict(failed)) => assert_eq!(failed, condition),
        other => panic!("{condition:?} held: {other:?}"),
    }
    assert_eq!(store.list("").await.unwrap(), before);
}

async fn next(changes: &mut mpsc::Receiver<Changes>) -> Changes {
    changes.recv().await.expect("a watcher was ended")
}

async fn a_written_key_is_read_with_its_history(store: &dyn Store) {
    assert_eq!(get(store, "history/a").await, None);
    let first = put(store, "history/a", "1").await;
    assert_eq!(store.revision(), first);
    let second = put(store, "history/a", "2").await;
    assert!(second > first);
    let entry = get(store, "history/a").await.unwrap();
    assert_eq!(
        entry,
        Entry {
            key: "history/a".into(),
            value: "2".into(),
            created: first,
            modified: second,
            generation: 2
        }
    );
    put(store, "history/b", "3").await;
    assert_eq!(get(store, "history/a").await, Some(entry));
}

async fn a_removed_key_begins_anew(store: &dyn Store) {
    put(store, "removed", "1").await;
    put(store, "removed", "2").await;
    commit(store, Transaction::new().delete("removed")).await;
    assert_eq!(get(store, "removed").await, None);
    let revision = put(store, "removed", "3").await;
    let entry = get(store, "removed").await.unwrap();
    assert_eq!(
        (entry.created, entry.modified, entry.generation),
        (revision, revision, 1)
    );
}

async fn a_transaction_is_all_or_nothing(store: &dyn Store) {
    put(store, "whole/old", "1").await;
    let transaction = Transaction::new()
        .put("whole/a", "2")
        .delete("whole/old")
        .put("whole/b", "3");
    let revision = commit(store, transaction.clone()).await;
    let Listing {
        entries,
        revision: of,
    } = store.list("whole/").await.unwrap();
    assert_eq!(of, revision);
    assert_eq!(
        entries
            .iter()
            .map(|entry| (entry.key.as_str(), entry.modified))
            .collect::<Vec<_>>(),
        [("whole/a", revision), ("whole/b", revision)]
    );
    // The first condition holds, and the second does not.
    let transaction = Transaction::new()
        .put("whole/a", "9")
        .delete("whole/b")
        .when(Condition::Generation("whole/a".into(), 1))
        .when(Condition::Absent("whole/b".into()));
    let refused = store.commit(transaction).await;
    assert!(matches!(refused, Err(CommitError::Conflict(Condition::Absent(key))) if key == "whole/b"));
    assert_eq!(store.list("whole/").await.unwrap().entries, entries);
    assert_eq!(store.revision(), revision);
}

async fn what_changes_nothing_makes_no_revision(store: &dyn Store) {
    let revision = put(store, "nothing", "1").await;
    assert_eq!(commit(store, Transaction::new()).await, revision);
    assert_eq!(
        commit(store, Transaction::new().delete("never there")).await,
        revision
    );
    let check = Transaction::new().when(Condition::Unchanged("nothing".into(), revision));
    assert_eq!(commit(store, check).await, revision);
    assert_eq!(store.revision(), revision);
    // Writing the same is a change: somebody applied it.
    assert_eq!(put(store, "nothing", "1").await, Revision(revision.0 + 1));
}

async fn each_condition_holds_only_when_it_does(store: &dyn Store) {
    let key = || "condition".to_owned();
    conflict(store, Condition::Generation(key(), 0)).await;
    conflict(store, Condition::Generation(key(), 1)).await;
    conflict(store, Condition::Unchanged(key(), Revision(0))).await;
    let first = commit(
        store,
        Transaction::new().when(Condition::Absent(key())).put(key(), "1"),
    )
    .await;
    conflict(store, Condition::Absent(key())).await;
    conflict(store, Condition::Generation(key(), 2)).await;
    let second = commit(
        store,
        Transaction::new()
            .when(Condition::Generation(key(), 1))
            .put(key(), "2"),
    )
    .await;
    conflict(store, Condition::Unchanged(key(), first)).await;
    conflict(store, Condition::Generation(key(), 1)).await;
    let used = Transaction::new()
        .when(Condition::Unchanged(key(), second))
        .delete(key());
    commit(store, used.clone()).await;
    assert!(
        matches!(store.commit(used).await, Err(CommitError::Conflict(_))),
        "used twice"
    );
    commit(
        store,
        Transaction::new().when(Condition::Absent(key())).put(key(), "3"),
    )
    .await;
    conflict(store, Condition::Unchanged(key(), second)).await;
}

async fn a_listing_is_of_its_prefix_in_order(store: &dyn Store) {
    for key in [
        "list/b",
        "list/a/2",
        "list/a/10",
        "list/a",
        "list0",
        "lisu",
        "list/\u{e4}",
    ] {
        put(store, key, "x").await;
    }
    let keys = |listing: Listing| {
        listing
            .entries
            .into_iter()
            .map(|entry| entry.key)
            .collect::<Vec<_>>()
    };
    let listing = store.list("list/").await.unwrap();
    assert_eq!(listing.revision, store.revision());
    assert_eq!(
        keys(listing),
        ["list/a", "list/a/10", "list/a/2", "list/b", "list/\u{e4}"]
    );
    assert_eq!(
        keys(store.list("list/a").await.unwrap()),
        ["list/a", "list/a/10", "list/a/2"]
    );
    assert_eq!(keys(store.list("none/").await.unwrap()), [""; 0]);
    let all = keys(store.list("").await.unwrap());
    assert!(all.is_sorted() && all.len() > 7);
}

async fn a_watch_tells_the_past_then_what_comes(store: &dyn Store) {
    let begin = put(store, "watch/a", "0").await;
    let first = put(store, "watch/a", "1").await;
    put(store, "unwatched", "1").await;
    let second = commit(store, Transaction::new().delete("watch/a")).await;
    let mut changes = store.watch("watch/", begin).await.unwrap();
    let mut later = store.watch("watch/", store.revision()).await.unwrap();
    let third = put(store, "watch/a", "3").await;
    let [one, two, three] = [
        next(&mut changes).await,
        next(&mut changes).await,
        next(&mut changes).await,
    ];
    assert_eq!(
        [one.revision, two.revision, three.revision],
        [first, second, third]
    );
    assert!(
        matches!(&one.events[..], [Event::Put(entry)] if entry.value == "1" && entry.generation == 2 && entry.created == begin)
    );
    let deleted = Event::Deleted {
        key: "watch/a".into(),
        revision: second,
    };
    assert_eq!(two.events, [deleted]);
    assert_eq!(three.events, [Event::Put(get(store, "watch/a").await.unwrap())]);
    assert_eq!(next(&mut later).await, three);
}

async fn a_watch_is_of_its_prefix_in_the_order_of_the_transaction(store: &dyn Store) {
    let mut changes = store.watch("order/", store.revision()).await.unwrap();
    put(store, "orders", "x").await;
    let transaction = Transaction::new()
        .put("order/z", "1")
        .put("other", "2")
        .put("order/a", "3");
    let revision = commit(store, transaction).await;
    let seen = next(&mut changes).await;
    assert_eq!(seen.revision, revision);
    assert_eq!(
        seen.events.iter().map(Event::key).collect::<Vec<_>>(),
        ["order/z", "order/a"]
    );
}

async fn a_watch_of_a_revision_to_come_is_refused(store: &dyn Store) {
    let to_come = Revision(store.revision().0 + 1);
    let refused = store.watch("", to_come).await;
    assert!(matches!(refused, Err(StoreError::Compacted(revision)) if revision == to_come));
}

async fn a_watcher_that_does_not_keep_up_is_ended(store: &dyn Store) {
    let begin = store.revision();
    let mut slow = store.watch("slow/", begin).await.unwrap();
    let mut seen = 0;
    // However much a store holds back for one watcher, this is more.
    join_all((0..5_000).map(|_| put(store, "slow/a", "x"))).await;
    while let Some(changes) = slow.recv().await {
        seen += 1;
        assert_eq!(changes.revision, Revision(begin.0 + seen), "one was left out");
    }
    assert!(seen < 5_000);
}

async fn what_is_too_large_is_refused(store: &dyn Store) {
    let revision = store.revision();
    let refused = async |transaction: Transaction| {
        let error = store.commit(transaction).await.unwrap_err();
        assert!(
            matches!(error, CommitError::Store(StoreError::TooLarge(_))),
            "{error:?}"
        );
    };
    refused(Transaction::new().put("large", vec![0; MAX_VALUE + 1])).await;
    refused(Transaction::new().put("k".repeat(MAX_KEY + 1), "x")).await;
    let value = bytes::Bytes::from(vec![0; MAX_VALUE]);
    let values = |count: usize| {
        (0..count).fold(Transaction::new(), |transaction, index| {
            transaction.put(format!("large/{index}"), value.clone())
        })
    };
    refused(values(MAX_TRANSACTION / MAX_VALUE)).await;
    refused((0..=MAX_OPERATIONS).fold(Transaction::new(), |all, index| all.delete(format!("{index}")))).await;
    assert_eq!(store.revision(), revision);
    commit(
        store,
        values(MAX_TRANSACTION / MAX_VALUE - 1).put("k".repeat(MAX_KEY), "x"),
    )
    .await;
    assert_eq!(get(store, "large/0").await.unwrap().value, value);
}

async fn what_makes_no_sense_is_refused(store: &dyn Store) {
    let revision = store.revision();
    for transaction in [
        Transaction::new().put("", "x"),
        Transaction::new().put("twice", "1").put("twice", "2"),
        Transaction::new().put("twice", "1").delete("twice"),
        Transaction::new().when(Condition::Absent(String::new())),
    ] {
        let error = store.commit(transaction).await.unwrap_err();
        assert!(
            matches!(error, CommitError::Store(StoreError::Invalid(_))),
            "{error:?}"
        );
    }
    assert_eq!(store.revision(), revision);
}
