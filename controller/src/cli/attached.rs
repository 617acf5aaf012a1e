//! What is shown of routes, policies and grants: what they are attached to, and what became of that.

use serde_json::Value;
use weft_proto::{kinds::Kind, mesh::v1};

use super::{failure::Failure, json, names, screen::Colour, table::Cell};

/// The `status` of a document, if it has one.
///
/// # Errors
/// It is not JSON.
pub(crate) fn status(document: &v1::StoredDocument) -> Result<Option<Value>, Failure> {
    if document.status.is_empty() {
        return Ok(None);
    }
    json::document(&names::shown(document.key.as_ref()), &document.status).map(Some)
}

/// A Service that a route or policy names, with the conditions that hold for it or do not.
pub(crate) struct Place<'a> {
    /// `web`, `web:80` or `web#http`; `bank/web` of another namespace than the document's.
    pub(crate) name: String,
    conditions: &'a [Value],
}

/// The places that a status is about.
pub(crate) fn places<'a>(status: &'a Value, namespace: &str) -> Vec<Place<'a>> {
    let (entries, reference) = match status.get("parents") {
        Some(parents) => (parents, "parentRef"),
        None => (status.get("ancestors").unwrap_or(&Value::Null), "ancestorRef"),
    };
    let place = |entry: &'a Value| Place {
        name: reference_name(entry.get(reference).unwrap_or(&Value::Null), namespace),
        conditions: items(entry.get("conditions")),
    };
    items(Some(entries)).iter().map(place).collect()
}

impl<'a> Place<'a> {
    /// Whether a condition holds, and the reason; `None` if nothing is said.
    fn condition(&self, kind: &str) -> Option<(bool, &'a str)> {
        let found = self
            .conditions
            .iter()
            .find(|condition| at(condition, "type") == kind)?;
        Some((at(found, "status") == "True", at(found, "reason")))
    }

    /// The cell of a condition: whether it holds, or why not.
    pub(crate) fn cell(&self, kind: &str) -> Cell {
        verdict(std::slice::from_ref(self), kind)
    }

    /// What its conditions say, those that do not hold first.
    pub(crate) fn messages(&self) -> Vec<&'a str> {
        let (held, broken): (Vec<&Value>, Vec<&Value>) = self
            .conditions
            .iter()
            .partition(|condition| at(condition, "status") == "True");
        broken
            .into_iter()
            .chain(held)
            .map(|condition| at(condition, "message"))
            .collect()
    }
}

/// One cell for a condition at all places: whether it holds at each, else the reasons why it does not.
pub(crate) fn verdict(places: &[Place<'_>], kind: &str) -> Cell {
    let said: Vec<(bool, &str)> = places.iter().filter_map(|place| place.condition(kind)).collect();
    let mut reasons: Vec<&str> = said
        .iter()
        .filter(|(holds, _)| !holds)
        .map(|(_, reason)| *reason)
        .collect();
    let broken = reasons.len();
    reasons.dedup();
    let reasons = reasons.join(",");
    match (said.len(), broken) {
        (0, _) => Cell::from(""),
        (_, 0) => Cell::painted("yes", Colour::Green),
        (all, broken) if all == broken => Cell::painted(format!("no: {reasons}"), Colour::Red),
        (all, broken) => Cell::painted(format!("{} of {all}: {reasons}", all - broken), Colour::Yellow),
    }
}

/// The Services that a route has as parents, or a policy as targets, in the words of its document.
pub(crate) fn named(value: &Value, namespace: &str) -> Vec<String> {
    let references = references(value).iter();
    references
        .map(|reference| reference_name(reference, namespace))
        .collect()
}

/// The namespaces and names of those Services.
pub(crate) fn services<'a>(value: &'a Value, namespace: &'a str) -> Vec<(&'a str, &'a str)> {
    let service = |reference: &'a Value| {
        let of = Some(at(reference, "namespace")).filter(|text| !text.is_empty());
        (of.unwrap_or(namespace), at(reference, "name"))
    };
    references(value).iter().map(service).collect()
}

/// The sections of a policy, as they are called in its document.
pub(crate) fn sections(value: &Value) -> String {
    let spec = value.get("spec").and_then(Value::as_object);
    let sections = spec.into_iter().flatten().map(|(name, _)| name.as_str());
    sections
        .filter(|name| *name != "targetRefs")
        .collect::<Vec<_>>()
        .join(",")
}

/// From whose routes a grant is: `HTTPRoute shop`.
pub(crate) fn grant_from(value: &Value) -> String {
    let from = items(value.pointer("/spec/from")).iter();
    from.map(|from| format!("{} {}", at(from, "kind"), at(from, "namespace")))
        .collect::<Vec<_>>()
        .join(", ")
}

/// To which Services a grant is: `Service web`, or all of them.
pub(crate) fn grant_to(value: &Value) -> String {
    let to = items(value.pointer("/spec/to")).iter();
    to.map(|to| match at(to, "name") {
        "" => format!("every {}", at(to, "kind")),
        name => format!("{} {name}", at(to, "kind")),
    })
    .collect::<Vec<_>>()
    .join(", ")
}

/// The kinds that are attached to Services.
pub(crate) const KINDS: [Kind; 3] = [Kind::HttpRoute, Kind::GrpcRoute, Kind::TrafficPolicy];

fn references(value: &Value) -> &[Value] {
    let parents = value.pointer("/spec/parentRefs");
    items(parents.or_else(|| value.pointer("/spec/targetRefs")))
}

fn reference_name(reference: &Value, namespace: &str) -> String {
    let mut name = match at(reference, "namespace") {
        of if of.is_empty() || of == namespace => at(reference, "name").to_owned(),
        of => format!("{of}/{}", at(reference, "name")),
    };
    if let Some(port) = reference.get("port").and_then(Value::as_u64) {
        name = format!("{name}:{port}");
    }
    match at(reference, "sectionName") {
        "" => name,
        section => format!("{name}#{section}"),
    }
}

fn items(value: Option<&Value>) -> &[Value] {
    value
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn at<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}
