//! What must not suffer: a good client beside the attacker, and the memory of the sidecar that is attacked.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use weft_lab::process::Usage;

use crate::common::SOON;

/// Between two requests. The client does not press: it shows what those wait who ask now and then.
const GAP: Duration = Duration::from_millis(4);

/// Requests of a good client through its own sidecar.
#[derive(Debug, Default, Clone)]
pub(crate) struct Requests {
    /// How long each took that was answered rightly.
    took: Vec<Duration>,
    /// What went wrong.
    pub(crate) lost: Vec<String>,
}

/// A client on a thread of its own, until it is stopped.
pub(crate) struct GoodClient {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Requests>,
}

impl GoodClient {
    pub(crate) fn start(outbound: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut requests = Requests::default();
            let mut connection = None;
            while !stopped.load(Relaxed) {
                let started = Instant::now();
                match ask(&mut connection, outbound) {
                    Ok(()) => requests.took.push(started.elapsed()),
                    Err(error) => {
                        connection = None;
                        requests.lost.push(error);
                    }
                }
                thread::sleep(GAP.saturating_sub(started.elapsed()));
            }
            requests
        });
        Self { stop, thread }
    }

    pub(crate) fn finish(self) -> Requests {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("the good client")
    }

    /// A client for this long.
    pub(crate) fn for_a(duration: Duration, outbound: SocketAddr) -> Requests {
        let client = Self::start(outbound);
        thread::sleep(duration);
        client.finish()
    }
}

impl Requests {
    pub(crate) fn count(&self) -> usize {
        self.took.len()
    }

    pub(crate) fn p99(&self) -> Duration {
        let mut took = self.took.clone();
        took.sort_unstable();
        took.get(took.len().saturating_sub(1) * 99 / 100)
            .copied()
            .unwrap_or_default()
    }
}

/// One request, on a kept connection, whose answer must be the right one.
fn ask(connection: &mut Option<BufReader<TcpStream>>, outbound: SocketAddr) -> Result<(), String> {
    let mut exchange = || -> std::io::Result<String> {
        if connection.is_none() {
            let stream = TcpStream::connect(outbound)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(SOON))?;
            *connection = Some(BufReader::new(stream));
        }
        let Some(stream) = connection else {
            return Ok(String::new());
        };
        stream
            .get_mut()
            .write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")?;
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let start = head.len();
            stream.read_line(&mut head)?;
            let line = head.get(start..).unwrap_or_default().trim_end();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or_default();
            }
        }
        stream.read_exact(&mut vec![0; length])?;
        Ok(head)
    };
    match exchange() {
        Ok(head) if head.starts_with("HTTP/1.1 200 ") => Ok(()),
        Ok(head) => Err(head),
        Err(error) => Err(error.to_string()),
    }
}

/// Looks at the memory of a process now and then, until it is stopped.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Watch {
    pub(crate) fn start(pid: u32) -> Self {
        const PAUSE: Duration = Duration::from_millis(5);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Relaxed) {
                peak = peak.max(resident(pid));
                thread::sleep(PAUSE);
            }
            peak
        });
        Self { stop, thread }
    }

    /// The most that was resident.
    pub(crate) fn finish(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("the watch")
    }
}

pub(crate) fn resident(pid: u32) -> u64 {
    Usage::of(pid).expect("the sidecar is alive").rss
}
