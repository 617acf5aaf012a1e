//! Hosts, links and the sniffer. Without root these run in a user namespace of their own.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;
use weft_lab::netns::{Host, Link, LinkOptions, Sniffer, privileged};
use weft_lab::process::{Process, Ready, Udp};

const SOON: Duration = Duration::from_secs(20);

fn pair(options: LinkOptions) -> (Host, Host, Link) {
    let (left, right) = (Host::new("left").unwrap(), Host::new("right").unwrap());
    let link = Link::join(&left, &right, 1, options).unwrap();
    (left, right, link)
}

/// Sends `text` over TCP from left to right and back.
fn exchange(left: &Host, right: &Host, address: IpAddr, text: &[u8]) {
    let listener = right.run(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let target = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        stream.write_all(&received).unwrap();
    });
    let mut stream = left.run(|| TcpStream::connect(target).unwrap()).unwrap();
    stream.write_all(text).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert_eq!(received, text);
    server.join().unwrap();
}

#[test]
fn hosts_reach_each_other_over_the_link_alone() {
    privileged(|| {
        let (left, right, link) = pair(LinkOptions::default());
        for address in link.right() {
            exchange(&left, &right, address, b"hello");
        }
        // Neither the machine's own network nor a third host is there.
        let third = Host::new("third").unwrap();
        let reach = |host: &Host| {
            host.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().connect("10.77.1.2:9"))
                .unwrap()
        };
        assert!(reach(&left).is_ok());
        assert!(reach(&third).is_err());
    })
    .unwrap();
}

#[test]
fn processes_run_in_their_host() {
    privileged(|| {
        let (left, right, link) = pair(LinkOptions::default());
        let address = SocketAddr::new(link.right()[0], 8080);
        let mut command = right.command(env!("CARGO_BIN_EXE_weft-lab"));
        command.args([
            "services",
            "instant",
            "--name",
            "app",
            "--listen",
            &address.to_string(),
        ]);
        let mut service = Process::spawn_ready("app", command, &Ready::Port(8080), SOON).unwrap();
        // Asked from within its namespace, as an address of its own.
        service
            .wait_ready(&Ready::Http(address, "/".to_owned()), SOON)
            .unwrap();
        let mut command = left.command(env!("CARGO_BIN_EXE_weft-lab"));
        command.args([
            "load",
            "--target",
            &address.to_string(),
            "--count",
            "50",
            "--expect",
            "app",
        ]);
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    })
    .unwrap();
}

/// How many of `count` datagrams arrive.
fn arrivals(from: &Host, to: &Host, address: IpAddr, count: usize) -> usize {
    let receiver = to.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap();
    let target = receiver.local_addr().unwrap();
    let sender = from.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    for _ in 0..count {
        sender.send_to(b"x", target).unwrap();
    }
    // The link has no delay: what a send did not deliver was dropped.
    receiver.set_nonblocking(true).unwrap();
    std::iter::from_fn(|| receiver.recv(&mut [0; 8]).ok()).count()
}

#[test]
fn losses_come_in_both_directions_at_their_rate() {
    privileged(|| {
        let (left, right, link) = pair(LinkOptions {
            drop_permille: 300,
            offloads: false,
            ..Default::default()
        });
        let directions = [(&left, &right, link.right()[0]), (&right, &left, link.left()[0])];
        for (from, to, address) in directions {
            // The kernel may drop for want of a receive buffer: small batches.
            let arrived: usize = (0..20).map(|_| arrivals(from, to, address, 50)).sum();
            assert!(
                (600..800).contains(&arrived),
                "{arrived} of 1000 arrived, 700 expected"
            );
        }
        link.set_drop(0).unwrap();
        for (from, to, address) in directions {
            assert_eq!(arrivals(from, to, address, 50), 50);
        }
        link.set_drop(1000).unwrap();
        assert_eq!(arrivals(&left, &right, link.right()[0], 50), 0);
    })
    .unwrap();
}

#[test]
fn without_offloads_no_packet_exceeds_the_mtu() {
    privileged(|| {
        const ETHERNET_HEADER: usize = 14;
        for (offloads, mtu) in [(false, 1500), (false, 1280), (true, 1500)] {
            let (left, right, link) = pair(LinkOptions {
                offloads,
                mtu,
                ..Default::default()
            });
            let sniffer = Sniffer::start(&right, link.interface(), b"x").unwrap();
            exchange(&left, &right, link.right()[0], &vec![b'x'; 1_000_000]);
            send_train(&left, &right, link.right()[0]);
            let seen = sniffer.finish().unwrap();
            let limit = mtu as usize + ETHERNET_HEADER;
            if offloads {
                assert!(seen.longest > limit, "offloads are off: {seen:?}");
            } else {
                assert_eq!(seen.longest, limit, "{mtu}");
            }
        }
    })
    .unwrap();
}

/// Sends datagrams in one call by generic segmentation offload, as QUIC does.
fn send_train(left: &Host, right: &Host, address: IpAddr) {
    use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
    let receiver = right.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap();
    let sender = left.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    setsockopt(&sender, UdpGsoSegment, &1000).unwrap();
    sender
        .send_to(&[0; 10_000], receiver.local_addr().unwrap())
        .unwrap();
    receiver.set_read_timeout(Some(SOON)).unwrap();
    for _ in 0..10 {
        assert_eq!(receiver.recv(&mut [0; 20_000]).unwrap(), 1000);
    }
}

#[test]
fn the_sniffer_finds_what_crosses_the_link_and_ignores_the_loopback() {
    privileged(|| {
        const CANARY: &[u8] = b"canary-5f2c";
        let (left, right, link) = pair(LinkOptions::default());
        for host in [&left, &right] {
            let sniffer = Sniffer::start(host, link.interface(), CANARY).unwrap();
            exchange(&left, &right, link.right()[0], b"..canary-5f2c..");
            let seen = sniffer.finish().unwrap();
            // There and back.
            assert_eq!((seen.matches, seen.missed), (2, 0), "{seen:?}");
            assert!(seen.first_match.is_some());
        }
        let sniffer = Sniffer::start(&right, link.interface(), CANARY).unwrap();
        exchange(&right, &right, "127.0.0.1".parse().unwrap(), b"..canary-5f2c..");
        exchange(&left, &right, link.right()[0], b"..canary-5f2d..");
        let seen = sniffer.finish().unwrap();
        assert_eq!((seen.matches, seen.missed), (0, 0), "{seen:?}");
        assert!(seen.packets > 0);
    })
    .unwrap();
}

#[test]
fn sysctls_are_the_hosts_own() {
    privileged(|| {
        let (left, right) = (Host::new("left").unwrap(), Host::new("right").unwrap());
        left.set_sysctl("ipv4.tcp_rmem", "4096 5000 6000").unwrap();
        assert_eq!(
            left.sysctl("ipv4.tcp_rmem")
                .unwrap()
                .split_whitespace()
                .collect::<Vec<_>>(),
            ["4096", "5000", "6000"]
        );
        assert_ne!(
            right.sysctl("ipv4.tcp_rmem").unwrap(),
            left.sysctl("ipv4.tcp_rmem").unwrap()
        );
        assert!(left.set_sysctl("ipv4.no_such_thing", "1").is_err());
    })
    .unwrap();
}

#[test]
fn dropped_datagrams_show_in_the_counters_of_their_host_alone() {
    privileged(|| {
        let (left, right, link) = pair(LinkOptions::default());
        let sleeper = |host: &Host| {
            let mut command = host.command("sleep");
            command.arg("60");
            Process::spawn("sleeper", command).unwrap()
        };
        let (in_left, in_right) = (sleeper(&left), sleeper(&right));
        let before = Udp::of(in_right.pid()).unwrap();
        // Far more than a receive buffer holds, and nobody reads.
        let receiver = right
            .run(|| UdpSocket::bind((link.right()[0], 0)).unwrap())
            .unwrap();
        let sender = left.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        for _ in 0..20_000 {
            sender
                .send_to(&[0; 1000], receiver.local_addr().unwrap())
                .unwrap();
        }
        let after = Udp::of(in_right.pid()).unwrap();
        assert!(
            after.receive_buffer_errors > before.receive_buffer_errors,
            "{after:?}"
        );
        assert_eq!(Udp::of(in_left.pid()).unwrap().receive_buffer_errors, 0);
    })
    .unwrap();
}

#[test]
fn a_cut_link_can_be_mended() {
    privileged(|| {
        let (left, right, link) = pair(LinkOptions::default());
        link.set_up(false).unwrap();
        let sender = left.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        assert!(sender.send_to(b"x", (link.right()[0], 9)).is_err());
        link.set_up(true).unwrap();
        exchange(&left, &right, link.right()[0], b"hello");
    })
    .unwrap();
}

#[test]
fn hosts_leave_nothing_behind() {
    privileged(|| {
        let interfaces = || Command::new("ip").args(["-o", "link"]).output().unwrap().stdout;
        let before = interfaces();
        let (left, _right, link) = pair(LinkOptions::default());
        assert_eq!(interfaces(), before, "a link shows outside of its hosts");
        let mut command = left.command("cat");
        command.arg("/proc/self/net/dev");
        let inside = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(inside.contains(link.interface()));
        let named = std::fs::read_dir("/run/netns").map_or(0, Iterator::count);
        drop((left, link));
        assert_eq!(std::fs::read_dir("/run/netns").map_or(0, Iterator::count), named);
    })
    .unwrap();
}
