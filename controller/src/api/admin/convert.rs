//! Between the messages of operators and what the controller has.

use serde_json::Value;
use tonic::{Code, Response, Status};
use weft_proto::{
    DocumentError, Source,
    kinds::{DocumentKey, Kind},
    mesh::v1 as mesh,
    model::Readiness,
    names::{DnsLabel, Labels},
    parse::Model,
};

use crate::{
    catalog::{CatalogError, Changed, Origin, Outcome, Stored},
    world::key_message,
};

/// The most bytes of documents in one request.
const MAX_SOURCES: usize = 16 * 1024 * 1024;

pub(super) fn document_key(key: &mesh::ResourceKey) -> Result<DocumentKey, Status> {
    let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
    let kind = Kind::from_word(&key.kind).map_err(|error| invalid(&error))?;
    let namespace = match kind.is_namespaced() && key.namespace.is_empty() {
        true => "default",
        false => &key.namespace,
    };
    DocumentKey::new(kind, namespace, &key.name).map_err(|error| invalid(&error))
}

pub(super) fn namespace(text: &str) -> Result<DnsLabel, Status> {
    match text {
        "" => Ok(DnsLabel::default_namespace()),
        text => DnsLabel::parse(text)
            .map_err(|error| Status::invalid_argument(format!("the namespace {text:?} {error}"))),
    }
}

pub(super) fn sources(texts: Vec<mesh::SourceText>) -> Result<Vec<Source>, Status> {
    let bytes: usize = texts.iter().map(|source| source.text.len()).sum();
    if bytes > MAX_SOURCES {
        return Err(Status::invalid_argument(format!(
            "{bytes} bytes of documents: at most {MAX_SOURCES} at once"
        )));
    }
    Ok(texts
        .into_iter()
        .map(|source| Source::new(source.name, source.text))
        .collect())
}

pub(super) fn expected(expected: Vec<mesh::Expected>) -> Result<Vec<(DocumentKey, u64)>, Status> {
    let one = |expected: mesh::Expected| {
        let key = expected.key.unwrap_or_default();
        Ok((document_key(&key)?, expected.generation))
    };
    expected.into_iter().map(one).collect()
}

/// `key=value`, each.
pub(super) fn labels(texts: &[String]) -> Result<Labels, Status> {
    let mut labels = Labels::default();
    for text in texts {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| Status::invalid_argument(format!("{text:?} is not a label: write key=value")))?;
        labels
            .insert(key, value)
            .map_err(|error| Status::invalid_argument(format!("{text:?} {error}")))?;
    }
    Ok(labels)
}

/// Those by which a document is found: a workload's own, and a service's selector.
pub(super) fn labels_of(model: &Model) -> &Labels {
    static NONE: std::sync::LazyLock<Labels> = std::sync::LazyLock::new(Labels::default);
    match model {
        Model::Workload(workload) => &workload.labels,
        Model::Service(service) => &service.selector,
        _ => &NONE,
    }
}

pub(super) fn readiness(readiness: Readiness) -> mesh::Readiness {
    match readiness {
        Readiness::Ready => mesh::Readiness::Ready,
        Readiness::NotReady => mesh::Readiness::NotReady,
        Readiness::Draining => mesh::Readiness::Draining,
    }
}

/// A document; `status` is what became of it, if there is anything to say.
pub(super) fn stored(key: &DocumentKey, stored: &Stored, status: Option<&Value>) -> mesh::StoredDocument {
    let of_workload = (key.kind() == Kind::Workload).then(|| readiness(stored.readiness()));
    mesh::StoredDocument {
        key: Some(key_message(key)),
        document: stored.json.clone(),
        generation: stored.generation,
        revision: stored.revision.0,
        origin: match stored.origin {
            Origin::Document => "document".to_owned(),
            Origin::Proxy { .. } => "proxy".to_owned(),
        },
        readiness: of_workload.unwrap_or(mesh::Readiness::Unspecified).into(),
        status: status.map(|status| status.to_string().into()).unwrap_or_default(),
    }
}

/// Documents that are wrong are an answer with their problems; all else that prevents a change is a status.
pub(super) fn applied(
    result: Result<Outcome, CatalogError>,
) -> Result<Response<mesh::ApplyResponse>, Status> {
    let response = match result {
        Ok(outcome) => mesh::ApplyResponse {
            changes: outcome.changes.iter().map(change).collect(),
            problems: Vec::new(),
            warnings: outcome.warnings.iter().map(problem).collect(),
            revision: outcome.revision,
        },
        Err(CatalogError::Invalid(errors)) => mesh::ApplyResponse {
            problems: errors.iter().map(problem).collect(),
            ..mesh::ApplyResponse::default()
        },
        Err(error) => {
            let code = match error {
                CatalogError::Conflict(..) => Code::Aborted,
                CatalogError::Missing(_) => Code::NotFound,
                CatalogError::Registered(_) => Code::FailedPrecondition,
                CatalogError::Store(_) | CatalogError::Invalid(_) => Code::Unavailable,
            };
            return Err(Status::new(code, error.to_string()));
        }
    };
    Ok(Response::new(response))
}

fn change(changed: &Changed) -> mesh::Change {
    use mesh::change::Kind;
    let kind = match (&changed.before, &changed.after) {
        (None, Some(_)) => Kind::Created,
        (Some(before), Some(after)) if before == after => Kind::Unchanged,
        (Some(_), Some(_)) => Kind::Changed,
        (_, None) => Kind::Deleted,
    };
    let json = |stored: &Option<Stored>| stored.as_ref().map(|stored| stored.json.clone());
    mesh::Change {
        key: Some(key_message(&changed.key)),
        kind: kind.into(),
        generation: changed.after.as_ref().map_or(0, |after| after.generation),
        before: json(&changed.before).unwrap_or_default(),
        after: json(&changed.after).unwrap_or_default(),
    }
}

pub(super) fn problem(error: &DocumentError) -> mesh::Problem {
    mesh::Problem {
        document: error.file.clone(),
        line: u32::try_from(error.line).unwrap_or(u32::MAX),
        field: error.path.clone(),
        message: error.message.clone(),
    }
}

/// A question, for the audit.
pub(super) fn asked(question: Option<&mesh::question::Question>) -> String {
    use mesh::question::Question;
    match question {
        None => "nothing".to_owned(),
        Some(Question::Snapshot(_)) => "snapshot".to_owned(),
        Some(Question::Connections(_)) => "connections".to_owned(),
        Some(Question::Tail(tail)) if tail.access => "tail of the access log".to_owned(),
        Some(Question::Tail(_)) => "tail of the log".to_owned(),
        Some(Question::LogLevel(level)) => format!("log level {:?} for {} ms", level.filter, level.for_ms),
        // A query may have what is nobody's business.
        Some(Question::Explain(explain)) => {
            let place = explain.url.split(['?', '#']).next().unwrap_or_default();
            format!("explain {} {place}", explain.method)
        }
    }
}
