//! Documents as they are stored and sent, and as they are shown.
//!
//! A [`Document`] is its key and its text: compact JSON in one spelling, so that two that say the same in the same
//! way are equal as texts. It is made from whatever YAML or JSON an operator wrote, by the project's own reader; it
//! is JSON to anyone, and read again by the same reader. What Kubernetes' API server writes into documents (`status`,
//! `metadata.uid` and so on) is left out, but for when a document was made if its kind
//! [has an age](crate::kinds::Kind::has_age); a namespace that was left out is written in.
//!
//! ```
//! use weft_proto::Source;
//! use weft_proto::document::split;
//! use weft_proto::names::DnsLabel;
//!
//! let text = "
//! kind: Workload
//! apiVersion: weft.dev/v1alpha1
//! metadata: {name: web-0, uid: 7b1e, labels: {app: web}}
//! spec: {address: 10.0.0.1}
//! ";
//! let sources = [Source::new("web.yaml", text)];
//! let documents = split(&sources, &DnsLabel::parse("shop").map_err(|_| vec![])?)?;
//! let document = &documents[0].document;
//! assert_eq!(document.key.to_string(), "Workload shop/web-0");
//! assert_eq!(
//!     &*document.json,
//!     r#"{"apiVersion":"weft.dev/v1alpha1","kind":"Workload","metadata":{"labels":{"app":"web"},"#.to_owned()
//!         + r#""name":"web-0","namespace":"shop"},"spec":{"address":"10.0.0.1"}}"#
//! );
//! # Ok::<(), Vec<weft_proto::DocumentError>>(())
//! ```

mod json;
mod yaml;

use crate::error::{DocumentError, Source};
use crate::kinds::DocumentKey;
use crate::names::DnsLabel;
use crate::parse::sources::Origin;
use crate::parse::{Parsed, moment, parse_document, parse_each};
use crate::reader::read_document;
use serde_json::Value;
use std::sync::Arc;

/// A document as it is stored and sent. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What it is called.
    pub key: DocumentKey,
    /// Its text: compact JSON, the keys of each mapping in order, all in one line.
    pub json: Arc<str>,
}

/// A document that was found in a source.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found<'a> {
    /// The document.
    pub document: Document,
    /// What it means.
    pub parsed: Parsed,
    origin: Origin<'a>,
}

/// Finds the documents in some sources, in their order. Documents that name no namespace are of this one.
///
/// A source without any document has none, which is no error.
///
/// # Errors
/// All that is wrong with the sources and with each document on its own, by source and line; a document that is
/// there twice; and a number or a boolean that JSON would not keep as it is written.
pub fn split<'a>(sources: &'a [Source], namespace: &DnsLabel) -> Result<Vec<Found<'a>>, Vec<DocumentError>> {
    let mut found = Vec::new();
    parse_each(sources, namespace, |root, origin, parsed| {
        // Of a document that JSON cannot hold there is an error, and so there is no result.
        if let Some(value) = json::value_of(root) {
            let document = Document::new(parsed.key.clone(), value);
            found.push(Found {
                document,
                parsed,
                origin,
            });
        }
    })?;
    Ok(found)
}

/// A value as YAML, in block style. Read again it is the same value.
pub fn yaml(value: &Value) -> String {
    yaml::write(value)
}

impl Found<'_> {
    /// Puts an error of this document, by whoever read only its [JSON](Document::json), where it is in the source.
    /// Another's error comes back as it is.
    pub fn placed(&self, mut error: DocumentError) -> DocumentError {
        if error.file == self.document.key.to_string() {
            self.origin.file().clone_into(&mut error.file);
            if let Some(at) = self.origin.locate(&error.path) {
                (error.line, error.column) = (at.line, at.column);
            }
        }
        error
    }
}

impl Document {
    /// A document with this content, of which bookkeeping is left out.
    pub(crate) fn new(key: DocumentKey, value: Value) -> Self {
        let value = json::canonical(&key, value);
        let json = json::to_text(&value).into();
        Self { key, json }
    }

    /// The same document as one that was made at this moment, in seconds since 1970. Of a kind that
    /// [has no age](crate::kinds::Kind::has_age) it is the same.
    #[must_use]
    pub fn made_at(&self, created: i64) -> Self {
        let (Ok(mut value), Some(moment)) = (self.value(), moment::to_text(created)) else {
            return self.clone();
        };
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert(json::CREATED.to_owned(), Value::String(moment));
        }
        Self::new(self.key.clone(), value)
    }

    /// What it means. The name of its source is its key.
    ///
    /// # Errors
    /// All that is wrong with it, each with its key in place of a file; that its key is not the one that it has here
    /// as well.
    pub fn parse(&self) -> Result<Parsed, Vec<DocumentError>> {
        let source = self.source();
        let parsed = parse_document(&source)?;
        if parsed.key == self.key {
            return Ok(parsed);
        }
        let message = format!("the document calls itself {}", parsed.key);
        Err(vec![DocumentError {
            file: source.name,
            line: 0,
            column: 0,
            path: "metadata".to_owned(),
            message,
        }])
    }

    /// Its content.
    ///
    /// # Errors
    /// Its text is not that of a document.
    pub fn value(&self) -> Result<Value, Vec<DocumentError>> {
        read_document(&self.source(), json::value_of)
    }

    /// Its content as YAML, as it is shown and edited. Read again it is the same document.
    ///
    /// # Errors
    /// Its text is not that of a document.
    pub fn to_yaml(&self) -> Result<String, Vec<DocumentError>> {
        self.value().map(|value| yaml::write(&value))
    }

    fn source(&self) -> Source {
        Source::new(self.key.to_string(), &*self.json)
    }
}
