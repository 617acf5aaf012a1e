//! Reading YAML so that all of its errors come out at once, each with its line and field.
//!
//! A [`Value`] is a place in a document; its methods read what is there or report what is wrong and give `None`.
//! A mapping is read through [`Fields`], which reports whatever nobody asked for. A reader goes on after an
//! error, so as to find the others, and [`read_document`] gives a result only if there were none: hence an
//! optional field that is absent and one that is wrong may both read as `None`.
//!
//! ```
//! use weft_proto::error::Source;
//! use weft_proto::reader::{read_document, Value};
//!
//! struct Settings { workers: u16, binds: Vec<(std::net::SocketAddr, String)> }
//!
//! fn settings(root: &Value<'_>) -> Option<Settings> {
//!     root.mapping(|fields| {
//!         let workers = fields.optional("workers", |value| value.integer("a number of workers", 1..=64));
//!         let binds = fields.optional("binds", |value| value.list(bind));
//!         Some(Settings { workers: workers.unwrap_or(1), binds: binds.unwrap_or_default() })
//!     })
//! }
//!
//! fn bind(value: &Value<'_>) -> Option<(std::net::SocketAddr, String)> {
//!     value.mapping(|fields| {
//!         let listen = fields.required("listen", Value::socket_address);
//!         let service = fields.required("service", |value| value.string().map(str::to_owned));
//!         Some((listen?, service?))
//!     })
//! }
//!
//! let text = "workers: 100\nbinds:\n- listen: 127.0.0.1:5432\n  sevice: db\n";
//! let errors = read_document(&Source::new("web.yaml", text), settings).err().unwrap_or_default();
//! let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
//! assert_eq!(errors, [
//!     "web.yaml:1: workers: 100 is not a number of workers (1 to 64)",
//!     "web.yaml:3: binds[0].service: missing",
//!     "web.yaml:4: binds[0].sevice: unknown field; did you mean service?",
//! ]);
//! ```

use crate::error::{DocumentError, Errors, Source, nearest, shown};
use crate::scalar::{is_boolean, is_decimal, is_null, is_number, is_string};
use crate::yaml::{self, Content, Entry, Node, Position};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

/// Reads a source that holds exactly one document.
pub fn read_document<T>(
    source: &Source,
    read: impl FnOnce(&Value<'_>) -> Option<T>,
) -> Result<T, Vec<DocumentError>> {
    let errors = Errors::new();
    let error_at = |line, column, message: &str| {
        let (file, message) = (source.name.clone(), message.to_owned());
        errors.push(DocumentError {
            file,
            line,
            column,
            path: String::new(),
            message,
        });
    };
    let mut documents = yaml::chunks(source, &errors)
        .flat_map(|chunk| yaml::documents(chunk, &errors))
        .filter(|root| !root.is_null());
    let first = documents.next();
    let result = first
        .as_ref()
        .and_then(|root| read(&Value::root(&source.name, root, &errors)));
    if let Some(second) = documents.next() {
        error_at(
            second.at.line,
            second.at.column,
            "a second document: this file holds one",
        );
    }
    match result {
        Some(result) if errors.count() == 0 => return Ok(result),
        // A reader gives `None` only after an error. Should one not, it must not pass in silence.
        None if errors.count() == 0 && first.is_some() => error_at(0, 0, "the document could not be read"),
        None if errors.count() == 0 => error_at(0, 0, "the file is empty"),
        _ => {}
    }
    drop(documents);
    let mut errors = errors.into_vec();
    sort(&mut errors);
    Err(errors)
}

/// Orders the errors of one source by line. Those without a line stay last.
pub(crate) fn sort(errors: &mut [DocumentError]) {
    errors.sort_by_key(|error| (error.line == 0, error.line, error.column));
}

/// A place in a document, with what stands there.
#[derive(Clone, Debug)]
pub struct Value<'a> {
    file: &'a str,
    errors: &'a Errors,
    node: &'a Node<'a>,
    /// Where errors are reported: a collection's key, or else the value itself.
    at: Position,
    path: String,
}

/// The fields of a mapping, of which each is asked for by name.
#[derive(Debug)]
pub struct Fields<'a> {
    parent: Value<'a>,
    entries: &'a [Entry<'a>],
    /// The fields that a document may have, for whoever misspelt one.
    known: Vec<&'static str>,
    /// Whether each of the entries was asked for.
    taken: Vec<bool>,
}

impl<'a> Value<'a> {
    pub(crate) fn root(file: &'a str, node: &'a Node<'a>, errors: &'a Errors) -> Self {
        Self {
            file,
            errors,
            node,
            at: node.at,
            path: String::new(),
        }
    }

    /// The path of this place, such as `spec.ports[0]`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The line of this place, from 1.
    pub fn line(&self) -> usize {
        self.at.line
    }

    /// Reports an error at this place.
    pub fn error(&self, message: impl Display) {
        self.error_at(self.at, self.path.clone(), message);
    }

    /// Whether nothing stands here: an empty value, `~` or `null`.
    pub fn is_null(&self) -> bool {
        self.node.is_null()
    }

    /// Where this place is, as `FILE:LINE`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.at.line)
    }

    /// Whether a number stands here, not in quotes.
    pub fn is_number(&self) -> bool {
        matches!(&self.node.content, Content::Scalar { text, is_plain: true } if is_number(text))
    }

    /// Whether a list stands here.
    pub fn is_list(&self) -> bool {
        matches!(self.node.content, Content::Sequence(_))
    }

    /// Whether a mapping stands here.
    pub fn is_mapping(&self) -> bool {
        matches!(self.node.content, Content::Mapping(_))
    }

    /// A scalar of any kind, and whether it is not in quotes.
    pub(crate) fn scalar(&self) -> Option<(&'a str, bool)> {
        match &self.node.content {
            Content::Scalar { text, is_plain } => Some((text, *is_plain)),
            _ => self.mismatch("a scalar"),
        }
    }

    /// A string. What YAML takes for a number, a boolean or null is none, as it is none to Kubernetes.
    pub fn string(&self) -> Option<&'a str> {
        match &self.node.content {
            Content::Scalar {
                text,
                is_plain: false,
            } => Some(text),
            Content::Scalar { text, is_plain: true } if is_string(text) => Some(text),
            _ => self.mismatch("a string"),
        }
    }

    /// A string that is read further; its error follows the string, as in `x y is not a name`.
    pub fn parse<T, E: Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let text = self.string()?;
        parse(text)
            .map_err(|error| self.error(format_args!("{} {error}", shown(text))))
            .ok()
    }

    /// A whole number in decimal digits. `what` is what it is, with an article: `a port`.
    pub fn integer<T>(&self, what: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: Copy + Display + PartialOrd + std::str::FromStr,
    {
        let text = match &self.node.content {
            Content::Scalar { text, is_plain } if *is_plain || !is_decimal(text) => text,
            Content::Scalar { text, .. } => {
                self.error(format_args!(
                    "{text:?} is a string, not {what}: remove the quotes"
                ));
                return None;
            }
            _ => return self.mismatch("a number"),
        };
        if self.is_null() {
            return self.mismatch("a number");
        }
        let number = if is_decimal(text) { text.parse().ok() } else { None };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let (first, last) = (range.start(), range.end());
            self.error(format_args!("{} is not {what} ({first} to {last})", shown(text)));
        }
        number
    }

    /// A port of TCP or UDP, which is never 0.
    pub fn port(&self) -> Option<u16> {
        self.integer("a port", 1..=u16::MAX)
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        match &self.node.content {
            Content::Scalar { text, is_plain: true } if text == "true" => Some(true),
            Content::Scalar { text, is_plain: true } if text == "false" => Some(false),
            _ => self.mismatch("true or false"),
        }
    }

    /// One word of several.
    pub fn one_of<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.string()?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*meaning);
        }
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = match nearest(text, list.iter().copied()) {
            Some(word) => format!("; did you mean {word}?"),
            None => String::new(),
        };
        self.error(format_args!(
            "{} is not one of {}{hint}",
            shown(text),
            list.join(", ")
        ));
        None
    }

    /// An IP address in its usual form: no leading zeros, no zone, not IPv4-mapped (write the IPv4 address).
    pub fn ip_address(&self) -> Option<IpAddr> {
        self.parse(|text| match text.parse::<IpAddr>() {
            Ok(address) => check_unmapped(address).map(|()| address),
            Err(_) => Err("is not an IP address".to_owned()),
        })
    }

    /// An IP address and a port that is not 0: `127.0.0.1:80`, `"[::1]:80"`.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        self.parse(|text| match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => Err("has no port (1 to 65535)".to_owned()),
            Ok(SocketAddr::V6(address)) if address.scope_id() != 0 => Err("has a zone ('%')".to_owned()),
            Ok(address) => check_unmapped(address.ip()).map(|()| address),
            Err(_) => Err("is not an address and port, such as 127.0.0.1:80 or [::1]:80".to_owned()),
        })
    }

    /// A mapping. All fields that `read` does not ask for are reported.
    pub fn mapping<T>(&self, read: impl FnOnce(&mut Fields<'a>) -> Option<T>) -> Option<T> {
        let Content::Mapping(entries) = &self.node.content else {
            return self.mismatch("a mapping");
        };
        let mut fields = Fields {
            parent: self.clone(),
            entries,
            known: Vec::new(),
            taken: vec![false; entries.len()],
        };
        let result = read(&mut fields);
        fields.report_unknown();
        result
    }

    /// A mapping whose keys are the document's own, in its order. All are read, also after one that is wrong.
    pub fn entries<T>(&self, read: impl FnMut(&str, &Value<'a>) -> Option<T>) -> Option<Vec<T>> {
        self.each_entry(|key| format!("{}[{}]", self.path, shown(key)), read)
    }

    /// A mapping of which nothing is known; its keys may well be names of fields.
    pub(crate) fn members<T>(&self, read: impl FnMut(&str, &Value<'a>) -> Option<T>) -> Option<Vec<T>> {
        self.each_entry(|key| yaml::child_path(&self.path, key), read)
    }

    fn each_entry<T>(
        &self,
        path_of: impl Fn(&str) -> String,
        mut read: impl FnMut(&str, &Value<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Content::Mapping(entries) = &self.node.content else {
            return self.mismatch("a mapping");
        };
        let read_all: Vec<Option<T>> = entries
            .iter()
            .map(|entry| {
                let value = self.child(entry, path_of(&entry.key));
                read(&entry.key, &value)
            })
            .collect();
        read_all.into_iter().collect()
    }

    /// A list. All items are read, also after one that is wrong.
    pub fn list<T>(&self, mut read: impl FnMut(&Value<'a>) -> Option<T>) -> Option<Vec<T>> {
        let Content::Sequence(items) = &self.node.content else {
            return self.mismatch("a list");
        };
        let read_all: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(index, node)| {
                let path = format!("{}[{index}]", self.path);
                read(&Value {
                    file: self.file,
                    errors: self.errors,
                    node,
                    at: node.at,
                    path,
                })
            })
            .collect();
        read_all.into_iter().collect()
    }

    /// A list, or one item that stands for a list of it.
    pub fn one_or_list<T>(&self, mut read: impl FnMut(&Value<'a>) -> Option<T>) -> Option<Vec<T>> {
        if self.is_list() {
            self.list(read)
        } else {
            read(self).map(|item| vec![item])
        }
    }

    /// How many errors there are so far, wherever they are.
    pub(crate) fn error_count(&self) -> usize {
        self.errors.count()
    }

    fn child(&self, entry: &'a Entry<'a>, path: String) -> Value<'a> {
        let is_scalar = matches!(entry.value.content, Content::Scalar { .. });
        let at = if is_scalar { entry.value.at } else { entry.key_at };
        Value {
            file: self.file,
            errors: self.errors,
            node: &entry.value,
            at,
            path,
        }
    }

    /// Reports that something else stands here. What was refused already is not reported again.
    fn mismatch<T>(&self, wanted: &str) -> Option<T> {
        let found = match &self.node.content {
            Content::Refused => return None,
            Content::Sequence(_) => "a list".to_owned(),
            Content::Mapping(_) => "a mapping".to_owned(),
            Content::Scalar { .. } if self.is_null() => "nothing".to_owned(),
            Content::Scalar { text, is_plain: true } if wanted == "a string" => {
                let kind = if is_boolean(text) { "a boolean" } else { "a number" };
                self.error(format_args!(
                    "{} is {kind} to YAML: put it in quotes",
                    shown(text)
                ));
                return None;
            }
            Content::Scalar { text, .. } => shown(text).into_owned(),
        };
        self.error(format_args!("expected {wanted}, found {found}"));
        None
    }

    fn error_at(&self, at: Position, path: String, message: impl Display) {
        self.errors.push(DocumentError {
            file: self.file.to_owned(),
            line: at.line,
            column: at.column,
            path,
            message: message.to_string(),
        });
    }
}

impl<'a> Fields<'a> {
    /// A field that may be absent. Null is absent, as in Kubernetes.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Option<T> {
        self.known.push(name);
        read(&self.take(name)?)
    }

    /// A field that must be there.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Option<T> {
        self.known.push(name);
        match self.take(name) {
            Some(value) => read(&value),
            None => {
                self.error(name, "missing");
                None
            }
        }
    }

    /// Fields that say nothing to the mesh: whatever they hold is skipped.
    pub fn accept(&mut self, names: &[&str]) {
        for name in names {
            self.take(name);
        }
    }

    /// A field that says something that the mesh cannot do: it must be absent.
    pub fn refuse(&mut self, name: &str, message: impl Display) {
        if let Some(value) = self.take(name) {
            value.error(message);
        }
    }

    /// Whatever else there is: for a mapping of which too little is understood to judge it.
    pub fn accept_all(&mut self) {
        self.taken.fill(true);
    }

    /// Whether the mapping has this field, and not as null.
    pub fn has(&self, name: &str) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.key == name && !entry.value.is_null())
    }

    /// Reports an error of a field, which may be absent.
    pub fn error(&self, name: &str, message: impl Display) {
        let entry = self.entries.iter().find(|entry| entry.key == name);
        let at = entry.map_or(self.parent.at, |entry| entry.key_at);
        self.parent.error_at(at, self.path_of(name), message);
    }

    fn take(&mut self, name: &str) -> Option<Value<'a>> {
        // Keys that are there twice were reported; the first is read.
        let mut found = None;
        for (entry, taken) in self.entries.iter().zip(&mut self.taken) {
            if entry.key == name {
                *taken = true;
                found = found.or(Some(entry));
            }
        }
        let entry = found.filter(|entry| !entry.value.is_null())?;
        Some(self.parent.child(entry, self.path_of(name)))
    }

    fn path_of(&self, name: &str) -> String {
        yaml::child_path(&self.parent.path, name)
    }

    fn report_unknown(&self) {
        for (entry, taken) in self.entries.iter().zip(&self.taken) {
            if *taken {
                continue;
            }
            let message = match nearest(&entry.key, self.known.iter().copied()) {
                Some(known) => format!("unknown field; did you mean {known}?"),
                None => format!("unknown field (known here: {})", self.known.join(", ")),
            };
            self.parent
                .error_at(entry.key_at, self.path_of(&entry.key), message);
        }
    }
}

impl Node<'_> {
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, is_plain: true } if is_null(text))
    }
}

fn check_unmapped(address: IpAddr) -> Result<(), String> {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => Err(format!("is an IPv4-mapped address: write {v4}")),
            None => Ok(()),
        },
        IpAddr::V4(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn errors<T>(text: &str, read: impl FnOnce(&Value<'_>) -> Option<T>) -> Vec<String> {
        let errors = read_document(&Source::new("c.yaml", text), read)
            .err()
            .unwrap_or_default();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_document() {
        let read = |text| {
            read_document(&Source::new("c.yaml", text), |root| {
                root.string().map(str::to_owned)
            })
        };
        assert_eq!(read("a").unwrap(), "a");
        assert_eq!(read("--- \n---\na\n---\n").unwrap(), "a");
        let errors = |text| errors(text, |root| root.string().map(str::to_owned));
        assert_eq!(errors(""), ["c.yaml: the file is empty"]);
        assert_eq!(errors("# a\n---\n"), ["c.yaml: the file is empty"]);
        assert_eq!(
            errors("a\n---\nb\n"),
            ["c.yaml:3: a second document: this file holds one"]
        );
        assert_eq!(
            errors("[a]\n---\n}\n"),
            [
                "c.yaml:1: expected a string, found a list",
                "c.yaml:3: this is not YAML: misplaced bracket"
            ]
        );
    }

    #[test]
    fn a_reader_that_gives_nothing_does_not_pass() {
        assert_eq!(
            errors("a", |_| None::<()>),
            ["c.yaml: the document could not be read"]
        );
        // Nor does one that gives something after an error.
        assert_eq!(
            errors("a", |root| {
                root.error("is bad");
                Some(())
            }),
            ["c.yaml:1: is bad"]
        );
    }

    /// What each of a list of values is read as, with its error.
    fn each<T: std::fmt::Debug>(
        items: &str,
        mut read: impl FnMut(&Value<'_>) -> Option<T>,
    ) -> (String, Vec<String>) {
        let found = RefCell::new(Vec::new());
        let errors = errors(&format!("[{items}]"), |root| {
            root.list(|value| {
                found
                    .borrow_mut()
                    .push(read(value).map_or("-".to_owned(), |value| format!("{value:?}")));
                Some(())
            })
        });
        let strip = |error: String| error.trim_start_matches("c.yaml:1: ").to_owned();
        (
            found.into_inner().join(" "),
            errors.into_iter().map(strip).collect(),
        )
    }

    #[test]
    fn scalars() {
        assert_eq!(
            each("true, false, True, yes, 'true', 1, ", |value| value.boolean()),
            (
                "true false - - - -".to_owned(),
                vec![
                    "[2]: expected true or false, found True".to_owned(),
                    "[3]: expected true or false, found yes".to_owned(),
                    "[4]: expected true or false, found true".to_owned(),
                    "[5]: expected true or false, found 1".to_owned(),
                ]
            )
        );
        assert_eq!(
            each("-1, 0, 7, 8, ~, {}", |value| value.integer("a digit", 0_i8..=7)),
            (
                "- 0 7 - - -".to_owned(),
                vec![
                    "[0]: -1 is not a digit (0 to 7)".to_owned(),
                    "[3]: 8 is not a digit (0 to 7)".to_owned(),
                    "[4]: expected a number, found nothing".to_owned(),
                    "[5]: expected a number, found a mapping".to_owned(),
                ]
            )
        );
        assert_eq!(
            each("a, '1', 1, no, null, 'null', '|'", |value| value
                .string()
                .map(str::to_owned)),
            (
                r#""a" "1" - - - "null" "|""#.to_owned(),
                vec![
                    "[2]: 1 is a number to YAML: put it in quotes".to_owned(),
                    "[3]: no is a boolean to YAML: put it in quotes".to_owned(),
                    "[4]: expected a string, found nothing".to_owned(),
                ]
            )
        );
    }

    #[test]
    fn socket_addresses() {
        let items = "127.0.0.1:80, '[::1]:80', '[::]:15008', 127.0.0.1, '127.0.0.1:0', '[::ffff:1.2.3.4]:80', \
                     '[fe80::1%1]:80', localhost:80, ':80'";
        let not_one = "is not an address and port, such as 127.0.0.1:80 or [::1]:80";
        assert_eq!(
            each(items, |value| value.socket_address()),
            (
                "127.0.0.1:80 [::1]:80 [::]:15008 - - - - - -".to_owned(),
                vec![
                    format!("[3]: 127.0.0.1 {not_one}"),
                    "[4]: 127.0.0.1:0 has no port (1 to 65535)".to_owned(),
                    "[5]: [::ffff:1.2.3.4]:80 is an IPv4-mapped address: write 1.2.3.4".to_owned(),
                    "[6]: [fe80::1%1]:80 has a zone ('%')".to_owned(),
                    format!("[7]: localhost:80 {not_one}"),
                    format!("[8]: :80 {not_one}"),
                ]
            )
        );
    }

    #[test]
    fn one_or_a_list() {
        let read = |text| {
            let source = Source::new("c.yaml", text);
            read_document(&source, |root| {
                root.mapping(|fields| fields.required("listen", |value| value.one_or_list(Value::port)))
            })
        };
        assert_eq!(read("listen: 80").unwrap(), [80]);
        assert_eq!(read("listen: [80, 81]").unwrap(), [80, 81]);
        assert_eq!(read("listen: []").unwrap(), [0_u16; 0]);
        assert_eq!(
            read("listen:").unwrap_err()[0].to_string(),
            "c.yaml:1: listen: missing"
        );
    }

    #[test]
    fn fields() {
        let text = "a: 1\nb: ~\nskipped: [x]\nrefused: 2\nunknown key: 3\nc:\n  d: 4\n";
        let errors = errors(text, |root| {
            root.mapping(|fields| {
                assert!(fields.has("a") && !fields.has("b") && !fields.has("z"));
                assert_eq!(fields.optional("a", |value| value.integer("one", 1..=1)), Some(1));
                assert_eq!(fields.optional("b", Value::port), None);
                assert_eq!(fields.optional("z", Value::port), None);
                fields.required("y", Value::port);
                fields.accept(&["skipped", "not there"]);
                fields.refuse("refused", "is not possible");
                fields.refuse("not there", "is not possible");
                fields.required("c", |value| {
                    assert_eq!(
                        (value.path(), value.line(), &*value.place()),
                        ("c", 6, "c.yaml:6")
                    );
                    value.mapping(|fields| fields.required("e", Value::port))
                });
                Some(())
            })
        });
        assert_eq!(
            errors,
            [
                "c.yaml:1: y: missing",
                "c.yaml:4: refused: is not possible",
                "c.yaml:5: \"unknown key\": unknown field (known here: a, b, z, y, c)",
                "c.yaml:6: c.e: missing",
                "c.yaml:7: c.d: unknown field (known here: e)",
            ]
        );
    }

    #[test]
    fn a_list_is_read_to_its_end() {
        assert_eq!(
            errors("[0, 1, x]", |root| root.list(Value::port)),
            [
                "c.yaml:1: [0]: 0 is not a port (1 to 65535)",
                "c.yaml:1: [2]: x is not a port (1 to 65535)"
            ]
        );
        assert_eq!(
            errors("{a: 0, b c: x}", |root| root.entries(|_, value| value.port())),
            [
                "c.yaml:1: [a]: 0 is not a port (1 to 65535)",
                "c.yaml:1: [\"b c\"]: x is not a port (1 to 65535)"
            ]
        );
    }
}
