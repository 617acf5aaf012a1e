//! The connections to one peer, and what is to be done about them whether or not a request comes.

use std::{
    rc::Rc,
    task::Waker,
    time::{Duration, Instant},
};

use rand::Rng;
use tokio::task::AbortHandle;

use crate::{
    connection::Connection,
    credentials::Credentials,
    error::{DialFailure, Lost},
    h3::Code,
    peer::{Advice, Dial},
};

/// See the module.
pub(super) struct Peer {
    pub(super) dial: Dial,
    /// They take requests. Normally one.
    pub(super) held: Vec<Held>,
    /// They finish what is under way.
    leaving: Vec<Rc<Connection>>,
    /// Requests without a connection.
    pub(super) waiting: Vec<Waker>,
    pub(super) dialling: Option<AbortHandle>,
}

/// An open connection.
pub(super) struct Held {
    pub(super) connection: Rc<Connection>,
    /// Then its replacement is dialled; it serves until there is one.
    replace_at: Instant,
}

/// What a look at a peer led to.
pub(super) struct Upkeep {
    /// Start a dial now.
    pub(super) dial: bool,
    /// When something is due that is known already.
    pub(super) next: Option<Instant>,
}

impl Peer {
    pub(super) fn new() -> Self {
        Self {
            dial: Dial::Idle,
            held: Vec::new(),
            leaving: Vec::new(),
            waiting: Vec::new(),
            dialling: None,
        }
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = &Rc<Connection>> {
        self.held.iter().map(|held| &held.connection).chain(&self.leaving)
    }

    /// Is there nothing to remember of it?
    pub(super) fn is_unused(&self) -> bool {
        self.held.is_empty() && self.leaving.is_empty()
    }

    /// Sets aside connections that take no more requests. Returns whether one of them was in use, and needs a
    /// successor; one that was lost is dialled again when a request comes.
    pub(super) fn settle(&mut self) -> bool {
        if self.held.iter().all(|held| held.connection.is_open()) {
            return false;
        }
        let mut missed = false;
        for held in self.held.extract_if(.., |held| !held.connection.is_open()) {
            missed |= held.connection.went_away() && held.connection.is_used();
            if held.connection.is_draining() {
                self.leaving.push(held.connection);
            }
        }
        missed
    }

    pub(super) fn forget(&mut self, connection: &Rc<Connection>) {
        self.held.retain(|held| !Rc::ptr_eq(&held.connection, connection));
    }

    /// The peer has confirmed a connection that was dialled with `credentials`; `present` are those of now.
    pub(super) fn on_dialled(
        &mut self,
        connection: Rc<Connection>,
        credentials: &Credentials,
        present: &Credentials,
        now: Instant,
        rng: &mut impl Rng,
    ) {
        self.dial.on_confirmed();
        self.retire_due(now);
        let mut held = Held::new(connection, now, rng);
        if !same_leaf(credentials, present) {
            held.on_renewed(now, rng);
        }
        self.held.push(held);
    }

    /// The dial failed. Returns whether anyone waited for it.
    pub(super) fn on_dial_failed(&mut self, failure: DialFailure, now: Instant, rng: &mut impl Rng) -> bool {
        for held in self.held.iter_mut().filter(|held| held.is_due(now)) {
            held.on_not_replaced(now, rng);
        }
        let missed = !self.waiting.is_empty();
        if missed {
            self.dial.on_failed(failure, now, rng);
        } else {
            self.dial.on_failed_ahead(failure, now, rng);
        }
        missed
    }

    /// The workload has another leaf.
    pub(super) fn on_renewed(&mut self, now: Instant, rng: &mut impl Rng) {
        for held in &mut self.held {
            held.on_renewed(now, rng);
        }
    }

    /// Lets go of connections that are over or that nobody has used for `idle`, and finds out whether one that is in
    /// use must be replaced. If so, [`Self::dial`] counts as under way.
    pub(super) fn upkeep(&mut self, idle: Duration, now: Instant) -> Upkeep {
        for connection in self.held.iter().map(|held| &held.connection) {
            if connection.idle_for(now).is_some_and(|since| since >= idle) {
                connection.close(now, Code::H3_NO_ERROR, Lost::Local);
            }
        }
        let mut wanted = self.settle();
        self.leaving.retain(|connection| connection.is_draining());
        let fresh = |held: &Held| !held.is_due(now) && !held.connection.is_unresponsive(now);
        if self.held.iter().any(fresh) {
            self.retire_due(now);
            wanted = false;
        }
        // One that carried nothing since it was made has a new one when it is needed.
        wanted |= self
            .held
            .iter()
            .any(|held| held.is_due(now) && held.connection.is_used());
        let replacements = self.held.iter().map(|held| held.replace_at);
        let mut next = replacements.filter(|at| *at > now).min();
        let mut dial = false;
        if wanted {
            match self.dial.on_demand(now) {
                Advice::Dial => dial = true,
                Advice::Wait => {}
                Advice::Fail { remaining, .. } => next = next.into_iter().chain([now + remaining]).min(),
            }
        }
        Upkeep { dial, next }
    }

    fn retire_due(&mut self, now: Instant) {
        for held in self.held.extract_if(.., |held| held.is_due(now)) {
            held.connection.go_away(now);
            self.leaving.push(held.connection);
        }
    }
}

impl Held {
    fn new(connection: Rc<Connection>, now: Instant, rng: &mut impl Rng) -> Self {
        let term = connection.term();
        Self {
            connection,
            replace_at: term.map_or(now, |term| term.replacement(now, rng)),
        }
    }

    /// Is it time to dial its replacement?
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.replace_at <= now
    }

    fn on_renewed(&mut self, now: Instant, rng: &mut impl Rng) {
        if let Some(term) = self.connection.term() {
            self.replace_at = self.replace_at.min(term.after_renewal(now, rng));
        }
    }

    fn on_not_replaced(&mut self, now: Instant, rng: &mut impl Rng) {
        if let Some(term) = self.connection.term() {
            self.replace_at = term.after_failure(now, rng);
        }
    }
}

/// Do peers see the same SVID?
pub(super) fn same_leaf(one: &Credentials, other: &Credentials) -> bool {
    one.svid().chain() == other.svid().chain()
}
