//! From what was called to where one request goes: the rule that it matches, what that does to it, and what the policy
//! there says. Found once; all tries of the request share it.

use std::{
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, request::Parts};
use weft_proto::model::policy::{Hedging, RateScope};
use weft_transport::h3::{RequestHead, fields};

use super::{attempt::Patience, beside::Sent};
use crate::{
    balance::{NoPick, Picked},
    deadline::Deadline,
    fault,
    limit::Admission,
    local::target::Target,
    mirror, outlier,
    respond::{Failure, Late, Limit, is_grpc},
    retry::{self, Decision, GiveUp, Outcome, Progress, Tried, retry_after},
    route::{Asked, Destination, Filters, Origin, Redirected, Rule, Unresolved},
    snapshot::{Backend, Endpoint, Frontend, InFlight},
    telemetry::Record,
    upload::{Upload, Whole},
    worker::Worker,
};

/// What becomes of a request.
pub(crate) enum Step {
    Send(Way),
    /// The route answers itself.
    Redirect(Redirected),
}

/// How one request is sent.
pub(crate) struct Way {
    pub(crate) backend: Arc<Backend>,
    /// The rule that it matched and the destination that was chosen, where there are routes.
    routed: Option<Routed>,
    /// Of the request as a whole.
    pub(crate) deadline: Deadline,
    /// What decides on the endpoint, if the policy wants the same for the same.
    pub(crate) key: Option<u64>,
    grpc: bool,
    /// Where copies of it go.
    mirrors: Vec<Arc<Backend>>,
}

struct Routed {
    rule: Arc<Rule>,
    destination: Arc<Destination>,
}

/// Finds the way of a request to a port of a service, and makes the head fit for it.
///
/// # Errors
/// No rule matches, or the one that does leads nowhere.
pub(crate) fn find(
    worker: &Worker,
    frontend: &Frontend,
    target: &mut Target,
    head: &mut Parts,
    source: Option<IpAddr>,
    record: &mut Record,
) -> Result<Step, Failure> {
    let mut way = Way::direct(frontend);
    way.grpc = is_grpc(&head.headers);
    if let Some(table) = &frontend.routes {
        let found = table.find(&asked(target, head)).ok_or(Failure::NoRule)?;
        record.set_route(&found.rule.label);
        if let Some(redirected) = redirect(&found.rule.filters, frontend, target, found.prefix) {
            return Ok(Step::Redirect(redirected));
        }
        let destination = choose(worker, found.rule)?;
        if let Some(redirected) = redirect(&destination.filters, frontend, target, found.prefix) {
            return Ok(Step::Redirect(redirected));
        }
        let filters = [&found.rule.filters, &destination.filters];
        for filters in filters {
            filters.on_request(
                &mut head.headers,
                &mut target.authority,
                &mut target.path,
                found.prefix,
            );
            if !filters.mirrors.is_empty() {
                way.mirrors.extend(filters.copies(&mut *worker.rng()).cloned());
            }
        }
        way.backend = destination
            .backend
            .clone()
            .map_err(|unresolved| dead(found.rule, &unresolved))?;
        way.routed = Some(Routed {
            rule: found.rule.clone(),
            destination: destination.clone(),
        });
    }
    record.set_backend(&way.backend);
    let policy = &way.backend.policy;
    way.deadline = Deadline::of_request(
        record.started(),
        way.rule().and_then(|rule| rule.request_timeout),
        policy.timeouts.request,
        &head.headers,
        way.grpc,
    );
    way.key = policy.balancer.key(&head.headers, source);
    Ok(Step::Send(way))
}

/// A request as rules look at it.
pub(crate) fn asked<'a>(target: &'a Target, head: &'a Parts) -> Asked<'a> {
    Asked {
        host: target.authority.as_ref().map_or("", |authority| authority.host()),
        path: target.path.as_ref().map_or("", |path| path.path()),
        query: target.path.as_ref().and_then(|path| path.query()),
        method: &head.method,
        headers: &head.headers,
    }
}

/// Where the rule that has matched this prefix sends the caller of the request, if it does.
pub(crate) fn redirect(
    filters: &Filters,
    frontend: &Frontend,
    target: &Target,
    prefix: Option<&str>,
) -> Option<Redirected> {
    let path = target.path.as_ref().filter(|_| filters.redirects())?;
    let own = frontend.authority();
    let host = target
        .authority
        .as_ref()
        .map_or(own.host(), |authority| authority.host());
    filters.redirect(&Origin {
        scheme: "http",
        host,
        port: frontend.backend.port,
        path,
        prefix,
    })
}

fn choose<'r>(worker: &Worker, rule: &'r Rule) -> Result<&'r Arc<Destination>, Failure> {
    rule.choose(&mut *worker.rng()).ok_or_else(|| no_backend(rule))
}

/// The answer to requests of a rule without a backend.
pub(crate) fn no_backend(rule: &Rule) -> Failure {
    Failure::DeadRule {
        route: rule.label.clone(),
        reason: "no_backend",
        detail: "the rule names no backend".to_owned(),
    }
}

/// The answer to the share of a backend that is none.
pub(crate) fn dead(rule: &Rule, unresolved: &Unresolved) -> Failure {
    Failure::DeadRule {
        route: rule.label.clone(),
        reason: unresolved.reason,
        detail: unresolved.sentence.clone(),
    }
}

/// The answer where no endpoint of a backend is to be had.
pub(crate) fn no_endpoint(backend: &Backend, none: NoPick) -> Failure {
    match none {
        NoPick::NoEndpoint | NoPick::AllTried => Failure::NoEndpoint {
            unmeshed: backend.unmeshed_denied,
            unready: backend.unready,
        },
        NoPick::AllEjected => Failure::AllEjected,
        NoPick::AllFull => Failure::Limit(Limit::Endpoint),
    }
}

impl Way {
    /// To the endpoints of what was called, whatever its routes say: those of bytes.
    pub(crate) fn direct(frontend: &Frontend) -> Self {
        Self {
            backend: frontend.backend.clone(),
            routed: None,
            deadline: Deadline::NONE,
            key: None,
            grpc: false,
            mirrors: Vec::new(),
        }
    }

    fn rule(&self) -> Option<&Rule> {
        self.routed.as_ref().map(|routed| &*routed.rule)
    }

    fn destination(&self) -> Option<&Destination> {
        self.routed.as_ref().map(|routed| &*routed.destination)
    }

    /// The endpoint for another try.
    ///
    /// # Errors
    /// There is none for it.
    pub(crate) fn pick(
        &self,
        worker: &Worker,
        tried: &mut Tried,
        now: Instant,
    ) -> Result<Picked<'_>, Failure> {
        let balancer = &self.backend.policy.balancer;
        let picked = tried.pick(balancer, self.key, now, &mut *worker.rng());
        picked.map_err(|none| no_endpoint(&self.backend, none))
    }

    /// Tells the next hop which port is meant, and how long it has.
    pub(crate) fn prepare(&self, head: &mut RequestHead, endpoint: &Endpoint, now: Instant) {
        head.headers
            .insert(fields::WEFT_PORT, HeaderValue::from(endpoint.port));
        // Not that of the try: one that is late is taken back, and that is no refusal of the far side.
        self.deadline.tell(now, &mut head.headers, self.grpc);
    }

    /// How long a try that begins now may take.
    pub(crate) fn patience(
        &self,
        method: &Method,
        tried: &Tried,
        can_restart: bool,
        now: Instant,
    ) -> Patience {
        let limit = self.try_deadline(now).at();
        let late = match limit == self.deadline.at() {
            true => Late::Request,
            false => Late::Try,
        };
        let endpoints = self.backend.endpoints.len();
        Patience {
            connect: self.backend.policy.connect_timeout(),
            answer: limit.map(|at| (at.into(), late)),
            elsewhere: can_restart && self.retry().leaves_silent(method, tried, endpoints),
        }
    }

    /// How a try ended at an endpoint.
    pub(crate) fn on_outcome(&self, in_flight: &mut InFlight, outcome: Outcome, now: Instant) {
        let result = match outcome {
            Outcome::Unprocessed { went_away: true } | Outcome::Final => return,
            Outcome::Unprocessed { went_away: false }
            | Outcome::Lost
            | Outcome::Silent
            | Outcome::TimedOut => outlier::Outcome::Failure,
            Outcome::Answered { status, .. } => match status.as_u16() {
                502..=504 => outlier::Outcome::Failure,
                _ => outlier::Outcome::Success,
            },
        };
        self.backend.policy.balancer.on_result(in_flight, result, now);
    }

    /// Whether the request is sent again, after what a try came to.
    pub(crate) fn decide(
        &self,
        worker: &Worker,
        sent: &mut Sent,
        method: &Method,
        tried: &mut Tried,
        upload: &Upload,
    ) -> Decision {
        let (now, outcome) = (Instant::now(), sent.outcome());
        self.on_outcome(&mut sent.in_flight, outcome, now);
        // Nearly all are good, and cost nothing more.
        if !self.retry().is_worth(outcome) {
            return Decision::GiveUp(GiveUp::Final);
        }
        tried.add(&sent.endpoint, outcome);
        let answer = sent.result.as_ref().ok().map(|(_, answer)| &answer.headers);
        let progress = Progress {
            method,
            tried,
            can_replay: upload.can_restart(),
            left: self.deadline.left(now),
            retry_after: answer.and_then(|headers| retry_after(headers, SystemTime::now)),
        };
        self.decide_from(worker, outcome, &progress, now)
    }

    /// The same, of what is known already.
    pub(crate) fn decide_from(
        &self,
        worker: &Worker,
        outcome: Outcome,
        progress: &Progress<'_>,
        now: Instant,
    ) -> Decision {
        let policy = self.retry();
        let withdraw = || policy.withdraw(&self.backend.policy.facts.budget, now);
        retry::decide(policy, outcome, progress, withdraw, &mut *worker.rng())
    }

    /// What is sent in tries beside each other, if it may be.
    pub(crate) fn beside(&self, method: &Method, tried: &Tried, upload: &Upload) -> Option<(Hedging, Whole)> {
        self.backend.policy.retries.hedging?;
        let hedging = self.retry().hedging(method, tried)?;
        Some((hedging, upload.whole()?))
    }

    /// Whether what came of a try is what the caller gets, rather than that of another one.
    pub(crate) fn is_good(&self, sent: &Sent) -> bool {
        sent.result.is_ok() && !self.retry().is_worth(sent.outcome())
    }

    /// Sends the copies that routes ask for, once, when the content is here.
    pub(crate) fn send_copies(&mut self, worker: &Rc<Worker>, head: &RequestHead, upload: &Upload) {
        for backend in std::mem::take(&mut self.mirrors) {
            mirror::send(worker, &backend, head.clone(), upload.whole());
        }
    }

    /// When the request is sent again.
    pub(crate) fn retry(&self) -> retry::Policy<'_> {
        let route = self.rule().and_then(|rule| rule.retry.as_ref());
        retry::Policy::new(&self.backend.policy.retries, route)
    }

    /// When a try that begins now must have been answered.
    pub(crate) fn try_deadline(&self, now: Instant) -> Deadline {
        let route = self.rule().and_then(|rule| rule.backend_timeout);
        self.deadline.of_try(now, self.retry().per_try_timeout(), route)
    }

    /// Changes the answer of the backend.
    pub(crate) fn on_response(&self, headers: &mut HeaderMap) {
        let filters = [
            self.destination().map(|destination| &destination.filters),
            self.rule().map(|rule| &rule.filters),
        ];
        for filters in filters.into_iter().flatten() {
            filters.on_response(headers);
        }
    }

    /// What may keep the request from being sent: faults that are wanted, and rates.
    ///
    /// # Errors
    /// It is not sent.
    pub(crate) async fn admit(
        &self,
        worker: &Worker,
        headers: &HeaderMap,
        record: &Record,
    ) -> Result<(), Failure> {
        let policy = &self.backend.policy;
        if !policy.faults.is_empty() {
            let fault = fault::inject(&policy.faults, headers, &mut *worker.rng());
            if let Some(delay) = fault.delay {
                Box::pin(self.delay(delay)).await?;
            }
            if let Some(abort) = fault.abort {
                return Err(Failure::fault(abort));
            }
        }
        if policy.limits.rates.is_empty() {
            return Ok(());
        }
        let destination = self.destination();
        let buckets = destination.map_or(&policy.facts.unrouted, |destination| &destination.buckets);
        let taken = buckets.take(record.started(), &policy.limits.rates, RateScope::Route);
        taken.map_err(|after| Failure::Limit(Limit::Rate { after }))
    }

    /// The wait of a fault, which takes from the time of the request.
    async fn delay(&self, delay: Duration) -> Result<(), Failure> {
        let left = self.deadline.left(Instant::now());
        match left.filter(|left| *left < delay) {
            None => tokio::time::sleep(delay).await,
            Some(left) => {
                tokio::time::sleep(left).await;
                return Err(Failure::TimedOut(Late::Request));
            }
        }
        Ok(())
    }

    /// Room under the limit of requests in flight.
    ///
    /// # Errors
    /// There is none, nor any to wait for it.
    pub(crate) fn room(&self) -> Result<Admission, Failure> {
        let policy = &self.backend.policy;
        Ok(policy.facts.requests.admit(&policy.limits)?)
    }
}
