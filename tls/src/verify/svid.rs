//! What the X.509-SVID specification asks of a certificate beyond a valid path (SPIFFE X509-SVID
//! sections 2 to 5). Pure functions of the certificate's bytes.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use weft_proto::identity::{SpiffeId, TrustDomain};
use x509_parser::{
    asn1_rs::Oid,
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
        OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
        OID_X509_EXT_SUBJECT_ALT_NAME,
    },
    prelude::FromDer,
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use super::refusal::Refusal;

/// Who a leaf certificate speaks for, and from when to when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The SPIFFE ID, from the leaf's only URI SAN.
    pub id: SpiffeId,
    /// The leaf is not valid before this time.
    pub not_before: SystemTime,
    /// The leaf is not valid after this time.
    pub not_after: SystemTime,
}

/// The validity of a certificate authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Validity {
    /// Whether the authority is valid at a time, the bounds included.
    pub(super) fn check(self, now: SystemTime) -> Result<(), Refusal> {
        if now > self.not_after {
            Err(Refusal::Expired)
        } else if now < self.not_before {
            Err(Refusal::NotYetValid)
        } else {
            Ok(())
        }
    }
}

/// Checks a leaf against the rules for an SVID and reads its identity.
///
/// Says nothing about who signed it or whether it is valid now.
pub(crate) fn inspect_leaf(leaf: &[u8]) -> Result<PeerIdentity, Refusal> {
    let certificate = parse(leaf)?;
    if is_ca(&certificate)? {
        return Err(Refusal::LeafIsCa);
    }
    check_leaf_usage(&certificate)?;
    check_key(certificate.public_key())?;
    let id = workload_id(&certificate)?;
    let Validity {
        not_before,
        not_after,
    } = validity(&certificate);
    Ok(PeerIdentity {
        id,
        not_before,
        not_after,
    })
}

/// Checks a root or an intermediate against the rules for a signing certificate
/// (X509-SVID sections 4.1 to 4.3) and reads its validity.
pub(super) fn inspect_authority(authority: &[u8], trust_domain: &TrustDomain) -> Result<Validity, Refusal> {
    let certificate = parse(authority)?;
    if !is_ca(&certificate)? {
        return Err(Refusal::IssuerNotCa);
    }
    match extension(&certificate, &OID_X509_EXT_KEY_USAGE)? {
        Some(ParsedExtension::KeyUsage(usage)) if usage.key_cert_sign() => {}
        Some(ParsedExtension::KeyUsage(_)) | None => return Err(Refusal::IssuerNotCa),
        Some(_) => return Err(Refusal::Malformed),
    }
    check_key(certificate.public_key())?;
    // An authority need not carry a SPIFFE ID; one that does must be the trust domain's own, without a
    // path. So an authority of another domain cannot be made ours by one stray cross-signature.
    for uri in uri_names(&certificate)? {
        match uri.map(SpiffeId::parse) {
            Ok(Ok(id)) if id == trust_domain.id() => {}
            _ => return Err(Refusal::ForeignAuthority),
        }
    }
    Ok(validity(&certificate))
}

/// Checks that bytes are one certificate with nothing after it.
fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, Refusal> {
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(Refusal::Malformed),
    }
}

fn check_leaf_usage(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    match extension(certificate, &OID_X509_EXT_KEY_USAGE)? {
        Some(ParsedExtension::KeyUsage(usage)) => {
            if usage.key_cert_sign() || usage.crl_sign() {
                return Err(Refusal::LeafMaySign);
            }
            if !usage.digital_signature() {
                return Err(Refusal::KeyUsage);
            }
        }
        None => return Err(Refusal::KeyUsage),
        Some(_) => return Err(Refusal::Malformed),
    }
    // Section 4.4: the extension may be absent; present, it must have both, since a workload both
    // dials and listens.
    match extension(certificate, &OID_X509_EXT_EXTENDED_KEY_USAGE)? {
        Some(ParsedExtension::ExtendedKeyUsage(usage)) if usage.server_auth && usage.client_auth => Ok(()),
        Some(ParsedExtension::ExtendedKeyUsage(_)) => Err(Refusal::ExtendedKeyUsage),
        None => Ok(()),
        Some(_) => Err(Refusal::Malformed),
    }
}

fn is_ca(certificate: &X509Certificate<'_>) -> Result<bool, Refusal> {
    match extension(certificate, &OID_X509_EXT_BASIC_CONSTRAINTS)? {
        Some(ParsedExtension::BasicConstraints(constraints)) => Ok(constraints.ca),
        None => Ok(false),
        Some(_) => Err(Refusal::Malformed),
    }
}

/// The leaf's only URI SAN as a workload's SPIFFE ID (section 5.2: more than one must be refused;
/// names of other types may stand beside it and mean nothing).
fn workload_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Refusal> {
    let uris = uri_names(certificate)?;
    let uri = match uris.as_slice() {
        [] => return Err(Refusal::NoUriName),
        [uri] => (*uri)?,
        [_, _, ..] => return Err(Refusal::SeveralUriNames),
    };
    SpiffeId::parse_workload(uri).map_err(|_| Refusal::NotSpiffeId)
}

/// Every URI SAN; one that is not even text is an error of its own, but counts.
fn uri_names<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<Result<&'a str, Refusal>>, Refusal> {
    /// Context tag of `uniformResourceIdentifier` in GeneralName (RFC 5280 section 4.2.1.6).
    const URI_TAG: u32 = 6;
    let names = match extension(certificate, &OID_X509_EXT_SUBJECT_ALT_NAME)? {
        Some(ParsedExtension::SubjectAlternativeName(names)) => &names.general_names,
        None => return Ok(Vec::new()),
        Some(_) => return Err(Refusal::Malformed),
    };
    Ok(names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(Ok(*uri)),
            GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => Some(Err(Refusal::NotSpiffeId)),
            _ => None,
        })
        .collect())
}

/// A key that signs must be one that nobody is known to be able to forge: ECDSA P-256 or P-384,
/// Ed25519, or RSA of at least 2048 bits. Above 8192 bits RSA only burns the verifier's CPU.
fn check_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), Refusal> {
    let algorithm = &key.algorithm.algorithm;
    let sound = if *algorithm == OID_SIG_ED25519 {
        true
    } else if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve: Option<Oid<'_>> = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|parameters| parameters.as_oid().ok());
        curve.is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384)
    } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
        match key.parsed() {
            Ok(PublicKey::RSA(rsa)) => (2048..=8192).contains(&bits(rsa.modulus)),
            Ok(_) | Err(_) => return Err(Refusal::Malformed),
        }
    } else {
        false
    };
    if sound { Ok(()) } else { Err(Refusal::WeakKey) }
}

/// The length of a big-endian unsigned integer in bits.
fn bits(integer: &[u8]) -> usize {
    let significant = integer
        .iter()
        .position(|byte| *byte != 0)
        .and_then(|start| integer.get(start..));
    match significant {
        Some(digits @ [first, ..]) => digits.len() * 8 - first.leading_zeros() as usize,
        Some([]) | None => 0,
    }
}

/// An extension by its identifier: absent, or present once.
fn extension<'a, 'b>(
    certificate: &'a X509Certificate<'b>,
    identifier: &Oid<'_>,
) -> Result<Option<&'a ParsedExtension<'b>>, Refusal> {
    let found = certificate
        .get_extension_unique(identifier)
        .map_err(|_| Refusal::Malformed)?;
    Ok(found.map(|extension| extension.parsed_extension()))
}

fn validity(certificate: &X509Certificate<'_>) -> Validity {
    let validity = certificate.validity();
    Validity {
        not_before: system_time(validity.not_before.timestamp()),
        not_after: system_time(validity.not_after.timestamp()),
    }
}

/// Seconds since 1970 as a time; anything earlier counts as 1970.
fn system_time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Reads the identity of a peer whose handshake is complete, from the chain it showed.
///
/// # Errors
/// The chain is empty or its leaf no SVID, which cannot be after one of our verifiers accepted it.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, Refusal> {
    inspect_leaf(chain.first().ok_or(Refusal::NoCertificate)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_ignore_leading_zeros() {
        assert_eq!(bits(&[]), 0);
        assert_eq!(bits(&[0, 0]), 0);
        assert_eq!(bits(&[0, 1]), 1);
        assert_eq!(bits(&[0x80]), 8);
        let mut modulus = vec![0xff; 256];
        modulus.insert(0, 0);
        assert_eq!(bits(&modulus), 2048);
    }

    #[test]
    fn garbage_is_malformed() {
        assert_eq!(inspect_leaf(b""), Err(Refusal::Malformed));
        assert_eq!(inspect_leaf(&[0x30, 0x82, 0xff, 0xff]), Err(Refusal::Malformed));
        assert_eq!(peer_identity(&[]), Err(Refusal::NoCertificate));
        let svid = crate::testing::Authority::new("mesh.test").svid("default", "web");
        let mut leaf = svid.chain()[0].to_vec();
        assert_eq!(&inspect_leaf(&leaf).unwrap().id, svid.id());
        leaf.push(0);
        assert_eq!(inspect_leaf(&leaf), Err(Refusal::Malformed));
    }
}
