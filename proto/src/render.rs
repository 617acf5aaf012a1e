//! From the model back to documents: what is read from a rendered document is what was rendered.
//!
//! A setting that has its default value is left out where the default cannot change its meaning.
//!
//! ```
//! use weft_proto::model::{AppProtocol, Name, Workload, WorkloadPort};
//! use weft_proto::names::{DnsLabel, DnsName};
//! use weft_proto::{parse::Model, render};
//!
//! let name = Name { namespace: DnsLabel::parse("shop")?, name: DnsName::parse("web-0")? };
//! let mut workload = Workload::new(name, "10.0.0.1".parse()?);
//! workload.ports.push(WorkloadPort::new(None, 8080, AppProtocol::Http));
//! let document = render::workload(&workload);
//! assert_eq!(document.parse().map(|parsed| parsed.model), Ok(Model::Workload(workload)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod route;
mod traffic_policy;

use crate::document::Document;
use crate::kinds::{DocumentKey, Kind};
use crate::model::{
    AppProtocol, Authorization, ClusterIp, Egress, ExternalService, InboundMode, Locality, MeshConfig, Name,
    Resolution, Service, TargetPort, Unmeshed, Workload,
};
use crate::names::{DnsLabel, DnsName, Labels};
use crate::parse::{Model, Parsed, duration};
use ipnet::IpNet;
pub use route::{reference_grant, route};
use serde_json::{Map, Value};
use std::fmt::Display;
use std::time::Duration;
pub use traffic_policy::traffic_policy;

/// The document of what was read.
pub fn render(parsed: &Parsed) -> Document {
    match &parsed.model {
        Model::Service(read) => service(read),
        Model::Workload(read) => workload(read),
        Model::ExternalService(read) => external_service(read),
        Model::MeshConfig(read) => document(parsed.key.clone(), Fields::default(), mesh_config_spec(read)),
        Model::Route(read) => route(read),
        Model::ReferenceGrant(read) => reference_grant(read),
        Model::TrafficPolicy(read) => traffic_policy(read),
    }
}

/// The document of a service. What it says to others than callers inside the mesh is not part of the model.
pub fn service(service: &Service) -> Document {
    let ports = service.ports.iter().map(|port| {
        let mut fields = Fields::default();
        fields.text_if("name", port.name.as_deref());
        fields.put("port", port.port);
        match &port.target {
            TargetPort::Number(number) => fields.put("targetPort", *number),
            TargetPort::Name(name) => fields.text("targetPort", name),
        }
        // Kubernetes takes a port for TCP if only the appProtocol says UDP.
        if port.protocol.is_udp() {
            fields.text("protocol", "UDP");
        }
        fields.protocol("appProtocol", port.protocol);
        fields.into_value()
    });
    let mut spec = Fields::default();
    match service.cluster_ip {
        ClusterIp::Unassigned => {}
        ClusterIp::Headless => spec.text("clusterIP", "None"),
        ClusterIp::Address(address) => spec.text("clusterIP", address),
    }
    spec.put("selector", labels(&service.selector));
    spec.put("ports", ports.collect::<Vec<_>>());
    named(Kind::Service, &service.name, Fields::default(), spec)
}

/// The document of a workload.
pub fn workload(workload: &Workload) -> Document {
    let ports = workload.ports.iter().map(|port| {
        let mut fields = Fields::default();
        fields.text_if("name", port.name.as_deref());
        fields.put("port", port.port);
        fields.protocol("protocol", port.protocol);
        fields.into_value()
    });
    let mut metadata = Fields::default();
    if !workload.labels.is_empty() {
        metadata.put("labels", labels(&workload.labels));
    }
    let mut spec = Fields::default();
    spec.text("uid", &workload.uid);
    spec.text("address", workload.address);
    if let Some(port) = workload.mesh_port {
        spec.put("meshPort", port);
    }
    spec.text("serviceAccount", &workload.service_account);
    spec.put("ports", ports.collect::<Vec<_>>());
    if let Some(found) = &workload.locality {
        spec.put("locality", locality(found));
    }
    named(Kind::Workload, &workload.name, metadata, spec)
}

/// The document of an external service.
pub fn external_service(external: &ExternalService) -> Document {
    let ports = external.ports.iter().map(|port| {
        let mut fields = Fields::default();
        fields.text_if("name", port.name.as_deref());
        fields.put("port", port.port);
        fields.protocol("appProtocol", port.protocol);
        fields.into_value()
    });
    let mut spec = Fields::default();
    spec.put("hosts", texts(&external.hosts));
    spec.put("ports", ports.collect::<Vec<_>>());
    match &external.resolution {
        Resolution::Dns => spec.text("resolution", "dns"),
        Resolution::Static(addresses) => {
            spec.text("resolution", "static");
            spec.put("endpoints", texts(addresses));
        }
    }
    named(Kind::ExternalService, &external.name, Fields::default(), spec)
}

/// The document of the settings of a mesh, by this name.
pub fn mesh_config(name: &DnsName, config: &MeshConfig) -> Document {
    let name = Name {
        namespace: DnsLabel::default_namespace(),
        name: name.clone(),
    };
    named(
        Kind::MeshConfig,
        &name,
        Fields::default(),
        mesh_config_spec(config),
    )
}

/// Every setting: what holds for a whole mesh is not left to a default.
fn mesh_config_spec(config: &MeshConfig) -> Fields {
    let mut spec = Fields::default();
    spec.text("trustDomain", config.trust_domain.as_str());
    spec.put("meshRanges", texts::<IpNet>(&config.mesh_ranges));
    spec.put("serviceRanges", texts::<IpNet>(&config.service_ranges));
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
    spec.text("egress", egress);
    spec.text("inbound", inbound);
    spec.text("unmeshed", unmeshed);
    spec.text("authorization", authorization);
    spec
}

fn locality(locality: &Locality) -> Value {
    let mut fields = Fields::default();
    fields.text("region", &locality.region);
    fields.text_if("zone", locality.zone.as_deref());
    fields.text_if("subzone", locality.subzone.as_deref());
    fields.into_value()
}

fn labels(labels: &Labels) -> Value {
    let entries = labels
        .iter()
        .map(|(key, value)| (key.clone(), Value::String(value.clone())));
    Value::Object(entries.collect())
}

fn texts<T: Display>(items: &[T]) -> Vec<Value> {
    items.iter().map(|item| Value::String(item.to_string())).collect()
}

fn list<T>(items: &[T], one: impl Fn(&T) -> Value) -> Vec<Value> {
    items.iter().map(one).collect()
}

fn named(kind: Kind, name: &Name, metadata: Fields, spec: Fields) -> Document {
    document(DocumentKey::of(kind, name), metadata, spec)
}

/// The namespace is written into every document, and the keys are put in order, where it is made.
fn document(key: DocumentKey, mut metadata: Fields, spec: Fields) -> Document {
    metadata.text("name", key.name());
    let mut root = Fields::default();
    root.text("apiVersion", key.kind().api_version());
    root.text("kind", key.kind());
    root.put("metadata", metadata.into_value());
    root.put("spec", spec.into_value());
    Document::new(key, root.into_value())
}

/// The fields of a mapping.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn text(&mut self, name: &str, value: impl Display) {
        self.put(name, value.to_string());
    }

    fn text_if(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn list_if(&mut self, name: &str, items: Vec<Value>) {
        if !items.is_empty() {
            self.put(name, items);
        }
    }

    fn duration_if(&mut self, name: &str, duration: Option<Duration>) {
        if let Some(duration) = duration {
            self.text(name, duration::to_text(duration));
        }
    }

    fn number_if(&mut self, name: &str, number: Option<u32>) {
        if let Some(number) = number {
            self.put(name, number);
        }
    }

    /// What is not declared has no word.
    fn protocol(&mut self, name: &str, protocol: AppProtocol) {
        if protocol != AppProtocol::Detect {
            self.text(name, protocol.as_str());
        }
    }

    fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}
