//! The access log: one line of JSON for each request and tunnel that ended.
//!
//! A worker writes lines into a buffer of its own and hands it over when it is full, or a moment after its first
//! line; a thread writes buffers to the file or standard output. A line costs the worker its formatting and nothing
//! more. If the thread cannot keep up, whole buffers are dropped and their lines counted: the data path never waits
//! for a disk.
//!
//! What applications and peers send cannot break a line or act on a terminal: everything but printable characters is
//! escaped. Queries are not logged, they carry secrets.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::metrics::Counter;
use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::log::Recent;
use crate::metrics::Direction;

/// A worker hands over its buffer when it has this much.
const BUFFER: usize = 16 * 1024;

/// Or after this time: how late a line may be.
const LATENESS: Duration = Duration::from_millis(100);

/// Buffers on their way to the thread: 1 MiB, a fifth of a second at 20,000 lines a second.
const QUEUE: usize = 64;

/// The longest that a text from outside may be in a line.
const MAX_TEXT: usize = 1_024;

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sink {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
}

/// One line. Absent texts are empty, and are left out.
#[derive(Debug, Clone)]
pub(crate) struct Entry<'e> {
    /// When the request began.
    pub(crate) time: SystemTime,
    /// Which side of the mesh served it.
    pub(crate) direction: Direction,
    /// What the application spoke: `http/1.1`, `h2`, `tcp`, `websocket`.
    pub(crate) protocol: &'static str,
    /// What carried it between the sidecars: `h3`, `plaintext`, or empty if nothing did.
    pub(crate) transport: &'static str,
    /// Method of a request.
    pub(crate) method: &'e str,
    /// Path of a request; its query is cut off.
    pub(crate) path: &'e str,
    /// Authority of a request, or the server name of a TLS tunnel.
    pub(crate) authority: &'e str,
    /// The service that was called.
    pub(crate) service: &'e str,
    /// The rule of a route that the request matched.
    pub(crate) route: &'e str,
    /// The service to which that sent it, if it is another one.
    pub(crate) backend: &'e str,
    /// The workload that served it.
    pub(crate) endpoint: &'e str,
    /// SPIFFE ID of the caller.
    pub(crate) caller: &'e str,
    /// SPIFFE ID of the workload that served it.
    pub(crate) peer: &'e str,
    /// Status of the response; `None` for tunnels and for responses that never began.
    pub(crate) status: Option<u16>,
    /// Status of a gRPC response.
    pub(crate) grpc_status: Option<u16>,
    /// Why the mesh answered itself, or cut it short.
    pub(crate) reason: &'static str,
    /// Endpoints tried.
    pub(crate) tries: u32,
    /// Why it was not tried again, although something was not as it should be.
    pub(crate) gave_up: &'static str,
    /// Bytes of the body, or through the tunnel, from the caller.
    pub(crate) received: u64,
    /// And to it.
    pub(crate) sent: u64,
    /// To the end of the response, or of the tunnel.
    pub(crate) duration: Duration,
}

/// The log. Clones write to the same place.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog {
    queue: Option<SyncSender<Lines>>,
    recent: Recent,
    dropped: Counter,
}

/// One worker's end of the log.
#[derive(Debug, Clone)]
pub(crate) struct WorkerLog(Option<Rc<Shared>>);

/// Finished lines.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    count: u64,
}

#[derive(Debug)]
struct Shared {
    log: AccessLog,
    lines: RefCell<Lines>,
    clock: RefCell<Clock>,
    first_line: Notify,
}

impl AccessLog {
    /// Opens the log and starts its thread. `dropped` counts the lines that could not be written. The thread ends,
    /// with everything written, when the last [`AccessLog`] and [`WorkerLog`] have been dropped.
    ///
    /// # Errors
    /// If the file cannot be opened or the thread not started.
    pub(crate) fn start(sink: &Sink, dropped: Counter) -> io::Result<(Self, Option<JoinHandle<()>>)> {
        let output: Box<dyn Write + Send> = match sink {
            Sink::Off => {
                let log = Self {
                    queue: None,
                    recent: Recent::default(),
                    dropped,
                };
                return Ok((log, None));
            }
            Sink::Stdout => Box::new(io::stdout()),
            // Others may not read who talked to whom.
            Sink::File(path) => Box::new(File::options().append(true).create(true).mode(0o640).open(path)?),
        };
        let (queue, lines) = sync_channel(QUEUE);
        let counter = dropped.clone();
        let recent = Recent::default();
        let last = recent.clone();
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(output, &lines, &last, &counter))?;
        Ok((
            Self {
                queue: Some(queue),
                recent,
                dropped,
            },
            Some(thread),
        ))
    }

    /// Its last lines; none if it is off.
    pub(crate) fn recent(&self) -> Option<&Recent> {
        self.queue.is_some().then_some(&self.recent)
    }

    /// One worker's end.
    pub(crate) fn worker(&self) -> WorkerLog {
        WorkerLog(self.queue.is_some().then(|| {
            Rc::new(Shared {
                log: self.clone(),
                lines: RefCell::default(),
                clock: RefCell::default(),
                first_line: Notify::new(),
            })
        }))
    }

    fn hand_over(&self, lines: Lines) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(lines) {
            Ok(()) => {}
            Err(TrySendError::Full(lines) | TrySendError::Disconnected(lines)) => {
                self.dropped.increment(lines.count);
            }
        }
    }
}

impl WorkerLog {
    /// Whether lines go anywhere. If not, save making them.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Writes a line.
    pub(crate) fn write(&self, entry: &Entry<'_>) {
        let Some(shared) = &self.0 else { return };
        let mut lines = shared.lines.borrow_mut();
        if lines.count == 0 {
            shared.first_line.notify_one();
        }
        entry.write(&mut lines.bytes, &mut shared.clock.borrow_mut());
        lines.count += 1;
        if lines.bytes.len() >= BUFFER {
            drop(lines);
            shared.flush();
        }
    }

    /// Hands over the lines that are there. Nothing waits for them to be written.
    #[cfg(test)]
    pub(crate) fn flush(&self) {
        if let Some(shared) = &self.0 {
            shared.flush();
        }
    }

    /// Hands lines over when they have waited long enough, for ever. A task of the worker.
    pub(crate) async fn run(self) {
        let Some(shared) = self.0 else { return };
        loop {
            shared.first_line.notified().await;
            tokio::time::sleep(LATENESS).await;
            shared.flush();
        }
    }
}

impl Shared {
    fn flush(&self) {
        let mut lines = self.lines.borrow_mut();
        if lines.count > 0 {
            // The next buffer is likely to need as much.
            let empty = Lines {
                bytes: Vec::with_capacity(lines.bytes.len()),
                count: 0,
            };
            let full = std::mem::replace(&mut *lines, empty);
            self.log.hand_over(full);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Entry<'_> {
    fn write(&self, output: &mut Vec<u8>, clock: &mut Clock) {
        output.extend_from_slice(b"{\"time\":\"");
        clock.write(self.time, output);
        output.push(b'"');
        text(output, "direction", self.direction.as_str());
        text(output, "protocol", self.protocol);
        text(output, "transport", self.transport);
        text(output, "method", self.method);
        text(output, "path", self.path.split('?').next().unwrap_or_default());
        text(output, "authority", self.authority);
        text(output, "service", self.service);
        text(output, "route", self.route);
        text(output, "backend", self.backend);
        text(output, "not_retried", self.gave_up);
        text(output, "endpoint", self.endpoint);
        text(output, "caller", self.caller);
        text(output, "peer", self.peer);
        if let Some(status) = self.status {
            number(output, "status", status);
        }
        if let Some(status) = self.grpc_status {
            number(output, "grpc_status", status);
        }
        text(output, "reason", self.reason);
        number(output, "tries", self.tries);
        number(output, "bytes_received", self.received);
        number(output, "bytes_sent", self.sent);
        number(
            output,
            "duration_us",
            u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX),
        );
        output.extend_from_slice(b"}\n");
    }
}

/// The time of day changes a thousand times less often than a busy worker logs: keep the text of the second.
#[derive(Debug, Default)]
struct Clock {
    second: u64,
    text: Vec<u8>,
}

impl Clock {
    /// RFC 3339, in UTC, to the millisecond.
    fn write(&mut self, time: SystemTime, output: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.text.is_empty() || self.second != since.as_secs() {
            self.second = since.as_secs();
            let seconds = i64::try_from(self.second).unwrap_or_default();
            let date = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
            let (hour, minute, second) = (date.hour(), date.minute(), date.second());
            self.text.clear();
            // Writing to a Vec does not fail.
            let _ = write!(
                self.text,
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
            );
        }
        output.extend_from_slice(&self.text);
        let _ = write!(output, ".{:03}Z", since.subsec_millis());
    }
}

/// `,"key":"text"`, unless the text is empty.
fn text(output: &mut Vec<u8>, key: &'static str, text: &str) {
    if text.is_empty() {
        return;
    }
    output.extend_from_slice(b",\"");
    output.extend_from_slice(key.as_bytes());
    output.extend_from_slice(b"\":\"");
    let kept = text.floor_char_boundary(MAX_TEXT);
    escape(output, &text[..kept]);
    if kept < text.len() {
        output.extend_from_slice("…".as_bytes());
    }
    output.push(b'"');
}

fn number(output: &mut Vec<u8>, key: &'static str, number: impl Into<u64>) {
    output.extend_from_slice(b",\"");
    output.extend_from_slice(key.as_bytes());
    let _ = write!(output, "\":{}", number.into());
}

/// Writes text as the inside of a JSON string that is safe to show anywhere.
fn escape(output: &mut Vec<u8>, text: &str) {
    let mut plain = 0;
    for (index, character) in text.char_indices() {
        if !needs_escape(character) {
            continue;
        }
        output.extend_from_slice(&text.as_bytes()[plain..index]);
        plain = index + character.len_utf8();
        if matches!(character, '"' | '\\') {
            output.extend_from_slice(&[b'\\', character as u8]);
        } else {
            // Those above U+FFFF are none of the escaped ones.
            let _ = write!(output, "\\u{:04x}", u32::from(character));
        }
    }
    output.extend_from_slice(&text.as_bytes()[plain..]);
}

/// What JSON requires, and what would act on a terminal or mislead who reads: the C1 controls (one begins an ANSI
/// sequence), line separators, marks that turn the direction of text, invisible ones.
fn needs_escape(character: char) -> bool {
    match character {
        '"' | '\\' => true,
        ' '..='~' => false,
        '\0'..='\u{9f}' => true,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => true,
        '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => true,
        _ => false,
    }
}

/// The log's thread.
fn write_lines(
    mut output: Box<dyn Write + Send>,
    queue: &Receiver<Lines>,
    recent: &Recent,
    dropped: &Counter,
) {
    let mut failing = false;
    while let Ok(lines) = queue.recv() {
        match output.write_all(&lines.bytes).and_then(|()| output.flush()) {
            Ok(()) => failing = false,
            Err(error) => {
                dropped.increment(lines.count);
                // Once until it works again: a full disk must not fill the other log.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "the access log cannot be written; lines are dropped");
                }
            }
        }
        recent.push(lines.bytes, usize::try_from(lines.count).unwrap_or(usize::MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            time: UNIX_EPOCH + Duration::from_millis(1_795_438_496_789),
            direction: Direction::Outbound,
            protocol: "http/1.1",
            transport: "h3",
            method: "GET",
            path: "/cart/1?token=secret",
            authority: "web",
            service: "default/web:80",
            route: "",
            backend: "",
            gave_up: "",
            endpoint: "default/web-0",
            caller: "spiffe://mesh/ns/default/sa/client",
            peer: "spiffe://mesh/ns/default/sa/web",
            status: Some(200),
            grpc_status: None,
            reason: "",
            tries: 1,
            received: 0,
            sent: 191,
            duration: Duration::from_micros(312),
        }
    }

    fn line(entry: &Entry<'_>) -> String {
        let mut output = Vec::new();
        entry.write(&mut output, &mut Clock::default());
        String::from_utf8(output).unwrap()
    }

    /// A counter that can be read.
    fn counter() -> (Counter, Arc<AtomicU64>) {
        let count = Arc::new(AtomicU64::new(0));
        (Counter::from_arc(count.clone()), count)
    }

    #[test]
    fn a_line() {
        assert_eq!(
            line(&entry()),
            "{\"time\":\"2026-11-23T12:54:56.789Z\",\"direction\":\"outbound\",\"protocol\":\"http/1.1\",\
             \"transport\":\"h3\",\"method\":\"GET\",\"path\":\"/cart/1\",\"authority\":\"web\",\
             \"service\":\"default/web:80\",\"endpoint\":\"default/web-0\",\
             \"caller\":\"spiffe://mesh/ns/default/sa/client\",\"peer\":\"spiffe://mesh/ns/default/sa/web\",\
             \"status\":200,\"tries\":1,\"bytes_received\":0,\"bytes_sent\":191,\"duration_us\":312}\n"
        );
    }

    #[test]
    fn nothing_that_is_sent_acts_on_who_reads_the_log() {
        let nasty = "/\u{1b}[31m\u{9b}2J\r\n{\"fake\":1}\u{7f}\u{202e}\u{2028}\u{200b}\\\0";
        let line = line(&Entry {
            path: nasty,
            authority: "a\nb",
            ..entry()
        });
        assert!(
            line.ends_with("}\n")
                && line
                    .trim_end_matches('\n')
                    .chars()
                    .all(|c| c == '\\' || c == '"' || !needs_escape(c))
        );
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"], nasty);
    }

    #[test]
    fn long_texts_are_cut() {
        let path = "ä".repeat(MAX_TEXT);
        let value: Value = serde_json::from_str(&line(&Entry {
            path: &path,
            ..entry()
        }))
        .unwrap();
        let logged = value["path"].as_str().unwrap();
        assert_eq!(logged, format!("{}…", "ä".repeat(MAX_TEXT / 2)));
    }

    #[test]
    fn the_clock_turns() {
        let mut clock = Clock::default();
        let mut output = Vec::new();
        for millis in [0, 999, 1_000, 951_782_400_001, 0] {
            clock.write(UNIX_EPOCH + Duration::from_millis(millis), &mut output);
            output.push(b' ');
        }
        assert_eq!(
            String::from_utf8(output).unwrap(),
            "1970-01-01T00:00:00.000Z 1970-01-01T00:00:00.999Z 1970-01-01T00:00:01.000Z \
             2000-02-29T00:00:00.001Z 1970-01-01T00:00:00.000Z "
        );
    }

    #[test]
    fn lines_reach_the_file_in_order_when_the_log_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, "before\n").unwrap();
        let (dropped, count) = counter();
        let (log, thread) = AccessLog::start(&Sink::File(path.clone()), dropped).unwrap();
        let worker = log.worker();
        assert!(worker.is_on());
        for tries in 0..1_000 {
            worker.write(&Entry { tries, ..entry() });
        }
        drop((log, worker));
        thread.unwrap().join().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines.len(), lines[0]), (1_001, "before"));
        for (index, line) in lines[1..].iter().enumerate() {
            assert_eq!(serde_json::from_str::<Value>(line).unwrap()["tries"], index);
        }
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn without_a_sink_there_is_nothing_to_do() {
        let (log, thread) = AccessLog::start(&Sink::Off, Counter::noop()).unwrap();
        assert!(thread.is_none() && !log.worker().is_on());
        log.worker().write(&entry());
        assert!(AccessLog::start(&Sink::File("/nonexistent/log".into()), Counter::noop()).is_err());
    }

    /// A log whose thread never takes a line.
    fn stuck() -> (AccessLog, Receiver<Lines>, Arc<AtomicU64>) {
        let (queue, lines) = sync_channel(QUEUE);
        let (dropped, count) = counter();
        (
            AccessLog {
                queue: Some(queue),
                recent: Recent::default(),
                dropped,
            },
            lines,
            count,
        )
    }

    #[test]
    fn a_stuck_writer_costs_lines_and_nothing_else() {
        let (log, queue, dropped) = stuck();
        let worker = log.worker();
        let total = 10_000_u64;
        for _ in 0..total {
            worker.write(&entry());
        }
        worker.flush();
        let queued: Vec<_> = queue.try_iter().collect();
        assert_eq!(queued.len(), QUEUE);
        let held: usize = queued.iter().map(|lines| lines.bytes.len()).sum();
        assert!(held <= QUEUE * (BUFFER + 1_024), "{held}");
        let kept: u64 = queued.iter().map(|lines| lines.count).sum();
        assert_eq!(dropped.load(Ordering::Relaxed), total - kept);
    }

    #[test]
    fn a_failing_writer_counts_what_it_drops() {
        let (queue, lines) = sync_channel(QUEUE);
        let (dropped, count) = counter();
        for _ in 0..3 {
            queue
                .send(Lines {
                    bytes: b"x\n".to_vec(),
                    count: 2,
                })
                .unwrap();
        }
        drop(queue);
        let full = File::options().write(true).open("/dev/full").unwrap();
        write_lines(Box::new(full), &lines, &Recent::default(), &dropped);
        assert_eq!(count.load(Ordering::Relaxed), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lone_line_is_handed_over_in_time() {
        let (log, queue, _) = stuck();
        let worker = log.worker();
        tokio::task::LocalSet::new()
            .run_until(async {
                tokio::task::spawn_local(worker.clone().run());
                for _ in 0..2 {
                    worker.write(&entry());
                    worker.write(&entry());
                    assert!(queue.try_recv().is_err());
                    tokio::time::sleep(LATENESS * 2).await;
                    assert_eq!(queue.try_recv().unwrap().count, 2);
                }
            })
            .await;
    }

    proptest! {
        #[test]
        fn every_line_is_json_that_says_what_was_meant(
            path in "\\PC*|.*", authority in ".*", caller in any::<String>(), status in proptest::option::of(0..1000_u16),
            tries: u32, sent: u64, micros: u64,
        ) {
            let duration = Duration::from_micros(micros);
            let line = line(&Entry { path: &path, authority: &authority, caller: &caller, status, tries, sent, duration, ..entry() });
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(line.trim_end_matches('\n').bytes().all(|byte| byte >= b' ' && byte != 0x7f));
            let value: Value = serde_json::from_str(&line).unwrap();
            let text = |key: &str| value.get(key).map_or("", |value| value.as_str().unwrap()).to_owned();
            prop_assert_eq!(text("path"), path.split('?').next().unwrap());
            prop_assert_eq!(text("authority"), authority);
            prop_assert_eq!(text("caller"), caller);
            prop_assert_eq!(value.get("status").and_then(Value::as_u64), status.map(u64::from));
            prop_assert_eq!(&value["tries"], &Value::from(tries));
            prop_assert_eq!(&value["bytes_sent"], &Value::from(sent));
            prop_assert_eq!(&value["duration_us"], &Value::from(micros));
        }
    }
}
