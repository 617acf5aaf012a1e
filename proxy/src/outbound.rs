//! One connection of the application: where it was meant to go, what it speaks, and who serves it.

use std::{
    future::{Future, pending, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::{net::TcpStream, time::Instant};
use weft_proto::model::AppProtocol;

use crate::{
    capture::{self, Accepted, Destination},
    detect::{Declared, Detection, Event, First, Step},
    forward::{self, Caller, Meant},
    local::{HttpVersion, io::LocalStream, server},
    resolve,
    respond::Failure,
    snapshot::{NoRoute, Upstream},
    telemetry::Record,
    tunnel::{self, Tunnel},
    worker::Worker,
};

/// What is read at once while it is not known what the client speaks.
const FIRST_READ: usize = 4 << 10;
/// Ports whose first speaker is remembered; more are those of a mesh that changes all the time.
const MAX_REMEMBERED: usize = 4_096;

/// Through which door a connection came.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// The outbound port: redirected by the kernel, or addressed to as a proxy.
    Outbound,
    /// A port that stands for one service.
    Bind {
        /// As [`Snapshot::by_host`](crate::snapshot::Snapshot::by_host) takes it.
        host: Arc<str>,
        port: u16,
    },
}

/// Who spoke first on ports without a declared protocol.
#[derive(Debug, Default)]
pub(crate) struct Spoken(FxHashMap<(Arc<str>, u16), First>);

/// Serves one accepted connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, listener: SocketAddr, door: Door) {
    let _open = worker.sink.connection();
    let destination = match destination(&worker, &stream, listener) {
        Ok(destination) => destination,
        Err(reason) => {
            worker.sink.refused(reason);
            tracing::warn!(%listener, reason, "refused a connection of the application");
            return LocalStream::new(stream, Bytes::new()).reset();
        }
    };
    let plan = plan(&worker, destination, &door).await;
    let open = || -> Opening<'_> { Box::pin(open_probe(&worker, &plan.upstream)) };
    let decision = detect(&stream, plan.declared, plan.remembered, open).await;
    if let (Some(first), Ok(Upstream::Mesh(frontend))) = (decision.first, &plan.upstream)
        && frontend.backend.protocol == AppProtocol::Detect
    {
        worker
            .spoken
            .borrow_mut()
            .remember(frontend.backend.name.clone(), frontend.backend.port, first);
    }
    let stream = LocalStream::new(stream, decision.bytes);
    match decision.outcome {
        Outcome::Http(version) => serve_http(worker, stream, plan.meant, version).await,
        Outcome::Tunnel(opened, sni) => {
            serve_tunnel(&worker, stream, plan.upstream, opened.map(|opened| *opened), sni).await
        }
        Outcome::Gone => {}
    }
}

/// What is known of a connection before its first byte.
struct Plan {
    upstream: Result<Upstream, NoRoute>,
    declared: Declared,
    remembered: Option<First>,
    meant: Meant,
}

fn destination(
    worker: &Worker,
    stream: &TcpStream,
    listener: SocketAddr,
) -> Result<Destination, &'static str> {
    let accepted = Accepted::read(stream, listener).map_err(|_| "application_closed")?;
    capture::destination(&accepted, &worker.listeners, &worker.outgoing).map_err(|refusal| refusal.reason())
}

async fn plan(worker: &Worker, destination: Destination, door: &Door) -> Plan {
    let upstream = match (door, destination) {
        (Door::Bind { host, port }, _) => resolve::by_host(worker, host, Some(*port)).await,
        (Door::Outbound, Destination::Original(address)) => resolve::by_address(worker, address).await,
        // Each request says where it goes, so there must be requests.
        (Door::Outbound, Destination::Explicit) => {
            let upstream = Err(NoRoute::NoDestination);
            return Plan {
                upstream,
                declared: Declared::Http,
                remembered: None,
                meant: Meant::Said,
            };
        }
    };
    let (declared, remembered) = match &upstream {
        Ok(Upstream::Mesh(frontend)) => (
            declared(frontend.backend.protocol),
            worker
                .spoken
                .borrow()
                .first(&frontend.backend.name, frontend.backend.port),
        ),
        // Passed through as it is.
        Ok(Upstream::External(_)) => (Declared::Opaque, None),
        Err(_) => (Declared::Unknown, None),
    };
    let meant = match (door, destination) {
        (Door::Bind { host, port }, _) => Meant::Service {
            host: host.clone(),
            port: *port,
        },
        (Door::Outbound, Destination::Original(address)) => Meant::Address(address),
        (Door::Outbound, Destination::Explicit) => Meant::Said,
    };
    Plan {
        upstream,
        declared,
        remembered,
        meant,
    }
}

/// What is to be expected on a port of this protocol.
pub(crate) fn declared(protocol: AppProtocol) -> Declared {
    match protocol {
        AppProtocol::Detect => Declared::Unknown,
        AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc => Declared::Http,
        AppProtocol::Tls => Declared::Tls,
        AppProtocol::Tcp | AppProtocol::Udp => Declared::Opaque,
    }
}

/// What a connection turned out to carry, and the bytes of it that were read to find out.
pub(crate) struct Decision {
    pub(crate) outcome: Outcome,
    pub(crate) bytes: Bytes,
    pub(crate) first: Option<First>,
}

/// What a connection turned out to carry.
pub(crate) enum Outcome {
    Http(HttpVersion),
    /// Through this tunnel, if one was opened on the way; with the server name of a TLS hello.
    Tunnel(Option<Box<(Tunnel, Record)>>, Option<String>),
    /// The client, or the way to the server, is gone.
    Gone,
}

/// A tunnel that may turn out not to be wanted.
pub(crate) type Opening<'a> = Pin<Box<dyn Future<Output = Result<(Tunnel, Record), Failure>> + 'a>>;

/// Finds out what a connection carries, opening a tunnel by `open` where that is needed to know.
pub(crate) async fn detect<'a>(
    stream: &TcpStream,
    declared: Declared,
    remembered: Option<First>,
    open: impl Fn() -> Opening<'a>,
) -> Decision {
    let (mut detection, mut step) = Detection::new(declared, remembered);
    let mut probe = Probe {
        opening: None,
        tunnel: None,
    };
    let mut deadline: Option<Instant>;
    let mut ended = false;
    let outcome = loop {
        match step {
            Step::Wait(within) => deadline = within.map(|within| Instant::now() + within),
            Step::Open => {
                deadline = None;
                probe.opening = Some(open());
            }
            Step::Http(version) => break Outcome::Http(version),
            Step::Tunnel { sni } => break Outcome::Tunnel(probe.finish().await.map(Box::new), sni),
            Step::Fail => break Outcome::Gone,
        }
        let mut buffer = [0; FIRST_READ];
        step = tokio::select! {
            biased;
            read = read(stream, &mut buffer), if !ended => match read {
                Ok(0) => {
                    ended = true;
                    detection.on_event(Event::ClientEnd)
                }
                Ok(length) => detection.on_event(Event::Client(buffer.get(..length).unwrap_or_default())),
                Err(_) => break Outcome::Gone,
            },
            event = probe.next() => detection.on_event(event),
            () = sleep_until(deadline) => detection.on_event(Event::Timeout),
        };
    };
    Decision {
        outcome,
        first: detection.first(),
        bytes: detection.into_bytes(),
    }
}

/// The tunnel that is opened while it is not known whether one is wanted.
struct Probe<'a> {
    opening: Option<Opening<'a>>,
    tunnel: Option<(Tunnel, Record)>,
}

impl Probe<'_> {
    /// The tunnel failed, or the far side spoke in it. Never resolves without a tunnel.
    async fn next(&mut self) -> Event<'static> {
        if let Some(opening) = &mut self.opening {
            let opened = opening.await;
            self.opening = None;
            match opened {
                Ok(tunnel) => self.tunnel = Some(tunnel),
                Err(_) => return Event::TunnelFailed,
            }
        }
        match &mut self.tunnel {
            Some((Tunnel::Mesh { stream, .. }, _)) => poll_fn(|cx| stream.recv.poll_readable(cx)).await,
            Some((Tunnel::Plain(stream), _)) => {
                let _ = stream.tcp().readable().await;
            }
            None => pending().await,
        }
        Event::Server
    }

    /// The tunnel is wanted: it, if it was begun and opens.
    async fn finish(mut self) -> Option<(Tunnel, Record)> {
        match self.opening.take() {
            Some(opening) => opening.await.ok(),
            None => self.tunnel.take(),
        }
    }
}

/// A tunnel whose record is silent until it is wanted.
async fn open_probe(
    worker: &Worker,
    upstream: &Result<Upstream, NoRoute>,
) -> Result<(Tunnel, Record), Failure> {
    let upstream = upstream
        .as_ref()
        .map_err(|no_route| Failure::NoRoute(*no_route))?;
    let mut record = worker.begin_tunnel();
    record.set_upstream(upstream);
    record.mute();
    let tunnel = tunnel::open(worker, upstream, &mut record).await?;
    Ok((tunnel, record))
}

async fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}

async fn serve_http(worker: Rc<Worker>, stream: LocalStream, meant: Meant, version: HttpVersion) {
    let caller = Caller {
        destination: meant,
        version,
        source: stream.tcp().peer_addr().ok().map(|peer| peer.ip()),
    };
    let (draining, under_way) = (worker.draining.wait(), worker.drain.enter());
    let handler = move |request| forward::serve(worker.clone(), caller.clone(), request);
    if let Err(error) = server::serve(stream, version, handler, draining).await {
        tracing::debug!(%error, "connection of the application ended");
    }
    drop(under_way);
}

async fn serve_tunnel(
    worker: &Rc<Worker>,
    stream: LocalStream,
    upstream: Result<Upstream, NoRoute>,
    opened: Option<(Tunnel, Record)>,
    sni: Option<String>,
) {
    let _under_way = worker.drain.enter();
    if let Some((tunnel, mut record)) = opened {
        record.unmute();
        record.set_server_name(sni);
        return tunnel::carry(stream, tunnel, record).await;
    }
    let mut record = worker.begin_tunnel();
    record.set_server_name(sni);
    let opened = match &upstream {
        Ok(upstream) => {
            record.set_upstream(upstream);
            tunnel::open(worker, upstream, &mut record).await
        }
        Err(no_route) => Err(Failure::NoRoute(*no_route)),
    };
    match opened {
        Ok(tunnel) => tunnel::carry(stream, tunnel, record).await,
        Err(failure) => {
            record.refuse(&failure);
            // A clean end would look like an answer.
            stream.reset();
        }
    }
}

impl Spoken {
    fn first(&self, backend: &Arc<str>, port: u16) -> Option<First> {
        self.0.get(&(backend.clone(), port)).copied()
    }

    fn remember(&mut self, backend: Arc<str>, port: u16, first: First) {
        if self.0.len() >= MAX_REMEMBERED {
            self.0.clear();
        }
        self.0.insert((backend, port), first);
    }
}
