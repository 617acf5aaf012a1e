//! A connection to the controller: TCP, TLS with the identities of the mesh, and gRPC over it.
//!
//! It is made before gRPC has it, so that what fails is known for what it is: not reachable, not trusted, or refused.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;
use weft_tls::{Credentials, credentials::SERVER_NAME, grpc, verify::io_refusal};

use super::failure::Failure;
use crate::ca::controller_id;

/// How long TCP and TLS may each take: enough for another continent, and not too long for someone who waits.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the head of an answer may take. The largest apply is checked and stored well within.
const ANSWER: Duration = Duration::from_secs(60);

/// What TLS said when it ended a connection, if it did.
type Ended = Arc<Mutex<Option<String>>>;

/// Whom a connection is for, and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// The context's name.
    pub(crate) context: String,
    /// Of the last connection.
    ended: Ended,
}

impl Target {
    /// To which no connection was made yet.
    pub(crate) fn new(address: impl Into<String>, context: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            context: context.into(),
            ended: Arc::default(),
        }
    }

    fn untrusted(&self, why: String) -> Failure {
        Failure::Untrusted {
            address: self.address.clone(),
            context: self.context.clone(),
            why,
        }
    }
}

/// Connects as an operator.
///
/// # Errors
/// It is not reachable, or no controller of our trust domain, or does not accept us.
pub(crate) async fn connect(target: &Target, credentials: &Credentials) -> Result<Channel, Failure> {
    let expected = controller_id(credentials.svid().id().trust_domain())
        .map_err(|error| Failure::other(error.to_string()))?;
    let config = grpc::client_config(credentials, &expected)
        .map_err(|error| Failure::Credential(target.context.clone(), error.to_string()))?;
    let name = ServerName::try_from(SERVER_NAME).map_err(|error| Failure::other(error.to_string()))?;
    channel(dial(target, config, name).await?).await
}

/// TCP and TLS.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn dial(
    target: &Target,
    config: ClientConfig,
    server_name: ServerName<'static>,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, Failure> {
    let unreachable = |why: String| Failure::Unreachable {
        address: target.address.clone(),
        context: target.context.clone(),
        why,
    };
    *target.ended.lock().unwrap_or_else(PoisonError::into_inner) = None;
    let tcp = match timeout(CONNECT, TcpStream::connect(&*target.address)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return Err(unreachable(error.to_string())),
        Err(_) => return Err(unreachable(silence("TCP"))),
    };
    // Calls are small and wait for each other. Without it they are merely slower.
    let _ = tcp.set_nodelay(true);
    let tls = TlsConnector::from(Arc::new(config)).connect(server_name, tcp);
    match timeout(CONNECT, tls).await {
        Ok(Ok(tls)) => Ok(Watched {
            tls,
            ended: target.ended.clone(),
        }),
        Ok(Err(error)) => Err(match tls_error(&error) {
            Some(why) => target.untrusted(why),
            None => unreachable(format!("TLS: {error}")),
        }),
        Err(_) => Err(unreachable(silence("TLS"))),
    }
}

fn silence(what: &str) -> String {
    format!("no answer to {what} within {} s", CONNECT.as_secs())
}

/// What TLS found wrong, if it was TLS.
fn tls_error(error: &io::Error) -> Option<String> {
    if let Some(refusal) = io_refusal(error) {
        return Some(format!("its certificate is refused: {refusal}"));
    }
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::AlertReceived(alert) => format!("it refuses our certificate ({alert:?})"),
        rustls::Error::InvalidMessage(_) => "what listens there does not speak TLS".to_owned(),
        error => error.to_string(),
    })
}

/// gRPC over a connection. When that ends the channel has ended: a command makes no second attempt in secret.
///
/// # Errors
/// HTTP/2 cannot begin.
pub(crate) async fn channel<S>(stream: S) -> Result<Channel, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stream = Some(TokioIo::new(stream));
    let connector = service_fn(move |_: Uri| {
        let stream = stream.take();
        async {
            stream.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection has ended"))
        }
    });
    Endpoint::from_static("http://weft.invalid")
        .timeout(ANSWER)
        .connect_with_connector(connector)
        .await
        .map_err(|error| Failure::other(format!("HTTP/2 to the controller: {error}")))
}

/// What became of a call. In TLS 1.3 the controller judges our certificate only after our side of the handshake is
/// done, so that its refusal arrives in place of the first answer.
pub(crate) fn refused(target: &Target, status: Status) -> Failure {
    let ended = target
        .ended
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    match ended {
        Some(why) => target.untrusted(why),
        None => status.into(),
    }
}

/// A connection that remembers how TLS ended it: HTTP/2 passes on no more than a text.
struct Watched {
    tls: TlsStream<TcpStream>,
    ended: Ended,
}

impl Watched {
    fn look<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &poll
            && let Some(why) = tls_error(error)
        {
            *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
        poll
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.tls).poll_read(cx, buffer);
        self.look(poll)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.tls).poll_write(cx, bytes);
        self.look(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.tls).poll_flush(cx);
        self.look(poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.tls).poll_shutdown(cx);
        self.look(poll)
    }
}
