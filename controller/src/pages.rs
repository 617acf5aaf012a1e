//! What the controller shows over HTTP: `/ready` for probes and `/metrics` for Prometheus. Nothing here is secret,
//! and nothing can be changed.

use std::{future::Future, io, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use futures_util::future::BoxFuture;
use metrics::{Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::net::TcpListener;

const METADATA: Metadata<'static> = Metadata::new("weft", Level::INFO, None);

/// Every gauge of the controller: name, unit, help.
const GAUGES: [(&str, Unit, &str); 8] = [
    (
        "weft_controller_proxies",
        Unit::Count,
        "Sidecars, by state: connected, or lost and still an endpoint.",
    ),
    (
        "weft_controller_proxies_not_current",
        Unit::Count,
        "Connected sidecars that do not have what concerns them, by why: behind, or nacked.",
    ),
    (
        "weft_controller_renewals_failing",
        Unit::Count,
        "Connected sidecars that cannot renew their certificate.",
    ),
    (
        "weft_controller_revision",
        Unit::Count,
        "Of the store: grows with every change.",
    ),
    (
        "weft_controller_trust_version",
        Unit::Count,
        "Of the trust bundle: grows with every step of a rotation of the root.",
    ),
    (
        "weft_controller_certificate_not_after_seconds",
        Unit::Seconds,
        "When a certificate ends, in seconds since 1970, by which: root (the first to end), signer, own.",
    ),
    (
        "weft_controller_unexpired_leaves",
        Unit::Count,
        "Certificates issued that are not expired.",
    ),
    (
        "weft_controller_build_info",
        Unit::Count,
        "1, with the version as a label.",
    ),
];

/// What the gauges show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Sidecars with a stream.
    pub connected: u64,
    /// Those without that are still endpoints.
    pub lost: u64,
    /// Connected, and something is under way to them.
    pub behind: u64,
    /// Connected, and they refused what was sent.
    pub nacked: u64,
    /// Connected, and their renewal fails.
    pub renewals_failing: u64,
    /// Of the store.
    pub revision: u64,
    /// Of the trust bundle.
    pub trust_version: u64,
    /// Seconds since 1970.
    pub root_not_after: u64,
    /// Seconds since 1970.
    pub signer_not_after: u64,
    /// Seconds since 1970.
    pub own_not_after: u64,
    /// Of all holders.
    pub unexpired_leaves: u64,
}

/// Where the pages take what they show.
pub trait Source: Send + Sync + 'static {
    /// The figures of now.
    fn figures(&self) -> BoxFuture<'_, Figures>;
    /// Why it is not ready, if so.
    fn problem(&self) -> BoxFuture<'_, Option<String>>;
}

/// Serves the pages until it is dropped.
pub fn serve(listener: TcpListener, source: Arc<dyn Source>) -> impl Future<Output = io::Result<()>> {
    let recorder = PrometheusBuilder::new().build_recorder();
    for (name, unit, help) in GAUGES {
        recorder.describe_gauge(name.into(), Some(unit), help.into());
    }
    let pages = Arc::new(Pages {
        handle: recorder.handle(),
        recorder,
        source,
    });
    let router = Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(render))
        .with_state(pages);
    async move { axum::serve(listener, router).await }
}

struct Pages {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    source: Arc<dyn Source>,
}

async fn ready(State(pages): State<Arc<Pages>>) -> impl IntoResponse {
    match pages.source.problem().await {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

async fn render(State(pages): State<Arc<Pages>>) -> impl IntoResponse {
    let figures = pages.source.figures().await;
    pages.set(&figures);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(axum::http::header::CONTENT_TYPE, kind)], pages.handle.render())
}

impl Pages {
    fn set(&self, figures: &Figures) {
        let by = |name, label, value: &'static str, figure| {
            self.gauge(name, vec![Label::from_static_parts(label, value)], figure);
        };
        by("weft_controller_proxies", "state", "connected", figures.connected);
        by("weft_controller_proxies", "state", "lost", figures.lost);
        by(
            "weft_controller_proxies_not_current",
            "why",
            "behind",
            figures.behind,
        );
        by(
            "weft_controller_proxies_not_current",
            "why",
            "nacked",
            figures.nacked,
        );
        let not_after = "weft_controller_certificate_not_after_seconds";
        by(not_after, "which", "root", figures.root_not_after);
        by(not_after, "which", "signer", figures.signer_not_after);
        by(not_after, "which", "own", figures.own_not_after);
        let version = env!("CARGO_PKG_VERSION");
        by("weft_controller_build_info", "version", version, 1);
        for (name, figure) in [
            ("weft_controller_renewals_failing", figures.renewals_failing),
            ("weft_controller_revision", figures.revision),
            ("weft_controller_trust_version", figures.trust_version),
            ("weft_controller_unexpired_leaves", figures.unexpired_leaves),
        ] {
            self.gauge(name, Vec::new(), figure);
        }
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>, value: u64) {
        let key = Key::from_parts(name, labels);
        // Exact up to 2^53, which no figure here reaches.
        self.recorder.register_gauge(&key, &METADATA).set(value as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Fixed(Option<&'static str>);

    impl Source for Fixed {
        fn figures(&self) -> BoxFuture<'_, Figures> {
            let figures = Figures {
                connected: 3,
                nacked: 1,
                root_not_after: 2_000_000_000,
                ..Figures::default()
            };
            Box::pin(async move { figures })
        }

        fn problem(&self) -> BoxFuture<'_, Option<String>> {
            Box::pin(async { self.0.map(str::to_owned) })
        }
    }

    async fn get_page(problem: Option<&'static str>, path: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(serve(listener, Arc::new(Fixed(problem))));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        served.abort();
        answer
    }

    #[tokio::test]
    async fn readiness_says_why_not() {
        assert!(get_page(None, "/ready").await.starts_with("HTTP/1.1 200"));
        let answer = get_page(Some("the store is read-only"), "/ready").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("the store is read-only"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn every_gauge_is_shown_and_described() {
        let answer = get_page(None, "/metrics").await;
        for (name, ..) in GAUGES {
            assert!(answer.contains(&format!("# HELP {name}")), "{name}: {answer}");
            assert!(answer.contains(&format!("\n{name}")), "{name}: {answer}");
        }
        assert!(
            answer.contains("weft_controller_proxies{state=\"connected\"} 3"),
            "{answer}"
        );
        assert!(
            answer.contains("weft_controller_certificate_not_after_seconds{which=\"root\"} 2000000000"),
            "{answer}"
        );
    }
}
