//! The path from a leaf to a root: RFC 5280 by webpki, and our rules for every certificate on it.

use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, VerifiedPath};

use super::{
    MAX_CHAIN, MAX_CHAIN_BYTES, SIGNATURES,
    bundle::TrustBundle,
    refusal::Refusal,
    svid::{PeerIdentity, inspect_authority, inspect_leaf},
};
use crate::clock::{system_time, unix_time};

/// What a chain is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer listens: its extended key usage, if any, must have serverAuth.
    Server,
    /// The peer dials: its extended key usage, if any, must have clientAuth.
    Client,
}

/// Checks a chain (leaf first) for a role as it stands at `now`, and reads the identity of its leaf.
///
/// # Errors
/// The reason why a peer that shows this chain is refused.
pub fn verify_chain(
    bundle: &TrustBundle,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
    role: Role,
) -> Result<PeerIdentity, Refusal> {
    let (leaf, intermediates) = chain.split_first().ok_or(Refusal::NoCertificate)?;
    Shown { leaf, intermediates }.verify(bundle, unix_time(now), role, Duration::ZERO)
}

/// A chain as a peer shows it.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub(crate) leaf: &'a CertificateDer<'a>,
    pub(crate) intermediates: &'a [CertificateDer<'a>],
}

/// When the leaf must be valid, and when everything else.
#[derive(Clone, Copy)]
struct Times {
    leaf: UnixTime,
    authorities: UnixTime,
}

/// Why there is no path, and when a certificate ended if that is why.
struct NoPath {
    refusal: Refusal,
    ended: Option<UnixTime>,
}

impl Shown<'_> {
    /// Checks the chain as it stands at `now`, but for a leaf, and nothing else, that ended up to `grace` ago.
    pub(crate) fn verify(
        self,
        bundle: &TrustBundle,
        now: UnixTime,
        role: Role,
        grace: Duration,
    ) -> Result<PeerIdentity, Refusal> {
        self.check_size()?;
        let times = |leaf| Times {
            leaf,
            authorities: now,
        };
        match self.check_path(bundle, times(now), role) {
            Ok(()) => {}
            // If it was not the leaf that ended then, this fails as well: authorities must be valid now.
            Err(NoPath {
                ended: Some(ended), ..
            }) if !grace.is_zero() && now.as_secs() <= ended.as_secs().saturating_add(grace.as_secs()) => {
                self.check_path(bundle, times(ended), role)
                    .map_err(|none| none.refusal)?;
            }
            Err(none) => return Err(none.refusal),
        }
        let peer = inspect_leaf(self.leaf)?;
        if peer.id.trust_domain() != bundle.trust_domain() {
            return Err(Refusal::WrongTrustDomain);
        }
        Ok(peer)
    }

    /// Before anything is parsed: a stranger's chain may cost us only so much.
    pub(crate) fn check_size(self) -> Result<(), Refusal> {
        if self.intermediates.len() >= MAX_CHAIN {
            return Err(Refusal::ChainTooLong);
        }
        let issuers: usize = self.intermediates.iter().map(|issuer| issuer.len()).sum();
        if self.leaf.len() + issuers > MAX_CHAIN_BYTES {
            return Err(Refusal::ChainTooLarge);
        }
        Ok(())
    }

    /// RFC 5280 path validation by webpki, with our rules for the authorities on the path.
    fn check_path(self, bundle: &TrustBundle, times: Times, role: Role) -> Result<(), NoPath> {
        let leaf = EndEntityCert::try_from(self.leaf).map_err(|error| NoPath::from(&error))?;
        let usage = match role {
            Role::Server => webpki::KeyUsage::server_auth(),
            Role::Client => webpki::KeyUsage::client_auth(),
        };
        // Our own verdict on a path that webpki would take; it then looks for another one, as there is
        // while a root is being replaced, and in the end says less than we know.
        let verdict = Cell::new(None);
        let check_authorities = |path: &VerifiedPath<'_>| {
            authorities_refusal(bundle, path, system_time(times.authorities)).map_err(|refusal| {
                verdict.set(Some(refusal));
                webpki::Error::UnknownIssuer
            })
        };
        leaf.verify_for_usage(
            SIGNATURES.all,
            bundle.anchors(),
            self.intermediates,
            times.leaf,
            usage,
            None,
            Some(&check_authorities),
        )
        .map(|_| ())
        .map_err(|error| match verdict.get() {
            Some(refusal) => NoPath { refusal, ended: None },
            None => NoPath::from(&error),
        })
    }
}

/// What webpki does not ask of roots and intermediates.
fn authorities_refusal(
    bundle: &TrustBundle,
    path: &VerifiedPath<'_>,
    now: SystemTime,
) -> Result<(), Refusal> {
    bundle.check_validity(path.anchor(), now)?;
    for intermediate in path.intermediate_certificates() {
        inspect_authority(&intermediate.der(), bundle.trust_domain())?.check(now)?;
    }
    Ok(())
}

impl From<&webpki::Error> for NoPath {
    fn from(error: &webpki::Error) -> Self {
        let ended = match error {
            webpki::Error::CertExpired { not_after, .. } => Some(*not_after),
            _ => None,
        };
        Self {
            refusal: path_refusal(error),
            ended,
        }
    }
}

fn path_refusal(error: &webpki::Error) -> Refusal {
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
