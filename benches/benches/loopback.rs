//! A pool and a listener on real sockets of the loopback interface, both on one thread: what a request costs in
//! both ends together, system calls and kernel included.

#![expect(missing_docs, reason = "criterion's macros make undocumented functions")]

#[path = "support/requests.rs"]
mod requests;

use std::{error::Error, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use requests::{BULK, Target, bulk, measure, serve};
use tokio::{runtime::Runtime, task::LocalSet};
use weft_transport::{
    Config, EndpointState, Listener, ListenerOptions, PeerKey, Pool, PoolOptions,
    credentials::testing::Authority,
};

/// A worker and what runs on it.
struct Worker {
    runtime: Runtime,
    local: LocalSet,
    target: Rc<Target>,
}

fn worker(config: Config) -> Result<Worker, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    let target = local.block_on(&runtime, async { target(Arc::new(config)) })?;
    Ok(Worker {
        runtime,
        local,
        target,
    })
}

fn target(config: Arc<Config>) -> Result<Rc<Target>, Box<dyn Error>> {
    let authority = Authority::new("example.org");
    let state = EndpointState::ephemeral()?;
    let options = ListenerOptions {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        worker: 0,
        workers: 1,
        mark: None,
    };
    let server = authority.credentials("default", "server");
    let listener = Listener::bind(&options, config.clone(), &state, &server, Arc::default(), serve)?;
    let client = Arc::new(authority.credentials("default", "client"));
    let pool = Pool::new(&PoolOptions::default(), config, &state, client, Arc::default())?;
    let peer = PeerKey {
        uid: "default/server".into(),
        address: listener.local_addr(),
        identity: authority.id("default", "server"),
    };
    Ok(Rc::new(Target {
        pool,
        peer,
        _keep: Box::new(listener),
    }))
}

#[expect(clippy::expect_used, reason = "a bench without sockets has nothing to say")]
fn small(criterion: &mut Criterion) {
    let worker = worker(Config::default()).expect("loopback sockets");
    let mut group = criterion.benchmark_group("loopback, small requests");
    group.throughput(Throughput::Elements(1));
    for concurrency in [1, 32, 128] {
        group.bench_function(format!("{concurrency} at once"), |bencher| {
            bencher.iter_custom(|requests| {
                let measured = measure(worker.target.clone(), concurrency, requests);
                worker.local.block_on(&worker.runtime, measured)
            });
        });
    }
    group.finish();
}

#[expect(clippy::expect_used, reason = "a bench without sockets has nothing to say")]
fn large(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loopback, bulk");
    group.throughput(Throughput::Bytes(BULK as u64));
    for max_udp_payload in [1_452, 8_952] {
        let config = Config {
            max_udp_payload,
            ..Config::default()
        };
        let worker = worker(config).expect("loopback sockets");
        group.bench_function(format!("16 MiB in datagrams of {max_udp_payload}"), |bencher| {
            bencher.iter_custom(|downloads| {
                worker
                    .local
                    .block_on(&worker.runtime, bulk(worker.target.clone(), downloads))
            });
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
