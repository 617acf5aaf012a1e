//! `gateway.networking.k8s.io/v1 HTTPRoute`: its rules. What it shares with `GRPCRoute` is in [`route`].

use super::fields;
use super::route::{self, Context, filter, text};
use crate::model::FieldMatch;
use crate::model::route::{Filter, PathMatch, RouteMatch, RouteRetry, RouteRule, ValueMatch};
use crate::pattern::Pattern;
use crate::reader::{Fields, Value};
use std::collections::HashSet;
use std::time::Duration;

/// The longest value of a header, or pattern for it, in characters.
const MAX_HEADER_CHARACTERS: usize = 4_096;
/// The longest value of a parameter, or pattern for it, and the longest pattern for a path.
const MAX_TEXT_CHARACTERS: usize = 1_024;
/// As of a TrafficPolicy. The standard has no limit.
const MAX_ATTEMPTS: u32 = 10;

const METHODS: [(&str, &str); 9] = [
    ("GET", "GET"),
    ("HEAD", "HEAD"),
    ("POST", "POST"),
    ("PUT", "PUT"),
    ("DELETE", "DELETE"),
    ("CONNECT", "CONNECT"),
    ("OPTIONS", "OPTIONS"),
    ("TRACE", "TRACE"),
    ("PATCH", "PATCH"),
];

/// How a value is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Exact,
    Prefix,
    Regex,
}

/// The words for how values are compared.
pub(super) const COMPARISONS: [(&str, Comparison); 2] = [
    ("Exact", Comparison::Exact),
    ("RegularExpression", Comparison::Regex),
];

/// Reads a rule.
pub(super) fn rule(value: &Value<'_>, context: &Context<'_>) -> Option<RouteRule> {
    value.mapping(|fields| {
        let name = context.rule_name(fields);
        let matches = matches(fields, context);
        let has_one_prefix = match matches.as_deref() {
            Some([one]) => matches!(one.path, Some(PathMatch::Prefix(_))),
            Some(_) => false,
            // Wrong in itself, which was said.
            None => true,
        };
        let filters = filter::filters(context, fields, has_one_prefix);
        let backends = context.backends(fields, has_one_prefix);
        if !backends.is_empty() && filters.iter().any(|filter| matches!(filter, Filter::Redirect(_))) {
            fields.error(
                "backendRefs",
                "would never be used: the rule redirects every request",
            );
        }
        let (request_timeout, backend_timeout) = timeouts(fields);
        let retry = fields.optional("retry", retry);
        fields.refuse("sessionPersistence", route::NO_SESSIONS);
        Some(RouteRule {
            name,
            matches: matches?,
            filters,
            backends,
            request_timeout,
            backend_timeout,
            retry,
        })
    })
}

/// The rule of a route that has none: it takes everything, and has nothing to send it to.
pub(super) fn default_rule() -> RouteRule {
    RouteRule {
        name: None,
        matches: vec![everything()],
        filters: Vec::new(),
        backends: Vec::new(),
        request_timeout: None,
        backend_timeout: None,
        retry: None,
    }
}

/// Headers that a request must have. Of names that differ in case alone the first counts, as the standard has it.
pub(super) fn headers(value: &Value<'_>, context: &Context<'_>) -> Option<Vec<FieldMatch>> {
    let matches = field_matches(value, context, MAX_HEADER_CHARACTERS, |text| {
        text::header_value(text).map(drop)
    })?;
    let mut seen = HashSet::new();
    let matches = matches.into_iter().map(|found| FieldMatch {
        name: found.name.to_ascii_lowercase(),
        value: found.value,
    });
    Some(matches.filter(|found| seen.insert(found.name.clone())).collect())
}

fn everything() -> RouteMatch {
    RouteMatch {
        path: Some(PathMatch::Prefix("/".to_owned())),
        ..RouteMatch::default()
    }
}

/// `matches`: none is one that matches everything.
fn matches(fields: &mut Fields<'_>, context: &Context<'_>) -> Option<Vec<RouteMatch>> {
    let has_matches = fields.has("matches");
    let matches = fields.optional("matches", |value| {
        fields::list(value, route::MAX_RULE_MATCHES, |value| {
            context.count_match();
            one_match(value, context)
        })
    });
    let matches = if has_matches { matches? } else { Vec::new() };
    Some(if matches.is_empty() {
        vec![everything()]
    } else {
        matches
    })
}

fn one_match(value: &Value<'_>, context: &Context<'_>) -> Option<RouteMatch> {
    value.mapping(|fields| {
        let has_path = fields.has("path");
        let path = fields.optional("path", |value| path(value, context));
        let method = fields.optional("method", |value| value.one_of(&METHODS));
        let headers = fields
            .optional("headers", |value| headers(value, context))
            .unwrap_or_default();
        let query = fields
            .optional("queryParams", |value| query(value, context))
            .unwrap_or_default();
        Some(RouteMatch {
            path: if has_path { Some(path?) } else { everything().path },
            grpc: None,
            method,
            headers,
            query,
        })
    })
}

fn path(value: &Value<'_>, context: &Context<'_>) -> Option<PathMatch> {
    let words = [
        ("Exact", Comparison::Exact),
        ("PathPrefix", Comparison::Prefix),
        ("RegularExpression", Comparison::Regex),
    ];
    value.mapping(|fields| {
        let has_type = fields.has("type");
        let comparison = fields.optional("type", |value| value.one_of(&words));
        let has_value = fields.has("value");
        let comparison = if has_type {
            comparison
        } else {
            Some(Comparison::Prefix)
        };
        let read = fields.optional("value", |value| match comparison? {
            Comparison::Exact => value
                .parse(|text| text::path(text).map(str::to_owned))
                .map(PathMatch::Exact),
            Comparison::Prefix => value.parse(text::prefix).map(PathMatch::Prefix),
            Comparison::Regex => {
                value.parse(|text| text::check_length(text, MAX_TEXT_CHARACTERS))?;
                context.pattern(value).map(PathMatch::Regex)
            }
        });
        if has_value {
            return read;
        }
        let root = "/".to_owned();
        Some(match comparison? {
            Comparison::Exact => PathMatch::Exact(root),
            Comparison::Prefix => PathMatch::Prefix(root),
            Comparison::Regex => PathMatch::Regex(Pattern::parse(&root).ok()?),
        })
    })
}

fn query(value: &Value<'_>, context: &Context<'_>) -> Option<Vec<FieldMatch>> {
    field_matches(value, context, MAX_TEXT_CHARACTERS, |_| Ok(()))
}

/// Names with the values that they must have. A name that is there twice is an error, as in the standard's schema.
fn field_matches(
    value: &Value<'_>,
    context: &Context<'_>,
    max_characters: usize,
    check_exact: fn(&str) -> Result<(), &'static str>,
) -> Option<Vec<FieldMatch>> {
    let mut seen = HashSet::new();
    fields::list(value, route::MAX_FIELDS, |value| {
        value.mapping(|fields| {
            let name = fields.required("name", |value| {
                let name = value.parse(|text| text::field_name(text).map(str::to_owned))?;
                if !seen.insert(name.clone()) {
                    value.error(format_args!("{name} is in the list already"));
                }
                Some(name)
            });
            let has_type = fields.has("type");
            let comparison = fields.optional("type", |value| value.one_of(&COMPARISONS));
            let comparison = if has_type {
                comparison
            } else {
                Some(Comparison::Exact)
            };
            let value = fields.required("value", |value| {
                value.parse(|text| text::check_length(text, max_characters))?;
                if comparison? == Comparison::Regex {
                    return context.pattern(value).map(ValueMatch::Regex);
                }
                let exact = value.parse(|text| check_exact(text).map(|()| text.to_owned()))?;
                Some(ValueMatch::Exact(exact))
            });
            Some(FieldMatch {
                name: name?,
                value: value?,
            })
        })
    })
}

/// `timeouts`: of the request, and of each try.
fn timeouts(fields: &mut Fields<'_>) -> (Option<Duration>, Option<Duration>) {
    let timeouts = fields.optional("timeouts", |value| {
        value.mapping(|fields| {
            let request = fields.optional("request", fields::duration);
            let backend = fields.optional("backendRequest", |value| {
                let backend = fields::duration(value)?;
                if let Some(request) = request.filter(|request| !request.is_zero())
                    && backend > request
                {
                    value.error("is longer than that of the request, of which it is a part");
                }
                Some(backend)
            });
            Some((request, backend))
        })
    });
    timeouts.unwrap_or_default()
}

fn retry(value: &Value<'_>) -> Option<RouteRetry> {
    value.mapping(|fields| {
        let mut seen = HashSet::new();
        let codes = fields.optional("codes", |value| {
            value.list(|value| {
                let code = value.integer("a status of an error", 400..=599)?;
                if !seen.insert(code) {
                    value.error(format_args!("{code} is in the list already"));
                }
                Some(code)
            })
        });
        let attempts = fields.optional("attempts", |value| {
            value.integer("a number of tries after the first", 0..=MAX_ATTEMPTS)
        });
        let backoff = fields.optional("backoff", fields::duration);
        Some(RouteRetry {
            codes: codes.unwrap_or_default(),
            attempts,
            backoff,
        })
    })
}
