//! The whole mesh: two sidecars or more as real processes, with applications on both sides.

#[path = "../common/mod.rs"]
mod common;

mod deputy;
mod fields;
mod hosts;
mod http1;
mod http2;
mod operate;
mod policy;
mod retry;
mod tcp;
mod websocket;
