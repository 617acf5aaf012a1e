//! Every input that fuzzing kept, once more.

use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;
use weft_proto::fuzz::TARGETS;

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
fn documents() {
    replay("documents");
}

#[test]
fn spiffe_id() {
    replay("spiffe_id");
}
