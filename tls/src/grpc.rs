//! TLS of the controller's port: gRPC, that is HTTP/2, on TCP.
//!
//! A caller here may have no certificate yet (it wants its first) or one that ended a while ago (it wants a new
//! one). Both get through the handshake, and [`Peer`] says which it is: what such a caller may ask for is for
//! the controller to decide, call by call. A certificate that is wrong in any other way ends the handshake.
//!
//! A [`ServerConfig`] is immutable. When the bundle changes, make a new [`Admission`] and from it a new
//! configuration for the connections that come (that costs no cryptography), and ask the new
//! [`Admission::peer`] about the chains of those that are there. The controller's own SVID is asked for at each
//! handshake, so its rotation needs neither.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::{
        ClientHello, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use weft_proto::identity::SpiffeId;

use crate::{
    clock::unix_time,
    credentials::{Credentials, CredentialsError, Svid},
    provider,
    verify::{
        PeerIdentity, Refusal, Role, SIGNATURES, Shown, SpiffeVerifier, TrustBundle,
        check_handshake_signature, tls_1_2,
    },
};

/// The application protocol of gRPC (RFC 9113 section 3.2).
pub const ALPN_H2: &[u8] = b"h2";

/// Who is at the other end of a connection to the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It showed no certificate.
    None,
    /// Its SVID is valid.
    Valid(PeerIdentity),
    /// Its SVID is one, but ended, at most the grace ago.
    Expired(PeerIdentity),
}

/// Which SVID the controller shows to a caller that asked for this server name (SNI), or for none. `None` ends
/// the handshake. Called once a handshake; it must not block.
pub type ChooseSvid = Arc<dyn Fn(Option<&str>) -> Option<Svid> + Send + Sync>;

/// Who may call the controller: anyone without a certificate, and every SVID that this bundle accepts.
#[derive(Clone, Debug)]
pub struct Admission {
    bundle: Arc<TrustBundle>,
    grace: Duration,
}

impl Admission {
    /// A leaf that ended up to `grace` ago (whole seconds) passes as [`Peer::Expired`].
    #[must_use]
    pub fn new(bundle: Arc<TrustBundle>, grace: Duration) -> Self {
        Self { bundle, grace }
    }

    /// Judges the chain that a caller showed (`rustls::ServerConnection::peer_certificates`), as it stands at
    /// `now`. The handshake asks the same question, so right after it the answer is no refusal; on a connection
    /// that lives on, an SVID may end and a root be retired.
    ///
    /// # Errors
    /// Why a caller that shows this chain must not be heard.
    pub fn peer(&self, chain: Option<&[CertificateDer<'_>]>, now: SystemTime) -> Result<Peer, Refusal> {
        let Some((leaf, intermediates)) = chain.and_then(<[_]>::split_first) else {
            return Ok(Peer::None);
        };
        let peer = self.check(leaf, intermediates, unix_time(now))?;
        if unix_time(now) > unix_time(peer.not_after) {
            Ok(Peer::Expired(peer))
        } else {
            Ok(Peer::Valid(peer))
        }
    }

    /// TLS for the controller's port.
    ///
    /// # Errors
    /// The TLS library refused it, which cannot be with the provider of this crate.
    pub fn server_config(&self, own: ChooseSvid) -> Result<ServerConfig, CredentialsError> {
        let verifier = Arc::new(CallerVerifier(self.clone()));
        Ok(provider::server_config(verifier, Arc::new(Own(own)), ALPN_H2)?)
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<PeerIdentity, Refusal> {
        Shown { leaf, intermediates }.verify(&self.bundle, now, Role::Client, self.grace)
    }
}

/// TLS for a call to the controller by someone who has credentials: it must prove to be `expected`.
///
/// An SVID of ours that has ended is shown all the same: the controller may still renew it.
///
/// # Errors
/// The TLS library refused it, which cannot be with the provider of this crate.
pub fn client_config(
    credentials: &Credentials,
    expected: &SpiffeId,
) -> Result<ClientConfig, CredentialsError> {
    credentials.client_config(expected, ALPN_H2, Arc::new(|_| {}))
}

/// TLS for a call to the controller by someone who has its roots but no SVID yet, such as a workload that joins
/// with a token of Kubernetes.
///
/// # Errors
/// As [`client_config`].
pub fn anonymous_client_config(
    bundle: Arc<TrustBundle>,
    expected: &SpiffeId,
) -> Result<ClientConfig, CredentialsError> {
    let verifier = SpiffeVerifier::of_listener(bundle, expected.clone(), Arc::new(|_| {}));
    Ok(provider::client_config(verifier, None, ALPN_H2)?)
}

struct Own(ChooseSvid);

impl ResolvesServerCert for Own {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let svid = (self.0)(hello.server_name())?;
        Some(svid.certified_key().clone())
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct CallerVerifier(Admission);

impl ClientCertVerifier for CallerVerifier {
    /// No hints: a caller has one SVID, and a stranger need not learn our roots.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.check(end_entity, intermediates, now)?;
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
        check_handshake_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}
