//! Documents by one of their labels.

use std::collections::{BTreeSet, HashMap};

use weft_proto::kinds::DocumentKey;

/// Label, value, documents. Nothing empty is kept.
#[derive(Debug, Default)]
pub(super) struct LabelIndex(HashMap<String, HashMap<String, BTreeSet<DocumentKey>>>);

impl LabelIndex {
    pub(super) fn get(&self, key: &str, value: &str) -> Option<&BTreeSet<DocumentKey>> {
        self.0.get(key)?.get(value)
    }

    pub(super) fn count(&self, key: &str, value: &str) -> usize {
        self.get(key, value).map_or(0, BTreeSet::len)
    }

    pub(super) fn insert(&mut self, key: &str, value: &str, document: DocumentKey) {
        let values = self.0.entry(key.to_owned()).or_default();
        values.entry(value.to_owned()).or_default().insert(document);
    }

    pub(super) fn remove(&mut self, key: &str, value: &str, document: &DocumentKey) {
        let Some(values) = self.0.get_mut(key) else { return };
        if let Some(documents) = values.get_mut(value) {
            documents.remove(document);
            if documents.is_empty() {
                values.remove(value);
            }
        }
        if values.is_empty() {
            self.0.remove(key);
        }
    }
}
