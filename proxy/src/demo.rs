//! `weft-proxy demo`: the mesh at work on one machine.
//!
//! Five workloads, each with a sidecar, as processes on loopback addresses of their own: a client, `web` twice
//! (HTTP), `greeter` (gRPC) and `db` (TCP, which speaks first). The client's traffic goes through its sidecar, and
//! what is told of it comes from the sidecars at both ends.

mod fleet;
mod plan;
mod report;
mod traffic;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::oneshot, time::MissedTickBehavior};

use self::{
    fleet::{Connection, Fleet},
    plan::{CLIENT, Member, Subnet},
    report::{Peer, Row, Screen},
    traffic::{Outcome, Step},
};
use crate::{cli::Output, dev_certs::DevCertsError, drain::Signals};

/// How often the processes are looked at: soon enough to say who ended before what that broke is told.
const LOOK: Duration = Duration::from_millis(20);

/// Enough for a figure of CPU, which the kernel counts in hundredths of a second; a debug build is slower.
const REQUESTS: u64 = if cfg!(debug_assertions) { 2_500 } else { 20_000 };

/// What the demo does.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// End with a summary instead of leaving the mesh up
    #[arg(long)]
    pub(crate) once: bool,
    /// How to print the summary
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// How many HTTP requests to send; of gRPC calls and TCP echoes, a fifth
    #[arg(long, value_name = "N", default_value_t = REQUESTS, value_parser = clap::value_parser!(u64).range(2..=10_000_000))]
    pub(crate) requests: u64,
    /// The loopback network whose addresses the workloads take
    #[arg(long, value_name = "ADDRESS", default_value_t)]
    pub(crate) subnet: Subnet,
}

/// Why a demo failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error(
        "{transport} {address} cannot be had: {source}; weft-proxy demo --subnet 127.78.0.0 uses other addresses"
    )]
    Port {
        transport: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("{name} (pid {pid}) ended: {status}; the end of its log:\n{log}")]
    Ended {
        name: String,
        pid: u32,
        status: String,
        log: String,
    },
    #[error("cannot {step}: {message}")]
    Step { step: String, message: String },
    #[error("{service}, {protocol}: {reason}; the ends of the sidecars' logs:\n{log}")]
    Traffic {
        service: &'static str,
        protocol: &'static str,
        reason: String,
        log: String,
    },
    #[error(transparent)]
    Lab(#[from] weft_lab::Error),
    #[error(transparent)]
    Certificates(#[from] DevCertsError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("interrupted")]
    Interrupted,
}

/// Runs it.
pub(crate) fn run(args: &DemoArgs) -> ExitCode {
    let screen = Screen::new(args.output);
    let mut rows = Vec::new();
    match demo(args, &screen, &mut rows) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.error(&error, &rows);
            ExitCode::FAILURE
        }
    }
}

fn demo(args: &DemoArgs, screen: &Screen, rows: &mut Vec<Row>) -> Result<(), DemoError> {
    let started = Instant::now();
    args.subnet.check_ports()?;
    let mut guard = Guard::new()?;
    let directory = directory()?;
    plan::write_files(directory.path(), args.subnet)?;
    screen.say(format_args!(
        "five workloads with a sidecar each, on {}/24",
        args.subnet
    ));
    let mut fleet = Fleet::new(directory.path(), args.subnet)?;
    for member in plan::members() {
        screen.starting(member.name);
        let pids = fleet.start(member)?;
        screen.started(&pids);
        guard.check(&mut fleet)?;
    }
    screen.head();
    for step in traffic::steps(args.subnet, args.requests) {
        let row = one_step(&mut guard, &mut fleet, step)?;
        screen.row(&row);
        rows.push(row);
    }
    let used = fleet.used(&plan::members().collect::<Vec<_>>())?;
    if args.once {
        fleet.finish()?;
    } else {
        fleet.check()?;
    }
    screen.summary(args.subnet, rows, &used, started.elapsed());
    if !args.once {
        screen.invitation(args.subnet, directory.path());
        guard.stay(&mut fleet)?;
        fleet.finish()?;
    }
    Ok(())
}

/// Sends one kind of traffic, and looks at what the sidecars at both ends say of it.
fn one_step(guard: &mut Guard, fleet: &mut Fleet, step: Step) -> Result<Row, DemoError> {
    let members: Vec<&Member> = step.application.members().chain([CLIENT]).collect();
    let cpu = |fleet: &Fleet| {
        let used = fleet.used(&members)?;
        Ok::<Duration, DemoError>(used.iter().map(|used| used.cpu).sum())
    };
    let before = cpu(fleet)?;
    let work = step.clone();
    let outcome = guard.watch(fleet, move || work.run())?;
    let spent = cpu(fleet)?.saturating_sub(before);
    let failed = |reason: String| DemoError::Traffic {
        service: step.application.service,
        protocol: step.protocol,
        reason,
        log: fleet.logs(&members),
    };
    if let Some(reason) = complaint(&step, &outcome) {
        return Err(failed(reason));
    }
    let (caller, peer, peers) = who_talked(fleet, &step)?.map_err(failed)?;
    let requests = u32::try_from(outcome.requests).unwrap_or(u32::MAX).max(1);
    Ok(Row {
        cpu_per_request: spent / requests,
        step,
        outcome,
        caller,
        peer,
        peers,
    })
}

/// What is wrong with an outcome.
fn complaint(step: &Step, outcome: &Outcome) -> Option<String> {
    if outcome.failed() == 0 && outcome.requests == step.count() {
        return None;
    }
    let failures: Vec<_> = outcome
        .failures
        .iter()
        .map(|(what, count)| format!("{what} ({count})"))
        .collect();
    Some(format!(
        "{} of {} {} answered; {}",
        outcome.requests,
        step.count(),
        step.unit,
        failures.join(", ")
    ))
}

/// Caller, peer and the connections between them; or what is not as it should be.
type Talk = Result<(String, String, Vec<Peer>), String>;

/// Both ends must have proved who they are to each other.
fn who_talked(fleet: &Fleet, step: &Step) -> Result<Talk, DemoError> {
    let dialled = fleet.connections(CLIENT)?;
    let (mut peer_identity, mut peers) = (None, Vec::new());
    for member in step.application.members() {
        let is_to = |connection: &&Connection| connection.workload.as_deref() == Some(&member.uid());
        let connections: Vec<_> = dialled.iter().filter(is_to).collect();
        if connections.is_empty() {
            return Ok(Err(format!(
                "no connection from {} to {}",
                CLIENT.name, member.name
            )));
        }
        let accepted = fleet.connections(member)?;
        let accepted: Vec<_> = accepted
            .iter()
            .filter(|connection| !connection.outbound)
            .collect();
        let proved = |connections: &[&Connection], expected: String| {
            let mut others = connections
                .iter()
                .filter(|connection| connection.identity.as_ref() != Some(&expected));
            match others.next() {
                _ if connections.is_empty() => Err(format!("{} knows of no connection", member.name)),
                None => Ok(expected),
                Some(other) => Err(format!(
                    "a connection of {} is with {:?}",
                    member.name, other.identity
                )),
            }
        };
        let both = (
            proved(&connections, member.identity()),
            proved(&accepted, CLIENT.identity()),
        );
        match both {
            (Ok(identity), Ok(_)) => peer_identity = Some(identity),
            (Err(wrong), _) | (_, Err(wrong)) => return Ok(Err(wrong)),
        }
        peers.push(Peer {
            name: member.name,
            connections: connections.len(),
            streams: connections.iter().map(|connection| connection.streams).sum(),
            rtt: connections
                .iter()
                .map(|connection| connection.rtt)
                .max()
                .unwrap_or_default(),
        });
    }
    let peer = peer_identity.ok_or_else(|| "nobody was called".to_owned());
    Ok(peer.map(|peer| (CLIENT.identity(), peer, peers)))
}

fn directory() -> Result<TempDir, DemoError> {
    let made = tempfile::Builder::new().prefix("weft-demo-").tempdir();
    made.map_err(|source| DemoError::Io {
        path: std::env::temp_dir(),
        source,
    })
}

/// Waits, on the main thread, and looks after the processes and signals meanwhile. From its making on, a signal no
/// longer ends this process at once, so that the directory with the keys is removed.
struct Guard {
    runtime: Runtime,
    signals: Signals,
}

impl Guard {
    fn new() -> Result<Self, DemoError> {
        let failed = |error: io::Error| DemoError::Step {
            step: "begin".to_owned(),
            message: error.to_string(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let signals = runtime.block_on(async { Signals::listen() }).map_err(failed)?;
        Ok(Self { runtime, signals })
    }

    /// Fails if a process has ended, or this one should.
    fn check(&mut self, fleet: &mut Fleet) -> Result<(), DemoError> {
        self.until(fleet, std::future::ready(()))
    }

    /// Does work on a thread of its own, for as long as all processes run.
    fn watch(
        &mut self,
        fleet: &mut Fleet,
        work: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Result<Outcome, DemoError> {
        let (done, outcome) = oneshot::channel();
        // Not joined: where a process has ended, the demo does not wait for what that breaks.
        std::thread::spawn(move || done.send(work()));
        let outcome = self.until(fleet, outcome)?;
        outcome.map_err(|_| DemoError::Step {
            step: "send traffic".to_owned(),
            message: "the client panicked".to_owned(),
        })
    }

    /// Until Ctrl-C or SIGTERM, which is how it should end.
    fn stay(&mut self, fleet: &mut Fleet) -> Result<(), DemoError> {
        match self.until(fleet, std::future::pending::<()>()) {
            Err(DemoError::Interrupted) => Ok(()),
            result => result,
        }
    }

    fn until<T>(&mut self, fleet: &mut Fleet, event: impl Future<Output = T>) -> Result<T, DemoError> {
        let Self { runtime, signals } = self;
        runtime.block_on(async {
            let mut event = pin!(event);
            let mut ticks = tokio::time::interval(LOOK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    () = signals.next() => return Err(DemoError::Interrupted),
                    result = &mut event => {
                        // A process that ended explains a bad result better than the result does.
                        fleet.check()?;
                        return Ok(result);
                    }
                    _ = ticks.tick() => fleet.check()?,
                }
            }
        })
    }
}
