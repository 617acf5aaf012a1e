//! What can go wrong in the laboratory itself, told so that its user can mend it.

use std::io;
use std::time::Duration;

/// The result of an operation of the laboratory.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the laboratory; never a failure of what is tested in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operating-system call failed while doing `doing`.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the file or address concerned.
        doing: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A program that the laboratory calls is not installed.
    #[error("the program `{program}` is missing: install the package `{package}`")]
    MissingProgram {
        /// The program's name.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// This process may not make network namespaces.
    #[error(
        "network namespaces are out of reach ({reason}). Run as root, or allow unprivileged user namespaces \
         (sysctl user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1 on Debian kernels, \
         kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu; in a container: --privileged)"
    )]
    MissingRights {
        /// What was refused.
        reason: String,
    },
    /// No process can run as this user.
    #[error(
        "user and group {id} do not exist in this user namespace. Run as root, or install the package `uidmap` and \
         give this user ranges in /etc/subuid and /etc/subgid (usermod --add-subuids 100000-165535 \
         --add-subgids 100000-165535 USER)"
    )]
    MissingUsers {
        /// The number asked for.
        id: u32,
    },
    /// This process may not make TUN devices.
    #[error(
        "TUN devices are out of reach (/dev/net/tun: {reason}). Load the module (modprobe tun) and let this user open \
         the device (mode 0666, as distributions have it; in a container: --device /dev/net/tun)"
    )]
    MissingTun {
        /// What was refused.
        reason: String,
    },
    /// A program that the laboratory called answered with an error.
    #[error("`{command}` failed: {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// A child process ended although it should still run.
    #[error("{name} ended ({status}); the end of its log:\n{log}")]
    Ended {
        /// The name that it was given.
        name: String,
        /// Its exit status.
        status: String,
        /// Its last lines.
        log: String,
    },
    /// Something did not happen in time.
    #[error("{name}: no {what} within {waited:?}; the end of its log:\n{log}")]
    TimedOut {
        /// The name of the process waited for.
        name: String,
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// Its last lines.
        log: String,
    },
    /// The other side did not speak the protocol.
    #[error("{0}")]
    Protocol(String),
}

/// Says what was being done when an I/O error came.
pub(crate) trait Doing<T> {
    /// Adds what was being done.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, S: Into<io::Error>> Doing<T> for std::result::Result<T, S> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io {
            doing: doing(),
            source: source.into(),
        })
    }
}
