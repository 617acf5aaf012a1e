//! A peer that has not proved its address is sent no more than three times what it sent (RFC 9000 section 8.1).
//!
//! quinn-proto sends a whole datagram as long as any of that allowance is left, which makes 3.2 times of the smallest
//! first packet. What goes beyond is dropped here, as the network might: the peer's next packet brings it about again.

use quinn_proto::Connection;

/// RFC 9000 section 8.1.
const FACTOR: u64 = 3;
/// The datagram that began the connection is in no figure of quinn-proto's; smaller ones begin none (RFC 9000 section
/// 14.1).
const FIRST_DATAGRAM: u64 = 1_200;

/// Whether the last datagram that `proto` made may be sent while the peer's address is not proved.
pub(crate) fn may_send(proto: &Connection) -> bool {
    let stats = proto.stats();
    within(stats.udp_rx.bytes, stats.udp_tx.bytes)
}

fn within(received_later: u64, sent: u64) -> bool {
    sent <= (FIRST_DATAGRAM + received_later) * FACTOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_times_what_came_and_no_byte_more() {
        assert!(within(0, 3_600));
        assert!(!within(0, 3_601));
        assert!(within(1_200, 7_200));
        assert!(!within(1_200, 7_201));
    }
}
