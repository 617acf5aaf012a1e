//! The users of a user namespace. A process without privileges may map itself alone; a range besides is mapped by
//! newuidmap(1) and newgidmap(1), which are privileged, from what subuid(5) and subgid(5) give to its user.

use crate::child::{self, MapGate};
use crate::error::{Doing, Error, Result};
use crate::process::find_program;
use nix::unistd::{Gid, Uid, User};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

/// Makes sure that processes can run as user and group `id` here, as `setpriv` or `Command::uid` make them.
///
/// # Errors
/// [`Error::MissingUsers`] with what to change.
pub fn require_user(id: u32) -> Result<()> {
    for path in ["/proc/self/uid_map", "/proc/self/gid_map"] {
        let map = fs::read_to_string(path).doing(|| format!("read {path}"))?;
        if !is_mapped(&map, id) {
            return Err(Error::MissingUsers { id });
        }
    }
    Ok(())
}

/// Runs a command in a new user namespace, in which it is root; with all the users that this user may map.
pub(super) fn output_in_user_namespace(mut command: Command) -> Result<Output> {
    // After the child has entered its namespace: new credentials undo it.
    let run = |mut command: Command| {
        child::die_with_parent(&mut command);
        command.output().map_err(|error| Error::MissingRights {
            reason: error.to_string(),
        })
    };
    let Some(maps) = Maps::find() else {
        child::enter_new_user_namespace(&mut command);
        return run(command);
    };
    let gate = child::enter_mapped_user_namespace(&mut command)
        .doing(|| "make pipes for a user namespace".to_owned())?;
    thread::scope(|scope| {
        let mapper = scope.spawn(|| maps.write(gate));
        // The command's end of the gate closes with it, also if it never came to it.
        let output = run(command);
        match mapper.join() {
            Ok(Err(error)) => Err(error),
            _ => output,
        }
    })
}

/// What to map besides root, by which programs.
struct Maps {
    uids: (PathBuf, String),
    gids: (PathBuf, String),
}

impl Maps {
    fn find() -> Option<Self> {
        let find = |program, path, own: u32| {
            let program = find_program(program, "uidmap").ok()?;
            let file = fs::read_to_string(path).ok()?;
            let user = User::from_uid(Uid::current()).ok().flatten();
            let name = user.map_or(String::new(), |user| user.name);
            let (first, count) = subordinate(&file, &name, Uid::current().as_raw())?;
            Some((program, format!("0 {own} 1 1 {first} {count}")))
        };
        Some(Self {
            uids: find("newuidmap", "/etc/subuid", Uid::effective().as_raw())?,
            gids: find("newgidmap", "/etc/subgid", Gid::effective().as_raw())?,
        })
    }

    /// Maps the users of the process that waits at the gate, and lets it pass.
    fn write(&self, gate: MapGate) -> Result<()> {
        // It may have failed before it came here: its own error says why.
        let Some(pid) = gate.wait() else {
            return Ok(());
        };
        for (program, map) in [&self.uids, &self.gids] {
            let mut command = Command::new(program);
            command.arg(pid.to_string()).args(map.split(' '));
            let output = command.output().doing(|| format!("start {program:?}"))?;
            if !output.status.success() {
                return Err(Error::Command {
                    command: format!("{program:?} {pid} {map}"),
                    stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                });
            }
        }
        gate.open()
            .doing(|| "let a process into its user namespace".to_owned())
    }
}

/// The first range that subuid(5) gives to a user: its first number and how many.
fn subordinate(file: &str, name: &str, uid: u32) -> Option<(u32, u32)> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let is_ours = owner == name || owner == uid.to_string();
        let range = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        is_ours.then_some(range)
    })
}

/// Whether a map of user_namespaces(7) has an inside number.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (first..first + count).contains(&u64::from(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_or_number() {
        let file = "root:100000:65536\nann:165536:65536\n1002:231072:1000\nbroken\n";
        assert_eq!(subordinate(file, "ann", 1001), Some((165_536, 65_536)));
        assert_eq!(subordinate(file, "bob", 1002), Some((231_072, 1000)));
        assert_eq!(subordinate(file, "eve", 1003), None);
    }

    #[test]
    fn maps_say_who_exists() {
        assert!(is_mapped("         0          0 4294967295\n", 65_534));
        let two = "0 1001 1\n1 165536 1000\n";
        assert!(is_mapped(two, 0) && is_mapped(two, 1000));
        assert!(!is_mapped(two, 1001));
    }
}
