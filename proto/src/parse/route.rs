//! What `HTTPRoute` and `GRPCRoute` of `gateway.networking.k8s.io/v1` share: parents, hostnames, rules and backends.
//!
//! Limits and defaults are those of the standard's schemas, experimental channel, as far as they concern Services.

pub(super) mod filter;
pub(super) mod text;

use super::object::Metadata;
use super::{fields, grpc_route, http_route};
use crate::error::shown;
use crate::kinds::GATEWAY_GROUP;
use crate::model::Name;
use crate::model::route::{BackendRef, BackendTarget, Hostname, ParentRef, Route, RouteKind, RouteRule};
use crate::names::{DnsLabel, DnsName};
use crate::pattern::{MAX_COMPILED_BYTES, Pattern, PatternError};
use crate::reader::{Fields, Value};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;

const MAX_PARENTS: usize = 32;
const MAX_HOSTNAMES: usize = 16;
const MAX_RULES: usize = 16;
const MAX_BACKENDS: usize = 16;
/// Of all rules together.
const MAX_MATCHES: usize = 128;
/// Of a rule.
pub(super) const MAX_RULE_MATCHES: usize = 64;
/// Headers, or parameters, of a match.
pub(super) const MAX_FIELDS: usize = 16;
/// What the regular expressions of a route may take when they are compiled: about a hundred usual ones.
const MAX_PATTERN_MEMORY: usize = 1 << 20;
const MAX_WEIGHT: u32 = 1_000_000;

/// Why a rule may not have it: the same in both kinds.
pub(super) const NO_SESSIONS: &str = "session persistence is not supported: a TrafficPolicy with a consistent hash keeps clients at an endpoint";

/// `spec`.
pub(super) struct Spec {
    parents: Vec<ParentRef>,
    hostnames: Vec<Hostname>,
    rules: Vec<RouteRule>,
}

/// What the parts of one route share while it is read.
pub(super) struct Context<'c> {
    pub(super) kind: RouteKind,
    /// Where references lead that name no namespace.
    namespace: &'c DnsLabel,
    rule_names: RefCell<HashSet<DnsName>>,
    matches: Cell<usize>,
    pattern_memory: Cell<usize>,
}

/// Reads `spec` of a route in this namespace.
pub(super) fn spec(value: &Value<'_>, kind: RouteKind, namespace: &DnsLabel) -> Option<Spec> {
    let context = Context::new(kind, namespace);
    value.mapping(|fields| {
        let parents = fields.required("parentRefs", |value| context.parents(value));
        let hostnames = fields
            .optional("hostnames", |value| fields::list(value, MAX_HOSTNAMES, hostname))
            .unwrap_or_default();
        let rules = context.rules(fields);
        fields.refuse(
            "useDefaultGateways",
            "Gateways are not supported: a route is for the Services in its parentRefs",
        );
        Some(Spec {
            parents: parents?,
            hostnames,
            rules: rules?,
        })
    })
}

/// Puts a route together.
pub(super) fn route(kind: RouteKind, metadata: Metadata, spec: Spec) -> Route {
    Route {
        kind,
        name: metadata.name,
        created: metadata.created,
        parents: spec.parents,
        hostnames: spec.hostnames,
        rules: spec.rules,
    }
}

impl<'c> Context<'c> {
    /// Of a document of which nothing is read yet.
    pub(super) fn new(kind: RouteKind, namespace: &'c DnsLabel) -> Self {
        Self {
            kind,
            namespace,
            rule_names: RefCell::default(),
            matches: Cell::new(0),
            pattern_memory: Cell::new(0),
        }
    }
}

impl Context<'_> {
    fn parents(&self, value: &Value<'_>) -> Option<Vec<ParentRef>> {
        let mut seen: Vec<ParentRef> = Vec::new();
        let parents = fields::list(value, MAX_PARENTS, |value| {
            let parent = self.parent(value)?;
            let same = seen.iter().filter(|other| other.service == parent.service);
            for other in same {
                if *other == parent {
                    value.error(format_args!("{} is in the list already", parent.service));
                } else if other.port.is_some() != parent.port.is_some()
                    || other.section.is_some() != parent.section.is_some()
                {
                    value.error(format_args!(
                        "{} is in the list already: each entry for it needs a port, or each a sectionName, or each both",
                        parent.service
                    ));
                } else {
                    continue;
                }
                // One mistake is one error.
                break;
            }
            seen.push(parent.clone());
            Some(parent)
        })?;
        if parents.is_empty() {
            value.error("is empty: a route is for the requests of at least one Service");
        }
        Some(parents)
    }

    fn parent(&self, value: &Value<'_>) -> Option<ParentRef> {
        value.mapping(|fields| {
            // A parent that says nothing else is a Gateway.
            let is_service = read_kind(
                fields,
                GATEWAY_GROUP,
                "Gateway",
                "a route is for requests of Services",
            );
            let service = self.service(fields);
            let port = fields.optional("port", Value::port);
            let section = fields.optional("sectionName", |value| value.parse(DnsLabel::parse));
            is_service.then_some(())?;
            Some(ParentRef {
                service: service?,
                port,
                section,
            })
        })
    }

    /// `name` and `namespace` of a Service.
    fn service(&self, fields: &mut Fields<'_>) -> Option<Name> {
        let has_namespace = fields.has("namespace");
        let namespace = fields.optional("namespace", |value| value.parse(DnsLabel::parse));
        let name = fields.required("name", fields::service_name);
        let namespace = match has_namespace {
            true => namespace?,
            false => self.namespace.clone(),
        };
        Some(Name {
            namespace,
            name: name?.into(),
        })
    }

    /// `group`, `kind`, `name`, `namespace` and `port` of a backend.
    fn target(&self, fields: &mut Fields<'_>) -> Option<BackendTarget> {
        let is_service = read_kind(fields, "", "Service", "requests are sent to Services");
        let service = self.service(fields);
        let port = fields.required("port", Value::port);
        is_service.then_some(())?;
        Some(BackendTarget {
            service: service?,
            port: port?,
        })
    }

    /// What an `HTTPRoute` leaves out is the standard's default: everything, which nothing answers.
    fn rules(&self, fields: &mut Fields<'_>) -> Option<Vec<RouteRule>> {
        match self.kind {
            RouteKind::Http => {
                let rules = fields.optional("rules", |value| self.rule_list(value, http_route::rule));
                Some(rules.unwrap_or_else(|| vec![http_route::default_rule()]))
            }
            RouteKind::Grpc => fields.required("rules", |value| self.rule_list(value, grpc_route::rule)),
        }
    }

    fn rule_list(
        &self,
        value: &Value<'_>,
        rule: fn(&Value<'_>, &Self) -> Option<RouteRule>,
    ) -> Option<Vec<RouteRule>> {
        let rules = fields::list(value, MAX_RULES, |value| rule(value, self));
        let matches = self.matches.get();
        if matches > MAX_MATCHES {
            value.error(format_args!(
                "has {matches} matches in all, more than the {MAX_MATCHES} allowed"
            ));
        }
        let rules = rules?;
        if rules.is_empty() {
            value.error("is empty: a route has at least one rule");
        }
        Some(rules)
    }

    /// The name of a rule.
    pub(super) fn rule_name(&self, fields: &mut Fields<'_>) -> Option<DnsName> {
        fields.optional("name", |value| {
            let name = value.parse(DnsName::parse)?;
            if !self.rule_names.borrow_mut().insert(name.clone()) {
                value.error(format_args!("another rule is called {name} already"));
            }
            Some(name)
        })
    }

    /// One match more.
    pub(super) fn count_match(&self) {
        self.matches.set(self.matches.get() + 1);
    }

    /// A regular expression.
    pub(super) fn pattern(&self, value: &Value<'_>) -> Option<Pattern> {
        let before = self.pattern_memory.get();
        if before > MAX_PATTERN_MEMORY {
            // That was said, and one that is not compiled takes nothing.
            return None;
        }
        let pattern = value.parse(|text| match text {
            "" => Err("is empty: it would match what is empty alone".to_owned()),
            _ => Pattern::parse(text).map_err(|error| {
                // What could not be compiled cost as much.
                let memory = if error == PatternError::TooBig {
                    MAX_COMPILED_BYTES
                } else {
                    0
                };
                self.pattern_memory.set(before + memory);
                error.to_string()
            }),
        })?;
        let memory = before + pattern.memory();
        self.pattern_memory.set(memory);
        if memory > MAX_PATTERN_MEMORY {
            value.error("the regular expressions of this document take more than 1 MiB when compiled: make them simpler or fewer");
        }
        Some(pattern)
    }

    /// Where a rule sends requests. `has_one_prefix` is whether it has exactly one match, of a prefix.
    pub(super) fn backends(&self, fields: &mut Fields<'_>, has_one_prefix: bool) -> Vec<BackendRef> {
        let backends = fields.optional("backendRefs", |value| {
            let backends = fields::list(value, MAX_BACKENDS, |value| self.backend(value, has_one_prefix))?;
            if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
                value.error("no weight is above 0: the requests would go nowhere");
            }
            Some(backends)
        });
        backends.unwrap_or_default()
    }

    fn backend(&self, value: &Value<'_>, has_one_prefix: bool) -> Option<BackendRef> {
        value.mapping(|fields| {
            let target = self.target(fields);
            let has_weight = fields.has("weight");
            let weight = fields.optional("weight", |value| value.integer("a weight", 0..=MAX_WEIGHT));
            let filters = filter::filters(self, fields, has_one_prefix);
            Some(BackendRef {
                target: target?,
                // One that is wrong is not the default: it may be one of which the sum is 0.
                weight: if has_weight { weight? } else { 1 },
                filters,
            })
        })
    }
}

/// `group` and `kind`, which are these if they are left out. Whether they are a Service's; reports what is not.
pub(super) fn read_kind(fields: &mut Fields<'_>, group: &str, kind: &str, wanted: &str) -> bool {
    let (has_group, has_kind) = (fields.has("group"), fields.has("kind"));
    let read_group = fields.optional("group", |value| value.string().map(str::to_owned));
    let read_kind = fields.optional("kind", |value| value.string().map(str::to_owned));
    if (has_group && read_group.is_none()) || (has_kind && read_kind.is_none()) {
        return false;
    }
    let (group, kind) = (
        read_group.as_deref().unwrap_or(group),
        read_kind.as_deref().unwrap_or(kind),
    );
    let hint = format!("{wanted} (group: \"\", kind: Service)");
    if kind != "Service" {
        fields.error(
            "kind",
            format_args!("{} is not supported here: {hint}", shown(kind)),
        );
    } else if !group.is_empty() {
        fields.error(
            "group",
            format_args!("{} has no Service that is known here: {hint}", shown(group)),
        );
    }
    kind == "Service" && group.is_empty()
}

fn hostname(value: &Value<'_>) -> Option<Hostname> {
    let text = value.string()?;
    if text == "*" {
        value.error("* is every host: leave hostnames out");
        return None;
    }
    match text.strip_prefix("*.") {
        Some(parent) => value.parse(|_| text::host(parent)).map(Hostname::Wildcard),
        None => value.parse(text::host).map(Hostname::Exact),
    }
}
