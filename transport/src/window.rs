//! How much each connection may hold of what the peer has not acknowledged.
//!
//! What is sent must be kept until it is acknowledged, and a peer that asks for much and acknowledges nothing makes us
//! keep it for a few bytes of its own. So a connection begins with a modest window, which follows the congestion
//! window, and that grows by acknowledgements alone. And all but a small part of each window comes from a pool that
//! the connections of a driver share, so that many connections together cannot hold more either. A connection
//! without streams leaves its part to others.

use std::{cell::Cell, rc::Rc};

use quinn_proto::Connection;

/// What a connection may hold before anything was acknowledged: four times what it may have in flight then. With much
/// less, a path that begins to lose large datagrams is noticed late, for want of enough that is lost.
pub(crate) const START: u64 = 1 << 20;
/// What a connection has of its own. With an empty pool it still fills a path of a gigabit and a millisecond.
const FLOOR: u64 = 128 << 10;
/// What all connections of a driver hold beyond [`FLOOR`]: the default `send_window` for 32 connections at once, or
/// [`START`] for almost 300. A hostile peer has to send a twentieth of it, in handshakes, to use it up.
const POOL: u64 = 256 << 20;

/// What is left for the connections of one driver.
#[derive(Debug)]
pub(crate) struct WindowPool(Cell<u64>);

/// One connection's part.
#[derive(Debug)]
pub(crate) struct SendWindow {
    pool: Rc<WindowPool>,
    granted: u64,
    max: u64,
}

impl Default for WindowPool {
    fn default() -> Self {
        Self(Cell::new(POOL))
    }
}

impl SendWindow {
    /// `max` as configured.
    pub(crate) fn new(pool: Rc<WindowPool>, max: u64) -> Self {
        let mut window = Self {
            pool,
            granted: FLOOR.min(max),
            max,
        };
        window.set(START.min(max));
        window
    }

    /// Adapts the window to what has been acknowledged, in a new connection too. `idle`: it carries no stream.
    pub(crate) fn follow(&mut self, proto: &mut Connection, idle: bool) {
        if idle {
            self.adapt(FLOOR.min(self.max));
        } else {
            self.on_congestion_window(proto.congestion_state().window());
        }
        // A store into a field.
        proto.set_send_window(self.granted);
    }

    fn on_congestion_window(&mut self, congestion: u64) {
        // Twice as much: what is in flight, and what follows when that is acknowledged.
        self.adapt(congestion.saturating_mul(2).clamp(START.min(self.max), self.max));
    }

    fn adapt(&mut self, wanted: u64) {
        if wanted != self.granted {
            self.set(wanted);
        }
    }

    /// Takes what is missing from the pool, as far as that goes, or gives back what is too much.
    fn set(&mut self, wanted: u64) {
        let left = self.pool.0.get();
        let window = wanted.min(self.granted.saturating_add(left));
        self.pool.0.set((left + self.granted).saturating_sub(window));
        self.granted = window;
    }
}

impl Drop for SendWindow {
    fn drop(&mut self) {
        let beyond = self.granted.saturating_sub(FLOOR.min(self.max));
        self.pool.0.set(self.pool.0.get() + beyond);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 8 << 20;

    fn after(window: &mut SendWindow, congestion: u64) -> u64 {
        window.on_congestion_window(congestion);
        window.granted
    }

    #[test]
    fn the_window_follows_what_is_acknowledged() {
        let pool = Rc::new(WindowPool::default());
        let mut window = SendWindow::new(pool.clone(), MAX);
        assert_eq!(window.granted, START);
        assert_eq!(after(&mut window, 12_000), START);
        assert_eq!(after(&mut window, START), 2 * START);
        assert_eq!(after(&mut window, 100 << 20), MAX);
        assert_eq!(pool.0.get(), POOL + FLOOR - MAX);
        assert_eq!(after(&mut window, 12_000), START);
        window.adapt(FLOOR);
        assert_eq!(pool.0.get(), POOL, "an idle connection leaves its part to others");
        drop(window);
        assert_eq!(pool.0.get(), POOL);
    }

    #[test]
    fn an_empty_pool_leaves_everyone_its_own() {
        let pool = Rc::new(WindowPool::default());
        let mut windows: Vec<_> = (0..1_000).map(|_| SendWindow::new(pool.clone(), MAX)).collect();
        for window in &mut windows {
            window.on_congestion_window(MAX);
        }
        let held: u64 = windows.iter().map(|window| window.granted).sum();
        assert_eq!(held, POOL + 1_000 * FLOOR);
        assert!(windows.iter().all(|window| window.granted >= FLOOR));
        // What one gives back, another takes.
        windows.remove(0);
        let last = windows.last_mut().unwrap();
        assert!(after(last, MAX) > FLOOR);
        drop(windows);
        assert_eq!(pool.0.get(), POOL);
    }

    #[test]
    fn a_smaller_maximum_is_kept() {
        let pool = Rc::new(WindowPool::default());
        let mut window = SendWindow::new(pool.clone(), 10_000);
        assert_eq!(after(&mut window, MAX), 10_000);
        drop(window);
        assert_eq!(pool.0.get(), POOL);
    }
}
