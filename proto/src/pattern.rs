//! Regular expressions of documents.

use regex_automata::meta::{BuildError, Config, Regex};
use regex_automata::nfa::thompson::WhichCaptures;
use regex_automata::util::syntax;
use std::fmt;

/// The longest pattern, as Gateway API has it for values.
pub const MAX_PATTERN_BYTES: usize = 4_096;
/// Memory of a compiled pattern in each of the two directions in which it is run: `\w{100}` of Unicode is refused,
/// `[a-z0-9-]{1,63}` is not.
pub(crate) const MAX_COMPILED_BYTES: usize = 256 << 10;
/// Of the caches that matching fills.
const MAX_CACHE_BYTES: usize = 1 << 20;

/// A regular expression that is matched against the whole of a value, in time linear in the value's length whatever
/// the expression: RE2's syntax, without look-around and back-references.
///
/// Two are equal if their texts are. Cloning is cheap.
#[derive(Clone)]
pub struct Pattern {
    /// As it was written.
    text: Box<str>,
    regex: Regex,
}

impl Pattern {
    /// Reads one.
    ///
    /// # Errors
    /// It is no regular expression, or takes too much memory: why, in a sentence.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_PATTERN_BYTES {
            return Err(PatternError::TooLong);
        }
        // Alone it must be one: `a)(b` would be one within the brackets.
        Self::compile(text)?;
        let regex = Self::compile(&format!("^(?:{text})$"))?;
        Ok(Self {
            text: text.into(),
            regex,
        })
    }

    /// Whether there is a match is all that is asked: what tells where its groups are is not built, so that
    /// [`memory`](Self::memory) is all there is.
    fn compile(text: &str) -> Result<Regex, PatternError> {
        let config = Config::new()
            .which_captures(WhichCaptures::None)
            .onepass(false)
            .utf8_empty(false)
            .nfa_size_limit(Some(MAX_COMPILED_BYTES))
            .hybrid_cache_capacity(MAX_CACHE_BYTES);
        Regex::builder()
            .configure(config)
            .syntax(syntax::Config::new().utf8(false).nest_limit(50))
            .build(text)
            .map_err(|error| PatternError::of(&error))
    }

    /// What it takes in bytes, without the caches that matching fills.
    pub fn memory(&self) -> usize {
        self.regex.memory_usage()
    }

    /// Whether it matches the whole of a value.
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// The parser draws the place under the pattern; the last line says what is wrong.
fn one_line(text: &str) -> String {
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// Why a text is no [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It breaks the syntax.
    #[error("is not a regular expression: {0}")]
    Syntax(String),
    /// It is longer than [`MAX_PATTERN_BYTES`].
    #[error("is longer than {MAX_PATTERN_BYTES} bytes")]
    TooLong,
    /// It would take too much memory.
    #[error("is too large a regular expression: compiled it takes more than 256 KiB")]
    TooBig,
}

impl PatternError {
    fn of(error: &BuildError) -> Self {
        match (error.size_limit(), error.syntax_error()) {
            (Some(_), _) => PatternError::TooBig,
            (None, Some(error)) => PatternError::Syntax(one_line(&error.to_string())),
            (None, None) => PatternError::Syntax(one_line(&error.to_string())),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_value_is_matched() {
        let pattern = Pattern::parse("a|b+").unwrap();
        for (value, is_match) in [
            ("a", true),
            ("bb", true),
            ("ab", false),
            ("xa", false),
            ("", false),
        ] {
            assert_eq!(pattern.is_match(value.as_bytes()), is_match, "{value}");
        }
        assert!(Pattern::parse("a)(b").is_err(), "it is none by itself");
        assert!(!Pattern::parse("a").unwrap().is_match(b"a\n"));
    }

    #[test]
    fn none_takes_more_than_its_share() {
        assert_eq!(Pattern::parse(r"(\w{100}){100}"), Err(PatternError::TooBig));
        assert_eq!(Pattern::parse(&"a".repeat(5_000)), Err(PatternError::TooLong));
        assert!(matches!(
            Pattern::parse(&"(".repeat(1_000)),
            Err(PatternError::Syntax(_))
        ));
        assert!(matches!(Pattern::parse(r"(a)\1"), Err(PatternError::Syntax(_))));
        for text in ["v[0-9]+", r"(\w{4})", "[a-z0-9-]{1,63}"] {
            let memory = Pattern::parse(text).unwrap().memory();
            assert!(
                memory > text.len() && memory <= 3 * MAX_COMPILED_BYTES,
                "{text}: {memory}"
            );
        }
        // What makes other engines stand still.
        let evil = Pattern::parse("(a|a)*(a|aa)*b").unwrap();
        assert!(!evil.is_match(&[b'a'; 100_000]));
    }
}
