//! Which routes and policies apply where, and what the status of each says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use proptest::prelude::*;
use proptest::sample::select;
use std::sync::Arc;
use std::time::Duration;
use weft_proto::Source;
use weft_proto::attach::{
    self, Documents, Effective, Lookup, Observed, ParentStatus, policy_json, policy_status, route_json,
    route_status,
};
use weft_proto::mesh_set::{Change, MeshSet, Unserved};
use weft_proto::model::route::{BackendTarget, ParentRef};
use weft_proto::model::{ClusterIp, Mesh, Name, Route, RouteKind, Service};
use weft_proto::names::{DnsLabel, DnsName};
use weft_proto::parse::{parse_document, parse_documents};

const CONFIG: &str = "{apiVersion: weft.dev/v1alpha1, kind: MeshConfig, metadata: {name: mesh}, spec: {trustDomain: mesh.example}}\n";

fn mesh(documents: &[String]) -> Mesh {
    let text = [CONFIG].into_iter().chain(documents.iter().map(String::as_str));
    let text = text.collect::<Vec<_>>().join("---\n");
    parse_documents(&[Source::new("m.yaml", text)]).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn set(documents: &[String]) -> MeshSet {
    let text = [CONFIG].into_iter().chain(documents.iter().map(String::as_str));
    let change = |text: &str| Change::Put(Arc::new(parse_document(&Source::new("m.yaml", text)).unwrap()));
    let mut set = MeshSet::new();
    set.apply(text.map(change), Unserved::Report).unwrap();
    set
}

fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap();
    Name {
        namespace: DnsLabel::parse(namespace).unwrap(),
        name: DnsName::parse(name).unwrap(),
    }
}

fn metadata(text: &str, created: Option<&str>) -> String {
    let Name { namespace, name } = name(text);
    let created = created.map_or_else(String::new, |created| {
        format!(", creationTimestamp: \"{created}\"")
    });
    format!("metadata: {{name: {name}, namespace: {namespace}{created}}}")
}

fn service(text: &str, ports: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, {}, spec: {{selector: {{app: a}}, ports: [{ports}]{more}}}}}\n",
        metadata(text, None)
    )
}

/// Ports of each protocol that counts.
const PORTS: &str = "{name: http, port: 80, appProtocol: http}, {name: grpc, port: 81, appProtocol: grpc}, \
     {name: any, port: 82}, {name: db, port: 83, appProtocol: tcp}, {name: dns, port: 84, protocol: UDP}, \
     {name: both-udp, port: 85, protocol: UDP}, {name: both, port: 85, appProtocol: http}";

fn web() -> String {
    service("shop/web", PORTS, "")
}

/// A route with these parents and rules.
fn route(kind: &str, text: &str, created: Option<&str>, parents: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, {}, spec: {{parentRefs: [{parents}], rules: [{rules}]}}}}\n",
        metadata(text, created)
    )
}

const WEB: &str = "{group: '', kind: Service, name: web, namespace: shop}";

/// A route of the Service `shop/web`, or of one of its ports, if `of` says so.
fn to_web(kind: &str, text: &str, created: Option<&str>, of: &str) -> String {
    let parent = WEB.replace('}', &format!("{of}}}"));
    route(kind, text, created, &parent, "{}")
}

fn policy(text: &str, created: Option<&str>, targets: &str, sections: &str) -> String {
    format!(
        "{{apiVersion: weft.dev/v1alpha1, kind: TrafficPolicy, {}, spec: {{targetRefs: [{targets}]{sections}}}}}\n",
        metadata(text, created)
    )
}

fn grant(text: &str, kind: &str, from: &str, to: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, {}, spec: {{\
         from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {from}}}], to: [{{group: '', kind: Service{to}}}]}}}}\n",
        metadata(text, None)
    )
}

/// What applies at a port of `shop/web`, by the index over a mesh and by the set, which agree.
fn applying(documents: &[String], port: &str, client: &str) -> Vec<String> {
    let names = |docs: &dyn Fn(&Name) -> Vec<String>| docs(&name("shop/web"));
    let mesh = mesh(documents);
    let lookup = Lookup::new(&mesh);
    let set = set(documents);
    let of_mesh = names(&|web| routes_at(&lookup, web, port, client));
    let of_set = names(&|web| routes_at(&set, web, port, client));
    assert_eq!(of_mesh, of_set);
    of_mesh
}

fn routes_at(docs: &impl Documents, web: &Name, port: &str, client: &str) -> Vec<String> {
    let service = docs.service(web).unwrap();
    let port = service
        .ports
        .iter()
        .find(|found| found.name.as_deref() == Some(port))
        .unwrap();
    let routes = attach::routes(docs, service, port, client);
    routes.iter().map(|route| route.name.to_string()).collect()
}

const OLD: Option<&str> = Some("2026-01-01T00:00:00Z");
const NEW: Option<&str> = Some("2026-02-01T00:00:00Z");

#[test]
fn routes_apply_where_their_parent_is() {
    let http = |of: &str| vec![web(), to_web("HTTPRoute", "shop/a", None, of)];
    let found = ["shop/a"].map(str::to_owned).to_vec();
    for (of, at) in [
        ("", &["http", "grpc", "any", "both"][..]),
        (", port: 80", &["http"]),
        (", sectionName: any", &["any"]),
        (", port: 82, sectionName: any", &["any"]),
        (", port: 80, sectionName: any", &[]),
        (", port: 9", &[]),
        // Neither bytes nor datagrams are requests, and of two ports of one number only one is TCP's.
        (", port: 83", &[]),
        (", sectionName: dns", &[]),
        (", port: 85", &["both"]),
    ] {
        for port in ["http", "grpc", "any", "db", "dns", "both-udp", "both"] {
            let wanted = if at.contains(&port) {
                found.clone()
            } else {
                Vec::new()
            };
            assert_eq!(applying(&http(of), port, "shop"), wanted, "{of} at {port}");
        }
    }
}

#[test]
fn a_route_that_names_two_ports_is_there_once_at_each() {
    let parents =
        "{group: '', kind: Service, name: web, port: 80}, {group: '', kind: Service, name: web, port: 81}";
    let documents = [web(), route("HTTPRoute", "shop/a", None, parents, "{}")];
    for (port, count) in [("http", 1), ("grpc", 1), ("any", 0)] {
        assert_eq!(applying(&documents, port, "shop").len(), count);
    }
}

#[test]
fn the_routes_of_a_client_stand_in_place_of_those_of_the_service() {
    let documents = [
        web(),
        to_web("HTTPRoute", "shop/all", None, ""),
        to_web("HTTPRoute", "lab/mine", None, ", port: 80"),
    ];
    for (port, client, wanted) in [
        ("http", "shop", "shop/all"),
        ("http", "elsewhere", "shop/all"),
        ("http", "lab", "lab/mine"),
        // At another port it has none.
        ("any", "lab", "shop/all"),
    ] {
        assert_eq!(applying(&documents, port, client), [wanted], "{port} {client}");
    }
}

#[test]
fn grpc_routes_stand_in_place_of_http_routes_of_the_same_group() {
    let documents = [
        web(),
        to_web("HTTPRoute", "shop/http", None, ""),
        to_web("GRPCRoute", "shop/grpc", None, ", port: 81"),
        to_web("HTTPRoute", "lab/http", None, ", port: 81"),
    ];
    for (port, client, wanted) in [
        ("http", "shop", "shop/http"),
        ("grpc", "shop", "shop/grpc"),
        ("grpc", "lab", "lab/http"),
    ] {
        assert_eq!(applying(&documents, port, client), [wanted], "{port} {client}");
    }
}

#[test]
fn older_routes_come_first_and_then_the_text_of_the_name() {
    let of = |text: &str, created| to_web("HTTPRoute", text, created, "");
    let documents = [
        web(),
        of("shop/c", None),
        of("shop/b.c", None),
        of("shop/b-c", None),
        of("shop/z", OLD),
        of("shop/a", NEW),
        of("shop/y", OLD),
    ];
    let wanted = ["shop/y", "shop/z", "shop/a", "shop/b-c", "shop/b.c", "shop/c"];
    assert_eq!(applying(&documents, "http", "shop"), wanted);
}

#[test]
fn a_headless_service_takes_no_routes() {
    let documents = [
        service("shop/web", PORTS, ", clusterIP: None"),
        to_web("HTTPRoute", "shop/a", None, ""),
    ];
    assert!(applying(&documents, "http", "shop").is_empty());
}

#[test]
fn backends() {
    let documents = [
        web(),
        service("lab/other", "{port: 80}", ""),
        service("lab/hidden", "{port: 80}", ""),
        grant("lab/grant", "HTTPRoute", "shop", ", name: other"),
        to_web("HTTPRoute", "shop/http", None, ""),
        to_web("GRPCRoute", "shop/grpc", None, ""),
        to_web("HTTPRoute", "else/http", None, ""),
    ];
    let mesh = mesh(&documents);
    let lookup = Lookup::new(&mesh);
    let set = set(&documents);
    let missing = "there is no Service shop/gone: apply it, or name another";
    let hidden = "no ReferenceGrant in lab allows a HTTPRoute of shop to send requests to the Service lab/hidden: apply one there";
    for (from, to, port, wanted) in [
        (0, "shop/web", 80, Ok("http")),
        (0, "shop/web", 82, Ok("any")),
        (0, "shop/web", 85, Ok("both")),
        (0, "shop/gone", 80, Err(("BackendNotFound", missing))),
        (
            0,
            "shop/web",
            9,
            Err((
                "BackendNotFound",
                "the Service shop/web has no port 9: add it, or name one of its ports",
            )),
        ),
        (
            0,
            "shop/web",
            84,
            Err((
                "UnsupportedProtocol",
                "the port 84 of the Service shop/web is declared to speak udp, not HTTP: name another, or correct its appProtocol",
            )),
        ),
        (
            0,
            "shop/web",
            83,
            Err((
                "UnsupportedProtocol",
                "the port 83 of the Service shop/web is declared to speak tcp, not HTTP: name another, or correct its appProtocol",
            )),
        ),
        (0, "lab/other", 80, Ok("")),
        (0, "lab/hidden", 80, Err(("RefNotPermitted", hidden))),
        // One that may not ask is not told whether it is there.
        (
            0,
            "lab/gone",
            80,
            Err(("RefNotPermitted", &hidden.replace("hidden", "gone"))),
        ),
        (
            1,
            "lab/other",
            80,
            Err((
                "RefNotPermitted",
                "no ReferenceGrant in lab allows a GRPCRoute of shop to send requests to the Service lab/other: apply one there",
            )),
        ),
        (
            2,
            "lab/other",
            80,
            Err((
                "RefNotPermitted",
                "no ReferenceGrant in lab allows a HTTPRoute of else to send requests to the Service lab/other: apply one there",
            )),
        ),
    ] {
        let target = BackendTarget::new(name(to), port);
        let route = &mesh.routes[from];
        let found = attach::backend(&lookup, route, &target);
        assert_eq!(found, attach::backend(&set, route, &target));
        match (found, wanted) {
            (Ok((service, port)), Ok(wanted)) => {
                assert_eq!(service.name, name(to));
                assert_eq!(port.name.as_deref().unwrap_or_default(), wanted);
            }
            (Err(error), Err((reason, message))) => {
                assert_eq!((error.reason(), error.to_string().as_str()), (reason, message));
            }
            (found, wanted) => panic!("{to}:{port}: {found:?}, not {wanted:?}"),
        }
    }
}

/// What holds at a port of `shop/web`.
fn effective(documents: &[String], port: &str) -> Effective {
    let (mesh, set) = (mesh(documents), set(documents));
    let of = |docs: &dyn Fn(&Service) -> Effective| docs(&mesh.services[0]);
    let port = |service: &Service| {
        let mut ports = service.ports.iter();
        ports
            .find(|found| found.name.as_deref() == Some(port))
            .unwrap()
            .clone()
    };
    let lookup = Lookup::new(&mesh);
    let found = of(&|web| attach::policy(&lookup, &web.name, &port(web)));
    assert_eq!(found, of(&|web| attach::policy(&set, &web.name, &port(web))));
    found
}

fn sources(effective: &Effective) -> Vec<String> {
    let sources = effective.sources.iter();
    sources
        .map(|(section, name)| format!("{section} {name}"))
        .collect()
}

#[test]
fn each_section_is_of_the_port_or_else_of_the_service_or_else_the_default() {
    let documents = [
        web(),
        policy(
            "shop/port",
            None,
            "{name: web, sectionName: http}",
            ", retries: {attempts: 1}, timeouts: {idle: 1s}",
        ),
        policy(
            "shop/all",
            OLD,
            "{name: web}",
            ", retries: {attempts: 7}, limits: {requests: 5}, faults: [{abort: {status: 503}}]",
        ),
        policy(
            "shop/other",
            OLD,
            "{name: other}",
            ", loadBalancing: {algorithm: Random}",
        ),
        policy(
            "lab/other",
            OLD,
            "{name: web}",
            ", loadBalancing: {algorithm: Random}",
        ),
    ];
    let http = effective(&documents, "http");
    assert_eq!(
        (http.retries.attempts, http.limits.requests, http.faults.len()),
        (1, Some(5), 1)
    );
    assert_eq!(http.timeouts.idle, Some(Duration::from_secs(1)));
    assert_eq!(http.load_balancing, Effective::default().load_balancing);
    let of_http = [
        "faults shop/all",
        "limits shop/all",
        "retries shop/port",
        "timeouts shop/port",
    ];
    assert_eq!(sources(&http), of_http);
    let grpc = effective(&documents, "grpc");
    assert_eq!((grpc.retries.attempts, grpc.timeouts.idle), (7, None));
    assert_eq!(
        sources(&grpc),
        ["faults shop/all", "limits shop/all", "retries shop/all"]
    );
    assert_eq!(effective(&[web()], "http"), Effective::default());
}

#[test]
fn of_two_policies_with_the_same_target_the_older_one_wins_whole() {
    let documents = [
        web(),
        policy(
            "shop/a",
            NEW,
            "{name: web}, {name: other}",
            ", retries: {attempts: 1}, limits: {requests: 1}",
        ),
        policy("shop/b", OLD, "{name: web}", ", retries: {attempts: 2}"),
        policy("shop/c", None, "{name: web}", ", timeouts: {idle: 1s}"),
    ];
    let found = effective(&documents, "http");
    assert_eq!(sources(&found), ["retries shop/b"]);
    assert_eq!((found.retries.attempts, found.limits.requests), (2, None));
    let conflict = "the older TrafficPolicy shop/b has the same target: put what this one says into that, or remove one of the two";
    let gone = "there is no Service shop/other: apply it, or name another";
    assert_eq!(
        policy_words(&documents, 0),
        [
            format!("shop/web: Accepted False Conflicted {conflict}"),
            format!("shop/other: Accepted False TargetNotFound {gone}"),
        ]
    );
    assert_eq!(
        policy_words(&documents, 1),
        ["shop/web: Accepted True Accepted it holds"]
    );
    assert_eq!(
        policy_words(&documents, 2),
        [format!("shop/web: Accepted False Conflicted {conflict}")]
    );
}

#[test]
fn what_a_policy_is_told_of_its_target() {
    let documents = [
        web(),
        service("shop/set", "{port: 80}", ", clusterIP: None"),
        policy(
            "shop/a",
            None,
            "{name: web, sectionName: http}, {name: web, sectionName: htp}, {name: set}",
            "",
        ),
    ];
    assert_eq!(
        policy_words(&documents, 0),
        [
            "shop/web: Accepted True Accepted it holds",
            "shop/web: Accepted False TargetNotFound the Service shop/web has no port called htp: add it, or name one of its ports",
            "shop/set: Accepted True Accepted it holds, but the Service is headless: calls of its workloads' own addresses are not balanced, repeated or limited by it",
        ]
    );
}

fn words(statuses: &[ParentStatus]) -> Vec<String> {
    let words = statuses.iter().flat_map(|status| {
        let conditions = status.conditions.iter();
        conditions.map(|of| {
            let is_true = if of.is_true { "True" } else { "False" };
            format!(
                "{}: {} {is_true} {} {}",
                status.parent.service, of.kind, of.reason, of.message
            )
        })
    });
    words.collect()
}

fn policy_words(documents: &[String], index: usize) -> Vec<String> {
    let (mesh, set) = (mesh(documents), set(documents));
    let policy = &mesh.traffic_policies[index];
    let found = policy_status(&set, policy);
    assert_eq!(found, policy_status(&Lookup::new(&mesh), policy));
    words(&found)
}

/// Of the route at this place the conditions `Accepted`, or `ResolvedRefs`.
fn route_words(documents: &[String], index: usize, kind: &str) -> Vec<String> {
    let (mesh, set) = (mesh(documents), set(documents));
    let found = route_status(&set, &mesh.routes[index]);
    assert_eq!(found, route_status(&Lookup::new(&mesh), &mesh.routes[index]));
    let found = words(&found).into_iter();
    found.filter(|of| of.contains(&format!(": {kind} "))).collect()
}

#[test]
fn what_a_route_is_told_of_its_parents() {
    let all = "requests of all clients whose namespace has no routes of its own for the Service";
    for (kind, text, of, wanted) in [
        ("HTTPRoute", "shop/a", "", format!("True Accepted it applies to {all}")),
        ("HTTPRoute", "lab/a", "", "True Accepted it applies to requests of clients in lab alone".to_owned()),
        ("HTTPRoute", "shop/a", ", port: 9", "False NoMatchingParent the Service shop/web has no such port: add it, or name one of its ports".to_owned()),
        ("HTTPRoute", "shop/a", ", port: 83", "False NoMatchingParent no such port of the Service shop/web speaks HTTP: name another, or correct its appProtocol".to_owned()),
    ] {
        let documents = [web(), to_web(kind, text, None, of)];
        assert_eq!(route_words(&documents, 0, "Accepted"), [format!("shop/web: Accepted {wanted}")]);
    }
    let parents = "{group: '', kind: Service, name: gone}, {group: '', kind: Service, name: set}";
    let documents = [
        service("shop/set", "{port: 80}", ", clusterIP: None"),
        route("HTTPRoute", "shop/a", None, parents, "{}"),
    ];
    assert_eq!(
        route_words(&documents, 0, "Accepted"),
        [
            "shop/gone: Accepted False NoMatchingParent there is no Service shop/gone: apply it, or name another",
            "shop/set: Accepted False NoMatchingParent the Service shop/set is headless, so its workloads are called at their own addresses: name one with a cluster IP",
        ]
    );
}

#[test]
fn http_routes_are_told_of_grpc_routes_that_apply_instead() {
    let with = |grpc: &str, of: &str| {
        let documents = [
            web(),
            to_web("HTTPRoute", "shop/http", OLD, ""),
            to_web("GRPCRoute", grpc, NEW, of),
        ];
        let accepted = |index| route_words(&documents, index, "Accepted").remove(0);
        (accepted(0), accepted(1).contains("Accepted True Accepted"))
    };
    let conflict = "shop/web: Accepted False Conflicted the GRPCRoute shop/grpc is for the same port, where GRPCRoutes apply alone: \
                    remove one of the two, or give each a port of its own";
    assert_eq!(with("shop/grpc", ""), (conflict.to_owned(), true));
    let (message, _) = with("shop/grpc", ", port: 81");
    assert!(
        message.starts_with("shop/web: Accepted True Accepted"),
        "{message}"
    );
    assert!(
        message.ends_with(", but for port 81, where GRPCRoutes apply alone"),
        "{message}"
    );
    // Those of clients are another group.
    let (message, _) = with("lab/grpc", "");
    assert!(message.ends_with("for the Service"), "{message}");
}

#[test]
fn what_a_route_is_told_of_its_backends() {
    let resolved = |rules: &str| {
        let documents = [web(), route("HTTPRoute", "shop/a", None, WEB, rules)];
        route_words(&documents, 0, "ResolvedRefs").remove(0)
    };
    let gone = |name: &str| format!("there is no Service shop/{name}: apply it, or name another");
    let ok = "shop/web: ResolvedRefs True ResolvedRefs all backends are there";
    assert_eq!(resolved("{backendRefs: [{name: web, port: 80}]}"), ok);
    assert_eq!(resolved("{}"), ok);
    let mirror = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}}}]";
    assert_eq!(
        resolved(&format!(
            "{{}}, {{{mirror}, backendRefs: [{{name: web, port: 84}}]}}"
        )),
        format!(
            "shop/web: ResolvedRefs False BackendNotFound rules[1].filters[0].requestMirror.backendRef: {}; \
             rules[1].backendRefs[0]: the port 84 of the Service shop/web is declared to speak udp, not HTTP: name another, \
             or correct its appProtocol",
            gone("copy")
        )
    );
    let backends = ["a", "a", "b", "c", "d", "e"]
        .map(|name| format!("{{name: {name}, port: 80}}"))
        .join(", ");
    assert_eq!(
        resolved(&format!("{{backendRefs: [{backends}]}}")),
        format!(
            "shop/web: ResolvedRefs False BackendNotFound rules[0].backendRefs[0]: {}; rules[0].backendRefs[2]: {}; \
             rules[0].backendRefs[3]: {}; and 2 more",
            gone("a"),
            gone("b"),
            gone("c")
        )
    );
}

#[test]
fn status_as_kubernetes_has_it() {
    let documents = [
        web(),
        to_web("HTTPRoute", "shop/a", None, ", port: 80"),
        policy("shop/a", None, "{name: web, sectionName: http}", ""),
    ];
    let mesh = mesh(&documents);
    let lookup = Lookup::new(&mesh);
    let observed = Observed {
        generation: 3,
        since: "2026-01-01T00:00:00Z".to_owned(),
    };
    assert_eq!(
        policy_json(&policy_status(&lookup, &mesh.traffic_policies[0]), None),
        serde_json::json!({"ancestors": [{
            "ancestorRef": {"group": "", "kind": "Service", "namespace": "shop", "name": "web", "sectionName": "http"},
            "controllerName": "weft.dev/controller",
            "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "it holds"}],
        }]})
    );
    let status = route_json(&route_status(&lookup, &mesh.routes[0]), Some(&observed));
    let parent = &status["parents"][0];
    assert_eq!(parent["parentRef"]["port"], 80);
    let resolved = serde_json::json!({
        "type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs", "message": "all backends are there",
        "observedGeneration": 3, "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    assert_eq!(parent["conditions"][1], resolved);
}

/// By the words of the standard, over all documents, without an index.
fn naive(mesh: &Mesh, service: &Service, port: usize, client: &str) -> Vec<String> {
    let port = &service.ports[port];
    if service.cluster_ip == ClusterIp::Headless || port.protocol.is_udp() {
        return Vec::new();
    }
    let is_parent = |parent: &ParentRef| {
        parent.service == service.name
            && parent.port.is_none_or(|number| number == port.port)
            && !(parent.section.is_some() && parent.section != port.name)
    };
    let all: Vec<&Route> = mesh
        .routes
        .iter()
        .filter(|route| route.parents.iter().any(is_parent))
        .collect();
    let in_namespace = |namespace: &str| -> Vec<&Route> {
        all.iter()
            .copied()
            .filter(|route| &*route.name.namespace == namespace)
            .collect()
    };
    let consumers = in_namespace(client);
    let group = if consumers.is_empty() {
        in_namespace(&service.name.namespace)
    } else {
        consumers
    };
    let (grpc, http): (Vec<&Route>, Vec<&Route>) =
        group.into_iter().partition(|route| route.kind == RouteKind::Grpc);
    let mut chosen = if grpc.is_empty() { http } else { grpc };
    chosen.sort_by_key(|route| (route.created.unwrap_or(i64::MAX), route.name.to_string()));
    chosen
        .iter()
        .map(|route| format!("{:?} {}", route.kind, route.name))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn routes_are_those_of_a_naive_model(
        drawn in prop::collection::btree_map(
            (select(vec!["HTTPRoute", "GRPCRoute"]), select(vec!["a", "a-b", "lab"]), "[a-c]"),
            (
                select(vec![None, OLD, NEW]),
                prop::collection::btree_map(
                    (select(vec!["a", "a-b"]), select(vec!["web", "api"])),
                    select(vec!["", ", port: 80", ", sectionName: http", ", port: 81, sectionName: grpc", ", port: 84"]),
                    1..3,
                ),
            ),
            0..8,
        ),
        client in select(vec!["a", "a-b", "lab", "else"]),
    ) {
        let ports = "{name: http, port: 80}, {name: grpc, port: 81}, {name: dns, port: 84, protocol: UDP}";
        let mut documents = vec![
            service("a/web", ports, ""),
            service("a/api", ports, ", clusterIP: None"),
            service("a-b/web", ports, ""),
        ];
        for ((kind, namespace, own), (created, parents)) in &drawn {
            let parents: Vec<String> = parents
                .iter()
                .map(|((namespace, name), of)| format!("{{group: '', kind: Service, namespace: {namespace}, name: {name}{of}}}"))
                .collect();
            documents.push(route(kind, &format!("{namespace}/{own}"), *created, &parents.join(", "), "{}"));
        }
        let (mesh, set) = (mesh(&documents), set(&documents));
        let lookup = Lookup::new(&mesh);
        for service in &mesh.services {
            for (index, port) in service.ports.iter().enumerate() {
                let wanted = naive(&mesh, service, index, client);
                let text = |routes: Vec<&Route>| -> Vec<String> {
                    routes.iter().map(|route| format!("{:?} {}", route.kind, route.name)).collect()
                };
                prop_assert_eq!(text(attach::routes(&lookup, service, port, client)), wanted.clone());
                prop_assert_eq!(text(attach::routes(&set, service, port, client)), wanted);
            }
        }
    }
}

/// A set whose documents go away finds them no longer.
#[test]
fn what_is_removed_is_not_found() {
    let documents = [
        web(),
        to_web("HTTPRoute", "shop/a", None, ""),
        policy("shop/a", None, "{name: web}", ""),
        grant("shop/a", "HTTPRoute", "lab", ""),
    ];
    let mut set = set(&documents);
    let web = name("shop/web");
    let count = |set: &MeshSet| {
        [
            usize::from(set.service(&web).is_some()),
            set.routes_of(&web).count(),
            set.policies_of(&web).count(),
            set.grants_of(&web.namespace).count(),
        ]
    };
    assert_eq!(count(&set), [1; 4]);
    let keys: Vec<_> = set.documents().map(|document| document.key.clone()).collect();
    let removed = keys
        .into_iter()
        .filter(|key| key.namespace() == "shop")
        .map(Change::Remove);
    set.apply(removed, Unserved::Report).unwrap();
    assert_eq!(count(&set), [0; 4]);
}
