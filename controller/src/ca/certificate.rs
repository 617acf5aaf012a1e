//! What our certificates look like: roots, signers and leaves, by the X.509-SVID specification.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use weft_proto::{SpiffeId, TrustDomain};

use super::key::SecretKey;

/// How far notBefore lies in the past at most, for peers whose clocks are behind. A leaf of a short life has less:
/// a tenth of it.
const BACKDATE: Duration = Duration::from_secs(60);

/// From when to when a certificate is valid, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Validity {
    /// A life from now on, cut at the end of the issuer.
    pub(crate) fn from_now(now: SystemTime, lifetime: Duration, issuer_ends: Option<SystemTime>) -> Self {
        let end = now + lifetime;
        Self {
            not_before: whole_seconds(now - BACKDATE.min(lifetime / 10)),
            not_after: whole_seconds(issuer_ends.map_or(end, |limit| end.min(limit))),
        }
    }

    /// When half of it is over.
    pub(crate) fn half(self) -> SystemTime {
        let lifetime = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + lifetime / 2
    }
}

/// A new certificate authority with its key.
pub(crate) struct Made {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: SecretKey,
}

/// A root of a trust domain. One level of signers below it is enough.
pub(crate) fn root(trust_domain: &TrustDomain, validity: Validity) -> Result<Made, rcgen::Error> {
    let key = SecretKey::generate()?;
    let params = authority("Weft root", trust_domain, 1, validity, &key)?;
    let certificate = params.self_signed(&key)?.der().clone();
    Ok(Made { certificate, key })
}

/// A signer of leaves under a root.
pub(crate) fn signer(
    trust_domain: &TrustDomain,
    validity: Validity,
    root: &CertificateDer<'_>,
    root_key: &SecretKey,
) -> Result<Made, rcgen::Error> {
    let key = SecretKey::generate()?;
    let mut params = authority("Weft signer", trust_domain, 0, validity, &key)?;
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(root, root_key)?;
    let certificate = params.signed_by(&key, &issuer)?.der().clone();
    Ok(Made { certificate, key })
}

/// A leaf, and its serial number.
pub(crate) fn leaf(
    identity: &SpiffeId,
    key: &impl PublicKeyData,
    validity: Validity,
    signer: &CertificateDer<'_>,
    signer_key: &SecretKey,
) -> Result<(CertificateDer<'static>, [u8; 16]), rcgen::Error> {
    let serial = serial();
    let mut params = params("Weft workload", validity, &serial);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(signer, signer_key)?;
    let certificate = params.signed_by(key, &issuer)?.der().clone();
    Ok((certificate, serial))
}

fn authority(
    name: &str,
    trust_domain: &TrustDomain,
    levels_below: u8,
    validity: Validity,
    key: &SecretKey,
) -> Result<CertificateParams, rcgen::Error> {
    // The name has something of the key in it: with two authorities of one name, a peer that knows only the other
    // one would complain of a bad signature, where it should say that it does not know this one.
    let fingerprint = CertificateParams::default().key_identifier(key);
    let fingerprint = crate::hex::encode(fingerprint.get(..4).unwrap_or_default());
    let mut params = params(&format!("{name} {fingerprint}"), validity, &serial());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(levels_below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![SanType::URI(trust_domain.id().as_str().try_into()?)];
    Ok(params)
}

fn params(name: &str, validity: Validity, serial: &[u8]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::from(validity.not_before);
    params.not_after = OffsetDateTime::from(validity.not_after);
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params
}

/// Random, of 16 bytes whatever comes: its first two bits are fixed, so that it is positive and none is left out
/// (RFC 5280 section 4.1.2.2).
fn serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    serial
}

/// X.509 knows no fractions of a second.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.as_secs())
}
