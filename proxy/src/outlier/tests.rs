//! The ejector against a model that is written as plainly as possible, and what holds whatever happens.

use proptest::prelude::*;

use super::*;
use crate::balance::testing::endpoints;

const LEASE: u64 = 5_000;

/// One endpoint, as the model has it. Times are milliseconds since the beginning.
#[derive(Clone, Debug, Default)]
struct Modelled {
    state: Modelling,
    /// Ejections that are remembered.
    ejections: u32,
    in_a_row: u32,
    requests: u64,
    failures: u64,
    micros: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Modelling {
    In { since: Option<u64> },
    Out { until: u64 },
    Probed { until: u64 },
}

impl Default for Modelling {
    fn default() -> Self {
        Self::In { since: None }
    }
}

#[derive(Debug)]
struct Model {
    endpoints: Vec<Modelled>,
    config: OutlierEjection,
    interval_end: Option<u64>,
}

impl Model {
    fn ejected(&self) -> usize {
        let is_out = |endpoint: &&Modelled| !matches!(endpoint.state, Modelling::In { .. });
        self.endpoints.iter().filter(is_out).count()
    }

    fn most(&self) -> usize {
        match self.endpoints.len() {
            1 => 0,
            count => count * usize::from(self.config.max_percent) / 100,
        }
    }

    fn length(&self, ejections: u32) -> u64 {
        let length = self.config.base_time.as_millis() << ejections.saturating_sub(1).min(20);
        length.min(self.config.max_time.as_millis()) as u64
    }

    fn eject(&mut self, index: usize, now: u64) {
        if self.ejected() >= self.most() {
            return;
        }
        let Modelling::In { since } = self.endpoints[index].state else {
            return;
        };
        let mut ejections = self.endpoints[index].ejections;
        if let Some(since) = since {
            let mut healthy = now - since;
            while ejections > 0 && healthy >= self.length(ejections).max(1) {
                healthy -= self.length(ejections).max(1);
                ejections -= 1;
            }
        }
        ejections += 1;
        let until = now + self.length(ejections);
        self.endpoints[index] = Modelled {
            state: Modelling::Out { until },
            ejections,
            ..Modelled::default()
        };
    }

    fn on_result(&mut self, index: usize, fails: bool, millis: u64, now: u64) {
        self.judge(now);
        let endpoint = &mut self.endpoints[index];
        if !matches!(endpoint.state, Modelling::In { .. }) {
            return;
        }
        endpoint.requests += 1;
        if !fails {
            endpoint.in_a_row = 0;
            endpoint.micros += millis * 1_000;
            return;
        }
        endpoint.failures += 1;
        endpoint.in_a_row += 1;
        let limit = self.config.consecutive_failures;
        if limit > 0 && endpoint.in_a_row >= limit {
            self.eject(index, now);
        }
    }

    fn judge(&mut self, now: u64) {
        if self.interval_end.is_some_and(|end| now < end) {
            return;
        }
        self.interval_end = Some(now + self.config.interval.as_millis() as u64);
        let counts: Vec<_> = self
            .endpoints
            .iter_mut()
            .map(|endpoint| judge::Counts {
                requests: std::mem::take(&mut endpoint.requests),
                failures: std::mem::take(&mut endpoint.failures),
                micros: std::mem::take(&mut endpoint.micros),
            })
            .collect();
        for index in judge::outliers(&counts, &self.config) {
            self.eject(index, now);
        }
    }

    fn claim(&mut self, index: usize, now: u64) -> bool {
        let state = &mut self.endpoints[index].state;
        match *state {
            Modelling::Out { until } | Modelling::Probed { until } if until <= now => {
                *state = Modelling::Probed { until: now + LEASE };
                true
            }
            _ => false,
        }
    }

    /// The result of the only probe that may be on its way.
    fn on_probe(&mut self, index: usize, fails: bool, now: u64) {
        let ejections = self.endpoints[index].ejections + u32::from(fails);
        let until = now + self.length(ejections);
        self.endpoints[index] = Modelled {
            state: match fails {
                true => Modelling::Out { until },
                false => Modelling::In { since: Some(now) },
            },
            ejections,
            ..Modelled::default()
        };
    }
}

/// The code under test, with what the test holds of it.
struct Bench {
    ejector: Ejector,
    healths: Vec<Arc<Health>>,
    probes: Vec<Option<Probe>>,
    start: Instant,
    now: u64,
}

impl Bench {
    fn new(config: &OutlierEjection, count: u16) -> Self {
        let start = Instant::now();
        let endpoints = endpoints(count);
        let (ejector, healths) = Ejector::new(config, Arc::default(), &endpoints, false, start);
        Self {
            ejector,
            probes: healths.iter().map(|_| None).collect(),
            healths,
            start,
            now: 0,
        }
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    fn ticks(&self) -> u64 {
        ticks::millis(self.instant())
    }

    fn reconfigure(&mut self, config: &OutlierEjection, count: u16) {
        let facts = self.ejector.facts.clone();
        let (ejector, healths) = Ejector::new(config, facts, &endpoints(count), false, self.instant());
        self.ejector = ejector;
        self.healths = healths;
    }

    fn result(&mut self, index: usize, outcome: Outcome) {
        self.ejector.on_result(
            &self.healths[index],
            None,
            outcome,
            Duration::ZERO,
            self.instant(),
        );
    }

    fn fail(&mut self, index: usize, times: u32) {
        (0..times).for_each(|_| self.result(index, Outcome::Failure));
    }

    /// Probes it, if that is due; whether it was.
    fn probe(&mut self, index: usize, outcome: Outcome) -> bool {
        let Some(probe) = self.healths[index].claim(self.ticks()) else {
            return false;
        };
        let health = &self.healths[index];
        self.ejector
            .on_result(health, Some(&probe), outcome, Duration::ZERO, self.instant());
        true
    }

    fn ejected(&self) -> Vec<usize> {
        let all = self.healths.iter().enumerate();
        all.filter(|(_, health)| !health.is_admitted())
            .map(|(index, _)| index)
            .collect()
    }

    /// For how long it is ejected from now.
    fn left(&self, index: usize) -> Option<u64> {
        match self.healths[index].phase() {
            Phase::Ejected { until } => Some(until - self.ticks()),
            Phase::Admitted { .. } | Phase::Probing { .. } => None,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Result {
        index: usize,
        fails: bool,
        millis: u64,
    },
    /// Several at once, as a broken endpoint has them.
    Failures {
        index: usize,
        count: u32,
    },
    Wait {
        millis: u64,
    },
    Claim {
        index: usize,
    },
    ProbeResult {
        index: usize,
        fails: bool,
    },
}

fn step(count: usize) -> impl Strategy<Value = Step> {
    let index = 0..count;
    prop_oneof![
        6 => (index.clone(), prop::bool::weighted(0.3), 0_u64..100)
            .prop_map(|(index, fails, millis)| Step::Result { index, fails, millis }),
        2 => (index.clone(), 1_u32..8).prop_map(|(index, count)| Step::Failures { index, count }),
        3 => prop_oneof![0_u64..50, 0_u64..2_000, 0_u64..60_000].prop_map(|millis| Step::Wait { millis }),
        3 => index.clone().prop_map(|index| Step::Claim { index }),
        3 => (index, any::<bool>()).prop_map(|(index, fails)| Step::ProbeResult { index, fails }),
    ]
}

prop_compose! {
    fn config()(
        consecutive_failures in prop_oneof![Just(0_u32), 1_u32..6],
        success_rate in prop::option::of(1_u8..=100),
        latency_factor in prop::option::of(2_u32..5),
        interval in 1_u64..3_000,
        min_requests in 0_u32..6,
        base_time in 0_u64..20_000,
        longer in 0_u64..100_000,
        max_percent in 0_u8..=100,
        panic_percent in 0_u8..=100,
    ) -> OutlierEjection {
        let mut config = OutlierEjection::default();
        config.consecutive_failures = consecutive_failures;
        config.success_rate = success_rate;
        config.latency_factor = latency_factor;
        config.interval = Duration::from_millis(interval);
        config.min_requests = min_requests;
        config.base_time = Duration::from_millis(base_time);
        config.max_time = Duration::from_millis(base_time + longer);
        config.max_percent = max_percent;
        config.panic_percent = panic_percent;
        config
    }
}

fn steps() -> impl Strategy<Value = (u16, Vec<Step>)> {
    (1_u16..7).prop_flat_map(|count| (Just(count), prop::collection::vec(step(count.into()), 0..200)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn it_does_what_the_model_does(
        // Whether it is on at all is a rule of its own.
        config in config().prop_filter("on", |config| {
            config.consecutive_failures > 0 || config.success_rate.is_some() || config.latency_factor.is_some()
        }),
        (count, steps) in steps(),
    ) {
        let mut bench = Bench::new(&config, count);
        let mut model = Model { endpoints: vec![Modelled::default(); count.into()], config, interval_end: None };
        for step in steps {
            match step {
                Step::Result { index, fails, millis } => {
                    let outcome = if fails { Outcome::Failure } else { Outcome::Success };
                    let latency = Duration::from_millis(millis);
                    bench.ejector.on_result(&bench.healths[index], None, outcome, latency, bench.instant());
                    model.on_result(index, fails, millis, bench.now);
                }
                Step::Failures { index, count } => {
                    bench.fail(index, count);
                    (0..count).for_each(|_| model.on_result(index, true, 0, bench.now));
                }
                Step::Wait { millis } => bench.now += millis,
                Step::Claim { index } => {
                    let probe = bench.healths[index].claim(bench.ticks());
                    prop_assert_eq!(probe.is_some(), model.claim(index, bench.now));
                    if probe.is_some() {
                        bench.probes[index] = probe;
                    }
                }
                Step::ProbeResult { index, fails } => {
                    if let Some(probe) = bench.probes[index].take() {
                        let outcome = if fails { Outcome::Failure } else { Outcome::Success };
                        let health = &bench.healths[index];
                        bench.ejector.on_result(health, Some(&probe), outcome, Duration::ZERO, bench.instant());
                        model.on_probe(index, fails, bench.now);
                    }
                }
            }
            let begin = ticks::millis(bench.start);
            for (health, modelled) in bench.healths.iter().zip(&model.endpoints) {
                let expected = match modelled.state {
                    Modelling::In { since } => Phase::Admitted { since: since.map_or(0, |since| begin + since) },
                    Modelling::Out { until } => Phase::Ejected { until: begin + until },
                    Modelling::Probed { until } => Phase::Probing { until: begin + until },
                };
                prop_assert_eq!(health.phase(), expected);
            }
            prop_assert_eq!(bench.ejector.ejected() as usize, model.ejected());
            prop_assert!(model.ejected() <= model.most());
        }
    }

    #[test]
    fn never_more_than_the_limit_whatever_the_policy_and_the_endpoints_become(
        first in config(),
        rounds in prop::collection::vec((config(), steps()), 1..5),
    ) {
        let mut bench = Bench::new(&first, 6);
        for (config, (count, steps)) in rounds {
            // What is under way with the old snapshot reports to the old ejector.
            let old = std::mem::replace(&mut bench, Bench::new(&first, 1));
            bench.start = old.start;
            bench.now = old.now;
            bench.ejector = old.ejector;
            let old_healths = old.healths;
            let facts = bench.ejector.facts.clone();
            let (ejector, healths) = Ejector::new(&config, facts, &endpoints(count), false, bench.instant());
            let old = std::mem::replace(&mut bench.ejector, ejector);
            bench.healths = healths;
            let most = bench.ejector.most() as usize;
            for step in steps {
                match step {
                    Step::Result { index, .. } => {
                        if let Some(health) = old_healths.get(index) {
                            old.on_result(health, None, Outcome::Failure, Duration::ZERO, bench.instant());
                        }
                    }
                    Step::Failures { index, count } => bench.fail(index, count),
                    Step::Wait { millis } => bench.now += millis,
                    Step::Claim { index } | Step::ProbeResult { index, .. } => {
                        bench.probe(index, Outcome::Success);
                    }
                }
                prop_assert_eq!(bench.ejector.ejected() as usize, bench.ejected().len());
                prop_assert!(bench.ejected().len() <= most, "{:?} of {}", bench.ejected(), most);
                let (total, ejected) = (bench.healths.len(), bench.ejected().len());
                prop_assert!(ejected < total || config.panic_percent == 0 || bench.ejector.panics());
            }
        }
    }
}

#[test]
fn five_failures_in_a_row_eject_and_a_success_between_them_does_not() {
    let mut bench = Bench::new(&OutlierEjection::default(), 3);
    bench.fail(1, 4);
    bench.result(1, Outcome::Success);
    bench.fail(1, 4);
    assert!(bench.ejected().is_empty());
    bench.fail(1, 1);
    assert_eq!(bench.ejected(), [1]);
    assert_eq!(bench.left(1), Some(10_000));
}

#[test]
fn half_are_ejected_at_most_and_one_alone_never() {
    for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let mut bench = Bench::new(&OutlierEjection::default(), count);
        for index in 0..usize::from(count) {
            bench.fail(index, 50);
        }
        assert_eq!(bench.ejected().len(), most, "of {count}");
    }
    let mut config = OutlierEjection::default();
    config.max_percent = 100;
    let mut bench = Bench::new(&config, 1);
    bench.fail(0, 50);
    assert!(bench.ejected().is_empty());
}

#[test]
fn the_time_doubles_up_to_its_limit_and_is_less_again_after_time_in_health() {
    let mut bench = Bench::new(&OutlierEjection::default(), 3);
    bench.fail(0, 5);
    let mut times = Vec::new();
    while times.len() < 7 {
        let left = bench.left(0).unwrap();
        times.push(left / 1_000);
        bench.now += left - 1;
        assert!(!bench.probe(0, Outcome::Failure), "not before its time");
        bench.now += 1;
        assert!(bench.probe(0, Outcome::Failure));
    }
    assert_eq!(times, [10, 20, 40, 80, 160, 300, 300]);
    bench.now += 300_000;
    assert!(bench.probe(0, Outcome::Success));
    assert!(bench.ejected().is_empty());
    // Eight are remembered. It was well for as long as the last four lasted: 3 x 300 s and 160 s.
    bench.now += 3 * 300_000 + 160_000;
    bench.fail(0, 5);
    assert_eq!(bench.left(0), Some(160_000), "the fifth");
}

#[test]
fn one_at_a_time_probes_and_one_that_is_lost_is_followed_by_another() {
    let mut bench = Bench::new(&OutlierEjection::default(), 2);
    bench.fail(0, 5);
    bench.now += 10_000;
    let first = bench.healths[0].claim(bench.ticks()).unwrap();
    bench.now += LEASE - 1;
    assert_eq!(bench.healths[0].admission(bench.ticks()), Admission::Closed);
    assert!(bench.healths[0].claim(bench.ticks()).is_none());
    bench.now += 1;
    let second = bench.healths[0].claim(bench.ticks()).unwrap();
    // The first was slow, not lost: it decides.
    let tell = |bench: &Bench, probe, outcome| {
        bench.ejector.on_result(
            &bench.healths[0],
            Some(probe),
            outcome,
            Duration::ZERO,
            bench.instant(),
        );
    };
    tell(&bench, &first, Outcome::Success);
    assert!(bench.ejected().is_empty());
    tell(&bench, &second, Outcome::Failure);
    assert!(
        bench.ejected().is_empty(),
        "what comes later is a result like others"
    );
}

#[test]
fn what_began_before_the_ejection_does_not_decide() {
    let mut bench = Bench::new(&OutlierEjection::default(), 2);
    bench.fail(0, 5);
    bench.now += 10_000;
    let probe = bench.healths[0].claim(bench.ticks()).unwrap();
    bench.result(0, Outcome::Success);
    assert_eq!(bench.ejected(), [0], "a late answer");
    bench.fail(0, 50);
    assert!(
        bench.left(0).is_none(),
        "a late failure: the probe is still on its way"
    );
    let health = &bench.healths[0];
    bench.ejector.on_result(
        health,
        Some(&probe),
        Outcome::Success,
        Duration::ZERO,
        bench.instant(),
    );
    assert!(bench.ejected().is_empty());
    bench.fail(0, 4);
    assert!(bench.ejected().is_empty(), "the late failures are forgotten");
}

#[test]
fn a_policy_that_changes_holds_for_what_was_ejected_before() {
    let mut config = OutlierEjection::default();
    config.max_percent = 100;
    let mut bench = Bench::new(&config, 4);
    for index in 0..4 {
        bench.fail(index, 5);
        bench.now += 100;
    }
    assert_eq!(bench.ejected(), [0, 1, 2, 3]);
    assert!(bench.ejector.panics());
    config.max_percent = 50;
    config.max_time = Duration::from_secs(3);
    bench.reconfigure(&config, 4);
    assert_eq!(bench.ejected(), [2, 3], "those whose time is over first are back");
    assert_eq!(bench.left(3), Some(3_000), "and the others sooner");
    bench.reconfigure(&config, 3);
    assert_eq!(bench.ejected(), [2], "one of three");
    config.consecutive_failures = 0;
    bench.reconfigure(&config, 3);
    assert!(bench.ejected().is_empty(), "off");
    bench.fail(0, 50);
    assert!(bench.ejected().is_empty());
}

#[test]
fn an_endpoint_that_goes_and_comes_back_is_a_new_one() {
    let mut bench = Bench::new(&OutlierEjection::default(), 4);
    bench.fail(3, 5);
    bench.reconfigure(&OutlierEjection::default(), 3);
    assert_eq!(bench.ejector.ejected(), 0);
    bench.reconfigure(&OutlierEjection::default(), 4);
    assert!(bench.ejected().is_empty());
}

#[test]
fn an_interval_is_judged_by_the_first_result_after_it() {
    let mut config = OutlierEjection::default();
    config.consecutive_failures = 0;
    config.success_rate = Some(80);
    let mut bench = Bench::new(&config, 3);
    for round in 0..30 {
        bench.result(0, Outcome::Success);
        bench.result(
            1,
            if round % 2 == 0 {
                Outcome::Failure
            } else {
                Outcome::Success
            },
        );
        bench.result(2, Outcome::Success);
    }
    bench.now += 9_999;
    bench.result(0, Outcome::Success);
    assert!(bench.ejected().is_empty());
    bench.now += 1;
    bench.result(0, Outcome::Success);
    assert_eq!(bench.ejected(), [1]);
}

#[test]
fn with_threads_one_probe_is_let_through_and_the_limit_holds() {
    let mut config = OutlierEjection::default();
    config.base_time = Duration::ZERO;
    let bench = Bench::new(&config, 8);
    let claimed = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8_u32 {
            let (bench, claimed) = (&bench, &claimed);
            scope.spawn(move || {
                for round in 0..2_000_u32 {
                    let health = &bench.healths[(round.wrapping_mul(7) + thread) as usize % 8];
                    let (now, zero) = (bench.instant(), Duration::ZERO);
                    bench.ejector.on_result(health, None, Outcome::Failure, zero, now);
                    assert!(bench.ejector.ejected() <= 4);
                    // Time stands still: no right to probe comes to an end.
                    if health.claim(bench.ticks()).is_some() {
                        claimed.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(bench.ejected().len(), 4);
    assert_eq!(claimed.load(Relaxed), 4, "one each");
}
