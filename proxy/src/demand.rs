//! Names and addresses that are asked of the controller at their first use.
//!
//! A worker that meets an unknown one asks the control thread through its [`Demand`] and waits, for a bounded time.
//! [`Wanted`] is the control thread's book of all of them, without I/O: each is asked for once however many wait; what
//! is nothing stays asked for, so that the controller says when that changes; what nobody uses for a while is given back.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use weft_proto::mesh::v1 as mesh;

use crate::snapshot::{NoRoute, Snapshot};

/// How long a request waits for the controller's answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How many names and addresses are asked for at once: those of many more services than any workload calls.
pub(crate) const MAX_SUBJECTS: usize = 4_096;
/// How many requests wait for answers at once, those for one name included.
const MAX_WAITING: usize = 1_024;
/// What nobody used for so long is given back.
pub(crate) const IDLE: Duration = Duration::from_secs(600);
/// How long a stream to the controller may be lost before nobody waits for it any more.
pub(crate) const LOST: Duration = Duration::from_secs(3);
/// The longest name of DNS.
const MAX_NAME_BYTES: usize = 253;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// `web.default`, or a host outside the mesh, in lower case.
    Name(Box<str>),
    Address(IpAddr),
}

impl Subject {
    /// A name; `None` if nothing can have it.
    pub(crate) fn name(text: String) -> Option<Self> {
        let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
        let is_name = (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_part);
        is_name.then(|| Self::Name(text.into()))
    }

    /// As it is in an update.
    fn parse(text: &str) -> Option<Self> {
        match text.parse() {
            Ok(address) => Some(Self::Address(address)),
            Err(_) => Self::name(text.to_owned()),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is something: a snapshot with it is published.
    Known,
    /// It is nothing.
    Unknown,
    /// The controller can't be asked.
    Unavailable,
    /// Too much is asked for.
    TooMany,
}

/// A question, and the way to answer it.
pub(crate) type Ask = (Subject, oneshot::Sender<Verdict>);

/// A worker's way to ask.
#[derive(Clone, Debug)]
pub(crate) struct Demand {
    asks: mpsc::Sender<Ask>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    waiting: Arc<Semaphore>,
}

impl Demand {
    /// Asks through this channel. What is known is in these snapshots.
    pub(crate) fn new(asks: mpsc::Sender<Ask>, snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self {
            asks,
            snapshots,
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    /// Asks, and waits. Whoever stops waiting takes nothing away from the others. The snapshot is one that has what
    /// was asked for.
    ///
    /// # Errors
    /// It is nothing, or nobody can say.
    pub(crate) async fn ask(&self, subject: Subject) -> Result<Arc<Snapshot>, NoRoute> {
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(NoRoute::TooManyNames);
        };
        let unknown = match subject {
            Subject::Name(_) => NoRoute::UnknownName,
            Subject::Address(_) => NoRoute::UnknownInMesh,
        };
        let (answer, answered) = oneshot::channel();
        let verdict = async {
            self.asks.send((subject, answer)).await.ok()?;
            answered.await.ok()
        };
        match timeout(ANSWER, verdict).await {
            Ok(Some(Verdict::Known)) => Ok(self.latest()),
            Ok(Some(Verdict::Unknown)) => Err(unknown),
            Ok(Some(Verdict::TooMany)) => Err(NoRoute::TooManyNames),
            Ok(Some(Verdict::Unavailable) | None) | Err(_) => Err(NoRoute::ControllerUnavailable),
        }
    }

    /// The newest snapshot, which the worker itself may not have taken over yet.
    pub(crate) fn latest(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }
}

/// Whether there is a stream to a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    /// Since when not.
    Down(Instant),
}

/// What of what a proxy holds its application may call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// As in a [`Subject`].
    names: HashSet<Box<str>>,
    addresses: HashSet<IpAddr>,
}

impl Asked {
    /// Whether a service was asked for, by its name, `web.default`, or its address.
    pub(crate) fn has(&self, name: &str, address: Option<IpAddr>) -> bool {
        self.names.contains(name) || address.is_some_and(|address| self.addresses.contains(&address))
    }
}

/// The book of all names and addresses that are asked for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    subjects: HashMap<Subject, Entry>,
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// It was asked for before a restart, and what was known of it then is in use.
    is_kept: bool,
    last_used: Instant,
    waiting: Vec<oneshot::Sender<Verdict>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not answered yet.
    Asked,
    Known,
    Unknown,
}

/// What has to be told to the controller.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) added: Vec<Subject>,
    pub(crate) dropped: Vec<Subject>,
}

impl Changes {
    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.dropped.is_empty()
    }

    /// As a message.
    pub(crate) fn message(&self) -> mesh::Subscribe {
        let (names, addresses) = texts(&self.added);
        let (drop_names, drop_addresses) = texts(&self.dropped);
        mesh::Subscribe {
            names,
            addresses,
            drop_names,
            drop_addresses,
        }
    }
}

fn texts<'a>(subjects: impl IntoIterator<Item = &'a Subject>) -> (Vec<String>, Vec<String>) {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    for subject in subjects {
        match subject {
            Subject::Name(name) => names.push(name.to_string()),
            Subject::Address(address) => addresses.push(address.to_string()),
        }
    }
    (names, addresses)
}

impl Wanted {
    /// From the beginning, or from before a restart.
    pub(crate) fn insert(&mut self, subject: Subject, now: Instant) {
        if self.subjects.len() < MAX_SUBJECTS {
            self.subjects.entry(subject).or_insert(Entry {
                state: State::Asked,
                is_kept: false,
                last_used: now,
                waiting: Vec::new(),
            });
        }
    }

    /// What a message of an earlier run asked for.
    pub(crate) fn insert_all(&mut self, subscribe: &mesh::Subscribe, now: Instant) {
        for text in subscribe.names.iter().chain(&subscribe.addresses) {
            if let Some(subject) = Subject::parse(text) {
                self.insert(subject.clone(), now);
                if let Some(entry) = self.subjects.get_mut(&subject) {
                    entry.is_kept = true;
                }
            }
        }
    }

    /// What was asked for and is something: services that are held for another reason, as the backends of a route, are
    /// not to be called before their own routes are here.
    pub(crate) fn answered(&self) -> Asked {
        let mut asked = Asked::default();
        for (subject, entry) in &self.subjects {
            if entry.state != State::Known && !entry.is_kept {
                continue;
            }
            match subject {
                Subject::Name(name) => {
                    asked.names.insert(name.clone());
                }
                Subject::Address(address) => {
                    asked.addresses.insert(*address);
                }
            }
        }
        asked
    }

    /// Everything, for the beginning of a stream.
    pub(crate) fn all(&self) -> mesh::Subscribe {
        let (names, addresses) = texts(self.subjects.keys());
        mesh::Subscribe {
            names,
            addresses,
            ..mesh::Subscribe::default()
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Somebody asks.
    pub(crate) fn on_ask(&mut self, (subject, answer): Ask, link: Link, now: Instant) -> Changes {
        let mut changes = Changes::default();
        let is_lost = matches!(link, Link::Down(since) if now.duration_since(since) >= LOST);
        if !self.subjects.contains_key(&subject) {
            if self.subjects.len() >= MAX_SUBJECTS {
                match self.least_used() {
                    Some(oldest) => {
                        self.subjects.remove(&oldest);
                        changes.dropped.push(oldest);
                    }
                    None => {
                        let _ = answer.send(Verdict::TooMany);
                        return changes;
                    }
                }
            }
            self.insert(subject.clone(), now);
            changes.added.push(subject.clone());
        }
        let Some(entry) = self.subjects.get_mut(&subject) else {
            return changes;
        };
        entry.last_used = now;
        let verdict = match entry.state {
            State::Known => Verdict::Known,
            // What was nothing before the stream was lost may be something now.
            State::Unknown if link == Link::Up => Verdict::Unknown,
            State::Unknown | State::Asked if is_lost => Verdict::Unavailable,
            State::Unknown | State::Asked => {
                entry.waiting.push(answer);
                return changes;
            }
        };
        let _ = answer.send(verdict);
        changes
    }

    /// One that is nothing, for which nobody waits, and that was not used for the longest time.
    fn least_used(&self) -> Option<Subject> {
        let idle = self
            .subjects
            .iter()
            .filter(|(_, entry)| entry.state == State::Unknown && entry.waiting.is_empty());
        idle.min_by_key(|(_, entry)| entry.last_used)
            .map(|(subject, _)| subject.clone())
    }

    /// The controller answered: from now on what is known may be called. Whether anything is new.
    pub(crate) fn note(&mut self, known: &[String], unknown: &[String]) -> bool {
        let known = known.iter().map(|text| (text, State::Known));
        let unknown = unknown.iter().map(|text| (text, State::Unknown));
        let mut is_new = false;
        for (text, state) in known.chain(unknown) {
            let entry = Subject::parse(text).and_then(|subject| self.subjects.get_mut(&subject));
            if let Some(entry) = entry {
                is_new |= entry.state != state;
                entry.state = state;
                entry.is_kept = false;
            }
        }
        is_new
    }

    /// Tells those who wait for what is [noted](Self::note). To be called once what is known is published.
    pub(crate) fn tell(&mut self) {
        for entry in self.subjects.values_mut() {
            let verdict = match entry.state {
                State::Known => Verdict::Known,
                State::Unknown => Verdict::Unknown,
                State::Asked => continue,
            };
            for waiting in entry.waiting.drain(..) {
                let _ = waiting.send(verdict);
            }
        }
    }

    /// The stream is lost for good, as far as those who wait are concerned.
    pub(crate) fn on_lost(&mut self) {
        for waiting in self
            .subjects
            .values_mut()
            .flat_map(|entry| entry.waiting.drain(..))
        {
            let _ = waiting.send(Verdict::Unavailable);
        }
    }

    /// Time passes: what was used meanwhile, by [`Snapshot::take_used`], and what is to be kept whatever happens.
    pub(crate) fn on_time(
        &mut self,
        (names, addresses): &(HashSet<String>, HashSet<IpAddr>),
        kept: &HashSet<Subject>,
        now: Instant,
    ) -> Changes {
        let mut dropped = Vec::new();
        self.subjects.retain(|subject, entry| {
            entry.waiting.retain(|waiting| !waiting.is_closed());
            let is_used = kept.contains(subject)
                || !entry.waiting.is_empty()
                || match subject {
                    Subject::Name(name) => names.contains(&**name),
                    Subject::Address(address) => addresses.contains(address),
                };
            if is_used {
                entry.last_used = now;
            }
            let is_kept = now.duration_since(entry.last_used) < IDLE;
            if !is_kept {
                dropped.push(subject.clone());
            }
            is_kept
        });
        Changes {
            added: Vec::new(),
            dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Subject {
        Subject::name(text.to_owned()).unwrap()
    }

    /// Asks, and returns what is to be told and where the answer comes.
    fn ask(wanted: &mut Wanted, subject: Subject, link: Link) -> (Changes, oneshot::Receiver<Verdict>) {
        let (answer, answered) = oneshot::channel();
        (wanted.on_ask((subject, answer), link, Instant::now()), answered)
    }

    fn answer(wanted: &mut Wanted, known: &[String], unknown: &[String]) {
        wanted.note(known, unknown);
        wanted.tell();
    }

    fn verdict(mut answered: oneshot::Receiver<Verdict>) -> Option<Verdict> {
        answered.try_recv().ok()
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_wait_the_controller_is_asked_once() {
        let mut wanted = Wanted::default();
        let (first, one) = ask(&mut wanted, name("web.default"), Link::Up);
        assert_eq!(first.message().names, ["web.default"]);
        let (second, two) = ask(&mut wanted, name("web.default"), Link::Up);
        assert!(second.is_empty());
        let (_, gone) = ask(&mut wanted, name("web.default"), Link::Up);
        drop(gone);
        answer(&mut wanted, &["web.default".to_owned()], &[]);
        assert_eq!(
            (verdict(one), verdict(two)),
            (Some(Verdict::Known), Some(Verdict::Known))
        );
        let (again, known) = ask(&mut wanted, name("web.default"), Link::Up);
        assert!(again.is_empty() && verdict(known) == Some(Verdict::Known));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_remembered_until_an_update_says_otherwise() {
        let mut wanted = Wanted::default();
        let (_, first) = ask(&mut wanted, name("web.default"), Link::Up);
        answer(&mut wanted, &[], &["web.default".to_owned()]);
        assert_eq!(verdict(first), Some(Verdict::Unknown));
        let (changes, second) = ask(&mut wanted, name("web.default"), Link::Up);
        assert!(changes.is_empty(), "the subscription stays");
        assert_eq!(verdict(second), Some(Verdict::Unknown));
        answer(&mut wanted, &["web.default".to_owned()], &[]);
        assert_eq!(
            verdict(ask(&mut wanted, name("web.default"), Link::Up).1),
            Some(Verdict::Known)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_controller_the_answer_comes_at_once_and_says_so() {
        let mut wanted = Wanted::default();
        let down = Link::Down(Instant::now());
        // It may be back in a moment.
        let (_, waits) = ask(&mut wanted, name("web.default"), down);
        tokio::time::advance(LOST).await;
        let (changes, answered) = ask(&mut wanted, name("db.default"), down);
        assert_eq!(changes.added, [name("db.default")], "asked for when it is back");
        assert_eq!(verdict(answered), Some(Verdict::Unavailable));
        wanted.on_lost();
        assert_eq!(verdict(waits), Some(Verdict::Unavailable));
        // What was nothing may be something by now.
        answer(
            &mut wanted,
            &["web.default".to_owned()],
            &["db.default".to_owned()],
        );
        assert_eq!(
            verdict(ask(&mut wanted, name("db.default"), down).1),
            Some(Verdict::Unavailable)
        );
        assert_eq!(
            verdict(ask(&mut wanted, name("web.default"), down).1),
            Some(Verdict::Known)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_uses_is_given_back() {
        let mut wanted = Wanted::default();
        for text in ["used.default", "idle.default", "kept.default"] {
            ask(&mut wanted, name(text), Link::Up);
        }
        let address = Subject::Address("10.0.0.1".parse().unwrap());
        ask(&mut wanted, address.clone(), Link::Up);
        let used = (HashSet::from(["used.default".to_owned()]), HashSet::new());
        let kept = HashSet::from([name("kept.default")]);
        tokio::time::advance(IDLE - Duration::from_secs(1)).await;
        assert!(wanted.on_time(&used, &kept, Instant::now()).is_empty());
        tokio::time::advance(Duration::from_secs(1)).await;
        let changes = wanted.on_time(&used, &kept, Instant::now());
        let message = changes.message();
        assert_eq!(
            (message.drop_names, message.drop_addresses),
            (vec!["idle.default".to_owned()], vec!["10.0.0.1".to_owned()])
        );
        assert_eq!(wanted.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_names_makes_way_for_new_ones_and_never_for_known_ones() {
        let mut wanted = Wanted::default();
        let number = |index: usize| name(&format!("n{index}.default"));
        ask(&mut wanted, number(0), Link::Up);
        answer(&mut wanted, &["n0.default".to_owned()], &[]);
        for index in 1..MAX_SUBJECTS {
            ask(&mut wanted, number(index), Link::Up);
        }
        // Nothing is answered yet, so nothing can go.
        let (changes, answered) = ask(&mut wanted, name("more.default"), Link::Up);
        assert!(changes.is_empty() && verdict(answered) == Some(Verdict::TooMany));
        answer(&mut wanted, &[], &["n7.default".to_owned()]);
        let (changes, _) = ask(&mut wanted, name("more.default"), Link::Up);
        assert_eq!(
            (changes.added, changes.dropped),
            (vec![name("more.default")], vec![number(7)])
        );
        assert_eq!(wanted.len(), MAX_SUBJECTS);
    }

    #[test]
    fn a_service_may_be_called_once_it_was_asked_for_and_answered() {
        let mut wanted = Wanted::default();
        let now = Instant::now();
        wanted.insert(name("web.default"), now);
        assert!(
            !wanted.answered().has("web.default", None),
            "its routes are not here yet"
        );
        assert!(wanted.note(&["web.default".to_owned()], &[]));
        assert!(wanted.answered().has("web.default", None));
        assert!(!wanted.note(&["web.default".to_owned()], &[]), "nothing is new");
        // By either; what was asked for before a restart goes on.
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let subscribe = mesh::Subscribe {
            addresses: vec![address.to_string()],
            ..mesh::Subscribe::default()
        };
        wanted.insert_all(&subscribe, now);
        assert!(wanted.answered().has("db.default", Some(address)));
        wanted.note(&[], &[address.to_string()]);
        assert!(!wanted.answered().has("db.default", Some(address)));
    }

    #[test]
    fn what_can_be_no_name_is_none() {
        for text in ["", "a b", "WEB", "a\n", &"a".repeat(254)] {
            assert_eq!(Subject::name(text.to_owned()), None, "{text}");
        }
        assert!(matches!(Subject::parse("fd00::1"), Some(Subject::Address(_))));
    }
}
