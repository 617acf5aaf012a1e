//! The store of a controller that is alone: one file, no server.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::{
    Changes, CommitError, Entry, Listing, Revision, Store, StoreError, Transaction,
    batch::Records,
    contents::Contents,
    disk::{Disk, Id, Loaded},
    export::{self, Exported, Reading},
    medium::{FileMedium, Medium, MemoryMedium},
    writer::{self, Job},
};

/// The transactions that may wait for the writer; the next wait to get that far.
const QUEUE: usize = 1024;

/// How a store is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// The revisions whose changes are kept in memory for watchers that begin in the past. It begins anew with every
    /// start.
    pub history: usize,
}

/// A store in one file.
///
/// All of it is in memory too. Reads are served from there: they never wait for the disk, and go on when it fails.
/// When the last copy of it is dropped, what was begun is written, and the file is closed before that returns.
#[derive(Clone, Debug)]
pub struct RedbStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    id: Id,
    contents: Arc<Contents>,
    /// None: closed.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { history: 10_000 }
    }
}

impl RedbStore {
    /// Opens the store in a file, or makes it if there is no such file. Reads and checks all of it.
    ///
    /// # Errors
    /// `Damaged`, also for a file that is none of ours, `Newer`, `Locked`, and `Io`. The file is left as it is then, and
    /// the text says what to do.
    pub fn open(path: &Path, options: &Options) -> Result<Self, StoreError> {
        match fs::symlink_metadata(path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // If it is there meanwhile, it is tried like any other.
                make(path, |medium| Disk::create(medium, new_id()?).map(drop))?;
            }
            Err(error) => return Err(StoreError::Io(format!("{}: {error}", path.display()))),
        }
        Self::open_on(Box::new(FileMedium::existing(path)), options)
    }

    /// Opens the store on a medium that has one.
    pub(super) fn open_on(medium: Box<dyn Medium>, options: &Options) -> Result<Self, StoreError> {
        let (disk, loaded) = Disk::open(medium)?;
        Self::start(disk, loaded, options)
    }

    /// An empty store that is gone when it is dropped: for tests, and for trying things out.
    ///
    /// # Errors
    /// Those of the system.
    pub fn in_memory() -> Result<Self, StoreError> {
        let id = new_id()?;
        let disk = Disk::create(Box::new(MemoryMedium), id)?;
        let loaded = Loaded {
            id,
            records: Records::new(),
            revision: Revision(0),
        };
        Self::start(disk, loaded, &Options::default())
    }

    /// Tells this store from every other: 32 hexadecimal digits. A copy of its file has the same.
    #[must_use]
    pub fn id(&self) -> String {
        crate::hex::encode(&self.0.id)
    }

    /// Writes all of it as lines of JSON, as of one revision, without join tokens. Reads and writes go on meanwhile.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn export(&self, out: &mut dyn io::Write) -> io::Result<Exported> {
        let (records, revision) = self.0.contents.snapshot();
        export::write(out, &self.id(), &records, revision)
    }

    /// Makes a store of an export, in a file that is not there yet: whole, or not at all. Keys, generations and
    /// revisions are as they were.
    ///
    /// # Errors
    /// `Invalid` if there is such a file, `Damaged` if the export is not whole or was altered, `Newer`, and `Io`.
    pub fn import(path: &Path, from: &mut dyn io::BufRead) -> Result<Exported, StoreError> {
        let exists = || {
            StoreError::Invalid(format!(
                "{} is there already: move it away, an export becomes a store of its own",
                path.display()
            ))
        };
        if path.symlink_metadata().is_ok() {
            return Err(exists());
        }
        let mut reading = Reading::begin(from)?;
        let made = make(path, |medium| {
            Disk::restore(medium, new_id()?, reading.revision(), &mut reading).map(drop)
        })?;
        match made {
            Made::New => Ok(reading.exported()),
            Made::Existed => Err(exists()),
        }
    }

    fn start(disk: Disk, loaded: Loaded, options: &Options) -> Result<Self, StoreError> {
        let contents = Arc::new(Contents::new(loaded.records, loaded.revision, options.history));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let shown = contents.clone();
        let writer = thread::Builder::new()
            .name("store".into())
            .spawn(move || writer::run(queue, disk, &shown))
            .map_err(|error| StoreError::Io(format!("no thread for the store: {error}")))?;
        Ok(Self(Arc::new(Shared {
            id: loaded.id,
            contents,
            jobs: Some(jobs),
            writer: Some(writer),
        })))
    }
}

impl Store for RedbStore {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
        let entry = self.0.contents.get(key);
        Box::pin(async move { Ok(entry) })
    }

    fn list(&self, prefix: &str) -> BoxFuture<'_, Result<Listing, StoreError>> {
        let listing = self.0.contents.list(prefix);
        Box::pin(async move { Ok(listing) })
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Revision, CommitError>> {
        Box::pin(async move {
            transaction.check()?;
            let (reply, outcome) = oneshot::channel();
            let jobs = self.0.jobs.as_ref().ok_or(StoreError::Closed)?;
            jobs.send(Job { transaction, reply })
                .await
                .map_err(|_| StoreError::Closed)?;
            outcome.await.map_err(|_| StoreError::Closed)?
        })
    }

    fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<Changes>, StoreError>> {
        let changes = self.0.contents.watch(prefix, after);
        Box::pin(async move { changes })
    }

    fn revision(&self) -> Revision {
        self.0.contents.read().revision
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// What became of a store that was to be made.
enum Made {
    New,
    /// Somebody else was faster.
    Existed,
}

/// Makes a store. It has its name only when it is complete and durable.
fn make(
    path: &Path,
    write: impl FnOnce(Box<dyn Medium>) -> Result<(), StoreError>,
) -> Result<Made, StoreError> {
    let told = |error: io::Error| StoreError::Io(format!("{} cannot be made: {error}", path.display()));
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let file = tempfile::Builder::new()
        .prefix(".new-store-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(told)?;
    write(Box::new(FileMedium::new(file.reopen().map_err(told)?, path)))?;
    match file.persist_noclobber(path) {
        Ok(_) => {
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(told)?;
            Ok(Made::New)
        }
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(Made::Existed),
        Err(error) => Err(told(error.error)),
    }
}

fn new_id() -> Result<Id, StoreError> {
    let mut id = Id::default();
    aws_lc_rs::rand::fill(&mut id).map_err(|_| StoreError::Io("the system gives no randomness".into()))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[tokio::test]
    async fn it_is_a_store() {
        conformance::conforms(&RedbStore::in_memory().unwrap()).await;
    }

    #[tokio::test]
    async fn a_file_has_what_was_acknowledged_when_it_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = RedbStore::open(&path, &Options::default()).unwrap();
        let id = store.id();
        assert_eq!(store.revision(), Revision(0));
        conformance::conforms(&store).await;
        let before = store.list("").await.unwrap();
        drop(store);
        let store = RedbStore::open(&path, &Options::default()).unwrap();
        assert_eq!(store.list("").await.unwrap(), before);
        assert_eq!(store.id(), id);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing else is left there"
        );
    }
}
