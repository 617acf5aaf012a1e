//! The calls of the controller, one file a service.

pub mod admin;
