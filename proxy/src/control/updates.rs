//! What comes from the controller is taken or refused, compiled, published, acked, and kept in the state directory.

use std::time::SystemTime;

use tokio::time::Instant;
use weft_proto::mesh::v1::{self as mesh, proxy_message::Message};

use super::{Control, RESYNC, SAVE, cache::Cache, shown};

impl Control {
    pub(super) fn begin_with_cache(&mut self, now: Instant) {
        let Some(cached) = self.start.cache.as_ref().and_then(Cache::load_configuration) else {
            return;
        };
        self.wanted.insert_all(&cached.subscribe, now);
        if let Err(problems) = self.holdings.on_update(&cached.update) {
            let problem = problems.first().map(shown).unwrap_or_default();
            tracing::warn!(%problem, "the configuration in the state directory can't be used");
            return;
        }
        if self.publish() {
            let age = SystemTime::now().duration_since(cached.saved).unwrap_or_default();
            tracing::warn!(
                ?age,
                resources = self.holdings.len(),
                "going on with the configuration in the state directory"
            );
            self.start
                .state
                .send_modify(|state| state.cached = Some(cached.saved));
        }
    }

    pub(super) fn on_update(&mut self, update: &mesh::Update) {
        let before = self.readiness();
        let taken = match self.holdings.on_update(update) {
            Ok(taken) => taken,
            Err(problems) => return self.refuse(update, problems),
        };
        let is_answer = self.wanted.note(&update.known, &update.unknown);
        // Published before it is acked, and before anybody who waits for it is told.
        if (taken.changed || is_answer) && !self.publish() && self.holdings.view().is_some() {
            tracing::error!("an update was taken that can't be compiled");
        }
        self.wanted.tell();
        let trust_version = self.start.rotation.borrow().trust_version;
        self.send(Message::Ack(mesh::Ack {
            nonce: update.nonce,
            trust_version,
        }));
        if !taken.agrees {
            self.resync("after an update");
        }
        if self.readiness() != before {
            self.report();
        }
        if taken.changed || self.start.state.borrow().cached.is_some() {
            self.save_at.get_or_insert(Instant::now() + SAVE);
        }
        let is_draining = self.holdings.readiness(&self.own) == Some(mesh::Readiness::Draining);
        let (resources, names) = (self.holdings.len(), self.wanted.len());
        self.start.state.send_modify(|state| {
            state.revision = update.revision;
            state.problems.clear();
            state.cached = None;
            (state.resources, state.names) = (resources, names);
            state.known_draining = is_draining;
        });
    }

    pub(super) fn refuse(&mut self, update: &mesh::Update, problems: Vec<mesh::Problem>) {
        for problem in problems.iter().take(10) {
            tracing::warn!(problem = %shown(problem), revision = update.revision, "an update is refused; the last good configuration stays");
        }
        self.start
            .state
            .send_modify(|state| state.problems = problems.iter().map(shown).collect());
        self.send(Message::Nack(mesh::Nack {
            nonce: update.nonce,
            problems,
        }));
    }

    /// Compiles what is held; whether there is enough for it.
    pub(super) fn publish(&mut self) -> bool {
        let Some(view) = self.holdings.view() else {
            return false;
        };
        let identity = self.start.credentials.borrow().svid().id().clone();
        let asked = self.wanted.answered();
        match self
            .start
            .publisher
            .publish(&view.mesh, &view.unready, Some(&asked), &identity)
        {
            Ok(snapshot) => {
                tracing::debug!(generation = snapshot.generation, "new configuration");
                self.latest = Some(snapshot);
                true
            }
            Err(error) => {
                tracing::error!(%error, "the configuration does not fit; the last good one stays");
                false
            }
        }
    }

    pub(super) fn resync(&mut self, when: &str) {
        let now = Instant::now();
        if self.last_resync.is_some_and(|last| now < last + RESYNC) {
            return;
        }
        self.last_resync = Some(now);
        tracing::warn!(%when, "the controller believes that this proxy holds something else: asking for all of it");
        self.send(Message::Resync(mesh::Resync {}));
    }

    /// On a thread of its own: a disk that hangs holds up the next save, and nothing else.
    pub(super) fn save(&mut self) {
        self.save_at = None;
        let Some(cache) = self.start.cache.clone() else {
            return;
        };
        if self.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            self.save_at = Some(Instant::now() + SAVE);
            return;
        }
        let (update, subscribe) = (self.holdings.whole(), self.wanted.all());
        let state = self.start.state.clone();
        self.saving = Some(tokio::task::spawn_blocking(move || {
            let (now, resources) = (SystemTime::now(), update.changed.len());
            match cache.save_configuration(&update, &subscribe, now) {
                Ok(()) => state.send_modify(|state| state.kept = Some((now, resources))),
                Err(error) => {
                    tracing::warn!(%error, "the configuration can't be kept in the state directory");
                }
            }
        }));
    }
}
