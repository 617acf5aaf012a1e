//! What a peer with a certificate of the mesh may try with frames of QUIC's own, forged by [aioquic].
//!
//! [aioquic]: https://github.com/aiortc/aioquic

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use weft_lab::tools;

use crate::trial::{run, trial};

/// Transport error codes (RFC 9000 section 20.1).
const PROTOCOL_VIOLATION: u64 = 0xa;
const INTERNAL_ERROR: u64 = 0x1;

/// The attacks of `quic_peer.py`, by its names for them, and how each ends.
fn attack(name: &'static str, expected: Option<u64>, small: usize, full: usize) {
    run(trial(&name.replace('_', " "), expected, async |attacker| {
        let (packets, address) = (attacker.times(small, full), attacker.web.at(15_008));
        let certificate = attacker.directory.join("certs/mallory.pem");
        let said = tokio::task::spawn_blocking(move || {
            let python = tools::python_with_aioquic().expect("aioquic");
            let mut command = Command::new(python);
            command
                .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/quic_peer.py"))
                .args([address.ip().to_string(), address.port().to_string()])
                .args([&certificate, &certificate.with_extension("key")])
                .args([name, &packets.to_string()]);
            succeeds(&mut command)
        });
        let said = said.await.expect("a thread").stdout;
        let said: Value = serde_json::from_slice(&said).expect("a line of JSON");
        attacker.connections = 1;
        attacker.streams = 100;
        attacker.sent = said["sent"].as_u64().expect("a number");
        attacker.closed.extend(said["code"].as_u64());
    }));
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().expect("run a program");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[test]
fn pings() {
    attack("ping", None, 200, 10_000);
}

#[test]
fn path_challenges() {
    attack("path_challenge", None, 200, 10_000);
}

#[test]
fn new_connection_ids() {
    attack("new_connection_id", None, 200, 10_000);
}

#[test]
fn retired_connection_ids() {
    attack("retire_connection_id", None, 200, 10_000);
}

#[test]
fn frames_with_gaps() {
    attack("gaps", Some(INTERNAL_ERROR), 5_000, 20_000);
}

#[test]
fn stream_frames_of_one_byte() {
    // Lost packets are not sent again, and leave gaps: few enough that none is lost.
    attack("tiny_frames", None, 200, 200);
}

#[test]
fn crypto_after_the_handshake() {
    attack("crypto", Some(INTERNAL_ERROR), 200, 10_000);
}

#[test]
fn acknowledgements_of_what_was_not_sent() {
    attack("optimistic_ack", Some(PROTOCOL_VIOLATION), 3, 3);
}

#[test]
fn credit_in_small_steps() {
    attack("max_data", None, 200, 10_000);
}

#[test]
fn answers_that_are_never_acknowledged() {
    attack("unread_answers", None, 120, 400);
}
