//! Which rule of the routes of a service a request matches, and what that does to it.
