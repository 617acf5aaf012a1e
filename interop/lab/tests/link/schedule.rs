//! The decisions alone, in virtual time.

use proptest::prelude::*;
use std::time::Duration;
use weft_lab::netns::impairment::{
    Checksum, Corrupt, Delivery, DropReason, Fate, GilbertElliott, Impairment, Loss, MtuLimit, Order, Rate,
    Reorder, Schedule, Share, TooBig,
};

fn share() -> impl Strategy<Value = Share> {
    prop_oneof![
        Just(Share::NONE),
        Just(Share::ALL),
        (0..1000_u32).prop_map(Share::permille)
    ]
}

fn loss() -> impl Strategy<Value = Loss> {
    let bursts =
        (share(), share(), share(), share()).prop_map(|(to_bad, to_good, loss_in_bad, loss_in_good)| {
            Loss::Bursts(GilbertElliott {
                to_bad,
                to_good,
                loss_in_bad,
                loss_in_good,
            })
        });
    prop_oneof![Just(Loss::None), share().prop_map(Loss::Random), bursts]
}

fn millis(up_to: u64) -> impl Strategy<Value = Duration> {
    (0..up_to).prop_map(Duration::from_millis)
}

prop_compose! {
    fn impairment()(
        delay in millis(50),
        jitter in millis(20),
        is_kept in any::<bool>(),
        loss in loss(),
        duplicate in share(),
        reorder in (share(), millis(20)),
        corrupt in share(),
        rate in proptest::option::of((1_000..100_000_000_u64, 2_000..100_000_usize)),
        mtu in proptest::option::of(500..1500_usize),
    ) -> Impairment {
        Impairment {
            delay,
            jitter,
            order: if is_kept { Order::Kept } else { Order::Free },
            loss,
            duplicate,
            reorder: Reorder { share: reorder.0, by: reorder.1 },
            corrupt: Corrupt { share: corrupt, checksum: Checksum::Kept },
            rate: rate.map(|(bits_per_second, queue)| Rate { bits_per_second, queue }),
            mtu: mtu.map(|bytes| MtuLimit { bytes, too_big: TooBig::Silent }),
        }
    }
}

/// Packets with the time since the one before and their length.
fn packets() -> impl Strategy<Value = Vec<(Duration, usize)>> {
    let packet = ((0..2_000_u64).prop_map(Duration::from_micros), 20..=1500_usize);
    proptest::collection::vec(packet, 1..200)
}

/// Each packet's time, length and fate.
fn fates(seed: u64, impairment: Impairment, packets: &[(Duration, usize)]) -> Vec<(Duration, usize, Fate)> {
    let mut schedule = Schedule::new(seed);
    schedule.set(impairment);
    let mut now = Duration::ZERO;
    let fate = |&(gap, length): &(Duration, usize)| {
        now += gap;
        (now, length, schedule.on_packet(now, length))
    };
    packets.iter().map(fate).collect()
}

fn deliveries(fates: &[(Duration, usize, Fate)]) -> impl Iterator<Item = (Duration, usize, Delivery)> {
    fates.iter().filter_map(|&(now, length, fate)| match fate {
        Fate::Delivered(delivery) => Some((now, length, delivery)),
        Fate::Dropped(_) => None,
    })
}

proptest! {
    #[test]
    fn the_same_seed_and_packets_have_the_same_fates(
        seed in any::<u64>(), impairment in impairment(), packets in packets()
    ) {
        prop_assert_eq!(fates(seed, impairment, &packets), fates(seed, impairment, &packets));
    }

    #[test]
    fn arrivals_keep_the_bounds_of_delay_and_jitter(impairment in impairment(), packets in packets()) {
        let without_queue = Impairment { rate: None, order: Order::Free, ..impairment };
        for (now, _, delivery) in deliveries(&fates(1, without_queue, &packets)) {
            let held_back = if delivery.is_reordered { impairment.reorder.by } else { Duration::ZERO };
            let earliest = now + impairment.delay;
            prop_assert!(delivery.at >= earliest + held_back);
            prop_assert!(delivery.at <= earliest + held_back + impairment.jitter);
            if let Some(at) = delivery.duplicate_at {
                prop_assert!((earliest..=earliest + impairment.jitter).contains(&at));
            }
        }
    }

    #[test]
    fn order_is_kept_but_for_what_is_held_back(impairment in impairment(), packets in packets()) {
        let kept = Impairment { order: Order::Kept, ..impairment };
        let fates = fates(2, kept, &packets);
        let arrivals = deliveries(&fates)
            .filter(|(_, _, delivery)| !delivery.is_reordered)
            .map(|(_, _, delivery)| delivery.at);
        prop_assert!(arrivals.is_sorted());
    }

    #[test]
    fn the_rate_bounds_every_span_and_the_queue_what_waits(
        impairment in impairment(), rate in 1_000..10_000_000_u64, packets in packets()
    ) {
        let queue = 10_000;
        let limited = Impairment {
            rate: Some(Rate { bits_per_second: rate, queue }),
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reorder: Reorder::default(),
            ..impairment
        };
        let fates = fates(3, limited, &packets);
        let mut waited: Vec<(Duration, usize)> = Vec::new();
        for (now, length, delivery) in deliveries(&fates) {
            let backlog: usize = waited.iter().filter(|(at, _)| *at > now).map(|(_, length)| length).sum();
            // The one that is being sent has left in part.
            prop_assert!(backlog + length <= queue + 1500);
            if let Some(&(previous, _)) = waited.last() {
                let bits = (delivery.at - previous.max(now)).as_nanos() * u128::from(rate) / 1_000_000_000;
                prop_assert!(bits + 1 >= 8 * length as u128);
            }
            waited.push((delivery.at, length));
        }
    }

    #[test]
    fn what_is_too_long_never_passes_and_a_cut_passes_nothing(impairment in impairment(), packets in packets()) {
        for (_, length, fate) in fates(4, impairment, &packets) {
            let is_too_big = matches!(fate, Fate::Dropped(DropReason::TooBig(_)));
            prop_assert_eq!(is_too_big, impairment.mtu.is_some_and(|limit| length > limit.bytes));
        }
        let mut schedule = Schedule::new(4);
        schedule.set(impairment);
        schedule.set_cut(true);
        prop_assert_eq!(schedule.on_packet(Duration::ZERO, 20), Fate::Dropped(DropReason::Cut));
    }
}

#[test]
fn other_seeds_lose_other_packets() {
    let impairment = Impairment {
        loss: Loss::Random(Share::percent(50)),
        ..Default::default()
    };
    let packets = vec![(Duration::ZERO, 100); 100];
    assert_ne!(fates(0, impairment, &packets), fates(1, impairment, &packets));
}

#[test]
fn a_rate_of_nothing_lets_nothing_pass() {
    let impairment = Impairment {
        rate: Some(Rate {
            bits_per_second: 0,
            queue: usize::MAX,
        }),
        ..Default::default()
    };
    let all = fates(0, impairment, &[(Duration::ZERO, 20)]);
    assert!(matches!(all[..], [(_, _, Fate::Dropped(DropReason::QueueFull))]));
}
