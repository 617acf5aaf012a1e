//! A certificate authority for stacks that read PEM files: SVIDs on ECDSA P-256 keys, which every one of them takes.

use crate::error::{Doing, Error, Result};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use time::OffsetDateTime;

/// Longer than any run.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// For clocks that differ a little.
const BACKDATED: Duration = Duration::from_secs(60);

/// The authority of a trust domain.
pub struct Authority {
    trust_domain: String,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Where the files of one workload are.
#[derive(Debug, Clone)]
pub struct Files {
    /// Its certificate.
    pub certificate: PathBuf,
    /// The key of it.
    pub key: PathBuf,
    /// The authority that it believes.
    pub authority: PathBuf,
}

impl Authority {
    /// Makes one.
    ///
    /// # Errors
    /// That the name fits no certificate.
    pub fn new(trust_domain: &str) -> Result<Self> {
        let key = KeyPair::generate().map_err(bad)?;
        let mut params = params("Weft lab CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        let pem = params.self_signed(&key).map_err(bad)?.pem();
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            pem,
            issuer: Issuer::new(params, key),
        })
    }

    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The SPIFFE ID of a service account.
    pub fn id(&self, account: &str) -> String {
        format!("spiffe://{}/ns/default/sa/{account}", self.trust_domain)
    }

    /// The DNS name of a service account. The mesh needs none, but QUIC in Envoy insists on one.
    pub fn name(&self, account: &str) -> String {
        format!("{account}.{}", self.trust_domain)
    }

    /// An SVID for a service account: certificate and key.
    ///
    /// # Errors
    /// That the name fits no certificate.
    pub fn issue(&self, account: &str) -> Result<(String, String)> {
        let key = KeyPair::generate().map_err(bad)?;
        let mut params = params("Weft lab workload");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let name = Ia5String::try_from(self.name(account)).map_err(bad)?;
        params.subject_alt_names = vec![uri(&self.id(account))?, SanType::DnsName(name)];
        let certificate = params.signed_by(&key, &self.issuer).map_err(bad)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// Issues an SVID into files of `directory`, for a workload that believes `authorities` (PEM).
    ///
    /// # Errors
    /// As [`Authority::issue`], and that the files can't be written.
    pub fn issue_files(&self, account: &str, authorities: &str, directory: &Path) -> Result<Files> {
        let (certificate, key) = self.issue(account)?;
        let write = |suffix: &str, text: &str| {
            let path = directory.join(format!("{account}{suffix}"));
            write_private(&path, text).doing(|| format!("write {}", path.display()))?;
            Ok(path)
        };
        Ok(Files {
            certificate: write(".pem", &certificate)?,
            key: write(".key", &key)?,
            authority: write("-ca.pem", authorities)?,
        })
    }
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - BACKDATED, now + LIFETIME);
    params
}

fn uri(uri: &str) -> Result<SanType> {
    Ok(SanType::URI(Ia5String::try_from(uri).map_err(bad)?))
}

fn bad(error: rcgen::Error) -> Error {
    Error::Protocol(format!("certificate: {error}"))
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}
