//! The state of the rotation in the store: one key, changed by compare-and-set.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use weft_proto::TrustDomain;

use super::error::CaError;
use crate::{
    store::{Condition, Operation, Revision, Store},
    trust::{RootId, Trust},
};

/// Its key.
pub(crate) const KEY: &str = "trust/state";
/// Roots that are gone whose names are kept, so that a controller that was away removes their files.
const REMEMBERED: usize = 32;

/// What is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) trust_domain: String,
    pub(crate) trust: Trust,
    /// The certificates of all roots that the step is about, retiring ones included.
    roots: Vec<Root>,
    /// Those that are gone, the last ones last.
    pub(crate) retired: Vec<RootId>,
    /// How long the last root that was made here lives, in seconds.
    pub(crate) root_lifetime: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Root {
    id: RootId,
    /// Base64.
    der: String,
}

impl State {
    pub(crate) fn new(trust_domain: &TrustDomain, root: &CertificateDer<'_>, root_lifetime: u64) -> Self {
        let first = Root::new(root);
        Self {
            trust_domain: trust_domain.as_str().to_owned(),
            trust: Trust::new(first.id),
            roots: vec![first],
            retired: Vec::new(),
            root_lifetime,
        }
    }

    /// The state of a store and the revision that wrote it, if there is one.
    pub(crate) async fn read(store: &dyn Store) -> Result<Option<(Self, Revision)>, CaError> {
        let Some(entry) = store.get(KEY).await? else {
            return Ok(None);
        };
        let state: Self =
            serde_json::from_slice(&entry.value).map_err(|error| CaError::State(error.to_string()))?;
        for root in &state.roots {
            if RootId::of(&root.certificate()?) != root.id {
                return Err(CaError::State(format!(
                    "root {} is not what its name says",
                    root.id
                )));
            }
        }
        for id in state.trust.roots() {
            state.root(id)?;
        }
        Ok(Some((state, entry.modified)))
    }

    /// The certificate of a root that the step is about.
    pub(crate) fn root(&self, id: RootId) -> Result<CertificateDer<'static>, CaError> {
        let root = self.roots.iter().find(|root| root.id == id);
        root.ok_or_else(|| CaError::State(format!("it has no certificate of root {id}")))?
            .certificate()
    }

    /// The roots that the step is about.
    pub(crate) fn ids(&self) -> impl Iterator<Item = RootId> {
        self.roots.iter().map(|root| root.id)
    }

    /// The same with another step, and with a root that is new in it.
    pub(crate) fn with(&self, trust: Trust, new: Option<&CertificateDer<'_>>) -> Self {
        let mut next = self.clone();
        next.trust = trust;
        next.roots.extend(new.map(Root::new));
        // A rotation that ends lets go of what it retired, and nothing else does.
        if let crate::trust::Step::Stable { root } = next.trust.step {
            let gone = next.roots.iter().map(|root| root.id).filter(|id| *id != root);
            next.retired.extend(gone);
            next.roots.retain(|kept| kept.id == root);
            let surplus = next.retired.len().saturating_sub(REMEMBERED);
            next.retired.drain(..surplus);
        }
        next
    }

    /// The write of it.
    pub(crate) fn operation(&self) -> Operation {
        Operation::Put(
            KEY.to_owned(),
            serde_json::to_vec(self).unwrap_or_default().into(),
        )
    }
}

/// That nobody has written the state since.
pub(crate) fn unchanged(revision: Revision) -> Condition {
    Condition::Unchanged(KEY.to_owned(), revision)
}

/// Whether a condition is about the state.
pub(crate) fn is_about(condition: &Condition) -> bool {
    match condition {
        Condition::Absent(key) | Condition::Unchanged(key, _) | Condition::Generation(key, _) => key == KEY,
    }
}

impl Root {
    fn new(certificate: &CertificateDer<'_>) -> Self {
        Self {
            id: RootId::of(certificate),
            der: STANDARD.encode(certificate),
        }
    }

    fn certificate(&self) -> Result<CertificateDer<'static>, CaError> {
        let der = STANDARD.decode(&self.der);
        der.map(CertificateDer::from)
            .map_err(|_| CaError::State(format!("root {} is not base64", self.id)))
    }
}
