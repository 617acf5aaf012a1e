//! Each rule of routes and grants, with the exact error that breaking it gives.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::Duration;
use weft_proto::Source;
use weft_proto::model::Route;
use weft_proto::model::route::{
    Filter, Hostname, PathChange, PathMatch, Redirect, RouteKind, RouteRule, Share, ValueMatch,
};
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
