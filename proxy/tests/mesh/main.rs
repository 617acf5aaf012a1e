//! The whole mesh: two sidecars or more as real processes, with applications on both sides.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]

#[path = "../common/mod.rs"]
mod common;

mod deputy;
mod fields;
mod hosts;
mod http1;
mod http2;
mod operate;
mod policy;
mod resilience;
mod retry;
mod routing;
mod tcp;
mod websocket;
