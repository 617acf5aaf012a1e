//! How far away an endpoint is, and how much goes how far.

use weft_proto::model::Locality;

/// The same subzone, the same zone, the same region, elsewhere.
pub(super) const TIERS: usize = 4;

/// How far it is from `home`, from 0 for the same subzone to 3. Where nothing is known of one of them, all are as far.
pub(super) fn distance(home: Option<&Locality>, there: Option<&Locality>) -> usize {
    let (Some(home), Some(there)) = (home, there) else {
        return 3;
    };
    let is_same = |one: &Option<String>, other: &Option<String>| one.is_some() && one == other;
    if home.region != there.region {
        3
    } else if !is_same(&home.zone, &there.zone) {
        2
    } else if !is_same(&home.subzone, &there.subzone) {
        1
    } else {
        0
    }
}

/// The endpoints of a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tier {
    /// Those that are admitted.
    pub(super) healthy: usize,
    pub(super) total: usize,
}

/// Of a hundred requests, how many go to each of these tiers, the nearest first, and to those before it.
///
/// A tier takes all as long as `overflow` percent of it are healthy, and below that in proportion; what it does not take
/// goes to the next. If together they do not take all, each takes more in proportion.
pub(super) fn shares(tiers: [Tier; TIERS], overflow: u8) -> [u8; TIERS] {
    let overflow = usize::from(overflow.clamp(1, 100));
    let capacity = |tier: &Tier| {
        let percent = (tier.healthy * 100 * 100).checked_div(tier.total * overflow);
        percent.unwrap_or(0).min(100)
    };
    let capacities = tiers.each_ref().map(capacity);
    let all: usize = capacities.iter().sum();
    match all {
        0 => spread(tiers.map(|tier| tier.total)),
        1..100 => spread(capacities),
        _ => {
            let mut sum = 0;
            capacities.map(|capacity| {
                sum = (sum + capacity).min(100);
                sum as u8
            })
        }
    }
}

/// The same, in proportion to these, whose sum is not 0.
pub(super) fn spread(parts: [usize; TIERS]) -> [u8; TIERS] {
    let all = parts.iter().sum::<usize>().max(1);
    let mut sum = 0;
    parts.map(|part| {
        sum += part;
        (sum * 100 / all) as u8
    })
}
