//! What the client sends. Every answer is verified.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_lab::{
    client::grpc,
    load::{self, Limit, Work},
    services::{small_answer, tcp::banner},
};

use super::plan::{self, Application, DB, GREETER, WEB};

/// How long any one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections of the HTTP client: enough that requests meet on a QUIC connection.
const HTTP_CONNECTIONS: usize = 8;
/// Connections to the database, and so tunnels.
const TCP_CONNECTIONS: u64 = 4;
/// Messages of a gRPC stream.
const STREAM_MESSAGES: usize = 10;

/// One kind of traffic.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// To whom.
    pub(super) application: &'static Application,
    pub(super) protocol: &'static str,
    /// What is counted, for the reader.
    pub(super) unit: &'static str,
    work: fn(Target) -> Outcome,
    target: Target,
}

/// Where and how much.
#[derive(Clone, Copy, Debug)]
struct Target {
    address: SocketAddr,
    count: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Right answers.
    pub(super) requests: u64,
    /// Wrong ones, or none, by what was wrong.
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

/// All traffic of the demo, in its order.
pub(super) fn steps(subnet: plan::Subnet, requests: u64) -> [Step; 3] {
    let client = subnet.outbound(plan::CLIENT);
    // One call after the other, where HTTP has several at once: fewer take as long.
    let fewer = (requests / 5).max(1);
    [
        Step {
            application: &WEB,
            protocol: "HTTP/1.1",
            unit: "requests",
            work: http,
            target: Target {
                address: client,
                count: requests,
            },
        },
        Step {
            application: &GREETER,
            protocol: "gRPC",
            unit: "calls",
            work: |target| on_runtime(calls(target)),
            target: Target {
                address: client,
                count: fewer,
            },
        },
        Step {
            application: &DB,
            protocol: "TCP",
            unit: "echoes",
            work: |target| on_runtime(echoes(target)),
            target: Target {
                address: subnet.bind(),
                count: fewer,
            },
        },
    ]
}

impl Step {
    /// Runs it to its end: not on a thread with a runtime.
    pub(super) fn run(&self) -> Outcome {
        (self.work)(self.target)
    }

    /// How many answers there should be.
    pub(super) fn count(&self) -> u64 {
        self.target.count
    }
}

impl Outcome {
    /// How many failed.
    pub(super) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn failure(what: impl ToString) -> Self {
        Self {
            failures: BTreeMap::from([(what.to_string(), 1)]),
            ..Self::default()
        }
    }
}

fn http(target: Target) -> Outcome {
    let work = Work::Http {
        host: WEB.host(),
        path: "/".to_owned(),
        expect: Some(small_answer(WEB.service)),
    };
    let options = load::Options {
        target: target.address,
        work,
        connections: HTTP_CONNECTIONS,
        warmup: Duration::ZERO,
        limit: Limit::Count(target.count),
        timeout: PATIENCE,
        watch: Vec::new(),
    };
    let microseconds = |value: f64| Duration::try_from_secs_f64(value / 1e6).unwrap_or_default();
    match load::run(&options) {
        Ok(report) => Outcome {
            requests: report.requests,
            failures: report.errors,
            p50: microseconds(report.latency.p50_us),
            p99: microseconds(report.latency.p99_us),
        },
        Err(error) => Outcome::failure(error),
    }
}

/// Answers so far.
#[derive(Default)]
struct Tally {
    took: Vec<Duration>,
    failures: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts what began at `begun` and ended now.
    fn add(&mut self, begun: Instant, result: Result<(), String>) {
        match result {
            Ok(()) => self.took.push(begun.elapsed()),
            Err(error) => *self.failures.entry(error).or_default() += 1,
        }
    }

    fn finish(mut self) -> Outcome {
        self.took.sort_unstable();
        let at = |percent: usize| {
            let last = self.took.len().saturating_sub(1);
            self.took.get(last * percent / 100).copied().unwrap_or_default()
        };
        Outcome {
            requests: self.took.len() as u64,
            p50: at(50),
            p99: at(99),
            failures: self.failures,
        }
    }
}

fn on_runtime(work: impl Future<Output = Result<Tally, String>>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map(|runtime| runtime.block_on(work)) {
        Ok(Ok(tally)) => tally.finish(),
        Ok(Err(error)) => Outcome::failure(error),
        Err(error) => Outcome::failure(error),
    }
}

/// Unary calls, and every tenth a stream: from the client, from the server, both ways.
async fn calls(target: Target) -> Result<Tally, String> {
    let mut connection = in_time(grpc::Connection::open(target.address, &GREETER.host())).await?;
    let mut tally = Tally::default();
    for number in 0..target.count {
        let begun = Instant::now();
        let call = match number % 40 {
            9 => "ClientStream",
            19 => "ServerStream",
            29 => "BidiStream",
            _ => "Unary",
        };
        let result = one_call(&mut connection, call, number).await;
        tally.add(begun, result.map_err(|error| format!("{call}: {error}")));
    }
    Ok(tally)
}

async fn one_call(connection: &mut grpc::Connection, call: &str, number: u64) -> Result<(), String> {
    let texts = |count: usize| (0..count).map(move |index| format!("message {number}.{index}"));
    let (sent, expected): (Vec<String>, Vec<String>) = match call {
        "ClientStream" => {
            let bytes: usize = texts(STREAM_MESSAGES).map(|text| text.len()).sum();
            (
                texts(STREAM_MESSAGES).collect(),
                vec![format!("{STREAM_MESSAGES} messages, {bytes} bytes")],
            )
        }
        "ServerStream" => (
            vec![STREAM_MESSAGES.to_string()],
            (0..STREAM_MESSAGES).map(|n| n.to_string()).collect(),
        ),
        "BidiStream" => (texts(STREAM_MESSAGES).collect(), texts(STREAM_MESSAGES).collect()),
        _ => (texts(1).collect(), texts(1).collect()),
    };
    let messages = sent.into_iter().map(Into::into).collect();
    let outcome = in_time(connection.call_with(call, HeaderMap::new(), messages)).await?;
    match outcome.status {
        Some(grpc_status) if grpc_status != weft_lab::services::grpc::code::OK => {
            Err(format!("grpc-status {grpc_status}: {}", outcome.message))
        }
        None => Err(format!("HTTP status {} and no grpc-status", outcome.http_status)),
        Some(_) if outcome.messages != expected => Err("wrong answer".to_owned()),
        Some(_) => Ok(()),
    }
}

/// A few connections after each other, each with its share of the echoes.
async fn echoes(target: Target) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for connection in 0..TCP_CONNECTIONS {
        let numbers = (0..target.count).filter(|number| number % TCP_CONNECTIONS == connection);
        if let Err(error) = one_connection(target.address, numbers, &mut tally).await {
            *tally.failures.entry(error).or_default() += 1;
        }
    }
    Ok(tally)
}

/// The server's banner, echoes, and a half-close that the server answers with its own.
async fn one_connection(
    address: SocketAddr,
    numbers: impl Iterator<Item = u64>,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut stream = in_time(TcpStream::connect(address)).await?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut received = vec![0; banner(DB.service).len()];
    in_time(stream.read_exact(&mut received)).await?;
    if received != banner(DB.service).as_bytes() {
        return Err("wrong banner".to_owned());
    }
    for number in numbers {
        let begun = Instant::now();
        let result = echo(&mut stream, &format!("{number:064}")).await;
        let is_broken = result.is_err();
        tally.add(begun, result);
        if is_broken {
            // Counted; what follows on a broken connection would only be more of it.
            return Ok(());
        }
    }
    in_time(stream.shutdown()).await?;
    match in_time(stream.read(&mut [0; 1])).await? {
        0 => Ok(()),
        _ => Err("bytes after the end".to_owned()),
    }
}

async fn echo(stream: &mut TcpStream, message: &str) -> Result<(), String> {
    let mut received = vec![0; message.len()];
    in_time(stream.write_all(message.as_bytes())).await?;
    in_time(stream.read_exact(&mut received)).await?;
    if received == message.as_bytes() {
        Ok(())
    } else {
        Err("wrong answer".to_owned())
    }
}

async fn in_time<T, E: ToString>(work: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}
