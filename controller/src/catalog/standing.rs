//! What became of routes and policies: whether the Services that they name take them. It depends on other documents, so
//! it is found when it is asked for, and stored nowhere.

use serde_json::Value;
use weft_proto::{
    DocumentError,
    attach::{ParentStatus, policy_json, policy_status, route_json, route_status},
    mesh_set::MeshSet,
    parse::{Model, Parsed},
};

/// The `status` of a document, as Kubernetes has it; `None` for a kind that has none.
pub(super) fn status(set: &MeshSet, model: &Model) -> Option<Value> {
    match model {
        Model::Route(route) => Some(route_json(&route_status(set, route), None)),
        Model::TrafficPolicy(policy) => Some(policy_json(&policy_status(set, policy), None)),
        Model::Service(_)
        | Model::Workload(_)
        | Model::MeshConfig(_)
        | Model::ExternalService(_)
        | Model::ReferenceGrant(_) => None,
    }
}

/// What does not hold of a document that is stored all the same, once for each reason.
pub(super) fn warnings(set: &MeshSet, parsed: &Parsed) -> Vec<DocumentError> {
    let (field, statuses) = match &parsed.model {
        Model::Route(route) => ("spec.parentRefs", route_status(set, route)),
        Model::TrafficPolicy(policy) => ("spec.targetRefs", policy_status(set, policy)),
        _ => return Vec::new(),
    };
    let mut warnings: Vec<DocumentError> = Vec::new();
    for (index, ParentStatus { conditions, .. }) in statuses.into_iter().enumerate() {
        for condition in conditions.into_iter().filter(|condition| !condition.is_true) {
            let (path, what) = match condition.kind {
                "Accepted" => (format!("{field}[{index}]"), "not accepted"),
                _ => ("spec.rules".to_owned(), "not all of its references lead anywhere"),
            };
            let message = format!("stored, but {what} ({}): {}", condition.reason, condition.message);
            // The references of a route are the same at each of its parents.
            if warnings.iter().all(|warning| warning.message != message) {
                warnings.push(DocumentError {
                    file: parsed.source.to_string(),
                    line: 0,
                    column: 0,
                    path,
                    message,
                });
            }
        }
    }
    warnings
}
