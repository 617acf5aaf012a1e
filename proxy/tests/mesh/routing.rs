//! Where requests go by the routes of a service, and what is done to them on the way.

use http::{Request, StatusCode};

use crate::common::{
    Mesh, Workload,
    app::Scripted,
    eventually,
    http::{Answer, Connection, empty, full, get},
    port,
};

/// A service `web`, and one for each version of it, `web-v1` and `web-v2`, with a replica each.
struct Versions {
    mesh: Mesh,
    v1: Scripted,
    v2: Scripted,
}

impl Versions {
    /// With these rules of an HTTPRoute for `web`.
    async fn start(rules: &str) -> Self {
        let mut versions = Self::prepare().await;
        versions.mesh.documents = route(rules);
        versions.mesh.start();
        versions
    }

    async fn prepare() -> Self {
        let mut mesh = Mesh::new();
        for service in ["web", "web-v1", "web-v2"] {
            mesh.service(
                service,
                &[
                    ("http", 80, port::HTTP, "http"),
                    ("grpc", 50_051, port::GRPC, "grpc"),
                ],
            );
        }
        mesh.workload(Mesh::client());
        let replica = |version: &str| {
            Workload::new(&format!("web-{version}"), &format!("web-{version}"))
                .label("version", version)
                .port("http", port::HTTP, "")
                .port("grpc", port::GRPC, "")
        };
        let (v1, v2) = (mesh.workload(replica("v1")), mesh.workload(replica("v2")));
        Self {
            v1: Scripted::serve(&v1, port::HTTP).await,
            v2: Scripted::serve(&v2, port::HTTP).await,
            mesh,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        get(self.mesh.outbound(), "web", path).await
    }

    /// Which replica answers a GET with this field.
    async fn served_by(&self, path: &str, field: (&str, &str)) -> String {
        let request = Request::get(path).header("host", "web").header(field.0, field.1);
        let mut connection = Connection::http1(self.mesh.outbound()).await;
        let answer = connection.send(request.body(empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.text().to_owned()
    }
}

/// An HTTPRoute for `web` with these rules.
fn route(rules: &str) -> String {
    document("gateway.networking.k8s.io/v1", "HTTPRoute", "web", rules)
}

fn document(version: &str, kind: &str, name: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: web}}]\n  rules:\n{rules}\n"
    )
}

fn to(service: &str) -> String {
    format!("{{name: {service}, port: 80}}")
}

#[tokio::test]
async fn headers_paths_methods_and_queries_lead_where_the_route_says() {
    let (v1, v2) = (to("web-v1"), to("web-v2"));
    let versions = Versions::start(&format!(
        "  - matches: [{{headers: [{{name: x-tester, value: \"yes\"}}]}}]\n    backendRefs: [{v2}]\n\
         \x20 - matches: [{{path: {{type: Exact, value: /two}}}}, {{method: PUT}}, {{queryParams: [{{name: v, value: \"2\"}}]}}]\n    backendRefs: [{v2}]\n\
         \x20 - matches: [{{path: {{type: RegularExpression, value: \"/[a-c]+/x\"}}}}]\n    backendRefs: [{v2}]\n\
         \x20 - matches: [{{path: {{type: PathPrefix, value: /}}}}]\n    backendRefs: [{v1}]"
    ))
    .await;
    assert_eq!(versions.served_by("/", ("x-tester", "yes")).await, "web-v2");
    assert_eq!(versions.served_by("/", ("x-tester", "no")).await, "web-v1");
    for (path, server) in [
        ("/two", "web-v2"),
        ("/two/x", "web-v1"),
        ("/?v=2", "web-v2"),
        ("/?v=1&v=2", "web-v1"),
        ("/abc/x", "web-v2"),
        ("/abcd/x", "web-v1"),
    ] {
        assert_eq!(versions.served_by(path, ("x-any", "")).await, server, "{path}");
    }
}

#[tokio::test]
async fn a_split_is_as_its_weights_and_shows_in_metrics_and_log() {
    let mut versions = Versions::start(
        "  - name: canary\n    backendRefs: [{name: web-v1, port: 80, weight: 3}, {name: web-v2, port: 80, weight: 1}, {name: web, port: 80, weight: 0}]",
    )
    .await;
    let mut connection = Connection::http1(versions.mesh.outbound()).await;
    const COUNT: usize = 2_000;
    for _ in 0..COUNT {
        let request = Request::get("/").header("host", "web").body(empty()).unwrap();
        assert_eq!(connection.send(request).await.status, StatusCode::OK);
    }
    let second = versions.v2.count();
    assert_eq!(versions.v1.count() + second, COUNT);
    // A quarter, give or take five standard deviations.
    assert!((400..=600).contains(&second), "{second} of {COUNT}");
    let client = versions.mesh.sidecar("client-0");
    let labels = [
        "service=\"default/web\"",
        "route=\"default/web#canary\"",
        "backend=\"default/web-v2\"",
        "version=\"v2\"",
        "code=\"2xx\"",
    ];
    let counted = client
        .metric("weft_requests_total", &labels)
        .await
        .expect("a metric");
    assert_eq!(counted, second as f64);
    let line = client.access(&[("backend", "default/web-v2")]).await;
    assert_eq!(line["route"], "default/web#canary");
    assert_eq!(line["service"], "default/web");
}

#[tokio::test]
async fn what_no_rule_matches_is_404_and_what_leads_nowhere_500_for_its_share() {
    let versions = Versions::start(
        "  - matches: [{path: {value: /dead}}]\n    backendRefs: [{name: gone, port: 80}]\n\
         \x20 - matches: [{path: {value: /port}}]\n    backendRefs: [{name: web-v1, port: 81}]\n\
         \x20 - matches: [{path: {value: /half}}]\n    backendRefs: [{name: web-v1, port: 80}, {name: gone, port: 80}]\n\
         \x20 - matches: [{path: {value: /none}}]",
    )
    .await;
    let refused = async |path: &str| {
        let answer = versions.get(path).await;
        (
            answer.status.as_u16(),
            answer.field("weft-error").unwrap_or_default().to_owned(),
        )
    };
    assert_eq!(refused("/").await, (404, "no_matching_route".to_owned()));
    assert_eq!(refused("/dead").await, (500, "backend_not_found".to_owned()));
    assert_eq!(refused("/port").await, (500, "backend_not_found".to_owned()));
    assert_eq!(refused("/none").await, (500, "no_backend".to_owned()));
    let mut counts = [0, 0];
    for _ in 0..200 {
        match refused("/half").await.0 {
            200 => counts[0] += 1,
            500 => counts[1] += 1,
            other => panic!("{other}"),
        }
    }
    assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    // A gRPC caller is told in its own form.
    let request = Request::post("/a.B/C")
        .header("host", "web")
        .header("content-type", "application/grpc");
    let mut connection = Connection::http1(versions.mesh.outbound()).await;
    let answer = connection.send(request.body(empty()).unwrap()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.field("grpc-status")),
        (200, Some("12"))
    );
    let message = answer.field("grpc-message").unwrap();
    assert!(message.starts_with("weft: no_matching_route"), "{message}");
}

#[tokio::test]
async fn filters_change_requests_and_answers() {
    let versions = Versions::start(
        "  - matches: [{path: {value: /old}}]\n    filters:\n\
         \x20   - {type: URLRewrite, urlRewrite: {hostname: other.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}\n\
         \x20   - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: b}], add: [{name: x-add, value: \"2\"}], remove: [x-gone]}}\n\
         \x20   - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-server, value: hidden}]}}\n\
         \x20   backendRefs:\n\
         \x20   - name: web-v1\n      port: 80\n      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-backend, value: v1}]}}]\n\
         \x20 - matches: [{path: {value: /moved}}]\n    filters:\n\
         \x20   - {type: RequestRedirect, requestRedirect: {scheme: https, hostname: shop.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /here}, statusCode: 308}}",
    )
    .await;
    let request = Request::get("/old/page?q=1")
        .header("host", "web")
        .header("x-set", "a")
        .header("x-add", "1")
        .header("x-gone", "x");
    let mut connection = Connection::http1(versions.mesh.outbound()).await;
    let answer = connection.send(request.body(empty()).unwrap()).await;
    assert_eq!(
        (answer.status, answer.field("x-server")),
        (StatusCode::OK, Some("hidden"))
    );
    let seen = versions.v1.seen().pop().expect("a request");
    assert_eq!(seen.target, "/new/page?q=1");
    assert_eq!(seen.field("host"), "other.example");
    assert_eq!(
        (seen.field("x-set"), seen.field("x-backend"), seen.field("x-gone")),
        ("b", "v1", "")
    );
    let added: Vec<_> = seen.headers.get_all("x-add").iter().collect();
    assert_eq!(added, ["1", "2"]);
    let answer = versions.get("/moved/on?q=1").await;
    assert_eq!(answer.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(answer.field("location"), Some("https://shop.example/here/on?q=1"));
    assert_eq!(
        answer.field("weft-error"),
        None,
        "it is what the route says, no failure"
    );
}

#[tokio::test]
async fn a_mirror_gets_a_copy_and_changes_nothing() {
    let versions = Versions::start(
        "  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web-v2, port: 80}}}]\n    backendRefs: [{name: web-v1, port: 80}]",
    )
    .await;
    versions.v2.will(crate::common::app::Does::Answer(500));
    let request = Request::post("/x")
        .header("host", "web")
        .body(full("content"))
        .unwrap();
    let answer = Connection::http1(versions.mesh.outbound())
        .await
        .send(request)
        .await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "web-v1"));
    eventually("a copy", async || versions.v2.count() == 1).await;
    let (original, copy) = (versions.v1.seen().remove(0), versions.v2.seen().remove(0));
    assert_eq!((original.target, original.body), (copy.target, copy.body));
    assert_eq!(versions.v1.count(), 1);
}

#[tokio::test]
async fn grpc_routes_go_by_method_and_come_before_http_routes() {
    let mut versions = Versions::prepare().await;
    let grpc = Scripted::serve(&versions.mesh.named("web-v2"), port::GRPC).await;
    grpc.will(crate::common::app::Does::Grpc(0));
    let rules = "  - matches: [{method: {service: shop.Cart, method: Add}}]\n    backendRefs: [{name: web-v2, port: 50051}]";
    versions.mesh.documents = document("gateway.networking.k8s.io/v1", "GRPCRoute", "grpc", rules)
        + &route("  - backendRefs: [{name: web-v1, port: 80}]");
    versions.mesh.start();
    let call = async |path: &str| {
        let request = Request::post(format!("http://web:50051{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let mut connection = Connection::http2(versions.mesh.outbound()).await;
        let answer = connection.send(request.body(empty()).unwrap()).await;
        (
            answer.status.as_u16(),
            answer.field("grpc-status").map(str::to_owned),
        )
    };
    assert_eq!(call("/shop.Cart/Add").await, (200, Some("0".to_owned())));
    assert_eq!(
        call("/shop.Cart/Remove").await,
        (200, Some("12".to_owned())),
        "the HTTPRoute does not apply"
    );
    assert_eq!(grpc.count(), 1);
}

#[tokio::test]
async fn routes_change_without_a_request_lost_and_go_as_they_came() {
    let mut versions = Versions::start("  - backendRefs: [{name: web-v1, port: 80}]").await;
    assert_eq!(versions.get("/").await.text(), "web-v1");
    versions.mesh.documents = route("  - backendRefs: [{name: web-v2, port: 80}]");
    versions.mesh.publish();
    eventually("the other version", async || {
        let answer = versions.get("/").await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.text() == "web-v2"
    })
    .await;
    // What is wrong changes nothing, and is said.
    versions.mesh.documents = route("  - matches: [{path: {value: nowhere}}]");
    versions.mesh.publish();
    eventually("the refusal", async || {
        let page = versions.mesh.sidecar("client-0").page("/ready").await;
        page.text().contains("nowhere")
            || versions
                .mesh
                .sidecar("client-0")
                .process
                .log()
                .iter()
                .any(|line| line.contains("nowhere"))
    })
    .await;
    assert_eq!(versions.get("/").await.text(), "web-v2");
}
