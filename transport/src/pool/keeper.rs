//! Looks after the connections of a pool between requests: replaces those in use before they end, closes those that
//! nobody has used for long, and forgets peers that have none.

use std::{
    rc::{Rc, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{Inner, dial};
use crate::peer::Dial;

/// How often connections without streams are looked at.
const SWEEP: Duration = Duration::from_secs(10);

/// Runs until the pool is gone. `news`: a connection stopped taking requests, or there is a new one.
pub(super) async fn keep(pool: Weak<Inner>, news: Rc<Notify>) {
    loop {
        let Some(inner) = pool.upgrade() else { return };
        let next = upkeep(&inner);
        drop(inner);
        let _ = tokio::time::timeout_at(next, news.notified()).await;
    }
}

/// Does what is due. Returns when to look again.
fn upkeep(pool: &Rc<Inner>) -> Instant {
    let at = Instant::now();
    let now = at.into_std();
    let mut next = at + SWEEP;
    let mut due = Vec::new();
    pool.peers.borrow_mut().retain(|key, peer| {
        let upkeep = peer.upkeep(pool.config.idle_connection, now);
        if upkeep.dial {
            due.push(key.clone());
        }
        if let Some(at) = upkeep.next {
            next = next.min(at.into());
        }
        let quiet = match peer.dial {
            Dial::Idle => true,
            Dial::UnderWay { .. } => false,
            // Remembered for a while after its pause, so that the pauses can grow.
            Dial::Paused { until, .. } => now > until + SWEEP,
        };
        !(quiet && peer.is_unused())
    });
    for key in due {
        dial(pool, &key);
    }
    next
}
