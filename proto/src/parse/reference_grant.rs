//! `gateway.networking.k8s.io/v1beta1 ReferenceGrant`.

use super::fields;
use super::object::Metadata;
use crate::error::shown;
use crate::kinds::GATEWAY_GROUP;
use crate::model::route::GrantFrom;
use crate::model::{ReferenceGrant, RouteKind};
use crate::names::{DnsLabel, DnsName};
use crate::reader::{Fields, Value};

/// Entries of `from`, and of `to`.
const MAX_ENTRIES: usize = 16;

/// `spec`.
pub(super) struct Spec {
    from: Vec<GrantFrom>,
    to: Vec<Option<DnsName>>,
}

/// Reads `spec`.
pub(super) fn spec(value: &Value<'_>) -> Option<Spec> {
    value.mapping(|fields| {
        let from = fields.required("from", |value| entries(value, from));
        let to = fields.required("to", |value| entries(value, to));
        Some(Spec { from: from?, to: to? })
    })
}

/// Puts a grant together.
pub(super) fn reference_grant(metadata: Metadata, spec: Spec) -> ReferenceGrant {
    ReferenceGrant {
        name: metadata.name,
        from: spec.from,
        to: spec.to,
    }
}

fn entries<T>(value: &Value<'_>, read: fn(&mut Fields<'_>) -> Option<T>) -> Option<Vec<T>> {
    let entries = fields::list(value, MAX_ENTRIES, |value| value.mapping(read))?;
    if entries.is_empty() {
        value.error("is empty: it grants nothing");
    }
    Some(entries)
}

/// Routes of a namespace.
fn from(fields: &mut Fields<'_>) -> Option<GrantFrom> {
    let kind = fields.required("kind", |value| match value.string()? {
        "HTTPRoute" => Some(RouteKind::Http),
        "GRPCRoute" => Some(RouteKind::Grpc),
        other => {
            value.error(format_args!(
                "a {} is not supported: what refers to Services here is an HTTPRoute or a GRPCRoute",
                shown(other)
            ));
            None
        }
    });
    group(fields, GATEWAY_GROUP);
    let namespace = fields.required("namespace", |value| value.parse(DnsLabel::parse));
    Some(GrantFrom {
        kind: kind?,
        namespace: namespace?,
    })
}

/// A Service, or all of them.
fn to(fields: &mut Fields<'_>) -> Option<Option<DnsName>> {
    fields.required("kind", |value| {
        let text = value.string()?;
        if text != "Service" {
            value.error(format_args!(
                "a {} is not supported: what routes refer to here is a Service",
                shown(text)
            ));
        }
        Some(())
    });
    group(fields, "");
    let name = fields.optional("name", fields::service_name);
    Some(name.map(DnsName::from))
}

fn group(fields: &mut Fields<'_>, wanted: &str) {
    fields.required("group", |value| {
        let text = value.string()?;
        if text != wanted {
            value.error(format_args!(
                "{} is not the group of this kind, {wanted:?}",
                shown(text)
            ));
        }
        Some(())
    });
}
