//! `weft.dev/v1alpha1 TrafficPolicy`.
//!
//! A section that is there has its own defaults for what it leaves out. Whether its Services are there is not asked:
//! that is its status.

mod balance;
mod faults;
mod limits;
mod retries;

use super::fields;
use super::object::Metadata;
use super::route;
use crate::model::TrafficPolicy;
use crate::model::policy::{PolicyTarget, Sections, Timeouts};
use crate::names::DnsLabel;
use crate::reader::Value;
use std::time::Duration;

const MAX_TARGETS: usize = 16;
/// The longest time that a policy says: longer than any request is waited for.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// `spec`.
pub(super) struct Spec {
    targets: Vec<PolicyTarget>,
    sections: Sections,
}

/// Reads `spec` of a policy in this namespace.
pub(super) fn spec(value: &Value<'_>, namespace: &DnsLabel) -> Option<Spec> {
    value.mapping(|fields| {
        let targets = fields.required("targetRefs", targets);
        let load_balancing = fields.optional("loadBalancing", balance::load_balancing);
        let timeouts = fields.optional("timeouts", timeouts);
        let request = timeouts.and_then(|timeouts| timeouts.request);
        let retries = fields.optional("retries", |value| retries::retries(value, request));
        let limits = fields.optional("limits", limits::limits);
        let outlier_ejection = fields.optional("outlierEjection", limits::outlier_ejection);
        let faults = fields.optional("faults", |value| faults::faults(value, namespace));
        Some(Spec {
            targets: targets?,
            sections: Sections {
                load_balancing,
                retries,
                limits,
                outlier_ejection,
                timeouts,
                faults,
            },
        })
    })
}

/// Puts a policy together.
pub(super) fn traffic_policy(metadata: Metadata, spec: Spec) -> TrafficPolicy {
    TrafficPolicy {
        name: metadata.name,
        created: metadata.created,
        targets: spec.targets,
        sections: spec.sections,
    }
}

fn targets(value: &Value<'_>) -> Option<Vec<PolicyTarget>> {
    let mut seen = Vec::new();
    let targets = fields::list(value, MAX_TARGETS, |value| {
        let target = target(value)?;
        if seen.contains(&target) {
            value.error(format_args!("{} is in the list already", target.service));
        }
        seen.push(target.clone());
        Some(target)
    })?;
    if targets.is_empty() {
        value.error("is empty: a TrafficPolicy is for the requests of at least one Service");
    }
    Some(targets)
}

fn target(value: &Value<'_>) -> Option<PolicyTarget> {
    value.mapping(|fields| {
        let is_service = route::read_kind(
            fields,
            "",
            "Service",
            "a TrafficPolicy is for requests of Services",
        );
        fields.refuse(
            "namespace",
            "a TrafficPolicy is for Services of its own namespace: apply it there",
        );
        let service = fields.required("name", fields::service_name);
        let has_section = fields.has("sectionName");
        let section = fields.optional("sectionName", |value| value.parse(DnsLabel::parse));
        is_service.then_some(())?;
        Some(PolicyTarget {
            service: service?,
            section: if has_section { Some(section?) } else { None },
        })
    })
}

fn timeouts(value: &Value<'_>) -> Option<Timeouts> {
    value.mapping(|fields| {
        let request = fields.optional("request", time);
        let idle = fields.optional("idle", time);
        let connect = fields.optional("connect", time);
        Some(Timeouts {
            request,
            idle,
            connect,
        })
    })
}

/// A time, which may be none at all.
fn time(value: &Value<'_>) -> Option<Duration> {
    let time = fields::duration(value)?;
    if time > MAX_TIME {
        value.error("is longer than the 24h of a policy");
        return None;
    }
    Some(time)
}

/// A time that is more than nothing.
fn positive_time(value: &Value<'_>) -> Option<Duration> {
    let time = time(value)?;
    if time.is_zero() {
        value.error("is no time at all: give one, such as 500ms, or leave it out");
        return None;
    }
    Some(time)
}
