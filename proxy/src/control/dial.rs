//! A connection to a controller: TCP, TLS with identities of the mesh, gRPC over it; each step within a deadline.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;
use weft_proto::{SpiffeId, TrustDomain, identity::SpiffeIdError};
use weft_tls::verify::io_refusal;

/// How long a name, TCP and TLS may each take.
const STEP: Duration = Duration::from_secs(4);
/// How often HTTP/2 asks whether the other side is there, and how long it may take to answer. It is for what lies
/// between: a controller that is there and hangs is noticed by its silence.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(5);

/// The path of every controller's identity, whatever its trust domain.
pub(crate) const CONTROLLER_PATH: &str = "/ns/weft-system/sa/weft-controller";

/// The identity of every controller of a trust domain.
///
/// # Errors
/// Never with names of ours; the parser's error.
pub(crate) fn controller_id(trust_domain: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::for_service_account(trust_domain, "weft-system", "weft-controller")
}

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address}: {why}")]
pub(crate) struct CallError {
    /// Which controller.
    pub(crate) address: String,
    pub(crate) why: String,
    /// It does not accept who asked, or is none of ours: asking again in the same way does not help.
    pub(crate) refused: bool,
}

/// A connection that is there.
pub(crate) struct Dialled {
    pub(crate) channel: Channel,
    /// Where it comes from.
    pub(crate) local: IpAddr,
}

/// Connects to the controller at this address.
///
/// # Errors
/// It is not reachable, or not who it should be.
pub(crate) async fn dial(
    address: &str,
    tls: ClientConfig,
    server_name: ServerName<'static>,
    mark: Option<u32>,
) -> Result<Dialled, CallError> {
    let error = |why: String, refused| CallError {
        address: address.to_owned(),
        why,
        refused,
    };
    let tcp = within("TCP", connect(address, mark))
        .await
        .map_err(|why| error(why, false))?;
    let local = tcp
        .local_addr()
        .map_err(|io| error(io.to_string(), false))?
        .ip()
        .to_canonical();
    // Messages are small and wait for each other. Without it they are merely slower.
    let _ = tcp.set_nodelay(true);
    let handshake = TlsConnector::from(Arc::new(tls)).connect(server_name, tcp);
    let stream = match timeout(STEP, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(io)) => {
            let refusal = refusal(&io);
            let refused = refusal.is_some();
            return Err(error(refusal.unwrap_or_else(|| format!("TLS: {io}")), refused));
        }
        Err(_) => return Err(error(silence("TLS"), false)),
    };
    let mut stream = Some(TokioIo::new(stream));
    let connector = service_fn(move |_: Uri| {
        let stream = stream.take();
        async {
            stream.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection has ended"))
        }
    });
    let endpoint = Endpoint::from_static("http://weft.invalid")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_ANSWER);
    let channel = timeout(STEP, endpoint.connect_with_connector(connector));
    match channel.await {
        Ok(Ok(channel)) => Ok(Dialled { channel, local }),
        Ok(Err(transport)) => Err(error(format!("HTTP/2: {transport}"), false)),
        Err(_) => Err(error(silence("HTTP/2"), false)),
    }
}

async fn within<T>(what: &str, step: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    match timeout(STEP, step).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(silence(what)),
    }
}

fn silence(what: &str) -> String {
    format!("no answer to {what} within {} s", STEP.as_secs())
}

/// Tries the addresses of a name in their order. The mark lets the connection pass this host's capture.
async fn connect(address: &str, mark: Option<u32>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host(address).await? {
        match connect_to(address, mark).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(mark) = mark {
        socket2::SockRef::from(&socket).set_mark(mark)?;
    }
    socket.connect(address).await
}

/// What TLS found wrong, if it did.
fn refusal(error: &io::Error) -> Option<String> {
    if let Some(refusal) = io_refusal(error) {
        return Some(format!("its certificate is refused: {refusal}"));
    }
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(format!("it refuses our certificate ({alert:?})")),
        rustls::Error::InvalidMessage(_) => Some("what listens there does not speak TLS".to_owned()),
        error => Some(error.to_string()),
    }
}

impl CallError {
    /// Of a call's status. In TLS 1.3 the controller judges our certificate only after our side of the handshake is
    /// done, so that its refusal arrives in place of the first answer.
    pub(crate) fn of(address: &str, status: &Status) -> Self {
        let mut cause = std::error::Error::source(status);
        while let Some(error) = cause {
            if let Some(why) = error.downcast_ref::<io::Error>().and_then(refusal) {
                return Self {
                    address: address.to_owned(),
                    why,
                    refused: true,
                };
            }
            cause = error.source();
        }
        let refused = matches!(
            status.code(),
            Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition
        );
        Self {
            address: address.to_owned(),
            why: match status.message() {
                "" => status.code().to_string(),
                message => message.chars().take(300).collect(),
            },
            refused,
        }
    }
}
