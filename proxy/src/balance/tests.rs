//! Shares, limits and order, by seeded chance.

use std::time::Duration;

use proptest::prelude::{Strategy, any, prop, prop_assert, prop_oneof, proptest};
use rand::{SeedableRng, rngs::StdRng};
use weft_proto::model::policy::HashKey;

use super::{
    explain::Standing,
    testing::{endpoint, endpoints},
    *,
};
use crate::outlier::{Admission, Phase};

/// A balancer in the making, and a clock.
struct Bench {
    policy: LoadBalancing,
    ejection: OutlierEjection,
    limit: Option<u32>,
    home: Option<Locality>,
    facts: Arc<Facts>,
    now: Instant,
    rng: StdRng,
}

impl Bench {
    fn new(seed: u64) -> Self {
        Self {
            policy: LoadBalancing::default(),
            ejection: OutlierEjection::default(),
            limit: None,
            home: None,
            facts: Arc::default(),
            now: Instant::now(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    fn with(seed: u64, algorithm: Algorithm) -> Self {
        let mut bench = Self::new(seed);
        bench.policy.algorithm = algorithm;
        bench
    }

    fn balancer(&self, endpoints: &[Arc<Endpoint>]) -> Balancer {
        let settings = Settings {
            load_balancing: &self.policy,
            outlier_ejection: &self.ejection,
            endpoint_limit: self.limit,
            home: self.home.as_ref(),
        };
        Balancer::new(&settings, endpoints, &self.facts, self.now)
    }

    fn pick<'a>(&mut self, balancer: &'a Balancer) -> Result<Picked<'a>, NoPick> {
        let explained = Eligibility::why_none(&balancer.explain(self.now));
        let picked = self.pick_with(balancer, &[], None);
        assert_eq!(explained, picked.as_ref().err().copied(), "what is explained");
        picked
    }

    fn pick_with<'a>(
        &mut self,
        balancer: &'a Balancer,
        tried: &[Arc<str>],
        key: Option<u64>,
    ) -> Result<Picked<'a>, NoPick> {
        let request = Pick {
            tried,
            key,
            may_probe: true,
            now: self.now,
        };
        balancer.pick(&request, &mut self.rng)
    }

    fn advance(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    /// How many of so many requests each endpoint gets; none is in flight while the next is picked.
    fn shares(&mut self, balancer: &Balancer, requests: usize) -> Vec<usize> {
        let mut shares = vec![0; 1 << 10];
        for _ in 0..requests {
            shares[usize::from(self.pick(balancer).unwrap().endpoint.port)] += 1;
        }
        shares.truncate(balancer.members.len() + balancer.outside.len());
        shares
    }
}

fn member(balancer: &Balancer, port: u16) -> &Member {
    let mut members = balancer.members.iter();
    members.find(|member| member.endpoint.port == port).unwrap()
}

/// A request to this endpoint, whatever the balancer would say.
fn picked(balancer: &Balancer, port: u16) -> Picked<'_> {
    let member = member(balancer, port);
    Picked {
        endpoint: &member.endpoint,
        health: &member.health,
        probe: None,
    }
}

fn eject(bench: &Bench, balancer: &Balancer, port: u16) {
    for _ in 0..bench.ejection.consecutive_failures {
        let mut in_flight = picked(balancer, port).begin(bench.now);
        balancer.on_result(&mut in_flight, Outcome::Failure, bench.now);
    }
    assert!(!member(balancer, port).health.is_admitted());
}

fn uids(ports: &[u16]) -> Vec<Arc<str>> {
    ports.iter().map(|port| format!("w{port}").into()).collect()
}

fn by_hash() -> Algorithm {
    Algorithm::ConsistentHash(HashKey::Source)
}

const EVEN: [Algorithm; 3] = [Algorithm::LeastLatency, Algorithm::RoundRobin, Algorithm::Random];

#[test]
fn every_algorithm_spreads_evenly_over_those_that_will_do() {
    for algorithm in EVEN {
        let mut bench = Bench::with(1, algorithm.clone());
        let balancer = bench.balancer(&endpoints(5));
        for share in bench.shares(&balancer, 100_000) {
            assert!((19_500..=20_500).contains(&share), "{algorithm:?}: {share}");
        }
        eject(&bench, &balancer, 2);
        let shares = bench.shares(&balancer, 100_000);
        assert_eq!(shares[2], 0, "{algorithm:?}");
        for share in [0, 1, 3, 4].map(|index| shares[index]) {
            assert!((24_400..=25_600).contains(&share), "{algorithm:?}: {shares:?}");
        }
    }
}

#[test]
fn an_ejected_endpoint_comes_back_through_one_probe() {
    for algorithm in EVEN {
        let mut bench = Bench::with(2, algorithm);
        let balancer = bench.balancer(&endpoints(4));
        eject(&bench, &balancer, 3);
        bench.advance(10_000);
        let mut probes = Vec::new();
        for _ in 0..1_000 {
            let picked = bench.pick(&balancer).unwrap();
            if picked.endpoint.port == 3 {
                probes.push(picked.begin(bench.now));
            }
        }
        assert_eq!(probes.len(), 1, "others still avoid it");
        balancer.on_result(&mut probes[0], Outcome::Success, bench.now);
        drop(probes);
        let shares = bench.shares(&balancer, 1_000);
        assert!(shares[3] > 150, "{shares:?}");
    }
}

#[test]
fn a_loaded_endpoint_gets_less_and_load_spreads_evenly() {
    let mut bench = Bench::new(3);
    let endpoints = endpoints(5);
    let balancer = bench.balancer(&endpoints);
    let held: Vec<_> = (0..100).map(|_| endpoints[0].load.begin()).collect();
    assert_eq!(
        bench.shares(&balancer, 10_000)[0],
        0,
        "whatever it is drawn against has less"
    );
    drop(held);
    let held: Vec<_> = (0..1_000)
        .map(|_| {
            let now = bench.now;
            bench.pick(&balancer).unwrap().begin(now)
        })
        .collect();
    for endpoint in &endpoints {
        assert!((190..=210).contains(&endpoint.load.in_flight()));
    }
    drop(held);
    assert!(endpoints.iter().all(|endpoint| endpoint.load.in_flight() == 0));
}

#[test]
fn round_robin_takes_turns_and_begins_anywhere() {
    let mut firsts = std::collections::HashSet::new();
    for seed in 0..50 {
        let mut bench = Bench::with(seed, Algorithm::RoundRobin);
        let balancer = bench.balancer(&endpoints(4));
        let ports: Vec<_> = (0..8)
            .map(|_| bench.pick(&balancer).unwrap().endpoint.port)
            .collect();
        firsts.insert(ports[0]);
        for pair in ports.windows(2) {
            assert_eq!(pair[1], (pair[0] + 1) % 4);
        }
    }
    assert_eq!(firsts.len(), 4);
}

#[test]
fn what_was_tried_ejected_or_full_is_not_picked_and_the_reason_is_told() {
    for algorithm in [EVEN.as_slice(), &[by_hash()]].concat() {
        let mut bench = Bench::with(4, algorithm);
        bench.limit = Some(2);
        let endpoints = endpoints(4);
        let none = bench.balancer(&[]);
        assert_eq!(bench.pick(&none).unwrap_err(), NoPick::NoEndpoint);
        let balancer = bench.balancer(&endpoints);
        let mut tried = Vec::new();
        for key in 0..4 {
            let picked = bench.pick_with(&balancer, &tried, Some(key)).unwrap();
            assert!(!tried.contains(&picked.endpoint.uid));
            tried.push(picked.endpoint.uid.clone());
        }
        let why = |bench: &mut Bench, tried: &[u16]| {
            let tried = uids(tried);
            bench.pick_with(&balancer, &tried, Some(7)).unwrap_err()
        };
        assert_eq!(why(&mut bench, &[0, 1, 2, 3]), NoPick::AllTried);
        eject(&bench, &balancer, 0);
        eject(&bench, &balancer, 1);
        for key in 0..100 {
            let picked = bench.pick_with(&balancer, &[], Some(key)).unwrap();
            assert!(picked.endpoint.port >= 2);
        }
        assert_eq!(why(&mut bench, &[2, 3]), NoPick::AllEjected);
        let held = [2, 2].map(|port| endpoints[port].load.begin());
        for key in 0..100 {
            let picked = bench.pick_with(&balancer, &[], Some(key)).unwrap();
            assert_eq!(picked.endpoint.port, 3);
        }
        assert_eq!(why(&mut bench, &[3]), NoPick::AllFull);
        drop(held);
        assert!(bench.pick_with(&balancer, &uids(&[3]), Some(7)).is_ok());
    }
}

#[test]
fn if_too_few_are_left_all_are_used_unless_the_policy_never_panics() {
    for algorithm in EVEN {
        let mut bench = Bench::with(5, algorithm.clone());
        bench.ejection.max_percent = 100;
        let all = endpoints(4);
        let balancer = bench.balancer(&all);
        eject(&bench, &balancer, 0);
        eject(&bench, &balancer, 1);
        assert_eq!(bench.shares(&balancer, 1_000)[..2], [0, 0], "half is not too few");
        eject(&bench, &balancer, 2);
        // What they failed would keep the least latency from them.
        all.iter().for_each(|endpoint| endpoint.load.on_recovery());
        for share in bench.shares(&balancer, 10_000) {
            assert!((2_200..2_800).contains(&share), "{algorithm:?}: {share}");
        }
        eject(&bench, &balancer, 3);
        assert!(bench.pick(&balancer).is_ok());
        bench.ejection.panic_percent = 0;
        let balancer = bench.balancer(&all);
        assert_eq!(bench.pick(&balancer).unwrap_err(), NoPick::AllEjected);
        bench.advance(10_000);
        let probes: Vec<_> = (0..4)
            .map(|_| bench.pick(&balancer).unwrap().endpoint.port)
            .collect();
        assert_eq!(
            std::collections::HashSet::<u16>::from_iter(probes).len(),
            4,
            "one each"
        );
        assert_eq!(bench.pick(&balancer).unwrap_err(), NoPick::AllEjected);
    }
}

#[test]
fn a_request_whose_result_is_not_told_does_not_probe() {
    let mut bench = Bench::with(21, Algorithm::Random);
    bench.ejection.max_percent = 100;
    let balancer = bench.balancer(&endpoints(4));
    eject(&bench, &balancer, 0);
    bench.advance(10_000);
    let mut copies = |now| {
        let copy = Pick {
            tried: &[],
            key: None,
            may_probe: false,
            now,
        };
        let picks = (0..100).filter(|_| balancer.pick(&copy, &mut bench.rng).unwrap().endpoint.port == 0);
        picks.count()
    };
    let now = bench.now;
    assert_eq!(copies(now), 0);
    assert_eq!(
        member(&balancer, 0).health.admission(ticks::millis(now)),
        Admission::Due
    );
    for port in 1..4 {
        for _ in 0..5 {
            let mut in_flight = picked(&balancer, port).begin(now);
            balancer.on_result(&mut in_flight, Outcome::Failure, now);
        }
    }
    assert!(copies(now) > 10, "all are used");
    assert_eq!(
        member(&balancer, 0).health.admission(ticks::millis(now)),
        Admission::Due
    );
}

#[test]
fn only_endpoints_with_all_labels_of_the_subset_are_picked() {
    let mut bench = Bench::new(6);
    bench.policy.subset.insert("app", "web").unwrap();
    bench.policy.subset.insert("version", "2").unwrap();
    let make = |number: u16| {
        let mut endpoint = endpoint(number);
        endpoint.labels.insert("app", "web").unwrap();
        endpoint
            .labels
            .insert("version", &(number % 3).to_string())
            .unwrap();
        Arc::new(endpoint)
    };
    let all: Vec<_> = (0..6).map(make).collect();
    let balancer = bench.balancer(&all);
    let shares = bench.shares(&balancer, 1_000);
    assert_eq!([0, 1, 3, 4].map(|index| shares[index]), [0; 4]);
    assert!(shares[2] > 400 && shares[5] > 400);
    let others = balancer.explain(bench.now);
    let others = others.iter().filter(|one| one.standing == Standing::OtherSubset);
    assert_eq!(others.count(), 4);
    bench.policy.subset.insert("version", "9").unwrap();
    let balancer = bench.balancer(&all);
    assert_eq!(bench.pick(&balancer).unwrap_err(), NoPick::NoEndpoint);
}

#[test]
fn a_key_stays_where_it_is_and_only_those_of_an_ejected_endpoint_move() {
    let mut bench = Bench::with(7, by_hash());
    let all = endpoints(10);
    let balancer = bench.balancer(&all);
    let ports = |bench: &mut Bench, balancer: &Balancer| -> Vec<u16> {
        let port = |key| bench.pick_with(balancer, &[], Some(key)).unwrap().endpoint.port;
        (0..100_000).map(port).collect()
    };
    let before = ports(&mut bench, &balancer);
    for port in 0..10 {
        let keys = before.iter().filter(|other| **other == port).count();
        assert!((9_500..10_500).contains(&keys), "{keys}");
    }
    let mut reversed = all.clone();
    reversed.reverse();
    let other = Bench::with(7, by_hash()).balancer(&reversed);
    assert_eq!(ports(&mut bench, &other), before, "in any order");

    eject(&bench, &balancer, 4);
    let after = ports(&mut bench, &balancer);
    let mut moved = [0; 10];
    for (before, after) in before.iter().zip(&after) {
        assert_ne!(*after, 4);
        match *before {
            4 => moved[usize::from(*after)] += 1,
            other => assert_eq!(other, *after, "no other key moves"),
        }
    }
    for (port, moved) in moved.iter().enumerate() {
        assert!(
            port == 4 || (900..1_350).contains(moved),
            "spread over all others: {moved}"
        );
    }

    let without: Vec<_> = all
        .iter()
        .filter(|endpoint| endpoint.port != 4)
        .cloned()
        .collect();
    let other = Bench::with(7, by_hash()).balancer(&without);
    let after = ports(&mut bench, &other);
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after)
        .count();
    assert!(moved < 12_000, "a tenth and little more: {moved}");
}

#[test]
fn a_key_that_was_tried_goes_to_the_same_next_one_and_none_goes_anywhere() {
    let mut bench = Bench::with(8, by_hash());
    let balancer = bench.balancer(&endpoints(5));
    for key in 0..100 {
        let first = bench
            .pick_with(&balancer, &[], Some(key))
            .unwrap()
            .endpoint
            .uid
            .clone();
        let mut next = || {
            let picked = bench.pick_with(&balancer, std::slice::from_ref(&first), Some(key));
            picked.unwrap().endpoint.port
        };
        assert_eq!(next(), next());
    }
    assert!(bench.shares(&balancer, 10_000).iter().all(|share| *share > 1_800));
}

#[test]
fn the_key_of_a_request_is_of_the_hash_that_the_policy_names() {
    let bench = Bench::with(9, by_hash());
    let (headers, source) = (HeaderMap::new(), Some(IpAddr::from([10, 0, 0, 1])));
    let balancer = bench.balancer(&endpoints(2));
    assert_eq!(
        balancer.key(&headers, source),
        hash::key(&HashKey::Source, &headers, source)
    );
    assert!(balancer.key(&headers, source).is_some());
    let balancer = Bench::new(9).balancer(&endpoints(2));
    assert_eq!(balancer.key(&headers, source), None);
}

/// A balancer with two warm endpoints, and one that has just come.
fn with_a_new_one(bench: &mut Bench) -> Balancer {
    bench.policy.slow_start = Some(Duration::from_secs(100));
    bench.balancer(&endpoints(2));
    bench.advance(1_000);
    bench.balancer(&endpoints(3))
}

#[test]
fn the_share_of_a_new_endpoint_grows_over_the_window() {
    for algorithm in EVEN {
        let mut bench = Bench::with(10, algorithm.clone());
        let balancer = with_a_new_one(&mut bench);
        for (seconds, weight) in [
            (0, 0.1),
            (10, 0.1),
            (25, 0.25),
            (50, 0.5),
            (75, 0.75),
            (100, 1.0),
            (500, 1.0),
        ] {
            let begin = bench.now;
            bench.advance(seconds * 1_000);
            let shares = bench.shares(&balancer, 100_000);
            let expected = weight / (2.0 + weight) * 100_000.0;
            let got = shares[2] as f64;
            assert!(
                (got / expected - 1.0).abs() < 0.1,
                "{algorithm:?} at {seconds}: {got} for {expected}"
            );
            assert!(shares[0].abs_diff(shares[1]) < 2_000, "{shares:?}");
            bench.now = begin;
        }
    }
}

#[test]
fn keys_move_to_a_new_endpoint_one_after_the_other_and_each_once() {
    let mut bench = Bench::with(11, by_hash());
    let balancer = with_a_new_one(&mut bench);
    let mut arrived = vec![false; 10_000];
    let mut counts = Vec::new();
    for _ in 0..=10 {
        for (key, arrived) in (0_u64..).zip(&mut arrived) {
            let there = bench.pick_with(&balancer, &[], Some(key)).unwrap().endpoint.port == 2;
            assert!(there || !*arrived, "none goes back");
            *arrived = there;
        }
        counts.push(arrived.iter().filter(|arrived| **arrived).count());
        bench.advance(10_000);
    }
    assert!((250..450).contains(&counts[0]), "{counts:?}");
    assert!((1_500..1_850).contains(&counts[5]), "{counts:?}");
    assert!((3_100..3_600).contains(&counts[10]), "{counts:?}");
}

#[test]
fn an_endpoint_that_comes_back_starts_slowly_and_a_whole_fleet_does_not() {
    let mut bench = Bench::with(12, Algorithm::Random);
    bench.policy.slow_start = Some(Duration::from_secs(100));
    let share = |bench: &Bench, balancer: &Balancer, port| {
        balancer.share(member(balancer, port), ticks::millis(bench.now))
    };
    let balancer = bench.balancer(&endpoints(4));
    assert!(
        (0..4).all(|port| share(&bench, &balancer, port) == 1.0),
        "all at once"
    );
    let balancer = bench.balancer(&endpoints(9));
    assert!(
        (0..9).all(|port| share(&bench, &balancer, port) == 1.0),
        "most at once"
    );
    eject(&bench, &balancer, 3);
    bench.advance(10_000);
    let mut probe = loop {
        let picked = bench.pick(&balancer).unwrap();
        if picked.probe.is_some() {
            break picked.begin(bench.now);
        }
    };
    balancer.on_result(&mut probe, Outcome::Success, bench.now);
    assert_eq!(share(&bench, &balancer, 3), 0.1);
    bench.advance(40_000);
    let balancer = bench.balancer(&endpoints(9));
    assert_eq!(
        share(&bench, &balancer, 3),
        0.4,
        "another snapshot changes nothing"
    );
    bench.policy.slow_start = None;
    let balancer = bench.balancer(&endpoints(9));
    assert_eq!(share(&bench, &balancer, 3), 1.0);
}

fn at(number: u16, region: &str, zone: &str) -> Arc<Endpoint> {
    let mut locality = Locality::new(region.to_owned());
    locality.zone = Some(zone.to_owned());
    let mut endpoint = endpoint(number);
    endpoint.locality = Some(locality);
    Arc::new(endpoint)
}

#[test]
fn near_ones_come_first_and_a_growing_part_goes_further_as_they_fail() {
    let zones = [("r", "z"), ("r", "y"), ("q", "z")];
    let all: Vec<_> = (0..30)
        .map(|number| {
            let (region, zone) = zones[usize::from(number / 10)];
            at(number, region, zone)
        })
        .collect();
    for algorithm in [EVEN.as_slice(), &[by_hash()]].concat() {
        let mut bench = Bench::with(13, algorithm.clone());
        bench.home.clone_from(&all[0].locality);
        let balancer = bench.balancer(&all);
        let mut curve = Vec::new();
        for ejected in 0..=10 {
            let mut zone = 0;
            for key in 0..10_000 {
                let picked = bench.pick_with(&balancer, &[], Some(key)).unwrap();
                assert!(picked.endpoint.port < 20, "the next zone is well");
                zone += u32::from(picked.endpoint.port < 10);
            }
            curve.push(zone / 100);
            if ejected < 10 {
                eject(&bench, &balancer, ejected);
            }
        }
        for (got, expected) in curve
            .iter()
            .zip([100_u32, 100, 100, 100, 85, 71, 57, 42, 28, 14, 0])
        {
            assert!(got.abs_diff(expected) <= 2, "{algorithm:?}: {curve:?}");
        }
        bench.facts = Arc::default();
        all.iter().for_each(|endpoint| endpoint.load.on_recovery());
        bench.policy.locality = LocalityMode::Ignore;
        let balancer = bench.balancer(&all);
        let far = (0..3_000).filter(|key| {
            let picked = bench.pick_with(&balancer, &[], Some(*key)).unwrap();
            picked.endpoint.port >= 20
        });
        assert!((900..1_100).contains(&far.count()), "all alike");
    }
}

#[test]
fn where_near_ones_are_tried_or_full_the_next_come_and_in_a_panic_all_are_alike() {
    let all = [at(0, "r", "z"), at(1, "r", "z"), at(2, "r", "y"), at(3, "q", "z")];
    let mut bench = Bench::new(14);
    bench.home.clone_from(&all[0].locality);
    bench.limit = Some(1);
    bench.ejection.max_percent = 100;
    let balancer = bench.balancer(&all);
    let port = |bench: &mut Bench, tried: &[u16]| {
        let tried = uids(tried);
        bench.pick_with(&balancer, &tried, None).unwrap().endpoint.port
    };
    assert_eq!(port(&mut bench, &[1]), 0);
    assert_eq!(port(&mut bench, &[0, 1]), 2);
    let held = all[0].load.begin();
    assert_eq!(port(&mut bench, &[1]), 2);
    assert_eq!(port(&mut bench, &[1, 2]), 3);
    drop(held);
    for port in 0..3 {
        eject(&bench, &balancer, port);
    }
    for share in bench.shares(&balancer, 10_000) {
        assert!((2_300..2_700).contains(&share), "{share}");
    }
}

/// Three endpoints, of which the first fails everything at once while the others take 50 ms; so many requests a second
/// for a minute, without ejection. How many of a thousand fail.
fn black_hole(seed: u64, requests: u64, was_well: bool) -> u64 {
    let mut bench = Bench::new(seed);
    bench.ejection.consecutive_failures = 0;
    let balancer = bench.balancer(&endpoints(3));
    if was_well {
        let mut in_flight = picked(&balancer, 0).begin(bench.now);
        bench.advance(50);
        balancer.on_result(&mut in_flight, Outcome::Success, bench.now);
    }
    let mut under_way = std::collections::VecDeque::new();
    let mut failed = 0;
    let (begin, all) = (bench.now, requests * 60);
    for number in 0..all {
        bench.now = begin + Duration::from_micros(number * 1_000_000 / requests);
        while let Some((end, _)) = under_way.front()
            && *end <= bench.now
            && let Some((end, mut in_flight)) = under_way.pop_front()
        {
            balancer.on_result(&mut in_flight, Outcome::Success, end);
        }
        let now = bench.now;
        let picked = bench.pick(&balancer).unwrap();
        let broken = picked.endpoint.port == 0;
        let mut in_flight = picked.begin(now);
        match broken {
            true => {
                failed += 1;
                let end = now + Duration::from_micros(100);
                balancer.on_result(&mut in_flight, Outcome::Failure, end);
            }
            false => under_way.push_back((now + Duration::from_millis(50), in_flight)),
        }
    }
    failed * 1_000 / all
}

#[test]
fn a_black_hole_that_answers_at_once_does_not_attract_load() {
    for was_well in [false, true] {
        for (requests, most) in [(20, 20), (200, 10), (2_000, 3)] {
            let failed = black_hole(15, requests, was_well);
            assert!(
                failed <= most,
                "{failed} of 1,000 at {requests} a second ({was_well})"
            );
        }
    }
}

#[test]
fn what_was_not_answered_has_no_latency_and_a_failure_after_the_head_is_one_more() {
    let bench = Bench::new(16);
    let balancer = bench.balancer(&endpoints(2));
    let later = bench.now + Duration::from_secs(60);
    let load = &member(&balancer, 0).endpoint.load;
    let millis = |now| {
        load.latency(ticks::millis(now))
            .map(|latency| latency.as_millis())
    };
    drop(picked(&balancer, 0).begin(bench.now));
    assert_eq!(millis(later), None);
    let mut in_flight = picked(&balancer, 0).begin(later);
    balancer.on_result(&mut in_flight, Outcome::Success, later + Duration::from_millis(7));
    balancer.on_result(&mut in_flight, Outcome::Success, later + Duration::from_secs(9));
    let end = later + Duration::from_secs(10);
    for _ in 0..4 {
        balancer.on_result(&mut in_flight, Outcome::Failure, end);
    }
    assert_eq!(millis(end), Some(7), "how long the content took says nothing");
    assert!(load.failing(ticks::millis(end)) > 0.5);
    assert!(member(&balancer, 0).health.is_admitted());
    balancer.on_result(&mut in_flight, Outcome::Failure, end);
    assert!(!member(&balancer, 0).health.is_admitted());
    assert_eq!(load.in_flight(), 1);
}

#[test]
fn explain_says_why() {
    let mut bench = Bench::new(17);
    bench.limit = Some(1);
    bench.ejection.base_time = Duration::from_secs(2);
    let all = endpoints(8);
    let balancer = bench.balancer(&all);
    eject(&bench, &balancer, 1);
    eject(&bench, &balancer, 2);
    bench.advance(1_000);
    eject(&bench, &balancer, 3);
    bench.advance(1_000);
    let _probe = member(&balancer, 2)
        .health
        .claim(ticks::millis(bench.now))
        .unwrap();
    let _held = all[4].load.begin();
    let standings: Vec<_> = balancer
        .explain(bench.now)
        .iter()
        .map(|one| one.standing)
        .collect();
    let expected = [
        Standing::Eligible,
        Standing::ProbeDue,
        Standing::Probing { until: 5_000 },
        Standing::Ejected { until: 1_000 },
        Standing::Full,
    ];
    assert_eq!(standings[..5], expected);
    let shown = balancer.explain(bench.now)[3].to_json();
    assert_eq!(shown["standing"], "ejected");
    assert_eq!(shown["untilMillis"], 1_000);
    assert_eq!(shown["locality"], "any");
    assert_eq!(shown["localityPercent"], 100);
}

#[test]
fn with_threads_one_request_probes() {
    let bench = Bench::with(18, Algorithm::Random);
    let balancer = bench.balancer(&endpoints(4));
    eject(&bench, &balancer, 0);
    let due = bench.now + bench.ejection.base_time;
    let probes = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let (balancer, probes) = (&balancer, &probes);
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed);
                for _ in 0..2_000 {
                    let request = Pick {
                        tried: &[],
                        key: None,
                        may_probe: true,
                        now: due,
                    };
                    if balancer.pick(&request, &mut rng).unwrap().endpoint.port == 0 {
                        probes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(probes.into_inner(), 1);
    assert!(matches!(
        member(&balancer, 0).health.phase(),
        Phase::Probing { .. }
    ));
}

fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop::sample::select([EVEN.as_slice(), &[by_hash()]].concat())
}

proptest! {
    #[test]
    fn there_is_always_one_unless_the_policy_never_panics(
        algorithm in algorithm(),
        count in 1_u16..12,
        max_percent in 0_u8..=100,
        panic_percent in 1_u8..=100,
        slow_start in prop_oneof![0_u64..1, 1_u64..60],
        near in 0_u16..12,
        steps in prop::collection::vec((any::<u64>(), 0_u64..3_000, prop::bool::weighted(0.8)), 0..300),
    ) {
        let mut bench = Bench::with(19, algorithm);
        bench.ejection.max_percent = max_percent;
        bench.ejection.panic_percent = panic_percent;
        bench.ejection.consecutive_failures = 2;
        bench.policy.slow_start = Some(Duration::from_secs(slow_start));
        let endpoint = |number| at(number, "r", if number < near { "z" } else { "y" });
        let all: Vec<_> = (0..count).map(endpoint).collect();
        bench.home.clone_from(&at(0, "r", "z").locality);
        let balancer = bench.balancer(&all);
        for (key, wait, fails) in steps {
            bench.advance(wait);
            let key = (key % 2 == 0).then_some(key);
            let picked = bench.pick_with(&balancer, &[], key);
            prop_assert!(picked.is_ok(), "{picked:?}");
            let mut in_flight = picked.unwrap().begin(bench.now);
            let outcome = if fails { Outcome::Failure } else { Outcome::Success };
            balancer.on_result(&mut in_flight, outcome, bench.now);
        }
    }
}

#[test]
fn a_table_is_made_once_for_the_same_endpoints() {
    let mut bench = Bench::with(20, by_hash());
    let table = |balancer: &Balancer, tier: usize| balancer.tables.as_ref().unwrap()[tier].clone();
    let (first, second) = (bench.balancer(&endpoints(3)), bench.balancer(&endpoints(3)));
    assert!(Arc::ptr_eq(&table(&first, 3), &table(&second, 3)));
    let third = bench.balancer(&endpoints(4));
    assert!(!Arc::ptr_eq(&table(&first, 3), &table(&third, 3)));
    for key in 0..100 {
        let picked = bench.pick_with(&third, &[], Some(key)).unwrap();
        let index = table(&third, 3).get(key).unwrap();
        assert_eq!(picked.endpoint.uid, third.members[index].endpoint.uid);
    }
}
