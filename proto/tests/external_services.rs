//! Each rule of an ExternalService, with the exact error that breaking it gives.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use weft_proto::Source;
use weft_proto::model::{AppProtocol, ExternalService, Resolution};
use weft_proto::parse::{Model, parse_document, parse_documents};

const CONFIG: &str = "{apiVersion: weft.dev/v1alpha1, kind: MeshConfig, metadata: {name: mesh}, \
                      spec: {trustDomain: mesh.example, meshRanges: [10.0.0.0/8], serviceRanges: [172.16.0.0/12]}}";

fn text(spec: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: ExternalService\nmetadata: {{name: bank}}\nspec: {{{spec}}}\n"
    )
}

fn external(spec: &str) -> ExternalService {
    let parsed =
        parse_document(&Source::new("m.yaml", text(spec))).unwrap_or_else(|errors| panic!("{errors:#?}"));
    assert_eq!(parsed.key.to_string(), "ExternalService default/bank");
    match parsed.model {
        Model::ExternalService(external) => external,
        other => panic!("{other:?}"),
    }
}

/// The errors of a document in a mesh with [`CONFIG`].
fn errors(spec: &str) -> Vec<String> {
    let sources = [Source::new("c.yaml", CONFIG), Source::new("m.yaml", text(spec))];
    let errors = parse_documents(&sources).err().unwrap_or_default();
    errors
        .iter()
        .map(|error| error.to_string().strip_prefix("m.yaml:4: ").unwrap().to_owned())
        .collect()
}

#[test]
fn what_is_read() {
    let read = external(
        "hosts: [api.example.com, a.b], ports: [{name: https, port: 443, appProtocol: tls}, {port: 80}]",
    );
    assert_eq!(read.hosts, ["api.example.com", "a.b"]);
    let ports: Vec<_> = read
        .ports
        .iter()
        .map(|port| (port.name.as_deref(), port.port, port.protocol))
        .collect();
    assert_eq!(
        ports,
        [
            (Some("https"), 443, AppProtocol::Tls),
            (None, 80, AppProtocol::Detect)
        ]
    );
    assert_eq!(read.resolution, Resolution::Dns);
    let read = external(
        "hosts: [a.b], ports: [{port: 80}], resolution: static, endpoints: [192.0.2.1, \"2001:db8::1\"]",
    );
    let addresses = ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().unwrap());
    assert_eq!(read.resolution, Resolution::Static(addresses.into()));
    // The same number over TCP and UDP is two ports.
    external("hosts: [a.b], ports: [{port: 53, appProtocol: udp}, {port: 53}], resolution: dns");
}

#[test]
fn what_is_in_no_mesh_is_accepted() {
    for spec in [
        "hosts: [example.com]",
        "hosts: [notmesh.example]",
        "hosts: [svc.example.com, 10.0.0.1.example.com, a.svc.b]",
        "hosts: [a.b], resolution: static, endpoints: [192.0.2.1]",
    ] {
        assert_eq!(
            errors(&format!("{spec}, ports: [{{port: 80}}]")),
            [""; 0],
            "{spec}"
        );
    }
}

#[test]
fn hosts() {
    let name = "is not a DNS name (at most 253 of a-z, 0-9, '-' and '.', a letter or digit first and last and beside each dot)";
    for (hosts, error) in [
        (
            "[]",
            "spec.hosts: is empty: an ExternalService has at least one host".to_owned(),
        ),
        ("a.b", "spec.hosts: expected a list, found a.b".to_owned()),
        (
            "[a.b, a.b]",
            "spec.hosts[1]: a.b is in the list already".to_owned(),
        ),
        ("[A.b]", format!("spec.hosts[0]: A.b {name}")),
        ("['a.b.']", format!("spec.hosts[0]: a.b. {name}")),
        ("['a.b:80']", format!("spec.hosts[0]: a.b:80 {name}")),
        (
            "['*.a.b']",
            "spec.hosts[0]: *.a.b stands for many hosts: name each".to_owned(),
        ),
        (
            "[192.0.2.1]",
            "spec.hosts[0]: 192.0.2.1 is an address, not a name: put it into endpoints".to_owned(),
        ),
        (
            "['::1']",
            "spec.hosts[0]: ::1 is an address, not a name: put it into endpoints".to_owned(),
        ),
        (
            "[x.0]",
            "spec.hosts[0]: x.0 ends in a number, as addresses do".to_owned(),
        ),
        (
            "[web]",
            "spec.hosts[0]: web has no dot: such names are those of services of the mesh".to_owned(),
        ),
        (
            "[web.shop.svc]",
            "spec.hosts[0]: web.shop.svc is a name of the mesh (.svc)".to_owned(),
        ),
        (
            "[web.shop.svc.cluster.local]",
            "spec.hosts[0]: web.shop.svc.cluster.local is a name of the mesh (.svc)".to_owned(),
        ),
        (
            "[a.b, mesh.example]",
            "spec.hosts[1]: mesh.example is in the mesh's own trustDomain, mesh.example".to_owned(),
        ),
        (
            "[a.mesh.example]",
            "spec.hosts[0]: a.mesh.example is in the mesh's own trustDomain, mesh.example".to_owned(),
        ),
    ] {
        assert_eq!(
            errors(&format!("hosts: {hosts}, ports: [{{port: 80}}]")),
            [error],
            "{hosts}"
        );
    }
}

#[test]
fn ports_and_endpoints() {
    for (spec, error) in [
        (
            "ports: []",
            "spec.ports: is empty: an ExternalService has at least one port",
        ),
        (
            "ports: [{port: 0}]",
            "spec.ports[0].port: 0 is not a port (1 to 65535)",
        ),
        (
            "ports: [{port: 80, targetPort: 81}]",
            "spec.ports[0].targetPort: unknown field (known here: name, appProtocol, port)",
        ),
        (
            "ports: [{port: 80}, {port: 80, appProtocol: http}]",
            "spec.ports[1].port: the TCP port 80 is in the list already",
        ),
        (
            "ports: [{port: 80, name: a}, {port: 81, name: a}]",
            "spec.ports[1].name: the name a is in the list already",
        ),
        (
            "ports: [{port: 80}], resolution: DNS",
            "spec.resolution: DNS is not one of dns, static; did you mean dns?",
        ),
        (
            "ports: [{port: 80}], endpoints: [192.0.2.1]",
            "spec.endpoints: are read with resolution static alone",
        ),
        (
            "ports: [{port: 80}], resolution: dns, endpoints: [192.0.2.1]",
            "spec.endpoints: are read with resolution static alone",
        ),
        (
            "ports: [{port: 80}], resolution: static",
            "spec.endpoints: missing: with resolution static they are where the hosts lead",
        ),
        (
            "ports: [{port: 80}], resolution: static, endpoints: []",
            "spec.endpoints: is empty: with resolution static the hosts would lead nowhere",
        ),
        (
            "ports: [{port: 80}], resolution: static, endpoints: [127.0.0.1]",
            "spec.endpoints[0]: 127.0.0.1 is an address of the proxy's own host",
        ),
        (
            "ports: [{port: 80}], resolution: static, endpoints: [0.0.0.0]",
            "spec.endpoints[0]: 0.0.0.0 is the unspecified address, not that of a host",
        ),
        (
            "ports: [{port: 80}], resolution: static, endpoints: ['192.0.2.1:80']",
            "spec.endpoints[0]: 192.0.2.1:80 is not an IP address",
        ),
        (
            "ports: [{port: 80}], resolution: static, endpoints: [192.0.2.1, 192.0.2.1]",
            "spec.endpoints[1]: 192.0.2.1 is in the list already",
        ),
        (
            "ports: [{port: 80}], resolution: static, endpoints: [192.0.2.1, 172.16.0.1]",
            "spec.endpoints[1]: 172.16.0.1 belongs to the mesh: it is in the MeshConfig's meshRanges or serviceRanges",
        ),
    ] {
        assert_eq!(errors(&format!("hosts: [a.b], {spec}")), [error], "{spec}");
    }
    assert_eq!(errors("hosts: [a.b]"), ["spec.ports: missing"]);
    assert_eq!(errors("ports: [{port: 80}]"), ["spec.hosts: missing"]);
}
