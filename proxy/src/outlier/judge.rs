//! Which endpoints stood out in an interval: a function of what was counted.

use weft_proto::model::policy::OutlierEjection;

/// What an endpoint did in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) failures: u64,
    /// How long the answers that were no failures took together, in microseconds.
    pub(super) micros: u64,
}

/// The indices of those that are to be ejected, the worst first: by success rate, then by latency.
pub(super) fn outliers(counts: &[Counts], config: &OutlierEjection) -> Vec<usize> {
    let least = u64::from(config.min_requests).max(1);
    let seen: Vec<(usize, Counts)> = counts
        .iter()
        .copied()
        .enumerate()
        .filter(|(_, counts)| counts.requests >= least)
        .collect();
    let mut found = failing(&seen, config);
    for index in slow(&seen, config) {
        if !found.contains(&index) {
            found.push(index);
        }
    }
    found
}

fn failing(seen: &[(usize, Counts)], config: &OutlierEjection) -> Vec<usize> {
    let Some(rate) = config.success_rate else {
        return Vec::new();
    };
    let is_failing = |counts: &Counts| counts.successes() * 100 < u64::from(rate) * counts.requests;
    let mut found: Vec<_> = seen.iter().filter(|(_, counts)| is_failing(counts)).collect();
    found.sort_by(|(_, one), (_, other)| {
        (one.successes() * other.requests).cmp(&(other.successes() * one.requests))
    });
    found.into_iter().map(|(index, _)| *index).collect()
}

fn slow(seen: &[(usize, Counts)], config: &OutlierEjection) -> Vec<usize> {
    let Some(factor) = config.latency_factor else {
        return Vec::new();
    };
    let mut means: Vec<(u64, usize)> = seen
        .iter()
        .filter_map(|(index, counts)| Some((counts.micros.checked_div(counts.successes())?, *index)))
        .collect();
    means.sort_unstable();
    // The lower of the two in the middle: of two endpoints the slow one stands out.
    let Some((median, _)) = means.get(means.len().saturating_sub(1) / 2).copied() else {
        return Vec::new();
    };
    let limit = median.saturating_mul(u64::from(factor));
    let slow = means.into_iter().rev().take_while(|(mean, _)| *mean > limit);
    slow.map(|(_, index)| index).collect()
}

impl Counts {
    fn successes(&self) -> u64 {
        self.requests.saturating_sub(self.failures)
    }
}
