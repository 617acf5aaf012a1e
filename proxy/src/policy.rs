//! What a TrafficPolicy says of a port of a service, ready for use.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use weft_proto::{
    SpiffeId,
    attach::Effective,
    model::{
        AppProtocol, Locality, Name,
        policy::{Fault, Limits, LoadBalancing, OutlierEjection, RateLimit, RateScope, Retries, Timeouts},
    },
};

use crate::{
    balance::{self, Balancer, Settings},
    forward::attempt,
    limit::{Buckets, Callers, Count, Requests},
    respond::{Failure, Limit},
    retry::Budget,
    snapshot::Endpoint,
};

/// What holds for requests that are sent to a backend, in the sidecar of the client.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) balancer: Balancer,
    pub(crate) load_balancing: LoadBalancing,
    pub(crate) outlier_ejection: OutlierEjection,
    pub(crate) retries: Retries,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) faults: Vec<Fault>,
    /// Which document each section is from; the others are defaults.
    pub(crate) sources: BTreeMap<&'static str, Name>,
    pub(crate) facts: Arc<Facts>,
}

/// What is known of a backend by calling it. It outlives snapshots, and is shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) budget: Budget,
    pub(crate) requests: Arc<Requests>,
    /// TCP connections of applications.
    pub(crate) connections: Arc<Count>,
    /// For requests that no rule sent there.
    pub(crate) unrouted: Buckets,
    balance: Arc<balance::Facts>,
    /// By the rule that sent them; asked at compile time alone.
    routed: Mutex<FxHashMap<Arc<str>, Arc<Buckets>>>,
}

impl Policy {
    /// For these endpoints of a backend that speaks `protocol`, in a sidecar at `home`.
    pub(crate) fn new(
        effective: Effective,
        protocol: AppProtocol,
        endpoints: &[Arc<Endpoint>],
        home: Option<&Locality>,
        facts: Arc<Facts>,
        now: Instant,
    ) -> Self {
        let limits = &effective.limits;
        let endpoint_limit = match protocol {
            AppProtocol::Tcp | AppProtocol::Tls => limits.endpoint_connections,
            _ => limits.endpoint_requests,
        };
        let settings = Settings {
            load_balancing: &effective.load_balancing,
            outlier_ejection: &effective.outlier_ejection,
            endpoint_limit,
            home,
        };
        Self {
            balancer: Balancer::new(&settings, endpoints, &facts.balance, now),
            load_balancing: effective.load_balancing,
            outlier_ejection: effective.outlier_ejection,
            retries: effective.retries,
            limits: effective.limits,
            timeouts: effective.timeouts,
            faults: effective.faults,
            sources: effective.sources,
            facts,
        }
    }

    /// How long a connection and a stream to an endpoint may take.
    pub(crate) fn connect_timeout(&self) -> Duration {
        let connect = self.timeouts.connect.filter(|timeout| !timeout.is_zero());
        connect.unwrap_or(attempt::CONNECT)
    }

    /// How long nothing may come of an answer that has begun.
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        self.timeouts.idle.filter(|timeout| !timeout.is_zero())
    }
}

impl Facts {
    /// The buckets of a rule that sends requests there.
    pub(crate) fn of_rule(&self, rule: &Arc<str>) -> Arc<Buckets> {
        let mut routed = self.routed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buckets) = routed.get(rule) {
            return buckets.clone();
        }
        // Those of rules that are gone.
        routed.retain(|_, buckets| Arc::strong_count(buckets) > 1);
        routed.entry(rule.clone()).or_default().clone()
    }
}

/// What a policy has the sidecar of a server enforce, on a port of its application.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    rates: Arc<[RateLimit]>,
    facts: Arc<GuardFacts>,
}

/// What outlives a [`Guard`].
#[derive(Debug, Default)]
pub(crate) struct GuardFacts {
    endpoint: Buckets,
    callers: Callers,
}

impl Guard {
    /// `None`: the policy has nothing for it to enforce.
    pub(crate) fn new(limits: &Limits, facts: impl FnOnce() -> Arc<GuardFacts>) -> Option<Self> {
        let is_any = limits.rates.iter().any(|rate| rate.scope != RateScope::Route);
        is_any.then(|| Self {
            rates: limits.rates.as_slice().into(),
            facts: facts(),
        })
    }

    /// Takes the tokens of a request of this caller.
    ///
    /// # Errors
    /// There are none now.
    pub(crate) fn admit(&self, caller: &SpiffeId, now: Instant) -> Result<(), Failure> {
        let taken = self.facts.callers.take(caller, now, &self.rates);
        let taken = taken.and_then(|()| self.facts.endpoint.take(now, &self.rates, RateScope::Endpoint));
        taken.map_err(|after| Failure::Limit(Limit::Rate { after }))
    }
}
