//! What proxies say of the bundle and the leaf that they have. In memory alone: after a restart they say it again,
//! and until then a rotation waits, which is safe.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use weft_proto::{SpiffeId, mesh::v1};

use super::{Authority, RenewHint, holder_key};
use crate::trust::{HolderKey, Leaf, RootId, Standing, Step, View};

/// What was heard, by holder.
#[derive(Debug, Default)]
pub(super) struct Heard {
    holders: HashMap<HolderKey, Said>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Said {
    acked: Option<u64>,
    shown: Option<RootId>,
    /// When it was last asked to renew because of the root.
    asked: Option<SystemTime>,
}

/// Whose certificate a proxy shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// One of the root that signs.
    Signing,
    /// One of another root, and it was asked to renew a moment ago.
    OldAsked,
    /// One of another root: send it this.
    Old(RenewHint),
}

impl Heard {
    /// The standing of each holder of the ledger.
    pub(super) fn standings(&self, holders: BTreeMap<HolderKey, Vec<Leaf>>) -> Vec<Standing> {
        let stand = |(holder, leaves)| {
            let said = self.holders.get(&holder).copied().unwrap_or_default();
            Standing {
                holder,
                leaves,
                acked: said.acked,
                shown: said.shown,
            }
        };
        holders.into_iter().map(stand).collect()
    }

    /// Forgets those whom nobody waits for.
    pub(super) fn retain(&mut self, view: &View) {
        let known: std::collections::HashSet<&HolderKey> =
            view.holders.iter().map(|standing| &standing.holder).collect();
        self.holders.retain(|holder, _| known.contains(holder));
    }

    /// Forgets the holders of that name.
    pub(super) fn evict(&mut self, namespace: &str, workload: &str) {
        self.holders
            .retain(|holder, _| !holder.is_named(namespace, workload));
    }
}

impl Authority {
    /// A proxy says which version of the bundle it uses, and has kept for its next start. What it said last counts:
    /// one that starts again with less has less.
    pub fn on_ack(&self, holder: &v1::Holder, identity: &SpiffeId, trust_version: u64) {
        let key = holder_key(identity, holder);
        let is_news = {
            let mut heard = self.heard();
            let said = heard.holders.entry(key).or_default();
            said.acked.replace(trust_version) != Some(trust_version)
        };
        self.wake_if(is_news);
    }

    /// A proxy says to which root the leaf leads that it shows from now on, and has kept for its next start. Until it
    /// has said so, a rotation believes that it shows the old one: a leaf that was signed may never have arrived.
    pub fn on_certificate(&self, holder: &v1::Holder, identity: &SpiffeId, root: RootId) -> HeldBy {
        let key = holder_key(identity, holder);
        let trust = self.current().state.trust.clone();
        let hint = *self.renewals.borrow();
        let now = self.now();
        let (is_news, outcome) = {
            let mut heard = self.heard();
            let said = heard.holders.entry(key).or_default();
            let is_news = said.shown.replace(root) != Some(root);
            let is_old =
                matches!(trust.step, Step::Signing { .. } | Step::Retiring { .. }) && root != trust.signing();
            let outcome = match said.asked {
                _ if !is_old => HeldBy::Signing,
                Some(asked) if now < asked + hint.within * 2 => HeldBy::OldAsked,
                _ => {
                    said.asked = Some(now);
                    HeldBy::Old(hint)
                }
            };
            (is_news, outcome)
        };
        self.wake_if(is_news);
        outcome
    }

    fn wake_if(&self, is_news: bool) {
        let is_stable = matches!(self.current().state.trust.step, Step::Stable { .. });
        if is_news && !is_stable {
            self.wake.notify_one();
        }
    }
}
