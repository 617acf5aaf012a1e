//! One connection's loop, and what all connections share.

use super::report::{Errors, Measured};
use super::response::{self, Answer, Head};
use super::{Limit, Options, Work};
use crate::error;
use crate::services::Pattern;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Between a failure and the next connection, so that a refusing server is not hammered.
const BACKOFF: Duration = Duration::from_millis(10);

/// Buffer of a connection for answers, which grows up to [`MAX_ANSWER`].
const BUFFER: usize = 16 * 1024;

/// A longer answer is a bulk download, or an error.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// What one read of a bulk download takes.
const BULK_BUFFER: usize = 256 * 1024;

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Failure {
    Connect,
    Io,
    Closed,
    Malformed,
    Status(u16),
    WrongAnswer,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io,
        }
    }
}

/// What all connections share.
pub(super) struct Shared {
    running: Cell<bool>,
    measuring: Cell<bool>,
    /// Requests still to be sent, where they are counted.
    remaining: Cell<Option<u64>>,
    measured: RefCell<Measured>,
    errors: RefCell<Errors>,
    /// Changes whenever an answer, or a part of a long one, comes.
    progress: Cell<u64>,
    /// The first answer, where no other is expected.
    expected: RefCell<Option<Bytes>>,
}

impl Shared {
    pub(super) fn new(options: &Options) -> error::Result<Self> {
        let remaining = match options.limit {
            Limit::Count(count) => Some(count),
            Limit::Duration(_) => None,
        };
        let expected = match &options.work {
            Work::Http { expect, .. } => expect.clone(),
            Work::Ping { .. } | Work::Bulk { .. } => None,
        };
        Ok(Self {
            running: Cell::new(true),
            measuring: Cell::new(false),
            remaining: Cell::new(remaining),
            measured: RefCell::new(Measured::new()?),
            errors: RefCell::default(),
            progress: Cell::new(0),
            expected: RefCell::new(expected),
        })
    }

    pub(super) fn start_measuring(&self) {
        self.measuring.set(true);
    }

    /// No new request from now on; gives what was measured.
    pub(super) fn stop(&self) -> error::Result<Measured> {
        self.running.set(false);
        self.measuring.set(false);
        Ok(self.measured.replace(Measured::new()?))
    }

    /// Waits until nothing has come for `timeout`.
    pub(super) async fn stalls(&self, timeout: Duration) {
        let mut before = None;
        while before != Some(self.progress.get()) {
            before = Some(self.progress.get());
            tokio::time::sleep(timeout).await;
        }
    }

    pub(super) fn count_unanswered(&self, count: usize) {
        if count > 0 {
            *self
                .errors
                .borrow_mut()
                .entry("no answer in time".to_owned())
                .or_default() += count as u64;
        }
    }

    pub(super) fn take_errors(&self) -> Errors {
        self.errors.take()
    }

    /// Whether another request is to be sent.
    fn take_turn(&self) -> bool {
        match self.remaining.get() {
            _ if !self.running.get() => false,
            None => true,
            // The counted requests are those of the measurement.
            Some(_) if !self.measuring.get() => true,
            Some(0) => false,
            Some(left) => {
                self.remaining.set(Some(left - 1));
                true
            }
        }
    }

    fn note_progress(&self) {
        self.progress.set(self.progress.get() + 1);
    }

    fn record(&self, took: Duration, bytes: u64) {
        self.note_progress();
        if self.measuring.get() {
            self.measured.borrow_mut().record(took, bytes);
        }
    }

    fn record_failure(&self, failure: Failure) {
        let name = match failure {
            Failure::Connect => "connection refused".to_owned(),
            Failure::Io => "connection broken".to_owned(),
            Failure::Closed => "connection closed before the answer's end".to_owned(),
            Failure::Malformed => "malformed answer".to_owned(),
            Failure::Status(code) => format!("status {code}"),
            Failure::WrongAnswer => "wrong answer".to_owned(),
        };
        *self.errors.borrow_mut().entry(name).or_default() += 1;
    }

    fn check(&self, body: &[u8]) -> Result<(), Failure> {
        let mut expected = self.expected.borrow_mut();
        let expected = expected.get_or_insert_with(|| Bytes::copy_from_slice(body));
        if expected == body {
            Ok(())
        } else {
            Err(Failure::WrongAnswer)
        }
    }
}

/// Sends requests over one connection after another until the end of the load.
pub(super) async fn run(shared: Rc<Shared>, target: SocketAddr, work: Work) {
    loop {
        let ended = match &work {
            Work::Http { host, path, .. } => http(&shared, target, host, path).await,
            Work::Ping { size } => ping(&shared, target, *size).await,
            Work::Bulk { host, bytes } => bulk(&shared, target, host, *bytes).await,
        };
        match ended {
            Ok(Ended::Load) => return,
            Ok(Ended::Connection) => {}
            Err(failure) => {
                shared.record_failure(failure);
                if !shared.running.get() {
                    return;
                }
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
}

/// What came to its end without a failure.
enum Ended {
    Connection,
    Load,
}

async fn connect(target: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(target).await.map_err(|_| Failure::Connect)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn request(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: weft-lab\r\nAccept: */*\r\n\r\n")
}

async fn http(shared: &Shared, target: SocketAddr, host: &str, path: &str) -> Result<Ended, Failure> {
    let request = request(host, path);
    let mut stream = connect(target).await?;
    let mut buffer = vec![0; BUFFER];
    while shared.take_turn() {
        let sent = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let mut filled = 0;
        let (head, length) = loop {
            let count = stream.read(buffer.get_mut(filled..).unwrap_or_default()).await?;
            filled += count;
            let received = buffer.get(..filled).unwrap_or_default();
            if let Some(Answer { head, body }) = response::whole(received, count == 0)? {
                if head.status != 200 {
                    return Err(Failure::Status(head.status));
                }
                shared.check(&body)?;
                break (head, body.len());
            }
            if count == 0 {
                return Err(Failure::Closed);
            }
            if filled == buffer.len() {
                if filled >= MAX_ANSWER {
                    return Err(Failure::Malformed);
                }
                buffer.resize(2 * filled, 0);
            }
        };
        shared.record(sent.elapsed(), length as u64);
        if head.close {
            return Ok(Ended::Connection);
        }
    }
    Ok(Ended::Load)
}

async fn ping(shared: &Shared, target: SocketAddr, size: usize) -> Result<Ended, Failure> {
    let mut stream = connect(target).await?;
    let mut message = Pattern::default().next(size as u64).to_vec();
    let mut answer = vec![0; size];
    let mut sequence = 0_u64;
    while shared.take_turn() {
        // Every message differs from the last, so that a late or doubled one is a wrong answer.
        for (byte, number) in message.iter_mut().zip(sequence.to_be_bytes().iter().rev()) {
            *byte = *number;
        }
        sequence += 1;
        let sent = Instant::now();
        stream.write_all(&message).await?;
        stream.read_exact(&mut answer).await?;
        if answer != message {
            return Err(Failure::WrongAnswer);
        }
        shared.record(sent.elapsed(), size as u64);
    }
    Ok(Ended::Load)
}

async fn bulk(shared: &Shared, target: SocketAddr, host: &str, bytes: u64) -> Result<Ended, Failure> {
    let request = request(host, &format!("/bytes?n={bytes}"));
    let mut stream = connect(target).await?;
    let mut buffer = vec![0; BULK_BUFFER];
    while shared.take_turn() {
        let sent = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let (head, first) = read_head(&mut stream, &mut buffer).await?;
        if head.content_length != Some(bytes) {
            return Err(Failure::Malformed);
        }
        let mut pattern = Pattern::default();
        let mut received = first.len() as u64;
        if !pattern.matches(&first) {
            return Err(Failure::WrongAnswer);
        }
        while received < bytes {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                return Err(Failure::Closed);
            }
            received += count as u64;
            shared.note_progress();
            if !pattern.matches(buffer.get(..count).unwrap_or_default()) {
                return Err(Failure::WrongAnswer);
            }
        }
        if received > bytes {
            return Err(Failure::Malformed);
        }
        shared.record(sent.elapsed(), bytes);
        if head.close {
            return Ok(Ended::Connection);
        }
    }
    Ok(Ended::Load)
}

/// Reads an answer's head; gives it with the part of the body that came with it.
async fn read_head(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<(Head, Vec<u8>), Failure> {
    let mut filled = 0;
    loop {
        let count = stream.read(buffer.get_mut(filled..).unwrap_or_default()).await?;
        if count == 0 {
            return Err(Failure::Closed);
        }
        filled += count;
        let received = buffer.get(..filled).unwrap_or_default();
        if let Some(head) = response::head(received)? {
            if head.status != 200 {
                return Err(Failure::Status(head.status));
            }
            return Ok((head, received.get(head.length..).unwrap_or_default().to_vec()));
        }
    }
}
