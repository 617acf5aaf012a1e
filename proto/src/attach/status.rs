//! What became of routes and policies: conditions, as the standard names them, for each parent or target.

use super::{Documents, Unresolved, backend, by_age, selects, takes_requests, target_service, winner};
use crate::model::route::{BackendTarget, Filter, ParentRef, Route, RouteKind};
use crate::model::{ClusterIp, Service, ServicePort, TrafficPolicy};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Who says it, in a status.
pub const CONTROLLER: &str = "weft.dev/controller";

/// References of one route that a message names. Others are counted.
const MAX_NAMED: usize = 3;

/// What became of a document at one of the Services that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParentStatus {
    /// The Service, or the port of it.
    pub parent: ParentRef,
    /// `Accepted`, then of a route `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// A condition of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Condition {
    /// Its `type`, such as `Accepted`.
    pub kind: &'static str,
    /// Whether it holds.
    pub is_true: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence: what to do, if it does not hold.
    pub message: String,
}

/// What a condition was seen of, and when: known to who stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The `metadata.generation` of the document.
    pub generation: i64,
    /// Since when the condition is as it is (RFC 3339).
    pub since: String,
}

impl Condition {
    fn new(kind: &'static str, is_true: bool, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            kind,
            is_true,
            reason,
            message,
        }
    }

    fn accepted(message: impl Into<String>) -> Self {
        Self::new("Accepted", true, "Accepted", message)
    }

    fn refused(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new("Accepted", false, reason, message)
    }
}

/// What became of a route at each of its parents, in their order.
pub fn route_status(docs: &impl Documents, route: &Route) -> Vec<ParentStatus> {
    let resolved = resolved_refs(docs, route);
    let status = |parent: &ParentRef| ParentStatus {
        parent: parent.clone(),
        conditions: vec![route_accepted(docs, route, parent), resolved.clone()],
    };
    route.parents.iter().map(status).collect()
}

/// What became of a policy at each of its targets, in their order.
pub fn policy_status(docs: &impl Documents, policy: &TrafficPolicy) -> Vec<ParentStatus> {
    let status = |target| {
        let service = target_service(policy, target);
        let section = target.section.clone();
        let accepted = match docs.service(&service) {
            None => Condition::refused(
                "TargetNotFound",
                format!("there is no Service {service}: apply it, or name another"),
            ),
            Some(found) => {
                let has_section = section
                    .as_ref()
                    .is_none_or(|name| found.ports.iter().any(|port| port.name.as_ref() == Some(name)));
                match (has_section, &section) {
                    (false, Some(name)) => Condition::refused(
                        "TargetNotFound",
                        format!(
                            "the Service {service} has no port called {name}: add it, or name one of its ports"
                        ),
                    ),
                    _ => policy_accepted(docs, policy, found, section.as_ref()),
                }
            }
        };
        ParentStatus {
            parent: ParentRef {
                service,
                port: None,
                section,
            },
            conditions: vec![accepted],
        }
    };
    policy.targets.iter().map(status).collect()
}

/// The `status` of a route.
pub fn route_json(statuses: &[ParentStatus], observed: Option<&Observed>) -> Value {
    json!({ "parents": entries(statuses, "parentRef", observed) })
}

/// The `status` of a policy.
pub fn policy_json(statuses: &[ParentStatus], observed: Option<&Observed>) -> Value {
    json!({ "ancestors": entries(statuses, "ancestorRef", observed) })
}

impl ParentStatus {
    /// Its entry in a `status`, with the parent under this name; `observed` is of all of its conditions.
    pub fn to_json(&self, reference: &str, observed: Option<&Observed>) -> Value {
        let mut parent = json!({
            "group": "", "kind": "Service",
            "namespace": self.parent.service.namespace.as_str(), "name": self.parent.service.name.as_str(),
        });
        if let Some(fields) = parent.as_object_mut() {
            if let Some(port) = self.parent.port {
                fields.insert("port".to_owned(), port.into());
            }
            if let Some(section) = &self.parent.section {
                fields.insert("sectionName".to_owned(), section.as_str().into());
            }
        }
        let conditions: Vec<Value> = self.conditions.iter().map(|of| of.to_json(observed)).collect();
        let mut entry = Map::new();
        entry.insert(reference.to_owned(), parent);
        entry.insert("controllerName".to_owned(), CONTROLLER.into());
        entry.insert("conditions".to_owned(), conditions.into());
        entry.into()
    }
}

impl Condition {
    fn to_json(&self, observed: Option<&Observed>) -> Value {
        let mut condition = json!({
            "type": self.kind, "status": if self.is_true { "True" } else { "False" },
            "reason": self.reason, "message": self.message,
        });
        if let (Some(fields), Some(observed)) = (condition.as_object_mut(), observed) {
            fields.insert("observedGeneration".to_owned(), observed.generation.into());
            fields.insert("lastTransitionTime".to_owned(), observed.since.as_str().into());
        }
        condition
    }
}

fn entries(statuses: &[ParentStatus], reference: &str, observed: Option<&Observed>) -> Vec<Value> {
    let entries = statuses.iter();
    entries
        .map(|status| status.to_json(reference, observed))
        .collect()
}

fn route_accepted(docs: &impl Documents, route: &Route, parent: &ParentRef) -> Condition {
    let name = &parent.service;
    let no_parent = |message: String| Condition::refused("NoMatchingParent", message);
    let Some(service) = docs.service(name) else {
        return no_parent(format!("there is no Service {name}: apply it, or name another"));
    };
    if service.cluster_ip == ClusterIp::Headless {
        return no_parent(format!(
            "the Service {name} is headless, so its workloads are called at their own addresses: name one with a cluster IP"
        ));
    }
    let selected = || service.ports.iter().filter(|port| selects(parent, service, port));
    if selected().next().is_none() {
        return no_parent(format!(
            "the Service {name} has no such port: add it, or name one of its ports"
        ));
    }
    let ports: Vec<&ServicePort> = selected().filter(|port| takes_requests(port.protocol)).collect();
    if ports.is_empty() {
        return no_parent(format!(
            "no such port of the Service {name} speaks HTTP: name another, or correct its appProtocol"
        ));
    }
    let lost: Vec<(&ServicePort, &Route)> = ports
        .iter()
        .filter_map(|port| Some((*port, grpc_instead(docs, route, service, port)?)))
        .collect();
    let Some((_, other)) = lost.first() else {
        return Condition::accepted(format!("it applies to {}", whose(route, service)));
    };
    if lost.len() == ports.len() {
        return Condition::refused(
            "Conflicted",
            format!(
                "the GRPCRoute {} is for the same port, where GRPCRoutes apply alone: remove one of the two, or give each a port of its own",
                other.name
            ),
        );
    }
    let lost: Vec<String> = lost.iter().map(|(port, _)| port.port.to_string()).collect();
    Condition::accepted(format!(
        "it applies to {}, but for port {}, where GRPCRoutes apply alone",
        whose(route, service),
        lost.join(", ")
    ))
}

/// The oldest GRPCRoute of the same group at a port, if the route is none itself.
fn grpc_instead<'d>(
    docs: &'d impl Documents,
    route: &Route,
    service: &Service,
    port: &ServicePort,
) -> Option<&'d Route> {
    if route.kind == RouteKind::Grpc {
        return None;
    }
    docs.routes_of(&service.name)
        .filter(|other| other.kind == RouteKind::Grpc && other.name.namespace == route.name.namespace)
        .filter(|other| other.parents.iter().any(|parent| selects(parent, service, port)))
        .min_by(|one, other| by_age((one.created, &one.name), (other.created, &other.name)))
}

/// Whose requests a route is for.
fn whose(route: &Route, service: &Service) -> String {
    if route.name.namespace == service.name.namespace {
        return "requests of all clients whose namespace has no routes of its own for the Service".to_owned();
    }
    format!("requests of clients in {} alone", route.name.namespace)
}

fn resolved_refs(docs: &impl Documents, route: &Route) -> Condition {
    // Of several references to the same nowhere one is enough.
    let mut seen = BTreeSet::new();
    let mut wrong: Vec<(String, Unresolved)> = Vec::new();
    let mut others = 0;
    for (path, target) in references(route) {
        let Err(unresolved) = backend(docs, route, target) else {
            continue;
        };
        if !seen.insert(unresolved.to_string()) {
            continue;
        }
        if wrong.len() < MAX_NAMED {
            wrong.push((path, unresolved));
        } else {
            others += 1;
        }
    }
    let Some((_, first)) = wrong.first() else {
        return Condition::new("ResolvedRefs", true, "ResolvedRefs", "all backends are there");
    };
    let reason = first.reason();
    let mut messages: Vec<String> = wrong
        .iter()
        .map(|(path, error)| format!("{path}: {error}"))
        .collect();
    if others > 0 {
        messages.push(format!("and {others} more"));
    }
    Condition::new("ResolvedRefs", false, reason, messages.join("; "))
}

/// All that a route refers to, each with the path of it in `spec`.
fn references(route: &Route) -> Vec<(String, &BackendTarget)> {
    let mut all = Vec::new();
    for (index, rule) in route.rules.iter().enumerate() {
        let rule_path = format!("rules[{index}]");
        mirrors(&mut all, &rule_path, &rule.filters);
        for (index, backend) in rule.backends.iter().enumerate() {
            let path = format!("{rule_path}.backendRefs[{index}]");
            mirrors(&mut all, &path, &backend.filters);
            all.push((path, &backend.target));
        }
    }
    all
}

fn mirrors<'r>(all: &mut Vec<(String, &'r BackendTarget)>, path: &str, filters: &'r [Filter]) {
    for (index, filter) in filters.iter().enumerate() {
        if let Filter::Mirror(mirror) = filter {
            all.push((
                format!("{path}.filters[{index}].requestMirror.backendRef"),
                &mirror.target,
            ));
        }
    }
}

fn policy_accepted(
    docs: &impl Documents,
    policy: &TrafficPolicy,
    service: &Service,
    section: Option<&crate::names::DnsLabel>,
) -> Condition {
    match winner(docs, &service.name, section) {
        Some(older) if older.name != policy.name => Condition::refused(
            "Conflicted",
            format!(
                "the older TrafficPolicy {} has the same target: put what this one says into that, or remove one of the two",
                older.name
            ),
        ),
        _ if service.cluster_ip == ClusterIp::Headless => Condition::accepted(
            "it holds, but the Service is headless: calls of its workloads' own addresses are not balanced, repeated or limited by it",
        ),
        _ => Condition::accepted("it holds"),
    }
}
