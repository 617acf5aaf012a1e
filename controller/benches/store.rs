//! What a durable transaction costs: alone, and among 64 that wait at the same time. `cargo bench -p weft-controller
//! --bench store`; with `TMPDIR` on the disk that it is about.

#![allow(missing_docs, reason = "the macro of criterion makes a function without")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use weft_controller::store::{
    Store, Transaction,
    redb::{Options, RedbStore},
};

/// What a mesh of 1,000 services has, near enough.
const DOCUMENTS: usize = 10_000;
/// A document.
const SIZE: usize = 700;

fn put(index: usize) -> Transaction {
    Transaction::new().put(
        format!("docs/Workload/shop/{:05}", index % DOCUMENTS),
        vec![b'x'; SIZE],
    )
}

#[expect(clippy::expect_used, reason = "a bench")]
fn store(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory for the store");
    let path = directory.path().join("store");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let store = RedbStore::open(&path, &Options::default()).expect("a new store");
    let filled = join_all((0..DOCUMENTS).map(|index| store.commit(put(index))));
    assert!(runtime.block_on(filled).iter().all(Result::is_ok));
    let mut group = criterion.benchmark_group("store");
    let mut next = 0;
    for writers in [1_usize, 64] {
        group.throughput(Throughput::Elements(writers as u64));
        group.bench_function(format!("commit/{writers}"), |bencher| {
            bencher.iter(|| {
                let transactions: Vec<_> = (0..writers).map(|index| put(next + 7 * index)).collect();
                next += 7 * writers;
                let commits = join_all(
                    transactions
                        .into_iter()
                        .map(|transaction| store.commit(transaction)),
                );
                assert!(runtime.block_on(commits).iter().all(Result::is_ok));
            });
        });
    }
    group.throughput(Throughput::Elements(DOCUMENTS as u64));
    group.bench_function("list", |bencher| {
        bencher.iter(|| black_box(runtime.block_on(store.list("docs/")).expect("a listing")));
    });
    drop(store);
    group.bench_function("open", |bencher| {
        let open = || RedbStore::open(&path, &Options::default()).expect("the store");
        // Closing is not part of it.
        bencher.iter_batched(|| (), |()| open(), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
