//! What is asked of the catalog, and what comes of it.

use weft_proto::{DocumentError, kinds::DocumentKey, names::DnsLabel};

use super::stored::Stored;
use crate::store::StoreError;

/// Why nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogError {
    /// The documents are wrong, alone or together with what there is.
    #[error("{}", .0.first().map(ToString::to_string).unwrap_or_default())]
    Invalid(Vec<DocumentError>),
    /// A document is not in the generation that was expected.
    #[error(
        "{0} was changed by someone else: it is of generation {1}, not {2}; get it again, and apply your change to that"
    )]
    Conflict(DocumentKey, u64, u64),
    /// There is no such document.
    #[error("there is no {0}")]
    Missing(DocumentKey),
    /// It is not a document, but what a proxy registered.
    #[error("{0} was registered by its proxy: stop the proxy, or evict it (weft proxy evict)")]
    Registered(DocumentKey),
    /// The store refused.
    #[error("the change could not be stored, and was not made: {0}")]
    Store(#[from] StoreError),
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// In the order of the request.
    pub changes: Vec<Changed>,
    /// Of the store after it.
    pub revision: u64,
    /// What works, but hardly as it was meant.
    pub warnings: Vec<DocumentError>,
}

/// What became of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub key: DocumentKey,
    /// As it was; `None`: it was not there.
    pub before: Option<Stored>,
    /// As it is; `None`: it is gone.
    pub after: Option<Stored>,
}

/// Who changes something, and on what condition.
#[derive(Clone, Debug)]
pub struct Request {
    /// For the audit.
    pub who: String,
    /// Only if these documents are in these generations; 0: not there.
    pub expected: Vec<(DocumentKey, u64)>,
    /// Check everything, change nothing.
    pub dry_run: bool,
    /// Of documents that name none.
    pub namespace: DnsLabel,
}

impl Request {
    /// A change by `who`, on no condition.
    pub fn by(who: impl Into<String>) -> Self {
        Self {
            who: who.into(),
            expected: Vec::new(),
            dry_run: false,
            namespace: DnsLabel::default_namespace(),
        }
    }
}
