//! A document as it is stored, and who gave it.

use bytes::Bytes;
use weft_proto::{
    DocumentError, Source,
    kinds::DocumentKey,
    model::Readiness,
    parse::{Model, Parsed, parse_document},
};

use super::{
    batch,
    record::{self, Record},
};
use crate::{
    store::{Entry, Revision},
    world::{Meaning, Versioned},
};

/// A document as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Compact JSON.
    pub json: Bytes,
    /// Counts its changes, from 1.
    pub generation: u64,
    /// When it was last changed.
    pub revision: Revision,
    /// Who gave it.
    pub origin: Origin,
}

/// Who gave a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An operator.
    Document,
    /// The workload's proxy.
    Proxy {
        /// Whether it takes requests.
        readiness: Readiness,
    },
}

impl Stored {
    pub(super) fn versioned(&self, model: &Model) -> Versioned {
        Versioned {
            // Not the generation, which begins anew when a document is made anew.
            version: self.revision.0,
            json: self.json.clone(),
            requires: Vec::new(),
            readiness: self.readiness(),
            meaning: match model {
                Model::MeshConfig(_) => Meaning::MeshConfig,
                Model::Service(service) => service.into(),
                Model::Workload(workload) => workload.into(),
                Model::ExternalService(external) => external.into(),
                Model::Route(route) => route.into(),
                Model::ReferenceGrant(grant) => grant.into(),
                Model::TrafficPolicy(policy) => policy.into(),
            },
        }
    }

    /// Whether it takes requests; what has no proxy to say so is taken for ready.
    pub fn readiness(&self) -> Readiness {
        match self.origin {
            Origin::Document => Readiness::Ready,
            Origin::Proxy { readiness } => readiness,
        }
    }
}

/// A stored document, if the entry is one.
pub fn stored(entry: &Entry) -> Option<Stored> {
    let (json, origin) = if entry.key.starts_with(batch::PREFIX) {
        (entry.value.clone(), Origin::Document)
    } else if entry.key.starts_with(record::PREFIX) {
        let record = Record::read(&entry.value)?;
        let readiness = record.readiness()?;
        (Bytes::from(record.document), Origin::Proxy { readiness })
    } else {
        return None;
    };
    Some(Stored {
        json,
        generation: entry.generation,
        revision: entry.modified,
        origin,
    })
}

/// Which document is at a path of the store, if one is.
pub fn key_of(path: &str) -> Option<DocumentKey> {
    batch::key_of(path).or_else(|| record::key_of(path))
}

pub(super) fn read(entry: &Entry) -> Option<Result<(Stored, Parsed), Vec<DocumentError>>> {
    let stored = stored(entry)?;
    let text = String::from_utf8_lossy(&stored.json).into_owned();
    let source = Source::new(format!("the store, {}", entry.key), text);
    Some(parse_document(&source).map(|parsed| (stored, parsed)))
}
