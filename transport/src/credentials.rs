//! What a workload proves itself with and whom it believes: its X.509-SVID, the trust bundle, and the
//! TLS configurations made of the two.
//!
//! TLS 1.3 only, from one provider: AES-128-GCM first (the cheapest per packet), X25519MLKEM768 and
//! then X25519 and no other key exchange. Resumption and 0-RTT are off on both sides: a resumed
//! handshake skips the check of the client's certificate, and 0-RTT data arrives before it.

#[cfg(any(test, feature = "sim"))]
pub mod testing;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{
            cipher_suite::{
                TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
            },
            default_provider,
            kx_group::{X25519, X25519MLKEM768},
        },
    },
    quic::Suite,
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use weft_proto::identity::{SpiffeId, TrustDomain};

use crate::verify::{
    MAX_CHAIN, MAX_CHAIN_BYTES, OnRefusal, Refusal, Role, SIGNATURES, SpiffeVerifier, inspect_leaf,
    verify_chain,
};
pub use crate::verify::{TrustBundle, TrustBundleError};

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

    fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CredentialsError> {
        let leaf = chain.first().ok_or(CredentialsError::NoCertificate)?;
        let bytes: usize = chain.iter().map(|certificate| certificate.len()).sum();
        if chain.len() > MAX_CHAIN || bytes > MAX_CHAIN_BYTES {
            return Err(CredentialsError::ChainTooLarge);
        }
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
        let now = SystemTime::now();
        // Not clamp(), which panics on a certificate whose validity is the wrong way round.
        let during = unix_time(now.max(svid.not_before).min(svid.not_after));
        let (leaf, intermediates) = svid
            .chain()
            .split_first()
            .ok_or(CredentialsError::NoCertificate)?;
        for role in [Role::Server, Role::Client] {
            verify_chain(&bundle, leaf, intermediates, during, role).map_err(CredentialsError::NotTrusted)?;
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

    /// TLS for one dial to a listener that must prove to be `expected`.
    pub(crate) fn client_config(
        &self,
        expected: &SpiffeId,
        alpn: &[u8],
        on_refusal: OnRefusal,
    ) -> Result<ClientConfig, CredentialsError> {
        let verifier = SpiffeVerifier::of_listener(self.bundle.clone(), expected.clone(), on_refusal);
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.svid.key.clone())));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        config.max_fragment_size = None;
        config.cert_compressors = Vec::new();
        config.cert_decompressors = Vec::new();
        Ok(config)
    }

    /// TLS for listening: any workload of the trust domain may dial, none without a certificate.
    pub(crate) fn server_config(
        &self,
        alpn: &[u8],
        on_refusal: OnRefusal,
    ) -> Result<ServerConfig, CredentialsError> {
        let verifier = SpiffeVerifier::of_dialler(self.bundle.clone(), on_refusal);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.svid.key.clone())));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        // Data of ours before the client has proved who it is would go to anyone.
        config.send_half_rtt_data = false;
        config.max_fragment_size = None;
        config.cert_compressors = Vec::new();
        config.cert_decompressors = Vec::new();
        Ok(config)
    }

    /// What quinn-proto needs for one dial to a listener that must prove to be `expected`.
    pub(crate) fn quic_client(&self, expected: &SpiffeId) -> Result<QuicDial, CredentialsError> {
        let refusal = Arc::new(OnceLock::new());
        let on_refusal: OnRefusal = {
            let refusal = refusal.clone();
            // The first refusal ends the handshake; there is no second to keep.
            Arc::new(move |reason| {
                let _ = refusal.set(reason);
            })
        };
        let config = Arc::new(self.client_config(expected, ALPN_H3, on_refusal)?);
        let config = QuicClientConfig::with_initial(config, initial_suite()?).map_err(no_initial_suite)?;
        Ok(QuicDial {
            config: Arc::new(config),
            refusal,
        })
    }

    /// What quinn-proto needs to listen. Every refused dialler is told to `on_refusal`, but for one
    /// that showed no certificate, which rustls refuses itself (alert 116).
    pub(crate) fn quic_server(
        &self,
        on_refusal: OnRefusal,
    ) -> Result<Arc<QuicServerConfig>, CredentialsError> {
        let config = Arc::new(self.server_config(ALPN_H3, on_refusal)?);
        let config = QuicServerConfig::with_initial(config, initial_suite()?).map_err(no_initial_suite)?;
        Ok(Arc::new(config))
    }
}

/// The TLS half of one dial.
pub(crate) struct QuicDial {
    /// For quinn-proto, with [`SERVER_NAME`].
    pub(crate) config: Arc<QuicClientConfig>,
    /// Set if the listener's certificate was refused.
    pub(crate) refusal: Arc<OnceLock<Refusal>>,
}

/// The one cryptographic provider of the process.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            Arc::new(CryptoProvider {
                cipher_suites: vec![
                    TLS13_AES_128_GCM_SHA256,
                    TLS13_AES_256_GCM_SHA384,
                    TLS13_CHACHA20_POLY1305_SHA256,
                ],
                kx_groups: vec![X25519MLKEM768, X25519],
                signature_verification_algorithms: SIGNATURES,
                ..default_provider()
            })
        })
        .clone()
}

/// QUIC protects Initial packets with AES-128-GCM whatever is negotiated (RFC 9001 section 5.2).
fn initial_suite() -> Result<Suite, CredentialsError> {
    TLS13_AES_128_GCM_SHA256
        .tls13()
        .and_then(|suite| suite.quic_suite())
        .ok_or_else(|| {
            CredentialsError::Tls(rustls::Error::General(
                "the provider has no AES-128-GCM for QUIC".into(),
            ))
        })
}

fn no_initial_suite(error: quinn_proto::crypto::rustls::NoInitialCipherSuite) -> CredentialsError {
    CredentialsError::Tls(rustls::Error::General(error.to_string()))
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests;
