//! One call over QUIC and HTTP/3.

use std::{
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use quinn::{ConnectionError, TransportErrorCode, crypto::rustls::QuicClientConfig};
use tokio::time::{Instant, timeout};
use weft_proto::SpiffeId;
use weft_tls::{
    Credentials, Refusal,
    credentials::{ALPN_H3, SERVER_NAME},
};

use super::explain;

/// The target port at the workload.
const WEFT_PORT: HeaderName = HeaderName::from_static("weft-port");
/// On a final refusal: its reason.
const WEFT_ERROR: HeaderName = HeaderName::from_static("weft-error");
/// On a refusal before the application saw anything: its reason.
const WEFT_UNPROCESSED: HeaderName = HeaderName::from_static("weft-unprocessed");
/// How much of an answer's content is read: what the mesh itself says has a line.
const MAX_TEXT: usize = 4096;

/// What to call, and how.
pub(super) struct Call<'a> {
    pub(super) address: SocketAddr,
    pub(super) identity: &'a SpiffeId,
    pub(super) credentials: &'a Credentials,
    pub(super) authority: String,
    pub(super) port: u32,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Of handshake and answer each.
    pub(super) timeout: Duration,
    pub(super) is_http: bool,
}

/// Where a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hop {
    /// The controller has no sidecar for it.
    Resolve,
    /// The way there, over UDP.
    Network,
    /// Who is there, or who we are.
    Identity,
    /// HTTP/3 with the sidecar.
    Sidecar,
    /// The mesh's policy, or its limits.
    Mesh,
    /// The application.
    Application,
}

/// What happened.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// How long it took, and the round trip that it measured.
    pub(super) handshake: Option<(Duration, Duration)>,
    pub(super) status: Option<(StatusCode, Duration)>,
    /// The mesh's own, if it answered instead of the application.
    pub(super) reason: Option<String>,
    /// Where it ended, and why.
    pub(super) failure: Option<(Hop, String)>,
}

impl Hop {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Network => "network",
            Self::Identity => "identity",
            Self::Sidecar => "sidecar",
            Self::Mesh => "mesh",
            Self::Application => "application",
        }
    }
}

impl Answer {
    /// It came to nothing here.
    pub(super) fn failed(hop: Hop, why: impl Into<String>) -> Self {
        Self {
            failure: Some((hop, why.into())),
            ..Self::default()
        }
    }

    /// Whether the application answered, and not with a failure of its own; or, where there is no HTTP, whether the
    /// way to it is open.
    pub(super) fn is_good(&self) -> bool {
        self.failure.is_none()
    }

    fn ended(mut self, hop: Hop, why: impl Into<String>) -> Self {
        self.failure = Some((hop, why.into()));
        self
    }
}

impl Call<'_> {
    /// Makes it. It is never an error: what happened is the answer.
    pub(super) async fn make(&self) -> Answer {
        let refusal = Arc::new(OnceLock::new());
        let endpoint = match self.endpoint(refusal.clone()) {
            Ok(endpoint) => endpoint,
            Err(why) => return Answer::failed(Hop::Network, why),
        };
        let begun = Instant::now();
        let connecting = match endpoint.connect(self.address, SERVER_NAME) {
            Ok(connecting) => connecting,
            Err(error) => return Answer::failed(Hop::Network, error.to_string()),
        };
        let connection = match timeout(self.timeout, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                let (hop, why) = self.why(&error, &refusal);
                return Answer::failed(hop, why);
            }
            Err(_) => return Answer::failed(Hop::Network, self.silence()),
        };
        let answer = Answer {
            handshake: Some((begun.elapsed(), connection.rtt())),
            ..Answer::default()
        };
        let answer = if self.is_http {
            self.ask(&connection, answer, &refusal).await
        } else {
            answer
        };
        connection.close(0x100u32.into(), b"");
        // The close is sent, or lost: nobody is kept waiting for it.
        let _ = timeout(Duration::from_millis(100), endpoint.wait_idle()).await;
        answer
    }

    fn endpoint(&self, refusal: Arc<OnceLock<Refusal>>) -> Result<quinn::Endpoint, String> {
        let on_refusal = Arc::new(move |found| {
            let _ = refusal.set(found);
        });
        let tls = self
            .credentials
            .client_config(self.identity, ALPN_H3, on_refusal)
            .map_err(|error| error.to_string())?;
        let tls = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
        let any: IpAddr = match self.address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut endpoint = quinn::Endpoint::client(SocketAddr::new(any, 0))
            .map_err(|error| format!("no UDP socket can be opened here: {error}"))?;
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
        Ok(endpoint)
    }

    async fn ask(
        &self,
        connection: &quinn::Connection,
        answer: Answer,
        refusal: &OnceLock<Refusal>,
    ) -> Answer {
        let request = match self.request() {
            Ok(request) => request,
            Err(error) => return answer.ended(Hop::Sidecar, error.to_string()),
        };
        let begun = Instant::now();
        match timeout(self.timeout, exchange(connection.clone(), request)).await {
            Ok(Ok((head, text))) => judge(answer, &head, &text, begun.elapsed()),
            // Our certificate is judged after our side of the handshake: what became of the connection says more.
            Ok(Err(error)) => match connection.close_reason() {
                Some(reason) => {
                    let (hop, why) = self.why(&reason, refusal);
                    answer.ended(hop, why)
                }
                None => answer.ended(Hop::Sidecar, error),
            },
            Err(_) => {
                let why = format!("no answer within {:.1} s", self.timeout.as_secs_f64());
                answer.ended(Hop::Application, why)
            }
        }
    }

    fn request(&self) -> Result<Request<()>, http::Error> {
        let uri = Uri::builder()
            .scheme("https")
            .authority(self.authority.as_str())
            .path_and_query(self.path.as_str())
            .build()?;
        let mut request = Request::builder().method(self.method.clone()).uri(uri);
        if let Some(headers) = request.headers_mut() {
            headers.extend(
                self.headers
                    .iter()
                    .map(|(name, value)| (Some(name.clone()), value.clone())),
            );
            headers.insert(WEFT_PORT, HeaderValue::from(self.port));
        }
        request.body(())
    }

    /// Where a connection failed, and why.
    fn why(&self, error: &ConnectionError, refusal: &OnceLock<Refusal>) -> (Hop, String) {
        if let Some(refusal) = refusal.get() {
            let expected = self.identity;
            return (
                Hop::Identity,
                format!("whoever is there is not {expected}: {refusal}"),
            );
        }
        match error {
            ConnectionError::TimedOut => (Hop::Network, self.silence()),
            ConnectionError::ConnectionClosed(close) if is_alert(close.error_code) => (
                Hop::Identity,
                "the sidecar does not accept the certificate of this context: is its root retired, or a clock wrong?"
                    .to_owned(),
            ),
            error => (Hop::Sidecar, error.to_string()),
        }
    }

    fn silence(&self) -> String {
        format!(
            "nothing came back over UDP within {:.1} s: no sidecar listens at {}, or a firewall is between",
            self.timeout.as_secs_f64(),
            self.address
        )
    }
}

/// Whether TLS ended the connection (RFC 9001 section 4.8).
fn is_alert(code: TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

/// Sends a request without content; gives the head of the answer and the beginning of its content.
async fn exchange(
    connection: quinn::Connection,
    request: Request<()>,
) -> Result<(http::Response<()>, Vec<u8>), String> {
    let connection = h3_quinn::Connection::new(connection);
    let (mut driver, mut requests) = h3::client::new(connection)
        .await
        .map_err(|error| error.to_string())?;
    let driving = tokio::spawn(async move { poll_fn(|cx| driver.poll_close(cx)).await });
    let exchanged = async {
        let mut stream = requests
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        stream.finish().await.map_err(|error| error.to_string())?;
        let head = stream.recv_response().await.map_err(|error| error.to_string())?;
        let mut text = Vec::new();
        while text.len() < MAX_TEXT {
            match stream.recv_data().await {
                Ok(Some(mut data)) => {
                    let bytes: Bytes = data.copy_to_bytes(data.remaining());
                    text.extend_from_slice(bytes.get(..MAX_TEXT.min(bytes.len())).unwrap_or_default());
                }
                Ok(None) => break,
                Err(error) => return Err(format!("the answer broke off: {error}")),
            }
        }
        Ok((head, text))
    };
    let exchanged = exchanged.await;
    driving.abort();
    exchanged
}

/// Who answered, the mesh or the application, and what that means.
fn judge(answer: Answer, head: &http::Response<()>, text: &[u8], took: Duration) -> Answer {
    let field = |name: &HeaderName| {
        let value = head.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let answer = Answer {
        status: Some((head.status(), took)),
        ..answer
    };
    let (reason, is_processed) = match (field(&WEFT_UNPROCESSED), field(&WEFT_ERROR)) {
        (Some(reason), _) => (reason, false),
        (None, Some(reason)) => (reason, true),
        (None, None) if head.status().is_server_error() => {
            return answer.ended(
                Hop::Application,
                format!("the application says {}", head.status()),
            );
        }
        (None, None) => return answer,
    };
    let said = String::from_utf8_lossy(text);
    let why = explain::explain(&reason, is_processed, said.trim());
    let hop = if reason.starts_with("application_") {
        Hop::Application
    } else {
        Hop::Mesh
    };
    Answer {
        reason: Some(reason),
        ..answer.ended(hop, why)
    }
}
