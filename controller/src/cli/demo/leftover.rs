//! Someone who kept a certificate of a root that was retired: a copy of what the frontend's sidecar had before the
//! rotation, in the hands of another sidecar.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    DemoError, Shop, pages,
    plan::{CATALOG, FRONTEND, LEFTOVER},
    table::milliseconds,
};

/// How long it may take until it is clear that it is refused.
const LIMIT: Duration = Duration::from_secs(20);

/// The copy.
pub(super) struct Leftover(());

impl Leftover {
    /// Copies what the frontend's sidecar keeps.
    ///
    /// # Errors
    /// It cannot be copied.
    pub(super) fn take(directory: &Path) -> Result<Self, DemoError> {
        let (from, to) = (directory.join(FRONTEND.state()), directory.join(LEFTOVER.state()));
        match fs::remove_dir_all(&to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&to)(error)),
            _ => {}
        }
        copy(&from, &to)?;
        Ok(Self(()))
    }
}

impl Shop {
    /// Starts the sidecar with the copy, and gives how it is refused.
    ///
    /// # Errors
    /// It is not.
    pub(super) async fn refused(&mut self, _copy: Leftover) -> Result<String, DemoError> {
        self.write(&LEFTOVER.file(), &LEFTOVER.config(self.subnet))?;
        let mut process = self.fleet.start_apart(&LEFTOVER)?;
        let begun = Instant::now();
        let outbound = self.subnet.outbound(&LEFTOVER);
        let failed = |message: String| DemoError::Step {
            step: "have a certificate of the retired root refused".to_owned(),
            message,
        };
        let mut answer = String::new();
        loop {
            self.tick().await?;
            match pages::request(outbound, &CATALOG.host(), "/").await {
                Ok((200, _)) => return Err(failed("it is still accepted".to_owned())),
                Ok((status, body)) => answer = format!("status {status}, {}", body.trim()),
                Err(_) => {}
            }
            let log = process.log();
            let line = log.iter().rev().find(|line| is_refusal(line));
            if let (Some(line), false) = (line, answer.is_empty()) {
                self.show.say(format_args!(
                    "  a copy of the frontend's certificate of the old root, after {}:",
                    milliseconds(begun.elapsed())
                ));
                self.show.say(format_args!("    its sidecar:   {line}"));
                self.show.say(format_args!("    its requests:  {answer}"));
                return Ok(line.clone());
            }
            let is_running = process.is_running()?;
            if begun.elapsed() > LIMIT || !is_running {
                return Err(failed(format!(
                    "nothing says so (requests: {answer:?}); its log:\n  {}",
                    log.join("\n  ")
                )));
            }
        }
    }
}

fn is_refusal(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    ["warn", "error"].iter().any(|level| line.contains(level))
        && ["certificate", "root", "unknownca", "authority"]
            .iter()
            .any(|word| line.contains(word))
}

fn copy(from: &Path, to: &Path) -> Result<(), DemoError> {
    fs::create_dir(to).map_err(at(to))?;
    // As the sidecar keeps it: else it would refuse to use it.
    let permissions = fs::metadata(from).map_err(at(from))?.permissions();
    fs::set_permissions(to, permissions).map_err(at(to))?;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(at(&source))?.is_dir() {
            copy(&source, &target)?;
            continue;
        }
        match fs::copy(&source, &target) {
            // The sidecar that is copied goes on, and may have replaced it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => drop(result.map_err(at(&source))?),
        }
    }
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DemoError + use<> {
    let path: PathBuf = path.to_owned();
    move |source| DemoError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_copy_is_whole_and_as_closed_as_what_was_copied() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join(FRONTEND.state());
        fs::create_dir_all(state.join("cache")).unwrap();
        fs::write(state.join("key"), "secret").unwrap();
        fs::write(state.join("cache/documents"), "all").unwrap();
        fs::set_permissions(state.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        for _ in 0..2 {
            Leftover::take(directory.path()).unwrap();
        }
        let copied = directory.path().join(LEFTOVER.state());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&copied), mode(&copied.join("key"))), (0o700, 0o600));
        assert_eq!(fs::read_to_string(copied.join("cache/documents")).unwrap(), "all");
    }

    #[test]
    fn only_what_is_said_of_certificates_is_a_refusal() {
        assert!(is_refusal(
            "2026 WARN control: the controller refuses our certificate"
        ));
        assert!(!is_refusal("2026 INFO identity: certificate loaded"));
        assert!(!is_refusal("2026 WARN control: connection refused"));
    }
}
