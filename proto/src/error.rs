//! What is wrong with a document, and where.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

/// The most errors that are kept. Whoever has more starts with these; the rest are counted.
pub const MAX_ERRORS: usize = 100;
/// The most characters of a document's own text that an error repeats.
const MAX_SHOWN_CHARACTERS: usize = 64;

/// A text to read, and the name by which errors call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Normally the path of a file.
    pub name: String,
    /// YAML, one document or several.
    pub text: String,
}

impl Source {
    /// A text and its name.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }
}

/// One thing that is wrong with a document.
///
/// ```text
/// mesh.yaml:12: spec.ports[0].port: 70000 is not a port (1 to 65535)
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct DocumentError {
    /// The name of the [`Source`]; empty if the error is not in any.
    pub file: String,
    /// The line, from 1; 0 if the error is not in any.
    pub line: usize,
    /// The column in characters, from 1; 0 if the error is not in any line.
    pub column: usize,
    /// The field, such as `spec.ports[0].port`; empty if it is the document itself.
    pub path: String,
    /// What is wrong, and what would be right. Text from the document is shortened, its control characters
    /// escaped.
    pub message: String,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.file.as_str(), self.line) {
            ("", _) => {}
            (file, 0) => write!(f, "{file}: ")?,
            (file, line) => write!(f, "{file}:{line}: ")?,
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// The errors found so far, the first [`MAX_ERRORS`] of them.
#[derive(Debug, Default)]
pub struct Errors {
    found: RefCell<Found>,
}

#[derive(Debug, Default)]
struct Found {
    kept: Vec<DocumentError>,
    total: usize,
}

impl Errors {
    /// None so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&self, error: DocumentError) {
        let mut found = self.found.borrow_mut();
        found.total += 1;
        if found.kept.len() < MAX_ERRORS {
            found.kept.push(error);
        }
    }

    /// How many there are, those that are not kept included.
    pub fn count(&self) -> usize {
        self.found.borrow().total
    }

    /// Whether one more would not be kept, so that nobody need find out where it is.
    pub(crate) fn is_full(&self) -> bool {
        self.count() >= MAX_ERRORS
    }

    /// All that were kept, and, if there were more, one that says how many.
    pub fn into_vec(self) -> Vec<DocumentError> {
        let Found { mut kept, total } = self.found.into_inner();
        let more = total - kept.len();
        if more > 0 {
            kept.push(DocumentError {
                file: String::new(),
                line: 0,
                column: 0,
                path: String::new(),
                message: format!("{more} more errors are not shown"),
            });
        }
        kept
    }
}

/// A document's own text as an error may show it: as it stands if it is short and plain, else shortened, in
/// quotes and escaped, so that it can neither break a line nor flood a log.
pub fn shown(text: &str) -> Cow<'_, str> {
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    match text.char_indices().nth(MAX_SHOWN_CHARACTERS) {
        Some((end, _)) => Cow::Owned(format!("{:?}...", text.get(..end).unwrap_or_default())),
        None if !text.is_empty() && is_plain(text) => Cow::Borrowed(text),
        None => Cow::Owned(format!("{text:?}")),
    }
}

/// The candidate that was probably meant: one that differs in nothing but case and marks, or in a letter or two.
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(text);
    if folded.is_empty() || folded.len() > MAX_SHOWN_CHARACTERS {
        return None;
    }
    // A third of the letters may differ, at most two: short words are near to everything.
    let limit = (folded.len() / 3).min(2);
    candidates
        .into_iter()
        .map(|candidate| (distance(&folded, &fold(candidate)), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn fold(text: &str) -> Vec<char> {
    text.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

/// How many letters must be added, removed, replaced or swapped with their neighbour.
fn distance(left: &[char], right: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (row, &a) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, &b) in right.iter().enumerate() {
            let at = |cells: &[usize], index: usize| cells.get(index).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&above, column) + usize::from(a != b))
                .min(at(&above, column + 1) + 1)
                .min(at(&current, column) + 1);
            let is_swap =
                row > 0 && column > 0 && left.get(row - 1) == Some(&b) && right.get(column - 1) == Some(&a);
            if is_swap {
                best = best.min(at(&before, column - 1) + 1);
            }
            current.push(best);
        }
        before = above;
        above = current;
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(file: &str, line: usize, path: &str) -> DocumentError {
        DocumentError {
            file: file.into(),
            line,
            column: 1,
            path: path.into(),
            message: "is bad".into(),
        }
    }

    #[test]
    fn display() {
        assert_eq!(
            error("a.yaml", 3, "spec.x").to_string(),
            "a.yaml:3: spec.x: is bad"
        );
        assert_eq!(error("a.yaml", 3, "").to_string(), "a.yaml:3: is bad");
        assert_eq!(error("a.yaml", 0, "").to_string(), "a.yaml: is bad");
        assert_eq!(error("", 0, "").to_string(), "is bad");
    }

    #[test]
    fn errors_past_the_limit_are_counted() {
        let errors = Errors::new();
        (0..MAX_ERRORS + 5).for_each(|line| errors.push(error("a.yaml", line, "")));
        assert_eq!(errors.count(), MAX_ERRORS + 5);
        let errors = errors.into_vec();
        assert_eq!(errors.len(), MAX_ERRORS + 1);
        assert_eq!(errors.last().unwrap().to_string(), "5 more errors are not shown");
    }

    #[test]
    fn text_is_shown_so_that_it_harms_nothing() {
        assert_eq!(shown("web-0.example/x"), "web-0.example/x");
        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown("a b"), "\"a b\"");
        assert_eq!(shown("a\"b"), "\"a\\\"b\"");
        assert_eq!(shown("a\n\u{1b}[31m"), r#""a\n\u{1b}[31m""#);
        assert_eq!(shown(&"x".repeat(64)), "x".repeat(64));
        assert_eq!(
            shown(&"\u{e9}".repeat(65)),
            format!("{:?}...", "\u{e9}".repeat(64))
        );
    }

    #[test]
    fn the_nearest_candidate() {
        let fields = ["ports", "selector", "clusterIP", "port", "uid"];
        for (text, wanted) in [
            ("prots", Some("ports")),
            ("Ports", Some("ports")),
            ("cluster_ip", Some("clusterIP")),
            ("clusterIp", Some("clusterIP")),
            ("selectors", Some("selector")),
            ("seletcor", Some("selector")),
            ("uuid", Some("uid")),
            ("x", None),
            ("", None),
            ("replicas", None),
            ("\u{e9}\u{e9}", None),
        ] {
            assert_eq!(nearest(text, fields), wanted, "{text}");
        }
        assert_eq!(nearest(&"p".repeat(10_000), fields), None);
    }
}
