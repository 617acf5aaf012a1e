//! Certificates, requests, files and rotations of a whole authority, on a store in memory and a clock of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::UNIX_EPOCH,
};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize, SanType,
};
use weft_tls::{
    Credentials, Svid,
    join::RootHash,
    verify::{Role as TlsRole, verify_chain},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::*;
use crate::{
    auth::Role,
    store::{Condition, redb::RedbStore},
    trust::Step,
};

/// An authority, and what is around it.
pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) store: SharedStore,
    pub(crate) options: CaOptions,
    clock: Arc<AtomicU64>,
}

/// Some day in 2026: the clock stands still unless a test moves it.
const START: u64 = 1_790_000_000;

impl Place {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(AtomicU64::new(START));
        let mut options = CaOptions::new("mesh.test".parse().unwrap());
        let read = clock.clone();
        options.clock = Arc::new(move || at(read.load(Ordering::SeqCst)));
        options.leaf_lifetime = Duration::from_secs(600);
        options.renew_grace = Duration::from_secs(100);
        Self {
            directory: tempfile::tempdir().unwrap(),
            store: Arc::new(RedbStore::in_memory().unwrap()),
            options,
            clock,
        }
    }

    pub(crate) async fn open(&self) -> Arc<Authority> {
        self.try_open().await.unwrap()
    }

    async fn try_open(&self) -> Result<Arc<Authority>, CaError> {
        Authority::open(self.store.clone(), self.directory.path(), self.options.clone()).await
    }

    pub(crate) fn pass(&self, seconds: u64) {
        self.clock.fetch_add(seconds, Ordering::SeqCst);
    }

    fn now(&self) -> SystemTime {
        (self.options.clock)()
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut directories = vec![self.directory.path().join("ca")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path.clone());
                }
                files.push(path);
            }
        }
        files
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn id(path: &str) -> SpiffeId {
    format!("spiffe://mesh.test{path}").parse().unwrap()
}

fn web() -> SpiffeId {
    id("/ns/shop/sa/web")
}

pub(crate) fn holder(workload: &str) -> v1::Holder {
    v1::Holder {
        workload: workload.to_owned(),
        instance: "one".to_owned(),
    }
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

/// A request with a key and whatever else.
fn request_with(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

pub(crate) fn request() -> Vec<u8> {
    request_with(&key(), |_| {})
}

fn spiffe(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

/// All that the profile asks, of the chain of a leaf.
fn check_profile(issued: &Issued, identity: &SpiffeId, now: SystemTime) {
    for role in [TlsRole::Server, TlsRole::Client] {
        let peer = verify_chain(&issued.bundle.trust, &issued.chain, now, role).unwrap();
        assert_eq!((&peer.id, peer.not_after), (identity, issued.not_after));
    }
    let (rest, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert!(rest.is_empty());
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1, "{names:?}");
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "digitalSignature alone");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any && !extended.code_signing);
    assert_eq!(crate::hex::encode(leaf.raw_serial()), issued.serial);
    assert_eq!(issued.serial.len(), 32);
    assert!(!leaf.subject().to_string().contains("evil"));
    let (_, signer) = X509Certificate::from_der(&issued.chain[1]).unwrap();
    let constraints = signer.basic_constraints().unwrap().unwrap().value;
    assert!(constraints.ca && constraints.path_len_constraint == Some(0));
    assert!(signer.validity().not_after >= leaf.validity().not_after);
    assert_eq!(issued.chain.len(), 2, "without the root");
}

#[tokio::test]
async fn whatever_a_request_asks_for_the_leaf_has_the_callers_identity_alone() {
    let place = Place::new();
    let authority = place.open().await;
    let key = key();
    type Change = Box<dyn FnOnce(&mut CertificateParams)>;
    let requests: Vec<(&str, Change)> = vec![
        ("nothing", Box::new(|_| {})),
        (
            "another identity",
            Box::new(|params| {
                params.subject_alt_names = vec![spiffe("spiffe://mesh.test/weft/admin/evil")];
            }),
        ),
        (
            "several identities",
            Box::new(|params| {
                params.subject_alt_names = vec![
                    spiffe("spiffe://mesh.test/ns/shop/sa/web"),
                    spiffe("spiffe://mesh.test/ns/bank/sa/vault"),
                    SanType::DnsName("evil.example".try_into().unwrap()),
                ];
            }),
        ),
        (
            "to be an authority",
            Box::new(|params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            }),
        ),
        (
            "another use",
            Box::new(|params| {
                params.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::CodeSigning];
                params.distinguished_name.push(rcgen::DnType::CommonName, "evil");
            }),
        ),
    ];
    for (what, change) in requests {
        let csr = request_with(&key, change);
        let issued = authority.sign(&web(), &holder("web-1"), &csr).await.expect(what);
        check_profile(&issued, &web(), place.now());
    }
}

#[tokio::test]
async fn sound_keys_are_taken_and_others_refused() {
    let place = Place::new();
    let authority = place.open().await;
    let rsa = |size| KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, size).unwrap();
    let good = [
        key(),
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&PKCS_ED25519).unwrap(),
        rsa(RsaKeySize::_2048),
    ];
    for key in good {
        let issued = authority
            .sign(&web(), &holder("web-1"), &request_with(&key, |_| {}))
            .await
            .unwrap();
        check_profile(&issued, &web(), place.now());
        // The leaf is for that key, and rustls takes the two together.
        Svid::from_der(issued.chain, PrivateKeyDerOf(&key).into()).unwrap();
    }
    let p521 = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
    assert!(matches!(
        refused(&authority, &request_with(&p521, |_| {})).await,
        RequestError::Key
    ));
    // A huge key is refused before its signature is looked at: the one here is none.
    let huge = with_modulus(&request_with(&rsa(RsaKeySize::_4096), |_| {}), 4096);
    assert!(matches!(
        refused(&authority, &huge).await,
        RequestError::Key | RequestError::Malformed
    ));
}

/// A request in which an RSA modulus of so many bits is one bit longer.
fn with_modulus(csr: &[u8], bits: usize) -> Vec<u8> {
    let mut csr = csr.to_vec();
    // INTEGER of bits/8 + 1 bytes: a zero, and the modulus. Without the zero it could not be positive: make it one.
    let length = u16::try_from(bits / 8 + 1).unwrap().to_be_bytes();
    let head = [0x02, 0x82, length[0], length[1], 0x00];
    let at = csr.windows(head.len()).position(|window| window == head).unwrap();
    csr[at + 4] = 0x01;
    csr
}

struct PrivateKeyDerOf<'a>(&'a KeyPair);

impl From<PrivateKeyDerOf<'_>> for rustls_pki_types::PrivateKeyDer<'static> {
    fn from(key: PrivateKeyDerOf<'_>) -> Self {
        rustls_pki_types::PrivatePkcs8KeyDer::from(key.0.serialize_der()).into()
    }
}

async fn refused(authority: &Authority, csr: &[u8]) -> RequestError {
    match authority.sign(&web(), &holder("web-1"), csr).await {
        Err(SignError::Request(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_no_proof_of_a_key_is_refused() {
    let place = Place::new();
    let authority = place.open().await;
    let good = request();
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(
        refused(&authority, &forged).await,
        RequestError::Signature | RequestError::Malformed
    ));
    // Something in the middle is not what was signed.
    let mut changed = good.clone();
    let middle = good.windows(6).position(|window| window == b"rcgen ").unwrap();
    changed[middle] = b'R';
    assert_eq!(refused(&authority, &changed).await, RequestError::Signature);
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(refused(&authority, &longer).await, RequestError::Malformed);
    assert_eq!(refused(&authority, b"").await, RequestError::Malformed);
    assert_eq!(
        refused(&authority, &vec![0x30; MAX_REQUEST_BYTES]).await,
        RequestError::Malformed
    );
    let large = vec![0; MAX_REQUEST_BYTES + 1];
    assert_eq!(
        refused(&authority, &large).await,
        RequestError::TooLarge(MAX_REQUEST_BYTES + 1)
    );
    assert_eq!(issues(&place).await, 0, "nothing of it is in the ledger");
}

#[tokio::test]
async fn a_request_with_any_byte_changed_never_panics_and_never_proves_another_key() {
    let good = request();
    let key = request::proved_key(&good).unwrap();
    for at in 0..good.len() {
        for bit in [1, 0x80] {
            let mut changed = good.clone();
            changed[at] ^= bit;
            // The parser is lax about the tags around what is signed.
            let proved = request::proved_key(&changed);
            assert!(proved.is_err() || proved == Ok(key.clone()), "byte {at}");
        }
        assert!(request::proved_key(&good[..at]).is_err());
    }
}

#[tokio::test]
async fn nobody_gets_the_controllers_identity_or_one_of_elsewhere() {
    let place = Place::new();
    let authority = place.open().await;
    let other: SpiffeId = "spiffe://other.test/ns/shop/sa/web".parse().unwrap();
    for identity in [
        controller_id(authority.trust_domain()).unwrap(),
        other,
        id("/x"),
        id("/weft/root/a"),
    ] {
        let signed = authority.sign(&identity, &holder("web-1"), &request()).await;
        assert!(matches!(signed, Err(SignError::Identity(_))), "{identity}");
    }
    for (identity, workload, instance) in [
        (web(), "", "one"),
        (web(), "Web", "one"),
        (web(), "web/1", "one"),
        (web(), "web-1", "a\nb"),
        (id("/weft/admin/ann"), "web-1", "one"),
    ] {
        let holder = v1::Holder {
            workload: workload.to_owned(),
            instance: instance.to_owned(),
        };
        let signed = authority.sign(&identity, &holder, &request()).await;
        assert!(
            matches!(signed, Err(SignError::Holder(_))),
            "{workload:?} {instance:?}"
        );
    }
    let admin = id("/weft/admin/ann");
    let issued = authority
        .sign(&admin, &v1::Holder::default(), &request())
        .await
        .unwrap();
    assert_eq!(issued.lifetime, place.options.operator_leaf_lifetime);
}

async fn issues(place: &Place) -> usize {
    place
        .store
        .list(crate::ledger::PREFIX)
        .await
        .unwrap()
        .entries
        .len()
}

#[tokio::test]
async fn a_leaf_is_in_the_ledger_and_says_until_when() {
    let place = Place::new();
    let authority = place.open().await;
    let issued = authority
        .sign(&web(), &holder("web-1"), &request())
        .await
        .unwrap();
    let ledger = place.store.list(crate::ledger::PREFIX).await.unwrap();
    let [entry] = ledger.entries.as_slice() else {
        panic!()
    };
    assert_eq!(
        entry.key,
        format!("ledger/ns/shop/sa/web/web-1/{}", issued.serial)
    );
    let issue: Issue = serde_json::from_slice(&entry.value).unwrap();
    assert_eq!(
        (issue.identity.as_str(), issue.workload.as_str()),
        (web().as_str(), "web-1")
    );
    assert_eq!((issue.not_before, issue.not_after), (START - 60, START + 600));
    assert_eq!(issued.lifetime, Duration::from_secs(600));
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(
        leaf.validity().not_before.timestamp(),
        i64::try_from(START - 60).unwrap()
    );
}

#[tokio::test]
async fn no_leaf_outlives_its_signer_and_an_ended_signer_signs_nothing() {
    let mut place = Place::new();
    place.options.root_lifetime = Duration::from_secs(2_000);
    place.options.signer_lifetime = Duration::from_secs(2_000);
    let authority = place.open().await;
    place.pass(1_700);
    let issued = authority
        .sign(&web(), &holder("web-1"), &request())
        .await
        .unwrap();
    assert_eq!(issued.not_after, at(START + 2_000));
    check_profile(&issued, &web(), place.now());
    place.pass(300);
    let error = authority
        .sign(&web(), &holder("web-1"), &request())
        .await
        .unwrap_err();
    assert!(matches!(error, SignError::Ended { what: "root", .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains(&authority.signing_root().0.to_string()),
        "{error}"
    );
    // And it starts, so that an operator can do something about it.
    assert!(authority.local_admin().borrow().is_some());
    place.open().await;
}

#[tokio::test(start_paused = true)]
async fn a_signer_is_renewed_at_half_of_its_life() {
    let mut place = Place::new();
    place.options.signer_lifetime = Duration::from_secs(10_000);
    let authority = place.open().await;
    tokio::spawn(authority.clone().run());
    let before = authority
        .sign(&web(), &holder("web-1"), &request())
        .await
        .unwrap();
    let mut serving = authority.serving();
    serving.borrow_and_update();
    place.pass(5_200);
    // The controller's own leaf is renewed too.
    serving.changed().await.unwrap();
    let after = authority
        .sign(&web(), &holder("web-1"), &request())
        .await
        .unwrap();
    assert_ne!(before.chain[1], after.chain[1]);
    check_profile(&after, &web(), place.now());
    assert_eq!(after.bundle.version, before.bundle.version);
    let again = place.open().await;
    assert_eq!(
        again
            .sign(&web(), &holder("web-1"), &request())
            .await
            .unwrap()
            .chain[1],
        after.chain[1]
    );
}

#[tokio::test]
async fn keys_can_be_read_by_their_owner_alone_and_are_nowhere_else() {
    let place = Place::new();
    let authority = place.open().await;
    authority
        .rotate(&v1::RotateRootRequest::default(), "ann")
        .await
        .unwrap();
    let files = place.files();
    assert_eq!(files.len(), 2 + 6, "{files:?}");
    let mut secrets = Vec::new();
    for path in &files {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            mode,
            if path.is_dir() { 0o700 } else { 0o600 },
            "{}",
            path.display()
        );
        if path.is_file() {
            let text = fs::read_to_string(path).unwrap();
            if let Some((_, key)) = text.split_once("-----BEGIN PRIVATE KEY-----\n") {
                secrets.push(key.lines().next().unwrap()[40..].to_owned());
            }
        }
    }
    assert_eq!(secrets.len(), 4, "two roots and two signers");
    let admin = authority.local_admin().borrow().clone().unwrap();
    secrets.push(admin.key_pem.lines().nth(1).unwrap()[40..].to_owned());
    let mut shown = format!(
        "{admin:?} {:?} {:?}",
        authority.serving().borrow(),
        authority.options
    );
    for signer in authority.current().signers.values() {
        shown.push_str(&format!("{signer:?}"));
    }
    for entry in place.store.list("").await.unwrap().entries {
        shown.push_str(&entry.key);
        shown.push_str(&String::from_utf8_lossy(&entry.value));
    }
    for secret in &secrets {
        assert!(!shown.contains(secret.as_str()));
    }
    fs::set_permissions(&files[0], fs::Permissions::from_mode(0o777)).unwrap();
    place.open().await;
    assert_eq!(fs::metadata(&files[0]).unwrap().permissions().mode() & 0o077, 0);
}

#[tokio::test]
async fn files_of_another_mesh_are_refused_by_name() {
    let place = Place::new();
    place.open().await;
    let mut other = Place::new();
    other.options.trust_domain = "other.test".parse().unwrap();
    // The store of the one, the files of none; and the files of the one, the store of none.
    other.store = place.store.clone();
    let error = other.try_open().await.unwrap_err().to_string();
    assert!(
        error.contains("mesh.test") && error.contains("other.test"),
        "{error}"
    );
    other.store = Arc::new(RedbStore::in_memory().unwrap());
    other.directory = place.directory;
    let error = other.try_open().await.unwrap_err().to_string();
    assert!(
        error.contains("mesh.test") && error.contains("root.pem"),
        "{error}"
    );
}

#[tokio::test]
async fn a_store_whose_keys_are_gone_is_refused() {
    let place = Place::new();
    place.open().await;
    fs::remove_dir_all(place.directory.path().join("ca")).unwrap();
    assert!(matches!(place.try_open().await, Err(CaError::NoSigner { .. })));
    let mut options = place.options.clone();
    options.leaf_lifetime = Duration::from_secs(9);
    let opened = Authority::open(place.store.clone(), place.directory.path(), options).await;
    assert!(matches!(opened, Err(CaError::Option(_))));
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_goes_on_with_its_root() {
    let mut place = Place::new();
    let root = place.open().await.signing_root().0;
    // The files were written, and the store was not.
    place.store = Arc::new(RedbStore::in_memory().unwrap());
    assert_eq!(place.open().await.signing_root().0, root);
    assert_eq!(place.files().len(), 4);
    // Something unfinished is no root.
    fs::create_dir(place.directory.path().join("ca/.new-abc")).unwrap();
    assert_eq!(place.open().await.signing_root().0, root);
    assert_eq!(place.files().len(), 4);
}

mod rotation;
