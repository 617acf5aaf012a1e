//! What the next update has.

use std::time::Duration;

use bytes::Bytes;
use weft_proto::{kinds::DocumentKey, mesh::v1 as mesh};

use super::{
    Flight, Next, Phase, Session,
    order::{Order, Rank},
};
use crate::{
    plan::Subject,
    world::{World, key_message},
};

/// The most bytes of resources in an update, but for one that is larger alone. Half of what a message may have: there
/// are keys, names and envelopes beside documents.
pub(super) const MAX_UPDATE_BYTES: usize = 2 << 20;
/// The most names and addresses that one update answers, for the same reason.
const MAX_ANSWERS: usize = 4_000;
/// What a resource takes in a message beside its document and its name: kind, version, features, lengths.
const ENVELOPE_BYTES: usize = 96;

impl Session {
    /// The next update, if one is due.
    pub fn next_update(&mut self, world: &World, now: Duration) -> Option<mesh::Update> {
        if self.flight.is_some() || self.phase == Phase::Waiting || !self.has_news() {
            return None;
        }
        if self.next == Next::Whole {
            self.stale.keys = self.wants.needed(world).cloned().collect();
        }
        let (changed, removed, mut is_last) = self.differences(world);
        let told = if is_last { self.answers() } else { Vec::new() };
        is_last &= self.stale.subjects.is_empty();
        let has_content = !(changed.is_empty() && removed.is_empty() && told.is_empty());
        if !has_content && self.impossible.is_empty() && self.next == Next::Changes {
            return None;
        }
        self.nonce += 1;
        let flight = Flight {
            nonce: self.nonce,
            // A whole that does not fit begins with nothing: what the proxy had is dropped by the first part.
            is_whole: self.next == Next::Whole || (self.next == Next::First && self.held.len() == 0),
            changed,
            removed,
            told,
            revision: world.revision(),
            is_last,
            since: now,
        };
        self.next = Next::Changes;
        let update = self.message(world, &flight);
        self.flight = Some(flight);
        Some(update)
    }

    /// What differs from what the proxy holds, in the order of sending and up to the size of an update; the rest stays
    /// noted. See [`Order`].
    #[allow(clippy::type_complexity)]
    fn differences(&mut self, world: &World) -> (Vec<(DocumentKey, u64)>, Vec<DocumentKey>, bool) {
        let is_whole = self.next == Next::Whole;
        let mut order = Order::new(world, &self.wants, &self.held);
        let mut differing: Vec<(Rank, DocumentKey, Option<u64>)> = Vec::new();
        for key in self.stale.keys.drain() {
            let wanted = self.wants.version(world, &key);
            let held = if is_whole { None } else { self.held.version(&key) };
            if self.refused.versions.get(&key) == Some(&wanted) {
                continue;
            }
            self.refused.versions.remove(&key);
            if wanted != held {
                differing.push((order.rank(&key, wanted.is_some()), key, wanted));
            }
        }
        differing.sort_unstable();
        let (mut changed, mut removed, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (_, key, wanted) in differing {
            bytes += size(world, &key);
            if bytes > MAX_UPDATE_BYTES && !(changed.is_empty() && removed.is_empty()) {
                self.stale.keys.insert(key);
                continue;
            }
            match wanted {
                Some(version) => changed.push((key, version)),
                None => removed.push(key),
            }
        }
        let is_last = self.stale.keys.is_empty();
        (changed, removed, is_last)
    }

    /// What the proxy is to be told about what it asked for.
    fn answers(&mut self) -> Vec<(Subject, bool)> {
        let subjects: Vec<Subject> = self.stale.subjects.iter().take(MAX_ANSWERS).cloned().collect();
        let mut answers = Vec::new();
        for subject in subjects {
            self.stale.subjects.remove(&subject);
            let is_known = self.wants.is_known(&subject);
            let is_there = self
                .wants
                .targets(&subject)
                .all(|key| !self.refused.versions.contains_key(key));
            if is_there && self.wants.contains(&subject) && self.told.get(&subject) != Some(&is_known) {
                answers.push((subject, is_known));
            }
        }
        answers.sort_unstable();
        answers
    }

    fn message(&mut self, world: &World, flight: &Flight) -> mesh::Update {
        let resources = flight
            .changed
            .iter()
            .filter_map(|(key, _)| world.resource(key).cloned());
        let count = self.impossible.len().min(MAX_ANSWERS);
        let impossible: Vec<String> = self.impossible.drain(..count).collect();
        let told = |is_known: bool| {
            let told = flight.told.iter().filter(move |(_, known)| *known == is_known);
            told.map(|(subject, _)| subject.to_string())
        };
        mesh::Update {
            nonce: flight.nonce,
            is_whole: flight.is_whole,
            changed: resources.collect(),
            removed: flight.removed.iter().map(key_message).collect(),
            unknown: told(false).chain(impossible).collect(),
            known: told(true).collect(),
            digest: Bytes::copy_from_slice(&self.held.digest_after(flight)),
            revision: flight.revision,
        }
    }
}

pub(super) fn size(world: &World, key: &DocumentKey) -> usize {
    let document = world.resource(key).map_or(0, |resource| resource.document.len());
    document + key.namespace().len() + key.name().len() + ENVELOPE_BYTES
}
