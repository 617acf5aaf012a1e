//! The task that owns all of it: takes inputs as they come, and sends what follows from them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinSet, yield_now},
    time::{Instant, Interval, MissedTickBehavior, interval},
};
use weft_proto::kinds::DocumentKey;

use super::{Input, Options, Registrar, Trust, core::Core};
use crate::fleet::{Now, Registered, Write, WriteError};

/// How exact leases and deadlines are.
const TICK: Duration = Duration::from_millis(250);
/// The most that the clock of leases and deadlines goes on between two looks at it. A process that was stopped for a
/// minute has heard of nobody for a minute, and that is nobody's fault.
const LONGEST_STEP: Duration = Duration::from_secs(1);
/// How many inputs are taken before updates are sent: changes that come together go out together.
const INPUTS_AT_ONCE: usize = 512;
/// How many sessions are sent updates before the streams get their turn.
const UPDATES_AT_ONCE: usize = 64;
/// How many writes are under way at once. The store makes those that wait durable together.
const WRITES: usize = 64;

/// Runs until it is stopped or nobody can reach it any more.
pub(super) async fn run(
    options: Options,
    before: Vec<(DocumentKey, Registered)>,
    registrar: Arc<dyn Registrar>,
    trust: Trust,
    mut inputs: mpsc::Receiver<Input>,
) {
    let Trust {
        mut bundle,
        mut renew,
        sink,
    } = trust;
    let mut clock = Clock::new();
    let first = bundle.borrow_and_update().clone();
    let mut core = Core::new(options, before, first, sink, clock.now());
    let mut ticks = ticks();
    let mut writes: JoinSet<(Write, Result<(), WriteError>)> = JoinSet::new();
    loop {
        tokio::select! {
            input = inputs.recv() => {
                let Some(input) = input else { return };
                let now = clock.now();
                let mut next = Some(input);
                for _ in 0..INPUTS_AT_ONCE {
                    let Some(input) = next.take() else { break };
                    if let Input::Stop { reason, spread, done } = input {
                        core.stop(&reason, spread);
                        let _ = done.send(());
                        return;
                    }
                    on_input(&mut core, input, now);
                    next = inputs.try_recv().ok();
                }
                // The last one that was taken.
                if let Some(input) = next {
                    on_input(&mut core, input, now);
                }
            }
            _ = ticks.tick() => core.on_tick(clock.now()),
            Some(Ok((write, result))) = writes.join_next() => core.on_written(&write, result, clock.now()),
            Some(new) = changed(&mut bundle) => core.on_bundle(new, clock.now()),
            Some(hint) = changed(&mut renew) => core.on_renew(hint, clock.now()),
        }
        while writes.len() < WRITES {
            let Some(write) = core.next_write(clock.now()) else {
                break;
            };
            let registrar = registrar.clone();
            writes.spawn(async move {
                let key = write.key.clone();
                let result = match write.registered.clone() {
                    Some(registered) => registrar.register(key, registered).await,
                    None => registrar.deregister(key).await,
                };
                (write, result)
            });
        }
        while core.flush(UPDATES_AT_ONCE, clock.now()) {
            yield_now().await;
        }
    }
}

fn ticks() -> Interval {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The next value of a watch; `None` for ever when its sender is gone.
async fn changed<T: Clone>(watch: &mut watch::Receiver<T>) -> Option<T> {
    if watch.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    Some(watch.borrow_and_update().clone())
}

fn on_input(core: &mut Core, input: Input, now: Now) {
    match input {
        Input::Connected(connected) => core.on_connected(*connected, now),
        Input::Message(session, message) => core.on_message(session, message, now),
        Input::Closed(session) => core.on_closed(session, now),
        Input::Publish { revision, changes } => core.on_publish(revision, changes),
        // Whoever asked may be gone.
        Input::Fleet { request, reply } => drop(reply.send(core.fleet(&request))),
        Input::Ask { request, reply } => drop(reply.send(core.ask(request, now))),
        Input::Evict { key, reply } => drop(reply.send(core.evict(&key, now))),
        Input::Stop { .. } => {}
    }
}

/// The clock of leases and deadlines.
struct Clock {
    last: Instant,
    running: Duration,
}

impl Clock {
    fn new() -> Self {
        Self {
            last: Instant::now(),
            running: Duration::ZERO,
        }
    }

    fn now(&mut self) -> Now {
        let now = Instant::now();
        self.running += now.saturating_duration_since(self.last).min(LONGEST_STEP);
        self.last = now;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            running: self.running,
            unix: unix.as_secs(),
        }
    }
}
