//! The search for an endpoint that will do, by each algorithm.

use std::{ops::Range, sync::atomic::Ordering::Relaxed};

use rand::Rng;
use weft_proto::model::policy::Algorithm;

use super::{Balancer, Member, NoPick, Pick, Picked, View, hash, load, locality::TIERS, ticks};
use crate::outlier::{Admission, Phase, Probe};

/// Draws before all are looked at. If half of the endpoints will do, one request in 256 is left with none by then.
const MAX_DRAWS: usize = 8;
/// Steps of the cursor before that.
const MAX_STEPS: usize = 32;
/// The least share of an endpoint that has just come: without requests nothing in it would get warm.
const LEAST_SHARE: f64 = 0.1;
/// Keep the chance by which a key goes further, and that by which it avoids a new endpoint, apart from all others.
const TIER_PURPOSE: u64 = 1;
const WARMTH_PURPOSE: u64 = 2;

/// The search of one request.
pub(super) struct Search<'a, 'b> {
    balancer: &'a Balancer,
    request: &'b Pick<'b>,
    view: View,
    now: u64,
}

/// What an endpoint is to a request.
pub(super) enum Verdict {
    Fit,
    /// Ejected, and one may come to see whether it still is to be.
    Due,
    Tried,
    Full,
    Ejected,
}

/// What will do.
struct Found<'a> {
    member: &'a Member,
    probe: Option<Probe>,
}

impl<'a, 'b> Search<'a, 'b> {
    pub(super) fn new(balancer: &'a Balancer, request: &'b Pick<'b>, view: View) -> Self {
        Self {
            balancer,
            request,
            view,
            now: ticks::millis(request.now),
        }
    }

    pub(super) fn run(&self, rng: &mut impl Rng) -> Option<Picked<'a>> {
        let chosen = self.tier(rng);
        let nearest_first = (0..TIERS).filter(|tier| *tier != chosen);
        let mut tiers = std::iter::once(chosen).chain(nearest_first);
        let found = tiers.find_map(|tier| self.in_tier(tier, rng))?;
        Some(Picked {
            endpoint: &found.member.endpoint,
            health: &found.member.health,
            probe: found.probe,
        })
    }

    /// Why nothing was found.
    pub(super) fn why_none(&self) -> NoPick {
        let mut why = match self.balancer.members.is_empty() {
            true => NoPick::NoEndpoint,
            false => NoPick::AllTried,
        };
        for member in &self.balancer.members {
            match self.verdict(member) {
                // It was not so a moment ago.
                Verdict::Fit | Verdict::Due | Verdict::Full => return NoPick::AllFull,
                Verdict::Ejected => why = NoPick::AllEjected,
                Verdict::Tried => {}
            }
        }
        why
    }

    /// How far it goes.
    fn tier(&self, rng: &mut impl Rng) -> usize {
        let shares = &self.view.shares;
        // Nearly always it is the nearest with endpoints.
        let mut first = (0..TIERS).filter(|tier| shares.get(*tier).is_some_and(|share| *share > 0));
        let first = first.next().unwrap_or(0);
        if shares.get(first) == Some(&100) {
            return first;
        }
        let drawn = match self.key() {
            Some(key) => (hash::chance(key, TIER_PURPOSE) * 100.0) as u8,
            None => rng.random_range(0..100),
        };
        shares.iter().position(|share| drawn < *share).unwrap_or(first)
    }

    fn key(&self) -> Option<u64> {
        self.balancer.tables.as_ref().and(self.request.key)
    }

    fn in_tier(&self, tier: usize, rng: &mut impl Rng) -> Option<Found<'a>> {
        let range = self.balancer.tiers.get(tier)?.clone();
        if range.is_empty() {
            return None;
        }
        match (&self.balancer.algorithm, self.key()) {
            (Algorithm::ConsistentHash(_), Some(key)) => self.by_key(tier, range, key),
            (Algorithm::LeastLatency | Algorithm::ConsistentHash(_), _) => self.lighter_of_two(range, rng),
            (Algorithm::RoundRobin, _) => self.next_in_turn(range, rng),
            (Algorithm::Random, _) => self.any(range, rng),
        }
    }

    /// The better of two. Two choices keep the longest queue short without asking all endpoints, and, unlike "the best of
    /// all", do not send every proxy of the mesh to the same one.
    fn lighter_of_two(&self, range: Range<usize>, rng: &mut impl Rng) -> Option<Found<'a>> {
        let Some((index, first)) = self.draw(&range, rng) else {
            return self.scan_two(range, rng);
        };
        if first.probe.is_some() {
            return Some(first);
        }
        Some(match self.rival(&range, index, rng) {
            Some(second) => self.lighter(first, second),
            None => first,
        })
    }

    /// One at random.
    fn any(&self, range: Range<usize>, rng: &mut impl Rng) -> Option<Found<'a>> {
        match self.draw(&range, rng) {
            Some((_, found)) => Some(found),
            None => self.scan(range, rng),
        }
    }

    /// The next one. What is passed over moves the cursor as well: its successor has no greater share than others.
    fn next_in_turn(&self, range: Range<usize>, rng: &mut impl Rng) -> Option<Found<'a>> {
        let cursor = &self.balancer.facts.cursor;
        if cursor.load(Relaxed) == 0 {
            // Proxies that start together do not begin with the same endpoint. Another worker may have been first.
            let start = rng.random_range(1..=usize::from(u16::MAX));
            let _ = cursor.compare_exchange(0, start, Relaxed, Relaxed);
        }
        for _ in 0..range.len().min(MAX_STEPS) {
            let index = range.start + cursor.fetch_add(1, Relaxed) % range.len();
            if let Some(found) = self.consider(index)
                && (found.probe.is_some() || self.is_warm(found.member, rng))
            {
                return Some(found);
            }
        }
        self.scan(range, rng)
    }

    /// The one that the key belongs to; if that is not to be used, the one that it belongs to next.
    fn by_key(&self, tier: usize, range: Range<usize>, key: u64) -> Option<Found<'a>> {
        let table = self.balancer.tables.as_ref()?.get(tier)?;
        if let Some(found) = table
            .get(key)
            .and_then(|index| self.consider(range.start + index))
            && (found.probe.is_some() || self.has_key(found.member, key))
        {
            return Some(found);
        }
        let members = self.balancer.members.get(range)?;
        // A warm one before one that still avoids the key.
        let fit = members
            .iter()
            .filter(|member| matches!(self.verdict(member), Verdict::Fit));
        let rank = |member: &&Member| (self.has_key(member, key), hash::affinity(key, member.hash));
        let best = fit.max_by_key(rank).map(Found::fit);
        best.or_else(|| members.iter().find_map(|member| self.consider_member(member)))
    }

    /// One at random that will do and is warm enough for this request, with its index.
    fn draw(&self, range: &Range<usize>, rng: &mut impl Rng) -> Option<(usize, Found<'a>)> {
        (0..MAX_DRAWS).find_map(|_| {
            let index = rng.random_range(range.clone());
            let found = self.consider(index)?;
            (found.probe.is_some() || self.is_warm(found.member, rng)).then_some((index, found))
        })
    }

    /// Another one than `first` at random. One that is not warm enough is not replaced: it would be drawn until it is, if
    /// there are few others.
    fn rival(&self, range: &Range<usize>, first: usize, rng: &mut impl Rng) -> Option<Found<'a>> {
        if range.len() < 2 {
            return None;
        }
        let found = (0..MAX_DRAWS).find_map(|_| {
            let index = rng.random_range(range.start..range.end - 1);
            self.consider(index + usize::from(index >= first))
        })?;
        (found.probe.is_some() || self.is_warm(found.member, rng)).then_some(found)
    }

    fn lighter(&self, first: Found<'a>, second: Found<'a>) -> Found<'a> {
        let loads = (&first.member.endpoint.load, &second.member.endpoint.load);
        match second.probe.is_some() || load::is_lighter(loads.1, loads.0, self.now) {
            true => second,
            false => first,
        }
    }

    /// One at random of all that will do.
    fn scan(&self, range: Range<usize>, rng: &mut impl Rng) -> Option<Found<'a>> {
        let mut sum = 0.0;
        let mut chosen = None;
        for index in range {
            let Some(found) = self.consider(index) else {
                continue;
            };
            if found.probe.is_some() {
                return Some(found);
            }
            let share = self.share(found.member);
            sum += share;
            if rng.random::<f64>() * sum < share {
                chosen = Some(found);
            }
        }
        chosen
    }

    fn scan_two(&self, range: Range<usize>, rng: &mut impl Rng) -> Option<Found<'a>> {
        let first = self.scan(range.clone(), rng)?;
        if first.probe.is_some() {
            return Some(first);
        }
        match self.scan(range, rng) {
            Some(second) => Some(self.lighter(first, second)),
            None => Some(first),
        }
    }

    fn consider(&self, index: usize) -> Option<Found<'a>> {
        self.consider_member(self.balancer.members.get(index)?)
    }

    fn consider_member(&self, member: &'a Member) -> Option<Found<'a>> {
        match self.verdict(member) {
            Verdict::Fit => Some(Found::fit(member)),
            Verdict::Due => {
                let probe = member.health.claim(self.now)?;
                Some(Found {
                    member,
                    probe: Some(probe),
                })
            }
            Verdict::Tried | Verdict::Full | Verdict::Ejected => None,
        }
    }

    fn verdict(&self, member: &Member) -> Verdict {
        let endpoint = &member.endpoint;
        if self.request.tried.contains(&endpoint.uid) {
            return Verdict::Tried;
        }
        match self.balancer.verdict(member, self.view, self.now) {
            Verdict::Due if self.request.may_probe => Verdict::Due,
            Verdict::Due if self.view.panics => Verdict::Fit,
            Verdict::Due => Verdict::Ejected,
            verdict => verdict,
        }
    }

    fn is_warm(&self, member: &Member, rng: &mut impl Rng) -> bool {
        let share = self.share(member);
        share >= 1.0 || rng.random::<f64>() < share
    }

    /// Whether an endpoint has come far enough to have this key: as its share grows, key after key moves to it, each once.
    fn has_key(&self, member: &Member, key: u64) -> bool {
        let share = self.share(member);
        share >= 1.0 || hash::chance(key, member.hash ^ WARMTH_PURPOSE) < share
    }

    fn share(&self, member: &Member) -> f64 {
        self.balancer.share(member, self.now)
    }
}

impl Balancer {
    /// What an endpoint is to any request.
    pub(super) fn verdict(&self, member: &Member, view: View, now: u64) -> Verdict {
        let load = &member.endpoint.load;
        if self.endpoint_limit.is_some_and(|limit| load.in_flight() >= limit) {
            return Verdict::Full;
        }
        if !view.some_ejected {
            return Verdict::Fit;
        }
        match member.health.admission(now) {
            Admission::Open => Verdict::Fit,
            Admission::Due => Verdict::Due,
            Admission::Closed if view.panics => Verdict::Fit,
            Admission::Closed => Verdict::Ejected,
        }
    }

    /// What of its share an endpoint gets while it is new, or just back.
    pub(super) fn share(&self, member: &Member, now: u64) -> f64 {
        if self.slow_start == 0 {
            return 1.0;
        }
        match member.health.phase() {
            Phase::Admitted { since } if since > 0 => {
                let age = now.saturating_sub(since) as f64 / self.slow_start as f64;
                age.clamp(LEAST_SHARE, 1.0)
            }
            Phase::Admitted { .. } | Phase::Ejected { .. } | Phase::Probing { .. } => 1.0,
        }
    }
}

impl<'a> Found<'a> {
    fn fit(member: &'a Member) -> Self {
        Self { member, probe: None }
    }
}
