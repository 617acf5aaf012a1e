//! Hosts as network namespaces, joined by links.
//!
//! A [`Link`] is the kernel's own and fast; an [`ImpairedLink`] is run by a thread of this process, which delays,
//! loses, reorders, corrupts, cuts and translates as told.
//!
//! A [`Host`] is an anonymous namespace, held only by open files of this process and by the processes in it: it
//! vanishes with them, however they end, and leaves nothing under `/run/netns`.
//!
//! Making one takes root, or a user namespace in which this process is root: call [`acquire_rights`] first thing
//! in `main`, or wrap a test in [`privileged`].

mod impaired;
pub mod impairment;
mod link;
mod nat;
mod packet;
mod routes;
mod sniffer;
mod tun;
mod users;

pub use impaired::{Counters, Direction, ImpairedLink, ImpairedOptions};
pub use link::{Link, LinkOptions};
pub use nat::Rebind;
pub use routes::Route;
pub use sniffer::{Seen, Sniffer};
pub use users::require_user;

use crate::child::{self, UserMaps};
use crate::error::{Doing, Error, Result};
use crate::process::find_program;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::{io, thread};

/// The namespace of the calling thread.
const OWN_NETWORK: &str = "/proc/thread-self/ns/net";

/// Set in a test process that [`privileged`] has started in a user namespace.
const REEXECUTED: &str = "WEFT_LAB_REEXECUTED";

/// A network namespace with its loopback up; clones are the same host.
#[derive(Debug, Clone)]
pub struct Host {
    name: Arc<str>,
    namespace: Arc<OwnedFd>,
}

impl Host {
    /// A new host with no link but its loopback.
    ///
    /// # Errors
    /// [`Error::MissingRights`], or that `ip` is missing.
    pub fn new(name: &str) -> Result<Self> {
        let namespace = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(missing_rights)?;
            File::open(OWN_NETWORK).doing(|| format!("open {OWN_NETWORK}"))
        })??;
        let host = Self {
            name: name.into(),
            namespace: Arc::new(namespace.into()),
        };
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run in this host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        child::enter_network(&mut command, Arc::clone(&self.namespace));
        command
    }

    /// Calls `f` on a thread in this host. Sockets that it makes stay in this host, wherever they are used.
    ///
    /// # Errors
    /// That the namespace could not be entered.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        on_a_thread(|| {
            setns(&*self.namespace, CloneFlags::CLONE_NEWNET)
                .doing(|| format!("enter host {}", self.name))?;
            Ok(f())
        })?
    }

    /// Sets a network parameter of this host, as `ipv4.tcp_rmem`.
    ///
    /// # Errors
    /// That there is no such parameter, or that it belongs to the whole machine.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{}", key.replace('.', "/"));
        self.run(|| fs::write(&path, value))?
            .doing(|| format!("set net.{key} of host {}", self.name))
    }

    /// A network parameter of this host.
    ///
    /// # Errors
    /// That there is no such parameter.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        let path = format!("/proc/sys/net/{}", key.replace('.', "/"));
        let value = self
            .run(|| fs::read_to_string(&path))?
            .doing(|| format!("read net.{key}"))?;
        Ok(value.trim().to_owned())
    }

    /// Runs `ip` with commands, one a line.
    fn ip(&self, commands: &str) -> Result<()> {
        self.tool("ip", "iproute2", &["-batch", "-"], commands).map(drop)
    }

    /// Runs a program in this host with `input` on its standard input; gives its standard output.
    fn tool(&self, program: &str, package: &'static str, args: &[&str], input: &str) -> Result<String> {
        let mut command = self.command(find_program(program, package)?);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .doing(|| format!("start {program} in host {}", self.name))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends without reading says why on its standard error.
            stdin.write_all(input.as_bytes()).ok();
        }
        let output = child.wait_with_output().doing(|| format!("wait for {program}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::Command {
            command: format!("{program} {} <<< {}", args.join(" "), input.trim()),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// A path by which a child of this process can name the namespace.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }
}

/// Makes sure that this process can make hosts, entering a user namespace of its own if need be. Call it before
/// the process starts a thread.
///
/// # Errors
/// [`Error::MissingRights`] with what to change.
pub fn acquire_rights() -> Result<()> {
    if rights().is_ok() {
        return Ok(());
    }
    let maps = UserMaps::of_this_user();
    unshare(CloneFlags::CLONE_NEWUSER).map_err(missing_rights)?;
    maps.write()
        .doing(|| "map this user to root in a new user namespace".to_owned())?;
    rights()
}

/// Whether this process can make hosts as it is.
///
/// # Errors
/// [`Error::MissingRights`] with what to change.
pub fn rights() -> Result<()> {
    on_a_thread(|| unshare(CloneFlags::CLONE_NEWNET).map_err(missing_rights))?
}

/// Runs the body of a `#[test]` with the rights to make hosts. Without them, the test's own binary is run again in
/// a user namespace, for this test alone; the body then runs there, and its outcome is this one's.
///
/// In that namespace there is root, and as many other users as this user may map: a body that needs some calls
/// [`require_user`].
///
/// Give it a closure written in the test function itself: its type tells the test's name.
///
/// # Errors
/// That the rights are not to be had, or that the test failed in the user namespace.
pub fn privileged<F: FnOnce()>(body: F) -> Result<()> {
    let missing = match rights() {
        Ok(()) => {
            body();
            return Ok(());
        }
        Err(missing) => missing,
    };
    if std::env::var_os(REEXECUTED).is_some() {
        return Err(missing);
    }
    let name = test_name(std::any::type_name::<F>());
    let mut command = Command::new(std::env::current_exe().doing(|| "find this test's binary".to_owned())?);
    command
        .args([name, "--exact", "--nocapture"])
        .env(REEXECUTED, "1");
    let output = users::output_in_user_namespace(command)?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && stdout.contains("1 passed") {
        return Ok(());
    }
    let stderr = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    Err(Error::Command {
        command: format!("{name}, in a user namespace"),
        stderr,
    })
}

/// Calls `f` on a thread in the network namespace of process `pid`.
pub(crate) fn in_network_of<T: Send>(pid: u32, f: impl FnOnce() -> T + Send) -> Result<T> {
    let path = format!("/proc/{pid}/ns/net");
    let theirs = File::open(&path).doing(|| format!("open {path}"))?;
    let inode = |metadata: io::Result<fs::Metadata>| metadata.map(|metadata| metadata.ino()).ok();
    on_a_thread(|| {
        if inode(theirs.metadata()) != inode(Path::new(OWN_NETWORK).metadata()) {
            setns(&theirs, CloneFlags::CLONE_NEWNET)
                .doing(|| format!("enter the network of process {pid}"))?;
        }
        Ok(f())
    })?
}

/// Namespaces belong to threads: what changes one runs on a thread of its own.
fn on_a_thread<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(f).join())
        .map_err(|_| Error::Protocol("a thread in a network namespace panicked".to_owned()))
}

fn missing_rights(error: Errno) -> Error {
    Error::MissingRights {
        reason: error.desc().to_owned(),
    }
}

/// `crate::module::test::{{closure}}` -> `module::test`, libtest's name.
fn test_name(closure: &'static str) -> &'static str {
    let function = closure.split("::{{closure}}").next().unwrap_or(closure);
    function.split_once("::").map_or(function, |(_, name)| name)
}
