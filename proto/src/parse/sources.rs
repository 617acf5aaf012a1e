//! The documents of sources, one after the other.

use super::MAX_DOCUMENTS;
use crate::error::{DocumentError, Errors, Source};
use crate::reader::{self, Value};
use crate::yaml::{self, Chunk, Position};
use std::collections::HashMap;

/// Where a document came from: enough to read it once more when an error needs a line of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    chunk: Chunk<'a>,
    /// Which of the documents of the chunk.
    index: usize,
}

impl Origin<'_> {
    /// Where a field of the document is. Reads the document again: few errors are shown, and the positions of all
    /// documents are not worth keeping.
    pub(crate) fn locate(&self, path: &str) -> Option<Position> {
        let documents = yaml::documents(self.chunk, &Errors::new());
        documents.get(self.index).map(|root| yaml::locate(root, path))
    }

    /// The name of the source.
    pub(crate) fn file(&self) -> &str {
        self.chunk.file
    }
}

/// Hands the documents of a source to `read`, but for empty ones. `count` is how many there were so far, of all
/// sources, those that could not be read and empty ones included. Whether there may be more that were not found,
/// which is an error already.
pub(super) fn each_document<'a>(
    source: &'a Source,
    count: &mut usize,
    errors: &Errors,
    mut read: impl FnMut(&Value<'_>, Origin<'a>),
) -> bool {
    let mut is_incomplete = false;
    let errors_before = errors.count();
    let chunks = yaml::chunks(source, errors);
    is_incomplete |= errors.count() > errors_before;
    for chunk in chunks {
        let errors_before = errors.count();
        let roots = yaml::documents(chunk, errors);
        is_incomplete |= errors.count() > errors_before;
        for (index, root) in roots.iter().enumerate() {
            *count += 1;
            let root = Value::root(chunk.file, root, errors);
            if *count == MAX_DOCUMENTS + 1 {
                root.error(format_args!("more than the {MAX_DOCUMENTS} documents allowed"));
            }
            if *count <= MAX_DOCUMENTS && !root.is_null() {
                read(&root, Origin { chunk, index });
            }
        }
        if *count > MAX_DOCUMENTS {
            return true;
        }
    }
    is_incomplete
}

/// The errors in the order of the sources, and of the lines in each. Those without a file come last.
pub(super) fn sorted(errors: Errors, sources: &[Source]) -> Vec<DocumentError> {
    let mut rank: HashMap<&str, usize> = HashMap::new();
    for (index, source) in sources.iter().enumerate() {
        rank.entry(&source.name).or_insert(index);
    }
    let mut errors = errors.into_vec();
    reader::sort(&mut errors);
    errors.sort_by_key(|error| rank.get(error.file.as_str()).copied().unwrap_or(usize::MAX));
    errors
}
