//! Our ends: a listener with a small service, and a pool.

use std::{future::poll_fn, net::SocketAddr, rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, uri};
use tokio::sync::mpsc;
use weft_transport::{
    Config, EndpointState, Error, Incoming, Listener, ListenerOptions, PeerKey, Pool, PoolOptions,
    RecvStream, RequestStream, TransportStats,
    credentials::testing::Authority,
    h3::{Code, RequestHead, ResponseHead},
};

pub(crate) const TRUST_DOMAIN: &str = "example.org";

/// Content that differs wherever it is misplaced.
pub(crate) fn pattern(length: usize) -> Bytes {
    (0..length as u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

pub(crate) fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

/// Our listener, and what its application saw.
pub(crate) struct Ours {
    pub(crate) authority: Authority,
    pub(crate) listener: Listener,
    pub(crate) seen: mpsc::UnboundedReceiver<Saw>,
}

/// What the application saw of one request.
#[derive(Debug)]
pub(crate) struct Saw {
    pub(crate) caller: String,
    pub(crate) path: String,
    /// How the request ended for it.
    pub(crate) result: Result<(), Error>,
}

pub(crate) fn listen() -> Ours {
    let authority = Authority::new(TRUST_DOMAIN);
    let (saw, seen) = mpsc::unbounded_channel();
    let options = ListenerOptions {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        worker: 0,
        workers: 1,
        mark: None,
    };
    let listener = Listener::bind(
        &options,
        Arc::new(Config::default()),
        &EndpointState::ephemeral().unwrap(),
        &authority.credentials("default", "server"),
        Arc::default(),
        move |incoming| {
            let saw = saw.clone();
            tokio::task::spawn_local(async move {
                let caller = incoming.caller.to_string();
                let mut path = String::new();
                let result = serve(incoming, &mut path).await;
                let _ = saw.send(Saw { caller, path, result });
            });
        },
    );
    Ours {
        authority,
        listener: listener.unwrap(),
        seen,
    }
}

/// The service.
async fn serve(incoming: Incoming, path: &mut String) -> Result<(), Error> {
    let mut stream = incoming.stream;
    let head = stream.request_head().await?;
    *path = head.path.as_ref().map(ToString::to_string).unwrap_or_default();
    if path == "/refused" {
        stream.reject();
        return Ok(());
    }
    stream.mark_processed();
    let mut response = ResponseHead::new(StatusCode::OK);
    match path.as_str() {
        "/hello" => {
            response.headers = fields(&[("content-length", "5")]);
            stream.send.queue_response(&response)?;
            if head.method != Method::HEAD {
                stream.send.queue_data(Bytes::from_static(b"hello"))?;
            }
        }
        "/echo" => {
            stream.send.queue_response(&response)?;
            while let Some(data) = poll_fn(|cx| stream.recv.poll_data(cx)).await? {
                stream.send.queue_data(data)?;
                stream.send.flush().await?;
            }
            if let Some(trailers) = stream.recv.trailers() {
                stream.send.queue_trailers(&trailers)?;
            }
        }
        "/half" => {
            stream.send.queue_response(&response)?;
            stream.send.queue_data(pattern(1_000))?;
            return stream.send.flush().await;
        }
        "/hang" => {
            stream.send.queue_response(&response)?;
            stream.send.flush().await?;
            poll_fn(|cx| stream.send.poll_stopped(cx)).await;
            return Ok(());
        }
        "/slow" => {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            stream.send.queue_response(&response)?;
            stream.send.queue_data(Bytes::from_static(b"finished"))?;
        }
        "/early" => {
            stream.recv.stop(Code::H3_NO_ERROR);
            stream.send.queue_response(&response)?;
            stream.send.queue_data(Bytes::from_static(b"early"))?;
        }
        _ => {
            stream
                .send
                .queue_response(&ResponseHead::new(StatusCode::NOT_FOUND))?;
        }
    }
    stream.send.queue_end()?;
    stream.send.flush().await
}

/// Our pool, and where it leads.
pub(crate) struct Dialler {
    pub(crate) pool: Pool,
    pub(crate) peer: PeerKey,
    pub(crate) stats: Arc<TransportStats>,
}

pub(crate) fn dial(authority: &Authority, address: SocketAddr) -> Rc<Dialler> {
    let stats = Arc::<TransportStats>::default();
    let pool = Pool::new(
        &PoolOptions::default(),
        Arc::new(Config::default()),
        &EndpointState::ephemeral().unwrap(),
        Arc::new(authority.credentials("default", "client")),
        stats.clone(),
    );
    let peer = PeerKey {
        uid: "default/server".into(),
        address,
        identity: authority.id("default", "server"),
    };
    Rc::new(Dialler {
        pool: pool.unwrap(),
        peer,
        stats,
    })
}

impl Dialler {
    pub(crate) async fn start(&self, method: Method, path: &'static str) -> Result<RequestStream, Error> {
        let mut stream = self.pool.stream(&self.peer).await?;
        let authority = uri::Authority::from_static("server");
        let path = uri::PathAndQuery::from_static(path);
        let ends = method != Method::POST;
        stream.queue_request(&RequestHead::new(method, uri::Scheme::HTTP, authority, path))?;
        if ends {
            stream.send.queue_end()?;
        }
        stream.send.flush().await?;
        Ok(stream)
    }

    pub(crate) async fn get(&self, path: &'static str) -> Result<Vec<u8>, Error> {
        let mut stream = self.start(Method::GET, path).await?;
        stream.recv.response_head().await?;
        body_of(&mut stream.recv).await
    }
}

pub(crate) async fn body_of(recv: &mut RecvStream) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(data) = poll_fn(|cx| recv.poll_data(cx)).await? {
        body.extend_from_slice(&data);
    }
    Ok(body)
}
