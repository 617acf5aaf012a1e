//! What one proxy has, and what it is to be sent next: a state machine without I/O.
//!
//! One update is under way at a time. What changes meanwhile is only noted, by key; when the update is acked, the next
//! one is made of what is true then, so that the newest wins and a proxy that is slow costs no memory. What it holds is
//! known by the versions that it acked, or had when it came: so a difference needs no history, only a comparison.
//!
//! A refused update changes nothing at the proxy. The resources that its problems name are held back, the others are
//! sent again without them; with none named, all are held back. They are tried again when something changed, at most
//! every [`RETRY_REFUSED`].

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use weft_proto::{
    kinds::{DocumentKey, Kind},
    mesh::v1 as mesh,
    wire::Digest,
};

use crate::{
    plan::{MAX_SUBJECT_BYTES, Stale, Subject, Wants},
    world::{Topic, World, key_message},
};

/// The most names and addresses that a proxy may ask for.
pub const MAX_SUBJECTS: usize = 10_000;
/// The most resources that a proxy may claim to have from before; with more it is sent all of them.
const MAX_HELD: usize = 50_000;
/// The most bytes of resources in an update, but for one that is larger alone. Half of what a message may have: there
/// are keys, names and envelopes beside documents.
const MAX_UPDATE_BYTES: usize = 2 << 20;
/// The most names and addresses that one update answers, for the same reason.
const MAX_ANSWERS: usize = 4_000;
/// What a resource takes in a message beside its document and its name: kind, version, features, lengths.
const ENVELOPE_BYTES: usize = 96;
/// How long a proxy may take to ack an update.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long what was refused waits before it is tried again, once something changed.
pub const RETRY_REFUSED: Duration = Duration::from_secs(10);
/// How long after it asked for everything again a proxy may do so once more.
const RESYNC_INTERVAL: Duration = Duration::from_secs(5);
/// The most problems that are kept of a refusal, and the most bytes of each text.
const MAX_PROBLEMS: usize = 20;
const MAX_PROBLEM_BYTES: usize = 500;

/// Why a session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The proxy broke the rules of the stream.
    Violation(String),
    /// It asks for more than it may.
    TooMuch(String),
    /// It does not read, or does not ack.
    TooSlow(String),
    /// It is to come back at once, and say what it holds.
    Again(String),
}

/// Where a proxy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Others have their first update before it.
    Waiting,
    /// Its first updates are under way.
    Syncing,
    /// It had all that concerned it once.
    Live,
}

/// Topics that a session began and ceased to listen to.
#[derive(Debug, Default)]
pub struct TopicChange {
    /// Began.
    pub added: Vec<Topic>,
    /// Ceased.
    pub removed: Vec<Topic>,
}

/// One proxy's stream.
#[derive(Debug)]
pub struct Session {
    wants: Wants,
    phase: Phase,
    stale: Stale,
    held: HashMap<DocumentKey, u64>,
    digest: Digest,
    flight: Option<Flight>,
    refused: Refused,
    /// What the proxy was told about each subject: whether it leads to anything.
    told: HashMap<Subject, bool>,
    /// Texts that can be no name and no address.
    impossible: Vec<String>,
    next: Next,
    nonce: u64,
    acked: Option<u64>,
    last_resync: Option<Duration>,
}

/// Of what sort the next update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It is sent even if nothing changed: the proxy waits for it.
    First,
    /// Everything, whatever the proxy has.
    Whole,
    /// What changed, if anything did.
    Changes,
}

#[derive(Debug)]
struct Flight {
    nonce: u64,
    is_whole: bool,
    changed: Vec<(DocumentKey, u64)>,
    removed: Vec<DocumentKey>,
    told: Vec<(Subject, bool)>,
    revision: u64,
    /// Whether it has all that was to be sent; else there is more to come of the same revision.
    is_last: bool,
    since: Duration,
}

/// What the proxy did not take.
#[derive(Debug, Default)]
struct Refused {
    /// The versions; `None` if it was to be removed.
    versions: HashMap<DocumentKey, Option<u64>>,
    problems: Vec<mesh::Problem>,
    at: Duration,
    /// Whether something changed since.
    is_worth_a_try: bool,
}

impl Session {
    /// Of a proxy that said hello, in the namespace of its certificate.
    pub fn new(
        world: &World,
        namespace: &str,
        own: Option<DocumentKey>,
        held: &[mesh::Held],
    ) -> (Self, TopicChange) {
        let mut session = Self {
            wants: Wants::new(namespace, own),
            phase: Phase::Waiting,
            stale: Stale::default(),
            held: HashMap::new(),
            digest: Digest::default(),
            flight: None,
            refused: Refused::default(),
            told: HashMap::new(),
            impossible: Vec::new(),
            next: Next::First,
            nonce: 0,
            acked: None,
            last_resync: None,
        };
        session.take_held(held);
        session.stale.keys.extend(session.held.keys().cloned());
        session.stale.keys.extend(session.wants.needed(world).cloned());
        let added = session.wants.own_topics();
        (
            session,
            TopicChange {
                added,
                removed: Vec::new(),
            },
        )
    }

    /// If the proxy has anything of which this controller knows not even the kind, it has to drop all that is not
    /// sent: only a whole update does that.
    fn take_held(&mut self, held: &[mesh::Held]) {
        let readable = held
            .iter()
            .map(|held| Some((key_of(held.key.as_ref()?)?, held.version)));
        let readable: Option<HashMap<DocumentKey, u64>> = if held.len() > MAX_HELD {
            None
        } else {
            readable.collect()
        };
        match readable {
            Some(held) => {
                held.iter()
                    .for_each(|(key, version)| self.digest.add(key, *version));
                self.held = held;
            }
            None => self.next = Next::Whole,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Its turn for a first update has come.
    pub fn admit(&mut self) {
        self.phase = Phase::Syncing;
    }

    /// How many resources the proxy holds.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// What it asked for.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.wants.subjects()
    }

    /// What it listens to.
    pub fn topics(&self) -> Vec<Topic> {
        let own = self.wants.own_topics();
        own.into_iter().chain(self.wants.topics().cloned()).collect()
    }

    /// What it last refused, until it took everything.
    pub fn problems(&self) -> &[mesh::Problem] {
        &self.refused.problems
    }

    /// Whether the proxy has all that concerns it.
    pub fn is_current(&self) -> bool {
        self.is_idle() && self.acked.is_some() && self.refused.versions.is_empty()
    }

    /// Up to which revision of the world the proxy has what concerns it; 0: it acked nothing yet.
    pub fn acked_revision(&self, world: &World) -> u64 {
        if self.is_current() {
            world.revision()
        } else {
            self.acked.unwrap_or(0)
        }
    }

    fn is_idle(&self) -> bool {
        self.flight.is_none() && !self.has_news()
    }

    /// Whether an update may be due: then [`next_update`](Self::next_update) says.
    pub fn has_news(&self) -> bool {
        self.next != Next::Changes || !self.stale.is_empty() || !self.impossible.is_empty()
    }

    /// The proxy asks for more, or for less.
    ///
    /// # Errors
    /// It asks for too much.
    pub fn on_subscribe(
        &mut self,
        world: &World,
        subscribe: &mesh::Subscribe,
    ) -> Result<TopicChange, Ending> {
        let mut topics = TopicChange::default();
        let names = subscribe.drop_names.iter().filter_map(|name| Subject::name(name));
        let addresses = subscribe
            .drop_addresses
            .iter()
            .filter_map(|text| Subject::address(text));
        for subject in names.chain(addresses) {
            self.told.remove(&subject);
            topics
                .removed
                .extend(self.wants.unsubscribe(world, &subject, &mut self.stale));
        }
        let names = subscribe.names.iter().map(|name| (name, Subject::name(name)));
        let addresses = subscribe
            .addresses
            .iter()
            .map(|text| (text, Subject::address(text)));
        for (text, subject) in names.chain(addresses) {
            if self.wants.len() + self.impossible.len() >= MAX_SUBJECTS {
                return Err(Ending::TooMuch(format!(
                    "more than {MAX_SUBJECTS} names and addresses are asked for"
                )));
            }
            match subject {
                Some(subject) => {
                    // Asked again, it is answered again.
                    self.told.remove(&subject);
                    topics
                        .added
                        .extend(self.wants.subscribe(world, subject, &mut self.stale));
                }
                None if text.len() <= MAX_SUBJECT_BYTES => self.impossible.push(text.clone()),
                None => return Err(Ending::Violation("a name is longer than any can be".to_owned())),
            }
        }
        Ok(topics)
    }

    /// The world changed under a topic that this session listens to; it had revision `before`.
    pub fn on_affected(&mut self, world: &World, before: u64, topic: &Topic, keys: &HashSet<DocumentKey>) {
        if self.is_current() {
            self.acked = Some(before);
        }
        self.wants.on_affected(world, topic, keys, &mut self.stale);
        if !self.refused.versions.is_empty() {
            self.refused.is_worth_a_try = true;
            self.note_untold();
        }
    }

    /// The proxy took an update.
    ///
    /// # Errors
    /// There was no such update yet.
    pub fn on_ack(&mut self, nonce: u64) -> Result<(), Ending> {
        let Some(flight) = self.take_flight(nonce)? else {
            return Ok(());
        };
        if flight.is_whole {
            self.held.clear();
        }
        self.digest = apply(
            &mut self.held,
            if flight.is_whole {
                Digest::default()
            } else {
                self.digest
            },
            &flight,
        );
        self.told.extend(flight.told);
        if flight.is_last {
            self.acked = Some(flight.revision);
            self.phase = Phase::Live;
        }
        if self.refused.versions.is_empty() {
            self.refused.problems.clear();
        }
        Ok(())
    }

    /// The proxy refused an update and has what it had before.
    ///
    /// # Errors
    /// There was no such update yet.
    pub fn on_nack(&mut self, nonce: u64, problems: &[mesh::Problem], now: Duration) -> Result<(), Ending> {
        let Some(flight) = self.take_flight(nonce)? else {
            return Ok(());
        };
        let sent = flight
            .changed
            .into_iter()
            .map(|(key, version)| (key, Some(version)));
        let sent: Vec<_> = sent
            .chain(flight.removed.into_iter().map(|key| (key, None)))
            .collect();
        let named: HashSet<&str> = problems.iter().map(|problem| problem.document.as_str()).collect();
        let is_named = |key: &DocumentKey| named.contains(key.to_string().as_str());
        let are_any_named = sent.iter().any(|(key, _)| is_named(key));
        for (key, version) in sent {
            if !are_any_named || is_named(&key) {
                self.refused.versions.insert(key, version);
            } else {
                self.stale.keys.insert(key);
            }
        }
        self.stale
            .subjects
            .extend(flight.told.into_iter().map(|(subject, _)| subject));
        self.refused.problems = problems.iter().take(MAX_PROBLEMS).map(cut_problem).collect();
        self.refused.at = now;
        self.refused.is_worth_a_try = false;
        self.phase = Phase::Live;
        Ok(())
    }

    /// `None`: the update was given up meanwhile, as the proxy asked for everything.
    fn take_flight(&mut self, nonce: u64) -> Result<Option<Flight>, Ending> {
        if nonce > self.nonce {
            return Err(Ending::Violation(format!("there was no update {nonce} yet")));
        }
        Ok(self.flight.take_if(|flight| flight.nonce == nonce))
    }

    /// The proxy does not have what it should, and asks for everything.
    ///
    /// # Errors
    /// It has to come back for it: everything is more than one update can have, or it asks all the time.
    pub fn on_resync(&mut self, world: &World, now: Duration) -> Result<(), Ending> {
        let is_again = self.last_resync.is_some_and(|last| now < last + RESYNC_INTERVAL);
        let size: usize = self.wants.needed(world).map(|key| size(world, key)).sum();
        // What was refused is not sent in a whole update, and the last good version of it cannot be.
        if is_again || size > MAX_UPDATE_BYTES || !self.refused.versions.is_empty() {
            return Err(Ending::Again(
                "everything is sent again on another stream, by what is held then".to_owned(),
            ));
        }
        self.last_resync = Some(now);
        if let Some(flight) = self.flight.take() {
            self.stale
                .subjects
                .extend(flight.told.into_iter().map(|(subject, _)| subject));
        }
        self.next = Next::Whole;
        Ok(())
    }

    /// Time passes.
    ///
    /// # Errors
    /// The proxy does not ack.
    pub fn on_tick(&mut self, now: Duration) -> Result<(), Ending> {
        if self
            .flight
            .as_ref()
            .is_some_and(|flight| now >= flight.since + ACK_TIMEOUT)
        {
            let seconds = ACK_TIMEOUT.as_secs();
            return Err(Ending::TooSlow(format!("no ack of an update within {seconds} s")));
        }
        if self.refused.is_worth_a_try && now >= self.refused.at + RETRY_REFUSED && self.is_idle() {
            self.refused.is_worth_a_try = false;
            self.stale
                .keys
                .extend(self.refused.versions.drain().map(|(key, _)| key));
            self.note_untold();
        }
        Ok(())
    }

    /// Answers are held back together with what was refused.
    fn note_untold(&mut self) {
        let untold = self
            .wants
            .subjects()
            .filter(|subject| !self.told.contains_key(subject));
        self.stale.subjects.extend(untold.cloned());
    }

    /// The digest for a heartbeat; empty while something is under way.
    pub fn digest(&self) -> Bytes {
        if self.is_idle() {
            Bytes::copy_from_slice(&self.digest.to_bytes())
        } else {
            Bytes::new()
        }
    }

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
            is_whole: self.next == Next::Whole || (self.next == Next::First && self.held.is_empty()),
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
    /// noted. Workloads come before services, so that no service is ever without its endpoints, and what is not needed
    /// any more goes last.
    #[allow(clippy::type_complexity)]
    fn differences(&mut self, world: &World) -> (Vec<(DocumentKey, u64)>, Vec<DocumentKey>, bool) {
        let is_whole = self.next == Next::Whole;
        let mut differing: Vec<(u8, DocumentKey, Option<u64>)> = Vec::new();
        for key in self.stale.keys.drain() {
            let wanted = self.wants.version(world, &key);
            let held = if is_whole {
                None
            } else {
                self.held.get(&key).copied()
            };
            if self.refused.versions.get(&key) == Some(&wanted) {
                continue;
            }
            self.refused.versions.remove(&key);
            if wanted != held {
                differing.push((rank(world, &key, wanted), key, wanted));
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
        let held = Overlay {
            held: &self.held,
            is_whole: flight.is_whole,
        };
        let base = if flight.is_whole {
            Digest::default()
        } else {
            self.digest
        };
        let digest = held.digest_after(base, flight);
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
            digest: Bytes::copy_from_slice(&digest.to_bytes()),
            revision: flight.revision,
        }
    }
}

/// What the proxy will hold, without changing what it holds.
struct Overlay<'a> {
    held: &'a HashMap<DocumentKey, u64>,
    is_whole: bool,
}

impl Overlay<'_> {
    fn digest_after(&self, mut digest: Digest, flight: &Flight) -> Digest {
        let changed = flight.changed.iter().map(|(key, version)| (key, Some(*version)));
        for (key, version) in changed.chain(flight.removed.iter().map(|key| (key, None))) {
            if let Some(before) = self.held.get(key).filter(|_| !self.is_whole) {
                digest.remove(key, *before);
            }
            if let Some(version) = version {
                digest.add(key, version);
            }
        }
        digest
    }
}

/// Changes what is held as an update says, and its digest with it.
fn apply(held: &mut HashMap<DocumentKey, u64>, digest: Digest, flight: &Flight) -> Digest {
    let digest = Overlay {
        held,
        is_whole: flight.is_whole,
    }
    .digest_after(digest, flight);
    held.extend(flight.changed.iter().cloned());
    for key in &flight.removed {
        held.remove(key);
    }
    digest
}

/// The order of sending.
fn rank(world: &World, key: &DocumentKey, wanted: Option<u64>) -> u8 {
    match (wanted, key.kind()) {
        // Its address may be another's already.
        (None, _) if world.version(key).is_none() => 0,
        (Some(_), Kind::MeshConfig) => 1,
        (Some(_), Kind::Workload | Kind::ExternalService) => 2,
        (Some(_), Kind::Service) => 3,
        (None, _) => 4,
    }
}

fn size(world: &World, key: &DocumentKey) -> usize {
    let document = world.resource(key).map_or(0, |resource| resource.document.len());
    document + key.namespace().len() + key.name().len() + ENVELOPE_BYTES
}

/// A key from the wire; `None` if this controller does not know its kind, or it can be no name.
fn key_of(key: &mesh::ResourceKey) -> Option<DocumentKey> {
    DocumentKey::new(Kind::from_name(&key.kind)?, &key.namespace, &key.name).ok()
}

/// A text of a proxy's as far as it is kept.
fn cut(text: &str) -> String {
    text.chars().take(MAX_PROBLEM_BYTES / 4).collect()
}

fn cut_problem(problem: &mesh::Problem) -> mesh::Problem {
    mesh::Problem {
        document: cut(&problem.document),
        line: problem.line,
        field: cut(&problem.field),
        message: problem.message.chars().take(MAX_PROBLEM_BYTES).collect(),
    }
}
