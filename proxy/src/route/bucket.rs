//! Matches that ask for the same path, and the first of them that a request matches.
//!
//! A handful is tried one by one. Of many each is found by one exact value that it asks for: of a header, a
//! parameter, or gRPC's method, whichever the fewest others ask for. What asks for no exact value is tried one by
//! one: methods are few, patterns of header values are not expected by the hundred.

use http::HeaderName;
use rustc_hash::{FxHashMap, FxHashSet};
use weft_proto::model::route::ValueMatch;

use super::{
    matching::{Entry, Place, Request},
    value::Value,
};

/// With so few the index costs more than it saves.
const FEW: usize = 8;

/// A match, by its place among all of the table: the lower, the more it precedes.
pub(super) type Rank = u32;

/// Matches of one path, or of one gRPC service.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Ascending.
    others: Box<[Rank]>,
    index: Option<Box<Index>>,
}

/// Those that ask for an exact value.
#[derive(Debug, Default)]
struct Index {
    headers: FxHashMap<HeaderName, Values>,
    /// By name, ascending.
    query: Vec<(Box<str>, Values)>,
    /// By gRPC's method.
    calls: Values,
}

/// By value, ascending; those of one value ascend as well.
#[derive(Debug, Default)]
struct Values(Vec<(Box<[u8]>, Vec<Rank>)>);

/// An exact value that a match asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'e> {
    Header(&'e HeaderName, &'e str),
    Query(&'e str, &'e str),
    Call(&'e str),
}

impl Bucket {
    /// `ranks` ascend, and are those of `entries`.
    pub(super) fn new(ranks: &[Rank], entries: &[Entry]) -> Self {
        let reachable = reachable(ranks, entries);
        let mut bucket = Self {
            others: Box::default(),
            index: None,
        };
        if reachable.len() <= FEW {
            bucket.others = reachable.into_iter().map(|(rank, _)| rank).collect();
            return bucket;
        }
        let mut counts: FxHashMap<Key<'_>, usize> = FxHashMap::default();
        for key in reachable.iter().flat_map(|(_, entry)| keys(entry)) {
            *counts.entry(key).or_default() += 1;
        }
        let mut index = Index::default();
        let mut others = Vec::new();
        for (rank, entry) in &reachable {
            match keys(entry).min_by_key(|key| counts.get(key)) {
                Some(key) => index.add(key, *rank),
                None => others.push(*rank),
            }
        }
        bucket.others = others.into();
        bucket.index = Some(Box::new(index));
        bucket
    }

    /// The first one that a request matches whose path is that of this bucket, if its rank is below `limit`.
    pub(super) fn find(&self, request: &Request<'_>, entries: &[Entry], limit: Rank) -> Option<Rank> {
        let mut best = None;
        let mut try_these = |ranks: &[Rank]| {
            best = first(ranks, request, entries, best.unwrap_or(limit)).or(best);
        };
        if let Some(index) = &self.index {
            index.visit(request, &mut try_these);
        }
        try_these(&self.others);
        best
    }
}

impl Index {
    fn add(&mut self, key: Key<'_>, rank: Rank) {
        match key {
            Key::Header(name, value) => {
                self.headers.entry(name.clone()).or_default().add(value, rank);
            }
            Key::Query(name, value) => {
                let at = self.query.binary_search_by(|(other, _)| (**other).cmp(name));
                let at = at.unwrap_or_else(|at| {
                    self.query.insert(at, (name.into(), Values::default()));
                    at
                });
                if let Some((_, values)) = self.query.get_mut(at) {
                    values.add(value, rank);
                }
            }
            Key::Call(method) => self.calls.add(method, rank),
        }
    }

    /// Calls back with the matches whose exact value the request has.
    fn visit(&self, request: &Request<'_>, found: &mut impl FnMut(&[Rank])) {
        if let Some((_, method)) = request.call {
            found(self.calls.get(&Value::Plain(method.as_bytes())));
        }
        self.visit_headers(request, found);
        self.visit_query(request, found);
    }

    /// By the names that are fewer: those asked for, or those of the request.
    fn visit_headers(&self, request: &Request<'_>, found: &mut impl FnMut(&[Rank])) {
        let headers = request.asked.headers;
        let mut visit = |name: &HeaderName, values: &Values| {
            if let Some(value) = Value::of_header(headers, name) {
                found(values.get(&value));
            }
        };
        if self.headers.len() <= headers.keys_len() {
            self.headers.iter().for_each(|(name, values)| visit(name, values));
        } else {
            for name in headers.keys() {
                if let Some(values) = self.headers.get(name) {
                    visit(name, values);
                }
            }
        }
    }

    /// As [`visit_headers`](Self::visit_headers).
    fn visit_query(&self, request: &Request<'_>, found: &mut impl FnMut(&[Rank])) {
        let Some(query) = &request.query else { return };
        if self.query.len() <= query.len() {
            for (name, values) in &self.query {
                if let Some((_, value)) = query.first(name) {
                    found(values.get(&value));
                }
            }
            return;
        }
        for (at, name) in query.names().enumerate() {
            let known = self
                .query
                .binary_search_by(|(other, _)| name.compare(other.as_bytes()).reverse());
            if let Some((name, values)) = known.ok().and_then(|known| self.query.get(known))
                // Of several of one name the first one counts.
                && let Some((first, value)) = query.first(name)
                && first == at
            {
                found(values.get(&value));
            }
        }
    }
}

impl Values {
    fn add(&mut self, value: &str, rank: Rank) {
        match self
            .0
            .binary_search_by(|(other, _)| (**other).cmp(value.as_bytes()))
        {
            Ok(at) => {
                if let Some((_, ranks)) = self.0.get_mut(at) {
                    ranks.push(rank);
                }
            }
            Err(at) => self.0.insert(at, (value.as_bytes().into(), vec![rank])),
        }
    }

    fn get(&self, value: &Value<'_>) -> &[Rank] {
        let at = self
            .0
            .binary_search_by(|(other, _)| value.compare(other).reverse());
        let found = at.ok().and_then(|at| self.0.get(at));
        found.map_or(&[], |(_, ranks)| ranks)
    }
}

/// The exact values that a match asks for.
fn keys(entry: &Entry) -> impl Iterator<Item = Key<'_>> {
    let call = match &entry.place {
        Place::Call {
            method: Some(ValueMatch::Exact(method)),
            ..
        } => Some(Key::Call(method)),
        Place::Call { .. } | Place::Path(_) => None,
    };
    let headers = entry.headers.iter().filter_map(|header| match &header.value {
        ValueMatch::Exact(value) => Some(Key::Header(&header.name, value)),
        ValueMatch::Regex(_) => None,
    });
    let query = entry.query.iter().filter_map(|parameter| match &parameter.value {
        ValueMatch::Exact(value) => Some(Key::Query(&parameter.name, value)),
        ValueMatch::Regex(_) => None,
    });
    call.into_iter().chain(headers).chain(query)
}

/// Without those that others always precede: what asks for the same as one before it, and all after one that asks for
/// nothing more than the path.
fn reachable<'e>(ranks: &[Rank], entries: &'e [Entry]) -> Vec<(Rank, &'e Entry)> {
    let mut asked = FxHashSet::default();
    let mut reachable = Vec::with_capacity(ranks.len());
    for rank in ranks {
        let Some(entry) = entry(entries, *rank) else {
            continue;
        };
        if asked.insert(entry.asks()) {
            reachable.push((*rank, entry));
        }
        if entry.takes_all() {
            break;
        }
    }
    reachable
}

fn first(ranks: &[Rank], request: &Request<'_>, entries: &[Entry], limit: Rank) -> Option<Rank> {
    let ranks = ranks.iter().copied().take_while(|rank| *rank < limit);
    let mut ranks =
        ranks.filter(|rank| entry(entries, *rank).is_some_and(|entry| entry.check(request).is_ok()));
    ranks.next()
}

/// The match of a rank.
pub(super) fn entry(entries: &[Entry], rank: Rank) -> Option<&Entry> {
    entries.get(usize::try_from(rank).ok()?)
}
