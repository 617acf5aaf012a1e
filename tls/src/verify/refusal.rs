//! Why a peer's certificate was refused: one bounded reason each, for metric labels and logs.
//!
//! The peer learns nothing of it. rustls turns every [`Refusal`] into the same alert
//! (`certificate_unknown`), and the error's text, which quinn-proto copies into the reason phrase of
//! CONNECTION_CLOSE, is one fixed sentence.

use std::{fmt, io, sync::Arc};

use rustls::{CertificateError, OtherError};

/// Why a certificate chain was refused.
///
/// The set is closed and small, so [`as_str`](Refusal::as_str) is safe as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The peer sent no certificate.
    NoCertificate,
    /// The chain has more certificates than any mesh needs, or more authorities than path building allows.
    ChainTooLong,
    /// The chain has more bytes than any mesh needs.
    ChainTooLarge,
    /// A certificate is not well-formed X.509, or has a critical extension that nobody here understands.
    Malformed,
    /// The leaf or an intermediate is past its notAfter.
    Expired,
    /// The leaf, an intermediate or the root is before its notBefore.
    NotYetValid,
    /// The only root that the chain leads to is itself past its notAfter.
    RootExpired,
    /// No root of the trust bundle signed the chain.
    UnknownAuthority,
    /// A signature, on a certificate or on the handshake, is wrong.
    BadSignature,
    /// A signature, on a certificate or on the handshake, is of an algorithm that is not accepted.
    UnsupportedSignature,
    /// A certificate that signed another is not a certificate authority.
    IssuerNotCa,
    /// An authority issued a deeper chain than its path length allows.
    PathLength,
    /// An authority issued a name that its name constraints forbid. Constraints on URIs are not
    /// understood and forbid every SVID.
    NameConstraint,
    /// A certificate authority in the chain carries a SPIFFE ID that no authority of this trust domain has.
    ForeignAuthority,
    /// The key is not ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits.
    WeakKey,
    /// The leaf says CA:true.
    LeafIsCa,
    /// The leaf's key usage allows it to sign certificates or revocation lists.
    LeafMaySign,
    /// The leaf's key usage lacks digitalSignature.
    KeyUsage,
    /// The leaf's extended key usage lacks serverAuth or clientAuth.
    ExtendedKeyUsage,
    /// The leaf has no URI SAN, so no SPIFFE ID.
    NoUriName,
    /// The leaf has more than one URI SAN.
    SeveralUriNames,
    /// The leaf's URI SAN is not a SPIFFE ID of a workload: wrong scheme, characters, or no path.
    NotSpiffeId,
    /// The leaf is of another trust domain.
    WrongTrustDomain,
    /// The leaf is a sound SVID, but not of the workload that was dialled.
    WrongIdentity,
}

impl Refusal {
    /// Every reason, to register metrics and to test that labels are distinct.
    pub const ALL: [Self; 24] = [
        Self::NoCertificate,
        Self::ChainTooLong,
        Self::ChainTooLarge,
        Self::Malformed,
        Self::Expired,
        Self::NotYetValid,
        Self::RootExpired,
        Self::UnknownAuthority,
        Self::BadSignature,
        Self::UnsupportedSignature,
        Self::IssuerNotCa,
        Self::PathLength,
        Self::NameConstraint,
        Self::ForeignAuthority,
        Self::WeakKey,
        Self::LeafIsCa,
        Self::LeafMaySign,
        Self::KeyUsage,
        Self::ExtendedKeyUsage,
        Self::NoUriName,
        Self::SeveralUriNames,
        Self::NotSpiffeId,
        Self::WrongTrustDomain,
        Self::WrongIdentity,
    ];

    /// The label for metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::ChainTooLong => "chain_too_long",
            Self::ChainTooLarge => "chain_too_large",
            Self::Malformed => "malformed",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::RootExpired => "root_expired",
            Self::UnknownAuthority => "unknown_authority",
            Self::BadSignature => "bad_signature",
            Self::UnsupportedSignature => "unsupported_signature",
            Self::IssuerNotCa => "issuer_not_ca",
            Self::PathLength => "path_length",
            Self::NameConstraint => "name_constraint",
            Self::ForeignAuthority => "foreign_authority",
            Self::WeakKey => "weak_key",
            Self::LeafIsCa => "leaf_is_ca",
            Self::LeafMaySign => "leaf_may_sign",
            Self::KeyUsage => "key_usage",
            Self::ExtendedKeyUsage => "extended_key_usage",
            Self::NoUriName => "no_uri_name",
            Self::SeveralUriNames => "several_uri_names",
            Self::NotSpiffeId => "not_spiffe_id",
            Self::WrongTrustDomain => "wrong_trust_domain",
            Self::WrongIdentity => "wrong_identity",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(RefusalError(
            refusal,
        )))))
    }
}

/// The reason inside a rustls error that came from one of our verifiers.
///
/// `None` for every other failure of a handshake (no common protocol, a broken message, ...).
#[must_use]
pub fn refusal(error: &rustls::Error) -> Option<Refusal> {
    match error {
        rustls::Error::NoCertificatesPresented => Some(Refusal::NoCertificate),
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref::<RefusalError>().map(|error| error.0)
        }
        _ => None,
    }
}

/// The same for the error of a handshake over a byte stream, into which `tokio-rustls` puts that of rustls.
#[must_use]
pub fn io_refusal(error: &io::Error) -> Option<Refusal> {
    error.get_ref()?.downcast_ref::<rustls::Error>().and_then(refusal)
}

/// Carries a [`Refusal`] through rustls. Neither its Display nor its Debug tells the reason, because
/// both can end up in a reason phrase that the peer reads.
struct RefusalError(Refusal);

impl fmt::Display for RefusalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl fmt::Debug for RefusalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for RefusalError {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn labels_are_distinct_and_plain() {
        let labels: HashSet<_> = Refusal::ALL.iter().map(|refusal| refusal.as_str()).collect();
        assert_eq!(labels.len(), Refusal::ALL.len());
        for label in labels {
            assert!(
                label
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{label}"
            );
        }
    }

    #[test]
    fn a_refusal_survives_rustls_and_stays_unreadable_for_the_peer() {
        let texts: HashSet<String> = Refusal::ALL
            .into_iter()
            .map(|reason| {
                let error = rustls::Error::from(reason);
                assert_eq!(refusal(&error), Some(reason));
                let text = format!("{error} {error:?}");
                assert_eq!(io_refusal(&io::Error::other(error)), Some(reason));
                text
            })
            .collect();
        assert_eq!(texts.len(), 1, "the text tells reasons apart: {texts:?}");
    }

    #[test]
    fn errors_of_others_are_no_refusals() {
        assert_eq!(refusal(&rustls::Error::NoApplicationProtocol), None);
        assert_eq!(io_refusal(&io::ErrorKind::ConnectionReset.into()), None);
        assert_eq!(
            refusal(&rustls::Error::InvalidCertificate(CertificateError::Expired)),
            None
        );
        assert_eq!(
            refusal(&rustls::Error::NoCertificatesPresented),
            Some(Refusal::NoCertificate)
        );
    }
}
