//! The client's host changes its address while its applications go on.
//!
//! `WEFT_FULL=1` takes the sizes that are promised: 1 GiB, 20 changes, 100 requests a second.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, Sender},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use weft_lab::{netns::privileged, services::Pattern};

use crate::{
    common::{SOON, port},
    setup::{Lab, get},
};

const MIB: u64 = 1 << 20;
/// Threads that send requests beside the download.
const CALLERS: u32 = 4;

struct Size {
    download: u64,
    changes: u8,
    /// Of all callers together, in a second.
    requests: u32,
}

fn size() -> Size {
    if std::env::var_os("WEFT_FULL").is_some() {
        return Size {
            download: 1024 * MIB,
            changes: 20,
            requests: 100,
        };
    }
    Size {
        download: 200 * MIB,
        changes: 5,
        requests: 40,
    }
}

/// Downloads over one connection of an application's, and tells how far it is. The content is checked.
fn download(address: SocketAddr, bytes: u64, progress: &Sender<u64>) {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(SOON)).expect("set a timeout");
    let request = format!("GET /bytes?n={bytes} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("send");
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a status");
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("a field");
    }
    let (mut received, mut pattern) = (0, Pattern::default());
    while received < bytes {
        let piece = reader.fill_buf().expect("content");
        assert!(!piece.is_empty(), "the download ended after {received} bytes");
        assert!(pattern.matches(piece), "other content near byte {received}");
        let length = piece.len();
        reader.consume(length);
        received += length as u64;
        progress.send(received).ok();
    }
    assert_eq!(reader.read(&mut [0]).expect("the end"), 0);
}

/// Sends requests at a steady pace over one connection until told to stop; gives how many, and the longest wait.
fn call(address: SocketAddr, pace: Duration, stop: &AtomicBool) -> (u32, Duration) {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(SOON)).expect("set a timeout");
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let (mut sent, mut worst, started) = (0, Duration::ZERO, Instant::now());
    while !stop.load(Relaxed) {
        let begun = Instant::now();
        stream.write_all(request.as_bytes()).expect("send");
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while !answer.ends_with(b".\n") {
            let length = stream.read(&mut buffer).expect("an answer");
            assert!(length > 0, "the connection ended");
            answer.extend_from_slice(&buffer[..length]);
        }
        assert!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        worst = worst.max(begun.elapsed());
        sent += 1;
        std::thread::sleep((pace * sent).saturating_sub(started.elapsed()));
    }
    (sent, worst)
}

/// What the client's sidecar says of its connections to the other.
fn connections(lab: &Lab) -> Vec<Value> {
    let answer = get(&lab.left, "127.0.0.1:15000".parse().unwrap(), "/connections").expect("an answer");
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    let all: Value = serde_json::from_str(body).expect("JSON");
    let workers = all["workers"].as_array().expect("workers");
    let of_worker = |worker: &Value| worker["connections"].as_array().expect("a list").clone();
    workers
        .iter()
        .flat_map(of_worker)
        .filter(|connection| connection["direction"] == "outbound")
        .collect()
}

/// Handshakes that the other sidecar has seen.
fn handshakes(lab: &Lab) -> f64 {
    let answer = get(&lab.right, lab.web(15_020), "/metrics").expect("metrics");
    let line = answer
        .lines()
        .find(|line| line.starts_with("weft_handshakes_total"))
        .expect("a counter");
    line.rsplit_once(' ')
        .expect("a value")
        .1
        .parse()
        .expect("a number")
}

fn the_client_moves(family: usize) {
    let Size {
        download: bytes,
        changes,
        requests,
    } = size();
    let lab = Lab::start(family, |_| {});
    for workload in ["client-0", "web-0"] {
        lab.capture(workload, &[]);
    }
    get(&lab.left, lab.service(80), "/").expect("the mesh works");
    assert_eq!((connections(&lab).len(), handshakes(&lab)), (1, 1.0));
    let stop = AtomicBool::new(false);
    let (progress, so_far) = mpsc::channel();
    let at = |number: u8| -> IpAddr {
        let address = [format!("10.77.9.{number}"), format!("fd77:0:0:9::{number:x}")];
        address[family].parse().expect("an address")
    };
    let pace = Duration::from_secs(1) * CALLERS / requests;
    let in_left = |f: Box<dyn FnOnce() + Send + '_>| lab.left.run(f).expect("a thread in the host");
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| scope.spawn(|| lab.left.run(|| call(lab.service(80), pace, &stop)).unwrap()))
            .collect();
        let service = lab.service(80);
        let downloading = scope.spawn(move || in_left(Box::new(move || download(service, bytes, &progress))));
        let mut old = lab.link.left()[family];
        for change in 1..=changes {
            let goal = bytes * u64::from(change) / (u64::from(changes) + 1);
            let reached = so_far.iter().any(|received| received >= goal);
            assert!(reached, "the download ended before change {change}");
            let new = at(9 + change);
            lab.left.replace_address(lab.link.interface(), old, new).unwrap();
            old = new;
        }
        downloading.join().expect("a whole download");
        stop.store(true, Relaxed);
        let figures: Vec<_> = callers
            .into_iter()
            .map(|caller| caller.join().expect("no failure"))
            .collect();
        let sent: u32 = figures.iter().map(|(sent, _)| sent).sum();
        let worst = figures.iter().map(|(_, worst)| *worst).max();
        println!("{bytes} bytes, {changes} changes, {sent} requests, the longest {worst:?}");
    });
    let [connection] = &connections(&lab)[..] else {
        panic!("another connection was made: {:#?}", connections(&lab))
    };
    // Changes within a moment of each other are one move.
    assert!(connection["migrations"].as_u64() >= Some(1), "{connection:#}");
    assert_eq!(handshakes(&lab), 1.0, "no new handshake");
    // What comes later comes from the new address.
    assert!(get(&lab.left, lab.service(80), "/").is_ok());
    assert_eq!(lab.web(port::HTTP).ip(), lab.link.right()[family]);
}

#[test]
fn a_download_by_service_address_outlives_the_hosts_address() {
    privileged(|| the_client_moves(0)).unwrap();
}

#[test]
fn a_download_by_service_address_outlives_the_hosts_ipv6_address() {
    privileged(|| the_client_moves(1)).unwrap();
}
