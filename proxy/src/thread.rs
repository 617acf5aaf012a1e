//! One worker thread: a runtime of its own, its sockets, and everything that is served on them.

use std::{
    cell::{Cell, RefCell},
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use rand::{SeedableRng, rngs::SmallRng};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
    sync::{oneshot, watch},
};
use weft_transport::{
    EndpointState, Listener, ListenerOptions, Pool, PoolOptions, StartError, TransportStats,
    credentials::Credentials,
};

use crate::{
    admin::{Questions, Report},
    capture::{OutgoingSockets, OwnListeners, host_addresses},
    demand::Demand,
    direct,
    drain::{Drain, LocalDrain},
    inbound,
    local::{connect::Connector, pool::AppPool},
    network::Network,
    outbound::{self, Door},
    snapshot::Snapshot,
    status,
    telemetry::WorkerSink,
    worker::Worker,
};

/// How long a connection to an application may take: it is beside us, or it is not there.
const APPLICATION_CONNECT: Duration = Duration::from_secs(2);
/// How long a connection to the outside may take.
const OUTSIDE_CONNECT: Duration = Duration::from_secs(5);
/// Connections that the kernel keeps for us while we are busy.
const BACKLOG: i32 = 1_024;
/// After a failed accept, such as for want of file descriptors: trying at once would only burn CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// All that a worker starts with.
pub(crate) struct Start {
    pub(crate) index: u8,
    pub(crate) workers: u8,
    pub(crate) listen: Listen,
    /// Where connections to the application come from, if not from where its address says.
    pub(crate) application_source: Option<IpAddr>,
    pub(crate) transport: Arc<weft_transport::Config>,
    pub(crate) state: EndpointState,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Whom to ask for what is not in them.
    pub(crate) demand: Option<Demand>,
    pub(crate) credentials: watch::Receiver<Arc<Credentials>>,
    pub(crate) drain: Drain,
    pub(crate) questions: Questions<Report>,
    pub(crate) stats: Arc<TransportStats>,
    pub(crate) outgoing: OutgoingSockets,
    pub(crate) network: Network,
    /// What this proxy's sockets are marked with, for the kernel's rules to let them pass.
    pub(crate) mark: Option<u32>,
    pub(crate) sink: Arc<dyn Fn() -> Rc<WorkerSink> + Send + Sync>,
}

/// What to listen on. Port 0 in the first worker's becomes a real one for the others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listen {
    /// UDP, for peers.
    pub(crate) mesh: Vec<SocketAddr>,
    /// TCP, for the application.
    pub(crate) outbound: Vec<SocketAddr>,
    /// TCP, for what was meant for the application.
    pub(crate) inbound: Vec<SocketAddr>,
    /// TCP, each for one service.
    pub(crate) binds: Vec<(SocketAddr, Arc<str>, u16)>,
    /// TCP, of this proxy's other listeners: to be told from destinations.
    pub(crate) others: Vec<SocketAddr>,
}

impl Listen {
    /// What a destination must not be, or a connection would go round in circles. The mesh's port is UDP; TCP to it is
    /// for the mesh as well, and nothing to be carried by it.
    pub(crate) fn own(&self) -> OwnListeners {
        let binds = self.binds.iter().map(|(address, ..)| address);
        let doors = self.outbound.iter().chain(&self.inbound).chain(binds);
        let all = doors.chain(&self.others).chain(&self.mesh).copied();
        OwnListeners::new(all, host_addresses)
    }
}

/// A worker could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ThreadError {
    #[error(transparent)]
    Transport(#[from] StartError),
    #[error("TCP {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("worker thread: {0}")]
    Thread(io::Error),
    #[error("worker thread ended while it started")]
    Ended,
}

/// Starts a worker, and returns when it listens: where, and its thread.
pub(crate) async fn spawn(start: Start) -> Result<(Listen, JoinHandle<()>), ThreadError> {
    let (ready, started) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name(format!("worker-{}", start.index))
        .spawn(move || run(start, ready))
        .map_err(ThreadError::Thread)?;
    match started.await {
        Ok(Ok(listen)) => Ok((listen, thread)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ThreadError::Ended),
    }
}

fn run(start: Start, ready: oneshot::Sender<Result<Listen, ThreadError>>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(ThreadError::Thread(error)));
            return;
        }
    };
    // A panic in a task ends that task; one here, in what owns the connections, must end the process.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runtime.block_on(serve(start, ready))
    }));
    if outcome.is_err() {
        tracing::error!("a worker panicked: ending, so that the proxy is never half alive");
        std::process::abort();
    }
}

async fn serve(start: Start, ready: oneshot::Sender<Result<Listen, ThreadError>>) {
    let sockets = match Sockets::open(&start) {
        Ok(sockets) => sockets,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let bound = sockets.bound();
    match set_up(start, sockets) {
        Ok(running) => {
            let _ = ready.send(Ok(Listen {
                mesh: running.mesh_addresses(),
                ..bound
            }));
            running.until_drained().await;
        }
        Err(error) => {
            let _ = ready.send(Err(error));
        }
    }
}

/// TCP listeners, bound before anything else runs.
struct Sockets {
    doors: Vec<(TcpListener, SocketAddr, Entrance)>,
}

/// What a TCP listener is for.
#[derive(Clone, Debug)]
enum Entrance {
    /// For the application.
    Application(Door),
    /// For those who call the application and not through the mesh.
    Direct,
}

impl Sockets {
    fn open(start: &Start) -> Result<Self, ThreadError> {
        let mut doors = Vec::new();
        let outbound = start
            .listen
            .outbound
            .iter()
            .map(|address| (*address, Entrance::Application(Door::Outbound)));
        let inbound = start.listen.inbound.iter();
        let inbound = inbound.map(|address| (*address, Entrance::Direct));
        let binds = start.listen.binds.iter().map(|(address, host, port)| {
            (
                *address,
                Entrance::Application(Door::Bind {
                    host: host.clone(),
                    port: *port,
                }),
            )
        });
        for (address, entrance) in outbound.chain(inbound).chain(binds) {
            let listener = listen(address, start.workers > 1)
                .map_err(|source| ThreadError::Listen { address, source })?;
            let local = listener.local_addr().unwrap_or(address);
            doors.push((listener, local, entrance));
        }
        Ok(Self { doors })
    }

    fn bound(&self) -> Listen {
        let mut bound = Listen::default();
        for (_, address, entrance) in &self.doors {
            match entrance {
                Entrance::Direct => bound.inbound.push(*address),
                Entrance::Application(Door::Outbound) => bound.outbound.push(*address),
                Entrance::Application(Door::Bind { host, port }) => {
                    bound.binds.push((*address, host.clone(), *port));
                }
            }
        }
        bound
    }
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    // The next process must not wait for the connections of this one to be forgotten.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A worker that serves.
struct Running {
    worker: Rc<Worker>,
    listeners: Vec<Listener>,
    doors: Vec<tokio::task::JoinHandle<()>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    credentials: watch::Receiver<Arc<Credentials>>,
    network: Network,
}

fn set_up(start: Start, sockets: Sockets) -> Result<Running, ThreadError> {
    let credentials = start.credentials.borrow().clone();
    let pool_options = PoolOptions {
        worker: start.index,
        mark: start.mark,
    };
    let pool = Pool::new(
        &pool_options,
        start.transport.clone(),
        &start.state,
        credentials.clone(),
        start.stats.clone(),
    )?;
    let worker = Rc::new(worker(&start, pool, &sockets));
    let mut listeners = Vec::new();
    for address in &start.listen.mesh {
        let options = ListenerOptions {
            address: *address,
            worker: start.index,
            workers: start.workers,
            mark: start.mark,
        };
        let server = worker.clone();
        let listener = Listener::bind(
            &options,
            start.transport.clone(),
            &start.state,
            &credentials,
            start.stats.clone(),
            move |incoming| {
                tokio::task::spawn_local(inbound::serve(server.clone(), incoming));
            },
        )?;
        listeners.push(listener);
    }
    let doors = sockets
        .doors
        .into_iter()
        .map(|(listener, address, entrance)| {
            tokio::task::spawn_local(accept(worker.clone(), listener, address, entrance))
        })
        .collect();
    tokio::task::spawn_local(worker.draining.clone().follow(start.drain.clone()));
    tokio::task::spawn_local(
        start
            .questions
            .answer(status::reporter(start.index, &worker, &listeners)),
    );
    Ok(Running {
        worker,
        listeners,
        doors,
        snapshots: start.snapshots,
        credentials: start.credentials,
        network: start.network,
    })
}

fn worker(start: &Start, pool: Pool, sockets: &Sockets) -> Worker {
    let app_connector = Connector::new(
        start.application_source,
        APPLICATION_CONNECT,
        start.outgoing.clone(),
    )
    .marked(start.mark);
    let outside_connector = Connector::new(None, OUTSIDE_CONNECT, start.outgoing.clone()).marked(start.mark);
    let listen = Listen {
        mesh: start.listen.mesh.clone(),
        others: start.listen.others.clone(),
        ..sockets.bound()
    };
    Worker {
        snapshot: RefCell::new(start.snapshots.borrow().clone()),
        demand: start.demand.clone(),
        outside_hosts: RefCell::default(),
        pool,
        apps: AppPool::new(app_connector.clone()),
        direct: AppPool::new(app_connector.clone()),
        app_connector,
        outside: AppPool::new(outside_connector.clone()),
        outside_connector,
        transport_config: start.transport.clone(),
        listeners: listen.own(),
        outgoing: start.outgoing.clone(),
        rng: RefCell::new(SmallRng::from_os_rng()),
        sink: (start.sink)(),
        spoken: RefCell::default(),
        mirrors: Cell::new(0),
        draining: LocalDrain::default(),
        drain: start.drain.clone(),
    }
}

/// Takes connections at one door until the proxy drains.
async fn accept(worker: Rc<Worker>, listener: TcpListener, address: SocketAddr, entrance: Entrance) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = worker.draining.wait() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                spawn_connection(&worker, stream, address, &entrance);
            }
            Err(error) => {
                tracing::warn!(%error, %address, "can't accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn spawn_connection(worker: &Rc<Worker>, stream: TcpStream, address: SocketAddr, entrance: &Entrance) {
    match entrance {
        Entrance::Application(door) => {
            tokio::task::spawn_local(outbound::serve(worker.clone(), stream, address, door.clone()))
        }
        Entrance::Direct => tokio::task::spawn_local(direct::serve(worker.clone(), stream, address)),
    };
}

impl Running {
    fn mesh_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(Listener::local_addr).collect()
    }

    /// Follows snapshots, credentials and the network and answers questions until the order to drain; then finishes what is
    /// under way. The control thread sets the deadline.
    async fn until_drained(mut self) {
        loop {
            tokio::select! {
                biased;
                () = self.worker.draining.wait() => break,
                Ok(()) = self.snapshots.changed() => {
                    let snapshot = self.snapshots.borrow_and_update().clone();
                    self.worker.snapshot.replace(snapshot);
                }
                Ok(()) = self.credentials.changed() => self.on_credentials(),
                Ok(()) = self.network.changed() => self.worker.pool.on_network_change(),
            }
        }
        let views: Vec<_> = self.listeners.iter().map(Listener::view).collect();
        let (pool, drain) = (self.worker.pool.clone(), self.worker.drain.clone());
        let finished = self.finish();
        tokio::pin!(finished);
        tokio::select! {
            () = &mut finished => return,
            () = drain.cutting() => {}
        }
        // Everything on them is reset, and so are the application's connections behind it.
        for view in &views {
            view.close();
        }
        pool.close();
        finished.await;
    }

    async fn finish(mut self) {
        let drains = self.listeners.iter_mut().map(Listener::drain);
        futures_util::future::join_all(drains).await;
        for door in self.doors {
            let _ = door.await;
        }
        self.worker.drain.idle().await;
        self.worker.pool.drain().await;
    }

    fn on_credentials(&mut self) {
        let credentials = self.credentials.borrow_and_update().clone();
        self.worker.pool.set_credentials(credentials.clone());
        for listener in &self.listeners {
            if let Err(error) = listener.set_credentials(&credentials) {
                tracing::error!(%error, "the new credentials can't be served; the old ones stay");
            }
        }
    }
}
