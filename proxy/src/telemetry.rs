//! What is told of one request or tunnel: made when it begins, told once when it ends, however it ends.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::{Instant, SystemTime},
};

use http::{
    HeaderMap, Method, StatusCode,
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use rustc_hash::FxHashMap;
use weft_proto::SpiffeId;
use weft_transport::h3::{self, RequestHead};

pub(crate) use crate::metrics::Direction;
use crate::{
    access_log::{AccessLog, Entry, WorkerLog},
    config::Config,
    control::Traffic,
    limit::Held,
    local::{HttpVersion, target::Target},
    log::Recent,
    metrics::{Metrics, OpenConnection, OpenTunnel, Outcome, RouteMetrics, Series, TunnelKind},
    respond::Failure,
    retry::GiveUp,
    snapshot::{Backend, Endpoint, InFlight, Upstream},
};

/// What a request or tunnel speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Http1,
    Http2,
    WebSocket,
    Tcp,
}

/// One request or tunnel.
pub(crate) struct Event {
    pub(crate) direction: Direction,
    pub(crate) started: Instant,
    pub(crate) protocol: Protocol,
    pub(crate) method: Option<Method>,
    pub(crate) authority: Option<Authority>,
    pub(crate) path: Option<PathAndQuery>,
    /// `NAMESPACE/NAME` of the service that was called, or the uid of the workload. Outbound.
    pub(crate) service: Option<Arc<str>>,
    /// The rule of a route that it matched.
    pub(crate) route: Option<Arc<str>>,
    /// Where it was sent, as `service` has it.
    pub(crate) backend: Option<Arc<str>>,
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    /// Inbound: who called, and from where.
    pub(crate) caller: Option<(SpiffeId, SocketAddr)>,
    pub(crate) status: Option<StatusCode>,
    /// Why it failed, from a fixed set.
    pub(crate) reason: Option<&'static str>,
    /// More of why.
    pub(crate) detail: Option<String>,
    /// Endpoints that it was sent to.
    pub(crate) tries: u32,
    /// Why it was not tried again although the last try did not end well.
    pub(crate) gave_up: Option<&'static str>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// It left in the clear.
    pub(crate) plaintext: bool,
    /// It was a gRPC call.
    pub(crate) grpc: bool,
    pub(crate) grpc_status: Option<u16>,
}

/// An [`Event`] in the making. Dropping it tells it.
pub(crate) struct Record {
    event: Box<Event>,
    sink: Rc<WorkerSink>,
    tunnel: Option<OpenTunnel>,
    in_flight: Option<InFlight>,
    /// Counts under a limit of the service.
    held: Option<Held>,
    last_failure: Option<Failure>,
    ended: bool,
    /// Not told: nothing has come of it.
    muted: bool,
}

impl Record {
    pub(crate) fn begin(sink: Rc<WorkerSink>, direction: Direction, protocol: Protocol) -> Self {
        let event = Box::new(Event {
            direction,
            started: Instant::now(),
            protocol,
            method: None,
            authority: None,
            path: None,
            service: None,
            route: None,
            backend: None,
            endpoint: None,
            caller: None,
            status: None,
            reason: None,
            detail: None,
            tries: 0,
            gave_up: None,
            sent: 0,
            received: 0,
            plaintext: false,
            grpc: false,
            grpc_status: None,
        });
        Self {
            event,
            sink,
            tunnel: None,
            in_flight: None,
            held: None,
            last_failure: None,
            ended: false,
            muted: false,
        }
    }

    /// Outbound: the head as the application sent it.
    pub(crate) fn set_parts(&mut self, head: &Parts) {
        self.event.method = Some(head.method.clone());
        self.event.grpc = crate::respond::is_grpc(&head.headers);
    }

    pub(crate) fn set_target(&mut self, target: &Target) {
        self.event.authority.clone_from(&target.authority);
        self.event.path.clone_from(&target.path);
    }

    /// Inbound: the head as the peer sent it.
    pub(crate) fn set_head(&mut self, head: &RequestHead) {
        self.event.protocol = match (head.is_connect(), head.protocol) {
            (true, None) => Protocol::Tcp,
            (true, Some(_)) => Protocol::WebSocket,
            (false, _)
                if head
                    .headers
                    .get(&h3::fields::WEFT_PROTOCOL)
                    .is_some_and(|value| value == "h2") =>
            {
                Protocol::Http2
            }
            (false, _) => Protocol::Http1,
        };
        self.event.method = Some(head.method.clone());
        self.event.authority.clone_from(&head.authority);
        self.event.path.clone_from(&head.path);
        self.event.grpc = crate::respond::is_grpc(&head.headers);
    }

    /// The name that a TLS client asked its server for.
    pub(crate) fn set_server_name(&mut self, name: Option<String>) {
        self.event.authority = name.and_then(|name| Authority::try_from(name).ok());
    }

    pub(crate) fn set_protocol(&mut self, protocol: Protocol) {
        self.event.protocol = protocol;
    }

    pub(crate) fn set_caller(&mut self, caller: &SpiffeId, remote: SocketAddr) {
        self.event.caller = Some((caller.clone(), remote));
    }

    pub(crate) fn set_upstream(&mut self, upstream: &Upstream) {
        match upstream {
            Upstream::Mesh(frontend) => self.event.service = Some(frontend.backend.name.clone()),
            Upstream::External(_) => self.event.plaintext = true,
        }
    }

    /// The rule that it matched.
    pub(crate) fn set_route(&mut self, route: &Arc<str>) {
        self.event.route = Some(route.clone());
    }

    /// Where it is sent.
    pub(crate) fn set_backend(&mut self, backend: &Backend) {
        self.event.backend = Some(backend.name.clone());
    }

    pub(crate) fn set_endpoint(&mut self, endpoint: &Arc<Endpoint>) {
        self.event.endpoint = Some(endpoint.clone());
        self.event.tries += 1;
    }

    pub(crate) fn set_plaintext(&mut self) {
        self.event.plaintext = true;
    }

    pub(crate) fn set_status(&mut self, status: StatusCode) {
        self.event.status = Some(status);
    }

    /// When the request began.
    pub(crate) fn started(&self) -> Instant {
        self.event.started
    }

    /// It counts under a limit of the service until its end.
    pub(crate) fn hold(&mut self, held: impl Into<Held>) {
        self.held = Some(held.into());
    }

    /// The head of the answer is there. `in_flight` counts until the answer is whole.
    pub(crate) fn on_answer(&mut self, status: StatusCode, in_flight: Option<InFlight>, sent: u64) {
        self.event.status = Some(status);
        self.event.sent = sent;
        self.in_flight = in_flight;
    }

    /// The tunnel is open: it counts as such until the end.
    pub(crate) fn on_tunnel(&mut self) {
        let kind = match self.event.protocol {
            Protocol::WebSocket => TunnelKind::WebSocket,
            Protocol::Http1 | Protocol::Http2 | Protocol::Tcp => TunnelKind::Tcp,
        };
        self.tunnel = Some(self.sink.route(&self.event).tunnel(kind));
    }

    /// The fields of a head or of trailers, in which gRPC has its status.
    pub(crate) fn on_fields(&mut self, fields: &HeaderMap) {
        if self.event.grpc
            && let Some(status) = fields
                .get("grpc-status")
                .and_then(|status| status.to_str().ok()?.parse().ok())
        {
            self.event.grpc_status = Some(status);
        }
    }

    /// An endpoint did not take it; another will be tried.
    pub(crate) fn on_retry(&mut self, failure: Failure) {
        self.sink.route(&self.event).retry(failure.reason());
        self.last_failure = Some(failure);
    }

    /// The last try is not followed by another one, though it did not end well.
    pub(crate) fn on_give_up(&mut self, reason: GiveUp) {
        if reason != GiveUp::Final {
            self.event.gave_up = Some(reason.reason());
        }
    }

    /// The application's answer is not passed on; the request is sent again.
    pub(crate) fn on_retry_of_answer(&mut self, status: StatusCode) {
        let reason = match status.is_server_error() {
            true => "answered_5xx",
            false => "answered_other",
        };
        self.sink.route(&self.event).retry(reason);
    }

    /// Why the last endpoint did not take it.
    pub(crate) fn last_failure(&mut self) -> Option<Failure> {
        self.last_failure.take()
    }

    pub(crate) fn add_sent(&mut self, bytes: u64) {
        self.event.sent += bytes;
    }

    pub(crate) fn add_received(&mut self, bytes: u64) {
        self.event.received += bytes;
    }

    /// It may come to nothing, and is not told then.
    pub(crate) fn mute(&mut self) {
        self.muted = true;
    }

    /// Something came of it.
    pub(crate) fn unmute(&mut self) {
        self.muted = false;
    }

    /// It ended as it should.
    pub(crate) fn complete(&mut self) {
        self.ended = true;
        self.in_flight = None;
        self.held = None;
    }

    /// It was cut short.
    pub(crate) fn fail(&mut self, reason: &'static str) {
        if !self.ended {
            self.ended = true;
            self.event.reason = Some(reason);
        }
        self.in_flight = None;
        self.held = None;
    }

    /// It got an answer of the mesh's own.
    pub(crate) fn refuse(&mut self, failure: &Failure) {
        self.event.status = Some(failure.status());
        self.event.detail = Some(failure.detail());
        self.fail(failure.reason());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.fail(match self.event.direction {
            Direction::Outbound => "application_closed",
            Direction::Inbound => "caller_cancelled",
        });
        if self.muted {
            return;
        }
        if let (Some(tunnel), Some(reason)) = (&mut self.tunnel, self.event.reason) {
            tunnel.set_reason(reason);
        }
        self.sink.on_end(&self.event);
    }
}

impl From<HttpVersion> for Protocol {
    fn from(version: HttpVersion) -> Self {
        match version {
            HttpVersion::Http1 => Self::Http1,
            HttpVersion::Http2 => Self::Http2,
        }
    }
}

impl Protocol {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
            Self::WebSocket => "websocket",
            Self::Tcp => "tcp",
        }
    }
}

/// Where a proxy tells what it tells: metrics and the access log.
pub(crate) struct Telemetry {
    pub(crate) metrics: Arc<Metrics>,
    log: AccessLog,
    log_thread: Option<JoinHandle<()>>,
    /// What inbound requests are counted under: `NAMESPACE/NAME` of this workload.
    workload: Arc<str>,
    /// What the controller is told.
    pub(crate) traffic: Arc<Traffic>,
}

impl Telemetry {
    /// Starts the thread that writes the log.
    ///
    /// # Errors
    /// The log's file can't be opened.
    pub(crate) fn start(config: &Config) -> Result<Self, TelemetryError> {
        let metrics = Arc::new(Metrics::new()?);
        let (log, log_thread) = AccessLog::start(&config.access_log, metrics.log_dropped())?;
        let workload = format!("{}/{}", &*config.workload.namespace, &*config.workload.name).into();
        Ok(Self {
            metrics,
            log,
            log_thread,
            workload,
            traffic: Arc::default(),
        })
    }

    /// The last lines of the access log; none if it is off.
    pub(crate) fn recent(&self) -> Option<&Recent> {
        self.log.recent()
    }

    /// Makes a worker's end, on the worker's thread.
    pub(crate) fn sinks(&self) -> Arc<dyn Fn() -> Rc<WorkerSink> + Send + Sync> {
        let (metrics, log, workload) = (self.metrics.clone(), self.log.clone(), self.workload.clone());
        let traffic = self.traffic.clone();
        Arc::new(move || {
            let log = log.worker();
            tokio::task::spawn_local(log.clone().run());
            let routes = RefCell::default();
            Rc::new(WorkerSink {
                metrics: metrics.clone(),
                log,
                workload: workload.clone(),
                traffic: traffic.clone(),
                routes,
            })
        })
    }

    /// Waits for the last lines of the log to be written, at most `limit` long: workers that were cut off still
    /// hold it.
    pub(crate) fn finish(self, limit: std::time::Duration) {
        drop(self.log);
        let Some(thread) = self.log_thread else { return };
        let (ended, end) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            let _ = thread.join();
            drop(ended);
        });
        // Both the end and the limit are errors of the channel.
        let _ = end.recv_timeout(limit);
    }
}

/// Telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    #[error("access log: {0}")]
    Log(#[from] io::Error),
    #[error("metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

/// One worker's end of [`Telemetry`].
pub(crate) struct WorkerSink {
    metrics: Arc<Metrics>,
    log: WorkerLog,
    workload: Arc<str>,
    traffic: Arc<Traffic>,
    routes: RefCell<Routes>,
}

/// A series is held beside its metrics: as long as it is, no other name has the address of one of its names.
type Routes = FxHashMap<Key, (Series, Rc<RouteMetrics>)>;

/// A [`Series`] by where its names are, which costs less than to read them. Names of another snapshot are others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    direction: Direction,
    /// 0: there is none.
    names: [usize; 3],
    version: usize,
}

fn address(name: &Arc<str>) -> usize {
    Arc::as_ptr(name).addr()
}

/// Series whose metrics a worker keeps at hand.
const MAX_ROUTES: usize = 4_096;

/// What requests that led nowhere are counted under.
const NOWHERE: &str = "(none)";

impl WorkerSink {
    /// Counts a connection of the application as open until the result is dropped.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.traffic.on_connection();
        self.metrics.connection()
    }

    /// A connection of the application was refused before anything was read from it.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.metrics.connection_refused(reason);
    }

    /// What became of a copy of a request.
    pub(crate) fn mirrored(&self, backend: &Backend, outcome: &'static str) {
        self.metrics.mirrored(&backend.name, outcome);
    }

    fn route(&self, event: &Event) -> Rc<RouteMetrics> {
        let version = event
            .endpoint
            .as_ref()
            .and_then(|endpoint| endpoint.version.as_ref());
        let key = Key {
            direction: event.direction,
            names: [&event.service, &event.route, &event.backend]
                .map(|name| name.as_ref().map_or(0, address)),
            version: version.map_or(0, address),
        };
        if let Some((_, route)) = self.routes.borrow().get(&key) {
            return route.clone();
        }
        let series = Series {
            direction: event.direction,
            service: match (event.direction, &event.service) {
                (Direction::Inbound, _) => self.workload.clone(),
                (Direction::Outbound, Some(service)) => service.clone(),
                (Direction::Outbound, None) => NOWHERE.into(),
            },
            route: event.route.clone(),
            backend: event.backend.clone(),
            version: version.cloned(),
        };
        let route = Rc::new(self.metrics.route(&series));
        let mut routes = self.routes.borrow_mut();
        if routes.len() >= MAX_ROUTES {
            // Those of snapshots that are gone are among them.
            routes.clear();
        }
        routes.insert(key, (series, route.clone()));
        route
    }

    fn on_end(&self, event: &Event) {
        let duration = event.started.elapsed();
        self.traffic.on_request(event.reason.is_some());
        let route = self.route(event);
        if matches!(event.protocol, Protocol::Http1 | Protocol::Http2) {
            let reason = event.reason.unwrap_or_default();
            route.request(
                &Outcome {
                    status: event.status,
                    grpc: event.grpc_status,
                    reason,
                },
                duration,
            );
        }
        route.bytes(event.sent, event.received);
        if event.plaintext {
            route.plaintext();
        }
        if self.log.is_on() {
            self.log.write(&entry(event, &self.workload, duration));
        }
    }
}

fn transport(event: &Event) -> &'static str {
    match (event.direction, &event.caller) {
        _ if event.plaintext => "plaintext",
        // Refused before anything carried it.
        (Direction::Inbound, None) => "",
        _ => "h3",
    }
}

fn entry<'e>(event: &'e Event, workload: &'e str, duration: std::time::Duration) -> Entry<'e> {
    let text = |value: Option<&'e str>| value.unwrap_or_default();
    // A peer's figures are those of its stream; else sent and received are to and from the service.
    let (received, sent) = match event.caller {
        Some(_) => (event.received, event.sent),
        None => (event.sent, event.received),
    };
    Entry {
        time: SystemTime::now(),
        direction: event.direction,
        protocol: event.protocol.as_str(),
        transport: transport(event),
        method: text(event.method.as_ref().map(Method::as_str)),
        path: text(event.path.as_ref().map(PathAndQuery::path)),
        authority: text(event.authority.as_ref().map(Authority::as_str)),
        service: match event.direction {
            Direction::Outbound => text(event.service.as_deref()),
            Direction::Inbound => workload,
        },
        route: text(event.route.as_deref()),
        backend: text(
            event
                .backend
                .as_deref()
                .filter(|backend| Some(*backend) != event.service.as_deref()),
        ),
        endpoint: text(event.endpoint.as_ref().map(|endpoint| &*endpoint.uid)),
        caller: text(event.caller.as_ref().map(|(caller, _)| caller.as_str())),
        peer: text(
            event
                .endpoint
                .as_ref()
                .and_then(|endpoint| endpoint.identity())
                .map(SpiffeId::as_str),
        ),
        status: event.status.map(|status| status.as_u16()),
        grpc_status: event.grpc_status,
        reason: event.reason.unwrap_or_default(),
        tries: event.tries,
        gave_up: event.gave_up.unwrap_or_default(),
        received,
        sent,
        duration,
    }
}
