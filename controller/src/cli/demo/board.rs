//! What is known of the traffic: every request is counted once, by whom it went to and in which part of the demo it
//! began. Plain data: callers bring the time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    call::Answer,
    documents,
    plan::{self, Application, Member},
};

/// How far back a rate and a percentile look.
const WINDOW: Duration = Duration::from_secs(5);
/// A bound on what the window keeps, for rates far above those of a demo.
const MAX_RECENT: usize = 50_000;
/// Different reasons that are told apart, of one part.
const MAX_REASONS: usize = 20;

/// Who calls whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// HTTP/1.1 requests that may be repeated.
    Catalog,
    /// The same from testers.
    Testers,
    /// The same to the service of the first step.
    Stable,
    /// gRPC calls.
    Cart,
    /// HTTP/1.1 requests that must not be repeated.
    Checkout,
    /// TCP connections on which the server speaks first.
    Orders,
}

impl Flow {
    /// All of them, as they are listed.
    pub(super) const ALL: [Self; 6] = [
        Self::Catalog,
        Self::Testers,
        Self::Stable,
        Self::Cart,
        Self::Checkout,
        Self::Orders,
    ];

    /// Whose sidecar takes the requests.
    pub(super) fn from(self) -> &'static Member {
        match self {
            Self::Catalog | Self::Testers | Self::Stable | Self::Cart | Self::Checkout => &plan::FRONTEND,
            Self::Orders => &plan::CHECKOUT_0,
        }
    }

    /// Who answers them.
    pub(super) fn application(self) -> &'static Application {
        match self {
            Self::Catalog | Self::Testers | Self::Stable => &plan::CATALOG,
            Self::Cart => &plan::CART,
            Self::Checkout => &plan::CHECKOUT,
            Self::Orders => &plan::ORDERS,
        }
    }

    /// The service that is called.
    pub(super) fn service(self) -> &'static str {
        match self {
            Self::Stable => documents::STABLE,
            Self::Catalog | Self::Testers | Self::Cart | Self::Checkout | Self::Orders => {
                self.application().service
            }
        }
    }

    /// What the requests are for, as they are told apart: testers call the same service as others do.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Testers => "catalog, testers",
            other => other.service(),
        }
    }

    /// Whether it is there before any step.
    pub(super) fn is_from_the_start(self) -> bool {
        match self {
            Self::Testers | Self::Stable => false,
            Self::Catalog | Self::Cart | Self::Checkout | Self::Orders => true,
        }
    }

    /// What is spoken.
    pub(super) fn protocol(self) -> &'static str {
        match self {
            Self::Catalog | Self::Testers | Self::Stable | Self::Checkout => "HTTP/1.1",
            Self::Cart => "gRPC",
            Self::Orders => "TCP",
        }
    }
}

/// A part of the demo, whose requests are counted on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part(usize);

/// A request that was sent, until it is finished.
#[derive(Debug)]
pub(super) struct Sent {
    flow: Flow,
    part: Part,
    at: Instant,
}

/// What came of the requests of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// How many were sent.
    pub(super) requests: u64,
    /// How many had the right answer.
    pub(super) answered: u64,
    /// The others that have ended, by what was wrong.
    pub(super) failures: BTreeMap<String, u64>,
    /// What the slowest right answer took.
    pub(super) longest: Duration,
}

/// How a flow does at the moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Recent {
    /// Right answers a second.
    pub(super) rate: f64,
    /// Of all time.
    pub(super) answered: u64,
    /// Of all time.
    pub(super) failed: u64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    /// Right answers by the version that gave them, in percent, where an answer tells.
    pub(super) shares: BTreeMap<&'static str, u64>,
}

/// How one version of a service does.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Version {
    /// Right answers a second.
    pub(super) rate: f64,
    /// Of the right answers of all versions, in percent, at the moment.
    pub(super) share: u64,
    /// Of all time.
    pub(super) answered: u64,
    /// Wrong answers that tell that they are its own, of all time.
    pub(super) failed: u64,
    /// Of all right answers, those of each replica in percent, at the moment.
    pub(super) replicas: BTreeMap<&'static str, u64>,
}

/// What a workload has answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) answered: u64,
    pub(super) failed: u64,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Board {
    parts: Vec<Count>,
    flows: [FlowCount; Flow::ALL.len()],
    begun: Instant,
}

#[derive(Debug, Default)]
struct FlowCount {
    answered: u64,
    failed: u64,
    /// Of all time, by the workload that answered.
    by_member: BTreeMap<&'static str, (&'static Member, Told)>,
    recent: VecDeque<Right>,
}

/// A right answer.
#[derive(Clone, Copy, Debug)]
struct Right {
    at: Instant,
    took: Duration,
    by: Option<&'static Member>,
}

impl Board {
    /// Nothing yet, and a first part.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            parts: vec![Count::default()],
            flows: Default::default(),
            begun: now,
        }
    }

    /// Ends the present part: what is sent from now on counts for the one that is given.
    pub(super) fn next_part(&mut self) -> Part {
        self.parts.push(Count::default());
        self.part()
    }

    /// The present part.
    pub(super) fn part(&self) -> Part {
        Part(self.parts.len().saturating_sub(1))
    }

    /// What came of a part so far.
    pub(super) fn count(&self, part: Part) -> Count {
        self.parts.get(part.0).cloned().unwrap_or_default()
    }

    /// What came of all parts.
    pub(super) fn total(&self) -> Count {
        let mut total = Count::default();
        for part in &self.parts {
            total.requests += part.requests;
            total.answered += part.answered;
            total.longest = total.longest.max(part.longest);
            for (reason, count) in &part.failures {
                *total.failures.entry(reason.clone()).or_default() += count;
            }
        }
        total
    }

    /// How many right answers a workload has given.
    pub(super) fn answered_by(&self, member: &Member) -> u64 {
        self.flows
            .iter()
            .filter_map(|flow| flow.by_member.get(member.name))
            .map(|(_, told)| told.answered)
            .sum()
    }

    /// How many right answers each version has given to the requests of a flow.
    pub(super) fn by_version(&self, flow: Flow) -> BTreeMap<&'static str, u64> {
        let mut versions = BTreeMap::new();
        let members = self
            .flows
            .get(flow as usize)
            .into_iter()
            .flat_map(|flow| flow.by_member.values());
        for (member, told) in members {
            *versions.entry(member.version).or_default() += told.answered;
        }
        versions
    }

    /// How many requests of a flow were answered, and how many failed.
    pub(super) fn answers(&self, flow: Flow) -> (u64, u64) {
        let flow = self.flows.get(flow as usize);
        flow.map(|flow| (flow.answered, flow.failed)).unwrap_or_default()
    }

    /// A request goes out.
    pub(super) fn on_sent(&mut self, flow: Flow, now: Instant) -> Sent {
        let part = self.part();
        if let Some(count) = self.parts.get_mut(part.0) {
            count.requests += 1;
        }
        Sent { flow, part, at: now }
    }

    /// It ended: with the right answer, and from whom if the answer tells, or else with what was wrong.
    #[expect(clippy::needless_pass_by_value, reason = "a request ends once")]
    pub(super) fn on_end(&mut self, sent: Sent, result: Answer, now: Instant) {
        let Some(part) = self.parts.get_mut(sent.part.0) else {
            return;
        };
        let Some(flow) = self.flows.get_mut(sent.flow as usize) else {
            return;
        };
        match result {
            Ok(by) => {
                let took = now.saturating_duration_since(sent.at);
                part.answered += 1;
                part.longest = part.longest.max(took);
                flow.answered += 1;
                if let Some(by) = by {
                    flow.told(by).answered += 1;
                }
                if flow.recent.len() >= MAX_RECENT {
                    flow.recent.pop_front();
                }
                flow.recent.push_back(Right { at: now, took, by });
            }
            Err(wrong) => {
                flow.failed += 1;
                if let Some(by) = wrong.by {
                    flow.told(by).failed += 1;
                }
                let reason = format!("{}: {}", sent.flow.name(), wrong.why);
                let known = part.failures.len() < MAX_REASONS || part.failures.contains_key(&reason);
                let reason = if known { reason } else { "other reasons".to_owned() };
                *part.failures.entry(reason).or_default() += 1;
            }
        }
    }

    /// How a flow does, in the last few seconds.
    pub(super) fn recent(&mut self, flow: Flow, now: Instant) -> Recent {
        let window = self.window(now);
        let Some(flow) = self.flows.get_mut(flow as usize) else {
            return Recent::default();
        };
        flow.forget(now);
        let mut took: Vec<_> = flow.recent.iter().map(|answer| answer.took).collect();
        took.sort_unstable();
        let at = |percent: usize| {
            let last = took.len().saturating_sub(1);
            took.get(last * percent / 100).copied().unwrap_or_default()
        };
        Recent {
            rate: flow.recent.len() as f64 / window,
            answered: flow.answered,
            failed: flow.failed,
            p50: at(50),
            p99: at(99),
            shares: flow.shares(|member| member.version),
        }
    }

    /// How the versions that answer a flow do, in the last few seconds.
    pub(super) fn versions(&mut self, flow: Flow, now: Instant) -> BTreeMap<&'static str, Version> {
        let window = self.window(now);
        let Some(flow) = self.flows.get_mut(flow as usize) else {
            return BTreeMap::new();
        };
        flow.forget(now);
        let (shares, replicas) = (
            flow.shares(|member| member.version),
            flow.shares(|member| member.name),
        );
        let mut versions: BTreeMap<_, Version> = BTreeMap::new();
        for (member, told) in flow.by_member.values() {
            let version = versions.entry(member.version).or_default();
            version.answered += told.answered;
            version.failed += told.failed;
            let share = replicas.get(member.name).copied().unwrap_or_default();
            version.replicas.insert(member.name, share);
        }
        for (name, version) in &mut versions {
            version.share = shares.get(name).copied().unwrap_or_default();
            let is_its = |answer: &&Right| answer.by.is_some_and(|by| by.version == *name);
            version.rate = flow.recent.iter().filter(is_its).count() as f64 / window;
        }
        versions
    }

    /// How long the time is that rates are of, in seconds.
    fn window(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.begun);
        WINDOW.min(age).as_secs_f64().max(0.001)
    }
}

impl FlowCount {
    fn told(&mut self, by: &'static Member) -> &mut Told {
        let (_, told) = self.by_member.entry(by.name).or_insert((by, Told::default()));
        told
    }

    /// Drops what is too old to count as recent.
    fn forget(&mut self, now: Instant) {
        let is_old = |answer: &Right| now.saturating_duration_since(answer.at) > WINDOW;
        while self.recent.front().is_some_and(is_old) {
            self.recent.pop_front();
        }
    }

    /// Recent answers in percent, by something of who gave them.
    fn shares(&self, key: impl Fn(&'static Member) -> &'static str) -> BTreeMap<&'static str, u64> {
        let mut shares = BTreeMap::new();
        for by in self.recent.iter().filter_map(|answer| answer.by) {
            *shares.entry(key(by)).or_insert(0) += 1;
        }
        let told: u64 = shares.values().sum();
        for share in shares.values_mut() {
            *share = (*share * 100 + told / 2) / told.max(1);
        }
        shares
    }
}

impl Count {
    /// How many failed.
    pub(super) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// How many have neither an answer nor failed yet.
    pub(super) fn open(&self) -> u64 {
        self.requests.saturating_sub(self.answered + self.failed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::{call::Wrong, plan::MEMBERS};

    const MS: Duration = Duration::from_millis(1);

    fn member(name: &str) -> &'static Member {
        MEMBERS.into_iter().find(|member| member.name == name).unwrap()
    }

    #[test]
    fn a_request_counts_for_the_part_in_which_it_began() {
        let now = Instant::now();
        let mut board = Board::new(now);
        let first = board.part();
        let slow = board.on_sent(Flow::Catalog, now);
        let second = board.next_part();
        assert_eq!(board.count(first).open(), 1);
        let other = board.on_sent(Flow::Cart, now);
        board.on_end(slow, Ok(None), now + 70 * MS);
        board.on_end(other, Err("no".to_owned().into()), now + MS);
        let (first, second) = (board.count(first), board.count(second));
        assert_eq!((first.requests, first.answered, first.failed()), (1, 1, 0));
        assert_eq!(first.longest, 70 * MS);
        assert_eq!((second.requests, second.failed(), second.open()), (1, 1, 0));
        assert_eq!(second.failures, BTreeMap::from([("cart: no".to_owned(), 1)]));
        let total = board.total();
        assert_eq!((total.requests, total.failed(), total.longest), (2, 1, 70 * MS));
    }

    #[test]
    fn rates_and_shares_are_those_of_the_window() {
        let begun = Instant::now();
        let mut board = Board::new(begun);
        for number in 0..200 {
            let at = begun + number * 50 * MS;
            let sent = board.on_sent(Flow::Catalog, at);
            let by = match number % 4 {
                0 => "catalog-v2-0",
                1 => "catalog-v1-1",
                _ => "catalog-v1-0",
            };
            // The old answers are slow, and are forgotten.
            let took = if number < 50 { 500 * MS } else { MS };
            board.on_end(sent, Ok(Some(member(by))), at + took);
        }
        let recent = board.recent(Flow::Catalog, begun + 9_951 * MS);
        assert!((19.9..=20.2).contains(&recent.rate), "{recent:?}");
        assert_eq!((recent.answered, recent.failed), (200, 0));
        assert_eq!((recent.p50, recent.p99), (MS, MS));
        assert_eq!(recent.shares, BTreeMap::from([("v1", 75), ("v2", 25)]));
        assert_eq!(board.answered_by(member("catalog-v2-0")), 50);
        assert_eq!(
            board.by_version(Flow::Catalog),
            BTreeMap::from([("v1", 150), ("v2", 50)])
        );
        assert!(board.by_version(Flow::Testers).is_empty());
        assert_eq!(board.recent(Flow::Orders, begun + 9_951 * MS), Recent::default());
    }

    #[test]
    fn a_version_has_the_errors_that_its_replicas_gave() {
        let begun = Instant::now();
        let mut board = Board::new(begun);
        let now = begun + 1_000 * MS;
        let mut end = |answer: Answer| {
            let sent = board.on_sent(Flow::Catalog, begun);
            board.on_end(sent, answer, now);
        };
        for name in ["catalog-v1-0", "catalog-v1-0", "catalog-v1-1", "catalog-v2-0"] {
            end(Ok(Some(member(name))));
        }
        for by in [Some(member("catalog-v1-1")), None] {
            let why = "status 503".to_owned();
            end(Err(Wrong { why, by }));
        }
        let versions = board.versions(Flow::Catalog, now);
        let told = |version: &Version| (version.answered, version.failed, version.share);
        assert_eq!(told(&versions["v1"]), (3, 1, 75));
        assert_eq!(told(&versions["v2"]), (1, 0, 25));
        assert_eq!(
            versions["v1"].replicas,
            BTreeMap::from([("catalog-v1-0", 50), ("catalog-v1-1", 25)])
        );
        assert_eq!(versions["v1"].rate, 3.0);
    }

    #[test]
    fn a_young_board_divides_by_its_age() {
        let begun = Instant::now();
        let mut board = Board::new(begun);
        for number in 0..100 {
            let sent = board.on_sent(Flow::Cart, begun + number * 10 * MS);
            board.on_end(sent, Ok(None), begun + number * 10 * MS + MS);
        }
        let recent = board.recent(Flow::Cart, begun + 1_000 * MS);
        assert!((99.0..=101.0).contains(&recent.rate), "{recent:?}");
    }

    #[test]
    fn reasons_are_bounded() {
        let now = Instant::now();
        let mut board = Board::new(now);
        for number in 0..100 {
            let sent = board.on_sent(Flow::Cart, now);
            board.on_end(sent, Err(number.to_string().into()), now);
        }
        let count = board.count(board.part());
        assert_eq!(count.failed(), 100);
        assert_eq!(count.failures.len(), MAX_REASONS + 1);
    }
}
