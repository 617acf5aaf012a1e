//! What each impairment does to datagrams.

use crate::pair::{Pair, SOON, bind, bind_any};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use weft_lab::netns::impairment::{
    Checksum, Corrupt, GilbertElliott, Impairment, Loss, MtuLimit, Order, Rate, Reorder, Share, TooBig,
};
use weft_lab::netns::{Direction, Host, privileged};

const COUNT: usize = 4000;
const SIZE: usize = 100;
const NONE: Impairment = Impairment {
    delay: Duration::ZERO,
    jitter: Duration::ZERO,
    order: Order::Kept,
    loss: Loss::None,
    duplicate: Share::NONE,
    reorder: Reorder {
        share: Share::NONE,
        by: Duration::ZERO,
    },
    corrupt: Corrupt {
        share: Share::NONE,
        checksum: Checksum::Kept,
    },
    rate: None,
    mtu: None,
};

fn sequences(pair: &Pair, count: usize) -> Vec<usize> {
    pair.send(count, SIZE)
        .iter()
        .map(|arrival| arrival.sequence)
        .collect()
}

fn set(pair: &Pair, impairment: Impairment) {
    pair.link.set(Direction::LeftToRight, impairment);
}

#[test]
fn without_impairment_both_families_pass_whole_and_in_order() {
    privileged(|| {
        let pair = Pair::new();
        assert_eq!(sequences(&pair, COUNT), (0..COUNT).collect::<Vec<_>>());
        for (address, seen) in pair.link.right().into_iter().zip(pair.link.left()) {
            assert_eq!(pair.echo(address).ip(), seen);
        }
    })
    .unwrap();
}

#[test]
fn tcp_crosses_whole_despite_every_impairment() {
    privileged(|| {
        let pair = Pair::new();
        let share = Share::percent(1);
        pair.link.set_both(Impairment {
            delay: Duration::from_millis(2),
            jitter: Duration::from_millis(2),
            order: Order::Free,
            loss: Loss::Random(share),
            duplicate: share,
            reorder: Reorder {
                share,
                by: Duration::from_millis(3),
            },
            corrupt: Corrupt {
                share,
                checksum: Checksum::Kept,
            },
            rate: Some(Rate {
                bits_per_second: 100_000_000,
                queue: 100_000,
            }),
            mtu: Some(MtuLimit {
                bytes: 1400,
                too_big: TooBig::Answered,
            }),
        });
        let text: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        for address in pair.link.right() {
            let listener = pair
                .right
                .run(|| TcpListener::bind((address, 0)).unwrap())
                .unwrap();
            let to = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let mut received = Vec::new();
                listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
                received
            });
            let mut stream = pair.left.run(|| TcpStream::connect(to).unwrap()).unwrap();
            stream.write_all(&text).unwrap();
            drop(stream);
            assert!(server.join().unwrap() == text, "{address}");
        }
        let counters = pair.link.counters(Direction::LeftToRight);
        for did in [
            counters.lost,
            counters.duplicated,
            counters.reordered,
            counters.corrupted,
            counters.too_big,
        ] {
            assert!(did > 0, "{counters:?}");
        }
    })
    .unwrap();
}

#[test]
fn random_losses_have_their_share_and_leave_the_other_direction_alone() {
    privileged(|| {
        let pair = Pair::new();
        set(
            &pair,
            Impairment {
                loss: Loss::Random(Share::percent(10)),
                ..NONE
            },
        );
        let lost = COUNT - sequences(&pair, COUNT).len();
        // Six standard deviations of sqrt(4000 * 0.1 * 0.9) = 19.
        assert!((286..=514).contains(&lost), "{lost}");
        assert_eq!(pair.link.counters(Direction::LeftToRight).lost, lost as u64);
        let (left, right) = (
            bind(&pair.left, pair.link.left()[0]),
            bind_any(&pair.right, pair.link.left()[0]),
        );
        for _ in 0..100 {
            right.send_to(b"x", left.local_addr().unwrap()).unwrap();
            left.recv(&mut [0; 10]).unwrap();
        }
    })
    .unwrap();
}

#[test]
fn losses_come_in_bursts() {
    privileged(|| {
        let pair = Pair::new();
        set(
            &pair,
            Impairment {
                loss: Loss::Bursts(GilbertElliott {
                    to_bad: Share::percent(2),
                    to_good: Share::percent(20),
                    loss_in_bad: Share::ALL,
                    loss_in_good: Share::NONE,
                }),
                ..NONE
            },
        );
        let arrived: HashSet<_> = sequences(&pair, COUNT).into_iter().collect();
        let is_lost = |sequence: usize| !arrived.contains(&sequence);
        let bursts = (0..COUNT)
            .filter(|&n| is_lost(n) && (n == 0 || !is_lost(n - 1)))
            .count();
        let mean = (COUNT - arrived.len()) as f64 / bursts as f64;
        // Five packets on average; losses on their own would give 1.1.
        assert!((3.5..=7.0).contains(&mean), "{mean}");
        assert!(bursts > 40, "{bursts}");
    })
    .unwrap();
}

#[test]
fn nothing_arrives_before_its_delay_and_jitter_can_keep_the_order_or_not() {
    privileged(|| {
        let pair = Pair::new();
        let delay = Duration::from_millis(20);
        for order in [Order::Kept, Order::Free] {
            set(
                &pair,
                Impairment {
                    delay,
                    jitter: Duration::from_millis(20),
                    order,
                    ..NONE
                },
            );
            let arrivals = pair.send(400, SIZE);
            assert!(arrivals.iter().all(|arrival| arrival.after >= delay));
            let in_order = arrivals.is_sorted_by_key(|arrival| arrival.sequence);
            assert_eq!(in_order, order == Order::Kept);
        }
    })
    .unwrap();
}

#[test]
fn held_back_packets_are_overtaken() {
    privileged(|| {
        let pair = Pair::new();
        let by = Duration::from_millis(30);
        set(
            &pair,
            Impairment {
                reorder: Reorder {
                    share: Share::percent(10),
                    by,
                },
                ..NONE
            },
        );
        let arrivals = pair.send(1000, SIZE);
        assert_eq!(arrivals.len(), 1000);
        let mut newest = 0;
        let mut late = 0;
        for arrival in &arrivals {
            if arrival.sequence < newest {
                late += 1;
                assert!(arrival.after >= by);
            }
            newest = newest.max(arrival.sequence);
        }
        let reordered = pair.link.counters(Direction::LeftToRight).reordered;
        assert!(late > 0 && late <= reordered, "{late} of {reordered}");
    })
    .unwrap();
}

#[test]
fn duplicates_arrive_twice() {
    privileged(|| {
        let pair = Pair::new();
        set(
            &pair,
            Impairment {
                duplicate: Share::ALL,
                ..NONE
            },
        );
        let mut arrived = sequences(&pair, 100);
        arrived.sort_unstable();
        let twice: Vec<_> = (0..100).flat_map(|sequence| [sequence; 2]).collect();
        assert_eq!(arrived, twice);
    })
    .unwrap();
}

#[test]
fn corruption_is_caught_by_the_checksum_unless_that_is_repaired() {
    privileged(|| {
        let pair = Pair::new();
        let corrupt = |checksum| Impairment {
            corrupt: Corrupt {
                share: Share::ALL,
                checksum,
            },
            ..NONE
        };
        set(&pair, corrupt(Checksum::Repaired));
        let arrivals = pair.send(200, 999);
        for arrival in &arrivals {
            // The sequence number may be what was hit.
            let flipped: u32 = arrival.payload[8..]
                .iter()
                .map(|byte| (byte ^ 0xaa).count_ones())
                .sum();
            assert!(flipped <= 1, "{flipped}");
        }
        let hit = |arrival: &&crate::pair::Arrival| arrival.payload[8..].iter().any(|byte| *byte != 0xaa);
        assert!(arrivals.iter().filter(hit).count() > 150);

        set(&pair, corrupt(Checksum::Kept));
        for address in pair.link.right() {
            let (sender, receiver, to) = pair.sockets(address);
            let before = checksum_errors(&pair.right);
            let before_link = pair.link.counters(Direction::LeftToRight).corrupted;
            for _ in 0..10 {
                sender.send_to(&[0; 100], to).unwrap();
            }
            pair.link
                .wait_for(Direction::LeftToRight, SOON, |now| {
                    now.corrupted == before_link + 10
                })
                .unwrap();
            set(&pair, NONE);
            sender.send_to(b"sound", to).unwrap();
            let mut buffer = [0; 200];
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"sound");
            assert_eq!(checksum_errors(&pair.right) - before, 10);
            set(&pair, corrupt(Checksum::Kept));
        }
    })
    .unwrap();
}

/// UDP datagrams with a wrong checksum, of both families.
fn checksum_errors(host: &Host) -> u64 {
    let read = |path: &'static str| host.run(|| std::fs::read_to_string(path).unwrap()).unwrap();
    let v4 = read("/proc/thread-self/net/snmp");
    let mut udp = v4.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (udp.next().unwrap(), udp.next().unwrap());
    let column = names
        .split_whitespace()
        .position(|name| name == "InCsumErrors")
        .unwrap();
    let v4: u64 = values.split_whitespace().nth(column).unwrap().parse().unwrap();
    let v6 = read("/proc/thread-self/net/snmp6");
    let v6 = v6
        .lines()
        .find_map(|line| line.strip_prefix("Udp6InCsumErrors"))
        .unwrap();
    v4 + v6.trim().parse::<u64>().unwrap()
}

#[test]
fn a_black_hole_swallows_long_packets_and_a_truthful_router_says_what_fits() {
    privileged(|| {
        for index in [0, 1] {
            let pair = Pair::new();
            let (sender, receiver, to) = pair.sockets(pair.link.right()[index]);
            let limit = |too_big| Impairment {
                mtu: Some(MtuLimit { bytes: 1300, too_big }),
                ..NONE
            };
            set(&pair, limit(TooBig::Silent));
            let mut buffer = [0; 2000];
            for sent in 1..=3 {
                sender.send_to(&[0; 1400], to).unwrap();
                pair.link
                    .wait_for(Direction::LeftToRight, SOON, |now| now.too_big == sent)
                    .unwrap();
                sender.send_to(&[0; 1200], to).unwrap();
                assert_eq!(receiver.recv(&mut buffer).unwrap(), 1200);
            }
            // Told of the limit, the kernel fragments: the same datagram arrives.
            set(&pair, limit(TooBig::Answered));
            receiver
                .set_read_timeout(Some(Duration::from_millis(20)))
                .unwrap();
            let started = Instant::now();
            let length = loop {
                sender.send_to(&[0; 1400], to).unwrap();
                if let Ok(length) = receiver.recv(&mut buffer) {
                    break length;
                }
                assert!(started.elapsed() < SOON);
            };
            assert_eq!(length, 1400);
        }
    })
    .unwrap();
}

#[test]
fn the_rate_is_never_exceeded_and_its_queue_drops_at_its_tail() {
    privileged(|| {
        let pair = Pair::new();
        let (size, headers) = (1000, 28);
        set(
            &pair,
            Impairment {
                rate: Some(Rate {
                    bits_per_second: 1_000_000,
                    queue: 20 * (size + headers),
                }),
                ..NONE
            },
        );
        let started = Instant::now();
        let arrivals = pair.send(50, size);
        let took = started.elapsed();
        let counters = pair.link.counters(Direction::LeftToRight);
        assert!(counters.passed >= 20, "{counters:?}");
        assert!(counters.queue_full > 0, "{counters:?}");
        assert_eq!(arrivals.len() as u64, counters.passed);
        // A bit a microsecond.
        let bits = counters.passed_bytes * 8;
        assert!(took >= Duration::from_micros(bits), "{bits} bits in {took:?}");
        // The first ones found room.
        assert!(arrivals.iter().take(20).map(|arrival| arrival.sequence).eq(0..20));
    })
    .unwrap();
}

#[test]
fn a_cut_takes_one_direction_or_both_until_healed() {
    privileged(|| {
        let pair = Pair::new();
        let (left, right) = (
            bind(&pair.left, pair.link.left()[0]),
            bind(&pair.right, pair.link.right()[0]),
        );
        let (to_left, to_right) = (left.local_addr().unwrap(), right.local_addr().unwrap());
        let mut buffer = [0; 100];

        pair.link.cut(Direction::LeftToRight);
        left.send_to(b"lost", to_right).unwrap();
        pair.link
            .wait_for(Direction::LeftToRight, SOON, |now| now.cut == 1)
            .unwrap();
        right.send_to(b"arrives", to_left).unwrap();
        assert_eq!(left.recv(&mut buffer).unwrap(), 7);

        pair.link.cut_both();
        right.send_to(b"lost", to_left).unwrap();
        pair.link
            .wait_for(Direction::RightToLeft, SOON, |now| now.cut == 1)
            .unwrap();

        pair.link.heal();
        crate::pair::echo(&left, &right, to_right);
    })
    .unwrap();
}
