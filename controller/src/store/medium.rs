//! What a database is on: a file, or memory.

use std::{
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io,
    ops::Bound,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ::redb::{
    BackendError, StorageBackend,
    backends::{FileBackend, InMemoryBackend},
};

use super::StoreError;

/// How much is written anew at once.
const CHUNK: usize = 1 << 20;

/// Where a database is, which may be opened again and again.
pub(super) trait Medium: Debug + Send {
    /// What it is called in what an operator reads.
    fn name(&self) -> &str;

    /// Opens it. One that is new is empty.
    fn backend(&self) -> Result<Box<dyn StorageBackend>, StoreError>;

    /// Writes all that it has once more, so that the next sync is about all of it.
    fn rewrite(&self) -> io::Result<()>;
}

/// A file.
#[derive(Debug)]
pub(super) struct FileMedium {
    path: PathBuf,
    name: String,
    /// It was just made, and may have another name still.
    new: Mutex<Option<File>>,
}

/// Memory, which is gone when it is closed.
#[derive(Debug)]
pub(super) struct MemoryMedium;

impl FileMedium {
    /// A file that is there.
    pub(super) fn existing(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            name: path.display().to_string(),
            new: Mutex::new(None),
        }
    }

    /// A file that was just made, and will be at that path.
    pub(super) fn new(file: File, path: &Path) -> Self {
        Self {
            new: Mutex::new(Some(file)),
            ..Self::existing(path)
        }
    }

    fn file(&self) -> Result<File, StoreError> {
        let told = |error: &io::Error| {
            StoreError::Io(format!(
                "{} cannot be opened for reading and writing: {error}",
                self.name
            ))
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.path)
            .map_err(|error| told(&error))?;
        let metadata = file.metadata().map_err(|error| told(&error))?;
        if !metadata.is_file() {
            return Err(StoreError::Damaged(format!("{} is no file", self.name)));
        }
        // redb would begin a new database in it. A store is complete before it has its name, so this one is lost.
        if metadata.len() == 0 {
            return Err(StoreError::Damaged(format!(
                "{} is empty: move it away, then put back a copy of it, or import the last export",
                self.name
            )));
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            file.set_permissions(fs::Permissions::from_mode(0o600))
                .map_err(|error| told(&error))?;
        }
        Ok(file)
    }
}

impl Medium for FileMedium {
    fn name(&self) -> &str {
        &self.name
    }

    fn backend(&self) -> Result<Box<dyn StorageBackend>, StoreError> {
        let new = self.new.lock().unwrap_or_else(PoisonError::into_inner).take();
        let file = match new {
            Some(file) => file,
            None => self.file()?,
        };
        let backend = FileBackend::new(file)
            .map_err(|error| StoreError::Io(format!("{} cannot be opened: {error}", self.name)))?;
        Ok(Box::new(backend))
    }

    fn rewrite(&self) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let mut chunk = vec![0; CHUNK];
        let mut offset = 0;
        loop {
            let length = file.read_at(&mut chunk, offset)?;
            if length == 0 {
                return file.sync_all();
            }
            file.write_all_at(chunk.get(..length).unwrap_or_default(), offset)?;
            offset += length as u64;
        }
    }
}

impl Medium for MemoryMedium {
    fn name(&self) -> &'static str {
        "the store in memory"
    }

    fn backend(&self) -> Result<Box<dyn StorageBackend>, StoreError> {
        Ok(Box::new(InMemoryBackend::new()))
    }

    fn rewrite(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Notes whether a sync failed: what was written before is in doubt then, even if it can be read.
#[derive(Debug)]
pub(super) struct Guarded {
    inner: Box<dyn StorageBackend>,
    sync_failed: Arc<AtomicBool>,
}

impl Guarded {
    pub(super) fn new(inner: Box<dyn StorageBackend>, sync_failed: Arc<AtomicBool>) -> Self {
        Self { inner, sync_failed }
    }
}

impl StorageBackend for Guarded {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner
            .sync_data()
            .inspect_err(|_| self.sync_failed.store(true, Ordering::Release))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
