//! Documents of a mesh.

use super::writer::write;
use super::{Memory, Target};
use crate::document::Document;
use crate::error::{DocumentError, MAX_ERRORS, Source};
use crate::model::Mesh;
use crate::parse::parse_documents;
use crate::render;

pub(super) const TARGET: Target = Target {
    name: "documents",
    body,
    // A hundred errors with paths and texts, and four readings of what may be one node a byte, or of routes that fill
    // the megabyte for their patterns in 400 bytes each.
    memory: Memory {
        floor: 4 << 20,
        per_byte: 12_000,
    },
};

/// What stands between two files in an input: a byte that no text has.
const NEXT_FILE: u8 = 0xff;

fn body(input: &[u8]) {
    let sources: Vec<Source> = input
        .split(|byte| *byte == NEXT_FILE)
        .zip('a'..='z')
        .map(|(text, name)| Source::new(name, String::from_utf8_lossy(text)))
        .collect();
    match parse_documents(&sources) {
        Ok(mesh) => accepted(&sources, &mesh),
        Err(errors) => refused(&sources, &errors),
    }
}

/// What was read says the same when it is written, and in files in another order.
fn accepted(sources: &[Source], mesh: &Mesh) {
    let again = parse_documents(&[Source::new("again", write(mesh))]);
    assert_eq!(again.as_ref(), Ok(mesh));
    let reversed: Vec<Source> = sources.iter().rev().cloned().collect();
    let counts = |mesh: &Mesh| {
        (
            mesh.services.len(),
            mesh.workloads.len(),
            mesh.external_services.len(),
            mesh.routes.len(),
            mesh.reference_grants.len(),
            mesh.traffic_policies.len(),
        )
    };
    let other = parse_documents(&reversed).map(|mesh| counts(&mesh));
    assert_eq!(other, Ok(counts(mesh)));
    rendered(mesh);
    for service in &mesh.services {
        assert!(!service.ports.is_empty() && !service.selector.is_empty());
    }
}

/// A document that is made from what was read, alone and as JSON, says the same.
fn rendered(mesh: &Mesh) {
    let model = |document: Document| document.parse().unwrap().model;
    for service in &mesh.services {
        assert_eq!(model(render::service(service)).service(), Some(service));
    }
    for workload in &mesh.workloads {
        assert_eq!(model(render::workload(workload)).workload(), Some(workload));
    }
    for external in &mesh.external_services {
        assert_eq!(
            model(render::external_service(external)).external_service(),
            Some(external)
        );
    }
    for route in &mesh.routes {
        assert!(!route.parents.is_empty() && !route.rules.is_empty());
        assert_eq!(model(render::route(route)).route(), Some(route));
    }
    for grant in &mesh.reference_grants {
        assert_eq!(
            model(render::reference_grant(grant)).reference_grant(),
            Some(grant)
        );
    }
    for policy in &mesh.traffic_policies {
        assert!(!policy.targets.is_empty());
        assert_eq!(
            model(render::traffic_policy(policy)).traffic_policy(),
            Some(policy)
        );
    }
}

/// Errors are few, stand somewhere, and can be shown on a terminal.
fn refused(sources: &[Source], errors: &[DocumentError]) {
    assert!((1..=MAX_ERRORS + 1).contains(&errors.len()));
    for error in errors {
        if let Some(source) = sources.iter().find(|source| source.name == error.file) {
            // YAML ends a line at a CR alone too (YAML 1.2 section 5.4).
            let lines = source.text.split_inclusive(['\n', '\r']).count() + 1;
            assert!(error.line <= lines, "{error}");
        }
        assert!(
            error.path.len() <= 2_000 && error.message.len() <= 2_000,
            "{error}"
        );
        let shown = error.to_string();
        assert!(
            !shown.is_empty() && !shown.contains(char::is_control),
            "{shown:?}"
        );
    }
}
