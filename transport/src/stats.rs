//! Counters of the transport that other threads read: plain atomics, written by the worker alone.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::budget::Overload;

/// Counters of one worker's transport, or of all when shared.
#[derive(Debug, Default)]
pub struct TransportStats {
    /// Connections that a peer made and that are established now.
    pub connections_inbound: Gauge,
    /// Connections that we made and that are established now.
    pub connections_outbound: Gauge,
    /// Handshakes that succeeded, both sides.
    pub handshakes: Counter,
    /// Handshakes that failed, by [`HandshakeFailure`].
    pub handshake_failures: [Counter; HandshakeFailure::COUNT],
    /// Address validation demanded under load (RFC 9000 section 8.1.2).
    pub retries_sent: Counter,
    /// Connection attempts dropped because too many handshakes were under way.
    pub handshakes_shed: Counter,
    /// Datagrams received.
    pub datagrams_received: Counter,
    /// System calls that received them.
    pub receive_calls: Counter,
    /// Datagrams sent.
    pub datagrams_sent: Counter,
    /// System calls that sent them.
    pub send_calls: Counter,
    /// Sends that the kernel refused as too long: path MTU probes above the link's MTU.
    pub sends_too_long: Counter,
    /// Sends that failed for another reason.
    pub send_errors: Counter,
    /// Streams reset because nobody read them.
    pub stalled_streams: Counter,
    /// Streams cut because their connection had lasted as long as its certificates allow.
    pub expired_streams: Counter,
    /// Streams cut because the root of the peer's certificate was retired.
    pub untrusted_streams: Counter,
    /// Connections closed because the peer broke HTTP/3.
    pub violations: Counter,
    /// Connections closed because the peer wasted our work, by [`Overload`].
    pub overloads: [Counter; Overload::COUNT],
    /// Times that an established connection moved, by [`Move`].
    pub moves: [Counter; Move::COUNT],
}

/// Why a connection moved, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The address that this host sends from changed.
    Address,
    /// Nothing came back on the path, so it was left.
    Silence,
    /// The peer's address changed.
    Peer,
}

impl Move {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// All, in the order of [`TransportStats::moves`].
    pub const ALL: [Self; Self::COUNT] = [Self::Address, Self::Silence, Self::Peer];

    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Silence => "silence",
            Self::Peer => "peer",
        }
    }
}

/// Why a handshake failed, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// No answer in time.
    Timeout,
    /// We refused the peer's certificate.
    PeerCertificate,
    /// The peer refused ours, or TLS did not agree.
    Alert,
    /// The peer refuses connections.
    Refused,
    /// QUIC or HTTP/3 was broken.
    Protocol,
    /// Closed before it was done.
    Closed,
    /// Could not be started.
    Local,
}

impl HandshakeFailure {
    /// How many there are.
    pub const COUNT: usize = 7;
    /// All, in the order of [`TransportStats::handshake_failures`].
    pub const ALL: [Self; Self::COUNT] = [
        Self::Timeout,
        Self::PeerCertificate,
        Self::Alert,
        Self::Refused,
        Self::Protocol,
        Self::Closed,
        Self::Local,
    ];

    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::PeerCertificate => "peer_certificate",
            Self::Alert => "alert",
            Self::Refused => "refused",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
            Self::Local => "local",
        }
    }
}

impl TransportStats {
    pub(crate) fn moved(&self, cause: Move) {
        if let Some(counter) = self.moves.get(cause as usize) {
            counter.add(1);
        }
    }

    pub(crate) fn handshake_failed(&self, failure: HandshakeFailure) {
        if let Some(counter) = self.handshake_failures.get(failure as usize) {
            counter.add(1);
        }
    }

    pub(crate) fn overloaded(&self, overload: Overload) {
        if let Some(counter) = self.overloads.get(overload as usize) {
            counter.add(1);
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn decrement(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
