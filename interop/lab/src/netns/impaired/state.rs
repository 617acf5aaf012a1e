//! What the thread and the control of a link share: the schedules, the NAT, and what they have done.

use super::super::impairment::{Delivery, DropReason, Fate, MtuLimit, Schedule, TooBig};
use super::super::nat::Nat;
use super::super::packet::{End, Packet};
use std::net::IpAddr;
use std::time::Duration;

/// A direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What the left host sends.
    LeftToRight,
    /// What the right host sends.
    RightToLeft,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::LeftToRight, Self::RightToLeft];

    /// The other one.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::LeftToRight => Self::RightToLeft,
            Self::RightToLeft => Self::LeftToRight,
        }
    }

    /// Its place in an array; also that of the host that sends.
    pub(super) const fn index(self) -> usize {
        match self {
            Self::LeftToRight => 0,
            Self::RightToLeft => 1,
        }
    }
}

/// What has become of the packets of one direction since the link was made. Each packet is in one of `passed`,
/// `cut`, `too_big`, `queue_full`, `lost` and `unmapped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets that arrive, or are on their way.
    pub passed: u64,
    /// Their bytes, IP headers included.
    pub passed_bytes: u64,
    /// Dropped because the direction is cut.
    pub cut: u64,
    /// Dropped because they are longer than the limit.
    pub too_big: u64,
    /// Dropped because the queue in front of the rate was full.
    pub queue_full: u64,
    /// Dropped at random.
    pub lost: u64,
    /// Dropped because the NAT has no mapping for them.
    pub unmapped: u64,
    /// Of those passed: arrived twice.
    pub duplicated: u64,
    /// Of those passed: held back for others to overtake them.
    pub reordered: u64,
    /// Of those passed: a bit flipped.
    pub corrupted: u64,
    /// Arrivals, duplicates included, that the host refused, as its interface was down.
    pub refused: u64,
}

/// What to do with a packet.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing.
    Drop,
    /// Send this back instead.
    Answer(Vec<u8>),
    /// Let it arrive, as it is now.
    Deliver(Delivery),
}

/// Both directions.
#[derive(Debug)]
pub(super) struct State {
    schedules: [Schedule; 2],
    counters: [Counters; 2],
    /// The link's own addresses, IPv4 and IPv6.
    router: [IpAddr; 2],
    nat: Option<Nat>,
}

impl State {
    pub(super) fn new(seed: u64, router: [IpAddr; 2], nat: Option<Nat>) -> Self {
        Self {
            // The generator makes unlike sequences of neighbouring seeds, but neighbouring links have those.
            schedules: [Schedule::new(seed), Schedule::new(!seed)],
            counters: [Counters::default(); 2],
            router,
            nat,
        }
    }

    pub(super) fn schedule(&mut self, direction: Direction) -> &mut Schedule {
        &mut self.schedules[direction.index()]
    }

    pub(super) fn nat(&mut self) -> Option<&mut Nat> {
        self.nat.as_mut()
    }

    pub(super) fn counters(&self, direction: Direction) -> Counters {
        self.counters[direction.index()]
    }

    pub(super) fn on_refused(&mut self, direction: Direction) {
        self.counters[direction.index()].refused += 1;
    }

    /// Decides on a packet and changes it as the NAT and the impairment have it.
    pub(super) fn on_packet(&mut self, direction: Direction, now: Duration, bytes: &mut [u8]) -> Verdict {
        let Some(mut packet) = Packet::parse(bytes) else {
            return Verdict::Drop;
        };
        // Announcements of the kernels, as of multicast listeners: they are no traffic of anybody's.
        if packet.address(End::Destination).is_multicast() {
            return Verdict::Drop;
        }
        let fate = self.schedules[direction.index()].on_packet(now, packet.length());
        let counters = &mut self.counters[direction.index()];
        let delivery = match fate {
            Fate::Delivered(delivery) => delivery,
            Fate::Dropped(reason) => {
                *counters.dropped(reason) += 1;
                return self.answer(reason, &packet);
            }
        };
        let is_mapped = match (&mut self.nat, direction) {
            (None, _) => true,
            (Some(nat), Direction::LeftToRight) => {
                nat.outbound(&mut packet);
                true
            }
            (Some(nat), Direction::RightToLeft) => nat.inbound(&mut packet),
        };
        if !is_mapped {
            counters.unmapped += 1;
            return Verdict::Drop;
        }
        if let Some(damage) = delivery.damage {
            packet.damage(damage);
        }
        counters.passed += 1;
        counters.passed_bytes += packet.length() as u64;
        counters.duplicated += u64::from(delivery.duplicate_at.is_some());
        counters.reordered += u64::from(delivery.is_reordered);
        counters.corrupted += u64::from(delivery.damage.is_some());
        Verdict::Deliver(delivery)
    }

    fn answer(&self, reason: DropReason, packet: &Packet<'_>) -> Verdict {
        let DropReason::TooBig(MtuLimit {
            bytes,
            too_big: TooBig::Answered,
        }) = reason
        else {
            return Verdict::Drop;
        };
        let router = self.router[usize::from(packet.is_ipv6())];
        packet
            .too_big(bytes, router)
            .map_or(Verdict::Drop, Verdict::Answer)
    }
}

impl Counters {
    fn dropped(&mut self, reason: DropReason) -> &mut u64 {
        match reason {
            DropReason::Cut => &mut self.cut,
            DropReason::TooBig(_) => &mut self.too_big,
            DropReason::QueueFull => &mut self.queue_full,
            DropReason::Lost => &mut self.lost,
        }
    }
}
