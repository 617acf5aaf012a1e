//! An open load of HTTP/1.1 requests: at a fixed rate, whatever becomes of those before, so that a side that stalls is
//! not spared. Each request has an id of its own, and each is counted once, by how it ended.
//!
//! It does not stop at what goes wrong; what is wrong is for the caller to judge. Requests are counted for the part of
//! the load in which they were sent, so that what was under way at a change does not count for what comes after it.

use crate::error::{Doing, Result};
use crate::services::counts::ID_FIELD;
use crate::services::http::{NAME_FIELD, VERSION_FIELD};
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::MissedTickBehavior;

/// A connection that was idle for longer is not used again: the other side may be about to close it.
const MAX_IDLE: Duration = Duration::from_secs(2);

/// Requests under way: more are not sent and have failed. Above what a side that stalls for a while makes of a rate.
const MAX_OPEN: usize = 10_000;

/// Different reasons, services or versions that are told apart.
const MAX_KEYS: usize = 100;

/// What is counted instead of those above [`MAX_KEYS`].
const OTHER: &str = "other";

/// What is sent, to whom and how often.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to connect.
    pub target: SocketAddr,
    /// The `Host` field.
    pub host: String,
    /// The method.
    pub method: Method,
    /// The request target.
    pub path: String,
    /// More fields.
    pub fields: HeaderMap,
    /// The content; empty: none.
    pub content: Bytes,
    /// Requests a second. At least 1.
    pub rate: u32,
    /// It ends by itself after so many.
    pub count: Option<u64>,
    /// Ids are this and the request's number.
    pub id_prefix: String,
    /// How long an answer may take: what has none by then has failed.
    pub timeout: Duration,
}

impl Options {
    /// GET of `/` a hundred times a second, without an end.
    pub fn get(target: SocketAddr, host: &str) -> Self {
        Self {
            target,
            host: host.to_owned(),
            method: Method::GET,
            path: "/".to_owned(),
            fields: HeaderMap::new(),
            content: Bytes::new(),
            rate: 100,
            count: None,
            id_prefix: String::new(),
            timeout: Duration::from_secs(15),
        }
    }
}

/// How the requests of a part ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Requests that were sent.
    pub sent: u64,
    /// Whole answers by their status.
    pub statuses: BTreeMap<u16, u64>,
    /// Whole answers of a service of the lab, whatever their status, by its name.
    pub services: BTreeMap<String, u64>,
    /// The same by its version, if it has one.
    pub versions: BTreeMap<String, u64>,
    /// Answers in the application's place, by the reason that the mesh gives for them.
    pub reasons: BTreeMap<String, u64>,
    /// Requests without a whole answer, by why.
    pub failures: BTreeMap<String, u64>,
    /// What the longest whole answer took.
    pub longest: Duration,
}

impl Outcome {
    /// Whole answers.
    pub fn answered(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Whole answers below 400.
    pub fn succeeded(&self) -> u64 {
        self.statuses.range(..400).map(|(_, count)| *count).sum()
    }

    /// Everything else that has ended.
    pub fn failed(&self) -> u64 {
        let failures: u64 = self.failures.values().sum();
        self.answered() - self.succeeded() + failures
    }

    /// Requests that have not ended.
    pub fn open(&self) -> u64 {
        self.sent.saturating_sub(self.succeeded() + self.failed())
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.sent += other.sent;
        self.longest = self.longest.max(other.longest);
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (mine, theirs) in [
            (&mut self.services, &other.services),
            (&mut self.versions, &other.versions),
            (&mut self.reasons, &other.reasons),
            (&mut self.failures, &other.failures),
        ] {
            for (key, count) in theirs {
                *mine.entry(key.clone()).or_default() += count;
            }
        }
        self
    }
}

/// A load that runs until it is stopped or dropped, on a thread of its own.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    parts: Mutex<Vec<Outcome>>,
}

impl Load {
    /// Begins, with a first part.
    ///
    /// # Errors
    /// There is no runtime or no thread to be had.
    pub fn start(options: Options) -> Result<Self> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            parts: Mutex::new(vec![Outcome::default()]),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.doing(|| "start a runtime".to_owned())?;
        let running = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("open load".to_owned())
            .spawn(move || LocalSet::new().block_on(&runtime, drive(running, options)))
            .doing(|| "start a thread".to_owned())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Ends the present part: what is sent from now on counts for the one whose number this gives.
    pub fn next_part(&self) -> usize {
        self.shared.with(|parts| {
            parts.push(Outcome::default());
            parts.len() - 1
        })
    }

    /// How the requests of a part have ended so far; the first part is 0.
    pub fn part(&self, number: usize) -> Outcome {
        self.shared
            .with(|parts| parts.get(number).cloned().unwrap_or_default())
    }

    /// How the requests of all parts have ended so far.
    pub fn so_far(&self) -> Outcome {
        self.shared
            .with(|parts| parts.iter().fold(Outcome::default(), Outcome::and))
    }

    /// Whether everything that was to be sent is sent, and has ended.
    pub fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Sends nothing more, and waits until everything that was sent has ended; gives the outcome of all parts.
    #[must_use]
    pub fn stop(mut self) -> Outcome {
        self.end();
        self.so_far()
    }

    /// The same; gives the outcome of each part.
    #[must_use]
    pub fn stop_parts(mut self) -> Vec<Outcome> {
        self.end();
        self.shared.with(std::mem::take)
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there is in its own words on standard error; its requests stay open.
            thread.join().ok();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<Outcome>) -> T) -> T {
        act(&mut self.parts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request goes out; gives the part for which it counts.
    fn on_sent(&self) -> usize {
        self.with(|parts| {
            if let Some(part) = parts.last_mut() {
                part.sent += 1;
            }
            parts.len().saturating_sub(1)
        })
    }

    fn on_end(&self, part: usize, ended: std::result::Result<Answer, String>, took: Duration) {
        self.with(|parts| {
            if let Some(part) = parts.get_mut(part) {
                part.on_end(ended, took);
            }
        });
    }
}

impl Outcome {
    fn on_end(&mut self, ended: std::result::Result<Answer, String>, took: Duration) {
        match ended {
            Ok(answer) => {
                *self.statuses.entry(answer.status).or_default() += 1;
                self.longest = self.longest.max(took);
                for (counts, key) in [
                    (&mut self.services, answer.service),
                    (&mut self.versions, answer.version),
                    (&mut self.reasons, answer.reason),
                ] {
                    if let Some(key) = key {
                        add(counts, key);
                    }
                }
            }
            Err(why) => add(&mut self.failures, why),
        }
    }
}

fn add(counts: &mut BTreeMap<String, u64>, key: String) {
    let is_kept = counts.len() < MAX_KEYS || counts.contains_key(&key);
    let key = if is_kept { key } else { OTHER.to_owned() };
    *counts.entry(key).or_default() += 1;
}

/// What is looked at of an answer.
struct Answer {
    status: u16,
    service: Option<String>,
    version: Option<String>,
    reason: Option<String>,
}

/// Connections that nobody uses at the moment, with since when, the last used one last.
type Idle = RefCell<Vec<(Instant, SendRequest<Full<Bytes>>)>>;

async fn drive(shared: Arc<Shared>, options: Options) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / options.rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (options, idle) = (Rc::new(options), Rc::new(Idle::default()));
    let mut open = JoinSet::new();
    for number in 0..options.count.unwrap_or(u64::MAX) {
        ticks.tick().await;
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        while open.try_join_next().is_some() {}
        let part = shared.on_sent();
        if open.len() >= MAX_OPEN {
            let error = Err("too many are under way".to_owned());
            shared.on_end(part, error, Duration::ZERO);
            continue;
        }
        let (shared, options, idle) = (Arc::clone(&shared), Rc::clone(&options), Rc::clone(&idle));
        open.spawn_local(async move {
            let begun = Instant::now();
            let exchange = tokio::time::timeout(options.timeout, exchange(&options, &idle, number));
            let ended = match exchange.await {
                Ok(ended) => ended,
                Err(_) => Err("no answer in time".to_owned()),
            };
            shared.on_end(part, ended, begun.elapsed());
        });
    }
    while open.join_next().await.is_some() {}
}

async fn exchange(options: &Options, idle: &Idle, number: u64) -> std::result::Result<Answer, String> {
    let kept = idle.borrow_mut().pop();
    let is_usable =
        |(since, kept): &(Instant, SendRequest<_>)| since.elapsed() < MAX_IDLE && !kept.is_closed();
    let mut connection = match kept.filter(is_usable) {
        Some((_, connection)) => connection,
        None => connect(options.target).await?,
    };
    let request = request(options, number)?;
    connection.ready().await.map_err(text)?;
    let (head, body) = connection.send_request(request).await.map_err(text)?.into_parts();
    let body = body.collect().await;
    body.map_err(|error| format!("the answer was cut short: {}", text(error)))?;
    idle.borrow_mut().push((Instant::now(), connection));
    let field = |name: &str| Some(head.headers.get(name)?.to_str().ok()?.to_owned());
    Ok(Answer {
        status: head.status.as_u16(),
        service: field(NAME_FIELD),
        version: field(VERSION_FIELD),
        reason: field("weft-error").or_else(|| field("weft-unprocessed")),
    })
}

async fn connect(target: SocketAddr) -> std::result::Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(target)
        .await
        .map_err(|error| format!("no connection: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (connection, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    // Ends with the last request on it.
    tokio::spawn(driver);
    Ok(connection)
}

fn request(options: &Options, number: u64) -> std::result::Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder()
        .method(options.method.clone())
        .uri(&options.path)
        .header(HOST, &options.host)
        .header(ID_FIELD, format!("{}{number}", options.id_prefix))
        .body(Full::new(options.content.clone()))
        .map_err(|error| error.to_string())?;
    request.headers_mut().extend(options.fields.clone());
    Ok(request)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: hyper::Error) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
