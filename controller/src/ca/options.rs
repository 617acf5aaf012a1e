//! What an authority is told at its start.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use weft_proto::{SpiffeId, TrustDomain};

use super::{error::CaError, signer::Lifetimes};
use crate::auth::Caller;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Shorter, and a leaf would be half over before its proxy has dialled with it.
const MIN_LEAF: Duration = Duration::from_secs(10);
/// Longer than anyone means, and short enough to be added to any date.
const MAX_LIFETIME: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What the time is; a test has its own.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How certificates are made.
#[derive(Clone)]
pub struct CaOptions {
    /// Of the mesh.
    pub trust_domain: TrustDomain,
    /// Of the leaves of workloads, and of the controller's own. At least 10 s.
    pub leaf_lifetime: Duration,
    /// Of the leaves of operators.
    pub operator_leaf_lifetime: Duration,
    /// Of a root that is made here.
    pub root_lifetime: Duration,
    /// Of a signer that is made here. It is renewed at half, by itself, while the root's key is here.
    pub signer_lifetime: Duration,
    /// How long after its end a leaf may still be renewed, if its root is trusted then. A rotation of the root waits
    /// for a silent proxy no longer than this, and no longer than its leaf was valid.
    pub renew_grace: Duration,
    /// An operator's own root and signer, instead of new ones. They are looked at again from time to time, and copied
    /// into the data directory.
    pub brought: Option<Brought>,
    /// What the time is.
    pub clock: Clock,
}

/// Files (PEM) of an operator's own root and of a signer under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brought {
    /// The certificate of the root.
    pub root: PathBuf,
    /// The certificate of the signer, then whatever is between it and the root.
    pub signer: PathBuf,
    /// The private key of the signer.
    pub signer_key: PathBuf,
}

impl CaOptions {
    /// The defaults: leaves of a day, operators' of 30 days, a root of ten years, a signer of one, a grace of a week.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            leaf_lifetime: DAY,
            operator_leaf_lifetime: 30 * DAY,
            root_lifetime: 3650 * DAY,
            signer_lifetime: 365 * DAY,
            renew_grace: 7 * DAY,
            brought: None,
            clock: Arc::new(SystemTime::now),
        }
    }

    /// How long a leaf for this identity lives.
    pub(super) fn lifetime_of(&self, identity: &SpiffeId) -> Duration {
        match Caller::of(identity.clone()) {
            Caller::Operator(..) => self.operator_leaf_lifetime,
            Caller::Anonymous | Caller::Expired(_) | Caller::Workload(_) => self.leaf_lifetime,
        }
    }

    pub(super) fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            root: self.root_lifetime,
            signer: self.signer_lifetime,
        }
    }

    /// How soon proxies renew when they are asked to: a part of a leaf's life, and no longer than a minute, which is
    /// enough to spread thousands of them.
    pub(super) fn renew_within(&self) -> Duration {
        (self.leaf_lifetime / 8).min(HOUR / 60)
    }

    pub(super) fn check(&self) -> Result<(), CaError> {
        let lifetimes = [
            ("leaf lifetime", self.leaf_lifetime, MIN_LEAF),
            ("operators' leaf lifetime", self.operator_leaf_lifetime, MIN_LEAF),
            ("signer lifetime", self.signer_lifetime, self.leaf_lifetime),
            (
                "root lifetime",
                self.root_lifetime,
                self.signer_lifetime.min(2 * self.leaf_lifetime),
            ),
            ("grace for renewal", self.renew_grace, Duration::ZERO),
        ];
        for (name, value, least) in lifetimes {
            if value < least || value > MAX_LIFETIME {
                return Err(CaError::Option(format!(
                    "the {name} is {}s: it must be at least {}s and at most 100 years",
                    value.as_secs(),
                    least.as_secs(),
                )));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for CaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaOptions")
            .field("trust_domain", &self.trust_domain)
            .field("leaf_lifetime", &self.leaf_lifetime)
            .field("brought", &self.brought)
            .finish_non_exhaustive()
    }
}
