//! Calls the application: connections to it, kept by one worker.
//!
//! # Which connection carries a request
//! An application closes an idle HTTP/1.1 connection when it likes, also while a request is on its way: the request
//! is lost, and nobody can tell whether it was acted upon. A client of its own would have met the same, but the mesh
//! must not add to it, so:
//! - A connection is used again for at most [`IDLE`], or four fifths of what the application's `Keep-Alive: timeout`
//!   says if that is less.
//! - A request that may be sent twice (an idempotent method, no body) is sent once more, on a fresh connection, if a
//!   used one ends before the response begins (RFC 9112 section 9.3.1).
//! - One that may not takes only a connection that was idle for less than [`IDLE_UNREPEATABLE`], after a look whether
//!   it is still open. So it is safe with every application that keeps idle connections for a second.
//!
//! # Who owns a connection
//! The task that drives it. A request borrows its sender; when hyper has done with request and response, the task
//! itself puts the sender back among the idle ones. So a response needs no wrapper and returning costs no task.

pub(crate) mod http1;
mod http2;

use std::cell::RefCell;
use std::error::Error as StdError;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;

use super::HttpVersion;
use super::connect::Connector;
use super::error::{AppError, AppErrorKind, Processed};
use super::io::LocalStream;

/// How long an idle HTTP/1.1 connection is kept. Servers keep theirs for 1 s (rarely) to minutes.
pub(crate) const IDLE: Duration = Duration::from_secs(2);

/// The same, for requests that cannot be repeated: half of the shortest keep-alive that servers are found with.
const IDLE_UNREPEATABLE: Duration = Duration::from_millis(500);

/// The body of a request to the application. The default one is empty: it takes the place of an empty body when its
/// request is repeated.
pub(crate) trait AppBody:
    Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Default + Unpin + 'static
{
}

impl<B> AppBody for B where
    B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Default + Unpin + 'static
{
}

/// A worker's connections to its applications. Clones share them.
pub(crate) struct AppPool<B: AppBody>(Rc<Shared<B>>);

/// How an application answered a request to upgrade.
#[derive(Debug)]
pub(crate) enum UpgradeAnswer {
    /// 101, and the stream of bytes that the connection has become.
    Switched(http::response::Parts, LocalStream),
    /// Any other answer.
    Declined(Response<Incoming>),
}

struct Shared<B: AppBody> {
    connector: Connector,
    http1: RefCell<Vec<(SocketAddr, Rc<http1::Idle<B>>)>>,
    http2: RefCell<Vec<(SocketAddr, Rc<http2::Slot<B>>)>>,
}

impl<B: AppBody> Clone for AppPool<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: AppBody> std::fmt::Debug for AppPool<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("AppPool")
            .field("idle", &self.idle())
            .finish_non_exhaustive()
    }
}

impl<B: AppBody> AppPool<B> {
    /// A pool whose connections are opened by `connector`. It must be used within a `LocalSet`; dropping it closes
    /// idle connections.
    pub(crate) fn new(connector: Connector) -> Self {
        Self(Rc::new(Shared {
            connector,
            http1: RefCell::default(),
            http2: RefCell::default(),
        }))
    }

    /// Sends a request and waits for the response's head.
    ///
    /// The request's URI is absolute (scheme, authority, path); Host is written from it. Fields of the hop are not
    /// among its headers ([`clean_request`](super::headers::clean_request)).
    ///
    /// Dropping the future cancels the request: an HTTP/1.1 connection closes, an HTTP/2 stream is reset. So does
    /// dropping the response's body before its end.
    ///
    /// # Errors
    /// If there is no response; the error says whether the application may have acted.
    pub(crate) async fn send(
        &self,
        address: SocketAddr,
        version: HttpVersion,
        request: Request<B>,
    ) -> Result<Response<Incoming>, AppError> {
        let response = match version {
            HttpVersion::Http1 => {
                let idle = entry(&self.0.http1, address);
                http1::send(&self.0.connector, &idle, address, request).await?
            }
            HttpVersion::Http2 => {
                let slot = entry(&self.0.http2, address);
                Box::pin(http2::send(&self.0.connector, &slot, address, request)).await?
            }
        };
        // Nobody asked to switch protocols, and what follows would not be HTTP.
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {
                Err(AppError::new(AppErrorKind::BadResponse, Processed::Maybe))
            }
            _ => Ok(response),
        }
    }

    /// Sends a request that asks for an upgrade, on a connection of its own.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) async fn upgrade(
        &self,
        address: SocketAddr,
        request: Request<B>,
    ) -> Result<UpgradeAnswer, AppError> {
        http1::upgrade(&self.0.connector, address, request).await
    }

    /// Opens a connection for bytes that are not HTTP.
    ///
    /// # Errors
    /// If there is no connection. Nothing was sent then.
    #[cfg(test)]
    pub(crate) async fn connect(&self, address: SocketAddr) -> Result<LocalStream, AppError> {
        self.0.connector.connect(address).await
    }

    /// Takes over a connection on which nothing was sent, as an idle one.
    pub(crate) fn adopt(&self, address: SocketAddr, stream: LocalStream) {
        http1::adopt(&entry(&self.0.http1, address), stream);
    }

    /// How many HTTP/1.1 connections are idle.
    pub(crate) fn idle(&self) -> usize {
        self.0.http1.borrow().iter().map(|(_, idle)| idle.len()).sum()
    }
}

/// A workload has a handful of ports: a scan is cheaper than hashing.
fn entry<T: Default>(table: &RefCell<Vec<(SocketAddr, Rc<T>)>>, address: SocketAddr) -> Rc<T> {
    let mut table = table.borrow_mut();
    match table.iter().find(|(known, _)| *known == address) {
        Some((_, entry)) => entry.clone(),
        None => {
            let entry = Rc::<T>::default();
            table.push((address, entry.clone()));
            entry
        }
    }
}

#[cfg(test)]
mod tests;
