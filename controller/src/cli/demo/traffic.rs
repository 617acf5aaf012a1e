//! The shop's customers: requests at a fixed rate, whatever becomes of those before, so that a mesh that stalls is
//! not spared. They run on a thread of their own.

use std::{
    io,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    task::{JoinSet, LocalSet},
    time::MissedTickBehavior,
};

use super::{
    board::{Board, Flow},
    call::Callers,
    plan::Subnet,
};

/// Whom the requests go to, in turn: half to the catalog, whose versions the demo is most about.
const TURN: [Flow; 10] = [
    Flow::Catalog,
    Flow::Cart,
    Flow::Catalog,
    Flow::Checkout,
    Flow::Catalog,
    Flow::Cart,
    Flow::Catalog,
    Flow::Checkout,
    Flow::Catalog,
    Flow::Orders,
];

/// The traffic. It ends with this.
pub(super) struct Traffic {
    subnet: Subnet,
    rate: u32,
    has_begun: bool,
    shared: Arc<Shared>,
}

struct Shared {
    board: Mutex<Board>,
    stop: AtomicBool,
    /// The port of the stable service that is called; 0 until there is one.
    stable_port: AtomicU16,
    /// Whether some customers are testers.
    has_testers: AtomicBool,
}

impl Traffic {
    /// Of `rate` requests a second, once it has begun.
    pub(super) fn new(subnet: Subnet, rate: u32) -> Self {
        let shared = Shared {
            board: Mutex::new(Board::new(Instant::now())),
            stop: AtomicBool::new(false),
            stable_port: AtomicU16::new(0),
            has_testers: AtomicBool::new(false),
        };
        Self {
            subnet,
            rate,
            has_begun: false,
            shared: Arc::new(shared),
        }
    }

    /// Begins.
    ///
    /// # Errors
    /// There is no thread or no runtime to be had.
    pub(super) fn start(&mut self) -> io::Result<()> {
        *self.board() = Board::new(Instant::now());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (running, subnet, rate) = (self.shared.clone(), self.subnet, self.rate);
        // Not joined: what is under way may wait for a mesh that is gone.
        std::thread::Builder::new()
            .name("customers".to_owned())
            .spawn(move || LocalSet::new().block_on(&runtime, drive(running, subnet, rate)))?;
        self.has_begun = true;
        Ok(())
    }

    /// Whether it has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Sends nothing more.
    pub(super) fn stop(&self) {
        self.shared.stop.store(true, Relaxed);
    }

    /// What is known of it.
    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        self.shared.board()
    }

    /// Every other request to the catalog goes to the stable service, to this port of it.
    pub(super) fn use_stable(&self, port: u16) {
        self.shared.stable_port.store(port, Relaxed);
    }

    /// One in five requests to the catalog is a tester's.
    pub(super) fn use_testers(&self) {
        self.shared.has_testers.store(true, Relaxed);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn drive(shared: Arc<Shared>, subnet: Subnet, rate: u32) {
    let callers = Rc::new(Callers::new(subnet));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut open = JoinSet::new();
    for (number, flow) in (0_u64..).zip(TURN.into_iter().cycle()) {
        ticks.tick().await;
        if shared.stop.load(Relaxed) {
            break;
        }
        let stable_port = shared.stable_port.load(Relaxed);
        let has_testers = shared.has_testers.load(Relaxed);
        let flow = match flow {
            Flow::Catalog if stable_port != 0 && number % 4 == 0 => Flow::Stable,
            Flow::Catalog if has_testers && number % 10 == 2 => Flow::Testers,
            flow => flow,
        };
        let sent = shared.board().on_sent(flow, Instant::now());
        let (callers, shared) = (callers.clone(), shared.clone());
        open.spawn_local(async move {
            let answer = callers.call(flow, stable_port, number).await;
            shared.board().on_end(sent, answer, Instant::now());
        });
        while open.try_join_next().is_some() {}
    }
}
