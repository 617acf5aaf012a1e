//! The controller of a Weft mesh, and `weft`, its command line.
//!
//! - [`store`] keeps what must survive, and [`auth`] tells who calls.

pub mod auth;
pub mod plan;
pub mod store;
pub mod world;
