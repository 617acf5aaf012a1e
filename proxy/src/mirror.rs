//! Copies of requests, whose answers nobody reads.
