//! The documents of routes and grants.

use super::{Fields, list, named, texts};
use crate::document::Document;
use crate::kinds::{GATEWAY_GROUP, Kind};
use crate::model::route::{
    BackendRef, BackendTarget, Filter, GrantFrom, GrpcMatch, HeaderChange, Hostname, Mirror, ParentRef,
    PathChange, PathMatch, Redirect, Rewrite, RouteMatch, RouteRetry, RouteRule, ValueMatch,
};
use crate::model::{FieldMatch, Name, ReferenceGrant, Route, RouteKind, Share};
use crate::names::DnsName;
use crate::parse::moment;
use serde_json::Value;

/// The document of a route.
pub fn route(route: &Route) -> Document {
    let kind = match route.kind {
        RouteKind::Http => Kind::HttpRoute,
        RouteKind::Grpc => Kind::GrpcRoute,
    };
    let mut metadata = Fields::default();
    metadata.text_if(
        "creationTimestamp",
        route.created.and_then(moment::to_text).as_deref(),
    );
    let mut spec = Fields::default();
    spec.put("parentRefs", list(&route.parents, parent));
    let hostnames = route.hostnames.iter().map(|hostname| match hostname {
        Hostname::Exact(name) => Value::from(name.as_str()),
        Hostname::Wildcard(parent) => Value::from(format!("*.{parent}")),
    });
    spec.list_if("hostnames", hostnames.collect());
    spec.put("rules", list(&route.rules, |of| rule(of, route.kind)));
    named(kind, &route.name, metadata, spec)
}

/// The document of a grant.
pub fn reference_grant(grant: &ReferenceGrant) -> Document {
    let mut spec = Fields::default();
    spec.put("from", list(&grant.from, grant_from));
    spec.put("to", list(&grant.to, |name| grant_to(name.as_ref())));
    named(Kind::ReferenceGrant, &grant.name, Fields::default(), spec)
}

fn grant_from(from: &GrantFrom) -> Value {
    let mut fields = Fields::default();
    fields.text("group", GATEWAY_GROUP);
    fields.text("kind", from.kind.as_str());
    fields.text("namespace", &from.namespace);
    fields.into_value()
}

fn grant_to(name: Option<&DnsName>) -> Value {
    let mut fields = Fields::default();
    fields.text("group", "");
    fields.text("kind", "Service");
    fields.text_if("name", name.map(DnsName::as_str));
    fields.into_value()
}

fn parent(parent: &ParentRef) -> Value {
    let mut fields = Fields::default();
    // Left out, they would be those of a Gateway.
    fields.text("group", "");
    fields.text("kind", "Service");
    fields.service(&parent.service);
    if let Some(port) = parent.port {
        fields.put("port", port);
    }
    fields.text_if("sectionName", parent.section.as_deref());
    fields.into_value()
}

fn rule(rule: &RouteRule, kind: RouteKind) -> Value {
    let mut fields = Fields::default();
    fields.text_if("name", rule.name.as_deref());
    fields.put(
        "matches",
        list(&rule.matches, |found| match kind {
            RouteKind::Http => http_match(found),
            RouteKind::Grpc => grpc_match(found),
        }),
    );
    fields.list_if("filters", list(&rule.filters, filter));
    fields.list_if("backendRefs", list(&rule.backends, backend));
    if rule.request_timeout.is_some() || rule.backend_timeout.is_some() {
        let mut timeouts = Fields::default();
        timeouts.duration_if("request", rule.request_timeout);
        timeouts.duration_if("backendRequest", rule.backend_timeout);
        fields.put("timeouts", timeouts.into_value());
    }
    if let Some(found) = &rule.retry {
        fields.put("retry", retry(found));
    }
    fields.into_value()
}

fn http_match(found: &RouteMatch) -> Value {
    let mut fields = Fields::default();
    if let Some(path) = &found.path {
        let (word, text) = match path {
            PathMatch::Exact(text) => ("Exact", text.as_str()),
            PathMatch::Prefix(text) => ("PathPrefix", text.as_str()),
            PathMatch::Regex(pattern) => ("RegularExpression", pattern.as_str()),
        };
        let mut path = Fields::default();
        path.text("type", word);
        path.text("value", text);
        fields.put("path", path.into_value());
    }
    fields.text_if("method", found.method);
    fields.list_if("headers", list(&found.headers, field_match));
    fields.list_if("queryParams", list(&found.query, field_match));
    fields.into_value()
}

fn grpc_match(found: &RouteMatch) -> Value {
    let mut fields = Fields::default();
    if let Some(GrpcMatch { service, method }) = &found.grpc {
        let mut call = Fields::default();
        // Both are compared in the same way.
        for (name, value) in [("service", service), ("method", method)] {
            if let Some(value) = value {
                let (word, text) = words(value);
                call.text("type", word);
                call.text(name, text);
            }
        }
        fields.put("method", call.into_value());
    }
    fields.list_if("headers", list(&found.headers, field_match));
    fields.into_value()
}

pub(super) fn field_match(found: &FieldMatch) -> Value {
    let (word, text) = words(&found.value);
    let mut fields = Fields::default();
    fields.text("name", &found.name);
    fields.text("type", word);
    fields.text("value", text);
    fields.into_value()
}

fn words(value: &ValueMatch) -> (&'static str, &str) {
    match value {
        ValueMatch::Exact(text) => ("Exact", text),
        ValueMatch::Regex(pattern) => ("RegularExpression", pattern.as_str()),
    }
}

fn filter(filter: &Filter) -> Value {
    let (word, name, value) = match filter {
        Filter::RequestHeaders(change) => (
            "RequestHeaderModifier",
            "requestHeaderModifier",
            header_change(change),
        ),
        Filter::ResponseHeaders(change) => (
            "ResponseHeaderModifier",
            "responseHeaderModifier",
            header_change(change),
        ),
        Filter::Rewrite(found) => ("URLRewrite", "urlRewrite", rewrite(found)),
        Filter::Redirect(found) => ("RequestRedirect", "requestRedirect", redirect(found)),
        Filter::Mirror(found) => ("RequestMirror", "requestMirror", mirror(found)),
    };
    let mut fields = Fields::default();
    fields.text("type", word);
    fields.put(name, value);
    fields.into_value()
}

fn header_change(change: &HeaderChange) -> Value {
    let headers = |pairs: &[(String, String)]| {
        list(pairs, |(name, value)| {
            let mut fields = Fields::default();
            fields.text("name", name);
            fields.text("value", value);
            fields.into_value()
        })
    };
    let mut fields = Fields::default();
    fields.list_if("set", headers(&change.set));
    fields.list_if("add", headers(&change.add));
    fields.list_if("remove", texts(&change.remove));
    fields.into_value()
}

fn rewrite(rewrite: &Rewrite) -> Value {
    let mut fields = Fields::default();
    fields.text_if("hostname", rewrite.hostname.as_deref());
    fields.path_if(rewrite.path.as_ref());
    fields.into_value()
}

fn redirect(redirect: &Redirect) -> Value {
    let mut fields = Fields::default();
    fields.text_if("scheme", redirect.scheme);
    fields.text_if("hostname", redirect.hostname.as_deref());
    if let Some(port) = redirect.port {
        fields.put("port", port);
    }
    fields.path_if(redirect.path.as_ref());
    fields.put("statusCode", redirect.status);
    fields.into_value()
}

fn mirror(mirror: &Mirror) -> Value {
    let mut fields = Fields::default();
    fields.put("backendRef", target(&mirror.target).into_value());
    let Share {
        numerator,
        denominator,
    } = mirror.share;
    let mut fraction = Fields::default();
    fraction.put("numerator", numerator);
    fraction.put("denominator", denominator);
    fields.put("fraction", fraction.into_value());
    fields.into_value()
}

fn backend(backend: &BackendRef) -> Value {
    let mut fields = target(&backend.target);
    fields.put("weight", backend.weight);
    fields.list_if("filters", list(&backend.filters, filter));
    fields.into_value()
}

fn target(target: &BackendTarget) -> Fields {
    let mut fields = Fields::default();
    fields.service(&target.service);
    fields.put("port", target.port);
    fields
}

fn retry(retry: &RouteRetry) -> Value {
    let mut fields = Fields::default();
    fields.list_if("codes", list(&retry.codes, |code| Value::from(*code)));
    if let Some(attempts) = retry.attempts {
        fields.put("attempts", attempts);
    }
    fields.duration_if("backoff", retry.backoff);
    fields.into_value()
}

impl Fields {
    /// With its namespace: a document that is moved to another one still means the same Service.
    fn service(&mut self, Name { namespace, name }: &Name) {
        self.text("namespace", namespace);
        self.text("name", name);
    }

    fn path_if(&mut self, change: Option<&PathChange>) {
        let (word, name, text) = match change {
            Some(PathChange::Full(text)) => ("ReplaceFullPath", "replaceFullPath", text),
            Some(PathChange::Prefix(text)) => ("ReplacePrefixMatch", "replacePrefixMatch", text),
            None => return,
        };
        let mut path = Fields::default();
        path.text("type", word);
        path.text(name, text);
        self.put("path", path.into_value());
    }
}
