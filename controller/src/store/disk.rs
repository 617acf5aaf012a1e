//! The file: a redb database with every key, and what tells that it is ours.
//!
//! | table | what |
//! |---|---|
//! | `meta` | `format`, `id`, `revision`: stays as it is in every format |
//! | `records` | key -> created, modified, generation, value |
//!
//! redb takes no more work after any failure of I/O, so its database is opened anew then. What the file then has may be
//! anything between what was acknowledged and what was being written; it is made equal to what is in memory, which is
//! what was acknowledged.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use ::redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{
    Revision, StoreError,
    batch::{Decided, Record, Records},
    contents::Contents,
    failure::{Failure, guarded},
    medium::{Guarded, Medium},
};

/// The format that is written, and the newest that is read.
pub(super) const FORMAT: u64 = 1;
/// Everything is in our memory; redb needs no more than the pages that a transaction touches.
const CACHE: usize = 8 << 20;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const RECORDS: TableDefinition<'_, &str, (u64, u64, u64, &[u8])> = TableDefinition::new("records");

/// Tells a store from every other.
pub(super) type Id = [u8; 16];

/// Makes transactions durable.
#[derive(Debug)]
pub(super) struct Disk {
    medium: Box<dyn Medium>,
    id: Id,
    sync_failed: Arc<AtomicBool>,
    state: State,
}

#[derive(Debug)]
enum State {
    Ready(Database),
    /// Something failed. What the file has is not known.
    Failed,
}

/// What a file had in it.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) id: Id,
    pub(super) records: Records,
    pub(super) revision: Revision,
}

impl Disk {
    /// Writes an empty store onto an empty medium.
    pub(super) fn create(medium: Box<dyn Medium>, id: Id) -> Result<Self, StoreError> {
        Self::restore(medium, id, Revision(0), std::iter::empty())
    }

    /// Writes a store onto an empty medium that has these records already.
    pub(super) fn restore(
        medium: Box<dyn Medium>,
        id: Id,
        revision: Revision,
        records: impl Iterator<Item = Result<(String, Record), StoreError>>,
    ) -> Result<Self, StoreError> {
        let sync_failed = Arc::new(AtomicBool::new(false));
        let database = guarded(|| {
            let database = database(&*medium, &sync_failed)?;
            let write = database.begin_write()?;
            {
                let mut meta = write.open_table(META)?;
                meta.insert("format", FORMAT.to_le_bytes().as_slice())?;
                meta.insert("id", id.as_slice())?;
                meta.insert("revision", revision.0.to_le_bytes().as_slice())?;
                let mut table = write.open_table(RECORDS)?;
                for record in records {
                    let (key, record) = record?;
                    insert(&mut table, &key, &record)?;
                }
            }
            write.commit()?;
            Ok(database)
        })
        .map_err(|failure| failure.told(&*medium))?;
        Ok(Self {
            medium,
            id,
            sync_failed,
            state: State::Ready(database),
        })
    }

    /// Opens a store, and reads all of it.
    pub(super) fn open(medium: Box<dyn Medium>) -> Result<(Self, Loaded), StoreError> {
        let sync_failed = Arc::new(AtomicBool::new(false));
        let (database, loaded) = guarded(|| {
            let database = database(&*medium, &sync_failed)?;
            let loaded = load(&database)?;
            Ok((database, loaded))
        })
        .map_err(|failure| failure.told(&*medium))?;
        let disk = Self {
            medium,
            id: loaded.id,
            sync_failed,
            state: State::Ready(database),
        };
        Ok((disk, loaded))
    }

    /// Makes changes durable, which come after what is in memory. After an error nothing is known of what the file has,
    /// but by the next success it is as in memory again.
    pub(super) fn commit(&mut self, contents: &Contents, decided: &Decided) -> Result<(), StoreError> {
        let recovered = match &self.state {
            State::Ready(_) => false,
            State::Failed => {
                let database =
                    guarded(|| self.reopened(contents)).map_err(|failure| failure.told(&*self.medium))?;
                self.state = State::Ready(database);
                true
            }
        };
        let State::Ready(database) = &self.state else {
            return Err(StoreError::Closed);
        };
        let writes = decided
            .writes
            .iter()
            .map(|(key, record)| (key.as_str(), record.as_ref()));
        match guarded(|| write(database, decided.revision, writes)) {
            Ok(()) => {
                if recovered {
                    tracing::info!("{}: writing works again", self.medium.name());
                }
                Ok(())
            }
            Err(failure) => {
                self.fail();
                Err(failure.told(&*self.medium))
            }
        }
    }

    /// Gives up the database.
    fn fail(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Failed);
        let _ = guarded(|| {
            drop(state);
            Ok(())
        });
    }

    /// Opens the database anew, and makes it what it is in memory.
    fn reopened(&self, contents: &Contents) -> Result<Database, Failure> {
        if self.sync_failed.load(Ordering::Acquire) {
            // The kernel forgets what it could not write to the disk, and reads it from memory all the same. Only what
            // is written anew and synced is known to be there.
            self.medium.rewrite()?;
            self.sync_failed.store(false, Ordering::Release);
        }
        let database = database(&*self.medium, &self.sync_failed)?;
        let found = load(&database)?;
        if found.id != self.id {
            return Err(Failure::Foreign("it is another store than it was".into()));
        }
        let (records, revision) = contents.snapshot();
        if found.revision != revision || found.records != records {
            write(&database, revision, differences(&found.records, &records))?;
        }
        Ok(database)
    }
}

/// What makes one the other.
fn differences<'a>(
    from: &'a Records,
    to: &'a Records,
) -> impl Iterator<Item = (&'a str, Option<&'a Record>)> {
    let removed = from
        .keys()
        .filter(|key| !to.contains_key(*key))
        .map(|key| (key.as_str(), None));
    let written = to.iter().filter(|(key, record)| from.get(*key) != Some(record));
    removed.chain(written.map(|(key, record)| (key.as_str(), Some(record))))
}

fn database(medium: &dyn Medium, sync_failed: &Arc<AtomicBool>) -> Result<Database, Failure> {
    let backend = medium.backend().map_err(Failure::Told)?;
    let backend = Guarded::new(backend, sync_failed.clone());
    // All of it is read at the start anyway; with this, what was altered since it was written is found.
    let database = Builder::new()
        .set_cache_size(CACHE)
        .set_check_integrity_on_open(true)
        .create_with_backend(backend)?;
    Ok(database)
}

fn write<'a>(
    database: &Database,
    revision: Revision,
    writes: impl Iterator<Item = (&'a str, Option<&'a Record>)>,
) -> Result<(), Failure> {
    let write = database.begin_write()?;
    {
        let mut table = write.open_table(RECORDS)?;
        for (key, record) in writes {
            match record {
                Some(record) => insert(&mut table, key, record)?,
                None => {
                    table.remove(key)?;
                }
            }
        }
        let mut meta = write.open_table(META)?;
        meta.insert("revision", revision.0.to_le_bytes().as_slice())?;
    }
    // Durable when this returns: that is redb's default, and nothing here sets another.
    write.commit()?;
    Ok(())
}

fn insert(
    table: &mut ::redb::Table<'_, &'static str, (u64, u64, u64, &'static [u8])>,
    key: &str,
    record: &Record,
) -> Result<(), Failure> {
    let value = (
        record.created.0,
        record.modified.0,
        record.generation,
        &*record.value,
    );
    table.insert(key, value)?;
    Ok(())
}

fn load(database: &Database) -> Result<Loaded, Failure> {
    let read = database.begin_read()?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(::redb::TableError::Storage(error)) => return Err(error.into()),
        Err(error) => return Err(Failure::Foreign(error.to_string())),
    };
    let format = u64::from_le_bytes(field(&meta, "format")?);
    if format > FORMAT {
        return Err(Failure::Newer(format));
    }
    let id = field(&meta, "id")?;
    let revision = Revision(u64::from_le_bytes(field(&meta, "revision")?));
    let mut records = Records::new();
    for item in read.open_table(RECORDS)?.iter()? {
        let (key, value) = item?;
        let (created, modified, generation, value) = value.value();
        let record = Record {
            value: bytes::Bytes::copy_from_slice(value),
            created: Revision(created),
            modified: Revision(modified),
            generation,
        };
        if !(record.created <= record.modified && record.modified <= revision) {
            let text = format!("{} was written after the last revision", key.value());
            return Err(Failure::Damaged(text));
        }
        records.insert(key.value().to_owned(), record);
    }
    Ok(Loaded {
        id,
        records,
        revision,
    })
}

fn field<const N: usize>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<[u8; N], Failure> {
    let value = meta
        .get(name)?
        .ok_or_else(|| Failure::Foreign(format!("it has no {name}")))?;
    value
        .value()
        .try_into()
        .map_err(|_| Failure::Foreign(format!("its {name} has another length")))
}
