use serde_json::json;
use weft_proto::mesh::v1::{self, answer::Answer};

use super::*;
use crate::cli::testing::{Fake, Said, Typing, type_to};

fn answering(answer: &Value) -> Fake {
    Fake {
        answers: vec![v1::Answer {
            id: 1,
            answer: Some(Answer::Part(answer.to_string().into())),
            is_last: true,
        }],
        ..Fake::default()
    }
}

async fn explained(answer: &Value) -> Said {
    type_to(
        &answering(answer),
        "weft explain --from shop/frontend-0 GET http://catalog/",
    )
    .await
}

/// What a sidecar says of a request for `catalog`, with more about it.
fn asked(more: Value) -> Value {
    let mut answer = json!({
        "from": {
            "workload": "frontend-0",
            "namespace": "shop",
            "identity": "spiffe://mesh.test/ns/shop/sa/frontend",
        },
        "generation": 12,
        "request": {"method": "GET", "host": "catalog", "port": 80, "path": "/x", "headers": ["x-tester"]},
        "service": {"name": "shop/catalog", "port": 80, "protocol": "http"},
    });
    for (name, value) in more.as_object().unwrap() {
        answer[name] = value.clone();
    }
    answer
}

fn split() -> Value {
    asked(json!({
        "outcome": {"decision": "forward"},
        "considered": [
            {"route": "HTTPRoute shop/catalog", "rule": "testers", "match": "path prefix /, header x-tester",
             "matched": false, "because": "header x-tester is absent"},
            {"route": "HTTPRoute shop/catalog", "rule": "1", "match": "path prefix /", "matched": true},
        ],
        "route": {"route": "HTTPRoute shop/catalog", "rule": "1", "filters": ["sets request header x-a"],
                  "timeouts": {"requestMs": 10_000, "backendRequestMs": 0}, "retry": "3 more tries of 503"},
        "backends": [
            {"service": "shop/catalog-v1", "port": 80, "weight": 90, "share": 90.0,
             "endpoints": [
                {"workload": "shop/catalog-v1-0", "address": "10.0.0.1:15008", "version": "v1", "eligible": false,
                 "because": "ejected for 8 s more", "inFlight": 3, "latencyMs": 1.25, "weight": 1.0},
                {"workload": "shop/catalog-v1-1", "address": "10.0.0.2:15008", "eligible": true, "inFlight": 0,
                 "because": "others are nearer", "weight": 0.5},
             ],
             "notReady": 2, "unmeshedDenied": 1,
             "policy": {"sources": {"retries": "TrafficPolicy shop/catalog"}, "loadBalancing": "least latency",
                        "retries": "2 more tries", "limits": ["requests in flight: 3 of 10", "queue: 0 of 5"],
                        "faults": []}},
            {"service": "shop/catalog-v2", "port": 8080, "weight": 10, "share": 10.0, "endpoints": [],
             "filters": ["rewrites the path to /"]},
        ],
        "authorization": {"decision": "allow", "by": "MeshConfig authorization: authenticated",
                          "where": "at the sidecar of each endpoint"},
    }))
}

#[tokio::test]
async fn a_page_has_the_outcome_and_then_why() {
    let said = explained(&split()).await;
    assert_eq!(
        said.out,
        "\
GET http://catalog/x from shop/frontend-0 goes to shop/catalog-v1 (90%) or shop/catalog-v2:8080 (10%) by HTTPRoute shop/catalog, rule 1

Called:      shop/catalog, port 80 (http)
Headers:     x-tester
Caller:      spiffe://mesh.test/ns/shop/sa/frontend
Generation:  12

Rules, in the order in which they count
ROUTE                    RULE      REQUESTS WITH                    MATCHES
HTTPRoute shop/catalog   testers   path prefix /, header x-tester   no: header x-tester is absent
HTTPRoute shop/catalog   1         path prefix /                    yes

HTTPRoute shop/catalog, rule 1
  sets request header x-a
  time for the request, all tries together: 10s
  time for each try: without limit
  retries: 3 more tries of 503

Backend shop/catalog-v1: 90% of the requests (weight 90)
WORKLOAD            ADDRESS          VERSION   IN FLIGHT   LATENCY   WEIGHT   ELIGIBLE
shop/catalog-v1-0   10.0.0.1:15008   v1        3           1.25ms    1.0      no: ejected for 8 s more
shop/catalog-v1-1   10.0.0.2:15008   -         0           -         0.5      yes: others are nearer
  and 2 not ready, or ending
  and 1 without a sidecar, which MeshConfig does not allow

POLICY           SAID BY                      IN USE
load balancing   default                      least latency
retries          TrafficPolicy shop/catalog   2 more tries
limits           default                      requests in flight: 3 of 10
limits           default                      queue: 0 of 5

Backend shop/catalog-v2:8080: 10% of the requests (weight 10)
  rewrites the path to /
  no endpoint that may be used

Authorization
  allowed by MeshConfig authorization: authenticated, at the sidecar of each endpoint
"
    );
    assert_eq!((said.err.as_str(), said.code), ("", 0));
}

#[tokio::test]
async fn the_first_line_says_it_and_the_exit_code_too() {
    let redirected = asked(json!({
        "outcome": {"decision": "redirect", "status": 302, "location": "https://catalog/x"},
        "route": {"route": "HTTPRoute shop/catalog", "rule": "0"},
    }));
    let unrouted = asked(json!({
        "outcome": {"decision": "answer", "status": 404, "reason": "no_matching_route",
                    "detail": "the service has routes, and none of their rules matches the request"},
    }));
    let denied = asked(json!({
        "outcome": {"decision": "answer", "status": 403, "reason": "denied", "detail": "denied by mesh_default_deny"},
        "authorization": {"decision": "deny", "by": "MeshConfig authorization: deny",
                          "where": "at the sidecar of each endpoint"},
    }));
    let outside = asked(json!({
        "request": {"method": "GET", "host": "example.com", "port": 8080, "path": "/"},
        "outcome": {"decision": "outside", "detail": "egress is allowed"},
    }));
    let plain = asked(json!({
        "outcome": {"decision": "forward"},
        "backends": [{"service": "shop/catalog", "port": 80, "share": 100.0, "endpoints": []}],
    }));
    let half_dead = asked(json!({
        "outcome": {"decision": "forward"},
        "route": {"route": "HTTPRoute shop/catalog", "rule": "0"},
        "backends": [
            {"service": "shop/catalog", "port": 80, "weight": 2, "share": 66.666},
            {"service": "shop/gone", "port": 80, "weight": 1, "share": 33.333,
             "error": {"status": 500, "reason": "backend_not_found", "detail": "there is no such service"}},
            {"service": "shop/idle", "port": 80, "weight": 0, "share": 0.0},
        ],
    }));
    let half_away = asked(json!({
        "outcome": {"decision": "forward"},
        "route": {"route": "HTTPRoute shop/catalog", "rule": "0"},
        "backends": [
            {"service": "shop/away", "port": 80, "weight": 1, "share": 50.0,
             "redirect": {"status": 302, "location": "http://new/"}},
            {"service": "shop/catalog", "port": 80, "weight": 1, "share": 50.0},
        ],
    }));
    for (answer, line, code) in [
        (
            redirected,
            "http://catalog/x from shop/frontend-0 is redirected by the sidecar, 302 to https://catalog/x by \
             HTTPRoute shop/catalog, rule 0",
            0,
        ),
        (
            unrouted,
            "http://catalog/x from shop/frontend-0 is answered 404 by the sidecar: no_matching_route: the service has \
             routes, and none of their rules matches the request",
            1,
        ),
        (
            denied,
            "http://catalog/x from shop/frontend-0 is answered 403 at the sidecar of each endpoint: denied: denied by \
             mesh_default_deny",
            1,
        ),
        (
            outside,
            "http://example.com:8080/ from shop/frontend-0 leaves the mesh as it is: egress is allowed",
            0,
        ),
        (
            plain,
            "http://catalog/x from shop/frontend-0 goes to shop/catalog: it has no routes",
            0,
        ),
        (
            half_dead,
            "http://catalog/x from shop/frontend-0 goes to shop/catalog (66.7%) or is answered 500 \
             backend_not_found (33.3%) by HTTPRoute shop/catalog, rule 0",
            0,
        ),
        (
            half_away,
            "http://catalog/x from shop/frontend-0 goes to shop/catalog (50%) or is redirected, 302 to http://new/ (50%) by \
             HTTPRoute shop/catalog, rule 0",
            0,
        ),
    ] {
        let said = explained(&answer).await;
        assert_eq!(said.out.lines().next(), Some(format!("GET {line}").as_str()));
        assert_eq!(said.code, code, "{line}");
    }
}

#[tokio::test]
async fn a_dead_backend_says_why() {
    let answer = asked(json!({
        "outcome": {"decision": "forward"},
        "backends": [{"service": "shop/gone", "port": 80, "weight": 1, "share": 50.0,
                      "error": {"status": 500, "reason": "backend_not_found",
                                                       "detail": "there is no such service"}}],
    }));
    let said = explained(&answer).await;
    let wanted = "Backend shop/gone: 50% of the requests (weight 1)\n  answered 500: backend_not_found: there is no \
                  such service\n";
    assert!(said.out.contains(wanted), "{}", said.out);
}

#[tokio::test]
async fn it_is_asked_of_the_sidecar_as_it_was_typed() {
    let fake = answering(&split());
    let line = "weft explain --from frontend-0 -n shop POST http://catalog:81/x?a=1 -H X-Tester:yes --header b:c -o json";
    let said = type_to(&fake, line).await;
    assert_eq!(serde_json::from_str::<Value>(&said.out).unwrap(), split());
    let calls = fake.calls.lock().unwrap().join("");
    for wanted in [
        "namespace: \"shop\", workload: \"frontend-0\"",
        "Explain { method: \"POST\", url: \"http://catalog:81/x?a=1\", headers: [\"x-tester: yes\", \"b: c\"] }",
    ] {
        assert!(calls.contains(wanted), "{calls}");
    }
    let said = type_to(&fake, "weft explain --from shop/frontend-0 GET http://c/ -o yaml").await;
    assert!(said.out.contains("decision: forward\n"), "{}", said.out);
}

#[tokio::test]
async fn an_answer_that_nobody_understands_is_a_failure() {
    let said = explained(&asked(json!({"outcome": {"decision": "teleport"}}))).await;
    assert_eq!(said.code, 1);
    assert!(
        said.err
            .contains("decides \"teleport\", which this program does not know"),
        "{}",
        said.err
    );
    let many: String = (0..=MAX_FIELDS)
        .map(|number| format!(" -H a{number}:b"))
        .collect();
    let line = format!("weft explain --from frontend-0 GET http://catalog/{many}");
    let said = type_to(&answering(&split()), &line).await;
    assert_eq!(
        (said.code, said.err.as_str()),
        (2, "error: more than 64 fields\n")
    );
}

#[tokio::test]
async fn nothing_in_an_answer_draws_on_the_screen() {
    let evil = json!({
        "outcome": {"decision": "answer", "status": 503, "reason": "x\x1b[2J", "detail": "y\x1b[2J"},
        "considered": [{"route": "r\x1b[2J", "rule": "0", "match": "m", "because": "b\x1b[2J"}],
        "route": {"route": "q\x1b[2J", "rule": "0", "filters": ["f\x1b[2J"]},
        "backends": [{"service": "s\x1b[2J", "error": {"reason": "e\x1b[2J"}}],
        "authorization": {"decision": "deny", "by": "d\x1b[2J"},
    });
    let typing = Typing {
        is_terminal: true,
        ..Typing::default()
    };
    let line = "weft explain --from frontend-0 GET http://catalog/";
    let said = typing.type_to(&answering(&asked(evil)), line).await;
    assert!(!said.out.contains("\x1b[2J"), "{}", said.out);
    assert_eq!(said.out.matches("\\u{1b}[2J").count(), 9, "{}", said.out);
}

#[test]
fn a_url_is_one_of_plain_http() {
    for text in [
        "http://catalog",
        "http://catalog.shop:8080/a?b=c",
        "HTTP://10.0.0.1:1/",
        "http://[::1]:80/",
    ] {
        assert_eq!(url(text).as_deref(), Ok(text));
    }
    let long = format!("http://c/{}", "x".repeat(MAX_URL));
    for (text, why) in [
        ("catalog/items", "has no scheme: http://catalog/items"),
        ("//catalog", "has no scheme: http://catalog"),
        ("https://catalog/", "is HTTPS"),
        ("ftp://catalog/", "is not HTTP"),
        ("http://", "is not a URL"),
        ("http:///x", "is not a URL"),
        ("http://:80/", "is not a URL"),
        ("http://a b/", "is not a URL"),
        ("http://ann@catalog/", "names a user"),
        ("http://catalog:99999/", "a port that is none"),
        ("http://catalog:0/", "a port that is none"),
        (long.as_str(), "more than 8192 bytes"),
    ] {
        let error = url(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn the_host_is_not_a_field() {
    assert!(field("host:other").unwrap_err().contains("that of the URL"));
    assert!(field("weft-port:1").is_err() && field("x-a:b").is_ok());
}
