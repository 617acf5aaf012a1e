//! What a child process does between fork and exec. The standard library marks `pre_exec` unsafe because only
//! async-signal-safe calls are allowed there.

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{getpid, getppid, write};
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
