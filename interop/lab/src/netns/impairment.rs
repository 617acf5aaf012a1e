//! What an impaired link does to packets, each direction on its own.

mod schedule;

pub use schedule::{Damage, Delivery, DropReason, Fate, Schedule};

use std::str::FromStr;
use std::time::Duration;

/// A share of the packets, in millionths, drawn for each packet on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Share(u32);

impl Share {
    /// Every packet, in millionths.
    const WHOLE: u32 = 1_000_000;

    /// No packet.
    pub const NONE: Self = Self(0);

    /// Every packet.
    pub const ALL: Self = Self(Self::WHOLE);

    /// So many of a hundred packets; all of them from 100 on.
    pub const fn percent(percent: u32) -> Self {
        Self::millionths(percent.saturating_mul(10_000))
    }

    /// So many of a thousand packets; all of them from 1000 on.
    pub const fn permille(permille: u32) -> Self {
        Self::millionths(permille.saturating_mul(1000))
    }

    /// So many of a million packets; all of them from a million on.
    pub const fn millionths(millionths: u32) -> Self {
        if millionths < Self::WHOLE {
            Self(millionths)
        } else {
            Self::ALL
        }
    }
}

/// Percent, as `1.5` or `1.5%`.
impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let percent: f64 = text
            .strip_suffix('%')
            .unwrap_or(text)
            .trim()
            .parse()
            .map_err(|_| format!("{text:?} is not a number of percent"))?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(format!("{text:?} is not between 0 and 100 percent"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 10^6"
        )]
        Ok(Self((percent * 10_000.0).round() as u32))
    }
}

/// What one direction of a link does to packets. The default does nothing to them.
///
/// A packet meets, in this order: the MTU, the queue of the rate, loss, then delay, jitter and reordering,
/// duplication and corruption. What is lost has taken its time at the rate, a duplicate has not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Impairment {
    /// Added to the way of every packet.
    pub delay: Duration,
    /// Added besides: for each packet another time between zero and this.
    pub jitter: Duration,
    /// Whether jitter, or a delay that becomes shorter, lets packets overtake others.
    pub order: Order,
    /// Which packets vanish.
    pub loss: Loss,
    /// Packets that arrive twice, each time with a jitter of its own.
    pub duplicate: Share,
    /// Packets that are held back so that later ones overtake them, whatever `order` says.
    pub reorder: Reorder,
    /// Packets that arrive with one bit flipped.
    pub corrupt: Corrupt,
    /// How fast packets leave, if there is a limit.
    pub rate: Option<Rate>,
    /// The longest packet that passes, if that is less than what the devices say.
    pub mtu: Option<MtuLimit>,
}

/// The order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// That of departure: what was delayed long also delays what comes after it, as a queue.
    #[default]
    Kept,
    /// As each packet's own delay has it, as over several paths.
    Free,
}

/// Which packets are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Each with the same probability.
    Random(Share),
    /// In bursts.
    Bursts(GilbertElliott),
}

/// Losses in bursts: the link is in a good or in a bad state, and may change it with each packet
/// (Gilbert 1960, Elliott 1963).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GilbertElliott {
    /// How likely a packet turns the good state into the bad one.
    pub to_bad: Share,
    /// How likely a packet turns the bad state into the good one: bursts have the mean length of its inverse.
    pub to_good: Share,
    /// Loss in the bad state.
    pub loss_in_bad: Share,
    /// Loss in the good state.
    pub loss_in_good: Share,
}

/// Packets held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reorder {
    /// Which.
    pub share: Share,
    /// For how long, besides the delay that every packet has.
    pub by: Duration,
}

/// Packets with a bit flipped, in the payload of TCP or UDP if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Corrupt {
    /// Which.
    pub share: Share,
    /// Who can notice.
    pub checksum: Checksum,
}

/// What becomes of the TCP or UDP checksum of a corrupted packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// It stays what it was: the receiving kernel drops the packet.
    #[default]
    Kept,
    /// It is made to fit, as by a broken middlebox: only the protocol above can notice.
    Repaired,
}

/// A rate with a queue in front of it that drops at its tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bits of IP packets in a second. 0 lets nothing pass.
    pub bits_per_second: u64,
    /// Bytes that may wait: what does not fit is dropped.
    pub queue: usize,
}

/// A narrower place on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MtuLimit {
    /// The longest IP packet that passes.
    pub bytes: usize,
    /// What the sender of a longer one hears.
    pub too_big: TooBig,
}

/// What the sender of too long a packet hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TooBig {
    /// Nothing: a black hole for path MTU discovery (RFC 2923 section 2.1).
    #[default]
    Silent,
    /// "Fragmentation needed" (RFC 1191 section 4) or "packet too big" (RFC 8201 section 3), from the link itself.
    /// An IPv4 packet that may be fragmented is dropped in silence: the link does not fragment.
    Answered,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_more_than_the_whole() {
        assert_eq!(Share::percent(1), Share::permille(10));
        assert_eq!(Share::percent(u32::MAX), Share::ALL);
        assert_eq!("1.5%".parse(), Ok(Share::permille(15)));
        assert_eq!("100".parse(), Ok(Share::ALL));
        for text in ["-1", "101%", "NaN", "", "one"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }
}
