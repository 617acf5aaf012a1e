//! How many requests there may be: in flight, waiting, and a time. Beyond a limit the answer is at once, and says which.
//!
//! What is counted outlives snapshots, and a limit is asked with each request: a changed one holds at once for what is
//! there. Nothing here reads a clock; only [`queue`] waits.

#![cfg_attr(not(test), expect(dead_code, unused_imports, reason = "wired next"))]

mod bucket;
mod callers;
mod count;
mod queue;
mod since;

pub(crate) use bucket::Buckets;
pub(crate) use callers::Callers;
pub(crate) use count::{Count, Counted};
pub(crate) use queue::{Admission, Permit, Requests};
pub(crate) use since::Since;
