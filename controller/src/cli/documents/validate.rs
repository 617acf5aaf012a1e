//! `validate`: everything that is wrong with documents, as far as that can be told without a controller.

use std::sync::Arc;

use serde_json::{Value, json};
use weft_proto::{
    DocumentError, Source,
    document::{Found, split},
    kinds::Kind,
    mesh_set::{Change, MeshSet, Unserved},
    names::DnsLabel,
    parse::parse_document,
};

use super::ValidateArgs;
use crate::cli::{
    Outcome,
    args::{Format, Global},
    context::DEFAULT_NAMESPACE,
    failure::{Failure, many},
    json,
    screen::{Colour, Screen, clean},
    sources,
};

/// What stands for the MeshConfig of the mesh where none is given: it says nothing that any document could break.
const UNKNOWN_CONFIG: &str = "\
apiVersion: weft.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: mesh.invalid}
";

/// What was found.
struct Findings {
    documents: usize,
    errors: Vec<DocumentError>,
    warnings: Vec<DocumentError>,
}

/// Checks.
///
/// # Errors
/// The files cannot be read.
pub(crate) fn validate(
    args: &ValidateArgs,
    global: &Global,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let sources = sources::read(&args.files.files, args.files.recursive)?;
    let namespace = global.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let namespace = DnsLabel::parse(namespace).map_err(|error| Failure::Use(error.to_string()))?;
    let findings = check(&sources, &namespace);
    match args.output {
        Format::Json | Format::Yaml => {
            let value = json!({
                "documents": findings.documents,
                "errors": findings.errors.iter().map(to_json).collect::<Vec<_>>(),
                "warnings": findings.warnings.iter().map(to_json).collect::<Vec<_>>(),
            });
            json::print(screen, args.output, &value)?;
        }
        Format::Table | Format::Wide | Format::Name => {
            findings
                .warnings
                .iter()
                .for_each(|warning| screen.warn(clean(&warning.to_string())));
            if !findings.errors.is_empty() {
                return Err(Failure::Documents(findings.errors));
            }
            let valid = screen.paint(Colour::Green, "valid").into_owned();
            screen.line(format_args!("{}: {valid}", many(findings.documents, "document")))?;
        }
    }
    Ok(if findings.errors.is_empty() {
        Outcome::Done
    } else {
        Outcome::Differs
    })
}

fn check(sources: &[Source], namespace: &DnsLabel) -> Findings {
    let found = match split(sources, namespace) {
        Ok(found) => found,
        Err(errors) => {
            return Findings {
                documents: 0,
                errors,
                warnings: Vec::new(),
            };
        }
    };
    let mut findings = Findings {
        documents: found.len(),
        errors: Vec::new(),
        warnings: Vec::new(),
    };
    let placed = |errors: Vec<DocumentError>| errors.into_iter().map(|error| place(&found, error)).collect();
    match MeshSet::new().apply(changes(&found), Unserved::Report) {
        Ok(applied) => findings.warnings = placed(applied.unserved),
        Err(errors) => findings.errors = placed(errors),
    }
    findings
}

fn changes(found: &[Found<'_>]) -> Vec<Change> {
    let mut changes: Vec<Change> = found
        .iter()
        .map(|found| {
            let mut parsed = found.parsed.clone();
            parsed.source = parsed.key.to_string().into();
            Change::Put(Arc::new(parsed))
        })
        .collect();
    let is_config = |change: &Change| change.key().kind() == Kind::MeshConfig;
    if !changes.iter().any(is_config)
        && let Ok(config) = parse_document(&Source::new("the MeshConfig", UNKNOWN_CONFIG))
    {
        changes.push(Change::Put(Arc::new(config)));
    }
    changes
}

/// An error where it is in the files.
fn place(found: &[Found<'_>], error: DocumentError) -> DocumentError {
    match found
        .iter()
        .find(|found| found.document.key.to_string() == error.file)
    {
        Some(found) => found.placed(error),
        None => error,
    }
}

fn to_json(error: &DocumentError) -> Value {
    let number = |number: usize| if number == 0 { Value::Null } else { number.into() };
    json!({
        "file": json::text(&error.file),
        "line": number(error.line),
        "column": number(error.column),
        "field": json::text(&error.path),
        "message": error.message,
    })
}
