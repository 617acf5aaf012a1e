//! `gateway.networking.k8s.io/v1 GRPCRoute`: its rules. What it shares with `HTTPRoute` is in [`route`].

use super::fields;
use super::http_route::{self, COMPARISONS, Comparison};
use super::route::{self, Context, filter, text};
use crate::model::route::{GrpcMatch, RouteMatch, RouteRule, ValueMatch};
use crate::reader::{Fields, Value};

/// The longest name of a service or a method, or pattern for it.
const MAX_NAME_CHARACTERS: usize = 1_024;

/// Fields of the rules of an `HTTPRoute`.
const OF_HTTP: [&str; 2] = ["timeouts", "retry"];

/// Reads a rule.
pub(super) fn rule(value: &Value<'_>, context: &Context<'_>) -> Option<RouteRule> {
    value.mapping(|fields| {
        let name = context.rule_name(fields);
        let matches = matches(fields, context);
        let filters = filter::filters(context, fields, false);
        let backends = context.backends(fields, false);
        fields.refuse("sessionPersistence", route::NO_SESSIONS);
        for name in OF_HTTP {
            fields.refuse(name, "a GRPCRoute has none: say it in a TrafficPolicy");
        }
        Some(RouteRule {
            name,
            matches,
            filters,
            backends,
            request_timeout: None,
            backend_timeout: None,
            retry: None,
        })
    })
}

/// `matches`: none is one that matches everything.
fn matches(fields: &mut Fields<'_>, context: &Context<'_>) -> Vec<RouteMatch> {
    let matches = fields.optional("matches", |value| {
        fields::list(value, route::MAX_RULE_MATCHES, |value| {
            context.count_match();
            one_match(value, context)
        })
    });
    match matches {
        Some(matches) if !matches.is_empty() => matches,
        _ => vec![RouteMatch::default()],
    }
}

fn one_match(value: &Value<'_>, context: &Context<'_>) -> Option<RouteMatch> {
    value.mapping(|fields| {
        let grpc = fields.optional("method", |value| call(value, context));
        let headers = fields
            .optional("headers", |value| http_route::headers(value, context))
            .unwrap_or_default();
        Some(RouteMatch {
            grpc,
            headers,
            ..RouteMatch::default()
        })
    })
}

/// The service and the method of a call. An empty one is any, as in the standard.
fn call(value: &Value<'_>, context: &Context<'_>) -> Option<GrpcMatch> {
    value.mapping(|fields| {
        let has_type = fields.has("type");
        let comparison = fields.optional("type", |value| value.one_of(&COMPARISONS));
        let comparison = if has_type {
            comparison
        } else {
            Some(Comparison::Exact)
        };
        let mut is_any = true;
        let mut part = |fields: &mut Fields<'_>, name, check: fn(&str) -> bool, what: &str| {
            fields.optional(name, |value| {
                let text = value.string()?;
                if text.is_empty() {
                    return None;
                }
                is_any = false;
                value.parse(|text| text::check_length(text, MAX_NAME_CHARACTERS))?;
                match comparison? {
                    Comparison::Regex => context.pattern(value).map(ValueMatch::Regex),
                    _ if check(text) => Some(ValueMatch::Exact(text.to_owned())),
                    _ => {
                        value.parse(|_| Err::<(), _>(what));
                        None
                    }
                }
            })
        };
        let service = part(
            fields,
            "service",
            is_service,
            "is not the name of a gRPC service, such as shop.v1.Cart",
        );
        let method = part(
            fields,
            "method",
            is_name,
            "is not the name of a gRPC method, such as AddItem",
        );
        if is_any {
            value.error("matches every call: give a service, a method or both, or leave it out");
        }
        Some(GrpcMatch { service, method })
    })
}

/// Names joined by dots, after a dot that may be there.
fn is_service(text: &str) -> bool {
    text.strip_prefix('.').unwrap_or(text).split('.').all(is_name)
}

/// Letters, digits and `_`, a digit not first.
fn is_name(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
}
