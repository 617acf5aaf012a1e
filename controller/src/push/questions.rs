//! Questions of operators to proxies, and the answers on their way back.

use std::{
    collections::HashMap,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use tokio::sync::mpsc;
use weft_proto::mesh::v1 as mesh;

use super::admission::SessionId;

/// The most bytes of an answer, all parts together.
pub const MAX_ANSWER_BYTES: usize = 4 << 20;
/// The most parts of an answer.
const MAX_PARTS: usize = 20_000;
/// The most questions under way at once, and of those to one proxy.
const MAX_OPEN: usize = 64;
const MAX_OPEN_OF_ONE: usize = 4;
/// How long a question may take at most, and how long it takes if it does not say.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// What a proxy may be late with saying that the time is over.
const PATIENCE: Duration = Duration::from_secs(1);

/// The answer to a question, part by part. The last part says so, and why if the answer is not whole.
#[derive(Debug)]
pub struct Answers {
    parts: mpsc::UnboundedReceiver<mesh::Answer>,
    is_over: bool,
}

impl Stream for Answers {
    type Item = mesh::Answer;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<mesh::Answer>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let part = match self.parts.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(part)) => part,
            Poll::Ready(None) => failure("the controller ends"),
        };
        self.is_over = part.is_last;
        Poll::Ready(Some(part))
    }
}

/// Why a question is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    #[error("{MAX_OPEN} questions are under way")]
    TooMany,
    #[error("{MAX_OPEN_OF_ONE} questions to this proxy are under way")]
    TooManyOfOne,
}

/// The questions that are under way. Pure, but that it puts answers where they are read.
#[derive(Debug, Default)]
pub(super) struct Questions {
    next: u64,
    open: HashMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    session: SessionId,
    parts: mpsc::UnboundedSender<mesh::Answer>,
    bytes: usize,
    count: usize,
    deadline: Duration,
}

impl Questions {
    /// Opens a question to a session: what to send it, and where the answer comes.
    pub(super) fn ask(
        &mut self,
        session: SessionId,
        question: Option<mesh::question::Question>,
        timeout_ms: u64,
        now: Duration,
    ) -> Result<(mesh::Question, Answers), AskError> {
        if self.open.len() >= MAX_OPEN {
            return Err(AskError::TooMany);
        }
        if self.open.values().filter(|open| open.session == session).count() >= MAX_OPEN_OF_ONE {
            return Err(AskError::TooManyOfOne);
        }
        let timeout = match timeout_ms {
            0 => DEFAULT_TIMEOUT,
            milliseconds => Duration::from_millis(milliseconds).min(MAX_TIMEOUT),
        };
        self.next += 1;
        let (parts, receiver) = mpsc::unbounded_channel();
        let open = Open {
            session,
            parts,
            bytes: 0,
            count: 0,
            deadline: now + timeout + PATIENCE,
        };
        self.open.insert(self.next, open);
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let question = mesh::Question {
            id: self.next,
            timeout_ms,
            question,
        };
        Ok((
            question,
            Answers {
                parts: receiver,
                is_over: false,
            },
        ))
    }

    /// A part of an answer came. A question that is to be cancelled at the proxy comes back: nobody reads it any more,
    /// or it is too long.
    pub(super) fn on_answer(&mut self, session: SessionId, answer: mesh::Answer) -> Option<u64> {
        // One that is over, or that was never asked of this proxy, is not worth ending the stream: it may have crossed
        // with the end of the question.
        let id = answer.id;
        let open = self.open.get_mut(&id).filter(|open| open.session == session)?;
        open.count += 1;
        open.bytes += match &answer.answer {
            Some(mesh::answer::Answer::Part(part)) => part.len(),
            Some(mesh::answer::Answer::Error(error)) => error.len(),
            None => 0,
        };
        let is_last = answer.is_last;
        let is_too_much = open.bytes > MAX_ANSWER_BYTES || open.count > MAX_PARTS;
        let answer = if is_too_much {
            failure("the answer is cut: it is longer than 4 MiB")
        } else {
            answer
        };
        let is_read = open.parts.send(answer).is_ok();
        if is_last || is_too_much || !is_read {
            self.open.remove(&id);
        }
        (!is_last && (is_too_much || !is_read)).then_some(id)
    }

    /// Time passes. Questions to be cancelled at their proxies come back.
    pub(super) fn on_tick(&mut self, now: Duration) -> Vec<(SessionId, u64)> {
        let is_over = |open: &Open| now >= open.deadline || open.parts.is_closed();
        let over = self
            .open
            .iter()
            .filter(|(_, open)| is_over(open))
            .map(|(id, open)| (open.session, *id));
        let over: Vec<(SessionId, u64)> = over.collect();
        for (_, id) in &over {
            if let Some(open) = self.open.remove(id) {
                let _ = open.parts.send(failure("the proxy did not answer in time"));
            }
        }
        over
    }

    /// A session ended.
    pub(super) fn on_closed(&mut self, session: SessionId) {
        self.open.retain(|_, open| {
            let is_other = open.session != session;
            if !is_other {
                let _ = open.parts.send(failure("the stream of the proxy ended"));
            }
            is_other
        });
    }
}

fn failure(message: &str) -> mesh::Answer {
    mesh::Answer {
        id: 0,
        answer: Some(mesh::answer::Answer::Error(message.to_owned())),
        is_last: true,
    }
}
