//! The documents of a mesh from files, read again when they change.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use weft_proto::{DocumentError, Source, model::Mesh, parse::parse_documents};

use crate::config::error_of_file;

/// How often the files are looked at. Their text is compared, so that no kind of replacement is missed; it is small,
/// and SIGHUP looks at once.
const POLL: Duration = Duration::from_secs(2);

/// Follows the files.
pub(crate) struct DocumentsWatcher {
    paths: Vec<PathBuf>,
    sources: Vec<Source>,
    mesh: watch::Sender<Arc<Mesh>>,
    problem: watch::Sender<Option<String>>,
}

/// All that is wrong with some files.
#[derive(Debug, thiserror::Error)]
#[error("{}", lines(.0))]
pub(crate) struct ConfigErrors(pub(crate) Vec<DocumentError>);

fn lines(errors: &[DocumentError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn read_source(path: &std::path::Path) -> Result<Source, DocumentError> {
    let file = path.display().to_string();
    std::fs::read_to_string(path).map(|text| Source::new(file.clone(), text)).map_err(|error| error_of_file(file, error))
}

/// What the files say.
#[derive(Clone, Debug)]
pub(crate) struct Documents {
    /// The last that was right.
    pub(crate) mesh: watch::Receiver<Arc<Mesh>>,
    /// What is wrong with the files as they are now.
    pub(crate) problem: watch::Receiver<Option<String>>,
}

impl DocumentsWatcher {
    /// Reads the files.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(crate) fn load(paths: &[PathBuf]) -> Result<(Self, Documents), ConfigErrors> {
        let sources = read(paths).map_err(ConfigErrors)?;
        let current = parse_documents(&sources).map_err(ConfigErrors)?;
        let (mesh, mesh_seen) = watch::channel(Arc::new(current));
        let (problem, problem_seen) = watch::channel(None);
        let watcher = Self { paths: paths.to_vec(), sources, mesh, problem };
        Ok((watcher, Documents { mesh: mesh_seen, problem: problem_seen }))
    }

    /// Follows the files until the process ends.
    ///
    /// # Errors
    /// SIGHUP cannot be listened for.
    pub(crate) async fn run(mut self) -> io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = hangup.recv() => {}
            }
            self.look();
        }
    }

    /// Publishes what the files say if that is new and right; else the last that was right stays.
    fn look(&mut self) {
        let errors = match read(&self.paths) {
            Ok(sources) if sources == self.sources => return,
            Ok(sources) => {
                let parsed = parse_documents(&sources);
                self.sources = sources;
                match parsed {
                    Ok(mesh) => {
                        self.problem.send_replace(None);
                        self.mesh.send_replace(Arc::new(mesh));
                        return;
                    }
                    Err(errors) => errors,
                }
            }
            Err(errors) => errors,
        };
        let text = ConfigErrors(errors).to_string();
        if self.problem.borrow().as_deref() != Some(text.as_str()) {
            tracing::error!("the documents are wrong; the last good ones stay:\n{text}");
            self.problem.send_replace(Some(text));
        }
    }
}

/// All files, or everything that is wrong with reading them.
fn read(paths: &[PathBuf]) -> Result<Vec<Source>, Vec<DocumentError>> {
    let (mut sources, mut errors) = (Vec::new(), Vec::new());
    for path in paths {
        match read_source(path) {
            Ok(source) => sources.push(source),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(sources) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESH: &str = "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {trustDomain: TD}\n";

    fn mesh(trust_domain: &str) -> String {
        MESH.replace("TD", trust_domain)
    }

    #[test]
    fn a_change_is_published_and_a_wrong_one_leaves_the_last_good() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.yaml");
        std::fs::write(&path, mesh("one.example")).unwrap();
        let (mut watcher, documents) = DocumentsWatcher::load(std::slice::from_ref(&path)).unwrap();
        let trust_domain = || documents.mesh.borrow().config.trust_domain.as_str().to_owned();
        assert_eq!(trust_domain(), "one.example");

        std::fs::write(&path, mesh("two.example")).unwrap();
        watcher.look();
        assert_eq!(trust_domain(), "two.example");

        std::fs::write(&path, mesh("!")).unwrap();
        watcher.look();
        assert_eq!(trust_domain(), "two.example");
        assert!(documents.problem.borrow().as_ref().unwrap().contains("spec.trustDomain"));

        std::fs::remove_file(&path).unwrap();
        watcher.look();
        assert_eq!(trust_domain(), "two.example");

        std::fs::write(&path, mesh("three.example")).unwrap();
        watcher.look();
        assert_eq!((trust_domain().as_str(), documents.problem.borrow().is_none()), ("three.example", true));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = DocumentsWatcher::load(&["/nowhere/mesh.yaml".into()]).err().unwrap().to_string();
        assert!(error.starts_with("/nowhere/mesh.yaml"), "{error}");
    }
}
