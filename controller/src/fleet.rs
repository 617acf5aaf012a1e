//! The workloads that register through their proxies, and for how long each is an endpoint.
//!
//! A name belongs to the identity of its proxy's certificate: the namespace is the certificate's, and as long as a
//! proxy of one service account holds a name, none of another gets it. Of one identity the newest wins: a proxy that
//! was restarted takes its name over from the process before.
//!
//! ```text
//!           hello                    stream lost                   grace over
//! nobody -----------> Live{session} -------------> Lost{until} ----------------> Gone
//!                          ^  ^                        | hello                     |
//!                          |  +------------------------+                           |
//!                          +-------------------------------------------------------+
//! Live, draining: a lost stream leads to Gone at once.
//! ```
//!
//! What each is to have in the store follows from that: its document while it is Live or Lost, nothing when it is Gone.
//! [`Fleet::next_write`] gives out the difference, one write a name at a time, so that heartbeats cost no writes and the
//! newest state wins. Pure: it takes the time, and has no I/O.

mod member;
pub mod registration;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use weft_proto::{SpiffeId, kinds::DocumentKey, mesh::v1 as mesh, model::Readiness};

use member::Member;
pub use member::Presence;

use crate::push::admission::SessionId;

/// How long a proxy that is gone is still shown to operators.
const SHOWN_WHEN_GONE: Duration = Duration::from_secs(600);
/// The most proxies that are gone and still shown.
const MAX_GONE: usize = 1_000;
/// The longest grace that a registration may ask for.
const MAX_GRACE: Duration = Duration::from_secs(600);
/// How long a write that failed waits before it is tried again.
const RETRY_WRITE: Duration = Duration::from_secs(2);

/// A moment: of a clock that only runs while this process does, and of the wall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since the start. While the process is stopped it stands, so that no lease runs out unseen.
    pub running: Duration,
    /// Seconds since 1970.
    pub unix: u64,
}

/// For how long an endpoint stays that its proxy left without a word.
#[derive(Clone, Copy, Debug)]
pub struct Graces {
    /// After its stream was lost.
    pub lost: Duration,
    /// After this controller's start, if it was registered before.
    pub restart: Duration,
}

/// A proxy, as its certificate and its hello name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Of its certificate.
    pub identity: SpiffeId,
    /// What it is called: the key of its workload, registered or not.
    pub key: DocumentKey,
    /// Of its process.
    pub instance: String,
    /// Where its stream comes from, for people.
    pub address: String,
}

/// What is to be in the store of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The whole document, as JSON.
    pub document: Bytes,
    /// Whether it takes requests.
    pub readiness: Readiness,
    /// The identity that registered it.
    pub identity: SpiffeId,
    /// How long it stays after its stream was lost, as it asked; `None`: as the controller says.
    pub grace: Option<Duration>,
}

/// A write that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Of which workload.
    pub key: DocumentKey,
    /// `None`: it is to be removed.
    pub registered: Option<Registered>,
}

/// Why something was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It may not be: trying again does not help.
    #[error("{0}")]
    Refused(String),
    /// It cannot be now.
    #[error("{0}")]
    Unavailable(String),
}

/// A session that has to end, and why.
pub type Ended = (SessionId, String);

/// All proxies. See the module.
#[derive(Debug)]
pub struct Fleet {
    graces: Graces,
    members: HashMap<DocumentKey, Member>,
    /// Names of which something may have to be written.
    unwritten: HashSet<DocumentKey>,
}

impl Fleet {
    /// Of those that were registered before this controller started: they are lost, and may come back.
    pub fn new(graces: Graces, before: Vec<(DocumentKey, Registered)>, now: Now) -> Self {
        let member = |(key, registered): (DocumentKey, Registered)| {
            let until = now.running + graces.restart.max(registered.grace.unwrap_or_default());
            (key, Member::restored(registered, until))
        };
        Self {
            graces,
            members: before.into_iter().map(member).collect(),
            unwritten: HashSet::new(),
        }
    }

    /// A proxy said hello. The session that it replaces comes back.
    ///
    /// # Errors
    /// Another identity holds the name.
    pub fn on_hello(
        &mut self,
        session: SessionId,
        proxy: &Proxy,
        registration: Option<Registered>,
        hello: &mesh::Hello,
        now: Now,
    ) -> Result<Option<Ended>, String> {
        let key = &proxy.key;
        if let Some(member) = self.members.get(key)
            && member.identity != proxy.identity
            && !matches!(member.presence, Presence::Gone { .. })
        {
            return Err(format!("{key} is held by {}", member.identity.as_str()));
        }
        let before = self.members.remove(key);
        let replaced = before.as_ref().and_then(|before| {
            let reason = if before.instance == proxy.instance {
                "the same proxy connected again".to_owned()
            } else {
                format!("another instance of {key} connected")
            };
            Some((before.session()?, reason))
        });
        let mut member = Member::connected(session, proxy, hello, now);
        member.wanted = registration;
        if let Some(before) = before {
            member.stored = before.stored;
            member.is_writing = before.is_writing;
            member.retry_at = before.retry_at;
        }
        self.members.insert(key.clone(), member);
        self.unwritten.insert(key.clone());
        Ok(replaced)
    }

    /// A proxy told how it is.
    pub fn on_report(&mut self, session: SessionId, key: &DocumentKey, report: &mesh::Report, now: Now) {
        let Some(member) = self.member(session, key) else {
            return;
        };
        if member.on_report(report, now) {
            self.unwritten.insert(key.clone());
        }
    }

    /// Anything else came from a proxy.
    pub fn on_heard(&mut self, session: SessionId, key: &DocumentKey, trust_version: Option<u64>, now: Now) {
        if let Some(member) = self.member(session, key) {
            member.on_heard(trust_version, now);
        }
    }

    /// A stream ended, however.
    pub fn on_closed(&mut self, session: SessionId, key: &DocumentKey, now: Now) {
        let grace = self.graces.lost;
        let Some(member) = self.member(session, key) else {
            return;
        };
        if member.is_draining() {
            self.go(key, now);
        } else {
            member.lose(now.running + member.grace().unwrap_or(grace));
        }
    }

    /// Time passes: graces end.
    pub fn on_tick(&mut self, now: Now) {
        let is_over =
            |member: &Member| matches!(member.presence, Presence::Lost { until } if now.running >= until);
        let over = self.members.iter().filter(|(_, member)| is_over(member));
        let over: Vec<DocumentKey> = over.map(|(key, _)| key.clone()).collect();
        for key in over {
            self.go(&key, now);
        }
        self.forget_gone(now);
    }

    /// Removes a proxy by name, connected or not: its session comes back. `None`: there is none of that name.
    pub fn evict(&mut self, key: &DocumentKey, now: Now) -> Option<Option<Ended>> {
        let member = self.members.get(key)?;
        let session = member
            .session()
            .map(|session| (session, "evicted by an operator".to_owned()));
        self.go(key, now);
        Some(session)
    }

    /// A write that is due and not under way, as often as there is one.
    pub fn next_write(&mut self, now: Now) -> Option<Write> {
        loop {
            let members = &self.members;
            let is_due = |key: &&DocumentKey| {
                members
                    .get(*key)
                    .is_none_or(|member| member.is_writing || member.retry_at <= now.running)
            };
            let key = self.unwritten.iter().find(is_due)?.clone();
            self.unwritten.remove(&key);
            // While a write is under way there is none; its end is noted as a reason to look again.
            let Some(member) = self.members.get_mut(&key).filter(|member| !member.is_writing) else {
                continue;
            };
            if let Some(registered) = member.difference() {
                member.is_writing = true;
                return Some(Write { key, registered });
            }
        }
    }

    /// A write ended. The session that has to end because its registration is refused comes back.
    pub fn on_written(&mut self, write: &Write, result: Result<(), WriteError>, now: Now) -> Option<Ended> {
        let grace = self.graces.lost;
        let member = self.members.get_mut(&write.key)?;
        member.is_writing = false;
        self.unwritten.insert(write.key.clone());
        match result {
            Ok(()) => {
                member.stored = write.registered.clone();
                member.problem = None;
                None
            }
            Err(WriteError::Unavailable(reason)) => {
                member.retry_at = now.running + RETRY_WRITE;
                member.problem = Some(reason);
                None
            }
            // Meanwhile it wants something else: that is tried next.
            Err(WriteError::Refused(_)) if member.wanted != write.registered => None,
            Err(WriteError::Refused(reason)) => {
                // What was there before stays, as after a lost stream.
                member.wanted = member.stored.clone();
                member.problem = Some(reason.clone());
                let session = member.session();
                if session.is_some() {
                    member.lose(now.running + member.grace().unwrap_or(grace));
                }
                Some((session?, reason))
            }
        }
    }

    /// What is known of each proxy, sorted by namespace and name; what its session knows is added by the caller.
    pub fn statuses(&self) -> Vec<(DocumentKey, Option<SessionId>, mesh::ProxyStatus)> {
        let status =
            |(key, member): (&DocumentKey, &Member)| (key.clone(), member.session(), member.status(key));
        let mut statuses: Vec<_> = self.members.iter().map(status).collect();
        statuses.sort_by(|left, right| left.0.cmp(&right.0));
        statuses
    }

    /// The session of a workload that is connected.
    pub fn session(&self, key: &DocumentKey) -> Option<SessionId> {
        self.members.get(key)?.session()
    }

    /// How many are connected.
    pub fn connected(&self) -> usize {
        self.members
            .values()
            .filter(|member| member.session().is_some())
            .count()
    }

    /// The member, if it is still this session's.
    fn member(&mut self, session: SessionId, key: &DocumentKey) -> Option<&mut Member> {
        self.members
            .get_mut(key)
            .filter(|member| member.session() == Some(session))
    }

    fn go(&mut self, key: &DocumentKey, now: Now) {
        if let Some(member) = self.members.get_mut(key) {
            member.presence = Presence::Gone { at: now.running };
            member.wanted = None;
            self.unwritten.insert(key.clone());
        }
    }

    fn forget_gone(&mut self, now: Now) {
        let gone_at = |member: &Member| match member.presence {
            Presence::Gone { at } if !member.is_unwritten() => Some(at),
            _ => None,
        };
        self.members
            .retain(|_, member| gone_at(member).is_none_or(|at| now.running < at + SHOWN_WHEN_GONE));
        let gone = self
            .members
            .iter()
            .filter_map(|(key, member)| Some((gone_at(member)?, key.clone())));
        let mut gone: Vec<(Duration, DocumentKey)> = gone.collect();
        if let Some(excess) = gone.len().checked_sub(MAX_GONE) {
            gone.sort_unstable();
            for (_, key) in gone.into_iter().take(excess) {
                self.members.remove(&key);
            }
        }
    }
}

/// The readiness of a report or registration; one that is not known here is none.
pub fn readiness(value: i32) -> Readiness {
    match mesh::Readiness::try_from(value) {
        Ok(mesh::Readiness::Ready) => Readiness::Ready,
        Ok(mesh::Readiness::Draining) => Readiness::Draining,
        Ok(mesh::Readiness::NotReady | mesh::Readiness::Unspecified) | Err(_) => Readiness::NotReady,
    }
}
