//! The rules of a route in words: what matches, what is done, where it goes.

use weft_proto::model::{
    FieldMatch, Route, Share,
    route::{
        BackendRef, BackendTarget, Filter, GrpcMatch, PathChange, PathMatch, RouteMatch, RouteRule,
        ValueMatch,
    },
};

/// One line for each thing that matches, then what is done to it, then where it goes.
pub(super) fn lines(route: &Route) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, rule) in route.rules.iter().enumerate() {
        let name = rule
            .name
            .as_ref()
            .map(|name| format!(" ({name})"))
            .unwrap_or_default();
        lines.push(format!("Rule {index}{name}"));
        let matches = rule.matches.iter();
        lines.extend(matches.map(|one| format!("  if {}", matched(one))));
        lines.extend(
            rule.filters
                .iter()
                .map(|filter| format!("  {}", done(route, filter))),
        );
        lines.extend(limits(rule).map(|limit| format!("  {limit}")));
        lines.extend(
            destinations(route, rule)
                .into_iter()
                .map(|line| format!("  {line}")),
        );
    }
    lines
}

fn matched(one: &RouteMatch) -> String {
    let mut parts = Vec::new();
    match &one.path {
        Some(PathMatch::Exact(path)) => parts.push(format!("the path is {path}")),
        Some(PathMatch::Prefix(path)) if path == "/" => {}
        Some(PathMatch::Prefix(path)) => parts.push(format!("the path is {path} or below it")),
        Some(PathMatch::Regex(pattern)) => parts.push(format!("the path matches {pattern}")),
        None => {}
    }
    if let Some(GrpcMatch { service, method, .. }) = &one.grpc {
        let services = service
            .iter()
            .map(|service| format!("the gRPC service {}", value(service)));
        let methods = method
            .iter()
            .map(|method| format!("the gRPC method {}", value(method)));
        parts.extend(services.chain(methods));
    }
    parts.extend(one.method.map(|method| format!("the method is {method}")));
    let fields = |what: &'static str, fields: &[FieldMatch]| -> Vec<String> {
        let field = |field: &FieldMatch| format!("the {what} {} {}", field.name, value(&field.value));
        fields.iter().map(field).collect()
    };
    parts.extend(fields("header", &one.headers));
    parts.extend(fields("query parameter", &one.query));
    match parts.is_empty() {
        true => "anything".to_owned(),
        false => parts.join(", "),
    }
}

fn value(value: &ValueMatch) -> String {
    match value {
        ValueMatch::Exact(text) => format!("is {text}"),
        ValueMatch::Regex(pattern) => format!("matches {pattern}"),
    }
}

fn done(route: &Route, filter: &Filter) -> String {
    let names = |change: &weft_proto::model::route::HeaderChange| {
        let set = change.set.iter().map(|(name, value)| format!("{name}={value}"));
        let add = change.add.iter().map(|(name, value)| format!("+{name}={value}"));
        let remove = change.remove.iter().map(|name| format!("-{name}"));
        set.chain(add).chain(remove).collect::<Vec<_>>().join(", ")
    };
    match filter {
        Filter::RequestHeaders(change) => format!("with request headers {}", names(change)),
        Filter::ResponseHeaders(change) => format!("with answer headers {}", names(change)),
        Filter::Rewrite(rewrite) => {
            let host = rewrite.hostname.as_ref().map(|host| format!("host {host}"));
            let path = rewrite.path.as_ref().map(path_change);
            format!("rewritten to {}", both(host, path))
        }
        Filter::Redirect(redirect) => {
            let scheme = redirect.scheme.map(|scheme| format!("{scheme}://"));
            let port = redirect.port.map(|port| format!("port {port}"));
            let host = redirect.hostname.as_ref().map(ToString::to_string);
            let target = both(scheme, both_of(host, port));
            let path = redirect.path.as_ref().map(path_change);
            format!(
                "-> answer {} to {}",
                redirect.status,
                both(Some(target).filter(|text| !text.is_empty()), path)
            )
        }
        Filter::Mirror(mirror) => {
            let Share {
                numerator,
                denominator,
                ..
            } = mirror.share;
            let share = match numerator == denominator {
                true => "a copy".to_owned(),
                false => format!("a copy of {numerator} in {denominator}"),
            };
            format!("{share} to {}", target(route, &mirror.target))
        }
    }
}

fn path_change(change: &PathChange) -> String {
    match change {
        PathChange::Full(path) => format!("path {path}"),
        PathChange::Prefix(path) => format!("path prefix {path}"),
    }
}

fn both(one: Option<String>, other: Option<String>) -> String {
    both_of(one, other).unwrap_or_default()
}

fn both_of(one: Option<String>, other: Option<String>) -> Option<String> {
    let parts: Vec<String> = one.into_iter().chain(other).collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

fn limits(rule: &RouteRule) -> impl Iterator<Item = String> {
    let request = rule.request_timeout.map(|time| format!("within {time:?}"));
    let backend = rule
        .backend_timeout
        .map(|time| format!("each try within {time:?}"));
    let attempts = rule.retry.as_ref().and_then(|retry| retry.attempts);
    let retry = attempts.map(|attempts| format!("with up to {attempts} tries more"));
    [request, backend, retry].into_iter().flatten()
}

fn destinations(route: &Route, rule: &RouteRule) -> Vec<String> {
    let is_redirect = rule
        .filters
        .iter()
        .any(|filter| matches!(filter, Filter::Redirect(_)));
    if rule.backends.is_empty() && !is_redirect {
        return vec!["-> answer 500: there is no backend".to_owned()];
    }
    let total: u64 = rule
        .backends
        .iter()
        .map(|backend| u64::from(backend.weight))
        .sum();
    let mut lines = Vec::new();
    for backend in &rule.backends {
        lines.push(format!(
            "-> {}{}",
            target(route, &backend.target),
            share(backend, total)
        ));
        lines.extend(
            backend
                .filters
                .iter()
                .map(|filter| format!("     {}", done(route, filter))),
        );
    }
    lines
}

/// Nothing for the only one.
fn share(backend: &BackendRef, total: u64) -> String {
    let weight = u64::from(backend.weight);
    match total {
        total if total == weight => String::new(),
        total => format!(
            "  {:.1}% (weight {weight})",
            weight as f64 * 100.0 / total.max(1) as f64
        ),
    }
}

/// `web:80`, or `bank/web:80` in another namespace than the route's.
fn target(route: &Route, target: &BackendTarget) -> String {
    let name = &target.service;
    match name.namespace == route.name.namespace {
        true => format!("{}:{}", name.name, target.port),
        false => format!("{}/{}:{}", name.namespace, name.name, target.port),
    }
}
