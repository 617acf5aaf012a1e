//! What anybody may try who can send datagrams to the mesh port.

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use rustls::crypto::aws_lc_rs::{default_provider, kx_group::X25519};
use socket2::{Domain, Protocol, Socket, Type};
use weft_lab::netns::{Host, Link, LinkOptions, privileged};

use crate::{
    Size,
    common::{Mesh, SOON, Workload, port, raw::RawPeer},
    size,
    trial::{Attacker, run, trial},
};

/// First packets of clients of whom nothing more will come, each of another connection: one datagram of 1,200 bytes
/// each, the least that begins one, so that the answer is the most for its price.
async fn initials(directory: &Path, count: usize) -> Vec<Vec<u8>> {
    let sink = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("a socket");
    let address = sink.local_addr().expect("an address");
    let mut provider = default_provider();
    provider.kx_groups = vec![X25519];
    let endpoint = RawPeer::endpoint_with(directory, "mallory", provider, |_| {});
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    let mut buffer = vec![0; 65_536];
    while found.len() < count {
        // Kept until its packet is here, so that none is of its end.
        let connecting = endpoint.connect(address, "weft.invalid").expect("a connection");
        loop {
            let length = sink.recv(&mut buffer).await.expect("a datagram");
            let datagram = &buffer[..length];
            // Flags, version, and the destination's connection ID with its length (RFC 9000 section 17.2).
            let id = &datagram[6..6 + usize::from(datagram[5])];
            if datagram[0] & 0xb0 == 0x80 && seen.insert(id.to_vec()) {
                found.push(datagram.to_vec());
                break;
            }
        }
        drop(connecting);
    }
    found
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_nonblocking(true).expect("set an option");
    socket
}

/// Sends, with a pause now and then so that most of it arrives.
async fn send_all<'a>(
    attacker: &mut Attacker,
    socket: &UdpSocket,
    datagrams: impl Iterator<Item = &'a [u8]>,
) {
    let to = attacker.web.at(15_008);
    for (index, datagram) in datagrams.enumerate() {
        if let Ok(length) = socket.send_to(datagram, to) {
            attacker.sent += length as u64;
        }
        if index % 64 == 63 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[test]
fn junk() {
    run(trial("junk datagrams", None, async |attacker| {
        let mut state = 1_u64;
        let junk: Vec<Vec<u8>> = (0..1_000)
            .map(|index| {
                let mut bytes: Vec<u8> = (0..1 + index * 7 % 1_400)
                    .map(|_| {
                        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                        (state >> 56) as u8
                    })
                    .collect();
                // Half of them look like first packets of QUIC v1, a quarter like those of an open connection.
                match (index % 4, bytes.get_mut(..5)) {
                    (0 | 1, Some(first)) => first.copy_from_slice(&[0xc0, 0, 0, 0, 1]),
                    (2, Some(first)) => first[0] = 0x40,
                    _ => {}
                }
                bytes
            })
            .collect();
        let times = attacker.times(10, 1_000);
        let all = (0..times).flat_map(|_| junk.iter().map(Vec::as_slice));
        send_all(attacker, &socket(), all).await;
    }));
}

#[test]
fn empty_datagrams() {
    run(trial("empty datagrams", None, async |attacker| {
        let times = attacker.times(20_000, 1_000_000);
        send_all(attacker, &socket(), (0..times).map(|_| &b""[..])).await;
    }));
}

#[test]
fn handshakes_that_are_never_finished() {
    run(trial("unfinished handshakes", None, async |attacker| {
        let initials = initials(&attacker.directory, attacker.times(600, 20_000)).await;
        // As many as the listener works on at once.
        attacker.connections = 512;
        send_all(attacker, &socket(), initials.iter().map(Vec::as_slice)).await;
        // Whoever can prove its address is let in meanwhile.
        let peer = RawPeer::connect(&attacker.directory, "mallory", attacker.web.at(15_008)).await;
        attacker.done(&peer);
    }));
}

#[test]
fn handshakes_with_certificates_of_others() {
    run(trial(
        "handshakes with bad certificates",
        None,
        async |attacker| {
            let others = Mesh::new();
            others.certify("certs", &["mallory"]);
            let endpoint = RawPeer::endpoint(others.directory(), "mallory");
            let address = attacker.web.at(15_008);
            for _ in 0..attacker.times(5, 250) {
                let four: Vec<_> = (0..4)
                    .map(|_| endpoint.connect(address, "weft.invalid").expect("a connection"))
                    .collect();
                for connecting in four {
                    // The client is content first: it hears of the refusal behind its own Finished.
                    if let Ok(connection) = connecting.await {
                        connection.closed().await;
                        attacker.sent += connection.stats().udp_tx.bytes;
                    }
                    attacker.connections += 1;
                }
            }
        },
    ));
}

/// Packets and bytes that an interface has received and sent, as UDP payload.
fn payload(host: &Host, interface: &str) -> [u64; 2] {
    // Ethernet, IPv4 and UDP.
    const HEADERS: u64 = 14 + 20 + 8;
    let text = host
        .run(|| fs::read_to_string("/proc/thread-self/net/dev").expect("read counters"))
        .expect("a thread in the host");
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))
        .expect("the interface");
    let fields: Vec<u64> = line
        .split_whitespace()
        .map(|field| field.parse().expect("a number"))
        .collect();
    [(fields[0], fields[1]), (fields[8], fields[9])].map(|(bytes, packets)| bytes - packets * HEADERS)
}

/// An IPv4 packet with a UDP datagram from a forged source (RFC 791, RFC 768; a checksum of 0 is none).
fn forged(source: Ipv4Addr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let SocketAddr::V4(to) = to else {
        panic!("IPv4 alone")
    };
    let length = |headers: usize| {
        u16::try_from(payload.len() + headers)
            .expect("a short datagram")
            .to_be_bytes()
    };
    let mut packet = vec![0x45, 0];
    packet.extend(length(28));
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(to.ip().octets());
    packet.extend(4_433_u16.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(length(8));
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

fn spoofed(count: usize) {
    let (left, right) = (Host::new("left").unwrap(), Host::new("right").unwrap());
    // Without offloads, so that the counters see what a link would.
    let options = LinkOptions {
        offloads: false,
        ..LinkOptions::default()
    };
    let link = Link::join(&left, &right, 9, options).unwrap();
    let [address, gateway] = [link.right()[0], link.left()[0]];
    // Answers go out, to wherever.
    let route = ["route", "add", "10.99.0.0/16", "via", &gateway.to_string()];
    assert!(
        right
            .command("ip")
            .args(route)
            .status()
            .expect("run ip")
            .success()
    );
    let mut mesh = Mesh::new();
    mesh.certify("certs", &["mallory"]);
    let web = mesh.workload(Workload {
        address,
        host: Some(right.clone()),
        ..Workload::new("web-0", "web").port("http", port::HTTP, "http")
    });
    mesh.start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let initials = runtime.block_on(initials(mesh.directory(), count));
    let before = payload(&right, link.interface());
    let to = web.at(15_008);
    left.run(|| {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
            .expect("a raw socket");
        for (index, initial) in initials.iter().enumerate() {
            let [high, low] = u16::try_from(index % 65_000)
                .expect("a small number")
                .to_be_bytes();
            let packet = forged(Ipv4Addr::new(10, 99, high, low), to, initial);
            raw.send_to(&packet, &to.into()).expect("send");
            if index % 64 == 63 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    })
    .expect("a thread in the host");
    let [received, sent] = settled(|| payload(&right, link.interface()));
    let (received, sent) = (received - before[0], sent - before[1]);
    let ratio = sent as f64 / received as f64;
    println!("{count} spoofed first packets: {received} bytes in, {sent} bytes out, {ratio:.2} times");
    assert!(received >= count as u64 * 1_200, "not all arrived: {received}");
    assert!(sent > 0, "nothing was answered");
    assert!(ratio <= 3.0, "{ratio}");
}

/// What counters say when they have stopped for longer than a handshake's probes are apart.
fn settled<T: PartialEq>(mut read: impl FnMut() -> T) -> T {
    const QUIET: Duration = Duration::from_millis(1_500);
    let deadline = Instant::now() + SOON;
    let (mut last, mut since) = (read(), Instant::now());
    while since.elapsed() < QUIET && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        let now = read();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

#[test]
fn spoofed_first_packets_are_answered_with_no_more_than_three_times_their_bytes() {
    // Few enough for no Retry, which would answer with less; then many.
    let counts = match size() {
        Size::Small => &[200][..],
        Size::Full => &[200, 20_000],
    };
    privileged(|| counts.iter().copied().for_each(spoofed)).unwrap();
}
