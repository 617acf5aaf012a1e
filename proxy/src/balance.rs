//! Which endpoint gets a request: the less loaded of two that chance picks.
//!
//! Two choices keep the longest queue short without asking all endpoints, and, unlike "the least loaded of all",
//! do not send every proxy of the mesh to the same one.

use std::sync::Arc;

use rand::Rng;

use crate::snapshot::Endpoint;

/// Picks one of `endpoints` that is not among `tried`. `None` if there is none left.
pub(crate) fn pick<'a>(
    endpoints: &'a [Arc<Endpoint>],
    tried: &[Arc<str>],
    rng: &mut impl Rng,
) -> Option<&'a Arc<Endpoint>> {
    if tried.is_empty() {
        let (first, second) = two_of(endpoints.len(), rng)?;
        return less_loaded(endpoints.get(first), endpoints.get(second));
    }
    let left: Vec<_> = endpoints
        .iter()
        .filter(|endpoint| !tried.contains(&endpoint.uid))
        .collect();
    let (first, second) = two_of(left.len(), rng)?;
    less_loaded(left.get(first).copied(), left.get(second).copied())
}

/// Two different indices below `count`, the same one twice if there is but one: an endpoint drawn against itself
/// would be picked however loaded it is.
fn two_of(count: usize, rng: &mut impl Rng) -> Option<(usize, usize)> {
    match count {
        0 => None,
        1 => Some((0, 0)),
        _ => {
            let first = rng.random_range(0..count);
            let second = rng.random_range(0..count - 1);
            Some((first, second + usize::from(second >= first)))
        }
    }
}

fn less_loaded<'a>(
    first: Option<&'a Arc<Endpoint>>,
    second: Option<&'a Arc<Endpoint>>,
) -> Option<&'a Arc<Endpoint>> {
    let (first, second) = (first?, second?);
    Some(if second.load.in_flight() < first.load.in_flight() {
        second
    } else {
        first
    })
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use weft_proto::names::Labels;

    use super::*;
    use crate::snapshot::{Load, Reach};

    fn endpoints(count: u16) -> Vec<Arc<Endpoint>> {
        let make = |port| {
            Arc::new(Endpoint {
                uid: format!("w{port}").into(),
                port,
                reach: Reach::Plain(([127, 0, 0, 1], port).into()),
                labels: Labels::default(),
                version: None,
                locality: None,
                load: Arc::<Load>::default(),
            })
        };
        (0..count).map(make).collect()
    }

    #[test]
    fn a_loaded_endpoint_gets_less() {
        let endpoints = endpoints(4);
        let _held: Vec<_> = (0..100).map(|_| endpoints[0].load.begin()).collect();
        let mut rng = StdRng::seed_from_u64(1);
        let picks = (0..10_000)
            .filter(|_| pick(&endpoints, &[], &mut rng).unwrap().port == 0)
            .count();
        assert_eq!(picks, 0, "whatever it is drawn against has less");
    }

    #[test]
    fn load_spreads_evenly() {
        let endpoints = endpoints(5);
        let mut rng = StdRng::seed_from_u64(2);
        let held: Vec<_> = (0..1_000)
            .map(|_| pick(&endpoints, &[], &mut rng).unwrap().load.begin())
            .collect();
        for endpoint in &endpoints {
            assert!(
                (190..=210).contains(&endpoint.load.in_flight()),
                "{}",
                endpoint.load.in_flight()
            );
        }
        drop(held);
        assert!(endpoints.iter().all(|endpoint| endpoint.load.in_flight() == 0));
    }

    #[test]
    fn what_was_tried_is_not_picked_again() {
        let endpoints = endpoints(3);
        let mut rng = StdRng::seed_from_u64(3);
        let mut tried = Vec::new();
        for _ in 0..3 {
            let endpoint = pick(&endpoints, &tried, &mut rng).unwrap();
            assert!(!tried.contains(&endpoint.uid));
            tried.push(endpoint.uid.clone());
        }
        assert!(pick(&endpoints, &tried, &mut rng).is_none());
        assert!(pick(&[], &[], &mut rng).is_none());
    }
}
