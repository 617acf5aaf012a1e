//! What a child process does between fork and exec. The standard library marks `pre_exec` unsafe because only
//! async-signal-safe calls are allowed there.

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{getpid, getppid, pipe2, read, write};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

/// Makes the kernel kill the child when the thread that spawns it ends, however this process ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    before_exec(command, move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have ended before the call above: then nobody is left to be followed.
        if getppid() == parent {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    });
}

/// Puts the child into a network namespace.
pub(crate) fn enter_network(command: &mut Command, namespace: Arc<OwnedFd>) {
    before_exec(command, move || Ok(setns(&*namespace, CloneFlags::CLONE_NEWNET)?));
}

/// Puts the child into a user namespace of its own, in which it is root.
pub(crate) fn enter_new_user_namespace(command: &mut Command) {
    let maps = UserMaps::of_this_user();
    before_exec(command, move || {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        maps.write()
    });
}

/// Puts the child into a user namespace of its own and stops it there, until others have mapped its users.
pub(crate) fn enter_mapped_user_namespace(command: &mut Command) -> io::Result<MapGate> {
    let (at_gate, its_arrival) = pipe2(OFlag::O_CLOEXEC)?;
    let (its_way, opens) = pipe2(OFlag::O_CLOEXEC)?;
    before_exec(command, move || {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        write(&its_arrival, &getpid().as_raw().to_ne_bytes())?;
        match read(&its_way, &mut [0])? {
            1 => Ok(()),
            _ => Err(io::ErrorKind::PermissionDenied.into()),
        }
    });
    Ok(MapGate { at_gate, opens })
}

/// Where a child waits for its users. It fails if this is dropped before it is open.
pub(crate) struct MapGate {
    at_gate: OwnedFd,
    opens: OwnedFd,
}

impl MapGate {
    /// Waits for the child: its process id, unless it ended before.
    pub(crate) fn wait(&self) -> Option<i32> {
        let mut pid = [0; size_of::<i32>()];
        let length = read(&self.at_gate, &mut pid).ok()?;
        (length == pid.len()).then(|| i32::from_ne_bytes(pid))
    }

    /// Lets the child go on.
    pub(crate) fn open(&self) -> io::Result<()> {
        write(&self.opens, &[1])?;
        Ok(())
    }
}

/// The contents of a new user namespace's map files, made before the fork because formatting allocates.
pub(crate) struct UserMaps {
    uid: String,
    gid: String,
}

impl UserMaps {
    /// Maps the present user and group to root.
    pub(crate) fn of_this_user() -> Self {
        Self {
            uid: format!("0 {} 1", nix::unistd::geteuid()),
            gid: format!("0 {} 1", nix::unistd::getegid()),
        }
    }

    /// Writes the maps of the calling process's new user namespace (user_namespaces(7): `setgroups` first).
    pub(crate) fn write(&self) -> io::Result<()> {
        for (path, text) in [
            (c"/proc/self/setgroups", "deny"),
            (c"/proc/self/uid_map", self.uid.as_str()),
            (c"/proc/self/gid_map", self.gid.as_str()),
        ] {
            let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
            write(&file, text.as_bytes())?;
        }
        Ok(())
    }
}

#[expect(unsafe_code, reason = "pre_exec has no safe form; every hook is in this file")]
fn before_exec(command: &mut Command, hook: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: the hooks in this file make system calls on values prepared before the fork, allocate nothing and
    // take no lock, so that they are sound in the child of a process with threads.
    unsafe { command.pre_exec(hook) };
}
