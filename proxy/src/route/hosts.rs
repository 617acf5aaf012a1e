//! Which matches hold for a host: those of routes that name it, those of routes with a wildcard for it, those of
//! routes that name none.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use weft_proto::model::route::Hostname;

use super::{bucket::Rank, group::Group, matching::Entry};

/// The matches by host.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    exact: FxHashMap<Box<str>, Arc<Group>>,
    /// By what follows the asterisk and its dot.
    wildcards: FxHashMap<Box<str>, Arc<Group>>,
    /// Bytes of the longest of them; 0: there is none.
    longest: usize,
    any: Option<Arc<Group>>,
}

/// How well a route's hostnames fit a host; the greater, the more its matches precede.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// It names none.
    Any,
    /// By a wildcard of so many characters after the asterisk.
    Wildcard(usize),
    Exact,
}

impl Hosts {
    /// `hostnames` are those of each route. `entries` are in the order of precedence.
    pub(super) fn new(hostnames: &[Vec<Hostname>], entries: &[Entry]) -> Self {
        let mut ranks_of: Vec<Vec<Rank>> = vec![Vec::new(); hostnames.len()];
        for (rank, entry) in (0..).zip(entries) {
            if let Some(ranks) = ranks_of.get_mut(entry.route) {
                ranks.push(rank);
            }
        }
        let mut exact: FxHashMap<&str, Vec<usize>> = FxHashMap::default();
        let mut wildcards: FxHashMap<&str, Vec<usize>> = FxHashMap::default();
        let mut any = Vec::new();
        for (route, names) in hostnames.iter().enumerate() {
            if names.is_empty() {
                any.push(route);
            }
            for name in names {
                match name {
                    Hostname::Exact(name) => exact.entry(name.as_str()).or_default().push(route),
                    Hostname::Wildcard(name) => wildcards.entry(name.as_str()).or_default().push(route),
                }
            }
        }
        let mut groups = Groups {
            ranks_of,
            entries,
            made: FxHashMap::default(),
        };
        Self {
            exact: groups.by_name(exact),
            longest: wildcards.keys().map(|name| name.len()).max().unwrap_or(0),
            wildcards: groups.by_name(wildcards),
            any: (!any.is_empty()).then(|| groups.group(any)),
        }
    }

    /// The groups of a host in the order of precedence. The standard compares routes by their hostnames and then
    /// matches by the rest, so where no match of a better group fits the request the next group is asked.
    pub(super) fn groups<'h>(&'h self, host: &'h str) -> impl Iterator<Item = &'h Group> {
        let suffixes = host
            .match_indices('.')
            .filter(|_| self.longest > 0)
            .filter_map(|(at, _)| host.get(at + 1..).filter(|_| at > 0))
            .filter(|suffix| suffix.len() <= self.longest);
        let wildcards = suffixes.filter_map(|suffix| self.wildcards.get(suffix));
        self.exact
            .get(host)
            .into_iter()
            .chain(wildcards)
            .chain(&self.any)
            .map(|group| &**group)
    }
}

/// Hosts of the same routes share one group.
struct Groups<'e> {
    /// By route, each ascending.
    ranks_of: Vec<Vec<Rank>>,
    entries: &'e [Entry],
    made: FxHashMap<Vec<usize>, Arc<Group>>,
}

impl Groups<'_> {
    fn by_name(&mut self, routes: FxHashMap<&str, Vec<usize>>) -> FxHashMap<Box<str>, Arc<Group>> {
        let routes = routes.into_iter();
        routes
            .map(|(name, routes)| (name.into(), self.group(routes)))
            .collect()
    }

    fn group(&mut self, mut routes: Vec<usize>) -> Arc<Group> {
        // A name that a route has twice.
        routes.dedup();
        let (ranks_of, entries) = (&self.ranks_of, self.entries);
        let group = self.made.entry(routes).or_insert_with_key(|routes| {
            let ranks = routes.iter().filter_map(|route| ranks_of.get(*route));
            let mut ranks: Vec<Rank> = ranks.flatten().copied().collect();
            ranks.sort_unstable();
            Arc::new(Group::new(&ranks, entries))
        });
        group.clone()
    }
}

/// How well hostnames fit a host; `None`: not at all.
pub(super) fn fit(hostnames: &[Hostname], host: &str) -> Option<Fit> {
    if hostnames.is_empty() {
        return Some(Fit::Any);
    }
    let fits = hostnames.iter().filter_map(|name| match name {
        Hostname::Exact(name) => (name.as_str() == host).then_some(Fit::Exact),
        Hostname::Wildcard(name) => {
            let label = host.strip_suffix(name.as_str())?.strip_suffix('.')?;
            (!label.is_empty()).then_some(Fit::Wildcard(name.as_str().len()))
        }
    });
    fits.max()
}
