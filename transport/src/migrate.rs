//! When a dialled connection leaves its path: its way through the network changed, or nothing comes back on it.
//!
//! Only the dialling side can move a connection (RFC 9000 section 9). A change of address or route is seen by asking
//! the kernel for the [`Route`] again. A path that swallows everything, such as one through a NAT or a firewall that
//! has lost its state, is seen by [`Watch`]: a pure machine that is told what was sent and what arrived, and advises.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use quinn_proto::FrameStats;

/// The way to a peer, as far as this host knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The address that the kernel sends from.
    pub(crate) source: IpAddr,
    /// The UDP payload that the link takes.
    pub(crate) payload: u16,
}

/// Silence for this long calls for a remedy. A peer that is short of CPU may well take 100 ms to answer; on a network
/// of a data centre, seven of QUIC's own probes have been lost by then.
const PATIENCE: Duration = Duration::from_millis(500);
/// The same in round trips, for slow networks. A probe timeout is about three (RFC 9002 section 6.2.1), and doubles
/// with each probe.
const ROUND_TRIPS: u32 = 20;
/// QUIC's own probes come at doubled intervals; a path that heals is to be found within a second.
const REMEDY_INTERVAL: Duration = Duration::from_secs(1);
/// After so many times [`PATIENCE`], new requests no longer wait for the connection: they go to a new one, or to
/// another endpoint.
const UNRESPONSIVE: u32 = 3;

/// What to do about a silent path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Leave it: send from another port, over a path that no middlebox knows.
    Move,
    /// Ask again, in case that it has healed.
    Probe,
}

/// Whether a path answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Watch {
    /// What was sent arrived, or nothing was.
    #[default]
    Answering,
    /// Something was sent that the peer must acknowledge, and it has acknowledged nothing since.
    Silent {
        since: Instant,
        patience: Duration,
        remedies: u32,
        next: Instant,
    },
}

impl Watch {
    /// Something was sent that the peer must acknowledge.
    pub(crate) fn on_sent(&mut self, now: Instant, rtt: Duration) {
        if matches!(self, Self::Answering) {
            let patience = PATIENCE.max(rtt.saturating_mul(ROUND_TRIPS));
            *self = Self::Silent {
                since: now,
                patience,
                remedies: 0,
                next: now + patience,
            };
        }
    }

    /// Something that was sent arrived. Returns whether new requests may use the connection again that could not before.
    pub(crate) fn on_acknowledged(&mut self, now: Instant) -> bool {
        let recovered = self.is_unresponsive(now);
        *self = Self::Answering;
        recovered
    }

    /// When to ask for the next remedy.
    pub(crate) fn next_remedy(&self) -> Option<Instant> {
        match self {
            Self::Answering => None,
            Self::Silent { next, .. } => Some(*next),
        }
    }

    /// The remedy that is due. Moves get rarer: a peer that is gone is not found by moving.
    pub(crate) fn remedy(&mut self, now: Instant) -> Option<Remedy> {
        match self {
            Self::Silent { remedies, next, .. } if *next <= now => {
                *remedies = remedies.saturating_add(1);
                *next = now + REMEDY_INTERVAL;
                Some(if remedies.is_power_of_two() {
                    Remedy::Move
                } else {
                    Remedy::Probe
                })
            }
            _ => None,
        }
    }

    /// Has it been silent for so long that new requests should not wait for it?
    pub(crate) fn is_unresponsive(&self, now: Instant) -> bool {
        match self {
            Self::Answering => false,
            Self::Silent { since, patience, .. } => {
                now.saturating_duration_since(*since) >= patience.saturating_mul(UNRESPONSIVE)
            }
        }
    }
}

/// Frames that the peer must acknowledge (RFC 9000 section 13.2): all but ACK, PADDING and CONNECTION_CLOSE. Of those
/// that a quiet connection sends, which is all that the watch needs.
pub(crate) fn ack_eliciting(sent: &FrameStats) -> u64 {
    let control = sent.ping
        + sent.path_challenge
        + sent.path_response
        + sent.reset_stream
        + sent.stop_sending
        + sent.new_connection_id
        + sent.retire_connection_id;
    let credit = sent.max_data + sent.max_stream_data + sent.data_blocked + sent.stream_data_blocked;
    sent.stream + control + credit
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn an_idle_path_is_never_silent() {
        let mut watch = Watch::default();
        let start = Instant::now();
        watch.on_sent(start, MILLISECOND);
        watch.on_acknowledged(start + MILLISECOND);
        let later = start + Duration::from_secs(3_600);
        assert_eq!(
            (
                watch.next_remedy(),
                watch.remedy(later),
                watch.is_unresponsive(later)
            ),
            (None, None, false)
        );
    }

    #[test]
    fn more_sends_do_not_put_the_remedy_off() {
        let mut watch = Watch::default();
        let start = Instant::now();
        for sends in 0..10 {
            watch.on_sent(start + sends * 40 * MILLISECOND, MILLISECOND);
        }
        assert_eq!(watch.next_remedy(), Some(start + PATIENCE));
    }

    #[test]
    fn it_moves_at_once_and_then_more_rarely_but_probes_each_second() {
        let mut watch = Watch::default();
        let mut now = Instant::now();
        watch.on_sent(now, MILLISECOND);
        let mut remedies = Vec::new();
        for _ in 0..8 {
            now = watch.next_remedy().unwrap();
            assert_eq!(watch.remedy(now - MILLISECOND), None);
            remedies.push(watch.remedy(now).unwrap());
            assert_eq!(watch.next_remedy(), Some(now + REMEDY_INTERVAL));
        }
        let moves = |remedies: &[Remedy]| remedies.iter().filter(|remedy| **remedy == Remedy::Move).count();
        assert_eq!((remedies[0], moves(&remedies)), (Remedy::Move, 4));
    }

    #[test]
    fn an_acknowledgement_ends_the_silence() {
        let mut watch = Watch::default();
        let start = Instant::now();
        watch.on_sent(start, MILLISECOND);
        let late = start + UNRESPONSIVE * PATIENCE;
        assert!(!watch.is_unresponsive(late - MILLISECOND));
        assert!(watch.is_unresponsive(late));
        assert!(
            watch.on_acknowledged(late),
            "requests that wait elsewhere are to be told"
        );
        assert_eq!(watch, Watch::Answering);
    }

    proptest! {
        #[test]
        fn a_slow_network_is_given_its_round_trips(rtt in 0u64..5_000) {
            let (start, rtt) = (Instant::now(), Duration::from_millis(rtt));
            let mut watch = Watch::default();
            watch.on_sent(start, rtt);
            let first = watch.next_remedy().unwrap() - start;
            prop_assert!(first >= PATIENCE && first >= rtt * ROUND_TRIPS);
            prop_assert!(!watch.is_unresponsive(start + first), "a remedy is tried first");
        }
    }
}
