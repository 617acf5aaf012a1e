//! The JSON of an explanation. A value that is null is one that is not there.

use http::{HeaderMap, request::Parts};
use serde_json::{Value, json};

use super::policy;
use crate::{
    balance::{Eligibility, Standing},
    local::target::Target,
    respond::Failure,
    route::{Considered, Destination, Mismatch, Redirected, Rule},
    snapshot::Reach,
};

/// The request: of its fields the names alone.
pub(super) fn request(head: &Parts, target: &Target) -> Value {
    let authority = target.authority.as_ref();
    let path = target.path.as_ref().map(|path| path.path());
    let headers = head
        .headers
        .keys()
        .filter(|name| !name.as_str().starts_with("weft-"));
    json!({
        "method": head.method.as_str(),
        "host": authority.map(|authority| authority.host()),
        "port": authority.and_then(|authority| authority.port_u16()),
        "path": path,
        "headers": headers.map(|name| name.as_str()).collect::<Vec<_>>(),
    })
}

/// The most matches that are shown, the one that counts aside: a service may have thousands.
const MAX_CONSIDERED: usize = 200;

/// The matches of all rules, in the order in which they count.
pub(super) fn considered(all: &[Considered<'_>], headers: &HeaderMap) -> Value {
    let first = all.iter().position(|considered| considered.outcome.is_ok());
    let shown = all
        .iter()
        .enumerate()
        .filter(|(index, _)| *index < MAX_CONSIDERED || Some(*index) == first);
    shown
        .map(|(index, considered)| {
            let is_taken = first.is_some_and(|first| first < index);
            of_match(considered, headers, is_taken)
        })
        .collect()
}

/// `is_taken`: the request goes by another match already.
fn of_match(considered: &Considered<'_>, headers: &HeaderMap, is_taken: bool) -> Value {
    let because = match considered.outcome {
        Ok(()) => is_taken.then(|| "a rule before it has the request".to_owned()),
        Err(mismatch) => Some(because(mismatch, headers)),
    };
    json!({
        "route": considered.rule.route_in_words(),
        "rule": &*considered.rule.name,
        "number": considered.number,
        "match": considered.wanted(),
        "matched": because.is_none(),
        "because": because,
    })
}

fn because(mismatch: Mismatch<'_>, headers: &HeaderMap) -> String {
    match mismatch {
        Mismatch::Host => "its route is for other hosts".to_owned(),
        Mismatch::Path => "the path is another one".to_owned(),
        Mismatch::Method => "the method is another one".to_owned(),
        Mismatch::GrpcMethod => "the gRPC method is another one".to_owned(),
        Mismatch::Header(name) if headers.contains_key(name) => format!("header {name} has another value"),
        Mismatch::Header(name) => format!("header {name} is absent"),
        Mismatch::Query(name) => format!("parameter {name} is absent, or has another value"),
    }
}

/// The rule that the request goes by.
pub(super) fn route(rule: &Rule) -> Value {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    json!({
        "route": rule.route_in_words(),
        "rule": &*rule.name,
        "filters": rule.filters.in_words(),
        "timeouts": {
            "requestMs": rule.request_timeout.map(millis),
            "backendRequestMs": rule.backend_timeout.map(millis),
        },
        "retry": rule.retry.as_ref().map(policy::route_retry),
    })
}

/// A place whose share of the requests is sent elsewhere by their caller.
pub(super) fn redirected(destination: &Destination, share: f64, redirected: &Redirected) -> Value {
    json!({
        "service": destination.target.service.to_string(),
        "port": destination.target.port,
        "weight": destination.weight,
        "share": share,
        "redirect": {
            "status": redirected.status.as_u16(),
            "location": String::from_utf8_lossy(redirected.location.as_bytes()),
        },
    })
}

/// A place that is none.
pub(super) fn unresolved(destination: &Destination, share: f64, failure: &Failure) -> Value {
    json!({
        "service": destination.target.service.to_string(),
        "port": destination.target.port,
        "weight": destination.weight,
        "share": share,
        "error": error(failure),
    })
}

/// Why a backend does not take the request.
pub(super) fn error(failure: &Failure) -> Value {
    json!({
        "status": failure.status().as_u16(),
        "reason": failure.reason(),
        "detail": failure.detail(),
    })
}

/// An endpoint, and what is to be said of it.
pub(super) fn endpoint(eligibility: &Eligibility) -> Value {
    let endpoint = &eligibility.endpoint;
    let address = match &endpoint.reach {
        Reach::Mesh(peer) => peer.address.to_string(),
        Reach::Plain(address) => format!("{address} (plaintext)"),
    };
    let latency = eligibility.latency_micros.map(|micros| micros as f64 / 1_000.0);
    json!({
        "workload": &*endpoint.uid,
        "address": address,
        "version": endpoint.version.as_deref(),
        "eligible": eligibility.standing.is_eligible(),
        "because": standing(eligibility),
        "inFlight": eligibility.in_flight,
        "latencyMs": latency,
        "weight": (eligibility.share * 100.0).round() / 100.0,
    })
}

fn standing(eligibility: &Eligibility) -> Option<String> {
    let seconds = |millis: u64| millis.div_ceil(1_000);
    Some(match eligibility.standing {
        Standing::Eligible if eligibility.tier_percent > 0 => return None,
        Standing::Eligible => "others are nearer, and have all requests now".to_owned(),
        Standing::Panic { until } => format!(
            "ejected for {} s more, but too few others are left",
            seconds(until)
        ),
        Standing::Ejected { until } => format!("ejected for {} s more", seconds(until)),
        Standing::ProbeDue => "ejected; the next request is to show whether it is well again".to_owned(),
        Standing::Probing { .. } => {
            "ejected; a request is on its way to show whether it is well again".to_owned()
        }
        Standing::Full => "as many requests are in flight there as the policy allows".to_owned(),
        Standing::OtherSubset => "it has not the labels that the policy asks for".to_owned(),
    })
}

/// Removes what is null, at every depth.
pub(super) fn without_nulls(mut value: Value) -> Value {
    prune(&mut value);
    value
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(prune);
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}
