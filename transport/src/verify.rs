//! Who is at the other end: the check of a peer's certificate chain in both directions.
//!
//! A chain passes if webpki finds a path from the leaf to a root of the trust bundle, and the leaf and
//! the authorities on that path obey the X.509-SVID rules that webpki does not know (`svid.rs`). DNS
//! names and the TLS server name mean nothing in the mesh: the dialler pins the SPIFFE ID that it
//! expects, the listener takes any SVID of its trust domain and leaves the decision to authorization.
//!
//! webpki goes first, so that the second parser only ever sees bytes that an authority of ours signed.

mod bundle;
mod refusal;
mod svid;

use std::{
    cell::Cell,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, VerifiedPath, aws_lc_rs as algorithm};
use weft_proto::identity::SpiffeId;

pub(crate) use self::svid::inspect_leaf;
pub use self::{
    bundle::{TrustBundle, TrustBundleError},
    refusal::{Refusal, refusal},
    svid::{PeerIdentity, peer_identity},
};

/// A leaf, four intermediates and one to spare. A private mesh has none or one intermediate.
pub(crate) const MAX_CHAIN: usize = 6;

/// Six certificates with RSA-4096 keys need about 12 KiB. It is also quinn's limit on buffered
/// handshake data, so that a chain that passes here is one that peers can receive.
pub(crate) const MAX_CHAIN_BYTES: usize = 16 * 1024;

/// Told every refusal as it happens. Needed because quinn-proto keeps only the alert of a failed
/// handshake, which is the same for all of them.
pub type OnRefusal = Arc<dyn Fn(Refusal) + Send + Sync>;

/// What a chain is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The peer listens: its extended key usage, if any, must have serverAuth.
    Server,
    /// The peer dials: its extended key usage, if any, must have clientAuth.
    Client,
}

/// Signatures that are accepted: on certificates (`all`), and on the handshake (`mapping`, in order of
/// preference; TLS 1.3 binds each scheme to one curve, RFC 8446 section 4.2.3). No SHA-1, no P-521,
/// no RSA below 2048 bits, and PKCS#1 v1.5 on certificates only.
pub(crate) static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        algorithm::ECDSA_P256_SHA256,
        algorithm::ECDSA_P256_SHA384,
        algorithm::ECDSA_P384_SHA256,
        algorithm::ECDSA_P384_SHA384,
        algorithm::ED25519,
        algorithm::RSA_PKCS1_2048_8192_SHA256,
        algorithm::RSA_PKCS1_2048_8192_SHA384,
        algorithm::RSA_PKCS1_2048_8192_SHA512,
        algorithm::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        algorithm::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
        algorithm::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    ],
    mapping: &[
        (
            SignatureScheme::ECDSA_NISTP256_SHA256,
            &[algorithm::ECDSA_P256_SHA256],
        ),
        (SignatureScheme::ED25519, &[algorithm::ED25519]),
        (
            SignatureScheme::ECDSA_NISTP384_SHA384,
            &[algorithm::ECDSA_P384_SHA384],
        ),
        (
            SignatureScheme::RSA_PSS_SHA256,
            &[algorithm::RSA_PSS_2048_8192_SHA256_LEGACY_KEY],
        ),
        (
            SignatureScheme::RSA_PSS_SHA384,
            &[algorithm::RSA_PSS_2048_8192_SHA384_LEGACY_KEY],
        ),
        (
            SignatureScheme::RSA_PSS_SHA512,
            &[algorithm::RSA_PSS_2048_8192_SHA512_LEGACY_KEY],
        ),
    ],
};

/// Checks the chain of a listener or a dialler, both with the same rules, and tells every refusal.
///
/// The two directions are two constructors, because a verifier that could be used for the wrong one
/// would accept any workload where one is pinned.
pub(crate) struct SpiffeVerifier {
    bundle: Arc<TrustBundle>,
    /// The one identity that is accepted, or any of the trust domain.
    pinned: Option<SpiffeId>,
    on_refusal: OnRefusal,
}

impl SpiffeVerifier {
    /// For the dialler: the listener must be exactly `expected`.
    pub(crate) fn of_listener(
        bundle: Arc<TrustBundle>,
        expected: SpiffeId,
        on_refusal: OnRefusal,
    ) -> Arc<dyn ServerCertVerifier> {
        Arc::new(Self {
            bundle,
            pinned: Some(expected),
            on_refusal,
        })
    }

    /// For the listener: a certificate is mandatory, and any workload of the trust domain may come.
    pub(crate) fn of_dialler(bundle: Arc<TrustBundle>, on_refusal: OnRefusal) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Self {
            bundle,
            pinned: None,
            on_refusal,
        })
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
    ) -> Result<(), Error> {
        let outcome = verify_chain(&self.bundle, leaf, intermediates, now, role).and_then(|peer| {
            match &self.pinned {
                Some(expected) if *expected != peer.id => Err(Refusal::WrongIdentity),
                // A listener without a pin would be any listener of the mesh.
                None if role == Role::Server => Err(Refusal::WrongIdentity),
                Some(_) | None => Ok(()),
            }
        });
        outcome.map_err(|refusal| self.refuse(refusal))
    }

    fn check_handshake_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &SIGNATURES).map_err(|error| match error {
            Error::InvalidCertificate(_) => self.refuse(Refusal::BadSignature),
            Error::PeerMisbehaved(_) => self.refuse(Refusal::UnsupportedSignature),
            other => other,
        })
    }

    fn refuse(&self, refusal: Refusal) -> Error {
        (self.on_refusal)(refusal);
        refusal.into()
    }
}

impl fmt::Debug for SpiffeVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpiffeVerifier")
            .field("bundle", &self.bundle)
            .field("pinned", &self.pinned)
            .finish()
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now, Role::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_handshake_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    /// No hints: a dialler has one SVID, and a stranger need not learn our roots.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates, now, Role::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_handshake_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

/// Checks a chain for a role at a time and reads the identity of its leaf.
pub(crate) fn verify_chain(
    bundle: &TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    role: Role,
) -> Result<PeerIdentity, Refusal> {
    check_size(leaf, intermediates)?;
    check_path(bundle, leaf, intermediates, now, role)?;
    let peer = inspect_leaf(leaf)?;
    if peer.id.trust_domain() != bundle.trust_domain() {
        return Err(Refusal::WrongTrustDomain);
    }
    Ok(peer)
}

/// Before anything is parsed: a stranger's chain may cost us only so much.
fn check_size(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Refusal> {
    if intermediates.len() >= MAX_CHAIN {
        return Err(Refusal::ChainTooLong);
    }
    let bytes = leaf.len()
        + intermediates
            .iter()
            .map(|certificate| certificate.len())
            .sum::<usize>();
    if bytes > MAX_CHAIN_BYTES {
        return Err(Refusal::ChainTooLarge);
    }
    Ok(())
}

/// RFC 5280 path validation by webpki, with our rules for the authorities on the path.
fn check_path(
    bundle: &TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    role: Role,
) -> Result<(), Refusal> {
    let leaf = EndEntityCert::try_from(leaf).map_err(path_refusal)?;
    let usage = match role {
        Role::Server => webpki::KeyUsage::server_auth(),
        Role::Client => webpki::KeyUsage::client_auth(),
    };
    // Our own verdict on a path that webpki would take; it then looks for another one, as there is
    // while a root is being replaced, and in the end says less than we know.
    let verdict = Cell::new(None);
    let check_authorities = |path: &VerifiedPath<'_>| {
        authorities_refusal(bundle, path, now).map_err(|refusal| {
            verdict.set(Some(refusal));
            webpki::Error::UnknownIssuer
        })
    };
    leaf.verify_for_usage(
        SIGNATURES.all,
        bundle.anchors(),
        intermediates,
        now,
        usage,
        None,
        Some(&check_authorities),
    )
    .map(|_| ())
    .map_err(|error| verdict.get().unwrap_or_else(|| path_refusal(error)))
}

/// What webpki does not ask of roots and intermediates.
fn authorities_refusal(bundle: &TrustBundle, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), Refusal> {
    bundle.check_validity(
        path.anchor(),
        SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs()),
    )?;
    for intermediate in path.intermediate_certificates() {
        svid::inspect_authority(&intermediate.der(), bundle.trust_domain())?;
    }
    Ok(())
}

fn path_refusal(error: webpki::Error) -> Refusal {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } => Refusal::Expired,
        E::CertNotValidYet { .. } => Refusal::NotYetValid,
        E::UnknownIssuer => Refusal::UnknownAuthority,
        E::CaUsedAsEndEntity => Refusal::LeafIsCa,
        E::EndEntityUsedAsCa => Refusal::IssuerNotCa,
        E::PathLenConstraintViolated => Refusal::PathLength,
        E::NameConstraintViolation => Refusal::NameConstraint,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Refusal::ExtendedKeyUsage,
        E::InvalidSignatureForPublicKey => Refusal::BadSignature,
        E::SignatureAlgorithmMismatch
        | E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Refusal::UnsupportedSignature,
        E::MaximumPathDepthExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumSignatureChecksExceeded
        | E::MaximumNameConstraintComparisonsExceeded => Refusal::ChainTooLong,
        // The rest says that a certificate is not what X.509 asks.
        _ => Refusal::Malformed,
    }
}

#[cfg(test)]
mod matrix;
#[cfg(test)]
pub(crate) mod test_pair;
