//! What one process leaves to the next in its state directory, so that peers need not wait for a timeout.
//!
//! After a crash, peers still send to the old connections. The next process can tell them at once that those
//! are gone (a stateless reset, RFC 9000 section 10.3), but only with the keys of its predecessor.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::{hmac, rand as secure};

use crate::cid::CidKey;

const KEYS_FILE: &str = "quic.keys";
const EPOCH_FILE: &str = "quic.epoch";
/// Connection-ID key, then stateless-reset key.
const KEYS_LEN: usize = 64;

/// The keys that outlive the process, and how many processes have used them.
#[derive(Clone)]
pub struct EndpointState {
    pub(crate) cid_key: CidKey,
    pub(crate) reset_key: hmac::Key,
    /// Starts of a process on this state directory so far, modulo 65,536.
    pub epoch: u16,
}

/// The state directory can't be used.
#[derive(Debug, thiserror::Error)]
#[error("state directory: {}: {problem}", path.display())]
pub struct StateError {
    /// The file or directory at fault.
    pub path: PathBuf,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(
        "is not a file of keys that Weft wrote ({0} bytes; expected {KEYS_LEN}); remove it to start afresh"
    )]
    Length(usize),
    #[error("is readable by others (mode {0:o}); it must be 700 for the directory and 600 for its files")]
    Mode(u32),
    #[error("the system has no randomness")]
    Random,
}

impl EndpointState {
    /// Opens the state in `directory`, made with mode 0700 if it is missing, and counts this start.
    ///
    /// # Errors
    /// The directory can't be made, read or written; or others may read it.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |problem: Problem| StateError { path, problem }
        };
        make_private(directory).map_err(at(directory))?;
        let keys_path = directory.join(KEYS_FILE);
        let keys = read_or_make_keys(&keys_path).map_err(at(&keys_path))?;
        let epoch_path = directory.join(EPOCH_FILE);
        let epoch = next_epoch(&epoch_path).map_err(at(&epoch_path))?;
        Ok(Self::from_secrets(&keys, epoch))
    }

    /// State that ends with the process: peers of a crashed process wait for their idle timeout.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn ephemeral() -> Result<Self, StateError> {
        let keys = random_keys().map_err(|problem| StateError {
            path: PathBuf::new(),
            problem,
        })?;
        Ok(Self::from_secrets(&keys, 0))
    }

    /// State from given secrets, for tests that must repeat.
    pub fn from_secrets(keys: &[u8; KEYS_LEN], epoch: u16) -> Self {
        let (cid, reset) = keys.split_at(32);
        let mut secret = [0; 32];
        secret.copy_from_slice(cid);
        Self {
            cid_key: CidKey::new(&secret),
            reset_key: hmac::Key::new(hmac::HMAC_SHA256, reset),
            epoch,
        }
    }
}

impl std::fmt::Debug for EndpointState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointState")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

fn make_private(directory: &Path) -> Result<(), Problem> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    check_mode(directory)
}

fn check_mode(path: &Path) -> Result<(), Problem> {
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Problem::Mode(mode));
    }
    Ok(())
}

fn read_or_make_keys(path: &Path) -> Result<[u8; KEYS_LEN], Problem> {
    match fs::read(path) {
        Ok(bytes) => {
            check_mode(path)?;
            bytes
                .as_slice()
                .try_into()
                .map_err(|_| Problem::Length(bytes.len()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let keys = random_keys()?;
            write_private(path, &keys)?;
            Ok(keys)
        }
        Err(error) => Err(error.into()),
    }
}

fn random_keys() -> Result<[u8; KEYS_LEN], Problem> {
    let mut keys = [0; KEYS_LEN];
    secure::fill(&mut keys).map_err(|_| Problem::Random)?;
    Ok(keys)
}

/// A missing or damaged counter starts anew: epochs only have to differ from those of recent processes.
fn next_epoch(path: &Path) -> Result<u16, Problem> {
    let last = fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse::<u16>().ok());
    let next = last.map_or(1, |epoch| epoch.wrapping_add(1));
    write_private(path, format!("{next}\n").as_bytes())?;
    Ok(next)
}

/// Whole or not at all: a file half-written by a crash would lock the next process out.
fn write_private(path: &Path, contents: &[u8]) -> Result<(), Problem> {
    use io::Write;
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_has_the_same_keys_and_a_later_epoch() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let first = EndpointState::open(&path).unwrap();
        let cid = first.cid_key.seal(
            crate::cid::CidInfo {
                worker: 0,
                epoch: first.epoch,
            },
            [1; 6],
        );
        let second = EndpointState::open(&path).unwrap();
        assert_eq!(second.epoch, first.epoch + 1);
        assert_eq!(second.cid_key.open(&cid).unwrap().epoch, first.epoch);
    }

    #[test]
    fn keys_are_private_from_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        EndpointState::open(&path).unwrap();
        for file in [path.clone(), path.join(KEYS_FILE), path.join(EPOCH_FILE)] {
            assert_eq!(
                fs::metadata(&file).unwrap().permissions().mode() & 0o077,
                0,
                "{file:?}"
            );
        }
    }

    #[test]
    fn keys_that_others_may_read_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        EndpointState::open(&path).unwrap();
        fs::set_permissions(path.join(KEYS_FILE), fs::Permissions::from_mode(0o644)).unwrap();
        let error = EndpointState::open(&path).unwrap_err().to_string();
        assert!(
            error.contains("readable by others") && error.contains(KEYS_FILE),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_key_file_is_named_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        EndpointState::open(&path).unwrap();
        fs::write(path.join(KEYS_FILE), b"short").unwrap();
        let error = EndpointState::open(&path).unwrap_err().to_string();
        assert!(error.contains("5 bytes"), "{error}");
        assert_eq!(fs::read(path.join(KEYS_FILE)).unwrap(), b"short");
    }

    #[test]
    fn a_damaged_counter_starts_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        EndpointState::open(&path).unwrap();
        fs::write(path.join(EPOCH_FILE), b"???").unwrap();
        assert_eq!(EndpointState::open(&path).unwrap().epoch, 1);
    }
}
