//! Which routes and policies apply where: the rules by which documents are attached to Services.
//!
//! The same rules are asked by proxies, of a [`Mesh`] that they were given, and by the controller, of a [`MeshSet`]
//! that changes: both are [`Documents`]. Nothing here looks at all documents.

mod status;

use crate::mesh_set::MeshSet;
use crate::model::policy::{Fault, Limits, LoadBalancing, OutlierEjection, PolicyTarget, Retries, Timeouts};
use crate::model::route::{BackendTarget, ParentRef};
use crate::model::{
    AppProtocol, ClusterIp, Mesh, Name, ReferenceGrant, Route, RouteKind, Service, ServicePort, TrafficPolicy,
};
use crate::names::DnsLabel;
pub use status::{
    CONTROLLER, Condition, Observed, ParentStatus, policy_json, policy_status, route_json, route_status,
};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// What finds documents by what they name.
pub trait Documents {
    /// The Service of this name.
    fn service(&self, name: &Name) -> Option<&Service>;

    /// The routes that have a Service as a parent, each once.
    fn routes_of(&self, service: &Name) -> impl Iterator<Item = &Route>;

    /// The policies that have a Service, or one of its ports, as a target, each once.
    fn policies_of(&self, service: &Name) -> impl Iterator<Item = &TrafficPolicy>;

    /// The grants of a namespace.
    fn grants_of(&self, namespace: &DnsLabel) -> impl Iterator<Item = &ReferenceGrant>;
}

/// The documents of a [`Mesh`], under what they name.
#[derive(Debug, Default)]
pub struct Lookup<'m> {
    services: HashMap<&'m Name, &'m Service>,
    routes: HashMap<&'m Name, Vec<&'m Route>>,
    policies: HashMap<Name, Vec<&'m TrafficPolicy>>,
    grants: HashMap<&'m DnsLabel, Vec<&'m ReferenceGrant>>,
}

impl<'m> Lookup<'m> {
    /// Looks at each document once.
    pub fn new(mesh: &'m Mesh) -> Self {
        let mut lookup = Self::default();
        for service in &mesh.services {
            lookup.services.insert(&service.name, service);
        }
        for route in &mesh.routes {
            for parent in &route.parents {
                push(lookup.routes.entry(&parent.service).or_default(), route);
            }
        }
        for policy in &mesh.traffic_policies {
            for target in &policy.targets {
                let service = target_service(policy, target);
                push(lookup.policies.entry(service).or_default(), policy);
            }
        }
        for grant in &mesh.reference_grants {
            push(lookup.grants.entry(&grant.name.namespace).or_default(), grant);
        }
        lookup
    }
}

impl Documents for Lookup<'_> {
    fn service(&self, name: &Name) -> Option<&Service> {
        self.services.get(name).copied()
    }

    fn routes_of(&self, service: &Name) -> impl Iterator<Item = &Route> {
        self.routes.get(service).into_iter().flatten().copied()
    }

    fn policies_of(&self, service: &Name) -> impl Iterator<Item = &TrafficPolicy> {
        self.policies.get(service).into_iter().flatten().copied()
    }

    fn grants_of(&self, namespace: &DnsLabel) -> impl Iterator<Item = &ReferenceGrant> {
        self.grants.get(namespace).into_iter().flatten().copied()
    }
}

impl Documents for MeshSet {
    fn service(&self, name: &Name) -> Option<&Service> {
        MeshSet::service(self, name)
    }

    fn routes_of(&self, service: &Name) -> impl Iterator<Item = &Route> {
        MeshSet::routes_of(self, service)
    }

    fn policies_of(&self, service: &Name) -> impl Iterator<Item = &TrafficPolicy> {
        MeshSet::policies_of(self, service)
    }

    fn grants_of(&self, namespace: &DnsLabel) -> impl Iterator<Item = &ReferenceGrant> {
        MeshSet::grants_of(self, namespace)
    }
}

/// The routes that apply to requests of a namespace's clients for a port of a Service, in the order in which the
/// standard prefers one to another where both match alike. All are of one kind.
///
/// Those of the client's own namespace, if it has any, stand in place of the Service's own; GRPCRoutes stand in place
/// of HTTPRoutes. A headless Service has none, as its workloads are called at their own addresses, and neither has a
/// port that is declared not to speak HTTP.
pub fn routes<'d>(
    docs: &'d impl Documents,
    service: &Service,
    port: &ServicePort,
    client_namespace: &str,
) -> Vec<&'d Route> {
    if service.cluster_ip == ClusterIp::Headless || !takes_requests(port.protocol) {
        return Vec::new();
    }
    let attached: Vec<&Route> = docs
        .routes_of(&service.name)
        .filter(|route| route.parents.iter().any(|parent| selects(parent, service, port)))
        .collect();
    let of = |namespace: &str| -> Vec<&'d Route> {
        let group = attached.iter().copied();
        group
            .filter(|route| &*route.name.namespace == namespace)
            .collect()
    };
    let mut group = of(client_namespace);
    if group.is_empty() {
        group = of(&service.name.namespace);
    }
    if group.iter().any(|route| route.kind == RouteKind::Grpc) {
        group.retain(|route| route.kind == RouteKind::Grpc);
    }
    group.sort_by(|one, other| by_age((one.created, &one.name), (other.created, &other.name)));
    group
}

/// Why requests cannot be sent to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unresolved {
    /// It is of another namespace than the route, and no grant there allows it. Said whether or not there is such a
    /// Service.
    RefNotPermitted {
        /// The kind of the route.
        kind: RouteKind,
        /// The namespace of the route.
        from: DnsLabel,
        /// The Service.
        service: Name,
    },
    /// There is no such Service.
    BackendNotFound(Name),
    /// The Service has no such port.
    PortNotFound(BackendTarget),
    /// The port is declared to speak something else than HTTP.
    UnsupportedProtocol(BackendTarget, AppProtocol),
}

impl Unresolved {
    /// The standard's reason of a condition `ResolvedRefs`.
    pub fn reason(&self) -> &'static str {
        match self {
            Unresolved::RefNotPermitted { .. } => "RefNotPermitted",
            Unresolved::BackendNotFound(_) | Unresolved::PortNotFound(_) => "BackendNotFound",
            Unresolved::UnsupportedProtocol(..) => "UnsupportedProtocol",
        }
    }
}

impl std::error::Error for Unresolved {}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unresolved::RefNotPermitted { kind, from, service } => write!(
                f,
                "no ReferenceGrant in {} allows a {} of {from} to send requests to the Service {service}: apply one there",
                service.namespace,
                kind.as_str()
            ),
            Unresolved::BackendNotFound(service) => {
                write!(f, "there is no Service {service}: apply it, or name another")
            }
            Unresolved::PortNotFound(target) => write!(
                f,
                "the Service {} has no port {}: add it, or name one of its ports",
                target.service, target.port
            ),
            Unresolved::UnsupportedProtocol(target, protocol) => write!(
                f,
                "the port {} of the Service {} is declared to speak {}, not HTTP: name another, or correct its appProtocol",
                target.port,
                target.service,
                protocol.as_str()
            ),
        }
    }
}

/// Where a route sends requests by a reference.
///
/// # Errors
/// It leads nowhere, or may not: the standard has such requests answered 500.
pub fn backend<'d>(
    docs: &'d impl Documents,
    route: &Route,
    target: &BackendTarget,
) -> Result<(&'d Service, &'d ServicePort), Unresolved> {
    let (name, from) = (&target.service, &route.name.namespace);
    // First: who may not refer to a Service is not told whether there is one.
    let is_allowed = name.namespace == *from
        || docs
            .grants_of(&name.namespace)
            .any(|grant| grant.allows(route.kind, from, name));
    if !is_allowed {
        return Err(Unresolved::RefNotPermitted {
            kind: route.kind,
            from: from.clone(),
            service: name.clone(),
        });
    }
    let service = docs
        .service(name)
        .ok_or_else(|| Unresolved::BackendNotFound(name.clone()))?;
    // A number may stand for two ports, one of them of UDP.
    let of_number = || service.ports.iter().filter(|port| port.port == target.port);
    if let Some(port) = of_number().find(|port| takes_requests(port.protocol)) {
        return Ok((service, port));
    }
    Err(match of_number().next() {
        Some(port) => Unresolved::UnsupportedProtocol(target.clone(), port.protocol),
        None => Unresolved::PortNotFound(target.clone()),
    })
}

/// What policies say of a port, with what holds where none says anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Effective {
    /// Which endpoint gets a request.
    pub load_balancing: LoadBalancing,
    /// Which requests are sent again.
    pub retries: Retries,
    /// How many there may be.
    pub limits: Limits,
    /// Which endpoints are left alone for a while.
    pub outlier_ejection: OutlierEjection,
    /// How long they may take.
    pub timeouts: Timeouts,
    /// Faults made on purpose.
    pub faults: Vec<Fault>,
    /// The policy of each section that one says, by the section's name in a document.
    pub sources: BTreeMap<&'static str, Name>,
}

/// What holds for a port of a Service. Each section is that of the port's policy if it has it, else that of the
/// Service's, else the default; a policy that [loses](TrafficPolicy) its target to an older one counts for nothing.
pub fn policy(docs: &impl Documents, service: &Name, port: &ServicePort) -> Effective {
    let of_port = port
        .name
        .as_ref()
        .and_then(|section| winner(docs, service, Some(section)));
    let of_service = winner(docs, service, None);
    let in_order = || of_port.into_iter().chain(of_service);
    let mut sources = BTreeMap::new();
    macro_rules! section {
        ($field:ident, $name:literal) => {{
            let said = in_order().find_map(|policy| Some((policy, policy.sections.$field.clone()?)));
            said.map(|(policy, section)| {
                sources.insert($name, policy.name.clone());
                section
            })
            .unwrap_or_default()
        }};
    }
    Effective {
        load_balancing: section!(load_balancing, "loadBalancing"),
        retries: section!(retries, "retries"),
        limits: section!(limits, "limits"),
        outlier_ejection: section!(outlier_ejection, "outlierEjection"),
        timeouts: section!(timeouts, "timeouts"),
        faults: section!(faults, "faults"),
        sources,
    }
}

/// Of the policies with exactly this target the one that holds: the oldest.
fn winner<'d>(
    docs: &'d impl Documents,
    service: &Name,
    section: Option<&DnsLabel>,
) -> Option<&'d TrafficPolicy> {
    docs.policies_of(service)
        .filter(|policy| {
            policy.targets.iter().any(|target| {
                target.section.as_ref() == section && target_service(policy, target) == *service
            })
        })
        .min_by(|one, other| by_age((one.created, &one.name), (other.created, &other.name)))
}

/// The Service of a target, which is of the policy's namespace.
pub(crate) fn target_service(policy: &TrafficPolicy, target: &PolicyTarget) -> Name {
    Name {
        namespace: policy.name.namespace.clone(),
        name: target.service.clone().into(),
    }
}

/// Whether requests for a port that is declared so can be told apart: it is not declared to be something else than
/// HTTP.
fn takes_requests(protocol: AppProtocol) -> bool {
    protocol.is_http() || protocol == AppProtocol::Detect
}

/// Whether a parent is this port.
fn selects(parent: &ParentRef, service: &Service, port: &ServicePort) -> bool {
    parent.service == service.name
        && parent.port.is_none_or(|number| number == port.port)
        && (parent.section.is_none() || parent.section == port.name)
}

/// The standard's order of two documents that are otherwise alike: the older first, one that does not say its age
/// last, then by the text NAMESPACE/NAME.
fn by_age(one: (Option<i64>, &Name), other: (Option<i64>, &Name)) -> Ordering {
    let age = |created: Option<i64>| (created.is_none(), created);
    age(one.0)
        .cmp(&age(other.0))
        .then_with(|| text(one.1).cmp(text(other.1)))
}

/// The bytes of NAMESPACE/NAME. It is not the order of the two apart: `a-b/c` is before `a/c`.
fn text(name: &Name) -> impl Iterator<Item = u8> + '_ {
    name.namespace.bytes().chain([b'/']).chain(name.name.bytes())
}

/// Adds a document, of which the parts come one after the other, once.
fn push<'m, T>(list: &mut Vec<&'m T>, document: &'m T) {
    if !list.last().is_some_and(|last| std::ptr::eq(*last, document)) {
        list.push(document);
    }
}
