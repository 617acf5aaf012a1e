//! The controller's own certificates: those that it shows on its port, and the admin's of its data directory.

use std::{fmt, sync::Arc, time::SystemTime};

use weft_proto::{SpiffeId, TrustDomain, identity::SpiffeIdError};
use weft_tls::{CredentialsError, Svid};
use zeroize::Zeroizing;

use super::{
    CaOptions,
    certificate::Validity,
    error::SignError,
    key::SecretKey,
    pem,
    signer::{Leaf, Signer},
};
use crate::{
    auth::{CONTROLLER_ACCOUNT, Role, SYSTEM_NAMESPACE},
    trust::RootId,
};

/// The name of the admin of the data directory.
const LOCAL: &str = "local";

/// What the controller shows on its port: a leaf for each root that it can sign under.
///
/// Whoever asks by the server name of a root ([`weft_tls::join`]) gets that chain with the root at its end; whoever
/// asks for none gets the chain to the root that is known best.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    familiar: Option<RootId>,
    own: Vec<Own>,
}

#[derive(Clone, Debug)]
struct Own {
    root: RootId,
    svid: Svid,
    with_root: Svid,
    validity: Validity,
}

/// The credential of the admin of the data directory, as text for its files.
pub struct AdminCredential {
    /// Leaf first, without the root.
    pub chain_pem: String,
    /// PKCS#8.
    pub key_pem: Zeroizing<String>,
    /// The roots.
    pub bundle_pem: String,
    /// When it ends.
    pub not_after: SystemTime,
    pub(super) validity: Validity,
    pub(super) root: RootId,
    pub(super) version: u64,
}

/// Why an own certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum OwnError {
    #[error(transparent)]
    Name(#[from] SpiffeIdError),
    #[error(transparent)]
    Key(#[from] rcgen::Error),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Svid(#[from] CredentialsError),
}

impl Serving {
    /// The SVID to show to whoever asked for this server name (SNI), or for none.
    #[must_use]
    pub fn choose(&self, server_name: Option<&str>) -> Option<Svid> {
        let asked = server_name.and_then(|name| {
            let own = self.own.iter();
            own.into_iter().find(|own| own.root.hash().is_asked_for_by(name))
        });
        if let Some(asked) = asked {
            return Some(asked.with_root.clone());
        }
        let familiar = self.own.iter().find(|own| Some(own.root) == self.familiar);
        familiar.or_else(|| self.own.last()).map(|own| own.svid.clone())
    }

    /// When the first of them ends.
    pub fn not_after(&self) -> Option<SystemTime> {
        self.own.iter().map(|own| own.validity.not_after).min()
    }

    /// Leaves for these signers, the one that signs last. Those that are there and less than half over are kept.
    pub(super) fn renewed<'a>(
        &self,
        familiar: RootId,
        signers: impl Iterator<Item = &'a Arc<Signer>>,
        options: &CaOptions,
        now: SystemTime,
    ) -> Self {
        let mut own = Vec::new();
        for signer in signers {
            let kept = self
                .own
                .iter()
                .find(|own| own.root == signer.id && now < own.validity.half());
            if let Some(kept) = kept {
                own.push(kept.clone());
                continue;
            }
            match Own::make(signer, options, now) {
                Ok(made) => own.push(made),
                Err(error) => {
                    tracing::error!(root = %signer.id, %error, "no certificate for the controller itself");
                    let valid = self
                        .own
                        .iter()
                        .find(|own| own.root == signer.id && now < own.validity.not_after);
                    own.extend(valid.cloned());
                }
            }
        }
        Self {
            familiar: Some(familiar),
            own,
        }
    }

    /// Whether it shows the same certificates as another.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let chains = |serving: &Self| -> Vec<_> {
            let own = serving.own.iter();
            own.map(|own| own.svid.chain().to_vec()).collect()
        };
        self.familiar == other.familiar && chains(self) == chains(other)
    }
}

impl Own {
    fn make(signer: &Signer, options: &CaOptions, now: SystemTime) -> Result<Self, OwnError> {
        let id = controller_id(&options.trust_domain)?;
        let (key, leaf) = issue(signer, &id, options, now)?;
        let svid = Svid::from_der(leaf.chain, key.to_der())?;
        Ok(Self {
            root: signer.id,
            with_root: svid.with_root(&signer.root)?,
            svid,
            validity: leaf.validity,
        })
    }
}

impl AdminCredential {
    pub(super) fn make(
        signer: &Signer,
        bundle_pem: String,
        version: u64,
        options: &CaOptions,
        now: SystemTime,
    ) -> Result<Self, OwnError> {
        let path = format!(
            "spiffe://{}/weft/{}/{LOCAL}",
            options.trust_domain,
            Role::Admin.as_str()
        );
        let (key, leaf) = issue(signer, &SpiffeId::parse_workload(&path)?, options, now)?;
        Ok(Self {
            chain_pem: leaf
                .chain
                .iter()
                .map(|certificate| pem::certificate(certificate))
                .collect(),
            key_pem: key.to_pem(),
            bundle_pem,
            not_after: leaf.validity.not_after,
            validity: leaf.validity,
            root: signer.id,
            version,
        })
    }
}

impl fmt::Debug for AdminCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminCredential")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The identity of every controller of a trust domain.
///
/// # Errors
/// The identity would be longer than a SPIFFE ID may be, which no trust domain is long enough for.
pub fn controller_id(trust_domain: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::for_service_account(trust_domain, SYSTEM_NAMESPACE, CONTROLLER_ACCOUNT)
}

/// A leaf of the controller's own, which the ledger need not know: the controller changes it with the root by itself.
fn issue(
    signer: &Signer,
    id: &SpiffeId,
    options: &CaOptions,
    now: SystemTime,
) -> Result<(SecretKey, Leaf), OwnError> {
    let key = SecretKey::generate()?;
    let leaf = signer.leaf(id, &key, options.lifetime_of(id), now)?;
    tracing::info!(identity = %id, serial = leaf.serial, root = %signer.id, not_after = super::error::date(leaf.validity.not_after), "a certificate of the controller's own is issued");
    Ok((key, leaf))
}
