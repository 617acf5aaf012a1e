//! Which requests reached a service, and how often each: by their `x-request-id` and method.
//!
//! `GET /counts` answers a [`Counts`] as JSON, `GET /counts/ids?method=POST` every id of a method with how often it came
//! (to add up over several replicas), and `DELETE /counts` begins anew. A request counts when its head has come,
//! whatever becomes of it. What is kept is bounded: see [`MAX_IDS`].

use http::{HeaderMap, Method};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// The field that tells one request from another.
pub const ID_FIELD: &str = "x-request-id";

/// Different ids of all methods that are told apart; more are counted as [`Counts::untracked`].
pub const MAX_IDS: usize = 200_000;

/// Longer ids are counted as untracked.
pub const MAX_ID_LEN: usize = 64;

/// Ids that came more than once which are named, of each method.
pub const MAX_NAMED: usize = 100;

/// The methods that are told apart; all others are counted together.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

/// What [`METHODS`] does not have.
const OTHER: &str = "other";

/// What `GET /counts` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All requests.
    pub total: u64,
    /// Those without an id, with one that is too long, or with a new one when there were too many.
    pub untracked: u64,
    /// The others, by their method.
    pub methods: BTreeMap<String, MethodCounts>,
}

/// The requests of one method.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodCounts {
    /// How many came with an id that is told apart.
    pub requests: u64,
    /// How many ids came once, twice, and so on.
    pub seen: BTreeMap<u32, u64>,
    /// How often the most frequent id came.
    pub greatest: u32,
    /// Ids that came more than once, and how often: the most frequent of them, at most [`MAX_NAMED`].
    pub repeated: BTreeMap<String, u32>,
}

/// The count of a service.
#[derive(Debug, Default)]
pub(super) struct Counter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    total: u64,
    untracked: u64,
    ids: usize,
    methods: HashMap<&'static str, HashMap<Box<str>, u32>>,
}

impl Counter {
    /// A request has come.
    pub(super) fn count(&self, method: &Method, fields: &HeaderMap) {
        let id = fields.get(ID_FIELD).and_then(|id| id.to_str().ok());
        self.with(|state| state.count(name_of(method), id));
    }

    /// What has come so far.
    pub(super) fn counts(&self) -> Counts {
        self.with(|state| Counts {
            total: state.total,
            untracked: state.untracked,
            methods: state
                .methods
                .iter()
                .map(|(method, ids)| ((*method).to_owned(), summary(ids)))
                .collect(),
        })
    }

    /// The ids of a method, a line each: `ID COUNT`.
    pub(super) fn ids(&self, method: &str) -> String {
        self.with(|state| {
            let mut lines = String::new();
            for (id, count) in state.methods.get(method).into_iter().flatten() {
                // Writing to a String cannot fail.
                let _ = writeln!(lines, "{id} {count}");
            }
            lines
        })
    }

    /// Nothing has come.
    pub(super) fn forget(&self) {
        self.with(|state| *state = State::default());
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn count(&mut self, method: &'static str, id: Option<&str>) {
        self.total += 1;
        let Some(id) = id.filter(|id| id.len() <= MAX_ID_LEN) else {
            self.untracked += 1;
            return;
        };
        let ids = self.methods.entry(method).or_default();
        if let Some(count) = ids.get_mut(id) {
            *count += 1;
        } else if self.ids < MAX_IDS {
            ids.insert(id.into(), 1);
            self.ids += 1;
        } else {
            self.untracked += 1;
        }
    }
}

fn name_of(method: &Method) -> &'static str {
    METHODS
        .into_iter()
        .find(|known| *known == method.as_str())
        .unwrap_or(OTHER)
}

fn summary(ids: &HashMap<Box<str>, u32>) -> MethodCounts {
    let mut counts = MethodCounts::default();
    let mut repeated: Vec<(&str, u32)> = Vec::new();
    for (id, count) in ids {
        counts.requests += u64::from(*count);
        *counts.seen.entry(*count).or_default() += 1;
        counts.greatest = counts.greatest.max(*count);
        if *count > 1 {
            repeated.push((id, *count));
        }
    }
    repeated.sort_unstable_by(|(one, first), (other, second)| second.cmp(first).then(one.cmp(other)));
    repeated.truncate(MAX_NAMED);
    counts.repeated = repeated
        .into_iter()
        .map(|(id, count)| (id.to_owned(), count))
        .collect();
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(counter: &Counter, method: &Method, id: &str) {
        let mut fields = HeaderMap::new();
        fields.insert(ID_FIELD, id.parse().unwrap());
        counter.count(method, &fields);
    }

    #[test]
    fn ids_are_counted_by_method() {
        let counter = Counter::default();
        for id in ["a", "b", "a", "c", "a", "b"] {
            count(&counter, &Method::GET, id);
        }
        count(&counter, &Method::POST, "a");
        count(&counter, &"PURGE".parse().unwrap(), "a");
        counter.count(&Method::GET, &HeaderMap::new());
        count(&counter, &Method::GET, &"x".repeat(MAX_ID_LEN + 1));
        let counts = counter.counts();
        assert_eq!((counts.total, counts.untracked), (10, 2));
        let gets = &counts.methods["GET"];
        assert_eq!((gets.requests, gets.greatest), (6, 3));
        assert_eq!(gets.seen, [(1, 1), (2, 1), (3, 1)].into());
        assert_eq!(gets.repeated, [("a".to_owned(), 3), ("b".to_owned(), 2)].into());
        for method in ["POST", OTHER] {
            assert_eq!(counts.methods[method].seen, [(1, 1)].into());
            assert!(counts.methods[method].repeated.is_empty());
        }
        let ids = counter.ids("GET");
        let mut lines: Vec<_> = ids.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["a 3", "b 2", "c 1"]);
        assert_eq!(counter.ids("PUT"), "");
        counter.forget();
        assert_eq!(counter.counts(), Counts::default());
    }

    #[test]
    fn what_is_kept_and_told_is_bounded() {
        let counter = Counter::default();
        for number in 0..MAX_IDS + 10 {
            count(&counter, &Method::GET, &number.to_string());
        }
        for number in 0..MAX_NAMED + 10 {
            count(&counter, &Method::GET, &number.to_string());
        }
        count(&counter, &Method::GET, "0");
        let counts = counter.counts();
        assert_eq!(counts.untracked, 10, "no id is forgotten for a new one");
        let gets = &counts.methods["GET"];
        assert_eq!(gets.repeated.len(), MAX_NAMED);
        assert_eq!(gets.repeated["0"], 3, "the most frequent ones are named");
    }
}
