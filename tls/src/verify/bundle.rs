//! The trust bundle: the roots of one trust domain, and nothing else is trusted.

use std::{fmt, time::SystemTime};

use rustls_pki_types::{CertificateDer, TrustAnchor, pem::PemObject};
use weft_proto::identity::TrustDomain;

use super::{
    refusal::Refusal,
    svid::{Validity, inspect_authority},
};

/// A bundle has one root, or a few while a root is being replaced. More is a mistake, such as the
/// operating system's list of public authorities.
const MAX_ROOTS: usize = 16;

/// Why a trust bundle could not be loaded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrustBundleError {
    /// The text is not PEM.
    #[error("not PEM")]
    NotPem,
    /// There is no certificate in the text.
    #[error("no certificate in it")]
    Empty,
    /// There are more certificates than roots of one trust domain.
    #[error("more than {MAX_ROOTS} certificates: not the roots of one trust domain")]
    TooMany,
    /// A certificate is not one of a root (position from 1).
    #[error("certificate {position} cannot be a root: {refusal}")]
    NotRoot {
        /// Its position in the text, from 1.
        position: usize,
        /// What is wrong with it.
        refusal: Refusal,
    },
}

/// The roots of one trust domain.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<Root>,
    /// As webpki wants them: the n-th is that of the n-th root.
    anchors: Vec<TrustAnchor<'static>>,
}

#[derive(Clone)]
struct Root {
    certificate: CertificateDer<'static>,
    validity: Validity,
}

impl TrustBundle {
    /// Reads one or more root certificates in PEM. The same root twice counts once.
    ///
    /// # Errors
    /// Not PEM, no certificate, too many, or one that is no authority of this trust domain: a leaf, one
    /// with a weak key, or one that carries the SPIFFE ID of another trust domain.
    pub fn from_pem(trust_domain: &TrustDomain, pem: &[u8]) -> Result<Self, TrustBundleError> {
        Self::read(
            trust_domain,
            CertificateDer::pem_slice_iter(pem).map(|root| root.map_err(|_| TrustBundleError::NotPem)),
        )
    }

    /// Takes one or more root certificates. The same root twice counts once.
    ///
    /// # Errors
    /// As [`TrustBundle::from_pem`].
    pub fn from_der(
        trust_domain: &TrustDomain,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, TrustBundleError> {
        Self::read(trust_domain, roots.into_iter().map(Ok))
    }

    fn read(
        trust_domain: &TrustDomain,
        roots: impl Iterator<Item = Result<CertificateDer<'static>, TrustBundleError>>,
    ) -> Result<Self, TrustBundleError> {
        let mut bundle = Self {
            trust_domain: trust_domain.clone(),
            roots: Vec::new(),
            anchors: Vec::new(),
        };
        for (index, certificate) in roots.enumerate() {
            let certificate = certificate?;
            if index >= MAX_ROOTS {
                return Err(TrustBundleError::TooMany);
            }
            bundle
                .add(certificate)
                .map_err(|refusal| TrustBundleError::NotRoot {
                    position: index + 1,
                    refusal,
                })?;
        }
        if bundle.roots.is_empty() {
            return Err(TrustBundleError::Empty);
        }
        Ok(bundle)
    }

    fn add(&mut self, certificate: CertificateDer<'static>) -> Result<(), Refusal> {
        if self.roots.iter().any(|root| root.certificate == certificate) {
            return Ok(());
        }
        let validity = inspect_authority(&certificate, &self.trust_domain)?;
        let anchor = webpki::anchor_from_trusted_cert(&certificate).map_err(|_| Refusal::Malformed)?;
        self.anchors.push(anchor.to_owned());
        self.roots.push(Root {
            certificate,
            validity,
        });
        Ok(())
    }

    /// The trust domain that the roots speak for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificates.
    pub fn roots(&self) -> impl ExactSizeIterator<Item = &CertificateDer<'static>> {
        self.roots.iter().map(|root| &root.certificate)
    }

    /// Whether every root of `other` is in this bundle as well. If not, what it accepted may no longer pass here.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        let mut roots = other.roots();
        roots.all(|root| self.roots().any(|own| own == root))
    }

    /// When each root ends, to warn of it long before.
    pub fn expiries(&self) -> impl ExactSizeIterator<Item = SystemTime> {
        self.roots.iter().map(|root| root.validity.not_after)
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// webpki takes anchors on trust and does not look at their validity; this does.
    pub(super) fn check_validity(&self, anchor: &TrustAnchor<'_>, now: SystemTime) -> Result<(), Refusal> {
        // The same key and name can be in the bundle twice, as a root that was renewed.
        let mut outcome = Err(Refusal::UnknownAuthority);
        for (root, candidate) in self.roots.iter().zip(&self.anchors) {
            if candidate != anchor {
                continue;
            }
            outcome = match root.validity.check(now) {
                Ok(()) => return Ok(()),
                Err(Refusal::Expired) => Err(Refusal::RootExpired),
                Err(refusal) => Err(refusal),
            };
        }
        outcome
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain)
            .field("roots", &self.roots.len())
            .finish()
    }
}
