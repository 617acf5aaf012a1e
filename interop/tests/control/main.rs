//! The whole mesh under a real controller: what a newcomer types, rotations and outages under load, who may do what.
//!
//! `WEFT_FULL=1` runs rotations and outages at the sizes that the project promises; `--nocapture` prints what they
//! measured.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod change;
mod explain;
mod load;
mod mesh;
mod newcomer;
mod outage;
mod rotation;
mod routing;
