//! TLS of a workload's first call to the controller, when all it has is a join token with the hash of a root.
//!
//! The joiner asks, by the TLS server name, for a chain to that root; the controller shows [leaf, intermediates,
//! root]; and the root whose hash is the token's is then the joiner's only anchor. What the joiner is told over
//! this connection, the trust bundle included, so comes from whoever made the token.

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use weft_proto::identity::SpiffeId;

use crate::{
    credentials::CredentialsError,
    grpc::ALPN_H2,
    provider,
    verify::{
        PeerIdentity, Refusal, Role, SIGNATURES, Shown, TrustBundle, TrustBundleError,
        check_handshake_signature, inspect_leaf, tls_1_2,
    },
};

/// What a server name that asks for a root begins and ends with. `.invalid` cannot be anybody's name (RFC 2606
/// section 2).
const PREFIX: &str = "r-";
const SUFFIX: &str = ".weft.invalid";

/// How much of a root's hash its server name has: two roots of one trust domain do not meet in 128 bits, and the
/// whole hash would not fit a label of 63 characters (RFC 1035 section 2.3.4).
const NAMED_BYTES: usize = 16;

/// The SHA-256 of a root certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootHash([u8; 32]);

impl RootHash {
    /// Of 32 bytes, as a join token has them.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Of a certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The TLS server name by which a joiner asks for a chain to this root: `r-`, 32 hexadecimal digits,
    /// `.weft.invalid`.
    ///
    /// # Errors
    /// Never: the error is that of the library's parser.
    pub fn server_name(&self) -> Result<ServerName<'static>, CredentialsError> {
        let name = DnsName::try_from(self.name())
            .map_err(|_| Error::General("a server name of our own making is not one".into()))?;
        Ok(ServerName::DnsName(name))
    }

    /// Whether a server name asks for this root.
    #[must_use]
    pub fn is_asked_for_by(&self, server_name: &str) -> bool {
        server_name.eq_ignore_ascii_case(&self.name())
    }

    /// This root, if it is in a chain that a listener showed (`rustls::ClientConnection::peer_certificates`).
    #[must_use]
    pub fn find<'a, 'b>(&self, chain: &'a [CertificateDer<'b>]) -> Option<&'a CertificateDer<'b>> {
        chain.iter().find(|certificate| Self::of(certificate) == *self)
    }

    fn name(&self) -> String {
        let digits: String = self
            .0
            .iter()
            .take(NAMED_BYTES)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{PREFIX}{digits}{SUFFIX}")
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// TLS for a joiner: no certificate of its own, and the controller must prove to be `expected` by a chain to the
/// root of this hash, which it shows. To be used with [`RootHash::server_name`]; after the handshake
/// [`RootHash::find`] has the root.
///
/// # Errors
/// The TLS library refused it, which cannot be with the provider of this crate.
pub fn client_config(root: RootHash, expected: &SpiffeId) -> Result<ClientConfig, CredentialsError> {
    joiner(root, Expected::Id(expected.clone()))
}

/// The same for a joiner that does not know its trust domain: the controller must prove to be the identity with
/// this path in the trust domain of its own certificate. A root signs for one trust domain alone, so the hash of
/// the root says which.
///
/// # Errors
/// As [`client_config`].
pub fn client_config_of_path(root: RootHash, path: &str) -> Result<ClientConfig, CredentialsError> {
    joiner(root, Expected::Path(path.into()))
}

fn joiner(root: RootHash, expected: Expected) -> Result<ClientConfig, CredentialsError> {
    let verifier = Arc::new(JoinVerifier { root, expected });
    let mut config = provider::client_config(verifier, None, ALPN_H2)?;
    config.enable_sni = true;
    Ok(config)
}

#[derive(Debug)]
struct JoinVerifier {
    root: RootHash,
    expected: Expected,
}

/// Who the controller must be.
#[derive(Debug)]
enum Expected {
    Id(SpiffeId),
    /// Whatever its trust domain.
    Path(Box<str>),
}

impl JoinVerifier {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<PeerIdentity, Refusal> {
        let shown = Shown {
            leaf,
            intermediates: shown,
        };
        shown.check_size()?;
        let root = self
            .root
            .find(shown.intermediates)
            .ok_or(Refusal::UnknownAuthority)?;
        let trust_domain = match &self.expected {
            Expected::Id(id) => id.trust_domain().clone(),
            Expected::Path(_) => inspect_leaf(leaf)?.id.trust_domain().clone(),
        };
        let bundle =
            TrustBundle::from_der(&trust_domain, [root.clone().into_owned()]).map_err(
                |error| match error {
                    TrustBundleError::NotRoot { refusal, .. } => refusal,
                    TrustBundleError::NotPem | TrustBundleError::Empty | TrustBundleError::TooMany => {
                        Refusal::Malformed
                    }
                },
            )?;
        let peer = shown.verify(&bundle, now, Role::Server, Duration::ZERO)?;
        let is_expected = match &self.expected {
            Expected::Id(id) => peer.id == *id,
            Expected::Path(path) => peer.id.path() == &**path,
        };
        if is_expected {
            Ok(peer)
        } else {
            Err(Refusal::WrongIdentity)
        }
    }
}

impl ServerCertVerifier for JoinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now)?;
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
        check_handshake_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}
