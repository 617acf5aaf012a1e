//! Which rule of the routes of a service a request matches, and what that does to it.
//!
//! Routes are those of Gateway API v1 with a Service as parent. Precedence is the standard's, to the letter: how well
//! the hostnames of a route fit the request's host, and then each match by its path, method, headers and parameters
//! ([`matching`] has the list). Where the standard leaves a choice:
//!
//! - A regular expression for a path, a gRPC service or a gRPC method comes after what is exact and before what is
//!   not; of two the one with more characters is first.
//! - Hostnames are one criterion among the others: a request that fits no match of a route that names its host is
//!   tried with those of a wildcard, and of routes for any host.
//! - A path is compared as it was sent: nothing is decoded, and `/a/../b` is below `/a`.
//! - Names and values of parameters are compared decoded, as in forms; of several of one name the first counts, and
//!   of one request the first 64 parameters.
//! - Several values of a header are joined by commas.
//! - A `GRPCRoute` looks at the path alone: `/SERVICE/METHOD`, whatever the content is.
//!
//! Finding a rule takes about as long for a thousand routes as for one: a lookup by host ([`hosts`]), one by path
//! ([`group`], [`patterns`]), and one by the value that tells the matches of a path apart ([`bucket`]). What no index
//! helps with is tried one by one: matches of one path that ask for no exact value, and deep prefixes.

mod bucket;
mod explain;
mod filter;
mod group;
mod hosts;
mod matching;
mod patterns;
#[cfg(test)]
mod reference;
mod rule;
#[cfg(test)]
mod testing;
mod value;

use std::sync::Arc;

use http::{HeaderMap, Method};
use weft_proto::model::route::{Hostname, Route};

use self::{
    bucket::entry,
    hosts::Hosts,
    matching::{Entry, Order, Precedence, Request},
};
pub(crate) use self::{
    explain::Considered,
    filter::{Filters, Mirror, Origin, Redirected},
    matching::Mismatch,
    rule::{Backends, Destination, Rule, Unresolved},
};

/// The rules of all routes of a port of a service.
#[derive(Debug)]
pub(crate) struct Table {
    /// By route, in the order that decides between routes.
    hostnames: Vec<Vec<Hostname>>,
    /// In the order of the routes.
    rules: Vec<Arc<Rule>>,
    /// In the order of precedence, hosts aside.
    entries: Vec<Entry>,
    hosts: Hosts,
    /// Whether any match asks for parameters.
    reads_query: bool,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// In lower case, without port and without a dot at the end.
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
}

/// The rule that a request matches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'t> {
    pub(crate) rule: &'t Arc<Rule>,
    /// The prefix of the path that its match asks for, which filters replace.
    pub(crate) prefix: Option<&'t str>,
}

impl Table {
    /// `routes` are those that hold for this client, in the order that decides between routes: by age, then by name.
    pub(crate) fn compile(routes: &[&Route], backends: &mut Backends<'_>) -> Self {
        let mut rules = Vec::new();
        let mut entries: Vec<(Precedence, Entry)> = Vec::new();
        for (at, route) in routes.iter().enumerate() {
            for (index, rule) in route.rules.iter().enumerate() {
                let compiled = Arc::new(Rule::compile(route, index, rule, backends));
                for (number, wanted) in rule.matches.iter().enumerate() {
                    let order = Order {
                        route: at,
                        rule: index,
                        number,
                    };
                    if let Some(entry) = Entry::new(compiled.clone(), order, wanted) {
                        entries.push((entry.precedence(order), entry));
                    }
                }
                rules.push(compiled);
            }
        }
        entries.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        let entries: Vec<Entry> = entries.into_iter().map(|(_, entry)| entry).collect();
        let hostnames: Vec<Vec<Hostname>> = routes.iter().map(|route| route.hostnames.clone()).collect();
        Self {
            hosts: Hosts::new(&hostnames, &entries),
            reads_query: entries.iter().any(|entry| !entry.query.is_empty()),
            hostnames,
            rules,
            entries,
        }
    }

    /// The rule of the match that precedes all others that the request matches. `None`: it matches none.
    pub(crate) fn find(&self, asked: &Asked<'_>) -> Option<Found<'_>> {
        let request = Request::read(asked, self.reads_query);
        let mut groups = self.hosts.groups(asked.host);
        let rank = groups.find_map(|group| group.find(&request, &self.entries))?;
        let entry = entry(&self.entries, rank)?;
        Some(Found {
            rule: &entry.rule,
            prefix: entry.prefix(),
        })
    }

    /// All rules, in the order of the routes.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|rule| &**rule)
    }
}
