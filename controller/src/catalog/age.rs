//! When a document was made, of the kinds of which the older one counts where two disagree: set once, so that this
//! controller, another one and every sidecar agree on which that is.

use std::sync::Arc;

use bytes::Bytes;
use weft_proto::{document::Document, parse::Model};

use super::batch::Item;

/// The document with the moment at which it was made: that of the one in whose place it is; of a new one what it brings
/// along, as one does that comes from another mesh, or else now, in seconds since 1970.
pub(super) fn dated(item: Item, before: Option<&Model>, now: i64) -> Item {
    let Item::Put { parsed, json, origin } = item else {
        return item;
    };
    if !parsed.key.kind().has_age() {
        return Item::Put { parsed, json, origin };
    }
    let created = before
        .and_then(created)
        .or_else(|| created(&parsed.model))
        .unwrap_or(now);
    let document = Document {
        key: parsed.key.clone(),
        json: String::from_utf8_lossy(&json).into(),
    };
    let document = document.made_at(created);
    let mut parsed = Arc::unwrap_or_clone(parsed);
    match &mut parsed.model {
        Model::Route(route) => route.created = Some(created),
        Model::TrafficPolicy(policy) => policy.created = Some(created),
        _ => {}
    }
    Item::Put {
        parsed: Arc::new(parsed),
        json: Bytes::copy_from_slice(document.json.as_bytes()),
        origin,
    }
}

fn created(model: &Model) -> Option<i64> {
    match model {
        Model::Route(route) => route.created,
        Model::TrafficPolicy(policy) => policy.created,
        _ => None,
    }
}
