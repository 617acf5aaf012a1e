//! A load generator: a closed loop over N connections on one thread, which checks every answer.
//!
//! Closed loop means that a connection sends its next request when it has the answer to the last, so that
//! latencies are those of a client that waits; they say nothing about a rate that the other side can't keep.
//! One thread with one task a connection costs about what wrk costs, and leaves the machine to what is measured.

mod connection;
pub mod open;
mod report;
mod response;

pub use report::{Errors, Latency, Report, Watched};

use crate::error::{Doing, Result};
use crate::process::Usage;
use bytes::Bytes;
use connection::Shared;
use report::Window;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{JoinSet, LocalSet};

/// What to send, to whom, for how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to connect.
    pub target: SocketAddr,
    /// What is sent over each connection.
    pub work: Work,
    /// How many connections there are, all the time.
    pub connections: usize,
    /// Load before the measurement, not counted; errors in it are.
    pub warmup: Duration,
    /// When the measurement ends.
    pub limit: Limit,
    /// How long an answer may take: one that is still missing so long after the end is an error.
    pub timeout: Duration,
    /// Processes whose CPU time is taken at the start and the end of the measurement.
    pub watch: Vec<u32>,
}

/// When a measurement ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// After a time.
    Duration(Duration),
    /// After so many requests over all connections.
    Count(u64),
}

/// What is sent over each connection.
#[derive(Debug, Clone)]
pub enum Work {
    /// HTTP/1.1 requests with keep-alive.
    Http {
        /// The `Host` field.
        host: String,
        /// The request target.
        path: String,
        /// The body of a right answer; without it, all answers must be like the first. The status must be 200.
        expect: Option<Bytes>,
    },
    /// Messages of this many bytes to a TCP echo.
    Ping {
        /// Bytes of a message.
        size: usize,
    },
    /// HTTP/1.1 downloads of `/bytes?n=N`.
    Bulk {
        /// The `Host` field.
        host: String,
        /// `N`.
        bytes: u64,
    },
}

/// Runs the load to its end, on a runtime of its own: call it from outside of one.
///
/// # Errors
/// That there could be no runtime, or a watched process ended. What goes wrong with requests is in the report.
pub fn run(options: &Options) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.doing(|| "start a runtime".to_owned())?;
    LocalSet::new().block_on(&runtime, drive(options))
}

async fn drive(options: &Options) -> Result<Report> {
    let shared = Rc::new(Shared::new(options)?);
    let mut connections = JoinSet::new();
    for _ in 0..options.connections {
        let shared = Rc::clone(&shared);
        let (target, work) = (options.target, options.work.clone());
        connections.spawn_local(connection::run(shared, target, work));
    }
    // Without a warm-up the first request counts: no task runs before the next await.
    if !options.warmup.is_zero() {
        tokio::time::sleep(options.warmup).await;
    }
    let window = Window::start(&options.watch)?;
    shared.start_measuring();
    match options.limit {
        Limit::Duration(duration) => tokio::time::sleep(duration).await,
        Limit::Count(_) => tokio::select! {
            () = all(&mut connections) => {}
            () = shared.stalls(options.timeout) => {}
        },
    }
    let measured = shared.stop()?;
    let window = window.end()?;
    if tokio::time::timeout(options.timeout, all(&mut connections))
        .await
        .is_err()
    {
        shared.count_unanswered(connections.len());
    }
    let peak = Usage::own()?.peak_rss;
    Ok(report::make(
        options,
        measured,
        shared.take_errors(),
        window,
        peak,
    ))
}

async fn all(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}
