//! What an operator sees of a running proxy, and the metrics that are read when someone looks.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, OnceLock},
    time::{Instant, SystemTime},
};

use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use weft_transport::{
    ConnectionInfo, HandshakeFailure, Listener, Move, Overload, PeerKey, TransportStats,
    credentials::Credentials,
};

use crate::{
    admin::{self, Pages, Questions, Readiness, Report, Workers},
    balance::Eligibility,
    capture::watch::Health,
    config::Config,
    control::{ControlState, keeper::RotationState},
    drain::Drain,
    explain::Explainer,
    memory,
    metrics::{ControlFigures, Metrics, PathFigures, TransportFigures, UPKEEP},
    snapshot::{Frontend, Reach, Snapshot},
    worker::Worker,
};

/// Everything that the pages are made of.
#[derive(Clone)]
pub(crate) struct Status {
    /// Empty before identity and configuration are there.
    pub(crate) serving: Arc<OnceLock<Serving>>,
    pub(crate) origin: Origin,
    pub(crate) drain: Drain,
    pub(crate) stats: Arc<TransportStats>,
    pub(crate) metrics: Arc<Metrics>,
    /// How the capture is that this proxy relies on.
    pub(crate) capture: watch::Receiver<Health>,
    /// Whether it is ready without.
    pub(crate) capture_required: bool,
}

/// What is known once this proxy serves.
pub(crate) struct Serving {
    pub(crate) credentials: watch::Receiver<Arc<Credentials>>,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// UDP ports of this proxy's mesh listeners.
    pub(crate) mesh_ports: Vec<u16>,
}

/// Where certificates and documents come from, and how that goes.
#[derive(Clone)]
pub(crate) enum Origin {
    /// Why the files as they are now can't be used, if so.
    Files {
        documents: watch::Receiver<Option<String>>,
        identity: watch::Receiver<Option<String>>,
    },
    Controller {
        control: watch::Receiver<ControlState>,
        rotation: watch::Receiver<RotationState>,
    },
}

/// The pages, served until this is dropped.
pub(crate) struct Served(Vec<JoinHandle<io::Result<()>>>);

impl Drop for Served {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// The questions for so many workers, and how to ask them.
pub(crate) fn questions(workers: u8) -> (Workers<Report>, Vec<Questions<Report>>) {
    Workers::new(workers.into())
}

/// A listener of the pages can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("TCP {address}: {source}")]
pub(crate) struct PageError {
    address: SocketAddr,
    source: io::Error,
}

impl Status {
    /// Serves admin and metrics.
    ///
    /// # Errors
    /// An address can't be bound.
    pub(crate) async fn serve(
        self,
        config: &Config,
        workers: Workers<Report>,
        explainer: Explainer,
    ) -> Result<Served, PageError> {
        let pages = self.pages(workers, explainer);
        let mut served = Served(Vec::new());
        for address in &config.listen.admin {
            let listener = bind(*address).await?;
            served
                .0
                .push(tokio::spawn(admin::serve(listener, admin::admin(pages.clone()))));
        }
        for address in &config.listen.metrics {
            let listener = bind(*address).await?;
            served.0.push(tokio::spawn(admin::serve(
                listener,
                admin::metrics(pages.clone()),
            )));
        }
        let metrics = pages.metrics;
        served.0.push(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(UPKEEP);
            loop {
                ticks.tick().await;
                metrics.upkeep();
            }
        }));
        served.0.push(tokio::spawn(async {
            let mut spare = memory::Spare::default();
            let mut ticks = tokio::time::interval(memory::INTERVAL);
            loop {
                ticks.tick().await;
                spare.look();
            }
        }));
        Ok(served)
    }

    fn pages(self, workers: Workers<Report>, explainer: Explainer) -> Pages {
        let metrics = self.metrics.clone();
        let status = Arc::new(self);
        let (ready, snapshot, refresh) = (status.clone(), status.clone(), status);
        Pages {
            ready: Arc::new(move || ready.readiness()),
            snapshot: Arc::new(move || snapshot.snapshot()),
            workers,
            explainer,
            metrics,
            refresh: Arc::new(move |metrics| refresh.refresh(metrics)),
        }
    }

    fn readiness(&self) -> Readiness {
        if self.drain.has_begun() {
            return Readiness::NotReady("draining".into());
        }
        let Some(serving) = self.serving.get() else {
            return Readiness::NotReady(self.origin.missing().into());
        };
        let svid = serving.credentials.borrow().svid().clone();
        let now = SystemTime::now();
        if now >= svid.not_after() {
            let mut why = "the certificate of this workload has expired".to_owned();
            if let Some(failing) = self.origin.renewal_failing() {
                why = format!("{why}, and is not renewed: {failing}");
            }
            Readiness::NotReady(why.into())
        } else if now < svid.not_before() {
            Readiness::NotReady("the certificate of this workload is not valid yet".into())
        } else if let (Health::Broken(reason), true) = (&*self.capture.borrow(), self.capture_required) {
            Readiness::NotReady((*reason).into())
        } else {
            Readiness::Ready
        }
    }

    /// What this proxy believes.
    pub(crate) fn snapshot(&self) -> Value {
        let mut page = match self.serving.get() {
            Some(serving) => serving.show(),
            None => json!({ "generation": 0, "notReady": self.origin.missing() }),
        };
        page["capture"] = match &*self.capture.borrow() {
            Health::Unused => Value::Null,
            Health::Intact => "intact".into(),
            Health::Broken(reason) => (*reason).into(),
        };
        match &self.origin {
            Origin::Files { documents, identity } => {
                page["problems"] =
                    json!({ "documents": *documents.borrow(), "identity": *identity.borrow() });
            }
            Origin::Controller { control, rotation } => {
                page["control"] = control.borrow().show(&rotation.borrow());
            }
        }
        page
    }

    fn refresh(&self, metrics: &Metrics) {
        let stats = &self.stats;
        let failures = HandshakeFailure::ALL.iter().zip(&stats.handshake_failures);
        metrics.set_transport(&TransportFigures {
            from_peers: stats.connections_inbound.get(),
            to_peers: stats.connections_outbound.get(),
            handshakes: stats.handshakes.get(),
            handshakes_failed: failures
                .map(|(failure, count)| (failure.label(), count.get()))
                .collect(),
            moves: Move::ALL
                .iter()
                .zip(&stats.moves)
                .map(|(cause, count)| (cause.label(), count.get()))
                .collect(),
            limits: limits(stats),
            sent: (stats.datagrams_sent.get(), stats.send_calls.get()),
            received: (stats.datagrams_received.get(), stats.receive_calls.get()),
            drops: udp_drops(self.serving.get().map_or(&[], |serving| &serving.mesh_ports)),
        });
        match *self.capture.borrow() {
            Health::Unused => {}
            Health::Intact => metrics.set_capture_intact(true),
            Health::Broken(_) => metrics.set_capture_intact(false),
        }
        if let Some(serving) = self.serving.get() {
            metrics.set_svid_not_after(serving.credentials.borrow().svid().not_after());
        }
        if let Origin::Controller { control, rotation } = &self.origin {
            let control = control.borrow();
            metrics.set_control(&ControlFigures {
                connected: control.controller.is_some(),
                refused: !control.problems.is_empty(),
                cached: control.cached.is_some(),
                renewal_failing_since: rotation.borrow().failing.as_ref().map(|(since, ..)| *since),
            });
        }
    }
}

impl Serving {
    fn show(&self) -> Value {
        let snapshot = self.snapshots.borrow().clone();
        let svid = self.credentials.borrow().svid().clone();
        json!({
            "generation": snapshot.generation,
            "identity": { "spiffeId": svid.id().as_str(), "notAfter": seconds(svid.not_after()) },
            "mesh": mesh(&snapshot),
            "inbound": inbound(&snapshot),
            "backends": snapshot.frontends().map(|(destination, frontend)| show(&destination, frontend)).collect::<Vec<_>>(),
            "outside": snapshot.externals().map(|(host, external)| json!({
                "host": host,
                "name": &*external.name,
                "ports": external.ports,
                "addresses": external.addresses,
            })).collect::<Vec<_>>(),
        })
    }
}

impl Origin {
    /// Why this proxy does not serve yet.
    fn missing(&self) -> String {
        let Self::Controller { control, rotation } = self else {
            return "starting".to_owned();
        };
        if rotation.borrow().not_after.is_none() {
            return match self.renewal_failing() {
                Some(why) => format!("no identity yet: {why}"),
                None => "no identity yet: it is being asked for".to_owned(),
            };
        }
        let control = control.borrow();
        match (control.problems.first(), &control.lost) {
            (Some(problem), _) => format!("no configuration yet: the first one is refused: {problem}"),
            (None, Some((_, why))) => format!("no configuration yet: {why}"),
            (None, None) => "no configuration yet: the controller has none, or has not sent it".to_owned(),
        }
    }

    fn renewal_failing(&self) -> Option<String> {
        match self {
            Self::Files { identity, .. } => identity.borrow().clone(),
            Self::Controller { rotation, .. } => {
                rotation.borrow().failing.as_ref().map(|(.., why)| why.clone())
            }
        }
    }
}

fn limits(stats: &TransportStats) -> Vec<(&'static str, u64)> {
    let overloads = Overload::ALL.iter().zip(&stats.overloads);
    overloads
        .map(|(overload, count)| (overload.label(), count.get()))
        .chain([
            ("protocol_error", stats.violations.get()),
            ("stalled_reader", stats.stalled_streams.get()),
            ("certificate_expiry", stats.expired_streams.get()),
            ("certificate_untrusted", stats.untrusted_streams.get()),
        ])
        .collect()
}

/// What one worker tells of itself, when it is asked.
pub(crate) fn reporter(
    index: u8,
    worker: &Rc<Worker>,
    listeners: &[Listener],
) -> impl AsyncFn() -> Report + use<> {
    let worker = worker.clone();
    let views: Vec<_> = listeners.iter().map(Listener::view).collect();
    async move || {
        let mut report = Report::default();
        for (peer, info) in worker.pool.connections() {
            report.add(index, Some(&peer), &info);
        }
        for view in &views {
            for info in view.connections().await {
                report.add(index, None, &info);
            }
        }
        report
    }
}

impl Report {
    fn add(&mut self, worker: u8, peer: Option<&PeerKey>, info: &ConnectionInfo) {
        self.connections.push(connection(worker, peer, info));
        self.paths.push(PathFigures {
            rtt: info.path.rtt,
            sent: info.path.packets_sent,
            lost: info.path.packets_lost,
            window: info.path.congestion_window,
            mtu: info.path.mtu,
        });
    }
}

fn connection(worker: u8, peer: Option<&PeerKey>, info: &ConnectionInfo) -> Value {
    let path = &info.path;
    let datagrams_per_send = path.datagrams_sent as f64 / path.send_calls.max(1) as f64;
    json!({
        "worker": worker,
        "direction": if info.outbound { "outbound" } else { "inbound" },
        "workload": peer.map(|peer| &*peer.uid),
        "address": info.remote.to_string(),
        "identity": info.identity.as_ref().map(|identity| identity.as_str()),
        "transport": "h3",
        "phase": info.phase,
        "ageSeconds": info.age.as_secs(),
        "streams": info.streams,
        "streamsTotal": info.streams_total,
        "rttMicros": path.rtt.as_micros() as u64,
        "packetsSent": path.packets_sent,
        "packetsLost": path.packets_lost,
        "congestionWindow": path.congestion_window,
        "mtu": path.mtu,
        "datagramsSent": path.datagrams_sent,
        "datagramsReceived": path.datagrams_received,
        "datagramsPerSend": (datagrams_per_send * 100.0).round() / 100.0,
        "bytesSent": path.bytes_sent,
        "bytesReceived": path.bytes_received,
        "blackHoles": path.black_holes,
        "migrations": path.migrations,
    })
}

fn mesh(snapshot: &Snapshot) -> Value {
    let config = &snapshot.config;
    let ranges = |ranges: &[ipnet::IpNet]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "trustDomain": config.trust_domain.as_str(),
        "meshRanges": ranges(&config.mesh_ranges),
        "serviceRanges": ranges(&config.service_ranges),
        "egress": format!("{:?}", config.egress).to_lowercase(),
        "unmeshed": format!("{:?}", config.unmeshed).to_lowercase(),
    })
}

fn inbound(snapshot: &Snapshot) -> Value {
    let inbound = &snapshot.inbound;
    let port = |port: &crate::snapshot::InboundPort| json!({ "port": port.port, "protocol": port.protocol.as_str(), "address": port.address.to_string() });
    json!({
        "identity": inbound.identity.as_str(),
        "mode": format!("{:?}", inbound.mode).to_lowercase(),
        "authorization": format!("{:?}", inbound.authorization).to_lowercase(),
        "ports": inbound.ports.iter().map(port).collect::<Vec<_>>(),
        "plaintextPorts": inbound.plaintext_ports,
    })
}

fn show(destination: &str, frontend: &Frontend) -> Value {
    let backend = &frontend.backend;
    let endpoint = |eligibility: Eligibility| {
        let endpoint = &eligibility.endpoint;
        let (address, transport) = match &endpoint.reach {
            Reach::Mesh(peer) => (peer.address, "h3"),
            Reach::Plain(address) => (*address, "plaintext"),
        };
        let mut shown = eligibility.to_json();
        if let Value::Object(shown) = &mut shown {
            shown.insert("address".to_owned(), json!(address.to_string()));
            shown.insert("transport".to_owned(), json!(transport));
            shown.insert("version".to_owned(), json!(endpoint.version.as_deref()));
            let identity = endpoint.identity().map(|identity| identity.as_str());
            shown.insert("identity".to_owned(), json!(identity));
        }
        shown
    };
    let endpoints = backend.policy.balancer.explain(Instant::now());
    let rules = frontend.routes.iter().flat_map(|table| table.rules());
    json!({
        "destination": destination,
        "name": &*backend.name,
        "port": backend.port,
        "protocol": backend.protocol.as_str(),
        "rules": rules.map(|rule| json!(&*rule.label)).collect::<Vec<_>>(),
        "endpoints": endpoints.into_iter().map(endpoint).collect::<Vec<_>>(),
        "requestsInFlight": backend.policy.facts.requests.in_flight(),
        "requestsWaiting": backend.policy.facts.requests.waiting(),
        "connections": backend.policy.facts.connections.get(),
        "policies": backend.policy.sources.iter().map(|(section, name)| (*section, name.to_string())).collect::<std::collections::BTreeMap<_, _>>(),
        "unmeshedDenied": backend.unmeshed_denied,
        "notReady": backend.unready,
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

async fn bind(address: SocketAddr) -> Result<TcpListener, PageError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| PageError { address, source })
}

/// Datagrams that the kernel dropped because a receive buffer was full: the last column of its table of sockets.
fn udp_drops(ports: &[u16]) -> u64 {
    let tables = ["/proc/self/net/udp", "/proc/self/net/udp6"]
        .map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let drops = |line: &str| {
        let mut columns = line.split_ascii_whitespace();
        let (_, port) = columns.nth(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        ports
            .contains(&port)
            .then(|| columns.last()?.parse::<u64>().ok())
            .flatten()
    };
    tables
        .iter()
        .flat_map(|table| table.lines().skip(1))
        .filter_map(drops)
        .sum()
}
