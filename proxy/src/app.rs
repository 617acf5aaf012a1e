//! The wiring of a proxy: what runs on which thread, what tells whom, and how it ends.
//!
//! The main thread is the control thread: files, signals, admin, metrics. Each worker has a thread of its own and
//! never waits for it. They meet in channels: snapshots, credentials and the order to drain go out; questions go
//! out with the way to answer them.

use std::{error::Error, net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::sync::watch;
use weft_proto::{SpiffeId, TrustDomain, model::Mesh};
use weft_transport::{EndpointState, TransportStats};

use crate::{
    admin::{Questions, Report},
    capture::{
        OutgoingSockets,
        rules::Table,
        watch::{self as capture_watch, Health},
    },
    compile::{Facts, compile},
    config::Config,
    documents::{Documents, DocumentsWatcher},
    drain::{Drain, Drained, Signals},
    identity::{Identity, IdentityFiles, IdentityWatcher},
    network,
    snapshot::{Inbound, InboundPort, Snapshot},
    status::{self, Status},
    telemetry::Telemetry,
    thread::{self, Listen, Start},
};

/// How long peers may take to close their connections when nothing is under way on them.
const GOODBYES: Duration = Duration::from_secs(3);

/// How long the last lines of the access log may take.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Runs a proxy until it is told to end, and until what it was doing then is done.
///
/// # Errors
/// It could not start: what is missing or taken.
pub(crate) async fn run(config: Config) -> Result<(), Box<dyn Error>> {
    let config = Arc::new(config);
    let (documents_watcher, documents) = DocumentsWatcher::load(&config.documents)?;
    let trust_domain = documents.mesh.borrow().config.trust_domain.clone();
    let (identity_watcher, identity) = load_identity(&config, &trust_domain)?;
    let compiler = Compiler {
        config: config.clone(),
        facts: Facts::default(),
    };
    let (snapshots, snapshot) = watch::channel(Arc::new(compiler.compile(&documents, &identity, 1)?));
    let mut signals = Signals::listen()?;
    let telemetry = Telemetry::start(&config)?;
    let (ask, questions) = status::questions(config.workers);
    let shared = Shared {
        snapshots: snapshot,
        identity: identity.clone(),
        drain: Drain::new(),
        stats: Arc::default(),
    };
    let capture = match &config.capture {
        Some(capture) => {
            let table = Table::of(capture.instance.as_ref());
            (capture_watch::follow(table).await, capture.required)
        }
        None => (capture_watch::unused(), false),
    };
    let workers = start_workers(&config, &shared, &telemetry, questions).await?;
    let served = shared
        .status(&documents, &telemetry, &workers.listen, capture)
        .serve(&config, ask)
        .await?;
    tokio::spawn(identity_watcher.run());
    tokio::spawn(documents_watcher.run());
    tokio::spawn(recompile(compiler, documents, identity, snapshots));
    tracing::info!(mesh = ?workers.listen.mesh, outbound = ?workers.listen.outbound, "ready");
    signals.next().await;
    tracing::info!("draining: finishing what is under way");
    shared.drain.begin();
    let cut = match shared.drain.finish(config.drain_timeout, signals.next()).await {
        Drained::Complete => 0,
        Drained::Hurried(cut) | Drained::Deadline(cut) => cut,
    };
    if cut > 0 {
        tracing::warn!(cut, "no time left: what is still under way is cut");
        shared.drain.cut();
    }
    workers.join().await;
    drop(served);
    telemetry.finish(LAST_LINES);
    Ok(())
}

/// What the threads share.
struct Shared {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    identity: Identity,
    drain: Drain,
    stats: Arc<TransportStats>,
}

impl Shared {
    fn status(
        &self,
        documents: &Documents,
        telemetry: &Telemetry,
        listen: &Listen,
        (capture, capture_required): (watch::Receiver<Health>, bool),
    ) -> Status {
        Status {
            identity: self.identity.clone(),
            documents: documents.clone(),
            snapshots: self.snapshots.clone(),
            drain: self.drain.clone(),
            stats: self.stats.clone(),
            metrics: telemetry.metrics.clone(),
            capture,
            capture_required,
            mesh_ports: listen.mesh.iter().map(SocketAddr::port).collect(),
        }
    }
}

/// The threads that serve.
struct Workers {
    /// Where the first listens; the others share its ports.
    listen: Listen,
    threads: Vec<JoinHandle<()>>,
}

/// One after the other: the kernel steers packets by the order in which the workers bound the port.
async fn start_workers(
    config: &Config,
    shared: &Shared,
    telemetry: &Telemetry,
    questions: Vec<Questions<Report>>,
) -> Result<Workers, Box<dyn Error>> {
    let state = match &config.state {
        Some(directory) => EndpointState::open(directory)?,
        None => EndpointState::ephemeral()?,
    };
    let outgoing = OutgoingSockets::default();
    let network = network::watch();
    let mut workers = Workers {
        listen: listen(config),
        threads: Vec::new(),
    };
    for (index, questions) in (0..config.workers).zip(questions) {
        let start = Start {
            index,
            workers: config.workers,
            listen: workers.listen.clone(),
            application_source: config.application.source,
            transport: Arc::default(),
            state: state.clone(),
            snapshots: shared.snapshots.clone(),
            credentials: shared.identity.credentials.clone(),
            drain: shared.drain.clone(),
            questions,
            stats: shared.stats.clone(),
            outgoing: outgoing.clone(),
            network: network.clone(),
            mark: config.capture.as_ref().and_then(|capture| capture.mark),
            sink: telemetry.sinks(),
        };
        let (listen, thread) = thread::spawn(start).await?;
        workers.listen = Listen {
            others: workers.listen.others,
            ..listen
        };
        workers.threads.push(thread);
    }
    Ok(workers)
}

impl Workers {
    /// Waits for the threads, which have only goodbyes left to say.
    async fn join(self) {
        let joined = tokio::task::spawn_blocking(move || {
            for thread in self.threads {
                let _ = thread.join();
            }
        });
        if tokio::time::timeout(GOODBYES, joined).await.is_err() {
            tracing::debug!("some peers did not close their connections in time");
        }
    }
}

fn load_identity(
    config: &Config,
    trust_domain: &TrustDomain,
) -> Result<(IdentityWatcher, Identity), Box<dyn Error>> {
    let files = IdentityFiles {
        certificate: config.identity.certificate.clone(),
        key: config.identity.key.clone(),
        trust_bundle: config.identity.trust_bundle.clone(),
        expected: Some(config.workload.identity(trust_domain)?),
    };
    Ok(IdentityWatcher::load(files)?)
}

fn listen(config: &Config) -> Listen {
    let others = [&config.listen.admin, &config.listen.metrics];
    Listen {
        mesh: config.listen.mesh.clone(),
        outbound: config.listen.outbound.clone(),
        inbound: config.listen.inbound.clone(),
        binds: config
            .binds
            .iter()
            .map(|bind| (bind.listen, bind.host.clone(), bind.port))
            .collect(),
        others: others.into_iter().flatten().copied().collect(),
    }
}

/// Makes snapshots for this proxy.
struct Compiler {
    config: Arc<Config>,
    facts: Facts,
}

impl Compiler {
    fn compile(
        &self,
        documents: &Documents,
        identity: &Identity,
        generation: u64,
    ) -> Result<Snapshot, Mismatch> {
        let mesh = documents.mesh.borrow().clone();
        let identity = identity.credentials.borrow().svid().id().clone();
        if identity.trust_domain() != &mesh.config.trust_domain {
            return Err(Mismatch {
                identity,
                mesh: mesh.config.trust_domain.to_string(),
            });
        }
        let inbound = self.inbound(&mesh, identity);
        Ok(compile(
            &mesh,
            &self.config.workload.namespace,
            inbound,
            &self.facts,
            generation,
        ))
    }

    fn inbound(&self, mesh: &Mesh, identity: SpiffeId) -> Inbound {
        let (config, workload) = (&self.config, &self.config.workload);
        let port = |port: &weft_proto::model::WorkloadPort| InboundPort {
            port: port.port,
            protocol: port.protocol,
            address: SocketAddr::new(config.application.address, port.port),
        };
        let own = mesh
            .workloads
            .iter()
            .find(|known| *known.name.name == *workload.name && *known.name.namespace == *workload.namespace);
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

/// The certificate and the documents are not of one mesh.
#[derive(Debug, thiserror::Error)]
#[error("the certificate is for {identity}, but MeshConfig says trust domain {mesh}")]
struct Mismatch {
    identity: SpiffeId,
    mesh: String,
}

/// Compiles anew when documents or identity change. What can't be compiled leaves the last good snapshot.
async fn recompile(
    compiler: Compiler,
    mut documents: Documents,
    mut identity: Identity,
    snapshots: watch::Sender<Arc<Snapshot>>,
) {
    let mut generation = 1;
    loop {
        let changed = tokio::select! {
            changed = documents.mesh.changed() => changed,
            changed = identity.credentials.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        generation += 1;
        match compiler.compile(&documents, &identity, generation) {
            Ok(snapshot) => {
                tracing::info!(generation, "new configuration");
                snapshots.send_replace(Arc::new(snapshot));
            }
            Err(error) => tracing::error!(%error, "the configuration does not fit; the last good one stays"),
        }
    }
}
