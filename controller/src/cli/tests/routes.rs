use serde_json::{Value, json};
use weft_proto::mesh::v1;

use crate::cli::testing::{Fake, document, proxy, type_to};

fn route(namespace: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "split", "namespace": namespace, "creationTimestamp": "2026-01-31T12:00:00Z"},
        "spec": {
            "parentRefs": [
                {"group": "", "kind": "Service", "name": "web", "namespace": "shop", "port": 80},
                {"group": "", "kind": "Service", "name": "gone", "namespace": "shop", "sectionName": "http"},
            ],
            "hostnames": ["web.example", "*.web.example"],
            "rules": [
                {
                    "name": "testers",
                    "matches": [
                        {"path": {"type": "PathPrefix", "value": "/cart"}, "headers": [{"name": "x-tester", "value": "yes"}]},
                        {"method": "GET", "queryParams": [{"name": "beta", "value": "1"}]},
                    ],
                    "backendRefs": [{"name": "web-v2", "namespace": "shop", "port": 80}],
                },
                {
                    "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "shadow", "port": 81}, "percent": 5}}],
                    "backendRefs": [
                        {"name": "web-v1", "namespace": "shop", "port": 80, "weight": 90},
                        {"name": "web-v2", "namespace": "shop", "port": 80, "weight": 10},
                    ],
                    "timeouts": {"request": "5s"},
                },
            ],
        },
    })
}

fn condition(kind: &str, is_true: bool, reason: &str, message: &str) -> Value {
    let status = if is_true { "True" } else { "False" };
    json!({"type": kind, "status": status, "reason": reason, "message": message})
}

/// Accepted at one of two parents, and not all resolved at either.
fn route_status() -> Value {
    let resolved = condition(
        "ResolvedRefs",
        false,
        "BackendNotFound",
        "there is no Service shop/web-v2",
    );
    let at = |name: &str, place: (&str, Value), accepted: Value| {
        let mut parent = json!({"group": "", "kind": "Service", "namespace": "shop", "name": name});
        parent[place.0] = place.1;
        json!({"parentRef": parent, "controllerName": "weft.dev/controller", "conditions": [accepted, resolved]})
    };
    json!({"parents": [
        at("web", ("port", 80.into()), condition("Accepted", true, "Accepted", "it applies to all")),
        at("gone", ("sectionName", "http".into()), condition("Accepted", false, "NoMatchingParent", "there is no Service shop/gone")),
    ]})
}

fn stored() -> Fake {
    let with_status = |mut document: v1::StoredDocument, status: Value| {
        document.status = status.to_string().into();
        document
    };
    let policy = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "web"}], "limits": {"requests": 9}, "retries": {}},
    });
    let policy_status = json!({"ancestors": [{
        "ancestorRef": {"group": "", "kind": "Service", "namespace": "shop", "name": "web"},
        "conditions": [condition("Accepted", true, "Accepted", "it holds")],
    }]});
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": {"name": "from-bank", "namespace": "shop"},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "bank"}],
            "to": [{"group": "", "kind": "Service", "name": "web"}, {"group": "", "kind": "Service"}],
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    });
    Fake {
        documents: vec![
            document("Service", "shop/web", 1, service),
            with_status(
                document("HTTPRoute", "shop/split", 3, route("shop")),
                route_status(),
            ),
            with_status(
                document("HTTPRoute", "bank/split", 1, route("bank")),
                route_status(),
            ),
            document("ReferenceGrant", "shop/from-bank", 1, grant),
            with_status(document("TrafficPolicy", "shop/web", 2, policy), policy_status),
        ],
        revision: 44,
        ..Fake::with_fleet(v1::FleetResponse {
            proxies: vec![proxy("shop", "client-0"), proxy("garage", "client-1")],
            revision: 44,
            trust_version: 1,
        })
    }
}

/// The words of each line.
fn words(text: &str) -> Vec<String> {
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect()
}

#[tokio::test]
async fn tables_show_what_became_of_routes_and_policies() {
    let said = type_to(&stored(), "weft get httproute,refgrant,tp -n shop").await;
    assert_eq!(
        words(&said.out),
        [
            "NAME HOSTNAMES PARENTS ACCEPTED RESOLVED GENERATION",
            "split web.example,*.web.example web:80,gone#http 1 of 2: NoMatchingParent no: BackendNotFound 3",
            "",
            "NAME FROM TO GENERATION",
            "from-bank HTTPRoute bank Service web, every Service 1",
            "",
            "NAME TARGETS SECTIONS ACCEPTED GENERATION",
            "web web limits,retries yes 2",
        ]
    );
    let said = type_to(&stored(), "weft get httproute -n bank").await;
    assert!(said.out.contains("shop/web:80,shop/gone#http"), "{}", said.out);
}

#[tokio::test]
async fn whole_documents_have_their_status_and_can_be_applied_again() {
    let said = type_to(&stored(), "weft get httproute split -n shop -o json").await;
    let value: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(value["status"], route_status());
    let said = type_to(&stored(), "weft get httproute split -n shop -o yaml").await;
    assert!(said.out.contains("reason: NoMatchingParent"), "{}", said.out);
    // Read as an apply reads it, it is the document that is stored.
    let sources = [weft_proto::Source::new("again.yaml", said.out)];
    let namespace = "shop".parse().unwrap();
    let found = weft_proto::document::split(&sources, &namespace).unwrap();
    let again: Value = serde_json::from_str(&found[0].document.json).unwrap();
    assert_eq!(again, route("shop"));
}

#[tokio::test]
async fn describe_tells_what_a_route_does_and_what_became_of_it() {
    let said = type_to(&stored(), "weft describe httproute split -n shop").await;
    let lines = words(&said.out);
    let after = |head: &str| {
        let at = lines
            .iter()
            .position(|line| line == head)
            .unwrap_or_else(|| panic!("{}", said.out));
        let end = lines[at..]
            .iter()
            .position(String::is_empty)
            .map_or(lines.len(), |end| at + end);
        lines[at + 1..end].to_vec()
    };
    assert_eq!(
        after("Parents"),
        [
            "SERVICE ACCEPTED RESOLVED",
            "web:80 yes no: BackendNotFound",
            "gone#http no: NoMatchingParent no: BackendNotFound",
            "web:80: there is no Service shop/web-v2",
            "web:80: it applies to all",
            "gone#http: there is no Service shop/gone",
            "gone#http: there is no Service shop/web-v2",
        ]
    );
    assert_eq!(
        after("Rules"),
        [
            "Rule 0 (testers)",
            "if the path is /cart or below it, the header x-tester is yes",
            "if the method is GET, the query parameter beta is 1",
            "-> web-v2:80",
            "Rule 1",
            "if anything",
            "a copy of 5 in 100 to shadow:81",
            "within 5s",
            "-> web-v1:80 90.0% (weight 90)",
            "-> web-v2:80 10.0% (weight 10)",
        ]
    );
    // The document is shown as it is stored, without what has a section of its own.
    assert!(!said.out.contains("status:"), "{}", said.out);
    let sidecars = after("Sidecars");
    assert_eq!(
        sidecars.len(),
        3,
        "the producer's is for all who call web: {sidecars:?}"
    );
    assert!(sidecars[1].contains("(by its Service)"), "{sidecars:?}");
    let said = type_to(&stored(), "weft describe httproute split -n bank").await;
    assert!(
        said.out.contains("none asks for it"),
        "a consumer's is for its namespace: {}",
        said.out
    );
}

#[tokio::test]
async fn describe_of_a_service_lists_what_is_attached_to_it() {
    let said = type_to(&stored(), "weft describe svc web -n shop").await;
    let lines = words(&said.out);
    for wanted in [
        "httproute/bank/split web:80 2 rules yes no: BackendNotFound",
        "httproute/shop/split web:80 2 rules yes no: BackendNotFound",
        "trafficpolicy/shop/web web limits,retries yes -",
    ] {
        assert!(lines.iter().any(|line| line == wanted), "{wanted}: {}", said.out);
    }
    let mut alone = stored();
    alone.documents.truncate(1);
    let said = type_to(&alone, "weft describe svc web -n shop").await;
    assert!(said.out.contains("none names it"), "{}", said.out);
}
