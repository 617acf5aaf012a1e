//! Decides what becomes of each packet: no clock, no socket. The same seed, times and lengths give the same fates.

use super::{Checksum, GilbertElliott, Impairment, Loss, MtuLimit, Order, Rate, Share};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// One direction of a link, over time.
#[derive(Debug, Clone)]
pub struct Schedule {
    impairment: Impairment,
    is_cut: bool,
    rng: SmallRng,
    weather: Weather,
    /// When the last packet in the queue of the rate has left.
    queue_empty_at: Duration,
    /// The latest arrival among packets that keep their order.
    last_arrival: Duration,
}

/// The state of Gilbert's and Elliott's model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Good,
    Bad,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It never arrives.
    Dropped(DropReason),
    /// It arrives.
    Delivered(Delivery),
}

/// Why a packet never arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// This direction is cut.
    Cut,
    /// It is longer than the limit.
    TooBig(MtuLimit),
    /// The queue in front of the rate is full.
    QueueFull,
    /// It is lost.
    Lost,
}

/// How a packet arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// When.
    pub at: Duration,
    /// Whether it was held back for later ones to overtake it.
    pub is_reordered: bool,
    /// When it arrives once more.
    pub duplicate_at: Option<Duration>,
    /// What happens to its contents; to those of the duplicate as well.
    pub damage: Option<Damage>,
}

/// One flipped bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Which: this, modulo the number of bits that may be flipped.
    pub bit: u32,
    /// Whether the checksum still fits.
    pub checksum: Checksum,
}

impl Schedule {
    /// A direction that does nothing to packets yet.
    pub fn new(seed: u64) -> Self {
        Self {
            impairment: Impairment::default(),
            is_cut: false,
            rng: SmallRng::seed_from_u64(seed),
            weather: Weather::Good,
            queue_empty_at: Duration::ZERO,
            last_arrival: Duration::ZERO,
        }
    }

    /// Changes what is done to the packets that come from now on.
    pub fn set(&mut self, impairment: Impairment) {
        self.impairment = impairment;
        self.weather = Weather::Good;
    }

    /// Drops every packet from now on, or no longer does.
    pub fn set_cut(&mut self, is_cut: bool) {
        self.is_cut = is_cut;
    }

    /// Decides on a packet of `length` bytes that comes at `now`, counted from any fixed time, never backwards.
    pub fn on_packet(&mut self, now: Duration, length: usize) -> Fate {
        if self.is_cut {
            return Fate::Dropped(DropReason::Cut);
        }
        if let Some(limit) = self.impairment.mtu.filter(|limit| length > limit.bytes) {
            return Fate::Dropped(DropReason::TooBig(limit));
        }
        let Some(sent) = self.leave_queue(now, length) else {
            return Fate::Dropped(DropReason::QueueFull);
        };
        if self.is_lost() {
            return Fate::Dropped(DropReason::Lost);
        }
        let is_reordered = self.draw(self.impairment.reorder.share);
        Fate::Delivered(Delivery {
            at: self.arrival(sent, is_reordered),
            is_reordered,
            duplicate_at: self
                .draw(self.impairment.duplicate)
                .then(|| self.arrival(sent, false)),
            damage: self.draw(self.impairment.corrupt.share).then(|| Damage {
                bit: self.rng.random(),
                checksum: self.impairment.corrupt.checksum,
            }),
        })
    }

    /// When the packet's last bit is sent, or that it found no room.
    fn leave_queue(&mut self, now: Duration, length: usize) -> Option<Duration> {
        let Some(rate) = self.impairment.rate else {
            return Some(now);
        };
        let start = now.max(self.queue_empty_at);
        let backlog = rate.bytes_in(start - now);
        if rate.bits_per_second == 0 || backlog.saturating_add(length as u128) > rate.queue as u128 {
            return None;
        }
        self.queue_empty_at = start + rate.time_of(length);
        Some(self.queue_empty_at)
    }

    fn is_lost(&mut self) -> bool {
        match self.impairment.loss {
            Loss::None => false,
            Loss::Random(share) => self.draw(share),
            Loss::Bursts(model) => self.is_lost_in(model),
        }
    }

    fn is_lost_in(&mut self, model: GilbertElliott) -> bool {
        let (change, next) = match self.weather {
            Weather::Good => (model.to_bad, Weather::Bad),
            Weather::Bad => (model.to_good, Weather::Good),
        };
        if self.draw(change) {
            self.weather = next;
        }
        self.draw(match self.weather {
            Weather::Good => model.loss_in_good,
            Weather::Bad => model.loss_in_bad,
        })
    }

    fn arrival(&mut self, sent: Duration, is_held_back: bool) -> Duration {
        let mut at = sent + self.impairment.delay;
        if !self.impairment.jitter.is_zero() {
            at += self.rng.random_range(Duration::ZERO..=self.impairment.jitter);
        }
        if is_held_back {
            return at + self.impairment.reorder.by;
        }
        if self.impairment.order == Order::Kept {
            at = at.max(self.last_arrival);
        }
        self.last_arrival = self.last_arrival.max(at);
        at
    }

    fn draw(&mut self, share: Share) -> bool {
        share != Share::NONE && self.rng.random_range(0..Share::WHOLE) < share.0
    }
}

impl Rate {
    const BITS_IN_BYTE: u128 = 8;
    const NANOS_IN_SECOND: u128 = 1_000_000_000;

    /// Rounded up, so that the rate is never exceeded.
    fn time_of(self, bytes: usize) -> Duration {
        let bit_nanos = bytes as u128 * Self::BITS_IN_BYTE * Self::NANOS_IN_SECOND;
        let nanos = bit_nanos.div_ceil(u128::from(self.bits_per_second.max(1)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn bytes_in(self, time: Duration) -> u128 {
        time.as_nanos() * u128::from(self.bits_per_second) / (Self::BITS_IN_BYTE * Self::NANOS_IN_SECOND)
    }
}
