//! `weft demo`: a mesh at work on one machine, with a controller, and what an operator does to one.
//!
//! A small shop: a frontend that calls `catalog` (two versions of it, HTTP), `cart` (gRPC) and `checkout` (HTTP), which
//! calls `orders` (TCP, and the server speaks first). Each is a process with a sidecar on a loopback address of its own,
//! and the sidecars joined the controller with tokens. Requests are sent at a fixed rate by the demo itself, in the
//! place of the frontend's and checkout's applications, and every answer is checked. Then [`steps`] are done to the mesh,
//! none of which may cost a request.

mod board;
mod call;
mod control;
mod documents;
mod fleet;
mod keys;
mod pages;
mod plan;
mod progress;
mod report;
mod retired;
mod show;
mod steps;
mod table;
mod traffic;
mod versions;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{
    board::Flow,
    control::Control,
    fleet::{Fleet, Programs, Role},
    keys::Keys,
    plan::{MEMBERS, Subnet},
    report::Report,
    show::{Colour, Show},
    steps::{Step, failed, names},
    table::{FlowRow, SidecarRow, View},
    traffic::Traffic,
};
use crate::cli::human;

/// How often processes, signals and what is waited for are looked at.
const TICK: Duration = Duration::from_millis(20);
/// How often the table is drawn anew.
const REDRAW: Duration = Duration::from_secs(1);
/// Traffic before the first step.
const WARM_UP: Duration = Duration::from_secs(3);

pub(crate) const HELP: &str = "\
Examples:
  weft demo          leave the mesh up, and do a step when its key is pressed
  weft demo --once   do all steps, and end with a summary

Exit codes: 0 every step was done and no request failed, 1 otherwise, 2 wrong use.";

/// What the demo does.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Do all steps and end, instead of leaving the mesh up
    #[arg(long)]
    pub(crate) once: bool,
    /// How to print the summary
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// Requests a second
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=20_000))]
    pub(crate) rps: u32,
    /// For how long the controller, and a replica, are gone
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) seconds: u64,
    /// The loopback network whose addresses the workloads take
    #[arg(long, value_name = "ADDRESS", default_value_t)]
    pub(crate) subnet: Subnet,
    /// Leave the files: configurations, logs, the controller's data, and keys of a mesh that is gone
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Text for people or JSON for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// Why a demo failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error("{name} is not there ({}): build all programs of the mesh with\n  cargo build --release", program.display())]
    Missing { name: &'static str, program: PathBuf },
    #[error(
        "{transport} {address} cannot be had: {source}; weft demo --subnet 127.78.0.0 uses other addresses"
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
    #[error(transparent)]
    Lab(#[from] weft_lab::Error),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("interrupted")]
    Interrupted,
}

/// Runs it, on the main thread, with which all that it starts ends; whether every step was done and no request failed.
pub(crate) async fn run(args: &DemoArgs) -> bool {
    let begun = Instant::now();
    let mut show = Show::new(args.output);
    let mut shop = match Shop::new(args, Show::new(args.output)) {
        Ok(shop) => shop,
        Err(error) => {
            show.error(&error);
            show.json(&Report::default().to_json(None, begun.elapsed(), Some(error.to_string())));
            return false;
        }
    };
    let mut report = Report::default();
    let result = shop.run(args, &mut report).await;
    let error = result.err();
    if let Some(error) = &error {
        shop.show.error(error);
    }
    let board = shop.traffic.board();
    let summary = report.to_json(
        Some(&board),
        begun.elapsed(),
        error.map(|error| error.to_string()),
    );
    shop.show.json(&summary);
    summary["ok"] == true
}

/// All of a demo that runs. The order of the fields is that in which they end: the files last.
struct Shop {
    subnet: Subnet,
    show: Show,
    signals: Signals,
    control: Control,
    traffic: Traffic,
    fleet: Fleet,
    /// Where all files are.
    directory: PathBuf,
    /// How often the configuration was changed.
    changes: u16,
    /// Whether someone may try what is shown.
    is_interactive: bool,
    /// For how long someone is gone.
    pause: Duration,
    redraw: Instant,
    begun: Instant,
    /// `None`: the files stay.
    _files: Option<TempDir>,
}

/// The signals on which a demo ends in order. From their making on, none ends this process at once, so that the
/// directory with the keys is removed.
struct Signals([Signal; 3]);

impl Signals {
    fn listen() -> io::Result<Self> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

impl Shop {
    /// Nobody runs yet.
    fn new(args: &DemoArgs, show: Show) -> Result<Self, DemoError> {
        let programs = Programs::find()?;
        args.subnet.check_ports()?;
        let cannot = |error: io::Error| failed("begin")(error.to_string());
        let signals = Signals::listen().map_err(cannot)?;
        raise_file_limit();
        let files = tempfile::Builder::new()
            .prefix("weft-demo-")
            .tempdir()
            .map_err(|source| DemoError::Io {
                path: std::env::temp_dir(),
                source,
            })?;
        let (directory, files) = match args.keep {
            true => (files.keep(), None),
            false => (files.path().to_owned(), Some(files)),
        };
        let now = Instant::now();
        Ok(Self {
            subnet: args.subnet,
            show,
            signals,
            control: Control::new(plan::data_directory(&directory).join("admin.yaml"), args.subnet),
            traffic: Traffic::new(args.subnet, args.rps),
            fleet: Fleet::new(programs, &directory, args.subnet),
            directory,
            changes: 0,
            is_interactive: !args.once,
            pause: Duration::from_secs(args.seconds),
            redraw: now,
            begun: now,
            _files: files,
        })
    }

    async fn run(&mut self, args: &DemoArgs, report: &mut Report) -> Result<(), DemoError> {
        self.start().await?;
        let traffic = self.traffic.start();
        traffic.map_err(|error| failed("send requests")(error.to_string()))?;
        let line = format!("\n{} requests a second, every answer checked", args.rps);
        let line = self.show.paint(Colour::Bold, &line);
        self.show.say(line);
        self.run_for(WARM_UP).await?;
        self.prove().await?;
        self.draw().await;
        match args.once {
            true => {
                for step in Step::ALL {
                    let done = self.step(step).await?;
                    report.steps.push(done);
                }
                self.show.say("");
                self.draw().await;
            }
            false => self.stay(report).await?,
        }
        self.show.leave_table();
        report.memory = self.fleet.memory()?;
        let summary = report.summary(&self.traffic.board(), self.begun.elapsed(), &self.show);
        self.traffic.stop();
        self.fleet.finish()?;
        for line in summary {
            self.show.say(line);
        }
        if args.keep {
            self.show
                .say(format_args!("The files are in {}", self.directory.display()));
        }
        Ok(())
    }

    /// Starts the controller and the shop, and waits until all of it is ready.
    async fn start(&mut self) -> Result<(), DemoError> {
        self.show.say(format_args!(
            "a controller, and {} workloads with a sidecar each, on {}/24",
            MEMBERS.len(),
            self.subnet
        ));
        let pid = self.fleet.start_controller()?;
        self.wait_ready(&[Role::Controller]).await?;
        self.show
            .say(format_args!("started {:<14}pid {pid}", "controller"));
        let revision = self
            .control
            .apply("shop.yaml", documents::beginning(self.subnet))
            .await
            .map_err(failed("apply the documents"))?;
        self.show.say(format_args!(
            "applied the documents of the shop as revision {revision}"
        ));
        self.write(plan::ECHO_PROTO_FILE, plan::ECHO_PROTO)?;
        for member in MEMBERS {
            let token = self.control.token(member.account).await;
            let token = token.map_err(failed("make a join token"))?;
            self.write(&member.token_file(), &token)?;
            self.write(&member.file(), &member.config(self.subnet))?;
            let application = self.fleet.start_application(member)?;
            let sidecar = self.fleet.start_sidecar(member)?;
            let application = application
                .map(|pid| format!(", application pid {pid}"))
                .unwrap_or_default();
            self.show.say(format_args!(
                "started {:<14}sidecar pid {sidecar}{application}",
                member.name
            ));
        }
        for member in MEMBERS {
            self.wait_ready(&[Role::Sidecar(member)]).await?;
        }
        self.wait_current().await?;
        self.show.say(format_args!(
            "all have joined, in {:.1} s",
            self.begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// Leaves the mesh up until it is told to end, and does steps when their keys are pressed.
    async fn stay(&mut self, report: &mut Report) -> Result<(), DemoError> {
        let mut keys = Keys::new();
        for line in self.invitation() {
            self.show.say(line);
        }
        loop {
            let result = match keys.next() {
                Some('q') => return Ok(()),
                key => match key.and_then(Step::of_key) {
                    Some(step) => self.step(step).await.map(|done| report.steps.push(done)),
                    None => self.tick().await,
                },
            };
            match result {
                Err(DemoError::Interrupted) => return Ok(()),
                // What could not be done is told; the mesh is still there.
                Err(error @ DemoError::Step { .. }) => self.show.say(format_args!("  {error}")),
                result => result?,
            }
        }
    }

    /// What to do with a mesh that stays up.
    fn invitation(&self) -> Vec<String> {
        let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("weft"));
        let weft = format!("{} --config {}", own.display(), self.control.file().display());
        let outbound = self.subnet.outbound(&plan::FRONTEND);
        let orders = self.subnet.orders();
        let directory = self.directory.display();
        let tries = [
            ("HTTP", format!("curl -H 'Host: catalog' http://{outbound}/")),
            (
                "gRPC",
                format!(
                    "grpcurl -plaintext -authority cart.default -import-path {directory} -proto {} \
                     -d '{{\"text\": \"hello\"}}' {outbound} weft.lab.v1.Echo/Unary",
                    plan::ECHO_PROTO_FILE
                ),
            ),
            ("TCP", format!("nc {} {}", orders.ip(), orders.port())),
            ("sidecars", format!("{weft} status")),
            (
                "as a tester",
                format!(
                    "curl -H 'Host: catalog' -H '{}: {}' http://{outbound}/",
                    documents::TESTER.0,
                    documents::TESTER.1
                ),
            ),
            ("documents", format!("{weft} get services")),
            ("routes", format!("{weft} get httproute")),
            ("one of them", format!("{weft} describe service catalog")),
            (
                "which way",
                format!(
                    "{weft} explain --from {} GET http://catalog/",
                    plan::FRONTEND.name
                ),
            ),
            ("who calls", format!("{weft} proxy connections frontend")),
            ("roots", format!("{weft} ca status")),
            ("changes", format!("{weft} audit")),
            ("access logs", format!("tail -f {directory}/*-access.log")),
        ];
        let mut lines = vec!["\nThe mesh stays up. Try, in another terminal:\n".to_owned()];
        for (what, line) in tries {
            lines.push(format!("  {what:<13} {}", self.show.paint(Colour::Bold, &line)));
        }
        lines.push(String::new());
        for step in Step::ALL {
            lines.push(format!("  {}  {}", step.number(), step.title()));
        }
        lines.push("  q  end (as Ctrl-C)\n".to_owned());
        lines
    }

    /// A short time passes, in which signals are heard; then all processes still run, and the table is as it is now.
    async fn tick(&mut self) -> Result<(), DemoError> {
        tokio::select! {
            biased;
            () = self.signals.next() => return Err(DemoError::Interrupted),
            () = tokio::time::sleep(TICK) => {}
        }
        self.fleet.check()?;
        if self.show.is_live() && self.traffic.has_begun() && Instant::now() >= self.redraw {
            self.draw().await;
        }
        Ok(())
    }

    /// Draws the table.
    async fn draw(&mut self) {
        self.redraw = Instant::now() + REDRAW;
        let fleet = self.control.fleet().await.ok();
        let lifetime = match fleet {
            Some(_) => self.control.trust().await.ok(),
            None => None,
        };
        let mut flows = Vec::new();
        for flow in Flow::ALL {
            let recent = self.traffic.board().recent(flow, Instant::now());
            if recent.answered + recent.failed == 0 {
                continue;
            }
            let members: Vec<_> = flow.application().members().collect();
            let connections = pages::connections(self.subnet, flow.from(), &members).await;
            flows.push(FlowRow {
                flow,
                recent,
                connections: connections.unwrap_or_default(),
            });
        }
        let status = |name| {
            fleet
                .as_ref()
                .and_then(|fleet| progress::of(fleet, name))
                .cloned()
        };
        let versions = self.traffic.board().versions(Flow::Catalog, Instant::now());
        let view = View {
            flows,
            versions,
            sidecars: names()
                .map(|name| SidecarRow {
                    name,
                    status: status(name),
                })
                .collect(),
            leaf_lifetime: lifetime
                .map(|trust| trust.leaf_lifetime_seconds)
                .unwrap_or_default(),
            now: human::seconds(weft_tls::clock::now()),
        };
        let mut lines = vec![String::new()];
        lines.extend(view.lines(&|heading| self.show.paint(Colour::Bold, heading)));
        self.show.table(lines);
    }

    fn write(&self, name: &str, text: &str) -> Result<(), DemoError> {
        write(&self.directory.join(name), text)
    }
}

fn write(path: &Path, text: &str) -> Result<(), DemoError> {
    fs::write(path, text).map_err(|source| DemoError::Io {
        path: path.to_owned(),
        source,
    })
}

/// If the mesh stalls, requests pile up, each with a connection: what fails then is to be the mesh, not the demo.
fn raise_file_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Refused, it stays as it was, which is enough for a mesh that works.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}
