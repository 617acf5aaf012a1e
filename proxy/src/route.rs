//! Which rule of the routes of a service a request matches, and what that does to it.

/// The rules of all routes of a port of a service.
#[derive(Debug)]
pub(crate) struct Table;
