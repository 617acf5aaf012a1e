//! Shares, limits and order, by seeded chance.

use std::time::Duration;

use rand::{SeedableRng, rngs::StdRng};

use super::{testing::endpoints, *};

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
        self.pick_with(balancer, &[], None)
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

fn eject(bench: &mut Bench, balancer: &Balancer, port: u16) {
    for _ in 0..bench.ejection.consecutive_failures {
        let member = balancer
            .members
            .iter()
            .find(|member| member.endpoint.port == port)
            .unwrap();
        let picked = Picked {
            endpoint: &member.endpoint,
            health: &member.health,
            probe: None,
        };
        let mut in_flight = picked.begin(bench.now);
        balancer.on_result(&mut in_flight, Outcome::Failure, bench.now);
    }
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
        eject(&mut bench, &balancer, 2);
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
        eject(&mut bench, &balancer, 3);
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
