//! Writes a mesh as documents, to be read again.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::model::{
    AppProtocol, Authorization, ClusterIp, Egress, ExternalService, InboundMode, Mesh, MeshConfig, Name,
    Resolution, Service, TargetPort, Unmeshed, Workload,
};
use crate::names::Labels;
use crate::render;

/// Writes a mesh, with a total match on every part, so that nothing is left out.
pub fn write(mesh: &Mesh) -> String {
    let mut text = config(&mesh.config);
    mesh.services
        .iter()
        .for_each(|service_read| text += &service(service_read));
    mesh.workloads
        .iter()
        .for_each(|workload_read| text += &workload(workload_read));
    mesh.external_services
        .iter()
        .for_each(|external_read| text += &external(external_read));
    let routes = mesh.routes.iter().map(render::route);
    let grants = mesh.reference_grants.iter().map(render::reference_grant);
    let policies = mesh.traffic_policies.iter().map(render::traffic_policy);
    routes
        .chain(grants)
        .chain(policies)
        .for_each(|document| text += &format!("---\n{}\n", document.json));
    text
}

fn config(config: &MeshConfig) -> String {
    let egress = match config.egress {
        Egress::Deny => "deny",
        Egress::Allow => "allow",
    };
    let inbound = match config.inbound {
        InboundMode::Strict => "strict",
        InboundMode::Permissive => "permissive",
    };
    let unmeshed = match config.unmeshed {
        Unmeshed::Deny => "deny",
        Unmeshed::Allow => "allow",
    };
    let authorization = match config.authorization {
        Authorization::Authenticated => "authenticated",
        Authorization::Deny => "deny",
    };
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec:\n  trustDomain: \"{}\"\n  \
         meshRanges: {:?}\n  serviceRanges: {:?}\n  egress: {egress}\n  inbound: {inbound}\n  unmeshed: {unmeshed}\n  \
         authorization: {authorization}\n",
        config.trust_domain,
        config
            .mesh_ranges
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        config
            .service_ranges
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
    )
}

fn head(api_version: &str, kind: &str, name: &Name, labels: &Labels) -> String {
    let Name { namespace, name } = name;
    format!(
        "---\napiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: \"{name}\", namespace: \"{namespace}\", labels: \
         {labels}}}\nspec:\n",
        labels = mapping(labels)
    )
}

fn mapping(labels: &Labels) -> String {
    format!("{:?}", BTreeMap::clone(labels))
}

fn protocol(protocol: AppProtocol, field: &str) -> String {
    match protocol {
        AppProtocol::Detect => String::new(),
        declared => format!(", {field}: {}", declared.as_str()),
    }
}

fn service(service: &Service) -> String {
    let mut text = head("v1", "Service", &service.name, &Labels::default());
    match service.cluster_ip {
        ClusterIp::Unassigned => {}
        ClusterIp::Headless => text += "  clusterIP: None\n",
        ClusterIp::Address(address) => writeln!(text, "  clusterIP: \"{address}\"").unwrap(),
    }
    writeln!(text, "  selector: {}\n  ports:", mapping(&service.selector)).unwrap();
    for port in &service.ports {
        let name = port
            .name
            .as_ref()
            .map(|name| format!(", name: \"{name}\""))
            .unwrap_or_default();
        let target = match &port.target {
            TargetPort::Number(number) => number.to_string(),
            TargetPort::Name(name) => format!("\"{name}\""),
        };
        let protocol = protocol(port.protocol, "appProtocol");
        writeln!(
            text,
            "  - {{port: {}, targetPort: {target}{name}{protocol}}}",
            port.port
        )
        .unwrap();
    }
    text
}

fn workload(workload: &Workload) -> String {
    let mut text = head("weft.dev/v1alpha1", "Workload", &workload.name, &workload.labels);
    let Workload {
        uid,
        address,
        service_account,
        ..
    } = workload;
    writeln!(
        text,
        "  uid: {uid:?}\n  address: \"{address}\"\n  serviceAccount: \"{service_account}\""
    )
    .unwrap();
    if let Some(port) = workload.mesh_port {
        writeln!(text, "  meshPort: {port}").unwrap();
    }
    text += "  ports:\n";
    for port in &workload.ports {
        let name = port
            .name
            .as_ref()
            .map(|name| format!(", name: \"{name}\""))
            .unwrap_or_default();
        writeln!(
            text,
            "  - {{port: {}{name}{}}}",
            port.port,
            protocol(port.protocol, "protocol")
        )
        .unwrap();
    }
    if let Some(locality) = &workload.locality {
        writeln!(text, "  locality:\n    region: \"{}\"", locality.region).unwrap();
        locality
            .zone
            .iter()
            .for_each(|zone| writeln!(text, "    zone: \"{zone}\"").unwrap());
        locality
            .subzone
            .iter()
            .for_each(|subzone| writeln!(text, "    subzone: \"{subzone}\"").unwrap());
    }
    text
}

fn external(external: &ExternalService) -> String {
    let ExternalService {
        name,
        hosts,
        ports,
        resolution,
    } = external;
    let mut text = head("weft.dev/v1alpha1", "ExternalService", name, &Labels::default());
    writeln!(text, "  hosts: {hosts:?}\n  ports:").unwrap();
    for port in ports {
        let name = port
            .name
            .as_ref()
            .map(|name| format!(", name: \"{name}\""))
            .unwrap_or_default();
        let protocol = protocol(port.protocol, "appProtocol");
        writeln!(text, "  - {{port: {}{name}{protocol}}}", port.port).unwrap();
    }
    match resolution {
        Resolution::Dns => text += "  resolution: dns\n",
        Resolution::Static(addresses) => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            writeln!(text, "  resolution: static\n  endpoints: {addresses:?}").unwrap();
        }
    }
    text
}
