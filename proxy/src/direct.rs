//! Connections for the application that did not come through the mesh: the kernel redirected them to the inbound
//! port. They are in the clear and nobody knows who calls, so the mesh's mode decides, and a list of ports for probes.
//!
//! HTTP is read all the same: its `weft-*` fields are removed, so that nobody outside the mesh can claim to be a
//! caller of it (`weft-caller`). For that it must be known to be HTTP: bytes that a client sends first pass only where
//! the port is declared as something else, or if they are TLS.

use std::{net::SocketAddr, rc::Rc};

use bytes::Bytes;
use http::{
    Method, Request, Response,
    request::Parts,
    uri::{Authority, Scheme},
};
use tokio::net::TcpStream;
use weft_proto::model::{AppProtocol, InboundMode};
use weft_transport::h3::RequestHead;

use crate::{
    body::ResponseBody,
    capture::{self, Accepted, Destination},
    forward::Refused,
    local::{
        HttpVersion, body::RequestBody, error::Reset, headers::clean_request, io::LocalStream, server,
        target::Target, websocket,
    },
    outbound::{self, Opening, Outcome},
    plain,
    respond::{self, Failure, is_grpc},
    snapshot::{Inbound, InboundPort},
    telemetry::{Protocol, Record},
    tunnel::{self, Tunnel},
    upload::{self, Upload},
    worker::Worker,
};

/// Why a connection does not reach the application. The variants are label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denied {
    /// It was made to the inbound port itself.
    NotRedirected,
    /// The application has not declared the port.
    Undeclared,
    /// The mesh takes no plaintext on it.
    Plaintext,
}

impl Denied {
    fn reason(self) -> &'static str {
        match self {
            Self::NotRedirected => "not_redirected",
            Self::Undeclared => "undeclared_port",
            Self::Plaintext => "plaintext_refused",
        }
    }
}

/// Serves one accepted connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, listener: SocketAddr) {
    let accepted = match Accepted::read(&stream, listener) {
        Ok(accepted) => accepted,
        // Gone before it was looked at: there is nothing to tell of it.
        Err(_) => return,
    };
    let snapshot = worker.snapshot();
    let admitted = match capture::destination(&accepted, &worker.listeners, &worker.outgoing) {
        Ok(destination) => admit(&snapshot.inbound, destination).map_err(Denied::reason),
        Err(refusal) => Err(refusal.reason()),
    };
    match admitted {
        Ok(port) => pass(worker, stream, port).await,
        Err(reason) => {
            // Anyone who reaches this host can cause these: the counter is what to watch.
            tracing::debug!(peer = %accepted.peer, original = ?accepted.original, reason, "refused a connection for the application");
            worker.sink.refused(reason);
            worker.begin_direct(Protocol::Tcp).fail(reason);
            LocalStream::new(stream, Bytes::new()).reset();
        }
    }
}

/// Which port of the application a connection reaches, if it may.
fn admit(inbound: &Inbound, destination: Destination) -> Result<&InboundPort, Denied> {
    let Destination::Original(original) = destination else {
        return Err(Denied::NotRedirected);
    };
    let declared = |port: &&InboundPort| port.port == original.port() && !port.protocol.is_udp();
    let port = inbound.ports.iter().find(declared).ok_or(Denied::Undeclared)?;
    match inbound.mode {
        InboundMode::Permissive => Ok(port),
        InboundMode::Strict if inbound.plaintext_ports.contains(&port.port) => Ok(port),
        InboundMode::Strict => Err(Denied::Plaintext),
    }
}

/// Passes a connection on, as HTTP where it is that.
async fn pass(worker: Rc<Worker>, stream: TcpStream, port: &InboundPort) {
    let _under_way = worker.drain.enter();
    let address = port.address;
    let open = || -> Opening<'_> {
        Box::pin(async {
            let mut record = worker.begin_direct(Protocol::Tcp);
            record.set_plaintext();
            // It is not wanted if HTTP comes.
            record.mute();
            let connected = worker.app_connector.connect(address).await;
            let application = connected.map_err(Failure::Application)?;
            Ok((Tunnel::Plain(application), record))
        })
    };
    let decision = outbound::detect(&stream, outbound::declared(port.protocol), None, open).await;
    let doubtful = port.protocol == AppProtocol::Detect && may_be_http(&decision.bytes);
    let stream = LocalStream::new(stream, decision.bytes);
    let opened = match decision.outcome {
        Outcome::Http(version) => return serve_http(worker.clone(), stream, address, version).await,
        Outcome::Gone => return,
        Outcome::Tunnel(..) if doubtful => {
            const REASON: &str = "undeclared_protocol";
            worker.sink.refused(REASON);
            worker.begin_direct(Protocol::Tcp).fail(REASON);
            return stream.reset();
        }
        Outcome::Tunnel(Some(opened), _) => Ok(*opened),
        Outcome::Tunnel(None, _) => open().await,
    };
    match opened {
        Ok((tunnel, mut record)) => {
            record.unmute();
            tunnel::carry(stream, tunnel, record).await;
        }
        Err(failure) => {
            worker.begin_direct(Protocol::Tcp).refuse(&failure);
            stream.reset();
        }
    }
}

/// Whether an application might read HTTP from bytes that were not recognised as it, and believe the fields in it. A
/// client that speaks first says TLS, or its port is declared.
fn may_be_http(first: &[u8]) -> bool {
    /// ContentType handshake (RFC 8446 section 5.1).
    const TLS_HANDSHAKE: u8 = 22;
    first.first().is_some_and(|byte| *byte != TLS_HANDSHAKE)
}

async fn serve_http(worker: Rc<Worker>, stream: LocalStream, address: SocketAddr, version: HttpVersion) {
    let draining = worker.draining.wait();
    let server = worker.clone();
    let handler = move |incoming| request(server.clone(), address, version, incoming);
    if let Err(error) = server::serve(stream, version, handler, draining).await {
        tracing::debug!(%error, "connection from outside the mesh ended");
    }
}

/// Serves one request.
async fn request(
    worker: Rc<Worker>,
    address: SocketAddr,
    version: HttpVersion,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Reset> {
    let (mut head, body) = request.into_parts();
    let mut record = worker.begin_direct(version.into());
    record.set_parts(&head);
    record.set_plaintext();
    let grpc = is_grpc(&head.headers);
    let answered = match read_head(&mut head, &mut record) {
        Ok(target) => {
            let head = app_head(target, head, address);
            plain::call(
                &worker.direct,
                address,
                version,
                head,
                Upload::new(body, upload::REPLAY),
                record,
            )
            .await
        }
        Err(failure) => Err(Refused { failure, record }),
    };
    answered.or_else(|Refused { failure, mut record }| {
        record.refuse(&failure);
        Ok(respond::to_application(&failure, grpc))
    })
}

/// Reads the head, and makes it fit for the application.
fn read_head(head: &mut Parts, record: &mut Record) -> Result<Target, Failure> {
    let target = Target::read(head)?;
    record.set_target(&target);
    if head.method == Method::CONNECT {
        return Err(Failure::Unsupported("CONNECT from outside the mesh"));
    }
    if websocket::handshake(head)?.is_some() {
        return Err(Failure::Unsupported("a WebSocket from outside the mesh"));
    }
    clean_request(&mut head.headers)?;
    Ok(target)
}

fn app_head(target: Target, head: Parts, address: SocketAddr) -> RequestHead {
    let own = || Authority::try_from(address.to_string()).ok();
    RequestHead {
        method: head.method,
        scheme: Some(Scheme::HTTP),
        authority: target.authority.or_else(own),
        path: target.path,
        protocol: None,
        headers: head.headers,
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::{
        SpiffeId,
        model::{AppProtocol, Authorization},
    };

    use super::*;

    fn inbound(mode: InboundMode) -> Inbound {
        let port = |port, protocol| InboundPort {
            port,
            protocol,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            guards: Vec::new(),
        };
        Inbound {
            identity: SpiffeId::parse("spiffe://cluster.local/ns/default/sa/web").unwrap(),
            mode,
            authorization: Authorization::Authenticated,
            ports: vec![
                port(8080, AppProtocol::Http),
                port(8081, AppProtocol::Detect),
                port(53, AppProtocol::Udp),
            ],
            plaintext_ports: vec![8081],
            names: Vec::new(),
        }
    }

    fn admitted(mode: InboundMode, original: &str) -> Result<u16, Denied> {
        let destination = Destination::Original(original.parse().unwrap());
        admit(&inbound(mode), destination).map(|port| port.port)
    }

    #[test]
    fn strict_takes_plaintext_on_listed_ports_alone() {
        assert_eq!(
            admitted(InboundMode::Strict, "10.0.0.1:8080"),
            Err(Denied::Plaintext)
        );
        assert_eq!(admitted(InboundMode::Strict, "10.0.0.1:8081"), Ok(8081));
        assert_eq!(admitted(InboundMode::Permissive, "[fd00::1]:8080"), Ok(8080));
    }

    #[test]
    fn what_is_not_declared_or_was_not_redirected_is_refused_in_every_mode() {
        for mode in [InboundMode::Strict, InboundMode::Permissive] {
            for original in ["10.0.0.1:22", "10.0.0.1:53"] {
                assert_eq!(admitted(mode, original), Err(Denied::Undeclared), "{original}");
            }
            assert_eq!(
                admit(&inbound(mode), Destination::Explicit).map(|port| port.port),
                Err(Denied::NotRedirected)
            );
        }
    }
}
