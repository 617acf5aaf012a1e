//! Transparent capture: applications that know nothing of the mesh, on hosts that are network namespaces.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "helpers of tests"
)]

#[path = "../common/mod.rs"]
mod common;

mod inbound;
mod moves;
mod neighbours;
mod operate;
mod outbound;
mod setup;
