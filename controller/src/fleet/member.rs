//! One proxy, as the fleet knows it.

use std::time::Duration;

use bytes::Bytes;
use weft_proto::{SpiffeId, kinds::DocumentKey, mesh::v1 as mesh, model::Readiness};

use super::{MAX_GRACE, Now, Proxy, Registered, readiness};
use crate::push::admission::SessionId;

/// The longest text of a proxy's that is kept.
const MAX_TEXT_CHARS: usize = 200;
/// The most warnings of a proxy's that are kept.
const MAX_WARNINGS: usize = 20;

/// Whether a proxy is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// This is its session.
    Live {
        /// Which.
        session: SessionId,
    },
    /// Its stream was lost. It is an endpoint until then.
    Lost {
        /// On the clock that only runs while this process does.
        until: Duration,
    },
    /// It is no endpoint any more.
    Gone {
        /// Since when, on the same clock.
        at: Duration,
    },
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) identity: SpiffeId,
    pub(super) instance: String,
    address: String,
    pub(super) presence: Presence,
    /// What is to be in the store.
    pub(super) wanted: Option<Registered>,
    /// What is.
    pub(super) stored: Option<Registered>,
    pub(super) is_writing: bool,
    pub(super) retry_at: Duration,
    /// Why it could not be written.
    pub(super) problem: Option<String>,
    readiness: Readiness,
    reason: String,
    version: String,
    trust_version: u64,
    certificate_not_after: u64,
    certificate_root: Bytes,
    renewal_failing_since: u64,
    renewal_error: String,
    connected_since: u64,
    last_seen: u64,
    traffic: Option<mesh::Traffic>,
    warnings: Vec<String>,
}

impl Member {
    /// One that was registered before this controller started.
    pub(super) fn restored(registered: Registered, until: Duration) -> Self {
        Self {
            identity: registered.identity.clone(),
            instance: String::new(),
            address: String::new(),
            presence: Presence::Lost { until },
            readiness: registered.readiness,
            wanted: Some(registered.clone()),
            stored: Some(registered),
            is_writing: false,
            retry_at: Duration::ZERO,
            problem: None,
            reason: String::new(),
            version: String::new(),
            trust_version: 0,
            certificate_not_after: 0,
            certificate_root: Bytes::new(),
            renewal_failing_since: 0,
            renewal_error: String::new(),
            connected_since: 0,
            last_seen: 0,
            traffic: None,
            warnings: Vec::new(),
        }
    }

    /// One that said hello.
    pub(super) fn connected(session: SessionId, proxy: &Proxy, hello: &mesh::Hello, now: Now) -> Self {
        let readiness = hello
            .registration
            .as_ref()
            .map(|registration| readiness(registration.readiness));
        let warnings = hello.warnings.iter().take(MAX_WARNINGS);
        Self {
            identity: proxy.identity.clone(),
            instance: proxy.instance.clone(),
            address: proxy.address.clone(),
            presence: Presence::Live { session },
            wanted: None,
            stored: None,
            is_writing: false,
            retry_at: Duration::ZERO,
            problem: None,
            readiness: readiness.unwrap_or(Readiness::NotReady),
            reason: String::new(),
            version: cut(&hello.version),
            trust_version: hello.trust_version,
            certificate_not_after: hello.certificate_not_after,
            certificate_root: Bytes::new(),
            renewal_failing_since: 0,
            renewal_error: String::new(),
            connected_since: now.unix,
            last_seen: now.unix,
            traffic: None,
            warnings: warnings.map(|warning| cut(warning)).collect(),
        }
    }

    pub(super) fn session(&self) -> Option<SessionId> {
        match self.presence {
            Presence::Live { session } => Some(session),
            Presence::Lost { .. } | Presence::Gone { .. } => None,
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.readiness == Readiness::Draining
    }

    pub(super) fn is_unwritten(&self) -> bool {
        self.is_writing || self.wanted != self.stored
    }

    /// The grace that it asked for.
    pub(super) fn grace(&self) -> Option<Duration> {
        let grace = self.wanted.as_ref()?.grace?;
        Some(grace.min(MAX_GRACE))
    }

    pub(super) fn lose(&mut self, until: Duration) {
        self.presence = Presence::Lost { until };
    }

    /// What is to be written now, if anything. What another identity has there is removed first: nobody writes over
    /// what is not its own.
    pub(super) fn difference(&self) -> Option<Option<Registered>> {
        if self.wanted == self.stored {
            return None;
        }
        match (&self.wanted, &self.stored) {
            (Some(wanted), Some(stored)) if wanted.identity != stored.identity => Some(None),
            (wanted, _) => Some(wanted.clone()),
        }
    }

    /// Whether something may have to be written.
    pub(super) fn on_report(&mut self, report: &mesh::Report, now: Now) -> bool {
        self.on_heard(Some(report.trust_version), now);
        self.readiness = readiness(report.readiness);
        self.reason = cut(&report.reason);
        self.certificate_not_after = report.certificate_not_after;
        self.renewal_failing_since = report.renewal_failing_since;
        self.renewal_error = cut(&report.renewal_error);
        self.traffic = report.traffic;
        if report.certificate_root.len() <= 32 {
            self.certificate_root = Bytes::copy_from_slice(&report.certificate_root);
        }
        match &mut self.wanted {
            Some(wanted) if wanted.readiness != self.readiness => {
                wanted.readiness = self.readiness;
                true
            }
            _ => false,
        }
    }

    pub(super) fn on_heard(&mut self, trust_version: Option<u64>, now: Now) {
        self.last_seen = now.unix;
        self.trust_version = self.trust_version.max(trust_version.unwrap_or(0));
    }

    pub(super) fn status(&self, key: &DocumentKey) -> mesh::ProxyStatus {
        let state = match self.presence {
            Presence::Live { .. } => mesh::proxy_status::State::Connected,
            Presence::Lost { .. } => mesh::proxy_status::State::Lost,
            Presence::Gone { .. } => mesh::proxy_status::State::Gone,
        };
        let readiness = match self.readiness {
            Readiness::Ready => mesh::Readiness::Ready,
            Readiness::NotReady => mesh::Readiness::NotReady,
            Readiness::Draining => mesh::Readiness::Draining,
        };
        let problem = self
            .problem
            .iter()
            .map(|problem| format!("not registered: {problem}"));
        mesh::ProxyStatus {
            namespace: key.namespace().to_owned(),
            workload: key.name().to_owned(),
            identity: self.identity.as_str().to_owned(),
            version: self.version.clone(),
            state: state.into(),
            readiness: readiness.into(),
            reason: self.reason.clone(),
            trust_version: self.trust_version,
            certificate_not_after: self.certificate_not_after,
            certificate_root: self.certificate_root.clone(),
            renewal_failing_since: self.renewal_failing_since,
            renewal_error: self.renewal_error.clone(),
            connected_since: self.connected_since,
            last_seen: self.last_seen,
            address: self.address.clone(),
            traffic: self.traffic,
            warnings: self.warnings.iter().cloned().chain(problem).collect(),
            ..mesh::ProxyStatus::default()
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}
