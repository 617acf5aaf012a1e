//! Facts that outlive snapshots.

use std::{
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use rustc_hash::FxHashMap;

use crate::{
    policy::{self, GuardFacts},
    snapshot::{Load, Used},
};

/// Facts about endpoints and services, one table for all workers.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// By workload and port: another port is another application.
    pub(super) loads: Kept<(Arc<str>, u16), Load>,
    /// By service, workload or external service.
    pub(super) uses: Kept<Arc<str>, Used>,
    /// By backend.
    pub(super) policies: Kept<Arc<str>, policy::Facts>,
    /// By service that this workload is of, and port.
    pub(super) guards: Kept<Arc<str>, GuardFacts>,
}

impl Facts {
    /// Drops what no snapshot and no request holds any more.
    pub(super) fn forget_unused(&self) {
        self.loads.forget_unused();
        self.uses.forget_unused();
        self.policies.forget_unused();
        self.guards.forget_unused();
    }
}

/// Facts by what they are of. Locked while a snapshot is made, and never by a request.
#[derive(Debug)]
pub(super) struct Kept<K, T>(Mutex<FxHashMap<K, Arc<T>>>);

impl<K, T> Default for Kept<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, T: Default> Kept<K, T> {
    /// Those that are there, or new ones.
    pub(super) fn of(&self, key: K) -> Arc<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(key).or_default().clone()
    }

    fn forget_unused(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, facts| Arc::strong_count(facts) > 1);
    }
}
