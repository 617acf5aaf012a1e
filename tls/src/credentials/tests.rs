//! Loading credentials, and what their TLS configurations negotiate.

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::{
    AlertDescription, CipherSuite, Error, HandshakeKind, NamedGroup, PeerIncompatible, ServerConnection,
    client::Resumption,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs::kx_group::X25519},
};

use super::*;
use crate::{test_pair::Pair, testing::Authority};

fn silent() -> OnRefusal {
    Arc::new(|_| {})
}

fn two() -> (Credentials, Credentials) {
    let authority = Authority::new("mesh.test");
    (
        authority.credentials("default", "client"),
        authority.credentials("default", "web"),
    )
}

fn client(credentials: &Credentials, expected: &Credentials) -> ClientConfig {
    credentials
        .client_config(expected.svid().id(), ALPN_H3, silent())
        .unwrap()
}

fn server(credentials: &Credentials) -> ServerConfig {
    credentials.server_config(ALPN_H3, silent()).unwrap()
}

/// The same client with another order or choice of algorithms.
fn with_provider(config: &ClientConfig, change: impl FnOnce(&mut CryptoProvider)) -> ClientConfig {
    let (ours, web) = two();
    let mut other = (**config.crypto_provider()).clone();
    change(&mut other);
    let verifier = SpiffeVerifier::of_listener(ours.bundle.clone(), web.svid().id().clone(), silent());
    let mut changed = ClientConfig::builder_with_provider(Arc::new(other))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(config.client_auth_cert_resolver.clone());
    changed.alpn_protocols = config.alpn_protocols.clone();
    changed
}

#[test]
fn an_svid_is_read_from_pem_and_never_shows_its_key() {
    let authority = Authority::new("mesh.test");
    let pem = authority.svid_pem("default", "web");
    let svid = Svid::from_pem(pem.chain.as_bytes(), pem.key.as_bytes()).unwrap();
    assert_eq!(svid.id().as_str(), "spiffe://mesh.test/ns/default/sa/web");
    assert_eq!(svid.chain().len(), 1);
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(seconds(svid.not_before()), 1_577_836_800);
    assert_eq!(seconds(svid.not_after()), 4_102_444_800);

    let credentials = Credentials::new(svid, authority.bundle()).unwrap();
    let shown = format!(
        "{credentials:?} {credentials:#?} {:?}",
        client(&credentials, &credentials)
    );
    let PrivateKeyDer::Pkcs8(key) = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap() else {
        panic!("not PKCS#8")
    };
    // The seed is the last 32 bytes of the key that went in (testing.rs).
    let seed = key.secret_pkcs8_der().get(16..48).unwrap();
    for form in [format!("{seed:?}"), hex(seed)] {
        assert!(!shown.contains(&form[1..form.len() - 1]), "{shown}");
    }
    assert!(shown.contains("web") && !shown.contains("PRIVATE"), "{shown}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn credentials_that_do_not_fit_are_refused() {
    let authority = Authority::new("mesh.test");
    let (web, db) = (
        authority.svid_pem("default", "web"),
        authority.svid_pem("default", "db"),
    );
    let load = |chain: &str, key: &str| Svid::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
    assert!(matches!(load(&web.chain, &db.key), CredentialsError::KeyMismatch));
    assert!(matches!(load("", &web.key), CredentialsError::NoCertificate));
    assert!(matches!(
        load(&web.key, &web.key),
        CredentialsError::NoCertificate
    ));
    assert!(matches!(
        load(&web.chain.replace("END", "DNE"), &web.key),
        CredentialsError::CertificateNotPem
    ));
    assert!(matches!(load(&web.chain, ""), CredentialsError::NoKey));
    assert!(matches!(
        load(&web.chain, &web.key.replace("END", "DNE")),
        CredentialsError::NoKey
    ));
    assert!(matches!(
        load(&web.chain, &format!("{}{}", web.key, db.key)),
        CredentialsError::NoKey
    ));
    assert!(matches!(
        load(&web.chain.repeat(7), &web.key),
        CredentialsError::ChainTooLarge
    ));
    let cut: String = web
        .key
        .lines()
        .enumerate()
        .filter(|(line, _)| *line != 1)
        .map(|(_, text)| text)
        .collect();
    assert!(matches!(
        load(&web.chain, &cut),
        CredentialsError::NoKey | CredentialsError::BadKey
    ));
    let root = authority.bundle_pem();
    assert!(matches!(
        load(&root, &web.key),
        CredentialsError::NotSvid(Refusal::LeafIsCa)
    ));

    let other = Authority::new("other.test").bundle();
    let error = Credentials::new(authority.svid("default", "web"), other).unwrap_err();
    assert!(
        matches!(error, CredentialsError::TrustDomainMismatch { .. }),
        "{error}"
    );
    let same_name = Authority::new("other.test").bundle_pem();
    let error = Credentials::from_pem(web.chain.as_bytes(), web.key.as_bytes(), same_name.as_bytes());
    assert!(matches!(
        error.unwrap_err(),
        CredentialsError::NotTrusted(Refusal::UnknownAuthority)
    ));
}

#[test]
fn an_expired_svid_still_loads_so_that_it_can_be_renewed() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = rcgen::CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.subject_alt_names = vec![SanType::URI("spiffe://mesh.test/a".try_into().unwrap())];
    let leaf = params.signed_by(&key, &root).unwrap();
    let load = || {
        Credentials::from_pem(
            leaf.pem().as_bytes(),
            key.serialize_pem().as_bytes(),
            root.pem().as_bytes(),
        )
    };
    assert!(load().unwrap().svid().not_after() < SystemTime::now());
}

#[test]
fn keys_are_read_as_pkcs8_and_as_sec1() {
    let authority = Authority::new("mesh.test");
    let key = KeyPair::generate().unwrap();
    let chain = authority.chain_pem_for(&authority.id("default", "web"), &key);
    let load = |pem: &str| Svid::from_pem(chain.as_bytes(), pem.as_bytes());
    load(&key.serialize_pem()).unwrap();
    // The ECPrivateKey of RFC 5915 is what the OCTET STRING that ends a PKCS#8 key holds.
    let pkcs8 = key.serialize_der();
    let start = pkcs8
        .windows(4)
        .position(|bytes| matches!(bytes, [0x04, _, 0x30, _]))
        .unwrap();
    let sec1 = base64(&pkcs8[start + 2..]);
    load(&format!(
        "-----BEGIN EC PRIVATE KEY-----\n{sec1}\n-----END EC PRIVATE KEY-----\n"
    ))
    .unwrap();
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit > chunk.len() {
                '='
            } else {
                char::from(ALPHABET[index])
            });
        }
    }
    text
}

#[test]
fn aes_128_and_the_hybrid_key_exchange_are_negotiated() {
    let (ours, web) = two();
    let pair = Pair::handshake(client(&ours, &web), server(&web));
    assert!(pair.complete());
    assert_eq!(
        pair.client.negotiated_cipher_suite().unwrap().suite(),
        CipherSuite::TLS13_AES_128_GCM_SHA256
    );
    assert_eq!(
        pair.client.negotiated_key_exchange_group().unwrap().name(),
        NamedGroup::X25519MLKEM768
    );
    assert_eq!(pair.server.handshake_kind(), Some(HandshakeKind::Full));
    assert_eq!(pair.server.server_name(), None, "no SNI");
    assert_eq!(pair.server.alpn_protocol(), Some(ALPN_H3));
    let caller = crate::verify::peer_identity(pair.server.peer_certificates().unwrap()).unwrap();
    assert_eq!(&caller.id, ours.svid().id());
    assert_eq!(caller.not_after, ours.svid().not_after());
}

#[test]
fn the_listener_prefers_aes_128_whatever_the_dialler_prefers() {
    let (ours, web) = two();
    let dialler = with_provider(&client(&ours, &web), |provider| provider.cipher_suites.reverse());
    let pair = Pair::handshake(dialler, server(&web));
    assert_eq!(
        pair.client.negotiated_cipher_suite().unwrap().suite(),
        CipherSuite::TLS13_AES_128_GCM_SHA256
    );
}

#[test]
fn x25519_is_accepted_and_no_other_curve() {
    let (ours, web) = two();
    let with = |group: &'static dyn SupportedKxGroup| {
        let dialler = with_provider(&client(&ours, &web), |provider| provider.kx_groups = vec![group]);
        Pair::handshake(dialler, server(&web))
    };
    let pair = with(X25519);
    assert!(pair.complete());
    assert_eq!(
        pair.server.negotiated_key_exchange_group().unwrap().name(),
        NamedGroup::X25519
    );
    let pair = with(rustls::crypto::aws_lc_rs::kx_group::SECP256R1);
    assert_eq!(
        pair.server_error,
        Some(Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon))
    );
}

#[test]
fn another_application_protocol_is_refused() {
    let (ours, web) = two();
    let mut h2 = client(&ours, &web);
    h2.alpn_protocols = vec![b"h2".to_vec()];
    let pair = Pair::handshake(h2, server(&web));
    assert_eq!(pair.server_error, Some(Error::NoApplicationProtocol));
    assert_eq!(
        pair.client_error,
        Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol))
    );
    assert!(Pair::handshake(client(&ours, &web), server(&web)).complete());
}

#[test]
fn no_handshake_is_ever_resumed() {
    let (ours, web) = two();
    // Our dialler with a listener that gives tickets; our listener with a dialler that keeps them; ours
    // with ours. The last pair shows that the test can see a resumption at all.
    let dialler = Arc::new(client(&ours, &web));
    let listener = Arc::new(server(&web));
    let giver = Arc::new({
        let mut config = server(&web);
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
        config.send_tls13_tickets = 2;
        config
    });
    let keeper = Arc::new({
        let mut config = client(&ours, &web);
        config.resumption = Resumption::in_memory_sessions(16);
        config
    });
    let second = |dialler, listener| {
        assert!(Pair::handshake_shared(dialler, listener).complete());
        Pair::handshake_shared(dialler, listener).server.handshake_kind()
    };
    assert_eq!(second(&dialler, &giver), Some(HandshakeKind::Full));
    assert_eq!(second(&keeper, &listener), Some(HandshakeKind::Full));
    assert_eq!(second(&dialler, &listener), Some(HandshakeKind::Full));
    assert_eq!(second(&keeper, &giver), Some(HandshakeKind::Resumed));
    assert_eq!(
        Pair::handshake_shared(&keeper, &listener)
            .client
            .tls13_tickets_received(),
        0
    );
}

#[test]
fn tls_1_2_is_refused_by_both_ends() {
    let (ours, web) = two();
    // RFC 5246 section 7.4.1: hellos without the supported_versions extension of TLS 1.3.
    let random = [0x5a; 32];
    let mut client_hello = vec![3, 3];
    client_hello.extend_from_slice(&random);
    // No session; ECDHE-ECDSA-AES128-GCM and AES-128-GCM; no compression; groups and signatures.
    client_hello.extend_from_slice(&[0, 0, 4, 0xc0, 0x2b, 0x13, 0x01, 1, 0]);
    client_hello.extend_from_slice(&[0, 18, 0, 10, 0, 4, 0, 2, 0, 29, 0, 13, 0, 6, 0, 4, 8, 7, 4, 3]);
    let mut listener = ServerConnection::new(Arc::new(server(&web))).unwrap();
    feed(|bytes| listener.read_tls(bytes), &record(1, &client_hello));
    assert_eq!(
        listener.process_new_packets().unwrap_err(),
        Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired)
    );

    let mut server_hello = vec![3, 3];
    server_hello.extend_from_slice(&random);
    server_hello.extend_from_slice(&[0, 0xc0, 0x2b, 0]);
    let name = SERVER_NAME.try_into().unwrap();
    let mut dialler = rustls::ClientConnection::new(Arc::new(client(&ours, &web)), name).unwrap();
    feed(|bytes| dialler.read_tls(bytes), &record(2, &server_hello));
    assert!(matches!(
        dialler.process_new_packets().unwrap_err(),
        Error::PeerIncompatible(_)
    ));
}

fn record(kind: u8, message: &[u8]) -> Vec<u8> {
    let length = u8::try_from(message.len()).unwrap();
    let mut record = vec![22, 3, 3, 0, length + 4, kind, 0, 0, length];
    record.extend_from_slice(message);
    record
}

fn feed(read: impl FnOnce(&mut dyn std::io::Read) -> std::io::Result<usize>, bytes: &[u8]) {
    assert_eq!(read(&mut &bytes[..]).unwrap(), bytes.len());
}

#[test]
fn test_credentials_are_the_same_bytes_in_every_run() {
    let make = || {
        let authority = Authority::new("mesh.test");
        let pem = authority.svid_pem("default", "web");
        (authority.bundle_pem(), pem.chain, pem.key)
    };
    assert_eq!(make(), make());
    let (ours, web) = two();
    assert_eq!(
        ours.svid().chain()[0].len(),
        web.svid().chain()[0].len() + "client".len() - "web".len()
    );
}
