//! The whole mesh: two sidecars or more as real processes, with applications on both sides.

#[path = "../common/mod.rs"]
mod common;

mod fields;
mod http1;
mod http2;
mod policy;
mod retry;
mod tcp;
mod websocket;
