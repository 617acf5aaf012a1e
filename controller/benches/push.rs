//! How long a change takes to reach every proxy, what it costs, and what the controller holds for it.
//!
//! `cargo bench -p weft-controller --bench push` runs a controller's hub as a process of its own, with 1,000 services and
//! 10,000 endpoints, and connects 100, 1,000 and 5,000 simulated proxies to it, or as many as its arguments say. Each
//! proxy has a real gRPC stream on a TCP connection of its own, over loopback and without TLS, and uses five services, one
//! of which all use. Latencies are from the change to the moment when a proxy has taken it and sent its ack; `all acked`
//! is when the controller knew of the last. With `--check` a missed target ends it with an error.

use std::{
    collections::HashMap,
    error::Error,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use prost::Message as _;
use tokio::{
    io::AsyncBufReadExt,
    sync::{mpsc, watch},
};
use tonic::{
    Request, Status,
    transport::{Endpoint, Server},
};
use weft_controller::{
    api::control::ControlService,
    auth::Caller,
    fleet::{Proxy, Registered, WriteError},
    push::{Bundle, Hub, Options, Registrar, RenewHint, Trust, TrustSink},
    world::{Change, Meaning, Versioned},
};
use weft_proto::{
    kinds::{DocumentKey, Kind},
    mesh::v1::{
        self as mesh, control_client::ControlClient, control_server::ControlServer,
        controller_message::Message, proxy_message,
    },
    model::Readiness,
    names::Labels,
};

type Failure = Box<dyn Error + Send + Sync>;

const SERVICES: usize = 1_000;
const REPLICAS: usize = 10;
/// Used by each proxy.
const USED: usize = 5;
/// What a proxy of five services holds: the settings, the services, their workloads.
const HELD: usize = 1 + USED * (1 + REPLICAS);
/// Changes of each sort per size; the medians are shown.
const ROUNDS: usize = 5;

fn main() -> Result<(), Failure> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536).max(soft), hard)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--serve") {
        return runtime.block_on(serve());
    }
    let sizes: Vec<usize> = arguments
        .iter()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let sizes = if sizes.is_empty() {
        vec![100, 1_000, 5_000]
    } else {
        sizes
    };
    let is_checked = arguments.iter().any(|argument| argument == "--check");
    println!(
        "{SERVICES} services, {} endpoints, {USED} services a proxy; plaintext gRPC over loopback",
        SERVICES * REPLICAS
    );
    let mut missed = Vec::new();
    for size in sizes {
        let figures = runtime.block_on(measure(size))?;
        figures.print(size);
        missed.extend(figures.missed(size));
    }
    if is_checked && !missed.is_empty() {
        return Err(missed.join("; ").into());
    }
    Ok(())
}

// The controller's process.

struct Nothing;

impl Registrar for Nothing {
    fn register(&self, _: DocumentKey, _: Registered) -> BoxFuture<'static, Result<(), WriteError>> {
        Box::pin(async { Ok(()) })
    }

    fn deregister(&self, _: DocumentKey) -> BoxFuture<'static, Result<(), WriteError>> {
        Box::pin(async { Ok(()) })
    }
}

impl TrustSink for Nothing {
    fn on_ack(&self, _: &Proxy, _: u64) {}

    fn on_certificate(&self, _: &Proxy, _: &[u8]) -> Option<RenewHint> {
        None
    }
}

/// Serves until its standard input ends, and does what the lines of it say.
async fn serve() -> Result<(), Failure> {
    let (_bundle, bundle) = watch::channel(Arc::new(Bundle {
        version: 1,
        trust_domain: "mesh.test".to_owned(),
        roots: vec![Bytes::from(vec![0; 500])],
    }));
    let (_renew, renew) = watch::channel(RenewHint::default());
    let trust = Trust {
        bundle,
        renew,
        sink: Arc::new(Nothing),
    };
    let hub = Hub::start(Options::default(), Vec::new(), Arc::new(Nothing), trust);
    hub.publish(1, everything()?).await?;
    let identity: weft_proto::SpiffeId = "spiffe://mesh.test/ns/shop/sa/bench".parse()?;
    let as_workload = move |mut request: Request<()>| {
        request
            .extensions_mut()
            .insert(Caller::Workload(identity.clone()));
        Ok::<_, Status>(request)
    };
    let service = ControlServer::with_interceptor(ControlService::new(hub.clone()), as_workload);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let connections = stream::unfold(listener, async |listener| {
        let connection = listener.accept().await.map(|(connection, _)| connection);
        if let Ok(connection) = &connection {
            let _ = connection.set_nodelay(true);
        }
        Some((connection, listener))
    });
    tokio::spawn(async move {
        Server::builder()
            .add_service(service)
            .serve_with_incoming(connections)
            .await
    });
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    let mut revision = 1;
    let mut published = Instant::now();
    while let Some(line) = lines.next_line().await? {
        match line.as_str() {
            "endpoint" | "config" => {
                revision += 1;
                let change = if line == "config" {
                    config(revision)?
                } else {
                    workload(0, 0, revision)?
                };
                published = Instant::now();
                hub.publish(revision, vec![change]).await?;
                println!("published");
            }
            "acked" => {
                while !hub
                    .fleet(mesh::FleetRequest::default())
                    .await?
                    .proxies
                    .iter()
                    .all(|proxy| proxy.is_current)
                {
                    tokio::task::yield_now().await;
                }
                println!("{}", published.elapsed().as_micros());
            }
            "memory" => println!("{} {}", memory("VmRSS:")?, memory("VmHWM:")?),
            _ => return Err(format!("no command: {line}").into()),
        }
    }
    Ok(())
}

/// KiB, from the kernel.
fn memory(field: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .ok_or("no such field")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn everything() -> Result<Vec<Change>, Failure> {
    let mut changes = vec![config(1)?];
    for index in 0..SERVICES {
        changes.push(service(index)?);
        for replica in 0..REPLICAS {
            changes.push(workload(index, replica, 1)?);
        }
    }
    Ok(changes)
}

fn change(kind: Kind, name: &str, version: u64, json: String, meaning: Meaning) -> Result<Change, Failure> {
    let namespace = if kind.is_namespaced() { "shop" } else { "" };
    let document = Versioned {
        version,
        json: json.into(),
        requires: vec!["documents.v1alpha1".to_owned()],
        readiness: Readiness::Ready,
        meaning,
    };
    Ok(Change {
        key: DocumentKey::new(kind, namespace, name)?,
        document: Some(document),
    })
}

fn config(version: u64) -> Result<Change, Failure> {
    let json = r#"{"apiVersion":"weft.dev/v1alpha1","kind":"MeshConfig","metadata":{"name":"mesh"},"spec":{"egress":"deny","meshRanges":["10.0.0.0/8"],"trustDomain":"mesh.test"}}"#;
    change(
        Kind::MeshConfig,
        "mesh",
        version,
        json.to_owned(),
        Meaning::MeshConfig,
    )
}

fn labels(index: usize) -> Result<Labels, Failure> {
    let mut labels = Labels::default();
    labels.insert("app.kubernetes.io/name", &format!("service-{index}"))?;
    labels.insert("app.kubernetes.io/part-of", "shop")?;
    Ok(labels)
}

fn service(index: usize) -> Result<Change, Failure> {
    let json = format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"service-{index}","namespace":"shop"}},"spec":{{"clusterIP":"10.96.{}.{}","ports":[{{"appProtocol":"http","name":"http","port":80,"targetPort":8080}}],"selector":{{"app.kubernetes.io/name":"service-{index}","app.kubernetes.io/part-of":"shop"}}}}}}"#,
        index / 250,
        index % 250
    );
    let address = format!("10.96.{}.{}", index / 250, index % 250).parse()?;
    let meaning = Meaning::Service {
        address: Some(address),
        selector: labels(index)?,
    };
    change(Kind::Service, &format!("service-{index}"), 1, json, meaning)
}

fn workload(index: usize, replica: usize, version: u64) -> Result<Change, Failure> {
    let address = format!("10.{}.{}.{replica}", index / 250, index % 250);
    let name = format!("service-{index}-7d4b9c6f5-{replica}");
    let json = format!(
        r#"{{"apiVersion":"weft.dev/v1alpha1","kind":"Workload","metadata":{{"labels":{{"app.kubernetes.io/name":"service-{index}","app.kubernetes.io/part-of":"shop","version":"v{version}"}},"name":"{name}","namespace":"shop"}},"spec":{{"address":"{address}","locality":{{"region":"eu-west-1","zone":"eu-west-1a"}},"meshPort":15008,"ports":[{{"name":"http","port":8080,"protocol":"http"}}],"serviceAccount":"service-{index}"}}}}"#
    );
    let meaning = Meaning::Workload {
        address: address.parse()?,
        labels: labels(index)?,
    };
    change(Kind::Workload, &name, version, json, meaning)
}

// The process of the proxies.

struct Controller {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Controller {
    fn start() -> Result<(Self, SocketAddr), Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = child.stdin.take().zip(child.stdout.take()).ok_or("no pipes")?;
        let mut controller = Self {
            child,
            input,
            output: BufReader::new(output),
        };
        let address = controller.line()?.parse()?;
        Ok((controller, address))
    }

    fn send(&mut self, command: &str) -> Result<(), Failure> {
        writeln!(self.input, "{command}")?;
        Ok(self.input.flush()?)
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy took an update.
struct Taken {
    at: Instant,
    bytes: usize,
    held: usize,
    is_first: bool,
}

/// Runs a proxy until its stream ends; asked to come later, it does.
async fn proxy(
    index: usize,
    address: SocketAddr,
    taken: mpsc::UnboundedSender<Taken>,
) -> Result<(), Failure> {
    loop {
        let channel = Endpoint::new(format!("http://{address}"))?.connect().await?;
        let mut client = ControlClient::new(channel);
        let (out, messages) = mpsc::unbounded_channel();
        out.send(message(proxy_message::Message::Hello(hello(index))))?;
        let messages = stream::unfold(messages, async |mut messages| {
            Some((messages.recv().await?, messages))
        });
        let mut incoming = client.connect(messages).await?.into_inner();
        let mut held: HashMap<mesh::ResourceKey, u64> = HashMap::new();
        let mut later = None;
        let mut is_first = true;
        while let Some(Ok(received)) = incoming.next().await {
            let bytes = received.encoded_len();
            match received.message {
                Some(Message::Update(update)) => {
                    for resource in update.changed {
                        held.insert(resource.key.unwrap_or_default(), resource.version);
                    }
                    for key in &update.removed {
                        held.remove(key);
                    }
                    out.send(message(proxy_message::Message::Ack(mesh::Ack {
                        nonce: update.nonce,
                        trust_version: 1,
                    })))?;
                    taken.send(Taken {
                        at: Instant::now(),
                        bytes,
                        held: held.len(),
                        is_first,
                    })?;
                    is_first = false;
                }
                Some(Message::GoAway(away)) => later = Some(Duration::from_millis(away.retry_after_ms)),
                _ => {}
            }
        }
        match later {
            Some(later) => tokio::time::sleep(later).await,
            None => return Err(format!("the stream of proxy {index} ended").into()),
        }
    }
}

fn message(message: proxy_message::Message) -> mesh::ProxyMessage {
    mesh::ProxyMessage {
        message: Some(message),
    }
}

/// All use the first service, and four others.
fn hello(index: usize) -> mesh::Hello {
    let others = (1..USED).map(|other| 1 + (index * (USED - 1) + other) % (SERVICES - 1));
    let names = std::iter::once(0)
        .chain(others)
        .map(|service| format!("service-{service}"));
    mesh::Hello {
        holder: Some(mesh::Holder {
            workload: format!("proxy-{index}"),
            instance: "1".to_owned(),
        }),
        subscribe: Some(mesh::Subscribe {
            names: names.collect(),
            ..mesh::Subscribe::default()
        }),
        trust_version: 1,
        ..mesh::Hello::default()
    }
}

#[derive(Default)]
struct Figures {
    endpoint: Spread,
    config: Spread,
    endpoint_bytes: usize,
    config_bytes: usize,
    held: usize,
    connect: Duration,
    reconnect: Duration,
    memory_kib: u64,
    peak_kib: u64,
}

#[derive(Clone, Copy, Default)]
struct Spread {
    p50: Duration,
    p99: Duration,
    last: Duration,
    acked: Duration,
}

async fn measure(size: usize) -> Result<Figures, Failure> {
    let (mut controller, address) = Controller::start()?;
    let mut figures = Figures::default();
    let (sender, mut taken) = mpsc::unbounded_channel();
    let start = Instant::now();
    let mut proxies = connect(size, address, &sender);
    figures.held = first_updates(size, &mut taken, &mut proxies).await?;
    figures.connect = start.elapsed();
    for (command, spread, bytes) in [
        ("endpoint", &mut figures.endpoint, &mut figures.endpoint_bytes),
        ("config", &mut figures.config, &mut figures.config_bytes),
    ] {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(change_of(command, size, &mut controller, &mut taken, bytes).await?);
        }
        rounds.sort_by_key(|round| round.p99);
        *spread = rounds[ROUNDS / 2];
    }
    // All at once, as after a controller's end.
    proxies.shutdown().await;
    let start = Instant::now();
    let mut proxies = connect(size, address, &sender);
    first_updates(size, &mut taken, &mut proxies).await?;
    figures.reconnect = start.elapsed();
    controller.send("memory")?;
    let line = controller.line()?;
    let (now, peak) = line.split_once(' ').ok_or("no memory")?;
    (figures.memory_kib, figures.peak_kib) = (now.parse()?, peak.parse()?);
    proxies.shutdown().await;
    Ok(figures)
}

type Proxies = tokio::task::JoinSet<Result<(), Failure>>;

fn connect(size: usize, address: SocketAddr, taken: &mpsc::UnboundedSender<Taken>) -> Proxies {
    let mut proxies = Proxies::new();
    for index in 0..size {
        proxies.spawn(proxy(index, address, taken.clone()));
    }
    proxies
}

/// Waits until each has its first update; how much one holds then at most.
async fn first_updates(
    size: usize,
    taken: &mut mpsc::UnboundedReceiver<Taken>,
    proxies: &mut Proxies,
) -> Result<usize, Failure> {
    let (mut count, mut held) = (0, 0);
    while count < size {
        tokio::select! {
            Some(update) = taken.recv() => {
                count += usize::from(update.is_first);
                held = held.max(update.held);
            }
            Some(ended) = proxies.join_next() => ended??,
        }
    }
    Ok(held)
}

async fn change_of(
    command: &str,
    size: usize,
    controller: &mut Controller,
    taken: &mut mpsc::UnboundedReceiver<Taken>,
    bytes: &mut usize,
) -> Result<Spread, Failure> {
    let start = Instant::now();
    controller.send(command)?;
    let mut latencies = Vec::with_capacity(size);
    while latencies.len() < size {
        let update = taken.recv().await.ok_or("no proxies")?;
        latencies.push(update.at.saturating_duration_since(start));
        *bytes = update.bytes.max(*bytes);
    }
    controller.line()?;
    controller.send("acked")?;
    // Acks are sent by tasks of this thread: it must not block.
    while !is_readable(controller)? {
        tokio::task::yield_now().await;
    }
    let acked = Duration::from_micros(controller.line()?.parse()?);
    latencies.sort_unstable();
    let at = |percent: usize| latencies[(latencies.len() * percent).div_ceil(100).saturating_sub(1)];
    Ok(Spread {
        p50: at(50),
        p99: at(99),
        last: at(100),
        acked,
    })
}

fn is_readable(controller: &Controller) -> Result<bool, Failure> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut descriptors = [PollFd::new(
        controller.output.get_ref().as_fd(),
        PollFlags::POLLIN,
    )];
    Ok(poll(&mut descriptors, PollTimeout::ZERO)? > 0)
}

impl Figures {
    fn print(&self, size: usize) {
        let milliseconds = |duration: Duration| format!("{:.1} ms", duration.as_secs_f64() * 1e3);
        println!("\n{size} proxies");
        println!(
            "  {:18} {:>10} {:>10} {:>10} {:>10} {:>8}",
            "change of", "p50", "p99", "last", "all acked", "bytes"
        );
        for (name, spread, bytes) in [
            ("one endpoint", self.endpoint, self.endpoint_bytes),
            ("the MeshConfig", self.config, self.config_bytes),
        ] {
            let [p50, p99, last, acked] =
                [spread.p50, spread.p99, spread.last, spread.acked].map(milliseconds);
            println!("  {name:18} {p50:>10} {p99:>10} {last:>10} {acked:>10} {bytes:>8}");
        }
        println!(
            "  all connect at once: {}; again: {}",
            milliseconds(self.connect),
            milliseconds(self.reconnect)
        );
        println!("  resources a proxy holds: {}", self.held);
        println!(
            "  memory of the controller: {} MiB, at most {} MiB",
            self.memory_kib >> 10,
            self.peak_kib >> 10
        );
    }

    fn missed(&self, size: usize) -> Vec<String> {
        let is_aimed_at = size <= 1_000;
        let misses = [
            (
                is_aimed_at && self.endpoint.p99.max(self.config.p99) > Duration::from_secs(1),
                "p99 is over 1 s",
            ),
            (
                self.endpoint_bytes >= 1024,
                "a change of one endpoint has 1 KiB or more",
            ),
            (self.held != HELD, "a proxy holds other than what it uses"),
            (
                is_aimed_at && self.peak_kib > 300 << 10,
                "the controller takes over 300 MiB",
            ),
        ];
        misses
            .iter()
            .filter(|(is_missed, _)| *is_missed)
            .map(|(_, what)| format!("{size} proxies: {what}"))
            .collect()
    }
}
