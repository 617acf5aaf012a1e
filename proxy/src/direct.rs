//! Connections for the application that did not come through the mesh: the kernel redirected them to the inbound
//! port. They are in the clear and nobody knows who calls, so the mesh's mode decides, and a list of ports for probes.

use std::{net::SocketAddr, rc::Rc};

use bytes::Bytes;
use tokio::{io::copy_bidirectional, net::TcpStream};
use weft_proto::model::InboundMode;

use crate::{
    capture::{self, Accepted, Destination},
    local::io::LocalStream,
    respond::Failure,
    snapshot::{Inbound, InboundPort},
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
    let stream = LocalStream::new(stream, Bytes::new());
    let admitted = match capture::destination(&accepted, &worker.listeners, &worker.outgoing) {
        Ok(destination) => admit(&snapshot.inbound, destination).map_err(Denied::reason),
        Err(refusal) => Err(refusal.reason()),
    };
    match admitted {
        Ok(port) => pass(&worker, stream, port).await,
        Err(reason) => {
            // Anyone who reaches this host can cause these: the counter is what to watch.
            tracing::info!(peer = %accepted.peer, original = ?accepted.original, reason, "refused a connection for the application");
            worker.sink.refused(reason);
            worker.begin_direct().fail(reason);
            stream.reset();
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

async fn pass(worker: &Worker, mut caller: LocalStream, port: &InboundPort) {
    let _under_way = worker.drain.enter();
    let mut record = worker.begin_direct();
    record.set_plaintext();
    let mut application = match worker.app_connector.connect(port.address).await {
        Ok(application) => application,
        Err(error) => {
            record.refuse(&Failure::Application(error));
            return caller.reset();
        }
    };
    record.on_tunnel();
    match copy_bidirectional(&mut caller, &mut application).await {
        Ok((received, sent)) => {
            record.add_received(received);
            record.add_sent(sent);
            record.complete();
        }
        Err(_) => {
            record.fail("connection_closed");
            caller.reset();
            application.reset();
        }
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
                admit(&inbound(mode), Destination::Explicit),
                Err(Denied::NotRedirected)
            );
        }
    }
}
