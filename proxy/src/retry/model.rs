//! The rules of retries once more, written apart from the code as a list of sentences that each forbid: a request is sent
//! again exactly if none of them does.

use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};
use proptest::{collection::vec, option, prelude::*, sample::select};
use rand::{SeedableRng, rngs::StdRng};
use weft_proto::model::{policy::Retries, route::RouteRetry};
use weft_transport::{
    DialFailure, ErrorKind, Lost,
    h3::{Code, ResponseHead},
};

use super::*;
use crate::respond::{Failure, Late};

/// What came of a try.
#[derive(Clone, Debug)]
enum End {
    Failed(fn() -> Failure),
    Answered {
        status: u16,
        fields: Vec<(&'static str, String)>,
    },
}

/// All that a decision depends on.
#[derive(Clone, Debug)]
struct Case {
    retries: Retries,
    route: Option<RouteRetry>,
    method: Method,
    end: End,
    /// Tries that may have reached an application, and that have not; this one is among them.
    reached: u32,
    unprocessed: u32,
    can_replay: bool,
    left: Option<Duration>,
    retry_after: Option<Duration>,
    has_budget: bool,
}

/// A sentence, and whether it forbids.
type Sentence = (&'static str, fn(&Case) -> bool);

/// Every sentence that can forbid another try.
const FORBIDDING: [Sentence; 9] = [
    ("a refusal of the request itself is final", |case| {
        case.is_refusal()
    }),
    (
        "unless proved unprocessed, only what the policy or the route calls worth it",
        |case| !case.is_proved() && !case.is_worth(),
    ),
    (
        "unless proved unprocessed, only what means the same done twice, or what the policy says",
        |case| !case.is_proved() && !case.is_repeatable(),
    ),
    ("at most 1 + attempts tries reach an application", |case| {
        !case.is_proved() && case.reached > case.attempts()
    }),
    ("nothing goes on for ever", |case| {
        case.is_proved() && case.unprocessed >= 4
    }),
    ("what is not kept can't be sent again", |case| !case.can_replay),
    (
        "an answer that asks for a longer wait than the longest is passed on",
        |case| case.asked_wait().is_some_and(|asked| asked > case.longest_wait()),
    ),
    ("nobody waits beyond the deadline", |case| {
        case.left.is_some_and(|left| left <= case.least_wait())
    }),
    (
        "retries, but not of what is proved unprocessed, have a budget",
        |case| !case.is_proved() && !case.has_budget,
    ),
];

impl Case {
    fn field(&self, name: &str) -> Option<&str> {
        match &self.end {
            End::Answered { fields, .. } => fields
                .iter()
                .find(|(field, _)| *field == name)
                .map(|(_, value)| value.as_str()),
            End::Failed(_) => None,
        }
    }

    /// Facts, QUIC: "proof of not processed".
    fn is_proved(&self) -> bool {
        let failure = match &self.end {
            End::Failed(failure) => failure(),
            End::Answered { .. } => return self.field("weft-unprocessed").is_some(),
        };
        match failure {
            Failure::Unprocessed(_) => true,
            Failure::Transport(error) => match error.kind() {
                ErrorKind::Dial(_)
                | ErrorKind::GoAway
                | ErrorKind::StreamLimit
                | ErrorKind::Backoff { .. } => true,
                ErrorKind::Reset(code) => *code == Code::H3_REQUEST_REJECTED,
                _ => false,
            },
            _ => false,
        }
    }

    fn is_refusal(&self) -> bool {
        self.field("weft-error").is_some() && self.field("weft-unprocessed").is_none() && !self.is_cut()
    }

    /// The far sidecar says that its application went away without an answer.
    fn is_cut(&self) -> bool {
        self.field("weft-error") == Some("application_closed")
    }

    fn is_worth(&self) -> bool {
        let on = self.retries.on;
        // "Implementations SHOULD retry on connection errors if a retry stanza is configured."
        let lost = on.reset || self.route.is_some();
        match &self.end {
            End::Failed(failure) => match failure() {
                Failure::TimedOut(Late::Try) => lost,
                Failure::Transport(error) => match error.kind() {
                    ErrorKind::Reset(_) | ErrorKind::Lost(_) => lost,
                    ErrorKind::Unresponsive => lost || on.connect_failure,
                    _ => false,
                },
                _ => false,
            },
            End::Answered { .. } if self.is_cut() => lost,
            End::Answered { status, .. } => {
                let route_codes = self.route.iter().flat_map(|route| &route.codes);
                let route_codes: Vec<u16> = route_codes.copied().collect();
                let of_route = route_codes.contains(status);
                let of_policy = self.retries.codes.contains(status)
                    || (on.server_error && (500..600).contains(status))
                    || (on.gateway_error && [502, 503, 504].contains(status));
                let grpc = self.field("grpc-status").and_then(|text| text.parse().ok());
                of_route
                    || (route_codes.is_empty() && of_policy)
                    || grpc.is_some_and(|grpc: u16| self.retries.grpc.contains(&grpc))
            }
        }
    }

    fn is_repeatable(&self) -> bool {
        let safe = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
        // A tunnel through which nothing was delivered.
        let tunnel = "CONNECT";
        let method = self.method.as_str();
        safe.contains(&method) || method == tunnel || self.retries.non_idempotent
    }

    fn attempts(&self) -> u32 {
        let of_route = self.route.as_ref().and_then(|route| route.attempts);
        of_route.unwrap_or(self.retries.attempts).min(10)
    }

    fn longest_wait(&self) -> Duration {
        self.route_wait().max(self.retries.backoff_max)
    }

    /// Of an application's answer: what a sidecar asks for is for its own endpoint.
    fn asked_wait(&self) -> Option<Duration> {
        let is_answer = matches!(self.end, End::Answered { .. }) && !self.is_proved() && !self.is_cut();
        self.retry_after.filter(|_| is_answer)
    }

    fn route_wait(&self) -> Duration {
        let backoff = self.route.as_ref().and_then(|route| route.backoff);
        backoff.unwrap_or_default()
    }

    fn waits(&self) -> bool {
        !self.is_proved() || self.unprocessed > 1
    }

    fn least_wait(&self) -> Duration {
        let asked = self.asked_wait().unwrap_or_default();
        match self.waits() {
            true => self.route_wait().max(asked),
            false => Duration::ZERO,
        }
    }

    fn most_wait(&self) -> Duration {
        let asked = self.asked_wait().unwrap_or_default();
        let past = match self.is_proved() {
            true => self.unprocessed.saturating_sub(1),
            false => self.reached,
        };
        let mut base = match self.route.as_ref().and_then(|route| route.backoff) {
            Some(backoff) => backoff,
            None => self.retries.backoff,
        };
        for _ in 1..past {
            base = (base * 2).min(self.longest_wait());
        }
        let drawn = base.min(self.longest_wait()).max(self.route_wait() * 5 / 4);
        match self.waits() {
            true => drawn.max(asked),
            false => Duration::ZERO,
        }
    }

    fn outcome(&self) -> Outcome {
        match &self.end {
            End::Failed(failure) => Outcome::from(&failure()),
            End::Answered { status, fields } => {
                let mut head = ResponseHead::new(StatusCode::from_u16(*status).unwrap());
                for (name, value) in fields {
                    head.headers.insert(*name, HeaderValue::try_from(value).unwrap());
                }
                Outcome::of_answer(&head)
            }
        }
    }

    fn decide(&self, seed: u64, withdrawn: &mut bool) -> Decision {
        let tried = Tried::counted(self.reached, self.unprocessed);
        let progress = Progress {
            method: &self.method,
            tried: &tried,
            can_replay: self.can_replay,
            left: self.left,
            retry_after: self.retry_after,
        };
        let policy = Policy::new(&self.retries, self.route.as_ref());
        let withdraw = || {
            *withdrawn = true;
            self.has_budget
        };
        let mut rng = StdRng::seed_from_u64(seed);
        super::decide(policy, self.outcome(), &progress, withdraw, &mut rng)
    }
}

fn failures() -> impl Strategy<Value = End> {
    let all: Vec<fn() -> Failure> = vec![
        || Failure::Unprocessed("draining".to_owned()),
        || Failure::Transport(ErrorKind::GoAway.into()),
        || Failure::Transport(ErrorKind::Dial(DialFailure::Timeout).into()),
        || Failure::Transport(ErrorKind::StreamLimit.into()),
        || Failure::Transport(ErrorKind::Reset(Code::H3_REQUEST_REJECTED).into()),
        || Failure::Transport(ErrorKind::Reset(Code::H3_REQUEST_CANCELLED).into()),
        || Failure::Transport(ErrorKind::Reset(Code::H3_INTERNAL_ERROR).into()),
        || Failure::Transport(ErrorKind::Lost(Lost::TimedOut).into()),
        || Failure::Transport(ErrorKind::Lost(Lost::StatelessReset).into()),
        || Failure::Transport(ErrorKind::Unresponsive.into()),
        || Failure::Transport(ErrorKind::Closed.into()),
        || Failure::Transport(ErrorKind::TooLarge.into()),
        || Failure::Transport(ErrorKind::Stalled.into()),
        || Failure::TimedOut(Late::Try),
        || Failure::TimedOut(Late::Request),
        || Failure::Denied("rule"),
        || Failure::Loop,
    ];
    select(all).prop_map(End::Failed)
}

fn answers() -> impl Strategy<Value = End> {
    let status = select(vec![200_u16, 404, 429, 500, 501, 502, 503, 504]);
    let fields = select(vec![
        vec![],
        vec![],
        vec![("weft-error", "denied".to_owned())],
        vec![("weft-error", "application_closed".to_owned())],
        vec![("weft-unprocessed", "draining".to_owned())],
    ]);
    let grpc = option::of(0_u16..17);
    (status, fields, grpc).prop_map(|(status, mut fields, grpc)| {
        if let Some(grpc) = grpc {
            fields.push(("content-type", "application/grpc".to_owned()));
            fields.push(("grpc-status", grpc.to_string()));
        }
        End::Answered { status, fields }
    })
}

fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

prop_compose! {
    fn retries()(
        attempts in 0..5_u32,
        (connect_failure, reset, gateway_error, server_error) in any::<(bool, bool, bool, bool)>(),
        codes in vec(select(vec![429_u16, 500, 503]), 0..2),
        grpc in vec(1_u16..17, 0..8),
        non_idempotent: bool,
        backoff in millis(0..100),
        more in millis(0..400),
    ) -> Retries {
        let mut retries = Retries::default();
        retries.attempts = attempts;
        retries.on.connect_failure = connect_failure;
        retries.on.reset = reset;
        retries.on.gateway_error = gateway_error;
        retries.on.server_error = server_error;
        retries.codes = codes;
        retries.grpc = grpc;
        retries.non_idempotent = non_idempotent;
        retries.backoff = backoff;
        retries.backoff_max = backoff + more;
        retries
    }
}

prop_compose! {
    fn route_retry()(
        codes in vec(select(vec![404_u16, 500, 501, 503]), 0..3),
        attempts in option::of(0..15_u32),
        backoff in option::of(millis(0..600)),
    ) -> RouteRetry {
        let mut retry = RouteRetry::default();
        retry.codes = codes;
        retry.attempts = attempts;
        retry.backoff = backoff;
        retry
    }
}

prop_compose! {
    fn case()(
        retries in retries(),
        route in option::of(route_retry()),
        method in select(vec![Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::CONNECT]),
        end in prop_oneof![failures(), answers()],
        before in 0..5_u32,
        unprocessed_before in 0..5_u32,
        can_replay in prop::bool::weighted(0.8),
        left in option::of(millis(0..1_000)),
        retry_after in option::of(millis(0..1_000)),
        has_budget in prop::bool::weighted(0.8),
    ) -> Case {
        let mut case = Case {
            retries,
            route,
            method,
            end,
            reached: before,
            unprocessed: unprocessed_before,
            can_replay,
            left,
            retry_after,
            has_budget,
        };
        match case.is_proved() {
            true => case.unprocessed += 1,
            false => case.reached += 1,
        }
        case
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn a_request_is_sent_again_exactly_if_no_sentence_forbids_it(case in case(), seed: u64) {
        let mut withdrawn = false;
        let decision = case.decide(seed, &mut withdrawn);
        let forbidding: Vec<_> = FORBIDDING.iter().filter(|(_, forbids)| forbids(&case)).collect();
        let names: Vec<_> = forbidding.iter().map(|(name, _)| name).collect();
        match decision {
            Decision::Retry { after } => {
                prop_assert!(names.is_empty(), "{names:?}");
                prop_assert!(after >= case.least_wait() && after <= case.most_wait(), "{after:?}");
                prop_assert!(case.left.is_none_or(|left| after < left));
                prop_assert_eq!(withdrawn, !case.is_proved(), "what is proved unprocessed takes nothing");
            }
            // Chance might have drawn a wait that does not fit.
            Decision::GiveUp(GiveUp::Deadline) => {
                prop_assert!(case.left.is_some_and(|left| left <= case.most_wait()));
                prop_assert!(!withdrawn);
            }
            Decision::GiveUp(_) => prop_assert!(!names.is_empty()),
        }
        if forbidding.iter().any(|(name, _)| !name.contains("budget")) {
            prop_assert!(!withdrawn, "nothing is taken for a retry that is not made");
        }
    }

    #[test]
    fn no_application_sees_a_request_more_often_than_it_may(
        template in case(),
        ends in vec(prop_oneof![failures(), answers()], 30),
    ) {
        let mut case = Case { reached: 0, unprocessed: 0, has_budget: true, ..template };
        let mut made = 0;
        for end in ends {
            case.end = end;
            made += 1;
            match case.is_proved() {
                true => case.unprocessed += 1,
                false => case.reached += 1,
            }
            if let Decision::GiveUp(_) = case.decide(7, &mut false) {
                break;
            }
        }
        prop_assert!(case.reached <= 1 + case.attempts());
        prop_assert!(made <= 1 + case.attempts() + 4, "it ends");
        if [Method::POST, Method::PATCH].contains(&case.method) && !case.retries.non_idempotent {
            prop_assert!(case.reached <= 1, "at most once");
        }
    }
}
