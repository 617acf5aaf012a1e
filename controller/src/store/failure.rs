//! What can go wrong with a database, and how it is told: what happened, and what to do next.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use ::redb::Error;

use super::{StoreError, medium::Medium};

/// Why something could not be done with a database.
#[derive(Debug)]
pub(super) enum Failure {
    Redb(Box<Error>),
    Io(io::Error),
    /// redb came upon what it holds impossible, with this text.
    Panicked(String),
    /// It contradicts itself.
    Damaged(String),
    /// It is no store, or not this one.
    Foreign(String),
    /// It has this format.
    Newer(u64),
    /// As it is to be told.
    Told(StoreError),
}

/// Does something with a database. A panic of redb, which it answers some damage with, becomes an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (_, Some(text)) => text.clone(),
            (None, None) => "a panic".to_owned(),
        };
        Err(Failure::Panicked(text))
    })
}

impl Failure {
    /// What is told of it.
    pub(super) fn told(self, medium: &dyn Medium) -> StoreError {
        let name = medium.name();
        match self {
            Self::Redb(error) => told_by_redb(*error, name),
            Self::Io(error) => told_by_system(&error, name),
            Self::Panicked(text) | Self::Damaged(text) => damaged(name, &text),
            Self::Foreign(text) => foreign(name, &text),
            Self::Newer(format) => StoreError::Newer(format!(
                "{name} has format {format}, and this version reads up to {}: start the newer version, or import an \
                 export of it that is in a format of this one",
                super::disk::FORMAT
            )),
            Self::Told(error) => error,
        }
    }
}

fn told_by_redb(error: Error, name: &str) -> StoreError {
    match error {
        Error::DatabaseAlreadyOpen | Error::LockProtocolMismatch => StoreError::Locked(format!(
            "another process has {name} open: stop the other controller, or give this one a data directory of its own"
        )),
        Error::Io(error) => told_by_system(&error, name),
        Error::UpgradeRequired(format) => foreign(name, &format!("it has format {format} of the database")),
        Error::TableTypeMismatch { .. }
        | Error::TableIsMultimap(_)
        | Error::TableDoesNotExist(_)
        | Error::TypeDefinitionChanged { .. } => foreign(name, &error.to_string()),
        Error::Corrupted(text) => damaged(name, &text),
        error => StoreError::Io(format!("{name}: {error}")),
    }
}

fn told_by_system(error: &io::Error, name: &str) -> StoreError {
    match error.kind() {
        // redb says so of a file that does not begin as its files do.
        io::ErrorKind::InvalidData => foreign(name, &error.to_string()),
        // It ends before its header says that it does.
        io::ErrorKind::UnexpectedEof => damaged(name, "it was cut off"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            StoreError::Io(format!(
                "{name} cannot be written: {error}; make room, and writing goes on"
            ))
        }
        io::ErrorKind::NotFound => {
            StoreError::Io(format!("{name}: {error}; put it back, or import an export"))
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::Io(format!("{name} cannot be opened for writing: {error}"))
        }
        _ => StoreError::Io(format!("{name}: {error}")),
    }
}

fn damaged(name: &str, why: &str) -> StoreError {
    StoreError::Damaged(format!(
        "{name} is damaged ({why}): move it away, then put back a copy of it, or import the last export"
    ))
}

fn foreign(name: &str, why: &str) -> StoreError {
    StoreError::Damaged(format!(
        "{name} is no store of this controller ({why}): move it away, then put back the right one, import an export, \
         or start with none"
    ))
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Told(error)
    }
}

impl From<::redb::DatabaseError> for Failure {
    fn from(error: ::redb::DatabaseError) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

impl From<::redb::TransactionError> for Failure {
    fn from(error: ::redb::TransactionError) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

impl From<::redb::TableError> for Failure {
    fn from(error: ::redb::TableError) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

impl From<::redb::StorageError> for Failure {
    fn from(error: ::redb::StorageError) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

impl From<::redb::CommitError> for Failure {
    fn from(error: ::redb::CommitError) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}
