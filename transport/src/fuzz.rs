//! What fuzzing calls, and `cargo test` with every input that was kept (feature `fuzz`): see [`weft_proto::fuzz`].

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a property that does not hold is a panic"
)]

mod connection_id;
mod control;
pub(crate) mod frames;
mod heads;
mod messages;
mod qpack;
mod rules;

use bytes::Bytes;
use weft_proto::fuzz::{Memory, Target};

/// The targets of this crate.
pub const TARGETS: [Target; 6] = [
    frames::TARGET,
    qpack::TARGET,
    heads::TARGET,
    messages::TARGET,
    control::TARGET,
    connection_id::TARGET,
];

/// Some maps that grow in steps and a few copies that a body makes for itself; beyond, the 20 bytes that one byte of
/// a peer may make us hold.
const MEMORY: Memory = Memory {
    floor: 256 << 10,
    per_byte: 20,
};

/// `bytes` cut into pieces of the given lengths, over and over.
pub(crate) fn chunks(bytes: &Bytes, lengths: &[usize]) -> Vec<Bytes> {
    let mut rest = bytes.clone();
    let mut lengths = lengths.iter().cycle();
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let length = lengths
            .next()
            .map_or(rest.len(), |length| (*length).clamp(1, rest.len()));
        chunks.push(rest.split_to(length));
    }
    chunks
}

/// The first byte says how, the others what.
fn split(input: &[u8]) -> (u8, &[u8]) {
    input
        .split_first()
        .map_or((0, input), |(first, rest)| (*first, rest))
}
