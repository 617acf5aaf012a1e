//! `weft.dev/v1alpha1 MeshConfig`.

use super::fields;
use crate::identity::TrustDomain;
use crate::model::{Authorization, Egress, InboundMode, MeshConfig, Unmeshed};
use crate::reader::Value;

/// Reads `spec`.
pub(super) fn spec(value: &Value<'_>) -> Option<MeshConfig> {
    value.mapping(|fields| {
        let trust_domain = fields.required("trustDomain", trust_domain);
        let mesh_ranges = fields.optional("meshRanges", fields::ranges);
        let service_ranges = fields.optional("serviceRanges", fields::ranges);
        let egress = fields
            .optional("egress", |value| value.one_of(&[("deny", Egress::Deny), ("allow", Egress::Allow)]));
        let inbound = fields.optional("inbound", |value| {
            value.one_of(&[("strict", InboundMode::Strict), ("permissive", InboundMode::Permissive)])
        });
        let unmeshed = fields
            .optional("unmeshed", |value| value.one_of(&[("deny", Unmeshed::Deny), ("allow", Unmeshed::Allow)]));
        let authorization = fields.optional("authorization", |value| {
            value.one_of(&[("authenticated", Authorization::Authenticated), ("deny", Authorization::Deny)])
        });
        let has_mesh_ranges = mesh_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty());
        if egress == Some(Egress::Allow) && !has_mesh_ranges && (mesh_ranges.is_some() || !fields.has("meshRanges")) {
            fields.error(
                "egress",
                "allow needs meshRanges: without them, traffic for a workload that is gone would leave in the clear",
            );
        }
        Some(MeshConfig {
            mesh_ranges: mesh_ranges.unwrap_or_default(),
            service_ranges: service_ranges.unwrap_or_default(),
            egress: egress.unwrap_or_default(),
            inbound: inbound.unwrap_or_default(),
            unmeshed: unmeshed.unwrap_or_default(),
            authorization: authorization.unwrap_or_default(),
            ..MeshConfig::new(trust_domain?)
        })
    })
}

fn trust_domain(value: &Value<'_>) -> Option<TrustDomain> {
    value.parse(|text| TrustDomain::parse(text).map_err(|error| format!("is not a trust domain: {error}")))
}
