//! The wiring of a proxy: what runs on which thread, what tells whom, and how it ends.
//!
//! The main thread is the control thread: files, signals, admin, metrics. Each worker has a thread of its own and
//! never waits for it. They meet in channels: snapshots, credentials and the order to drain go out; questions go
//! out with the way to answer them.

use std::{
    error::Error,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};
use weft_proto::TrustDomain;
use weft_transport::{EndpointState, TransportStats, credentials::Credentials};

use crate::{
    admin::{Questions, Report},
    capture::{
        OutgoingSockets,
        rules::Table,
        watch::{self as capture_watch, Health as CaptureHealth},
    },
    compile::Unready,
    config::{Config, Controller, Files, Origin},
    control::{
        Control, ControlState, Phase, Start as ControlStart, Told,
        cache::Cache,
        keeper::{Keeper, Kept},
        questions::Sources,
    },
    demand::Demand,
    documents::{Documents, DocumentsWatcher},
    drain::{Drain, Drained, Signals},
    explain::{Explainer, Known},
    health::{self, Health},
    identity::{Identity, IdentityFiles, IdentityWatcher},
    log::Log,
    network,
    publish::Publisher,
    snapshot::Snapshot,
    status::{self, Served, Serving, Status},
    telemetry::Telemetry,
    thread::{self, Listen, Start},
};

/// How long peers may take to close their connections when nothing is under way on them.
const GOODBYES: Duration = Duration::from_secs(3);

/// How long the last lines of the access log may take.
const LAST_LINES: Duration = Duration::from_millis(500);

/// How long the others may take to hear that this workload ends, before it takes nothing new.
const PROPAGATION: Duration = Duration::from_secs(1);
/// From the controller's word that they are told to when they know.
const SPREAD: Duration = Duration::from_millis(100);

/// Questions of workers that may wait for the control thread.
const ASKS: usize = 1_024;

/// Runs a proxy until it is told to end, and until what it was doing then is done.
///
/// # Errors
/// It could not start: what is missing or taken.
pub(crate) async fn run(mut config: Config, log: Log) -> Result<(), Box<dyn Error>> {
    match config.origin.clone() {
        Origin::Files(files) => run_with_files(Arc::new(config), &files).await,
        Origin::Controller(controller) => {
            choose_mesh_ports(&mut config)?;
            run_with_controller(Arc::new(config), controller, log).await
        }
    }
}

async fn run_with_files(config: Arc<Config>, files: &Files) -> Result<(), Box<dyn Error>> {
    let (documents_watcher, documents) = DocumentsWatcher::load(&files.documents)?;
    let trust_domain = documents.mesh.borrow().config.trust_domain.clone();
    let (identity_watcher, identity) = load_identity(&config, files, &trust_domain)?;
    let (mut publisher, first) = Publisher::new(config.clone());
    let mesh = documents.mesh.borrow().clone();
    let id = identity.credentials.borrow().svid().id().clone();
    publisher.publish(&mesh, &Unready::default(), None, &id)?;
    let snapshots = first.await?;
    let origin = status::Origin::Files {
        documents: documents.problem.clone(),
        identity: identity.problem.clone(),
    };
    let mut base = Base::start(config, origin).await?;
    let shared = Shared {
        snapshots,
        credentials: identity.credentials.clone(),
        demand: None,
        drain: base.status.drain.clone(),
        stats: base.status.stats.clone(),
    };
    let workers = base.start_workers(&shared).await?;
    let served = base.serve().await?;
    tokio::spawn(identity_watcher.run());
    tokio::spawn(documents_watcher.run());
    tokio::spawn(recompile(publisher, documents, identity));
    tracing::info!(mesh = ?workers.listen.mesh, outbound = ?workers.listen.outbound, "ready");
    base.signals.next().await;
    base.finish(workers, served).await
}

/// The pages are there from the beginning, and say what is missing. What carries traffic begins with an identity and a
/// configuration: before that, every connection is refused.
async fn run_with_controller(
    config: Arc<Config>,
    controller: Controller,
    log: Log,
) -> Result<(), Box<dyn Error>> {
    let cache = open_cache(&config, &controller)?;
    let instance = format!("{:032x}", rand::random::<u128>());
    let mark = config.capture.as_ref().and_then(|capture| capture.mark);
    let (keeper, kept) = Keeper::new(&config.workload, &controller, mark, cache.clone(), &instance);
    let Kept {
        first,
        state: rotation,
        inputs,
    } = kept;
    let (state, control_seen) = watch::channel(ControlState::default());
    let origin = status::Origin::Controller {
        control: control_seen.clone(),
        rotation: rotation.clone(),
    };
    let mut base = Base::start(config.clone(), origin).await?;
    let told = base.told();
    let served = base.serve().await?;
    let mut tasks = Tasks(vec![tokio::spawn(keeper.run()).abort_handle()]);
    let credentials = tokio::select! {
        credentials = first => credentials?,
        () = base.signals.next() => return Ok(()),
    };
    let (publisher, first) = Publisher::new(config.clone());
    let (ask, asks) = mpsc::channel(ASKS);
    let status = base.status.clone();
    let control = Control::new(ControlStart {
        mesh_port: config.listen.mesh.first().map(SocketAddr::port),
        config,
        controller,
        instance,
        publisher,
        credentials: credentials.clone(),
        rotation,
        keeper: inputs,
        asks,
        told: told.subscribe(),
        sources: Sources {
            snapshot: Arc::new(move || status.snapshot()),
            workers: base.ask.clone(),
            explainer: base.explainer.clone(),
            log,
            access_log: base.telemetry.recent().cloned(),
        },
        cache,
        state,
    });
    tasks.0.push(tokio::spawn(control.run()).abort_handle());
    let snapshots = tokio::select! {
        snapshots = first => snapshots?,
        () = base.signals.next() => return Ok(()),
    };
    let shared = Shared {
        demand: Some(Demand::new(ask, snapshots.clone())),
        snapshots,
        credentials,
        drain: base.status.drain.clone(),
        stats: base.status.stats.clone(),
    };
    let workers = base.start_workers(&shared).await?;
    told.send_modify(|told| told.phase = Phase::Serving);
    tracing::info!(mesh = ?workers.listen.mesh, outbound = ?workers.listen.outbound, "ready");
    base.signals.next().await;
    if !base.config.application.ports.is_empty() {
        tell_of_the_end(&told, control_seen, base.signals.next()).await;
    }
    base.finish(workers, served).await
}

/// Others are told first, and given the time to hear it: then nobody sends anything new to a proxy that takes nothing.
async fn tell_of_the_end(
    told: &watch::Sender<Told>,
    mut control: watch::Receiver<ControlState>,
    hurry: impl Future<Output = ()>,
) {
    tracing::info!("telling the controller that this workload ends");
    told.send_modify(|told| told.phase = Phase::Draining);
    let heard = async {
        // Without a controller nobody can be told.
        let known = control
            .wait_for(|state| state.known_draining || state.controller.is_none())
            .await;
        if known.is_ok_and(|state| state.known_draining) {
            tokio::time::sleep(SPREAD).await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(PROPAGATION, heard) => {}
        () = hurry => {}
    }
}

fn open_cache(config: &Config, controller: &Controller) -> Result<Option<Cache>, String> {
    let Some(directory) = config.state.as_deref().filter(|_| controller.cache) else {
        return Ok(None);
    };
    let cache = Cache::open(directory);
    cache
        .map(Some)
        .map_err(|error| format!("state {}: {error}", directory.display()))
}

/// Others are told the port of the mesh before it is listened on, so any that is free is chosen here.
fn choose_mesh_ports(config: &mut Config) -> Result<(), Box<dyn Error>> {
    for address in config
        .listen
        .mesh
        .iter_mut()
        .filter(|address| address.port() == 0)
    {
        *address = UdpSocket::bind(*address)?.local_addr()?;
    }
    Ok(())
}

/// Tasks that end with this.
struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// What every proxy has, wherever its configuration comes from.
struct Base {
    config: Arc<Config>,
    telemetry: Telemetry,
    signals: Signals,
    status: Status,
    explainer: Explainer,
    ask: crate::admin::Workers<Report>,
    questions: Vec<Questions<Report>>,
}

impl Base {
    async fn start(config: Arc<Config>, origin: status::Origin) -> Result<Self, Box<dyn Error>> {
        let signals = Signals::listen()?;
        let telemetry = Telemetry::start(&config)?;
        let (ask, questions) = status::questions(config.workers);
        let (capture, capture_required): (watch::Receiver<CaptureHealth>, bool) = match &config.capture {
            Some(capture) => {
                let table = Table::of(capture.instance.as_ref());
                (capture_watch::follow(table).await, capture.required)
            }
            None => (capture_watch::unused(), false),
        };
        let status = Status {
            serving: Arc::new(OnceLock::new()),
            origin,
            drain: Drain::new(),
            stats: Arc::default(),
            metrics: telemetry.metrics.clone(),
            capture,
            capture_required,
        };
        Ok(Self {
            explainer: Explainer::new(config.workload.clone()),
            config,
            telemetry,
            signals,
            status,
            ask,
            questions,
        })
    }

    async fn serve(&self) -> Result<Served, status::PageError> {
        let (ask, explainer) = (self.ask.clone(), self.explainer.clone());
        self.status.clone().serve(&self.config, ask, explainer).await
    }

    /// What others are told of this workload, with what its health checks say.
    fn told(&self) -> Arc<watch::Sender<Told>> {
        let check = self.config.application.health.clone();
        let told = Arc::new(watch::Sender::new(Told {
            phase: Phase::Starting,
            health: if check.is_some() {
                Health::Unknown
            } else {
                Health::Ready
            },
            traffic: self.telemetry.traffic.clone(),
        }));
        if let Some(check) = check {
            let (health, mut seen) = watch::channel(Health::Unknown);
            let mark = self.config.capture.as_ref().and_then(|capture| capture.mark);
            tokio::spawn(health::follow(
                check,
                self.config.application.address,
                mark,
                health,
            ));
            let told = told.clone();
            tokio::spawn(async move {
                while seen.changed().await.is_ok() {
                    let new = seen.borrow_and_update().clone();
                    told.send_modify(|told| told.health = new);
                }
            });
        }
        told
    }

    async fn start_workers(&mut self, shared: &Shared) -> Result<Workers, Box<dyn Error>> {
        let questions = std::mem::take(&mut self.questions);
        let workers = start_workers(&self.config, shared, &self.telemetry, questions).await?;
        let serving = Serving {
            credentials: shared.credentials.clone(),
            snapshots: shared.snapshots.clone(),
            mesh_ports: workers.listen.mesh.iter().map(SocketAddr::port).collect(),
        };
        // It is the first and only time.
        let _ = self.status.serving.set(serving);
        self.explainer.begin(Known {
            snapshots: shared.snapshots.clone(),
            demand: shared.demand.clone(),
            listeners: workers.listen.own(),
        });
        Ok(workers)
    }

    /// Takes nothing new, and finishes what is under way.
    async fn finish(mut self, workers: Workers, served: Served) -> Result<(), Box<dyn Error>> {
        tracing::info!("draining: finishing what is under way");
        let drain = &self.status.drain;
        drain.begin();
        let cut = match drain.finish(self.config.drain_timeout, self.signals.next()).await {
            Drained::Complete => 0,
            Drained::Hurried(cut) | Drained::Deadline(cut) => cut,
        };
        if cut > 0 {
            tracing::warn!(cut, "no time left: what is still under way is cut");
            drain.cut();
        }
        workers.join().await;
        drop(served);
        self.telemetry.finish(LAST_LINES);
        Ok(())
    }
}

/// What the threads share.
struct Shared {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    credentials: watch::Receiver<Arc<Credentials>>,
    demand: Option<Demand>,
    drain: Drain,
    stats: Arc<TransportStats>,
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
            demand: shared.demand.clone(),
            credentials: shared.credentials.clone(),
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
    files: &Files,
    trust_domain: &TrustDomain,
) -> Result<(IdentityWatcher, Identity), Box<dyn Error>> {
    let files = IdentityFiles {
        certificate: files.identity.certificate.clone(),
        key: files.identity.key.clone(),
        trust_bundle: files.identity.trust_bundle.clone(),
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

/// Compiles anew when documents or identity change. What can't be compiled leaves the last good snapshot.
async fn recompile(mut publisher: Publisher, mut documents: Documents, mut identity: Identity) {
    loop {
        let changed = tokio::select! {
            changed = documents.mesh.changed() => changed,
            changed = identity.credentials.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let mesh = documents.mesh.borrow_and_update().clone();
        let id = identity.credentials.borrow_and_update().svid().id().clone();
        match publisher.publish(&mesh, &Unready::default(), None, &id) {
            Ok(snapshot) => tracing::info!(generation = snapshot.generation, "new configuration"),
            Err(error) => tracing::error!(%error, "the configuration does not fit; the last good one stays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    fn told() -> watch::Sender<Told> {
        watch::Sender::new(Told {
            phase: Phase::Serving,
            health: Health::Ready,
            traffic: Arc::default(),
        })
    }

    fn connected() -> watch::Sender<ControlState> {
        watch::Sender::new(ControlState {
            controller: Some("a:1".to_owned()),
            ..ControlState::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn others_are_told_before_anything_ends_and_given_time_to_hear_it() {
        let (told, control) = (Arc::new(told()), connected());
        let begun = Instant::now();
        let telling = tokio::spawn({
            let (told, seen) = (told.clone(), control.subscribe());
            async move { tell_of_the_end(&told, seen, pending()).await }
        });
        told.subscribe()
            .wait_for(|told| told.phase == Phase::Draining)
            .await
            .unwrap();
        tokio::time::sleep(PROPAGATION / 2).await;
        assert!(!telling.is_finished(), "nobody has heard it yet");
        control.send_modify(|state| state.known_draining = true);
        telling.await.unwrap();
        assert_eq!(begun.elapsed(), PROPAGATION / 2 + SPREAD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_controller_and_a_second_signal_hold_up_nothing() {
        let control = connected();
        let begun = Instant::now();
        tell_of_the_end(&told(), control.subscribe(), pending()).await;
        assert_eq!(begun.elapsed(), PROPAGATION);
        tell_of_the_end(&told(), control.subscribe(), async {}).await;
        control.send_modify(|state| state.controller = None);
        tell_of_the_end(&told(), control.subscribe(), pending()).await;
        assert_eq!(
            begun.elapsed(),
            PROPAGATION,
            "without a controller nobody can be told"
        );
    }
}
