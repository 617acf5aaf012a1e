//! The matches that hold for one host, by what they ask of the path.

use rustc_hash::FxHashMap;

use super::{
    bucket::{Bucket, Rank, entry},
    matching::{Entry, Place, Request, Subject, has_prefix},
    patterns::Patterns,
};

/// Prefixes of so many elements are looked up; longer ones, which nobody has, are tried one by one.
const MAX_DEPTH: usize = 32;

/// The matches of the routes that hold for one host.
#[derive(Debug)]
pub(super) struct Group {
    /// By the service that is called.
    grpc: Option<Places>,
    /// By the path.
    http: Option<Places>,
}

/// Matches by what they ask of one text, the path or the service.
#[derive(Debug)]
struct Places {
    exact: FxHashMap<Box<str>, Bucket>,
    patterns: Patterns,
    prefixes: Prefixes,
    /// Those that ask for nothing.
    any: Option<Bucket>,
}

/// Prefixes but for `/`.
#[derive(Debug, Default)]
struct Prefixes {
    by_text: FxHashMap<Box<str>, Bucket>,
    /// A bit for each number of elements that there is one of.
    depths: u64,
    /// Those of more than [`MAX_DEPTH`] elements, longest first.
    deep: Vec<(Box<str>, Bucket)>,
}

impl Group {
    /// `ranks` ascend, and are those of `entries`.
    pub(super) fn new(ranks: &[Rank], entries: &[Entry]) -> Self {
        let of = |grpc: bool| {
            let is_one = |rank: &Rank| {
                entry(entries, *rank).is_some_and(|entry| matches!(entry.place, Place::Call { .. }) == grpc)
            };
            let ranks: Vec<Rank> = ranks.iter().copied().filter(is_one).collect();
            (!ranks.is_empty()).then(|| Places::new(&ranks, entries))
        };
        Self {
            grpc: of(true),
            http: of(false),
        }
    }

    /// The match that precedes all others that a request of this host matches.
    pub(super) fn find(&self, request: &Request<'_>, entries: &[Entry]) -> Option<Rank> {
        let grpc = self.grpc.as_ref().and_then(|places| {
            let service = request.call.map(|(service, _)| service);
            places.find(service, request, entries)
        });
        grpc.or_else(|| {
            self.http
                .as_ref()?
                .find(Some(request.asked.path), request, entries)
        })
    }
}

impl Places {
    fn new(ranks: &[Rank], entries: &[Entry]) -> Self {
        let mut exact: FxHashMap<&str, Vec<Rank>> = FxHashMap::default();
        let mut prefixes: FxHashMap<&str, Vec<Rank>> = FxHashMap::default();
        let mut patterns = Vec::new();
        let mut any = Vec::new();
        for rank in ranks {
            let Some(entry) = entry(entries, *rank) else {
                continue;
            };
            match entry.place.subject() {
                Subject::Exact(text) => exact.entry(text).or_default().push(*rank),
                Subject::Regex(pattern) => patterns.push((pattern, *rank)),
                Subject::Prefix(text) => prefixes.entry(text).or_default().push(*rank),
                Subject::Any => any.push(*rank),
            }
        }
        let exact = exact.into_iter();
        Self {
            exact: exact
                .map(|(text, ranks)| (text.into(), Bucket::new(&ranks, entries)))
                .collect(),
            patterns: Patterns::new(&patterns, entries),
            prefixes: Prefixes::new(prefixes, entries),
            any: (!any.is_empty()).then(|| Bucket::new(&any, entries)),
        }
    }

    /// In the order of precedence, which is also that of the ranks.
    fn find(&self, text: Option<&str>, request: &Request<'_>, entries: &[Entry]) -> Option<Rank> {
        let by_text = text.and_then(|text| {
            let exact = self.exact.get(text);
            exact
                .and_then(|bucket| bucket.find(request, entries, Rank::MAX))
                .or_else(|| self.patterns.find(text, request, entries))
                .or_else(|| self.prefixes.find(text, request, entries))
        });
        by_text.or_else(|| self.any.as_ref()?.find(request, entries, Rank::MAX))
    }
}

impl Prefixes {
    fn new(prefixes: FxHashMap<&str, Vec<Rank>>, entries: &[Entry]) -> Self {
        let mut made = Self::default();
        for (prefix, ranks) in prefixes {
            let bucket = Bucket::new(&ranks, entries);
            let depth = prefix.matches('/').count();
            if depth > MAX_DEPTH {
                made.deep.push((prefix.into(), bucket));
            } else {
                made.depths |= 1 << depth;
                made.by_text.insert(prefix.into(), bucket);
            }
        }
        made.deep
            .sort_unstable_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        made
    }

    /// The longest prefix goes first, and the next one if the request is not what its matches ask for.
    fn find(&self, path: &str, request: &Request<'_>, entries: &[Entry]) -> Option<Rank> {
        let mut deep = self.deep.iter().filter(|(prefix, _)| has_prefix(path, prefix));
        deep.find_map(|(_, bucket)| bucket.find(request, entries, Rank::MAX))
            .or_else(|| self.find_shallow(path, request, entries))
    }

    fn find_shallow(&self, path: &str, request: &Request<'_>, entries: &[Entry]) -> Option<Rank> {
        let deepest = usize::try_from(self.depths.checked_ilog2()?).ok()?;
        let mut depth = 0;
        let end = path.bytes().position(|byte| {
            depth += usize::from(byte == b'/');
            depth > deepest
        });
        let mut depth = depth.min(deepest);
        let mut prefix = path.get(..end.unwrap_or(path.len()))?;
        while depth > 0 {
            if self.depths & (1 << depth) != 0
                && let Some(bucket) = self.by_text.get(prefix)
                && let Some(rank) = bucket.find(request, entries, Rank::MAX)
            {
                return Some(rank);
            }
            prefix = prefix.get(..prefix.rfind('/')?)?;
            depth -= 1;
        }
        None
    }
}
