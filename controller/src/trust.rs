//! The staged rotation of the root: a pure machine, asked with what is known and with the time of now.
//!
//! ```text
//! Stable --rotate--> Distributing --all have both roots--> Signing --all have a new leaf--> Retiring --all forgot--> Stable
//! ```
//!
//! | step | roots in the bundle | signs | waits for |
//! |---|---|---|---|
//! | stable | one | that one | nothing |
//! | distributing | old, new | old | everyone to have the new root |
//! | signing | old, new | new | everyone to show a leaf of the new root; the old root's join tokens |
//! | retiring | new | new | everyone to have forgotten the old root |
//!
//! *Everyone* is every holder with a leaf that has not ended, connected or not: the ledger knows them. One that is
//! silent holds a step up until its last leaf has ended and the grace after it is over, or until it is evicted.
//! Operators hold nothing up: they listen to nobody, and log in again if they were away for a whole rotation.
//!
//! Nothing is taken on trust that the ledger does not prove: a leaf that was signed may never have arrived. So a
//! holder counts as having a bundle if it acknowledged it, or if every leaf that it can have came with it; and as
//! having a new leaf if it says that it shows one, or can have no other.

use std::{fmt, str::FromStr, time::SystemTime};

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use weft_proto::SpiffeId;
use weft_tls::join::RootHash;

/// Which root: the SHA-256 of its DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RootId([u8; 32]);

/// Who holds certificates: one workload of an identity, or an operator.
///
/// Not one process: a proxy that starts again goes on with the certificate that it kept, and what it says then
/// replaces what it said before.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HolderKey {
    /// What its certificates say.
    pub identity: SpiffeId,
    /// Its name in the namespace of its identity; empty for an operator.
    pub workload: String,
}

/// Where the rotation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "lowercase")]
pub enum Step {
    /// No rotation is under way.
    Stable {
        /// The root.
        root: RootId,
    },
    /// The new root is on its way to everyone.
    Distributing {
        /// Signs still.
        old: RootId,
        /// Is trusted already.
        new: RootId,
        /// Stop before retiring.
        keep_old: bool,
    },
    /// The new root signs; everyone renews.
    Signing {
        /// Is trusted still.
        old: RootId,
        /// Signs.
        new: RootId,
        /// Stop here until an operator retires the old root.
        keep_old: bool,
    },
    /// The old root is not trusted any more; everyone is told.
    Retiring {
        /// Goes.
        old: RootId,
        /// Stays.
        new: RootId,
    },
}

/// The state of the machine: what survives a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Of the bundle: grows with each change of its roots, and never goes back.
    pub version: u64,
    /// How often everyone was asked to renew.
    pub renewals: u64,
    /// Where the rotation is.
    #[serde(flatten)]
    pub step: Step,
}

/// What is known of one holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who.
    pub holder: HolderKey,
    /// Every leaf that it can have.
    pub leaves: Vec<Leaf>,
    /// The version of the bundle that it last said to have.
    pub acked: Option<u64>,
    /// The root of the leaf that it last said to show.
    pub shown: Option<RootId>,
}

/// A leaf of the ledger, as far as a rotation is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Which root it leads to.
    pub root: RootId,
    /// The version of the bundle that came with it.
    pub bundle: u64,
    /// A rotation waits for it until then: its end, and a grace.
    pub until: SystemTime,
}

/// A join token that can still be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenToken {
    /// Its name.
    pub id: String,
    /// Which root it makes a joiner trust.
    pub root: RootId,
    /// Good until then.
    pub until: SystemTime,
}

/// What the machine looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// All holders with a leaf that a rotation waits for.
    pub holders: Vec<Standing>,
    /// All tokens that can still be used.
    pub tokens: Vec<OpenToken>,
}

/// Someone who holds up the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who.
    pub who: Who,
    /// Why.
    pub why: Why,
    /// Until when at most.
    pub until: SystemTime,
}

/// Who holds up a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A holder of certificates.
    Holder(HolderKey),
    /// A join token.
    Token(String),
}

/// Why a step waits for someone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has not acknowledged this version of the bundle.
    Bundle(u64),
    /// It may still show a leaf of the old root.
    Leaf,
    /// It makes whoever joins with it trust the old root alone.
    Token,
}

/// Why a request was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// One rotation at a time.
    #[error("a rotation is under way ({0}): wait for its end (weft ca status)")]
    UnderWay(&'static str),
    /// The new root is the old one.
    #[error("root {0} signs already")]
    Same(RootId),
    /// There is no such root, or there is nothing else to trust.
    #[error("root {0} cannot be retired: {1}")]
    Unfit(RootId, &'static str),
    /// Some would be cut off.
    #[error("root {} cannot be retired yet: it would cut off {}", .0, list(.1))]
    Early(RootId, Vec<Waiting>),
}

impl Trust {
    /// The first state of a mesh.
    pub fn new(root: RootId) -> Self {
        Self {
            version: 1,
            renewals: 0,
            step: Step::Stable { root },
        }
    }

    /// The roots to trust.
    pub fn roots(&self) -> Vec<RootId> {
        match self.step {
            Step::Stable { root } => vec![root],
            Step::Distributing { old, new, .. } | Step::Signing { old, new, .. } => vec![old, new],
            Step::Retiring { new, .. } => vec![new],
        }
    }

    /// The root to sign with.
    pub fn signing(&self) -> RootId {
        match self.step {
            Step::Stable { root } => root,
            Step::Distributing { old, .. } => old,
            Step::Signing { new, .. } | Step::Retiring { new, .. } => new,
        }
    }

    /// The root that everyone trusts who has not been away for long: the controller shows a leaf of it to whoever
    /// asks for none in particular. It is the old one for as long as that is trusted at all.
    pub fn familiar(&self) -> RootId {
        match self.step {
            Step::Stable { root } => root,
            Step::Distributing { old, .. } | Step::Signing { old, .. } => old,
            Step::Retiring { new, .. } => new,
        }
    }

    /// Begins a rotation to another root. With `keep_old` it stops before retiring the old one.
    ///
    /// # Errors
    /// One is under way, or the root is the present one.
    pub fn rotate(&self, new: RootId, keep_old: bool) -> Result<Self, Refused> {
        match self.step {
            Step::Stable { root } if root == new => Err(Refused::Same(root)),
            Step::Stable { root: old } => Ok(self.with_bundle(Step::Distributing { old, new, keep_old })),
            Step::Distributing { .. } | Step::Signing { .. } | Step::Retiring { .. } => {
                Err(Refused::UnderWay(self.name()))
            }
        }
    }

    /// Retires the old root of a rotation that stopped before it; or, while nothing is signed with it yet, the new
    /// one: that gives the rotation up.
    ///
    /// # Errors
    /// Someone would be cut off, all of whom the error has; or it is not a root that can go.
    pub fn retire(&self, id: RootId, view: &View, now: SystemTime) -> Result<Self, Refused> {
        match self.step {
            Step::Distributing { old, new, .. } if id == new => {
                Ok(self.with_bundle(Step::Retiring { old: new, new: old }))
            }
            Step::Signing { old, new, .. } if id == old => match self.waiting(view, now) {
                waiting if waiting.is_empty() => Ok(self.with_bundle(Step::Retiring { old, new })),
                waiting => Err(Refused::Early(id, waiting)),
            },
            Step::Distributing { old, .. } if id == old => {
                Err(Refused::Unfit(id, "it signs until the new root is everywhere"))
            }
            Step::Signing { new, .. } | Step::Retiring { new, .. } if id == new => {
                Err(Refused::Unfit(id, "it signs"))
            }
            Step::Retiring { old, .. } if id == old => Err(Refused::Unfit(id, "it is being retired already")),
            Step::Stable { root } if id == root => Err(Refused::Unfit(
                id,
                "it is the only one: rotate to another first (weft ca rotate)",
            )),
            _ => Err(Refused::Unfit(id, "there is no such root")),
        }
    }

    /// Everyone asks for a new certificate: the state to publish it with.
    #[must_use]
    pub fn renew(&self) -> Self {
        Self {
            renewals: self.renewals + 1,
            ..self.clone()
        }
    }

    /// The next step, if nobody holds it up.
    pub fn advance(&self, view: &View, now: SystemTime) -> Option<Self> {
        let next = match self.step {
            Step::Stable { .. } | Step::Signing { keep_old: true, .. } => return None,
            _ if !self.waiting(view, now).is_empty() => return None,
            Step::Distributing { old, new, keep_old } => Self {
                step: Step::Signing { old, new, keep_old },
                ..self.renew()
            },
            Step::Signing { old, new, .. } => self.with_bundle(Step::Retiring { old, new }),
            Step::Retiring { new, .. } => Self {
                step: Step::Stable { root: new },
                ..self.clone()
            },
        };
        Some(next)
    }

    /// Who holds up the next step, and why.
    pub fn waiting(&self, view: &View, now: SystemTime) -> Vec<Waiting> {
        let mut waiting: Vec<Waiting> = view
            .holders
            .iter()
            .filter_map(|standing| self.holds_up(standing, now))
            .collect();
        if let Step::Signing { old, .. } = self.step {
            let open = |token: &&OpenToken| token.root == old && now < token.until;
            waiting.extend(view.tokens.iter().filter(open).map(|token| Waiting {
                who: Who::Token(token.id.clone()),
                why: Why::Token,
                until: token.until,
            }));
        }
        waiting
    }

    /// The name of the step, for people.
    pub fn name(&self) -> &'static str {
        match self.step {
            Step::Stable { .. } => "stable",
            Step::Distributing { .. } => "distributing",
            Step::Signing { .. } => "signing",
            Step::Retiring { .. } => "retiring",
        }
    }

    fn holds_up(&self, standing: &Standing, now: SystemTime) -> Option<Waiting> {
        let (why, until) = match self.step {
            Step::Stable { .. } => return None,
            Step::Distributing { .. } | Step::Retiring { .. } => {
                if standing.acked.is_some_and(|acked| acked >= self.version) {
                    return None;
                }
                let behind = standing.last_end(now, |leaf| leaf.bundle < self.version)?;
                (Why::Bundle(self.version), behind)
            }
            Step::Signing { new, .. } => {
                let may_show_new = standing.last_end(now, |leaf| leaf.root == new).is_some();
                if standing.shown == Some(new) && may_show_new {
                    return None;
                }
                (Why::Leaf, standing.last_end(now, |leaf| leaf.root != new)?)
            }
        };
        Some(Waiting {
            who: Who::Holder(standing.holder.clone()),
            why,
            until,
        })
    }

    fn with_bundle(&self, step: Step) -> Self {
        Self {
            version: self.version + 1,
            step,
            ..self.clone()
        }
    }
}

impl Standing {
    /// When the last of some leaves ends for us, if any has not.
    fn last_end(&self, now: SystemTime, is_meant: impl Fn(&Leaf) -> bool) -> Option<SystemTime> {
        let meant = self.leaves.iter().filter(|leaf| is_meant(leaf));
        meant.map(|leaf| leaf.until).filter(|until| now < *until).max()
    }
}

impl RootId {
    /// Of a certificate.
    pub fn of(root: &CertificateDer<'_>) -> Self {
        RootHash::of(root).into()
    }

    /// Of 32 bytes; `None` if it is not as many.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// For TLS.
    pub fn hash(&self) -> RootHash {
        RootHash::new(self.0)
    }
}

impl From<RootHash> for RootId {
    fn from(hash: RootHash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for RootId {
    /// The first 16 digits: enough to tell the roots of a mesh apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<RootId> for String {
    fn from(id: RootId) -> Self {
        crate::hex::encode(&id.0)
    }
}

impl TryFrom<String> for RootId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for RootId {
    type Err = &'static str;

    /// From all 64 digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        crate::hex::decode(text)
            .and_then(|bytes| Self::from_slice(&bytes))
            .ok_or("not the SHA-256 of a root in 64 hexadecimal digits")
    }
}

impl fmt::Display for HolderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.identity.namespace() {
            Some(namespace) => write!(f, "{namespace}/{}", self.workload),
            None => f.write_str(self.identity.path().trim_start_matches('/')),
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Who::Holder(holder) => write!(f, "{holder} ({})", self.why),
            Who::Token(id) => write!(f, "token {id} ({})", self.why),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(version) => write!(f, "has not acknowledged trust bundle {version}"),
            Self::Leaf => f.write_str("has not shown a certificate of the new root"),
            Self::Token => f.write_str("can still be used, and leads to the old root"),
        }
    }
}

/// The first of them, and how many more there are.
fn list(waiting: &[Waiting]) -> String {
    const SHOWN: usize = 20;
    let mut text: Vec<String> = waiting.iter().take(SHOWN).map(ToString::to_string).collect();
    if waiting.len() > SHOWN {
        text.push(format!("and {} more", waiting.len() - SHOWN));
    }
    text.join(", ")
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
