//! Certificate requests (PKCS#10, RFC 2986). A request proves that its sender has the key. Nothing else in it is
//! used: not a name, not an extension.

use rcgen::SubjectPublicKeyInfo as CheckedKey;
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
        OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA, OID_SIG_ED25519,
    },
    prelude::FromDer,
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

/// The most bytes of a request: one with an RSA key of 4096 bits has about 1,600.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// Bits of an RSA key: fewer are weak, more only burn the CPU of every peer that checks a signature.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Why a certificate request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More than [`MAX_REQUEST_BYTES`].
    #[error("the certificate request has {0} bytes; at most {MAX_REQUEST_BYTES} are taken")]
    TooLarge(usize),
    /// Not DER of PKCS#10, or with something after it.
    #[error("the certificate request is not PKCS#10 in DER")]
    Malformed,
    /// A key that is weak, unusual, or too large.
    #[error(
        "the key of the certificate request is not taken: ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits"
    )]
    Key,
    /// The signature was not made with the key.
    #[error("the signature of the certificate request is not that of its key")]
    Signature,
}

/// The public key of a request whose sender has proved to have the private one.
///
/// # Errors
/// What is wrong with the request.
pub(crate) fn proved_key(request: &[u8]) -> Result<CheckedKey, RequestError> {
    if request.len() > MAX_REQUEST_BYTES {
        return Err(RequestError::TooLarge(request.len()));
    }
    let Ok(([], parsed)) = X509CertificationRequest::from_der(request) else {
        return Err(RequestError::Malformed);
    };
    let key = &parsed.certification_request_info.subject_pki;
    // Before the signature: checking one of a huge key is what such a request is sent for.
    if !is_sound(key) {
        return Err(RequestError::Key);
    }
    let algorithm = &parsed.signature_algorithm.algorithm;
    if *algorithm == OID_PKCS1_SHA1WITHRSA || *algorithm == OID_SHA1_WITH_RSA {
        return Err(RequestError::Signature);
    }
    parsed.verify_signature().map_err(|_| RequestError::Signature)?;
    CheckedKey::from_der(key.raw).map_err(|_| RequestError::Key)
}

fn is_sound(key: &SubjectPublicKeyInfo<'_>) -> bool {
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_SIG_ED25519 {
        return true;
    }
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let parameters = key.algorithm.parameters.as_ref();
        let curve = parameters.and_then(|parameters| parameters.as_oid().ok());
        return curve.is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384);
    }
    let is_rsa = *algorithm == OID_PKCS1_RSAENCRYPTION;
    is_rsa && matches!(key.parsed(), Ok(PublicKey::RSA(rsa)) if RSA_BITS.contains(&bits(rsa.modulus)))
}

/// The length of a big-endian unsigned integer in bits.
fn bits(integer: &[u8]) -> usize {
    let start = integer.iter().position(|byte| *byte != 0);
    match start.and_then(|start| integer.get(start..)) {
        Some(digits @ [first, ..]) => digits.len() * 8 - first.leading_zeros() as usize,
        Some([]) | None => 0,
    }
}
