//! What `weft explain` says, and that the request fares as it says.

use std::process::Output;

use serde_json::Value;

use crate::mesh::{Member, Mesh, Settings, Workload, eventually, service, text};

/// A route of `web` for one path alone, and a policy of `limited` by which it takes one request an hour.
const DOCUMENTS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - name: testers
    matches: [{path: {type: Exact, value: /}, headers: [{name: x-tester, value: 'yes'}]}]
    backendRefs: [{name: gone, port: 80}]
  - name: all
    matches: [{path: {type: Exact, value: /}}]
    backendRefs: [{name: web, port: 80}]
---
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: limited}
spec:
  targetRefs: [{group: '', kind: Service, name: limited}]
  limits: {rates: [{requests: 1, per: 1h, by: Route}]}
---
";

const DENY: &str = "\
apiVersion: weft.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: cluster.local, authorization: deny}
";

struct Shop {
    mesh: Mesh,
    client: Workload,
    _web: Workload,
}

impl Shop {
    fn open() -> Self {
        let mesh = Mesh::start(Settings::default());
        let limited = service("limited").replace("app: limited", "app: web");
        mesh.apply(&format!("{}{limited}{DOCUMENTS}", service("web")));
        let web = mesh.join(Member::new("web-0", "web", 11, true));
        let client = mesh.join(Member::new("client-0", "client", 12, false));
        mesh.wait_current();
        Self {
            mesh,
            client,
            _web: web,
        }
    }

    fn explain(&self, url: &str, more: &[&str]) -> Output {
        let asked = ["explain", "--from", "client-0", "GET", url];
        self.mesh.weft(&[&asked, more].concat())
    }

    /// Its exit code, and its first line.
    fn line(&self, url: &str, more: &[&str]) -> (Option<i32>, String) {
        let output = self.explain(url, more);
        let said = text(&output.stdout) + &text(&output.stderr);
        (
            output.status.code(),
            said.lines().next().unwrap_or_default().to_owned(),
        )
    }

    fn status(&self, host: &str, path: &str) -> u16 {
        self.mesh.curl(&self.client.member, host, path).0
    }
}

#[test]
fn what_is_explained_is_what_happens() {
    let shop = Shop::open();

    // Routed. The name is asked for as it is explained.
    let (code, line) = shop.line("http://web/", &[]);
    assert_eq!(
        line,
        "GET http://web/ from default/client-0 goes to default/web by HTTPRoute default/web, rule all"
    );
    assert_eq!(code, Some(0));
    eventually("an answer", || match shop.status("web", "/") {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
    let output = shop.explain("http://web/", &["-o", "json"]);
    let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(explained["considered"][0]["because"], "header x-tester is absent");
    let endpoint = &explained["backends"][0]["endpoints"][0];
    assert_eq!(endpoint["workload"], "default/web-0", "{explained}");
    assert_eq!(endpoint["eligible"], true);
    assert!(
        endpoint["latencyMs"].as_f64().is_some(),
        "it was called: {endpoint}"
    );
    // The sidecar's own page says the same without a controller.
    let (status, page) = shop
        .mesh
        .page(&shop.client.member, "/explain?method=GET&url=http%3A%2F%2Fweb%2F");
    let page: Value = serde_json::from_str(&page).unwrap_or_else(|error| panic!("{error}: {status} {page}"));
    assert_eq!(page["route"], explained["route"]);

    // A rule that leads nowhere, and no rule at all.
    let (code, line) = shop.line("http://web/", &["-H", "x-tester: yes"]);
    assert!(
        line.contains("is answered 500 by the sidecar: backend_not_found"),
        "{line}"
    );
    assert_eq!(code, Some(1));
    let (code, line) = shop.line("http://web/other", &[]);
    assert!(
        line.contains("is answered 404 by the sidecar: no_matching_route"),
        "{line}"
    );
    assert_eq!((code, shop.status("web", "/other")), (Some(1), 404));

    // Limited, once the one request that may be was made.
    let (code, line) = shop.line("http://limited/", &[]);
    assert!(
        line.ends_with("goes to default/limited: it has no routes"),
        "{line}"
    );
    assert_eq!((code, shop.status("limited", "/")), (Some(0), 200));
    let (code, line) = shop.line("http://limited/", &[]);
    assert!(
        line.contains("is answered 429 by the sidecar: rate_limited"),
        "{line}"
    );
    assert_eq!((code, shop.status("limited", "/")), (Some(1), 429));

    // Denied, at the far sidecar.
    shop.mesh.apply(DENY);
    shop.mesh.wait_current();
    let (code, line) = shop.line("http://web/", &[]);
    assert!(
        line.contains("is answered 403 at the sidecar of each endpoint: denied"),
        "{line}"
    );
    assert_eq!((code, shop.status("web", "/")), (Some(1), 403));

    // Who asked what is known, but for the query.
    let (_, line) = shop.line("http://nobody/x?key=secret", &[]);
    assert!(
        line.contains("is answered 404 by the sidecar: unknown_service"),
        "{line}"
    );
    let audit = shop.mesh.weft_ok(&["audit"]);
    assert!(
        audit.contains("explain GET http://nobody/x") && !audit.contains("secret"),
        "{audit}"
    );
}
