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
//! helps with is tried one by one: matches of one path that ask for no exact value, patterns without a text of their
//! own, and prefixes of very many elements.

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
mod words;

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
    words::percent,
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

#[cfg(test)]
mod tests {
    use weft_proto::model::route::{RouteKind, RouteMatch};

    use super::{
        testing::{Get, grpc, hostname, http, route, table},
        *,
    };

    /// One rule for each match, in one route.
    fn http_table(matches: Vec<RouteMatch>) -> Table {
        let rules = matches.into_iter().map(|wanted| vec![wanted]);
        table(&[route(RouteKind::Http, "shop/web", rules.collect())])
    }

    fn find(table: &Table, request: &Get) -> Option<String> {
        let found = table.find(&request.asked())?;
        Some(format!("{} {}", found.rule.route, found.rule.name))
    }

    /// The number of the rule that it finds; `None`: 404.
    fn rule(table: &Table, method: &str, target: &str, headers: &[&str]) -> Option<usize> {
        let request = Get::new(method, target, headers);
        let found = table.find(&request.asked())?;
        Some(found.rule.name.parse().unwrap())
    }

    #[test]
    fn a_match_precedes_by_the_standards_list() {
        // Each precedes the next one, whatever the next one has that is further down the list.
        let list = vec![
            http("=/a/b", None, &[], &[]),
            http("~/a/[b]|.+", None, &[], &[]),
            http("~/a/.+", Some("GET"), &["x=1", "y=1"], &["q=1", "r=1"]),
            http("/a/b", None, &[], &[]),
            http("/a", Some("GET"), &[], &[]),
            http("/a", None, &["x=1", "y=1"], &[]),
            http("/a", None, &["x=1"], &["q=1", "r=1"]),
            http("/a", None, &["x=1"], &["q=1"]),
            http("/a", None, &["y=1"], &["q=1"]),
            http("/a", None, &[], &["q=1", "r=1"]),
            http("/a", None, &[], &["q=1"]),
            http("/a", None, &[], &[]),
            http("/", Some("GET"), &["x=1", "y=1"], &["q=1", "r=1"]),
            http("/", None, &[], &[]),
        ];
        for from in 0..list.len() {
            let left: Vec<RouteMatch> = list[from..].to_vec();
            let find = |table| rule(&table, "GET", "web/a/b?q=1&r=1", &["x=1", "y=1"]);
            assert_eq!(find(http_table(left.clone())), Some(0), "{from}");
            // Two that tie are in the order of the document; of no others the order decides.
            if ![7, 8].contains(&from) {
                let reversed = left.iter().rev().cloned().collect();
                assert_eq!(find(http_table(reversed)), Some(left.len() - 1), "{from}");
            }
        }
    }

    #[test]
    fn a_call_precedes_by_the_standards_list() {
        let list = [
            grpc(Some("=shop.Cart"), Some("=Add"), &[]),
            grpc(Some("=shop.Cart"), Some("~A.*|x"), &[]),
            grpc(Some("=shop.Cart"), Some("~A.*"), &["x=1"]),
            grpc(Some("=shop.Cart"), None, &["x=1"]),
            grpc(Some("=shop.Cart"), None, &[]),
            grpc(Some("~shop.*"), Some("=Add"), &["x=1"]),
            grpc(None, Some("=Add"), &["x=1"]),
            grpc(None, Some("=Add"), &[]),
            grpc(None, None, &["x=1"]),
            grpc(None, None, &[]),
        ];
        for from in 0..list.len() {
            let rules = list[from..].iter().rev().map(|wanted| vec![wanted.clone()]);
            let table = table(&[route(RouteKind::Grpc, "shop/cart", rules.collect())]);
            let found = rule(&table, "POST", "cart/shop.Cart/Add", &["x=1"]);
            assert_eq!(found, Some(list.len() - from - 1), "{from}");
        }
    }

    #[test]
    fn hostnames_come_first_and_what_fits_none_goes_on() {
        let one = |name: &str, host: &[&str], path: &str| {
            let mut made = route(RouteKind::Http, name, vec![vec![http(path, None, &[], &[])]]);
            made.hostnames = host.iter().map(|host| hostname(host)).collect();
            made
        };
        let table = table(&[
            one("shop/any", &[], "=/exact"),
            one("shop/wide", &["*.example"], "/"),
            one("shop/narrow", &["*.a.example"], "/n"),
            one("shop/exact", &["x.a.example", "y.example"], "/e"),
        ]);
        for (target, ought) in [
            ("x.a.example/e", Some("shop/exact 0")),
            ("x.a.example/n", Some("shop/narrow 0")),
            ("x.a.example/exact", Some("shop/wide 0")),
            ("x.y.a.example/n", Some("shop/narrow 0")),
            ("a.example/n", Some("shop/wide 0")),
            ("y.example/e", Some("shop/exact 0")),
            ("example/exact", Some("shop/any 0")),
            ("example/e", None),
            ("xexample/exact", Some("shop/any 0")),
            (".example/exact", Some("shop/any 0")),
        ] {
            assert_eq!(
                find(&table, &Get::new("GET", target, &[])).as_deref(),
                ought,
                "{target}"
            );
        }
    }

    #[test]
    fn of_routes_that_tie_the_first_one_has_it() {
        let one = |name, rules| route(RouteKind::Http, name, rules);
        let rule = || vec![http("/", None, &["x=1"], &[])];
        let table = table(&[
            one("shop/old", vec![rule(), rule()]),
            one("shop/new", vec![rule()]),
        ]);
        let found = find(&table, &Get::new("GET", "web/", &["x=1"]));
        assert_eq!(found.as_deref(), Some("shop/old 0"));
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        assert_eq!(rule(&table(&[]), "GET", "web/", &[]), None);
        assert_eq!(
            rule(&http_table(vec![http("/a", None, &[], &[])]), "GET", "web/", &[]),
            None
        );
    }

    #[test]
    fn prefixes_are_found_however_deep() {
        let deep = |elements: usize| "/a".repeat(elements);
        let depths = [1, 2, 31, 32, 33, 34, 200];
        let matches = depths.map(|depth| http(&deep(depth), None, &[], &[]));
        let table = http_table(matches.to_vec());
        for elements in 1..210 {
            let ought = depths.iter().rposition(|depth| *depth <= elements);
            assert_eq!(rule(&table, "GET", &format!("web{}", deep(elements)), &[]), ought);
            let longer = format!("web{}a", deep(elements));
            let ought = depths.iter().rposition(|depth| *depth < elements);
            assert_eq!(rule(&table, "GET", &longer, &[]), ought, "{elements}");
        }
    }

    #[test]
    fn many_matches_of_one_path_are_told_apart() {
        // By value, and by name, with fewer and with more names than the request has.
        for names in [1, 3, 100] {
            let header = |at: usize| format!("x-{}=v{at}", at % names);
            let query = |at: usize| format!("p{}=v{at}", at % names);
            let by_header = (0..300).map(|at| http("/", None, &[&header(at)], &[]));
            let by_query = (0..300).map(|at| http("/", None, &[], &[&query(at)]));
            let table = http_table(by_header.chain(by_query).collect());
            for at in 0..300 {
                let noise = ["accept=text/plain", "user-agent=x"];
                let headers = [noise[0], &header(at), noise[1]];
                assert_eq!(rule(&table, "GET", "web/?a=1&b=2", &headers), Some(at));
                let target = format!("web/?a=1&{}&b=2", query(at));
                assert_eq!(rule(&table, "GET", &target, &noise), Some(300 + at));
                // The first of a name counts.
                let target = format!("web/?p{}=none&{}", at % names, query(at));
                assert_eq!(rule(&table, "GET", &target, &noise), None);
            }
        }
    }

    #[test]
    fn many_patterns_are_told_apart() {
        let own = (0..300).map(|at| http(&format!("~/v[0-9]/s{at}(/.*)?"), None, &[], &[]));
        let open = (300..600).map(|at| http(&format!("~.*/s{at}/x+"), None, &[], &[]));
        let bare = (600..620).map(|at| http(&format!("~[^/]{{{}}}", at - 590), None, &[], &[]));
        let table = http_table(own.chain(open).chain(bare).collect());
        for at in 0..300 {
            assert_eq!(rule(&table, "GET", &format!("web/v1/s{at}"), &[]), Some(at));
            assert_eq!(rule(&table, "GET", &format!("web/v1/s{at}/x"), &[]), Some(at));
            assert_eq!(rule(&table, "GET", &format!("web/vx/s{at}/x"), &[]), None);
            let at = 300 + at;
            assert_eq!(rule(&table, "GET", &format!("web/a/s1/s{at}/xx"), &[]), Some(at));
            assert_eq!(rule(&table, "GET", &format!("web/a/s{at}/y"), &[]), None);
        }
        // All the texts are in it, many of them twice.
        let all: String = (0..1_200).map(|at| format!("/s{}", at % 600)).collect();
        assert_eq!(rule(&table, "GET", &format!("web{all}/x"), &[]), Some(599));
        let mut request = Get::new("GET", "web/", &[]);
        request.path = "a".repeat(20);
        assert_eq!(find(&table, &request).as_deref(), Some("shop/web 610"));
    }

    #[test]
    fn what_a_request_lacks_is_told() {
        let mut other = route(
            RouteKind::Http,
            "shop/other",
            vec![vec![http("/", None, &[], &[])]],
        );
        other.hostnames = vec![hostname("other.example")];
        let rules = vec![
            vec![http("/b", None, &[], &[])],
            vec![http("/a", Some("POST"), &[], &[])],
            vec![
                http("/a", None, &["x=1", "y=1"], &[]),
                http("/a", None, &[], &["q=1"]),
            ],
            vec![http("/a", None, &[], &[])],
        ];
        let table = table(&[other, route(RouteKind::Http, "shop/web", rules)]);
        let request = Get::new("GET", "web/a", &["x=1"]);
        let explained = table.explain(&request.asked());
        let told: Vec<_> = explained
            .iter()
            .map(|considered| (&*considered.rule.name, considered.wanted(), considered.outcome))
            .collect();
        let y = ::http::HeaderName::from_static("y");
        assert_eq!(
            told,
            [
                (
                    "1",
                    "path prefix /a, method POST".to_owned(),
                    Err(Mismatch::Method)
                ),
                (
                    "2",
                    "path prefix /a, header x 1, header y 1".to_owned(),
                    Err(Mismatch::Header(&y))
                ),
                (
                    "2",
                    "path prefix /a, parameter q 1".to_owned(),
                    Err(Mismatch::Query("q"))
                ),
                ("0", "path prefix /b".to_owned(), Err(Mismatch::Path)),
                ("3", "path prefix /a".to_owned(), Ok(())),
                ("0", "path prefix /".to_owned(), Err(Mismatch::Host)),
            ]
        );
        let rules = vec![vec![grpc(Some("=s"), Some("=M"), &[])]];
        let table = super::testing::table(&[route(RouteKind::Grpc, "shop/cart", rules)]);
        let told = |target| table.explain(&Get::new("POST", target, &[]).asked())[0].outcome;
        let wanted = table.explain(&Get::new("POST", "cart/s/M", &[]).asked())[0].wanted();
        assert_eq!(wanted, "gRPC service s, gRPC method M");
        assert_eq!(told("cart/s/M"), Ok(()));
        assert_eq!(told("cart/s/N"), Err(Mismatch::GrpcMethod));
        assert_eq!(told("cart/t/M"), Err(Mismatch::Path));
    }
}
