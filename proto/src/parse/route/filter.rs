//! Filters of rules and of backends.

use super::{Context, text};
use crate::model::Share;
use crate::model::route::{Filter, HeaderChange, Mirror, PathChange, Redirect, Rewrite, RouteKind};
use crate::parse::fields;
use crate::reader::{Fields, Value};
use std::collections::HashSet;

/// Filters of a rule or of a backend.
const MAX_FILTERS: usize = 16;
/// Headers that a filter sets, adds or removes.
const MAX_CHANGES: usize = 16;
/// The status of a redirect that names none.
const DEFAULT_STATUS: u16 = 302;

/// A type of filter, and the field that says what it does.
type Type = (&'static str, &'static str);

const REQUEST_HEADERS: Type = ("RequestHeaderModifier", "requestHeaderModifier");
const RESPONSE_HEADERS: Type = ("ResponseHeaderModifier", "responseHeaderModifier");
const MIRROR: Type = ("RequestMirror", "requestMirror");
const REDIRECT: Type = ("RequestRedirect", "requestRedirect");
const REWRITE: Type = ("URLRewrite", "urlRewrite");

/// Types that the standard has, and the mesh has not.
const REFUSED: [Type; 3] = [
    ("CORS", "cors"),
    ("ExternalAuth", "externalAuth"),
    ("ExtensionRef", "extensionRef"),
];

/// `filters`, if there are any. `has_one_prefix` is whether the rule has exactly one match, of a prefix.
pub(in crate::parse) fn filters(
    context: &Context<'_>,
    fields: &mut Fields<'_>,
    has_one_prefix: bool,
) -> Vec<Filter> {
    let mut seen = HashSet::new();
    let filters = fields.optional("filters", |value| {
        fields::list(value, MAX_FILTERS, |value| {
            value.mapping(|fields| {
                let found = filter_type(context.kind, fields, &mut seen)?;
                one(context, fields, found, has_one_prefix)
            })
        })
    });
    filters.unwrap_or_default()
}

/// The types of filters that a kind of route has, with what reads them.
fn types(kind: RouteKind) -> &'static [Type] {
    match kind {
        RouteKind::Http => &[REQUEST_HEADERS, RESPONSE_HEADERS, MIRROR, REDIRECT, REWRITE],
        RouteKind::Grpc => &[REQUEST_HEADERS, RESPONSE_HEADERS, MIRROR],
    }
}

/// `type`, which is one that goes with those `seen` so far.
fn filter_type(kind: RouteKind, fields: &mut Fields<'_>, seen: &mut HashSet<Type>) -> Option<Type> {
    let words: Vec<(&'static str, Type)> = types(kind).iter().map(|found| (found.0, *found)).collect();
    let found = fields.required("type", |value| {
        let word = value.string()?;
        if REFUSED.iter().any(|(refused, _)| *refused == word) {
            value.error(format_args!(
                "{word} is not supported: the request would pass without it"
            ));
            return None;
        }
        let found = value.one_of(&words)?;
        if !seen.insert(found) && found != MIRROR {
            value.error(format_args!(
                "there is a {word} already, and only RequestMirror may be there twice"
            ));
        }
        if seen.contains(&REDIRECT) && seen.contains(&REWRITE) && (found == REDIRECT || found == REWRITE) {
            value.error("a RequestRedirect and a URLRewrite exclude each other");
        }
        Some(found)
    });
    if found.is_none() {
        // What they say depends on the type.
        for (_, name) in types(kind).iter().chain(&REFUSED) {
            fields.accept(&[name]);
        }
    }
    found
}

/// The field that goes with the type; the others must be absent.
fn one(
    context: &Context<'_>,
    fields: &mut Fields<'_>,
    (word, name): Type,
    has_one_prefix: bool,
) -> Option<Filter> {
    for (other_word, other) in types(context.kind).iter().chain(&REFUSED) {
        if *other != name {
            fields.refuse(
                other,
                format_args!("is of a filter of type {other_word}, not {word}"),
            );
        }
    }
    fields.required(name, |value| match (word, name) {
        REQUEST_HEADERS => header_change(value).map(Filter::RequestHeaders),
        RESPONSE_HEADERS => header_change(value).map(Filter::ResponseHeaders),
        MIRROR => mirror(context, value).map(Filter::Mirror),
        REDIRECT => redirect(value, has_one_prefix).map(Filter::Redirect),
        _ => rewrite(value, has_one_prefix).map(Filter::Rewrite),
    })
}

/// One header is changed in one way.
fn header_change(value: &Value<'_>) -> Option<HeaderChange> {
    let mut seen = HashSet::new();
    let mut name = |value: &Value<'_>| {
        let name = value.parse(text::changeable_name)?;
        if !seen.insert(name.clone()) {
            value.error(format_args!(
                "{name} is changed already: one filter changes a header once"
            ));
        }
        Some(name)
    };
    value.mapping(|fields| {
        let set = fields.optional("set", |value| headers(value, &mut name));
        let add = fields.optional("add", |value| headers(value, &mut name));
        let remove = fields.optional("remove", |value| fields::list(value, MAX_CHANGES, &mut name));
        Some(HeaderChange {
            set: set.unwrap_or_default(),
            add: add.unwrap_or_default(),
            remove: remove.unwrap_or_default(),
        })
    })
}

fn headers(
    value: &Value<'_>,
    name: &mut impl FnMut(&Value<'_>) -> Option<String>,
) -> Option<Vec<(String, String)>> {
    fields::list(value, MAX_CHANGES, |value| {
        value.mapping(|fields| {
            let name = fields.required("name", &mut *name);
            let value = fields.required("value", |value| {
                value.parse(|text| text::header_value(text).map(str::to_owned))
            });
            Some((name?, value?))
        })
    })
}

fn mirror(context: &Context<'_>, value: &Value<'_>) -> Option<Mirror> {
    value.mapping(|fields| {
        let target = fields.required("backendRef", |value| {
            value.mapping(|fields| context.target(fields))
        });
        if fields.has("percent") && fields.has("fraction") {
            fields.error(
                "fraction",
                "excludes percent: one of them says how many are copied",
            );
        }
        let percent = fields.optional("percent", |value| value.integer("a percentage", 0..=100));
        let fraction = fields.optional("fraction", fraction);
        Some(Mirror {
            target: target?,
            share: fraction.or(percent.map(Share::percent)).unwrap_or(Share::ALL),
        })
    })
}

fn fraction(value: &Value<'_>) -> Option<Share> {
    const MAX: u32 = i32::MAX.unsigned_abs();
    value.mapping(|fields| {
        let denominator = fields.optional("denominator", |value| value.integer("a denominator", 1..=MAX));
        let denominator = denominator.unwrap_or(100);
        let numerator = fields.required("numerator", |value| {
            let numerator = value.integer("a numerator", 0..=MAX)?;
            if numerator > denominator {
                value.error(format_args!("{numerator} of {denominator} is more than all"));
            }
            Some(numerator)
        });
        Some(Share::new(numerator?, denominator))
    })
}

fn redirect(value: &Value<'_>, has_one_prefix: bool) -> Option<Redirect> {
    value.mapping(|fields| {
        let scheme = fields.optional("scheme", |value| {
            value.one_of(&[("http", "http"), ("https", "https")])
        });
        let hostname = fields.optional("hostname", |value| value.parse(text::host));
        let port = fields.optional("port", Value::port);
        let path = fields.optional("path", |value| path_change(value, has_one_prefix));
        let status = fields.optional("statusCode", |value| {
            let status = value.integer("the status of a redirect", 301..=308)?;
            if matches!(status, 304..=306) {
                value.error(format_args!("{status} is not one of 301, 302, 303, 307, 308"));
            }
            Some(status)
        });
        Some(Redirect {
            scheme,
            hostname,
            port,
            path,
            status: status.unwrap_or(DEFAULT_STATUS),
        })
    })
}

fn rewrite(value: &Value<'_>, has_one_prefix: bool) -> Option<Rewrite> {
    value.mapping(|fields| {
        if !fields.has("hostname") && !fields.has("path") {
            value.error("is empty: give a hostname, a path or both");
        }
        let hostname = fields.optional("hostname", |value| value.parse(text::host));
        let path = fields.optional("path", |value| path_change(value, has_one_prefix));
        Some(Rewrite { hostname, path })
    })
}

fn path_change(value: &Value<'_>, has_one_prefix: bool) -> Option<PathChange> {
    const FULL: Type = ("ReplaceFullPath", "replaceFullPath");
    const PREFIX: Type = ("ReplacePrefixMatch", "replacePrefixMatch");
    value.mapping(|fields| {
        let found = fields.required("type", |value| {
            value.one_of(&[(FULL.0, FULL), (PREFIX.0, PREFIX)])
        });
        let Some((word, name)) = found else {
            fields.accept(&[FULL.1, PREFIX.1]);
            return None;
        };
        for (other_word, other) in [FULL, PREFIX].into_iter().filter(|(_, other)| *other != name) {
            fields.refuse(other, format_args!("is of the type {other_word}, not {word}"));
        }
        fields.required(name, |value| {
            if (word, name) == FULL {
                return value
                    .parse(|text| text::path(text).map(str::to_owned))
                    .map(PathChange::Full);
            }
            if !has_one_prefix {
                value.error(
                    "there is no one prefix to replace: the rule needs exactly one match, of type PathPrefix",
                );
            }
            // Without anything in its place the rest begins the path.
            value
                .parse(|text| {
                    if text.is_empty() {
                        Ok("/".to_owned())
                    } else {
                        text::prefix(text)
                    }
                })
                .map(PathChange::Prefix)
        })
    })
}
