//! Documents in, the [`Mesh`] out, or all that is wrong with them.
//!
//! Documents are YAML in Kubernetes' shapes, several in a text. A field is either read, or on a list of those
//! that say nothing to the mesh and are skipped, or on a list of those that say something the mesh cannot do and
//! are refused by name; any other is an error. The lists stand beside what is read, one file a kind:
//!
//! | document | file |
//! |---|---|
//! | every one: `apiVersion`, `kind`, `metadata` | `parse/object.rs` |
//! | `v1 Service` | `parse/service.rs` |
//! | `weft.dev/v1alpha1 Workload` | `parse/workload.rs` |
//! | `weft.dev/v1alpha1 MeshConfig` | `parse/mesh_config.rs` |
//! | what concerns several of them | `parse/check.rs` |
//!
//! ```
//! use weft_proto::parse::parse_documents;
//! use weft_proto::Source;
//!
//! let text = "
//! apiVersion: weft.dev/v1alpha1
//! kind: MeshConfig
//! metadata: {name: mesh}
//! spec: {trustDomain: mesh.example}
//! ---
//! apiVersion: v1
//! kind: Service
//! metadata: {name: web}
//! spec:
//!   selector: {app: web}
//!   ports:
//!   - port: 70000
//! ";
//! let errors = parse_documents(&[Source::new("mesh.yaml", text)]).err().unwrap_or_default();
//! assert_eq!(errors.len(), 1);
//! assert_eq!(errors[0].to_string(), "mesh.yaml:13: spec.ports[0].port: 70000 is not a port (1 to 65535)");
//! ```

mod check;
pub mod fields;
mod mesh_config;
mod object;
mod service;
mod workload;

use crate::error::{DocumentError, Errors, Source};
use crate::model::{Mesh, MeshConfig, Service, Workload};
use crate::reader::{self, Value};
use crate::yaml::{self, Chunk};
use object::{Document, Kind, NamesSeen};
use std::collections::HashMap;

/// The most documents of a mesh, all sources together.
pub const MAX_DOCUMENTS: usize = 100_000;

/// Reads all documents of a mesh and checks them against each other. All errors come out at once, by source and
/// line; past [`MAX_ERRORS`](crate::error::MAX_ERRORS) they are only counted.
///
/// What depends on several documents is checked only as far as the documents it depends on could be read: one
/// mistake is one error.
pub fn parse_documents(sources: &[Source]) -> Result<Mesh, Vec<DocumentError>> {
    let errors = Errors::new();
    let mut documents = Documents::default();
    for source in sources {
        documents.read_source(source, &errors);
    }
    match check::check(documents, &errors) {
        Some(mesh) if errors.count() == 0 => Ok(mesh),
        _ => Err(sorted(errors, sources)),
    }
}

/// What was read, before its parts are checked against each other.
#[derive(Default)]
struct Documents<'a> {
    configs: Vec<Located<'a, MeshConfig>>,
    services: Vec<Located<'a, Service>>,
    workloads: Vec<Located<'a, Workload>>,
    names: NamesSeen,
    /// How many documents there were, those that could not be read and empty ones included.
    count: usize,
    unread: Unread,
}

/// A document that was read, and where it came from.
struct Located<'a, T> {
    document: T,
    origin: Origin<'a>,
}

/// Where a document came from: enough to read it once more when an error needs a line of it.
#[derive(Clone, Copy)]
struct Origin<'a> {
    chunk: Chunk<'a>,
    /// Which of the documents of the chunk.
    index: usize,
}

/// Whether something was given that could not be read. What seems to be missing may be that.
#[derive(Default)]
struct Unread {
    configs: bool,
    workloads: bool,
}

impl<'a> Documents<'a> {
    fn read_source(&mut self, source: &'a Source, errors: &Errors) {
        let mut syntax_errors = 0;
        let errors_before = errors.count();
        let chunks = yaml::chunks(source, errors);
        syntax_errors += errors.count() - errors_before;
        for chunk in chunks {
            let errors_before = errors.count();
            let roots = yaml::documents(chunk, errors);
            syntax_errors += errors.count() - errors_before;
            for (index, root) in roots.iter().enumerate() {
                self.count += 1;
                let root = Value::root(chunk.file, root, errors);
                if self.count == MAX_DOCUMENTS + 1 {
                    root.error(format_args!("more than the {MAX_DOCUMENTS} documents allowed"));
                }
                if self.count <= MAX_DOCUMENTS && !root.is_null() {
                    self.read(&root, Origin { chunk, index });
                }
            }
            if self.count > MAX_DOCUMENTS {
                syntax_errors += 1;
                break;
            }
        }
        if syntax_errors > 0 {
            self.unread = Unread {
                configs: true,
                workloads: true,
            };
        }
    }

    fn read(&mut self, root: &Value<'_>, origin: Origin<'a>) {
        let errors_before = root.error_count();
        let (kind, document) = object::read(root, &mut self.names);
        // What was read in part is not compared with others: what it lacks would show as errors of theirs.
        match document.filter(|_| root.error_count() == errors_before) {
            Some(Document::MeshConfig(document)) => self.configs.push(Located { document, origin }),
            Some(Document::Service(document)) => self.services.push(Located { document, origin }),
            Some(Document::Workload(document)) => self.workloads.push(Located { document, origin }),
            None => {
                self.unread.configs |= matches!(kind, None | Some(Kind::MeshConfig));
                self.unread.workloads |= matches!(kind, None | Some(Kind::Workload));
            }
        }
    }
}

impl Origin<'_> {
    /// Reports an error of a field of the document.
    fn error(&self, errors: &Errors, path: &str, message: String) {
        let at = self.locate(errors, path);
        let (line, column) = at.map_or((0, 0), |at| (at.line, at.column));
        let (file, path) = (self.chunk.file.to_owned(), path.to_owned());
        errors.push(DocumentError {
            file,
            line,
            column,
            path,
            message,
        });
    }

    /// Where a field of the document is, as `FILE:LINE`.
    fn place_of(&self, errors: &Errors, path: &str) -> String {
        format!(
            "{}:{}",
            self.chunk.file,
            self.locate(errors, path).map_or(0, |at| at.line)
        )
    }

    /// Reads the document again: few errors are shown, and the positions of all documents are not worth keeping.
    fn locate(&self, errors: &Errors, path: &str) -> Option<yaml::Position> {
        if errors.is_full() {
            return None;
        }
        let documents = yaml::documents(self.chunk, &Errors::new());
        documents.get(self.index).map(|root| yaml::locate(root, path))
    }
}

/// The errors in the order of the sources, and of the lines in each. Those without a file come last.
fn sorted(errors: Errors, sources: &[Source]) -> Vec<DocumentError> {
    let mut rank: HashMap<&str, usize> = HashMap::new();
    for (index, source) in sources.iter().enumerate() {
        rank.entry(&source.name).or_insert(index);
    }
    let mut errors = errors.into_vec();
    reader::sort(&mut errors);
    errors.sort_by_key(|error| rank.get(error.file.as_str()).copied().unwrap_or(usize::MAX));
    errors
}
