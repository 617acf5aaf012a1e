//! Every input that fuzzing kept, once more.

use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;
use weft_transport::fuzz::TARGETS;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// One at a time, or the memory of one would count for the other.
fn replay(name: &str) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let target = TARGETS.iter().find(|target| target.name == name);
    assert!(target.inspect(|target| target.replay()).is_some(), "{name}");
}

#[test]
fn frames() {
    replay("frames");
}

#[test]
fn qpack() {
    replay("qpack");
}

#[test]
fn heads() {
    replay("heads");
}

#[test]
fn messages() {
    replay("messages");
}

#[test]
fn control() {
    replay("control");
}

#[test]
fn connection_id() {
    replay("connection_id");
}
