//! The end of a proxy's life: SIGTERM or SIGINT begins a drain, in which nothing new is taken and what is in flight
//! finishes, within a deadline.
//!
//! [`Drain`] is shared by all threads; [`LocalDrain`] is a worker's copy, whose [`wait`](LocalDrain::wait) costs a
//! connection's task a look at a cell each time the task is polled. [`InFlight`] guards are what a drain waits for.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    /// Everything finished.
    Complete,
    /// The deadline came first, with so much still in flight.
    Deadline(u64),
    /// A second signal asked to end at once, with so much still in flight.
    Hurried(u64),
}

/// Begins and waits for the drain. Clones are of the same drain.
#[derive(Debug, Clone)]
pub(crate) struct Drain(Arc<Shared>);

/// A request or tunnel that a drain waits for.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Shared>);

/// A worker's view of the drain. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct LocalDrain(Rc<Local>);

#[derive(Debug)]
struct Shared {
    draining: watch::Sender<bool>,
    cutting: watch::Sender<bool>,
    in_flight: AtomicU64,
    idle: Notify,
}

#[derive(Debug, Default)]
struct Local {
    draining: Cell<bool>,
    waiting: RefCell<Waiting>,
}

/// The tasks that wait, each in a place of its own.
#[derive(Debug, Default)]
struct Waiting {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Drain {
    /// A drain that has not begun.
    pub(crate) fn new() -> Self {
        let (draining, _) = watch::channel(false);
        Self(Arc::new(Shared {
            draining,
            cutting: watch::Sender::new(false),
            in_flight: AtomicU64::new(0),
            idle: Notify::new(),
        }))
    }

    /// Begins it.
    pub(crate) fn begin(&self) {
        self.0.draining.send_replace(true);
    }

    /// Its time is over: what is still in flight is to be cut.
    pub(crate) fn cut(&self) {
        self.0.cutting.send_replace(true);
    }

    /// Waits for its time to be over.
    pub(crate) async fn cutting(&self) {
        // The sender lives as long as self.
        let _ = self.0.cutting.subscribe().wait_for(|cutting| *cutting).await;
    }

    /// Whether it has begun.
    pub(crate) fn has_begun(&self) -> bool {
        *self.0.draining.borrow()
    }

    /// Waits for it to begin.
    pub(crate) async fn begun(&self) {
        // The sender lives as long as self.
        let _ = self.0.draining.subscribe().wait_for(|draining| *draining).await;
    }

    /// Counts a request or tunnel until it is dropped.
    pub(crate) fn enter(&self) -> InFlight {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.0.clone())
    }

    /// How much is in flight.
    pub(crate) fn in_flight(&self) -> u64 {
        self.0.in_flight.load(Ordering::Acquire)
    }

    /// Waits until it has begun and all that is in flight has finished, at most `deadline` long, or until `hurry`.
    pub(crate) async fn finish(&self, deadline: Duration, hurry: impl Future<Output = ()>) -> Drained {
        self.begun().await;
        tokio::select! {
            biased;
            () = self.idle() => Drained::Complete,
            () = hurry => Drained::Hurried(self.in_flight()),
            () = tokio::time::sleep(deadline) => Drained::Deadline(self.in_flight()),
        }
    }

    /// Waits until nothing is in flight, once it has begun.
    pub(crate) async fn idle(&self) {
        loop {
            let notified = self.0.idle.notified();
            if self.in_flight() == 0 {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 && *self.0.draining.borrow() {
            // Every worker waits, and the control thread.
            self.0.idle.notify_waiters();
        }
    }
}

impl LocalDrain {
    /// Follows the drain, and ends when it has begun. A task of the worker.
    pub(crate) async fn follow(self, drain: Drain) {
        drain.begun().await;
        self.0.draining.set(true);
        for waker in self.0.waiting.take().places.into_iter().flatten() {
            waker.wake();
        }
    }

    /// Whether the drain has begun, as far as this worker has heard.
    #[cfg(test)]
    pub(crate) fn has_begun(&self) -> bool {
        self.0.draining.get()
    }

    /// Waits for it to begin.
    pub(crate) fn wait(&self) -> Wait {
        Wait {
            local: self.0.clone(),
            place: None,
        }
    }
}

/// The future of [`LocalDrain::wait`].
#[derive(Debug)]
pub(crate) struct Wait {
    local: Rc<Local>,
    place: Option<usize>,
}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.local.draining.get() {
            return Poll::Ready(());
        }
        let place = self.local.waiting.borrow_mut().put(self.place, cx.waker());
        self.place = Some(place);
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.local.waiting.borrow_mut().remove(place);
        }
    }
}

impl Waiting {
    fn put(&mut self, place: Option<usize>, waker: &Waker) -> usize {
        let place = place.or_else(|| self.free.pop()).unwrap_or(self.places.len());
        match self.places.get_mut(place) {
            // Nearly always the task is the same as before, and this copies nothing.
            Some(Some(known)) => known.clone_from(waker),
            Some(free) => *free = Some(waker.clone()),
            None => self.places.push(Some(waker.clone())),
        }
        place
    }

    fn remove(&mut self, place: usize) {
        // After the drain has begun there are no places any more.
        if let Some(waker) = self.places.get_mut(place) {
            *waker = None;
            self.free.push(place);
        }
    }
}

/// Yields at SIGTERM and at SIGINT.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Takes the signals over from now on.
    ///
    /// # Errors
    /// If the process may not.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn everyone_who_waits_hears_of_the_end() {
        let drain = Drain::new();
        let in_flight = drain.enter();
        drain.begin();
        let waiting = futures_util::future::join3(drain.idle(), drain.idle(), drain.idle());
        let end = async {
            tokio::task::yield_now().await;
            drop(in_flight);
        };
        let both = futures_util::future::join(waiting, end);
        tokio::time::timeout(DEADLINE, both)
            .await
            .expect("all of them hear");
        assert_eq!(drain.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_what_is_in_flight() {
        let drain = Drain::new();
        let (first, second) = (drain.enter(), drain.enter());
        assert_eq!(drain.in_flight(), 2);
        let finish = tokio::spawn({
            let drain = drain.clone();
            async move { drain.finish(DEADLINE, std::future::pending()).await }
        });
        // Nothing in flight is not the end before the drain has begun.
        drop(first);
        tokio::time::sleep(DEADLINE * 2).await;
        assert!(!finish.is_finished() && !drain.has_begun());
        drain.begin();
        tokio::time::sleep(DEADLINE / 2).await;
        assert!(!finish.is_finished());
        drop(second);
        assert_eq!(finish.await.unwrap(), Drained::Complete);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_at_its_deadline_or_when_it_is_hurried() {
        let drain = Drain::new();
        let _in_flight = drain.enter();
        drain.begin();
        let begun = tokio::time::Instant::now();
        assert_eq!(
            drain.finish(DEADLINE, std::future::pending()).await,
            Drained::Deadline(1)
        );
        assert_eq!(begun.elapsed(), DEADLINE);
        assert_eq!(drain.finish(DEADLINE, async {}).await, Drained::Hurried(1));
        assert_eq!(begun.elapsed(), DEADLINE);
    }

    #[tokio::test]
    async fn an_idle_proxy_drains_at_once() {
        let drain = Drain::new();
        drain.begin();
        assert_eq!(
            drain.finish(DEADLINE, std::future::pending()).await,
            Drained::Complete
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn threads_finish_in_any_order() {
        let drain = Drain::new();
        let guards: Vec<_> = (0..100).map(|_| drain.enter()).collect();
        let threads: Vec<_> = guards
            .into_iter()
            .map(|guard| std::thread::spawn(move || drop(guard)))
            .collect();
        drain.begin();
        assert_eq!(
            drain.finish(DEADLINE, std::future::pending()).await,
            Drained::Complete
        );
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[tokio::test]
    async fn a_worker_hears_of_the_drain() {
        LocalSet::new()
            .run_until(async {
                let (drain, local) = (Drain::new(), LocalDrain::default());
                tokio::task::spawn_local(local.clone().follow(drain.clone()));
                let waiting: Vec<_> = (0..3).map(|_| tokio::task::spawn_local(local.wait())).collect();
                tokio::task::yield_now().await;
                assert_eq!(local.0.waiting.borrow().places.len(), 3);
                assert!(!local.has_begun() && waiting.iter().all(|wait| !wait.is_finished()));
                drain.begin();
                for wait in waiting {
                    wait.await.unwrap();
                }
                assert!(local.has_begun());
                local.wait().await;
            })
            .await;
    }

    #[tokio::test]
    async fn places_are_used_again_and_wake_who_waits_now() {
        let local = LocalDrain::default();
        let mut kept = local.wait();
        for _ in 0..100 {
            let mut wait = local.wait();
            std::future::poll_fn(|cx| {
                assert!(
                    Pin::new(&mut wait).poll(cx).is_pending() && Pin::new(&mut kept).poll(cx).is_pending()
                );
                Poll::Ready(())
            })
            .await;
        }
        assert_eq!(local.0.waiting.borrow().places.len(), 2);
        let drain = Drain::new();
        drain.begin();
        local.follow(drain).await;
        kept.await;
    }

    #[tokio::test]
    async fn both_signals_are_heard() {
        use nix::sys::signal::{Signal, raise};
        let mut signals = Signals::listen().unwrap();
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            raise(signal).unwrap();
            signals.next().await;
        }
    }
}
