//! What stands in a document, as JSON: each scalar as the reader understands it, or an error.

use crate::error::shown;
use crate::kinds::DocumentKey;
use crate::parse::object::SKIPPED;
use crate::reader;
use crate::scalar::{is_boolean, is_null, is_number};
use serde_json::{Number, Value};

/// The one piece of bookkeeping that may count: when a document was made.
pub(super) const CREATED: &str = "creationTimestamp";

/// The value that stands at a place. `None` after an error.
pub(super) fn value_of(place: &reader::Value<'_>) -> Option<Value> {
    if place.is_list() {
        return place.list(value_of).map(Value::Array);
    }
    if place.is_mapping() {
        let entries = place.members(|key, value| Some((key.to_owned(), value_of(value)?)));
        return entries.map(|entries| Value::Object(entries.into_iter().collect()));
    }
    let (text, is_plain) = place.scalar()?;
    if is_plain {
        plain(place, text)
    } else {
        Some(Value::String(text.to_owned()))
    }
}

/// A scalar that is not in quotes.
fn plain(place: &reader::Value<'_>, text: &str) -> Option<Value> {
    match text {
        _ if is_null(text) => Some(Value::Null),
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        _ if is_boolean(text) => {
            place.error(format_args!(
                "{text} is a boolean to some: write true or false, or put it in quotes"
            ));
            None
        }
        _ if is_number(text) => {
            // What would come back as another number, or as the same one in another spelling, is not kept.
            let number = serde_json::from_str::<Number>(text).ok();
            let number = number.filter(|number| number.to_string() == text);
            if number.is_none() {
                let text = shown(text);
                place.error(format_args!(
                    "{text} is no number that JSON keeps as it is: write it in decimal digits, or put it in quotes"
                ));
            }
            number.map(Value::Number)
        }
        _ => Some(Value::String(text.to_owned())),
    }
}

/// The one form of a document: without bookkeeping, with its namespace, all keys in order.
pub(super) fn canonical(key: &DocumentKey, mut value: Value) -> Value {
    if let Value::Object(root) = &mut value {
        root.remove("status");
        if let Some(Value::Object(metadata)) = root.get_mut("metadata") {
            let is_kept = |name: &str| name == CREATED && key.kind().has_age();
            for name in SKIPPED.into_iter().filter(|name| !is_kept(name)) {
                metadata.remove(name);
            }
            if metadata.get(CREATED).is_some_and(Value::is_null) {
                metadata.remove(CREATED);
            }
            if key.kind().is_namespaced() {
                metadata.insert("namespace".to_owned(), Value::String(key.namespace().to_owned()));
            } else {
                // At most a null, which is none.
                metadata.remove("namespace");
            }
        }
    }
    // Whether a map keeps its keys in order is decided by whoever else uses the library.
    value.sort_all_objects();
    value
}

/// Compact JSON.
pub(super) fn to_text(value: &Value) -> String {
    escape_unprintable(value.to_string())
}

/// A string in quotes, as JSON and YAML have it.
pub(super) fn quoted(text: &str) -> String {
    escape_unprintable(Value::String(text.to_owned()).to_string())
}

/// JSON leaves characters as they are that YAML does not read, or that show as something else on a terminal.
/// They can stand in strings alone.
fn escape_unprintable(json: String) -> String {
    if json.is_ascii() && !json.contains('\u{7f}') {
        return json;
    }
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if is_printable(character) {
            escaped.push(character);
            continue;
        }
        let mut units = [0; 2];
        for unit in character.encode_utf16(&mut units) {
            escaped += &format!("\\u{unit:04x}");
        }
    }
    escaped
}

fn is_printable(character: char) -> bool {
    // Above the first plane an escape would be two of UTF-16, which YAML does not put together.
    character > '\u{ffff}'
        || !matches!(
            character,
            '\u{7f}'..='\u{9f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff0}'..='\u{ffff}'
        )
}
