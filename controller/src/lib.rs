//! The controller of a Weft mesh, and `weft`, its command line.
//!
//! - [`store`] keeps what must survive, and [`audit`] who changed it.
//! - [`server`] is the port, [`auth`] tells who calls and what that role may do, [`limit`] how often.

pub mod audit;
pub mod auth;
pub mod limit;
pub mod pages;
pub mod plan;
pub mod server;
pub mod store;
pub mod world;
