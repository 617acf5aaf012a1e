//! A thousand documents that went wrong, one after the other put into a mesh: none is taken in half, and each error
//! says where it is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use weft_proto::document::{Document, split};
use weft_proto::error::MAX_ERRORS;
use weft_proto::mesh_set::{Change, MeshSet, Unserved};
use weft_proto::names::DnsLabel;
use weft_proto::parse::parse_document;
use weft_proto::{DocumentError, Source};

/// How many there are, of each of the documents.
const MUTATIONS: usize = 400;

/// Documents that are right, alone and with each other.
fn documents() -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "mesh"},
            "spec": {"trustDomain": "mesh.example", "meshRanges": ["10.0.0.0/8"], "serviceRanges": ["10.96.0.0/12"],
                "egress": "allow", "inbound": "strict", "unmeshed": "deny", "authorization": "authenticated"},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "selector": {"app": "web"}, "ports": [
                {"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"},
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53}]},
        }),
        json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "Workload",
            "metadata": {"name": "web-0", "namespace": "shop", "labels": {"app": "web", "a/b": ""}},
            "spec": {"uid": "u-1", "address": "10.0.0.1", "meshPort": 15008, "serviceAccount": "web",
                "locality": {"region": "eu", "zone": "eu-1", "subzone": "r1"},
                "ports": [{"name": "http", "port": 8080, "protocol": "http"}, {"name": "dns", "port": 53, "protocol": "udp"}]},
        }),
        json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "ExternalService", "metadata": {"name": "bank", "namespace": "shop"},
            "spec": {"hosts": ["api.example.com"], "ports": [{"name": "https", "port": 443, "appProtocol": "tls"}],
                "resolution": "static", "endpoints": ["192.0.2.1"]},
        }),
        http_route(),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute", "metadata": {"name": "calls", "namespace": "shop"},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "web", "sectionName": "http"}],
                "rules": [{
                    "matches": [
                        {"method": {"service": "shop.v1.Cart", "method": "AddItem"}},
                        {"method": {"type": "RegularExpression", "method": "Get.*"}, "headers": [{"name": "x-a", "value": "b"}]}],
                    "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "web", "port": 80}, "percent": 1}}],
                    "backendRefs": [{"name": "web", "port": 80}]}]},
        }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
            "metadata": {"name": "grant", "namespace": "shop"},
            "spec": {
                "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "lab"}],
                "to": [{"group": "", "kind": "Service", "name": "web"}, {"group": "", "kind": "Service"}]},
        }),
        traffic_policy(),
    ]
}

fn traffic_policy() -> Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "2026-01-31T12:00:00Z"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "web", "sectionName": "http"}],
            "loadBalancing": {
                "algorithm": "ConsistentHash", "consistentHash": {"header": "x-a"}, "slowStart": "30s",
                "locality": {"mode": "Prefer", "overflow": 70}, "subset": {"matchLabels": {"version": "v1"}}},
            "retries": {
                "attempts": 2, "retryOn": ["ConnectFailure", "ServerError"], "codes": [429], "grpcStatus": ["unavailable", 8],
                "nonIdempotent": true, "perTryTimeout": "1s", "backoff": {"base": "25ms", "max": "1s"},
                "budget": {"percent": 20, "minPerSecond": 3}, "replayBytes": 1024, "hedging": {"after": "1s", "max": 2}},
            "limits": {
                "connections": 10, "requests": 20, "queue": {"length": 5, "timeout": "1s"},
                "endpoint": {"connections": 3, "requests": 4},
                "rates": [{"requests": 5, "per": "1s", "burst": 6, "by": "Caller"}]},
            "outlierEjection": {
                "consecutiveFailures": 5, "successRate": 80, "latencyFactor": 4, "interval": "10s", "minRequests": 5,
                "time": {"base": "10s", "max": "1m"}, "maxPercent": 50, "panicPercent": 30},
            "timeouts": {"request": "10s", "idle": "1m", "connect": "1s"},
            "faults": [{
                "headers": [{"name": "x-a", "value": "b|c", "type": "RegularExpression"}],
                "delay": {"duration": "1s", "percent": 12.5}, "abort": {"status": 503, "percent": 1}}]},
    })
}

fn http_route() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "2026-01-31T12:00:00Z"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
            "hostnames": ["web.example", "*.web.example"],
            "rules": [
                {
                    "name": "testers",
                    "matches": [{
                        "path": {"type": "PathPrefix", "value": "/cart"}, "method": "GET",
                        "headers": [{"name": "X-Tester", "type": "RegularExpression", "value": "y|yes"}],
                        "queryParams": [{"name": "debug", "value": "1"}]}],
                    "filters": [
                        {"type": "RequestHeaderModifier", "requestHeaderModifier": {
                            "set": [{"name": "x-a", "value": "b"}], "add": [{"name": "x-c", "value": "d"}], "remove": ["x-e"]}},
                        {"type": "URLRewrite", "urlRewrite": {
                            "hostname": "cart.example", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}],
                    "backendRefs": [
                        {"name": "web", "port": 80, "weight": 9},
                        {"name": "web-next", "namespace": "lab", "port": 80, "weight": 1, "filters": [
                            {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["server"]}}]}],
                    "timeouts": {"request": "10s", "backendRequest": "2s"},
                    "retry": {"codes": [503], "attempts": 2, "backoff": "100ms"}},
                {
                    "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}]}]},
    })
}

/// Draws numbers from the seed of the test, the same every time.
struct Draw(TestRunner);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        (0..end.max(1)).new_tree(&mut self.0).unwrap().current()
    }

    /// What a field never is, or seldom.
    fn wrong_value(&mut self) -> Value {
        let deep = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!({"a": [inner]}));
        let values = [
            Value::Null,
            json!(true),
            json!(-1),
            json!(0),
            json!(65536),
            json!(u64::MAX),
            json!(1e300),
            json!(""),
            json!("x y"),
            json!("10.0.0.1"),
            json!("10.96.0.1"),
            json!("0.0.0.0/0"),
            json!("\u{202e}\u{0}\n---\n"),
            json!("x".repeat(10_000)),
            json!([]),
            json!({}),
            json!([[], {}]),
            json!({"": null}),
            deep(10),
            deep(40),
            json!(vec![json!({"port": 1}); 300]),
        ];
        values[self.below(values.len())].clone()
    }

    /// Some place in a document, of all the same chance.
    fn place<'v>(&mut self, value: &'v mut Value) -> &'v mut Value {
        let count = count(value);
        let mut index = self.below(count);
        nth(value, &mut index).unwrap()
    }

    /// One wrong turn.
    fn mutate(&mut self, document: &mut Value, others: &[Value]) {
        match self.below(7) {
            // Another name: the document meets itself.
            6 => with_entries(document, |entries| {
                let metadata = json!({"name": "other", "labels": {"app": "web"}});
                entries.insert("metadata".to_owned(), metadata);
            }),
            0 => {
                let wrong = self.wrong_value();
                *self.place(document) = wrong;
            }
            1 => with_entries(self.place(document), |entries| {
                entries.clear();
            }),
            2 => {
                let wrong = self.wrong_value();
                with_entries(self.place(document), |entries| {
                    entries.insert("unknown".to_owned(), wrong);
                });
            }
            3 => {
                let index = self.below(8);
                with_entries(self.place(document), |entries| {
                    // Two fields change places.
                    let keys: Vec<String> = entries.keys().cloned().collect();
                    if let (Some(first), Some(second)) = (keys.get(index), keys.first()) {
                        let (a, b) = (entries[first].clone(), entries[second].clone());
                        entries.insert(second.clone(), a);
                        entries.insert(first.clone(), b);
                    }
                });
            }
            4 => {
                let index = self.below(others.len());
                let part = self.place(&mut others[index].clone()).clone();
                *self.place(document) = part;
            }
            _ => {
                let index = self.below(8);
                with_entries(self.place(document), |entries| {
                    if let Some(key) = entries.keys().nth(index).cloned() {
                        entries.remove(&key);
                    }
                });
            }
        }
    }

    /// The text, cut or with some bytes changed, more often than not as it is.
    fn spoil(&mut self, text: String) -> String {
        let mut bytes = text.into_bytes();
        match self.below(6) {
            0 => bytes.truncate(self.below(bytes.len())),
            1 => {
                let (at, byte) = (self.below(bytes.len()), self.below(128));
                bytes[at] = u8::try_from(byte).unwrap();
            }
            2 => {
                let digits = b"9".repeat(self.below(400));
                let at = self.below(bytes.len());
                bytes.splice(at..at, digits);
            }
            _ => {}
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn with_entries(place: &mut Value, change: impl FnOnce(&mut Map<String, Value>)) {
    if let Value::Object(entries) = place {
        change(entries);
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(entries) => entries.values().map(count).sum(),
        _ => 0,
    }
}

fn nth<'v>(value: &'v mut Value, index: &mut usize) -> Option<&'v mut Value> {
    if *index == 0 {
        return Some(value);
    }
    *index -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, index)),
        Value::Object(entries) => entries.values_mut().find_map(|item| nth(item, index)),
        _ => None,
    }
}

/// Every error names its document, and a line or a field; it is short, and can be shown.
fn assert_said(errors: &[DocumentError], file: &str, keys: &[String]) {
    assert!((1..=MAX_ERRORS + 1).contains(&errors.len()));
    for error in errors {
        let is_count = error.message.ends_with("more errors are not shown");
        let is_missing_config = error.message.starts_with("no weft.dev/v1alpha1 MeshConfig");
        assert!(
            error.file == file || keys.contains(&error.file) || is_count || is_missing_config,
            "{error}"
        );
        assert!(
            error.line > 0
                || !error.path.is_empty()
                || error.message == "the file is empty"
                || is_count
                || is_missing_config,
            "{error:?}"
        );
        assert!(error.message.len() <= 2_000 && error.path.len() <= 2_000);
        assert!(!error.to_string().contains(char::is_control));
    }
}

/// What the mesh is, to be compared.
fn state(set: &MeshSet) -> (usize, Option<weft_proto::model::Mesh>) {
    (set.len(), set.mesh())
}

#[test]
fn a_thousand_mutations() {
    let documents = documents();
    let mut draw = Draw(TestRunner::deterministic());
    let original = |value: &Value| {
        let text = value.to_string();
        let key = parse_document(&Source::new("?", &*text)).unwrap().key.to_string();
        Arc::new(parse_document(&Source::new(key, text)).unwrap())
    };
    let mut set = MeshSet::new();
    let all: Vec<Change> = documents
        .iter()
        .map(|value| Change::Put(original(value)))
        .collect();
    set.apply(all.clone(), Unserved::Refuse).unwrap();
    let keys: Vec<String> = all.iter().map(|change| change.key().to_string()).collect();
    let (mut unread, mut refused, mut taken) = (0, 0, 0);
    for number in 0..MUTATIONS * documents.len() {
        let mut document = documents[number % documents.len()].clone();
        for _ in 0..=draw.below(2) {
            draw.mutate(&mut document, &documents);
        }
        let text = draw.spoil(document.to_string());
        let source = [Source::new("bad.json", text)];
        // The second way in takes what the first does, but for what JSON would not keep.
        let split = split(&source, &DnsLabel::default_namespace());
        let parsed = match parse_document(&source[0]) {
            Ok(parsed) => parsed,
            Err(errors) => {
                unread += 1;
                assert_said(&errors, "bad.json", &[]);
                assert!(
                    split.is_ok_and(|found| found.len() != 1)
                        || source[0].text.trim().is_empty()
                        || errors[0].line > 0
                );
                continue;
            }
        };
        if let Ok(found) = split {
            let Document { json, .. } = &found[0].document;
            assert_eq!(found[0].document.parse().unwrap().model, parsed.model, "{json}");
        }
        let before = state(&set);
        match set.apply([Change::Put(Arc::new(parsed))], Unserved::Refuse) {
            Err(errors) => {
                refused += 1;
                assert_said(&errors, "bad.json", &keys);
                assert_eq!(state(&set), before);
            }
            Ok(_) => {
                taken += 1;
                // Back to what was right: which also shows that nothing is left of what was there in between.
                let added = set.documents().filter(|document| &*document.source == "bad.json");
                let added: Vec<Change> = added
                    .map(|document| document.key.clone())
                    .filter(|key| !keys.contains(&key.to_string()))
                    .map(Change::Remove)
                    .collect();
                set.apply(all.clone().into_iter().chain(added), Unserved::Refuse)
                    .unwrap();
                assert_eq!(set.len(), documents.len());
            }
        }
    }
    assert!(
        unread >= 500 && refused >= 20 && taken >= 50,
        "{unread} {refused} {taken}"
    );
}
