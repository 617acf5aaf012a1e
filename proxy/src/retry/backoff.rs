//! How long before a request is sent again.

use std::time::Duration;

use rand::Rng;

use super::{Outcome, Policy};

/// Doublings beyond this change nothing.
const MAX_DOUBLINGS: u32 = 16;

/// The wait before the try after so many. What reached no application is tried elsewhere at once the first time: there is
/// nothing to relieve.
pub(super) fn draw(policy: Policy<'_>, outcome: Outcome, tries: u32, rng: &mut impl Rng) -> Duration {
    let doublings = match outcome.is_unprocessed() {
        true if tries <= 1 => return Duration::ZERO,
        true => tries - 2,
        false => tries.saturating_sub(1),
    };
    let least = least(policy);
    let base = least.unwrap_or(policy.retries.backoff);
    let least = least.unwrap_or_default();
    let doubled = base.saturating_mul(1 << doublings.min(MAX_DOUBLINGS));
    // A least wait leaves a quarter of itself for chance, so that callers that failed together do not come back together.
    let most = doubled.min(longest(policy)).max(least.saturating_add(least / 4));
    let spread = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX);
    least.saturating_add(Duration::from_nanos(rng.random_range(0..=spread)))
}

/// No wait is longer, but for chance.
pub(super) fn longest(policy: Policy<'_>) -> Duration {
    policy.retries.backoff_max.max(least(policy).unwrap_or_default())
}

/// A route gives the least time between two tries, a policy what the wait is drawn from.
fn least(policy: Policy<'_>) -> Option<Duration> {
    policy.route.and_then(|route| route.backoff)
}
