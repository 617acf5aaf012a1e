//! What would become of a request of the application: which rule it matches, where it goes, who may get it, and what
//! holds for it.
//!
//! It is decided by the functions that serve requests, from the snapshot and the facts that they use, so that it cannot
//! say anything else than they do. Nothing is sent, counted or taken; but a name that is not known yet is asked for.

mod outcome;
mod policy;
mod question;
mod reached;
mod show;

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use http::{HeaderMap, request::Parts};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

pub(crate) use self::question::{Question, Unclear};
use self::{
    outcome::{Authorized, Outcome},
    reached::Reached,
    show::without_nulls,
};
use crate::{
    capture::OwnListeners,
    config::Workload,
    demand::Demand,
    forward::{self, way},
    local::{headers::clean_request, target::Target},
    resolve,
    respond::Failure,
    route::{Destination, Rule, Table},
    snapshot::{Frontend, NoRoute, Snapshot, Upstream},
};

/// The most explanations at once: one may wait for the controller, and each takes time from what else the control
/// thread has to do.
const MAX_OPEN: usize = 8;

/// Explains what becomes of the requests of one workload's application.
#[derive(Clone)]
pub(crate) struct Explainer {
    caller: Arc<Workload>,
    known: Arc<OnceLock<Known>>,
    open: Arc<Semaphore>,
}

/// What requests are served from.
pub(crate) struct Known {
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Whom to ask for what is not in them, if there is somebody.
    pub(crate) demand: Option<Demand>,
    pub(crate) listeners: OwnListeners,
}

/// Why nothing is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unexplained {
    #[error(transparent)]
    Unclear(#[from] Unclear),
    #[error("this proxy has no configuration yet")]
    NotServing,
    #[error("this proxy explains as much at once as it may")]
    Busy,
}

/// Who asks, of what, and what is known of it.
struct Case<'a> {
    caller: &'a Workload,
    snapshot: &'a Snapshot,
    listeners: &'a OwnListeners,
    head: &'a Parts,
    target: &'a Target,
    now: Instant,
}

impl Explainer {
    /// Nothing is known yet.
    pub(crate) fn new(caller: Workload) -> Self {
        Self {
            caller: Arc::new(caller),
            known: Arc::default(),
            open: Arc::new(Semaphore::new(MAX_OPEN)),
        }
    }

    /// Requests are served from now on, from this.
    pub(crate) fn begin(&self, known: Known) {
        // It is the first and only time.
        let _ = self.known.set(known);
    }

    /// What would become of a request, as JSON.
    ///
    /// # Errors
    /// It cannot be said now.
    pub(crate) async fn explain(&self, question: Question) -> Result<Value, Unexplained> {
        let _open = self.open.try_acquire().map_err(|_| Unexplained::Busy)?;
        let known = self.known.get().ok_or(Unexplained::NotServing)?;
        let mut head = question.into_head();
        let (target, upstream) = match Target::read(&head) {
            Ok(target) => {
                let upstream = known.look_up(&target).await.map_err(Failure::NoRoute);
                (
                    target,
                    upstream.and_then(|upstream| prepare(&mut head).map(|()| upstream)),
                )
            }
            Err(error) => (
                Target {
                    authority: None,
                    path: None,
                },
                Err(error.into()),
            ),
        };
        let case = Case {
            caller: &self.caller,
            // Not the one from before the controller was asked.
            snapshot: &known.snapshots.borrow().clone(),
            listeners: &known.listeners,
            head: &head,
            target: &target,
            now: Instant::now(),
        };
        Ok(without_nulls(case.explain(upstream)))
    }
}

impl Known {
    /// The controller is asked as for a request.
    async fn look_up(&self, target: &Target) -> Result<Upstream, NoRoute> {
        let snapshot = self.snapshots.borrow().clone();
        let authority = target.authority.as_ref().ok_or(NoRoute::NoDestination)?;
        let (host, port) = (authority.host(), authority.port_u16());
        resolve::look_up(&snapshot, self.demand.as_ref(), host, port).await
    }
}

/// The head as it travels.
fn prepare(head: &mut Parts) -> Result<(), Failure> {
    forward::count_hop(head)?;
    clean_request(&mut head.headers)?;
    Ok(())
}

impl Case<'_> {
    fn explain(&self, upstream: Result<Upstream, Failure>) -> Value {
        let mut page = json!({
            "from": {
                "workload": self.caller.name.as_str(),
                "namespace": self.caller.namespace.as_str(),
                "identity": self.snapshot.inbound.identity.as_str(),
            },
            "generation": self.snapshot.generation,
            "request": show::request(self.head, self.target),
        });
        let outcome = match upstream {
            Ok(Upstream::Mesh(frontend)) => self.to_mesh(&frontend, &mut page),
            Ok(Upstream::External(address)) if self.listeners.contains(address) => {
                Outcome::Answer(NoRoute::OwnListener.into())
            }
            Ok(Upstream::External(address)) => Outcome::Outside(format!("it is sent to {address}")),
            Err(Failure::NoRoute(NoRoute::Unresolved)) => {
                Outcome::Outside("it is sent to an address that the DNS has for this host".to_owned())
            }
            Err(failure) => Outcome::Answer(failure),
        };
        page["outcome"] = outcome.show();
        page
    }

    /// A port of a service or of a workload: the page gets all that is considered on the way.
    fn to_mesh(&self, frontend: &Frontend, page: &mut Value) -> Outcome {
        let called = &frontend.backend;
        if page["request"]["port"].is_null() {
            page["request"]["port"] = called.port.into();
        }
        page["service"] = json!({
            "name": &*called.name,
            "port": called.port,
            "protocol": called.protocol.as_str(),
        });
        let Some(table) = &frontend.routes else {
            let buckets = &called.policy.facts.unrouted;
            let reached = Reached::new(called, buckets, &self.head.headers, self.now);
            page["backends"] = json!([reached.show(None)]);
            return self.at_backends(vec![reached], page);
        };
        self.by_rules(frontend, table, page)
    }

    fn by_rules(&self, frontend: &Frontend, table: &Table, page: &mut Value) -> Outcome {
        let asked = way::asked(self.target, self.head);
        page["considered"] = show::considered(&table.explain(&asked), &self.head.headers);
        let Some(found) = table.find(&asked) else {
            return Outcome::Answer(Failure::NoRule);
        };
        let rule = found.rule;
        page["route"] = show::route(rule);
        if let Some(redirected) = way::redirect(&rule.filters, frontend, self.target, found.prefix) {
            return Outcome::Redirect(redirected);
        }
        let total: u64 = rule.destinations.iter().map(|one| u64::from(one.weight)).sum();
        let (mut alive, mut dead, mut away) = (Vec::new(), Vec::new(), Vec::new());
        let mut shown = Vec::new();
        for destination in &rule.destinations {
            let share = f64::from(destination.weight) * 100.0 / total.max(1) as f64;
            let redirected = way::redirect(&destination.filters, frontend, self.target, found.prefix);
            match (&destination.backend, redirected) {
                (_, Some(redirected)) => {
                    shown.push(show::redirected(destination, share, &redirected));
                    away.extend((destination.weight > 0).then_some(redirected));
                }
                (Ok(backend), None) => {
                    let headers = self.changed_headers(rule, destination);
                    let reached = Reached::new(backend, &destination.buckets, &headers, self.now);
                    shown.push(reached.show(Some((destination, share))));
                    alive.extend((destination.weight > 0).then_some(reached));
                }
                (Err(unresolved), None) => {
                    let failure = way::dead(rule, unresolved);
                    shown.push(show::unresolved(destination, share, &failure));
                    dead.extend((destination.weight > 0).then_some(failure));
                }
            }
        }
        page["backends"] = shown.into();
        let outcome = match alive.is_empty() {
            true => Outcome::Answer(dead.into_iter().next().unwrap_or_else(|| way::no_backend(rule))),
            false => self.at_backends(alive, page),
        };
        match (outcome, away.into_iter().next()) {
            (Outcome::Answer(_), Some(redirected)) => Outcome::Redirect(redirected),
            (outcome, _) => outcome,
        }
    }

    /// The fields with which the request would arrive there: a policy looks at those.
    fn changed_headers(&self, rule: &Rule, destination: &Destination) -> HeaderMap {
        let mut headers = self.head.headers.clone();
        for filters in [&rule.filters, &destination.filters] {
            filters.on_request(&mut headers, &mut None, &mut None, None);
        }
        headers
    }

    /// At one of these backends: each takes its share of the requests. The request is answered by the mesh if none of
    /// them takes it.
    fn at_backends(&self, reached: Vec<Reached<'_>>, page: &mut Value) -> Outcome {
        let authorization = self.snapshot.config.authorization;
        let endpoints = reached.iter().flat_map(Reached::endpoints);
        let authorized = Authorized::at(endpoints, authorization, &self.snapshot.inbound.identity);
        page["authorization"] = authorized.show(authorization);
        let failures: Option<Vec<Failure>> = reached.into_iter().map(|reached| reached.failure).collect();
        match (
            failures.and_then(|failures| failures.into_iter().next()),
            authorized,
        ) {
            (Some(failure), _) => Outcome::Answer(failure),
            (None, Authorized::No(rule)) => Outcome::Answer(Failure::Denied(rule)),
            (None, _) => Outcome::Forward,
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
