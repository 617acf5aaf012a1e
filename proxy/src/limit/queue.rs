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
    time::{Timeout, timeout},
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
        // From now on, whenever it is awaited.
        let permit = timeout(limits.queue_timeout.unwrap_or(QUEUE_TIMEOUT), permit);
        Ok(Admission::Later(Box::pin(wait(place, permit))))
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

async fn wait(place: Place, permit: Timeout<Receiver<Permit>>) -> Result<Permit, Limit> {
    let permit = permit.await;
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use tokio::time::{Instant, advance};

    use super::*;

    type Later = Pin<Box<dyn Future<Output = Result<Permit, Limit>>>>;

    fn limits(requests: u32, queue: u32) -> Limits {
        let mut limits = Limits::default();
        limits.requests = Some(requests);
        limits.queue = queue;
        limits
    }

    fn now(admission: Result<Admission, Limit>) -> Permit {
        match admission {
            Ok(Admission::Now(permit)) => permit,
            Ok(Admission::Later(_)) => panic!("it waits"),
            Err(limit) => panic!("{limit:?}"),
        }
    }

    fn later(admission: Result<Admission, Limit>) -> Later {
        match admission {
            Ok(Admission::Later(later)) => later,
            Ok(Admission::Now(_)) => panic!("it does not wait"),
            Err(limit) => panic!("{limit:?}"),
        }
    }

    fn refused(admission: Result<Admission, Limit>) -> Limit {
        admission.err().expect("it is not refused")
    }

    #[tokio::test(start_paused = true)]
    async fn to_look_says_what_to_ask_would() {
        let requests = Arc::new(Requests::default());
        for (queue, limit) in [(0, Limit::Requests), (1, Limit::Queue)] {
            let limits = limits(1, queue);
            let _first = now(requests.admit(&limits));
            let mut waiting = Vec::new();
            while requests.look(&limits).is_ok() {
                waiting.push(later(requests.admit(&limits)));
            }
            assert_eq!(waiting.len(), queue as usize);
            assert_eq!(requests.look(&limits), Err(limit));
            assert_eq!(refused(requests.admit(&limits)), limit);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_limit_the_answer_is_at_once() {
        let requests = Arc::new(Requests::default());
        let limits = limits(2, 0);
        let first = now(requests.admit(&limits));
        let _second = now(requests.admit(&limits));
        assert_eq!(refused(requests.admit(&limits)), Limit::Requests);
        drop(first);
        let _third = now(requests.admit(&limits));
        assert_eq!((requests.in_flight(), requests.waiting()), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_requests_are_counted_all_the_same() {
        let requests = Arc::new(Requests::default());
        let held: Vec<_> = (0..100)
            .map(|_| now(requests.admit(&Limits::default())))
            .collect();
        assert_eq!(requests.in_flight(), 100);
        assert_eq!(
            refused(requests.admit(&limits(100, 0))),
            Limit::Requests,
            "one that comes finds them"
        );
        drop(held);
        assert_eq!(requests.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_came_first_is_served_first_and_nobody_overtakes() {
        let requests = Arc::new(Requests::default());
        let limits = limits(1, 3);
        let running = now(requests.admit(&limits));
        let [mut first, mut second] = [(); 2].map(|()| later(requests.admit(&limits)));
        assert!((&mut second).now_or_never().is_none());
        drop(running);
        assert_eq!(requests.in_flight(), 1, "the first one's, who has not looked yet");
        let mut third = later(requests.admit(&limits));
        assert!((&mut second).now_or_never().is_none());
        let permit = (&mut first).now_or_never().unwrap().unwrap();
        drop(permit);
        assert!((&mut third).now_or_never().is_none());
        drop((&mut second).now_or_never().unwrap().unwrap());
        drop((&mut third).now_or_never().unwrap().unwrap());
        assert_eq!((requests.in_flight(), requests.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses_and_waiting_ends() {
        let requests = Arc::new(Requests::default());
        let mut limits = limits(1, 2);
        limits.queue_timeout = Some(Duration::from_millis(250));
        let _running = now(requests.admit(&limits));
        let begun = Instant::now();
        let first = later(requests.admit(&limits));
        let second = later(requests.admit(&limits));
        assert_eq!(refused(requests.admit(&limits)), Limit::Queue);
        assert_eq!(first.await.err(), Some(Limit::QueueTime));
        assert_eq!(begun.elapsed(), Duration::from_millis(250));
        assert_eq!(second.await.err(), Some(Limit::QueueTime));
        assert_eq!((requests.in_flight(), requests.waiting()), (1, 0));
        limits.queue_timeout = None;
        assert_eq!(later(requests.admit(&limits)).await.err(), Some(Limit::QueueTime));
        assert_eq!(begun.elapsed(), Duration::from_millis(350), "the default");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_queue_leaves_no_hole() {
        let requests = Arc::new(Requests::default());
        let limits = limits(1, 2);
        let running = now(requests.admit(&limits));
        let first = later(requests.admit(&limits));
        let mut second = later(requests.admit(&limits));
        drop(first);
        assert_eq!(requests.waiting(), 1);
        let third = later(requests.admit(&limits));
        drop(running);
        // It has room, does not know it yet, and leaves: the next one has it.
        let permit = (&mut second).now_or_never().unwrap().unwrap();
        drop(permit);
        drop(third);
        assert_eq!((requests.in_flight(), requests.waiting()), (0, 0));
        let _next = now(requests.admit(&limits));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_rises_lets_those_go_on_that_wait() {
        let requests = Arc::new(Requests::default());
        let _running = now(requests.admit(&limits(1, 5)));
        let mut waiting: Vec<_> = (0..2).map(|_| later(requests.admit(&limits(1, 5)))).collect();
        let _next = now(requests.admit(&limits(9, 5)));
        for waiting in &mut waiting {
            assert!(waiting.now_or_never().unwrap().is_ok());
        }
        // And one that falls leaves those in flight alone.
        let _held: Vec<_> = (0..7).map(|_| now(requests.admit(&limits(9, 5)))).collect();
        let mut late = later(requests.admit(&limits(1, 5)));
        assert!((&mut late).now_or_never().is_none());
    }

    /// What happens at a queue.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Arrives,
        /// One of those in flight ends.
        Ends(usize),
        /// One of those that wait goes away.
        Leaves(usize),
        Passes(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Arrives),
            2 => (0..8_usize).prop_map(Event::Ends),
            1 => (0..8_usize).prop_map(Event::Leaves),
            1 => (0..60_u64).prop_map(Event::Passes),
        ]
    }

    /// The queue as one would draw it: numbers in a row, each with the time at which it has waited long enough.
    #[derive(Default)]
    struct Drawn {
        in_flight: Vec<usize>,
        waiting: VecDeque<(usize, Instant)>,
    }

    impl Drawn {
        fn serve(&mut self, limit: usize) {
            while self.in_flight.len() < limit
                && let Some((number, _)) = self.waiting.pop_front()
            {
                self.in_flight.push(number);
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_a_row_of_limited_length_and_time(
            limit in 1..4_u32,
            queue in 0..4_u32,
            events in proptest::collection::vec(event(), 1..80),
        ) {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_time().start_paused(true).build().unwrap();
            runtime.block_on(run(limit, queue, events))?;
        }
    }

    async fn run(limit: u32, queue: u32, events: Vec<Event>) -> Result<(), TestCaseError> {
        let requests = Arc::new(Requests::default());
        let limits = limits(limit, queue);
        let mut drawn = Drawn::default();
        let mut held: Vec<(usize, Permit)> = Vec::new();
        let mut waits: Vec<(usize, Later)> = Vec::new();
        for (number, event) in events.into_iter().enumerate() {
            match event {
                Event::Arrives => match requests.admit(&limits) {
                    Ok(Admission::Now(permit)) => {
                        prop_assert!(drawn.waiting.is_empty());
                        drawn.in_flight.push(number);
                        held.push((number, permit));
                    }
                    Ok(Admission::Later(mut later)) => {
                        prop_assert!(drawn.waiting.len() < queue as usize);
                        prop_assert!((&mut later).now_or_never().is_none());
                        drawn.waiting.push_back((number, Instant::now() + QUEUE_TIMEOUT));
                        waits.push((number, later));
                    }
                    Err(_) => prop_assert!(drawn.waiting.len() >= queue as usize),
                },
                Event::Ends(index) if index < held.len() => {
                    let (number, permit) = held.remove(index);
                    drop(permit);
                    drawn.in_flight.retain(|other| *other != number);
                }
                Event::Leaves(index) if index < waits.len() => {
                    let (number, later) = waits.remove(index);
                    drop(later);
                    drawn.waiting.retain(|(other, _)| *other != number);
                }
                Event::Ends(_) | Event::Leaves(_) => {}
                Event::Passes(time) => advance(Duration::from_millis(time)).await,
            }
            drawn.serve(limit as usize);
            drawn.waiting.retain(|(_, until)| *until > Instant::now());
            let mut still = Vec::new();
            for (number, mut later) in waits.drain(..) {
                match (&mut later).now_or_never() {
                    None => still.push((number, later)),
                    Some(Ok(permit)) => held.push((number, permit)),
                    Some(Err(_)) => {}
                }
            }
            waits = still;
            let numbers = |of: &[(usize, Permit)]| of.iter().map(|(number, _)| *number).collect::<Vec<_>>();
            let (mut got, mut want) = (numbers(&held), drawn.in_flight.clone());
            got.sort_unstable();
            want.sort_unstable();
            prop_assert_eq!(got, want);
            prop_assert_eq!(requests.in_flight() as usize, held.len());
            prop_assert_eq!(requests.waiting() as usize, drawn.waiting.len());
            prop_assert!(requests.in_flight() <= limit);
        }
        drop((held, waits));
        prop_assert_eq!((requests.in_flight(), requests.waiting()), (0, 0));
        Ok(())
    }

    #[test]
    fn workers_lose_no_room_to_each_other() {
        let requests = Arc::new(Requests::default());
        let mut limits = limits(2, 100);
        limits.queue_timeout = Some(Duration::from_secs(600));
        let served = std::thread::scope(|scope| {
            let worker = || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build();
                runtime.unwrap().block_on(async {
                    for _ in 0..2_000 {
                        let permit = match requests.admit(&limits).unwrap() {
                            Admission::Now(permit) => permit,
                            Admission::Later(later) => later.await.unwrap(),
                        };
                        assert!(requests.in_flight() <= 2);
                        tokio::task::yield_now().await;
                        drop(permit);
                    }
                    2_000
                })
            };
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .sum::<usize>()
        });
        assert_eq!(served, 8_000);
        assert_eq!((requests.in_flight(), requests.waiting()), (0, 0));
    }
}
