//! How far away an endpoint is, and how much goes how far.

use weft_proto::model::Locality;

/// The same subzone, the same zone, the same region, elsewhere.
pub(super) const TIERS: usize = 4;

/// What they are called.
pub(super) const NAMES: [&str; TIERS] = ["subzone", "zone", "region", "any"];

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(region: &str, zone: Option<&str>, subzone: Option<&str>) -> Locality {
        let mut locality = Locality::new(region.to_owned());
        locality.zone = zone.map(str::to_owned);
        locality.subzone = subzone.map(str::to_owned);
        locality
    }

    #[test]
    fn far_is_what_is_not_known_to_be_near() {
        let home = at("r", Some("z"), Some("s"));
        let from_home = |there: &Locality| distance(Some(&home), Some(there));
        assert_eq!(from_home(&home), 0);
        assert_eq!(from_home(&at("r", Some("z"), Some("t"))), 1);
        assert_eq!(from_home(&at("r", Some("z"), None)), 1);
        assert_eq!(from_home(&at("r", Some("y"), Some("s"))), 2);
        assert_eq!(from_home(&at("r", None, None)), 2);
        assert_eq!(from_home(&at("q", Some("z"), Some("s"))), 3);
        assert_eq!(distance(Some(&home), None), 3);
        assert_eq!(distance(None, Some(&home)), 3);
        let region = at("r", None, None);
        assert_eq!(distance(Some(&region), Some(&region)), 2);
    }

    fn tier(healthy: usize, total: usize) -> Tier {
        Tier { healthy, total }
    }

    #[test]
    fn a_tier_takes_all_until_too_few_are_healthy_and_then_less_and_less() {
        let none = Tier::default();
        let near = |healthy| shares([tier(healthy, 10), tier(10, 10), none, none], 70)[0];
        let curve = [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0].map(near);
        assert_eq!(curve, [100, 100, 100, 100, 85, 71, 57, 42, 28, 14, 0]);
    }

    #[test]
    fn what_no_tier_takes_is_taken_in_proportion() {
        let none = Tier::default();
        // 50 and 25 percent are healthy; at 100 percent overflow that is what they take.
        assert_eq!(
            shares([tier(1, 2), none, tier(1, 4), none], 100),
            [66, 66, 100, 100]
        );
        assert_eq!(shares([none, tier(0, 3), none, tier(0, 1)], 70), [0, 75, 75, 100]);
        assert_eq!(shares([none; TIERS], 70), [0; TIERS]);
        // Three tiers: the second takes what it can of what the first leaves.
        assert_eq!(
            shares([tier(1, 2), tier(1, 4), tier(4, 4), none], 100),
            [50, 75, 100, 100]
        );
    }

    proptest! {
        #[test]
        fn all_of_it_goes_somewhere_and_nothing_where_nobody_is(
            parts in prop::array::uniform4((0_usize..20, 0_usize..20)),
            overflow in any::<u8>(),
        ) {
            let tiers = parts.map(|(one, other)| tier(one.min(other), one.max(other)));
            let shares = shares(tiers, overflow);
            prop_assert!(shares.is_sorted());
            let is_empty = tiers.iter().all(|tier| tier.total == 0);
            prop_assert_eq!(shares[3], if is_empty { 0 } else { 100 });
            for (index, tier) in tiers.iter().enumerate() {
                let before = if index == 0 { 0 } else { shares[index - 1] };
                prop_assert!(tier.total > 0 || shares[index] == before);
                let some_healthy = tiers.iter().any(|tier| tier.healthy > 0);
                prop_assert!(tier.healthy > 0 || shares[index] == before || !some_healthy);
            }
        }
    }
}
