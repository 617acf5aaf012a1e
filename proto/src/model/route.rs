//! `gateway.networking.k8s.io` routes of Services: how requests for one are told apart, and where each goes.

use super::Name;
use crate::names::{DnsLabel, DnsName};
use crate::pattern::Pattern;
use std::time::Duration;

/// `HTTPRoute` or `GRPCRoute` of `gateway.networking.k8s.io/v1`, attached to Services.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// Which of the two.
    pub kind: RouteKind,
    /// Its name.
    pub name: Name,
    /// When it was made, in seconds since 1970: of two routes that match a request alike the older one has it. `None`
    /// if the document does not say, which counts as younger than any that says.
    pub created: Option<i64>,
    /// The Services whose requests it is for. Never empty.
    pub parents: Vec<ParentRef>,
    /// The hosts for which it is; empty: any.
    pub hostnames: Vec<Hostname>,
    /// Never empty.
    pub rules: Vec<RouteRule>,
}

impl Route {
    /// One for any host, that does not say when it was made.
    pub fn new(kind: RouteKind, name: Name, parents: Vec<ParentRef>, rules: Vec<RouteRule>) -> Self {
        Self {
            kind,
            name,
            created: None,
            parents,
            hostnames: Vec::new(),
            rules,
        }
    }
}

/// Which requests a route can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// `HTTPRoute`: by path, method, headers and query.
    Http,
    /// `GRPCRoute`: by gRPC service and method, and headers.
    Grpc,
}

impl RouteKind {
    /// The kind as a document has it.
    pub fn as_str(self) -> &'static str {
        match self {
            RouteKind::Http => "HTTPRoute",
            RouteKind::Grpc => "GRPCRoute",
        }
    }
}

/// A Service, or one of its ports, whose requests a route is for.
///
/// In the namespace of the Service the route is its producer's and holds for all clients; in another one it is a
/// consumer's, and holds for the clients of that namespace alone, in place of the producer's routes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ParentRef {
    /// The Service.
    pub service: Name,
    /// Only this port of it. Never 0.
    pub port: Option<u16>,
    /// Only the port of this name.
    pub section: Option<DnsLabel>,
}

/// A host as routes name it, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hostname {
    /// This one.
    Exact(DnsName),
    /// `*.example.com`: any with at least one label more than this.
    Wildcard(DnsName),
}

/// Requests that match, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteRule {
    /// Its name in the route.
    pub name: Option<DnsName>,
    /// A request that matches any of them matches. Never empty: what a document leaves out matches everything.
    pub matches: Vec<RouteMatch>,
    /// In the order of the document; each kind but mirrors at most once, and never both a redirect and a rewrite.
    pub filters: Vec<Filter>,
    /// Where they go, in proportion to the weights, of which at least one is not 0. Empty: nowhere, which is right
    /// exactly if there is a redirect and is answered 500 otherwise.
    pub backends: Vec<BackendRef>,
    /// From the request's head to the end of its answer, all tries together. Zero: without limit. `None`: not said.
    pub request_timeout: Option<Duration>,
    /// The same of each try; never longer than that of the request. Zero: without limit. `None`: not said.
    pub backend_timeout: Option<Duration>,
    /// `None`: not said.
    pub retry: Option<RouteRetry>,
}

impl RouteRule {
    /// One that has neither name nor filters, and leaves times and retries to others.
    pub fn new(matches: Vec<RouteMatch>, backends: Vec<BackendRef>) -> Self {
        Self {
            name: None,
            matches,
            filters: Vec::new(),
            backends,
            request_timeout: None,
            backend_timeout: None,
            retry: None,
        }
    }
}

/// What a request must be: all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteMatch {
    /// Of an `HTTPRoute`; `None` in a `GRPCRoute`, which has `grpc`.
    pub path: Option<PathMatch>,
    /// Of a `GRPCRoute`; `None`: any.
    pub grpc: Option<GrpcMatch>,
    /// Such as `GET`; `None`: any.
    pub method: Option<&'static str>,
    /// Names are in lower case, and none twice.
    pub headers: Vec<FieldMatch>,
    /// None twice. Names are compared exactly.
    pub query: Vec<FieldMatch>,
}

/// What a path must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This one. Begins with a slash.
    Exact(String),
    /// This one or one below it, element by element: `/a/b` has `/a/b` and `/a/b/c`, and not `/a/bc`. Begins with a
    /// slash, and ends with none but for `/` itself, which has every path.
    Prefix(String),
    /// One that the whole of the pattern matches.
    Regex(Pattern),
}

/// What the path of a gRPC call, `/SERVICE/METHOD`, must be. At least one of them is there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrpcMatch {
    /// `None`: any.
    pub service: Option<ValueMatch>,
    /// `None`: any.
    pub method: Option<ValueMatch>,
}

impl GrpcMatch {
    /// Of which at least one is there.
    pub fn new(service: Option<ValueMatch>, method: Option<ValueMatch>) -> Self {
        Self { service, method }
    }
}

/// What a header or a parameter must be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldMatch {
    /// Its name.
    pub name: String,
    /// Its value. Several values of a header are compared joined by commas, of a parameter the first.
    pub value: ValueMatch,
}

impl FieldMatch {
    /// The name of a header is in lower case.
    pub fn new(name: String, value: ValueMatch) -> Self {
        Self { name, value }
    }
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// This one.
    Exact(String),
    /// One that the whole of the pattern matches.
    Regex(Pattern),
}

impl ValueMatch {
    /// Whether a value is one of these.
    pub fn is_match(&self, value: &[u8]) -> bool {
        match self {
            ValueMatch::Exact(exact) => exact.as_bytes() == value,
            ValueMatch::Regex(pattern) => pattern.is_match(value),
        }
    }
}

/// What is done to a request or its answer on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Changes the request's headers.
    RequestHeaders(HeaderChange),
    /// Changes the answer's headers; the mesh's own answers stay as they are.
    ResponseHeaders(HeaderChange),
    /// Changes host and path.
    Rewrite(Rewrite),
    /// Answers with another address.
    Redirect(Redirect),
    /// Sends a copy elsewhere, whose answer is dropped.
    Mirror(Mirror),
}

/// Done in this order. Names are in lower case, no name twice, none of them `host`, of HTTP's own framing, or the
/// mesh's own (`weft-*`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeaderChange {
    /// In place of what is there.
    pub set: Vec<(String, String)>,
    /// Beside what is there.
    pub add: Vec<(String, String)>,
    /// Taken away.
    pub remove: Vec<String>,
}

/// `URLRewrite`: at least one of them is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rewrite {
    /// The new Host, without port.
    pub hostname: Option<DnsName>,
    /// The new path.
    pub path: Option<PathChange>,
}

/// A new path; the query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// Instead of the whole. Begins with a slash.
    Full(String),
    /// Instead of the prefix that the rule matched, which has exactly one match, with a prefix. Begins with a slash, and
    /// ends with none but for `/` itself, which is nothing in its place.
    Prefix(String),
}

/// `RequestRedirect`. What is `None` is as in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<&'static str>,
    /// The host.
    pub hostname: Option<DnsName>,
    /// Never 0. `None`: the well-known port of the scheme if the scheme is given, else that of the request.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

impl Redirect {
    /// To where the request went.
    pub fn new(status: u16) -> Self {
        Self {
            scheme: None,
            hostname: None,
            port: None,
            path: None,
            status,
        }
    }
}

/// `RequestMirror`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mirror {
    /// Where the copies go.
    pub target: BackendTarget,
    /// How many of the requests are copied.
    pub share: Share,
}

impl Mirror {
    /// So many of the requests to there.
    pub fn new(target: BackendTarget, share: Share) -> Self {
        Self { target, share }
    }
}

/// A part of all, at most all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Share {
    /// At most the denominator.
    pub numerator: u32,
    /// Never 0.
    pub denominator: u32,
}

impl Share {
    /// All of it.
    pub const ALL: Self = Self::percent(100);

    /// So many percent, at most 100.
    pub const fn percent(percent: u32) -> Self {
        Self::new(percent, 100)
    }

    /// `numerator / denominator`; more than all is all, and of nothing it is nothing.
    pub const fn new(numerator: u32, denominator: u32) -> Self {
        let denominator = if denominator == 0 { 1 } else { denominator };
        let numerator = if numerator > denominator {
            denominator
        } else {
            numerator
        };
        Self {
            numerator,
            denominator,
        }
    }
}

/// A place where requests go, and how many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendRef {
    /// The place.
    pub target: BackendTarget,
    /// In proportion to the other weights of the rule; 0: none. At most 1,000,000.
    pub weight: u32,
    /// For those that go there alone, after those of the rule.
    pub filters: Vec<Filter>,
}

impl BackendRef {
    /// One without filters.
    pub fn new(target: BackendTarget, weight: u32) -> Self {
        Self {
            target,
            weight,
            filters: Vec::new(),
        }
    }
}

/// A port of a Service. It stands for the workloads behind it: routes of that Service do not apply again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct BackendTarget {
    /// The Service. One of another namespace than the route's takes a [`ReferenceGrant`] there.
    pub service: Name,
    /// Never 0.
    pub port: u16,
}

impl BackendTarget {
    /// A port, which is not 0, of a Service.
    pub fn new(service: Name, port: u16) -> Self {
        Self { service, port }
    }
}

/// When a request is sent again. What is not given is as the [`TrafficPolicy`](super::policy::TrafficPolicy) has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteRetry {
    /// Statuses of the application that are worth another try: 400 to 599, none twice. Empty: not said.
    pub codes: Vec<u16>,
    /// Tries after the first one.
    pub attempts: Option<u32>,
    /// The least time between two tries.
    pub backoff: Option<Duration>,
}

/// `gateway.networking.k8s.io ReferenceGrant`: Services of its namespace that routes of others may send requests to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReferenceGrant {
    /// Its name.
    pub name: Name,
    /// Whose routes.
    pub from: Vec<GrantFrom>,
    /// To which Services; `None`: all.
    pub to: Vec<Option<DnsName>>,
}

/// Routes of one kind and namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct GrantFrom {
    /// The kind.
    pub kind: RouteKind,
    /// The namespace.
    pub namespace: DnsLabel,
}

impl ReferenceGrant {
    /// Whether routes of this kind and namespace may send requests to a Service, which need not be of its namespace.
    pub fn allows(&self, kind: RouteKind, from: &DnsLabel, service: &Name) -> bool {
        service.namespace == self.name.namespace
            && self
                .from
                .iter()
                .any(|grant| grant.kind == kind && grant.namespace == *from)
            && self
                .to
                .iter()
                .any(|to| to.as_ref().is_none_or(|to| *to == service.name))
    }
}
