//! `retries`.

use super::{positive_time, time};
use crate::error::shown;
use crate::model::policy::{Hedging, Retries, RetryOn};
use crate::parse::fields;
use crate::reader::{Fields, Value};
use std::time::Duration;

const MAX_ATTEMPTS: u32 = 10;
/// Statuses in one list.
const MAX_CODES: usize = 32;
const MAX_HEDGES: u32 = 3;
const MAX_REPLAY_BYTES: usize = 1 << 20;
const MAX_BUDGET_FLOOR: u32 = 10_000;

/// The words for what is worth another try.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    ConnectFailure,
    Reset,
    GatewayError,
    ServerError,
}

const CAUSES: [(&str, Cause); 4] = [
    ("ConnectFailure", Cause::ConnectFailure),
    ("Reset", Cause::Reset),
    ("GatewayError", Cause::GatewayError),
    ("ServerError", Cause::ServerError),
];

/// gRPC's statuses from 1 on, as its service configurations write them.
pub(crate) const GRPC_STATUSES: [&str; 16] = [
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
];

/// Reads `retries`; a request may take so long in all.
pub(super) fn retries(value: &Value<'_>, request: Option<Duration>) -> Option<Retries> {
    let default = Retries::default();
    value.mapping(|fields| {
        let attempts = fields.optional("attempts", |value| {
            value.integer("a number of tries after the first", 0..=MAX_ATTEMPTS)
        });
        let on = fields.optional("retryOn", causes);
        let codes = fields.optional("codes", codes);
        let grpc = fields.optional("grpcStatus", |value| distinct(value, grpc_status));
        let non_idempotent = fields.optional("nonIdempotent", Value::boolean);
        let per_try_timeout = fields.optional("perTryTimeout", |value| {
            let per_try = positive_time(value)?;
            if request.is_some_and(|request| !request.is_zero() && per_try > request) {
                value.error("is longer than timeouts.request, of which it is a part");
            }
            Some(per_try)
        });
        let (backoff, backoff_max) = backoff(fields, &default);
        let budget = fields.optional("budget", |value| budget(value, &default));
        let replay_bytes = fields.optional("replayBytes", |value| {
            value.integer("a number of bytes", 0..=MAX_REPLAY_BYTES)
        });
        let hedging = fields.optional("hedging", hedging);
        let (budget_percent, budget_floor) = budget.unwrap_or((default.budget_percent, default.budget_floor));
        Some(Retries {
            attempts: attempts.unwrap_or(default.attempts),
            on: on.unwrap_or_default(),
            codes: codes.unwrap_or_default(),
            grpc: grpc.unwrap_or_default(),
            non_idempotent: non_idempotent.unwrap_or(default.non_idempotent),
            per_try_timeout,
            backoff,
            backoff_max,
            budget_percent,
            budget_floor,
            replay_bytes: replay_bytes.unwrap_or(default.replay_bytes),
            hedging,
        })
    })
}

/// A gRPC status that is an error, by its word or its number.
pub(super) fn grpc_status(value: &Value<'_>) -> Option<u16> {
    if value.is_number() {
        return value.integer("a gRPC status of an error", 1..=16);
    }
    value.parse(|text| {
        let word = text.to_ascii_lowercase().replace('_', "-");
        let index = GRPC_STATUSES.iter().position(|status| *status == word);
        let status = index.and_then(|index| u16::try_from(index + 1).ok());
        status.ok_or_else(|| {
            format!(
                "is not a gRPC status of an error: {}, or a number from 1 to 16",
                GRPC_STATUSES.join(", ")
            )
        })
    })
}

/// A status of HTTP that is an error.
pub(super) fn http_status(value: &Value<'_>) -> Option<u16> {
    value.integer("a status of an error", 400..=599)
}

fn codes(value: &Value<'_>) -> Option<Vec<u16>> {
    distinct(value, http_status)
}

fn distinct(value: &Value<'_>, read: fn(&Value<'_>) -> Option<u16>) -> Option<Vec<u16>> {
    let mut seen = Vec::new();
    fields::list(value, MAX_CODES, |value| {
        let code = read(value)?;
        if seen.contains(&code) {
            value.error(format_args!("{code} is in the list already"));
        }
        seen.push(code);
        Some(code)
    })
}

fn causes(value: &Value<'_>) -> Option<RetryOn> {
    let mut seen = Vec::new();
    fields::list(value, CAUSES.len(), |value| {
        let cause = value.one_of(&CAUSES)?;
        if seen.contains(&cause) {
            value.error(format_args!(
                "{} is in the list already",
                shown(value.string().unwrap_or_default())
            ));
        }
        seen.push(cause);
        Some(())
    })?;
    Some(RetryOn {
        connect_failure: seen.contains(&Cause::ConnectFailure),
        reset: seen.contains(&Cause::Reset),
        gateway_error: seen.contains(&Cause::GatewayError),
        server_error: seen.contains(&Cause::ServerError),
    })
}

/// `backoff`: the first wait and the longest.
fn backoff(fields: &mut Fields<'_>, default: &Retries) -> (Duration, Duration) {
    let read = fields.optional("backoff", |value| {
        value.mapping(|fields| {
            let (has_base, has_max) = (fields.has("base"), fields.has("max"));
            let base = fields.optional("base", time);
            let max = fields.optional("max", time);
            let base = if has_base { base? } else { default.backoff };
            let max = if has_max { max? } else { default.backoff_max };
            if base > max {
                match has_max {
                    true => fields.error(
                        "max",
                        "is less than base, the first wait (25ms if it is left out)",
                    ),
                    false => fields.error(
                        "base",
                        "is more than max, which is 250ms if it is left out: give max too",
                    ),
                }
            }
            Some((base, max))
        })
    });
    read.unwrap_or((default.backoff, default.backoff_max))
}

fn budget(value: &Value<'_>, default: &Retries) -> Option<(u32, u32)> {
    value.mapping(|fields| {
        let percent = fields.optional("percent", |value| value.integer("a percentage", 0..=100));
        let floor = fields.optional("minPerSecond", |value| {
            value.integer("a number of tries a second", 0..=MAX_BUDGET_FLOOR)
        });
        Some((
            percent.unwrap_or(default.budget_percent),
            floor.unwrap_or(default.budget_floor),
        ))
    })
}

fn hedging(value: &Value<'_>) -> Option<Hedging> {
    value.mapping(|fields| {
        let after = fields.required("after", positive_time);
        let max = fields.optional("max", |value| {
            value.integer("a number of tries beside the first", 1..=MAX_HEDGES)
        });
        Some(Hedging {
            after: after?,
            max: max.unwrap_or(1),
        })
    })
}
