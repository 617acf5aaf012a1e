use serde_json::json;

use super::{
    testing::{SIDECAR, Sidecar, mesh, service, shop, workload},
    *,
};

#[test]
fn a_service_without_routes_is_explained_whole() {
    let documents = shop("") + &workload("catalog", 2, SIDECAR) + &workload("catalog", 3, "");
    let explained = Sidecar::new(&documents, &["shop/catalog-2"]).explain(
        "GET",
        "http://catalog/x?secret=1",
        &["x-tester: yes"],
    );
    assert_eq!(
        explained,
        json!({
            "from": {
                "workload": "frontend-0",
                "namespace": "shop",
                "identity": "spiffe://mesh.test/ns/shop/sa/frontend",
            },
            "generation": 12,
            "request": {"method": "GET", "host": "catalog", "port": 80, "path": "/x", "headers": ["x-tester"]},
            "outcome": {"decision": "forward"},
            "service": {"name": "shop/catalog", "port": 80, "protocol": "http"},
            "backends": [{
                "service": "shop/catalog",
                "port": 80,
                "share": 100.0,
                "endpoints": [{
                    "workload": "shop/catalog-1",
                    "address": "10.0.0.1:15008",
                    "version": "v1",
                    "eligible": true,
                    "inFlight": 0,
                }],
                "notReady": 1,
                "unmeshedDenied": 1,
            }],
            "authorization": {
                "decision": "allow",
                "by": "MeshConfig authorization: authenticated",
                "where": "at the sidecar of each endpoint",
            },
        })
    );
}

fn outcome(explained: &Value) -> (&str, u64, &str) {
    let outcome = &explained["outcome"];
    let text = |name: &str| outcome[name].as_str().unwrap_or_default();
    (
        text("decision"),
        outcome["status"].as_u64().unwrap_or_default(),
        text("reason"),
    )
}

#[test]
fn what_leads_nowhere_says_why() {
    let sidecar = Sidecar::new(&(shop("") + &service("empty", 2)), &[]);
    for (url, wanted) in [
        ("http://nobody/", ("answer", 404, "unknown_service")),
        ("http://catalog:81/", ("answer", 404, "unknown_port")),
        ("http://10.96.0.99/", ("answer", 502, "unknown_in_mesh")),
        ("http://192.0.2.1/", ("answer", 502, "egress_denied")),
        ("http://empty/", ("answer", 503, "no_endpoint")),
        ("http://a_b:1:2/", ("answer", 400, "bad_authority")),
    ] {
        match Question::parse("GET", url, []) {
            Ok(_) => assert_eq!(outcome(&sidecar.get(url)), wanted, "{url}"),
            Err(unclear) => assert_eq!(unclear, Unclear::Url, "{url}"),
        }
    }
    let explained = sidecar.explain("GET", "http://catalog/", &["weft-hops: 99"]);
    assert_eq!(outcome(&explained), ("answer", 508, "loop"));
    assert!(explained.get("backends").is_none());
}

#[test]
fn a_workload_of_its_own_and_what_is_outside() {
    let sidecar = Sidecar::new(&shop(", egress: allow"), &[]);
    let explained = sidecar.get("http://10.0.0.1:8080/");
    assert_eq!(outcome(&explained), ("forward", 0, ""));
    assert_eq!(explained["service"]["name"], "shop/catalog-1");
    let explained = sidecar.get("http://192.0.2.1:81/");
    assert_eq!(outcome(&explained), ("outside", 0, ""));
    assert_eq!(explained["outcome"]["detail"], "it is sent to 192.0.2.1:81");
    let explained = sidecar.get("http://127.0.0.1:15001/");
    assert_eq!(outcome(&explained), ("answer", 508, "own_listener"));
}

#[test]
fn a_mesh_that_denies_says_where() {
    let explained = Sidecar::new(&shop(", authorization: deny"), &[]).get("http://catalog/");
    assert_eq!(outcome(&explained), ("answer", 403, "denied"));
    assert_eq!(
        explained["authorization"],
        json!({
            "decision": "deny",
            "by": "MeshConfig authorization: deny",
            "where": "at the sidecar of each endpoint",
        })
    );
}

#[test]
fn endpoints_that_are_left_out_have_a_reason_of_their_own() {
    let documents = mesh("") + &service("catalog", 1) + &workload("catalog", 1, "");
    let explained = Sidecar::new(&documents, &[]).get("http://catalog/");
    assert_eq!(outcome(&explained), ("answer", 503, "unmeshed_denied"));
    let explained = Sidecar::new(&shop(""), &["shop/catalog-1"]).get("http://catalog/");
    assert_eq!(outcome(&explained), ("answer", 503, "no_ready_endpoint"));
    let documents = mesh(", unmeshed: allow") + &service("catalog", 1) + &workload("catalog", 1, "");
    let explained = Sidecar::new(&documents, &[]).get("http://catalog/");
    assert_eq!(outcome(&explained), ("forward", 0, ""));
    assert_eq!(
        explained["backends"][0]["endpoints"][0]["address"],
        "10.0.0.1:8080 (plaintext)"
    );
    assert!(explained.get("authorization").is_none(), "nobody decides");
}

#[tokio::test]
async fn before_there_is_a_configuration_nothing_is_explained() {
    let question = Question::parse("GET", "http://catalog/", []).unwrap();
    let explained = testing::without_snapshot().explain(question).await;
    assert_eq!(explained, Err(Unexplained::NotServing));
}
