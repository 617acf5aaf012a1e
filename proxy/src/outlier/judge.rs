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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(success_rate: Option<u8>, latency_factor: Option<u32>) -> OutlierEjection {
        let mut config = OutlierEjection::default();
        config.success_rate = success_rate;
        config.latency_factor = latency_factor;
        config
    }

    fn counts(requests: u64, failures: u64, mean_micros: u64) -> Counts {
        Counts {
            requests,
            failures,
            micros: (requests - failures) * mean_micros,
        }
    }

    #[test]
    fn too_few_successes_are_those_below_the_rate_the_fewest_first() {
        let counts = [
            counts(100, 10, 1),
            counts(100, 11, 1),
            counts(1_000, 900, 1),
            counts(20, 20, 1),
            counts(19, 19, 1),
        ];
        assert_eq!(outliers(&counts, &config(Some(90), None)), [3, 2, 1]);
        assert!(outliers(&counts, &config(None, None)).is_empty());
        assert!(outliers(&[], &config(Some(90), Some(2))).is_empty());
    }

    #[test]
    fn slow_is_more_than_so_many_times_the_median_of_those_with_enough_requests() {
        let counts = [
            counts(20, 0, 10),
            counts(20, 0, 30),
            counts(20, 0, 31),
            counts(20, 0, 400),
            counts(20, 0, 10),
            counts(19, 0, 9_000),
        ];
        // The median is 30.
        assert_eq!(outliers(&counts, &config(None, Some(3))), [3]);
        // Of two it is the lower one, so that the other can stand out.
        assert_eq!(outliers(&counts[..2], &config(None, Some(2))), [1]);
        assert!(
            outliers(&counts[..2], &config(None, Some(3))).is_empty(),
            "three times is not more"
        );
        assert!(
            outliers(&counts[3..4], &config(None, Some(2))).is_empty(),
            "one alone is the median"
        );
    }

    #[test]
    fn failures_have_no_latency_and_count_first() {
        let counts = [
            counts(20, 0, 10),
            counts(40, 20, 100),
            counts(20, 20, 0),
            counts(20, 0, 10),
        ];
        assert_eq!(outliers(&counts, &config(Some(50), Some(2))), [2, 1]);
    }

    #[test]
    fn no_least_number_still_needs_a_request() {
        let mut config = config(Some(100), Some(2));
        config.min_requests = 0;
        assert!(outliers(&[Counts::default(); 3], &config).is_empty());
    }
}
