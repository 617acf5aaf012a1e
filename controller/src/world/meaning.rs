//! What of a document decides who is sent what.

use std::{collections::BTreeSet, net::IpAddr};

use weft_proto::{
    kinds::{DocumentKey, Kind},
    model::{
        ExternalService, ReferenceGrant, Resolution, Route, RouteKind, Service, TrafficPolicy, Workload,
        policy::RateScope, route::Filter,
    },
    names::{DnsLabel, Labels},
};

/// What of a document decides who is sent what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Every proxy has it.
    MeshConfig,
    /// Whoever asks for its name or address has it, and the workloads that it selects.
    Service {
        /// The cluster IP, if there is one.
        address: Option<IpAddr>,
        /// The labels of its workloads.
        selector: Labels,
    },
    /// Whoever asks for its address has it, and whoever has a service that selects it.
    Workload {
        /// Its address.
        address: IpAddr,
        /// Its labels.
        labels: Labels,
    },
    /// Whoever asks for one of its hosts or addresses has it.
    ExternalService {
        /// In lower case.
        hosts: Vec<String>,
        /// Where they lead, as far as that is known.
        addresses: Vec<IpAddr>,
    },
    /// Whoever asks for a parent has it, and the Services that it sends requests to. See [`is_for`].
    Route {
        /// The Services whose requests it is for, there or not.
        parents: BTreeSet<DocumentKey>,
        /// The Services that it sends requests or copies of them to, there or not.
        backends: BTreeSet<DocumentKey>,
    },
    /// Whoever has a target has it.
    Policy {
        /// The Services that it is for, there or not.
        targets: BTreeSet<DocumentKey>,
        /// Whether the sidecars of their workloads have something to do for it.
        is_at_server: bool,
    },
    /// Whoever has a route that it is for, with a backend in its namespace, has it.
    Grant {
        /// Of which kind and namespace the routes are.
        from: Vec<(Kind, DnsLabel)>,
    },
}

/// Whether a route is for requests for a Service, one of its parents, from the clients of a namespace: from all if it
/// is its producer's, that is of its namespace, and else from those of its own.
pub fn is_for(route: &DocumentKey, service: &DocumentKey, namespace: &str) -> bool {
    audience(route, service).is_none_or(|audience| audience == namespace)
}

/// The namespace of the clients that a route is for at one of its parents; `None`: all.
pub(super) fn audience<'a>(route: &'a DocumentKey, service: &DocumentKey) -> Option<&'a str> {
    (route.namespace() != service.namespace()).then(|| route.namespace())
}

impl From<&Service> for Meaning {
    fn from(service: &Service) -> Self {
        Self::Service {
            address: service.cluster_ip.address(),
            selector: service.selector.clone(),
        }
    }
}

impl From<&Workload> for Meaning {
    fn from(workload: &Workload) -> Self {
        Self::Workload {
            address: workload.address,
            labels: workload.labels.clone(),
        }
    }
}

impl From<&ExternalService> for Meaning {
    fn from(external: &ExternalService) -> Self {
        Self::ExternalService {
            hosts: external
                .hosts
                .iter()
                .map(|host| host.as_str().to_owned())
                .collect(),
            addresses: match &external.resolution {
                Resolution::Dns => Vec::new(),
                Resolution::Static(addresses) => addresses.clone(),
            },
        }
    }
}

impl From<&Route> for Meaning {
    fn from(route: &Route) -> Self {
        let of_rule = route.rules.iter().flat_map(|rule| {
            let backends = rule.backends.iter();
            let filters = backends
                .clone()
                .flat_map(|backend| &backend.filters)
                .chain(&rule.filters);
            let mirrors = filters.filter_map(|filter| match filter {
                Filter::Mirror(mirror) => Some(&mirror.target),
                _ => None,
            });
            backends.map(|backend| &backend.target).chain(mirrors)
        });
        Self::Route {
            parents: route
                .parents
                .iter()
                .map(|parent| DocumentKey::of(Kind::Service, &parent.service))
                .collect(),
            backends: of_rule
                .map(|target| DocumentKey::of(Kind::Service, &target.service))
                .collect(),
        }
    }
}

impl From<&TrafficPolicy> for Meaning {
    fn from(policy: &TrafficPolicy) -> Self {
        let rates = policy.sections.limits.iter().flat_map(|limits| &limits.rates);
        Self::Policy {
            targets: policy
                .targets
                .iter()
                .filter_map(|target| {
                    DocumentKey::new(Kind::Service, &policy.name.namespace, &target.service).ok()
                })
                .collect(),
            is_at_server: rates
                .into_iter()
                .any(|rate| matches!(rate.scope, RateScope::Endpoint | RateScope::Caller)),
        }
    }
}

impl From<&ReferenceGrant> for Meaning {
    fn from(grant: &ReferenceGrant) -> Self {
        let from = grant.from.iter().map(|from| {
            let kind = match from.kind {
                RouteKind::Http => Kind::HttpRoute,
                RouteKind::Grpc => Kind::GrpcRoute,
            };
            (kind, from.namespace.clone())
        });
        Self::Grant { from: from.collect() }
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::{
        Source,
        parse::{Model, parse_document},
    };

    use super::*;

    fn model(text: &str) -> Model {
        parse_document(&Source::new("a.yaml", text)).unwrap().model
    }

    fn services(names: &[&str]) -> BTreeSet<DocumentKey> {
        names
            .iter()
            .map(|name| format!("Service {name}").parse().unwrap())
            .collect()
    }

    #[test]
    fn a_route_means_its_parents_and_all_that_it_sends_requests_or_copies_to() {
        let text = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs:
  - {group: '', kind: Service, name: web}
  - {group: '', kind: Service, name: web, namespace: bank}
  rules:
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}]
    backendRefs:
    - {name: v1, port: 80}
    - {name: v2, namespace: bank, port: 80, weight: 0}
  - backendRefs: [{name: v1, port: 81}]
";
        let Model::Route(route) = model(text) else {
            panic!()
        };
        let expected = Meaning::Route {
            parents: services(&["shop/web", "bank/web"]),
            backends: services(&["shop/shadow", "shop/v1", "bank/v2"]),
        };
        assert_eq!(Meaning::from(&route), expected);
    }

    #[test]
    fn a_policy_concerns_servers_if_it_has_rates_that_they_keep() {
        for (limits, expected) in [
            ("requests: 9", false),
            ("rates: [{requests: 9, per: 1s, by: Route}]", false),
            ("rates: [{requests: 9, per: 1s}]", true),
            ("rates: [{requests: 9, per: 1s, by: Caller}]", true),
        ] {
            let text = format!(
                "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: web, namespace: shop}}\nspec:\n  targetRefs: [{{group: '', kind: Service, name: web}}]\n  limits: {{{limits}}}\n"
            );
            let Model::TrafficPolicy(policy) = model(&text) else {
                panic!()
            };
            let expected = Meaning::Policy {
                targets: services(&["shop/web"]),
                is_at_server: expected,
            };
            assert_eq!(Meaning::from(&policy), expected, "{limits}");
        }
    }
}
