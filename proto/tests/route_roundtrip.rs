//! A route or a grant that is written as a document and read again is the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod strategies;

use proptest::prelude::*;
use weft_proto::Source;
use weft_proto::fuzz::writer::write;
use weft_proto::parse::{Model, Parsed, parse_document, parse_documents};
use weft_proto::render;

const CONFIG: &str = "{apiVersion: weft.dev/v1alpha1, kind: MeshConfig, metadata: {name: mesh}, \
                      spec: {trustDomain: mesh.example}}\n";

fn parse(text: &str) -> Parsed {
    parse_document(&Source::new("m.json", text)).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}

fn assert_comes_back(parsed: &Parsed) {
    let document = render::render(parsed);
    let again = document
        .parse()
        .unwrap_or_else(|errors| panic!("{errors:#?}\n{document:?}"));
    assert_eq!(again.model, parsed.model, "{document:?}");
    assert_eq!(again.key, parsed.key);
    // As it is stored, it is in its last form.
    assert_eq!(render::render(&again), document);
    let yaml = document.to_yaml().unwrap();
    assert_eq!(parse(&yaml).model, parsed.model, "{yaml}");
}

proptest! {
    #[test]
    fn a_route_or_a_grant_comes_back(
        http in strategies::http_route(),
        grpc in strategies::grpc_route(),
        grant in strategies::grant(),
    ) {
        let [http, grpc, grant] = [http, grpc, grant].map(|document| document.to_string());
        for text in [&http, &grpc, &grant] {
            let parsed = parse(text);
            assert_comes_back(&parsed);
        }
        let mesh = parse_documents(&[Source::new("m", format!("{CONFIG}---\n{http}\n---\n{grpc}\n---\n{grant}\n"))]);
        let mesh = mesh.unwrap();
        prop_assert_eq!((mesh.routes.len(), mesh.reference_grants.len()), (2, 1));
        prop_assert_eq!(Model::Route(mesh.routes[0].clone()), parse(&http).model);
        let again = parse_documents(&[Source::new("again", write(&mesh))]);
        prop_assert_eq!(again, Ok(mesh));
    }
}
