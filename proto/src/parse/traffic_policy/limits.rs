//! `limits` and `outlierEjection`.

use super::positive_time;
use crate::model::policy::{Limits, MAX_RATES, OutlierEjection, RateLimit, RateScope};
use crate::parse::fields;
use crate::reader::{Fields, Value};
use std::time::Duration;

/// Requests that wait hold memory.
const MAX_QUEUE: u32 = 100_000;
/// A mean latency so many times that of others is one that never comes.
const MAX_LATENCY_FACTOR: u32 = 1_000;

const SCOPES: [(&str, RateScope); 3] = [
    ("Endpoint", RateScope::Endpoint),
    ("Caller", RateScope::Caller),
    ("Route", RateScope::Route),
];

/// Reads `limits`.
pub(super) fn limits(value: &Value<'_>) -> Option<Limits> {
    value.mapping(|fields| {
        let has_requests = fields.has("requests");
        let (connections, requests) = most(fields);
        let queue = fields.optional("queue", |value| {
            if !has_requests {
                value.error("is for room under requests, which has no limit: give one, or leave queue out");
            }
            queue(value)
        });
        let endpoint = fields.optional("endpoint", |value| value.mapping(|fields| Some(most(fields))));
        let rates = fields.optional("rates", |value| fields::list(value, MAX_RATES, rate));
        let (endpoint_connections, endpoint_requests) = endpoint.unwrap_or_default();
        let (queue, queue_timeout) = queue.unwrap_or_default();
        Some(Limits {
            connections,
            requests,
            endpoint_connections,
            endpoint_requests,
            queue,
            queue_timeout,
            rates: rates.unwrap_or_default(),
        })
    })
}

/// `connections` and `requests` at a time.
fn most(fields: &mut Fields<'_>) -> (Option<u32>, Option<u32>) {
    let limit = |value: &Value<'_>| value.integer("a limit", 1..=u32::MAX);
    (
        fields.optional("connections", limit),
        fields.optional("requests", limit),
    )
}

fn queue(value: &Value<'_>) -> Option<(u32, Option<Duration>)> {
    value.mapping(|fields| {
        let length = fields.required("length", |value| {
            value.integer("a number of requests that wait", 0..=MAX_QUEUE)
        });
        let timeout = fields.optional("timeout", positive_time);
        Some((length?, timeout))
    })
}

fn rate(value: &Value<'_>) -> Option<RateLimit> {
    let number = |value: &Value<'_>| value.integer("a number of requests", 1..=u32::MAX);
    value.mapping(|fields| {
        let requests = fields.required("requests", number);
        let per = fields.required("per", positive_time);
        let burst = fields.optional("burst", number);
        let scope = fields.optional("by", |value| value.one_of(&SCOPES));
        Some(RateLimit {
            requests: requests?,
            per: per?,
            burst: burst.or(requests)?,
            scope: scope.unwrap_or_default(),
        })
    })
}

/// Reads `outlierEjection`.
pub(super) fn outlier_ejection(value: &Value<'_>) -> Option<OutlierEjection> {
    let default = OutlierEjection::default();
    let percentage = |value: &Value<'_>| value.integer("a percentage", 0..=100_u8);
    value.mapping(|fields| {
        let consecutive = fields.optional("consecutiveFailures", |value| {
            value.integer("a number of failures", 0..=u32::MAX)
        });
        let success_rate = fields.optional("successRate", |value| value.integer("a percentage", 1..=100));
        let latency_factor = fields.optional("latencyFactor", |value| {
            value.integer("a factor", 2..=MAX_LATENCY_FACTOR)
        });
        let interval = fields.optional("interval", positive_time);
        let min_requests = fields.optional("minRequests", |value| {
            value.integer("a number of requests", 1..=u32::MAX)
        });
        let time = fields.optional("time", |value| ejection_time(value, &default));
        let max_percent = fields.optional("maxPercent", percentage);
        let panic_percent = fields.optional("panicPercent", percentage);
        let (base_time, max_time) = time.unwrap_or((default.base_time, default.max_time));
        Some(OutlierEjection {
            consecutive_failures: consecutive.unwrap_or(default.consecutive_failures),
            success_rate,
            latency_factor,
            interval: interval.unwrap_or(default.interval),
            min_requests: min_requests.unwrap_or(default.min_requests),
            base_time,
            max_time,
            max_percent: max_percent.unwrap_or(default.max_percent),
            panic_percent: panic_percent.unwrap_or(default.panic_percent),
        })
    })
}

/// `time`: the first and the longest.
fn ejection_time(value: &Value<'_>, default: &OutlierEjection) -> Option<(Duration, Duration)> {
    value.mapping(|fields| {
        let (has_base, has_max) = (fields.has("base"), fields.has("max"));
        let base = fields.optional("base", positive_time);
        let max = fields.optional("max", positive_time);
        let base = if has_base { base? } else { default.base_time };
        let max = if has_max { max? } else { default.max_time };
        if base > max {
            match has_max {
                true => fields.error("max", "is less than base, the first time (10s if it is left out)"),
                false => fields.error(
                    "base",
                    "is more than max, which is 5m if it is left out: give max too",
                ),
            }
        }
        Some((base, max))
    })
}
