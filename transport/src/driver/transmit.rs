//! What connections have to send, in as few datagrams and system calls as it takes.

use std::{rc::Rc, task::Context, time::Instant};

use super::Driver;
use crate::{
    config::MAX_UDP_SEND,
    connection::Connection,
    socket::{DatagramSocket, reachable},
    stats::TransportStats,
};

/// Bursts that one connection may send before others have their turn.
const BURSTS_PER_TURN: usize = 8;
/// Datagrams of one GSO burst that we ask quinn-proto for; Linux takes no more (UDP_MAX_SEGMENTS).
const MAX_SEGMENTS: usize = 64;

impl Driver {
    /// Sends for every connection in `ready`, until the socket is full.
    pub(super) fn transmit(&mut self, now: Instant) {
        self.mailbox.written.set(0);
        let mut ready = std::mem::take(&mut self.ready);
        let mut sent = 0;
        for connection in &ready {
            if self.blocked.is_some() {
                break;
            }
            sent += 1;
            connection.clear_dirty();
            self.transmit_one(connection, now);
            self.settle(connection, now);
        }
        ready.drain(..sent);
        // Keeps its allocation; nothing else was put there meanwhile.
        self.ready = ready;
    }

    fn transmit_one(&mut self, connection: &Rc<Connection>, now: Instant) {
        let id = connection.socket();
        let Some(socket) = self.sockets.get(id) else {
            return;
        };
        let segments = socket.max_gso_segments().min(MAX_SEGMENTS);
        for _ in 0..BURSTS_PER_TURN {
            self.burst.clear();
            let mtu = usize::from(connection.mtu()).max(1);
            let datagrams = segments.min(MAX_UDP_SEND / mtu).max(1);
            let Some(transmit) = connection.poll_transmit(now, datagrams, &mut self.burst) else {
                return;
            };
            if !send(socket, &self.stats, &transmit, &self.burst) {
                self.blocked = Some((id, transmit));
                break;
            }
        }
        connection.mark_dirty();
    }

    /// A transmit pass outside of the driver's turn.
    pub(super) fn transmit_early(&mut self) {
        let now = tokio::time::Instant::now().into_std();
        if self.blocked.is_none() {
            self.hand_out_events(now);
            self.transmit(now);
        }
        if self.blocked.is_some() {
            self.mailbox.wake();
        }
    }

    /// Sends what a full socket kept back; `false` if it still is full, and then we are woken when it is not.
    pub(super) fn flush_blocked(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some((id, transmit)) = &self.blocked {
            let Some(socket) = self.sockets.get(*id) else {
                return true;
            };
            if socket.poll_writable(cx).is_pending() {
                return false;
            }
            if send(socket, &self.stats, transmit, &self.burst) {
                self.blocked = None;
            }
        }
        true
    }

    /// Sends an answer of the endpoint's own, which a full socket may lose: the peer asks again.
    pub(super) fn send_answer(&mut self, transmit: &quinn_proto::Transmit) {
        let id = self.sockets.newest();
        if let Some(socket) = self.sockets.get(id) {
            send(socket, &self.stats, transmit, &self.answer);
        }
    }
}

/// Sends the first `transmit.size` bytes of `buffer`. `false`: the socket is full.
fn send(
    socket: &mut dyn DatagramSocket,
    stats: &TransportStats,
    transmit: &quinn_proto::Transmit,
    buffer: &[u8],
) -> bool {
    let Some(contents) = buffer.get(..transmit.size) else {
        return true;
    };
    let datagrams = transmit
        .segment_size
        .map_or(1, |size| contents.len().div_ceil(size.max(1)));
    let Some(destination) = reachable(socket.local_addr(), transmit.destination) else {
        return true;
    };
    let sent = socket.try_send(&quinn_udp::Transmit {
        destination,
        ecn: transmit
            .ecn
            .map(|ecn| ecn as u8)
            .and_then(quinn_udp::EcnCodepoint::from_bits),
        contents,
        segment_size: transmit.segment_size,
        src_ip: transmit.src_ip,
    });
    match sent {
        Ok(()) => {
            stats.send_calls.add(1);
            stats.datagrams_sent.add(datagrams as u64);
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
        // A path MTU probe above the link's MTU: to QUIC it is lost, which is the answer it wants.
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => stats.sends_too_long.add(1),
        Err(error) => {
            stats.send_errors.add(1);
            tracing::debug!(%error, destination = %transmit.destination, "send failed");
        }
    }
    true
}
