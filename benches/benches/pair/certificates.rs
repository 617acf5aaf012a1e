//! The identities of the sidecars: SVIDs on ECDSA P-256 keys, the same for every pair.

use crate::Result;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use time::OffsetDateTime;

pub(crate) const TRUST_DOMAIN: &str = "bench.example";

/// The server's name in TLS. Identities are SPIFFE IDs, but Envoy's QUIC insists on a DNS name as well.
pub(crate) const SERVER_NAME: &str = "web.bench.example";

/// Longer than any run.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The service accounts of the two sidecars.
pub(crate) const CLIENT: &str = "client";
pub(crate) const SERVER: &str = "web";

/// PEM files, deleted at the end.
pub(crate) struct Certificates {
    directory: TempDir,
}

impl Certificates {
    pub(crate) fn make() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let certificates = Self { directory };
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Weft bench CA");
        set_validity(&mut params);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(format!(
            "spiffe://{TRUST_DOMAIN}"
        ))?)];
        fs::write(certificates.authority(), params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        for account in [CLIENT, SERVER] {
            certificates.issue(account, &issuer)?;
        }
        Ok(certificates)
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    pub(crate) fn certificate(&self, account: &str) -> PathBuf {
        self.path(&format!("{account}.pem"))
    }

    pub(crate) fn key(&self, account: &str) -> PathBuf {
        self.path(&format!("{account}.key"))
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn issue(&self, account: &str, issuer: &Issuer<'_, KeyPair>) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Weft bench workload");
        set_validity(&mut params);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![
            SanType::URI(Ia5String::try_from(spiffe_id(account))?),
            SanType::DnsName(Ia5String::try_from(SERVER_NAME)?),
        ];
        fs::write(self.certificate(account), params.signed_by(&key, issuer)?.pem())?;
        write_key(&self.key(account), &key.serialize_pem())
    }
}

pub(crate) fn spiffe_id(account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/{account}")
}

fn set_validity(params: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::from_secs(60), now + LIFETIME);
}

fn write_key(path: &Path, pem: &str) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.write_all(pem.as_bytes())?)
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}
