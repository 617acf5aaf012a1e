//! Two hosts that share nothing but a link.

use std::{net::IpAddr, process::Command};

use http::{Request, StatusCode};
use weft_lab::{
    netns::{Host, Link, LinkOptions, Sniffer, privileged},
    process::{Process, Ready},
};

use crate::common::{Mesh, PROXY, SOON, Workload, port};

/// Starts a service of the laboratory in a host.
fn service(host: &Host, kind: &str, listen: &str, port: u16) -> Process {
    let mut command: Command = host.command(&*PROXY);
    command.args(["lab", "services", kind, "--name", "web-0", "--listen", listen]);
    Process::spawn_ready(kind, command, &Ready::Port(port), SOON).expect("a service")
}

/// Sends a request with the needle in its path, fields and body, and gives the answer, from within a host.
fn exchange(host: &Host, address: &str, needle: &str) -> String {
    let body = needle.repeat(100);
    let request = Request::post(format!("/echo?{needle}"))
        .body(())
        .expect("a request");
    let text = format!(
        "POST {} HTTP/1.1\r\nHost: web\r\nX-Needle: {needle}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        request.uri(),
        body.len(),
    );
    host.run(|| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(SOON)).expect("set a timeout");
        stream.write_all(text.as_bytes()).expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    })
    .expect("a thread in the host")
}

fn two_hosts(family: usize) {
    const NEEDLE: &str = "needle-3f9a";
    let (left, right) = (Host::new("left").unwrap(), Host::new("right").unwrap());
    let link = Link::join(&left, &right, 7, LinkOptions::default()).unwrap();
    let at = |workload: Workload, address: IpAddr, host: &Host| Workload {
        address,
        host: Some(host.clone()),
        ..workload
    };
    let mut mesh = Mesh::new();
    mesh.service("web", &[("http", 80, port::HTTP, "http")]);
    let client = mesh.workload(at(
        Workload::new("client-0", "client"),
        link.left()[family],
        &left,
    ));
    let web = Workload::new("web-0", "web").port("http", port::HTTP, "");
    let web = mesh.workload(at(web, link.right()[family], &right));
    let _service = service(&right, "http", &web.at(port::HTTP).to_string(), port::HTTP);
    mesh.start();
    let sniffer = Sniffer::start(&right, link.interface(), NEEDLE.as_bytes()).unwrap();
    for _ in 0..10 {
        let answer = exchange(&left, "127.0.0.1:15001", NEEDLE);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {} ", StatusCode::OK.as_str())),
            "{answer}"
        );
        assert!(answer.ends_with(&NEEDLE.repeat(100)), "{answer}");
    }
    let seen = sniffer.finish().unwrap();
    assert!(seen.packets > 20, "nothing crossed the link: {seen:?}");
    assert_eq!((seen.matches, seen.missed), (0, 0), "{:?}", seen.first_match);
    // The sniffer would have seen it: past the sidecars it is in the clear.
    let sniffer = Sniffer::start(&right, link.interface(), NEEDLE.as_bytes()).unwrap();
    exchange(&left, &web.at(port::HTTP).to_string(), NEEDLE);
    assert!(sniffer.finish().unwrap().matches > 0);
    assert_eq!(client.address, link.left()[family]);
}

#[test]
fn nothing_of_a_request_crosses_the_link_in_the_clear() {
    privileged(|| two_hosts(0)).unwrap();
}

#[test]
fn nothing_crosses_the_link_in_the_clear_over_ipv6() {
    privileged(|| two_hosts(1)).unwrap();
}
