//! Where one request was sent before.

use std::{sync::Arc, time::Instant};

use rand::Rng;

use super::Outcome;
use crate::{
    balance::{Balancer, NoPick, Pick, Picked},
    snapshot::Endpoint,
};

/// Where one request was sent before, and how often.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    /// Endpoints that are not tried again.
    failed: Vec<Arc<str>>,
    /// Endpoints that others come before, but that may well do the second time.
    later: Vec<Arc<str>>,
    reached: u32,
    unprocessed: u32,
}

impl Tried {
    /// Tries that may have reached an application.
    pub(crate) fn reached(&self) -> u32 {
        self.reached
    }

    /// Tries that are proved to have reached none.
    pub(crate) fn unprocessed(&self) -> u32 {
        self.unprocessed
    }

    /// Whether of so many endpoints there is one beside the one that it is now sent to.
    pub(super) fn leaves_another(&self, endpoints: usize) -> bool {
        self.failed.len() + 1 < endpoints
    }

    /// Picks where to try next.
    ///
    /// # Errors
    /// Nowhere.
    pub(crate) fn pick<'a>(
        &mut self,
        balancer: &'a Balancer,
        key: Option<u64>,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Result<Picked<'a>, NoPick> {
        let mut pick = |tried: &[Arc<str>]| {
            let pick = Pick {
                tried,
                key,
                may_probe: true,
                now,
            };
            balancer.pick(&pick, &mut *rng)
        };
        if self.later.is_empty() {
            return pick(&self.failed);
        }
        match pick(&[self.failed.as_slice(), &self.later].concat()) {
            Ok(picked) => Ok(picked),
            Err(_) => {
                self.later.clear();
                pick(&self.failed)
            }
        }
    }

    /// A try there ended so. One that goes on while another is made beside it counts as [`Outcome::Lost`] from then on.
    pub(crate) fn add(&mut self, endpoint: &Endpoint, outcome: Outcome) {
        let list = match outcome {
            Outcome::Unprocessed { went_away: false } | Outcome::Silent => &mut self.failed,
            _ => &mut self.later,
        };
        list.push(endpoint.uid.clone());
        match outcome.is_unprocessed() {
            true => self.unprocessed += 1,
            false => self.reached += 1,
        }
    }

    #[cfg(test)]
    pub(super) fn counted(reached: u32, unprocessed: u32) -> Self {
        Self {
            reached,
            unprocessed,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use weft_proto::attach::Effective;

    use super::*;
    use crate::balance::{Settings, testing::endpoints};

    const UNPROCESSED: Outcome = Outcome::Unprocessed { went_away: false };
    const WENT_AWAY: Outcome = Outcome::Unprocessed { went_away: true };

    /// The endpoints of a backend, and a pick among them.
    struct Backend {
        balancer: Balancer,
        rng: StdRng,
    }

    impl Backend {
        fn new(count: u16) -> Self {
            let effective = Effective::default();
            let settings = Settings {
                load_balancing: &effective.load_balancing,
                outlier_ejection: &effective.outlier_ejection,
                endpoint_limit: None,
                home: None,
            };
            Self {
                balancer: Balancer::new(&settings, &endpoints(count), &Arc::default(), Instant::now()),
                rng: StdRng::seed_from_u64(1),
            }
        }

        fn pick(&mut self, tried: &mut Tried) -> Option<Arc<Endpoint>> {
            let picked = tried.pick(&self.balancer, None, Instant::now(), &mut self.rng);
            picked.ok().map(|picked| picked.endpoint.clone())
        }
    }

    #[test]
    fn an_endpoint_whose_connection_went_away_comes_after_the_others_and_is_not_given_up() {
        let mut backend = Backend::new(2);
        let mut tried = Tried::default();
        let first = backend.pick(&mut tried).unwrap();
        tried.add(&first, WENT_AWAY);
        let second = backend.pick(&mut tried).unwrap();
        assert_ne!(first.uid, second.uid, "the other one comes first");
        tried.add(&second, UNPROCESSED);
        let third = backend.pick(&mut tried).unwrap();
        assert_eq!(first.uid, third.uid, "another connection of the first may do");
        tried.add(&third, UNPROCESSED);
        assert!(backend.pick(&mut tried).is_none());
        assert_eq!((tried.reached(), tried.unprocessed()), (0, 3));
    }

    #[test]
    fn what_an_application_answered_or_lost_may_be_asked_of_it_again_if_there_is_no_other() {
        let mut backend = Backend::new(1);
        let mut tried = Tried::default();
        let only = backend.pick(&mut tried).unwrap();
        for outcome in [Outcome::Lost, Outcome::TimedOut] {
            tried.add(&only, outcome);
            assert!(backend.pick(&mut tried).is_some(), "{outcome:?}");
        }
        assert!(!tried.leaves_another(1));
        tried.add(&only, Outcome::Silent);
        assert!(backend.pick(&mut tried).is_none(), "it can't be reached");
        assert_eq!((tried.reached(), tried.unprocessed()), (3, 0));
    }
}
