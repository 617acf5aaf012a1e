//! Applications for tests that must see what reaches them, beside those of the laboratory.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use weft_lab::services;

use super::{Workload, port};

/// Starts the laboratory's services on the ports of a workload of `web`.
pub async fn serve_web(workload: &Workload) {
    serve_http(workload, port::HTTP).await;
    serve_http(workload, port::ANY).await;
    tokio::spawn(services::tcp::echo(workload.listen(port::TCP).await));
    tokio::spawn(services::grpc::serve(workload.listen(port::GRPC).await));
}

/// Starts the laboratory's HTTP service, in the workload's name.
pub async fn serve_http(workload: &Workload, port: u16) -> JoinHandle<std::io::Result<()>> {
    let options = services::http::Options::named(&workload.name);
    tokio::spawn(services::http::serve(workload.listen(port).await, options))
}

/// Serves each connection by a function of the test.
pub async fn serve_with<F, Fut>(workload: &Workload, port: u16, mut serve: F)
where
    F: FnMut(TcpStream, SocketAddr) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = workload.listen(port).await;
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            tokio::spawn(serve(stream, peer));
        }
    });
}

/// An HTTP/1.1 application that counts requests by their `x-id`.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<Mutex<HashMap<String, usize>>>);

impl Counter {
    /// Serves a listener; each answer takes `delay`.
    pub fn serve(&self, listener: TcpListener, delay: Duration) {
        let counter = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).ok();
                let counter = counter.clone();
                let service = service_fn(move |request| counter.clone().answer(request, delay));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
    }

    async fn answer(
        self,
        request: Request<Incoming>,
        delay: Duration,
    ) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
        let id = request
            .headers()
            .get("x-id")
            .map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
        *self
            .0
            .lock()
            .expect("counts")
            .entry(id.unwrap_or_default())
            .or_default() += 1;
        let body = request
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        Ok(Response::new(Full::new(body)))
    }

    /// How often each id came.
    pub fn counts(&self) -> HashMap<String, usize> {
        self.0.lock().expect("counts").clone()
    }

    pub fn total(&self) -> usize {
        self.counts().values().sum()
    }
}

/// What a [`Scripted`] application does with each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Answers with this status, and with its name.
    Answer(u16),
    /// Takes the request, and never answers.
    Hang,
    /// Answers 200 after so long.
    Wait(Duration),
    /// Answers 503 with `Retry-After`, in seconds.
    Later(u64),
    /// Reads the request, and closes the connection.
    Close,
    /// Answers a gRPC call with this status, without content.
    Grpc(u16),
}

/// A head as a [`Scripted`] application saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: http::Method,
    pub target: String,
    pub headers: http::HeaderMap,
    pub body: bytes::Bytes,
}

impl Seen {
    /// A field of it; empty if it is not there.
    pub fn field(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("text"))
    }
}

/// An application over HTTP/1.1 and HTTP/2 that does as the test says, and remembers what it saw.
#[derive(Clone, Debug)]
pub struct Scripted {
    name: String,
    does: Arc<Mutex<Does>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Scripted {
    /// Serves a port of a workload, in its name; it answers 200.
    pub async fn serve(workload: &Workload, port: u16) -> Self {
        let application = Self {
            name: workload.name.clone(),
            does: Arc::new(Mutex::new(Does::Answer(200))),
            seen: Arc::default(),
        };
        let (listener, served) = (workload.listen(port).await, application.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).ok();
                let application = served.clone();
                let service = service_fn(move |request| application.clone().answer(request));
                tokio::spawn(async move {
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                    // An error is what the test wants, or the end of the client.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        application
    }

    /// From now on it does this.
    pub fn will(&self, does: Does) {
        *self.does.lock().expect("a script") = does;
    }

    /// All that it saw.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("heads").clone()
    }

    /// How many requests it saw.
    pub fn count(&self) -> usize {
        self.seen.lock().expect("heads").len()
    }

    /// How often it saw each `x-id`.
    pub fn counts(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for seen in self.seen() {
            *counts.entry(seen.field("x-id").to_owned()).or_default() += 1;
        }
        counts
    }

    async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<bytes::Bytes>>, std::io::Error> {
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        self.seen.lock().expect("heads").push(Seen {
            method: head.method,
            target: head
                .uri
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default(),
            headers: head.headers,
            body,
        });
        let mut response = Response::new(Full::new(bytes::Bytes::from(self.name.clone())));
        let does = *self.does.lock().expect("a script");
        match does {
            Does::Answer(status) => *response.status_mut() = status.try_into().expect("a status"),
            Does::Hang => std::future::pending().await,
            Does::Wait(time) => tokio::time::sleep(time).await,
            Does::Later(seconds) => {
                *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                response.headers_mut().insert("retry-after", seconds.into());
            }
            Does::Close => return Err(std::io::Error::other("as the test wants it")),
            Does::Grpc(status) => {
                *response.body_mut() = Full::default();
                response
                    .headers_mut()
                    .insert("content-type", http::HeaderValue::from_static("application/grpc"));
                response.headers_mut().insert("grpc-status", status.into());
            }
        }
        response
            .headers_mut()
            .insert("x-server", self.name.parse().expect("a name"));
        Ok(response)
    }
}

/// Expects that a connection was cut.
pub fn assert_refused(result: std::io::Result<()>) {
    let error = result.expect_err("a connection that is cut");
    assert!(
        matches!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset
                | std::io::ErrorKind::BrokenPipe
                | std::io::ErrorKind::UnexpectedEof
        ),
        "{error}"
    );
}
