//! What is known of the traffic: every request is counted once, by whom it went to and in which part of the demo it
//! began. Plain data: callers bring the time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::plan::{self, Application, Member};

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
    pub(super) const ALL: [Self; 5] = [
        Self::Catalog,
        Self::Stable,
        Self::Cart,
        Self::Checkout,
        Self::Orders,
    ];

    /// Whose sidecar takes the requests.
    pub(super) fn from(self) -> &'static Member {
        match self {
            Self::Catalog | Self::Stable | Self::Cart | Self::Checkout => &plan::FRONTEND,
            Self::Orders => &plan::CHECKOUT_0,
        }
    }

    /// Who answers them.
    pub(super) fn application(self) -> &'static Application {
        match self {
            Self::Catalog | Self::Stable => &plan::CATALOG,
            Self::Cart => &plan::CART,
            Self::Checkout => &plan::CHECKOUT,
            Self::Orders => &plan::ORDERS,
        }
    }

    /// The service that is called.
    pub(super) fn service(self) -> &'static str {
        match self {
            Self::Stable => plan::STABLE,
            Self::Catalog | Self::Cart | Self::Checkout | Self::Orders => self.application().service,
        }
    }

    /// What is spoken.
    pub(super) fn protocol(self) -> &'static str {
        match self {
            Self::Catalog | Self::Stable | Self::Checkout => "HTTP/1.1",
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
    /// Right answers by the workload that gave them, in percent, where an answer tells.
    pub(super) shares: BTreeMap<&'static str, u64>,
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
    by_member: BTreeMap<&'static str, u64>,
    recent: VecDeque<Answer>,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    at: Instant,
    took: Duration,
    by: Option<&'static str>,
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
            .sum()
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
    pub(super) fn on_end(&mut self, sent: Sent, result: Result<Option<&'static str>, String>, now: Instant) {
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
                    *flow.by_member.entry(by).or_default() += 1;
                }
                if flow.recent.len() >= MAX_RECENT {
                    flow.recent.pop_front();
                }
                flow.recent.push_back(Answer { at: now, took, by });
            }
            Err(reason) => {
                flow.failed += 1;
                let reason = format!("{}: {reason}", sent.flow.service());
                let known = part.failures.len() < MAX_REASONS || part.failures.contains_key(&reason);
                let reason = if known { reason } else { "other reasons".to_owned() };
                *part.failures.entry(reason).or_default() += 1;
            }
        }
    }

    /// How a flow does, in the last few seconds.
    pub(super) fn recent(&mut self, flow: Flow, now: Instant) -> Recent {
        let window = WINDOW
            .min(now.saturating_duration_since(self.begun))
            .as_secs_f64();
        let Some(flow) = self.flows.get_mut(flow as usize) else {
            return Recent::default();
        };
        while flow
            .recent
            .front()
            .is_some_and(|answer| now.saturating_duration_since(answer.at) > WINDOW)
        {
            flow.recent.pop_front();
        }
        let mut took: Vec<_> = flow.recent.iter().map(|answer| answer.took).collect();
        took.sort_unstable();
        let at = |percent: usize| {
            let last = took.len().saturating_sub(1);
            took.get(last * percent / 100).copied().unwrap_or_default()
        };
        let mut shares = BTreeMap::new();
        for by in flow.recent.iter().filter_map(|answer| answer.by) {
            *shares.entry(by).or_insert(0) += 1;
        }
        let told: u64 = shares.values().sum();
        for share in shares.values_mut() {
            *share = (*share * 100 + told / 2) / told.max(1);
        }
        Recent {
            rate: flow.recent.len() as f64 / window.max(0.001),
            answered: flow.answered,
            failed: flow.failed,
            p50: at(50),
            p99: at(99),
            shares,
        }
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

    const MS: Duration = Duration::from_millis(1);

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
        board.on_end(other, Err("no".to_owned()), now + MS);
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
            let by = if number % 4 == 0 {
                "catalog-v2"
            } else {
                "catalog-v1"
            };
            // The old answers are slow, and are forgotten.
            let took = if number < 50 { 500 * MS } else { MS };
            board.on_end(sent, Ok(Some(by)), at + took);
        }
        let recent = board.recent(Flow::Catalog, begun + 9_951 * MS);
        assert!((19.9..=20.2).contains(&recent.rate), "{recent:?}");
        assert_eq!((recent.answered, recent.failed), (200, 0));
        assert_eq!((recent.p50, recent.p99), (MS, MS));
        assert_eq!(
            recent.shares,
            BTreeMap::from([("catalog-v1", 75), ("catalog-v2", 25)])
        );
        assert_eq!(board.answered_by(&plan::CATALOG_V2), 50);
        assert_eq!(board.recent(Flow::Orders, begun + 9_951 * MS), Recent::default());
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
            board.on_end(sent, Err(number.to_string()), now);
        }
        let count = board.count(board.part());
        assert_eq!(count.failed(), 100);
        assert_eq!(count.failures.len(), MAX_REASONS + 1);
    }
}
