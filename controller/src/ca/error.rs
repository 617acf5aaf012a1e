//! What goes wrong at the certificate authority.

use std::{io, path::PathBuf, time::SystemTime};

use time::{OffsetDateTime, macros::format_description};
use tonic::Status;
use weft_proto::{SpiffeId, TrustDomain};

use super::request::RequestError;
use crate::{
    store::{CommitError, Condition, StoreError},
    trust::{Refused, RootId},
};

/// Why the authority could not start, or could not change its keys.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Reading or writing a file failed.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What.
        error: io::Error,
    },
    /// A file does not have what it should.
    #[error("{}: {what}", path.display())]
    Unfit {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The files or the store are those of another mesh.
    #[error(
        "{place} is of trust domain {found}, this controller of {wanted}: another data directory, or --trust-domain {found}"
    )]
    OtherTrustDomain {
        /// A file, or the store.
        place: String,
        /// Its trust domain, as far as is known.
        found: String,
        /// That of the controller.
        wanted: TrustDomain,
    },
    /// The store trusts a root that this controller cannot sign under.
    #[error(
        "root {root} signs by the store, but {} has no signer for it: was the directory restored without it?",
        directory.display()
    )]
    NoSigner {
        /// The root.
        root: RootId,
        /// Where its files should be.
        directory: PathBuf,
    },
    /// The store is empty, and the files do not say which root is meant.
    #[error("{} has several roots, and the store knows none: leave the one that is meant there", .0.display())]
    SeveralRoots(PathBuf),
    /// The operator's files have a root that the mesh does not trust.
    #[error("root {brought} of {} is not trusted in this mesh: change to it with weft ca rotate --root-file", path.display())]
    UnknownRoot {
        /// The root.
        brought: RootId,
        /// Its file.
        path: PathBuf,
    },
    /// What is stored under `trust/state` cannot be read.
    #[error("trust/state in the store is damaged: {0}")]
    State(String),
    /// An option makes no sense.
    #[error("{0}")]
    Option(String),
    /// A certificate could not be made.
    #[error("a certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a request about roots was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Not now, or never.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It could not be done.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Someone else changes the same all the time.
    #[error("the state of the rotation changes at the same time: try again")]
    Busy,
}

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The request for it is no good.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Nobody but the controller itself has this identity, or it is of another trust domain.
    #[error("no certificate for {0} is issued here")]
    Identity(SpiffeId),
    /// Who will hold the certificate is not said as it must be.
    #[error("{0}")]
    Holder(String),
    /// The authority has ended.
    #[error("the {what} {name} of this controller has ended, at {}: {next}", date(*.at))]
    Ended {
        /// `root` or `signer`.
        what: &'static str,
        /// Which.
        name: String,
        /// When.
        at: SystemTime,
        /// What an operator does next.
        next: &'static str,
    },
    /// A condition of the caller's does not hold any more.
    #[error("{0:?} does not hold")]
    Condition(Condition),
    /// The ledger could not be written, so no certificate may be handed out.
    #[error("the certificate could not be entered in the ledger: {0}")]
    Ledger(StoreError),
    /// It could not be made.
    #[error("the certificate could not be made: {0}")]
    Make(rcgen::Error),
    /// This controller does not know, or cannot do, what the store says.
    #[error("the state of the roots: {0}")]
    State(String),
}

impl CaError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |error| Self::Io { path, error }
    }

    pub(crate) fn unfit(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Unfit {
            path: path.into(),
            what: what.into(),
        }
    }
}

/// The answer to whoever asked.
impl From<CaError> for Status {
    fn from(error: CaError) -> Self {
        let text = error.to_string();
        match error {
            CaError::Store(_) => Self::unavailable(text),
            CaError::Io { .. }
            | CaError::Unfit { .. }
            | CaError::OtherTrustDomain { .. }
            | CaError::Option(_) => Self::invalid_argument(text),
            CaError::NoSigner { .. } | CaError::SeveralRoots(_) | CaError::UnknownRoot { .. } => {
                Self::failed_precondition(text)
            }
            CaError::State(_) | CaError::Make(_) => Self::internal(text),
        }
    }
}

/// The answer to whoever asked.
impl From<TrustError> for Status {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Refused(refused) => Self::failed_precondition(refused.to_string()),
            TrustError::Busy => Self::aborted(error.to_string()),
            TrustError::Ca(error) => error.into(),
        }
    }
}

impl TrustError {
    /// The answer to whoever asked.
    pub fn status(self) -> Status {
        self.into()
    }
}

impl SignError {
    /// The answer to whoever asked.
    pub fn status(&self) -> Status {
        match self {
            Self::Request(_) | Self::Holder(_) => Status::invalid_argument(self.to_string()),
            Self::Identity(_) => Status::permission_denied(self.to_string()),
            Self::Ended { .. } => Status::failed_precondition(self.to_string()),
            Self::Condition(_) => Status::aborted("something else changed at the same time: try again"),
            Self::Ledger(_) => Status::unavailable(self.to_string()),
            Self::Make(_) | Self::State(_) => Status::internal(self.to_string()),
        }
    }
}

impl From<CommitError> for TrustError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict(_) => Self::Busy,
            CommitError::Store(error) => Self::Ca(error.into()),
        }
    }
}

/// A time as people read it.
pub(crate) fn date(time: SystemTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    let time = OffsetDateTime::from(time);
    time.format(format).unwrap_or_else(|_| time.to_string())
}
