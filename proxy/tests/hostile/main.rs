//! Peers that mean harm, and what a mesh at rest costs: real sidecars, measured as processes.
//!
//! As a test each attack is small and takes a second or so. At full size, with a table of what it did:
//! `WEFT_HOSTILE=full cargo test --profile dist -p weft-proxy --test hostile -- --nocapture --test-threads 1`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test, whose long form prints a table"
)]

#[path = "../common/mod.rs"]
mod common;

mod bystander;
mod peer;
mod quic;
mod stranger;
mod trial;
mod tunnels;

use std::{net::SocketAddr, process::Command};

use weft_lab::process::{Process, Ready};

use crate::common::{PROXY, SOON};

/// How much of an attack is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// Enough to see the limits at work.
    Small,
    /// What is promised, and measured.
    Full,
}

/// Starts a service of the laboratory in a process of its own, so that it takes neither files nor CPU time of the
/// test's.
pub(crate) fn service(kind: &str, address: SocketAddr) -> Process {
    let mut command = Command::new(&*PROXY);
    command
        .args(["lab", "services", kind, "--name", "web-0", "--listen"])
        .arg(address.to_string());
    let ready = Ready::Line("listening on ".to_owned());
    Process::spawn_ready(kind, command, &ready, SOON).expect("a service")
}

/// The size of every attack.
pub(crate) fn size() -> Size {
    match std::env::var("WEFT_HOSTILE").as_deref() {
        Ok("full") => Size::Full,
        Ok(other) => panic!("WEFT_HOSTILE={other}: `full` or nothing"),
        Err(_) => Size::Small,
    }
}
