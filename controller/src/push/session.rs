//! What one proxy has, and what it is to be sent next: a state machine without I/O.
//!
//! One update is under way at a time. What changes meanwhile is only noted, by key; when the update is acked, the next
//! one is made of what is true then, so that the newest wins and a proxy that is slow costs no memory. What it holds is
//! known by the versions that it acked, or had when it came: so a difference needs no history, only a comparison.
//!
//! A refused update changes nothing at the proxy. The resources that its problems name are held back, the others are
//! sent again without them; with none named, all are held back. They are tried again when something changed, at most
//! every [`RETRY_REFUSED`].

mod held;
mod order;
mod update;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use weft_proto::{
    kinds::{DocumentKey, Kind},
    mesh::v1 as mesh,
};

use crate::{
    plan::{MAX_SUBJECT_BYTES, Stale, Subject, Wants},
    world::{Topic, Touched, World},
};
use held::Held;
use update::{MAX_UPDATE_BYTES, size};

/// The most names and addresses that a proxy may ask for.
pub const MAX_SUBJECTS: usize = 10_000;
/// The most resources that a proxy may claim to have from before; with more it is sent all of them.
const MAX_HELD: usize = 50_000;
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
    held: Held,
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
            held: Held::default(),
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
        let readable: Option<Held> = if held.len() > MAX_HELD {
            None
        } else {
            readable.collect()
        };
        match readable {
            Some(held) => self.held = held,
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

    /// The world changed under a topic that this session listens to; it had revision `before`. Whether that concerns
    /// this proxy.
    pub fn on_affected(&mut self, world: &World, before: u64, topic: &Topic, touched: &Touched) -> bool {
        let was_current = self.is_current();
        if !self.wants.on_affected(world, topic, touched, &mut self.stale) {
            return false;
        }
        if was_current {
            self.acked = Some(before);
        }
        if !self.refused.versions.is_empty() {
            self.refused.is_worth_a_try = true;
            self.note_untold();
        }
        true
    }

    /// The proxy took an update.
    ///
    /// # Errors
    /// There was no such update yet.
    pub fn on_ack(&mut self, nonce: u64) -> Result<(), Ending> {
        let Some(flight) = self.take_flight(nonce)? else {
            return Ok(());
        };
        self.held.take(&flight);
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
            Bytes::copy_from_slice(&self.held.digest())
        } else {
            Bytes::new()
        }
    }
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
