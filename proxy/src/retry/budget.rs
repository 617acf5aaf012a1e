//! How many retries there may be of late, for all requests to a service together: if everything fails, retries must not
//! make it worse.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use crate::limit::Since;

/// The window slides second by second.
const SLOTS: u64 = 10;

/// Requests and retries of the last ten seconds. Shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    begun: Since,
    slots: [AtomicU64; SLOTS as usize],
}

/// What happened in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The second, modulo 2^24: half a year.
    second: u64,
    requests: u64,
    retries: u64,
}

impl Budget {
    /// A request has come. Its retries do not count as such.
    pub(crate) fn on_request(&self, now: Instant) {
        self.update(self.second(now), |slot| {
            slot.requests = (slot.requests + 1).min(Slot::MAX_REQUESTS);
            true
        });
    }

    /// Takes one retry if that is allowed: so many percent of the requests, or so many a second if that is more.
    pub(crate) fn try_withdraw(&self, now: Instant, percent: u32, floor: u32) -> bool {
        let second = self.second(now);
        let before = self.before(second);
        self.update(second, |slot| {
            let requests = before.requests + slot.requests;
            let retries = before.retries + slot.retries;
            let allowed = (requests * u64::from(percent) / 100).max(u64::from(floor) * SLOTS);
            let is_allowed = retries < allowed && slot.retries < Slot::MAX_RETRIES;
            slot.retries += u64::from(is_allowed);
            is_allowed
        })
    }

    fn second(&self, now: Instant) -> u64 {
        self.begun.time(now).as_secs()
    }

    /// The rest of the window.
    fn before(&self, second: u64) -> Slot {
        let mut sum = Slot::default();
        for age in 1..SLOTS.min(second + 1) {
            let Some(slot) = self.slot(second - age) else {
                continue;
            };
            let slot = Slot::unpack(slot.load(Relaxed));
            if slot.is_of(second - age) {
                sum.requests += slot.requests;
                sum.retries += slot.retries;
            }
        }
        sum
    }

    /// Changes what is known of a second, unless `change` says no.
    fn update(&self, second: u64, mut change: impl FnMut(&mut Slot) -> bool) -> bool {
        let Some(cell) = self.slot(second) else {
            return false;
        };
        let updated = cell.fetch_update(Relaxed, Relaxed, |packed| {
            let mut slot = Slot::unpack(packed);
            if !slot.is_of(second) {
                slot = Slot::of(second);
            }
            change(&mut slot).then(|| slot.pack())
        });
        updated.is_ok()
    }

    fn slot(&self, second: u64) -> Option<&AtomicU64> {
        self.slots.get((second % SLOTS) as usize)
    }
}

/// All in one word, so that a second begins anew in one step.
impl Slot {
    const SECOND_BITS: u32 = 24;
    const REQUEST_BITS: u32 = 22;
    const RETRY_BITS: u32 = 64 - Self::SECOND_BITS - Self::REQUEST_BITS;
    /// Beyond four million requests a second they are counted no more.
    const MAX_REQUESTS: u64 = (1 << Self::REQUEST_BITS) - 1;
    const MAX_RETRIES: u64 = (1 << Self::RETRY_BITS) - 1;
    const MAX_SECOND: u64 = (1 << Self::SECOND_BITS) - 1;

    fn of(second: u64) -> Self {
        Self {
            second: second & Self::MAX_SECOND,
            ..Self::default()
        }
    }

    fn is_of(self, second: u64) -> bool {
        self.second == second & Self::MAX_SECOND
    }

    fn pack(self) -> u64 {
        (self.second << (Self::REQUEST_BITS + Self::RETRY_BITS))
            | (self.requests << Self::RETRY_BITS)
            | self.retries
    }

    fn unpack(packed: u64) -> Self {
        Self {
            second: packed >> (Self::REQUEST_BITS + Self::RETRY_BITS),
            requests: (packed >> Self::RETRY_BITS) & Self::MAX_REQUESTS,
            retries: packed & Self::MAX_RETRIES,
        }
    }
}
