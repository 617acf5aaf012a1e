//! An HTTP/1.1 and HTTP/2 (prior knowledge) application with a route for each thing that a mesh can get wrong.
//!
//! | route | answer |
//! |---|---|
//! | `/` | [`small_answer`] in the service's name |
//! | `/echo` | the request's body and trailers, as they come |
//! | `/bytes?n=N` | `N` bytes of the [`Pattern`] |
//! | `/digest` | count and SHA-256 of the request's body, as `COUNT HEX\n` |
//! | `/slow?ms=N` | `/` after `N` ms |
//! | `/status?code=N` | an empty answer with that status |
//! | `/headers` | the request's head as JSON, see [`ReceivedHead`] |
//! | `/ws` | WebSocket echo |
//! | any, with `content-type: application/grpc` | the methods of [`grpc`] |
//! | `/fault` | how it misbehaves, see [`faults`](super::faults) |
//! | `/counts` | which requests came, see [`counts`](super::counts) |
//!
//! `/fault` and `/counts` are for tests that reach the application directly: they neither count nor fail. Every answer
//! tells who gave it: the fields [`NAME_FIELD`] and, if it has one, [`VERSION_FIELD`].
//!
//! HTTP/1.1 trailers are sent when the request has `TE: trailers` and announces the names in `Trailer`.

use super::breaker::Breaker;
use super::counts::Counter;
use super::faults::{Fault, Faults, Setting};
use super::tcp::Receipt;
use super::{Pattern, accept, grpc, small_answer, websocket};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, TRAILER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// The field of an answer with the service's name.
pub const NAME_FIELD: &str = "lab-service";

/// The field of an answer with the service's version.
pub const VERSION_FIELD: &str = "lab-version";

/// How the service behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name, in its answers.
    pub name: String,
    /// Its version, in its answers.
    pub version: Option<String>,
    /// How long a connection may be idle before the service closes it, without a warning, as servers do.
    pub keep_alive: Option<Duration>,
}

impl Options {
    /// A service of this name that never closes an idle connection.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: None,
            keep_alive: None,
        }
    }
}

/// What `/headers` answers: the request as the application saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedHead {
    /// The method.
    pub method: String,
    /// The request target: origin form for HTTP/1.1, absolute for HTTP/2.
    pub uri: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// The fields in their order, repeated ones repeated; bytes outside of UTF-8 replaced.
    pub headers: Vec<(String, String)>,
}

impl ReceivedHead {
    /// The values of a field, by its lower-case name.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Serves until dropped.
///
/// # Errors
/// Only when the listener fails.
pub async fn serve(listener: TcpListener, options: Options) -> io::Result<()> {
    let application = Arc::new(Application::new(options));
    accept(listener, |stream, _| {
        connection(stream, Arc::clone(&application), Routes::All)
    })
    .await
}

/// Which requests a connection answers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Routes {
    All,
    Grpc,
}

/// A service, with what all its connections share.
#[derive(Debug)]
pub(super) struct Application {
    options: Options,
    /// In every answer.
    fields: HeaderMap,
    faults: Faults,
    counter: Counter,
}

pub(super) async fn connection(stream: TcpStream, application: Arc<Application>, routes: Routes) {
    let (idle, breaker) = (Arc::new(Idle::default()), Breaker::default());
    let service = service_fn(|request: Request<Incoming>| {
        let busy = Idle::busy(&idle);
        let (application, breaker) = (Arc::clone(&application), breaker.clone());
        async move {
            let mut response = application.answer(request, routes, &breaker).await;
            response.headers_mut().extend(application.fields.clone());
            Ok::<_, Infallible>(response.map(|body| Tracked { body, _busy: busy }))
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let io = TokioIo::new(breaker.guard(stream));
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
    let idled = async {
        match application.options.keep_alive {
            Some(timeout) => idle.lasts(timeout).await,
            None => pending().await,
        }
    };
    // An error here is the client's doing; the client sees its own side of it.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = breaker.broken() => return,
        () = idled => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = breaker.broken() => {}
    }
}

impl Application {
    pub(super) fn new(options: Options) -> Self {
        let mut fields = HeaderMap::new();
        let name = Some(&options.name);
        for (field, value) in [(NAME_FIELD, name), (VERSION_FIELD, options.version.as_ref())] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                fields.insert(field, value);
            }
        }
        Self {
            options,
            fields,
            faults: Faults::default(),
            counter: Counter::default(),
        }
    }

    async fn answer(&self, request: Request<Incoming>, routes: Routes, breaker: &Breaker) -> Response<Body> {
        if let Some(answer) = self.control(&request) {
            return answer;
        }
        self.counter.count(request.method(), request.headers());
        let is_grpc = grpc::is_grpc(request.headers());
        match self.faults.next() {
            Fault::None => {}
            Fault::Status(code) => return status(code),
            Fault::Grpc(code) if is_grpc => return grpc::trailers_only(code),
            Fault::Grpc(_) => {}
            Fault::Slow(delay) => tokio::time::sleep(delay).await,
            Fault::Hang => pending().await,
            Fault::Reset => {
                breaker.reset();
                pending().await
            }
            Fault::Cut => return cut(small_answer(&self.options.name), breaker.clone()),
        }
        match routes {
            Routes::Grpc => grpc::answer(request),
            Routes::All if is_grpc => grpc::answer(request),
            Routes::All => answer(request, &self.options).await,
        }
    }

    /// The answer to a request that is not for the application itself.
    fn control(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        match (request.uri().path(), request.method()) {
            ("/fault", &Method::GET) => {}
            ("/fault", &Method::PUT) => match Setting::parse(request.uri().query().unwrap_or_default()) {
                Ok(setting) => self.faults.set(setting),
                Err(error) => {
                    let mut response = Response::new(full(format!("{error}\n").into()));
                    *response.status_mut() = StatusCode::BAD_REQUEST;
                    return Some(response);
                }
            },
            ("/counts", &Method::GET) => return Some(json(&self.counter.counts())),
            ("/counts/ids", &Method::GET) => {
                let method = parameter(request.uri().query().unwrap_or_default(), "method");
                let ids = self.counter.ids(method.unwrap_or_default());
                return Some(Response::new(full(ids.into())));
            }
            ("/counts", &Method::DELETE) => {
                self.counter.forget();
                return Some(status(StatusCode::NO_CONTENT));
            }
            _ => return None,
        }
        Some(Response::new(full(format!("{}\n", self.faults.setting()).into())))
    }
}

async fn answer(request: Request<Incoming>, options: &Options) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let number = |name: &str| parameter(query, name).and_then(|value| value.parse::<u64>().ok());
    match request.uri().path() {
        "/" => Response::new(small(options)),
        "/echo" => echo(request),
        "/digest" => digest(request).await,
        "/headers" => headers(&request),
        "/ws" => websocket::answer(request).map(|()| empty()),
        "/bytes" => match number("n") {
            Some(left) => Response::new(
                PatternBody {
                    pattern: Pattern::default(),
                    left,
                }
                .boxed_unsync(),
            ),
            None => status(StatusCode::BAD_REQUEST),
        },
        "/slow" => match number("ms") {
            Some(delay) => {
                tokio::time::sleep(Duration::from_millis(delay)).await;
                Response::new(small(options))
            }
            None => status(StatusCode::BAD_REQUEST),
        },
        "/status" => {
            let code = number("code").and_then(|code| u16::try_from(code).ok());
            // An answer with a 1xx status would not be the final one.
            let code = code
                .and_then(|code| StatusCode::from_u16(code).ok())
                .filter(|c| !c.is_informational());
            status(code.unwrap_or(StatusCode::BAD_REQUEST))
        }
        _ => status(StatusCode::NOT_FOUND),
    }
}

fn echo(request: Request<Incoming>) -> Response<Body> {
    if request.method() == Method::GET {
        let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("POST, PUT"));
        return response;
    }
    let (head, body) = request.into_parts();
    let mut response = Response::new(body.boxed_unsync());
    for name in [CONTENT_TYPE, TRAILER] {
        for value in head.headers.get_all(&name) {
            response.headers_mut().append(&name, value.clone());
        }
    }
    response
}

async fn digest(request: Request<Incoming>) -> Response<Body> {
    let (mut body, mut receipt) = (request.into_body(), Receipt::default());
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => receipt.add(&data),
            Ok(Err(_)) => {}
            Err(_) => return status(StatusCode::BAD_REQUEST),
        }
    }
    Response::new(full(receipt.finish().into()))
}

fn headers(request: &Request<Incoming>) -> Response<Body> {
    let head = ReceivedHead {
        method: request.method().to_string(),
        uri: request.uri().to_string(),
        version: format!("{:?}", request.version()),
        headers: request
            .headers()
            .iter()
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect(),
    };
    json(&head)
}

fn json(document: &impl Serialize) -> Response<Body> {
    let mut response = Response::new(full(serde_json::to_vec(document).unwrap_or_default().into()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Half of an answer, and then the end of its connection.
fn cut(mut whole: Bytes, breaker: Breaker) -> Response<Body> {
    /// Long enough for the first half to leave; it only matters that the connection ends soon.
    const FLUSH: Duration = Duration::from_millis(10);
    let length = whole.len();
    let half = Some(whole.split_to(length / 2));
    let body = unfold((half, breaker), async |(half, breaker)| {
        let Some(half) = half else {
            tokio::time::sleep(FLUSH).await;
            breaker.close();
            return pending().await;
        };
        Some((Ok(Frame::data(half)), (None, breaker)))
    });
    let mut response = Response::new(StreamBody::new(body).boxed_unsync());
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

pub(super) fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn small(options: &Options) -> Body {
    full(small_answer(&options.name))
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = code;
    response
}

pub(super) fn empty() -> Body {
    Empty::new()
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// A body of the [`Pattern`], made as it is asked for.
struct PatternBody {
    pattern: Pattern,
    left: u64,
}

impl http_body::Body for PatternBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let piece = this.pattern.next(this.left);
        this.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Counts the requests that a connection is serving.
#[derive(Default)]
struct Idle {
    serving: AtomicUsize,
    changed: Notify,
}

/// A request being served, from its head to the end of its answer's body.
struct Busy(Arc<Idle>);

impl Idle {
    fn busy(this: &Arc<Self>) -> Busy {
        this.serving.fetch_add(1, Ordering::Relaxed);
        this.changed.notify_one();
        Busy(Arc::clone(this))
    }

    /// Waits until nothing has been served for `timeout`.
    async fn lasts(&self, timeout: Duration) {
        loop {
            let changed = self.changed.notified();
            if self.serving.load(Ordering::Relaxed) > 0 {
                changed.await;
            } else if tokio::time::timeout(timeout, changed).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

/// A body that keeps its connection busy.
struct Tracked {
    body: Body,
    _busy: Busy,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
