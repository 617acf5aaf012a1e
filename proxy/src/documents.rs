//! The documents of the mesh from files: read at the start, and again whenever they change.
//!
//! How they are followed, and what happens while they are in the middle of a change: [`crate::watch_files`].
//! Documents are taken as a whole: one error in one file, and the last good ones of all files stay in use.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{Context, SHA256};
use tokio::sync::watch;
use weft_proto::{DocumentError, Source, model::Mesh, parse::parse_documents};

use crate::{
    config::error_of_file,
    watch_files::{Decision, Hangup, Looks, Reloader, read_file},
};

/// Room for a hundred thousand documents; a bound on what a wrong path can make us read.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// No YAML: it stands for a file that cannot be read, so that no document is found missing that may be in there.
const UNREADABLE: &str = "}";

/// Everything that is wrong with some files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct ConfigErrors(pub(crate) Vec<DocumentError>);

impl fmt::Display for ConfigErrors {
    /// A line for each, and one that counts them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.0 {
            writeln!(f, "{error}")?;
        }
        match self.0.len() {
            1 => f.write_str("1 error"),
            count => write!(f, "{count} errors"),
        }
    }
}

/// Keeps the mesh as the files have it.
#[derive(Debug)]
pub(crate) struct DocumentsWatcher {
    follower: Follower,
    mesh: watch::Sender<Arc<Mesh>>,
    problem: watch::Sender<Option<String>>,
}

/// What others see of it.
#[derive(Clone, Debug)]
pub(crate) struct Documents {
    /// The last that was right.
    pub(crate) mesh: watch::Receiver<Arc<Mesh>>,
    /// What is wrong with the files as they are now, if so.
    pub(crate) problem: watch::Receiver<Option<String>>,
}

impl DocumentsWatcher {
    /// Reads the files.
    ///
    /// # Errors
    /// Everything that is wrong with them, in their order.
    pub(crate) fn load(paths: &[PathBuf]) -> Result<(Self, Documents), ConfigErrors> {
        let files = Files::read(paths);
        let current = Arc::new(files.parse()?);
        let (mesh, mesh_seen) = watch::channel(current.clone());
        let (problem, problem_seen) = watch::channel(None);
        let follower = Follower {
            paths: paths.to_vec(),
            reloader: Reloader::new(files.digest(), current),
            refused: None,
        };
        let watcher = Self {
            follower,
            mesh,
            problem,
        };
        Ok((
            watcher,
            Documents {
                mesh: mesh_seen,
                problem: problem_seen,
            },
        ))
    }

    /// Follows the files until nobody is interested any more.
    ///
    /// # Errors
    /// SIGHUP cannot be listened for.
    pub(crate) async fn run(self) -> io::Result<()> {
        self.follow(Looks::begin("the documents")?).await;
        Ok(())
    }

    async fn follow(self, mut looks: Looks<impl Hangup>) {
        let Self {
            mut follower,
            mesh,
            problem,
        } = self;
        loop {
            tokio::select! {
                () = looks.next() => {}
                () = mesh.closed() => return,
            }
            // On a thread of its own: many documents, or a hanging network file system, must hold up nobody else.
            let look = tokio::task::spawn_blocking(move || {
                let decision = follower.look();
                (follower, decision)
            });
            let (returned, decision) = match look.await {
                Ok(looked) => looked,
                Err(error) => {
                    tracing::error!(%error, "the documents are not followed any more");
                    return;
                }
            };
            follower = returned;
            publish(decision, &mesh, &problem);
        }
    }
}

fn publish(
    decision: Decision<Mesh, ConfigErrors>,
    mesh: &watch::Sender<Arc<Mesh>>,
    problem: &watch::Sender<Option<String>>,
) {
    match decision {
        Decision::Keep => {}
        Decision::Wait => tracing::debug!("the documents are changing"),
        Decision::Recovered => {
            tracing::info!("the documents are again those in use");
            problem.send_replace(None);
        }
        Decision::Publish(new) => {
            let (services, workloads) = (new.services.len(), new.workloads.len());
            tracing::info!(services, workloads, "documents reloaded");
            problem.send_replace(None);
            mesh.send_replace(new);
        }
        Decision::Refuse(errors) => {
            let count = errors.0.len();
            tracing::warn!(count, "documents not reloaded; the last good ones stay in use");
            for error in &errors.0 {
                tracing::warn!(%error, "documents not reloaded");
            }
            problem.send_replace(Some(errors.to_string()));
        }
    }
}

/// Looks at the files.
#[derive(Debug)]
struct Follower {
    paths: Vec<PathBuf>,
    reloader: Reloader<Digest, Mesh>,
    /// What was wrong at the last look, and with which content: it is not parsed again and again.
    refused: Option<(Digest, ConfigErrors)>,
}

impl Follower {
    fn look(&mut self) -> Decision<Mesh, ConfigErrors> {
        let files = Files::read(&self.paths);
        let refused = self.refused.take();
        self.reloader.on_read(Ok(files.digest()), |digest, _| {
            let parsed = match refused {
                Some((known, errors)) if known == *digest => Err(errors),
                _ => files.parse(),
            };
            if let Err(errors) = &parsed {
                self.refused = Some((*digest, errors.clone()));
            }
            parsed
        })
    }
}

/// SHA-256 of all files: it tells one state of them from another, without keeping them.
type Digest = [u8; 32];

/// The files of one look, in their order.
struct Files {
    sources: Vec<Source>,
    /// Why some of them could not be read.
    unreadable: Vec<DocumentError>,
}

impl Files {
    fn read(paths: &[PathBuf]) -> Self {
        let mut files = Self {
            sources: Vec::with_capacity(paths.len()),
            unreadable: Vec::new(),
        };
        for path in paths {
            let name = path.display().to_string();
            match read_text(path) {
                Ok(text) => files.sources.push(Source::new(name, text)),
                Err(error) => {
                    files.sources.push(Source::new(name.clone(), UNREADABLE));
                    let message = format_args!("cannot be read: {error}");
                    files.unreadable.push(error_of_file(name, message));
                }
            }
        }
        files
    }

    fn digest(&self) -> Digest {
        let mut context = Context::new(&SHA256);
        let errors = self.unreadable.iter().map(|error| &error.message);
        for text in self.sources.iter().map(|source| &source.text).chain(errors) {
            // With the length, or the end of one text might be the beginning of the next.
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
        let mut digest = Digest::default();
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    fn parse(&self) -> Result<Mesh, ConfigErrors> {
        let mut errors = match parse_documents(&self.sources) {
            Ok(mesh) if self.unreadable.is_empty() => return Ok(mesh),
            Ok(_) => Vec::new(),
            Err(errors) => errors,
        };
        for unreadable in &self.unreadable {
            match errors.iter_mut().find(|error| error.file == unreadable.file) {
                Some(stand_in) => *stand_in = unreadable.clone(),
                None => errors.push(unreadable.clone()),
            }
        }
        Err(ConfigErrors(errors))
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = read_file(path, MAX_FILE_BYTES)?;
    String::from_utf8(std::mem::take(&mut *bytes)).map_err(|error| {
        let before = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"))
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tokio::sync::mpsc;

    use super::*;

    /// A directory with `mesh.yaml` and `web.yaml`.
    struct Lab(tempfile::TempDir);

    impl Lab {
        fn new() -> Self {
            let lab = Self(tempfile::tempdir().unwrap());
            lab.write("mesh.yaml", &mesh("one.example"));
            lab.write("web.yaml", WEB);
            lab
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn paths(&self) -> Vec<PathBuf> {
            vec![self.path("mesh.yaml"), self.path("web.yaml")]
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        /// All errors of the files, without the name of the directory.
        fn errors(&self) -> Vec<String> {
            let errors = DocumentsWatcher::load(&self.paths()).unwrap_err();
            let directory = format!("{}/", self.0.path().display());
            let strip = |error: &DocumentError| error.to_string().replace(&directory, "");
            errors.0.iter().map(strip).collect()
        }

        /// A watcher in its task, what it publishes, and how to send it a SIGHUP.
        fn follow(&self) -> (Documents, mpsc::UnboundedSender<()>) {
            let (watcher, documents) = DocumentsWatcher::load(&self.paths()).unwrap();
            let (hangup, hangups) = mpsc::unbounded_channel();
            tokio::spawn(watcher.follow(Looks::with(hangups, "a test")));
            (documents, hangup)
        }
    }

    fn mesh(trust_domain: &str) -> String {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {{trustDomain: \
             {trust_domain}}}\n"
        )
    }

    const WEB: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

    fn trust_domain(documents: &Documents) -> String {
        documents.mesh.borrow().config.trust_domain.as_str().to_owned()
    }

    #[test]
    fn all_errors_of_all_files_come_at_once() {
        let lab = Lab::new();
        lab.write("mesh.yaml", &mesh("'!'"));
        lab.write("web.yaml", &WEB.replace("80", "0"));
        assert_eq!(
            lab.errors(),
            [
                "mesh.yaml:4: spec.trustDomain: ! is not a trust domain: '!' is not allowed in a trust domain (a-z, \
                 0-9, '.', '-', '_')",
                "web.yaml:4: spec.ports[0].port: 0 is not a port (1 to 65535)",
            ]
        );
    }

    #[test]
    fn what_may_be_in_a_file_that_cannot_be_read_is_not_missed() {
        let lab = Lab::new();
        fs::remove_file(lab.path("mesh.yaml")).unwrap();
        lab.write("web.yaml", &WEB.replace("80", "0"));
        // Nothing of a missing MeshConfig.
        assert_eq!(
            lab.errors(),
            [
                "mesh.yaml: cannot be read: No such file or directory (os error 2)",
                "web.yaml:4: spec.ports[0].port: 0 is not a port (1 to 65535)",
            ]
        );
        fs::write(lab.path("mesh.yaml"), b"a\nb: \xff\n").unwrap();
        lab.write("web.yaml", WEB);
        assert_eq!(lab.errors(), ["mesh.yaml: cannot be read: line 2 is not UTF-8"]);
    }

    #[test]
    fn errors_are_shown_with_their_number() {
        let errors = |count: usize| {
            let error = error_of_file("a.yaml".to_owned(), "is bad");
            ConfigErrors(vec![error; count]).to_string()
        };
        assert_eq!(errors(1), "a.yaml: is bad\n1 error");
        assert_eq!(errors(2), "a.yaml: is bad\na.yaml: is bad\n2 errors");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_any_file_is_published_within_a_poll() {
        let lab = Lab::new();
        let (mut documents, _hangup) = lab.follow();
        assert_eq!(documents.mesh.borrow_and_update().services.len(), 1);
        lab.write(
            "web.yaml",
            &format!("{WEB}---\n{}", WEB.replace("name: web", "name: web2")),
        );
        documents.mesh.changed().await.unwrap();
        assert_eq!(documents.mesh.borrow_and_update().services.len(), 2);
        lab.write("mesh.yaml", &mesh("two.example"));
        documents.mesh.changed().await.unwrap();
        assert_eq!(trust_domain(&documents), "two.example");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_change_keeps_the_last_good_documents_and_tells_why() {
        let lab = Lab::new();
        let (mut documents, _hangup) = lab.follow();
        documents.mesh.borrow_and_update();
        lab.write("mesh.yaml", "kind: MeshConfig");
        lab.write("web.yaml", &WEB.replace("80", "0"));
        let told = documents
            .problem
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        for part in [
            "mesh.yaml:1: apiVersion: missing",
            "web.yaml:4: spec.ports[0].port: 0 is",
            "\n2 errors",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert_eq!(trust_domain(&documents), "one.example");
        assert!(!documents.mesh.has_changed().unwrap());
        // Another reason is told as well.
        fs::remove_file(lab.path("mesh.yaml")).unwrap();
        let is_told = |problem: &Option<String>| {
            problem
                .as_ref()
                .is_some_and(|text| text.contains("cannot be read"))
        };
        documents.problem.wait_for(is_told).await.unwrap();
        // Back to what is in use: nothing new, and no problem.
        lab.write("mesh.yaml", &mesh("one.example"));
        lab.write("web.yaml", WEB);
        documents.problem.wait_for(Option::is_none).await.unwrap();
        assert!(!documents.mesh.has_changed().unwrap());
        lab.write("mesh.yaml", &mesh("two.example"));
        documents.mesh.changed().await.unwrap();
        assert_eq!(trust_domain(&documents), "two.example");
    }

    #[test]
    fn what_is_wrong_and_stays_the_same_is_parsed_once() {
        let lab = Lab::new();
        let mut follower = DocumentsWatcher::load(&lab.paths()).unwrap().0.follower;
        lab.write("web.yaml", "}");
        assert!(matches!(follower.look(), Decision::Wait));
        // What is kept shows in what is told.
        let (digest, _) = follower.refused.take().unwrap();
        follower.refused = Some((digest, ConfigErrors(Vec::new())));
        assert!(matches!(follower.look(), Decision::Refuse(errors) if errors.0.is_empty()));
        lab.write("web.yaml", "{");
        assert!(matches!(follower.look(), Decision::Refuse(errors) if errors.0.len() == 1));
        lab.write("web.yaml", WEB);
        assert!(matches!(follower.look(), Decision::Recovered));
        assert_eq!(follower.refused, None);
    }

    #[tokio::test(start_paused = true)]
    async fn sighup_is_faster_than_the_poll() {
        let lab = Lab::new();
        let (mut documents, hangup) = lab.follow();
        documents.mesh.borrow_and_update();
        // The first look is at once, and the second due in two seconds.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = tokio::time::Instant::now();
        lab.write("mesh.yaml", &mesh("two.example"));
        hangup.send(()).unwrap();
        documents.mesh.changed().await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_watcher_ends_with_the_last_reader() {
        let lab = Lab::new();
        let (watcher, documents) = DocumentsWatcher::load(&lab.paths()).unwrap();
        let (_hangup, hangups) = mpsc::unbounded_channel();
        let task = tokio::spawn(watcher.follow(Looks::with(hangups, "a test")));
        drop(documents);
        tokio::time::timeout(Duration::from_secs(60), task)
            .await
            .unwrap()
            .unwrap();
    }

    #[test]
    fn moving_text_from_one_file_to_the_next_is_a_change() {
        let digest = |texts: [&str; 2]| {
            let sources = texts.map(|text| Source::new("a", text)).to_vec();
            let unreadable = Vec::new();
            Files { sources, unreadable }.digest()
        };
        assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
    }
}
