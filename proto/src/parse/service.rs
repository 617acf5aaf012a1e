//! `v1 Service`.
//!
//! A Service is read for what it says to callers inside the mesh. What it says about traffic that enters a
//! Kubernetes cluster from outside (node ports, load balancers) is Kubernetes' own affair and skipped: the types
//! `NodePort` and `LoadBalancer` have a cluster IP like any other.

use super::fields::{self, transport};
use super::object::Metadata;
use crate::error::shown;
use crate::model::{AppProtocol, ClusterIp, Service, ServicePort, TargetPort};
use crate::names::{DnsLabel, Labels, PortName};
use crate::reader::{Fields, Value};
use std::collections::HashSet;

/// Fields of `spec` that say nothing to callers inside the mesh.
const SKIPPED: [&str; 8] = [
    // Which addresses Kubernetes gives out; those it gave are in clusterIP.
    "ipFamilies",
    "ipFamilyPolicy",
    // How traffic enters a cluster.
    "allocateLoadBalancerNodePorts",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
];

/// Fields of `spec` that say something to callers inside the mesh that it cannot do.
const REFUSED: [(&str, &str); 4] = [
    (
        "externalName",
        "a Service that stands for a name outside the mesh is not supported",
    ),
    (
        "externalIPs",
        "addresses other than the clusterIP are not supported",
    ),
    ("sessionAffinityConfig", "session affinity is not supported"),
    (
        "trafficDistribution",
        "is not supported: endpoints are chosen by load, locality first",
    ),
];

/// `spec`.
pub(super) struct Spec {
    cluster_ip: ClusterIp,
    selector: Labels,
    ports: Vec<ServicePort>,
}

/// Reads `spec`.
pub(super) fn spec(value: &Value<'_>) -> Option<Spec> {
    value.mapping(|fields| {
        if fields.has("externalName") {
            // It has neither selector nor ports: there is nothing else to say about it.
            fields.refuse(
                "externalName",
                "a Service that stands for a name outside the mesh is not supported",
            );
            fields.accept_all();
            return None;
        }
        let cluster_ip = cluster_ip(fields);
        let selector = selector(fields);
        let ports = fields.required("ports", ports);
        settings(fields);
        fields.accept(&SKIPPED);
        for (name, message) in REFUSED {
            fields.refuse(name, message);
        }
        Some(Spec {
            cluster_ip: cluster_ip.unwrap_or_default(),
            selector: selector?,
            ports: ports?,
        })
    })
}

/// Puts a service together.
pub(super) fn service(metadata: Metadata, spec: Spec) -> Service {
    Service {
        name: metadata.name,
        cluster_ip: spec.cluster_ip,
        selector: spec.selector,
        ports: spec.ports,
    }
}

fn cluster_ip(fields: &mut Fields<'_>) -> Option<ClusterIp> {
    let mut first = String::new();
    let cluster_ip = fields.optional("clusterIP", |value| {
        first = value.string()?.to_owned();
        match first.as_str() {
            // As in Kubernetes, where an empty address is one still to be given out.
            "" => Some(ClusterIp::Unassigned),
            "None" => Some(ClusterIp::Headless),
            _ => fields::host_address(value).map(ClusterIp::Address),
        }
    });
    // Kubernetes repeats clusterIP here, followed by an address of the other family if it gave one.
    fields.optional("clusterIPs", |value| {
        let mut count = 0;
        value.list(|value| {
            count += 1;
            let text = value.string()?;
            if count > 1 {
                value.error("a second cluster IP (dual stack) is not supported");
            } else if text != first {
                value.error(format_args!(
                    "{} is not the clusterIP, {}",
                    shown(text),
                    shown(&first)
                ));
            }
            Some(())
        })
    });
    cluster_ip
}

fn selector(fields: &mut Fields<'_>) -> Option<Labels> {
    let selector = fields.optional("selector", |value| {
        let labels = fields::labels(value)?;
        if labels.is_empty() {
            value.error("is empty: a Service that asks for no labels selects no workloads");
        }
        Some(labels)
    });
    if !fields.has("selector") {
        fields.error("selector", "missing: a Service without one selects no workloads");
    }
    selector
}

/// Fields of which one value says what the mesh does anyway.
fn settings(fields: &mut Fields<'_>) {
    fields.optional("type", |value| match value.string()? {
        "ClusterIP" | "NodePort" | "LoadBalancer" => Some(()),
        "ExternalName" => {
            value.error("ExternalName is not supported");
            None
        }
        other => {
            value.error(format_args!(
                "{} is not one of ClusterIP, NodePort, LoadBalancer",
                shown(other)
            ));
            None
        }
    });
    only(
        fields,
        "sessionAffinity",
        "None",
        "session affinity is not supported",
    );
    only(
        fields,
        "internalTrafficPolicy",
        "Cluster",
        "keeping traffic on its node is not supported",
    );
    fields.optional("publishNotReadyAddresses", |value| {
        if value.boolean()? {
            value.error("true is not supported: only workloads that are ready are used");
        }
        Some(())
    });
}

fn only(fields: &mut Fields<'_>, name: &'static str, allowed: &str, message: &str) {
    fields.optional(name, |value| {
        let text = value.string()?;
        if text != allowed {
            value.error(format_args!(
                "{} is refused: {message} (leave it out, or {allowed})",
                shown(text)
            ));
        }
        Some(())
    });
}

fn ports(value: &Value<'_>) -> Option<Vec<ServicePort>> {
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    let mut is_any_unnamed = false;
    let ports = value.list(|value| {
        value.mapping(|fields| {
            is_any_unnamed |= !fields.has("name");
            let name = fields.optional("name", |value| {
                let name = value.parse(DnsLabel::parse)?;
                if !names.insert(name.clone()) {
                    value.error(format_args!("the name {name} is in the list already"));
                }
                Some(name)
            });
            let protocol = protocol(fields);
            let port = fields.required("port", |value| {
                let port = value.port()?;
                if !numbers.insert((port, protocol.is_udp())) {
                    value.error(format_args!(
                        "the {} port {port} is in the list already",
                        transport(protocol)
                    ));
                }
                Some(port)
            });
            let has_target = fields.has("targetPort");
            let target = fields.optional("targetPort", target_port);
            // The port of a Kubernetes node.
            fields.accept(&["nodePort"]);
            let target = if has_target {
                target
            } else {
                port.map(TargetPort::Number)
            };
            Some(ServicePort {
                name,
                port: port?,
                target: target?,
                protocol,
            })
        })
    })?;
    if ports.is_empty() {
        value.error("is empty: a Service has at least one port");
    } else if ports.len() > 1 && is_any_unnamed {
        value.error("each port needs a name if there are two or more");
    }
    Some(ports)
}

/// What a port speaks: `protocol` has the transport, as in Kubernetes, and `appProtocol` what runs over it.
fn protocol(fields: &mut Fields<'_>) -> AppProtocol {
    let is_udp = fields.optional("protocol", |value| match value.string()? {
        "TCP" => Some(false),
        "UDP" => Some(true),
        "SCTP" => {
            value.error("SCTP is not supported");
            None
        }
        other => {
            value.error(format_args!(
                "{} is not one of TCP, UDP (what runs over it is the appProtocol)",
                shown(other)
            ));
            None
        }
    });
    let declared = fields.optional("appProtocol", |value| {
        let declared = fields::app_protocol(value)?;
        if is_udp.is_some_and(|is_udp| is_udp != declared.is_udp()) {
            value.error(format_args!(
                "{} runs over {}, but the protocol is not",
                declared.as_str(),
                transport(declared)
            ));
        }
        Some(declared)
    });
    match (declared, is_udp) {
        (Some(declared), _) => declared,
        (None, Some(true)) => AppProtocol::Udp,
        (None, _) => AppProtocol::Detect,
    }
}

fn target_port(value: &Value<'_>) -> Option<TargetPort> {
    if value.is_number() {
        return value.port().map(TargetPort::Number);
    }
    let text = value.string()?;
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        value.error(format_args!(
            "{text:?} is a string, not a port: remove the quotes"
        ));
        return None;
    }
    value.parse(PortName::parse).map(TargetPort::Name)
}
