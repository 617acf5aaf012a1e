//! The documents of traffic policies.

use super::route::field_match;
use super::{Fields, labels, list, named};
use crate::document::Document;
use crate::kinds::Kind;
use crate::model::policy::{
    Abort, Algorithm, Fault, HashKey, Limits, LoadBalancing, LocalityMode, OutlierEjection, PolicyTarget,
    RateLimit, RateScope, Retries, RetryOn, Timeouts,
};
use crate::model::{Share, TrafficPolicy};
use crate::parse::{duration, moment};
use serde_json::{Number, Value};
use std::time::Duration;

/// The document of a traffic policy: of each section that is there all that holds, whatever the defaults are.
pub fn traffic_policy(policy: &TrafficPolicy) -> Document {
    let mut metadata = Fields::default();
    metadata.text_if(
        "creationTimestamp",
        policy.created.and_then(moment::to_text).as_deref(),
    );
    let sections = &policy.sections;
    let mut spec = Fields::default();
    spec.put("targetRefs", list(&policy.targets, target));
    if let Some(section) = &sections.load_balancing {
        spec.put("loadBalancing", load_balancing(section));
    }
    if let Some(section) = &sections.retries {
        spec.put("retries", retries(section));
    }
    if let Some(section) = &sections.limits {
        spec.put("limits", limits(section));
    }
    if let Some(section) = &sections.outlier_ejection {
        spec.put("outlierEjection", outlier_ejection(section));
    }
    if let Some(section) = &sections.timeouts {
        spec.put("timeouts", timeouts(section));
    }
    if let Some(section) = &sections.faults {
        spec.put("faults", list(section, fault));
    }
    named(Kind::TrafficPolicy, &policy.name, metadata, spec)
}

fn target(target: &PolicyTarget) -> Value {
    let mut fields = Fields::default();
    fields.text("group", "");
    fields.text("kind", "Service");
    fields.text("name", &target.service);
    fields.text_if("sectionName", target.section.as_deref());
    fields.into_value()
}

fn load_balancing(section: &LoadBalancing) -> Value {
    let mut fields = Fields::default();
    let word = match &section.algorithm {
        Algorithm::LeastLatency => "LeastLatency",
        Algorithm::RoundRobin => "RoundRobin",
        Algorithm::Random => "Random",
        Algorithm::ConsistentHash(key) => {
            let mut of = Fields::default();
            match key {
                HashKey::Header(name) => of.text("header", name),
                HashKey::Cookie(name) => of.text("cookie", name),
                HashKey::Source => of.put("source", true),
            }
            fields.put("consistentHash", of.into_value());
            "ConsistentHash"
        }
    };
    fields.text("algorithm", word);
    fields.duration_if("slowStart", section.slow_start);
    let mut locality = Fields::default();
    match section.locality {
        LocalityMode::Prefer { overflow } => {
            locality.text("mode", "Prefer");
            locality.put("overflow", overflow);
        }
        LocalityMode::Ignore => locality.text("mode", "Ignore"),
    }
    fields.put("locality", locality.into_value());
    let mut subset = Fields::default();
    subset.put("matchLabels", labels(&section.subset));
    fields.put("subset", subset.into_value());
    fields.into_value()
}

fn retries(section: &Retries) -> Value {
    let mut fields = Fields::default();
    fields.put("attempts", section.attempts);
    fields.put("retryOn", causes(section.on));
    fields.list_if("codes", list(&section.codes, |code| Value::from(*code)));
    fields.list_if("grpcStatus", list(&section.grpc, |status| Value::from(*status)));
    fields.put("nonIdempotent", section.non_idempotent);
    fields.duration_if("perTryTimeout", section.per_try_timeout);
    fields.put("backoff", times(section.backoff, section.backoff_max));
    let mut budget = Fields::default();
    budget.put("percent", section.budget_percent);
    budget.put("minPerSecond", section.budget_floor);
    fields.put("budget", budget.into_value());
    fields.put("replayBytes", section.replay_bytes);
    if let Some(hedging) = section.hedging {
        let mut hedges = Fields::default();
        hedges.duration_if("after", Some(hedging.after));
        hedges.put("max", hedging.max);
        fields.put("hedging", hedges.into_value());
    }
    fields.into_value()
}

fn causes(on: RetryOn) -> Vec<Value> {
    let causes = [
        (on.connect_failure, "ConnectFailure"),
        (on.reset, "Reset"),
        (on.gateway_error, "GatewayError"),
        (on.server_error, "ServerError"),
    ];
    let said = causes.into_iter().filter(|(is_on, _)| *is_on);
    said.map(|(_, word)| Value::from(word)).collect()
}

fn limits(section: &Limits) -> Value {
    let mut fields = Fields::default();
    fields.number_if("connections", section.connections);
    fields.number_if("requests", section.requests);
    if section.queue > 0 || section.queue_timeout.is_some() {
        let mut queue = Fields::default();
        queue.put("length", section.queue);
        queue.duration_if("timeout", section.queue_timeout);
        fields.put("queue", queue.into_value());
    }
    let mut endpoint = Fields::default();
    endpoint.number_if("connections", section.endpoint_connections);
    endpoint.number_if("requests", section.endpoint_requests);
    fields.put("endpoint", endpoint.into_value());
    fields.list_if("rates", list(&section.rates, rate));
    fields.into_value()
}

fn rate(rate: &RateLimit) -> Value {
    let mut fields = Fields::default();
    fields.put("requests", rate.requests);
    fields.duration_if("per", Some(rate.per));
    fields.put("burst", rate.burst);
    let by = match rate.scope {
        RateScope::Endpoint => "Endpoint",
        RateScope::Caller => "Caller",
        RateScope::Route => "Route",
    };
    fields.text("by", by);
    fields.into_value()
}

fn outlier_ejection(section: &OutlierEjection) -> Value {
    let mut fields = Fields::default();
    fields.put("consecutiveFailures", section.consecutive_failures);
    fields.number_if("successRate", section.success_rate.map(u32::from));
    fields.number_if("latencyFactor", section.latency_factor);
    fields.duration_if("interval", Some(section.interval));
    fields.put("minRequests", section.min_requests);
    fields.put("time", times(section.base_time, section.max_time));
    fields.put("maxPercent", section.max_percent);
    fields.put("panicPercent", section.panic_percent);
    fields.into_value()
}

fn timeouts(section: &Timeouts) -> Value {
    let mut fields = Fields::default();
    fields.duration_if("request", section.request);
    fields.duration_if("idle", section.idle);
    fields.duration_if("connect", section.connect);
    fields.into_value()
}

fn fault(fault: &Fault) -> Value {
    let mut fields = Fields::default();
    fields.list_if("headers", list(&fault.headers, field_match));
    if let Some((duration, share)) = fault.delay {
        let mut delay = Fields::default();
        delay.duration_if("duration", Some(duration));
        delay.put("percent", percent(share));
        fields.put("delay", delay.into_value());
    }
    if let Some((answer, share)) = fault.abort {
        let mut abort = Fields::default();
        match answer {
            Abort::Http(status) => abort.put("status", status),
            Abort::Grpc(status) => abort.put("grpcStatus", status),
        }
        abort.put("percent", percent(share));
        fields.put("abort", abort.into_value());
    }
    fields.into_value()
}

/// A percentage. Its decimals are those with which it was read.
fn percent(share: Share) -> Value {
    if share.denominator == 100 {
        return share.numerator.into();
    }
    let percent = f64::from(share.numerator) / (f64::from(share.denominator) / 100.0);
    Number::from_f64(percent).map_or(Value::Null, Value::Number)
}

fn times(base: Duration, max: Duration) -> Value {
    let mut fields = Fields::default();
    fields.text("base", duration::to_text(base));
    fields.text("max", duration::to_text(max));
    fields.into_value()
}
