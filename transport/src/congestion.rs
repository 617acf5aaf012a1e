//! Congestion control that a connection's move can talk to. quinn-proto tells the controller alone what was
//! acknowledged, and asks it alone how much may be sent.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use quinn_proto::{
    RttEstimator,
    congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig},
};

/// What a connection and the controllers of its paths, one after the other, tell each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    acknowledged: AtomicU64,
    /// Bytes in flight, or somewhat more: packets that carry acknowledgements alone are counted too.
    in_flight: AtomicU64,
    /// The window is at least this.
    floor: AtomicU64,
}

impl Progress {
    /// Packets that the peer has acknowledged, of those that asked for it.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.0.acknowledged.load(Relaxed)
    }

    /// Lets `bytes` be sent whatever the window, until the next acknowledgement. What was sent on a path that is lost
    /// counts as in flight until later packets are acknowledged, and would keep those from being sent; but probes must
    /// not be held back (RFC 9002 section 7.5), and a new path has a window of its own (RFC 9000 section 9.4).
    pub(crate) fn allow(&self, bytes: u64) {
        let in_flight = self.0.in_flight.load(Relaxed);
        self.0.floor.store(in_flight.saturating_add(bytes), Relaxed);
    }

    /// Controllers that keep to it.
    pub(crate) fn control(&self, cubic: CubicConfig) -> Arc<dyn ControllerFactory + Send + Sync> {
        Arc::new(Factory {
            cubic: Arc::new(cubic),
            progress: self.clone(),
        })
    }
}

struct Factory {
    cubic: Arc<CubicConfig>,
    progress: Progress,
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Following {
            inner: self.cubic.clone().build(now, mtu),
            progress: self.progress.clone(),
        })
    }
}

/// Leaves every decision but [`Progress::allow`] to `inner`.
struct Following {
    inner: Box<dyn Controller>,
    progress: Progress,
}

impl Controller for Following {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.progress.0.in_flight.fetch_add(bytes, Relaxed);
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.progress.0.acknowledged.fetch_add(1, Relaxed);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_acked: Option<u64>) {
        self.progress.0.in_flight.store(in_flight, Relaxed);
        self.progress.0.floor.store(0, Relaxed);
        self.inner.on_end_acks(now, in_flight, app_limited, largest_acked);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.inner.on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.inner.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window().max(self.progress.0.floor.load(Relaxed))
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            progress: self.progress.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.inner.into_any()
    }
}
