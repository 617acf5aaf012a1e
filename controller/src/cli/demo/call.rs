//! One request of the demo's customers, and whether its answer is right.

use std::{
    cell::RefCell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_lab::{
    client::grpc,
    services::{grpc::code, small_answer, tcp::banner},
};

use super::{
    board::Flow,
    plan::{self, CART, CATALOG, CHECKOUT, Member, ORDERS, Subnet},
};

/// How long any one answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// A connection that was idle for longer is not used again: the other side may be about to close it.
const MAX_IDLE: Duration = Duration::from_secs(2);
/// Where a sidecar says why it answers in the application's place.
const REASONS: [&str; 2] = ["weft-error", "weft-unprocessed"];

/// The right answer, from this workload if the answer tells; or what was wrong.
pub(super) type Answer = Result<Option<&'static str>, String>;

/// The applications that call others, with their connections to their sidecars.
pub(super) struct Callers {
    subnet: Subnet,
    http: Idle<http1::SendRequest<Full<Bytes>>>,
    grpc: Idle<grpc::Connection>,
}

/// Connections that nobody uses at the moment, the last used one last.
struct Idle<T>(RefCell<Vec<(Instant, T)>>);

impl<T> Idle<T> {
    fn take(&self) -> Option<T> {
        let mut idle = self.0.borrow_mut();
        match idle.pop() {
            Some((since, connection)) if since.elapsed() < MAX_IDLE => Some(connection),
            _ => {
                idle.clear();
                None
            }
        }
    }

    fn put(&self, connection: T) {
        self.0.borrow_mut().push((Instant::now(), connection));
    }
}

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl Callers {
    /// Nobody has called yet.
    pub(super) fn new(subnet: Subnet) -> Self {
        Self {
            subnet,
            http: Idle::default(),
            grpc: Idle::default(),
        }
    }

    /// Sends the `number`th request, on its way, and judges the answer.
    pub(super) async fn call(&self, flow: Flow, stable_port: u16, number: u64) -> Answer {
        let call = async {
            match flow {
                Flow::Catalog => {
                    let body = self.http(Method::GET, "/", &CATALOG.host(), Bytes::new()).await?;
                    version_of(&body, CATALOG.members())
                }
                Flow::Stable => {
                    let host = format!("{}.default:{stable_port}", plan::STABLE);
                    let body = self.http(Method::GET, "/", &host, Bytes::new()).await?;
                    version_of(&body, [&plan::CATALOG_V1].into_iter())
                }
                Flow::Checkout => {
                    let order = Bytes::from(format!("order {number}"));
                    let body = self
                        .http(Method::POST, "/echo", &CHECKOUT.host(), order.clone())
                        .await?;
                    same(&body, &order)
                }
                Flow::Cart => self.grpc(number).await,
                Flow::Orders => self.tcp(number).await,
            }
        };
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }

    async fn http(&self, method: Method, path: &str, host: &str, body: Bytes) -> Result<Bytes, String> {
        let mut connection = match self.http.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => connect_http(self.subnet.outbound(&plan::FRONTEND)).await?,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        connection.ready().await.map_err(|error| error.to_string())?;
        let answer = connection
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let (head, body) = answer.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|error| format!("the answer was cut short: {error}"))?;
        self.http.put(connection);
        if head.status == StatusCode::OK {
            return Ok(body.to_bytes());
        }
        Err(format!(
            "status {} {}",
            head.status.as_u16(),
            reason(&head.headers)
        ))
    }

    async fn grpc(&self, number: u64) -> Answer {
        let mut connection = match self.grpc.take() {
            Some(connection) => connection,
            None => grpc::Connection::open(self.subnet.outbound(&plan::FRONTEND), &CART.host())
                .await
                .map_err(|error| error.to_string())?,
        };
        let item = Bytes::from(format!("item {number}"));
        let outcome = connection
            .call_with("Unary", HeaderMap::new(), vec![item.clone()])
            .await
            .map_err(|error| error.to_string())?;
        self.grpc.put(connection);
        match outcome.status {
            Some(code::OK) if outcome.messages == [item] => Ok(None),
            Some(code::OK) => Err("another answer".to_owned()),
            Some(status) => Err(format!("grpc-status {status} {}", outcome.message)),
            None => Err(format!(
                "status {} and no grpc-status",
                outcome.http_status.as_u16()
            )),
        }
    }

    /// A connection each: the server's banner, an echo, and a half-close that it answers with its own.
    async fn tcp(&self, number: u64) -> Answer {
        let text = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(self.subnet.orders()).await.map_err(text)?;
        let expected = banner(ORDERS.service);
        let mut received = vec![0; expected.len()];
        stream.read_exact(&mut received).await.map_err(text)?;
        same(&received, expected.as_bytes())?;
        let order = format!("order {number:032}");
        stream.write_all(order.as_bytes()).await.map_err(text)?;
        stream.shutdown().await.map_err(text)?;
        let mut echo = Vec::with_capacity(order.len());
        stream.read_to_end(&mut echo).await.map_err(text)?;
        same(&echo, order.as_bytes())
    }
}

async fn connect_http(address: SocketAddr) -> Result<http1::SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (connection, driver) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // Ends with the last request on it.
    tokio::spawn(driver);
    Ok(connection)
}

/// Whose answer it is.
fn version_of(body: &[u8], mut members: impl Iterator<Item = &'static Member>) -> Answer {
    match members.find(|member| *body == *small_answer(member.name)) {
        Some(member) => Ok(Some(member.name)),
        None => Err("another answer".to_owned()),
    }
}

fn same(received: &[u8], expected: &[u8]) -> Answer {
    match received == expected {
        true => Ok(None),
        false => Err("another answer".to_owned()),
    }
}

fn reason(headers: &HeaderMap) -> &str {
    REASONS
        .iter()
        .find_map(|name| headers.get(*name)?.to_str().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_versions_that_may_answer_do() {
        let v2 = small_answer("catalog-v2");
        assert_eq!(version_of(&v2, CATALOG.members()), Ok(Some("catalog-v2")));
        assert!(version_of(&v2, [&plan::CATALOG_V1].into_iter()).is_err());
        assert!(version_of(b"catalog-v1", CATALOG.members()).is_err());
    }

    #[test]
    fn a_connection_that_rested_for_long_is_not_used() {
        let idle = Idle::default();
        idle.put("a");
        idle.put("b");
        assert_eq!(idle.take(), Some("b"));
        let long_ago = Instant::now().checked_sub(2 * MAX_IDLE).unwrap();
        idle.0.borrow_mut()[0].0 = long_ago;
        assert_eq!(idle.take(), None);
        idle.put("c");
        assert_eq!((idle.take(), idle.take()), (Some("c"), None));
    }
}
