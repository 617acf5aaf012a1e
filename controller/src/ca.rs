//! The certificate authority: its root and its signer, the certificates that it issues, and what the rest of the
//! controller needs to know of the roots.
//!
//! - [`Authority::sign`] issues a leaf: the request proves the key, the caller says whose it is.
//! - [`Authority::rotate`] and [`Authority::retire`] change the root, [`Authority::run`] drives what follows.
//! - [`Authority::bundle`], [`Authority::renewals`], [`Authority::serving`] and [`Authority::local_admin`] tell others.
//!
//! Keys are in files (`ca/files.rs`) and nowhere else; the step of a rotation is in the store
//! ([`crate::trust`]), and files of a new root are there before the store names it.

mod certificate;
mod change;
mod drive;
mod error;
mod files;
mod heard;
mod key;
mod open;
mod options;
mod own;
mod pem;
mod request;
mod signer;
mod state;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;
use tokio::sync::{Notify, watch};
use weft_proto::{SpiffeId, TrustDomain, mesh::v1};
use weft_tls::TrustBundle;

pub use self::{
    error::{CaError, SignError, TrustError},
    heard::HeldBy,
    options::{Brought, CaOptions, Clock},
    own::{AdminCredential, Serving, controller_id},
    request::{MAX_REQUEST_BYTES, RequestError},
};
use self::{files::Files, heard::Heard, signer::Signer, state::State};
use crate::{
    auth::{Caller, Role},
    ledger::Issue,
    store::{CommitError, Revision, SharedStore, Transaction},
    trust::{HolderKey, RootId},
    unix::seconds,
};

/// How often an issue is tried again because the rotation took a step meanwhile.
const TRIES: usize = 5;
/// The most bytes of the name of an instance.
const MAX_INSTANCE: usize = 128;

/// The certificate authority of a controller. Cheap to share.
pub struct Authority {
    store: SharedStore,
    files: Files,
    options: CaOptions,
    current: Mutex<Arc<Current>>,
    heard: Mutex<Heard>,
    /// Held while this controller changes the state, so that it does not compete with itself.
    changing: tokio::sync::Mutex<()>,
    /// Something happened that a rotation may have waited for.
    wake: Notify,
    bundle: watch::Sender<Arc<Bundle>>,
    renewals: watch::Sender<RenewHint>,
    serving: watch::Sender<Arc<Serving>>,
    admin: watch::Sender<Option<Arc<AdminCredential>>>,
}

/// The state of the store, with what is needed to act on it.
struct Current {
    revision: Revision,
    state: State,
    /// Of every root that the step is about, as far as there is one here.
    signers: BTreeMap<RootId, Arc<Signer>>,
}

/// The roots of now.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Grows with each change, and never goes back.
    pub version: u64,
    /// Whose roots they are.
    pub trust_domain: TrustDomain,
    /// The certificates.
    pub roots_der: Vec<CertificateDer<'static>>,
    /// The same for verifying.
    pub trust: Arc<TrustBundle>,
}

/// That proxies are to renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenewHint {
    /// Grows each time. A change is news; the first value is not.
    pub epoch: u64,
    /// Each proxy at another moment within this.
    pub within: Duration,
    /// The version of the bundle that it is about.
    pub trust_version: u64,
}

/// A certificate that was issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then intermediates, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots to go with it.
    pub bundle: Arc<Bundle>,
    /// Of the leaf, in hexadecimal digits.
    pub serial: String,
    /// When the leaf ends.
    pub not_after: SystemTime,
    /// How long it is valid from now.
    pub lifetime: Duration,
}

impl Authority {
    /// Issues a certificate for an identity, to whoever has the key of the request. Names in the request mean nothing.
    ///
    /// The caller has made sure that `identity` is that of whoever asks. The issue is in the ledger before this
    /// returns.
    ///
    /// # Errors
    /// See [`SignError`]; [`SignError::status`] is the answer to give.
    pub async fn sign(
        &self,
        identity: &SpiffeId,
        holder: &v1::Holder,
        request: &[u8],
    ) -> Result<Issued, SignError> {
        self.sign_with(identity, holder, request, &Transaction::default())
            .await
    }

    /// The same, in one transaction with something else, such as the use of a token: both happen or neither.
    ///
    /// # Errors
    /// As [`Authority::sign`]; [`SignError::Condition`] if a condition of `with` does not hold.
    pub async fn sign_with(
        &self,
        identity: &SpiffeId,
        holder: &v1::Holder,
        request: &[u8],
        with: &Transaction,
    ) -> Result<Issued, SignError> {
        self.check_identity(identity)?;
        check_holder(identity, holder)?;
        let key = request::proved_key(request)?;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_sign(identity, holder, &key, with).await {
                // The rotation took a step: by the new one another root may be to sign with.
                Err(SignError::Condition(condition)) if state::is_about(&condition) && tries < TRIES => {
                    self.refresh().await.map_err(|error| match error {
                        CaError::Store(error) => SignError::Ledger(error),
                        other => SignError::State(other.to_string()),
                    })?;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_sign(
        &self,
        identity: &SpiffeId,
        holder: &v1::Holder,
        key: &rcgen::SubjectPublicKeyInfo,
        with: &Transaction,
    ) -> Result<Issued, SignError> {
        let current = self.current();
        // Published before the state that it belongs to is current, so never older than the root that signs.
        let bundle = current
            .bundle(&self.options.trust_domain)
            .map_err(|error| SignError::State(error.to_string()))?;
        let now = self.now();
        let signer = current.signing();
        let signer =
            signer.ok_or_else(|| SignError::State("the root that signs has no signer here".into()))?;
        let leaf = signer.leaf(identity, key, self.options.lifetime_of(identity), now)?;
        let issue = Issue {
            identity: identity.as_str().to_owned(),
            workload: holder.workload.clone(),
            instance: holder.instance.clone(),
            serial: leaf.serial.clone(),
            not_before: seconds(leaf.validity.not_before),
            not_after: seconds(leaf.validity.not_after),
            root: signer.id,
            bundle: current.state.trust.version,
        };
        let mut transaction = with.clone();
        transaction.conditions.push(state::unchanged(current.revision));
        transaction.operations.push(issue.operation());
        self.store
            .commit(transaction)
            .await
            .map_err(|error| match error {
                CommitError::Conflict(condition) => SignError::Condition(condition),
                CommitError::Store(error) => SignError::Ledger(error),
            })?;
        let not_after = leaf.validity.not_after;
        tracing::info!(%identity, workload = holder.workload, instance = holder.instance, serial = leaf.serial, root = %signer.id, not_after = error::date(not_after), "a certificate is issued");
        Ok(Issued {
            chain: leaf.chain,
            bundle: Arc::new(bundle),
            serial: leaf.serial,
            not_after,
            lifetime: not_after.duration_since(now).unwrap_or_default(),
        })
    }

    /// Who has this identity is decided elsewhere; that anyone may, here.
    fn check_identity(&self, identity: &SpiffeId) -> Result<(), SignError> {
        let is_controller = controller_id(&self.options.trust_domain).is_ok_and(|own| own == *identity);
        let is_ours = identity.trust_domain() == &self.options.trust_domain;
        match Caller::of(identity.clone()) {
            Caller::Workload(_) | Caller::Operator(..) if is_ours && !is_controller => Ok(()),
            _ => Err(SignError::Identity(identity.clone())),
        }
    }

    /// The roots, now and whenever they change.
    pub fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    /// When proxies are to renew. The first value is how it stands; each change is to be sent on to every proxy. A
    /// proxy that was not there then is found by [`Authority::on_certificate`].
    pub fn renewals(&self) -> watch::Receiver<RenewHint> {
        self.renewals.subscribe()
    }

    /// What the controller shows on its port, now and whenever it changes.
    pub fn serving(&self) -> watch::Receiver<Arc<Serving>> {
        self.serving.subscribe()
    }

    /// The credential of the data directory's admin, now and whenever it changes; `None` while none can be signed.
    pub fn local_admin(&self) -> watch::Receiver<Option<Arc<AdminCredential>>> {
        self.admin.subscribe()
    }

    /// For how long after its end a certificate may still be renewed.
    pub fn renew_grace(&self) -> Duration {
        self.options.renew_grace
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.options.trust_domain
    }

    /// The root that signs now, with the condition that it still does, for the transaction of a join token.
    pub(crate) fn signing_root(&self) -> (RootId, crate::store::Condition) {
        let current = self.current();
        (current.state.trust.signing(), state::unchanged(current.revision))
    }

    /// Whether a root is trusted now.
    pub(crate) fn trusts(&self, root: RootId) -> bool {
        self.current().state.trust.roots().contains(&root)
    }

    /// Reads the state of the roots anew, since another controller may have changed it.
    pub(crate) async fn refresh_state(&self) -> Result<(), CaError> {
        self.refresh().await
    }

    /// The store that the authority writes to.
    pub(crate) fn store(&self) -> &SharedStore {
        &self.store
    }

    /// The time by the clock of the options.
    pub(crate) fn now(&self) -> SystemTime {
        (self.options.clock)()
    }

    fn current(&self) -> Arc<Current> {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn signing(&self) -> Option<&Arc<Signer>> {
        self.signers.get(&self.state.trust.signing())
    }

    fn bundle(&self, trust_domain: &TrustDomain) -> Result<Bundle, CaError> {
        let roots = self.state.trust.roots().into_iter();
        let roots_der = roots
            .map(|id| self.state.root(id))
            .collect::<Result<Vec<_>, _>>()?;
        let trust = TrustBundle::from_der(trust_domain, roots_der.iter().cloned())
            .map_err(|error| CaError::State(error.to_string()))?;
        Ok(Bundle {
            version: self.state.trust.version,
            trust_domain: trust_domain.clone(),
            roots_der,
            trust: Arc::new(trust),
        })
    }
}

impl Bundle {
    /// As it goes over the wire.
    pub fn to_message(&self) -> v1::TrustBundle {
        let roots = self.roots_der.iter();
        v1::TrustBundle {
            version: self.version,
            trust_domain: self.trust_domain.as_str().to_owned(),
            roots: roots.map(|root| root.to_vec().into()).collect(),
        }
    }

    /// As text for files.
    pub fn to_pem(&self) -> String {
        self.roots_der.iter().map(|root| pem::certificate(root)).collect()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("options", &self.options)
            .field("trust", &self.current().state.trust)
            .finish_non_exhaustive()
    }
}

/// Whether what the caller says of itself can be entered in the ledger.
fn check_holder(identity: &SpiffeId, holder: &v1::Holder) -> Result<(), SignError> {
    let wrong = |what: &str| Err(SignError::Holder(what.to_owned()));
    let is_operator = matches!(
        Caller::of(identity.clone()),
        Caller::Operator(_, Role::Admin | Role::Viewer)
    );
    if is_operator != holder.workload.is_empty() {
        return wrong("holder.workload is the name of a workload, and empty for an operator");
    }
    if !is_operator && let Err(error) = weft_proto::names::DnsName::parse(&holder.workload) {
        return Err(SignError::Holder(format!("holder.workload: {error}")));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if holder.instance.len() > MAX_INSTANCE || !holder.instance.bytes().all(is_plain) {
        return wrong("holder.instance has at most 128 letters, digits, '-', '_' and '.'");
    }
    Ok(())
}

fn holder_key(identity: &SpiffeId, holder: &v1::Holder) -> HolderKey {
    HolderKey {
        identity: identity.clone(),
        workload: holder.workload.clone(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
