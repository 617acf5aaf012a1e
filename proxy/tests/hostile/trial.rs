//! One attack: a mesh, a good client, an attacker, and what came of it.

use std::{
    future::Future,
    path::PathBuf,
    sync::Once,
    time::{Duration, Instant},
};

use crate::{
    Size,
    bystander::{GoodClient, Requests, Watch, resident},
    common::{
        Mesh, Workload, eventually, port,
        raw::{RawPeer, code},
    },
    service, size,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What may be held for a connection and for a stream, whatever was sent on it.
const CONNECTION_FLOOR: u64 = 150 * KIB;
const STREAM_FLOOR: u64 = 20 * KIB;
/// What may be held for each byte that the attacker sent.
const PER_BYTE: u64 = 20;
/// What a process may grow by for other reasons: the good client's connections, the metrics, the allocator's arenas.
const SLACK: u64 = 6 * MIB;

/// What an attacker reaches and what it did.
pub(crate) struct Attacker {
    pub(crate) size: Size,
    pub(crate) directory: PathBuf,
    /// The workload whose sidecar is attacked.
    pub(crate) web: Workload,
    /// Connections and streams that it had open at once at the most.
    pub(crate) connections: u64,
    pub(crate) streams: u64,
    /// Bytes of datagrams that it sent.
    pub(crate) sent: u64,
    /// The codes with which its connections were closed.
    pub(crate) closed: Vec<u64>,
}

impl Attacker {
    /// A connection with a certificate of the mesh.
    pub(crate) async fn connect(&mut self) -> RawPeer {
        self.connections += 1;
        RawPeer::connect(&self.directory, "mallory", self.web.at(15_008)).await
    }

    /// `small` as a test, `full` to measure.
    pub(crate) fn times(&self, small: usize, full: usize) -> usize {
        match self.size {
            Size::Small => small,
            Size::Full => full,
        }
    }

    /// Accounts for a connection that is done with, and notes the code if the sidecar closed it.
    pub(crate) fn done(&mut self, peer: &RawPeer) {
        self.sent += peer.connection.stats().udp_tx.bytes;
        match peer.connection.close_reason() {
            Some(error @ quinn::ConnectionError::ApplicationClosed(_))
            | Some(error @ quinn::ConnectionError::ConnectionClosed(_)) => self.closed.push(code(&error)),
            _ => {}
        }
    }

    /// A connection that the sidecar is expected to close.
    pub(crate) async fn closed(&mut self, peer: &RawPeer) {
        peer.closed().await;
        self.done(peer);
    }
}

/// What came of an attack.
struct Outcome {
    before: Requests,
    during: Requests,
    rss: [u64; 3],
}

/// Makes an attack and checks what must hold in each: the good client loses nothing, the sidecar lives, its memory
/// stays in its bound and comes back, and the attacker's connections are closed with `code`, or with none.
pub(crate) async fn trial(
    name: &str,
    expected: Option<u64>,
    attack: impl AsyncFnOnce(&mut Attacker),
) -> Attacker {
    let size = size();
    let mut mesh = Mesh::of_web();
    let web = mesh.named("web-0");
    let _application = service("http", web.at(port::HTTP));
    mesh.certify("certs", &["mallory"]);
    mesh.start();
    let outbound = mesh.outbound();
    let pid = mesh.sidecar("web-0").process.pid();
    let warm = match size {
        Size::Small => Duration::from_millis(200),
        Size::Full => Duration::from_secs(5),
    };
    let before = block(move || GoodClient::for_a(warm, outbound)).await;
    let mut attacker = Attacker {
        size,
        directory: mesh.directory().to_owned(),
        web,
        connections: 0,
        streams: 0,
        sent: 0,
        closed: Vec::new(),
    };
    let rss_before = resident(pid);
    let (client, watch) = (GoodClient::start(outbound), Watch::start(pid));
    let began = Instant::now();
    attack(&mut attacker).await;
    let took = began.elapsed();
    let (during, peak) = block(move || (client.finish(), watch.finish())).await;
    let after = settled(pid, rss_before, peak).await;
    let last = block(move || GoodClient::for_a(Duration::from_millis(100), outbound)).await;
    let outcome = Outcome {
        before,
        during,
        rss: [rss_before, peak, after],
    };
    outcome.print(name, &attacker, took);
    outcome.check(name, &attacker);
    assert_eq!(last.lost, [""; 0], "{name}: after the attack");
    match expected {
        Some(code) => assert!(
            !attacker.closed.is_empty() && attacker.closed.iter().all(|closed| *closed == code),
            "{name}: closed with {:x?} and not {code:#x}",
            attacker.closed
        ),
        None => assert_eq!(attacker.closed, [0; 0], "{name}: closed"),
    }
    attacker
}

/// The memory when it has come back, which the sidecar sees to now and then.
async fn settled(pid: u32, before: u64, peak: u64) -> u64 {
    let goal = before + (peak - before) / 4 + SLACK;
    eventually("less memory", async || resident(pid) <= goal).await;
    resident(pid)
}

async fn block<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(f).await.expect("a thread")
}

impl Outcome {
    fn bound(attacker: &Attacker) -> u64 {
        attacker.connections * CONNECTION_FLOOR
            + attacker.streams * STREAM_FLOOR
            + attacker.sent * PER_BYTE
            + SLACK
    }

    fn check(&self, name: &str, attacker: &Attacker) {
        assert_eq!(self.before.lost, [""; 0], "{name}: before the attack");
        assert_eq!(self.during.lost, [""; 0], "{name}: lost beside the attack");
        assert!(self.during.count() > 0, "{name}: the good client did nothing");
        let [before, peak, _] = self.rss;
        let (grew, bound) = (peak.saturating_sub(before), Self::bound(attacker));
        assert!(
            grew <= bound,
            "{name}: grew by {grew} bytes, where {bound} are allowed"
        );
    }

    fn print(&self, name: &str, attacker: &Attacker, took: Duration) {
        let mib = |bytes: u64| bytes as f64 / MIB as f64;
        let [before, peak, after] = self.rss.map(mib);
        let ms = |requests: &Requests| requests.p99().as_secs_f64() * 1e3;
        static HEADING: Once = Once::new();
        HEADING.call_once(|| {
            println!(
                "| attack | lost by the good client | its p99 before / during, ms | closed with \
                 | memory before / peak / after, MiB | sent, MiB | growth per byte sent | seconds |\n\
                 |---|---|---|---|---|---|---|---|"
            );
        });
        println!(
            "| {name} | {} of {} | {:.1} / {:.1} | {} | {before:.1} / {peak:.1} / {after:.1} | {:.2} | {:.2} | {:.1} |",
            self.during.lost.len(),
            self.during.count() + self.during.lost.len(),
            ms(&self.before),
            ms(&self.during),
            codes(&attacker.closed),
            mib(attacker.sent),
            (peak - before) / mib(attacker.sent).max(0.001),
            took.as_secs_f64(),
        );
    }
}

fn codes(closed: &[u64]) -> String {
    let mut distinct: Vec<_> = closed.iter().map(|code| format!("{code:#x}")).collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.is_empty() {
        return "open".to_owned();
    }
    format!("{} x {}", closed.len(), distinct.join(", "))
}

/// Runs a trial on a thread of its own.
pub(crate) fn run(trial: impl Future<Output = Attacker>) -> Attacker {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(trial)
}
