//! A mesh that is written as documents and read again is the same mesh.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use proptest::prelude::*;
use weft_proto::Source;
use weft_proto::document::Document;
use weft_proto::fuzz::writer::write;
use weft_proto::model::Mesh;
use weft_proto::names::DnsName;
use weft_proto::parse::{Model, parse_documents};
use weft_proto::render;

fn parse(text: &str) -> Mesh {
    parse_documents(&[Source::new("m.yaml", text)]).unwrap_or_else(|errors| {
        panic!(
            "{}\n{text}",
            errors
                .iter()
                .map(|error| format!("{error}\n"))
                .collect::<String>()
        )
    })
}

const PROTOCOLS: [&str; 8] = [
    "",
    "http",
    "http2",
    "kubernetes.io/h2c",
    "grpc",
    "tcp",
    "udp",
    "tls",
];

/// A Service. `INDEX` stands for its number, of one digit.
fn service_text() -> impl Strategy<Value = String> {
    let name = "[a-z]([a-z0-9-]{0,8}[a-z0-9])?";
    let cluster_ip = prop::sample::select(vec!["", "clusterIP: None, ", "clusterIP: 10.96.0.INDEX, "]);
    let target = prop_oneof![
        Just("".to_owned()),
        (1..=u16::MAX).prop_map(|port| port.to_string()),
        "[a-z]{1,15}".prop_map(|name| format!("{name:?}"))
    ];
    let ports = prop::collection::btree_map(
        1..=u16::MAX,
        (target, prop::sample::select(PROTOCOLS.to_vec())),
        1..4,
    );
    (name, cluster_ip, ports, "[a-z0-9]{1,9}").prop_map(|(name, cluster_ip, ports, namespace)| {
        let ports: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(position, (port, (target, protocol)))| {
                format!("{{name: p{position}, port: {port}, targetPort: {target}, appProtocol: {protocol}}}")
            })
            .collect();
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}-INDEX, namespace: \"{namespace}\"}}\n\
             spec: {{{cluster_ip}selector: {{app: web, x/y: \"\"}}, ports: [{}]}}\n",
            ports.join(", ")
        )
    })
}

/// A Workload, likewise.
fn workload_text() -> impl Strategy<Value = String> {
    let address = prop::sample::select(vec!["10.0.0.INDEX", "\"fd00::INDEX\""]);
    let mesh_port = prop::sample::select(vec!["", "meshPort: 15008, "]);
    let ports = prop::collection::btree_map(1_u16..15_000, prop::sample::select(PROTOCOLS.to_vec()), 0..4);
    let labels =
        prop::collection::btree_map("[a-zA-Z0-9]{1,9}", "([a-zA-Z0-9]([a-z._-]{0,5}[0-9A-Z])?)?", 0..4);
    let localities = [
        "",
        "region: a",
        "region: a, zone: b",
        "region: A.1, zone: b_2, subzone: c-3",
    ];
    let locality = prop::sample::select(localities.to_vec());
    (address, mesh_port, "[!-@\\[-~]{1,30}", ports, labels, locality).prop_map(
        |(address, mesh_port, uid, ports, labels, locality)| {
            let ports: Vec<String> = ports
                .iter()
                .enumerate()
                .map(|(position, (port, protocol))| format!("{{name: p{position}, port: {port}, protocol: {protocol}}}"))
                .collect();
            let (ports, uid) = (ports.join(", "), format!("{uid}INDEX"));
            let locality = if locality.is_empty() { String::new() } else { format!("locality: {{{locality}}}, ") };
            format!(
                "---\napiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {{name: wINDEX, labels: {labels:?}}}\n\
                 spec: {{uid: {uid:?}, address: {address}, {mesh_port}{locality}ports: [{ports}]}}\n"
            )
        },
    )
}

/// An ExternalService, likewise.
fn external_text() -> impl Strategy<Value = String> {
    let ports = prop::collection::btree_map(1..=u16::MAX, prop::sample::select(PROTOCOLS.to_vec()), 1..4);
    let resolution = prop::sample::select(vec![
        "",
        "resolution: dns, ",
        "resolution: static, endpoints: [192.0.2.1, \"2001:db8::1\"], ",
    ]);
    let hosts = prop::collection::btree_set("[a-z0-9]{1,9}[.][a-z]{1,9}", 1..3);
    (hosts, ports, resolution).prop_map(|(hosts, ports, resolution)| {
        let hosts: Vec<String> = hosts
            .iter()
            .map(|host| format!("xINDEX-{host}.example"))
            .collect();
        let ports: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(position, (port, protocol))| {
                format!("{{name: p{position}, port: {port}, appProtocol: {protocol}}}")
            })
            .collect();
        format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: ExternalService\nmetadata: {{name: eINDEX}}\n\
             spec: {{hosts: {hosts:?}, {resolution}ports: [{}]}}\n",
            ports.join(", ")
        )
    })
}

/// What a document says, as it was stored and sent.
fn read(document: &Document) -> Model {
    document
        .parse()
        .unwrap_or_else(|errors| panic!("{errors:#?}\n{document:?}"))
        .model
}

proptest! {
    #[test]
    fn a_mesh_comes_back(
        services in prop::collection::vec(service_text(), 0..8),
        workloads in prop::collection::vec(workload_text(), 0..8),
        externals in prop::collection::vec(external_text(), 0..4),
        egress in prop::sample::select(vec!["deny", "allow"]),
        inbound in prop::sample::select(vec!["strict", "permissive"]),
        unmeshed in prop::sample::select(vec!["deny", "allow"]),
        authorization in prop::sample::select(vec!["deny", "authenticated"]),
    ) {
        let mut text = format!(
            "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: m}}\nspec: {{trustDomain: mesh.example, \
             meshRanges: [10.0.0.0/8, \"fd00::/8\"], egress: {egress}, inbound: {inbound}, unmeshed: {unmeshed}, \
             authorization: {authorization}}}\n"
        );
        services.iter().zip(1..).for_each(|(service, index)| text += &service.replace("INDEX", &format!("{index}")));
        workloads.iter().zip(1..).for_each(|(workload, index)| text += &workload.replace("INDEX", &format!("{index}")));
        externals.iter().zip(1..).for_each(|(external, index)| text += &external.replace("INDEX", &format!("{index}")));
        let mesh = parse(&text);
        prop_assert_eq!((mesh.services.len(), mesh.workloads.len()), (services.len(), workloads.len()));
        prop_assert_eq!(mesh.external_services.len(), externals.len());
        prop_assert_eq!(&parse(&write(&mesh)), &mesh);
        // Each of its documents on its own as well, as the controller renders it.
        for service in &mesh.services {
            prop_assert_eq!(read(&render::service(service)), Model::Service(service.clone()));
        }
        for workload in &mesh.workloads {
            let document = render::workload(workload);
            prop_assert_eq!(read(&document), Model::Workload(workload.clone()));
            prop_assert_eq!(render::render(&document.parse().unwrap()), document);
        }
        for external in &mesh.external_services {
            prop_assert_eq!(read(&render::external_service(external)), Model::ExternalService(external.clone()));
        }
        let config = render::mesh_config(&DnsName::parse("m").unwrap(), &mesh.config);
        prop_assert_eq!(read(&config), Model::MeshConfig(mesh.config.clone()));
        prop_assert_eq!(render::render(&config.parse().unwrap()), config);
    }
}
