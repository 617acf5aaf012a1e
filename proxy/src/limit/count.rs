//! How much of something there is at a time.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

/// TCP connections to a service or an endpoint, from all workers.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU32);

/// Counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<Count>);

impl Count {
    /// How many there are.
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// One more, if there are fewer than `limit`. `None` as a limit: in any case.
    pub(crate) fn try_take(self: &Arc<Self>, limit: Option<u32>) -> Option<Counted> {
        let limit = limit.unwrap_or(u32::MAX);
        let more = |count: u32| (count < limit).then(|| count + 1);
        let taken = self.0.fetch_update(Relaxed, Relaxed, more);
        taken.is_ok().then(|| Counted(self.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_the_limit_and_a_changed_one_holds_for_the_same_count() {
        let count = Arc::new(Count::default());
        let mut held: Vec<_> = (0..5).filter_map(|_| count.try_take(Some(3))).collect();
        assert_eq!((held.len(), count.get()), (3, 3));
        held.extend(count.try_take(Some(4)));
        assert_eq!(count.get(), 4);
        held.truncate(3);
        assert!(count.try_take(Some(2)).is_none());
        held.truncate(1);
        assert!(count.try_take(Some(2)).is_some(), "and is given back at once");
        assert!(count.try_take(Some(0)).is_none());
        held.extend((0..100).filter_map(|_| count.try_take(None)));
        assert_eq!(count.get(), 101);
        drop(held);
        assert_eq!(count.get(), 0);
    }
}
