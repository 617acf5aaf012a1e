//! Child processes: started, waited for until they are ready, measured, and never left behind.
//!
//! Usage figures come from `/proc` and work for any process of this user, in whatever network namespace.

mod usage;

use crate::child;
use crate::error::{Doing, Error, Result};
use crate::netns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use usage::{Machine, Udp, Usage};

/// How often the state of another process is looked at: the kernel has no event for it.
const POLL: Duration = Duration::from_millis(5);

/// Kept lines of a process's output.
const LOG_LINES: usize = 10_000;

/// Lines of the log in an error.
const LOG_TAIL: usize = 20;

/// What makes a process ready.
#[derive(Debug, Clone)]
pub enum Ready {
    /// It listens on this TCP port, or has bound this UDP port. Seen in `/proc`, without a connection to it.
    Port(u16),
    /// A line of its output contains this.
    Line(String),
    /// It answers 200 to `GET path` at this address, in its own network namespace.
    Http(SocketAddr, String),
}

/// A child process. It is killed when this is dropped, and by the kernel when this process ends, however it ends.
///
/// The kernel ties a child to the *thread* that started it: start processes from a thread that outlives them
/// (the main one, a test's own), not from one of a pool.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
}

impl Process {
    /// Starts `command` with its output captured under `name`.
    ///
    /// # Errors
    /// That it could not be started.
    pub fn spawn(name: &str, mut command: Command) -> Result<Self> {
        child::die_with_parent(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .doing(|| format!("start {name} ({:?})", command.get_program()))?;
        let log = Arc::new(Log::default());
        if let Some(stdout) = child.stdout.take() {
            log.follow(stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            log.follow(stderr);
        }
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Starts `command` and waits until it is ready.
    ///
    /// # Errors
    /// As [`Process::spawn`] and [`Process::wait_ready`].
    pub fn spawn_ready(name: &str, command: Command, ready: &Ready, timeout: Duration) -> Result<Self> {
        let mut process = Self::spawn(name, command)?;
        process.wait_ready(ready, timeout)?;
        Ok(process)
    }

    /// Its name here.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// That it ended, or was not ready in time, with the end of its log.
    pub fn wait_ready(&mut self, ready: &Ready, timeout: Duration) -> Result<()> {
        let what = match ready {
            Ready::Line(text) => return self.wait_line(text, timeout).map(drop),
            Ready::Port(port) => format!("socket on port {port}"),
            Ready::Http(address, path) => format!("200 from http://{address}{path}"),
        };
        let started = Instant::now();
        loop {
            let is_ready = match ready {
                Ready::Line(_) => true,
                Ready::Port(port) => usage::has_port(self.pid(), *port),
                Ready::Http(address, path) => {
                    netns::in_network_of(self.pid(), || answers_ok(*address, path)).unwrap_or(false)
                }
            };
            if is_ready {
                return Ok(());
            }
            self.check_running()?;
            if started.elapsed() > timeout {
                return Err(self.timed_out(&what, timeout));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits until a line of its output, past or to come, contains `text`; gives the line.
    ///
    /// # Errors
    /// That it ended, or wrote no such line in time.
    pub fn wait_line(&mut self, text: &str, timeout: Duration) -> Result<String> {
        let started = Instant::now();
        if let Some(line) = self.log.wait_for(text, timeout) {
            return Ok(line);
        }
        // Its output can end a moment before it does itself.
        while started.elapsed() < timeout {
            self.check_running()?;
            std::thread::sleep(POLL);
        }
        self.check_running()?;
        Err(self.timed_out(&format!("line with {text:?}"), timeout))
    }

    /// Its output so far, standard output and standard error in the order of arrival.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().lines.iter().cloned().collect()
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// That it has ended.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid())
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// That it could not be asked.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self
            .child
            .try_wait()
            .doing(|| format!("look at {}", self.name))?
            .is_none())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// That it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // The pid is ours as long as the child is not reaped, which only `try_wait` and `wait` do.
        self.check_running()?;
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap_or_default());
        kill(pid, signal).doing(|| format!("signal {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// That it still runs after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .doing(|| format!("wait for {}", self.name))?
            {
                return Ok(status);
            }
            if started.elapsed() > timeout {
                return Err(self.timed_out("end", timeout));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Asks it to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// That it had ended before, or still runs after `timeout`.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(timeout)
    }

    /// Kills it now (SIGKILL) and reaps it; nothing happens if it has ended.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait().doing(|| format!("look at {}", self.name))? {
            None => Ok(()),
            Some(status) => {
                // Its last words may still be in the pipe.
                self.log.wait_for_end(Duration::from_secs(1));
                Err(Error::Ended {
                    name: self.name.clone(),
                    status: status.to_string(),
                    log: self.log.tail(),
                })
            }
        }
    }

    fn timed_out(&self, what: &str, waited: Duration) -> Error {
        Error::TimedOut {
            name: self.name.clone(),
            what: what.to_owned(),
            waited,
            log: self.log.tail(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where a program is, on the path and in the system directories that an ordinary user's path lacks.
///
/// # Errors
/// That it is missing, with the Debian package that has it.
pub fn find_program(program: &str, package: &'static str) -> Result<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), "/usr/bin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Error::MissingProgram {
            program: program.to_owned(),
            package,
        })
}

/// A process's output.
#[derive(Debug, Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    lines: VecDeque<String>,
    /// Lines that no longer fit.
    dropped: usize,
    open_streams: usize,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        self.lock().open_streams += 1;
        let log = Arc::clone(self);
        // Ends when the last holder of the pipe's other end does.
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                log.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
            log.lock().open_streams -= 1;
            log.changed.notify_all();
        });
    }

    fn push(&self, line: String) {
        let mut state = self.lock();
        if state.lines.len() == LOG_LINES {
            state.lines.pop_front();
            state.dropped += 1;
        }
        state.lines.push_back(line);
        self.changed.notify_all();
    }

    fn wait_for(&self, text: &str, timeout: Duration) -> Option<String> {
        let deadline = Instant::now() + timeout;
        let mut searched = 0;
        let mut state = self.lock();
        loop {
            let start = searched.max(state.dropped) - state.dropped;
            if let Some(line) = state.lines.iter().skip(start).find(|line| line.contains(text)) {
                return Some(line.clone());
            }
            searched = state.dropped + state.lines.len();
            let left = deadline.checked_duration_since(Instant::now())?;
            if state.open_streams == 0 {
                return None;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn wait_for_end(&self, timeout: Duration) {
        let state = self.lock();
        drop(
            self.changed
                .wait_timeout_while(state, timeout, |state| state.open_streams > 0),
        );
    }

    fn tail(&self) -> String {
        let state = self.lock();
        let skipped = state.lines.len().saturating_sub(LOG_TAIL);
        state
            .lines
            .iter()
            .skip(skipped)
            .map(|line| format!("  {line}\n"))
            .collect()
    }
}

fn answers_ok(address: SocketAddr, path: &str) -> bool {
    const PATIENCE: Duration = Duration::from_secs(1);
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    ask().is_ok_and(|line| line.split(' ').nth(1) == Some("200"))
}
