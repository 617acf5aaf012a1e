//! What one match of a rule asks of a request, and its place in the order of precedence.

use std::{cmp::Reverse, sync::Arc};

use http::{HeaderName, Method};
use weft_proto::{
    model::route::{FieldMatch, PathMatch, RouteKind, RouteMatch, ValueMatch},
    pattern::Pattern,
};

use super::{
    Asked, Rule,
    value::{Query, Value},
};

/// A match of a rule.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) rule: Arc<Rule>,
    /// Its route's index.
    pub(super) route: usize,
    /// Which of its rule's it is.
    pub(super) number: usize,
    pub(super) place: Place,
    pub(super) method: Option<Method>,
    pub(super) headers: Box<[HeaderMatch]>,
    pub(super) query: Box<[FieldMatch]>,
}

/// What the path must be.
#[derive(Debug)]
pub(super) enum Place {
    Path(PathMatch),
    /// That of a gRPC call, or any.
    Call {
        service: Option<ValueMatch>,
        method: Option<ValueMatch>,
    },
}

/// What a header must be.
#[derive(Debug)]
pub(super) struct HeaderMatch {
    pub(super) name: HeaderName,
    pub(super) value: ValueMatch,
}

/// By which matches are told to ask for the same.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Asks<'e> {
    method: Option<&'e Method>,
    call: Option<(bool, &'e str)>,
    headers: Vec<(&'e HeaderName, (bool, &'e str))>,
    query: Vec<(&'e str, (bool, &'e str))>,
}

/// A request, read as far as matches need it.
pub(super) struct Request<'a> {
    pub(super) asked: &'a Asked<'a>,
    /// Service and method, if the path is that of a gRPC call.
    pub(super) call: Option<(&'a str, &'a str)>,
    pub(super) query: Option<Query<'a>>,
}

/// What a request is not that a match asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mismatch<'t> {
    Host,
    /// For a gRPC call: its service.
    Path,
    Method,
    GrpcMethod,
    /// The header of this name.
    Header(&'t HeaderName),
    /// The parameter of this name.
    Query(&'t str),
}

/// Of two matches that a request of one host matches, it is the lesser one's.
///
/// This is the list of the standard (Gateway API v1, `HTTPRouteRule.matches` and `GRPCRouteRule.matches`) from the
/// path on. The standard leaves the place of regular expressions open: they come after what is exact and before what
/// is not, longer ones first. Routes of the two kinds are never those of one service; if they were, gRPC's are first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    place: PlaceRank,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    order: Order,
}

/// Where the document has a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    /// Routes come in the order that decides between them.
    pub(super) route: usize,
    pub(super) rule: usize,
    pub(super) number: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PlaceRank {
    Call(ValueRank, ValueRank),
    Exact,
    /// By the characters of the pattern.
    Regex(Reverse<usize>),
    /// By the characters of the prefix.
    Prefix(Reverse<usize>),
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ValueRank {
    Exact(Reverse<usize>),
    Regex(Reverse<usize>),
    Any,
}

impl Entry {
    /// `order` is that of the document. `None` for one that no request can match, which no document has: the name of a
    /// header is none.
    pub(super) fn new(rule: Arc<Rule>, order: Order, wanted: &RouteMatch) -> Option<Self> {
        let headers = wanted.headers.iter().map(|header| {
            Some(HeaderMatch {
                name: HeaderName::from_bytes(header.name.as_bytes()).ok()?,
                value: header.value.clone(),
            })
        });
        let method = wanted.method.map(|method| Method::from_bytes(method.as_bytes()));
        Some(Self {
            place: Place::new(rule.kind, wanted),
            rule,
            route: order.route,
            number: order.number,
            method: method.transpose().ok()?,
            headers: headers.collect::<Option<_>>()?,
            query: wanted.query.as_slice().into(),
        })
    }

    /// Its place among the others, which is the same for all hosts.
    pub(super) fn precedence(&self, order: Order) -> Precedence {
        Precedence {
            place: self.place.rank(),
            method: Reverse(self.method.is_some()),
            headers: Reverse(self.headers.len()),
            query: Reverse(self.query.len()),
            order,
        }
    }

    /// The prefix of the path that it asks for.
    pub(super) fn prefix(&self) -> Option<&str> {
        match &self.place {
            Place::Path(PathMatch::Prefix(prefix)) => Some(prefix),
            Place::Path(_) | Place::Call { .. } => None,
        }
    }

    /// Whether a request matches it whose path, or whose gRPC service, does.
    pub(super) fn check(&self, request: &Request<'_>) -> Result<(), Mismatch<'_>> {
        if self
            .method
            .as_ref()
            .is_some_and(|method| method != request.asked.method)
        {
            return Err(Mismatch::Method);
        }
        if let Place::Call {
            method: Some(method), ..
        } = &self.place
            && !request
                .call
                .is_some_and(|(_, called)| method.is_match(called.as_bytes()))
        {
            return Err(Mismatch::GrpcMethod);
        }
        for header in &self.headers {
            let value = Value::of_header(request.asked.headers, &header.name);
            if !value.is_some_and(|value| value.is(&header.value)) {
                return Err(Mismatch::Header(&header.name));
            }
        }
        for wanted in &self.query {
            let found = request.query.as_ref().and_then(|query| query.first(&wanted.name));
            if !found.is_some_and(|(_, value)| value.is(&wanted.value)) {
                return Err(Mismatch::Query(&wanted.name));
            }
        }
        Ok(())
    }

    /// Whether any request that matches this one's path and gRPC method is its own.
    pub(super) fn takes_all(&self) -> bool {
        let any_call = !matches!(&self.place, Place::Call { method: Some(_), .. });
        any_call && self.method.is_none() && self.headers.is_empty() && self.query.is_empty()
    }

    /// All that it asks for beside the path, or gRPC's service.
    pub(super) fn asks(&self) -> Asks<'_> {
        let call = match &self.place {
            Place::Call { method, .. } => method.as_ref().map(text),
            Place::Path(_) => None,
        };
        let headers = self.headers.iter();
        let query = self.query.iter();
        Asks {
            method: self.method.as_ref(),
            call,
            headers: headers
                .map(|header| (&header.name, text(&header.value)))
                .collect(),
            query: query
                .map(|parameter| (&*parameter.name, text(&parameter.value)))
                .collect(),
        }
    }
}

impl Place {
    fn new(kind: RouteKind, wanted: &RouteMatch) -> Self {
        match kind {
            RouteKind::Http => Self::Path(
                wanted
                    .path
                    .clone()
                    .unwrap_or_else(|| PathMatch::Prefix("/".to_owned())),
            ),
            RouteKind::Grpc => {
                let call = wanted.grpc.clone();
                let (service, method) = call.map_or((None, None), |call| (call.service, call.method));
                Self::Call { service, method }
            }
        }
    }

    fn rank(&self) -> PlaceRank {
        match self {
            Self::Call { service, method } => PlaceRank::Call(value_rank(service), value_rank(method)),
            Self::Path(PathMatch::Exact(_)) => PlaceRank::Exact,
            Self::Path(PathMatch::Regex(pattern)) => PlaceRank::Regex(Reverse(characters(pattern.as_str()))),
            Self::Path(PathMatch::Prefix(prefix)) => PlaceRank::Prefix(Reverse(characters(prefix))),
        }
    }

    /// Whether a request has this path, or this gRPC service.
    pub(super) fn is_match(&self, request: &Request<'_>) -> bool {
        let path = request.asked.path;
        match self {
            Self::Path(PathMatch::Exact(exact)) => exact == path,
            Self::Path(PathMatch::Regex(pattern)) => pattern.is_match(path.as_bytes()),
            Self::Path(PathMatch::Prefix(prefix)) => has_prefix(path, prefix),
            Self::Call { service: None, .. } => true,
            Self::Call {
                service: Some(service),
                ..
            } => request
                .call
                .is_some_and(|(called, _)| service.is_match(called.as_bytes())),
        }
    }
}

impl<'a> Request<'a> {
    /// `reads_query`: whether any match asks for parameters.
    pub(super) fn read(asked: &'a Asked<'a>, reads_query: bool) -> Self {
        Self {
            asked,
            call: call(asked.path),
            query: asked.query.filter(|_| reads_query).map(Query::read),
        }
    }
}

/// Whether a path is this one or one below it. `/` has every path, that of `OPTIONS *` too.
pub(super) fn has_prefix(path: &str, prefix: &str) -> bool {
    let below = |rest: &str| rest.is_empty() || rest.starts_with('/');
    prefix == "/" || path.strip_prefix(prefix).is_some_and(below)
}

/// Service and method of `/SERVICE/METHOD`.
fn call(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

fn value_rank(wanted: &Option<ValueMatch>) -> ValueRank {
    match wanted {
        Some(ValueMatch::Exact(exact)) => ValueRank::Exact(Reverse(characters(exact))),
        Some(ValueMatch::Regex(pattern)) => ValueRank::Regex(Reverse(characters(pattern.as_str()))),
        None => ValueRank::Any,
    }
}

/// Whether it is a pattern, and how it is written.
fn text(wanted: &ValueMatch) -> (bool, &str) {
    match wanted {
        ValueMatch::Exact(exact) => (false, exact),
        ValueMatch::Regex(pattern) => (true, pattern.as_str()),
    }
}

fn characters(text: &str) -> usize {
    text.chars().count()
}

/// What the index of a host tells matches apart by first.
pub(super) enum Subject<'e> {
    Exact(&'e str),
    Regex(&'e Pattern),
    /// Never `/`.
    Prefix(&'e str),
    Any,
}

impl Place {
    pub(super) fn subject(&self) -> Subject<'_> {
        match self {
            Self::Path(PathMatch::Exact(exact)) => Subject::Exact(exact),
            Self::Path(PathMatch::Regex(pattern)) => Subject::Regex(pattern),
            Self::Path(PathMatch::Prefix(prefix)) if prefix == "/" => Subject::Any,
            Self::Path(PathMatch::Prefix(prefix)) => Subject::Prefix(prefix),
            Self::Call { service: None, .. } => Subject::Any,
            Self::Call {
                service: Some(ValueMatch::Exact(exact)),
                ..
            } => Subject::Exact(exact),
            Self::Call {
                service: Some(ValueMatch::Regex(pattern)),
                ..
            } => Subject::Regex(pattern),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_matched_element_by_element() {
        for (path, prefix, is_match) in [
            ("/abc", "/abc", true),
            ("/abc/", "/abc", true),
            ("/abc/def", "/abc", true),
            ("/abc//", "/abc", true),
            ("/abcd", "/abc", false),
            ("/ab", "/abc", false),
            ("/Abc", "/abc", false),
            ("/x/abc", "/abc", false),
            ("/", "/", true),
            ("/x", "/", true),
            ("*", "/", true),
            ("*", "/abc", false),
        ] {
            assert_eq!(has_prefix(path, prefix), is_match, "{path} {prefix}");
        }
    }

    #[test]
    fn a_call_has_two_elements() {
        assert_eq!(call("/a.B/C"), Some(("a.B", "C")));
        for none in ["/", "/a", "/a/", "//a", "/a/b/", "/a/b/c", "*", "a/b", "//"] {
            assert_eq!(call(none), None, "{none}");
        }
    }
}
