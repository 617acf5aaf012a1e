//! A NAT between the hosts, and its rebinding.

use crate::pair::{Pair, SOON, echo};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use weft_lab::netns::{Direction, ImpairedOptions, Rebind, privileged};

fn pair() -> Pair {
    Pair::with(ImpairedOptions {
        nat: true,
        ..Default::default()
    })
}

#[test]
fn a_rebound_nat_shows_another_port_or_address_and_forgets_the_old_ones() {
    privileged(|| {
        for index in [0, 1] {
            let pair = pair();
            let (sender, receiver, to) = pair.sockets(pair.link.right()[index]);
            let first = echo(&sender, &receiver, to);
            assert_eq!(first.ip(), pair.link.nat_addresses().unwrap()[index]);
            assert_ne!(first.port(), sender.local_addr().unwrap().port());
            assert_eq!(echo(&sender, &receiver, to), first, "a mapping lasts");

            pair.link.rebind(Rebind::Ports).unwrap();
            let second = echo(&sender, &receiver, to);
            assert_eq!(second.ip(), first.ip());
            assert_ne!(second.port(), first.port());

            pair.link.rebind(Rebind::Address).unwrap();
            let third = echo(&sender, &receiver, to);
            assert_ne!(third.ip(), second.ip());
            assert_eq!(third.ip(), pair.link.nat_addresses().unwrap()[index]);

            for (nth, old) in [first, second].into_iter().enumerate() {
                receiver.send_to(b"late", old).unwrap();
                pair.link
                    .wait_for(Direction::RightToLeft, SOON, |now| now.unmapped == nth as u64 + 1)
                    .unwrap();
            }
            assert_eq!(echo(&sender, &receiver, to), third);
        }
    })
    .unwrap();
}

#[test]
fn sockets_behind_a_nat_have_ports_of_their_own_and_strangers_do_not_get_in() {
    privileged(|| {
        let pair = pair();
        let (one, receiver, to) = pair.sockets(pair.link.right()[0]);
        let (other, ..) = pair.sockets(pair.link.right()[0]);
        assert_ne!(echo(&one, &receiver, to), echo(&other, &receiver, to));
        receiver
            .send_to(b"x", (pair.link.left()[0], one.local_addr().unwrap().port()))
            .unwrap();
        pair.link
            .wait_for(Direction::RightToLeft, SOON, |now| now.unmapped == 1)
            .unwrap();
    })
    .unwrap();
}

#[test]
fn tcp_passes_a_nat_with_sound_checksums() {
    privileged(|| {
        let pair = pair();
        for (address, seen) in pair
            .link
            .right()
            .into_iter()
            .zip(pair.link.nat_addresses().unwrap())
        {
            let listener = pair
                .right
                .run(|| TcpListener::bind((address, 0)).unwrap())
                .unwrap();
            let to = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, from) = listener.accept().unwrap();
                let mut received = Vec::new();
                stream.read_to_end(&mut received).unwrap();
                stream.write_all(&received).unwrap();
                from.ip()
            });
            let text: Vec<u8> = (0..300_000_u32).map(|n| (n % 253) as u8).collect();
            let mut stream = pair.left.run(|| TcpStream::connect(to).unwrap()).unwrap();
            stream.write_all(&text).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            assert!(back == text);
            assert_eq!(server.join().unwrap(), seen);
        }
    })
    .unwrap();
}

#[test]
fn a_link_without_nat_cannot_be_rebound() {
    privileged(|| {
        let pair = Pair::new();
        assert!(pair.link.rebind(Rebind::Ports).is_err());
        assert!(pair.link.nat_addresses().is_err());
    })
    .unwrap();
}
