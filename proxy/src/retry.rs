//! May a request be sent again, and when? Decided from how its last try ended, from what was tried before, and from what
//! the policy of the service and the retry of the route say. No clock and no I/O.

mod after;
mod backoff;
mod budget;
#[cfg(test)]
mod model;
mod outcome;
mod tried;

use std::time::Duration;

use http::{Method, StatusCode};
use rand::Rng;
use weft_proto::model::{
    policy::{Hedging, Retries},
    route::RouteRetry,
};

pub(crate) use after::retry_after;
pub(crate) use budget::Budget;
pub(crate) use outcome::Outcome;
pub(crate) use tried::Tried;

/// Tries that are proved to have reached no application, of one request: they cost no application anything, but nothing
/// goes on for ever.
const MAX_UNPROCESSED: u32 = 4;
/// What [`Retries`] promises; a route's number of attempts has no limit of its own.
const MAX_ATTEMPTS: u32 = 10;

/// What the policy of the service and the route say of retries, together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy<'a> {
    retries: &'a Retries,
    route: Option<&'a RouteRetry>,
}

/// How far a request has come when a try of it has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress<'a> {
    pub(crate) method: &'a Method,
    /// All tries, the last one included.
    pub(crate) tried: &'a Tried,
    /// Whether the content can be sent again from its beginning.
    pub(crate) can_replay: bool,
    /// What is left of the deadline; `None`: there is none.
    pub(crate) left: Option<Duration>,
    /// What the answer asks to wait, if it does.
    pub(crate) retry_after: Option<Duration>,
}

/// What becomes of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is sent again after so long, where [`Tried::pick`] says.
    Retry { after: Duration },
    /// The caller gets what the last try ended with.
    GiveUp(GiveUp),
}

/// Why a request is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GiveUp {
    /// What the try ended with is not worth another one.
    Final,
    /// It may have been acted on, and doing it twice might not mean the same.
    NotIdempotent,
    /// There were as many tries as there may be.
    Attempts,
    /// Its content is not there any more.
    Body,
    /// The answer asks for a longer wait than we make a caller wait.
    RetryAfter,
    /// The wait would last beyond the deadline.
    Deadline,
    /// There were too many retries of late.
    Budget,
}

impl<'a> Policy<'a> {
    /// What a route says counts before what the policy says.
    pub(crate) fn new(retries: &'a Retries, route: Option<&'a RouteRetry>) -> Self {
        Self { retries, route }
    }

    /// How long one try may take, if the policy limits it.
    pub(crate) fn per_try_timeout(self) -> Option<Duration> {
        self.retries.per_try_timeout.filter(|timeout| !timeout.is_zero())
    }

    /// Takes a retry, or a hedge, out of the budget of the service if it is there.
    ///
    /// A try again after one that reached no application takes nothing: the budget keeps retries from adding to the load
    /// of applications, and that one adds none. [`MAX_UNPROCESSED`] bounds those.
    pub(crate) fn withdraw(self, budget: &Budget, now: std::time::Instant) -> bool {
        budget.try_withdraw(now, self.retries.budget_percent, self.retries.budget_floor)
    }

    /// How a request may be tried at several endpoints at a time: only what may be done twice, and never more often than
    /// it may be retried. Each try beside the first takes one out of the budget.
    pub(crate) fn hedging(self, method: &Method, tried: &Tried) -> Option<Hedging> {
        let hedging = self.retries.hedging.filter(|_| is_idempotent(method))?;
        let left = self.attempts().saturating_sub(tried.reached());
        let max = hedging.max.min(left);
        (max > 0).then(|| Hedging::new(hedging.after, max))
    }

    /// Whether a peer that has fallen silent is left for another one of so many, although it may have acted on the
    /// request. Asked before the try there, if the content can be sent again.
    pub(crate) fn leaves_silent(self, method: &Method, tried: &Tried, endpoints: usize) -> bool {
        self.is_worth(Outcome::Silent)
            && self.may_repeat(method)
            && tried.reached() < self.attempts()
            && tried.leaves_another(endpoints)
    }

    fn attempts(self) -> u32 {
        let route = self.route.and_then(|route| route.attempts);
        route.unwrap_or(self.retries.attempts).min(MAX_ATTEMPTS)
    }

    fn may_repeat(self, method: &Method) -> bool {
        // A tunnel through which nothing has passed yet is nothing that was done.
        self.retries.non_idempotent || is_idempotent(method) || *method == Method::CONNECT
    }

    /// Whether what may have been acted on is worth another try. Lost connections are if a route has a retry at all:
    /// the standard asks for that.
    pub(crate) fn is_worth(self, outcome: Outcome) -> bool {
        let on = self.retries.on;
        match outcome {
            Outcome::Unprocessed { .. } => true,
            Outcome::Lost | Outcome::TimedOut => on.reset || self.route.is_some(),
            Outcome::Silent => on.reset || on.connect_failure || self.route.is_some(),
            Outcome::Answered { status, grpc } => {
                self.is_status(status) || grpc.is_some_and(|grpc| self.retries.grpc.contains(&grpc))
            }
            Outcome::Final => false,
        }
    }

    /// Codes of a route are all that it retries.
    fn is_status(self, status: StatusCode) -> bool {
        let (on, code) = (self.retries.on, status.as_u16());
        match self.route {
            Some(route) if !route.codes.is_empty() => route.codes.contains(&code),
            _ => {
                (on.server_error && status.is_server_error())
                    || (on.gateway_error && matches!(code, 502..=504))
                    || self.retries.codes.contains(&code)
            }
        }
    }
}

/// Decides on another try. `withdraw` is asked last, and only for what takes from the budget.
pub(crate) fn decide(
    policy: Policy<'_>,
    outcome: Outcome,
    progress: &Progress<'_>,
    withdraw: impl FnOnce() -> bool,
    rng: &mut impl Rng,
) -> Decision {
    match wait(policy, outcome, progress, rng) {
        Ok(_) if !outcome.is_unprocessed() && !withdraw() => Decision::GiveUp(GiveUp::Budget),
        Ok(after) => Decision::Retry { after },
        Err(reason) => Decision::GiveUp(reason),
    }
}

/// How long before another try, if all but the budget is for it.
fn wait(
    policy: Policy<'_>,
    outcome: Outcome,
    progress: &Progress<'_>,
    rng: &mut impl Rng,
) -> Result<Duration, GiveUp> {
    if !policy.is_worth(outcome) {
        return Err(GiveUp::Final);
    }
    let (tries, max) = match outcome.is_unprocessed() {
        true => (progress.tried.unprocessed(), MAX_UNPROCESSED - 1),
        false if !policy.may_repeat(progress.method) => return Err(GiveUp::NotIdempotent),
        false => (progress.tried.reached(), policy.attempts()),
    };
    if tries > max {
        return Err(GiveUp::Attempts);
    }
    if !progress.can_replay {
        return Err(GiveUp::Body);
    }
    let mut wait = backoff::draw(policy, outcome, tries, rng);
    // Of an answer that an application gave: another endpoint need not wait for what a sidecar says of itself.
    if let (Outcome::Answered { .. }, Some(asked)) = (outcome, progress.retry_after) {
        if asked > backoff::longest(policy) {
            return Err(GiveUp::RetryAfter);
        }
        wait = wait.max(asked);
    }
    match progress.left {
        Some(left) if left <= wait => Err(GiveUp::Deadline),
        _ => Ok(wait),
    }
}

impl GiveUp {
    /// A label for metrics and logs, from a fixed set.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Final => "final",
            Self::NotIdempotent => "not_idempotent",
            Self::Attempts => "attempts",
            Self::Body => "body_not_kept",
            Self::RetryAfter => "retry_after",
            Self::Deadline => "deadline",
            Self::Budget => "budget",
        }
    }
}

/// Whether it means the same once or several times (RFC 9110 section 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

#[cfg(test)]
mod tests {
    use weft_transport::ErrorKind;

    use super::*;

    /// A request that was sent so often.
    fn tried(reached: u32) -> Tried {
        Tried::counted(reached, 0)
    }

    #[test]
    fn a_silent_peer_is_left_only_for_another() {
        let retries = Retries::default();
        let policy = Policy::new(&retries, None);
        assert!(policy.leaves_silent(&Method::GET, &tried(0), 2));
        assert!(
            !policy.leaves_silent(&Method::GET, &tried(0), 1),
            "there is no other"
        );
        assert!(
            !policy.leaves_silent(&Method::POST, &tried(0), 2),
            "it may have been acted on"
        );
        assert!(policy.leaves_silent(&Method::GET, &tried(1), 100));
        assert!(
            !policy.leaves_silent(&Method::GET, &tried(2), 100),
            "this is the last try"
        );
    }

    #[test]
    fn hedges_are_tries_that_may_reach_an_application() {
        let mut retries = Retries::default();
        let after = Duration::from_millis(50);
        assert!(
            Policy::new(&retries, None)
                .hedging(&Method::GET, &tried(0))
                .is_none()
        );
        retries.hedging = Some(Hedging::new(after, 3));
        let beside = |method, reached| {
            let hedging = Policy::new(&retries, None).hedging(method, &tried(reached));
            hedging.map(|hedging| hedging.max)
        };
        assert_eq!(beside(&Method::GET, 0), Some(2), "as many as there are attempts");
        assert_eq!(beside(&Method::GET, 1), Some(1));
        assert_eq!(beside(&Method::GET, 2), None);
        assert_eq!(beside(&Method::POST, 0), None);
        assert_eq!(beside(&Method::CONNECT, 0), None);
    }

    #[test]
    fn zero_is_no_limit_of_a_try() {
        let mut retries = Retries::default();
        retries.per_try_timeout = Some(Duration::ZERO);
        assert_eq!(Policy::new(&retries, None).per_try_timeout(), None);
        retries.per_try_timeout = Some(Duration::from_secs(1));
        assert_eq!(
            Policy::new(&retries, None).per_try_timeout(),
            Some(Duration::from_secs(1))
        );
    }

    #[test]
    fn the_reason_of_giving_up_is_the_first_that_holds() {
        let retries = Retries::default();
        let lost = Outcome::Lost;
        let rng = &mut rand::rng();
        let mut give_up = |outcome, method: &Method, reached, can_replay, left, has_budget| {
            let tried = tried(reached);
            let progress = Progress {
                method,
                tried: &tried,
                can_replay,
                left,
                retry_after: Some(Duration::from_secs(9)),
            };
            match decide(
                Policy::new(&retries, None),
                outcome,
                &progress,
                || has_budget,
                rng,
            ) {
                Decision::GiveUp(reason) => reason.reason(),
                Decision::Retry { .. } => "retry",
            }
        };
        let answer = Outcome::Answered {
            status: StatusCode::SERVICE_UNAVAILABLE,
            grpc: None,
        };
        let closed = Outcome::from(&weft_transport::Error::from(ErrorKind::Closed));
        assert_eq!(give_up(lost, &Method::GET, 1, true, None, true), "retry");
        assert_eq!(give_up(answer, &Method::GET, 1, true, None, true), "final");
        assert_eq!(give_up(closed, &Method::GET, 1, true, None, true), "final");
        assert_eq!(
            give_up(lost, &Method::POST, 1, true, None, true),
            "not_idempotent"
        );
        assert_eq!(give_up(lost, &Method::GET, 3, true, None, true), "attempts");
        assert_eq!(give_up(lost, &Method::GET, 1, false, None, true), "body_not_kept");
        assert_eq!(
            give_up(lost, &Method::GET, 1, true, Some(Duration::ZERO), true),
            "deadline"
        );
        assert_eq!(give_up(lost, &Method::GET, 1, true, None, false), "budget");
    }
}
