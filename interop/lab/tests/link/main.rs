//! Impaired links: each impairment proven by the packets that arrive, or do not. Without root these run in a user
//! namespace of their own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod impairments;
mod killed;
mod nat;
mod pair;
mod routes;
mod schedule;
mod users;
