//! Tells every connected proxy what concerns it.
//!
//! ```text
//!  catalog --publish--> +------------------------------+ --updates--> streams of proxies (push/stream.rs)
//!                       | core: world, fleet, sessions |
//!  api ---ask, fleet--> +------------------------------+ <-messages--
//!                              | register, deregister
//!                              v
//!                          Registrar
//! ```
//!
//! One task (`push/task.rs`) owns the [`World`](crate::world::World), the [`Fleet`](crate::fleet::Fleet) and all
//! [`sessions`](session); what it decides is in `push/core.rs`, without I/O. A [`Hub`] is the handle to it.
//!
//! A change is applied to the world, which says what it touches; the sessions that asked for any of that note it, and
//! each that has no update under way is sent one. So a change of one endpoint costs its subscribers one small message
//! each, and nobody else anything.

pub mod admission;
mod core;
pub mod questions;
pub mod session;
pub mod stream;
mod task;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;
use weft_proto::{kinds::DocumentKey, mesh::v1 as mesh};

use crate::{
    fleet::{Graces, Proxy, Registered, WriteError},
    world::Change,
};
pub use questions::Answers;
pub use stream::Outgoing;

/// How many inputs may wait for the task: as a burst of messages of all proxies would be.
const INPUTS: usize = 4_096;

/// The roots of the mesh, as proxies are to have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// Grows with every change.
    pub version: u64,
    /// Whose roots.
    pub trust_domain: String,
    /// DER.
    pub roots: Vec<Bytes>,
}

/// Proxies are to renew their certificates soon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenewHint {
    /// Grows with every hint; 0: there was none yet.
    pub epoch: u64,
    /// Within which each proxy chooses a moment.
    pub within: Duration,
    /// The trust version that makes it necessary.
    pub trust_version: u64,
}

/// Learns how far the proxies are with the roots.
pub trait TrustSink: Send + Sync + 'static {
    /// A proxy trusts the bundle of this version now. Called when that grew, and at each hello.
    fn on_ack(&self, proxy: &Proxy, trust_version: u64);

    /// A proxy shows a certificate that leads to this root (SHA-256 of its DER; empty: it does not say). Whether it is
    /// to renew it.
    fn on_certificate(&self, proxy: &Proxy, root: &[u8]) -> Option<RenewHint>;
}

/// What the certificate authority gives and takes.
pub struct Trust {
    /// The roots now.
    pub bundle: watch::Receiver<Arc<Bundle>>,
    /// The last hint.
    pub renew: watch::Receiver<RenewHint>,
    /// Told of acks.
    pub sink: Arc<dyn TrustSink>,
}

/// Keeps what proxies register. It checks a document against all others, makes it durable, and then publishes it to the
/// [`Hub`] as any other change. Of one key there is one call at a time.
pub trait Registrar: Send + Sync + 'static {
    /// Writes a workload that a proxy registered.
    fn register(
        &self,
        key: DocumentKey,
        registered: Registered,
    ) -> BoxFuture<'static, Result<(), WriteError>>;

    /// Removes one.
    fn deregister(&self, key: DocumentKey) -> BoxFuture<'static, Result<(), WriteError>>;
}

/// Times and limits.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long endpoints stay that are lost.
    pub graces: Graces,
    /// How often each proxy is sent the digest of what it is to hold.
    pub heartbeat: Duration,
    /// How many have their first update at once, and how many wait for it.
    pub admission: admission::Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            graces: Graces {
                lost: Duration::from_secs(10),
                restart: Duration::from_secs(60),
            },
            heartbeat: Duration::from_secs(15),
            // A first update of a few dozen resources is some 20 KiB: 64 of them are a megabyte on its way.
            admission: admission::Limits {
                syncing: 64,
                waiting: 8_192,
            },
        }
    }
}

/// The handle to the task that serves all proxies. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {
    inputs: mpsc::Sender<Input>,
}

/// The task of the hub ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the controller ends")]
pub struct Stopped;

impl From<Stopped> for Status {
    fn from(stopped: Stopped) -> Self {
        Status::unavailable(stopped.to_string())
    }
}

impl Hub {
    /// Starts the task, on the current runtime. `before` is what was registered when the controller last ran. Proxies
    /// may connect at once, and are sent nothing until the first [`publish`](Self::publish): an empty world is not one
    /// that was read yet.
    pub fn start(
        options: Options,
        before: Vec<(DocumentKey, Registered)>,
        registrar: Arc<dyn Registrar>,
        trust: Trust,
    ) -> Self {
        let (inputs, receiver) = mpsc::channel(INPUTS);
        tokio::spawn(task::run(options, before, registrar, trust, receiver));
        Self { inputs }
    }

    /// Changes of the configuration, in the order of their revisions; the first time all of it, which may be nothing.
    ///
    /// # Errors
    /// The hub was stopped.
    pub async fn publish(&self, revision: u64, changes: Vec<Change>) -> Result<(), Stopped> {
        self.send(Input::Publish { revision, changes }).await
    }

    /// How the proxies are.
    ///
    /// # Errors
    /// The hub was stopped.
    pub async fn fleet(&self, request: mesh::FleetRequest) -> Result<mesh::FleetResponse, Stopped> {
        let (reply, response) = oneshot::channel();
        self.send(Input::Fleet { request, reply }).await?;
        response.await.map_err(|_| Stopped)
    }

    /// Asks a proxy something. The answer has at most [`questions::MAX_ANSWER_BYTES`]; dropping it ends the question.
    ///
    /// # Errors
    /// There is no such proxy connected, or too many questions are open.
    pub async fn ask(&self, request: mesh::AskRequest) -> Result<Answers, Status> {
        let (reply, answers) = oneshot::channel();
        self.send(Input::Ask { request, reply }).await?;
        answers.await.map_err(|_| Stopped)?
    }

    /// Forgets a proxy. Tells whether there was one.
    ///
    /// # Errors
    /// The hub was stopped.
    pub async fn evict(&self, key: DocumentKey) -> Result<bool, Stopped> {
        let (reply, found) = oneshot::channel();
        self.send(Input::Evict { key, reply }).await?;
        found.await.map_err(|_| Stopped)
    }

    /// Sends all proxies away, each to come back at another moment within `spread`, and ends the task.
    pub async fn stop(&self, reason: &str, spread: Duration) {
        let (done, is_done) = oneshot::channel();
        let reason = reason.to_owned();
        if self.send(Input::Stop { reason, spread, done }).await.is_ok() {
            let _ = is_done.await;
        }
    }

    async fn send(&self, input: Input) -> Result<(), Stopped> {
        self.inputs.send(input).await.map_err(|_| Stopped)
    }
}

/// What comes to the task.
#[derive(Debug)]
enum Input {
    Connected(Box<stream::Connected>),
    Message(admission::SessionId, mesh::ProxyMessage),
    Closed(admission::SessionId),
    Publish {
        revision: u64,
        changes: Vec<Change>,
    },
    Fleet {
        request: mesh::FleetRequest,
        reply: oneshot::Sender<mesh::FleetResponse>,
    },
    Ask {
        request: mesh::AskRequest,
        reply: oneshot::Sender<Result<Answers, Status>>,
    },
    Evict {
        key: DocumentKey,
        reply: oneshot::Sender<bool>,
    },
    Stop {
        reason: String,
        spread: Duration,
        done: oneshot::Sender<()>,
    },
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
