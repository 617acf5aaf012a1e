//! The ledger of issued leaves: who can show a certificate, under which root, until when.
//!
//! An entry is durable before its leaf is handed out, so that no certificate is in the world that a rotation of the
//! root does not know of. Entries go when nobody waits for them any more.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use weft_proto::SpiffeId;

use crate::{
    auth::Caller,
    store::{CommitError, Operation, Store, StoreError, Transaction},
    trust::{HolderKey, Leaf, RootId},
};

/// Where entries are.
pub const PREFIX: &str = "ledger/";

/// How many entries go in one transaction.
const PRUNED_AT_ONCE: usize = 1_000;

/// A leaf that was issued, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    /// What the leaf says.
    pub identity: String,
    /// The name of the holder in the namespace of the identity; empty for an operator.
    pub workload: String,
    /// The process that asked for it.
    pub instance: String,
    /// In hexadecimal digits.
    pub serial: String,
    /// Seconds since 1970.
    pub not_before: u64,
    /// Seconds since 1970.
    pub not_after: u64,
    /// The root that it leads to.
    pub root: RootId,
    /// The version of the trust bundle that went with it.
    pub bundle: u64,
}

/// All entries, read at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Key and entry.
    entries: Vec<(String, Issue)>,
}

impl Issue {
    /// The write of it, for the transaction that issues the leaf.
    pub fn operation(&self) -> Operation {
        let path = self.path();
        let key = format!("{PREFIX}{path}/{}/{}", self.workload, self.serial);
        Operation::Put(key, serde_json::to_vec(self).unwrap_or_default().into())
    }

    /// When it ends.
    pub fn ends(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.not_after)
    }

    /// How long a rotation waits for it: past its end, when its holder may still renew it, for the grace, but no
    /// longer than it was valid. So a proxy that is gone holds up a rotation for twice a lifetime at most.
    pub fn awaited_until(&self, grace: Duration) -> SystemTime {
        let lifetime = Duration::from_secs(self.not_after.saturating_sub(self.not_before));
        self.ends() + grace.min(lifetime)
    }

    fn path(&self) -> &str {
        let id = self.identity.strip_prefix("spiffe://").unwrap_or_default();
        id.split_once('/').map_or("", |(_, path)| path)
    }

    fn holder(&self) -> Option<HolderKey> {
        Some(HolderKey {
            identity: SpiffeId::parse_workload(&self.identity).ok()?,
            workload: self.workload.clone(),
        })
    }
}

impl Ledger {
    /// Reads the ledger. What cannot be read is told in the log, and left out: it was not written by us.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn read(store: &dyn Store) -> Result<Self, StoreError> {
        let listing = store.list(PREFIX).await?;
        let mut entries = Vec::with_capacity(listing.entries.len());
        for entry in listing.entries {
            match serde_json::from_slice(&entry.value) {
                Ok(issue) => entries.push((entry.key, issue)),
                Err(error) => tracing::error!(key = entry.key, %error, "an entry of the ledger is damaged"),
            }
        }
        Ok(Self { entries })
    }

    /// The holders that a rotation waits for, with the leaves that they can have: those of workloads. The controller
    /// listens to operators and they to it alone, so none of them can hold up the mesh.
    pub fn holders(&self, grace: Duration, now: SystemTime) -> BTreeMap<HolderKey, Vec<Leaf>> {
        let mut holders: BTreeMap<HolderKey, Vec<Leaf>> = BTreeMap::new();
        for (_, issue) in &self.entries {
            let until = issue.awaited_until(grace);
            let Some(holder) = issue.holder().filter(is_workload) else {
                continue;
            };
            if now < until {
                holders.entry(holder).or_default().push(Leaf {
                    root: issue.root,
                    bundle: issue.bundle,
                    until,
                });
            }
        }
        holders
    }

    /// The leaves that have not ended.
    pub fn unexpired(&self, now: SystemTime) -> impl Iterator<Item = &Issue> {
        let issues = self.entries.iter().map(|(_, issue)| issue);
        issues.filter(move |issue| now < issue.ends())
    }

    /// Removes what nobody waits for any more, and says how many.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn prune(
        &self,
        store: &dyn Store,
        grace: Duration,
        now: SystemTime,
    ) -> Result<usize, CommitError> {
        self.remove(store, |issue| issue.awaited_until(grace) <= now)
            .await
    }

    /// Forgets the holders of that name in a namespace, whatever their service account, and says how many leaves
    /// that were.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn evict(
        &self,
        store: &dyn Store,
        namespace: &str,
        workload: &str,
    ) -> Result<usize, CommitError> {
        self.remove(store, |issue| {
            issue
                .holder()
                .is_some_and(|holder| holder.is_named(namespace, workload))
        })
        .await
    }

    async fn remove(
        &self,
        store: &dyn Store,
        is_meant: impl Fn(&Issue) -> bool,
    ) -> Result<usize, CommitError> {
        let meant: Vec<&String> = self
            .entries
            .iter()
            .filter(|(_, issue)| is_meant(issue))
            .map(|(key, _)| key)
            .collect();
        for keys in meant.chunks(PRUNED_AT_ONCE) {
            let transaction = Transaction {
                conditions: Vec::new(),
                operations: keys.iter().map(|key| Operation::Delete((*key).clone())).collect(),
            };
            store.commit(transaction).await?;
        }
        Ok(meant.len())
    }
}

impl HolderKey {
    /// Whether this is a workload of that name in that namespace.
    pub fn is_named(&self, namespace: &str, workload: &str) -> bool {
        self.identity.namespace() == Some(namespace) && self.workload == workload
    }
}

fn is_workload(holder: &HolderKey) -> bool {
    matches!(Caller::of(holder.identity.clone()), Caller::Workload(_))
}
