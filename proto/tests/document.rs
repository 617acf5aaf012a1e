//! A document says the same as YAML, as JSON and as the model.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use proptest::prelude::*;
use serde_json::{Value, json};
use weft_proto::Source;
use weft_proto::document::{Document, split};
use weft_proto::names::DnsLabel;

const WEB: &str = "
apiVersion: v1
kind: Service
metadata:
  name: web
  uid: 5d8c1c3e
  resourceVersion: \"123\"
  generation: 4
  creationTimestamp: null
  managedFields: [{manager: kubectl}]
  annotations: {note: \"yes\"}
spec:
  type: ClusterIP
  selector: {app: web}
  ports:
  - port: 80
    targetPort: http
status: {loadBalancer: {}}
";

fn shop() -> DnsLabel {
    DnsLabel::parse("shop").unwrap()
}

fn split_one(text: &str) -> Result<Document, Vec<String>> {
    let sources = [Source::new("m.yaml", text)];
    let found = split(&sources, &shop());
    found
        .map(|found| found.into_iter().next().unwrap().document)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn bookkeeping_is_left_out() {
    let document = split_one(WEB).unwrap();
    assert_eq!(
        &*document.json,
        "{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"annotations\":{\"note\":\"yes\"},\"name\":\"web\",\
         \"namespace\":\"shop\"},\"spec\":{\"ports\":[{\"port\":80,\"targetPort\":\"http\"}],\"selector\":{\"app\":\"web\"},\
         \"type\":\"ClusterIP\"}}"
    );
    assert_eq!(
        document.to_yaml().unwrap(),
        "apiVersion: v1\nkind: Service\nmetadata:\n  annotations:\n    note: \"yes\"\n  name: web\n  namespace: shop\n\
         spec:\n  ports:\n  - port: 80\n    targetPort: http\n  selector:\n    app: web\n  type: ClusterIP\n"
    );
    // One form: from itself, from its YAML, with the namespace said or not.
    for again in [
        &document.json,
        &*document.to_yaml().unwrap(),
        &WEB.replace("uid:", "namespace: shop\n  uid:"),
    ] {
        assert_eq!(split_one(again).as_ref(), Ok(&document));
    }
    assert_eq!(document.parse().unwrap().source.as_ref(), "Service shop/web");
}

#[test]
fn documents_of_several_sources() {
    let other = WEB.replace("name: web", "name: db, namespace: bank").replace(
        "metadata:\n  name: db, namespace: bank",
        "metadata:\n  namespace: bank\n  name: db",
    );
    let config = "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh, namespace: }\nspec: {trustDomain: a}\n";
    let sources = [
        Source::new("a.yaml", format!("---\n---\n{WEB}---{other}")),
        Source::new("empty.yaml", "# nothing\n"),
        Source::new("c.yaml", config),
    ];
    let found = split(&sources, &shop()).unwrap();
    let keys: Vec<String> = found.iter().map(|found| found.document.key.to_string()).collect();
    assert_eq!(keys, ["Service shop/web", "Service bank/db", "MeshConfig mesh"]);
    assert_eq!(
        &*found.last().unwrap().document.json,
        "{\"apiVersion\":\"weft.dev/v1alpha1\",\"kind\":\"MeshConfig\",\"metadata\":{\"name\":\"mesh\"},\
         \"spec\":{\"trustDomain\":\"a\"}}"
    );
    for found in &found {
        assert_eq!(found.document.parse().unwrap().model, found.parsed.model);
    }
    let twice = [Source::new("a.yaml", WEB), Source::new("b.yaml", WEB)];
    let errors: Vec<String> = split(&twice, &shop())
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        errors,
        ["b.yaml:5: metadata.name: the Service shop/web is in a.yaml:5 already"]
    );
    assert!(split(&[], &shop()).unwrap().is_empty());
}

#[test]
fn an_error_of_the_json_is_put_where_the_yaml_has_it() {
    let sources = [Source::new(
        "a.yaml",
        format!("{WEB}---{}", WEB.replace("name: web", "name: db")),
    )];
    let found = split(&sources, &shop()).unwrap();
    let error = |file: &str| weft_proto::DocumentError {
        file: file.into(),
        line: 0,
        column: 0,
        path: "spec.ports[0].targetPort".into(),
        message: "is bad".into(),
    };
    let db = found.last().unwrap();
    assert_eq!(
        db.placed(error("Service shop/db")).to_string(),
        "a.yaml:35: spec.ports[0].targetPort: is bad"
    );
    assert_eq!(db.placed(error("Service shop/web")), error("Service shop/web"));
}

#[test]
fn what_json_would_change_is_refused() {
    for (value, error) in [
        (
            "0x1F",
            "0x1F is no number that JSON keeps as it is: write it in decimal digits, or put it in quotes",
        ),
        (
            "007",
            "007 is no number that JSON keeps as it is: write it in decimal digits, or put it in quotes",
        ),
        (
            "1_000",
            "1_000 is no number that JSON keeps as it is: write it in decimal digits, or put it in quotes",
        ),
        (
            ".inf",
            ".inf is no number that JSON keeps as it is: write it in decimal digits, or put it in quotes",
        ),
        (
            "1e999",
            "1e999 is no number that JSON keeps as it is: write it in decimal digits, or put it in quotes",
        ),
        (
            "123456789012345678901234567890",
            "123456789012345678901234567890 is no number that JSON keeps as it is: write it in decimal digits, or put it in quotes",
        ),
        (
            "Yes",
            "Yes is a boolean to some: write true or false, or put it in quotes",
        ),
    ] {
        let text = WEB.replace("- port: 80", &format!("- port: 80\n    nodePort: {value}"));
        assert_eq!(
            split_one(&text),
            Err(vec![format!("m.yaml:17: spec.ports[0].nodePort: {error}")]),
            "{value}"
        );
    }
    for value in [
        "0",
        "-1",
        "18446744073709551615",
        "1.5",
        "true",
        "~",
        "\"0x1F\"",
        "text",
    ] {
        let text = WEB.replace("- port: 80", &format!("- port: 80\n    nodePort: {value}"));
        split_one(&text).unwrap();
    }
}

#[test]
fn a_document_is_what_its_key_says() {
    let mut document = split_one(WEB).unwrap();
    document.key = "Service shop/db".parse().unwrap();
    assert_eq!(
        document.parse().unwrap_err().first().unwrap().to_string(),
        "Service shop/db: metadata: the document calls itself Service shop/web"
    );
    document.json = "{\"kind\"".into();
    assert!(document.parse().is_err() && document.value().is_err() && document.to_yaml().is_err());
    document.json = "".into();
    let error = document.parse().unwrap_err().first().unwrap().to_string();
    assert_eq!(error, "Service shop/db: the file is empty");
}

/// Strings that could be taken for something else, or that cannot stand in YAML as they are.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}",
        "\\PC{0,8}",
        prop::collection::vec(any::<char>(), 0..8).prop_map(|characters| characters.into_iter().collect()),
        prop::sample::select(vec![
            "",
            "~",
            "null",
            "true",
            "yes",
            "off",
            "y",
            "N",
            "0",
            "-1",
            "1.5",
            "1e3",
            "0x1F",
            "1_000",
            ".inf",
            "2001-01-01",
            "12:30:45",
            "a: b",
            "a #b",
            "- a",
            "? a",
            "{a",
            "[a",
            "*a",
            "&a",
            "!a",
            "|",
            ">",
            "%a",
            "@a",
            "`a",
            "'a",
            "\"a",
            "a:",
            ":a",
            "---",
            "...",
            " a",
            "a ",
            "a\nb",
            "a\r\nb\n",
            "\t",
            "\u{0}",
            "\u{7f}",
            "\u{85}",
            "\u{2028}",
            "\u{feff}",
            "\u{feff}a",
            "\u{fffe}",
            "\u{1f980}",
            "\u{e0001}",
            "\u{202e}a",
            "=",
            "<<",
            "a\\b",
            "/",
            "http://a.b:80/c?d",
            "::1",
            "fd00::1",
            "10.0.0.0/8",
        ])
        .prop_map(str::to_owned),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    scalar.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..5)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

/// A document in which that stands in a field that is not read, as JSON in which nothing is left as it is that can
/// be escaped: so YAML reads it whatever it is.
fn document_with(value: &Value) -> String {
    let document = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "nodePort": value}]},
    });
    let escaped = |character: char| match character {
        ' '..='~' | '\u{10000}'.. => character.to_string(),
        _ => format!("\\u{:04x}", u32::from(character)),
    };
    document.to_string().chars().map(escaped).collect()
}

proptest! {
    #[test]
    fn json_and_yaml_come_back(value in value()) {
        let ours = split_one(&document_with(&value)).unwrap();
        prop_assert_eq!(ours.json.lines().count(), 1);
        // A terminal and any reader of YAML take it for what it is.
        let hidden = |character: char| character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{feff}');
        prop_assert!(!ours.json.contains(hidden), "{}", ours.json.escape_unicode());
        prop_assert_eq!(&serde_json::from_str::<Value>(&ours.json).unwrap()["spec"]["ports"][0]["nodePort"], &value);
        prop_assert_eq!(&ours.value().unwrap()["spec"]["ports"][0]["nodePort"], &value);
        prop_assert_eq!(&split_one(&ours.json), &Ok(ours.clone()));
        let yaml = ours.to_yaml().unwrap();
        prop_assert_eq!(&split_one(&yaml), &Ok(ours), "{}", yaml);
    }
}

#[test]
fn a_document_says_when_it_was_made_if_its_age_counts() {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web}\nspec:\n  parentRefs: [{group: '', kind: Service, name: web}]\n";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n";
    let sources = [Source::new("a.yaml", format!("{route}---\n{service}"))];
    let found = split(&sources, &DnsLabel::default_namespace()).unwrap();
    let made: Vec<_> = found
        .iter()
        .map(|found| found.document.made_at(1_769_860_800))
        .collect();
    assert!(
        made[0]
            .json
            .contains(r#""creationTimestamp":"2026-01-31T12:00:00Z""#),
        "{}",
        made[0].json
    );
    assert_eq!(made[0].made_at(0).made_at(1_769_860_800), made[0]);
    assert_eq!(made[1], found[1].document);
}
