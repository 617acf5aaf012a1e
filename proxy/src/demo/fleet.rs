//! The processes of the demo: each workload's application and its sidecar.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use weft_lab::{
    cli::LISTENING,
    process::{Process, Ready},
};

use super::{
    DemoError,
    plan::{Member, Subnet},
};

/// How long a process may take to start, on a machine that is busy with something else.
const STARTUP: Duration = Duration::from_secs(20);
/// How long a sidecar may take to finish when it is told to.
const DRAIN: Duration = Duration::from_secs(5);
/// How long an admin page may take.
const PAGE: Duration = Duration::from_secs(5);
/// Lines of a log in an error.
const LOG_TAIL: usize = 20;

/// Everything that runs. Dropping it ends all of it.
pub(super) struct Fleet {
    executable: PathBuf,
    directory: PathBuf,
    subnet: Subnet,
    running: Vec<Running>,
}

struct Running {
    member: &'static Member,
    role: Role,
    process: Process,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Application,
    Sidecar,
}

/// A QUIC connection, as a sidecar's admin tells of it.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// Whether this sidecar dialled it.
    pub(super) outbound: bool,
    /// The peer's uid, where this sidecar dialled.
    pub(super) workload: Option<String>,
    /// The peer's identity, which TLS has proved.
    pub(super) identity: Option<String>,
    pub(super) streams: u64,
    pub(super) rtt: Duration,
}

/// What a sidecar has used since its start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    pub(super) name: &'static str,
    pub(super) pid: u32,
    pub(super) cpu: Duration,
    pub(super) rss: u64,
}

impl Fleet {
    /// Nobody yet. Children are of the program that runs now.
    pub(super) fn new(directory: &Path, subnet: Subnet) -> Result<Self, DemoError> {
        let executable = std::env::current_exe().map_err(|source| DemoError::Io {
            path: PathBuf::from("/proc/self/exe"),
            source,
        })?;
        Ok(Self {
            executable,
            directory: directory.to_owned(),
            subnet,
            running: Vec::new(),
        })
    }

    /// Starts a workload's application and its sidecar, and waits until both are ready. Must be called on the main
    /// thread: the kernel ends children with the thread that started them.
    pub(super) fn start(&mut self, member: &'static Member) -> Result<Vec<(&'static str, u32)>, DemoError> {
        let mut pids = Vec::new();
        if let (Some(application), Some(address)) = (member.application, self.subnet.application(member)) {
            let mut command = self.command();
            command.args(["lab", "services", application.kind, "--name", application.service]);
            command.args(["--listen", &address.to_string()]);
            let ready = Ready::Line(LISTENING.to_owned());
            pids.push((
                "application",
                self.spawn(member, Role::Application, command, &ready)?,
            ));
        }
        let mut command = self.command();
        command
            .args(["run", "--config"])
            .arg(self.directory.join(member.file()));
        let ready = Ready::Http(self.subnet.admin(member), "/ready".to_owned());
        pids.push(("sidecar", self.spawn(member, Role::Sidecar, command, &ready)?));
        Ok(pids)
    }

    /// Fails if anyone has ended.
    pub(super) fn check(&mut self) -> Result<(), DemoError> {
        for Running {
            member,
            role,
            process,
        } in &mut self.running
        {
            if process.is_running()? {
                continue;
            }
            let status = process.wait(Duration::ZERO)?;
            return Err(DemoError::Ended {
                name: role.of(member),
                pid: process.pid(),
                status: status.to_string(),
                log: tail(process),
            });
        }
        Ok(())
    }

    /// The connections of a member's sidecar.
    pub(super) fn connections(&self, member: &Member) -> Result<Vec<Connection>, DemoError> {
        let address = self.subnet.admin(member);
        let failed = |message: String| DemoError::Step {
            step: format!("read http://{address}/connections"),
            message,
        };
        let page = get(address, "/connections").map_err(|error| failed(error.to_string()))?;
        let page: Value = serde_json::from_str(&page).map_err(|error| failed(error.to_string()))?;
        let workers = page["workers"].as_array().into_iter().flatten();
        let connections = workers.flat_map(|worker| worker["connections"].as_array().into_iter().flatten());
        Ok(connections.map(Connection::read).collect())
    }

    /// What the sidecars of these workloads have used.
    pub(super) fn used(&self, members: &[&Member]) -> Result<Vec<Used>, DemoError> {
        let sidecars = self.running.iter().filter(|running| {
            running.role == Role::Sidecar && members.iter().any(|member| member.name == running.member.name)
        });
        let used = sidecars.map(|Running { member, process, .. }| {
            let usage = process.usage()?;
            Ok(Used {
                name: member.name,
                pid: process.pid(),
                cpu: usage.cpu,
                rss: usage.rss,
            })
        });
        used.collect()
    }

    /// The last lines of the logs of these workloads' sidecars, for an error.
    pub(super) fn logs(&self, members: &[&Member]) -> String {
        let concerned = self.running.iter().filter(|running| {
            running.role == Role::Sidecar && members.iter().any(|member| member.name == running.member.name)
        });
        concerned
            .map(
                |Running {
                     member,
                     role,
                     process,
                 }| format!("{}:\n{}", role.of(member), tail(process)),
            )
            .collect()
    }

    /// Tells all sidecars to finish, and checks that they do.
    pub(super) fn finish(&mut self) -> Result<(), DemoError> {
        self.check()?;
        for running in self
            .running
            .iter_mut()
            .filter(|running| running.role == Role::Sidecar)
        {
            running.process.signal(Signal::SIGTERM)?;
        }
        for Running {
            member,
            role,
            process,
        } in &mut self.running
        {
            if *role == Role::Application {
                continue;
            }
            let status = process.wait(DRAIN)?;
            if !status.success() {
                return Err(DemoError::Ended {
                    name: role.of(member),
                    pid: process.pid(),
                    status: format!("{status}, where it should have finished"),
                    log: tail(process),
                });
            }
        }
        self.running.clear();
        Ok(())
    }

    /// In a process group of its own: Ctrl-C is for the demo, which then ends its children in order.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command.process_group(0).env_remove("WEFT_LOG");
        command
    }

    fn spawn(
        &mut self,
        member: &'static Member,
        role: Role,
        command: Command,
        ready: &Ready,
    ) -> Result<u32, DemoError> {
        let process = Process::spawn_ready(&role.of(member), command, ready, STARTUP)?;
        let pid = process.pid();
        self.running.push(Running {
            member,
            role,
            process,
        });
        Ok(pid)
    }
}

impl Role {
    fn of(self, member: &Member) -> String {
        match self {
            Self::Application => format!("the application of {}", member.name),
            Self::Sidecar => format!("the sidecar of {}", member.name),
        }
    }
}

impl Connection {
    fn read(value: &Value) -> Self {
        let text = |field: &str| value[field].as_str().map(str::to_owned);
        Self {
            outbound: value["direction"] == "outbound",
            workload: text("workload"),
            identity: text("identity"),
            streams: value["streamsTotal"].as_u64().unwrap_or_default(),
            rtt: Duration::from_micros(value["rttMicros"].as_u64().unwrap_or_default()),
        }
    }
}

fn tail(process: &Process) -> String {
    let lines = process.log();
    let skipped = lines.len().saturating_sub(LOG_TAIL);
    lines
        .iter()
        .skip(skipped)
        .map(|line| format!("  {line}\n"))
        .collect()
}

/// The body of an answer with a length, which is all that admin gives.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PAGE)?;
    stream.set_read_timeout(Some(PAGE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(body.to_owned())
}
