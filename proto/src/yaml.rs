//! YAML as a tree of nodes with their positions, within limits.
//!
//! The tree is built from the events of `saphyr-parser`, which tokenises without recursion. A text is cut at its
//! `---` lines first, so that a mistake in one document hides nothing in the next, and so that the size of one
//! document bounds what is held at once. Aliases and tags are refused: no document of the project needs them,
//! and both can make a text mean something else, or much more, than it shows.

use crate::error::{DocumentError, Errors, Source, shown};
use crate::scalar::is_null;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};
use std::borrow::Cow;

/// The longest text that is read, in bytes.
pub(crate) const MAX_SOURCE_BYTES: usize = 4 << 20;
/// The longest document in a text, in bytes. The parser holds some 100 bytes for each byte at worst.
pub(crate) const MAX_DOCUMENT_BYTES: usize = 256 << 10;
/// The most values in one document. A large one has hundreds.
const MAX_NODES: usize = 1 << 16;
/// The deepest nesting. The deepest field of a document is at 5; fields that are skipped, such as Kubernetes'
/// `managedFields`, have been seen at 20.
const MAX_DEPTH: usize = 48;

/// A place in a text, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// A value.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) at: Position,
    pub(crate) content: Content<'a>,
}

#[derive(Debug)]
pub(crate) enum Content<'a> {
    Scalar {
        text: Cow<'a, str>,
        /// Not in quotes and not a block: it may be a number, a boolean or null.
        is_plain: bool,
    },
    Sequence(Vec<Node<'a>>),
    Mapping(Vec<Entry<'a>>),
    /// Something that was refused, and reported, already.
    Refused,
}

/// A key of a mapping and its value. No two of a mapping have the same key.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) key: Cow<'a, str>,
    pub(crate) key_at: Position,
    pub(crate) value: Node<'a>,
}

/// A part of a source with, normally, one document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk<'a> {
    pub(crate) file: &'a str,
    text: &'a str,
    /// How many lines of the source are before it.
    lines_before: usize,
}

/// Cuts a source at its `---` lines; into nothing, after an error, if it is too large.
pub(crate) fn chunks<'a>(source: &'a Source, errors: &Errors) -> impl Iterator<Item = Chunk<'a>> {
    let file = source.name.as_str();
    let mut rest = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text);
    if rest.len() > MAX_SOURCE_BYTES {
        let message = format!(
            "the file has {} bytes, more than the {MAX_SOURCE_BYTES} allowed",
            rest.len()
        );
        errors.push(error_at(
            file,
            Position { line: 0, column: 0 },
            String::new(),
            message,
        ));
        rest = "";
    }
    let mut lines_before = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (length, lines) = first_chunk(rest);
        let (text, after) = rest.split_at_checked(length)?;
        rest = after;
        let chunk = Chunk {
            file,
            text,
            lines_before,
        };
        lines_before += lines;
        Some(chunk)
    })
}

/// The bytes and lines up to the `---` that ends the first document.
fn first_chunk(text: &str) -> (usize, usize) {
    let (mut length, mut lines, mut has_content) = (0, 0, false);
    for line in text.split_inclusive('\n') {
        // Directives and comments before a marker belong to the document that it begins.
        if is_marker(line) && has_content {
            break;
        }
        has_content |= is_marker(line) || !is_before_document(line);
        length += line.len();
        lines += 1;
    }
    (length, lines)
}

/// The documents of a chunk, up to the first mistake of syntax.
pub(crate) fn documents<'a>(chunk: Chunk<'a>, errors: &Errors) -> Vec<Node<'a>> {
    let mut builder = Builder {
        chunk,
        errors,
        open: Vec::new(),
        nodes: 0,
        documents: Vec::new(),
    };
    if chunk.text.len() > MAX_DOCUMENT_BYTES {
        let length = chunk.text.len();
        builder.stop(
            Position {
                line: chunk.lines_before + 1,
                column: 1,
            },
            format!("the document has {length} bytes, more than the {MAX_DOCUMENT_BYTES} allowed"),
        );
        return Vec::new();
    }
    for event in Parser::new_from_str(chunk.text) {
        let result = match event {
            Ok((event, span)) => builder.on_event(event, span),
            Err(error) => Err((
                chunk.position(error.marker()),
                format!("this is not YAML: {}", error.info()),
            )),
        };
        if let Err((at, message)) = result {
            builder.stop(at, message);
            break;
        }
    }
    builder.documents
}

/// The path of a field of the mapping with this path.
pub(crate) fn child_path(path: &str, name: &str) -> String {
    let name = shown(name);
    if path.is_empty() {
        name.into_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Where a field is, or, if it is not there, where the nearest field above it is.
pub(crate) fn locate(root: &Node<'_>, path: &str) -> Position {
    let mut at = root.at;
    let mut node = root;
    for step in path.split(['.', '[']) {
        let child = match &node.content {
            Content::Mapping(entries) => entries.iter().find(|entry| entry.key == step).map(|entry| {
                let is_scalar = matches!(entry.value.content, Content::Scalar { .. });
                (
                    if is_scalar { entry.value.at } else { entry.key_at },
                    &entry.value,
                )
            }),
            Content::Sequence(items) => {
                let index = step.trim_end_matches(']').parse::<usize>().ok();
                index
                    .and_then(|index| items.get(index))
                    .map(|item| (item.at, item))
            }
            Content::Scalar { .. } | Content::Refused => None,
        };
        match child {
            Some((child_at, child)) => (at, node) = (child_at, child),
            None => break,
        }
    }
    at
}

impl Chunk<'_> {
    fn position(&self, marker: &Marker) -> Position {
        Position {
            line: self.lines_before + marker.line(),
            column: marker.col() + 1,
        }
    }
}

fn error_at(file: &str, at: Position, path: String, message: String) -> DocumentError {
    DocumentError {
        file: file.to_owned(),
        line: at.line,
        column: at.column,
        path,
        message,
    }
}

/// YAML 1.2 section 9.1.2: `---` at the start of a line ends a document wherever it stands.
fn is_marker(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_before_document(line: &str) -> bool {
    line.starts_with('%') || matches!(line.trim_start().chars().next(), None | Some('#'))
}

/// Why the rest of a chunk is not read.
type Stop = (Position, String);

/// Builds the tree from events, with the open collections on a stack of its own.
struct Builder<'a, 'e> {
    chunk: Chunk<'a>,
    errors: &'e Errors,
    open: Vec<Open<'a>>,
    nodes: usize,
    documents: Vec<Node<'a>>,
}

struct Open<'a> {
    at: Position,
    is_refused: bool,
    collection: Collection<'a>,
}

enum Collection<'a> {
    Sequence(Vec<Node<'a>>),
    Mapping { entries: Vec<Entry<'a>>, key: Key<'a> },
}

/// What a mapping waits for.
enum Key<'a> {
    /// A key.
    Wanted,
    /// The value of this key.
    Read(Cow<'a, str>, Position),
    /// The value of a key that was refused.
    Refused,
}

impl<'a> Builder<'a, '_> {
    fn on_event(&mut self, event: Event<'a>, span: Span) -> Result<(), Stop> {
        let at = self.chunk.position(&span.start);
        match event {
            Event::Scalar(text, style, _, tag) => {
                let is_refused = self.check_tag(at, tag.is_some());
                let is_plain = style == ScalarStyle::Plain;
                let content = if is_refused {
                    Content::Refused
                } else {
                    Content::Scalar { text, is_plain }
                };
                self.add(Node { at, content })
            }
            Event::Alias(_) => {
                self.refuse(at, "aliases (*) are not read: write the value out");
                self.add(Node {
                    at,
                    content: Content::Refused,
                })
            }
            Event::SequenceStart(_, tag) => self.open(at, tag.is_some(), Collection::Sequence(Vec::new())),
            Event::MappingStart(_, tag) => self.open(
                at,
                tag.is_some(),
                Collection::Mapping {
                    entries: Vec::new(),
                    key: Key::Wanted,
                },
            ),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    let node = self.close(open);
                    self.add(node)
                }
                None => Ok(()),
            },
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    /// Reports why the rest of the chunk is not read. What is open then may not be where the fault is.
    fn stop(&self, at: Position, message: String) {
        self.errors
            .push(error_at(self.chunk.file, at, String::new(), message));
    }

    fn refuse(&self, at: Position, message: &str) {
        self.errors
            .push(error_at(self.chunk.file, at, self.path(), message.to_owned()));
    }

    /// The path of what is being read.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.collection {
                Collection::Sequence(items) => path += &format!("[{}]", items.len()),
                Collection::Mapping {
                    key: Key::Read(name, _),
                    ..
                } => path = child_path(&path, name),
                Collection::Mapping { .. } => {}
            }
        }
        path
    }

    fn check_tag(&self, at: Position, is_tagged: bool) -> bool {
        if is_tagged {
            self.refuse(at, "tags (!) are not read: write the value alone");
        }
        is_tagged
    }

    fn open(&mut self, at: Position, is_tagged: bool, collection: Collection<'a>) -> Result<(), Stop> {
        if self.open.len() >= MAX_DEPTH {
            return Err((at, format!("nested deeper than the {MAX_DEPTH} levels allowed")));
        }
        let is_refused = self.check_tag(at, is_tagged);
        self.open.push(Open {
            at,
            is_refused,
            collection,
        });
        Ok(())
    }

    fn close(&self, open: Open<'a>) -> Node<'a> {
        let content = match open.collection {
            _ if open.is_refused => Content::Refused,
            Collection::Sequence(items) => Content::Sequence(items),
            Collection::Mapping { entries, .. } => {
                self.check_unique(&entries);
                Content::Mapping(entries)
            }
        };
        Node { at: open.at, content }
    }

    /// Puts a node where it belongs: into the innermost open collection.
    fn add(&mut self, node: Node<'a>) -> Result<(), Stop> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err((
                node.at,
                format!("the document has more than the {MAX_NODES} values allowed"),
            ));
        }
        match self.open.last_mut().map(|open| &mut open.collection) {
            None => self.documents.push(node),
            Some(Collection::Sequence(items)) => items.push(node),
            Some(Collection::Mapping { entries, key }) => match std::mem::replace(key, Key::Wanted) {
                Key::Read(name, key_at) => entries.push(Entry {
                    key: name,
                    key_at,
                    value: node,
                }),
                Key::Refused => {}
                Key::Wanted => match node.content {
                    Content::Scalar { text, is_plain } if !(is_plain && is_null(&text)) => {
                        *key = Key::Read(text, node.at);
                    }
                    content => {
                        *key = Key::Refused;
                        if !matches!(content, Content::Refused) {
                            self.refuse(node.at, "a key is a string");
                        }
                    }
                },
            },
        }
        Ok(())
    }

    fn check_unique(&self, entries: &[Entry<'_>]) {
        let mut keys: Vec<(&str, Position)> =
            entries.iter().map(|entry| (&*entry.key, entry.key_at)).collect();
        keys.sort_by_key(|(key, at)| (*key, at.line, at.column));
        for (first, second) in keys.iter().zip(keys.iter().skip(1)) {
            if first.0 == second.0 {
                let path = child_path(&self.path(), second.0);
                let message = format!("the key is in line {} already", first.1.line);
                self.errors
                    .push(error_at(self.chunk.file, second.1, path, message));
            }
        }
    }
}
