use rand::{SeedableRng, rngs::SmallRng};
use serde_json::json;
use tokio::sync::mpsc;
use weft_proto::model::policy::RateScope;

use super::{
    testing::{SIDECAR, Sidecar, mesh, service, shop, workload},
    *,
};
use crate::{balance::Pick, demand::Verdict, outlier};

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
                    "weight": 1.0,
                }],
                "notReady": 1,
                "unmeshedDenied": 1,
                "policy": {
                    "sources": {},
                    "loadBalancing": "least latency of two; near endpoints first, as long as 70% of them are healthy",
                    "retries": "2 more tries of failed connections, lost answers, of methods that may be repeated; \
                                after up to 25ms to 250ms; for 20% of requests and 3 a second",
                    "limits": ["requests in flight: 0, without limit"],
                    "outlierEjection": "after 5 failures in a row; for 10s to 5m; 50% of the endpoints at most; all \
                                        are used if less than 50% are left",
                    "timeouts": "request without limit, idle without limit, connect 5s",
                    "faults": [],
                },
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

/// Two versions behind `catalog`, of which the first rule sends testers to the second.
fn routed() -> String {
    let rules = "
  - name: testers
    matches: [{path: {type: PathPrefix, value: /}, headers: [{name: x-tester, value: 'yes'}]}]
    backendRefs: [{name: v2, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example, statusCode: 301}}]
  - matches: [{path: {type: PathPrefix, value: /shop}, method: GET}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: b}]}}
    timeouts: {request: 10s, backendRequest: 2s}
    backendRefs:
    - {name: v1, port: 80, weight: 89}
    - {name: v2, port: 80, weight: 10}
    - {name: gone, port: 80, weight: 1}
    - {name: idle, port: 80, weight: 0}
  - matches: [{path: {type: Exact, value: /half}}]
    backendRefs:
    - {name: v1, port: 80}
    - {name: v2, port: 80, filters: [{type: RequestRedirect, requestRedirect: {port: 81}}]}
  - matches: [{path: {type: Exact, value: /gone}}]
    backendRefs: [{name: gone, port: 80}]
";
    shop("")
        + &service("v1", 2)
        + &workload("v1", 2, SIDECAR)
        + &service("v2", 3)
        + &workload("v2", 3, SIDECAR)
        + &service("idle", 4)
        + "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: catalog, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: catalog}]
  rules:"
        + rules
}

#[test]
fn rules_are_considered_in_their_order_and_each_says_why_not() {
    let sidecar = Sidecar::new(&routed(), &[]);
    let explained = sidecar.explain("GET", "http://catalog/shop/x", &["x-tester: no"]);
    let rule = |rule: &str, wanted: &str, because: Option<&str>| {
        without_nulls(json!({
            "route": "HTTPRoute shop/catalog",
            "rule": rule,
            "number": 0,
            "match": wanted,
            "matched": because.is_none(),
            "because": because,
        }))
    };
    assert_eq!(
        explained["considered"],
        json!([
            rule("3", "path /half", Some("the path is another one")),
            rule("4", "path /gone", Some("the path is another one")),
            rule("2", "path prefix /shop, method GET", None),
            rule("1", "path prefix /old", Some("the path is another one")),
            rule(
                "testers",
                "path prefix /, header x-tester yes",
                Some("header x-tester has another value")
            ),
        ])
    );
    assert_eq!(
        explained["route"],
        json!({
            "route": "HTTPRoute shop/catalog",
            "rule": "2",
            "filters": ["sets request header x-a"],
            "timeouts": {"requestMs": 10_000, "backendRequestMs": 2_000},
        })
    );
    assert_eq!(explained["outcome"], json!({"decision": "forward"}));
    let places: Vec<_> = explained["backends"]
        .as_array()
        .unwrap()
        .iter()
        .map(|backend| (&backend["service"], &backend["weight"], &backend["share"]))
        .collect();
    assert_eq!(
        json!(places),
        json!([
            ["shop/v1", 89, 89.0],
            ["shop/v2", 10, 10.0],
            ["shop/gone", 1, 1.0],
            ["shop/idle", 0, 0.0],
        ])
    );
    assert_eq!(explained["backends"][2]["error"]["status"], 500);
    assert_eq!(explained["backends"][2]["error"]["reason"], "backend_not_found");
    assert_eq!(explained["backends"][3]["error"]["reason"], "no_endpoint");
    assert_eq!(explained["backends"][1]["endpoints"][0]["workload"], "shop/v2-3");
}

#[test]
fn a_rule_that_is_passed_by_is_not_taken_twice() {
    let sidecar = Sidecar::new(&routed(), &[]);
    let explained = sidecar.explain("GET", "http://catalog/shop/x", &["x-tester: yes"]);
    assert_eq!(explained["considered"][2]["matched"], true);
    assert_eq!(
        explained["considered"][4]["because"],
        "a rule before it has the request"
    );
    let explained = sidecar.explain("POST", "http://catalog/shop/x", &["x-tester: yes"]);
    assert_eq!(explained["considered"][2]["because"], "the method is another one");
    assert_eq!(explained["route"]["rule"], "testers");
    assert_eq!(explained["backends"][0]["service"], "shop/v2");
}

#[test]
fn what_routes_answer_themselves() {
    let sidecar = Sidecar::new(&routed(), &[]);
    let explained = sidecar.get("http://catalog/none");
    assert_eq!(outcome(&explained), ("answer", 404, "no_matching_route"));
    assert_eq!(explained["considered"][4]["because"], "header x-tester is absent");
    assert!(explained.get("route").is_none());
    let explained = sidecar.get("http://catalog/old/x?a=b");
    assert_eq!(
        explained["outcome"],
        json!({"decision": "redirect", "status": 301, "location": "http://new.example/old/x?a=b"})
    );
    let explained = sidecar.get("http://catalog/gone");
    assert_eq!(outcome(&explained), ("answer", 500, "backend_not_found"));
    let explained = sidecar.get("http://catalog/half");
    assert_eq!(explained["outcome"], json!({"decision": "forward"}));
    assert_eq!(
        explained["backends"][1],
        json!({
            "service": "shop/v2",
            "port": 80,
            "weight": 1,
            "share": 50.0,
            "redirect": {"status": 302, "location": "http://catalog:81/half"},
        })
    );
    // Routes of a service are not asked again behind a backend, nor for one of its workloads.
    assert_eq!(
        outcome(&sidecar.get("http://10.0.0.1:8080/none")),
        ("forward", 0, "")
    );
}

/// The shop with two replicas of `catalog`, and a policy for it.
fn with_policy(sections: &str) -> Sidecar {
    let policy = format!(
        "---
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: catalog, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: catalog}}]
  {sections}
"
    );
    Sidecar::new(&(shop("") + &workload("catalog", 2, SIDECAR) + &policy), &[])
}

impl Sidecar {
    fn catalog(&self) -> Arc<Frontend> {
        match self.snapshot.by_host("catalog", None).unwrap() {
            Upstream::Mesh(frontend) => frontend,
            Upstream::External(_) => panic!("not outside"),
        }
    }
}

#[test]
fn a_limit_that_is_reached_answers_and_one_that_is_not_says_how_far_it_is() {
    let sidecar = with_policy("limits: {requests: 1, queue: {length: 0}, endpoint: {requests: 5}}");
    let frontend = sidecar.catalog();
    let policy = &frontend.backend.policy;
    let explained = sidecar.get("http://catalog/");
    assert_eq!(outcome(&explained), ("forward", 0, ""));
    let limits = |explained: &Value| explained["backends"][0]["policy"]["limits"].clone();
    assert_eq!(
        limits(&explained),
        json!([
            "requests in flight: 0 of 1",
            "requests in flight to one endpoint: 5"
        ])
    );
    assert_eq!(
        explained["backends"][0]["policy"]["sources"],
        json!({"limits": "TrafficPolicy shop/catalog"})
    );
    let held = policy.facts.requests.admit(&policy.limits);
    let explained = sidecar.get("http://catalog/");
    assert_eq!(outcome(&explained), ("answer", 503, "request_limit"));
    assert_eq!(limits(&explained)[0], "requests in flight: 1 of 1");
    drop(held);
    assert_eq!(outcome(&sidecar.get("http://catalog/")), ("forward", 0, ""));
}

#[test]
fn a_rate_that_is_used_up_answers_and_nothing_is_taken_to_know_it() {
    let rates = "limits: {rates: [{requests: 2, per: 1h, by: Route}, {requests: 5, per: 1s}]}";
    let sidecar = with_policy(rates);
    let frontend = sidecar.catalog();
    let policy = &frontend.backend.policy;
    for left in [2, 1] {
        for _ in 0..3 {
            let explained = sidecar.get("http://catalog/");
            assert_eq!(outcome(&explained), ("forward", 0, ""));
            assert_eq!(
                explained["backends"][0]["policy"]["limits"],
                json!([
                    "requests in flight: 0, without limit",
                    format!("requests of a rule: 2 in 1h, 2 at once: {left} left"),
                    "requests at each endpoint: 5 in 1s, 5 at once (kept there)",
                ])
            );
        }
        let buckets = &policy.facts.unrouted;
        buckets
            .take(Instant::now(), &policy.limits.rates, RateScope::Route)
            .unwrap();
    }
    assert_eq!(
        outcome(&sidecar.get("http://catalog/")),
        ("answer", 429, "rate_limited")
    );
}

#[test]
fn ejected_endpoints_say_for_how_long_and_the_last_one_ends_it() {
    let sidecar = with_policy(
        "outlierEjection: {consecutiveFailures: 1, time: {base: 100s, max: 100s}, maxPercent: 100, panicPercent: 0}",
    );
    let frontend = sidecar.catalog();
    let balancer = &frontend.backend.policy.balancer;
    let mut rng = SmallRng::seed_from_u64(1);
    let mut tried = Vec::new();
    for wanted in [("forward", 0, ""), ("answer", 503, "all_ejected")] {
        let now = Instant::now();
        let request = Pick {
            tried: &tried,
            key: None,
            may_probe: true,
            now,
        };
        let picked = balancer.pick(&request, &mut rng).unwrap();
        let uid = picked.endpoint.uid.clone();
        let mut in_flight = picked.begin(now);
        balancer.on_result(&mut in_flight, outlier::Outcome::Failure, now);
        let explained = sidecar.get("http://catalog/");
        assert_eq!(outcome(&explained), wanted);
        let endpoints = explained["backends"][0]["endpoints"].as_array().unwrap();
        let of = |uid: &str| endpoints.iter().find(|one| one["workload"] == uid).unwrap();
        assert_eq!(of(&uid)["eligible"], false);
        assert_eq!(of(&uid)["because"], "ejected for 100 s more");
        tried.push(uid);
    }
}

#[test]
fn a_fault_that_is_always_made_is_the_answer() {
    let sidecar = with_policy(
        "faults: [{headers: [{name: x-test, value: broken}], abort: {status: 418}}, {delay: {duration: 2s, percent: 5}}]",
    );
    let explained = sidecar.get("http://catalog/");
    assert_eq!(outcome(&explained), ("forward", 0, ""));
    assert_eq!(
        explained["backends"][0]["policy"]["faults"],
        json!([
            "answers 100% with 418 of requests with header x-test broken",
            "holds 5% up by 2s"
        ])
    );
    let explained = sidecar.explain("GET", "http://catalog/", &["x-test: broken"]);
    assert_eq!(outcome(&explained), ("answer", 418, "fault_injected"));
}

#[test]
fn endpoints_without_the_labels_that_are_asked_for_are_told_apart() {
    let explained =
        with_policy("loadBalancing: {subset: {matchLabels: {version: v2}}}").get("http://catalog/");
    assert_eq!(outcome(&explained), ("forward", 0, ""));
    let endpoints = explained["backends"][0]["endpoints"].as_array().unwrap();
    let because: Vec<_> = endpoints
        .iter()
        .map(|one| (one["workload"].as_str(), one["because"].as_str()))
        .collect();
    assert_eq!(
        because,
        [
            (Some("shop/catalog-2"), None),
            (
                Some("shop/catalog-1"),
                Some("it has not the labels that the policy asks for")
            ),
        ]
    );
    let none = with_policy("loadBalancing: {subset: {matchLabels: {version: v3}}}");
    assert_eq!(
        outcome(&none.get("http://catalog/")),
        ("answer", 503, "no_endpoint")
    );
}

#[tokio::test]
async fn a_name_that_is_not_known_yet_is_asked_for() {
    let documents = |names: &str| Sidecar::new(&(shop("") + names), &[]).snapshot;
    let (publish, snapshots) = watch::channel(documents(""));
    let (asks, mut asked) = mpsc::channel(1);
    let explainer = testing::without_snapshot();
    explainer.begin(Known {
        demand: Some(Demand::new(asks, snapshots.clone())),
        snapshots,
        listeners: OwnListeners::new([], Vec::new),
    });
    let controller = async {
        let (subject, answer) = asked.recv().await.unwrap();
        publish.send_replace(documents(&(service("new", 2) + &workload("new", 2, SIDECAR))));
        answer.send(Verdict::Known).unwrap();
        subject
    };
    let question = Question::parse("GET", "http://new/", []).unwrap();
    let (explained, subject) = tokio::join!(explainer.explain(question), controller);
    assert_eq!(subject.to_string(), "new.shop");
    assert_eq!(outcome(&explained.unwrap()), ("forward", 0, ""));
}
