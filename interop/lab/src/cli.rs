//! The laboratory as subcommands: of the `weft-lab` binary, and of any other that embeds [`Command`] (a bench
//! that starts its own executable as its services and load generator needs no second binary beside it).

mod link;

pub use link::LinkArgs;

use crate::error::{Doing, Result};
use crate::load::{self, Limit, Work};
use crate::services::{self, small_answer};
use clap::{Args, Subcommand, ValueEnum};
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpListener;

/// What a service writes to standard output, followed by its address, when it accepts connections.
pub const LISTENING: &str = "listening on ";

/// The subcommands.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Serve an example application until killed.
    Services(ServicesArgs),
    /// Put load on a server and check every answer. The exit code is 1 if anything was wrong.
    Load(LoadArgs),
    /// Run a command in each of two hosts (network namespaces) joined by an impaired link.
    Link(LinkArgs),
}

/// Which service to serve, and where.
#[derive(Debug, Clone, Args)]
pub struct ServicesArgs {
    /// The service.
    service: Service,
    /// The address to listen on; port 0 takes a free one. The address is written to standard output.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Its name, in its answers.
    #[arg(long, default_value = "lab")]
    name: String,
    /// Its version, in the answers of http and grpc.
    #[arg(long, value_name = "VERSION")]
    app_version: Option<String>,
    /// Close HTTP connections that were idle for so many milliseconds.
    #[arg(long, value_name = "MS")]
    keep_alive: Option<u64>,
}

/// The example applications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Service {
    /// HTTP/1.1 and HTTP/2: /, /echo, /bytes?n=, /digest, /slow?ms=, /status?code=, /headers, /ws, and gRPC; /fault and
    /// /counts.
    Http,
    /// gRPC: Unary, ClientStream, ServerStream and BidiStream of weft.lab.v1.Echo; /fault and /counts.
    Grpc,
    /// A very cheap HTTP/1.1 responder for benches: / and /bytes?n=.
    Instant,
    /// A TCP echo.
    TcpEcho,
    /// A TCP server that speaks first, then echoes.
    TcpGreeter,
    /// A TCP server that answers count and SHA-256 after the client's FIN.
    TcpSink,
    /// A TCP server that resets the connection after one byte.
    TcpReset,
}

/// What load to put on whom.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// http: keep-alive requests; ping: messages to a TCP echo; bulk: downloads of /bytes?n=.
    #[arg(default_value = "http")]
    work: WorkKind,
    /// The address to connect to.
    #[arg(long)]
    target: SocketAddr,
    /// The Host field; the target if absent.
    #[arg(long)]
    host: Option<String>,
    /// The request target for http.
    #[arg(long, default_value = "/")]
    path: String,
    /// Every answer must be the small answer of the service of this name; otherwise all must be alike.
    #[arg(long, value_name = "NAME")]
    expect: Option<String>,
    /// Connections.
    #[arg(short, long, default_value_t = 1)]
    connections: usize,
    /// Seconds to measure; unless --count is given, 10.
    #[arg(short, long, conflicts_with = "count")]
    duration: Option<f64>,
    /// Requests to measure. bulk: 1 unless --duration is given.
    #[arg(long)]
    count: Option<u64>,
    /// Seconds of load before the measurement.
    #[arg(long, default_value_t = 0.0)]
    warmup: f64,
    /// Bytes of a message for ping, of a download for bulk.
    #[arg(long)]
    size: Option<u64>,
    /// Seconds that an answer may take.
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
    /// Also report what these processes use in the measurement.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    watch: Vec<u32>,
    /// How to print the report.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

/// The kinds of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WorkKind {
    /// HTTP/1.1 requests with keep-alive.
    Http,
    /// Messages to a TCP echo.
    Ping,
    /// HTTP/1.1 downloads.
    Bulk,
}

/// Forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Runs a subcommand to its end, on a runtime of its own.
pub fn run(command: &Command) -> ExitCode {
    let outcome = match command {
        Command::Services(args) => serve(args).map(|()| ExitCode::SUCCESS),
        Command::Load(args) => put_load(args),
        Command::Link(args) => link::run(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

fn serve(args: &ServicesArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.doing(|| "start a runtime".to_owned())?.block_on(async {
        let listener = TcpListener::bind(args.listen)
            .await
            .doing(|| format!("listen on {}", args.listen))?;
        let address = listener.local_addr().doing(|| "read the address".to_owned())?;
        // Whoever started this may have stopped reading.
        writeln!(io::stdout(), "{LISTENING}{address}").ok();
        service(args, listener).await.doing(|| format!("serve {address}"))
    })
}

fn service(args: &ServicesArgs, listener: TcpListener) -> Pin<Box<dyn Future<Output = io::Result<()>> + '_>> {
    let options = || services::http::Options {
        name: args.name.clone(),
        version: args.app_version.clone(),
        keep_alive: args.keep_alive.map(Duration::from_millis),
    };
    match args.service {
        Service::Http => Box::pin(services::http::serve(listener, options())),
        Service::Grpc => Box::pin(services::grpc::serve_with(listener, options())),
        Service::Instant => Box::pin(services::instant::serve(listener, &args.name)),
        Service::TcpEcho => Box::pin(services::tcp::echo(listener)),
        Service::TcpGreeter => Box::pin(services::tcp::greeter(listener, &args.name)),
        Service::TcpSink => Box::pin(services::tcp::sink(listener)),
        Service::TcpReset => Box::pin(services::tcp::resetter(listener)),
    }
}

fn put_load(args: &LoadArgs) -> Result<ExitCode> {
    let report = load::run(&args.options())?;
    let text = match args.output {
        Output::Text => report.to_string(),
        Output::Json => serde_json::to_string(&report).doing(|| "write the report".to_owned())?,
    };
    writeln!(io::stdout(), "{text}").doing(|| "write the report".to_owned())?;
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl LoadArgs {
    fn options(&self) -> load::Options {
        const SECONDS: f64 = 10.0;
        const MESSAGE: u64 = 64;
        const DOWNLOAD: u64 = 1 << 30;
        let host = self.host.clone().unwrap_or_else(|| self.target.to_string());
        let work = match self.work {
            WorkKind::Http => {
                let expect = self.expect.as_deref().map(small_answer);
                Work::Http {
                    host,
                    path: self.path.clone(),
                    expect,
                }
            }
            WorkKind::Ping => {
                let size = usize::try_from(self.size.unwrap_or(MESSAGE)).unwrap_or(usize::MAX);
                Work::Ping { size: size.max(1) }
            }
            WorkKind::Bulk => Work::Bulk {
                host,
                bytes: self.size.unwrap_or(DOWNLOAD),
            },
        };
        let limit = match (self.count, self.duration, self.work) {
            (Some(count), _, _) => Limit::Count(count),
            (None, None, WorkKind::Bulk) => Limit::Count(1),
            (None, duration, _) => Limit::Duration(seconds(duration.unwrap_or(SECONDS))),
        };
        load::Options {
            target: self.target,
            work,
            connections: self.connections,
            warmup: seconds(self.warmup),
            limit,
            timeout: seconds(self.timeout),
            watch: self.watch.clone(),
        }
    }
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}
