//! A laboratory for the mesh: everything around a sidecar that is not a sidecar.
//!
//! - [`services`]: example applications, well-behaved and ill-behaved, for HTTP, gRPC, WebSocket and TCP.
//! - [`client`]: small gRPC and WebSocket clients for them.
//! - [`load`]: a closed-loop load generator that checks every answer and costs little CPU itself.
//! - [`process`]: child processes that are ready when they say so, measured, and never left behind.
//! - [`netns`]: hosts as network namespaces joined by links that delay, lose, reorder, corrupt, cut and translate.
//! - [`certificates`]: SVIDs in PEM files; [`envoy`]: configurations of Envoy.
//! - [`tools`]: programs of other people that tests and benches need, installed into the target directory.
//! - [`cli`]: all of it as subcommands, for the `weft-lab` binary and for other binaries that embed it.
//!
//! The demo, the interop tests and the benches use it. It depends on no crate of the mesh, so that it can judge
//! the mesh from outside. Linux only.

pub mod certificates;
mod child;
pub mod cli;
pub mod client;
pub mod envoy;
mod error;
pub mod load;
pub mod netns;
pub mod process;
pub mod services;
pub mod tools;

pub use error::{Error, Result};
