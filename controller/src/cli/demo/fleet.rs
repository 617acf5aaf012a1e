//! The processes of the demo: the controller, and each workload's application and sidecar.

use std::{
    fmt,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use weft_lab::{
    cli::LISTENING,
    process::{Process, Ready},
};

use super::{
    DemoError,
    pages::get,
    plan::{self, Application, Member, Subnet},
};

/// How long a process may take to start, on a machine that is busy with something else.
pub(super) const STARTUP: Duration = Duration::from_secs(30);
/// How long a sidecar may take to finish when it is told to.
const DRAIN: Duration = Duration::from_secs(10);
/// Lines of a log in an error.
const LOG_TAIL: usize = 20;
/// How long certificates live: so short that a demo sees them end, so long that a slow machine renews them in time.
const LEAF_LIFETIME: &str = "30s";
/// How long the endpoint of a lost sidecar stays.
const ENDPOINT_GRACE: &str = "2s";

/// The programs of the mesh, which are beside the one that runs.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    own: PathBuf,
    proxy: PathBuf,
    controller: PathBuf,
}

/// Everything that runs. Dropping it ends all of it.
pub(super) struct Fleet {
    programs: Programs,
    directory: PathBuf,
    subnet: Subnet,
    /// Those that are meant to run.
    running: Vec<Running>,
}

struct Running {
    role: Role,
    process: Process,
}

/// Which process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    Controller,
    Application(&'static Member),
    Sidecar(&'static Member),
}

impl Programs {
    /// Finds them.
    ///
    /// # Errors
    /// One of them is missing: it was not built.
    pub(super) fn find() -> Result<Self, DemoError> {
        let own = std::env::current_exe().map_err(|source| DemoError::Io {
            path: PathBuf::from("/proc/self/exe"),
            source,
        })?;
        Self::beside(own)
    }

    fn beside(own: PathBuf) -> Result<Self, DemoError> {
        let find = |name: &'static str| {
            let program = own.with_file_name(name);
            match program.is_file() {
                true => Ok(program),
                false => Err(DemoError::Missing { name, program }),
            }
        };
        Ok(Self {
            proxy: find("weft-proxy")?,
            controller: find("weft-controller")?,
            own,
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller => f.write_str("the controller"),
            Self::Application(member) => write!(f, "the application of {}", member.name),
            Self::Sidecar(member) => write!(f, "the sidecar of {}", member.name),
        }
    }
}

impl Role {
    fn is(self, other: Self) -> bool {
        match (self, other) {
            (Self::Controller, Self::Controller) => true,
            (Self::Application(one), Self::Application(other))
            | (Self::Sidecar(one), Self::Sidecar(other)) => one.name == other.name,
            _ => false,
        }
    }
}

impl Fleet {
    /// Nobody yet.
    pub(super) fn new(programs: Programs, directory: &Path, subnet: Subnet) -> Self {
        Self {
            programs,
            directory: directory.to_owned(),
            subnet,
            running: Vec::new(),
        }
    }

    /// Starts the controller; it is ready later. As all that start something, to be called on the main thread: the
    /// kernel ends children with the thread that started them.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start_controller(&mut self) -> Result<u32, DemoError> {
        let mut command = self.command(&self.programs.controller);
        command
            .args(["run", "--data-dir"])
            .arg(plan::data_directory(&self.directory))
            .args(["--listen", &self.subnet.controller().to_string()])
            .args(["--metrics", &self.subnet.controller_metrics().to_string()])
            .args(["--trust-domain", plan::TRUST_DOMAIN])
            .args(["--leaf-lifetime", LEAF_LIFETIME])
            .args(["--endpoint-grace", ENDPOINT_GRACE])
            .args(["--log-format", "text"]);
        self.spawn(Role::Controller, command)
    }

    /// Starts a workload's application, if it has one.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start_application(&mut self, member: &'static Member) -> Result<Option<u32>, DemoError> {
        let (Some(application), Some(address)) = (member.application, self.subnet.application(member)) else {
            return Ok(None);
        };
        let Application { kind, .. } = application;
        // The versions of a service tell themselves apart; a greeter has the name of its service.
        let name = match *kind {
            "http" => member.name,
            _ => application.service,
        };
        let mut command = self.command(&self.programs.own);
        command.args(["__lab", "services", kind, "--name", name]);
        command.args(["--app-version", member.version]);
        command.args(["--listen", &address.to_string()]);
        let pid = self.spawn(Role::Application(member), command)?;
        let ready = Ready::Line(LISTENING.to_owned());
        if let Some(running) = self.running.last_mut() {
            running.process.wait_ready(&ready, STARTUP)?;
        }
        Ok(Some(pid))
    }

    /// Starts a workload's sidecar; it is ready later.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start_sidecar(&mut self, member: &'static Member) -> Result<u32, DemoError> {
        let mut command = self.command(&self.programs.proxy);
        command
            .args(["run", "--config"])
            .arg(self.directory.join(member.file()));
        self.spawn(Role::Sidecar(member), command)
    }

    /// Whether a process says that it is ready. One that has ended is [`check`](Self::check)'s affair.
    pub(super) async fn is_ready(&self, role: Role) -> bool {
        let address = match role {
            Role::Controller => self.subnet.controller_metrics(),
            Role::Sidecar(member) => self.subnet.metrics(member),
            Role::Application(_) => return true,
        };
        matches!(get(address, "/ready").await, Ok((200, _)))
    }

    /// Kills processes, all at once, and forgets them: what ends from now on is no surprise.
    pub(super) fn kill(&mut self, roles: &[Role]) {
        let is_meant = |running: &Running| roles.iter().any(|role| running.role.is(*role));
        let (mut killed, running): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.running).into_iter().partition(is_meant);
        self.running = running;
        // None may see the end of another: signals first, and then their ends.
        for Running { process, .. } in &mut killed {
            let _ = process.signal(Signal::SIGKILL);
        }
    }

    /// Fails if anyone has ended who should not have.
    ///
    /// # Errors
    /// Who, and the end of its log.
    pub(super) fn check(&mut self) -> Result<(), DemoError> {
        for Running { role, process } in &mut self.running {
            if process.is_running()? {
                continue;
            }
            let status = process.wait(Duration::ZERO)?;
            return Err(DemoError::Ended {
                name: role.to_string(),
                pid: process.pid(),
                status: status.to_string(),
                log: tail(process),
            });
        }
        Ok(())
    }

    /// The last lines of a process's log, for an error.
    pub(super) fn log(&self, role: Role) -> String {
        let process = self.running.iter().find(|running| running.role.is(role));
        process.map(|running| tail(&running.process)).unwrap_or_default()
    }

    /// What the sidecars hold in memory, in bytes, by name.
    ///
    /// # Errors
    /// One of them has ended.
    pub(super) fn memory(&self) -> Result<Vec<(&'static str, u64)>, DemoError> {
        let mut memory = Vec::new();
        for Running { role, process } in &self.running {
            let name = match role {
                Role::Controller => "controller",
                Role::Sidecar(member) => member.name,
                Role::Application(_) => continue,
            };
            memory.push((name, process.usage()?.rss));
        }
        Ok(memory)
    }

    /// Tells all sidecars and then the controller to finish, and checks that they do.
    ///
    /// # Errors
    /// Someone has ended before, or does not end, or not well.
    pub(super) fn finish(&mut self) -> Result<(), DemoError> {
        self.check()?;
        let is_sidecar = |running: &Running| matches!(running.role, Role::Sidecar(_));
        let is_controller = |running: &Running| matches!(running.role, Role::Controller);
        let phases: [&dyn Fn(&Running) -> bool; 2] = [&is_sidecar, &is_controller];
        for is_meant in phases {
            let mut meant: Vec<_> = self
                .running
                .iter_mut()
                .filter(|running| is_meant(running))
                .collect();
            for running in &mut meant {
                running.process.signal(Signal::SIGTERM)?;
            }
            let begun = Instant::now();
            for Running { role, process } in meant {
                let status = process.wait(DRAIN.saturating_sub(begun.elapsed()))?;
                if !status.success() {
                    return Err(DemoError::Ended {
                        name: role.to_string(),
                        pid: process.pid(),
                        status: format!("{status}, where it should have finished"),
                        log: tail(process),
                    });
                }
            }
        }
        self.running.clear();
        Ok(())
    }

    /// In a process group of its own: Ctrl-C is for the demo, which then ends its children in order.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.process_group(0).env_remove("WEFT_LOG");
        // What is shown of its log is shown among other text.
        command.env("NO_COLOR", "1");
        command
    }

    fn spawn(&mut self, role: Role, command: Command) -> Result<u32, DemoError> {
        let process = Process::spawn(&role.to_string(), command)?;
        let pid = process.pid();
        self.running.push(Running { role, process });
        Ok(pid)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_not_built_is_named_with_what_to_type() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("weft");
        std::fs::write(directory.path().join("weft-proxy"), "").unwrap();
        let error = Programs::beside(own.clone()).unwrap_err().to_string();
        assert!(
            error.contains("weft-controller") && error.contains("cargo build --release"),
            "{error}"
        );
        std::fs::write(directory.path().join("weft-controller"), "").unwrap();
        Programs::beside(own).unwrap();
    }
}
