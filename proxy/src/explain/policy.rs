//! What holds for a backend, in words: what its TrafficPolicy says, and how far its limits are used.

use std::{fmt::Write as _, time::Instant};

use serde_json::{Map, Value, json};
use weft_proto::{
    model::{
        FieldMatch,
        policy::{
            Abort, Algorithm, Fault, HashKey, Limits, LoadBalancing, LocalityMode, OutlierEjection,
            RateLimit, RateScope, Retries, Timeouts,
        },
        route::{RouteRetry, ValueMatch},
    },
    parse::duration::to_text,
};

use crate::{
    limit::{Buckets, QUEUE_TIMEOUT},
    policy::Policy,
    route::percent,
};

/// The policy of a backend, for requests that take their tokens out of these buckets.
pub(super) fn show(policy: &Policy, buckets: &Buckets, now: Instant) -> Value {
    let sources: Map<String, Value> = policy
        .sources
        .iter()
        .map(|(section, name)| ((*section).to_owned(), format!("TrafficPolicy {name}").into()))
        .collect();
    json!({
        "sources": sources,
        "loadBalancing": load_balancing(&policy.load_balancing),
        "retries": retries(&policy.retries),
        "limits": limits(policy, buckets, now),
        "outlierEjection": outlier_ejection(&policy.outlier_ejection),
        "timeouts": timeouts(policy),
        "faults": policy.faults.iter().map(fault).collect::<Vec<_>>(),
    })
}

fn load_balancing(policy: &LoadBalancing) -> String {
    let mut words = match &policy.algorithm {
        Algorithm::LeastLatency => "least latency of two".to_owned(),
        Algorithm::RoundRobin => "round robin".to_owned(),
        Algorithm::Random => "random".to_owned(),
        Algorithm::ConsistentHash(HashKey::Header(name)) => format!("by the hash of header {name}"),
        Algorithm::ConsistentHash(HashKey::Cookie(name)) => format!("by the hash of cookie {name}"),
        Algorithm::ConsistentHash(HashKey::Source) => "by the hash of the caller's address".to_owned(),
    };
    if let LocalityMode::Prefer { overflow } = policy.locality {
        let _ = write!(
            words,
            "; near endpoints first, as long as {overflow}% of them are healthy"
        );
    }
    if let Some(slow_start) = policy.slow_start {
        let _ = write!(words, "; a new one gets its share after {}", to_text(slow_start));
    }
    if !policy.subset.is_empty() {
        let labels = policy
            .subset
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let _ = write!(
            words,
            "; only those with {}",
            labels.collect::<Vec<_>>().join(", ")
        );
    }
    words
}

fn retries(retries: &Retries) -> String {
    if retries.attempts == 0 {
        return "only of what no application has seen".to_owned();
    }
    let on = retries.on;
    let mut worth: Vec<String> = [
        (on.connect_failure, "failed connections"),
        (on.reset, "lost answers"),
        (on.gateway_error, "502 to 504"),
        (on.server_error, "500 to 599"),
    ]
    .into_iter()
    .filter(|(is_on, _)| *is_on)
    .map(|(_, what)| what.to_owned())
    .collect();
    worth.extend(retries.codes.iter().map(ToString::to_string));
    worth.extend(retries.grpc.iter().map(|code| format!("gRPC status {code}")));
    let mut words = format!("{} more tries of {}", retries.attempts, worth.join(", "));
    if !retries.non_idempotent {
        words.push_str(", of methods that may be repeated");
    }
    let _ = write!(
        words,
        "; after up to {} to {}; for {}% of requests and {} a second",
        to_text(retries.backoff),
        to_text(retries.backoff_max),
        retries.budget_percent,
        retries.budget_floor
    );
    if let Some(timeout) = retries.per_try_timeout {
        let _ = write!(words, "; each try within {}", to_text(timeout));
    }
    if let Some(hedging) = retries.hedging {
        let _ = write!(
            words,
            "; {} beside it after {}",
            hedging.max,
            to_text(hedging.after)
        );
    }
    words
}

/// What a route says of retries in place of the policy.
pub(super) fn route_retry(retry: &RouteRetry) -> String {
    let mut words = vec![match retry.attempts {
        Some(attempts) => format!("{attempts} more tries"),
        None => "as many more tries as the policy says".to_owned(),
    }];
    if !retry.codes.is_empty() {
        let codes: Vec<String> = retry.codes.iter().map(ToString::to_string).collect();
        words.push(format!("of {}", codes.join(", ")));
    }
    if let Some(backoff) = retry.backoff {
        words.push(format!("after {}", to_text(backoff)));
    }
    words.join(" ")
}

fn limits(policy: &Policy, buckets: &Buckets, now: Instant) -> Vec<String> {
    let Limits {
        connections,
        requests,
        endpoint_connections,
        endpoint_requests,
        queue,
        queue_timeout,
        rates,
        ..
    } = &policy.limits;
    let facts = &policy.facts;
    let mut words = vec![used("requests in flight", facts.requests.in_flight(), *requests)];
    if *queue > 0 {
        let waiting = used("requests that wait", facts.requests.waiting(), Some(*queue));
        words.push(format!(
            "{waiting}, for {}",
            to_text(queue_timeout.unwrap_or(QUEUE_TIMEOUT))
        ));
    }
    if connections.is_some() {
        words.push(used("connections", facts.connections.get(), *connections));
    }
    for (what, limit) in [
        ("requests in flight", endpoint_requests),
        ("connections", endpoint_connections),
    ] {
        if let Some(limit) = limit {
            words.push(format!("{what} to one endpoint: {limit}"));
        }
    }
    let own = buckets.left(now, rates, RateScope::Route);
    words.extend(own.map(|(limit, left)| format!("{}: {left} left", rate(limit, "of a rule"))));
    words.extend(rates.iter().filter_map(|limit| match limit.scope {
        RateScope::Route => None,
        RateScope::Endpoint => Some(format!("{} (kept there)", rate(limit, "at each endpoint"))),
        RateScope::Caller => Some(format!(
            "{} (kept there)",
            rate(limit, "of each caller at each endpoint")
        )),
    }));
    words
}

fn used(what: &str, count: u32, limit: Option<u32>) -> String {
    match limit {
        Some(limit) => format!("{what}: {count} of {limit}"),
        None => format!("{what}: {count}, without limit"),
    }
}

fn rate(limit: &RateLimit, of: &str) -> String {
    format!(
        "requests {of}: {} in {}, {} at once",
        limit.requests,
        to_text(limit.per),
        limit.burst
    )
}

fn outlier_ejection(policy: &OutlierEjection) -> String {
    let mut signs = Vec::new();
    if policy.consecutive_failures > 0 {
        signs.push(format!("{} failures in a row", policy.consecutive_failures));
    }
    if let Some(rate) = policy.success_rate {
        signs.push(format!(
            "fewer than {rate}% successes in {}",
            to_text(policy.interval)
        ));
    }
    if let Some(factor) = policy.latency_factor {
        signs.push(format!(
            "{factor} times the others' latency in {}",
            to_text(policy.interval)
        ));
    }
    if signs.is_empty() {
        return "none".to_owned();
    }
    format!(
        "after {}; for {} to {}; {}% of the endpoints at most; all are used if less than {}% are left",
        signs.join(" or "),
        to_text(policy.base_time),
        to_text(policy.max_time),
        policy.max_percent,
        policy.panic_percent
    )
}

fn timeouts(policy: &Policy) -> String {
    let Timeouts { request, idle, .. } = policy.timeouts;
    let limit = |limit: Option<std::time::Duration>| match limit.filter(|limit| !limit.is_zero()) {
        Some(limit) => to_text(limit),
        None => "without limit".to_owned(),
    };
    format!(
        "request {}, idle {}, connect {}",
        limit(request),
        limit(idle),
        to_text(policy.connect_timeout())
    )
}

fn fault(fault: &Fault) -> String {
    let mut words = Vec::new();
    if let Some((delay, share)) = fault.delay {
        words.push(format!("holds {} up by {}", percent(share), to_text(delay)));
    }
    if let Some((abort, share)) = fault.abort {
        let answer = match abort {
            Abort::Http(status) => status.to_string(),
            Abort::Grpc(status) => format!("gRPC status {status}"),
        };
        words.push(format!("answers {} with {answer}", percent(share)));
    }
    let mut words = words.join(", ");
    if !fault.headers.is_empty() {
        let headers: Vec<String> = fault.headers.iter().map(header).collect();
        let _ = write!(words, " of requests with {}", headers.join(", "));
    }
    words
}

fn header(wanted: &FieldMatch) -> String {
    match &wanted.value {
        ValueMatch::Exact(exact) => format!("header {} {exact}", wanted.name),
        ValueMatch::Regex(pattern) => format!("header {} like {}", wanted.name, pattern.as_str()),
    }
}
