//! Results for programs: messages of the controller as JSON. Moments are in RFC 3339, names as in documents.

use serde_json::{Value, json};
use weft_proto::{document, mesh::v1};

use super::{
    args::Format,
    failure::{Failure, describe},
    human,
    screen::Screen,
};

/// Prints a value as JSON, or as YAML.
///
/// # Errors
/// It could not be written.
pub(crate) fn print(screen: &mut Screen, format: Format, value: &Value) -> Result<(), Failure> {
    match format {
        Format::Yaml => screen.write(document::yaml(value)),
        _ => screen.line(format_args!("{value:#}")),
    }
}

/// The content of a document from the controller.
///
/// # Errors
/// It is not JSON.
pub(crate) fn document(key: &str, json: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(json)
        .map_err(|error| Failure::other(format!("the controller's {key} is not JSON: {error}")))
}

/// A moment in seconds since 1970; null for 0, which stands for never.
pub(crate) fn moment(seconds: u64) -> Value {
    match seconds {
        0 => Value::Null,
        seconds => human::date(seconds).into(),
    }
}

/// Text; null for none.
pub(crate) fn text(text: &str) -> Value {
    match text {
        "" => Value::Null,
        text => text.into(),
    }
}

/// The items of a value from a sidecar; none if it is no list.
pub(crate) fn list(value: Option<&Value>) -> &[Value] {
    value
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// A value from a sidecar as text; nothing for none.
pub(crate) fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

pub(crate) use crate::hex::encode as hex;

/// Whether a workload may be chosen as an endpoint; empty of what is no workload.
pub(crate) fn readiness(readiness: v1::Readiness) -> &'static str {
    match readiness {
        v1::Readiness::Unspecified => "",
        v1::Readiness::Ready => "ready",
        v1::Readiness::NotReady => "not ready",
        v1::Readiness::Draining => "draining",
    }
}

/// What is wrong, in words.
pub(crate) fn problems(problems: &[v1::Problem]) -> Value {
    let problem = |problem: &v1::Problem| {
        json!({
            "document": problem.document,
            "line": if problem.line == 0 { Value::Null } else { problem.line.into() },
            "field": text(&problem.field),
            "message": problem.message,
            "text": describe(problem),
        })
    };
    problems.iter().map(problem).collect()
}
