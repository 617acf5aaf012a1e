//! What a workload proves itself with and whom it believes: its X.509-SVID, the trust bundle, and the
//! TLS configurations made of the two.
//!
//! TLS 1.3 only. Resumption and 0-RTT are off on both sides: a resumed handshake skips the check of the
//! client's certificate, and 0-RTT data arrives before it.

use std::{fmt, sync::Arc, time::SystemTime};

use rustls::{
    ClientConfig, ServerConfig,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use weft_proto::identity::{SpiffeId, TrustDomain};

use crate::{
    clock,
    provider::{self, provider},
    verify::{
        MAX_CHAIN, MAX_CHAIN_BYTES, OnRefusal, Refusal, Role, SpiffeVerifier, TrustBundle, TrustBundleError,
        inspect_leaf, verify_chain,
    },
};

/// The application protocol of the mesh on QUIC (RFC 9114 section 3.1).
pub const ALPN_H3: &[u8] = b"h3";

/// The server name that a dialler gives to rustls and quinn-proto, which both insist on one.
///
/// It is never sent (SNI is off) and never checked: a peer is its SPIFFE ID. `.invalid` cannot be
/// anybody's name (RFC 2606 section 2).
pub const SERVER_NAME: &str = "weft.invalid";

/// Why credentials could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The text of the certificate chain is not PEM.
    #[error("certificate: not PEM")]
    CertificateNotPem,
    /// There is no certificate.
    #[error("certificate: no certificate in it")]
    NoCertificate,
    /// The chain is longer than a peer of the mesh accepts.
    #[error("certificate: more than {MAX_CHAIN} certificates or {MAX_CHAIN_BYTES} bytes")]
    ChainTooLarge,
    /// The leaf breaks the rules for an X.509-SVID.
    #[error("certificate: not a valid X.509-SVID: {0}")]
    NotSvid(Refusal),
    /// There is not exactly one private key. What is wrong with its text is not told, lest it be shown.
    #[error("key: not exactly one private key in PEM (PKCS#8, SEC1 or PKCS#1)")]
    NoKey,
    /// The key is of a kind that cannot be used, or damaged.
    #[error("key: not usable")]
    BadKey,
    /// The key is not that of the certificate.
    #[error("key: it does not belong to the certificate")]
    KeyMismatch,
    /// The trust bundle is not usable.
    #[error("trust bundle: {0}")]
    TrustBundle(#[from] TrustBundleError),
    /// The SVID and the bundle are of different trust domains.
    #[error("the SVID is of trust domain {svid}, the trust bundle of {bundle}")]
    TrustDomainMismatch {
        /// Of the SVID.
        svid: TrustDomain,
        /// Of the bundle.
        bundle: TrustDomain,
    },
    /// The SVID does not lead to a root of the workload's own trust bundle.
    #[error("the SVID is not acceptable under its own trust bundle: {0}")]
    NotTrusted(Refusal),
    /// The TLS library refused a configuration.
    #[error("TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
}

/// An X.509-SVID: the certificate chain of a workload and its private key.
///
/// Cheap to clone. The key is in memory only, and nothing shows it.
#[derive(Clone)]
pub struct Svid {
    id: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
    key: Arc<CertifiedKey>,
}

impl Svid {
    /// Reads a chain (leaf first, then intermediates, without the root) and the leaf's private key.
    ///
    /// An expired SVID is still one: what to do with it is for the caller to say.
    ///
    /// # Errors
    /// Either text is not what it should be, the leaf breaks the rules for an X.509-SVID (a weak key
    /// included), or the key is not the leaf's.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CredentialsError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .take(MAX_CHAIN + 1)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CredentialsError::CertificateNotPem)?;
        let mut keys = PrivateKeyDer::pem_slice_iter(key);
        match (keys.next(), keys.next()) {
            (Some(Ok(key)), None) => Self::from_der(chain, key),
            _ => Err(CredentialsError::NoKey),
        }
    }

    /// Takes a chain (leaf first, then intermediates) and the leaf's private key.
    ///
    /// # Errors
    /// As [`Svid::from_pem`].
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CredentialsError> {
        let leaf = chain.first().ok_or(CredentialsError::NoCertificate)?;
        check_size(&chain)?;
        let leaf = inspect_leaf(leaf).map_err(CredentialsError::NotSvid)?;
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|_| CredentialsError::BadKey)?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|_| CredentialsError::KeyMismatch)?;
        Ok(Self {
            id: leaf.id,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            key: Arc::new(key),
        })
    }

    /// The identity.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The SVID is not valid before this time.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The SVID is not valid after this time.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The certificates, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// The same SVID with one more certificate at the end of its chain: a root, for a peer that has none yet
    /// and knows it by its hash (see [`crate::join`]).
    ///
    /// # Errors
    /// The chain is then longer than a peer accepts.
    pub fn with_root(&self, root: &CertificateDer<'_>) -> Result<Self, CredentialsError> {
        let mut key = CertifiedKey::clone(&self.key);
        key.cert.push(root.clone().into_owned());
        check_size(&key.cert)?;
        Ok(Self {
            key: Arc::new(key),
            ..self.clone()
        })
    }

    pub(crate) fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id.as_str())
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .field("certificates", &self.key.cert.len())
            .finish_non_exhaustive()
    }
}

/// An SVID and the bundle of its trust domain. Immutable: a rotation makes new ones.
#[derive(Clone, Debug)]
pub struct Credentials {
    svid: Svid,
    bundle: Arc<TrustBundle>,
}

impl Credentials {
    /// Joins an SVID with the trust bundle of its trust domain.
    ///
    /// The SVID must be one that this bundle accepts in both roles, so that files that do not belong
    /// together are found here and not at the first handshake. Whether it is valid *now* is not asked:
    /// an expired workload must still be able to say so and to ask for a new SVID.
    ///
    /// # Errors
    /// Different trust domains, or no path from the SVID to a root of the bundle.
    pub fn new(svid: Svid, bundle: TrustBundle) -> Result<Self, CredentialsError> {
        if svid.id.trust_domain() != bundle.trust_domain() {
            return Err(CredentialsError::TrustDomainMismatch {
                svid: svid.id.trust_domain().clone(),
                bundle: bundle.trust_domain().clone(),
            });
        }
        let now = clock::now();
        // Not clamp(), which panics on a certificate whose validity is the wrong way round.
        let during = now.max(svid.not_before).min(svid.not_after);
        for role in [Role::Server, Role::Client] {
            verify_chain(&bundle, svid.chain(), during, role).map_err(CredentialsError::NotTrusted)?;
        }
        Ok(Self {
            svid,
            bundle: Arc::new(bundle),
        })
    }

    /// Reads all three PEM texts: chain, key, and the roots of the SVID's trust domain.
    ///
    /// # Errors
    /// As [`Svid::from_pem`], [`TrustBundle::from_pem`] and [`Credentials::new`].
    pub fn from_pem(chain: &[u8], key: &[u8], bundle: &[u8]) -> Result<Self, CredentialsError> {
        let svid = Svid::from_pem(chain, key)?;
        let bundle = TrustBundle::from_pem(svid.id.trust_domain(), bundle)?;
        Self::new(svid, bundle)
    }

    /// The workload's SVID.
    #[must_use]
    pub fn svid(&self) -> &Svid {
        &self.svid
    }

    /// The roots that peers must chain to.
    #[must_use]
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The same, shared.
    #[must_use]
    pub fn shared_bundle(&self) -> Arc<TrustBundle> {
        self.bundle.clone()
    }

    /// Joins them without any check, for tests of what a peer does then.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn unchecked(svid: Svid, bundle: TrustBundle) -> Self {
        Self {
            svid,
            bundle: Arc::new(bundle),
        }
    }

    /// TLS for one dial to a listener that must prove to be `expected`. `on_refusal` is told if it does not.
    ///
    /// # Errors
    /// The TLS library refused it, which cannot be with the provider of this crate.
    pub fn client_config(
        &self,
        expected: &SpiffeId,
        alpn: &[u8],
        on_refusal: OnRefusal,
    ) -> Result<ClientConfig, CredentialsError> {
        let verifier = SpiffeVerifier::of_listener(self.bundle.clone(), expected.clone(), on_refusal);
        Ok(provider::client_config(verifier, Some(&self.svid), alpn)?)
    }

    /// TLS for listening: any workload of the trust domain may dial, none without a certificate. `on_refusal` is
    /// told of every dialler that is refused, but for one that showed no certificate, which rustls refuses itself.
    ///
    /// # Errors
    /// As [`Credentials::client_config`].
    pub fn server_config(
        &self,
        alpn: &[u8],
        on_refusal: OnRefusal,
    ) -> Result<ServerConfig, CredentialsError> {
        let verifier = SpiffeVerifier::of_dialler(self.bundle.clone(), on_refusal);
        let own = Arc::new(SingleCertAndKey::from(self.svid.key.clone()));
        Ok(provider::server_config(verifier, own, alpn)?)
    }
}

fn check_size(chain: &[CertificateDer<'_>]) -> Result<(), CredentialsError> {
    let bytes: usize = chain.iter().map(|certificate| certificate.len()).sum();
    if chain.len() > MAX_CHAIN || bytes > MAX_CHAIN_BYTES {
        return Err(CredentialsError::ChainTooLarge);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
