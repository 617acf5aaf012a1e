//! Bad certificates, each shown to both ends of a real handshake and refused for its own reason; and
//! good ones, which must pass.

mod grpc;
mod join;

use std::{
    sync::{Arc, Mutex},
    time::SystemTime,
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose as Eku, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose as Usage,
    NameConstraints, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519,
    PKCS_RSA_SHA256, PublicKeyData, SanType, SignatureAlgorithm, date_time_ymd,
};
use rustls::{
    AlertDescription, ClientConfig, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
};
use rustls_pki_types::PrivateKeyDer;
use weft_proto::identity::TrustDomain;

use super::*;
use crate::{
    credentials::{ALPN_H3, Credentials},
    provider::provider,
    test_pair::Pair,
};

const WEB: &str = "spiffe://mesh.test/ns/default/sa/web";
const OID_SAN: &[u64] = &[2, 5, 29, 17];
const OID_EKU: &[u64] = &[2, 5, 29, 37];
const OID_KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const OID_NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];

/// An authority: what it says of itself, and its key.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
    certificate: Certificate,
}

impl Ca {
    fn root(name: &str) -> Self {
        Self::root_with(ca_params(name))
    }

    fn root_with(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            params,
            key,
            certificate,
        }
    }

    fn intermediate(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = self.sign(&params, &key);
        Self {
            params,
            key,
            certificate,
        }
    }

    fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Certificate {
        params
            .signed_by(key, &Issuer::from_params(&self.params, &self.key))
            .unwrap()
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![Usage::KeyCertSign, Usage::CrlSign];
    params
}

/// A sound SVID of `web`, to be spoilt.
fn leaf_params() -> CertificateParams {
    let mut params = ca_params("leaf");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![Usage::DigitalSignature];
    params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
    params.subject_alt_names = vec![uri(WEB)];
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A SAN extension with one URI of any bytes at all.
fn raw_uri(bytes: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(OID_SAN, der(0x30, &der(0x86, bytes)))
}

/// A value of X.690 with its tag and length.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = match u16::try_from(length).unwrap() {
        0..128 => vec![tag, length as u8],
        128..256 => vec![tag, 0x81, length as u8],
        long => [&[tag, 0x82][..], &long.to_be_bytes()].concat(),
    };
    out.extend_from_slice(content);
    out
}

/// What the peer under test shows: a chain, and a key to sign the handshake with.
struct Exhibit {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
}

/// One mesh, to make chains in.
struct World {
    root: Ca,
    key: KeyPair,
}

impl World {
    fn new() -> Self {
        Self::under_root("root")
    }

    fn under_root(name: &str) -> Self {
        Self {
            root: Ca::root(name),
            key: KeyPair::generate().unwrap(),
        }
    }

    fn trust_domain(&self) -> TrustDomain {
        "mesh.test".parse().unwrap()
    }

    fn credentials(&self) -> Credentials {
        let leaf = self.root.sign(&leaf_params(), &self.key);
        Credentials::from_pem(
            leaf.pem().as_bytes(),
            self.key.serialize_pem().as_bytes(),
            self.root.certificate.pem().as_bytes(),
        )
        .unwrap()
    }

    fn show(&self, chain: impl IntoIterator<Item = CertificateDer<'static>>) -> Exhibit {
        Exhibit {
            chain: chain.into_iter().collect(),
            key: signing_key(&self.key),
        }
    }

    /// A leaf of the root, changed in one way.
    fn leaf(&self, spoil: impl FnOnce(&mut CertificateParams)) -> Exhibit {
        let mut params = leaf_params();
        spoil(&mut params);
        self.show([self.root.sign(&params, &self.key).into()])
    }

    /// A sound leaf under an intermediate that is changed in one way.
    fn under(&self, spoil: impl FnOnce(&mut CertificateParams)) -> Exhibit {
        let mut params = ca_params("intermediate");
        spoil(&mut params);
        let intermediate = self.root.intermediate(params);
        self.show([
            intermediate.sign(&leaf_params(), &self.key).into(),
            intermediate.certificate.into(),
        ])
    }

    /// A sound leaf with a key of another algorithm.
    fn with_key(&self, key: &KeyPair) -> Exhibit {
        Exhibit {
            chain: vec![self.root.sign(&leaf_params(), key).into()],
            key: signing_key(key),
        }
    }

    /// A sound leaf under a number of intermediates.
    fn deep(&self, intermediates: usize) -> Exhibit {
        let mut chain = Vec::new();
        let mut issuer = self.root.intermediate(ca_params("intermediate 1"));
        for depth in 2..=intermediates {
            let next = issuer.intermediate(ca_params(&format!("intermediate {depth}")));
            chain.insert(0, issuer.certificate.into());
            issuer = next;
        }
        let leaf = issuer.sign(&leaf_params(), &self.key);
        chain.insert(0, issuer.certificate.into());
        chain.insert(0, leaf.into());
        self.show(chain)
    }
}

fn signing_key(key: &KeyPair) -> Arc<dyn SigningKey> {
    let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    // The default provider: an attacker's keys need not be ours.
    rustls::crypto::aws_lc_rs::default_provider()
        .key_provider
        .load_private_key(der)
        .unwrap()
}

/// What became of a handshake.
#[derive(Debug, PartialEq)]
enum Outcome {
    Accepted,
    /// What our side says, in its error and to its hook; and the alert that the peer received.
    Refused {
        error: Option<Refusal>,
        told: Vec<Refusal>,
        alert: Option<AlertDescription>,
    },
}

fn told() -> (OnRefusal, Arc<Mutex<Vec<Refusal>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = told.clone();
    (Arc::new(move |refusal| hook.lock().unwrap().push(refusal)), told)
}

/// Our dialler, expecting `web`, meets a listener that shows this.
fn dial(ours: &Credentials, shown: Option<&Exhibit>) -> Outcome {
    let (hook, told) = told();
    let client = ours.client_config(&WEB.parse().unwrap(), ALPN_H3, hook).unwrap();
    let mut server = careless_server(shown.unwrap());
    server.alpn_protocols = vec![ALPN_H3.to_vec()];
    let pair = Pair::handshake(client, server);
    outcome(
        pair.complete(),
        pair.client_error.as_ref(),
        pair.server_error.as_ref(),
        &told,
    )
}

/// Our listener meets a dialler that shows this.
fn listen(ours: &Credentials, shown: Option<&Exhibit>) -> Outcome {
    let (hook, told) = told();
    let server = ours.server_config(ALPN_H3, hook).unwrap();
    let mut client = careless_client(shown);
    client.alpn_protocols = vec![ALPN_H3.to_vec()];
    let pair = Pair::handshake(client, server);
    outcome(
        pair.complete(),
        pair.server_error.as_ref(),
        pair.client_error.as_ref(),
        &told,
    )
}

/// A listener that shows this and checks nothing.
fn careless_server(shown: &Exhibit) -> ServerConfig {
    let anyone: Arc<dyn ClientCertVerifier> = Arc::new(AcceptAnything);
    ServerConfig::builder_with_provider(any_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(anyone)
        .with_cert_resolver(resolver(shown))
}

/// A dialler that shows this, or nothing, and checks nothing.
fn careless_client(shown: Option<&Exhibit>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(any_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAnything));
    match shown {
        Some(shown) => builder.with_client_cert_resolver(resolver(shown)),
        None => builder.with_no_client_auth(),
    }
}

fn outcome(
    complete: bool,
    ours: Option<&Error>,
    theirs: Option<&Error>,
    told: &Mutex<Vec<Refusal>>,
) -> Outcome {
    if complete {
        return Outcome::Accepted;
    }
    Outcome::Refused {
        error: ours.and_then(refusal),
        told: told.lock().unwrap().clone(),
        alert: match theirs {
            Some(Error::AlertReceived(alert)) => Some(*alert),
            _ => None,
        },
    }
}

/// Told once, and the peer learns no more than that its certificate will not do.
fn refused(reason: Refusal) -> Outcome {
    Outcome::Refused {
        error: Some(reason),
        told: vec![reason],
        alert: Some(AlertDescription::CertificateUnknown),
    }
}

fn resolver(shown: &Exhibit) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(
        shown.chain.clone(),
        shown.key.clone(),
    )))
}

fn any_provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The attacker's end, which checks nothing and signs with whatever it has.
#[derive(Debug)]
struct AcceptAnything;

impl ServerCertVerifier for AcceptAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        any_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for AcceptAnything {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        any_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }

    fn client_auth_mandatory(&self) -> bool {
        // A joiner has no certificate.
        false
    }
}

/// A public key that is not what it should be; nobody has its private half.
struct PublicKey(&'static SignatureAlgorithm, Vec<u8>);

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.1
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0
    }
}

/// RSA of 1024 bits (RFC 8017 appendix A.1.1).
fn rsa_1024() -> PublicKey {
    let mut der = vec![0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00];
    der.extend_from_slice(&[0xc5; 128]);
    der.extend_from_slice(&[0x02, 0x03, 0x01, 0x00, 0x01]);
    PublicKey(&PKCS_RSA_SHA256, der)
}

/// A sound leaf but for its signature's algorithm, which is made to say sha1WithRSAEncryption.
fn sha1(world: &World) -> Exhibit {
    const SHA256_WITH_RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let certificate = ca_params("intermediate");
    let intermediate = Ca {
        certificate: world.root.sign(&certificate, &key),
        params: certificate,
        key,
    };
    let mut leaf = intermediate.sign(&leaf_params(), &world.key).der().to_vec();
    let algorithms: Vec<usize> = (0..leaf.len())
        .filter(|at| leaf[*at..].starts_with(&SHA256_WITH_RSA))
        .collect();
    assert_eq!(algorithms.len(), 2);
    for at in algorithms {
        leaf[at + SHA256_WITH_RSA.len() - 1] = 5;
    }
    world.show([leaf.into(), intermediate.certificate.into()])
}

/// Chains that neither end may accept.
fn bad_chains(world: &World) -> Vec<(&'static str, Exhibit, Refusal)> {
    let mut chains = bad_leaves(world);
    chains.extend(bad_names(world));
    chains.extend(bad_paths(world));
    chains
}

fn bad_leaves(world: &World) -> Vec<(&'static str, Exhibit, Refusal)> {
    let eku = |usages: &[Eku]| {
        let usages = usages.to_vec();
        world.leaf(move |leaf| leaf.extended_key_usages = usages)
    };
    let usage = |usages: &[Usage]| {
        let usages = usages.to_vec();
        world.leaf(move |leaf| leaf.key_usages = usages)
    };
    let weak = world.root.sign(&leaf_params(), &rsa_1024());
    // Signed for with a P-256 key, because a P-521 one has no signature that we would be offered.
    let p521 = world.root.sign(
        &leaf_params(),
        &KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap(),
    );
    let sound = world.root.sign(&leaf_params(), &world.key);
    let mut trailing = sound.der().to_vec();
    trailing.push(0);
    let another_key = signing_key(&KeyPair::generate().unwrap());
    vec![
        (
            "expired",
            world.leaf(|leaf| leaf.not_after = date_time_ymd(2021, 1, 1)),
            Refusal::Expired,
        ),
        (
            "not yet valid",
            world.leaf(|leaf| leaf.not_before = date_time_ymd(2099, 1, 1)),
            Refusal::NotYetValid,
        ),
        (
            "EKU serverAuth alone",
            eku(&[Eku::ServerAuth]),
            Refusal::ExtendedKeyUsage,
        ),
        (
            "EKU clientAuth alone",
            eku(&[Eku::ClientAuth]),
            Refusal::ExtendedKeyUsage,
        ),
        (
            "EKU codeSigning",
            eku(&[Eku::CodeSigning]),
            Refusal::ExtendedKeyUsage,
        ),
        ("EKU any", eku(&[Eku::Any]), Refusal::ExtendedKeyUsage),
        (
            "EKU empty",
            world.leaf(|leaf| {
                leaf.extended_key_usages.clear();
                leaf.custom_extensions = vec![CustomExtension::from_oid_content(OID_EKU, vec![0x30, 0])];
            }),
            Refusal::ExtendedKeyUsage,
        ),
        (
            "CA:true",
            world.leaf(|leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            Refusal::LeafIsCa,
        ),
        (
            "keyCertSign",
            usage(&[Usage::DigitalSignature, Usage::KeyCertSign]),
            Refusal::LeafMaySign,
        ),
        (
            "cRLSign",
            usage(&[Usage::DigitalSignature, Usage::CrlSign]),
            Refusal::LeafMaySign,
        ),
        ("no key usage", usage(&[]), Refusal::KeyUsage),
        (
            "no digitalSignature",
            usage(&[Usage::KeyEncipherment, Usage::KeyAgreement]),
            Refusal::KeyUsage,
        ),
        (
            "unknown critical extension",
            world.leaf(|leaf| {
                let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![0x05, 0x00]);
                extension.set_criticality(true);
                leaf.custom_extensions = vec![extension];
            }),
            Refusal::Malformed,
        ),
        ("RSA of 1024 bits", world.show([weak.into()]), Refusal::WeakKey),
        ("ECDSA P-521", world.show([p521.into()]), Refusal::WeakKey),
        (
            "bytes after the certificate",
            world.show([trailing.into()]),
            Refusal::Malformed,
        ),
        (
            "not a certificate",
            world.show([vec![0x30, 0x03, 0x02, 0x01, 0x00].into()]),
            Refusal::Malformed,
        ),
        (
            "empty certificate",
            world.show([Vec::new().into()]),
            Refusal::Malformed,
        ),
        (
            "ends before it begins",
            world.leaf(|leaf| {
                leaf.not_before = date_time_ymd(2022, 1, 1);
                leaf.not_after = date_time_ymd(2021, 1, 1);
            }),
            Refusal::Malformed,
        ),
        (
            "two key usage extensions",
            world.leaf(|leaf| {
                leaf.custom_extensions = vec![CustomExtension::from_oid_content(
                    OID_KEY_USAGE,
                    vec![0x03, 0x02, 0x07, 0x80],
                )];
            }),
            Refusal::Malformed,
        ),
        ("signed with SHA-1", sha1(world), Refusal::UnsupportedSignature),
        (
            "handshake signed by another key",
            Exhibit {
                chain: vec![sound.into()],
                key: another_key,
            },
            Refusal::BadSignature,
        ),
    ]
}

fn bad_names(world: &World) -> Vec<(&'static str, Exhibit, Refusal)> {
    let names = |names: Vec<SanType>| world.leaf(|leaf| leaf.subject_alt_names = names);
    let raw = |bytes: &[u8]| {
        world.leaf(|leaf| {
            leaf.subject_alt_names.clear();
            leaf.custom_extensions = vec![raw_uri(bytes)];
        })
    };
    vec![
        (
            "two URIs",
            names(vec![uri(WEB), uri("spiffe://mesh.test/a")]),
            Refusal::SeveralUriNames,
        ),
        (
            "the same URI twice",
            names(vec![uri(WEB), uri(WEB)]),
            Refusal::SeveralUriNames,
        ),
        (
            "a second URI that is no SPIFFE ID",
            names(vec![uri(WEB), uri("https://mesh.test/")]),
            Refusal::SeveralUriNames,
        ),
        (
            "two SAN extensions",
            world.leaf(|leaf| leaf.custom_extensions = vec![raw_uri(WEB.as_bytes())]),
            Refusal::Malformed,
        ),
        ("no SAN", names(Vec::new()), Refusal::NoUriName),
        (
            "DNS only",
            names(vec![SanType::DnsName("web.default".try_into().unwrap())]),
            Refusal::NoUriName,
        ),
        (
            "trust domain without a path",
            names(vec![uri("spiffe://mesh.test")]),
            Refusal::NotSpiffeId,
        ),
        (
            "root path",
            names(vec![uri("spiffe://mesh.test/")]),
            Refusal::NotSpiffeId,
        ),
        (
            "trailing slash",
            names(vec![uri("spiffe://mesh.test/ns/a/")]),
            Refusal::NotSpiffeId,
        ),
        (
            "empty segment",
            names(vec![uri("spiffe://mesh.test/ns//sa/web")]),
            Refusal::NotSpiffeId,
        ),
        (
            "dot segment",
            names(vec![uri("spiffe://mesh.test/ns/../sa/web")]),
            Refusal::NotSpiffeId,
        ),
        (
            "https",
            names(vec![uri("https://mesh.test/ns/default/sa/web")]),
            Refusal::NotSpiffeId,
        ),
        (
            "upper-case scheme",
            names(vec![uri("SPIFFE://mesh.test/ns/a/sa/web")]),
            Refusal::NotSpiffeId,
        ),
        (
            "port",
            names(vec![uri("spiffe://mesh.test:1/ns/a/sa/web")]),
            Refusal::NotSpiffeId,
        ),
        (
            "userinfo",
            names(vec![uri("spiffe://a@mesh.test/ns/a/sa/web")]),
            Refusal::NotSpiffeId,
        ),
        (
            "query",
            names(vec![uri("spiffe://mesh.test/ns/a/sa/web?a")]),
            Refusal::NotSpiffeId,
        ),
        (
            "%0d%0a",
            names(vec![uri("spiffe://mesh.test/ns/a/sa/web%0d%0a")]),
            Refusal::NotSpiffeId,
        ),
        (
            "NUL",
            raw(b"spiffe://mesh.test/ns/default/sa/web\0.evil"),
            Refusal::NotSpiffeId,
        ),
        (
            "CR LF",
            raw(b"spiffe://mesh.test/ns/default/sa/web\r\nx: y"),
            Refusal::NotSpiffeId,
        ),
        (
            "not UTF-8",
            raw(b"spiffe://mesh.test/ns/default/sa/\xff"),
            Refusal::NotSpiffeId,
        ),
        (
            "not ASCII",
            raw("spiffe://mesh.test/ns/default/sa/wéb".as_bytes()),
            Refusal::NotSpiffeId,
        ),
        ("empty URI", raw(b""), Refusal::NotSpiffeId),
        (
            "CR",
            raw(b"spiffe://mesh.test/ns/default/sa/web\r"),
            Refusal::NotSpiffeId,
        ),
        (
            "LF",
            raw(b"spiffe://mesh.test/ns/default/sa/web\n"),
            Refusal::NotSpiffeId,
        ),
        (
            "space",
            raw(b" spiffe://mesh.test/ns/default/sa/web"),
            Refusal::NotSpiffeId,
        ),
        (
            "NUL in the trust domain",
            raw(b"spiffe://mesh.test\0/ns/a/sa/web"),
            Refusal::NotSpiffeId,
        ),
        (
            "fragment",
            raw(b"spiffe://mesh.test/ns/a/sa/web#a"),
            Refusal::NotSpiffeId,
        ),
        (
            "%2f",
            raw(b"spiffe://mesh.test/ns/a%2fsa/web"),
            Refusal::NotSpiffeId,
        ),
        (
            "backslash",
            raw(b"spiffe://mesh.test\\ns\\a"),
            Refusal::NotSpiffeId,
        ),
        (
            "wildcard",
            raw(b"spiffe://mesh.test/ns/*/sa/web"),
            Refusal::NotSpiffeId,
        ),
        (
            "upper-case trust domain",
            raw(b"spiffe://MESH.test/ns/a/sa/web"),
            Refusal::NotSpiffeId,
        ),
        (
            "userinfo with a password",
            raw(b"spiffe://a:b@mesh.test/ns/a/sa/web"),
            Refusal::NotSpiffeId,
        ),
        (
            "no trust domain",
            raw(b"spiffe:///ns/a/sa/web"),
            Refusal::NotSpiffeId,
        ),
        (
            "no slashes",
            raw(b"spiffe:mesh.test/ns/a/sa/web"),
            Refusal::NotSpiffeId,
        ),
        (
            "over 2048 bytes",
            raw(format!("spiffe://mesh.test/{}", "a".repeat(2_030)).as_bytes()),
            Refusal::NotSpiffeId,
        ),
        (
            "trust domain over 255 bytes",
            raw(format!("spiffe://{}/a", "a".repeat(256)).as_bytes()),
            Refusal::NotSpiffeId,
        ),
        (
            "address only",
            names(vec![SanType::IpAddress([10, 0, 0, 1].into())]),
            Refusal::NoUriName,
        ),
        (
            "e-mail only",
            names(vec![SanType::Rfc822Name("web@mesh.test".try_into().unwrap())]),
            Refusal::NoUriName,
        ),
        (
            "the SPIFFE ID as a DNS name",
            names(vec![SanType::DnsName(WEB.try_into().unwrap())]),
            Refusal::NoUriName,
        ),
        (
            "the SPIFFE ID as the subject",
            world.leaf(|leaf| {
                leaf.subject_alt_names.clear();
                leaf.distinguished_name.push(DnType::CommonName, WEB);
            }),
            Refusal::NoUriName,
        ),
        (
            "a trust domain below ours",
            names(vec![uri("spiffe://a.mesh.test/ns/default/sa/web")]),
            Refusal::WrongTrustDomain,
        ),
        (
            "our trust domain with a dot",
            names(vec![uri("spiffe://mesh.test./ns/default/sa/web")]),
            Refusal::WrongTrustDomain,
        ),
        (
            "another trust domain",
            names(vec![uri("spiffe://other.test/ns/default/sa/web")]),
            Refusal::WrongTrustDomain,
        ),
        (
            "a trust domain that begins like ours",
            names(vec![uri("spiffe://mesh.test.evil/ns/default/sa/web")]),
            Refusal::WrongTrustDomain,
        ),
    ]
}

fn bad_paths(world: &World) -> Vec<(&'static str, Exhibit, Refusal)> {
    let leaf_of = |ca: &Ca| CertificateDer::from(ca.sign(&leaf_params(), &world.key));
    let stranger = Ca::root("another root");
    let namesake = Ca::root("root");
    let intermediate = world.root.intermediate(ca_params("intermediate"));
    let self_signed = leaf_params().self_signed(&world.key).unwrap();
    let mut self_signed_ca = leaf_params();
    self_signed_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let self_signed_ca = self_signed_ca.self_signed(&world.key).unwrap();
    let mut forged = leaf_of(&world.root).to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let short = world.root.intermediate({
        let mut params = ca_params("short");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params
    });
    let below_short = short.intermediate(ca_params("below"));
    vec![
        (
            "unknown root",
            world.show([leaf_of(&stranger)]),
            Refusal::UnknownAuthority,
        ),
        (
            "unknown root that is sent along",
            world.show([leaf_of(&stranger), stranger.certificate.clone().into()]),
            Refusal::UnknownAuthority,
        ),
        (
            "unknown root of the same name",
            world.show([leaf_of(&namesake)]),
            Refusal::BadSignature,
        ),
        (
            "self-signed",
            world.show([self_signed.into()]),
            Refusal::UnknownAuthority,
        ),
        (
            "self-signed CA",
            world.show([self_signed_ca.into()]),
            Refusal::LeafIsCa,
        ),
        (
            "the root itself",
            world.show([world.root.certificate.clone().into()]),
            Refusal::LeafIsCa,
        ),
        (
            "forged signature",
            world.show([forged.into()]),
            Refusal::BadSignature,
        ),
        (
            "intermediate left out",
            world.show([leaf_of(&intermediate)]),
            Refusal::UnknownAuthority,
        ),
        (
            "intermediate that is not a CA",
            world.under(|ca| ca.is_ca = IsCa::ExplicitNoCa),
            Refusal::IssuerNotCa,
        ),
        (
            "intermediate without keyCertSign",
            world.under(|ca| ca.key_usages = vec![Usage::DigitalSignature]),
            Refusal::IssuerNotCa,
        ),
        (
            "intermediate that expired",
            world.under(|ca| ca.not_after = date_time_ymd(2021, 1, 1)),
            Refusal::Expired,
        ),
        (
            "intermediate for code signing",
            world.under(|ca| ca.extended_key_usages = vec![Eku::CodeSigning]),
            Refusal::ExtendedKeyUsage,
        ),
        (
            "intermediate of another trust domain",
            world.under(|ca| ca.subject_alt_names = vec![uri("spiffe://other.test")]),
            Refusal::ForeignAuthority,
        ),
        (
            "intermediate with a workload's name",
            world.under(|ca| ca.subject_alt_names = vec![uri(WEB)]),
            Refusal::ForeignAuthority,
        ),
        (
            "intermediate below a path length of 0",
            world.show([
                leaf_of(&below_short),
                below_short.certificate.clone().into(),
                short.certificate.clone().into(),
            ]),
            Refusal::PathLength,
        ),
        (
            "name outside the constraints",
            constrained(world),
            Refusal::NameConstraint,
        ),
        (
            "constraint on URIs",
            constrained_uris(world),
            Refusal::NameConstraint,
        ),
        (
            "signed by another leaf",
            under_a_leaf(world),
            Refusal::IssuerNotCa,
        ),
        (
            "leaf of a federated root that ours has signed",
            federated(world, "spiffe://other.test/ns/default/sa/web", None),
            Refusal::WrongTrustDomain,
        ),
        (
            "our name from a federated root that ours has signed",
            federated(world, WEB, Some("spiffe://other.test")),
            Refusal::ForeignAuthority,
        ),
        (
            "intermediate before the leaf",
            world.show([intermediate.certificate.clone().into(), leaf_of(&intermediate)]),
            Refusal::LeafIsCa,
        ),
        (
            "intermediate that is not yet valid",
            world.under(|ca| ca.not_before = date_time_ymd(2099, 1, 1)),
            Refusal::NotYetValid,
        ),
        (
            "intermediate with an unknown critical extension",
            world.under(|ca| {
                let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![0x05, 0x00]);
                extension.set_criticality(true);
                ca.custom_extensions = vec![extension];
            }),
            Refusal::Malformed,
        ),
        (
            "intermediate with a forged signature",
            forged_intermediate(world),
            Refusal::BadSignature,
        ),
        (
            "intermediate with a P-521 key",
            p521_intermediate(world),
            Refusal::UnsupportedSignature,
        ),
        (
            "authorities that sign each other",
            in_a_circle(world),
            Refusal::UnknownAuthority,
        ),
        ("seven certificates", world.deep(6), Refusal::ChainTooLong),
        ("thirty certificates", world.deep(29), Refusal::ChainTooLong),
        (
            "17 KiB",
            world.leaf(|leaf| {
                leaf.custom_extensions = vec![CustomExtension::from_oid_content(
                    &[1, 2, 3, 4],
                    vec![0; 17 * 1024],
                )];
            }),
            Refusal::ChainTooLarge,
        ),
    ]
}

/// A sound SVID signs another: it has a key, but no right to.
fn under_a_leaf(world: &World) -> Exhibit {
    let issuer = world.root.intermediate(leaf_params());
    world.show([
        issuer.sign(&leaf_params(), &world.key).into(),
        issuer.certificate.into(),
    ])
}

/// Another mesh's root, cross-signed by ours, which signs a leaf with this name.
fn federated(world: &World, name: &str, authority: Option<&str>) -> Exhibit {
    let mut params = ca_params("root of other.test");
    params.subject_alt_names = authority.map(uri).into_iter().collect();
    let other = world.root.intermediate(params);
    let mut leaf = leaf_params();
    leaf.subject_alt_names = vec![uri(name)];
    world.show([other.sign(&leaf, &world.key).into(), other.certificate.into()])
}

fn forged_intermediate(world: &World) -> Exhibit {
    let intermediate = world.root.intermediate(ca_params("intermediate"));
    let mut forged = intermediate.certificate.der().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    world.show([
        intermediate.sign(&leaf_params(), &world.key).into(),
        forged.into(),
    ])
}

/// What it signs is of an algorithm that is not taken.
fn p521_intermediate(world: &World) -> Exhibit {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
    let params = ca_params("intermediate");
    let intermediate = Ca {
        certificate: world.root.sign(&params, &key),
        params,
        key,
    };
    world.show([
        intermediate.sign(&leaf_params(), &world.key).into(),
        intermediate.certificate.into(),
    ])
}

/// Two authorities, each certified by the other alone.
fn in_a_circle(world: &World) -> Exhibit {
    let (left, right) = (Ca::root("left"), Ca::root("right"));
    world.show([
        left.sign(&leaf_params(), &world.key).into(),
        right.sign(&left.params, &left.key).into(),
        left.sign(&right.params, &right.key).into(),
    ])
}

/// An intermediate that may give URIs of another host only. No library understands such a constraint, so none is
/// taken for met.
fn constrained_uris(world: &World) -> Exhibit {
    world.under(|ca| {
        let subtree = der(0x30, &der(0x86, b"other.test"));
        let mut extension =
            CustomExtension::from_oid_content(OID_NAME_CONSTRAINTS, der(0x30, &der(0xa0, &subtree)));
        extension.set_criticality(true);
        ca.custom_extensions = vec![extension];
    })
}

/// A leaf with a DNS name that its intermediate may not give.
fn constrained(world: &World) -> Exhibit {
    let mut params = ca_params("intermediate");
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("mesh.test".into())],
        excluded_subtrees: Vec::new(),
    });
    let intermediate = world.root.intermediate(params);
    let mut leaf = leaf_params();
    leaf.subject_alt_names
        .push(SanType::DnsName("bank.example".try_into().unwrap()));
    world.show([
        intermediate.sign(&leaf, &world.key).into(),
        intermediate.certificate.into(),
    ])
}

/// How many there are: a case that is lost is noticed.
const BAD: usize = 95;
const GOOD: usize = 18;

#[test]
fn bad_chains_are_refused_in_both_roles_for_their_own_reason() {
    let world = World::new();
    let ours = world.credentials();
    let chains = bad_chains(&world);
    let names: std::collections::BTreeSet<_> = chains.iter().map(|(name, ..)| *name).collect();
    assert_eq!((chains.len(), names.len()), (BAD, BAD));
    let mut wrong = Vec::new();
    for (name, shown, reason) in &chains {
        for (role, outcome) in [
            ("dialler", dial(&ours, Some(shown))),
            ("listener", listen(&ours, Some(shown))),
        ] {
            if outcome != refused(*reason) {
                wrong.push(format!("{role}, {name}: {outcome:?} instead of {reason:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn good_chains_pass_in_both_roles() {
    let world = World::new();
    let ours = world.credentials();
    let root: CertificateDer<'static> = world.root.certificate.clone().into();
    let key = |algorithm| KeyPair::generate_for(algorithm).unwrap();
    let mut with_root = world.leaf(|_| {});
    with_root.chain.push(root);
    let mut with_stranger = world.leaf(|_| {});
    with_stranger
        .chain
        .push(Ca::root("another root").certificate.into());
    let chains = [
        ("ECDSA P-256", world.with_key(&key(&PKCS_ECDSA_P256_SHA256))),
        ("ECDSA P-384", world.with_key(&key(&PKCS_ECDSA_P384_SHA384))),
        ("Ed25519", world.with_key(&key(&PKCS_ED25519))),
        ("RSA of 2048 bits", world.with_key(&key(&PKCS_RSA_SHA256))),
        ("no EKU", world.leaf(|leaf| leaf.extended_key_usages.clear())),
        (
            "more usages",
            world.leaf(|leaf| leaf.key_usages.push(Usage::KeyAgreement)),
        ),
        (
            "more EKU",
            world.leaf(|leaf| leaf.extended_key_usages.push(Eku::CodeSigning)),
        ),
        ("no basic constraints", world.leaf(|leaf| leaf.is_ca = IsCa::NoCa)),
        (
            "DNS and address beside the URI",
            world.leaf(|leaf| {
                leaf.subject_alt_names
                    .push(SanType::DnsName("web".try_into().unwrap()));
                leaf.subject_alt_names
                    .push(SanType::IpAddress([10, 0, 0, 1].into()));
            }),
        ),
        (
            "no subject",
            world.leaf(|leaf| leaf.distinguished_name = DistinguishedName::new()),
        ),
        ("an intermediate", world.under(|_| {})),
        (
            "an intermediate with the trust domain's name",
            world.under(|ca| ca.subject_alt_names = vec![uri("spiffe://mesh.test")]),
        ),
        ("five intermediates", world.deep(5)),
        ("intermediates in reverse", {
            let mut reversed = world.deep(3);
            reversed.chain[1..].reverse();
            reversed
        }),
        ("an intermediate twice", {
            let mut twice = world.under(|_| {});
            twice.chain.push(twice.chain[1].clone());
            twice
        }),
        // RFC 5280 section 4.1.2.6 wants it critical then; issuers forget, and nothing hangs on it.
        (
            "no subject, and a SAN that is not critical",
            world.leaf(|leaf| {
                leaf.distinguished_name = DistinguishedName::new();
                leaf.subject_alt_names.clear();
                leaf.custom_extensions = vec![raw_uri(WEB.as_bytes())];
            }),
        ),
        ("the root sent along", with_root),
        ("a stranger's root sent along", with_stranger),
    ];
    assert_eq!(chains.len(), GOOD);
    for (name, shown) in &chains {
        assert_eq!(dial(&ours, Some(shown)), Outcome::Accepted, "dialler, {name}");
        assert_eq!(listen(&ours, Some(shown)), Outcome::Accepted, "listener, {name}");
        let peer = peer_identity(&shown.chain).unwrap();
        assert_eq!(peer.id.as_str(), WEB, "{name}");
    }
}

#[test]
fn only_the_dialler_pins_an_identity() {
    let world = World::new();
    let ours = world.credentials();
    let db = world.leaf(|leaf| leaf.subject_alt_names = vec![uri("spiffe://mesh.test/ns/default/sa/db")]);
    assert_eq!(dial(&ours, Some(&db)), refused(Refusal::WrongIdentity));
    assert_eq!(listen(&ours, Some(&db)), Outcome::Accepted);
}

#[test]
fn a_dialler_without_a_certificate_is_refused() {
    let world = World::new();
    // rustls refuses it before any verifier is asked, hence nothing told.
    let expected = Outcome::Refused {
        error: Some(Refusal::NoCertificate),
        told: Vec::new(),
        alert: Some(AlertDescription::CertificateRequired),
    };
    assert_eq!(listen(&world.credentials(), None), expected);
}

#[test]
fn a_verifier_without_a_pin_accepts_no_listener() {
    let world = World::new();
    let shown = world.leaf(|_| {});
    let verifier = SpiffeVerifier {
        bundle: Arc::new(world.credentials().bundle().clone()),
        pinned: None,
        on_refusal: told().0,
    };
    let name = "weft.invalid".try_into().unwrap();
    let error = verifier
        .verify_server_cert(&shown.chain[0], &[], &name, &[], UnixTime::now())
        .unwrap_err();
    assert_eq!(refusal(&error), Some(Refusal::WrongIdentity));
}

#[test]
fn an_expired_root_is_no_root() {
    let world = World::new();
    let bundle = |not_after| {
        let mut params = world.root.params.clone();
        params.not_after = not_after;
        params.self_signed(&world.root.key).unwrap().pem()
    };
    let (old, new) = (
        bundle(date_time_ymd(2021, 1, 1)),
        bundle(date_time_ymd(2101, 1, 1)),
    );
    let check = |pem: &str| {
        let bundle = TrustBundle::from_pem(&world.trust_domain(), pem.as_bytes()).unwrap();
        let shown = world.leaf(|_| {});
        verify_chain(&bundle, &shown.chain, SystemTime::now(), Role::Server).map(|_| ())
    };
    assert_eq!(check(&old), Err(Refusal::RootExpired));
    assert_eq!(check(&new), Ok(()));
    assert_eq!(check(&format!("{old}{new}")), Ok(()), "the same root, renewed");
    assert_eq!(check(&format!("{new}{old}")), Ok(()), "the same root, renewed");
    let other = Ca::root("another root").certificate.pem();
    assert_eq!(
        check(&format!("{old}{other}")),
        Err(Refusal::RootExpired),
        "another root is valid"
    );
}

#[test]
fn while_a_root_is_replaced_either_path_will_do() {
    let (old, new) = (World::new(), Ca::root("new root"));
    // One intermediate, certified by both roots; the old root is retired.
    let intermediate = old.root.intermediate(ca_params("intermediate"));
    let crossed = new.sign(&intermediate.params, &intermediate.key);
    let leaf = intermediate.sign(&leaf_params(), &old.key).into();
    let chain = [leaf, intermediate.certificate.into(), crossed.into()];
    for roots in [vec![&old.root], vec![&new], vec![&old.root, &new]] {
        let pem: String = roots.iter().map(|root| root.certificate.pem()).collect();
        let bundle = TrustBundle::from_pem(&old.trust_domain(), pem.as_bytes()).unwrap();
        verify_chain(&bundle, &chain, SystemTime::now(), Role::Client).unwrap();
    }
}

#[test]
fn a_bundle_holds_roots_of_one_trust_domain_only() {
    let world = World::new();
    let domain = world.trust_domain();
    let load = |pem: String| TrustBundle::from_pem(&domain, pem.as_bytes());
    let not_root = |position, refusal| TrustBundleError::NotRoot { position, refusal };
    let root = world.root.certificate.pem();
    let leaf = world.root.sign(&leaf_params(), &world.key).pem();
    let foreign = Ca::root_with({
        let mut params = ca_params("other");
        params.subject_alt_names = vec![uri("spiffe://other.test")];
        params
    });
    let weak = world.root.sign(&ca_params("weak"), &rsa_1024()).pem();
    let no_ca = Ca::root_with({
        let mut params = ca_params("no CA");
        params.is_ca = IsCa::ExplicitNoCa;
        params
    });

    assert_eq!(load(String::new()).unwrap_err(), TrustBundleError::Empty);
    assert_eq!(load("roots, please".into()).unwrap_err(), TrustBundleError::Empty);
    assert_eq!(
        load(root.replace("END", "DNE")).unwrap_err(),
        TrustBundleError::NotPem
    );
    assert_eq!(
        load(format!("{root}{leaf}")).unwrap_err(),
        not_root(2, Refusal::IssuerNotCa)
    );
    assert_eq!(
        load(foreign.certificate.pem()).unwrap_err(),
        not_root(1, Refusal::ForeignAuthority)
    );
    assert_eq!(load(weak).unwrap_err(), not_root(1, Refusal::WeakKey));
    assert_eq!(
        load(no_ca.certificate.pem()).unwrap_err(),
        not_root(1, Refusal::IssuerNotCa)
    );

    let many = (0..17)
        .map(|n| Ca::root(&format!("root {n}")).certificate.pem())
        .collect();
    assert_eq!(load(many).unwrap_err(), TrustBundleError::TooMany);

    let twice = load(format!("{root}{root}{}", Ca::root("second").certificate.pem())).unwrap();
    assert_eq!(twice.roots().len(), 2);
    assert_eq!(twice.trust_domain(), &domain);
}

#[test]
fn one_provider_for_all() {
    assert!(Arc::ptr_eq(&provider(), &provider()));
}
