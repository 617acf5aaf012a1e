//! A place where requests go, and whether it takes one now.

use std::time::Instant;

use http::HeaderMap;
use serde_json::{Value, json};
use weft_proto::model::policy::RateScope;

use super::{policy, show};
use crate::{
    balance::Eligibility,
    fault,
    forward::way,
    limit::Buckets,
    respond::{Failure, Limit},
    route::Destination,
    snapshot::{Backend, Endpoint},
};

/// A backend, as one request finds it.
pub(super) struct Reached<'a> {
    backend: &'a Backend,
    buckets: &'a Buckets,
    endpoints: Vec<Eligibility>,
    /// Why it does not take the request.
    pub(super) failure: Option<Failure>,
    now: Instant,
}

impl<'a> Reached<'a> {
    /// `buckets` are those of the rule that sends the request there.
    pub(super) fn new(backend: &'a Backend, buckets: &'a Buckets, headers: &HeaderMap, now: Instant) -> Self {
        let endpoints = backend.policy.balancer.explain(now);
        let mut reached = Self {
            backend,
            buckets,
            endpoints,
            failure: None,
            now,
        };
        let failure = reached.fault(headers).or_else(|| reached.limit());
        reached.failure = failure.or_else(|| reached.no_endpoint());
        reached
    }

    /// Of endpoints that could get the request, now or in a while.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().map(|endpoint| &*endpoint.endpoint)
    }

    pub(super) fn show(&self, destination: Option<(&Destination, f64)>) -> Value {
        let endpoints = self.endpoints.iter().map(show::endpoint);
        let filters = destination.map(|(destination, _)| destination.filters.in_words());
        json!({
            "service": &*self.backend.name,
            "port": self.backend.port,
            "weight": destination.map(|(destination, _)| destination.weight),
            "share": destination.map_or(100.0, |(_, share)| share),
            "filters": filters.filter(|filters| !filters.is_empty()),
            "error": self.failure.as_ref().map(show::error),
            "endpoints": endpoints.collect::<Vec<_>>(),
            "notReady": self.backend.unready,
            "unmeshedDenied": self.backend.unmeshed_denied,
            "policy": policy::show(&self.backend.policy, self.buckets, self.now),
        })
    }

    /// A fault that is made whenever a request is like this one.
    fn fault(&self, headers: &HeaderMap) -> Option<Failure> {
        let fault = fault::of_request(&self.backend.policy.faults, headers)?;
        let (abort, share) = fault.abort?;
        (share.numerator >= share.denominator).then(|| Failure::fault(abort))
    }

    fn limit(&self) -> Option<Failure> {
        let policy = &self.backend.policy;
        let wait = self
            .buckets
            .look(self.now, &policy.limits.rates, RateScope::Route);
        if let Err(after) = wait {
            return Some(Failure::Limit(Limit::Rate { after }));
        }
        let room = policy.facts.requests.look(&policy.limits);
        room.err().map(Failure::Limit)
    }

    fn no_endpoint(&self) -> Option<Failure> {
        let none = Eligibility::why_none(&self.endpoints)?;
        Some(way::no_endpoint(self.backend, none))
    }
}
