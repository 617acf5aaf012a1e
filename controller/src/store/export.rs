//! A store as text: a JSON document a line.
//!
//! The first line says what it is and of which revision; then each key has a line, in order; the last has their number
//! and the SHA-256 of all lines before it, so that an export that was cut off or altered is noticed. Nothing secret is
//! in it: join tokens are left out, though a store has only their hashes, and no key is ever in a store.

use std::io::{self, BufRead, Read, Write};

use aws_lc_rs::digest::{Context, SHA256};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Revision, StoreError,
    batch::{Record, Records},
    check_sizes,
};

/// The keys that are left out.
const SECRET: &str = "tokens/";
/// The format that is written, and the newest that is read.
const FORMAT: u64 = 1;
/// The longest line: a value of which each byte is escaped, and its key.
const MAX_LINE: u64 = 6 * (super::MAX_VALUE + super::MAX_KEY) as u64 + 1024;

/// What was exported or imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// How many keys.
    pub entries: u64,
    /// As of which revision.
    pub revision: Revision,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// What it is.
    weft: String,
    format: u64,
    /// The store that it is of.
    store: String,
    revision: u64,
}

/// A line of a key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    created: u64,
    modified: u64,
    generation: u64,
    /// The value, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The value, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    entries: u64,
    sha256: String,
}

const KIND: &str = "export of a store";
/// What the last line begins with, and no other.
const END: &[u8] = br#"{"entries":"#;

/// Writes a store.
pub(super) fn write(
    out: &mut dyn Write,
    id: &str,
    records: &Records,
    revision: Revision,
) -> io::Result<Exported> {
    let mut lines = Lines {
        out,
        digest: Context::new(&SHA256),
    };
    lines.write(&Header {
        weft: KIND.into(),
        format: FORMAT,
        store: id.into(),
        revision: revision.0,
    })?;
    let mut entries = 0;
    for (key, record) in records.iter().filter(|(key, _)| !key.starts_with(SECRET)) {
        lines.write(&Line::new(key, record))?;
        entries += 1;
    }
    let sha256 = crate::hex::encode(lines.digest.clone().finish().as_ref());
    lines.write(&End { entries, sha256 })?;
    lines.out.flush()?;
    Ok(Exported { entries, revision })
}

/// Reads a store, key by key. What was read counts only when the last item was no error.
pub(super) struct Reading<'a> {
    from: &'a mut dyn BufRead,
    digest: Context,
    /// Of the line that was read last, from 1.
    number: u64,
    revision: Revision,
    entries: u64,
    last: Option<String>,
    done: bool,
}

impl<'a> Reading<'a> {
    /// Reads the first line.
    pub(super) fn begin(from: &'a mut dyn BufRead) -> Result<Self, StoreError> {
        let mut reading = Self {
            from,
            digest: Context::new(&SHA256),
            number: 0,
            revision: Revision(0),
            entries: 0,
            last: None,
            done: false,
        };
        let line = reading.line()?;
        let header: Header = serde_json::from_slice(&line)
            .ok()
            .filter(|header: &Header| header.weft == KIND)
            .ok_or_else(|| StoreError::Damaged("this is no export of a store".into()))?;
        if header.format > FORMAT {
            return Err(StoreError::Newer(format!(
                "the export has format {}, and this version reads up to {FORMAT}: import it with a newer version",
                header.format
            )));
        }
        reading.digest.update(&line);
        reading.revision = Revision(header.revision);
        Ok(reading)
    }

    /// That the store had.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// What was read so far.
    pub(super) fn exported(&self) -> Exported {
        Exported {
            entries: self.entries,
            revision: self.revision,
        }
    }

    fn item(&mut self) -> Result<Option<(String, Record)>, StoreError> {
        let line = self.line()?;
        if line.starts_with(END) {
            self.end(&line)?;
            return Ok(None);
        }
        self.digest.update(&line);
        let line: Line = serde_json::from_slice(&line).map_err(|error| self.wrong(&error.to_string()))?;
        let (key, record) = line.record().map_err(|why| self.wrong(why))?;
        check_sizes(&key, record.value.len()).map_err(|error| self.wrong(&error.to_string()))?;
        if record.modified > self.revision {
            return Err(self.wrong("it was changed after the revision of the export"));
        }
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            return Err(self.wrong("its key does not come after that of the line before"));
        }
        self.entries += 1;
        self.last = Some(key.clone());
        Ok(Some((key, record)))
    }

    fn end(&mut self, line: &[u8]) -> Result<(), StoreError> {
        let end: End = serde_json::from_slice(line).map_err(|error| self.wrong(&error.to_string()))?;
        if end.entries != self.entries
            || end.sha256 != crate::hex::encode(self.digest.clone().finish().as_ref())
        {
            return Err(StoreError::Damaged(
                "the export was altered: its last line does not fit the others. Take another one".into(),
            ));
        }
        match self.from.fill_buf() {
            Ok([]) => Ok(()),
            Ok(_) => Err(StoreError::Damaged(
                "the export goes on after its last line. Take another one".into(),
            )),
            Err(error) => Err(unreadable(&error)),
        }
    }

    /// The next, with its line feed.
    fn line(&mut self) -> Result<Vec<u8>, StoreError> {
        let mut line = Vec::new();
        (&mut *self.from)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(|error| unreadable(&error))?;
        self.number += 1;
        match line.last() {
            Some(b'\n') => Ok(line),
            Some(_) if line.len() as u64 == MAX_LINE => Err(self.wrong("it is too long")),
            _ => Err(StoreError::Damaged(format!(
                "the export was cut off after line {}: its last line is missing. Take another one",
                self.number - 1
            ))),
        }
    }

    fn wrong(&self, why: &str) -> StoreError {
        StoreError::Damaged(format!("line {} of the export: {why}", self.number))
    }
}

impl Iterator for Reading<'_> {
    type Item = Result<(String, Record), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.item().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

impl Line {
    fn new(key: &str, record: &Record) -> Self {
        let text = std::str::from_utf8(&record.value).ok().map(str::to_owned);
        Self {
            key: key.to_owned(),
            created: record.created.0,
            modified: record.modified.0,
            generation: record.generation,
            base64: text.is_none().then(|| BASE64_STANDARD.encode(&record.value)),
            text,
        }
    }

    fn record(self) -> Result<(String, Record), &'static str> {
        let value = match (self.text, self.base64) {
            (Some(text), None) => Bytes::from(text),
            (None, Some(base64)) => Bytes::from(
                BASE64_STANDARD
                    .decode(base64)
                    .map_err(|_| "its value is not base64")?,
            ),
            _ => return Err("it has no value, or two"),
        };
        if self.created == 0 || self.created > self.modified || self.generation == 0 {
            return Err("its revisions or its generation cannot be");
        }
        if self.key.starts_with(SECRET) {
            return Err("join tokens are in no export");
        }
        let record = Record {
            value,
            created: Revision(self.created),
            modified: Revision(self.modified),
            generation: self.generation,
        };
        Ok((self.key, record))
    }
}

/// Writes lines, and digests them.
struct Lines<'a> {
    out: &'a mut dyn Write,
    digest: Context,
}

impl Lines<'_> {
    fn write(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.digest.update(&line);
        self.out.write_all(&line)
    }
}

fn unreadable(error: &io::Error) -> StoreError {
    StoreError::Io(format!("the export cannot be read: {error}"))
}
