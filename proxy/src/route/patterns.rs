//! Which of many regular expressions match a text, without trying all of them.
//!
//! Most patterns have some text in them that is in all that they match: `/api/v[0-9]+/orders/.*` has `/orders/`. One
//! walk over the text finds those that are in it, whatever their number, and their patterns alone are tried. A pattern
//! that has no such text, or none that tells it from others, is tried always.

use std::{cmp::Reverse, collections::BTreeMap};

use aho_corasick::AhoCorasick;
use regex_syntax::{
    ParserBuilder,
    hir::{Hir, HirKind},
};
use rustc_hash::FxHashMap;
use weft_proto::pattern::Pattern;

use super::{
    bucket::{Bucket, Rank},
    matching::{Entry, Request},
};

/// Fewer are tried one by one.
const MANY: usize = 8;
/// A text that more patterns have does not tell them apart.
const MAX_SHARED: usize = 8;
/// Of a longer text its end is as good.
const MAX_TEXT_BYTES: usize = 64;
/// So many texts are looked for; patterns with others are tried always.
const MAX_TEXTS: usize = 4_096;

/// Matches whose path, or whose gRPC service, is a pattern.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    members: Vec<Member>,
    /// Those that are tried always, by the first rank of each.
    always: Vec<usize>,
    texts: Option<Texts>,
}

/// A pattern, and the matches that ask for it.
#[derive(Debug)]
struct Member {
    pattern: Pattern,
    /// The least of its ranks.
    first: Rank,
    bucket: Bucket,
}

/// Texts that are in all that their patterns match.
#[derive(Debug)]
struct Texts {
    finder: AhoCorasick,
    /// Of each text, by the first rank of each.
    members: Vec<Vec<usize>>,
}

/// Which of [`MAX_TEXTS`] were met.
struct Met([u64; MAX_TEXTS / 64]);

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
        Self::indexed(members)
    }

    /// `members` are by the first rank of each.
    fn indexed(members: Vec<Member>) -> Self {
        let mut patterns = Self {
            always: (0..members.len()).collect(),
            members,
            texts: None,
        };
        if patterns.members.len() < MANY {
            return patterns;
        }
        let required: Vec<Vec<Vec<u8>>> = patterns
            .members
            .iter()
            .map(|member| required(member.pattern.as_str()))
            .collect();
        let mut shared: FxHashMap<&[u8], usize> = FxHashMap::default();
        for text in required.iter().flatten() {
            *shared.entry(text).or_default() += 1;
        }
        let mut by_text: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
        let mut always = Vec::new();
        for (at, texts) in required.iter().enumerate() {
            let share = |text: &&Vec<u8>| shared.get(text.as_slice()).copied().unwrap_or(usize::MAX);
            let best = texts.iter().min_by_key(|text| (share(text), Reverse(text.len())));
            match best.filter(|text| share(text) <= MAX_SHARED) {
                Some(text) if by_text.len() < MAX_TEXTS || by_text.contains_key(text.as_slice()) => {
                    by_text.entry(text).or_default().push(at);
                }
                Some(_) | None => always.push(at),
            }
        }
        if let Ok(finder) = AhoCorasick::new(by_text.keys()) {
            patterns.always = always;
            patterns.texts = Some(Texts {
                finder,
                members: by_text.into_values().collect(),
            });
        }
        patterns
    }

    /// The first match that a request matches with this text.
    pub(super) fn find(&self, text: &str, request: &Request<'_>, entries: &[Entry]) -> Option<Rank> {
        let mut best = None;
        let mut try_these = |members: &[usize]| {
            for member in members.iter().filter_map(|at| self.members.get(*at)) {
                let limit = best.unwrap_or(Rank::MAX);
                if member.first >= limit {
                    break;
                }
                if member.pattern.is_match(text.as_bytes()) {
                    best = member.bucket.find(request, entries, limit).or(best);
                }
            }
        };
        if let Some(texts) = &self.texts {
            let mut met = Met([0; MAX_TEXTS / 64]);
            for found in texts.finder.find_overlapping_iter(text) {
                let at = found.pattern().as_usize();
                if met.is_first(at) {
                    try_these(texts.members.get(at).map_or(&[], Vec::as_slice));
                }
            }
        }
        try_these(&self.always);
        best
    }
}

impl Met {
    /// Whether it was not met before; now it is.
    fn is_first(&mut self, at: usize) -> bool {
        let Some(word) = self.0.get_mut(at / 64) else {
            return true;
        };
        let bit = 1 << (at % 64);
        let is_first = *word & bit == 0;
        *word |= bit;
        is_first
    }
}

/// The texts that are in all that a pattern matches.
fn required(pattern: &str) -> Vec<Vec<u8>> {
    // As `Pattern` reads it.
    let parsed = ParserBuilder::new().utf8(false).build().parse(pattern);
    let mut texts = Vec::new();
    if let Ok(hir) = parsed {
        add_required(&hir, &mut texts);
    }
    texts.sort_unstable();
    texts.dedup();
    texts
}

/// Documents nest patterns at most 50 deep.
fn add_required(hir: &Hir, texts: &mut Vec<Vec<u8>>) {
    match hir.kind() {
        HirKind::Literal(literal) => {
            let end = literal.0.len().saturating_sub(MAX_TEXT_BYTES);
            texts.push(literal.0.iter().copied().skip(end).collect());
        }
        HirKind::Concat(parts) => parts.iter().for_each(|part| add_required(part, texts)),
        HirKind::Capture(capture) => add_required(&capture.sub, texts),
        HirKind::Repetition(repetition) if repetition.min > 0 => add_required(&repetition.sub, texts),
        HirKind::Repetition(_)
        | HirKind::Empty
        | HirKind::Class(_)
        | HirKind::Look(_)
        | HirKind::Alternation(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_all_matches_have_is_found_in_a_pattern() {
        for (pattern, ought) in [
            ("/api/v[0-9]+/orders/.*", &["/api/v", "/orders/"][..]),
            ("/a(bc)+(x|y)(de)?f{2}", &["/a", "bc", "f"]),
            ("(?i)/API", &["/"]),
            ("x|y", &[]),
            (".*", &[]),
            ("", &[]),
        ] {
            let texts = required(pattern);
            let texts: Vec<_> = texts.iter().map(|text| String::from_utf8_lossy(text)).collect();
            assert_eq!(texts, ought, "{pattern}");
        }
        let long = required(&format!("{}b", "a".repeat(1_000)));
        assert_eq!(long[0].len(), MAX_TEXT_BYTES);
        assert!(long[0].ends_with(b"ab"));
    }

    #[test]
    fn patterns_that_share_all_their_texts_are_tried_always() {
        let matches = |texts: &[String]| {
            let patterns: Vec<Pattern> = texts.iter().map(|text| Pattern::parse(text).unwrap()).collect();
            let matches: Vec<(&Pattern, Rank)> = patterns.iter().zip(0..).collect();
            let patterns = Patterns::new(&matches, &[]);
            (patterns.members.len(), patterns.always.len())
        };
        let own: Vec<String> = (0..100).map(|at| format!("/api/.*/service-{at}/.*")).collect();
        assert_eq!(matches(&own), (100, 0));
        let none: Vec<String> = (0..100).map(|at| format!("/api/.{{{at}}}")).collect();
        assert_eq!(matches(&none), (100, 100));
        assert_eq!(matches(&own[..MANY - 1]), (MANY - 1, MANY - 1));
    }
}
