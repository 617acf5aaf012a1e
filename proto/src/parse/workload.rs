//! `weft.dev/v1alpha1 Workload`.

use super::fields;
use super::object::Metadata;
use crate::error::shown;
use crate::model::{Locality, Workload, WorkloadPort};
use crate::names::{DnsName, WorkloadUid, check_label_value};
use crate::reader::Value;
use std::net::IpAddr;

/// `spec`.
pub(super) struct Spec {
    uid: Option<WorkloadUid>,
    address: IpAddr,
    mesh_port: Option<u16>,
    service_account: Option<DnsName>,
    ports: Vec<WorkloadPort>,
    locality: Option<Locality>,
}

/// Reads `spec`.
pub(super) fn spec(value: &Value<'_>) -> Option<Spec> {
    value.mapping(|fields| {
        let uid = fields.optional("uid", |value| value.parse(WorkloadUid::parse));
        let address = fields.required("address", fields::host_address);
        let mesh_port = fields.optional("meshPort", Value::port);
        let service_account = fields.optional("serviceAccount", |value| value.parse(DnsName::parse));
        let ports = fields
            .optional("ports", fields::workload_ports)
            .unwrap_or_default();
        let locality = fields.optional("locality", locality);
        Some(Spec {
            uid,
            address: address?,
            mesh_port,
            service_account,
            ports,
            locality,
        })
    })
}

/// Puts a workload together.
pub(super) fn workload(metadata: Metadata, spec: Spec) -> Workload {
    let Metadata { name, labels, .. } = metadata;
    Workload {
        uid: spec
            .uid
            .unwrap_or_else(|| WorkloadUid::of(&name.namespace, &name.name)),
        name,
        address: spec.address,
        mesh_port: spec.mesh_port,
        service_account: spec
            .service_account
            .unwrap_or_else(DnsName::default_service_account),
        ports: spec.ports,
        labels,
        locality: spec.locality,
    }
}

fn locality(value: &Value<'_>) -> Option<Locality> {
    value.mapping(|fields| {
        let region = fields.required("region", place);
        let zone = fields.optional("zone", place);
        let subzone = fields.optional("subzone", place);
        if fields.has("subzone") && !fields.has("zone") {
            fields.error("subzone", "is a part of a zone: give the zone as well");
        }
        Some(Locality {
            region: region?,
            zone,
            subzone,
        })
    })
}

/// Kubernetes keeps regions and zones in labels, so they have their syntax.
fn place(value: &Value<'_>) -> Option<String> {
    let text = value.string()?;
    if text.is_empty() || check_label_value(text).is_err() {
        value.error(format_args!(
            "{} is not the name of a place (1 to 63 letters, digits, '.', '-' and '_', a letter or digit first and last)",
            shown(text)
        ));
        return None;
    }
    Some(text.to_owned())
}
