//! Finding a rule as the standard has it: every match is held against the request, and those that it matches are
//! sorted by the list. Nothing here is shared with what it checks but the model.

use std::cmp::Ordering;

use proptest::{collection::vec, option, prelude::*, sample::select};
use weft_proto::model::route::{
    FieldMatch, GrpcMatch, Hostname, PathMatch, Route, RouteKind, RouteMatch, ValueMatch,
};

use super::testing::{Get, hostname, path, route, table, value};

/// A match that a request matches, by all that the list asks about.
struct Candidate<'r> {
    exact_host: usize,
    any_host: usize,
    wanted: &'r RouteMatch,
    route: usize,
    rule: usize,
}

fn find<'r>(routes: &'r [Route], request: &Get) -> Option<Candidate<'r>> {
    let mut candidates = Vec::new();
    for (at, route) in routes.iter().enumerate() {
        let Some((exact_host, any_host)) = hosts(&route.hostnames, &request.host) else {
            continue;
        };
        for (index, rule) in route.rules.iter().enumerate() {
            for wanted in &rule.matches {
                if is_match(route.kind, wanted, request) {
                    candidates.push(Candidate {
                        exact_host,
                        any_host,
                        wanted,
                        route: at,
                        rule: index,
                    });
                }
            }
        }
    }
    // Stable: what ties stays in the order of the documents.
    candidates.sort_by(precedence);
    candidates.into_iter().next()
}

/// "Characters in a matching non-wildcard hostname", "Characters in a matching hostname".
fn hosts(hostnames: &[Hostname], host: &str) -> Option<(usize, usize)> {
    let exact = hostnames.iter().filter_map(|name| match name {
        Hostname::Exact(name) if name.as_str() == host => Some(host.len()),
        _ => None,
    });
    let wildcard = hostnames.iter().filter_map(|name| match name {
        Hostname::Wildcard(name) if host.ends_with(&format!(".{name}")) => {
            Some("*.".len() + name.as_str().len())
        }
        _ => None,
    });
    let (exact, wildcard) = (exact.max(), wildcard.max());
    match exact.max(wildcard) {
        None if !hostnames.is_empty() => None,
        any => Some((exact.unwrap_or(0), any.unwrap_or(0))),
    }
}

fn is_match(kind: RouteKind, wanted: &RouteMatch, request: &Get) -> bool {
    let place = match kind {
        RouteKind::Http => is_path(wanted.path.as_ref().unwrap(), &request.path),
        RouteKind::Grpc => is_call(wanted, &request.path),
    };
    let method = wanted.method.is_none_or(|method| request.method == *method);
    let headers = wanted.headers.iter().all(|header| {
        let values = request.headers.get_all(&header.name).iter();
        let values: Vec<&str> = values.map(|value| value.to_str().unwrap()).collect();
        !values.is_empty() && is_value(&header.value, &values.join(","))
    });
    let query = wanted
        .query
        .iter()
        .all(|parameter| is_parameter(parameter, request.query.as_deref()));
    place && method && headers && query
}

fn is_path(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Regex(pattern) => pattern.is_match(path.as_bytes()),
        PathMatch::Prefix(prefix) if prefix == "/" => true,
        PathMatch::Prefix(prefix) => {
            let elements: Vec<&str> = path.split('/').collect();
            let wanted: Vec<&str> = prefix.split('/').collect();
            elements.starts_with(&wanted)
        }
    }
}

fn is_call(wanted: &RouteMatch, path: &str) -> bool {
    let Some(wanted) = &wanted.grpc else { return true };
    match path.split('/').collect::<Vec<_>>()[..] {
        ["", service, method] if !service.is_empty() && !method.is_empty() => {
            wanted
                .service
                .as_ref()
                .is_none_or(|wanted| is_value(wanted, service))
                && wanted
                    .method
                    .as_ref()
                    .is_none_or(|wanted| is_value(wanted, method))
        }
        _ => false,
    }
}

fn is_parameter(wanted: &FieldMatch, query: Option<&str>) -> bool {
    let parameters = query
        .unwrap_or_default()
        .split('&')
        .filter(|piece| !piece.is_empty());
    let mut parameters = parameters.map(|piece| piece.split_once('=').unwrap_or((piece, "")));
    let first = parameters.find(|(name, _)| decoded(name) == wanted.name);
    first.is_some_and(|(_, value)| is_value(&wanted.value, &decoded(value)))
}

/// The requests below encode nothing else.
fn decoded(text: &str) -> String {
    text.replace('+', " ").replace("%31", "1").replace("%71", "q")
}

fn is_value(wanted: &ValueMatch, value: &str) -> bool {
    match wanted {
        ValueMatch::Exact(exact) => exact == value,
        ValueMatch::Regex(pattern) => pattern.is_match(value.as_bytes()),
    }
}

/// The greater number goes first, in each line.
fn precedence(left: &Candidate<'_>, right: &Candidate<'_>) -> Ordering {
    let by = |number: &dyn Fn(&Candidate<'_>) -> usize| number(right).cmp(&number(left));
    by(&|candidate| candidate.exact_host)
        .then_with(|| by(&|candidate| candidate.any_host))
        .then_with(|| {
            by(&|candidate| usize::from(matches!(candidate.wanted.path, Some(PathMatch::Exact(_)))))
        })
        .then_with(|| {
            by(&|candidate| match &candidate.wanted.path {
                Some(PathMatch::Regex(pattern)) => pattern.as_str().len(),
                _ => 0,
            })
        })
        .then_with(|| {
            by(&|candidate| match &candidate.wanted.path {
                Some(PathMatch::Prefix(prefix)) => prefix.len(),
                _ => 0,
            })
        })
        .then_with(|| by(&|candidate| exact(call(candidate).0)))
        .then_with(|| by(&|candidate| pattern(call(candidate).0)))
        .then_with(|| by(&|candidate| exact(call(candidate).1)))
        .then_with(|| by(&|candidate| pattern(call(candidate).1)))
        .then_with(|| by(&|candidate| usize::from(candidate.wanted.method.is_some())))
        .then_with(|| by(&|candidate| candidate.wanted.headers.len()))
        .then_with(|| by(&|candidate| candidate.wanted.query.len()))
}

fn call<'r>(candidate: &Candidate<'r>) -> (Option<&'r ValueMatch>, Option<&'r ValueMatch>) {
    let grpc = candidate.wanted.grpc.as_ref();
    grpc.map_or((None, None), |grpc| (grpc.service.as_ref(), grpc.method.as_ref()))
}

fn exact(value: Option<&ValueMatch>) -> usize {
    match value {
        Some(ValueMatch::Exact(exact)) => exact.len(),
        _ => 0,
    }
}

fn pattern(value: Option<&ValueMatch>) -> usize {
    match value {
        Some(ValueMatch::Regex(pattern)) => pattern.as_str().len(),
        _ => 0,
    }
}

const HOSTNAMES: &[&str] = &["x", "a.x", "b.a.x", "aa.x", "*.x", "*.a.x", "*.aa.x", "*.b.a.x"];
const HOSTS: &[&str] = &[
    "x", "a.x", "b.a.x", "c.b.a.x", "aa.x", "a.aa.x", "y", "1.2.3.4", "",
];
const PATHS: &[&str] = &[
    "/",
    "/",
    "/a",
    "/b",
    "/a/b",
    "/a/b/a",
    "/ab",
    "=/",
    "=/a",
    "=/a/b",
    "=/a/",
    "=/ab",
    "~/a",
    "~/b",
    "~/.*",
    "~.*b",
    "~/[ab]+",
    "~/a/.*",
    "~/(a|b)/b",
    "~.*",
    "~/a?b?",
    "~/\\w+/b",
    "~(?i)/A",
    "~/ab\\b.*",
    "~/[^/]+/[^/]+",
    "~/a|/b",
    "~[*]",
    "~/a/b/?",
];
const REQUESTED: &[&str] = &[
    "/",
    "/a",
    "/a/",
    "/b",
    "/ab",
    "/a/b",
    "/a/b/",
    "/a/b/a",
    "/a/bb",
    "/A",
    "/a//b",
    "//a",
    "/b/a",
    "/c",
    "/ab-",
    "/ab\u{e9}",
    "*",
    "/b/b",
];
const VALUES: &[&str] = &["=1", "=2", "=1,2", "=", "~1|2", "~1.*", "~.*", "~[12]"];
const QUERY: &[&str] = &[
    "q=1", "q=2", "q=%31", "%71=1", "q", "r=1", "r=+", "", "r=2", "q=1+2", "%2=",
];
const SERVICES: &[&str] = &[
    "=s", "=t", "=s.t", "~s.*", "~.", "~[st]", "~s|t", "~.*t", "~s?t?", "~\\w", "~(s)", "~t",
];
const METHODS: &[&str] = &["=M", "=N", "=Mn", "~M.*", "~.", "~[MN]"];
const CALLED: &[&str] = &[
    "/s/M", "/s/N", "/t/M", "/s.t/M", "/s.t/Mn", "/u/M", "/s", "/s/M/", "/s//M", "/", "/t/Mn",
];

/// Made once: a pattern takes longer to make than all else here.
fn values(texts: &[&str]) -> Vec<ValueMatch> {
    texts.iter().map(|text| value(text)).collect()
}

fn fields(names: &'static [&'static str]) -> impl Strategy<Value = Vec<FieldMatch>> {
    let field = (select(names), select(values(VALUES)))
        .prop_map(|(name, wanted)| FieldMatch::new(name.to_owned(), wanted));
    vec(field, 0..3).prop_map(|mut fields| {
        fields.sort_by(|left, right| left.name.cmp(&right.name));
        fields.dedup_by(|left, right| left.name == right.name);
        fields
    })
}

fn http_match() -> impl Strategy<Value = RouteMatch> {
    let paths: Vec<PathMatch> = PATHS.iter().map(|text| path(text)).collect();
    let method = option::of(select(&["GET", "POST"][..]));
    let fields = (fields(&["x", "y", "z"]), fields(&["q", "r", " "]));
    (select(paths), method, fields).prop_map(|(path, method, (headers, query))| {
        let mut made = RouteMatch::default();
        made.path = Some(path);
        made.method = method;
        made.headers = headers;
        made.query = query;
        made
    })
}

fn grpc_match() -> impl Strategy<Value = RouteMatch> {
    let service = option::of(select(values(SERVICES)));
    let method = option::of(select(values(METHODS)));
    (service, method, fields(&["x", "y", "z"])).prop_map(|(service, method, headers)| {
        let mut made = RouteMatch::default();
        if service.is_some() || method.is_some() {
            made.grpc = Some(GrpcMatch::new(service, method));
        }
        made.headers = headers;
        made
    })
}

/// Up to 40 matches, so that those of one path are indexed and patterns become one automaton.
fn routes(
    kind: RouteKind,
    matches: impl Strategy<Value = RouteMatch> + 'static,
) -> impl Strategy<Value = Vec<Route>> {
    let rules = vec(vec(matches, 1..4), 1..5);
    let hostnames = prop_oneof![3 => vec(select(HOSTNAMES), 0..1), 1 => vec(select(HOSTNAMES), 1..4)];
    vec((rules, hostnames), 0..8).prop_map(move |routes| {
        let routes = routes.into_iter().enumerate();
        routes
            .map(|(at, (rules, hostnames))| {
                let mut made = route(kind, &format!("a/r{at}"), rules);
                made.hostnames = hostnames.into_iter().map(hostname).collect();
                made
            })
            .collect()
    })
}

fn request(paths: &'static [&'static str]) -> impl Strategy<Value = Get> {
    let header = (
        select(&["x", "y", "z", "w"][..]),
        select(&["1", "2", "3", ""][..]),
    );
    (
        select(HOSTS),
        select(paths),
        option::of(vec(select(QUERY), 0..4)),
        select(&["GET", "POST", "PUT"][..]),
        vec(header, 0..4),
    )
        .prop_map(|(host, path, query, method, headers)| {
            let mut made = Get::new(method, "/", &[]);
            made.host = host.to_owned();
            made.path = path.to_owned();
            made.query = query.map(|pieces| pieces.join("&"));
            for (name, value) in headers {
                made.headers.append(name, value.parse().unwrap());
            }
            made
        })
}

fn check(routes: &[Route], requests: &[Get]) -> Result<(), TestCaseError> {
    let table = table(routes);
    for request in requests {
        let found = table.find(&request.asked());
        let is = found.map(|found| {
            (
                found.rule.route.to_string(),
                found.rule.name.to_string(),
                found.prefix,
            )
        });
        let wanted = find(routes, request);
        let ought = wanted.map(|wanted| {
            let prefix = match &wanted.wanted.path {
                Some(PathMatch::Prefix(prefix)) => Some(&**prefix),
                _ => None,
            };
            (format!("a/r{}", wanted.route), wanted.rule.to_string(), prefix)
        });
        prop_assert_eq!(&is, &ought, "{:?}", request);
        let asked = request.asked();
        let mut explained = table.explain(&asked).into_iter();
        let first = explained.find(|considered| considered.outcome.is_ok());
        let first = first.map(|considered| {
            (
                considered.rule.route.to_string(),
                considered.rule.name.to_string(),
            )
        });
        prop_assert_eq!(first, is.map(|(route, rule, _)| (route, rule)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn http_requests_find_what_the_standard_says(
        routes in routes(RouteKind::Http, http_match()),
        requests in vec(request(REQUESTED), 1..30),
    ) {
        check(&routes, &requests)?;
    }

    #[test]
    fn grpc_calls_find_what_the_standard_says(
        routes in routes(RouteKind::Grpc, grpc_match()),
        requests in vec(request(CALLED), 1..30),
    ) {
        check(&routes, &requests)?;
    }
}
