//! One proxy's stream: messages in, at the pace that the task takes them, and messages out.

use std::{
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tonic::Status;
use weft_proto::{
    SpiffeId,
    kinds::{DocumentKey, Kind},
    mesh::v1 as mesh,
};

use super::{Hub, Input, admission::SessionId};
use crate::fleet::{Proxy, Registered, registration};

/// How many messages may wait to be sent to one proxy. One update is under way at a time; beside it there are
/// heartbeats, roots and questions: a proxy with more waiting does not read.
pub(super) const OUTGOING: usize = 64;
/// How long a proxy may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How many messages a proxy may send at once, and how many a second after that. The parts of an answer come fast; a
/// proxy that sends more is read more slowly, and nobody else is.
const BURST: f64 = 500.0;
const RATE: f64 = 500.0;
/// The longest text for an instance or a version.
const MAX_INSTANCE_BYTES: usize = 128;

/// Tells sessions apart, those of all hubs of the process.
static NEXT_SESSION: AtomicU64 = AtomicU64::new(1);

/// A proxy that said hello.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) session: SessionId,
    pub(super) proxy: Proxy,
    pub(super) registered: Option<Registered>,
    pub(super) hello: mesh::Hello,
    pub(super) out: Out,
}

/// The way to a proxy. Dropping it ends the stream.
#[derive(Debug)]
pub(super) struct Out {
    messages: mpsc::Sender<Result<mesh::ControllerMessage, Status>>,
    /// Ends whoever reads from the proxy.
    _reader: oneshot::Sender<()>,
}

impl Out {
    /// Sends a message; whether that was possible: else the proxy does not read, or is gone.
    pub(super) fn send(&self, message: mesh::controller_message::Message) -> bool {
        let message = mesh::ControllerMessage {
            message: Some(message),
        };
        self.messages.try_send(Ok(message)).is_ok()
    }

    /// Ends the stream with a reason.
    pub(super) fn end(self, status: Status) {
        // A proxy that does not read learns nothing.
        let _ = self.messages.try_send(Err(status));
    }
}

/// What a proxy is sent.
#[derive(Debug)]
pub struct Outgoing {
    messages: mpsc::Receiver<Result<mesh::ControllerMessage, Status>>,
}

impl Stream for Outgoing {
    type Item = Result<mesh::ControllerMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.poll_recv(context)
    }
}

impl Hub {
    /// Serves the stream of a proxy with this identity, from its address (for people). Messages come back until either
    /// side ends it.
    ///
    /// # Errors
    /// It says no hello, or one that cannot be.
    pub async fn connect(
        &self,
        identity: SpiffeId,
        address: String,
        mut incoming: impl Stream<Item = Result<mesh::ProxyMessage, Status>> + Send + Unpin + 'static,
    ) -> Result<Outgoing, Status> {
        let first = timeout(HELLO_TIMEOUT, incoming.next()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello within 10 s"))?;
        let Some(mesh::proxy_message::Message::Hello(hello)) =
            first.transpose()?.and_then(|first| first.message)
        else {
            return Err(Status::invalid_argument("the first message is not hello"));
        };
        let (proxy, registered) = read(&identity, address, &hello).map_err(Status::invalid_argument)?;
        let session = NEXT_SESSION.fetch_add(1, Ordering::Relaxed);
        let (messages, outgoing) = mpsc::channel(OUTGOING);
        let (reader, end) = oneshot::channel();
        let out = Out {
            messages,
            _reader: reader,
        };
        let connected = Connected {
            session,
            proxy,
            registered,
            hello,
            out,
        };
        self.send(Input::Connected(Box::new(connected))).await?;
        tokio::spawn(read_on(self.clone(), session, incoming, end));
        Ok(Outgoing { messages: outgoing })
    }
}

/// Whose stream it is, and what it registers.
fn read(
    identity: &SpiffeId,
    address: String,
    hello: &mesh::Hello,
) -> Result<(Proxy, Option<Registered>), String> {
    let namespace = identity.namespace().ok_or("the certificate is of no workload")?;
    let holder = hello.holder.as_ref().ok_or("holder: missing")?;
    if holder.instance.is_empty() || holder.instance.len() > MAX_INSTANCE_BYTES {
        return Err(format!(
            "holder.instance: has not 1 to {MAX_INSTANCE_BYTES} bytes"
        ));
    }
    let key = DocumentKey::new(Kind::Workload, namespace, &holder.workload)
        .map_err(|error| format!("holder.workload: {error}"))?;
    let registration = hello.registration.as_ref();
    let registered = registration.map(|registration| registration::registered(registration, identity, &key));
    let proxy = Proxy {
        identity: identity.clone(),
        key,
        instance: holder.instance.clone(),
        address,
    };
    Ok((proxy, registered.transpose()?))
}

/// Hands on what a proxy sends, until it or the task ends the stream.
async fn read_on(
    hub: Hub,
    session: SessionId,
    mut incoming: impl Stream<Item = Result<mesh::ProxyMessage, Status>> + Unpin,
    mut end: oneshot::Receiver<()>,
) {
    let mut pace = Pace::new(Instant::now());
    loop {
        let message = tokio::select! {
            _ = &mut end => return,
            message = incoming.next() => message,
        };
        let Some(Ok(message)) = message else { break };
        if let Some(until) = pace.take(Instant::now()) {
            sleep_until(until).await;
        }
        if hub.send(Input::Message(session, message)).await.is_err() {
            return;
        }
    }
    let _ = hub.send(Input::Closed(session)).await;
}

/// A token bucket.
struct Pace {
    tokens: f64,
    at: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            at: now,
        }
    }

    /// Takes one; none is there: the moment when there is one.
    fn take(&mut self, now: Instant) -> Option<Instant> {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * RATE).min(BURST) - 1.0;
        self.at = now;
        (self.tokens < 0.0).then(|| now + Duration::from_secs_f64(-self.tokens / RATE))
    }
}
