//! The sidecar.
#[allow(dead_code)]
mod access_log;
#[allow(dead_code)]
mod admin;
#[allow(dead_code)]
mod capture;
#[allow(dead_code)]
mod detect;
#[allow(dead_code)]
mod drain;
#[allow(dead_code)]
mod local;
#[allow(dead_code)]
mod metrics;

fn main() {}
