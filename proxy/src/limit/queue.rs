//! Requests in flight to a service, and those that wait for room among them, first come, first served.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot::{Receiver, Sender, channel},
    time::timeout,
};
use weft_proto::model::policy::Limits;

use crate::respond::Limit;

/// How long a request waits where the policy does not say.
pub(crate) const QUEUE_TIMEOUT: Duration = Duration::from_millis(100);

/// Requests in flight to a service, from all workers.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    in_flight: AtomicU32,
    /// How many wait: whoever finds none need not lock the queue.
    waiting: AtomicU32,
    /// Locked only at the limit, never for longer than it takes to look through it, and never while somebody waits.
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    next_id: u64,
    /// As the policy had it when it was last asked here.
    limit: u32,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    sender: Sender<Permit>,
}

/// Counts as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Requests>);

/// Whether a request may go on.
pub(crate) enum Admission {
    Now(Permit),
    /// There is no room yet. Boxed: what is rare must not make the future of every request larger. Dropping it gives its
    /// place up.
    Later(Pin<Box<dyn Future<Output = Result<Permit, Limit>>>>),
}

/// A place in the queue, until it is dropped.
struct Place {
    requests: Arc<Requests>,
    id: u64,
}

impl Requests {
    /// How many are in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(SeqCst)
    }

    /// How many wait for room.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(SeqCst)
    }

    /// One more request. Nobody overtakes those that wait.
    ///
    /// # Errors
    /// There is no room, nor any in the queue.
    pub(crate) fn admit(self: &Arc<Self>, limits: &Limits) -> Result<Admission, Limit> {
        let limit = limits.requests.unwrap_or(u32::MAX);
        if self.waiting() == 0 && self.try_begin(limit) {
            return Ok(Admission::Now(Permit(self.clone())));
        }
        self.admit_late(limit, limits)
    }

    /// Whether one more request would find room, or a place in the queue.
    ///
    /// # Errors
    /// Neither.
    pub(crate) fn look(&self, limits: &Limits) -> Result<(), Limit> {
        let (in_flight, waiting) = (self.in_flight(), self.waiting());
        let limit = limits.requests.unwrap_or(u32::MAX);
        if (waiting == 0 && in_flight < limit) || waiting < limits.queue {
            return Ok(());
        }
        Err(no_room(limits))
    }

    #[cold]
    fn admit_late(self: &Arc<Self>, limit: u32, limits: &Limits) -> Result<Admission, Limit> {
        self.lock().limit = limit;
        // Those that wait may have room by a new limit.
        self.serve();
        let mut queue = self.lock();
        if queue.waiters.is_empty() && self.try_begin(limit) {
            return Ok(Admission::Now(Permit(self.clone())));
        }
        if queue.waiters.len() >= limits.queue as usize {
            return Err(no_room(limits));
        }
        let (place, permit) = self.enqueue(&mut queue);
        drop(queue);
        // Whoever made room before this one was in the queue did not see it there.
        self.serve();
        let within = limits.queue_timeout.unwrap_or(QUEUE_TIMEOUT);
        Ok(Admission::Later(Box::pin(wait(place, permit, within))))
    }

    fn enqueue(self: &Arc<Self>, queue: &mut Queue) -> (Place, Receiver<Permit>) {
        let (sender, permit) = channel();
        let id = queue.next_id;
        queue.next_id += 1;
        queue.waiters.push_back(Waiter { id, sender });
        self.waiting.fetch_add(1, SeqCst);
        let place = Place {
            requests: self.clone(),
            id,
        };
        (place, permit)
    }

    /// Lets those go on that wait, as far as there is room.
    fn serve(self: &Arc<Self>) {
        let mut unused = None;
        // Sent without the lock: who gets it may have gone, and the permit that it drops comes back here.
        while let Some((waiter, permit)) = self.next(unused.take()) {
            unused = waiter.sender.send(permit).err();
        }
    }

    /// The first that waits, if there is room for it, or a permit that another one did not take.
    fn next(self: &Arc<Self>, unused: Option<Permit>) -> Option<(Waiter, Permit)> {
        let mut queue = self.lock();
        let permit = match unused {
            Some(permit) if !queue.waiters.is_empty() => permit,
            // Dropped after the lock.
            Some(permit) => {
                drop(queue);
                drop(permit);
                return None;
            }
            None if !queue.waiters.is_empty() && self.try_begin(queue.limit) => Permit(self.clone()),
            None => return None,
        };
        let waiter = queue.waiters.pop_front();
        self.waiting.fetch_sub(1, SeqCst);
        drop(queue);
        waiter.map(|waiter| (waiter, permit))
    }

    fn try_begin(&self, limit: u32) -> bool {
        let more = |count: u32| (count < limit).then(|| count + 1);
        self.in_flight.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Neither for another request nor in the queue.
fn no_room(limits: &Limits) -> Limit {
    match limits.queue {
        0 => Limit::Requests,
        _ => Limit::Queue,
    }
}

async fn wait(place: Place, permit: Receiver<Permit>, within: Duration) -> Result<Permit, Limit> {
    let permit = timeout(within, permit).await;
    drop(place);
    match permit {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(Limit::QueueTime),
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, SeqCst);
        if self.0.waiting() > 0 {
            self.0.serve();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = self.requests.lock();
        let before = queue.waiters.len();
        queue.waiters.retain(|waiter| waiter.id != self.id);
        let gone = u32::from(queue.waiters.len() < before);
        self.requests.waiting.fetch_sub(gone, SeqCst);
    }
}
