//! The knobs of QUIC, each with the value that a mesh needs and why.

use std::{sync::Arc, time::Duration};

use quinn_proto::{
    AckFrequencyConfig, EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt, congestion::CubicConfig,
};

use crate::{
    cid::{CidGenerator, CidInfo},
    h3::FieldLimits,
    state::EndpointState,
    window,
};

/// Largest UDP payload that we send or take. Jumbo frames (9,000 bytes) less IPv6 and UDP headers; datagrams
/// larger than this gain little and a burst of them no longer fits a GSO send.
pub(crate) const MAX_UDP_PAYLOAD: u16 = 8_952;
/// Linux refuses UDP sends larger than this with EMSGSIZE, GSO or not.
pub(crate) const MAX_UDP_SEND: usize = 65_507;
/// The smallest path MTU that QUIC supports (RFC 9000 section 14).
const MIN_MTU: u16 = 1_200;

/// Settings of the transport; the defaults are those of the mesh.
#[derive(Clone, Debug)]
pub struct Config {
    /// A connection ends when nothing was heard for this long.
    pub idle_timeout: Duration,
    /// The dialling side pings so often while a connection is open.
    pub keep_alive: Duration,
    /// A dial fails when the peer has not confirmed the handshake by then.
    pub dial_timeout: Duration,
    /// The dialling side closes a connection that has carried no stream for this long.
    pub idle_connection: Duration,
    /// Unread bytes of one stream that the peer may have sent.
    pub stream_window: u32,
    /// Unread bytes of all streams of a connection that the peer may have sent.
    pub connection_window: u32,
    /// Unacknowledged bytes that we hold for one connection, when the peer has shown that it acknowledges.
    pub send_window: u32,
    /// Streams of the peer at first, and to where the limit grows as they are used.
    pub streams: StreamLimits,
    /// Caps on messages.
    pub limits: FieldLimits,
    /// A head must have come whole this long after its stream was opened.
    pub head_timeout: Duration,
    /// Handshakes that a listener works on at once; above half of it, peers must prove their address (Retry).
    pub max_handshakes: usize,
    /// Connections to one peer at the most, when stalled readers fill the window of the first.
    pub max_connections_per_peer: usize,
    /// UDP socket buffers, in bytes.
    pub socket_buffer: usize,
    /// Upper bound of path MTU discovery, as UDP payload.
    pub max_udp_payload: u16,
}

/// How many streams of a peer may be open at once.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// Announced at first: each costs memory whether it is used or not.
    pub initial: u32,
    /// The limit doubles as it is used, up to this.
    pub max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(15),
            keep_alive: Duration::from_secs(5),
            dial_timeout: Duration::from_secs(3),
            idle_connection: Duration::from_secs(300),
            stream_window: 1 << 20,
            connection_window: 32 << 20,
            send_window: 8 << 20,
            streams: StreamLimits {
                initial: 256,
                max: 16_384,
            },
            limits: FieldLimits::default(),
            head_timeout: Duration::from_secs(10),
            max_handshakes: 512,
            max_connections_per_peer: 8,
            socket_buffer: 4 << 20,
            max_udp_payload: MAX_UDP_PAYLOAD,
        }
    }
}

impl Config {
    pub(crate) fn endpoint(
        &self,
        state: &EndpointState,
        worker: u8,
        seed: Option<[u8; 32]>,
    ) -> EndpointConfig {
        let mut config = EndpointConfig::new(Arc::new(state.reset_key.clone()));
        let key = state.cid_key.clone();
        let info = CidInfo {
            worker,
            epoch: state.epoch,
        };
        let cid_seed = seed.unwrap_or_else(rand::random);
        config
            .cid_generator(move || Box::new(CidGenerator::new(key.clone(), info, cid_seed)))
            .rng_seed(seed)
            // One reset in 20 ms, the default, would leave most peers of a restarted process to their timeout.
            .min_reset_interval(Duration::from_millis(1));
        if let Err(error) = config.max_udp_payload_size(self.max_udp_payload) {
            tracing::warn!(%error, payload = self.max_udp_payload, "max_udp_payload is out of range; the default stands");
        }
        config
    }

    /// Settings for connections whose link takes UDP payloads of `link_mtu`.
    pub(crate) fn transport(&self, side: Side, link_mtu: u16) -> TransportConfig {
        let upper = link_mtu.min(self.max_udp_payload).max(MIN_MTU);
        let mut ack = AckFrequencyConfig::default();
        // The delay is part of the peer's probe timeout: 25 ms, the default, is what a lone lost packet
        // would cost. Tokio's timers are good to a millisecond.
        ack.ack_eliciting_threshold(VarInt::from_u32(4))
            .max_ack_delay(Some(Duration::from_millis(1)));
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(upper);
        let mut config = TransportConfig::default();
        config
            .max_concurrent_bidi_streams(match side {
                // HTTP/3 servers never open bidirectional streams (RFC 9114 section 6.1).
                Side::Dial => VarInt::from_u32(0),
                Side::Listen => VarInt::from_u32(self.streams.initial),
            })
            // Control, QPACK encoder and decoder, and room for reserved types (RFC 9114 section 6.2).
            .max_concurrent_uni_streams(VarInt::from_u32(8))
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u32(self.connection_window))
            // Follows the congestion window, up to what is configured.
            .send_window(window::START.min(self.send_window.into()))
            // Finish a message once it is begun: fewer fragments, and its FIN in the same packet.
            .send_fairness(false)
            // Governs the probe timeout of a lost handshake; 333 ms, the default, is a WAN's.
            .initial_rtt(Duration::from_millis(20))
            .min_mtu(MIN_MTU)
            .mtu_discovery_config(Some(mtu))
            .ack_frequency_config(Some(ack))
            // With probe timeouts of a few milliseconds, three in a row (the default) are a scheduling
            // hiccup, not a dead path.
            .persistent_congestion_threshold(8)
            .congestion_controller_factory(Arc::new(cubic()))
            .datagram_receive_buffer_size(None)
            .max_idle_timeout(self.idle_timeout.try_into().ok())
            .keep_alive_interval(match side {
                Side::Dial => Some(self.keep_alive),
                Side::Listen => None,
            });
        config
    }
}

/// How fast to send.
pub(crate) fn cubic() -> CubicConfig {
    let mut cubic = CubicConfig::default();
    // The default of 12,000 bytes would hold back a jumbo datagram before the first acknowledgement.
    cubic.initial_window(256 << 10);
    cubic
}

/// Which end of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Dial,
    Listen,
}
