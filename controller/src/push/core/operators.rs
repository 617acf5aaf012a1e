//! What operators see of the proxies, and what they ask of them.

use tonic::Status;
use weft_proto::{
    kinds::{DocumentKey, Kind},
    mesh::v1::{self as mesh, controller_message::Message, question::Question},
};

use super::Core;
use crate::{fleet::Now, push::questions::Answers};

/// The most names that are shown of a proxy among others.
const SHOWN_NAMES: usize = 20;
/// The largest question, in bytes of text. A proxy reads no message without end: one that is too long would end its stream.
const MAX_QUESTION: usize = 64 << 10;

impl Core {
    /// How the proxies are.
    pub(in crate::push) fn fleet(&self, request: &mesh::FleetRequest) -> mesh::FleetResponse {
        let is_asked = |key: &DocumentKey| {
            (request.namespace.is_empty() || request.namespace == key.namespace())
                && (request.name.is_empty() || request.name == key.name())
        };
        let names = if request.name.is_empty() {
            SHOWN_NAMES
        } else {
            usize::MAX
        };
        let statuses = self
            .fleet
            .statuses()
            .into_iter()
            .filter(|(key, ..)| is_asked(key));
        let proxies = statuses.map(|(_, session, mut status)| {
            if let Some(connection) = session.and_then(|session| self.sessions.get(&session)) {
                let session = &connection.session;
                status.acked_revision = session.acked_revision(&self.world);
                status.is_current = session.is_current();
                status.nacked = session.problems().to_vec();
                status.resources = u32::try_from(session.held()).unwrap_or(u32::MAX);
                status.names = session.subjects().take(names).map(ToString::to_string).collect();
                status.names.sort_unstable();
            }
            status
        });
        mesh::FleetResponse {
            proxies: proxies.collect(),
            revision: self.world.revision(),
            trust_version: self.bundle.version,
        }
    }

    /// Asks a proxy something.
    pub(in crate::push) fn ask(&mut self, request: mesh::AskRequest, now: Now) -> Result<Answers, Status> {
        let question = request.question.unwrap_or_default();
        if question.question.is_none() {
            return Err(Status::invalid_argument("question: missing"));
        }
        if question.question.as_ref().map_or(0, text_bytes) > MAX_QUESTION {
            return Err(Status::invalid_argument("question: has more than 64 KiB"));
        }
        let missing = || {
            Status::not_found(format!(
                "no proxy of {}/{} is connected",
                request.namespace, request.workload
            ))
        };
        let key =
            DocumentKey::new(Kind::Workload, &request.namespace, &request.workload).map_err(|_| missing())?;
        let id = self.fleet.session(&key).ok_or_else(missing)?;
        let connection = self.sessions.get(&id).ok_or_else(missing)?;
        let (question, answers) = self
            .questions
            .ask(id, question.question, question.timeout_ms, now.running)
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        if !connection.out.send(Message::Question(question)) {
            self.end_slow(id, now);
            return Err(Status::unavailable("the proxy does not read"));
        }
        Ok(answers)
    }

    /// Forgets a proxy.
    pub(in crate::push) fn evict(&mut self, key: &DocumentKey, now: Now) -> bool {
        match self.fleet.evict(key, now) {
            None => false,
            Some(ended) => {
                if let Some((session, reason)) = ended {
                    self.end(session, Status::aborted(reason), now);
                }
                true
            }
        }
    }
}

/// How much text a question has, in bytes; an empty text has some as well, as it takes room on the wire.
fn text_bytes(question: &Question) -> usize {
    const EACH: usize = 4;
    match question {
        Question::Explain(explain) => {
            let fields = explain.headers.iter().map(|field| field.len() + EACH);
            explain.method.len() + explain.url.len() + fields.sum::<usize>()
        }
        Question::LogLevel(level) => level.filter.len(),
        Question::Snapshot(_) | Question::Connections(_) | Question::Tail(_) => 0,
    }
}
