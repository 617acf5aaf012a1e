//! Requests through both drivers on an in-memory network in virtual time: the CPU of a request in pool, driver,
//! QUIC, TLS and HTTP/3 of both ends together, without a system call.

#![expect(missing_docs, reason = "criterion's macros make undocumented functions")]

#[path = "support/requests.rs"]
mod requests;

use std::{rc::Rc, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use requests::{BULK, Target, bulk, measure, serve};
use weft_transport::{
    Config,
    sim::{self, Link},
};

fn target(link: Link) -> Rc<Target> {
    let pair = sim::pair(1, link, Config::default(), serve);
    let (pool, peer) = (pair.pool.clone(), pair.peer.clone());
    Rc::new(Target {
        pool,
        peer,
        _keep: Box::new(pair),
    })
}

fn small(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sim, small requests");
    group.throughput(Throughput::Elements(1));
    for concurrency in [1, 32, 128] {
        group.bench_function(format!("{concurrency} at once"), |bencher| {
            bencher.iter_custom(|requests| {
                sim::run(async move { measure(target(Link::default()), concurrency, requests).await })
            });
        });
    }
    group.finish();
}

fn large(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sim, bulk");
    group.throughput(Throughput::Bytes(BULK as u64));
    for mtu in [1_452, 8_952] {
        group.bench_function(format!("16 MiB at an MTU of {mtu}"), |bencher| {
            let link = Link {
                mtu,
                ..Link::default()
            };
            bencher.iter_custom(|downloads| sim::run(async move { bulk(target(link), downloads).await }));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = small, large
}
criterion_main!(benches);
