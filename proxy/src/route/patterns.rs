//! Which of many regular expressions match a text, in one walk over the text.
//!
//! All patterns together are an automaton that is built as it is walked, one for each thread at a time. What it has
//! built is kept up to a bound; where a text would make it build more than that pays for, the patterns are tried one
//! by one, which costs the more the more there are, and always ends.

use std::sync::Arc;

use regex_automata::{
    Anchored, Input, MatchKind,
    hybrid::{
        LazyStateID,
        dfa::{Cache, DFA},
    },
    nfa::thompson,
    util::{pool::Pool, syntax},
};
use rustc_hash::FxHashMap;
use weft_proto::pattern::Pattern;

use super::{
    bucket::{Bucket, Rank},
    matching::{Entry, Request},
};

/// Fewer are tried one by one.
const MANY: usize = 8;
/// Of the patterns together. Beyond it there is no automaton.
const MAX_COMPILED_BYTES: usize = 16 << 20;
/// Of what one thread keeps of the automaton: enough for a thousand patterns of paths with a few variable elements.
const MAX_CACHE_BYTES: usize = 4 << 20;
/// A full cache is emptied only if each of its states has served so many bytes.
const MIN_BYTES_PER_STATE: usize = 8;

/// Matches whose path, or whose gRPC service, is a pattern.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// By the first rank of each, ascending.
    members: Vec<Member>,
    set: Option<Set>,
}

#[derive(Debug)]
struct Member {
    pattern: Pattern,
    first: Rank,
    bucket: Bucket,
}

/// The index of a member is that of its pattern.
#[derive(Debug)]
struct Set {
    dfa: Arc<DFA>,
    caches: Pool<Cache, MakeCache>,
}

type MakeCache = Box<dyn Fn() -> Cache + Send + Sync + std::panic::UnwindSafe + std::panic::RefUnwindSafe>;

/// The automaton was not walked to the end of the text.
struct GaveUp;

impl Patterns {
    /// `matches` ascend.
    pub(super) fn new(matches: &[(&Pattern, Rank)], entries: &[Entry]) -> Self {
        let mut by_text: FxHashMap<&str, (&Pattern, Vec<Rank>)> = FxHashMap::default();
        for (pattern, rank) in matches {
            let (_, ranks) = by_text
                .entry(pattern.as_str())
                .or_insert_with(|| (*pattern, Vec::new()));
            ranks.push(*rank);
        }
        let members = by_text.into_values().filter_map(|(pattern, ranks)| {
            Some(Member {
                pattern: pattern.clone(),
                first: *ranks.first()?,
                bucket: Bucket::new(&ranks, entries),
            })
        });
        let mut members: Vec<Member> = members.collect();
        members.sort_unstable_by_key(|member| member.first);
        let set = (members.len() >= MANY).then(|| Set::new(&members)).flatten();
        Self { members, set }
    }

    /// The first match that a request matches with this text.
    pub(super) fn find(&self, text: &str, request: &Request<'_>, entries: &[Entry]) -> Option<Rank> {
        let mut best = None;
        let mut on_match = |member: &Member| {
            let limit = best.unwrap_or(Rank::MAX);
            best = member.bucket.find(request, entries, limit).or(best);
            best
        };
        let set = self.set.as_ref().ok_or(GaveUp);
        let walked = set.and_then(|set| {
            set.walk(text.as_bytes(), |index| {
                self.members.get(index).map(&mut on_match);
            })
        });
        if let Err(GaveUp) = walked {
            let mut best = None;
            for member in &self.members {
                if best.is_some_and(|best| best < member.first) {
                    break;
                }
                if member.pattern.is_match(text.as_bytes()) {
                    best = on_match(member);
                }
            }
        }
        best
    }
}

impl Set {
    /// `None`: together they take too much memory.
    fn new(members: &[Member]) -> Option<Self> {
        let texts: Vec<String> = members
            .iter()
            .map(|member| format!("^(?:{})$", member.pattern.as_str()))
            .collect();
        let config = DFA::config()
            .match_kind(MatchKind::All)
            .unicode_word_boundary(true)
            .cache_capacity(MAX_CACHE_BYTES)
            .minimum_cache_clear_count(Some(0))
            .minimum_bytes_per_state(Some(MIN_BYTES_PER_STATE));
        let compiled = thompson::Config::new()
            .utf8(false)
            .nfa_size_limit(Some(MAX_COMPILED_BYTES));
        let dfa = DFA::builder()
            .configure(config)
            // As `Pattern` has it.
            .syntax(syntax::Config::new().utf8(false))
            .thompson(compiled)
            .build_many(&texts);
        let dfa = Arc::new(dfa.ok()?);
        let make: MakeCache = Box::new({
            let dfa = dfa.clone();
            move || dfa.create_cache()
        });
        Some(Self {
            dfa,
            caches: Pool::new(make),
        })
    }

    /// Calls back with each pattern that matches, in no order.
    fn walk(&self, text: &[u8], mut on_match: impl FnMut(usize)) -> Result<(), GaveUp> {
        let mut cache = self.caches.get();
        cache.search_start(0);
        let walked = self.end_of(&mut cache, text);
        cache.search_finish(text.len());
        let Some(end) = walked? else { return Ok(()) };
        for index in 0..self.dfa.match_len(&cache, end) {
            on_match(self.dfa.match_pattern(&cache, end, index).as_usize());
        }
        Ok(())
    }

    /// The state after the whole of a text, if it is one in which patterns match.
    fn end_of(&self, cache: &mut Cache, text: &[u8]) -> Result<Option<LazyStateID>, GaveUp> {
        let input = Input::new(text).anchored(Anchored::Yes);
        let start = self.dfa.start_state_forward(cache, &input);
        let mut state = start.map_err(|_| GaveUp)?;
        for byte in text {
            state = self.dfa.next_state(cache, state, *byte).map_err(|_| GaveUp)?;
            if state.is_dead() {
                return Ok(None);
            }
            if state.is_quit() {
                return Err(GaveUp);
            }
        }
        state = self.dfa.next_eoi_state(cache, state).map_err(|_| GaveUp)?;
        Ok(state.is_match().then_some(state))
    }
}
