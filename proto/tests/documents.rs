//! Each rule of the documents, with the exact error that breaking it gives.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::IpAddr;
use weft_proto::model::{
    AppProtocol, Authorization, ClusterIp, Egress, InboundMode, Mesh, TargetPort, Unmeshed,
};
use weft_proto::parse::parse_documents;
use weft_proto::{Source, SpiffeId, TrustDomain};

const CONFIG: &str = "
apiVersion: weft.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: mesh.example}
";

/// Reads one text, called `m.yaml`.
fn parse(text: &str) -> Result<Mesh, Vec<String>> {
    parse_documents(&[Source::new("m.yaml", text)])
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn mesh(text: &str) -> Mesh {
    parse(text).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}

/// The errors of a text; their file, which is always the same, is cut off.
fn errors(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err(text);
    errors
        .into_iter()
        .map(|error| error.strip_prefix("m.yaml:").map(str::to_owned).unwrap_or(error))
        .collect()
}

/// A Service whose spec has these lines after the selector and one port; they begin in line 13.
fn service(lines: &str) -> String {
    let head = "---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
";
    format!("{CONFIG}{head}{}", indent(lines))
}

/// A Service with these lines as its ports; they begin in line 13.
fn ports(lines: &str) -> String {
    let head = "---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports:
";
    format!("{CONFIG}{head}{}", indent(lines))
}

/// A Workload whose spec has these lines after the address; they begin in line 12.
fn workload(lines: &str) -> String {
    let head = "---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: web-0}
spec:
  address: 10.0.0.1
";
    format!("{CONFIG}{head}{}", indent(lines))
}

/// A MeshConfig whose spec has these lines after the trust domain; they begin in line 6.
fn config(lines: &str) -> String {
    let head = "apiVersion: weft.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  trustDomain: mesh.example
";
    format!("{head}{}", indent(lines))
}

fn indent(lines: &str) -> String {
    lines.lines().map(|line| format!("  {line}\n")).collect()
}

/// Each text is refused with this one error, in the first line after the head, or as many later as `+N` says.
fn assert_refused(document: fn(&str) -> String, first_line: usize, table: &[(&str, &str)]) {
    for (lines, error) in table {
        let wanted = match error.strip_prefix('+').and_then(|rest| rest.split_once(' ')) {
            Some((more, rest)) => format!("{}: {rest}", first_line + more.parse::<usize>().unwrap()),
            None => format!("{first_line}: {error}"),
        };
        assert_eq!(errors(&document(lines)), [wanted], "{lines}");
    }
}

fn assert_accepted(document: fn(&str) -> String, table: &[&str]) {
    for lines in table {
        mesh(&document(lines));
    }
}

#[test]
fn a_mesh() {
    let mesh = mesh(
        "
apiVersion: weft.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  trustDomain: mesh.example
  meshRanges: [10.0.0.0/8, 'fd00::/8']
  serviceRanges: [10.96.0.0/12]
  egress: allow
  inbound: permissive
  unmeshed: allow
  authorization: deny
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  selector: {app: web, tier: front}
  ports:
  - {name: http, port: 80, targetPort: http, appProtocol: http}
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, appProtocol: tcp}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata:
  name: web-0.a
  namespace: shop
  labels: {app: web, tier: front, example.com/zone: a}
spec:
  uid: 5a1c
  address: 10.0.0.1
  meshPort: 15008
  serviceAccount: web
  ports:
  - {name: http, port: 8080, protocol: http2}
  - {port: 53, protocol: udp}
  - {port: 53}
  locality: {region: eu, zone: eu-1, subzone: rack-7}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: old, labels: {app: web}}
spec: {address: 'fd00::1'}
",
    );

    assert_eq!(mesh.config.trust_domain.as_str(), "mesh.example");
    assert_eq!(
        mesh.config.mesh_ranges,
        ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]
    );
    assert_eq!(mesh.config.service_ranges, ["10.96.0.0/12".parse().unwrap()]);
    assert_eq!(mesh.config.egress, Egress::Allow);
    assert_eq!(mesh.config.inbound, InboundMode::Permissive);
    assert_eq!(mesh.config.unmeshed, Unmeshed::Allow);
    assert_eq!(mesh.config.authorization, Authorization::Deny);

    let [web] = &mesh.services[..] else {
        panic!("{:?}", mesh.services)
    };
    assert_eq!(web.name.to_string(), "shop/web");
    assert_eq!(web.cluster_ip, ClusterIp::Address("10.96.0.10".parse().unwrap()));
    assert_eq!(web.selector.len(), 2);
    let ports: Vec<_> = web
        .ports
        .iter()
        .map(|port| (port.port, port.target.to_string(), port.protocol))
        .collect();
    assert_eq!(
        ports,
        [
            (80, "http".to_owned(), AppProtocol::Http),
            (53, "53".to_owned(), AppProtocol::Udp),
            (53, "53".to_owned(), AppProtocol::Tcp),
        ]
    );

    let [first, old] = &mesh.workloads[..] else {
        panic!("{:?}", mesh.workloads)
    };
    assert_eq!(first.name.to_string(), "shop/web-0.a");
    assert_eq!(first.uid, "5a1c");
    assert_eq!(first.address, "10.0.0.1".parse::<IpAddr>().unwrap());
    assert_eq!(first.mesh_port, Some(15008));
    assert_eq!(
        first.labels.get("example.com/zone").map(String::as_str),
        Some("a")
    );
    assert_eq!(first.ports.len(), 3);
    let locality = first.locality.as_ref().unwrap();
    assert_eq!(
        (&*locality.region, locality.zone.as_deref()),
        ("eu", Some("eu-1"))
    );
    assert_eq!(locality.subzone.as_deref(), Some("rack-7"));
    assert_eq!(
        first.identity(&mesh.config.trust_domain),
        SpiffeId::parse("spiffe://mesh.example/ns/shop/sa/web").unwrap()
    );
    let targets: Vec<_> = web
        .ports
        .iter()
        .map(|port| port.target_at(first).map(|port| port.port))
        .collect();
    assert_eq!(targets, [Some(8080), Some(53), Some(53)]);
    assert_eq!(web.ports[1].target_at(first).unwrap().protocol, AppProtocol::Udp);
    assert_eq!(
        web.ports[2].target_at(first).unwrap().protocol,
        AppProtocol::Detect
    );

    assert_eq!(old.uid, "default/old");
    assert_eq!((old.mesh_port, old.is_meshed()), (None, false));
    assert_eq!(old.service_account, "default");
    let selected: Vec<_> = mesh
        .workloads_of(web)
        .map(|workload| workload.name.to_string())
        .collect();
    assert_eq!(selected, ["shop/web-0.a"]);
}

#[test]
fn what_is_not_said_is_safe() {
    let config = mesh(CONFIG).config;
    assert_eq!(config.trust_domain, TrustDomain::parse("mesh.example").unwrap());
    assert_eq!(
        (config.egress, config.inbound),
        (Egress::Deny, InboundMode::Strict)
    );
    assert_eq!(
        (config.unmeshed, config.authorization),
        (Unmeshed::Deny, Authorization::Authenticated)
    );
    assert!(config.mesh_ranges.is_empty() && config.service_ranges.is_empty());
}

#[test]
fn addresses_of_the_mesh() {
    let config = mesh(&config("meshRanges: [10.0.0.0/8]\nserviceRanges: ['fd00::/8']")).config;
    for (address, is_inside) in [
        ("10.1.2.3", true),
        ("11.0.0.0", false),
        ("fd00::1", true),
        ("fe80::1", false),
        ("::ffff:10.0.0.1", true),
    ] {
        assert_eq!(config.contains(address.parse().unwrap()), is_inside, "{address}");
    }
}

#[test]
fn what_kubernetes_writes_is_accepted() {
    // The shape of `kubectl get service -o yaml`.
    let mesh = mesh(&format!(
        "{CONFIG}---
apiVersion: v1
kind: Service
metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {{\"apiVersion\":\"v1\"}}
  creationTimestamp: \"2026-01-01T00:00:00Z\"
  deletionTimestamp: null
  finalizers: [service.kubernetes.io/load-balancer-cleanup]
  generation: 1
  labels: {{app: web}}
  managedFields:
  - apiVersion: v1
    fieldsType: FieldsV1
    fieldsV1: {{f:spec: {{f:ports: {{.: {{}}, 'k:{{\"port\":80}}': {{}}}}}}}}
  name: web
  namespace: default
  ownerReferences: []
  resourceVersion: \"1\"
  selfLink: /api/v1/x
  uid: 0a7e2b0e-0000-0000-0000-000000000000
spec:
  allocateLoadBalancerNodePorts: true
  clusterIP: 10.96.0.1
  clusterIPs:
  - 10.96.0.1
  externalTrafficPolicy: Local
  healthCheckNodePort: 30001
  internalTrafficPolicy: Cluster
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  loadBalancerClass: x/y
  loadBalancerIP: 203.0.113.1
  loadBalancerSourceRanges: [203.0.113.0/24]
  ports:
  - name: http
    nodePort: 30000
    port: 80
    protocol: TCP
    targetPort: 8080
  publishNotReadyAddresses: false
  selector: {{app: web}}
  sessionAffinity: None
  type: LoadBalancer
status:
  loadBalancer: {{}}
"
    ));
    assert_eq!(mesh.services[0].ports[0].target, TargetPort::Number(8080));
}

#[test]
fn cluster_ips() {
    let cluster_ip = |lines: &str| mesh(&service(lines)).services[0].cluster_ip;
    assert_eq!(cluster_ip(""), ClusterIp::Unassigned);
    assert_eq!(cluster_ip("clusterIP: ''"), ClusterIp::Unassigned);
    assert_eq!(cluster_ip("clusterIP:"), ClusterIp::Unassigned);
    assert_eq!(
        cluster_ip("clusterIP: None\nclusterIPs: [None]"),
        ClusterIp::Headless
    );
    assert_eq!(
        cluster_ip("clusterIP: 127.0.0.9").address(),
        Some("127.0.0.9".parse().unwrap())
    );
    assert_eq!(
        cluster_ip("clusterIP: 'fd00::9'").address(),
        Some("fd00::9".parse().unwrap())
    );
    assert_refused(
        service,
        13,
        &[
            ("clusterIP: none", "spec.clusterIP: none is not an IP address"),
            (
                "clusterIP: 10.0.0.256",
                "spec.clusterIP: 10.0.0.256 is not an IP address",
            ),
            (
                "clusterIP: 010.0.0.1",
                "spec.clusterIP: 010.0.0.1 is not an IP address",
            ),
            (
                "clusterIP: 10.1",
                "spec.clusterIP: 10.1 is a number to YAML: put it in quotes",
            ),
            (
                "clusterIP: 10.0.0.1/32",
                "spec.clusterIP: 10.0.0.1/32 is not an IP address",
            ),
            (
                "clusterIP: fe80::1%eth0",
                "spec.clusterIP: fe80::1%eth0 is not an IP address",
            ),
            (
                "clusterIP: ::ffff:10.0.0.1",
                "spec.clusterIP: ::ffff:10.0.0.1 is an IPv4-mapped address: write 10.0.0.1",
            ),
            (
                "clusterIP: 0.0.0.0",
                "spec.clusterIP: 0.0.0.0 is the unspecified address, not that of a host",
            ),
            (
                "clusterIP: 224.0.0.1",
                "spec.clusterIP: 224.0.0.1 is a multicast address, not that of a host",
            ),
            (
                "clusterIP: [10.0.0.1]",
                "spec.clusterIP: expected a string, found a list",
            ),
            (
                "clusterIPs: [10.0.0.1]",
                "spec.clusterIPs[0]: 10.0.0.1 is not the clusterIP, \"\"",
            ),
            (
                "clusterIP: 10.0.0.1\nclusterIPs: [10.0.0.1, 'fd00::1']",
                "+1 spec.clusterIPs[1]: a second cluster IP (dual stack) is not supported",
            ),
        ],
    );
}

#[test]
fn service_settings() {
    assert_accepted(
        service,
        &[
            "type: ClusterIP",
            "type: NodePort",
            "type: LoadBalancer",
            "sessionAffinity: None",
            "publishNotReadyAddresses: false",
            "internalTrafficPolicy: Cluster",
            "externalIPs: null",
        ],
    );
    assert_refused(
        service,
        13,
        &[
            ("type: ExternalName", "spec.type: ExternalName is not supported"),
            (
                "type: clusterIP",
                "spec.type: clusterIP is not one of ClusterIP, NodePort, LoadBalancer",
            ),
            (
                "externalName: db.example.com",
                "spec.externalName: a Service that stands for a name outside the mesh is not supported",
            ),
            (
                "externalIPs: [203.0.113.1]",
                "spec.externalIPs: addresses other than the clusterIP are not supported",
            ),
            (
                "sessionAffinity: ClientIP",
                "spec.sessionAffinity: ClientIP is refused: session affinity is not supported (leave it out, or None)",
            ),
            (
                "sessionAffinityConfig: {}",
                "spec.sessionAffinityConfig: session affinity is not supported",
            ),
            (
                "internalTrafficPolicy: Local",
                "spec.internalTrafficPolicy: Local is refused: keeping traffic on its node is not supported (leave it out, \
                 or Cluster)",
            ),
            (
                "trafficDistribution: PreferClose",
                "spec.trafficDistribution: is not supported: endpoints are chosen by load, locality first",
            ),
            (
                "publishNotReadyAddresses: true",
                "spec.publishNotReadyAddresses: true is not supported: only workloads that are ready are used",
            ),
            (
                "publishNotReadyAddresses: 'true'",
                "spec.publishNotReadyAddresses: expected true or false, found true",
            ),
            (
                "clusterIp: None",
                "spec.clusterIp: unknown field; did you mean clusterIP?",
            ),
            (
                "replicas: 3",
                "spec.replicas: unknown field (known here: clusterIP, clusterIPs, selector, ports, type, sessionAffinity, \
                 internalTrafficPolicy, publishNotReadyAddresses)",
            ),
        ],
    );
}

#[test]
fn selectors() {
    let service = |lines: &str| {
        let head = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  ports: [{port: 80}]\n";
        format!("{head}{}---{CONFIG}", indent(lines))
    };
    for (lines, error) in [
        (
            "",
            "4: spec.selector: missing: a Service without one selects no workloads",
        ),
        (
            "selector:",
            "6: spec.selector: missing: a Service without one selects no workloads",
        ),
        (
            "selector: {}",
            "6: spec.selector: is empty: a Service that asks for no labels selects no workloads",
        ),
        ("selector: web", "6: spec.selector: expected a mapping, found web"),
        (
            "selector: {app: 1}",
            "6: spec.selector[app]: 1 is a number to YAML: put it in quotes",
        ),
        (
            "selector: {app: yes}",
            "6: spec.selector[app]: yes is a boolean to YAML: put it in quotes",
        ),
        (
            "selector: {app: }",
            "6: spec.selector[app]: expected a string, found nothing",
        ),
        (
            "selector: {app: -x}",
            "6: spec.selector[app]: -x is not a label value (empty, or at most 63 letters, digits, '.', '-' and '_', a \
             letter or digit first and last)",
        ),
        (
            "selector: {a/b/c: x}",
            "6: spec.selector[a/b/c]: a/b/c is not a label key (a name of at most 63 letters, digits, '.', '-' and '_', a \
             letter or digit first and last, after an optional DNS name and '/')",
        ),
    ] {
        assert_eq!(errors(&service(lines)), [error], "{lines}");
    }
    mesh(&service("selector: {app: '', example.com/Part_of.it: A_b.c-1}"));
}

#[test]
fn service_ports() {
    let port = |lines: &str| mesh(&ports(lines)).services[0].ports[0].clone();
    assert_eq!(port("- port: 80").target, TargetPort::Number(80));
    assert_eq!(
        port("- {port: 80, targetPort: 8080}").target,
        TargetPort::Number(8080)
    );
    assert_eq!(
        port("- {port: 80, targetPort: http-alt}").target.to_string(),
        "http-alt"
    );
    for (lines, protocol) in [
        ("- port: 80", AppProtocol::Detect),
        ("- {port: 80, protocol: TCP}", AppProtocol::Detect),
        ("- {port: 80, protocol: UDP}", AppProtocol::Udp),
        ("- {port: 80, appProtocol: http}", AppProtocol::Http),
        ("- {port: 80, appProtocol: http2}", AppProtocol::Http2),
        ("- {port: 80, appProtocol: kubernetes.io/h2c}", AppProtocol::Http2),
        (
            "- {port: 80, appProtocol: grpc, protocol: TCP}",
            AppProtocol::Grpc,
        ),
        ("- {port: 80, appProtocol: tcp}", AppProtocol::Tcp),
        ("- {port: 80, appProtocol: udp}", AppProtocol::Udp),
        ("- {port: 80, appProtocol: udp, protocol: UDP}", AppProtocol::Udp),
        ("- {port: 80, appProtocol: tls}", AppProtocol::Tls),
    ] {
        assert_eq!(port(lines).protocol, protocol, "{lines}");
    }
    assert_accepted(
        ports,
        &[
            "- {name: a, port: 1}\n- {name: b, port: 65535}",
            "- {name: a, port: 53}\n- {name: b, port: 53, protocol: UDP}",
        ],
    );
    assert_refused(
        ports,
        13,
        &[
            ("- name: http", "spec.ports[0].port: missing"),
            ("- port: 0", "spec.ports[0].port: 0 is not a port (1 to 65535)"),
            (
                "- port: 70000",
                "spec.ports[0].port: 70000 is not a port (1 to 65535)",
            ),
            ("- port: -1", "spec.ports[0].port: -1 is not a port (1 to 65535)"),
            (
                "- port: 080",
                "spec.ports[0].port: 080 is not a port (1 to 65535)",
            ),
            (
                "- port: 0x50",
                "spec.ports[0].port: 0x50 is not a port (1 to 65535)",
            ),
            (
                "- port: 8e1",
                "spec.ports[0].port: 8e1 is not a port (1 to 65535)",
            ),
            (
                "- port: 99999999999999999999",
                "spec.ports[0].port: 99999999999999999999 is not a port (1 to 65535)",
            ),
            (
                "- port: http",
                "spec.ports[0].port: http is not a port (1 to 65535)",
            ),
            (
                "- port: '80'",
                "spec.ports[0].port: \"80\" is a string, not a port: remove the quotes",
            ),
            (
                "- port: [80]",
                "spec.ports[0].port: expected a number, found a list",
            ),
            ("- 80", "spec.ports[0]: expected a mapping, found 80"),
            ("-", "spec.ports[0]: expected a mapping, found nothing"),
            (
                "- {port: 80, targetPort: 0}",
                "spec.ports[0].targetPort: 0 is not a port (1 to 65535)",
            ),
            (
                "- {port: 80, targetPort: '8080'}",
                "spec.ports[0].targetPort: \"8080\" is a string, not a port: remove the quotes",
            ),
            (
                "- {port: 80, targetPort: Http}",
                "spec.ports[0].targetPort: Http is not a port name (1 to 15 of a-z, 0-9 and '-', with a letter, a dash neither \
                 first nor last nor twice in a row)",
            ),
            (
                "- {port: 80, name: web_ui}",
                "spec.ports[0].name: web_ui is not a DNS label (1 to 63 of a-z, 0-9 and '-', a dash neither first nor last)",
            ),
            (
                "- {port: 80, protocol: SCTP}",
                "spec.ports[0].protocol: SCTP is not supported",
            ),
            (
                "- {port: 80, protocol: http}",
                "spec.ports[0].protocol: http is not one of TCP, UDP (what runs over it is the appProtocol)",
            ),
            (
                "- {port: 80, appProtocol: HTTP}",
                "spec.ports[0].appProtocol: HTTP is not one of http, http2, kubernetes.io/h2c, grpc, tcp, udp, tls; did you \
                 mean http?",
            ),
            (
                "- {port: 80, appProtocol: mysql}",
                "spec.ports[0].appProtocol: mysql is not one of http, http2, kubernetes.io/h2c, grpc, tcp, udp, tls",
            ),
            (
                "- {port: 80, appProtocol: http, protocol: UDP}",
                "spec.ports[0].appProtocol: http runs over TCP, but the protocol is not",
            ),
            (
                "- {port: 80, appProtocol: udp, protocol: TCP}",
                "spec.ports[0].appProtocol: udp runs over UDP, but the protocol is not",
            ),
            (
                "- {port: 80, targetport: 8080}",
                "spec.ports[0].targetport: unknown field; did you mean targetPort?",
            ),
            (
                "- {name: a, port: 80}\n- {name: a, port: 81}",
                "+1 spec.ports[1].name: the name a is in the list already",
            ),
            (
                "- {name: a, port: 80}\n- {name: b, port: 80}",
                "+1 spec.ports[1].port: the TCP port 80 is in the list already",
            ),
        ],
    );
    assert_eq!(
        errors(&ports("- {name: a, port: 80}\n- port: 81")),
        ["12: spec.ports: each port needs a name if there are two or more"]
    );
    assert_eq!(
        errors(&ports("  []")),
        ["12: spec.ports: is empty: a Service has at least one port"]
    );
    assert_eq!(errors(&ports("")), ["12: spec.ports: missing"]);
}

#[test]
fn workloads() {
    assert_accepted(
        workload,
        &[
            "meshPort: 15008",
            "uid: cluster//Pod/shop/web-0",
            "ports: []",
            "ports: [{port: 80}, {port: 80, protocol: udp}, {port: 81, name: x}]",
            "serviceAccount: web.v2",
            "locality: {region: eu}",
        ],
    );
    assert_refused(
        workload,
        12,
        &[
            ("meshPort: 0", "spec.meshPort: 0 is not a port (1 to 65535)"),
            (
                "meshport: 15008",
                "spec.meshport: unknown field; did you mean meshPort?",
            ),
            (
                "uid: ''",
                "spec.uid: \"\" is not a uid (1 to 512 visible characters of ASCII)",
            ),
            (
                "uid: a b",
                "spec.uid: \"a b\" is not a uid (1 to 512 visible characters of ASCII)",
            ),
            ("uid: 7", "spec.uid: 7 is a number to YAML: put it in quotes"),
            (
                "serviceAccount: a/b",
                "spec.serviceAccount: a/b is not a DNS name (at most 253 of a-z, 0-9, '-' and '.', a letter or digit first and \
                 last and beside each dot)",
            ),
            (
                "ports: {port: 80}",
                "spec.ports: expected a list, found a mapping",
            ),
            ("ports: [{name: http}]", "spec.ports[0].port: missing"),
            (
                "ports: [{port: 80, protocol: TCP}]",
                "spec.ports[0].protocol: TCP is not one of http, http2, kubernetes.io/h2c, grpc, tcp, udp, tls; did you mean tcp?",
            ),
            (
                "ports: [{port: 80, name: 80}]",
                "spec.ports[0].name: 80 is a number to YAML: put it in quotes",
            ),
            (
                "ports: [{port: 80, name: much-too-long-a-name}]",
                "spec.ports[0].name: much-too-long-a-name is not a port name (1 to 15 of a-z, 0-9 and '-', with a letter, a dash \
                 neither first nor last nor twice in a row)",
            ),
            (
                "ports: [{port: 80}, {port: 80}]",
                "spec.ports[1].port: the TCP port 80 is in the list already",
            ),
            (
                "ports: [{port: 80, name: a}, {port: 81, name: a}]",
                "spec.ports[1].name: the name a is in the list already",
            ),
            (
                "ports: [{port: 15008, protocol: udp}]\nmeshPort: 15008",
                "+1 spec.meshPort: port 15008 of 10.0.0.1 is spec.ports[0].port of the Workload default/web-0 (m.yaml:12) already",
            ),
            ("locality: eu", "spec.locality: expected a mapping, found eu"),
            ("locality: {zone: a}", "spec.locality.region: missing"),
            (
                "locality: {region: ''}",
                "spec.locality.region: \"\" is not the name of a place (1 to 63 letters, digits, '.', '-' and '_', a letter or \
                 digit first and last)",
            ),
            (
                "locality: {region: eu, subzone: a}",
                "spec.locality.subzone: is a part of a zone: give the zone as well",
            ),
            (
                "locality: {region: eu/1}",
                "spec.locality.region: eu/1 is not the name of a place (1 to 63 letters, digits, '.', '-' and '_', a letter or \
                 digit first and last)",
            ),
        ],
    );
}

#[test]
fn workload_addresses() {
    let workload = |address: &str| {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w}}\nspec: {{address: {address}}}\n---{CONFIG}"
        )
    };
    for address in ["127.0.0.2", "'::1'", "169.254.1.1", "'fe80::1'", "203.0.113.1"] {
        mesh(&workload(address));
    }
    for (address, error) in [
        (
            "0.0.0.0",
            "0.0.0.0 is the unspecified address, not that of a host",
        ),
        ("'::'", ":: is the unspecified address, not that of a host"),
        (
            "239.1.1.1",
            "239.1.1.1 is a multicast address, not that of a host",
        ),
        ("'ff02::1'", "ff02::1 is a multicast address, not that of a host"),
        (
            "255.255.255.255",
            "255.255.255.255 is the broadcast address, not that of a host",
        ),
        (
            "'::ffff:7f00:1'",
            "::ffff:7f00:1 is an IPv4-mapped address: write 127.0.0.1",
        ),
        ("localhost", "localhost is not an IP address"),
        ("0x7f.0.0.1", "0x7f.0.0.1 is not an IP address"),
        ("'2130706433'", "2130706433 is not an IP address"),
        ("'[::1]'", "[::1] is not an IP address"),
        ("' 10.0.0.1'", "\" 10.0.0.1\" is not an IP address"),
        ("10.0.0.1:80", "10.0.0.1:80 is not an IP address"),
    ] {
        assert_eq!(errors(&workload(address)), [format!("4: spec.address: {error}")]);
    }
}

#[test]
fn mesh_configs() {
    assert_accepted(
        config,
        &[
            "meshRanges: []",
            "meshRanges: [0.0.0.0/0, '::/0']",
            "meshRanges: [10.0.0.1/32]\negress: allow",
            "egress: deny",
        ],
    );
    assert_refused(
        config,
        6,
        &[
            (
                "meshRanges: 10.0.0.0/8",
                "spec.meshRanges: expected a list, found 10.0.0.0/8",
            ),
            (
                "meshRanges: [10.0.0.1]",
                "spec.meshRanges[0]: 10.0.0.1 is not an address range, such as 10.0.0.0/8 or fd00::/8",
            ),
            (
                "meshRanges: [10.0.0.0/08]",
                "spec.meshRanges[0]: 10.0.0.0/08 is not an address range, such as 10.0.0.0/8 or fd00::/8",
            ),
            (
                "meshRanges: [10.0.0.0/+8]",
                "spec.meshRanges[0]: 10.0.0.0/+8 is not an address range, such as 10.0.0.0/8 or fd00::/8",
            ),
            (
                "meshRanges: [10.0.0.0/33]",
                "spec.meshRanges[0]: 10.0.0.0/33 has a prefix of more than 32 bits",
            ),
            (
                "meshRanges: ['fd00::/129']",
                "spec.meshRanges[0]: fd00::/129 has a prefix of more than 128 bits",
            ),
            (
                "meshRanges: [10.0.0.1/8]",
                "spec.meshRanges[0]: 10.0.0.1/8 has bits of a host: write 10.0.0.0/8",
            ),
            (
                "meshRanges: ['::ffff:10.0.0.0/104']",
                "spec.meshRanges[0]: ::ffff:10.0.0.0/104 is a range of IPv4-mapped addresses: write it as IPv4",
            ),
            // Ranges that are wrong are not said to be missing as well.
            (
                "meshRanges: [10.0.0.1/8]\negress: allow",
                "spec.meshRanges[0]: 10.0.0.1/8 has bits of a host: write 10.0.0.0/8",
            ),
            (
                "meshRanges: []\negress: allow",
                "+1 spec.egress: allow needs meshRanges: without them, traffic for a workload that is gone would leave in the clear",
            ),
            (
                "serviceRanges: [10.0.0.0/8, 10.0.0.0/8]",
                "spec.serviceRanges[1]: 10.0.0.0/8 is in the list already",
            ),
            ("egress: permit", "spec.egress: permit is not one of deny, allow"),
            (
                "egress: Deny",
                "spec.egress: Deny is not one of deny, allow; did you mean deny?",
            ),
            ("egress: [deny]", "spec.egress: expected a string, found a list"),
            (
                "egress: allow",
                "spec.egress: allow needs meshRanges: without them, traffic for a workload that is gone would leave in the clear",
            ),
            (
                "inbound: permisive",
                "spec.inbound: permisive is not one of strict, permissive; did you mean permissive?",
            ),
            (
                "inbound: off",
                "spec.inbound: off is a boolean to YAML: put it in quotes",
            ),
            (
                "unmeshed: true",
                "spec.unmeshed: true is a boolean to YAML: put it in quotes",
            ),
            (
                "authorization: none",
                "spec.authorization: none is not one of authenticated, deny",
            ),
            (
                "mtls: disable",
                "spec.mtls: unknown field (known here: trustDomain, meshRanges, serviceRanges, egress, inbound, \
              unmeshed, authorization)",
            ),
        ],
    );
    let text = |trust_domain: &str| {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: m}}\nspec: {{{trust_domain}}}\n"
        )
    };
    for (line, error) in [
        ("", "missing"),
        (
            "trustDomain: ''",
            "\"\" is not a trust domain: the trust domain is empty",
        ),
        (
            "trustDomain: Mesh",
            "Mesh is not a trust domain: 'M' is not allowed in a trust domain (a-z, 0-9, '.', '-', '_')",
        ),
        (
            "trustDomain: 'a:1'",
            "a:1 is not a trust domain: a SPIFFE ID has no port (':')",
        ),
    ] {
        assert_eq!(errors(&text(line)), [format!("4: spec.trustDomain: {error}")]);
    }
}

#[test]
fn one_mesh_config() {
    assert_eq!(
        errors(""),
        ["no weft.dev/v1alpha1 MeshConfig: a mesh needs one, for its trustDomain"]
    );
    let second = CONFIG.replace("name: mesh", "name: other");
    assert_eq!(
        errors(&format!("{CONFIG}---{second}")),
        ["8: kind: a mesh has one MeshConfig, and it is in m.yaml:3 already"]
    );
    // One that cannot be read is not said to be missing as well.
    assert_eq!(errors(&CONFIG.replace("mesh.example", "''")).len(), 1);
    assert_eq!(errors(&CONFIG.replace("}", "")).len(), 1);
}

#[test]
fn metadata() {
    let metadata = |kind: &str, metadata: &str| {
        let (api, spec) = match kind {
            "Service" => ("v1", "{selector: {a: b}, ports: [{port: 80}]}"),
            "Workload" => ("weft.dev/v1alpha1", "{address: 10.0.0.1}"),
            _ => ("weft.dev/v1alpha1", "{trustDomain: a}"),
        };
        let config = if kind == "MeshConfig" { "" } else { CONFIG };
        format!("apiVersion: {api}\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n---{config}")
    };
    for (kind, accepted) in [
        ("Service", "{name: web}"),
        ("Service", "{name: web, namespace: 0a}"),
        ("Workload", "{name: 0.web-1, annotations: {a/b: '{}'}}"),
        ("MeshConfig", "{name: mesh.v1}"),
    ] {
        mesh(&metadata(kind, accepted));
    }
    let label = "is not a DNS label (1 to 63 of a-z, 0-9 and '-', a dash neither first nor last)";
    let name = "is not a DNS name (at most 253 of a-z, 0-9, '-' and '.', a letter or digit first and last and beside each dot)";
    for (kind, refused, error) in [
        ("Service", "{}", "metadata.name: missing".to_owned()),
        ("Service", "", "metadata: missing".to_owned()),
        (
            "Service",
            "web",
            "metadata: expected a mapping, found web".to_owned(),
        ),
        (
            "Service",
            "{name: web.v1}",
            format!("metadata.name: web.v1 {label}"),
        ),
        ("Service", "{name: Web}", format!("metadata.name: Web {label}")),
        (
            "Service",
            "{name: a, namespace: b.c}",
            format!("metadata.namespace: b.c {label}"),
        ),
        (
            "Service",
            "{name: 1web}",
            "metadata.name: 1web begins with a digit: the name of a Service begins with a letter".to_owned(),
        ),
        ("Workload", "{name: -a}", format!("metadata.name: -a {name}")),
        ("Workload", "{name: a..b}", format!("metadata.name: a..b {name}")),
        (
            "Workload",
            "{name: a, labels: [x]}",
            "metadata.labels: expected a mapping, found a list".to_owned(),
        ),
        (
            "Workload",
            "{name: a, annotations: {x: 1}}",
            "metadata.annotations[x]: 1 is a number to YAML: put it in quotes".to_owned(),
        ),
        (
            "Workload",
            "{name: a, generateName: b-}",
            "metadata.generateName: names are not generated here: give a name".to_owned(),
        ),
        (
            "Workload",
            "{name: a, label: {}}",
            "metadata.label: unknown field; did you mean labels?".to_owned(),
        ),
        (
            "MeshConfig",
            "{name: a, namespace: b}",
            "metadata.namespace: a MeshConfig belongs to no namespace".to_owned(),
        ),
    ] {
        assert_eq!(
            errors(&metadata(kind, refused)),
            [format!("3: {error}")],
            "{kind} {refused}"
        );
    }
}

#[test]
fn kinds() {
    let known = "(known here: v1 Service, weft.dev/v1alpha1 Workload, weft.dev/v1alpha1 MeshConfig, \
                 weft.dev/v1alpha1 ExternalService, gateway.networking.k8s.io/v1 HTTPRoute, \
                 gateway.networking.k8s.io/v1 GRPCRoute, gateway.networking.k8s.io/v1beta1 ReferenceGrant, \
                 weft.dev/v1alpha1 TrafficPolicy)";
    for (head, error) in [
        ("apiVersion: v1", "1: kind: missing".to_owned()),
        ("kind: Service", "1: apiVersion: missing".to_owned()),
        (
            "apiVersion: v1\nkind: Servce",
            "2: kind: v1 Servce is no kind of document known here; did you mean Service?".to_owned(),
        ),
        (
            "apiVersion: v1\nkind: Pod",
            format!("2: kind: v1 Pod is no kind of document known here {known}"),
        ),
        (
            "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy",
            format!(
                "2: kind: weft.dev/v1alpha1 AuthorizationPolicy is no kind of document known here {known}"
            ),
        ),
        (
            "apiVersion: v2\nkind: Service",
            "1: apiVersion: v2 has no Service: it is of v1".to_owned(),
        ),
        (
            "apiVersion: v1\nkind: Workload",
            "1: apiVersion: v1 has no Workload: it is of weft.dev/v1alpha1".to_owned(),
        ),
        ("- a", "1: expected a mapping, found a list".to_owned()),
        ("web", "1: expected a mapping, found web".to_owned()),
    ] {
        let rest = if head.contains(':') {
            "\nspec: {a: b}\n"
        } else {
            "\n"
        };
        assert_eq!(errors(&format!("{head}{rest}---{CONFIG}")), [error], "{head}");
    }
    assert_eq!(
        errors(&CONFIG.replace("spec:", "status: {}\nspce: {}\nspec:")),
        ["6: spce: unknown field; did you mean spec?"]
    );
}

#[test]
fn names_are_unique_by_kind_and_namespace() {
    let workload = |name: &str, namespace: &str, address: &str| {
        format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{address: {address}}}\n"
        )
    };
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {a: b}, ports: [{port: 80}]}\n";
    let web = workload("web", "default", "10.0.0.1");
    mesh(&format!(
        "{CONFIG}{web}{service}{}",
        workload("web", "shop", "10.0.0.2")
    ));
    assert_eq!(
        errors(&format!(
            "{CONFIG}{web}{}",
            workload("web", "default", "10.0.0.2")
        )),
        ["14: metadata.name: the Workload default/web is in m.yaml:9 already"]
    );
    assert_eq!(
        errors(&format!("{CONFIG}{service}{service}")),
        ["14: metadata.name: the Service default/web is in m.yaml:9 already"]
    );
    // Also if the first is wrong elsewhere.
    assert_eq!(
        errors(&format!("{CONFIG}{}{web}", workload("web", "default", "x"))),
        [
            "10: spec.address: x is not an IP address",
            "14: metadata.name: the Workload default/web is in m.yaml:9 already"
        ]
    );
}

/// Documents in short: each of `parts` is a spec, of a Workload if it has an address, in line 5, 10 and so on.
fn specs(config: &str, parts: &[&str]) -> String {
    let mut text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: m}}\nspec: {{trustDomain: a{config}}}\n"
    );
    for (index, spec) in parts.iter().enumerate() {
        let (api, kind) = if spec.contains("address:") {
            ("weft.dev/v1alpha1", "Workload")
        } else {
            ("v1", "Service")
        };
        let metadata = format!("{{name: n{index}, labels: {{app: web}}}}");
        text += &format!("---\napiVersion: {api}\nkind: {kind}\nmetadata: {metadata}\nspec: {{{spec}}}\n");
    }
    text
}

#[test]
fn uids_are_unique() {
    assert_eq!(
        errors(&specs(
            "",
            &["address: 10.0.0.1, uid: x", "address: 10.0.0.2, uid: x"]
        )),
        ["14: spec.uid: x is also the uid of the Workload default/n0 (m.yaml:9)"]
    );
    // A default uid counts as well; the error is where the field would be.
    assert_eq!(
        errors(&specs(
            "",
            &["address: 10.0.0.1, uid: default/n1", "address: 10.0.0.2"]
        )),
        ["14: spec.uid: default/n1 is also the uid of the Workload default/n0 (m.yaml:9)"]
    );
}

#[test]
fn ports_of_an_address_are_unique() {
    let one = "address: 127.0.0.1, meshPort: 15008, ports: [{port: 80}, {port: 53, protocol: udp}]";
    for other in [
        "address: 127.0.0.2, meshPort: 15008, ports: [{port: 80}]",
        "address: 127.0.0.1, meshPort: 15009, ports: [{port: 53}, {port: 80, protocol: udp}]",
        "address: 127.0.0.1",
    ] {
        mesh(&specs("", &[one, other]));
    }
    for (other, path, taken) in [
        (
            "ports: [{port: 81}, {port: 80}]",
            "spec.ports[1].port: port 80",
            "spec.ports[0].port",
        ),
        (
            "ports: [{port: 53, protocol: udp}]",
            "spec.ports[0].port: port 53",
            "spec.ports[1].port",
        ),
        ("meshPort: 15008", "spec.meshPort: port 15008", "spec.meshPort"),
        ("meshPort: 80", "spec.meshPort: port 80", "spec.ports[0].port"),
        (
            "ports: [{port: 15008}]",
            "spec.ports[0].port: port 15008",
            "spec.meshPort",
        ),
        (
            "ports: [{port: 15008, protocol: udp}]",
            "spec.ports[0].port: port 15008",
            "spec.meshPort",
        ),
    ] {
        assert_eq!(
            errors(&specs("", &[one, &format!("address: 127.0.0.1, {other}")])),
            [format!(
                "14: {path} of 127.0.0.1 is {taken} of the Workload default/n0 (m.yaml:9) already"
            )]
        );
    }
}

#[test]
fn cluster_ips_are_unique() {
    let service = "selector: {app: x}, ports: [{port: 80}], clusterIP: ";
    let [one, other, none] = ["10.0.0.1", "10.0.0.2", "None"].map(|address| format!("{service}{address}"));
    mesh(&specs(
        "",
        &[
            &one,
            &other,
            &none,
            &none,
            "address: 10.0.0.1, ports: [{port: 81}]",
        ],
    ));
    assert_eq!(
        errors(&specs("", &[&one, &other, &one])),
        ["19: spec.clusterIP: 10.0.0.1 is also the clusterIP of the Service default/n0 (m.yaml:9)"]
    );
    assert_eq!(
        errors(&specs("", &[&one, "address: 10.0.0.1, ports: [{port: 80}]"])),
        [
            "9: spec.ports[0].port: port 80 of 10.0.0.1 is spec.ports[0].port of the Workload default/n1 (m.yaml:14) already"
        ]
    );
}

#[test]
fn addresses_are_in_their_ranges() {
    let config = ", meshRanges: [10.0.0.0/8], serviceRanges: [10.96.0.0/12, 'fd00::/8']";
    let service =
        |address: &str| format!("selector: {{app: x}}, ports: [{{port: 80}}], clusterIP: '{address}'");
    mesh(&specs(
        config,
        &[
            &service("10.96.0.1"),
            &service("fd00::1"),
            &service("None"),
            &service(""),
        ],
    ));
    mesh(&specs(
        config,
        &[
            "address: 10.1.1.1, meshPort: 1",
            "address: 192.0.2.1",
            "address: 'fd00::2', meshPort: 1",
        ],
    ));
    assert_eq!(
        errors(&specs(config, &[&service("10.0.0.1")])),
        [
            "9: spec.clusterIP: 10.0.0.1 is in none of the MeshConfig's serviceRanges: nothing would lead there"
        ]
    );
    assert_eq!(
        errors(&specs(config, &["address: 192.0.2.1, meshPort: 1"])),
        [
            "9: spec.address: 192.0.2.1 is in none of the MeshConfig's meshRanges: without this document, traffic for it would \
          count as leaving the mesh"
        ]
    );
}

#[test]
fn targets_are_declared() {
    let service = |port: &str| format!("selector: {{app: web}}, ports: [{{{port}}}]");
    let meshed = "address: 10.0.0.1, meshPort: 1, ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: udp}]";
    let other = "address: 10.0.0.2, meshPort: 1, ports: [{name: admin, port: 9090}]";
    let unmeshed = "address: 10.0.0.3";
    for (port, workloads) in [
        ("port: 80, targetPort: http", vec![meshed]),
        ("port: 80, targetPort: http", vec![other, meshed]),
        ("port: 80, targetPort: 8080", vec![meshed]),
        ("port: 53, protocol: UDP", vec![meshed]),
        ("port: 80", vec![unmeshed]),
        ("port: 80", vec![meshed, unmeshed]),
        // Nothing is selected: there may be workloads later.
        ("port: 80, targetPort: http", vec![]),
    ] {
        let web = service(port);
        mesh(&specs("", &[&[web.as_str()], &workloads[..]].concat()));
    }
    for (port, workloads, error) in [
        (
            "port: 80, targetPort: web",
            vec![meshed],
            "the workload selected, default/n1, declares no TCP port named web",
        ),
        (
            "port: 80, targetPort: web",
            vec![meshed, other],
            "none of the 2 workloads selected (default/n1, ...) declares a TCP port named web",
        ),
        (
            "port: 80, targetPort: dns",
            vec![meshed],
            "the workload selected, default/n1, declares no TCP port named dns",
        ),
        (
            "port: 80, targetPort: http",
            vec![unmeshed],
            "the workload selected, default/n1, declares no TCP port named http",
        ),
        (
            "port: 80",
            vec![meshed],
            "the workload selected, default/n1, declares no TCP port 80",
        ),
        (
            "port: 53",
            vec![meshed],
            "the workload selected, default/n1, declares no TCP port 53",
        ),
    ] {
        let web = service(port);
        let text = specs("", &[&[web.as_str()], &workloads[..]].concat());
        assert_eq!(errors(&text), [format!("9: spec.ports[0].targetPort: {error}")]);
        // A workload that could not be read may have been the one that declares it.
        let broken = format!(
            "{text}---\napiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {{name: x}}\nspec: {{}}\n"
        );
        let errors = errors(&broken);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].ends_with("spec.address: missing"), "{errors:?}");
    }
}

#[test]
fn a_workload_of_another_namespace_is_not_selected() {
    let text = specs(
        "",
        &["selector: {app: web}, ports: [{port: 80, targetPort: web}]"],
    );
    let other = "---\napiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {name: a, namespace: b, labels: {app: web}}\n\
                 spec: {address: 10.0.0.1, meshPort: 1}\n";
    let mesh = mesh(&format!("{text}{other}"));
    assert_eq!(mesh.workloads_of(&mesh.services[0]).count(), 0);
}

#[test]
fn errors_of_several_sources_come_in_their_order() {
    let source = |name: &str, text: &str| Source::new(name, text);
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{a: b}}, ports: [{{port: 0}}]}}\n"
        )
    };
    let errors = parse_documents(&[
        source("z.yaml", &format!("{CONFIG}---\n{}", service("a"))),
        source("a.yaml", &service("a")),
        source("b.yaml", "a: [\n"),
    ])
    .unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "z.yaml:10: spec.ports[0].port: 0 is not a port (1 to 65535)",
            "a.yaml:3: metadata.name: the Service default/a is in z.yaml:9 already",
            "a.yaml:4: spec.ports[0].port: 0 is not a port (1 to 65535)",
            "b.yaml:2: this is not YAML: while parsing a node, did not find expected node content",
        ]
    );
}

#[test]
fn columns_count_characters() {
    let errors = parse_documents(&[Source::new("m.yaml", "a: \u{e9}\nb: [\u{e9}, !x 1]\n")]).unwrap_err();
    let places: Vec<_> = errors.iter().map(|error| (error.line, error.column)).collect();
    assert_eq!(places, [(1, 1), (1, 1), (2, 8)]);
}
