//! Which routes and policies apply where.

use crate::model::policy::{Fault, Limits, LoadBalancing, OutlierEjection, Retries, Sections, Timeouts};
use crate::model::route::BackendTarget;
use crate::model::{Mesh, Name, Route, RouteKind, Service, ServicePort, TrafficPolicy};
use std::collections::BTreeMap;

/// The sections in force for a port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    /// Which endpoint gets a request.
    pub load_balancing: LoadBalancing,
    /// Which requests are sent again.
    pub retries: Retries,
    /// How many there may be.
    pub limits: Limits,
    /// Which endpoints are left alone.
    pub outlier_ejection: OutlierEjection,
    /// How long they may take.
    pub timeouts: Timeouts,
    /// Faults made on purpose.
    pub faults: Vec<Fault>,
    /// Which policy a section is from.
    pub sources: BTreeMap<&'static str, Name>,
}

/// Why a reference leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// No such Service, or no such port of it.
    #[error("there is no Service {0} with port {1}")]
    BackendNotFound(Name, u16),
    /// No grant allows it.
    #[error("no ReferenceGrant in {} lets {} of {} send requests to {}", .service.namespace, .kind.as_str(), .from, .service)]
    RefNotPermitted {
        /// The Service.
        service: Name,
        /// Of the route.
        kind: RouteKind,
        /// The route's namespace.
        from: String,
    },
}

/// Routes that apply to clients of a namespace.
pub fn routes<'d>(
    mesh: &'d Mesh,
    service: &Service,
    port: &ServicePort,
    client_namespace: &str,
) -> Vec<&'d Route> {
    let attached = |route: &&Route| {
        route.parents.iter().any(|parent| {
            parent.service == service.name
                && parent.port.is_none_or(|number| number == port.port)
                && (parent.section.is_none() || parent.section == port.name)
        })
    };
    let all: Vec<&Route> = mesh.routes.iter().filter(attached).collect();
    let of = |namespace: &str| -> Vec<&'d Route> {
        let in_namespace = all
            .iter()
            .copied()
            .filter(|route| &*route.name.namespace == namespace);
        in_namespace.collect()
    };
    let consumer = match client_namespace == &*service.name.namespace {
        true => Vec::new(),
        false => of(client_namespace),
    };
    let mut group = match consumer.is_empty() {
        true => of(&service.name.namespace),
        false => consumer,
    };
    if group.iter().any(|route| route.kind == RouteKind::Grpc) {
        group.retain(|route| route.kind == RouteKind::Grpc);
    }
    group.sort_by_key(|route| (route.created.is_none(), route.created, route.name.to_string()));
    group
}

/// Where a reference leads.
pub fn backend<'d>(
    mesh: &'d Mesh,
    route: &Route,
    target: &BackendTarget,
) -> Result<(&'d Service, &'d ServicePort), Unresolved> {
    let namespace = &route.name.namespace;
    if target.service.namespace != *namespace
        && !mesh
            .reference_grants
            .iter()
            .any(|grant| grant.allows(route.kind, namespace, &target.service))
    {
        return Err(Unresolved::RefNotPermitted {
            service: target.service.clone(),
            kind: route.kind,
            from: namespace.to_string(),
        });
    }
    let service = mesh
        .services
        .iter()
        .find(|service| service.name == target.service);
    service
        .and_then(|service| {
            let port = service.ports.iter().find(|port| port.port == target.port)?;
            Some((service, port))
        })
        .ok_or_else(|| Unresolved::BackendNotFound(target.service.clone(), target.port))
}

/// The sections in force.
pub fn policy(mesh: &Mesh, service: &Name, port: &ServicePort) -> Effective {
    let mut effective = Effective::default();
    for section in [None, port.name.as_ref()] {
        let is_it = |policy: &&TrafficPolicy| {
            policy.name.namespace == service.namespace
                && policy
                    .targets
                    .iter()
                    .any(|target| *target.service == *service.name && target.section.as_ref() == section)
        };
        let policies = mesh.traffic_policies.iter().filter(is_it);
        if let Some(policy) =
            policies.min_by_key(|policy| (policy.created.is_none(), policy.created, policy.name.to_string()))
        {
            effective.take(&policy.sections, &policy.name);
        }
    }
    effective
}

impl Effective {
    fn take(&mut self, sections: &Sections, name: &Name) {
        macro_rules! take {
            ($($field:ident = $label:literal;)*) => {$(
                if let Some(section) = &sections.$field {
                    self.$field = section.clone();
                    self.sources.insert($label, name.clone());
                }
            )*};
        }
        take! {
            load_balancing = "loadBalancing";
            retries = "retries";
            limits = "limits";
            outlier_ejection = "outlierEjection";
            timeouts = "timeouts";
            faults = "faults";
        }
    }
}

impl Unresolved {
    /// As the standard has it for ResolvedRefs.
    pub fn reason(&self) -> &'static str {
        match self {
            Unresolved::BackendNotFound(..) => "BackendNotFound",
            Unresolved::RefNotPermitted { .. } => "RefNotPermitted",
        }
    }
}
