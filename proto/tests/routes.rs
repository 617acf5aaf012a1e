//! Each rule of routes and grants, with the exact error that breaking it gives.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::Duration;
use weft_proto::Source;
use weft_proto::document::split;
use weft_proto::model::route::{
    Filter, Hostname, PathChange, PathMatch, Redirect, RouteKind, RouteMatch, RouteRule, Share, ValueMatch,
};
use weft_proto::model::{Name, Route};
use weft_proto::parse::{Model, parse_document};

fn parse(text: &str) -> Result<Model, Vec<String>> {
    parse_document(&Source::new("m.yaml", text))
        .map(|parsed| parsed.model)
        .map_err(|errors| {
            errors
                .iter()
                .map(|error| error.to_string().replace("m.yaml:", ""))
                .collect()
        })
}

/// A route of this kind in `shop`; its spec begins in line 4.
fn text(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: web, namespace: shop}}\n{spec}\n"
    )
}

fn route(text: &str) -> Route {
    match parse(text).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}")) {
        Model::Route(route) => route,
        other => panic!("{other:?}"),
    }
}

const PARENT: &str = "parentRefs: [{group: \"\", kind: Service, name: web}]";

/// The only rule of an HTTPRoute with these fields.
fn rule(fields: &str) -> RouteRule {
    let spec = format!("spec: {{{PARENT}, rules: [{{{fields}}}]}}");
    let mut rules = route(&text("HTTPRoute", &spec)).rules;
    assert_eq!(rules.len(), 1);
    rules.remove(0)
}

/// The errors of an HTTPRoute whose only rule has these fields, without their place `4: spec.rules[0].`.
fn rule_errors(kind: &str, fields: &str) -> Vec<String> {
    let errors = parse(&text(kind, &format!("spec: {{{PARENT}, rules: [{{{fields}}}]}}")));
    let errors = errors.err().unwrap_or_default();
    errors
        .iter()
        .map(|error| {
            error
                .strip_prefix("4: spec.rules[0].")
                .unwrap_or(error)
                .to_owned()
        })
        .collect()
}

#[test]
fn an_http_route() {
    let route = route(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: web
  namespace: shop
  creationTimestamp: 2026-01-31T12:00:00+01:00
spec:
  parentRefs:
  - {group: '', kind: Service, name: web, port: 80}
  - {group: '', kind: Service, name: web, namespace: other, sectionName: http}
  hostnames: [web.example, '*.web.example']
  rules:
  - name: testers
    matches:
    - path: {type: PathPrefix, value: /cart/}
      method: POST
      headers:
      - {name: X-Tester, value: 'yes'}
      - {name: x-tester, value: ignored}
      - {name: x-version, type: RegularExpression, value: 'v[0-9]+'}
      queryParams:
      - {name: Debug, value: '1'}
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: X-Env, value: test}]
        add: [{name: via, value: weft}]
        remove: [Cookie]
    - type: URLRewrite
      urlRewrite:
        hostname: cart.example
        path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2/}
    - type: RequestMirror
      requestMirror: {backendRef: {name: shadow, port: 80}, percent: 10}
    - type: RequestMirror
      requestMirror: {backendRef: {name: shadow, namespace: lab, port: 80}, fraction: {numerator: 1, denominator: 1000}}
    backendRefs:
    - {name: cart-v1, port: 80, weight: 90}
    - name: cart-v2
      namespace: next
      port: 8080
      weight: 10
      filters:
      - type: ResponseHeaderModifier
        responseHeaderModifier: {set: [{name: x-served-by, value: v2}]}
    timeouts: {request: 10s, backendRequest: 2s500ms}
    retry: {codes: [500, 503], attempts: 2, backoff: 100ms}
  - filters:
    - type: RequestRedirect
      requestRedirect:
        scheme: https
        hostname: new.example
        port: 8443
        path: {type: ReplaceFullPath, replaceFullPath: /gone}
        statusCode: 301
status: {parents: []}
",
    );
    assert_eq!(
        (route.kind, route.created),
        (RouteKind::Http, Some(1_769_857_200))
    );
    let parents: Vec<_> = route
        .parents
        .iter()
        .map(|parent| (parent.service.to_string(), parent.port, parent.section.as_deref()))
        .collect();
    assert_eq!(
        parents,
        [
            ("shop/web".to_owned(), Some(80), None),
            ("other/web".to_owned(), None, Some("http"))
        ]
    );
    let host = |text: &str| text.parse().unwrap();
    assert_eq!(
        route.hostnames,
        [
            Hostname::Exact(host("web.example")),
            Hostname::Wildcard(host("web.example"))
        ]
    );
    let [first, second] = &route.rules[..] else {
        panic!("{route:?}")
    };
    assert_eq!(first.name.as_deref(), Some("testers"));
    let [found] = &first.matches[..] else {
        panic!("{first:?}")
    };
    assert_eq!(found.path, Some(PathMatch::Prefix("/cart".to_owned())));
    assert_eq!(found.method, Some("POST"));
    let headers: Vec<_> = found
        .headers
        .iter()
        .map(|field| (&*field.name, &field.value))
        .collect();
    assert!(
        matches!(
            headers[..],
            [("x-tester", ValueMatch::Exact(yes)), ("x-version", ValueMatch::Regex(version))]
                if yes == "yes" && version.as_str() == "v[0-9]+"
        ),
        "{headers:?}"
    );
    assert_eq!((found.query.len(), &*found.query[0].name), (1, "Debug"));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let [
        Filter::RequestHeaders(change),
        Filter::Rewrite(rewrite),
        Filter::Mirror(one),
        Filter::Mirror(two),
    ] = &first.filters[..]
    else {
        panic!("{:?}", first.filters)
    };
    assert_eq!(change.set, [pair("x-env", "test")]);
    assert_eq!(change.add, [pair("via", "weft")]);
    assert_eq!(change.remove, ["cookie"]);
    assert_eq!(rewrite.hostname.as_deref(), Some("cart.example"));
    assert_eq!(rewrite.path, Some(PathChange::Prefix("/v2".to_owned())));
    assert_eq!(
        (one.target.service.to_string(), one.share),
        ("shop/shadow".to_owned(), Share::percent(10))
    );
    assert_eq!(
        (two.target.service.to_string(), two.share),
        ("lab/shadow".to_owned(), Share::new(1, 1_000))
    );
    let backends: Vec<_> = first
        .backends
        .iter()
        .map(|backend| {
            (
                backend.target.service.to_string(),
                backend.target.port,
                backend.weight,
                backend.filters.len(),
            )
        })
        .collect();
    assert_eq!(
        backends,
        [
            ("shop/cart-v1".to_owned(), 80, 90, 0),
            ("next/cart-v2".to_owned(), 8080, 10, 1)
        ]
    );
    assert_eq!(first.request_timeout, Some(Duration::from_secs(10)));
    assert_eq!(first.backend_timeout, Some(Duration::from_millis(2_500)));
    let retry = first.retry.as_ref().unwrap();
    assert_eq!((&retry.codes[..], retry.attempts), (&[500, 503][..], Some(2)));
    assert_eq!(retry.backoff, Some(Duration::from_millis(100)));
    // What is left out matches everything.
    assert_eq!(second.matches[0].path, Some(PathMatch::Prefix("/".to_owned())));
    let [
        Filter::Redirect(Redirect {
            scheme,
            hostname,
            port,
            path,
            status,
            ..
        }),
    ] = &second.filters[..]
    else {
        panic!("{second:?}")
    };
    assert_eq!(
        (*scheme, hostname.as_deref()),
        (Some("https"), Some("new.example"))
    );
    assert_eq!((*port, *status), (Some(8443), 301));
    assert_eq!(*path, Some(PathChange::Full("/gone".to_owned())));
}

#[test]
fn a_grpc_route() {
    let route = route(&text(
        "GRPCRoute",
        "spec:
  parentRefs: [{group: '', kind: Service, name: calls}]
  hostnames: [calls.shop]
  rules:
  - matches:
    - {method: {service: shop.v1.Cart, method: AddItem}}
    - {method: {type: RegularExpression, service: 'shop[.].*'}, headers: [{name: X-A, value: b}]}
    - {method: {service: '', method: Get}}
    - {headers: [{name: x-a, value: b}]}
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: b}]}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}
    backendRefs: [{name: v2, port: 9000}]
  - {}",
    ));
    assert_eq!((route.kind, route.created), (RouteKind::Grpc, None));
    let [first, second] = &route.rules[..] else {
        panic!("{route:?}")
    };
    let exact = |text: &str| Some(ValueMatch::Exact(text.to_owned()));
    let calls: Vec<_> = first
        .matches
        .iter()
        .map(|found| {
            found
                .grpc
                .as_ref()
                .map(|call| (call.service.clone(), call.method.clone()))
        })
        .collect();
    assert_eq!(calls[0], Some((exact("shop.v1.Cart"), exact("AddItem"))));
    let Some((Some(ValueMatch::Regex(pattern)), None)) = &calls[1] else {
        panic!("{calls:?}")
    };
    assert_eq!(pattern.as_str(), "shop[.].*");
    // An empty name is any, as in the standard.
    assert_eq!(calls[2], Some((None, exact("Get"))));
    assert_eq!(calls[3], None);
    assert!(
        first
            .matches
            .iter()
            .all(|found| found.path.is_none() && found.method.is_none())
    );
    assert_eq!(
        (&*first.matches[1].headers[0].name, first.filters.len()),
        ("x-a", 2)
    );
    assert!(matches!(&first.filters[1], Filter::Mirror(mirror) if mirror.share == Share::ALL));
    assert_eq!(
        (first.backends[0].target.port, first.backends[0].weight),
        (9000, 1)
    );
    // What says nothing takes every call, and has nothing to send it to.
    assert_eq!(second.matches, [RouteMatch::default()]);
    assert!(second.backends.is_empty());
}

#[test]
fn a_grant() {
    let text = |version: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/{version}\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: lab}}
spec:
  from:
  - {{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}}
  to:
  - {{group: '', kind: Service, name: shadow}}\n"
        )
    };
    let Ok(Model::ReferenceGrant(grant)) = parse(&text("v1beta1")) else {
        panic!()
    };
    assert_eq!(parse(&text("v1")), Ok(Model::ReferenceGrant(grant.clone())));
    let errors = parse(&text("v1alpha2")).unwrap_err();
    assert_eq!(
        errors,
        [
            "1: apiVersion: gateway.networking.k8s.io/v1alpha2 has no ReferenceGrant: it is of gateway.networking.k8s.io/v1beta1"
        ]
    );
    let service = |namespace: &str, name: &str| Name {
        namespace: namespace.parse().unwrap(),
        name: name.parse().unwrap(),
    };
    let allows = |kind, from: &str, to: &Name| grant.allows(kind, &from.parse().unwrap(), to);
    assert!(allows(RouteKind::Http, "shop", &service("lab", "shadow")));
    assert!(!allows(RouteKind::Grpc, "shop", &service("lab", "shadow")));
    assert!(!allows(RouteKind::Http, "lab", &service("lab", "shadow")));
    assert!(!allows(RouteKind::Http, "shop", &service("lab", "other")));
    assert!(!allows(RouteKind::Http, "shop", &service("other", "shadow")));
}

#[test]
fn wrong_grants() {
    let errors = |spec: &str| {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: g}}\nspec: {{{spec}}}\n"
        );
        parse(&text).unwrap_err()
    };
    let from = "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}]";
    let to = "to: [{group: '', kind: Service}]";
    for (spec, error) in [
        (to.to_owned(), "4: spec.from: missing"),
        (from.to_owned(), "4: spec.to: missing"),
        (
            format!("{from}, to: []"),
            "4: spec.to: is empty: it grants nothing",
        ),
        (
            format!("from: [], {to}"),
            "4: spec.from: is empty: it grants nothing",
        ),
        (
            format!("{from}, to: [{{kind: Service}}]"),
            "4: spec.to[0].group: missing",
        ),
        (
            format!("{from}, to: [{{group: apps, kind: Service}}]"),
            "4: spec.to[0].group: apps is not the group of this kind, \"\"",
        ),
        (
            format!("from: [{{group: '', kind: GRPCRoute, namespace: a}}], {to}"),
            "4: spec.from[0].group: \"\" is not the group of this kind, \"gateway.networking.k8s.io\"",
        ),
        (
            format!("{from}, to: [{{group: '', kind: Service, name: 0a}}]"),
            "4: spec.to[0].name: 0a begins with a digit: the name of a Service begins with a letter",
        ),
        (
            format!("{from}, to: [{}]", "{group: '', kind: Service},".repeat(17)),
            "4: spec.to: has 17 entries, more than the 16 allowed",
        ),
    ] {
        assert_eq!(errors(&spec), [error], "{spec}");
    }
}

#[test]
fn what_is_left_out() {
    // The standard's default for a route without rules.
    let route = route(&text("HTTPRoute", &format!("spec: {{{PARENT}}}")));
    assert_eq!(route.rules, [rule("matches: []")]);
    let root = Some(PathMatch::Prefix("/".to_owned()));
    for fields in [
        "",
        "matches: [{}]",
        "matches: [{path: {}}]",
        "matches: [{path: {type: PathPrefix}}]",
    ] {
        let rule = rule(fields);
        assert_eq!(
            (rule.matches.len(), &rule.matches[0].path),
            (1, &root),
            "{fields}"
        );
        assert!(rule.filters.is_empty() && rule.backends.is_empty() && rule.retry.is_none());
        assert_eq!((rule.request_timeout, rule.backend_timeout), (None, None));
    }
    assert_eq!(
        rule("matches: [{path: {type: Exact}}]").matches[0].path,
        Some(PathMatch::Exact("/".to_owned()))
    );
    let rule = rule(
        "backendRefs: [{name: a, port: 1}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, fraction: {numerator: 5}}}]",
    );
    assert_eq!(rule.backends[0].weight, 1);
    assert!(matches!(&rule.filters[0], Filter::Mirror(mirror) if mirror.share == Share::new(5, 100)));
}

#[test]
fn no_time_is_without_limit() {
    let rule = rule("timeouts: {request: 0s, backendRequest: 5s}");
    assert_eq!(rule.request_timeout, Some(Duration::ZERO));
    assert_eq!(rule.backend_timeout, Some(Duration::from_secs(5)));
    let rule = self::rule("timeouts: {request: 5s, backendRequest: 0s}");
    assert_eq!(rule.backend_timeout, Some(Duration::ZERO));
}

#[test]
fn redirects() {
    let rule = rule("filters: [{type: RequestRedirect, requestRedirect: {}}]");
    let [Filter::Redirect(redirect)] = &rule.filters[..] else {
        panic!("{rule:?}")
    };
    assert_eq!(
        (redirect.status, redirect.scheme, redirect.port),
        (302, None, None)
    );
    for (text, wanted) in [("", "/"), ("/", "/"), ("/a/", "/a"), ("/a", "/a")] {
        let rule = self::rule(&format!(
            "filters: [{{type: RequestRedirect, requestRedirect: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: '{text}'}}}}}}]"
        ));
        let [Filter::Redirect(redirect)] = &rule.filters[..] else {
            panic!("{rule:?}")
        };
        assert_eq!(redirect.path, Some(PathChange::Prefix(wanted.to_owned())));
    }
}

/// Asserts that each of these specs of an HTTPRoute is wrong in one way.
fn assert_spec_errors(table: &[(String, &str)]) {
    for (spec, error) in table {
        let errors = parse(&text("HTTPRoute", &format!("spec: {{{spec}}}"))).expect_err(spec);
        assert_eq!(errors, [format!("4: spec.{error}")], "{spec}");
    }
}

#[test]
fn parents() {
    let service = "group: '', kind: Service";
    let hint = "a route is for requests of Services (group: \"\", kind: Service)";
    assert_spec_errors(&[
        ("rules: [{}]".to_owned(), "parentRefs: missing"),
        (
            "parentRefs: []".to_owned(),
            "parentRefs: is empty: a route is for the requests of at least one Service",
        ),
        (
            "parentRefs: [{name: a}]".to_owned(),
            &format!("parentRefs[0].kind: Gateway is not supported here: {hint}"),
        ),
        (
            "parentRefs: [{group: '', kind: Namespace, name: a}]".to_owned(),
            &format!("parentRefs[0].kind: Namespace is not supported here: {hint}"),
        ),
        (
            "parentRefs: [{kind: Service, name: a}]".to_owned(),
            &format!(
                "parentRefs[0].group: gateway.networking.k8s.io has no Service that is known here: {hint}"
            ),
        ),
        (
            format!("parentRefs: [{{{service}}}]"),
            "parentRefs[0].name: missing",
        ),
        (
            format!("parentRefs: [{{{service}, name: a}}, {{{service}, name: a, namespace: shop}}]"),
            "parentRefs[1]: shop/a is in the list already",
        ),
        (
            format!("parentRefs: [{{{service}, name: a, port: 1}}, {{{service}, name: a}}]"),
            "parentRefs[1]: shop/a is in the list already: each entry for it needs a port, or each a sectionName, or each both",
        ),
        (
            format!("parentRefs: [{{{service}, name: a, port: 1}}, {{{service}, name: a, sectionName: x}}]"),
            "parentRefs[1]: shop/a is in the list already: each entry for it needs a port, or each a sectionName, or each both",
        ),
        (
            format!("parentRefs: [{{{service}, name: a, namespace: A}}]"),
            "parentRefs[0].namespace: A is not a DNS label (1 to 63 of a-z, 0-9 and '-', a dash neither first nor last)",
        ),
        (
            format!("{PARENT}, useDefaultGateways: All"),
            "useDefaultGateways: Gateways are not supported: a route is for the Services in its parentRefs",
        ),
        (
            format!("{PARENT}, rules: []"),
            "rules: is empty: a route has at least one rule",
        ),
        (
            format!("{PARENT}, rules: [{{name: a}}, {{name: b}}, {{name: a}}]"),
            "rules[2].name: another rule is called a already",
        ),
        (
            format!("{PARENT}, hostnames: ['*']"),
            "hostnames[0]: * is every host: leave hostnames out",
        ),
        (
            format!("{PARENT}, hostnames: ['::1']"),
            "hostnames[0]: ::1 is an address: routes know hosts by name",
        ),
        (
            format!("{PARENT}, hostnames: [a.b, 'a.*']"),
            "hostnames[1]: a.* is not a DNS name (at most 253 of a-z, 0-9, '-' and '.', a letter or digit first and last and beside each dot)",
        ),
    ]);
    // Ports of one Service, told apart.
    let spec =
        format!("spec: {{parentRefs: [{{{service}, name: a, port: 1}}, {{{service}, name: a, port: 2}}]}}");
    assert_eq!(route(&text("HTTPRoute", &spec)).parents.len(), 2);
    let errors = parse(&text("GRPCRoute", &format!("spec: {{{PARENT}}}"))).unwrap_err();
    assert_eq!(errors, ["4: spec.rules: missing"]);
}

#[test]
fn there_are_only_so_many() {
    let times = |item: &str, count: usize| vec![item; count].join(", ");
    let parents: Vec<String> = (0..33)
        .map(|index| format!("{{group: '', kind: Service, name: a{index}}}"))
        .collect();
    let fields = |prefix: &str, count: usize| {
        let items: Vec<String> = (0..count)
            .map(|index| format!("{{name: {prefix}{index}, value: a}}"))
            .collect();
        items.join(", ")
    };
    assert_spec_errors(&[
        (
            format!("parentRefs: [{}]", parents.join(", ")),
            "parentRefs: has 33 entries, more than the 32 allowed",
        ),
        (
            format!("{PARENT}, hostnames: [{}]", times("a", 17)),
            "hostnames: has 17 entries, more than the 16 allowed",
        ),
        (
            format!("{PARENT}, rules: [{}]", times("{}", 17)),
            "rules: has 17 entries, more than the 16 allowed",
        ),
        (
            format!(
                "{PARENT}, rules: [{}]",
                times(&format!("{{matches: [{}]}}", times("{}", 43)), 3)
            ),
            "rules: has 129 matches in all, more than the 128 allowed",
        ),
        (
            format!("{PARENT}, rules: [{{matches: [{}]}}]", times("{}", 65)),
            "rules[0].matches: has 65 entries, more than the 64 allowed",
        ),
        (
            format!(
                "{PARENT}, rules: [{{matches: [{{headers: [{}]}}]}}]",
                fields("h", 17)
            ),
            "rules[0].matches[0].headers: has 17 entries, more than the 16 allowed",
        ),
        (
            format!(
                "{PARENT}, rules: [{{matches: [{{queryParams: [{}]}}]}}]",
                fields("q", 17)
            ),
            "rules[0].matches[0].queryParams: has 17 entries, more than the 16 allowed",
        ),
        (
            format!(
                "{PARENT}, rules: [{{backendRefs: [{}]}}]",
                times("{name: a, port: 1}", 17)
            ),
            "rules[0].backendRefs: has 17 entries, more than the 16 allowed",
        ),
        (
            format!(
                "{PARENT}, rules: [{{filters: [{}]}}]",
                times(
                    "{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}}}",
                    17
                )
            ),
            "rules[0].filters: has 17 entries, more than the 16 allowed",
        ),
        (
            format!(
                "{PARENT}, rules: [{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{}]}}}}]}}]",
                fields("h", 17)
            ),
            "rules[0].filters[0].requestHeaderModifier.set: has 17 entries, more than the 16 allowed",
        ),
    ]);
    // As many as may be.
    let rule = format!(
        "{{matches: [{}], backendRefs: [{}]}}",
        times("{}", 8),
        times("{name: a, port: 1}", 16)
    );
    let full = format!(
        "spec: {{parentRefs: [{}], rules: [{}]}}",
        parents[..32].join(", "),
        times(&rule, 16)
    );
    assert_eq!(route(&text("HTTPRoute", &full)).rules.len(), 16);
}

#[test]
fn patterns_share_a_cap() {
    let matches = |count: usize, pattern: &str| {
        let path = format!("{{path: {{type: RegularExpression, value: '{pattern}'}}}}");
        format!("matches: [{}]", vec![path; count].join(", "))
    };
    // Usual ones.
    assert_eq!(rule(&matches(64, "/api/v[0-9]+/users/[^/]+")).matches.len(), 64);
    let errors = rule_errors("HTTPRoute", &matches(64, r"/\w{5}"));
    assert_eq!(
        errors,
        [
            "matches[3].path.value: the regular expressions of this document take more than 1 MiB when compiled: make them simpler or fewer"
        ]
    );
    // Those that are too large are not tried for ever.
    let errors = rule_errors("HTTPRoute", &matches(64, r"/\w{100}"));
    let error =
        r"path.value: /\w{100} is too large a regular expression: compiled it takes more than 256 KiB";
    let wanted: Vec<String> = (0..5).map(|index| format!("matches[{index}].{error}")).collect();
    assert_eq!(errors, wanted);
}

/// Asserts that a rule of a route of this kind with each of these fields is wrong in one way.
fn assert_rule_errors(kind: &str, table: &[(&str, &str)]) {
    for (fields, error) in table {
        assert_eq!(rule_errors(kind, fields), [*error], "{fields}");
    }
}

#[test]
fn matches_of_http() {
    let long = format!("matches: [{{path: {{value: /{}}}}}]", "a".repeat(1_024));
    let long_pattern = format!(
        "matches: [{{path: {{type: RegularExpression, value: /{}}}}}]",
        "a".repeat(1_024)
    );
    let shown = format!("\"/{}\"...", "a".repeat(63));
    assert_rule_errors(
        "HTTPRoute",
        &[
            (
                "matches: [{path: {value: a}}]",
                "matches[0].path.value: a is not a path: it begins with /",
            ),
            (
                "matches: [{path: {type: Exact, value: //}}]",
                "matches[0].path.value: // has a // in it, which no path has here",
            ),
            (
                "matches: [{path: {value: /a/../b}}]",
                "matches[0].path.value: /a/../b has an element . or .. in it: write the path that it means",
            ),
            (
                "matches: [{path: {value: /a%2fb}}]",
                "matches[0].path.value: /a%2fb has an escaped / in it (%2f), which no path has here",
            ),
            (
                "matches: [{path: {value: '/a#b'}}]",
                "matches[0].path.value: /a#b is not a path: of letters, digits, -._~!$&'()*+,;=:@/ and escapes such as %20",
            ),
            (
                &long,
                &format!("matches[0].path.value: {shown} is longer than the 1024 characters of a path"),
            ),
            (
                &long_pattern,
                &format!("matches[0].path.value: {shown} is longer than 1024 characters"),
            ),
            (
                "matches: [{path: {type: RegularExpression, value: '(a'}}]",
                "matches[0].path.value: (a is not a regular expression: unclosed group",
            ),
            (
                "matches: [{path: {type: Prefix, value: /}}]",
                "matches[0].path.type: Prefix is not one of Exact, PathPrefix, RegularExpression",
            ),
            (
                "matches: [{headers: [{name: ':path', value: a}]}]",
                "matches[0].headers[0].name: :path is not a name (1 to 256 letters, digits and !#$%&'*+-.^_`|~)",
            ),
            (
                "matches: [{headers: [{name: a}]}]",
                "matches[0].headers[0].value: missing",
            ),
            (
                "matches: [{headers: [{name: a, value: ''}]}]",
                "matches[0].headers[0].value: \"\" is empty",
            ),
            (
                "matches: [{headers: [{name: a, value: ' b'}]}]",
                "matches[0].headers[0].value: \" b\" is not the value of a header (1 to 4096 visible characters of ASCII, blanks neither first nor last)",
            ),
            (
                "matches: [{headers: [{name: a, value: b}, {name: a, value: c}]}]",
                "matches[0].headers[1].name: a is in the list already",
            ),
            (
                "matches: [{headers: [{name: a, type: Prefix, value: b}]}]",
                "matches[0].headers[0].type: Prefix is not one of Exact, RegularExpression",
            ),
            (
                "matches: [{queryParams: [{name: a, value: b}, {name: a, value: c}]}]",
                "matches[0].queryParams[1].name: a is in the list already",
            ),
            (
                "matches: [{query: []}]",
                "matches[0].query: unknown field (known here: path, method, headers, queryParams)",
            ),
        ],
    );
    // Parameters are told apart by case, and hold what headers cannot.
    let rule = rule("matches: [{queryParams: [{name: a, value: ' \u{e9}'}, {name: A, value: c}]}]");
    assert_eq!(rule.matches[0].query.len(), 2);
}

#[test]
fn matches_of_grpc() {
    let any = "matches[0].method: matches every call: give a service, a method or both, or leave it out";
    assert_rule_errors(
        "GRPCRoute",
        &[
            ("matches: [{method: {}}]", any),
            ("matches: [{method: {type: Exact, service: '', method: ''}}]", any),
            (
                "matches: [{method: {service: a..b}}]",
                "matches[0].method.service: a..b is not the name of a gRPC service, such as shop.v1.Cart",
            ),
            (
                "matches: [{method: {service: a/b}}]",
                "matches[0].method.service: a/b is not the name of a gRPC service, such as shop.v1.Cart",
            ),
            (
                "matches: [{method: {method: 0a}}]",
                "matches[0].method.method: 0a is not the name of a gRPC method, such as AddItem",
            ),
            (
                "matches: [{method: {type: RegularExpression, method: '['}}]",
                "matches[0].method.method: [ is not a regular expression: unclosed character class",
            ),
            (
                "filters: [{type: URLRewrite, urlRewrite: {hostname: a.b}}]",
                "filters[0].type: URLRewrite is not one of RequestHeaderModifier, ResponseHeaderModifier, RequestMirror",
            ),
            (
                "retry: {attempts: 1}",
                "retry: a GRPCRoute has none: say it in a TrafficPolicy",
            ),
        ],
    );
}

#[test]
fn filters() {
    let mirror = "requestMirror: {backendRef: {name: a, port: 1}";
    let table = [
        ("{type: RequestMirror}".to_owned(), ".requestMirror: missing"),
        (
            format!("{{type: RequestMirror, {mirror}}}, cors: {{}}}}"),
            ".cors: is of a filter of type CORS, not RequestMirror",
        ),
        (
            format!("{{type: RequestRedirect, requestRedirect: {{}}, {mirror}}}}}"),
            ".requestMirror: is of a filter of type RequestMirror, not RequestRedirect",
        ),
        (
            "{type: ExtensionRef, extensionRef: {group: a, kind: b, name: c}}".to_owned(),
            ".type: ExtensionRef is not supported: the request would pass without it",
        ),
        (
            "{type: ExternalAuth, externalAuth: {protocol: HTTP}}".to_owned(),
            ".type: ExternalAuth is not supported: the request would pass without it",
        ),
        (
            format!("{{type: RequestMirror, {mirror}, percent: 101}}}}"),
            ".requestMirror.percent: 101 is not a percentage (0 to 100)",
        ),
        (
            format!("{{type: RequestMirror, {mirror}, percent: 1, fraction: {{numerator: 1}}}}}}"),
            ".requestMirror.fraction: excludes percent: one of them says how many are copied",
        ),
        (
            format!("{{type: RequestMirror, {mirror}, fraction: {{numerator: 3, denominator: 2}}}}}}"),
            ".requestMirror.fraction.numerator: 3 of 2 is more than all",
        ),
        (
            format!("{{type: RequestMirror, {mirror}, fraction: {{numerator: 0, denominator: 0}}}}}}"),
            ".requestMirror.fraction.denominator: 0 is not a denominator (1 to 2147483647)",
        ),
        (
            "{type: RequestMirror, requestMirror: {backendRef: {name: a}}}".to_owned(),
            ".requestMirror.backendRef.port: missing",
        ),
        (
            "{type: URLRewrite, urlRewrite: {}}".to_owned(),
            ".urlRewrite: is empty: give a hostname, a path or both",
        ),
        (
            "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/a?b'}}}".to_owned(),
            ".urlRewrite.path.replaceFullPath: /a?b is not a path: of letters, digits, -._~!$&'()*+,;=:@/ and escapes such as %20",
        ),
        (
            "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath}}}".to_owned(),
            ".urlRewrite.path.replaceFullPath: missing",
        ),
        (
            "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /, replacePrefixMatch: /}}}".to_owned(),
            ".urlRewrite.path.replacePrefixMatch: is of the type ReplacePrefixMatch, not ReplaceFullPath",
        ),
        (
            "{type: URLRewrite, urlRewrite: {hostname: '*.a'}}".to_owned(),
            ".urlRewrite.hostname: *.a is not a DNS name (at most 253 of a-z, 0-9, '-' and '.', a letter or digit first and last and beside each dot)",
        ),
        (
            "{type: RequestRedirect, requestRedirect: {scheme: ftp}}".to_owned(),
            ".requestRedirect.scheme: ftp is not one of http, https",
        ),
        (
            "{type: RequestRedirect, requestRedirect: {statusCode: 304}}".to_owned(),
            ".requestRedirect.statusCode: 304 is not one of 301, 302, 303, 307, 308",
        ),
        (
            "{type: RequestRedirect, requestRedirect: {statusCode: 200}}".to_owned(),
            ".requestRedirect.statusCode: 200 is not the status of a redirect (301 to 308)",
        ),
        (
            "{type: RequestRedirect, requestRedirect: {port: 0}}".to_owned(),
            ".requestRedirect.port: 0 is not a port (1 to 65535)",
        ),
    ];
    for (filter, error) in table {
        let errors = rule_errors("HTTPRoute", &format!("filters: [{filter}]"));
        assert_eq!(errors, [format!("filters[0]{error}")], "{filter}");
    }
}

#[test]
fn filters_that_exclude_each_other() {
    let set = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}";
    let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {hostname: a.b}}";
    let redirect = "{type: RequestRedirect, requestRedirect: {}}";
    let exclude = "type: a RequestRedirect and a URLRewrite exclude each other";
    for (filters, error) in [
        (format!("{set}, {set}"), "filters[1].type: there is a RequestHeaderModifier already, and only RequestMirror may be there twice".to_owned()),
        (format!("{rewrite}, {mirror}, {redirect}"), format!("filters[2].{exclude}")),
        (format!("{redirect}, {rewrite}"), format!("filters[1].{exclude}")),
    ] {
        assert_eq!(rule_errors("HTTPRoute", &format!("filters: [{filters}]")), [error], "{filters}");
        // Of a backend as well.
        let backend = format!("backendRefs: [{{name: a, port: 1, filters: [{filters}]}}]");
        assert_eq!(rule_errors("HTTPRoute", &backend).len(), 1, "{filters}");
    }
    assert_eq!(
        rule(&format!("filters: [{mirror}, {set}, {mirror}, {rewrite}]"))
            .filters
            .len(),
        4
    );
    let used = format!("filters: [{redirect}], backendRefs: [{{name: a, port: 1}}]");
    assert_eq!(
        rule_errors("HTTPRoute", &used),
        ["backendRefs: would never be used: the rule redirects every request"]
    );
}

#[test]
fn a_prefix_is_replaced_where_there_is_one() {
    let prefix = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /a}";
    let rewrite = format!("{{type: URLRewrite, urlRewrite: {{{prefix}}}}}");
    let redirect = format!("{{type: RequestRedirect, requestRedirect: {{{prefix}}}}}");
    let error = "there is no one prefix to replace: the rule needs exactly one match, of type PathPrefix";
    for matches in [
        "[{path: {type: Exact, value: /}}]",
        "[{path: {value: /a}}, {path: {value: /b}}]",
        "[{path: {type: RegularExpression, value: /}}]",
    ] {
        let errors = rule_errors("HTTPRoute", &format!("matches: {matches}, filters: [{rewrite}]"));
        assert_eq!(
            errors,
            [format!("filters[0].urlRewrite.path.replacePrefixMatch: {error}")]
        );
        let errors = rule_errors("HTTPRoute", &format!("matches: {matches}, filters: [{redirect}]"));
        assert_eq!(
            errors,
            [format!(
                "filters[0].requestRedirect.path.replacePrefixMatch: {error}"
            )]
        );
        let backend =
            format!("matches: {matches}, backendRefs: [{{name: a, port: 1, filters: [{rewrite}]}}]");
        let errors = rule_errors("HTTPRoute", &backend);
        assert_eq!(
            errors,
            [format!(
                "backendRefs[0].filters[0].urlRewrite.path.replacePrefixMatch: {error}"
            )]
        );
    }
    rule(&format!("filters: [{rewrite}]"));
    rule(&format!(
        "matches: [{{path: {{value: /a}}, method: GET}}], filters: [{rewrite}]"
    ));
}

#[test]
fn headers_that_are_not_for_routes() {
    let change = |fields: &str| {
        format!("filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{{fields}}}}}]")
    };
    let at = |rest: &str| format!("filters[0].requestHeaderModifier.{rest}");
    let framing = "frames the message or the connection: it is the proxy's to write";
    for name in [
        "Content-Length",
        "transfer-encoding",
        "connection",
        "te",
        "upgrade",
        "keep-alive",
    ] {
        let set = change(&format!("set: [{{name: {name}, value: a}}]"));
        assert_eq!(
            rule_errors("HTTPRoute", &set),
            [at(&format!("set[0].name: {name} {framing}"))]
        );
        let remove = change(&format!("remove: [{name}]"));
        assert_eq!(
            rule_errors("GRPCRoute", &remove),
            [at(&format!("remove[0]: {name} {framing}"))]
        );
    }
    for (fields, error) in [
        (
            "add: [{name: host, value: a}]",
            "add[0].name: host is not changed as a header: use a URLRewrite filter with a hostname",
        ),
        (
            "set: [{name: weft-caller, value: a}]",
            "set[0].name: weft-caller is the mesh's own: headers that begin with weft- are not for routes",
        ),
        (
            "set: [{name: A, value: b}], remove: [a]",
            "remove[0]: a is changed already: one filter changes a header once",
        ),
        (
            "add: [{name: a, value: b}, {name: a, value: c}]",
            "add[1].name: a is changed already: one filter changes a header once",
        ),
        (
            "set: [{name: a, value: \"b\\r\\nc: d\"}]",
            "set[0].value: \"b\\r\\nc: d\" is not the value of a header (1 to 4096 visible characters of ASCII, blanks neither first nor last)",
        ),
    ] {
        assert_eq!(rule_errors("HTTPRoute", &change(fields)), [at(error)], "{fields}");
    }
}

#[test]
fn backends_and_times() {
    let hint = "requests are sent to Services (group: \"\", kind: Service)";
    assert_rule_errors(
        "HTTPRoute",
        &[
            ("backendRefs: [{name: a}]", "backendRefs[0].port: missing"),
            ("backendRefs: [{port: 1}]", "backendRefs[0].name: missing"),
            (
                "backendRefs: [{name: a.b, port: 1}]",
                "backendRefs[0].name: a.b is not a DNS label (1 to 63 of a-z, 0-9 and '-', a dash neither first nor last)",
            ),
            (
                "backendRefs: [{name: a, port: 1, kind: ServiceImport, group: multicluster.x-k8s.io}]",
                &format!("backendRefs[0].kind: ServiceImport is not supported here: {hint}"),
            ),
            (
                "backendRefs: [{name: a, port: 1, group: core}]",
                &format!("backendRefs[0].group: core has no Service that is known here: {hint}"),
            ),
            (
                "backendRefs: [{name: a, port: 1, weight: -1}]",
                "backendRefs[0].weight: -1 is not a weight (0 to 1000000)",
            ),
            (
                "backendRefs: [{name: a, port: 1, weight: 1000001}]",
                "backendRefs[0].weight: 1000001 is not a weight (0 to 1000000)",
            ),
            (
                "backendRefs: [{name: a, port: 1, weight: 0}, {name: b, port: 1, weight: 0}]",
                "backendRefs: no weight is above 0: the requests would go nowhere",
            ),
            (
                "timeouts: {request: 1s, backendRequest: 1001ms}",
                "timeouts.backendRequest: is longer than that of the request, of which it is a part",
            ),
            (
                "timeouts: {request: -1s}",
                "timeouts.request: -1s is not a duration, such as 30s, 500ms or 1m30s",
            ),
            (
                "timeouts: {idle: 1s}",
                "timeouts.idle: unknown field (known here: request, backendRequest)",
            ),
            (
                "retry: {codes: [503, 503]}",
                "retry.codes[1]: 503 is in the list already",
            ),
            (
                "retry: {codes: [399]}",
                "retry.codes[0]: 399 is not a status of an error (400 to 599)",
            ),
            (
                "retry: {attempts: 11}",
                "retry.attempts: 11 is not a number of tries after the first (0 to 10)",
            ),
            (
                "sessionPersistence: {}",
                "sessionPersistence: session persistence is not supported: a TrafficPolicy with a consistent hash keeps clients at an endpoint",
            ),
        ],
    );
    let rule = rule("backendRefs: [{name: a, port: 1, weight: 0}, {name: b, port: 1, weight: 1000000}]");
    assert_eq!(
        rule.backends.iter().map(|backend| backend.weight).sum::<u32>(),
        1_000_000
    );
}

#[test]
fn when_a_route_was_made_counts() {
    let text = |created: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, creationTimestamp: {created}}}\nspec: {{{PARENT}}}\n"
        )
    };
    assert_eq!(route(&text("null")).created, None);
    assert_eq!(route(&text("2026-01-31T12:00:00Z")).created, Some(1_769_860_800));
    assert_eq!(
        parse(&text("1.1.2026")),
        Err(vec![
            "3: metadata.creationTimestamp: 1.1.2026 is not a moment, such as 2026-01-31T12:00:00Z"
                .to_owned()
        ])
    );
    // It is kept with the document, as other bookkeeping is not.
    let namespace = "shop".parse().unwrap();
    let document = |created: &str| {
        let sources = [Source::new("m", text(created))];
        split(&sources, &namespace).unwrap().remove(0).document
    };
    assert!(
        document("2026-01-31T12:00:00Z")
            .json
            .contains(r#""creationTimestamp":"2026-01-31T12:00:00Z""#)
    );
    assert!(!document("null").json.contains("creationTimestamp"));
}
