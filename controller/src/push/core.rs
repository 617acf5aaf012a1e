//! What the hub does with each thing that comes to it. Without I/O, but that messages to proxies are put where their
//! streams find them.

mod operators;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tonic::Status;
use weft_proto::{
    kinds::DocumentKey,
    mesh::v1::{self as mesh, controller_message::Message, proxy_message},
};

use super::{
    Bundle, Options, RenewHint, TrustSink,
    admission::{Admission, Entry as Door, SessionId},
    questions::Questions,
    session::{Ending, Phase, Session, TopicChange},
    stream::{Connected, Out},
};
use crate::{
    fleet::{Fleet, Now, Proxy, Registered, Write, WriteError},
    world::{Affected, Change, Topic, World},
};

/// A proxy reports every few seconds; one that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// When those that are turned away come back: at another moment each, the later the more there are.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Everything that the task owns.
pub(super) struct Core {
    options: Options,
    /// Random, of this process: proxies tell controllers apart by it.
    id: String,
    world: World,
    /// Whether the world was read. Before that nobody is sent anything.
    is_loaded: bool,
    fleet: Fleet,
    sessions: HashMap<SessionId, Connection>,
    /// Who listens to what.
    topics: HashMap<Topic, HashSet<SessionId>>,
    /// Who may be due an update.
    ready: BTreeSet<SessionId>,
    door: Admission,
    questions: Questions,
    bundle: Arc<Bundle>,
    sink: Arc<dyn TrustSink>,
}

struct Connection {
    session: Session,
    proxy: Proxy,
    out: Out,
    heard: Duration,
    next_heartbeat: Duration,
    trust_version: u64,
}

impl Core {
    pub(super) fn new(
        options: Options,
        before: Vec<(DocumentKey, Registered)>,
        bundle: Arc<Bundle>,
        sink: Arc<dyn TrustSink>,
        now: Now,
    ) -> Self {
        Self {
            options,
            id: format!("{:016x}", rand::random::<u64>()),
            world: World::new(),
            is_loaded: false,
            fleet: Fleet::new(options.graces, before, now),
            sessions: HashMap::new(),
            topics: HashMap::new(),
            ready: BTreeSet::new(),
            door: Admission::new(options.admission),
            questions: Questions::default(),
            bundle,
            sink,
        }
    }

    /// A proxy said hello.
    pub(super) fn on_connected(&mut self, connected: Connected, now: Now) {
        let Connected {
            session: id,
            proxy,
            registered,
            hello,
            out,
        } = connected;
        let door = self.door.enter(id);
        if door == Door::TurnedAway {
            out.send(Message::GoAway(self.go_away("too many proxies come at once")));
            out.end(Status::unavailable("too many proxies come at once"));
            return;
        }
        let is_registered = registered.is_some();
        match self.fleet.on_hello(id, &proxy, registered, &hello, now) {
            Ok(None) => {}
            Ok(Some((replaced, reason))) => self.end(replaced, Status::aborted(reason), now),
            Err(reason) => {
                tracing::warn!(proxy = %proxy.key, identity = proxy.identity.as_str(), %reason, "a proxy is refused");
                self.leave_door(id);
                out.end(Status::already_exists(reason));
                return;
            }
        }
        tracing::info!(proxy = %proxy.key, identity = proxy.identity.as_str(), version = hello.version, "a proxy connected");
        let own = is_registered.then(|| proxy.key.clone());
        let (mut session, topics) = Session::new(&self.world, proxy.key.namespace(), own, &hello.held);
        if door == Door::Admitted {
            session.admit();
        }
        self.sink.on_ack(&proxy, hello.trust_version);
        out.send(Message::Welcome(self.welcome()));
        let connection = Connection {
            session,
            proxy,
            out,
            heard: now.running,
            next_heartbeat: now.running + first_heartbeat(id, self.options.heartbeat),
            trust_version: hello.trust_version,
        };
        self.sessions.insert(id, connection);
        self.listen(id, topics);
        self.on_subscribe(id, &hello.subscribe.unwrap_or_default(), now);
        self.ready.insert(id);
    }

    /// A proxy sent something.
    pub(super) fn on_message(&mut self, id: SessionId, message: mesh::ProxyMessage, now: Now) {
        let Some(connection) = self.sessions.get_mut(&id) else {
            return;
        };
        connection.heard = now.running;
        // A message of a kind that this version does not know says nothing to it.
        let Some(message) = message.message else { return };
        let session = &mut connection.session;
        let result = match message {
            proxy_message::Message::Hello(_) => Err(Ending::Violation("hello was said already".to_owned())),
            proxy_message::Message::Subscribe(subscribe) => return self.on_subscribe(id, &subscribe, now),
            proxy_message::Message::Ack(ack) => {
                let result = session.on_ack(ack.nonce);
                self.on_trust(id, ack.trust_version, now);
                result
            }
            proxy_message::Message::Nack(nack) => {
                let problem = nack
                    .problems
                    .first()
                    .map(|problem| problem.message.as_str())
                    .unwrap_or_default();
                let problem: String = problem.chars().take(200).collect();
                tracing::warn!(proxy = %connection.proxy.key, problem, "a proxy refuses an update");
                session.on_nack(nack.nonce, &nack.problems, now.running)
            }
            proxy_message::Message::Report(report) => {
                let key = connection.proxy.key.clone();
                self.fleet.on_report(id, &key, &report, now);
                if let Some(hint) = self
                    .sink
                    .on_certificate(&connection.proxy, &report.certificate_root)
                {
                    connection.out.send(Message::Renew(renew_message(hint)));
                }
                self.on_trust(id, report.trust_version, now);
                return;
            }
            proxy_message::Message::Answer(answer) => {
                if let Some(question) = self.questions.on_answer(id, answer) {
                    connection.out.send(cancel(question));
                }
                return;
            }
            proxy_message::Message::Resync(_) => {
                tracing::info!(proxy = %connection.proxy.key, "a proxy asks for everything again");
                session.on_resync(&self.world, now.running)
            }
        };
        match result {
            Ok(()) => self.on_progress(id),
            Err(ending) => self.end_by(id, ending, now),
        }
    }

    /// A stream ended at the proxy's side.
    pub(super) fn on_closed(&mut self, id: SessionId, now: Now) {
        self.end(id, Status::ok(""), now);
    }

    /// The configuration changed.
    pub(super) fn on_publish(&mut self, revision: u64, changes: Vec<Change>) {
        let before = self.world.revision();
        let affected: Affected = self.world.apply(changes, revision);
        if !self.is_loaded {
            self.is_loaded = true;
            self.ready.extend(self.sessions.keys());
        }
        for (topic, touched) in &affected {
            for id in self.topics.get(topic).into_iter().flatten() {
                if let Some(connection) = self.sessions.get_mut(id)
                    && connection
                        .session
                        .on_affected(&self.world, before, topic, touched)
                {
                    self.ready.insert(*id);
                }
            }
        }
    }

    /// The roots changed.
    pub(super) fn on_bundle(&mut self, bundle: Arc<Bundle>, now: Now) {
        self.bundle = bundle;
        let update = mesh::TrustUpdate {
            bundle: Some(bundle_message(&self.bundle)),
        };
        self.send_all(|| Message::Trust(update.clone()), now);
    }

    /// Everyone is to renew.
    pub(super) fn on_renew(&mut self, hint: RenewHint, now: Now) {
        self.send_all(|| Message::Renew(renew_message(hint)), now);
    }

    /// Sends updates to at most so many sessions that are due one; whether there are more.
    pub(super) fn flush(&mut self, count: usize, now: Now) -> bool {
        for _ in 0..count {
            if !self.is_loaded {
                return false;
            }
            let Some(id) = self.ready.pop_first() else {
                return false;
            };
            let Some(connection) = self.sessions.get_mut(&id) else {
                continue;
            };
            let Some(update) = connection.session.next_update(&self.world, now.running) else {
                continue;
            };
            if !connection.out.send(Message::Update(update)) {
                self.end_slow(id, now);
            }
        }
        !self.ready.is_empty()
    }

    /// Time passes.
    pub(super) fn on_tick(&mut self, now: Now) {
        self.fleet.on_tick(now);
        for (id, question) in self.questions.on_tick(now.running) {
            if let Some(connection) = self.sessions.get(&id) {
                connection.out.send(cancel(question));
            }
        }
        let mut endings = Vec::new();
        for (id, connection) in &mut self.sessions {
            if let Err(ending) = connection.on_tick(now.running, self.options.heartbeat) {
                endings.push((*id, ending));
            }
            if connection.session.has_news() {
                self.ready.insert(*id);
            }
        }
        for (id, ending) in endings {
            self.end_by(id, ending, now);
        }
    }

    /// The next write of what proxies registered.
    pub(super) fn next_write(&mut self, now: Now) -> Option<Write> {
        // Before the world was read nobody knows what a name means.
        if self.is_loaded {
            self.fleet.next_write(now)
        } else {
            None
        }
    }

    /// A write ended.
    pub(super) fn on_written(&mut self, write: &Write, result: Result<(), WriteError>, now: Now) {
        if let Err(error) = &result {
            tracing::warn!(proxy = %write.key, %error, "a registration is not written");
        }
        if let Some((session, reason)) = self.fleet.on_written(write, result, now) {
            self.end(session, Status::failed_precondition(reason), now);
        }
    }

    /// Sends everyone away, each to come back at another moment.
    pub(super) fn stop(&mut self, reason: &str, spread: Duration) {
        for (_, connection) in self.sessions.drain() {
            let retry_after_ms = milliseconds(spread.mul_f64(rand::random()));
            let reason = reason.to_owned();
            connection.out.send(Message::GoAway(mesh::GoAway {
                retry_after_ms,
                reason: reason.clone(),
            }));
            connection.out.end(Status::unavailable(reason));
        }
    }

    fn on_subscribe(&mut self, id: SessionId, subscribe: &mesh::Subscribe, now: Now) {
        let Some(connection) = self.sessions.get_mut(&id) else {
            return;
        };
        match connection.session.on_subscribe(&self.world, subscribe) {
            Ok(topics) => self.listen(id, topics),
            Err(ending) => return self.end_by(id, ending, now),
        }
        self.ready.insert(id);
    }

    /// A session may be due its next update, or may have had its first.
    fn on_progress(&mut self, id: SessionId) {
        self.ready.insert(id);
        let phase = self
            .sessions
            .get(&id)
            .map(|connection| connection.session.phase());
        if phase == Some(Phase::Live) {
            self.leave_door(id);
        }
    }

    fn on_trust(&mut self, id: SessionId, trust_version: u64, now: Now) {
        let Some(connection) = self.sessions.get_mut(&id) else {
            return;
        };
        self.fleet
            .on_heard(id, &connection.proxy.key, Some(trust_version), now);
        if trust_version > connection.trust_version {
            connection.trust_version = trust_version;
            self.sink.on_ack(&connection.proxy, trust_version);
        }
    }

    fn listen(&mut self, id: SessionId, change: TopicChange) {
        // What was dropped and asked for again in one message is asked for.
        for topic in change.removed {
            if let Some(sessions) = self.topics.get_mut(&topic) {
                sessions.remove(&id);
                if sessions.is_empty() {
                    self.topics.remove(&topic);
                }
            }
        }
        for topic in change.added {
            self.topics.entry(topic).or_default().insert(id);
        }
    }

    fn leave_door(&mut self, id: SessionId) {
        let Some(next) = self.door.leave(id) else { return };
        if let Some(connection) = self.sessions.get_mut(&next) {
            connection.session.admit();
            self.ready.insert(next);
        }
    }

    fn send_all(&mut self, message: impl Fn() -> Message, now: Now) {
        let deaf = self
            .sessions
            .iter()
            .filter(|(_, connection)| !connection.out.send(message()));
        let deaf: Vec<SessionId> = deaf.map(|(id, _)| *id).collect();
        deaf.into_iter().for_each(|id| self.end_slow(id, now));
    }

    fn end_slow(&mut self, id: SessionId, now: Now) {
        self.end_by(id, Ending::TooSlow("the proxy does not read".to_owned()), now);
    }

    fn end_by(&mut self, id: SessionId, ending: Ending, now: Now) {
        let status = match ending {
            Ending::Violation(reason) => Status::invalid_argument(reason),
            Ending::TooMuch(reason) => Status::resource_exhausted(reason),
            Ending::TooSlow(reason) => Status::deadline_exceeded(reason),
            Ending::Again(reason) => {
                if let Some(connection) = self.sessions.get(&id) {
                    // At another moment each: what made one differ may have made all differ.
                    let retry_after_ms = milliseconds(RETRY_AFTER.mul_f64(rand::random()));
                    let go_away = mesh::GoAway {
                        retry_after_ms,
                        reason: reason.clone(),
                    };
                    connection.out.send(Message::GoAway(go_away));
                }
                Status::unavailable(reason)
            }
        };
        self.end(id, status, now);
    }

    fn end(&mut self, id: SessionId, status: Status, now: Now) {
        let Some(connection) = self.sessions.remove(&id) else {
            return;
        };
        let key = &connection.proxy.key;
        tracing::info!(proxy = %key, reason = status.message(), "the stream of a proxy ends");
        self.fleet.on_closed(id, key, now);
        self.questions.on_closed(id);
        let removed = connection.session.topics();
        self.listen(
            id,
            TopicChange {
                added: Vec::new(),
                removed,
            },
        );
        self.ready.remove(&id);
        connection.out.end(status);
        self.leave_door(id);
    }

    fn go_away(&self, reason: &str) -> mesh::GoAway {
        let rounds = 1 + self.door.waiting() / self.options.admission.syncing.max(1);
        let spread = RETRY_AFTER + Duration::from_millis(100) * u32::try_from(rounds).unwrap_or(u32::MAX);
        mesh::GoAway {
            retry_after_ms: milliseconds(spread.mul_f64(0.2 + 0.8 * rand::random::<f64>())),
            reason: reason.to_owned(),
        }
    }

    fn welcome(&self) -> mesh::Welcome {
        mesh::Welcome {
            controller: self.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            bundle: Some(bundle_message(&self.bundle)),
            heartbeat_ms: milliseconds(self.options.heartbeat),
            grace_ms: milliseconds(self.options.graces.lost),
        }
    }
}

impl Connection {
    fn on_tick(&mut self, now: Duration, interval: Duration) -> Result<(), Ending> {
        if now >= self.heard + SILENCE {
            let seconds = SILENCE.as_secs();
            return Err(Ending::TooSlow(format!("the proxy said nothing for {seconds} s")));
        }
        self.session.on_tick(now)?;
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + interval;
            let heartbeat = mesh::Heartbeat {
                digest: self.session.digest(),
            };
            if !self.out.send(Message::Heartbeat(heartbeat)) {
                return Err(Ending::TooSlow("the proxy does not read".to_owned()));
            }
        }
        Ok(())
    }
}

/// Spreads heartbeats over the interval.
fn first_heartbeat(id: SessionId, interval: Duration) -> Duration {
    // Of the golden ratio: neighbours are far from each other.
    let spread = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    interval.mul_f64(0.5 + spread as f64 / f64::from(1u32 << 25))
}

fn cancel(question: u64) -> Message {
    Message::Question(mesh::Question {
        id: question,
        ..mesh::Question::default()
    })
}

fn bundle_message(bundle: &Bundle) -> mesh::TrustBundle {
    mesh::TrustBundle {
        version: bundle.version,
        trust_domain: bundle.trust_domain.clone(),
        roots: bundle.roots.clone(),
    }
}

fn renew_message(hint: RenewHint) -> mesh::RenewSoon {
    mesh::RenewSoon {
        within_ms: milliseconds(hint.within),
        trust_version: hint.trust_version,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
