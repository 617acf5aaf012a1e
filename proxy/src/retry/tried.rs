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
    /// How often it was tried.
    pub(crate) fn count(&self) -> u32 {
        self.reached + self.unprocessed
    }

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
        let mut pick = |tried: &[Arc<str>]| balancer.pick(&Pick { tried, key, now }, &mut *rng);
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
}
