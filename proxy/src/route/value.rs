//! Values of a request as matches see them, without copies of them.

use std::cmp::Ordering;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{GetAll, ValueIter},
};
use weft_proto::model::route::ValueMatch;

/// Parameters of a query beyond these are not looked at: what a request costs has a bound that its sender can't move.
const MAX_PARAMETERS: usize = 64;

/// A header's value or a parameter's name or value.
pub(super) enum Value<'a> {
    Plain(&'a [u8]),
    /// Of a header that has several, joined by commas (RFC 9110 section 5.3).
    Joined(GetAll<'a, HeaderValue>),
    /// As in a form: `%2F` is a slash, and `+` a space.
    Encoded(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The value of a header, if it is there.
    pub(super) fn of_header(headers: &'a HeaderMap, name: &HeaderName) -> Option<Self> {
        let all = headers.get_all(name);
        let mut values = all.iter();
        match (values.next(), values.next()) {
            (None, _) => None,
            (Some(only), None) => Some(Self::Plain(only.as_bytes())),
            (Some(_), Some(_)) => Some(Self::Joined(all)),
        }
    }

    fn of_form(text: &'a [u8]) -> Self {
        match text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
            true => Self::Encoded(text),
            false => Self::Plain(text),
        }
    }

    /// Whether it is what a match asks for. It is copied for a pattern alone, if it is not there in one piece.
    pub(super) fn is(&self, wanted: &ValueMatch) -> bool {
        match (self, wanted) {
            (Self::Plain(bytes), wanted) => wanted.is_match(bytes),
            (_, ValueMatch::Exact(exact)) => self.compare(exact.as_bytes()).is_eq(),
            (Self::Joined(all), ValueMatch::Regex(pattern)) => {
                pattern.is_match(&joined(all).collect::<Vec<u8>>())
            }
            (Self::Encoded(text), ValueMatch::Regex(pattern)) => {
                pattern.is_match(&Decoded(text).collect::<Vec<u8>>())
            }
        }
    }

    /// How it is ordered beside another one.
    pub(super) fn compare(&self, other: &[u8]) -> Ordering {
        let other_bytes = other.iter().copied();
        match self {
            Self::Plain(bytes) => (*bytes).cmp(other),
            Self::Joined(all) => joined(all).cmp(other_bytes),
            Self::Encoded(text) => Decoded(text).cmp(other_bytes),
        }
    }
}

/// Header values with commas between them.
struct Joined<'a> {
    values: ValueIter<'a, HeaderValue>,
    current: &'a [u8],
}

fn joined<'a>(all: &'a GetAll<'_, HeaderValue>) -> Joined<'a> {
    let mut values = all.iter();
    let current = values.next().map_or(&[][..], HeaderValue::as_bytes);
    Joined { values, current }
}

impl Iterator for Joined<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        match self.current.split_first() {
            Some((byte, rest)) => {
                self.current = rest;
                Some(*byte)
            }
            None => {
                self.current = self.values.next()?.as_bytes();
                Some(b',')
            }
        }
    }
}

/// The bytes that a text of a form stands for. A percent sign that encodes nothing stands for itself.
struct Decoded<'a>(&'a [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = match self.0 {
            [b'%', high, low, rest @ ..] => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, rest),
                _ => (b'%', self.0.get(1..)?),
            },
            [b'+', rest @ ..] => (b' ', rest),
            [byte, rest @ ..] => (*byte, rest),
            [] => return None,
        };
        self.0 = rest;
        Some(byte)
    }
}

fn digit(byte: u8) -> Option<u8> {
    let digit = char::from(byte).to_digit(16)?;
    u8::try_from(digit).ok()
}

/// The parameters of a query, in their order.
pub(super) struct Query<'a> {
    parameters: [(&'a [u8], &'a [u8]); MAX_PARAMETERS],
    len: usize,
}

impl<'a> Query<'a> {
    pub(super) fn read(query: &'a str) -> Self {
        let mut parameters = [(&[][..], &[][..]); MAX_PARAMETERS];
        let mut len = 0;
        let pieces = query.as_bytes().split(|byte| *byte == b'&');
        // `a&&b` has two parameters.
        let pieces = pieces.filter(|piece| !piece.is_empty());
        for (slot, piece) in parameters.iter_mut().zip(pieces) {
            let end = piece.iter().position(|byte| *byte == b'=');
            *slot = match end.and_then(|end| piece.split_at_checked(end)) {
                Some((name, value)) => (name, value.get(1..).unwrap_or_default()),
                None => (piece, &[]),
            };
            len += 1;
        }
        Self { parameters, len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The names, in their order.
    pub(super) fn names(&self) -> impl Iterator<Item = Value<'a>> {
        self.parameters
            .iter()
            .take(self.len)
            .map(|(name, _)| Value::of_form(name))
    }

    /// Where the first parameter of a name is, and its value.
    pub(super) fn first(&self, name: &str) -> Option<(usize, Value<'a>)> {
        let mut parameters = self.parameters.iter().take(self.len).enumerate();
        let is_it = |found: &[u8]| Value::of_form(found).compare(name.as_bytes()).is_eq();
        let (at, (_, value)) = parameters.find(|(_, (found, _))| is_it(found))?;
        Some((at, Value::of_form(value)))
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::pattern::Pattern;

    use super::*;

    fn first(query: &str, name: &str) -> Option<String> {
        let query = Query::read(query);
        let (_, value) = query.first(name)?;
        let bytes = match value {
            Value::Plain(bytes) => bytes.to_vec(),
            Value::Encoded(text) => Decoded(text).collect(),
            Value::Joined(_) => unreachable!("of a header alone"),
        };
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    #[test]
    fn the_first_parameter_of_a_name_counts_as_forms_write_it() {
        let is = |query, value: &str| assert_eq!(first(query, "a").as_deref(), Some(value), "{query}");
        is("a=1&a=2", "1");
        is("b=0&a=1", "1");
        is("a", "");
        is("a=", "");
        is("a=b=c", "b=c");
        is("&&a=1", "1");
        is("%61=1", "1");
        is("a=%2Fx+y%2by", "/x y+y");
        is("a=%", "%");
        is("a=%4", "%4");
        is("a=%zz%41", "%zzA");
        for none in ["", "A=1", "b=a", "aa=1", "=a"] {
            assert_eq!(first(none, "a"), None, "{none}");
        }
    }

    #[test]
    fn a_query_has_a_bound() {
        let many = "b=1&".repeat(MAX_PARAMETERS - 1);
        assert_eq!(first(&format!("{many}a=1"), "a").as_deref(), Some("1"));
        assert_eq!(first(&format!("{many}b=1&a=1"), "a"), None);
    }

    #[test]
    fn several_values_of_a_header_are_joined() {
        let mut headers = HeaderMap::new();
        let name = HeaderName::from_static("x");
        assert!(Value::of_header(&headers, &name).is_none());
        let is = |headers: &HeaderMap, exact: &str| {
            let value = Value::of_header(headers, &name).unwrap();
            let pattern = Pattern::parse(exact).unwrap();
            value.is(&ValueMatch::Exact(exact.into())) && value.is(&ValueMatch::Regex(pattern))
        };
        headers.append(&name, HeaderValue::from_static("a"));
        assert!(is(&headers, "a"));
        headers.append(&name, HeaderValue::from_static(""));
        headers.append(&name, HeaderValue::from_static("b, c"));
        assert!(is(&headers, "a,,b, c"));
        assert!(!is(&headers, "a"));
    }

    #[test]
    fn the_order_is_that_of_the_bytes() {
        let encoded = Value::of_form(b"%61b");
        assert_eq!(encoded.compare(b"ab"), Ordering::Equal);
        assert_eq!(encoded.compare(b"a"), Ordering::Greater);
        assert_eq!(encoded.compare(b"b"), Ordering::Less);
    }
}
