//! How long a caller may take to send a request head.
//!
//! hyper's own timer starts when it begins to wait for a head, so it would also end a keep-alive connection that is
//! merely idle, in a race with the application's next request. Ours starts with the head's first byte. The common
//! head arrives in one read, and then no timer is ever armed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// Set by a connection's reads, cleared when hyper begins to wait for a head. It is an atomic only because hyper
/// wants its timers `Sync`; the connection stays on its thread.
#[derive(Debug, Clone, Default)]
pub(super) struct HeadWatch(Arc<AtomicBool>);

impl HeadWatch {
    /// Bytes were read.
    pub(super) fn on_read(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn has_read(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// hyper's timer for one connection.
#[derive(Debug)]
pub(super) struct HeadTimer {
    watch: HeadWatch,
    timeout: Duration,
    epoch: Instant,
}

impl HeadTimer {
    /// A head may take `timeout` from its first byte.
    pub(super) fn new(watch: HeadWatch, timeout: Duration) -> Self {
        Self {
            watch,
            timeout,
            epoch: Instant::now(),
        }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, _duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.watch.reset();
        Box::pin(HeadSleep {
            watch: self.watch.clone(),
            timeout: self.timeout,
            armed: None,
        })
    }

    fn sleep_until(&self, _deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(self.timeout)
    }

    /// hyper asks for the time only to compute the deadline that we ignore: save reading the clock.
    fn now(&self) -> Instant {
        self.epoch
    }
}

struct HeadSleep {
    watch: HeadWatch,
    timeout: Duration,
    armed: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    /// Polled by hyper each time it found a head incomplete. While nothing of the head has come, the wake-up is that
    /// of the connection's next read.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.armed.is_none() && self.watch.has_read() {
            self.armed = Some(Box::pin(tokio::time::sleep(self.timeout)));
        }
        match &mut self.armed {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
