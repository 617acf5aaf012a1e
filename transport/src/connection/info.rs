//! What an operator sees of a connection.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use weft_proto::SpiffeId;

use super::Connection;
use crate::config::Side;

/// What an operator sees of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Did we dial it?
    pub outbound: bool,
    /// The peer's address now.
    pub remote: SocketAddr,
    /// The peer's identity, once it has proved one.
    pub identity: Option<SpiffeId>,
    /// `handshaking`, `confirming`, `open`, `draining` or `closed`.
    pub phase: &'static str,
    /// Since it began.
    pub age: Duration,
    /// Request streams open now.
    pub streams: usize,
    /// Request streams since it began.
    pub streams_total: u64,
    /// The network path.
    pub path: PathInfo,
}

/// Figures of a connection's path.
#[derive(Clone, Copy, Debug, Default)]
pub struct PathInfo {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Congestion window, in bytes.
    pub congestion_window: u64,
    /// UDP payload that the path takes.
    pub mtu: u16,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets declared lost, path MTU probes aside.
    pub packets_lost: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Send calls that carried them.
    pub send_calls: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Bytes sent in datagrams.
    pub bytes_sent: u64,
    /// Bytes received in datagrams.
    pub bytes_received: u64,
    /// Times that the path began to lose large datagrams.
    pub black_holes: u64,
    /// Moves of either end: of the peer's address, or of this one's, or away from a path that was silent.
    pub migrations: u64,
}

impl Connection {
    pub(crate) fn info(&self, now: Instant) -> ConnectionInfo {
        let inner = &*self.inner.borrow();
        let stats = inner.proto.stats();
        ConnectionInfo {
            outbound: self.side == Side::Dial,
            remote: inner.proto.remote_address(),
            identity: inner.peer.as_ref().map(|peer| peer.id.clone()),
            phase: inner.phase.label(),
            age: now.saturating_duration_since(inner.started),
            streams: inner.streams.open_count(),
            streams_total: inner.streams.total(),
            path: PathInfo {
                rtt: stats.path.rtt,
                congestion_window: stats.path.cwnd,
                mtu: stats.path.current_mtu,
                packets_sent: stats.path.sent_packets,
                packets_lost: stats.path.lost_packets,
                datagrams_sent: stats.udp_tx.datagrams,
                send_calls: stats.udp_tx.ios,
                datagrams_received: stats.udp_rx.datagrams,
                bytes_sent: stats.udp_tx.bytes,
                bytes_received: stats.udp_rx.bytes,
                black_holes: stats.path.black_holes_detected,
                migrations: inner.migrations,
            },
        }
    }
}
