//! The controller of a Weft mesh, and `weft`, its command line.
//!
//! - [`store`] keeps what must survive, [`audit`] who changed it, and [`catalog`] the documents in it.
//! - [`server`] is the port, [`auth`] tells who calls and what that role may do, [`limit`] how often, and [`api`] serves
//!   the calls.
//! - [`world`] is the configuration as it is now, [`plan`] what of it a proxy needs, [`push`] tells each, [`fleet`] keeps
//!   what proxies register.
//! - [`ca`] signs, [`trust`] and [`ledger`] rotate the root, [`attest`] lets newcomers in.
//! - [`app`] wires all that, from the [`command`] line of `weft-controller`; [`cli`] is `weft`.

#![allow(
    rustdoc::private_intra_doc_links,
    reason = "the documentation is built with private items"
)]

pub mod api;
pub mod app;
pub mod attest;
pub mod audit;
pub mod auth;
pub mod ca;
pub mod catalog;
pub mod cli;
pub mod command;
pub mod fleet;
pub mod hex;
pub mod ledger;
pub mod limit;
pub mod pages;
pub mod plan;
pub mod push;
pub mod server;
pub mod store;
pub mod trust;
pub mod unix;
pub mod world;
