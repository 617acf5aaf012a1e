//! How long an answer may take that has begun.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Ends an answer at the deadline of its request, and one of which nothing comes for too long.
#[derive(Debug)]
pub(crate) struct Timer {
    deadline: Option<Instant>,
    idle: Option<Duration>,
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    /// `None` if it may take for ever.
    pub(crate) fn new(deadline: Option<Instant>, idle: Option<Duration>) -> Option<Box<Self>> {
        let first = [deadline, idle.map(|idle| Instant::now() + idle)];
        let first = first.into_iter().flatten().min()?;
        Some(Box::new(Self {
            deadline,
            idle,
            sleep: Box::pin(sleep_until(first)),
        }))
    }

    /// Something came.
    pub(crate) fn on_progress(&mut self) {
        if let Some(idle) = self.idle {
            let next = Instant::now() + idle;
            let next = self.deadline.map_or(next, |deadline| deadline.min(next));
            self.sleep.as_mut().reset(next);
        }
    }

    /// Why the answer ends now; to be asked while nothing comes.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        self.sleep.as_mut().poll(cx).map(|()| {
            let is_late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if is_late {
                "request_timeout"
            } else {
                "idle_timeout"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_at_the_deadline_or_when_nothing_comes() {
        assert!(Timer::new(None, None).is_none());
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut timer = Timer::new(Some(after(25)), Some(Duration::from_secs(10))).unwrap();
        for now in [6, 12, 18] {
            tokio::time::sleep_until(after(now)).await;
            timer.on_progress();
        }
        assert_eq!(poll_fn(|cx| timer.poll(cx)).await, "request_timeout");
        assert_eq!(Instant::now(), after(25));
        let mut timer = Timer::new(Some(after(60)), Some(Duration::from_secs(10))).unwrap();
        assert_eq!(poll_fn(|cx| timer.poll(cx)).await, "idle_timeout");
        assert_eq!(Instant::now(), after(35));
    }
}
