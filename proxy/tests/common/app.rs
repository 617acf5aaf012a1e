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
