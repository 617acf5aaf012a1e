//! Routes and grants that are right, of every form that the standard has and the mesh can do.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// An `HTTPRoute`.
pub(crate) fn http_route() -> impl Strategy<Value = Value> {
    route("HTTPRoute", http_rule().boxed())
}

/// A `GRPCRoute`.
pub(crate) fn grpc_route() -> impl Strategy<Value = Value> {
    route("GRPCRoute", grpc_rule().boxed())
}

/// An object of those fields that are there.
fn object(fields: Vec<(&'static str, Option<Value>)>) -> Value {
    let fields = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(fields.collect())
}

fn maybe(strategy: impl Strategy<Value = Value>) -> impl Strategy<Value = Option<Value>> {
    prop::option::of(strategy)
}

fn text(pattern: &'static str) -> impl Strategy<Value = Value> {
    pattern.prop_map(Value::from)
}

fn list(item: impl Strategy<Value = Value>, size: std::ops::Range<usize>) -> impl Strategy<Value = Value> {
    prop::collection::vec(item, size).prop_map(Value::from)
}

fn path() -> impl Strategy<Value = String> {
    "(/[a-zA-Z0-9~!$&'()*+,;=:@_-]{1,5}|/%[013-9a-fA-F][0-9a-fA-F]){1,3}/?|/"
}

fn service() -> impl Strategy<Value = (Value, Option<Value>)> {
    (text("[a-z][a-z0-9]{0,5}"), maybe(text("[a-z0-9]{1,5}")))
}

fn target() -> impl Strategy<Value = Value> {
    (service(), 1..=u16::MAX, any::<bool>()).prop_map(|((name, namespace), port, is_explicit)| {
        object(vec![
            ("group", is_explicit.then(|| json!(""))),
            ("kind", is_explicit.then(|| json!("Service"))),
            ("name", Some(name)),
            ("namespace", namespace),
            ("port", Some(json!(port))),
        ])
    })
}

fn comparison() -> impl Strategy<Value = (Option<Value>, String)> {
    prop_oneof![
        "[!-~]([ -~]{0,8}[!-~])?".prop_map(|text| (None, text)),
        "[!-~]([ -~]{0,8}[!-~])?".prop_map(|text| (Some(json!("Exact")), text)),
        select(vec!["v[0-9]+", ".*", r"(a|b)\w?", "(?i)x"])
            .prop_map(|text| (Some(json!("RegularExpression")), text.to_owned())),
    ]
}

/// Names are told apart by their places.
fn field_matches() -> impl Strategy<Value = Value> {
    prop::collection::vec(("[A-Za-z!#$%&'*+.^_`|~-]{1,8}", comparison()), 0..4).prop_map(|items| {
        let items = items
            .into_iter()
            .enumerate()
            .map(|(place, (name, (word, value)))| {
                object(vec![
                    ("name", Some(json!(format!("{name}{place}")))),
                    ("type", word),
                    ("value", Some(json!(value))),
                ])
            });
        Value::from(items.collect::<Vec<_>>())
    })
}

fn header_change() -> impl Strategy<Value = Value> {
    let names = prop::collection::vec(("X-[A-Za-z]{1,5}", "[!-~]([ -~]{0,5}[!-~])?"), 0..6);
    names.prop_map(|names| {
        let mut lists = [Vec::new(), Vec::new(), Vec::new()];
        for (place, (name, value)) in names.into_iter().enumerate() {
            let name = format!("{name}{place}");
            lists[place % 3].push(match place % 3 {
                2 => json!(name),
                _ => json!({"name": name, "value": value}),
            });
        }
        let [set, add, remove] = lists;
        json!({"set": set, "add": add, "remove": remove})
    })
}

fn path_change(has_prefix: bool) -> impl Strategy<Value = Value> {
    (path(), any::<bool>()).prop_map(move |(path, is_prefix)| match is_prefix && has_prefix {
        true => json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": path}),
        false => json!({"type": "ReplaceFullPath", "replaceFullPath": path}),
    })
}

fn mirror() -> impl Strategy<Value = Value> {
    let share = prop_oneof![
        Just((None, None)),
        (0..=100_u32).prop_map(|percent| (Some(json!(percent)), None)),
        (0..=1_000_u32, 0..=1_000_u32).prop_map(|(numerator, more)| {
            let fraction = json!({"numerator": numerator, "denominator": numerator + more + 1});
            (None, Some(fraction))
        }),
    ];
    (target(), share).prop_map(|(target, (percent, fraction))| {
        let mirror = object(vec![
            ("backendRef", Some(target)),
            ("percent", percent),
            ("fraction", fraction),
        ]);
        json!({"type": "RequestMirror", "requestMirror": mirror})
    })
}

fn rewrite(has_prefix: bool) -> impl Strategy<Value = Value> {
    (text("[a-z]{1,5}[.]example"), maybe(path_change(has_prefix))).prop_map(|(hostname, path)| {
        let rewrite = object(vec![("hostname", Some(hostname)), ("path", path)]);
        json!({"type": "URLRewrite", "urlRewrite": rewrite})
    })
}

fn redirect(has_prefix: bool) -> impl Strategy<Value = Value> {
    let fields = (
        maybe(select(vec![json!("http"), json!("https")])),
        maybe(text("[a-z]{1,5}[.]example")),
        maybe((1..=u16::MAX).prop_map(Value::from)),
        maybe(path_change(has_prefix)),
        maybe(select(vec![
            json!(301),
            json!(302),
            json!(303),
            json!(307),
            json!(308),
        ])),
    );
    fields.prop_map(|(scheme, hostname, port, path, status)| {
        let redirect = object(vec![
            ("scheme", scheme),
            ("hostname", hostname),
            ("port", port),
            ("path", path),
            ("statusCode", status),
        ]);
        json!({"type": "RequestRedirect", "requestRedirect": redirect})
    })
}

/// Filters that a gRPC route may have as well.
fn common_filters() -> impl Strategy<Value = Vec<Value>> {
    (
        maybe(header_change()),
        maybe(header_change()),
        prop::collection::vec(mirror(), 0..3),
    )
        .prop_map(|(request, response, mut filters)| {
            filters.extend(
                request
                    .map(|change| json!({"type": "RequestHeaderModifier", "requestHeaderModifier": change})),
            );
            filters.extend(
                response.map(
                    |change| json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": change}),
                ),
            );
            filters
        })
}

fn backends(extra: BoxedStrategy<Option<Value>>) -> impl Strategy<Value = Value> {
    let backend = (
        target(),
        maybe((1..=1_000_000_u32).prop_map(Value::from)),
        common_filters(),
        extra,
    );
    let backend = backend.prop_map(|(mut target, weight, mut filters, extra)| {
        filters.extend(extra);
        target["weight"] = weight.unwrap_or(Value::Null);
        target["filters"] = Value::from(filters);
        target
    });
    list(backend, 0..3)
}

fn http_match() -> impl Strategy<Value = Value> {
    let path = prop_oneof![
        path().prop_map(|path| json!({"value": path})),
        path().prop_map(|path| json!({"type": "PathPrefix", "value": path})),
        path().prop_map(|path| json!({"type": "Exact", "value": path})),
        Just(json!({"type": "RegularExpression", "value": "/[a-z]+/x"})),
    ];
    let method = select(vec![json!("GET"), json!("POST"), json!("PATCH")]);
    (
        maybe(path),
        maybe(method),
        maybe(field_matches()),
        maybe(field_matches()),
    )
        .prop_map(|(path, method, headers, query)| {
            object(vec![
                ("path", path),
                ("method", method),
                ("headers", headers),
                ("queryParams", query),
            ])
        })
}

fn duration() -> impl Strategy<Value = Value> {
    prop_oneof![Just("0s".to_owned()), "([0-9]{1,4}(h|m|s|ms)){1,4}"].prop_map(Value::from)
}

fn http_rule() -> impl Strategy<Value = Value> {
    let prefix = path().prop_map(|path| json!([{"path": {"value": path}}])).boxed();
    let matches = any::<bool>().prop_flat_map(move |has_prefix| match has_prefix {
        true => (Just(true), prefix.clone()),
        false => (Just(false), list(http_match(), 0..3).boxed()),
    });
    let retry = (
        prop::collection::btree_set(400..=599_u16, 0..4),
        maybe((0..=10_u32).prop_map(Value::from)),
        maybe(duration()),
    );
    let retry = retry.prop_map(|(codes, attempts, backoff)| {
        object(vec![
            ("codes", Some(json!(codes))),
            ("attempts", attempts),
            ("backoff", backoff),
        ])
    });
    let timeouts = prop_oneof![
        duration().prop_map(|request| json!({"request": request})),
        duration().prop_map(|backend| json!({"backendRequest": backend})),
        Just(json!({"request": "10s", "backendRequest": "9s999ms"})),
        Just(json!({"request": "0s", "backendRequest": "1h"})),
    ];
    (matches, maybe(retry), maybe(timeouts), common_filters()).prop_flat_map(
        |((has_prefix, matches), retry, timeouts, filters)| {
            let extra = prop::option::of(rewrite(has_prefix)).boxed();
            let sends = (backends(extra.clone()), extra);
            let redirects = redirect(has_prefix).prop_map(|redirect| (json!([]), Some(redirect)));
            prop_oneof![sends, redirects].prop_map(move |(backends, extra)| {
                let filters: Vec<_> = filters.iter().cloned().chain(extra).collect();
                object(vec![
                    ("matches", Some(matches.clone())),
                    ("filters", Some(Value::from(filters))),
                    ("backendRefs", Some(backends)),
                    ("timeouts", timeouts.clone()),
                    ("retry", retry.clone()),
                ])
            })
        },
    )
}

fn grpc_rule() -> impl Strategy<Value = Value> {
    let call = prop_oneof![
        (
            "[.]?[a-z]{1,5}([.][a-zA-Z_]{1,5}){0,2}",
            maybe(text("[A-Za-z_][A-Za-z_0-9]{0,5}"))
        )
            .prop_map(|(service, method)| object(vec![
                ("service", Some(json!(service))),
                ("method", method)
            ])),
        Just(json!({"type": "Exact", "method": "Get"})),
        Just(json!({"type": "RegularExpression", "service": "shop[.].*", "method": "(Get|List).*"})),
    ];
    let found = (maybe(call), maybe(field_matches()))
        .prop_map(|(call, headers)| object(vec![("method", call), ("headers", headers)]));
    (list(found, 0..4), common_filters(), backends(Just(None).boxed())).prop_map(
        |(matches, filters, backends)| json!({"matches": matches, "filters": filters, "backendRefs": backends}),
    )
}

fn route(kind: &'static str, rule: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let parents = prop::collection::vec((maybe(text("[a-z0-9]{1,5}")), maybe(text("[a-z]{1,5}"))), 1..4);
    let hostnames = list(text("([*][.])?[a-z0-9]{1,5}([.][a-z]{1,5}){0,2}"), 0..3);
    let created = maybe(select(vec![
        json!("2026-01-31T12:00:00Z"),
        json!("1969-12-31T23:59:59.5+00:00"),
    ]));
    let rules = prop::collection::vec(rule, 1..4);
    (parents, hostnames, created, rules)
        .prop_map(move |(parents, hostnames, created, mut rules)| {
            let parents = parents
                .into_iter()
                .enumerate()
                .map(|(place, (namespace, section))| {
                    object(vec![
                        ("group", Some(json!(""))),
                        ("kind", Some(json!("Service"))),
                        ("name", Some(json!(format!("s{place}")))),
                        ("namespace", namespace),
                        ("port", (place > 0).then(|| json!(place))),
                        ("sectionName", section),
                    ])
                });
            for (place, rule) in rules.iter_mut().enumerate().skip(1) {
                rule["name"] = json!(format!("rule-{place}"));
            }
            let mut metadata = json!({"name": "web", "namespace": "shop"});
            metadata["creationTimestamp"] = created.unwrap_or(Value::Null);
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": metadata,
                "spec": {"parentRefs": parents.collect::<Vec<_>>(), "hostnames": hostnames, "rules": rules},
            })
        })
        .boxed()
}

/// A `ReferenceGrant`.
pub(crate) fn grant() -> impl Strategy<Value = Value> {
    let from = (select(vec!["HTTPRoute", "GRPCRoute"]), "[a-z0-9]{1,5}").prop_map(|(kind, namespace)| {
        json!({"group": "gateway.networking.k8s.io", "kind": kind, "namespace": namespace})
    });
    let to = maybe(text("[a-z][a-z0-9]{0,5}")).prop_map(|name| {
        object(vec![
            ("group", Some(json!(""))),
            ("kind", Some(json!("Service"))),
            ("name", name),
        ])
    });
    let version = select(vec!["v1", "v1beta1"]);
    (version, list(from, 1..4), list(to, 1..4)).prop_map(|(version, from, to)| {
        json!({
            "apiVersion": format!("gateway.networking.k8s.io/{version}"), "kind": "ReferenceGrant",
            "metadata": {"name": "grant", "namespace": "shop"}, "spec": {"from": from, "to": to},
        })
    })
}
