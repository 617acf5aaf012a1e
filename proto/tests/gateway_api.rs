//! The readers of routes and grants against the schemas that Gateway API publishes, as the `gateway-api` crate has
//! them, experimental fields included.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod strategies;

use gateway_api::experimental::grpcroutes::{GrpcRoute, GrpcRouteSpec};
use gateway_api::experimental::httproutes::{HttpRoute, HttpRouteSpec};
use gateway_api::referencegrants::{ReferenceGrant, ReferenceGrantSpec};
use proptest::prelude::*;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use weft_proto::parse::parse_document;
use weft_proto::render;
use weft_proto::{DocumentError, Source};

/// The schema of a spec, with all that it refers to in its place.
fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// A document with this spec.
fn document(kind: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "a", "namespace": "b"},
        "spec": spec,
    })
}

fn errors(kind: &str, spec: &Value) -> Vec<DocumentError> {
    let source = Source::new("m", document(kind, spec).to_string());
    parse_document(&source).err().unwrap_or_default()
}

/// A property of a schema.
struct Property {
    /// The names that lead there; `[]` is an item.
    path: Vec<String>,
    /// The words that it may be, if it is one of several.
    words: Vec<String>,
}

/// What a schema says, whatever wraps it: a field that may be null is one of two.
fn unwrapped(schema: &Value) -> &Value {
    let says = |one: &&Value| one.get("properties").is_some() || one.get("enum").is_some();
    ["anyOf", "allOf", "oneOf"]
        .iter()
        .find_map(|name| schema.get(name)?.as_array()?.iter().find(says))
        .map_or(schema, unwrapped)
}

/// Every property of a schema, at any depth.
fn properties(schema: &Value, path: &[String], found: &mut Vec<Property>) {
    let schema = unwrapped(schema);
    if let Some(items) = schema.get("items") {
        properties(items, &[path, &["[]".to_owned()]].concat(), found);
    }
    let Some(fields) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    for (name, schema) in fields {
        let path = [path, std::slice::from_ref(name)].concat();
        let words = unwrapped(schema).get("enum").and_then(Value::as_array);
        let words = words
            .into_iter()
            .flatten()
            .filter_map(|word| word.as_str().map(str::to_owned));
        found.push(Property {
            path: path.clone(),
            words: words.collect(),
        });
        properties(schema, &path, found);
    }
}

/// A value at the end of a path, and around it nothing but what leads there.
fn at(path: &[String], value: Value) -> Value {
    match path {
        [] => value,
        [first, rest @ ..] if first == "[]" => json!([at(rest, value)]),
        [first, rest @ ..] => {
            let mut found = json!({first: at(rest, value)});
            // What a filter, or a change of a path, holds is read by its type.
            if let Some(word) = type_of(first) {
                found["type"] = json!(word);
            }
            found
        }
    }
}

/// The type beside the field that says what it does.
fn type_of(name: &str) -> Option<&'static str> {
    Some(match name {
        "requestHeaderModifier" => "RequestHeaderModifier",
        "responseHeaderModifier" => "ResponseHeaderModifier",
        "requestMirror" => "RequestMirror",
        "requestRedirect" => "RequestRedirect",
        "urlRewrite" => "URLRewrite",
        "replaceFullPath" => "ReplaceFullPath",
        "replacePrefixMatch" => "ReplacePrefixMatch",
        // Refused whatever the type.
        "cors" | "externalAuth" | "extensionRef" => "RequestMirror",
        _ => return None,
    })
}

/// A path as errors have it.
fn shown(path: &[String]) -> String {
    path.iter()
        .fold("spec".to_owned(), |text, name| match name.as_str() {
            "[]" => text + "[0]",
            name => text + "." + name,
        })
}

/// No property of the standard is unknown: each is read, or it or what it is part of is refused by name, as `refused`
/// says. That the test looks where it thinks is shown by another name in the same place, which is unknown.
fn assert_all_known<T: JsonSchema>(kind: &str, at_least: usize, refused: &[&str]) {
    let mut found = Vec::new();
    properties(&schema::<T>(), &[], &mut found);
    assert!(found.len() >= at_least, "{kind}: {} properties", found.len());
    let mut met = BTreeSet::new();
    for Property { path, words } in &found {
        let place = shown(path);
        let spec = at(path, json!({"surely": "not this"}));
        let found = errors(kind, &spec);
        let is_unknown = |error: &DocumentError| error.message.starts_with("unknown field");
        assert!(
            !found.iter().any(|error| error.path == place && is_unknown(error)),
            "{kind}: {place} is unknown"
        );
        let refusal = refused.iter().find(|refused| {
            let is_within = place == **refused || place.starts_with(&format!("{refused}."));
            is_within
                && found
                    .iter()
                    .any(|error| error.path == **refused && is_refusal(&error.message))
        });
        if let Some(refused) = refusal {
            met.insert(*refused);
            continue;
        }
        let other = beside(&spec, path);
        let other_place = format!("{place}Of");
        assert!(
            errors(kind, &other)
                .iter()
                .any(|error| error.path == other_place && is_unknown(error)),
            "{kind}: {place} is not looked at"
        );
        for word in words {
            let found = errors(kind, &at(path, json!(word)));
            let error = found
                .iter()
                .find(|error| error.path == place && error.message.contains("is not one of"));
            assert!(error.is_none(), "{error:?}");
        }
    }
    assert_eq!(met, refused.iter().copied().collect());
}

/// Whether a message says that this is not for the mesh, and not merely that it is wrong.
fn is_refusal(message: &str) -> bool {
    message.contains("not supported") || message.starts_with("is of a filter of type")
}

/// A spec with a field more, called almost as the one that a path leads to, beside it.
fn beside(spec: &Value, path: &[String]) -> Value {
    let mut spec = spec.clone();
    let (last, parents) = path.split_last().unwrap();
    let place = parents.iter().fold(&mut spec, |value, name| match name.as_str() {
        "[]" => &mut value[0],
        name => &mut value[name],
    });
    place[format!("{last}Of")] = json!(1);
    spec
}

#[test]
fn no_property_of_the_standard_is_unknown() {
    assert_all_known::<HttpRouteSpec>(
        "HTTPRoute",
        180,
        &[
            "spec.rules[0].backendRefs[0].filters[0].cors",
            "spec.rules[0].backendRefs[0].filters[0].extensionRef",
            "spec.rules[0].backendRefs[0].filters[0].externalAuth",
            "spec.rules[0].filters[0].cors",
            "spec.rules[0].filters[0].extensionRef",
            "spec.rules[0].filters[0].externalAuth",
            "spec.rules[0].sessionPersistence",
            "spec.useDefaultGateways",
        ],
    );
    assert_all_known::<GrpcRouteSpec>(
        "GRPCRoute",
        80,
        &[
            "spec.rules[0].backendRefs[0].filters[0].extensionRef",
            "spec.rules[0].filters[0].extensionRef",
            "spec.rules[0].sessionPersistence",
            "spec.useDefaultGateways",
        ],
    );
    assert_all_known::<ReferenceGrantSpec>("ReferenceGrant", 8, &[]);
}

/// A document without the fields that are null, which are as good as not there.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        _ => value.clone(),
    }
}

/// The published type has all of a document that is read here, and of what is rendered of it.
fn assert_has_all<T: DeserializeOwned + Serialize>(document: &Value) {
    let parsed = parse_document(&Source::new("m", document.to_string())).unwrap();
    let rendered = serde_json::from_str(&render::render(&parsed).json).unwrap();
    for document in [without_nulls(document), rendered] {
        let typed: T =
            serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{error}\n{document}"));
        let again = serde_json::to_value(typed).unwrap();
        // The fields that it does not know are lost.
        assert_eq!(again["spec"], document["spec"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_read_here_is_of_the_standard(
        http in strategies::http_route(),
        grpc in strategies::grpc_route(),
        grant in strategies::grant(),
    ) {
        assert_has_all::<HttpRoute>(&http);
        assert_has_all::<GrpcRoute>(&grpc);
        assert_has_all::<ReferenceGrant>(&grant);
    }
}
