//! JSON as YAML, in block style, as kubectl writes it.

use super::json::quoted;
use crate::scalar::is_string;
use serde_json::Value;

/// Writes a value. Read again it is the same value.
pub(super) fn write(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(entries) if !entries.is_empty() => mapping(&mut text, entries, 0),
        Value::Array(items) if !items.is_empty() => list(&mut text, items, 0),
        scalar => {
            text += &inline(scalar);
            text.push('\n');
        }
    }
    text
}

type Entries = serde_json::Map<String, Value>;

/// The entries of a mapping. The first goes on where the text is; the others begin lines.
fn mapping(text: &mut String, entries: &Entries, indent: usize) {
    for (index, (key, value)) in entries.iter().enumerate() {
        if index > 0 {
            begin_line(text, indent);
        }
        *text += &string(key);
        text.push(':');
        match value {
            Value::Object(entries) if !entries.is_empty() => {
                text.push('\n');
                begin_line(text, indent + 2);
                mapping(text, entries, indent + 2);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                begin_line(text, indent);
                list(text, items, indent);
            }
            scalar => {
                text.push(' ');
                *text += &inline(scalar);
                text.push('\n');
            }
        }
    }
}

/// The items of a list, likewise.
fn list(text: &mut String, items: &[Value], indent: usize) {
    for (index, value) in items.iter().enumerate() {
        if index > 0 {
            begin_line(text, indent);
        }
        *text += "- ";
        match value {
            Value::Object(entries) if !entries.is_empty() => mapping(text, entries, indent + 2),
            Value::Array(items) if !items.is_empty() => list(text, items, indent + 2),
            scalar => {
                *text += &inline(scalar);
                text.push('\n');
            }
        }
    }
}

fn begin_line(text: &mut String, indent: usize) {
    text.extend(std::iter::repeat_n(' ', indent));
}

/// What fits into a line: a scalar, or a collection with nothing in it.
fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        other => other.to_string(),
    }
}

/// A string, in quotes if it could be taken for something else.
fn string(text: &str) -> String {
    if is_plain(text) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// Whether every reader of YAML, of 1.1 as well, takes it for this string.
fn is_plain(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/' | b'.' | b'-' | b':');
    let begins = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/');
    // Dates, times, and numbers to the base of 60.
    let is_date_like = !text.bytes().any(|byte| byte.is_ascii_alphabetic()) && text.contains([':', '-']);
    let is_single_letter_boolean = matches!(text, "y" | "Y" | "n" | "N");
    is_string(text)
        && !is_date_like
        && !is_single_letter_boolean
        && text.bytes().all(is_word)
        && text.as_bytes().first().is_some_and(begins)
        && !text.ends_with(':')
}
