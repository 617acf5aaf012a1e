//! Routes and requests for tests.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};
use weft_proto::{
    model::{
        AppProtocol, Name,
        route::{
            BackendRef, BackendTarget, FieldMatch, GrpcMatch, Hostname, PathMatch, Route, RouteKind,
            RouteMatch, RouteRule, ValueMatch,
        },
    },
    names::{DnsLabel, DnsName},
    pattern::Pattern,
};

use super::{Asked, Table, Unresolved};
use crate::snapshot::Backend;

/// `NAMESPACE/NAME`.
pub(crate) fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap();
    Name {
        namespace: DnsLabel::parse(namespace).unwrap(),
        name: DnsName::parse(name).unwrap(),
    }
}

pub(crate) fn target(service: &str) -> BackendTarget {
    BackendTarget::new(name(service), 80)
}

pub(crate) fn backends(weights: &[(&str, u32)]) -> Vec<BackendRef> {
    weights
        .iter()
        .map(|(service, weight)| BackendRef::new(target(service), *weight))
        .collect()
}

/// One without endpoints.
pub(crate) fn backend(name: &str) -> Arc<Backend> {
    Arc::new(Backend {
        policy: crate::policy::Policy::new(
            weft_proto::attach::Effective::default(),
            AppProtocol::Http,
            &[],
            None,
            Arc::default(),
            std::time::Instant::now(),
        ),
        name: name.into(),
        port: 80,
        protocol: AppProtocol::Http,
        endpoints: Vec::new(),
        unmeshed_denied: 0,
        unready: 0,
    })
}

/// A route whose rules have no backends.
pub(crate) fn route(kind: RouteKind, text: &str, rules: Vec<Vec<RouteMatch>>) -> Route {
    let rules = rules
        .into_iter()
        .map(|matches| RouteRule::new(matches, Vec::new()));
    Route::new(kind, name(text), Vec::new(), rules.collect())
}

/// `a.example` or `*.example`.
pub(crate) fn hostname(text: &str) -> Hostname {
    match text.strip_prefix("*.") {
        Some(rest) => Hostname::Wildcard(DnsName::parse(rest).unwrap()),
        None => Hostname::Exact(DnsName::parse(text).unwrap()),
    }
}

/// `=value` is exact, `~value` a pattern.
pub(crate) fn value(text: &str) -> ValueMatch {
    match text.split_at(1) {
        ("=", exact) => ValueMatch::Exact(exact.to_owned()),
        ("~", pattern) => ValueMatch::Regex(Pattern::parse(pattern).unwrap()),
        _ => panic!("{text}"),
    }
}

/// As [`value`], and without a sign a prefix.
pub(crate) fn path(text: &str) -> PathMatch {
    match text.split_at(1) {
        ("=", exact) => PathMatch::Exact(exact.to_owned()),
        ("~", pattern) => PathMatch::Regex(Pattern::parse(pattern).unwrap()),
        _ => PathMatch::Prefix(text.to_owned()),
    }
}

/// Of a path, a method, headers and parameters; each of the last two as `name=exact` or `name~pattern`.
pub(crate) fn http(text: &str, method: Option<&'static str>, headers: &[&str], query: &[&str]) -> RouteMatch {
    let mut made = RouteMatch::default();
    made.path = Some(path(text));
    made.method = method;
    made.headers = fields(headers);
    made.query = fields(query);
    made
}

/// Of a service, a method and headers.
pub(crate) fn grpc(service: Option<&str>, method: Option<&str>, headers: &[&str]) -> RouteMatch {
    let mut made = RouteMatch::default();
    if service.is_some() || method.is_some() {
        made.grpc = Some(GrpcMatch::new(service.map(value), method.map(value)));
    }
    made.headers = fields(headers);
    made
}

fn fields(texts: &[&str]) -> Vec<FieldMatch> {
    texts
        .iter()
        .map(|text| {
            let (name, wanted) = text.split_at(text.find(['=', '~']).unwrap());
            FieldMatch::new(name.to_owned(), value(wanted))
        })
        .collect()
}

/// A table whose references lead nowhere.
pub(crate) fn table(routes: &[Route]) -> Table {
    let routes: Vec<&Route> = routes.iter().collect();
    Table::compile(&routes, &mut |_, _| {
        Err(Unresolved {
            reason: "none",
            sentence: "this is a test".to_owned(),
        })
    })
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Get {
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
}

impl Get {
    /// `HOST/PATH?QUERY`, with headers as `name=value`.
    pub(crate) fn new(method: &str, target: &str, headers: &[&str]) -> Self {
        let (target, query) = match target.split_once('?') {
            Some((target, query)) => (target, Some(query.to_owned())),
            None => (target, None),
        };
        let (host, path) = target.split_at(target.find(['/', '*']).unwrap());
        let mut map = HeaderMap::new();
        for header in headers {
            let (name, value) = header.split_once('=').unwrap();
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, value.parse().unwrap());
        }
        Self {
            host: host.to_owned(),
            path: path.to_owned(),
            query,
            method: method.parse().unwrap(),
            headers: map,
        }
    }

    pub(crate) fn asked(&self) -> Asked<'_> {
        Asked {
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &self.headers,
        }
    }
}
