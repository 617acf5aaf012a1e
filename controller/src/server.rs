//! The port of the controller: accepts, proves, and lets through only what the caller's role may call.
//!
//! An accept or a handshake that fails ends nothing but itself. What is not a call of [`CALLS`](crate::auth::CALLS),
//! or not open to the caller, does not reach a service.

use std::{
    convert::Infallible,
    future::Future as _,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::CertificateDer},
    server::TlsStream,
};
use tonic::{Status, body::Body, transport::server::Connected};
use tower::{Layer, Service};

use weft_tls::{
    CredentialsError, Refusal, TrustBundle,
    grpc::{self, Admission, ChooseSvid},
    verify::io_refusal,
};

use crate::{auth::Caller, limit::Limits};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at a time: more wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 64;
/// Connections at a time, handshakes included.
const MAX_CONNECTIONS: usize = 16_384;
/// After a failed accept, such as for want of file descriptors: trying at once would only burn CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that the server has not taken over yet.
const QUEUE: usize = 64;

/// How the port proves itself, and whom it believes.
pub struct Proving {
    /// The roots of now: a change takes hold of connections that there are, too.
    pub bundle: watch::Receiver<Arc<TrustBundle>>,
    /// Which SVID of the controller is shown to whom.
    pub own: ChooseSvid,
    /// For how long an expired certificate may still be renewed.
    pub grace: Duration,
}

/// What a handshake has proved.
#[derive(Clone, Debug)]
pub struct Proof {
    /// By its certificate.
    pub caller: Caller,
    /// Until when the certificate is valid; `None` without one, or with one that has expired.
    pub not_after: Option<SystemTime>,
    /// The certificates as they were shown, leaf first.
    chain: Arc<[CertificateDer<'static>]>,
}

/// A connection that is proved. It ends when what was proved does not hold any more.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    end: oneshot::Receiver<()>,
    _permit: OwnedSemaphorePermit,
}

/// Who is at its other end. An extension of every request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What the handshake has proved.
    pub proof: Proof,
    /// Where it comes from, for logs.
    pub address: SocketAddr,
}

/// Accepts until the receiver is dropped.
///
/// # Errors
/// TLS refuses a configuration, which cannot be with the provider of the project.
pub fn accept(
    listener: TcpListener,
    proving: Proving,
) -> Result<mpsc::Receiver<io::Result<Connection>>, CredentialsError> {
    let (connections, accepted) = mpsc::channel(QUEUE);
    let port = Port {
        tls: Tls::new(&proving)?,
        live: Live::watch(proving.bundle.clone(), proving.grace),
        proving,
        connections,
    };
    tokio::spawn(port.run(listener));
    Ok(accepted)
}

struct Port {
    proving: Proving,
    tls: Tls,
    live: Live,
    connections: mpsc::Sender<io::Result<Connection>>,
}

/// What connections of one trust bundle are proved with.
#[derive(Clone)]
struct Tls {
    config: Arc<ServerConfig>,
    admission: Admission,
}

impl Tls {
    fn new(proving: &Proving) -> Result<Self, CredentialsError> {
        let admission = Admission::new(proving.bundle.borrow().clone(), proving.grace);
        let config = Arc::new(admission.server_config(proving.own.clone())?);
        Ok(Self { config, admission })
    }
}

impl Port {
    async fn run(mut self, listener: TcpListener) {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        let all = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let permits = (
                handshakes.clone().acquire_owned().await,
                all.clone().acquire_owned().await,
            );
            let (Ok(handshake), Ok(permit)) = permits else {
                return;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.connections.closed() => return,
            };
            match accepted {
                Ok((stream, address)) => self.on_accepted(stream, address, handshake, permit),
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn on_accepted(
        &mut self,
        stream: TcpStream,
        address: SocketAddr,
        handshake: OwnedSemaphorePermit,
        permit: OwnedSemaphorePermit,
    ) {
        if self.proving.bundle.has_changed().unwrap_or(false) {
            self.proving.bundle.mark_unchanged();
            match Tls::new(&self.proving) {
                Ok(tls) => self.tls = tls,
                Err(error) => tracing::error!(%error, "the new trust bundle can't be used"),
            }
        }
        let (tls, live, connections) = (self.tls.clone(), self.live.clone(), self.connections.clone());
        let bundle = self.proving.bundle.clone();
        tokio::spawn(async move {
            let connection = prove(stream, address, tls, &live, permit).await;
            drop(handshake);
            // What was proved under roots that changed meanwhile may have been missed when all were looked at: whoever
            // it is comes again.
            let is_proved = !bundle.has_changed().unwrap_or(true);
            if let Some(connection) = connection.filter(|_| is_proved) {
                let _ = connections.send(Ok(connection)).await;
            }
        });
    }
}

async fn prove(
    stream: TcpStream,
    address: SocketAddr,
    tls: Tls,
    live: &Live,
    permit: OwnedSemaphorePermit,
) -> Option<Connection> {
    let _ = stream.set_nodelay(true);
    let handshake = TlsAcceptor::from(tls.config).accept(stream);
    let stream = match timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let refusal = io_refusal(&error);
            tracing::info!(%address, %error, ?refusal, "a handshake failed");
            return None;
        }
        Err(_) => {
            tracing::info!(%address, "a handshake took too long");
            return None;
        }
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let chain: Arc<[_]> = chain.iter().map(|one| one.clone().into_owned()).collect();
    let proof = match Proof::of(&tls.admission, chain, SystemTime::now()) {
        Ok(proof) => proof,
        Err(refusal) => {
            tracing::info!(%address, %refusal, "a certificate is not valid any more");
            return None;
        }
    };
    let end = live.add(&proof);
    Some(Connection {
        stream,
        peer: Peer { proof, address },
        end,
        _permit: permit,
    })
}

impl Proof {
    fn of(
        admission: &Admission,
        chain: Arc<[CertificateDer<'static>]>,
        now: SystemTime,
    ) -> Result<Self, Refusal> {
        let shown = (!chain.is_empty()).then_some(&*chain);
        let (caller, not_after) = match admission.peer(shown, now)? {
            grpc::Peer::None => (Caller::Anonymous, None),
            grpc::Peer::Valid(peer) => (Caller::of(peer.id), Some(peer.not_after)),
            grpc::Peer::Expired(peer) => (Caller::Expired(peer.id), None),
        };
        Ok(Self {
            caller,
            not_after,
            chain,
        })
    }

    /// Whether it still holds: the certificate is as valid as it was, under the roots of now.
    fn holds(&self, admission: &Admission, now: SystemTime) -> bool {
        Self::of(admission, self.chain.clone(), now).is_ok_and(|proof| proof.caller == self.caller)
    }
}

/// The connections that there are, to be ended when their proof does not hold any more.
#[derive(Clone)]
struct Live(Arc<Mutex<Vec<Ending>>>);

/// What a connection has proved, and what ends it when it is dropped.
type Ending = (Proof, oneshot::Sender<()>);

impl Live {
    /// Looks at the time each second, and at all of it when the roots change.
    fn watch(mut bundle: watch::Receiver<Arc<TrustBundle>>, grace: Duration) -> Self {
        let live = Self(Arc::default());
        let all = Arc::downgrade(&live.0);
        tokio::spawn(async move {
            let mut seconds = tokio::time::interval(Duration::from_secs(1));
            loop {
                let has_changed = tokio::select! {
                    changed = bundle.changed() => match changed {
                        Ok(()) => true,
                        Err(_) => return,
                    },
                    _ = seconds.tick() => false,
                };
                let Some(all) = all.upgrade() else { return };
                let now = SystemTime::now();
                let admission = Admission::new(bundle.borrow_and_update().clone(), grace);
                let holds = move |proof: &Proof| !has_changed || proof.holds(&admission, now);
                // Thousands of chains are verified when the roots change: not on a thread that others wait for.
                let _ = tokio::task::spawn_blocking(move || Self(all).end(now, holds)).await;
            }
        });
        live
    }

    fn add(&self, proof: &Proof) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        self.lock().push((proof.clone(), end));
        ended
    }

    fn end(&self, now: SystemTime, holds: impl Fn(&Proof) -> bool) {
        // Taken out, so that new ones do not wait for the lock meanwhile.
        let mut all = std::mem::take(&mut *self.lock());
        all.retain(|(proof, end)| {
            // A certificate is valid to the end of its last second.
            let has_ended = |not_after: SystemTime| not_after + Duration::from_secs(1) <= now;
            let is_over = proof.not_after.is_some_and(has_ended) || !holds(proof);
            if is_over {
                tracing::info!(
                    caller = proof.caller.name(),
                    "a connection is closed: its certificate is not valid any more"
                );
            }
            // Dropping the sender ends it.
            !is_over && !end.is_closed()
        });
        self.lock().append(&mut all);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Ending>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if Pin::new(&mut self.end).poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Puts the gate before the services: every request is permitted by role and rate, or answered here.
#[derive(Clone, Debug)]
pub struct GateLayer {
    /// Shared by all connections.
    pub limits: Arc<Limits>,
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            inner,
            limits: self.limits.clone(),
        }
    }
}

/// See [`GateLayer`].
#[derive(Clone, Debug)]
pub struct Gate<S> {
    inner: S,
    limits: Arc<Limits>,
}

impl<S> Service<http::Request<Body>> for Gate<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let caller = request
            .extensions()
            .get::<Peer>()
            .map_or(Caller::Anonymous, |peer| peer.proof.caller.clone());
        match self.permit(&caller, request.uri().path()) {
            Ok(()) => {
                request.extensions_mut().insert(caller);
                // The one that is ready is used up by the call.
                let ready = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, ready);
                Box::pin(async move { inner.call(request).await })
            }
            Err(status) => Box::pin(async move { Ok(status.into_http()) }),
        }
    }
}

impl<S> Gate<S> {
    fn permit(&self, caller: &Caller, path: &str) -> Result<(), Status> {
        caller.permit(path).inspect_err(|status| {
            tracing::info!(caller = caller.name(), path = path.get(..80).unwrap_or(path), code = ?status.code(), "a call is refused");
        })?;
        self.limits.take(caller.name(), std::time::Instant::now())
    }
}
