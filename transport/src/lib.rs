//! QUIC and HTTP/3 between Weft sidecars, with the mutual TLS of `weft-tls`.
//!
//! One driver task owns a UDP socket, a quinn-proto endpoint and all its connections; everything of
//! a connection lives on one thread. [`h3`] is the sans-IO HTTP/3 codec; [`RequestStream`] joins the two. A
//! [`Pool`] dials peers by [`PeerKey`] and hands out streams; a [`Listener`] hands accepted streams to its owner.
//!
//! No type of quinn leaves this crate.

mod amplification;
mod budget;
pub mod cid;
mod config;
mod congestion;
mod connection;
mod control;
pub mod credentials;
mod driver;
mod error;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod h3;
mod listener;
mod migrate;
mod peer;
mod pool;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod socket;
mod sockets;
mod state;
mod stats;
mod steer;
mod stream;
mod streams;
mod term;
mod tunnel;
mod way;
mod window;

pub use budget::Overload;
pub use config::Config;
pub use connection::{ConnectionInfo, PathInfo};
pub use error::{DialFailure, Error, ErrorKind, Lost, Processed};
pub use listener::{Incoming, Listener, ListenerOptions, ListenerView, StartError};
pub use peer::PeerKey;
pub use pool::{Pool, PoolOptions};
pub use state::{EndpointState, StateError};
pub use stats::{Counter, Gauge, HandshakeFailure, Move, TransportStats};
pub use stream::{RecvStream, RequestStream, SendStream, TunnelLimit, TunnelSlot};
pub use tunnel::{TunnelEnd, TunnelError, copy_tunnel};
pub use weft_tls::verify;
