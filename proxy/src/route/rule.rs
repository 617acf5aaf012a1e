//! What becomes of a request that matches: its filters, where it goes, how long it may take.

use std::{sync::Arc, time::Duration};

use rand::Rng;
use weft_proto::model::route::{BackendTarget, Route, RouteKind, RouteRetry, RouteRule};

use super::filter::Filters;
use crate::{limit::Buckets, snapshot::Backend};

/// A rule of a route.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) kind: RouteKind,
    /// `NAMESPACE/NAME` of its route.
    pub(crate) route: Arc<str>,
    /// `NAMESPACE/NAME#RULE`, for metrics and logs.
    pub(crate) label: Arc<str>,
    /// Its name in the route, or its number, from 0.
    pub(crate) name: Box<str>,
    /// For all requests that match.
    pub(crate) filters: Filters,
    /// Zero: without limit. `None`: not said.
    pub(crate) request_timeout: Option<Duration>,
    /// Of each try; zero and `None` as above.
    pub(crate) backend_timeout: Option<Duration>,
    pub(crate) retry: Option<RouteRetry>,
    /// In the order of the document.
    pub(crate) destinations: Box<[Arc<Destination>]>,
}

/// One of the places where requests of a rule go.
#[derive(Debug)]
pub(crate) struct Destination {
    /// As the document has it.
    pub(crate) target: BackendTarget,
    /// What its share of the requests gets.
    pub(crate) backend: Result<Arc<Backend>, Unresolved>,
    /// For its share alone, after those of the rule.
    pub(crate) filters: Filters,
    /// In proportion to the others'; 0: it gets none.
    pub(crate) weight: u32,
    /// Tokens of its share, where the backend's policy has rates for rules.
    pub(crate) buckets: Arc<Buckets>,
}

/// Why a reference leads to no backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unresolved {
    /// A label value.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) sentence: String,
}

/// Finds the backend that a reference of a route leads to.
pub(crate) type Backends<'a> = dyn FnMut(&Route, &BackendTarget) -> Result<Arc<Backend>, Unresolved> + 'a;

impl Rule {
    pub(super) fn compile(
        route: &Route,
        index: usize,
        rule: &RouteRule,
        backends: &mut Backends<'_>,
    ) -> Self {
        let mut resolve = |target: &BackendTarget| backends(route, target);
        let filters = Filters::compile(&rule.filters, &mut resolve);
        let name: Box<str> = match &rule.name {
            Some(name) => name.as_str().into(),
            None => index.to_string().into(),
        };
        let label: Arc<str> = format!("{}#{name}", route.name).into();
        let destinations = rule.backends.iter().map(|reference| {
            let backend = resolve(&reference.target);
            let facts = backend
                .as_ref()
                .map(|backend| backend.policy.facts.of_rule(&label));
            Arc::new(Destination {
                buckets: facts.unwrap_or_default(),
                backend,
                filters: Filters::compile(&reference.filters, &mut resolve),
                target: reference.target.clone(),
                weight: reference.weight,
            })
        });
        Self {
            kind: route.kind,
            route: route.name.to_string().into(),
            destinations: destinations.collect(),
            name,
            label,
            filters,
            request_timeout: rule.request_timeout,
            backend_timeout: rule.backend_timeout,
            retry: rule.retry.clone(),
        }
    }

    /// Where one request goes: each destination has its share of many. `None`: the rule has no destination.
    pub(crate) fn choose(&self, rng: &mut impl Rng) -> Option<&Arc<Destination>> {
        let mut weighted = self
            .destinations
            .iter()
            .filter(|destination| destination.weight > 0);
        let first = weighted.next()?;
        if weighted.next().is_none() {
            return Some(first);
        }
        let weights = self
            .destinations
            .iter()
            .map(|destination| u64::from(destination.weight));
        let mut at = rng.random_range(0..weights.sum::<u64>());
        self.destinations.iter().find(|destination| {
            let weight = u64::from(destination.weight);
            let is_here = at < weight;
            at = at.saturating_sub(weight);
            is_here
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};
    use weft_proto::model::route::{RouteKind, RouteRule};

    use super::{
        super::testing::{backends, http, name, table},
        *,
    };

    /// The destinations of so many requests.
    fn draw(weights: &[(&str, u32)], requests: usize) -> Vec<usize> {
        let matches = vec![http("/", None, &[], &[])];
        let rules = vec![RouteRule::new(matches, backends(weights))];
        let route = Route::new(RouteKind::Http, name("shop/web"), Vec::new(), rules);
        let table = table(&[route]);
        let rule = table.rules().next().unwrap();
        let mut rng = SmallRng::seed_from_u64(7);
        let mut drawn = vec![0; weights.len()];
        for _ in 0..requests {
            if let Some(destination) = rule.choose(&mut rng) {
                let at = rule
                    .destinations
                    .iter()
                    .position(|other| other.target == destination.target);
                drawn[at.unwrap()] += 1;
            }
        }
        drawn
    }

    #[test]
    fn each_destination_gets_its_share() {
        const REQUESTS: u32 = 100_000;
        for weights in [
            &[90, 10][..],
            &[1, 1],
            &[1, 2, 3, 0, 4],
            &[1_000_000, 1, 999_999],
            &[0, 0, 5, 5],
            &[1; 16],
        ] {
            let names: Vec<String> = (0..weights.len()).map(|at| format!("shop/v{at}")).collect();
            let named: Vec<(&str, u32)> = names
                .iter()
                .map(String::as_str)
                .zip(weights.iter().copied())
                .collect();
            let drawn = draw(&named, REQUESTS as usize);
            let total: u32 = weights.iter().sum();
            for (drawn, weight) in drawn.iter().zip(weights) {
                let is = *drawn as f64 / f64::from(REQUESTS);
                let ought = f64::from(*weight) / f64::from(total);
                assert!((is - ought).abs() < 0.005, "{weights:?}: {is} for {ought}");
                assert_eq!(
                    *drawn == 0,
                    *weight == 0 || ought < 0.000_1,
                    "{weights:?}: {drawn}"
                );
            }
        }
    }

    #[test]
    fn one_destination_gets_all_and_none_gets_none() {
        assert_eq!(
            draw(&[("shop/a", 0), ("shop/b", 3), ("shop/c", 0)], 100),
            [0, 100, 0]
        );
        assert_eq!(draw(&[("shop/a", 0)], 100), [0]);
        assert_eq!(draw(&[], 1), [0; 0]);
    }

    #[test]
    fn rules_without_names_are_called_by_their_numbers() {
        let matches = || vec![http("/", None, &[], &[])];
        let mut rules = vec![
            RouteRule::new(matches(), Vec::new()),
            RouteRule::new(matches(), Vec::new()),
        ];
        rules[0].name = Some(name("shop/canary").name);
        let route = Route::new(RouteKind::Http, name("shop/web"), Vec::new(), rules);
        let table = table(&[route]);
        let names: Vec<_> = table.rules().map(|rule| (&*rule.route, &*rule.name)).collect();
        assert_eq!(names, [("shop/web", "canary"), ("shop/web", "1")]);
    }
}
