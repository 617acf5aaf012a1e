//! Who is at the other end: the check of a peer's certificate chain in both directions.
//!
//! A chain passes if webpki finds a path from the leaf to a root of the trust bundle, and the leaf and
//! the authorities on that path obey the X.509-SVID rules that webpki does not know (`svid.rs`). DNS
//! names and the TLS server name mean nothing in the mesh: the dialler pins the SPIFFE ID that it
//! expects, the listener takes any SVID of its trust domain and leaves the decision to authorization.
//!
//! webpki goes first, so that the second parser only ever sees bytes that an authority of ours signed.

mod bundle;
mod path;
mod refusal;
mod svid;

use std::{fmt, sync::Arc, time::Duration};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::aws_lc_rs as algorithm;
use weft_proto::identity::SpiffeId;

pub use self::{
    bundle::{TrustBundle, TrustBundleError},
    path::{Role, verify_chain},
    refusal::{Refusal, io_refusal, refusal},
    svid::{PeerIdentity, peer_identity},
};
pub(crate) use self::{path::Shown, svid::inspect_leaf};

/// A leaf, four intermediates and one to spare. A private mesh has none or one intermediate.
pub(crate) const MAX_CHAIN: usize = 6;

/// Six certificates with RSA-4096 keys need about 12 KiB. It is also quinn's limit on buffered
/// handshake data, so that a chain that passes here is one that peers can receive.
pub(crate) const MAX_CHAIN_BYTES: usize = 16 * 1024;

/// Told every refusal as it happens. Needed because quinn-proto keeps only the alert of a failed
/// handshake, which is the same for all of them.
pub type OnRefusal = Arc<dyn Fn(Refusal) + Send + Sync>;

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
        let shown = Shown { leaf, intermediates };
        let outcome = shown
            .verify(&self.bundle, now, role, Duration::ZERO)
            .and_then(|peer| match &self.pinned {
                Some(expected) if *expected != peer.id => Err(Refusal::WrongIdentity),
                // A listener without a pin would be any listener of the mesh.
                None if role == Role::Server => Err(Refusal::WrongIdentity),
                Some(_) | None => Ok(()),
            });
        outcome.map_err(|refusal| self.refuse(refusal))
    }

    fn check_handshake_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_handshake_signature(message, leaf, signature).inspect_err(|error| {
            if let Some(refusal) = refusal(error) {
                (self.on_refusal)(refusal);
            }
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
        Err(tls_1_2())
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
        Err(tls_1_2())
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

/// Checks a signature on the handshake, which is the proof that the peer has the key of its leaf.
pub(crate) fn check_handshake_signature(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(message, leaf, signature, &SIGNATURES).map_err(|error| match error {
        Error::InvalidCertificate(_) => Refusal::BadSignature.into(),
        Error::PeerMisbehaved(_) => Refusal::UnsupportedSignature.into(),
        other => other,
    })
}

/// The answer to what cannot happen: none of our configurations has TLS 1.2.
pub(crate) fn tls_1_2() -> Error {
    PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into()
}

#[cfg(test)]
mod matrix;
