//! Impaired links: each impairment proven by the packets that arrive, or do not.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::UdpSocket;
use std::time::Duration;
use weft_lab::netns::{Host, ImpairedLink, ImpairedOptions, privileged};

const SOON: Duration = Duration::from_secs(20);

struct Pair {
    left: Host,
    right: Host,
    link: ImpairedLink,
}

impl Pair {
    fn new(options: ImpairedOptions) -> Self {
        let (left, right) = (Host::new("left").unwrap(), Host::new("right").unwrap());
        let link = ImpairedLink::join(&left, &right, 1, options).unwrap();
        Self { left, right, link }
    }
}

#[test]
fn both_families_pass_unchanged() {
    privileged(|| {
        let pair = Pair::new(ImpairedOptions::default());
        for address in pair.link.right() {
            let receiver = pair.right.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap();
            let to = receiver.local_addr().unwrap();
            let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
            let sender = pair.left.run(|| UdpSocket::bind(any).unwrap()).unwrap();
            sender.send_to(b"hello", to).unwrap();
            receiver.set_read_timeout(Some(SOON)).unwrap();
            let mut buffer = [0; 100];
            let (length, from) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"hello");
            receiver.send_to(b"back", from).unwrap();
            sender.set_read_timeout(Some(SOON)).unwrap();
            assert_eq!(sender.recv(&mut buffer).unwrap(), 4);
        }
    })
    .unwrap();
}
