//! Credentials for tests: made from nothing but names, the same bytes in every run.
//!
//! Keys are Ed25519 derived from the names, whose signatures are deterministic and of fixed size, and
//! serial numbers and validity are constants; so a simulated handshake has the same packet sizes
//! whenever it is run. Anyone can derive these keys: never use them outside a test.

#![expect(clippy::expect_used, reason = "the inputs are a test's own constants")]

use std::{cell::RefCell, time::SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType,
    SerialNumber, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use weft_proto::identity::{SpiffeId, TrustDomain};

use crate::{
    credentials::{Credentials, Svid},
    verify::TrustBundle,
};

/// A certificate authority of one trust domain.
pub struct Authority {
    trust_domain: TrustDomain,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// An SVID as text.
pub struct SvidPem {
    /// The certificate chain.
    pub chain: String,
    /// The private key, PKCS#8.
    pub key: String,
}

impl Authority {
    /// The authority of a trust domain.
    ///
    /// # Panics
    /// The name is not that of a trust domain.
    #[must_use]
    pub fn new(trust_domain: &str) -> Self {
        Self::with_root(trust_domain, &format!("{trust_domain} test root"))
    }

    /// Another authority of a trust domain, by the name of its root.
    ///
    /// # Panics
    /// The name is not that of a trust domain.
    #[must_use]
    pub fn with_root(trust_domain: &str, root: &str) -> Self {
        let mut params = params(root);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key(&format!("root {root}")))
            .expect("a root with fixed parameters");
        Self {
            trust_domain: trust_domain.parse().expect("a trust domain name"),
            issuer,
        }
    }

    /// The identity of a service account.
    ///
    /// # Panics
    /// The names cannot be in a SPIFFE ID.
    #[must_use]
    pub fn id(&self, namespace: &str, service_account: &str) -> SpiffeId {
        SpiffeId::for_service_account(&self.trust_domain, namespace, service_account)
            .expect("names that fit a SPIFFE ID")
    }

    /// The SVID of a service account, as text.
    ///
    /// # Panics
    /// The names cannot be in a SPIFFE ID.
    #[must_use]
    pub fn svid_pem(&self, namespace: &str, service_account: &str) -> SvidPem {
        let id = self.id(namespace, service_account);
        let key = key(&format!("leaf {id}"));
        SvidPem {
            chain: self.chain_pem_for(&id, &key),
            key: key.serialize_pem(),
        }
    }

    /// The credentials of a service account that end at `not_after`, to the second.
    ///
    /// # Panics
    /// The names cannot be in a SPIFFE ID.
    #[must_use]
    pub fn credentials_until(
        &self,
        namespace: &str,
        service_account: &str,
        not_after: SystemTime,
    ) -> Credentials {
        let svid = self.svid_with(namespace, service_account, |params| {
            params.not_after = not_after.into();
        });
        Credentials::new(svid, self.bundle()).expect("they fit together")
    }

    /// The SVID of a service account that is valid between two times, to the second.
    ///
    /// # Panics
    /// The names cannot be in a SPIFFE ID.
    #[must_use]
    pub fn svid_between(
        &self,
        namespace: &str,
        service_account: &str,
        (not_before, not_after): (SystemTime, SystemTime),
    ) -> Svid {
        self.svid_with(namespace, service_account, |params| {
            params.not_before = not_before.into();
            params.not_after = not_after.into();
        })
    }

    /// The same as text.
    ///
    /// # Panics
    /// The names cannot be in a SPIFFE ID.
    #[must_use]
    pub fn svid_pem_between(
        &self,
        namespace: &str,
        service_account: &str,
        (not_before, not_after): (SystemTime, SystemTime),
    ) -> SvidPem {
        let id = self.id(namespace, service_account);
        let key = key(&format!("leaf {id}"));
        let chain = self.leaf(&id, &key, |params| {
            params.not_before = not_before.into();
            params.not_after = not_after.into();
        });
        SvidPem {
            chain: chain.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A leaf of a service account for a key that someone else has, such as that of a certificate request.
    ///
    /// # Panics
    /// The names cannot be in a SPIFFE ID.
    #[must_use]
    pub fn leaf_for(
        &self,
        namespace: &str,
        service_account: &str,
        key: &impl PublicKeyData,
        (not_before, not_after): (SystemTime, SystemTime),
    ) -> CertificateDer<'static> {
        let leaf = self.leaf(&self.id(namespace, service_account), key, |params| {
            params.not_before = not_before.into();
            params.not_after = not_after.into();
        });
        leaf.der().clone()
    }

    fn svid_with(
        &self,
        namespace: &str,
        service_account: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Svid {
        let id = self.id(namespace, service_account);
        let key = key(&format!("leaf {id}"));
        let chain = self.chain_pem(&id, &key, change);
        Svid::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).expect("an SVID of our own making")
    }

    /// A leaf for a key that the caller has.
    pub(crate) fn chain_pem_for(&self, id: &SpiffeId, key: &KeyPair) -> String {
        self.chain_pem(id, key, |_| {})
    }

    fn chain_pem(&self, id: &SpiffeId, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
        self.leaf(id, key, change).pem()
    }

    fn leaf(
        &self,
        id: &SpiffeId,
        key: &impl PublicKeyData,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let mut params = params("test workload");
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().expect("an ASCII name"))];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        params
            .signed_by(key, &self.issuer)
            .expect("a leaf with fixed parameters")
    }

    /// The SVID of a service account.
    ///
    /// # Panics
    /// The names cannot be in a SPIFFE ID.
    #[must_use]
    pub fn svid(&self, namespace: &str, service_account: &str) -> Svid {
        let pem = self.svid_pem(namespace, service_account);
        Svid::from_pem(pem.chain.as_bytes(), pem.key.as_bytes()).expect("an SVID of our own making")
    }

    /// The root certificate, as text.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        self.issuer.pem()
    }

    /// The trust bundle.
    ///
    /// # Panics
    /// Never, unless the root is not one.
    #[must_use]
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::from_pem(&self.trust_domain, self.bundle_pem().as_bytes()).expect("a root of our own")
    }

    /// The credentials of a service account: its SVID and the trust bundle.
    ///
    /// # Panics
    /// The names cannot be in a SPIFFE ID.
    #[must_use]
    pub fn credentials(&self, namespace: &str, service_account: &str) -> Credentials {
        Credentials::new(self.svid(namespace, service_account), self.bundle()).expect("they fit together")
    }
}

thread_local! {
    static NOW: RefCell<Option<Box<dyn Fn() -> SystemTime>>> = const { RefCell::new(None) };
}

/// The wall clock of this thread (see [`crate::clock`]), until it is dropped: certificates end when a test says so.
#[must_use]
pub struct Clock(());

impl Clock {
    /// Sets it.
    pub fn set(now: impl Fn() -> SystemTime + 'static) -> Self {
        NOW.replace(Some(Box::new(now)));
        Self(())
    }

    pub(crate) fn now() -> Option<SystemTime> {
        NOW.with_borrow(|now| now.as_ref().map(|now| now()))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        NOW.take();
    }
}

/// What roots and leaves share: fixed serial number and a validity that no test outlives.
fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serial_number = Some(SerialNumber::from(1u64));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params
}

/// An Ed25519 key whose seed is the hash of a label.
fn key(label: &str) -> KeyPair {
    /// PKCS#8 of an Ed25519 key up to its 32 bytes (RFC 8410 section 7).
    const PREFIX: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    ];
    let mut pkcs8 = PREFIX.to_vec();
    pkcs8.extend_from_slice(digest(&SHA256, label.as_bytes()).as_ref());
    KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.into(), &PKCS_ED25519).expect("a well-formed key")
}
