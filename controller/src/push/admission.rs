//! Who has its first update now, and who waits for it.
//!
//! When a thousand proxies come back at once, each is welcomed at once and only the first updates are sent in turn, so
//! that those that are served are served soon. Past a number of waiting ones, others are asked to come later.

use std::collections::{BTreeMap, HashMap, HashSet};

/// Tells sessions apart; those that came later have larger ones.
pub type SessionId = u64;

/// How many may be where.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions in their first updates at once.
    pub syncing: usize,
    /// Sessions that wait for that.
    pub waiting: usize,
}

/// What becomes of a session that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It is served at once.
    Admitted,
    /// It is served in its turn.
    Waits,
    /// There are too many.
    TurnedAway,
}

/// The door. Every session that entered has to [`leave`](Self::leave).
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    syncing: HashSet<SessionId>,
    /// In the order in which they came.
    waiting: BTreeMap<u64, SessionId>,
    places: HashMap<SessionId, u64>,
    next_place: u64,
}

impl Admission {
    /// One with nobody in it.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            syncing: HashSet::new(),
            waiting: BTreeMap::new(),
            places: HashMap::new(),
            next_place: 0,
        }
    }

    /// A session came.
    pub fn enter(&mut self, session: SessionId) -> Entry {
        if self.syncing.len() < self.limits.syncing {
            self.syncing.insert(session);
            return Entry::Admitted;
        }
        if self.waiting.len() >= self.limits.waiting {
            return Entry::TurnedAway;
        }
        self.waiting.insert(self.next_place, session);
        self.places.insert(session, self.next_place);
        self.next_place += 1;
        Entry::Waits
    }

    /// A session has had its first updates, or is gone. The one whose turn it is now comes back.
    pub fn leave(&mut self, session: SessionId) -> Option<SessionId> {
        if let Some(place) = self.places.remove(&session) {
            self.waiting.remove(&place);
            return None;
        }
        if !self.syncing.remove(&session) {
            return None;
        }
        let (_, next) = self.waiting.pop_first()?;
        self.places.remove(&next);
        self.syncing.insert(next);
        Some(next)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_wait_are_served_in_the_order_in_which_they_came() {
        let mut door = Admission::new(Limits {
            syncing: 2,
            waiting: 2,
        });
        let entries: Vec<Entry> = (1..=5).map(|session| door.enter(session)).collect();
        use Entry::{Admitted, TurnedAway, Waits};
        assert_eq!(entries, [Admitted, Admitted, Waits, Waits, TurnedAway]);
        assert_eq!(door.leave(5), None, "it never entered");
        assert_eq!(door.leave(3), None, "it was not served yet");
        assert_eq!(door.enter(6), Waits);
        assert_eq!(door.leave(1), Some(4));
        assert_eq!(door.leave(1), None, "it left already");
        assert_eq!(door.leave(4), Some(6));
        assert_eq!(door.leave(2), None);
        assert_eq!((door.waiting(), door.enter(7)), (0, Admitted));
    }
}
