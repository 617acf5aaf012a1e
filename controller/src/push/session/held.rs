//! What a proxy holds, and its digest.

use std::collections::HashMap;

use weft_proto::{kinds::DocumentKey, wire::Digest};

use super::Flight;

/// Versions of resources. The digest is kept with them.
#[derive(Debug, Default)]
pub(super) struct Held {
    versions: HashMap<DocumentKey, u64>,
    digest: Digest,
}

impl FromIterator<(DocumentKey, u64)> for Held {
    fn from_iter<T: IntoIterator<Item = (DocumentKey, u64)>>(resources: T) -> Self {
        // Of a key that is there twice the last counts, once.
        let versions: HashMap<DocumentKey, u64> = resources.into_iter().collect();
        let mut digest = Digest::default();
        versions
            .iter()
            .for_each(|(key, version)| digest.add(key, *version));
        Self { versions, digest }
    }
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.versions.len()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &DocumentKey> {
        self.versions.keys()
    }

    pub(super) fn version(&self, key: &DocumentKey) -> Option<u64> {
        self.versions.get(key).copied()
    }

    pub(super) fn digest(&self) -> [u8; 16] {
        self.digest.to_bytes()
    }

    /// The digest once the proxy took an update.
    pub(super) fn digest_after(&self, flight: &Flight) -> [u8; 16] {
        self.after(flight).to_bytes()
    }

    /// The proxy took an update.
    pub(super) fn take(&mut self, flight: &Flight) {
        self.digest = self.after(flight);
        if flight.is_whole {
            self.versions.clear();
        }
        self.versions.extend(flight.changed.iter().cloned());
        for key in &flight.removed {
            self.versions.remove(key);
        }
    }

    fn after(&self, flight: &Flight) -> Digest {
        let mut digest = if flight.is_whole {
            Digest::default()
        } else {
            self.digest
        };
        let changed = flight.changed.iter().map(|(key, version)| (key, Some(*version)));
        for (key, version) in changed.chain(flight.removed.iter().map(|key| (key, None))) {
            if let Some(before) = self.versions.get(key).filter(|_| !flight.is_whole) {
                digest.remove(key, *before);
            }
            if let Some(version) = version {
                digest.add(key, version);
            }
        }
        digest
    }
}
