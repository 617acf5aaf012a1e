//! May a request that failed at one endpoint be sent to another, and to which? No clock and no I/O.

use std::sync::Arc;

use http::Method;
use rand::Rng;
use weft_transport::{ErrorKind, Processed};

use crate::{balance, respond::Failure, snapshot::Endpoint};

/// Endpoints that one request is tried at, however many there are.
const MAX_TRIES: usize = 4;

/// Where one request was sent before.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    /// Endpoints that are not tried again.
    failed: Vec<Arc<str>>,
    /// Endpoints whose connection went away before it took the request, as at every renewal of a certificate: others
    /// come first, but these may well have another connection for it.
    went_away: Vec<Arc<str>>,
    count: usize,
}

impl Tried {
    /// How often it was tried.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether a request of this method that fails where it is now could be repeated at another of so many endpoints,
    /// although it is not known what became of it.
    pub(crate) fn leaves_another(&self, method: &Method, endpoints: usize) -> bool {
        is_idempotent(method) && self.count + 1 < endpoints.min(MAX_TRIES)
    }

    /// Picks where to try next.
    pub(crate) fn pick<'a>(
        &mut self,
        endpoints: &'a [Arc<Endpoint>],
        rng: &mut impl Rng,
    ) -> Option<&'a Arc<Endpoint>> {
        if self.went_away.is_empty() {
            return balance::pick(endpoints, &self.failed, rng);
        }
        let all = [self.failed.as_slice(), &self.went_away].concat();
        balance::pick(endpoints, &all, rng).or_else(|| {
            self.went_away.clear();
            balance::pick(endpoints, &self.failed, rng)
        })
    }

    /// It failed there.
    pub(crate) fn add(&mut self, endpoint: &Endpoint, failure: &Failure) {
        let went_away =
            matches!(failure, Failure::Transport(error) if matches!(error.kind(), ErrorKind::GoAway));
        let list = match went_away {
            true => &mut self.went_away,
            false => &mut self.failed,
        };
        list.push(endpoint.uid.clone());
        self.count += 1;
    }
}

/// What is proved unprocessed goes to another endpoint whatever the method. Where the peer may have acted on the request
/// before it was lost, only what may be done twice is sent twice.
pub(crate) fn may_retry(failure: &Failure, method: &Method, tries: usize) -> bool {
    let is_safe = match failure {
        Failure::Unprocessed(_) => true,
        Failure::Transport(error) => {
            let was_lost = matches!(
                error.kind(),
                ErrorKind::Lost(_) | ErrorKind::Reset(_) | ErrorKind::Unresponsive
            );
            error.processed() == Processed::No || (was_lost && is_idempotent(method))
        }
        _ => false,
    };
    is_safe && tries < MAX_TRIES
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
    use rand::{SeedableRng, rngs::StdRng};
    use weft_proto::names::Labels;
    use weft_transport::{DialFailure, Lost};

    use super::*;
    use crate::snapshot::{Load, NoRoute, Reach};

    fn endpoints(names: &[&str]) -> Vec<Arc<Endpoint>> {
        let make = |name: &&str| {
            Arc::new(Endpoint {
                uid: (*name).into(),
                port: 80,
                reach: Reach::Plain(([127, 0, 0, 1], 80).into()),
                labels: Labels::default(),
                version: None,
                locality: None,
                load: Arc::<Load>::default(),
            })
        };
        names.iter().map(make).collect()
    }

    #[test]
    fn an_endpoint_whose_connection_went_away_comes_after_the_others_and_is_not_given_up() {
        let endpoints = endpoints(&["a", "b"]);
        let failure = |kind: ErrorKind| Failure::Transport(kind.into());
        let mut rng = StdRng::seed_from_u64(1);
        let mut tried = Tried::default();
        let first = tried.pick(&endpoints, &mut rng).unwrap().clone();
        tried.add(&first, &failure(ErrorKind::GoAway));
        let second = tried.pick(&endpoints, &mut rng).unwrap().clone();
        assert_ne!(first.uid, second.uid, "the other one comes first");
        tried.add(&second, &failure(ErrorKind::Dial(DialFailure::Timeout)));
        let third = tried.pick(&endpoints, &mut rng).unwrap().clone();
        assert_eq!(first.uid, third.uid, "another connection of the first may do");
        tried.add(&third, &failure(ErrorKind::Dial(DialFailure::ConnectionRefused)));
        assert!(tried.pick(&endpoints, &mut rng).is_none());
        assert_eq!(tried.count(), 3);
    }

    #[test]
    fn what_may_have_been_acted_on_is_repeated_only_if_that_means_the_same() {
        let lost = [
            ErrorKind::Lost(Lost::TimedOut),
            ErrorKind::Lost(Lost::StatelessReset),
            ErrorKind::Reset(weft_transport::h3::Code::H3_INTERNAL_ERROR),
            ErrorKind::Unresponsive,
        ];
        for kind in lost {
            let failure = Failure::Transport(kind.into());
            for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
                assert!(may_retry(&failure, &method, 1), "{method} {failure:?}");
            }
            for method in [Method::POST, Method::PATCH, Method::CONNECT] {
                assert!(!may_retry(&failure, &method, 1), "{method} {failure:?}");
            }
        }
    }

    #[test]
    fn what_is_proved_unprocessed_goes_elsewhere_whatever_the_method_and_nothing_goes_on_for_ever() {
        let unprocessed = [
            Failure::Transport(ErrorKind::GoAway.into()),
            Failure::Transport(ErrorKind::Dial(DialFailure::Timeout).into()),
            Failure::Transport(ErrorKind::Reset(weft_transport::h3::Code::H3_REQUEST_REJECTED).into()),
            Failure::Unprocessed("draining".to_owned()),
        ];
        for failure in unprocessed {
            assert!(may_retry(&failure, &Method::POST, 1), "{failure:?}");
            assert!(may_retry(&failure, &Method::POST, MAX_TRIES - 1), "{failure:?}");
            assert!(!may_retry(&failure, &Method::POST, MAX_TRIES), "{failure:?}");
        }
        for failure in [
            Failure::Transport(ErrorKind::Closed.into()),
            Failure::Transport(ErrorKind::TooLarge.into()),
            Failure::Transport(ErrorKind::Stalled.into()),
            Failure::NoRoute(NoRoute::UnknownName),
            Failure::Loop,
        ] {
            assert!(!may_retry(&failure, &Method::GET, 1), "{failure:?}");
        }
    }

    #[test]
    fn a_silent_peer_is_left_only_for_another() {
        let tried = Tried::default();
        assert!(tried.leaves_another(&Method::GET, 2));
        assert!(!tried.leaves_another(&Method::GET, 1), "there is no other");
        assert!(
            !tried.leaves_another(&Method::POST, 2),
            "it may have been acted on"
        );
        let often = Tried {
            count: MAX_TRIES - 1,
            ..Tried::default()
        };
        assert!(!often.leaves_another(&Method::GET, 100));
    }
}
