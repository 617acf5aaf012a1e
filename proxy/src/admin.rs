//! The pages of a running proxy: what it believes, on loopback; metrics and readiness, for scrapers and probes.
//!
//! They are served on the control thread. What only a worker knows is asked of it through [`Workers`], and a worker
//! that does not answer in time is shown as such: the data path is never waited for, and never waits.
//!
//! All pages are GET and change nothing. Those on loopback refuse names in Host, so that no web page can read them
//! through a name that it has pointed at 127.0.0.1 (DNS rebinding).

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Sleep;

use crate::explain::{Explainer, Question, Unexplained};
use crate::metrics::{Metrics, PathFigures};

/// How long a worker may take to answer. One that is this late has worse to show than its connections.
const ANSWER: Duration = Duration::from_millis(500);

/// Connections to one port. The metrics port is open to the network: it must not take the files of the data path.
const MAX_CONNECTIONS: usize = 128;

/// How long one connection lasts. Scrapers and probes make new ones.
const LIFETIME: Duration = Duration::from_secs(30);

/// Whether the proxy takes requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It does.
    Ready,
    /// Not yet, or not any more, and why.
    NotReady(Cow<'static, str>),
}

/// What one worker tells of itself.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Its connections to peers, for the page.
    pub(crate) connections: Vec<Value>,
    /// Their paths, for the metrics.
    pub(crate) paths: Vec<PathFigures>,
}

/// Asks the workers. It is made with their ends of it.
#[derive(Debug)]
pub(crate) struct Workers<T>(Arc<[mpsc::Sender<oneshot::Sender<T>>]>);

/// A worker's end of [`Workers`].
#[derive(Debug)]
pub(crate) struct Questions<T>(mpsc::Receiver<oneshot::Sender<T>>);

/// Where the pages have their content from.
#[derive(Clone)]
pub(crate) struct Pages {
    /// Whether the proxy is ready.
    pub(crate) ready: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// The snapshot in use.
    pub(crate) snapshot: Arc<dyn Fn() -> Value + Send + Sync>,
    /// The workers.
    pub(crate) workers: Workers<Report>,
    /// What would become of a request.
    pub(crate) explainer: Explainer,
    /// The metrics.
    pub(crate) metrics: Arc<Metrics>,
    /// Brings the metrics that are not counted as they happen up to date.
    pub(crate) refresh: Arc<dyn Fn(&Metrics) + Send + Sync>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pages").finish_non_exhaustive()
    }
}

impl<T> Clone for Workers<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Workers<T> {
    /// For so many workers.
    pub(crate) fn new(count: usize) -> (Self, Vec<Questions<T>>) {
        // A worker that leaves several questions unanswered is not asked more.
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(4)).unzip();
        (
            Self(senders.into()),
            receivers.into_iter().map(Questions).collect(),
        )
    }

    /// Asks all of them at once. `None` for one that does not answer in time.
    pub(crate) async fn ask(&self) -> Vec<Option<T>> {
        let answers = self.0.iter().map(|worker| async move {
            let (answer, answered) = oneshot::channel();
            worker.try_send(answer).ok()?;
            tokio::time::timeout(ANSWER, answered).await.ok()?.ok()
        });
        futures_util::future::join_all(answers).await
    }
}

impl<T> Questions<T> {
    /// Answers questions for as long as there is someone to ask. A task of the worker.
    pub(crate) async fn answer(mut self, tell: impl AsyncFn() -> T) {
        while let Some(question) = self.0.recv().await {
            // Who asked may have lost patience.
            let _ = question.send(tell().await);
        }
    }
}

/// The pages for this host alone.
pub(crate) fn admin(pages: Pages) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/snapshot", get(snapshot))
        .route("/connections", get(connections))
        .route("/explain", get(explain))
        .layer(from_fn(refuse_names))
        .layer(from_fn(harden))
        .with_state(pages)
}

/// The pages for scrapers and probes.
pub(crate) fn metrics(pages: Pages) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(render))
        .layer(from_fn(harden))
        .with_state(pages)
}

/// Serves pages on a listener, for ever.
///
/// # Errors
/// None: axum's signature has one.
pub(crate) async fn serve(listener: TcpListener, pages: Router) -> io::Result<()> {
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    axum::serve(LimitedListener { listener, limit }, pages).await
}

async fn ready(State(pages): State<Pages>) -> Response {
    match (pages.ready)() {
        Readiness::Ready => "ready\n".into_response(),
        Readiness::NotReady(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
        }
    }
}

async fn snapshot(State(pages): State<Pages>) -> Response {
    page(&(pages.snapshot)())
}

async fn connections(State(pages): State<Pages>) -> Response {
    let workers: Vec<Value> = pages
        .workers
        .ask()
        .await
        .into_iter()
        .enumerate()
        .map(|(worker, report)| match report {
            Some(report) => json!({ "worker": worker, "connections": report.connections }),
            None => json!({ "worker": worker, "error": "no answer" }),
        })
        .collect();
    page(&json!({ "workers": workers }))
}

/// `?method=GET&url=http://web/&header=name:value`, with as many headers as there are.
async fn explain(State(pages): State<Pages>, Query(asked): Query<Vec<(String, String)>>) -> Response {
    match pages.explain(&asked).await {
        Ok(explanation) => page(&explanation),
        Err(error) => {
            let status = match error {
                Unexplained::Unclear(_) => StatusCode::BAD_REQUEST,
                Unexplained::NotServing | Unexplained::Busy => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, format!("{error}\n")).into_response()
        }
    }
}

impl Pages {
    async fn explain(&self, asked: &[(String, String)]) -> Result<Value, Unexplained> {
        let all = |name: &'static str| {
            let named = asked.iter().filter(move |(key, _)| key == name);
            named.map(|(_, value)| value.as_str())
        };
        let method = all("method").next().unwrap_or("GET");
        let url = all("url").next().unwrap_or_default();
        let question = Question::parse(method, url, all("header"))?;
        self.explainer.explain(question).await
    }
}

async fn render(State(pages): State<Pages>) -> Response {
    let reports = pages.workers.ask().await;
    let paths: Vec<PathFigures> = reports
        .into_iter()
        .flatten()
        .flat_map(|report| report.paths)
        .collect();
    pages.metrics.set_paths(&paths);
    (pages.refresh)(&pages.metrics);
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, content_type)], pages.metrics.render()).into_response()
}

/// JSON for people: indented.
fn page(value: &Value) -> Response {
    let content_type = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, content_type)], format!("{value:#}\n")).into_response()
}

async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn refuse_names(request: Request, next: Next) -> Response {
    if is_local_host(request.headers()) {
        next.run(request).await
    } else {
        (
            StatusCode::MISDIRECTED_REQUEST,
            "Host must be an address or localhost\n",
        )
            .into_response()
    }
}

/// Whether Host is an address, `localhost`, or missing: nothing that a page of the web can send from its own name.
fn is_local_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) => return true,
        (Some(host), None) => host.to_str().unwrap_or_default(),
        (Some(_), Some(_)) => return false,
    };
    let is_address = host.parse::<SocketAddr>().is_ok()
        || host.parse::<IpAddr>().is_ok()
        || host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .is_some_and(|host| host.parse::<IpAddr>().is_ok());
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    is_address || name.eq_ignore_ascii_case("localhost")
}

struct LimitedListener {
    listener: TcpListener,
    limit: Arc<Semaphore>,
}

impl axum::serve::Listener for LimitedListener {
    type Io = LimitedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (LimitedStream, SocketAddr) {
        // The semaphore is never closed; without a permit there would be no limit, and no harm else.
        let permit = self.limit.clone().acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let deadline = Box::pin(tokio::time::sleep(LIFETIME));
                    return (
                        LimitedStream {
                            stream,
                            deadline,
                            _permit: permit,
                        },
                        address,
                    );
                }
                // Out of files, or a connection that is gone already: neither must spin.
                Err(error) => {
                    tracing::debug!(%error, "an admin connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends after [`LIFETIME`], whatever it does.
struct LimitedStream {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl LimitedStream {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for LimitedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::explain::testing::{Sidecar, shop};

    struct Fixture {
        admin: SocketAddr,
        metrics: SocketAddr,
        ready: Arc<AtomicBool>,
        questions: Vec<Questions<Report>>,
    }

    async fn fixture() -> Fixture {
        let ready = Arc::new(AtomicBool::new(false));
        let is_ready = ready.clone();
        let (workers, questions) = Workers::new(2);
        let pages = Pages {
            ready: Arc::new(move || match is_ready.load(Ordering::Relaxed) {
                true => Readiness::Ready,
                false => Readiness::NotReady("no certificate".into()),
            }),
            snapshot: Arc::new(|| json!({ "services": ["default/web"] })),
            workers,
            explainer: Sidecar::new(&shop(""), &[]).explainer,
            metrics: Arc::new(Metrics::new().unwrap()),
            refresh: Arc::new(|metrics| metrics.connection_refused("own_socket")),
        };
        let mut addresses = Vec::new();
        for router in [admin(pages.clone()), metrics(pages)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            tokio::spawn(serve(listener, router));
        }
        Fixture {
            admin: addresses[0],
            metrics: addresses[1],
            ready,
            questions,
        }
    }

    async fn request(address: SocketAddr, head: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }

    async fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
        request(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}")).await
    }

    #[tokio::test]
    async fn readiness_on_both_ports() {
        let fixture = fixture().await;
        for address in [fixture.admin, fixture.metrics] {
            let (status, text) = fetch(address, "/ready").await;
            assert_eq!(status, 503);
            assert!(text.ends_with("\r\n\r\nno certificate\n"), "{text}");
        }
        fixture.ready.store(true, Ordering::Relaxed);
        for address in [fixture.admin, fixture.metrics] {
            assert_eq!(fetch(address, "/ready").await.0, 200);
        }
    }

    #[tokio::test]
    async fn pages_are_where_they_belong_and_change_nothing() {
        let fixture = fixture().await;
        assert_eq!(fetch(fixture.metrics, "/snapshot").await.0, 404);
        assert_eq!(fetch(fixture.metrics, "/connections").await.0, 404);
        assert_eq!(
            fetch(fixture.metrics, "/explain?url=http://catalog/").await.0,
            404
        );
        assert_eq!(fetch(fixture.admin, "/metrics").await.0, 404);
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
            let head = format!("{method} /snapshot HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0");
            assert_eq!(request(fixture.admin, &head).await.0, 405, "{method}");
        }
        let (status, text) = fetch(fixture.admin, "/snapshot").await;
        assert!(status == 200 && text.contains("application/json") && text.contains("\"default/web\""));
        assert!(text.contains("cache-control: no-store\r\n") && text.contains("nosniff"));
    }

    #[tokio::test]
    async fn a_name_that_points_here_is_refused_on_loopback() {
        let fixture = fixture().await;
        let host = |host: &str| format!("GET /snapshot HTTP/1.1\r\nHost: {host}");
        for good in [
            "localhost",
            "LOCALHOST:15000",
            "127.0.0.1",
            "127.0.0.1:15000",
            "[::1]",
            "[::1]:15000",
        ] {
            assert_eq!(request(fixture.admin, &host(good)).await.0, 200, "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:15000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "localhost\r\nHost: x",
        ] {
            assert_eq!(request(fixture.admin, &host(bad)).await.0, 421, "{bad}");
        }
        assert_eq!(
            request(fixture.metrics, "GET /metrics HTTP/1.1\r\nHost: web-0.default")
                .await
                .0,
            200
        );
    }

    #[tokio::test]
    async fn a_request_is_explained_and_what_is_none_is_refused() {
        let fixture = fixture().await;
        let asked = "/explain?method=POST&url=http%3A%2F%2Fcatalog%2Fx%3Fa%3Db&header=x-a:%201&header=x-b:2";
        let (status, text) = fetch(fixture.admin, asked).await;
        assert_eq!(status, 200);
        let body: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(
            body["request"],
            json!({ "method": "POST", "host": "catalog", "port": 80, "path": "/x", "headers": ["x-a", "x-b"] })
        );
        assert_eq!(body["outcome"]["decision"], "forward");
        assert_eq!(fetch(fixture.admin, "/explain?url=http://nobody/").await.0, 200);
        for bad in [
            "",
            "?url=catalog",
            "?url=http://catalog/&method=CONNECT",
            "?url=http://catalog/&header=x",
            "?url=http://catalog/&header=host:x",
        ] {
            let (status, text) = fetch(fixture.admin, &format!("/explain{bad}")).await;
            assert_eq!(status, 400, "{bad}: {text}");
        }
    }

    #[tokio::test]
    async fn workers_tell_of_themselves() {
        let mut fixture = fixture().await;
        let silent = fixture.questions.pop();
        for questions in fixture.questions {
            tokio::spawn(questions.answer(async || Report {
                connections: vec![json!({ "peer": "web-0" })],
                paths: vec![PathFigures {
                    rtt: Duration::from_millis(1),
                    sent: 10,
                    lost: 0,
                    window: 12_000,
                    mtu: 1452,
                }],
            }));
        }
        let (status, text) = fetch(fixture.admin, "/connections").await;
        assert_eq!(status, 200);
        let body: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(
            body,
            json!({ "workers": [
                { "worker": 0, "connections": [{ "peer": "web-0" }] },
                { "worker": 1, "error": "no answer" },
            ] })
        );
        let (_, text) = fetch(fixture.metrics, "/metrics").await;
        assert!(text.contains("content-type: text/plain; version=0.0.4"));
        assert!(
            text.contains("weft_quic_rtt_seconds{statistic=\"max\"} 0.001\n"),
            "{text}"
        );
        assert!(text.contains("weft_connections_refused_total{reason=\"own_socket\"} 1\n"));
        drop(silent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_never_answers_is_not_asked_for_ever() {
        let (workers, _silent) = Workers::<()>::new(1);
        for _ in 0..10 {
            assert_eq!(workers.ask().await, [None]);
        }
        assert_eq!(workers.0[0].capacity(), 0, "questions do not pile up");
    }

    #[tokio::test]
    async fn connections_are_limited_in_number_and_time() {
        let fixture = fixture().await;
        tokio::time::pause();
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            idle.push(TcpStream::connect(fixture.metrics).await.unwrap());
        }
        // The one too many is served when the others' time is over.
        let begun = tokio::time::Instant::now();
        assert_eq!(fetch(fixture.metrics, "/ready").await.0, 503);
        assert!(begun.elapsed() >= LIFETIME);
        for mut stream in idle {
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
        }
    }
}
