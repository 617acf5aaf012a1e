//! Every metric of the proxy: names, units, help, labels. Nothing is registered anywhere else.
//!
//! Labels are enums, reasons that are written in the code, and names of services, routes and versions, which come from
//! the configuration. No path, host or address becomes a label, so the series are bounded; [`MAX_SERVICES`] and
//! [`MAX_SERIES`] are second bounds.
//!
//! Handles are made once: a service's [`RouteMetrics`] cost a request two atomic additions and one sample of the
//! histogram. The exporter keeps samples as they are until [`Metrics::upkeep`] sorts them into buckets: 50 to 150 ns
//! and 16 bytes a request (measured on the development machine), so upkeep runs every second and 50,000 requests a
//! second hold less than 1 MiB.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use http::StatusCode;
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// How often [`Metrics::upkeep`] is to be called.
pub(crate) const UPKEEP: Duration = Duration::from_secs(1);

/// Services beyond these share one label value, `(other)`.
const MAX_SERVICES: usize = 1_000;
/// Combinations of service, route, backend and version beyond these are told by their service alone.
const MAX_SERIES: usize = 4_000;
const OTHER: &str = "(other)";

/// From what a loopback pair takes to what a patient caller waits.
const DURATION_BUCKETS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

const METADATA: Metadata<'static> = Metadata::new("weft", Level::INFO, None);

/// A metric's declaration.
struct Declaration {
    kind: Kind,
    name: &'static str,
    unit: Unit,
    help: &'static str,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

macro_rules! declare {
    ($($id:ident = $kind:ident $name:literal, $unit:ident, $help:literal;)*) => {
        $(const $id: &str = $name;)*
        const DECLARATIONS: &[Declaration] =
            &[$(Declaration { kind: Kind::$kind, name: $name, unit: Unit::$unit, help: $help },)*];
    };
}

declare! {
    REQUESTS = Counter "weft_requests_total", Count,
        "Requests that ended, by direction, service, route, backend, version of the endpoint, class of the status, gRPC status (empty: not gRPC) and the reason of an answer of the mesh's own (empty: the application's answer).";
    DURATION = Histogram "weft_request_duration_seconds", Seconds,
        "From a request's head to the end of its response.";
    RETRIES = Counter "weft_retries_total", Count,
        "Requests sent again to another endpoint, by why the one before failed.";
    MIRRORED = Counter "weft_mirrored_requests_total", Count,
        "Copies of requests that routes ask for, by the service that they went to and what became of them (sent, failed, too_large: more content than is kept, too_many: as many as may be were under way).";
    BYTES = Counter "weft_bytes_total", Bytes,
        "Bytes of bodies and tunnels, by direction, service and flow (sent to the service, received from it).";
    TUNNELS = Counter "weft_tunnels_total", Count,
        "Tunnels that ended, by direction, service, kind and reason (empty: both sides ended it).";
    TUNNELS_OPEN = Gauge "weft_tunnels_open", Count,
        "Tunnels that are open, by direction, service and kind.";
    PLAINTEXT = Counter "weft_unmeshed_plaintext_total", Count,
        "Requests and connections in plaintext from or to workloads outside the mesh, where the configuration allows them.";
    CONNECTIONS = Counter "weft_connections_total", Count,
        "Connections with applications that were opened, by who opened them.";
    CONNECTIONS_OPEN = Gauge "weft_connections_open", Count,
        "Connections that are open, by the side they are with (application, peer) and who opened them.";
    REFUSED = Counter "weft_connections_refused_total", Count,
        "Connections of applications, or to the application outside the mesh, refused before anything was read from them, by reason.";
    HANDSHAKES = Counter "weft_handshakes_total", Count,
        "Handshakes with peers that succeeded.";
    HANDSHAKES_FAILED = Counter "weft_handshakes_failed_total", Count,
        "Handshakes with peers that failed, by reason.";
    LIMITS = Counter "weft_quic_limits_total", Count,
        "Connections that were closed because the peer broke HTTP/3 or flooded, and streams that were reset: because nobody read them and they held up others, or because a certificate of their connection ended or its root was retired; by reason.";
    PATH_RTT = Gauge "weft_quic_rtt_seconds", Seconds,
        "Smoothed round-trip time of the open QUIC connections: the least, the median and the greatest.";
    PATH_LOSS = Gauge "weft_quic_loss_ratio", Count,
        "Packets lost of those sent, of the open QUIC connections.";
    PATH_WINDOW = Gauge "weft_quic_congestion_window_bytes", Bytes,
        "Congestion window of the open QUIC connections.";
    PATH_MTU = Gauge "weft_quic_mtu_bytes", Bytes,
        "Largest datagram that the paths of the open QUIC connections are known to carry.";
    MOVES = Counter "weft_quic_migrations_total", Count,
        "Moves of established QUIC connections, by cause: this host's address changed, the path was silent, the peer's address changed.";
    UDP_DATAGRAMS = Counter "weft_udp_datagrams_total", Count,
        "UDP datagrams, by flow (sent, received).";
    UDP_CALLS = Counter "weft_udp_calls_total", Count,
        "System calls that moved UDP datagrams, by flow.";
    UDP_DROPS = Counter "weft_udp_receive_drops_total", Count,
        "UDP datagrams that the kernel dropped because our receive buffer was full.";
    SVID_NOT_AFTER = Gauge "weft_svid_not_after_seconds", Seconds,
        "When this workload's certificate ends, in seconds since 1970.";
    CAPTURE_INTACT = Gauge "weft_capture_intact", Count,
        "1 if the kernel's rules that bring the application's connections here are as they were installed, 0 if not or if they can't be read; absent where none are configured.";
    CONTROLLER_CONNECTED = Gauge "weft_controller_connected", Count,
        "1 while there is a stream to a controller, else 0; absent where none is configured.";
    CONFIGURATION_REFUSED = Gauge "weft_configuration_refused", Count,
        "1 if the last update of the controller was refused and the last good configuration is in use, else 0.";
    CONFIGURATION_CACHED = Gauge "weft_configuration_cached", Count,
        "1 while the configuration in use is that of the state directory, else 0.";
    RENEWAL_FAILING_SINCE = Gauge "weft_renewal_failing_since_seconds", Seconds,
        "Since when no new certificate could be had, in seconds since 1970; 0 if it can.";
    LOG_DROPPED = Counter "weft_access_log_dropped_total", Count,
        "Access-log lines dropped because they could not be written as fast as they came.";
    BUILD = Gauge "weft_build_info", Count,
        "1, with the version as a label.";
}

/// How the control plane is, for [`Metrics::set_control`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ControlFigures {
    /// There is a stream to a controller.
    pub(crate) connected: bool,
    /// The last update was refused.
    pub(crate) refused: bool,
    /// What is in use is from the state directory.
    pub(crate) cached: bool,
    /// Since when no new certificate could be had.
    pub(crate) renewal_failing_since: Option<SystemTime>,
}

/// Which side of the mesh a request was served on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// From this workload's application to the mesh.
    Outbound,
    /// From the mesh to this workload's application.
    Inbound,
}

impl Direction {
    /// The label value.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// What a tunnel carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TunnelKind {
    /// Bytes of a TCP connection.
    Tcp,
    /// A WebSocket.
    WebSocket,
}

impl TunnelKind {
    /// The label value.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::WebSocket => "websocket",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The status of the response; `None` if its head was never sent.
    pub(crate) status: Option<StatusCode>,
    /// The gRPC status, of a gRPC request that ended with one.
    pub(crate) grpc: Option<u16>,
    /// Why the mesh answered itself or cut the response short; empty if the application's answer was passed on.
    pub(crate) reason: &'static str,
}

/// The figures of one QUIC connection's path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathFigures {
    /// Smoothed round-trip time.
    pub(crate) rtt: Duration,
    /// Packets sent.
    pub(crate) sent: u64,
    /// Of them, those declared lost.
    pub(crate) lost: u64,
    /// Congestion window in bytes.
    pub(crate) window: u64,
    /// Bytes of the largest datagram.
    pub(crate) mtu: u16,
}

/// What the transport has counted since it started, over all workers.
#[derive(Debug, Clone, Default)]
pub(crate) struct TransportFigures {
    /// Connections that peers made and that are open.
    pub(crate) from_peers: u64,
    /// Connections that we made to peers and that are open.
    pub(crate) to_peers: u64,
    /// Handshakes that succeeded.
    pub(crate) handshakes: u64,
    /// Handshakes that failed, by reason.
    pub(crate) handshakes_failed: Vec<(&'static str, u64)>,
    /// Moves of established connections, by cause.
    pub(crate) moves: Vec<(&'static str, u64)>,
    /// Connections closed and streams reset for what the peer did, by reason.
    pub(crate) limits: Vec<(&'static str, u64)>,
    /// UDP datagrams sent, and the system calls that sent them.
    pub(crate) sent: (u64, u64),
    /// UDP datagrams received, and the system calls that received them.
    pub(crate) received: (u64, u64),
    /// UDP datagrams dropped by the kernel for want of buffer.
    pub(crate) drops: u64,
}

/// The proxy's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    services: Mutex<HashSet<Arc<str>>>,
    series: Mutex<HashSet<Series>>,
}

/// What requests are counted under. What is `None` is left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Series {
    pub(crate) direction: Direction,
    /// The service that was called; inbound: this workload.
    pub(crate) service: Arc<str>,
    /// The rule that the request matched.
    pub(crate) route: Option<Arc<str>>,
    /// The service to which it was sent.
    pub(crate) backend: Option<Arc<str>>,
    /// Of the workload that it was sent to, by its label.
    pub(crate) version: Option<Arc<str>>,
}

/// The metrics of one [`Series`]. Keep them: making them allocates for each.
#[derive(Debug)]
pub(crate) struct RouteMetrics {
    recorder: Arc<PrometheusRecorder>,
    labels: Vec<Label>,
    duration: Histogram,
    sent: Counter,
    received: Counter,
    /// Answers of the application by the class of their status; the first is for none. A series appears when it is
    /// first counted.
    plain: [OnceLock<Counter>; 6],
    /// Answers of the application to gRPC requests by gRPC status; the last is for unknown ones.
    grpc: [OnceLock<Counter>; GRPC_STATUSES.len()],
}

/// A tunnel that is open.
#[derive(Debug)]
pub(crate) struct OpenTunnel {
    recorder: Arc<PrometheusRecorder>,
    labels: Vec<Label>,
    open: Gauge,
    reason: &'static str,
}

/// A connection that is open. Dropping it counts it as closed.
#[derive(Debug)]
pub(crate) struct OpenConnection(Gauge);

impl Metrics {
    /// # Errors
    /// If the exporter takes no buckets, which it does.
    pub(crate) fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&DURATION_BUCKETS)?
            .build_recorder();
        for declaration in DECLARATIONS {
            let (name, help) = (declaration.name.into(), declaration.help.into());
            match declaration.kind {
                Kind::Counter => recorder.describe_counter(name, Some(declaration.unit), help),
                Kind::Gauge => recorder.describe_gauge(name, Some(declaration.unit), help),
                Kind::Histogram => recorder.describe_histogram(name, Some(declaration.unit), help),
            }
        }
        let metrics = Self {
            handle: recorder.handle(),
            recorder: Arc::new(recorder),
            services: Mutex::default(),
            series: Mutex::default(),
        };
        metrics
            .gauge(BUILD, vec![Label::new("version", env!("CARGO_PKG_VERSION"))])
            .set(1.0);
        Ok(metrics)
    }

    /// The metrics of a series.
    pub(crate) fn route(&self, series: &Series) -> RouteMetrics {
        let labels = self.labels(series);
        let bytes = |flow| {
            counter(
                &self.recorder,
                BYTES,
                &labels,
                [Label::from_static_parts("flow", flow)],
            )
        };
        RouteMetrics {
            duration: self
                .recorder
                .register_histogram(&Key::from_parts(DURATION, labels.clone()), &METADATA),
            sent: bytes("sent"),
            received: bytes("received"),
            plain: Default::default(),
            grpc: Default::default(),
            recorder: self.recorder.clone(),
            labels,
        }
    }

    /// Counts a connection that the application opened, for as long as the result is kept.
    pub(crate) fn connection(&self) -> OpenConnection {
        const OPENED_BY: &str = "application";
        let labels = [Label::from_static_parts("opened_by", OPENED_BY)];
        counter(&self.recorder, CONNECTIONS, &[], labels).increment(1);
        let open = self.connections_open("application", OPENED_BY);
        open.increment(1.0);
        OpenConnection(open)
    }

    /// Counts a copy of a request.
    pub(crate) fn mirrored(&self, backend: &Arc<str>, outcome: &'static str) {
        let labels = [
            Label::new("backend", self.service(backend)),
            Label::from_static_parts("outcome", outcome),
        ];
        counter(&self.recorder, MIRRORED, &[], labels).increment(1);
    }

    /// Counts a connection of an application that was refused.
    pub(crate) fn connection_refused(&self, reason: &'static str) {
        counter(
            &self.recorder,
            REFUSED,
            &[],
            [Label::from_static_parts("reason", reason)],
        )
        .increment(1);
    }

    /// Counts access-log lines that were dropped.
    pub(crate) fn log_dropped(&self) -> Counter {
        counter(&self.recorder, LOG_DROPPED, &[], [])
    }

    /// Whether the capture that this proxy relies on is in force.
    pub(crate) fn set_capture_intact(&self, intact: bool) {
        self.gauge(CAPTURE_INTACT, Vec::new()).set(f64::from(intact));
    }

    /// Takes over what the transport has counted.
    pub(crate) fn set_transport(&self, figures: &TransportFigures) {
        let absolute = |name, label: Option<Label>, value| {
            counter(&self.recorder, name, &[], label).absolute(value);
        };
        absolute(HANDSHAKES, None, figures.handshakes);
        for (reason, count) in &figures.handshakes_failed {
            absolute(
                HANDSHAKES_FAILED,
                Some(Label::from_static_parts("reason", reason)),
                *count,
            );
        }
        for (cause, count) in &figures.moves {
            absolute(MOVES, Some(Label::from_static_parts("cause", cause)), *count);
        }
        for (reason, count) in &figures.limits {
            absolute(LIMITS, Some(Label::from_static_parts("reason", reason)), *count);
        }
        for (flow, (datagrams, calls)) in [("sent", figures.sent), ("received", figures.received)] {
            absolute(
                UDP_DATAGRAMS,
                Some(Label::from_static_parts("flow", flow)),
                datagrams,
            );
            absolute(UDP_CALLS, Some(Label::from_static_parts("flow", flow)), calls);
        }
        absolute(UDP_DROPS, None, figures.drops);
        self.connections_open("peer", "peer")
            .set(figures.from_peers as f64);
        self.connections_open("peer", "proxy")
            .set(figures.to_peers as f64);
    }

    /// Sums up the paths of the open QUIC connections. Without any, the figures are absent in meaning: NaN.
    pub(crate) fn set_paths(&self, paths: &[PathFigures]) {
        type Figure = fn(&PathFigures) -> f64;
        let figures: [(&'static str, Figure); 4] = [
            (PATH_RTT, |path| path.rtt.as_secs_f64()),
            (PATH_LOSS, |path| path.lost as f64 / path.sent.max(1) as f64),
            (PATH_WINDOW, |path| path.window as f64),
            (PATH_MTU, |path| f64::from(path.mtu)),
        ];
        for (name, figure) in figures {
            let mut values: Vec<f64> = paths.iter().map(figure).collect();
            values.sort_unstable_by(f64::total_cmp);
            let middle = values.get(values.len() / 2);
            for (statistic, value) in [
                ("min", values.first()),
                ("median", middle),
                ("max", values.last()),
            ] {
                let label = Label::from_static_parts("statistic", statistic);
                self.gauge(name, vec![label])
                    .set(value.copied().unwrap_or(f64::NAN));
            }
        }
    }

    /// When this workload's certificate ends.
    pub(crate) fn set_svid_not_after(&self, not_after: SystemTime) {
        let seconds = not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.gauge(SVID_NOT_AFTER, Vec::new()).set(seconds.as_secs_f64());
    }

    /// How the control plane is.
    pub(crate) fn set_control(&self, figures: &ControlFigures) {
        let set = |name, value: bool| self.gauge(name, Vec::new()).set(f64::from(value));
        set(CONTROLLER_CONNECTED, figures.connected);
        set(CONFIGURATION_REFUSED, figures.refused);
        set(CONFIGURATION_CACHED, figures.cached);
        let since = figures
            .renewal_failing_since
            .and_then(|since| since.duration_since(UNIX_EPOCH).ok());
        self.gauge(RENEWAL_FAILING_SINCE, Vec::new())
            .set(since.unwrap_or_default().as_secs_f64());
    }

    /// Sorts the samples of the histograms into their buckets. To be called every [`UPKEEP`].
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// All metrics in Prometheus' text format.
    pub(crate) fn render(&self) -> String {
        self.handle.render()
    }

    /// The labels of a series, as far as there may be more of them.
    fn labels(&self, series: &Series) -> Vec<Label> {
        let mut labels = vec![
            Label::new("direction", series.direction.as_str()),
            Label::new("service", self.service(&series.service)),
        ];
        let mut known = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_SERIES {
            known.insert(series.clone());
        } else if !known.contains(series) {
            return labels;
        }
        for (name, value) in [
            ("route", &series.route),
            ("backend", &series.backend),
            ("version", &series.version),
        ] {
            labels.extend(value.as_ref().map(|value| Label::new(name, value.to_string())));
        }
        labels
    }

    /// The label value for a service.
    fn service(&self, service: &Arc<str>) -> String {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if services.contains(service) || services.len() < MAX_SERVICES {
            services.insert(service.clone());
            return service.to_string();
        }
        OTHER.to_owned()
    }

    fn connections_open(&self, side: &'static str, opened_by: &'static str) -> Gauge {
        self.gauge(
            CONNECTIONS_OPEN,
            vec![
                Label::from_static_parts("side", side),
                Label::from_static_parts("opened_by", opened_by),
            ],
        )
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.recorder
            .register_gauge(&Key::from_parts(name, labels), &METADATA)
    }
}

impl RouteMetrics {
    /// Counts a request that ended. One with a reason costs about a microsecond more, to find its series.
    pub(crate) fn request(&self, outcome: &Outcome, duration: Duration) {
        self.duration.record(duration);
        let class = outcome
            .status
            .map_or(0, |status| usize::from(status.as_u16() / 100).min(5));
        let code = CLASSES.get(class).copied().unwrap_or_default();
        let grpc = outcome
            .grpc
            .map(|status| usize::from(status).min(GRPC_STATUSES.len() - 1));
        let status = grpc
            .and_then(|index| GRPC_STATUSES.get(index))
            .copied()
            .unwrap_or_default();
        let make = || {
            let labels = [
                ("code", code),
                ("grpc_status", status),
                ("reason", outcome.reason),
            ];
            counter(
                &self.recorder,
                REQUESTS,
                &self.labels,
                labels.map(|(key, value)| Label::from_static_parts(key, value)),
            )
        };
        let known = match grpc {
            // gRPC is 200 but for a server that is none.
            Some(index) if class == 2 => self.grpc.get(index),
            None => self.plain.get(class),
            Some(_) => None,
        };
        match known.filter(|_| outcome.reason.is_empty()) {
            Some(known) => known.get_or_init(make).increment(1),
            None => make().increment(1),
        }
    }

    /// Counts bytes of a body or a tunnel: sent to the service, received from it.
    pub(crate) fn bytes(&self, sent: u64, received: u64) {
        for (counter, bytes) in [(&self.sent, sent), (&self.received, received)] {
            // Most requests have no content: an atomic addition less.
            if bytes > 0 {
                counter.increment(bytes);
            }
        }
    }

    /// Counts a request that is sent again.
    pub(crate) fn retry(&self, reason: &'static str) {
        counter(
            &self.recorder,
            RETRIES,
            &self.labels,
            [Label::from_static_parts("reason", reason)],
        )
        .increment(1);
    }

    /// Counts a request or connection in plaintext.
    pub(crate) fn plaintext(&self) {
        counter(&self.recorder, PLAINTEXT, &self.labels, []).increment(1);
    }

    /// Counts a tunnel as open until it is dropped.
    pub(crate) fn tunnel(&self, kind: TunnelKind) -> OpenTunnel {
        let mut labels = self.labels.to_vec();
        labels.push(Label::from_static_parts("kind", kind.as_str()));
        let open = self
            .recorder
            .register_gauge(&Key::from_parts(TUNNELS_OPEN, labels.clone()), &METADATA);
        open.increment(1.0);
        OpenTunnel {
            recorder: self.recorder.clone(),
            labels,
            open,
            reason: "",
        }
    }
}

impl OpenTunnel {
    /// Why it ends, if not because both sides ended it.
    pub(crate) fn set_reason(&mut self, reason: &'static str) {
        self.reason = reason;
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.open.decrement(1.0);
        let reason = Label::from_static_parts("reason", self.reason);
        counter(&self.recorder, TUNNELS, &self.labels, [reason]).increment(1);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Classes of HTTP status, the first for a response that never began.
const CLASSES: [&str; 6] = ["", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Status codes of gRPC, and what stands for any other.
const GRPC_STATUSES: [&str; 18] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "other",
];

fn counter(
    recorder: &PrometheusRecorder,
    name: &'static str,
    labels: &[Label],
    more: impl IntoIterator<Item = Label>,
) -> Counter {
    let labels: Vec<Label> = labels.iter().cloned().chain(more).collect();
    recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16) -> Outcome {
        Outcome {
            status: StatusCode::from_u16(status).ok(),
            grpc: None,
            reason: "",
        }
    }

    fn series(direction: Direction, service: &str) -> Series {
        Series {
            direction,
            service: service.into(),
            route: None,
            backend: None,
            version: None,
        }
    }

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }

    #[test]
    fn every_metric_is_declared_with_its_convention() {
        for declaration in DECLARATIONS {
            let name = declaration.name;
            assert!(
                name.starts_with("weft_") && declaration.help.ends_with('.'),
                "{name}"
            );
            assert_eq!(
                matches!(declaration.kind, Kind::Counter),
                name.ends_with("_total"),
                "{name}"
            );
            if declaration.unit == Unit::Seconds {
                assert!(name.ends_with("_seconds"), "{name}");
            }
        }
    }

    #[test]
    fn requests_by_class_grpc_status_and_reason() {
        let metrics = Metrics::new().unwrap();
        let route = metrics.route(&series(Direction::Outbound, "default/web:80"));
        for status in [200, 204, 503, 999] {
            route.request(&answer(status), Duration::from_micros(200));
        }
        route.request(
            &Outcome {
                reason: "no_endpoint",
                ..answer(503)
            },
            Duration::from_secs(20),
        );
        route.request(
            &Outcome {
                grpc: Some(14),
                ..answer(200)
            },
            Duration::ZERO,
        );
        route.request(
            &Outcome {
                grpc: Some(200),
                ..answer(200)
            },
            Duration::ZERO,
        );
        route.request(
            &Outcome {
                grpc: Some(0),
                ..answer(404)
            },
            Duration::ZERO,
        );
        route.request(
            &Outcome {
                status: None,
                grpc: None,
                reason: "caller_gone",
            },
            Duration::ZERO,
        );
        let text = metrics.render();
        let line = |code, grpc, reason, count| {
            has(
                &text,
                &format!(
                    "weft_requests_total{{direction=\"outbound\",service=\"default/web:80\",code=\"{code}\",grpc_status=\"{grpc}\",reason=\"{reason}\"}} {count}"
                ),
            );
        };
        line("2xx", "", "", 2);
        line("5xx", "", "", 2);
        line("5xx", "", "no_endpoint", 1);
        line("2xx", "14", "", 1);
        line("2xx", "other", "", 1);
        line("4xx", "0", "", 1);
        line("", "", "caller_gone", 1);
        let labels = "direction=\"outbound\",service=\"default/web:80\"";
        has(
            &text,
            &format!("weft_request_duration_seconds_bucket{{{labels},le=\"0.00025\"}} 8"),
        );
        has(
            &text,
            &format!("weft_request_duration_seconds_bucket{{{labels},le=\"10\"}} 8"),
        );
        has(
            &text,
            &format!("weft_request_duration_seconds_count{{{labels}}} 9"),
        );
        has(&text, "# TYPE weft_requests_total counter");
        assert!(text.contains("# HELP weft_request_duration_seconds From a request's head"));
    }

    #[test]
    fn handles_of_the_same_service_count_together() {
        let metrics = Metrics::new().unwrap();
        for _ in 0..2 {
            let route = metrics.route(&series(Direction::Inbound, "web"));
            route.bytes(3, 4);
            route.retry("refused");
            route.plaintext();
        }
        let text = metrics.render();
        has(
            &text,
            "weft_bytes_total{direction=\"inbound\",service=\"web\",flow=\"sent\"} 6",
        );
        has(
            &text,
            "weft_bytes_total{direction=\"inbound\",service=\"web\",flow=\"received\"} 8",
        );
        has(
            &text,
            "weft_retries_total{direction=\"inbound\",service=\"web\",reason=\"refused\"} 2",
        );
        has(
            &text,
            "weft_unmeshed_plaintext_total{direction=\"inbound\",service=\"web\"} 2",
        );
    }

    #[test]
    fn tunnels_and_connections_are_open_until_they_are_dropped() {
        let metrics = Metrics::new().unwrap();
        let mut tunnel = metrics
            .route(&series(Direction::Inbound, "db"))
            .tunnel(TunnelKind::Tcp);
        let connection = metrics.connection();
        let labels = "direction=\"inbound\",service=\"db\",kind=\"tcp\"";
        let text = metrics.render();
        has(&text, &format!("weft_tunnels_open{{{labels}}} 1"));
        has(
            &text,
            "weft_connections_open{side=\"application\",opened_by=\"application\"} 1",
        );
        tunnel.set_reason("idle");
        drop((tunnel, connection));
        let text = metrics.render();
        has(&text, &format!("weft_tunnels_open{{{labels}}} 0"));
        has(
            &text,
            &format!("weft_tunnels_total{{{labels},reason=\"idle\"}} 1"),
        );
        has(
            &text,
            "weft_connections_open{side=\"application\",opened_by=\"application\"} 0",
        );
        has(&text, "weft_connections_total{opened_by=\"application\"} 1");
    }

    #[test]
    fn figures_of_the_transport() {
        let metrics = Metrics::new().unwrap();
        let path = |rtt, lost| PathFigures {
            rtt: Duration::from_millis(rtt),
            sent: 100,
            lost,
            window: 12_000,
            mtu: 1452,
        };
        metrics.set_paths(&[path(3, 0), path(1, 50), path(2, 0)]);
        metrics.set_transport(&TransportFigures {
            handshakes_failed: vec![("timeout", 2)],
            limits: vec![("aborted_requests", 4)],
            sent: (100, 10),
            drops: 7,
            to_peers: 3,
            ..TransportFigures::default()
        });
        metrics.set_svid_not_after(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        metrics.connection_refused("own_listener");
        metrics.log_dropped().increment(5);
        let text = metrics.render();
        has(&text, "weft_quic_rtt_seconds{statistic=\"min\"} 0.001");
        has(&text, "weft_quic_rtt_seconds{statistic=\"median\"} 0.002");
        has(&text, "weft_quic_loss_ratio{statistic=\"max\"} 0.5");
        has(&text, "weft_quic_mtu_bytes{statistic=\"max\"} 1452");
        has(&text, "weft_handshakes_failed_total{reason=\"timeout\"} 2");
        has(&text, "weft_quic_limits_total{reason=\"aborted_requests\"} 4");
        has(&text, "weft_udp_calls_total{flow=\"sent\"} 10");
        has(&text, "weft_udp_receive_drops_total 7");
        has(
            &text,
            "weft_connections_open{side=\"peer\",opened_by=\"proxy\"} 3",
        );
        has(&text, "weft_svid_not_after_seconds 1800000000");
        has(&text, "weft_connections_refused_total{reason=\"own_listener\"} 1");
        has(&text, "weft_access_log_dropped_total 5");
        assert!(text.contains("weft_build_info{version=\""));
        metrics.set_paths(&[]);
        has(&metrics.render(), "weft_quic_rtt_seconds{statistic=\"max\"} NaN");
    }

    #[test]
    fn canaries_are_told_apart_by_route_backend_and_version_as_far_as_there_is_room() {
        let metrics = Metrics::new().unwrap();
        let canary = |route: usize| Series {
            route: Some(format!("default/web#{route}").into()),
            backend: Some("default/web-v2".into()),
            version: Some("v2".into()),
            ..series(Direction::Outbound, "default/web")
        };
        for route in 0..MAX_SERIES + 10 {
            metrics.route(&canary(route)).bytes(1, 0);
        }
        metrics.route(&canary(0)).bytes(1, 0);
        let text = metrics.render();
        has(
            &text,
            "weft_bytes_total{direction=\"outbound\",service=\"default/web\",route=\"default/web#0\",backend=\"default/web-v2\",version=\"v2\",flow=\"sent\"} 2",
        );
        has(
            &text,
            "weft_bytes_total{direction=\"outbound\",service=\"default/web\",flow=\"sent\"} 10",
        );
    }

    #[test]
    fn services_are_bounded_and_cannot_break_a_line() {
        let metrics = Metrics::new().unwrap();
        metrics
            .route(&series(Direction::Outbound, "a\"} 1\nweft_fake 1"))
            .bytes(1, 0);
        for service in 0..MAX_SERVICES + 100 {
            metrics
                .route(&series(Direction::Outbound, &service.to_string()))
                .bytes(1, 0);
        }
        let text = metrics.render();
        assert!(!text.lines().any(|line| line.starts_with("weft_fake")));
        has(
            &text,
            "weft_bytes_total{direction=\"outbound\",service=\"(other)\",flow=\"sent\"} 101",
        );
        let series = text
            .lines()
            .filter(|line| line.starts_with("weft_bytes_total") && line.contains("sent"))
            .count();
        assert_eq!(series, MAX_SERVICES + 1);
    }
}
