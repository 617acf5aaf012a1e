//! What operators ask this proxy through its controller, and the answers: within limits, and with no secret in them.
//!
//! The log and the pages never have keys, tokens or queries of requests, so neither do the answers made of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    task::AbortHandle,
    time::{Instant, sleep, timeout_at},
};
use weft_proto::mesh::v1::{self as mesh, answer, question::Question as Asked};

use crate::{
    admin::{Report, Workers},
    explain::{Explainer, Question, Unexplained},
    log::{KEPT, Log, Recent},
};

/// The most questions under way at once.
const MAX_OPEN: usize = 8;
/// The longest that an answer goes on.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a part of an answer, and of an answer without its follow-ups.
const MAX_PART: usize = 64 << 10;
const MAX_ANSWER: usize = 4 << 20;
/// The longest that a changed log level stays, unless it is to stay for good.
const MAX_LEVEL: Duration = Duration::from_secs(24 * 3600);

/// Where answers come from.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) snapshot: Arc<dyn Fn() -> Value + Send + Sync>,
    pub(crate) workers: Workers<Report>,
    pub(crate) explainer: Explainer,
    pub(crate) log: Log,
    /// `None`: it is off.
    pub(crate) access_log: Option<Recent>,
}

/// The questions under way on one stream.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    open: HashMap<u64, AbortHandle>,
}

/// Puts the log level back after a while. One a process.
#[derive(Debug, Default)]
pub(crate) struct LogLevel {
    /// What to go back to, and who does it.
    revert: Option<(String, AbortHandle)>,
}

impl Questions {
    /// Answers a question in a task of its own. One without a question ends the one of that id.
    pub(crate) fn on_question(
        &mut self,
        question: mesh::Question,
        sources: &Sources,
        level: &mut LogLevel,
        answers: &mpsc::Sender<mesh::Answer>,
    ) {
        self.open.retain(|_, task| !task.is_finished());
        let mesh::Question {
            id,
            question,
            timeout_ms,
        } = question;
        let Some(asked) = question else {
            if let Some(task) = self.open.remove(&id) {
                task.abort();
            }
            return;
        };
        let to = Answering {
            id,
            answers: answers.clone(),
            deadline: Instant::now() + limit(timeout_ms),
        };
        if self.open.len() >= MAX_OPEN {
            to.try_fail("this proxy answers as many questions as it may");
            return;
        }
        // Changes are made here and now: two of them have an order.
        if let Asked::LogLevel(set) = &asked {
            return match level.set(&sources.log, set) {
                Ok(text) => to.try_finish(text),
                Err(why) => to.try_fail(&why),
            };
        }
        let sources = sources.clone();
        let task = tokio::spawn(async move {
            let deadline = to.deadline;
            // At the deadline nobody reads any more.
            let _ = timeout_at(deadline, to.answer(asked, sources)).await;
        });
        if let Some(before) = self.open.insert(id, task.abort_handle()) {
            before.abort();
        }
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        for task in self.open.values() {
            task.abort();
        }
    }
}

fn limit(timeout_ms: u64) -> Duration {
    match timeout_ms {
        0 => DEFAULT_TIMEOUT,
        milliseconds => Duration::from_millis(milliseconds).min(MAX_TIMEOUT),
    }
}

/// The way back of one answer.
struct Answering {
    id: u64,
    answers: mpsc::Sender<mesh::Answer>,
    deadline: Instant,
}

impl Answering {
    async fn answer(self, asked: Asked, sources: Sources) {
        match asked {
            Asked::Snapshot(_) => self.whole(&(sources.snapshot)()).await,
            Asked::Connections(_) => self.whole(&connections(&sources.workers).await).await,
            Asked::Tail(tail) => {
                let recent = match tail.access {
                    true => sources.access_log.as_ref(),
                    false => Some(sources.log.recent()),
                };
                match recent {
                    Some(recent) => self.tail(recent, &tail).await,
                    None => self.try_fail("this proxy writes no access log (accessLog: none)"),
                }
            }
            Asked::Explain(asked) => match explain(&sources.explainer, &asked).await {
                Ok(explanation) => self.whole(&explanation).await,
                Err(error) => self.try_fail(&error.to_string()),
            },
            Asked::LogLevel(_) => {}
        }
    }

    /// JSON, in parts.
    async fn whole(&self, value: &Value) {
        let text = Bytes::from(format!("{value:#}\n"));
        if text.len() > MAX_ANSWER {
            return self.try_fail("the answer is longer than 4 MiB");
        }
        let mut rest = text;
        while rest.len() > MAX_PART {
            let part = rest.split_to(MAX_PART);
            if !self.part(part, false).await {
                return;
            }
        }
        self.part(rest, true).await;
    }

    async fn tail(&self, recent: &Recent, tail: &mesh::TailLog) {
        let lines = usize::try_from(tail.lines).unwrap_or(usize::MAX).min(KEPT);
        let (last, mut new) = recent.tail(lines);
        let mut text = String::new();
        for line in last {
            if text.len() + line.len() > MAX_PART && !self.part(std::mem::take(&mut text), false).await {
                return;
            }
            text.push_str(&line);
            text.push('\n');
        }
        if !self.part(text, !tail.follow).await || !tail.follow {
            return;
        }
        loop {
            let piece = match new.recv().await {
                Ok(piece) => Bytes::copy_from_slice(&piece),
                Err(RecvError::Lagged(count)) => {
                    Bytes::from(format!("({count} pieces of the log are left out)\n"))
                }
                Err(RecvError::Closed) => return,
            };
            if !self.part(piece, false).await {
                return;
            }
        }
    }

    /// Sends a part; whether anybody takes it.
    async fn part(&self, part: impl Into<Bytes>, is_last: bool) -> bool {
        let answer = mesh::Answer {
            id: self.id,
            answer: Some(answer::Answer::Part(part.into())),
            is_last,
        };
        self.answers.send(answer).await.is_ok()
    }

    fn try_finish(&self, text: String) {
        let part = answer::Answer::Part(text.into());
        self.try_send(part);
    }

    fn try_fail(&self, why: &str) {
        self.try_send(answer::Answer::Error(why.to_owned()));
    }

    fn try_send(&self, answer: answer::Answer) {
        // A stream that takes nothing has worse problems.
        let _ = self.answers.try_send(mesh::Answer {
            id: self.id,
            answer: Some(answer),
            is_last: true,
        });
    }
}

async fn explain(explainer: &Explainer, asked: &mesh::Explain) -> Result<Value, Unexplained> {
    let fields = asked.headers.iter().map(String::as_str);
    let question = Question::parse(&asked.method, &asked.url, fields)?;
    explainer.explain(question).await
}

/// As the admin port shows them.
async fn connections(workers: &Workers<Report>) -> Value {
    let reports = workers.ask().await.into_iter().enumerate();
    let shown: Vec<Value> = reports
        .map(|(worker, report)| match report {
            Some(report) => json!({ "worker": worker, "connections": report.connections }),
            None => json!({ "worker": worker, "error": "no answer" }),
        })
        .collect();
    json!({ "workers": shown })
}

impl LogLevel {
    fn set(&mut self, log: &Log, set: &mesh::SetLogLevel) -> Result<String, String> {
        let before = log.level();
        log.set_level(&set.filter).map_err(|error| error.to_string())?;
        // What was there before the first change is what to go back to.
        let base = match self.revert.take() {
            Some((base, task)) => {
                let is_pending = !task.is_finished();
                task.abort();
                if is_pending { base } else { before.clone() }
            }
            None => before.clone(),
        };
        let level = log.level();
        tracing::info!(from = %before, to = %level, for_ms = set.for_ms, "an operator changed the log's level");
        if set.for_ms == 0 {
            return Ok(format!("{level}\n"));
        }
        let after = Duration::from_millis(set.for_ms).min(MAX_LEVEL);
        let (log, back) = (log.clone(), base.clone());
        let task = tokio::spawn(async move {
            sleep(after).await;
            match log.set_level(&back) {
                Ok(()) => tracing::info!(to = %back, "the log's level is as it was"),
                Err(error) => tracing::warn!(%error, "the log's level can't be put back"),
            }
        });
        self.revert = Some((base, task.abort_handle()));
        Ok(format!("{level}, for {after:?}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::testing::{Sidecar, shop};

    fn sources() -> Sources {
        let (workers, questions) = Workers::new(1);
        // Its worker never answers.
        std::mem::forget(questions);
        Sources {
            snapshot: Arc::new(|| json!({ "text": "x".repeat(200_000) })),
            workers,
            explainer: Sidecar::new(&shop(""), &[]).explainer,
            log: Log::detached(),
            access_log: None,
        }
    }

    fn question(id: u64, question: Option<Asked>, timeout_ms: u64) -> mesh::Question {
        mesh::Question {
            id,
            question,
            timeout_ms,
        }
    }

    struct Fixture {
        questions: Questions,
        sources: Sources,
        level: LogLevel,
        answers: mpsc::Sender<mesh::Answer>,
        taken: mpsc::Receiver<mesh::Answer>,
    }

    fn fixture() -> Fixture {
        let (answers, taken) = mpsc::channel(64);
        Fixture {
            questions: Questions::default(),
            sources: sources(),
            level: LogLevel::default(),
            answers,
            taken,
        }
    }

    impl Fixture {
        fn ask(&mut self, id: u64, asked: Option<Asked>, timeout_ms: u64) {
            let question = question(id, asked, timeout_ms);
            self.questions
                .on_question(question, &self.sources, &mut self.level, &self.answers);
        }

        /// The whole answer, or the error in it.
        async fn answer(&mut self) -> Result<String, String> {
            let mut whole = Vec::new();
            loop {
                let answer = self.taken.recv().await.unwrap();
                match answer.answer.unwrap() {
                    answer::Answer::Part(part) => whole.extend_from_slice(&part),
                    answer::Answer::Error(error) => return Err(error),
                }
                if answer.is_last {
                    return Ok(String::from_utf8(whole).unwrap());
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_answer_comes_in_parts_and_a_silent_worker_shows() {
        let mut fixture = fixture();
        fixture.ask(1, Some(Asked::Snapshot(mesh::Ask {})), 0);
        let whole = fixture.answer().await.unwrap();
        let value: Value = serde_json::from_str(&whole).unwrap();
        assert_eq!(value["text"].as_str().unwrap().len(), 200_000);
        fixture.ask(2, Some(Asked::Connections(mesh::Ask {})), 0);
        assert!(fixture.answer().await.unwrap().contains("no answer"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_explained_and_what_is_none_is_refused() {
        let mut fixture = fixture();
        let explain = |url: &str, headers: &[&str]| {
            Some(Asked::Explain(mesh::Explain {
                method: "GET".to_owned(),
                url: url.to_owned(),
                headers: headers.iter().map(|header| (*header).to_owned()).collect(),
            }))
        };
        fixture.ask(1, explain("http://catalog/", &["x-a: 1"]), 0);
        let value: Value = serde_json::from_str(&fixture.answer().await.unwrap()).unwrap();
        assert_eq!(value["outcome"]["decision"], "forward");
        assert_eq!(value["request"]["headers"], json!(["x-a"]));
        for (id, asked, why) in [
            (2, explain("catalog", &[]), "http://HOST"),
            (3, explain("http://catalog/", &["x"]), "header 1"),
            (
                4,
                explain(&format!("http://catalog/{}", "x".repeat(1 << 20)), &[]),
                "bytes",
            ),
            (5, explain("http://catalog/", &["a:b"; 1_000]), "more than 64"),
        ] {
            fixture.ask(id, asked, 0);
            let error = fixture.answer().await.unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tail_follows_until_it_is_cancelled() {
        let mut fixture = fixture();
        let recent = fixture.sources.log.recent().clone();
        recent.push(b"one\ntwo\n".to_vec(), 2);
        let tail = |follow, access| {
            Some(Asked::Tail(mesh::TailLog {
                lines: 1,
                follow,
                access,
            }))
        };
        fixture.ask(1, tail(false, false), 0);
        assert_eq!(fixture.answer().await.unwrap(), "two\n");
        fixture.ask(2, tail(false, true), 0);
        assert!(fixture.answer().await.unwrap_err().contains("no access log"));
        fixture.ask(3, tail(true, false), 60_000);
        let first = fixture.taken.recv().await.unwrap();
        assert!(!first.is_last);
        recent.push(b"three\n".to_vec(), 1);
        let next = fixture.taken.recv().await.unwrap();
        assert_eq!(
            next.answer,
            Some(answer::Answer::Part(Bytes::from_static(b"three\n")))
        );
        fixture.ask(3, None, 0);
        tokio::task::yield_now().await;
        recent.push(b"four\n".to_vec(), 1);
        tokio::task::yield_now().await;
        assert!(fixture.taken.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn questions_end_at_their_time_and_are_not_too_many() {
        let mut fixture = fixture();
        let follow = || {
            Some(Asked::Tail(mesh::TailLog {
                lines: 0,
                follow: true,
                access: false,
            }))
        };
        for id in 0..MAX_OPEN as u64 {
            fixture.ask(id, follow(), 1_000);
        }
        fixture.ask(100, follow(), 1_000);
        let refused = loop {
            let answer = fixture.taken.recv().await.unwrap();
            if answer.id == 100 {
                break answer;
            }
        };
        assert!(matches!(refused.answer, Some(answer::Answer::Error(_))));
        tokio::time::sleep(Duration::from_secs(2)).await;
        fixture.ask(101, Some(Asked::Explain(mesh::Explain::default())), 0);
        loop {
            let answer = fixture.taken.recv().await.unwrap();
            if answer.id == 101 {
                break;
            }
        }
        assert!(
            fixture.questions.open.len() <= 1,
            "{:?}",
            fixture.questions.open.len()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_level_goes_back_by_itself() {
        let mut fixture = fixture();
        let set = |filter: &str, for_ms| {
            let filter = filter.to_owned();
            Some(Asked::LogLevel(mesh::SetLogLevel { filter, for_ms }))
        };
        fixture.ask(1, set("debug", 1_000), 0);
        assert_eq!(fixture.answer().await.unwrap(), "debug, for 1s\n");
        fixture.ask(2, set("trace", 10_000), 0);
        fixture.answer().await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(
            fixture.sources.log.level(),
            "trace",
            "the second change has its own time"
        );
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(fixture.sources.log.level(), "info");
        fixture.ask(3, set("weft=loud", 0), 0);
        assert!(fixture.answer().await.is_err());
        fixture.ask(4, set("warn", 0), 0);
        fixture.answer().await.unwrap();
        tokio::time::sleep(MAX_LEVEL * 2).await;
        assert_eq!(fixture.sources.log.level(), "warn");
    }
}
