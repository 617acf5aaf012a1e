//! What this proxy knows becomes a snapshot, and the snapshot the one in use.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::{oneshot, watch};
use weft_proto::{
    SpiffeId,
    model::{Mesh, Workload},
};

use crate::{
    compile::{Client, Facts, Unready, compile},
    config::Config,
    demand::Asked,
    snapshot::{Inbound, InboundPort, Snapshot},
};

/// Makes snapshots for this proxy, and publishes them.
pub(crate) struct Publisher {
    config: Arc<Config>,
    facts: Facts,
    generation: u64,
    output: Output,
}

/// Where snapshots go.
enum Output {
    /// Whoever waits for the first one.
    Waiting(oneshot::Sender<watch::Receiver<Arc<Snapshot>>>),
    Open(watch::Sender<Arc<Snapshot>>),
    /// Nobody is interested.
    Closed,
}

/// The certificate and the documents are not of one mesh.
#[derive(Debug, thiserror::Error)]
#[error("the certificate is for {identity}, but MeshConfig says trust domain {mesh}")]
pub(crate) struct Mismatch {
    identity: SpiffeId,
    mesh: String,
}

impl Publisher {
    /// Nothing is published yet. The snapshots come with the first one.
    pub(crate) fn new(config: Arc<Config>) -> (Self, oneshot::Receiver<watch::Receiver<Arc<Snapshot>>>) {
        let (first, first_seen) = oneshot::channel();
        let publisher = Self {
            config,
            facts: Facts::default(),
            generation: 0,
            output: Output::Waiting(first),
        };
        (publisher, first_seen)
    }

    /// Compiles what is known, and publishes it. Whoever asks for a snapshot from then on gets this one. Of the services
    /// those may be called that were `asked` for; without that, all.
    ///
    /// # Errors
    /// It is of another mesh than the identity; the last snapshot stays.
    pub(crate) fn publish(
        &mut self,
        mesh: &Mesh,
        unready: &Unready,
        asked: Option<&Asked>,
        identity: &SpiffeId,
    ) -> Result<Arc<Snapshot>, Mismatch> {
        if identity.trust_domain() != &mesh.config.trust_domain {
            return Err(Mismatch {
                identity: identity.clone(),
                mesh: mesh.config.trust_domain.to_string(),
            });
        }
        self.generation += 1;
        let workload = &self.config.workload;
        let own = mesh
            .workloads
            .iter()
            .find(|known| *known.name.name == *workload.name && *known.name.namespace == *workload.namespace);
        let client = Client {
            namespace: &workload.namespace,
            own,
            asked,
        };
        let snapshot = Arc::new(compile(
            mesh,
            unready,
            &client,
            self.inbound(mesh, own, identity.clone()),
            &self.facts,
            self.generation,
        ));
        self.output = match std::mem::replace(&mut self.output, Output::Closed) {
            Output::Waiting(first) => {
                let (sender, receiver) = watch::channel(snapshot.clone());
                // Nobody waits if the proxy ends.
                match first.send(receiver) {
                    Ok(()) => Output::Open(sender),
                    Err(_) => Output::Closed,
                }
            }
            Output::Open(sender) => {
                sender.send_replace(snapshot.clone());
                Output::Open(sender)
            }
            Output::Closed => Output::Closed,
        };
        Ok(snapshot)
    }

    fn inbound(&self, mesh: &Mesh, own: Option<&Workload>, identity: SpiffeId) -> Inbound {
        let (config, workload) = (&self.config, &self.config.workload);
        let port = |port: &weft_proto::model::WorkloadPort| InboundPort {
            port: port.port,
            protocol: port.protocol,
            address: SocketAddr::new(config.application.address, port.port),
            guards: Vec::new(),
        };
        let address = own.map_or(config.application.address, |own| own.address);
        let host = match address {
            std::net::IpAddr::V4(ip) => ip.to_string(),
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let full = format!("{}.{}", &*workload.name, &*workload.namespace);
        Inbound {
            identity,
            mode: config.plaintext.mode.unwrap_or(mesh.config.inbound),
            authorization: mesh.config.authorization,
            ports: config.application.ports.iter().map(port).collect(),
            plaintext_ports: config.plaintext.ports.clone(),
            names: vec![host.into(), full.into()],
        }
    }
}
