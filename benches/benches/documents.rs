//! What documents cost a controller with 1,000 services and 10,000 workloads: reading one, and changing one.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark fails by panicking")]

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use weft_proto::{
    Source,
    mesh_set::{Change, MeshSet, Unserved},
    parse::{Parsed, parse_document},
};

const SERVICES: u32 = 1_000;
const WORKLOADS: u32 = 10_000;

const CONFIG: &str = r#"{"apiVersion":"weft.dev/v1alpha1","kind":"MeshConfig","metadata":{"name":"mesh"},
    "spec":{"trustDomain":"mesh.example","meshRanges":["10.0.0.0/8"],"serviceRanges":["10.96.0.0/12"]}}"#;

fn service(number: u32) -> String {
    let (high, low) = (number >> 8, number & 255);
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s{number}","namespace":"shop"}},"spec":{{"clusterIP":"10.96.{high}.{low}","ports":[{{"appProtocol":"http","name":"http","port":80,"targetPort":"http"}},{{"name":"metrics","port":9090}}],"selector":{{"app":"s{number}"}}}}}}"#
    )
}

fn workload(number: u32, port: u16) -> String {
    let (app, high, low) = (number % SERVICES, number >> 8, number & 255);
    format!(
        r#"{{"apiVersion":"weft.dev/v1alpha1","kind":"Workload","metadata":{{"labels":{{"app":"s{app}","pod-template-hash":"7c5ddbdf54","version":"v1"}},"name":"s{app}-{number}","namespace":"shop"}},"spec":{{"address":"10.0.{high}.{low}","locality":{{"region":"eu-west-1","zone":"eu-west-1a"}},"meshPort":15008,"ports":[{{"name":"http","port":{port},"protocol":"http"}},{{"name":"metrics","port":9090}}],"serviceAccount":"web"}}}}"#
    )
}

fn parsed(text: String) -> Arc<Parsed> {
    Arc::new(parse_document(&Source::new("a.json", text)).unwrap())
}

fn benches(criterion: &mut Criterion) {
    for (name, text) in [("workload", workload(1, 8080)), ("service", service(1))] {
        let source = Source::new("a.json", text);
        criterion.bench_function(&format!("parse a {name}"), |bencher| {
            bencher.iter(|| parse_document(black_box(&source)));
        });
    }
    let texts = (0..SERVICES)
        .map(service)
        .chain((0..WORKLOADS).map(|number| workload(number, 8080)));
    let all = [CONFIG.to_owned()]
        .into_iter()
        .chain(texts)
        .map(parsed)
        .map(Change::Put);
    let mut set = MeshSet::new();
    set.apply(all, Unserved::Refuse).unwrap();

    let change = |port| {
        (0..WORKLOADS)
            .map(|number| parsed(workload(number, port)))
            .collect::<Vec<_>>()
    };
    let mut workloads = [change(8081), change(8080)].concat().into_iter().cycle();
    criterion.bench_function("change a workload of 10,000", |bencher| {
        bencher.iter(|| {
            set.apply(workloads.next().map(Change::Put), Unserved::Report)
                .unwrap()
        });
    });
    let services: Vec<_> = (0..SERVICES).map(|number| parsed(service(number))).collect();
    let mut services = services.into_iter().cycle();
    criterion.bench_function("change a service of 1,000", |bencher| {
        bencher.iter(|| {
            set.apply(services.next().map(Change::Put), Unserved::Refuse)
                .unwrap()
        });
    });
    let config = parsed(CONFIG.to_owned());
    criterion.bench_function("change the MeshConfig", |bencher| {
        bencher.iter(|| {
            set.apply([Change::Put(config.clone())], Unserved::Refuse)
                .unwrap()
        });
    });
}

criterion_group!(documents, benches);
criterion_main!(documents);
