//! The JSON of an explanation. A value that is null is one that is not there.

use http::request::Parts;
use serde_json::{Value, json};

use crate::{
    local::target::Target,
    snapshot::{Backend, Endpoint, Reach},
};

/// The request: of its fields the names alone.
pub(super) fn request(head: &Parts, target: &Target) -> Value {
    let authority = target.authority.as_ref();
    let path = target.path.as_ref().map(|path| path.path());
    let headers = head
        .headers
        .keys()
        .filter(|name| !name.as_str().starts_with("weft-"));
    json!({
        "method": head.method.as_str(),
        "host": authority.map(|authority| authority.host()),
        "port": authority.and_then(|authority| authority.port_u16()),
        "path": path,
        "headers": headers.map(|name| name.as_str()).collect::<Vec<_>>(),
    })
}

/// A place where requests go.
pub(super) fn backend(backend: &Backend) -> Value {
    json!({
        "service": &*backend.name,
        "port": backend.port,
        "share": 100.0,
        "endpoints": backend.endpoints.iter().map(|it| endpoint(it)).collect::<Vec<_>>(),
        "notReady": backend.unready,
        "unmeshedDenied": backend.unmeshed_denied,
    })
}

/// An endpoint, and why it would not be chosen if it would not.
fn endpoint(endpoint: &Endpoint) -> Value {
    let address = match &endpoint.reach {
        Reach::Mesh(peer) => peer.address.to_string(),
        Reach::Plain(address) => format!("{address} (plaintext)"),
    };
    json!({
        "workload": &*endpoint.uid,
        "address": address,
        "version": endpoint.version.as_deref(),
        "eligible": true,
        "inFlight": endpoint.load.in_flight(),
    })
}

/// Removes what is null, at every depth.
pub(super) fn without_nulls(mut value: Value) -> Value {
    prune(&mut value);
    value
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(prune);
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}
