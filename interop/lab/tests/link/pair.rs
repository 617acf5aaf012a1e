//! Two hosts, an impaired link, and datagrams with sequence numbers.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use weft_lab::netns::{Counters, Direction, Host, ImpairedLink, ImpairedOptions};

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Datagrams sent in a row: they fit into the receive buffer of a socket whose reader is kept waiting.
const TRAIN: usize = 50;

pub(crate) struct Pair {
    pub(crate) left: Host,
    pub(crate) right: Host,
    pub(crate) link: ImpairedLink,
}

/// A datagram that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) sequence: usize,
    pub(crate) after: Duration,
    pub(crate) payload: Vec<u8>,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(ImpairedOptions {
            seed: 7,
            ..Default::default()
        })
    }

    pub(crate) fn with(options: ImpairedOptions) -> Self {
        let (left, right) = (Host::new("left").unwrap(), Host::new("right").unwrap());
        let link = ImpairedLink::join(&left, &right, 1, options).unwrap();
        Self { left, right, link }
    }

    /// A sender on the left and a receiver on the right, whose address it returns.
    pub(crate) fn sockets(&self, address: IpAddr) -> (UdpSocket, UdpSocket, SocketAddr) {
        let receiver = bind(&self.right, address);
        let to = receiver.local_addr().unwrap();
        (bind_any(&self.left, address), receiver, to)
    }

    /// Sends datagrams of `size` bytes from left to right; returns those that arrived, in order of arrival. Reads
    /// as many as the link says will arrive, and fails if they do not.
    pub(crate) fn send(&self, count: usize, size: usize) -> Vec<Arrival> {
        let (sender, receiver, to) = self.sockets(self.link.right()[0]);
        let mut arrivals = Vec::new();
        let mut sent = Vec::new();
        let mut buffer = [0; 2000];
        while sent.len() < count {
            let train = TRAIN.min(count - sent.len());
            let before = self.link.counters(Direction::LeftToRight);
            for _ in 0..train {
                let mut payload = vec![0xaa; size];
                payload[..8].copy_from_slice(&(sent.len() as u64).to_be_bytes());
                sent.push(Instant::now());
                sender.send_to(&payload, to).unwrap();
            }
            let expected = arrivals.len() + self.expected(before, train);
            while arrivals.len() < expected {
                let length = receiver.recv(&mut buffer).unwrap();
                let sequence = u64::from_be_bytes(buffer[..8].try_into().unwrap()) as usize;
                arrivals.push(Arrival {
                    sequence,
                    after: sent.get(sequence).map_or(Duration::ZERO, Instant::elapsed),
                    payload: buffer[..length].to_vec(),
                });
            }
        }
        arrivals
    }

    /// How many datagrams arrive of a train.
    fn expected(&self, before: Counters, train: usize) -> usize {
        let awaited = total(&before) + train as u64;
        let counters = self
            .link
            .wait_for(Direction::LeftToRight, SOON, |now| total(now) >= awaited)
            .unwrap();
        assert_eq!(counters.refused, 0);
        (counters.passed + counters.duplicated - before.passed - before.duplicated) as usize
    }

    /// Whether a datagram goes from left to right and back.
    pub(crate) fn echo(&self, address: IpAddr) -> SocketAddr {
        let (sender, receiver, to) = self.sockets(address);
        echo(&sender, &receiver, to)
    }
}

/// Every packet that has come to the link.
pub(crate) fn total(counters: &Counters) -> u64 {
    counters.passed
        + counters.cut
        + counters.too_big
        + counters.queue_full
        + counters.lost
        + counters.unmapped
}

/// Sends a datagram and an answer; returns where the receiver sees the sender.
pub(crate) fn echo(sender: &UdpSocket, receiver: &UdpSocket, to: SocketAddr) -> SocketAddr {
    let mut buffer = [0; 100];
    sender.send_to(b"ask", to).unwrap();
    let (length, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"ask");
    receiver.send_to(b"answer", from).unwrap();
    assert_eq!(sender.recv_from(&mut buffer).unwrap(), (6, to));
    from
}

pub(crate) fn bind(host: &Host, address: IpAddr) -> UdpSocket {
    let socket = host.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// A socket for any address of the family of `like`.
pub(crate) fn bind_any(host: &Host, like: IpAddr) -> UdpSocket {
    let any = if like.is_ipv6() { "::" } else { "0.0.0.0" };
    bind(host, any.parse().unwrap())
}
