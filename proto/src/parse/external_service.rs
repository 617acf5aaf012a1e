//! `weft.dev/v1alpha1 ExternalService`.

use super::fields::{self, transport};
use super::object::Metadata;
use crate::error::shown;
use crate::model::{ExternalPort, ExternalService, Resolution};
use crate::names::{DnsLabel, DnsName};
use crate::reader::{Fields, Value};
use std::collections::HashSet;
use std::net::IpAddr;

/// `spec`.
pub(super) struct Spec {
    hosts: Vec<DnsName>,
    ports: Vec<ExternalPort>,
    resolution: Resolution,
}

/// The words for how a host becomes addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Dns,
    Static,
}

/// Reads `spec`.
pub(super) fn spec(value: &Value<'_>) -> Option<Spec> {
    value.mapping(|fields| {
        let hosts = fields.required("hosts", hosts);
        let ports = fields.required("ports", ports);
        let resolution = resolution(fields);
        Some(Spec {
            hosts: hosts?,
            ports: ports?,
            resolution: resolution?,
        })
    })
}

/// Puts an external service together.
pub(super) fn external_service(metadata: Metadata, spec: Spec) -> ExternalService {
    ExternalService {
        name: metadata.name,
        hosts: spec.hosts,
        ports: spec.ports,
        resolution: spec.resolution,
    }
}

fn hosts(value: &Value<'_>) -> Option<Vec<DnsName>> {
    let mut seen = HashSet::new();
    let hosts = value.list(|value| {
        let host = host(value)?;
        if !seen.insert(host.clone()) {
            value.error(format_args!("{host} is in the list already"));
        }
        Some(host)
    })?;
    if hosts.is_empty() {
        value.error("is empty: an ExternalService has at least one host");
    }
    Some(hosts)
}

/// A name that cannot be one of the mesh, whatever the other documents say.
fn host(value: &Value<'_>) -> Option<DnsName> {
    let text = value.string()?;
    if text.starts_with("*.") || text == "*" {
        value.error(format_args!("{} stands for many hosts: name each", shown(text)));
        return None;
    }
    if text.parse::<IpAddr>().is_ok() {
        value.error(format_args!(
            "{text} is an address, not a name: put it into endpoints"
        ));
        return None;
    }
    let host = value.parse(DnsName::parse)?;
    let labels: Vec<&str> = host.split('.').collect();
    let problem = if labels.len() < 2 {
        "has no dot: such names are those of services of the mesh"
    } else if labels
        .last()
        .is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()))
    {
        // RFC 1123 section 2.1: such a name may be taken for an address, of 10.1 for one.
        "ends in a number, as addresses do"
    } else if labels.last() == Some(&"svc") || labels.ends_with(&["svc", "cluster", "local"]) {
        "is a name of the mesh (.svc)"
    } else {
        return Some(host);
    };
    value.error(format_args!("{host} {problem}"));
    None
}

fn ports(value: &Value<'_>) -> Option<Vec<ExternalPort>> {
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    let ports = value.list(|value| {
        value.mapping(|fields| {
            let name = fields.optional("name", |value| {
                let name = value.parse(DnsLabel::parse)?;
                if !names.insert(name.clone()) {
                    value.error(format_args!("the name {name} is in the list already"));
                }
                Some(name)
            });
            let protocol = fields
                .optional("appProtocol", fields::app_protocol)
                .unwrap_or_default();
            let port = fields.required("port", |value| {
                let port = value.port()?;
                if !numbers.insert((port, protocol.is_udp())) {
                    let transport = transport(protocol);
                    value.error(format_args!("the {transport} port {port} is in the list already"));
                }
                Some(port)
            });
            Some(ExternalPort {
                name,
                port: port?,
                protocol,
            })
        })
    })?;
    if ports.is_empty() {
        value.error("is empty: an ExternalService has at least one port");
    }
    Some(ports)
}

/// `resolution`, and `endpoints`, which one of its words needs and the other forbids.
fn resolution(fields: &mut Fields<'_>) -> Option<Resolution> {
    let words = [("dns", Word::Dns), ("static", Word::Static)];
    let has_word = fields.has("resolution");
    let word = fields.optional("resolution", |value| value.one_of(&words));
    let has_endpoints = fields.has("endpoints");
    let endpoints = fields.optional("endpoints", endpoints);
    match word {
        Some(Word::Static) if !has_endpoints => {
            fields.error(
                "endpoints",
                "missing: with resolution static they are where the hosts lead",
            );
            None
        }
        Some(Word::Static) => endpoints.map(Resolution::Static),
        // A word that is wrong was reported, and says nothing about the endpoints.
        None if has_word => None,
        Some(Word::Dns) | None if has_endpoints => {
            fields.error("endpoints", "are read with resolution static alone");
            None
        }
        Some(Word::Dns) | None => Some(Resolution::Dns),
    }
}

fn endpoints(value: &Value<'_>) -> Option<Vec<IpAddr>> {
    let mut seen = HashSet::new();
    let endpoints = value.list(|value| {
        let address = fields::host_address(value)?;
        if address.is_loopback() {
            value.error(format_args!("{address} is an address of the proxy's own host"));
        }
        if !seen.insert(address) {
            value.error(format_args!("{address} is in the list already"));
        }
        Some(address)
    })?;
    if endpoints.is_empty() {
        value.error("is empty: with resolution static the hosts would lead nowhere");
    }
    Some(endpoints)
}
