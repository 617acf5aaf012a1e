//! The Workload document of a registration: what the proxy says of its workload, and of whom its certificate says it is.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use weft_proto::{SpiffeId, kinds::DocumentKey, mesh::v1 as mesh};

use super::{MAX_GRACE, Registered, readiness};

/// The largest document of a registration.
const MAX_DOCUMENT_BYTES: usize = 64 << 10;

/// What of a document is the certificate's to say, not the proxy's.
const GIVEN: [(&str, &str); 3] = [
    ("metadata", "namespace"),
    ("spec", "serviceAccount"),
    ("spec", "uid"),
];

/// Puts a registration together for the workload `key` of an identity.
///
/// # Errors
/// The document is none, is another's, or says what is not its own to say.
pub fn registered(
    registration: &mesh::Registration,
    identity: &SpiffeId,
    key: &DocumentKey,
) -> Result<Registered, String> {
    if registration.document.len() > MAX_DOCUMENT_BYTES {
        return Err(format!(
            "the document of the registration is larger than {MAX_DOCUMENT_BYTES} bytes"
        ));
    }
    let value: Value = serde_json::from_slice(&registration.document)
        .map_err(|error| format!("the document of the registration is no JSON: {error}"))?;
    let Value::Object(mut document) = value else {
        return Err("the document of the registration is no object".to_owned());
    };
    if document.get("kind").and_then(Value::as_str) != Some("Workload") {
        return Err("the document of the registration is no Workload".to_owned());
    }
    for (part, field) in GIVEN {
        if document.get(part).and_then(|part| part.get(field)).is_some() {
            return Err(format!(
                "{part}.{field}: is that of the certificate, leave it out"
            ));
        }
    }
    let metadata = part(&mut document, "metadata")?;
    if metadata.get("name").and_then(Value::as_str) != Some(key.name()) {
        return Err(format!(
            "metadata.name: is not the workload of the certificate, {}",
            key.name()
        ));
    }
    metadata.insert("namespace".to_owned(), key.namespace().into());
    let account = identity.service_account().unwrap_or_default();
    part(&mut document, "spec")?.insert("serviceAccount".to_owned(), account.into());
    let grace = Duration::from_millis(registration.grace_ms);
    Ok(Registered {
        document: Bytes::from(Value::Object(document).to_string()),
        readiness: readiness(registration.readiness),
        identity: identity.clone(),
        grace: (!grace.is_zero()).then_some(grace.min(MAX_GRACE)),
    })
}

fn part<'a>(
    document: &'a mut Map<String, Value>,
    name: &'static str,
) -> Result<&'a mut Map<String, Value>, String> {
    match document.get_mut(name) {
        Some(Value::Object(part)) => Ok(part),
        _ => Err(format!("{name}: missing")),
    }
}
