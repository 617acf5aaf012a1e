//! One request of the demo's customers, and whether its answer is right.

use std::{
    cell::RefCell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header::HOST, request::Builder};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_lab::{
    client::grpc,
    services::{grpc::code, http::NAME_FIELD, small_answer, tcp::banner},
};

use super::{
    board::Flow,
    documents::{STABLE, TESTER},
    plan::{self, CART, CATALOG, CHECKOUT, MEMBERS, Member, ORDERS, Subnet, V1, V2},
};

/// How long any one answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// A connection that was idle for longer is not used again: the other side may be about to close it.
const MAX_IDLE: Duration = Duration::from_secs(2);
/// Where a sidecar says why it answers in the application's place.
const REASONS: [&str; 2] = ["weft-error", "weft-unprocessed"];

/// The right answer, from this workload if the answer tells; or what was wrong.
pub(super) type Answer = Result<Option<&'static Member>, Wrong>;

/// What was wrong with a request's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) why: String,
    /// Who answered, if the answer tells.
    pub(super) by: Option<&'static Member>,
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Self { why, by: None }
    }
}

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
                Flow::Catalog => self.catalog(get(&CATALOG.host()), &[V1, V2]).await,
                Flow::Testers => {
                    let (field, value) = TESTER;
                    self.catalog(get(&CATALOG.host()).header(field, value), &[V2])
                        .await
                }
                Flow::Stable => {
                    let host = format!("{STABLE}.default:{stable_port}");
                    self.catalog(get(&host), &[V1]).await
                }
                Flow::Checkout => {
                    let order = Bytes::from(format!("order {number}"));
                    let request = Request::post("/echo").header(HOST, CHECKOUT.host());
                    let body = self.http(request, order.clone()).await?;
                    Ok(same(&body, &order)?)
                }
                Flow::Cart => Ok(self.grpc(number).await?),
                Flow::Orders => Ok(self.tcp(number).await?),
            }
        };
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs()).into()),
        }
    }

    /// One that a workload of these versions of the catalog must answer.
    async fn catalog(&self, request: Builder, versions: &[&str]) -> Answer {
        judged(&self.http(request, Bytes::new()).await?, versions)
    }

    async fn http(&self, request: Builder, body: Bytes) -> Result<Bytes, Wrong> {
        let mut connection = match self.http.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => connect_http(self.subnet.outbound(&plan::FRONTEND)).await?,
        };
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
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
        Err(Wrong {
            why: format!("status {} {}", head.status.as_u16(), reason(&head.headers)),
            by: by(&head.headers),
        })
    }

    async fn grpc(&self, number: u64) -> Result<Option<&'static Member>, String> {
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
    async fn tcp(&self, number: u64) -> Result<Option<&'static Member>, String> {
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

fn get(host: &str) -> Builder {
    Request::get("/").header(HOST, host)
}

fn same(received: &[u8], expected: &[u8]) -> Result<Option<&'static Member>, String> {
    match received == expected {
        true => Ok(None),
        false => Err("another answer".to_owned()),
    }
}

/// Whose answer it is, which must be of one of these versions of the catalog.
fn judged(body: &[u8], versions: &[&str]) -> Answer {
    match CATALOG
        .members()
        .find(|member| *body == *small_answer(member.name))
    {
        Some(member) if versions.contains(&member.version) => Ok(Some(member)),
        Some(member) => Err(Wrong {
            why: format!("an answer of {}", member.version),
            by: Some(member),
        }),
        None => Err("another answer".to_owned().into()),
    }
}

/// The workload whose application gave an answer, also one that is wrong.
fn by(headers: &HeaderMap) -> Option<&'static Member> {
    let name = headers.get(NAME_FIELD)?;
    MEMBERS.into_iter().find(|member| member.name == name)
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
        let v2 = small_answer("catalog-v2-0");
        let name = |answer: Answer| answer.map(|by| by.map(|member| member.name));
        assert_eq!(name(judged(&v2, &[V1, V2])), Ok(Some("catalog-v2-0")));
        let wrong = judged(&v2, &[V1]).unwrap_err();
        assert!(wrong.why.contains(V2), "{wrong:?}");
        assert_eq!(wrong.by.map(|member| member.version), Some(V2));
        assert!(judged(b"catalog-v1-0", &[V1, V2]).is_err());
    }

    #[test]
    fn a_wrong_answer_tells_whose_it_is() {
        let mut headers = HeaderMap::new();
        assert_eq!(by(&headers), None);
        headers.insert(NAME_FIELD, "catalog-v1-1".parse().unwrap());
        assert_eq!(by(&headers).map(|member| member.version), Some(V1));
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
