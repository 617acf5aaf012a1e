//! `faults`.

use super::positive_time;
use super::retries::{grpc_status, http_status};
use crate::error::shown;
use crate::model::policy::{Abort, Fault};
use crate::model::{RouteKind, Share};
use crate::names::DnsLabel;
use crate::parse::fields;
use crate::parse::http_route;
use crate::parse::route::Context;
use crate::reader::{Fields, Value};
use std::time::Duration;

const MAX_FAULTS: usize = 16;
/// Digits after the point of a percentage.
const MAX_DECIMALS: usize = 4;

/// Reads `faults` of a policy in this namespace.
pub(super) fn faults(value: &Value<'_>, namespace: &DnsLabel) -> Option<Vec<Fault>> {
    // Headers are matched as by routes, within the same limits.
    let context = Context::new(RouteKind::Http, namespace);
    fields::list(value, MAX_FAULTS, |value| fault(value, &context))
}

fn fault(value: &Value<'_>, context: &Context<'_>) -> Option<Fault> {
    value.mapping(|fields| {
        let headers = fields.optional("headers", |value| http_route::headers(value, context));
        let has_fault = fields.has("delay") || fields.has("abort");
        let delay = fields.optional("delay", delay);
        let abort = fields.optional("abort", abort);
        if !has_fault {
            value.error("makes no fault: give it a delay, an abort, or both");
        }
        Some(Fault {
            headers: headers.unwrap_or_default(),
            delay,
            abort,
        })
    })
}

fn delay(value: &Value<'_>) -> Option<(Duration, Share)> {
    value.mapping(|fields| {
        let duration = fields.required("duration", positive_time);
        let share = share(fields);
        Some((duration?, share?))
    })
}

fn abort(value: &Value<'_>) -> Option<(Abort, Share)> {
    value.mapping(|fields| {
        let (has_status, has_grpc) = (fields.has("status"), fields.has("grpcStatus"));
        let status = fields.optional("status", http_status);
        let grpc = fields.optional("grpcStatus", grpc_status);
        let share = share(fields);
        if has_status == has_grpc {
            value.error("has exactly one of status and grpcStatus");
            return None;
        }
        let abort = status.map(Abort::Http).or(grpc.map(Abort::Grpc));
        Some((abort?, share?))
    })
}

/// `percent`; all, if it is left out.
fn share(fields: &mut Fields<'_>) -> Option<Share> {
    let has_percent = fields.has("percent");
    let percent = fields.optional("percent", percent);
    if has_percent { percent } else { Some(Share::ALL) }
}

/// A percentage with a few decimals, in the smallest terms of tens.
fn percent(value: &Value<'_>) -> Option<Share> {
    let Some((text, true)) = value.scalar() else {
        return value.integer("a percentage", 0..=100).map(Share::percent);
    };
    let Some((whole, decimals)) = text.split_once('.') else {
        return value.integer("a percentage", 0..=100).map(Share::percent);
    };
    let kept = decimals.trim_end_matches('0');
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = is_digits(whole) && whole.len() <= 3 && is_digits(decimals) && kept.len() <= MAX_DECIMALS;
    let numerator = format!("{whole}{kept}").parse::<u32>().ok().filter(|_| is_number);
    let denominator = kept
        .bytes()
        .fold(100_u32, |denominator, _| denominator.saturating_mul(10));
    let share = numerator.filter(|numerator| *numerator <= denominator);
    if share.is_none() {
        value.error(format_args!(
            "{} is not a percentage (0 to 100, with at most {MAX_DECIMALS} decimals)",
            shown(text)
        ));
    }
    share.map(|numerator| Share::new(numerator, denominator))
}
