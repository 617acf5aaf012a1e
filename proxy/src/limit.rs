//! How many requests there may be: in flight, waiting, and a time. Beyond a limit the answer is at once, and says which.
//!
//! What is counted outlives snapshots, and a limit is asked with each request: a changed one holds at once for what is
//! there. Nothing here reads a clock; only [`queue`] waits.

mod bucket;
mod callers;
mod count;
mod queue;
mod since;

pub(crate) use bucket::Buckets;
pub(crate) use callers::Callers;
pub(crate) use count::{Count, Counted};
pub(crate) use queue::{Admission, Permit, QUEUE_TIMEOUT, Requests};
pub(crate) use since::Since;

/// What counts under a limit of a service until it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "kept to be dropped")]
pub(crate) enum Held {
    Request(Permit),
    Connection(Counted),
}

impl From<Permit> for Held {
    fn from(permit: Permit) -> Self {
        Self::Request(permit)
    }
}

impl From<Counted> for Held {
    fn from(counted: Counted) -> Self {
        Self::Connection(counted)
    }
}
