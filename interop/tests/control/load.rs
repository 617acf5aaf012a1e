//! Requests at a fixed rate, each checked: an open loop, so that a mesh that stalls is not spared.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Far longer than anything takes: what is not answered by then has failed.
const PATIENCE: Duration = Duration::from_secs(15);

/// One way that requests take.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The outbound listener of the caller's sidecar.
    pub(crate) outbound: SocketAddr,
    /// The service, as the application names it.
    pub(crate) host: String,
}

/// A load that runs until it is stopped.
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    answered: AtomicU64,
    longest_micros: AtomicU64,
    errors: Mutex<BTreeMap<String, u64>>,
    sequence: AtomicU64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Requests with a right answer.
    pub(crate) answered: u64,
    /// What went wrong, and how often.
    pub(crate) errors: BTreeMap<String, u64>,
    /// The longest right answer.
    pub(crate) longest: Duration,
}

impl Outcome {
    /// How many requests failed.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl Load {
    /// Sends `rate` requests a second, to the targets in turn.
    pub(crate) fn start(targets: Vec<Target>, rate: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let running = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, drive(running, targets, rate));
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// How many right answers came so far.
    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Relaxed)
    }

    /// What came so far.
    pub(crate) fn so_far(&self) -> Outcome {
        Outcome {
            answered: self.answered(),
            errors: self.shared.errors.lock().unwrap().clone(),
            longest: Duration::from_micros(self.shared.longest_micros.load(Relaxed)),
        }
    }

    /// Waits until so many more answers came: traffic does flow.
    pub(crate) fn wait_for_more(&self, more: u64) {
        let wanted = self.answered() + more;
        // At a hundred a second, which no load here stays below.
        let time = crate::mesh::SOON + Duration::from_secs(more / 100);
        crate::mesh::within(
            time,
            &format!("{more} more answers"),
            &mut || match self.answered() >= wanted {
                true => Ok(()),
                false => Err(format!("{:?}", self.so_far())),
            },
        );
    }

    /// Ends it, when everything that was sent is answered or given up.
    pub(crate) fn stop(mut self) -> Outcome {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
    }
}

/// Idle connections to one target.
type Idle = std::rc::Rc<std::cell::RefCell<Vec<TcpStream>>>;

async fn drive(shared: Arc<Shared>, targets: Vec<Target>, rate: u32) {
    let targets: Vec<(Target, Idle)> = targets
        .into_iter()
        .map(|target| (target, Idle::default()))
        .collect();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut running = tokio::task::JoinSet::new();
    for (target, idle) in targets.iter().cycle() {
        ticks.tick().await;
        if shared.stop.load(Relaxed) {
            break;
        }
        let (shared, target, idle) = (shared.clone(), target.clone(), idle.clone());
        shared.sent.fetch_add(1, Relaxed);
        running.spawn_local(async move { shared.request(&target, &idle).await });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
}

impl Shared {
    async fn request(&self, target: &Target, idle: &Idle) {
        let number = self.sequence.fetch_add(1, Relaxed);
        let started = Instant::now();
        let exchange = exchange(target, idle, number);
        let result = match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(result) => result,
            Err(_) => Err("no answer in time".to_owned()),
        };
        match result {
            Ok(()) => {
                let micros = u64::try_from(started.elapsed().as_micros()).unwrap();
                self.longest_micros.fetch_max(micros, Relaxed);
                self.answered.fetch_add(1, Relaxed);
            }
            Err(error) => {
                let error = format!("{} by {}: {error}", target.host, target.outbound);
                *self.errors.lock().unwrap().entry(error).or_default() += 1;
            }
        }
    }
}

/// The answer tells the request's target, number and all. A GET, which the mesh may send again where it is not known
/// whether it arrived.
async fn exchange(target: &Target, idle: &Idle, number: u64) -> Result<(), String> {
    let kept = idle.borrow_mut().pop();
    let mut stream = match kept {
        Some(stream) => stream,
        None => TcpStream::connect(target.outbound)
            .await
            .map_err(|error| format!("connect: {error}"))?,
    };
    let path = format!("/headers?n={number}&");
    let head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", target.host);
    let io = |error: std::io::Error| format!("{error}");
    stream.write_all(head.as_bytes()).await.map_err(io)?;
    let answer = read_answer(&mut stream).await?;
    if answer.status != 200 {
        return Err(format!("status {} {}", answer.status, answer.reason));
    }
    if !String::from_utf8_lossy(&answer.body).contains(&path) {
        return Err("another body".to_owned());
    }
    idle.borrow_mut().push(stream);
    Ok(())
}

/// An answer, as far as it is looked at.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `weft-error` or `weft-unprocessed`, if it has one.
    pub(crate) reason: String,
    pub(crate) body: Vec<u8>,
}

/// Reads one answer whose length is told.
pub(crate) async fn read_answer(stream: &mut TcpStream) -> Result<Answer, String> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        let mut chunk = [0; 4_096];
        match stream.read(&mut chunk).await {
            Ok(0) => return Err("the connection ended before an answer".to_owned()),
            Ok(length) => bytes.extend_from_slice(&chunk[..length]),
            Err(error) => return Err(error.to_string()),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    let field = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
    };
    let reason = field("weft-error")
        .or_else(|| field("weft-unprocessed"))
        .unwrap_or_default();
    let mut body = bytes.split_off(head_end);
    if field("transfer-encoding").is_some() {
        // Of the echo of a body of a known length there is none; of others the end is looked for.
        while !body.ends_with(b"0\r\n\r\n") {
            let mut chunk = [0; 4_096];
            match stream.read(&mut chunk).await {
                Ok(0) => return Err("cut short".to_owned()),
                Ok(length) => body.extend_from_slice(&chunk[..length]),
                Err(error) => return Err(error.to_string()),
            }
        }
        body = unchunk(&body);
    } else {
        let length: usize = field("content-length")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let have = body.len();
        body.resize(length.max(have), 0);
        stream
            .read_exact(&mut body[have..])
            .await
            .map_err(|error| error.to_string())?;
    }
    Ok(Answer { status, reason, body })
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end])
            .ok()
            .and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(size @ 1..) = size else { break };
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
    body
}
