//! The open load: that every request has its own id, counts once and as it ended, and for its part.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use http::Method;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use weft_lab::load::open::{Load, Options, Outcome};
use weft_lab::services::counts::Counts;
use weft_lab::services::http as http_service;

/// A service of version `v2` on a thread of its own.
struct Service {
    address: SocketAddr,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let options = http_service::Options {
                    version: Some("v2".to_owned()),
                    ..http_service::Options::named("web-0")
                };
                http_service::serve(tokio::net::TcpListener::from_std(listener).unwrap(), options).await
            })
        });
        Self { address }
    }

    fn options(&self, count: u64) -> Options {
        Options {
            rate: 1_000,
            count: Some(count),
            ..Options::get(self.address, "web")
        }
    }

    fn fault(&self, query: &str) {
        let outcome = finish(Options {
            method: Method::PUT,
            path: format!("/fault?{query}"),
            ..self.options(1)
        });
        assert_eq!(outcome.succeeded(), 1, "{outcome:?}");
    }

    fn counts(&self) -> Counts {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .write_all(b"GET /counts HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

/// Sends all of it.
fn finish(options: Options) -> Outcome {
    assert!(options.count.is_some());
    let load = Load::start(options).unwrap();
    wait(&load, Load::is_done);
    load.stop()
}

fn wait(load: &Load, is_so: impl Fn(&Load) -> bool) {
    let begun = Instant::now();
    while !is_so(load) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", load.so_far());
        std::thread::yield_now();
    }
}

#[test]
fn every_request_has_an_id_of_its_own_and_counts_once() {
    let service = Service::start();
    let outcome = finish(Options {
        id_prefix: "a-".to_owned(),
        ..service.options(200)
    });
    assert_eq!((outcome.sent, outcome.succeeded(), outcome.open()), (200, 200, 0));
    assert_eq!(outcome.statuses, [(200, 200)].into());
    assert_eq!(outcome.versions, [("v2".to_owned(), 200)].into());
    assert_eq!(outcome.services, [("web-0".to_owned(), 200)].into());
    let posts = finish(Options {
        method: Method::POST,
        path: "/digest".to_owned(),
        content: "some text".into(),
        ..service.options(30)
    });
    assert_eq!(posts.succeeded(), 30);
    let counts = service.counts();
    assert_eq!(counts.methods["GET"].seen, [(1, 200)].into());
    assert_eq!(counts.methods["POST"].seen, [(1, 30)].into());
}

#[test]
fn what_goes_wrong_is_counted_and_stops_nothing() {
    let service = Service::start();
    service.fault("kind=status&code=503&share=50");
    let outcome = finish(service.options(100));
    assert_eq!(outcome.statuses, [(200, 50), (503, 50)].into());
    assert_eq!((outcome.succeeded(), outcome.failed()), (50, 50));
    for fault in ["kind=reset&share=50", "kind=cut&share=50", "kind=hang&share=50"] {
        service.fault(fault);
        let outcome = finish(Options {
            timeout: Duration::from_millis(300),
            ..service.options(20)
        });
        let failures: u64 = outcome.failures.values().sum();
        assert_eq!(
            (outcome.succeeded(), failures, outcome.open()),
            (10, 10, 0),
            "{fault}: {outcome:?}"
        );
    }
    // Nobody listens there.
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = nobody.local_addr().unwrap();
    drop(nobody);
    let outcome = finish(Options {
        target,
        ..service.options(5)
    });
    assert_eq!((outcome.sent, outcome.failed()), (5, 5));
}

#[test]
fn a_request_counts_for_the_part_in_which_it_was_sent() {
    let service = Service::start();
    service.fault("kind=hang");
    let load = Load::start(Options {
        count: None,
        timeout: Duration::from_secs(1),
        ..service.options(0)
    })
    .unwrap();
    wait(&load, |load| load.part(0).sent >= 10);
    let second = load.next_part();
    service.fault("kind=none");
    let third = load.next_part();
    wait(&load, |load| load.part(third).succeeded() >= 10);
    assert_eq!(load.part(third).failed(), 0);
    let parts = load.stop_parts();
    assert_eq!(parts.len(), 3);
    assert_eq!((parts[0].succeeded(), parts[0].failed()), (0, parts[0].sent));
    assert_eq!(
        (parts[third].failed(), parts[third].open()),
        (0, 0),
        "{:?}",
        parts[third]
    );
    assert_eq!(parts[second].open(), 0);
}
