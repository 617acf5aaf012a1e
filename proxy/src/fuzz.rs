//! What fuzzing calls, and `cargo test` with every input that was kept (feature `fuzz`): see [`weft_proto::fuzz`].

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a property that does not hold is a panic"
)]

mod detect;
mod http1;
pub mod smuggling;
pub mod strict;

use weft_proto::fuzz::Target;

/// The targets of this crate.
pub const TARGETS: [Target; 2] = [detect::TARGET, http1::TARGET];

/// The first byte says how, the others what.
fn split(input: &[u8]) -> (u8, &[u8]) {
    input
        .split_first()
        .map_or((0, input), |(first, rest)| (*first, rest))
}
