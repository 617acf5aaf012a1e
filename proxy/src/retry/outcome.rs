//! How a try ended, as far as it matters for another one.

use http::{HeaderMap, HeaderValue, StatusCode};
use weft_transport::{
    Error, ErrorKind, Processed,
    h3::{ResponseHead, fields},
};

use crate::{
    local::error::{AppErrorKind, Processed as AppProcessed},
    respond::{Failure, Late, is_grpc},
};

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Proved to have reached no application.
    Unprocessed {
        /// Only the connection went away before it took the request, as at every renewal of a certificate: the endpoint
        /// may well have another one for it.
        went_away: bool,
    },
    /// The stream or its connection was lost after the request may have gone out. Also a try that was left because
    /// another one beside it came first.
    Lost,
    /// The peer can't be reached any more, and may have acted before.
    Silent,
    /// The try took longer than one may.
    TimedOut,
    /// The application's answer; `grpc` is its status if it came with the head.
    Answered { status: StatusCode, grpc: Option<u16> },
    /// What no other try would change: a refusal of the request itself, the caller's end, an answer that breaks HTTP, the
    /// end of the deadline.
    Final,
}

impl Outcome {
    /// Of the head of an answer that came from a peer's sidecar: fields of ours in it are the sidecar's own.
    pub(crate) fn of_answer(answer: &ResponseHead) -> Self {
        if answer.headers.contains_key(fields::WEFT_UNPROCESSED) {
            Self::Unprocessed { went_away: false }
        } else if let Some(reason) = answer.headers.get(fields::WEFT_ERROR) {
            match *reason == AppErrorKind::Closed.reason() {
                // The application went away without an answer, and may have acted: as if the stream were lost.
                true => Self::Lost,
                false => Self::Final,
            }
        } else {
            Self::Answered {
                status: answer.status,
                grpc: grpc_status(&answer.headers),
            }
        }
    }

    pub(super) fn is_unprocessed(self) -> bool {
        matches!(self, Self::Unprocessed { .. })
    }
}

impl From<&Failure> for Outcome {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Unprocessed(_) => Self::Unprocessed { went_away: false },
            Failure::Transport(error) => error.into(),
            Failure::Application(error) => match (error.processed, error.kind) {
                (AppProcessed::No, _) => Self::Unprocessed { went_away: false },
                (AppProcessed::Maybe, AppErrorKind::Closed) => Self::Lost,
                (AppProcessed::Maybe, _) => Self::Final,
            },
            Failure::TimedOut(Late::Try) => Self::TimedOut,
            // Ours, or of the request itself: no endpoint would answer otherwise.
            _ => Self::Final,
        }
    }
}

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Self {
        let went_away = matches!(error.kind(), ErrorKind::GoAway);
        match (error.processed(), error.kind()) {
            (Processed::No, _) => Self::Unprocessed { went_away },
            (Processed::Maybe, ErrorKind::Lost(_) | ErrorKind::Reset(_)) => Self::Lost,
            (Processed::Maybe, ErrorKind::Unresponsive) => Self::Silent,
            (Processed::Maybe, _) => Self::Final,
        }
    }
}

/// The status of an answer that consists of a head alone (gRPC's trailers-only).
fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    let status = headers.get("grpc-status").filter(|_| is_grpc(headers))?;
    digits(status)
}

/// Digits alone: `+1` is a number to Rust and not to others.
fn digits(value: &HeaderValue) -> Option<u16> {
    let text = value.to_str().ok()?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use weft_transport::{DialFailure, Lost, h3::Code};

    use super::*;
    use crate::snapshot::NoRoute;

    const UNPROCESSED: Outcome = Outcome::Unprocessed { went_away: false };

    fn of(kind: ErrorKind) -> Outcome {
        Outcome::from(&Failure::Transport(kind.into()))
    }

    #[test]
    fn what_is_proved_unprocessed_is_told_from_what_is_not_known() {
        assert_eq!(of(ErrorKind::GoAway), Outcome::Unprocessed { went_away: true });
        assert_eq!(of(ErrorKind::Dial(DialFailure::Timeout)), UNPROCESSED);
        assert_eq!(of(ErrorKind::StreamLimit), UNPROCESSED);
        assert_eq!(of(ErrorKind::Reset(Code::H3_REQUEST_REJECTED)), UNPROCESSED);
        assert_eq!(
            Outcome::from(&Failure::Unprocessed("draining".to_owned())),
            UNPROCESSED
        );
        assert_eq!(of(ErrorKind::Reset(Code::H3_INTERNAL_ERROR)), Outcome::Lost);
        assert_eq!(of(ErrorKind::Reset(Code::H3_REQUEST_CANCELLED)), Outcome::Lost);
        assert_eq!(of(ErrorKind::Lost(Lost::StatelessReset)), Outcome::Lost);
        assert_eq!(of(ErrorKind::Lost(Lost::TimedOut)), Outcome::Lost);
        assert_eq!(of(ErrorKind::Unresponsive), Outcome::Silent);
        assert_eq!(Outcome::from(&Failure::TimedOut(Late::Try)), Outcome::TimedOut);
    }

    #[test]
    fn what_no_other_try_would_change_is_final() {
        for kind in [
            ErrorKind::Closed,
            ErrorKind::TooLarge,
            ErrorKind::Stalled,
            ErrorKind::Unsendable("content"),
        ] {
            assert_eq!(of(kind), Outcome::Final);
        }
        for failure in [
            Failure::NoRoute(NoRoute::UnknownName),
            Failure::Loop,
            Failure::Denied("rule"),
            Failure::TimedOut(Late::Request),
        ] {
            assert_eq!(Outcome::from(&failure), Outcome::Final, "{failure:?}");
        }
    }

    #[test]
    fn an_answer_is_the_sidecars_or_the_applications() {
        let answer = |fields: &[(&'static str, &'static str)]| {
            let mut head = ResponseHead::new(StatusCode::SERVICE_UNAVAILABLE);
            for (name, value) in fields {
                head.headers.insert(*name, HeaderValue::from_static(value));
            }
            Outcome::of_answer(&head)
        };
        let answered = |grpc| Outcome::Answered {
            status: StatusCode::SERVICE_UNAVAILABLE,
            grpc,
        };
        assert_eq!(answer(&[("weft-unprocessed", "draining")]), UNPROCESSED);
        assert_eq!(answer(&[("weft-error", "denied")]), Outcome::Final);
        assert_eq!(answer(&[("weft-error", "application_closed")]), Outcome::Lost);
        assert_eq!(answer(&[]), answered(None));
        let grpc = ("content-type", "application/grpc+proto");
        assert_eq!(answer(&[grpc, ("grpc-status", "14")]), answered(Some(14)));
        assert_eq!(answer(&[grpc]), answered(None));
        assert_eq!(
            answer(&[("grpc-status", "14")]),
            answered(None),
            "it is not gRPC that says so"
        );
        for value in ["", "+1", "-1", "14 ", "99999999", "x"] {
            assert_eq!(answer(&[grpc, ("grpc-status", value)]), answered(None), "{value}");
        }
    }
}
