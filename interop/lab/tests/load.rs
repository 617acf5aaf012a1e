//! The load generator: what it counts, and that it notices what is wrong.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use weft_lab::load::{self, Limit, Options, Report, Work};
use weft_lab::services::{instant, small_answer, tcp};

/// Serves on a thread with a runtime of its own; the load needs this thread.
fn start<F: Future<Output = std::io::Result<()>>>(
    service: impl FnOnce(tokio::net::TcpListener) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { service(tokio::net::TcpListener::from_std(listener).unwrap()).await })
    });
    address
}

/// Answers every connection's every read with `answer`.
fn start_script(answer: impl Fn(usize) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut count = 0;
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            while let Ok(1..) = stream.read(&mut [0; 4096]) {
                count += 1;
                let answer = answer(count);
                if answer.is_empty() || stream.write_all(&answer).is_err() {
                    break;
                }
            }
        }
    });
    address
}

fn http(target: SocketAddr, limit: Limit) -> Options {
    let expect = Some(small_answer("app"));
    Options {
        target,
        work: Work::Http {
            host: "app".to_owned(),
            path: "/".to_owned(),
            expect,
        },
        connections: 4,
        warmup: Duration::ZERO,
        limit,
        timeout: Duration::from_millis(300),
        watch: vec![],
    }
}

fn answer(body: &[u8]) -> Vec<u8> {
    [
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(),
        body,
    ]
    .concat()
}

fn error_count(report: &Report, error: &str) -> u64 {
    report.errors.get(error).copied().unwrap_or_default()
}

#[test]
fn counted_requests_are_counted_exactly() {
    let address = start(|listener| async move { instant::serve(listener, "app").await });
    let report = load::run(&http(address, Limit::Count(1000))).unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.requests, report.bytes), (1000, 200_000));
    let latency = report.latency;
    assert!(latency.p50_us > 0.0 && latency.p50_us <= latency.p99_us && latency.p99_us <= latency.max_us);
}

#[test]
fn a_timed_load_takes_its_time_and_watches_processes() {
    let address = start(|listener| async move { instant::serve(listener, "app").await });
    let mut options = http(address, Limit::Duration(Duration::from_millis(300)));
    options.warmup = Duration::from_millis(50);
    options.watch = vec![std::process::id()];
    let report = load::run(&options).unwrap();
    assert!(report.is_clean(), "{report}");
    assert!((0.3..0.6).contains(&report.seconds), "{report}");
    let [watched] = report.watched.as_slice() else {
        panic!("one process is watched")
    };
    assert!(watched.cpu_seconds > 0.05 && watched.rss > 0, "{report}");
    assert!(report.watched_cpu_us_per_request() > 0.0);
}

#[test]
fn the_report_survives_json() {
    let address = start(|listener| async move { instant::serve(listener, "app").await });
    let report = load::run(&http(address, Limit::Count(10))).unwrap();
    let read: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(read.requests, report.requests);
}

#[test]
fn one_wrong_byte_is_an_error() {
    let mut wrong = small_answer("app").to_vec();
    wrong[100] ^= 1;
    let right = small_answer("app");
    let address = start_script(move |count| answer(if count == 7 { &wrong } else { &right }));
    let mut options = http(address, Limit::Count(10));
    options.connections = 1;
    options.work = Work::Http {
        host: "app".to_owned(),
        path: "/".to_owned(),
        expect: None,
    };
    let report = load::run(&options).unwrap();
    assert_eq!(
        (report.requests, error_count(&report, "wrong answer")),
        (9, 1),
        "{report}"
    );
    assert!(!report.is_clean());
}

#[test]
fn every_failure_has_its_name() {
    for (script, error) in [
        (answer(b"short"), "wrong answer"),
        (
            b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_vec(),
            "status 503",
        ),
        (b"SSH-2.0\r\n".to_vec(), "malformed answer"),
        (vec![], "connection closed before the answer's end"),
    ] {
        let address = start_script(move |_| script.clone());
        let mut options = http(address, Limit::Count(1));
        options.connections = 1;
        let report = load::run(&options).unwrap();
        assert_eq!(error_count(&report, error), 1, "{error}: {report}");
    }
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let report = load::run(&http(refused, Limit::Duration(Duration::from_millis(30)))).unwrap();
    assert!(error_count(&report, "connection refused") > 0, "{report}");
}

#[test]
fn a_server_that_never_answers_is_an_error_and_not_a_hang() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for limit in [Limit::Count(8), Limit::Duration(Duration::from_millis(50))] {
        let report = load::run(&http(listener.local_addr().unwrap(), limit)).unwrap();
        assert_eq!(error_count(&report, "no answer in time"), 4, "{report}");
    }
}

#[test]
fn pings_are_echoed_and_checked() {
    let address = start(tcp::echo);
    let mut options = http(address, Limit::Count(500));
    options.work = Work::Ping { size: 64 };
    let report = load::run(&options).unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.requests, report.bytes), (500, 500 * 64));
    // An echo that repeats its first answer.
    options.target = start_script(|_| vec![0; 64]);
    options.connections = 1;
    let report = load::run(&options).unwrap();
    assert!(error_count(&report, "wrong answer") > 0, "{report}");
}

#[test]
fn bulk_downloads_are_measured_and_checked() {
    let address = start(|listener| async move { instant::serve(listener, "app").await });
    let mut options = http(address, Limit::Count(2));
    options.connections = 1;
    options.work = Work::Bulk {
        host: "app".to_owned(),
        bytes: 20_000_000,
    };
    let report = load::run(&options).unwrap();
    assert!(report.is_clean() && report.gbit_per_second > 0.0, "{report}");
    assert_eq!((report.requests, report.bytes), (2, 40_000_000));
    // The right number of wrong bytes.
    options.target = start_script(|_| answer(&[7; 1000]));
    options.work = Work::Bulk {
        host: "app".to_owned(),
        bytes: 1000,
    };
    let report = load::run(&options).unwrap();
    assert_eq!(error_count(&report, "wrong answer"), 2, "{report}");
}
