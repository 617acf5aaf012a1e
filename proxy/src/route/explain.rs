//! Why a request matches the rule that it matches, and no other: for operators.

use std::cmp::Reverse;

use super::{
    Asked, Rule, Table,
    hosts::fit,
    matching::{Entry, Mismatch, Request},
};

/// A match of a rule, held against a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Considered<'t> {
    entry: &'t Entry,
    pub(crate) rule: &'t Rule,
    /// Which of the rule's matches it is, from 0.
    pub(crate) number: usize,
    /// What the request is not, if it does not match.
    pub(crate) outcome: Result<(), Mismatch<'t>>,
}

impl Table {
    /// All matches in the order of precedence for the request's host, and then those that are for other hosts. The
    /// first one that the request matches is the one that [`find`](Self::find) finds.
    pub(crate) fn explain(&self, asked: &Asked<'_>) -> Vec<Considered<'_>> {
        let request = Request::read(asked, self.reads_query);
        let fits: Vec<_> = self
            .hostnames
            .iter()
            .map(|hostnames| fit(hostnames, asked.host))
            .collect();
        let fit_of = |entry: &Entry| fits.get(entry.route).copied().flatten();
        let mut entries: Vec<&Entry> = self.entries.iter().collect();
        entries.sort_by_key(|entry| Reverse(fit_of(entry)));
        let entries = entries.into_iter();
        entries
            .map(|entry| Considered {
                entry,
                rule: &entry.rule,
                number: entry.number,
                outcome: if fit_of(entry).is_none() {
                    Err(Mismatch::Host)
                } else if !entry.place.is_match(&request) {
                    Err(Mismatch::Path)
                } else {
                    entry.check(&request)
                },
            })
            .collect()
    }
}

impl Considered<'_> {
    /// What the match asks for, in words.
    pub(crate) fn wanted(&self) -> String {
        self.entry.in_words()
    }
}
