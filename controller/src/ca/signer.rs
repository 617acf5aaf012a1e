//! A root, and this controller's signer under it.

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::PublicKeyData;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use weft_proto::{SpiffeId, TrustDomain};
use weft_tls::{
    Refusal, TrustBundle, TrustBundleError,
    verify::{Role, verify_chain},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};
use zeroize::Zeroizing;

use super::{
    certificate::{self, Validity},
    error::{CaError, SignError},
    files::Texts,
    key::SecretKey,
    pem,
};
use crate::trust::RootId;

/// How much later a renewed signer must end to be worth it: one that is cut by the end of its root is not renewed
/// again and again.
const WORTH_RENEWING: u32 = 10;

/// A root and what signs under it.
pub(crate) struct Signer {
    pub(crate) id: RootId,
    pub(crate) root: CertificateDer<'static>,
    pub(crate) root_validity: Validity,
    root_key: Option<SecretKey>,
    /// The signer first, then whatever is between it and the root.
    chain: Vec<CertificateDer<'static>>,
    pub(crate) validity: Validity,
    key: SecretKey,
}

/// A leaf with its chain, without the root.
pub(crate) struct Leaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) validity: Validity,
    /// In hexadecimal digits.
    pub(crate) serial: String,
}

/// How long roots and signers live.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetimes {
    pub(crate) root: Duration,
    pub(crate) signer: Duration,
}

impl Signer {
    /// A new root with a signer.
    pub(crate) fn make(
        trust_domain: &TrustDomain,
        lifetimes: Lifetimes,
        now: SystemTime,
    ) -> Result<Self, rcgen::Error> {
        let root_validity = Validity::from_now(now, lifetimes.root, None);
        let root = certificate::root(trust_domain, root_validity)?;
        let validity = Validity::from_now(now, lifetimes.signer, Some(root_validity.not_after));
        let signer = certificate::signer(trust_domain, validity, &root.certificate, &root.key)?;
        Ok(Self {
            id: RootId::of(&root.certificate),
            root: root.certificate,
            root_validity,
            root_key: Some(root.key),
            chain: vec![signer.certificate],
            validity,
            key: signer.key,
        })
    }

    /// From files of our own.
    pub(crate) fn read(trust_domain: &TrustDomain, texts: &Texts) -> Result<Self, CaError> {
        let path = &texts.directory;
        let root = read_root(trust_domain, &path.join("root.pem"), &texts.root)?;
        let root_key = match &texts.root_key {
            Some(text) => Some(read_key(&path.join("root.key"), text)?),
            None => None,
        };
        let signer = path.join("signer.pem");
        Self::assemble(
            trust_domain,
            root,
            root_key,
            &signer,
            &texts.signer,
            &texts.signer,
        )
    }

    /// From an operator's files: a root, a signer with whatever is between it and the root, and the signer's key.
    pub(crate) fn brought(
        trust_domain: &TrustDomain,
        root: (&Path, &[u8]),
        signer: (&Path, &[u8]),
        signer_key: &[u8],
    ) -> Result<Self, CaError> {
        let root = read_root(trust_domain, root.0, root.1)?;
        Self::assemble(trust_domain, root, None, signer.0, signer.1, signer_key)
    }

    fn assemble(
        trust_domain: &TrustDomain,
        root: CertificateDer<'static>,
        root_key: Option<SecretKey>,
        path: &Path,
        chain: &[u8],
        key: &[u8],
    ) -> Result<Self, CaError> {
        let chain: Vec<_> = read_certificates(path, chain)?
            .into_iter()
            .filter(|certificate| *certificate != root)
            .collect();
        let first = chain
            .first()
            .ok_or_else(|| CaError::unfit(path, "no certificate of a signer in it"))?;
        let mut lives = validity(path, first)?;
        for issuer in &chain {
            lives.not_after = lives.not_after.min(validity(path, issuer)?.not_after);
        }
        let signer = Self {
            id: RootId::of(&root),
            root_validity: validity(path, &root)?,
            validity: lives,
            root,
            root_key,
            chain,
            key: read_key(path, key)?,
        };
        signer.prove(trust_domain, path)?;
        Ok(signer)
    }

    /// That root, chain and key belong together: by a leaf that nobody gets.
    fn prove(&self, trust_domain: &TrustDomain, path: &Path) -> Result<(), CaError> {
        let unfit =
            |what: String| CaError::unfit(path, format!("cannot sign under root {}: {what}", self.id));
        let id = SpiffeId::for_service_account(trust_domain, "weft-system", "trial")
            .map_err(|error| unfit(error.to_string()))?;
        let key = SecretKey::generate()?;
        let leaf = self.issue(&id, &key, self.validity)?;
        let during = self.validity.not_before.max(self.root_validity.not_before);
        verify_chain(&self.bundle(trust_domain)?, &leaf.chain, during, Role::Server)
            .map_err(|refusal| unfit(refusal.to_string()))?;
        Ok(())
    }

    fn bundle(&self, trust_domain: &TrustDomain) -> Result<TrustBundle, CaError> {
        TrustBundle::from_der(trust_domain, [self.root.clone()])
            .map_err(|error| CaError::unfit("root", error.to_string()))
    }

    /// Signs a leaf that ends with its signer at the latest.
    pub(crate) fn leaf(
        &self,
        identity: &SpiffeId,
        key: &impl PublicKeyData,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Leaf, SignError> {
        self.check_life(now)?;
        let validity = Validity::from_now(now, lifetime, Some(self.ends()));
        if validity.not_after <= now {
            return Err(self.ended());
        }
        self.issue(identity, key, validity).map_err(SignError::Make)
    }

    /// When it cannot sign any more.
    pub(crate) fn ends(&self) -> SystemTime {
        self.validity.not_after.min(self.root_validity.not_after)
    }

    /// Another signer under the same root, once half of the life of this one is over, if the root's key is here and
    /// there is more life to have.
    pub(crate) fn renewed(
        &self,
        trust_domain: &TrustDomain,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Option<Self>, rcgen::Error> {
        let Some(root_key) = &self.root_key else {
            return Ok(None);
        };
        let validity = Validity::from_now(now, lifetime, Some(self.root_validity.not_after));
        let gained = validity.not_after.duration_since(self.validity.not_after);
        let is_worth_it = gained.is_ok_and(|gained| gained >= lifetime / WORTH_RENEWING);
        if now < self.validity.half() || !is_worth_it {
            return Ok(None);
        }
        let made = certificate::signer(trust_domain, validity, &self.root, root_key)?;
        Ok(Some(Self {
            id: self.id,
            root: self.root.clone(),
            root_validity: self.root_validity,
            root_key: Some(root_key.copy()?),
            chain: vec![made.certificate],
            validity,
            key: made.key,
        }))
    }

    /// Whether another one signs with another certificate.
    pub(crate) fn differs_from(&self, other: &Self) -> bool {
        self.chain != other.chain
    }

    /// The text of `signer.pem`.
    pub(crate) fn to_pem(&self) -> Zeroizing<String> {
        let key = self.key.to_pem();
        let chain: String = self.chain.iter().map(|issuer| pem::certificate(issuer)).collect();
        // Room for both: a string that grows leaves a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(chain.len() + key.len()));
        text.push_str(&chain);
        text.push_str(&key);
        text
    }

    /// The text of `root.key`, if the key is here.
    pub(crate) fn root_key_pem(&self) -> Option<Zeroizing<String>> {
        self.root_key.as_ref().map(SecretKey::to_pem)
    }

    /// The text of `root.pem`.
    pub(crate) fn root_pem(&self) -> String {
        pem::certificate(&self.root)
    }

    fn issue(
        &self,
        identity: &SpiffeId,
        key: &impl PublicKeyData,
        validity: Validity,
    ) -> Result<Leaf, rcgen::Error> {
        let signer = self.chain.first().unwrap_or(&self.root);
        let (leaf, serial) = certificate::leaf(identity, key, validity, signer, &self.key)?;
        let mut chain = vec![leaf];
        chain.extend(self.chain.iter().cloned());
        Ok(Leaf {
            chain,
            validity,
            serial: crate::hex::encode(&serial),
        })
    }

    fn check_life(&self, now: SystemTime) -> Result<(), SignError> {
        if now < self.ends() {
            Ok(())
        } else {
            Err(self.ended())
        }
    }

    fn ended(&self) -> SignError {
        let (what, next) = if self.root_validity.not_after <= self.validity.not_after {
            ("root", "all proxies need another: weft ca rotate")
        } else if self.root_key.is_some() {
            (
                "signer",
                "it is renewed by itself: see the controller's log for why it was not",
            )
        } else {
            ("signer", "give the controller another one under the same root")
        };
        SignError::Ended {
            what,
            name: self.id.to_string(),
            at: self.ends(),
            next,
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("root", &self.id)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

fn read_certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CaError> {
    CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|_| CaError::unfit(path, "not PEM"))
}

fn read_root(
    trust_domain: &TrustDomain,
    path: &Path,
    text: &[u8],
) -> Result<CertificateDer<'static>, CaError> {
    let mut certificates = read_certificates(path, text)?;
    let (Some(root), true) = (certificates.pop(), certificates.is_empty()) else {
        return Err(CaError::unfit(
            path,
            "not exactly one certificate, that of the root",
        ));
    };
    match TrustBundle::from_der(trust_domain, [root.clone()]) {
        Ok(_) => Ok(root),
        Err(TrustBundleError::NotRoot {
            refusal: Refusal::ForeignAuthority,
            ..
        }) => Err(CaError::OtherTrustDomain {
            place: path.display().to_string(),
            found: trust_domain_of(&root).unwrap_or_else(|| "another name".to_owned()),
            wanted: trust_domain.clone(),
        }),
        Err(error) => Err(CaError::unfit(path, error.to_string())),
    }
}

fn read_key(path: &Path, text: &[u8]) -> Result<SecretKey, CaError> {
    SecretKey::from_pem(text)
        .ok_or_else(|| CaError::unfit(path, "not exactly one private key that can be used, in PEM"))
}

pub(crate) fn validity(path: &Path, certificate: &CertificateDer<'_>) -> Result<Validity, CaError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| CaError::unfit(path, "not a certificate"))?;
    let time =
        |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    Ok(Validity {
        not_before: time(parsed.validity().not_before.timestamp()),
        not_after: time(parsed.validity().not_after.timestamp()),
    })
}

/// The trust domain that an authority names, for an error.
fn trust_domain_of(root: &CertificateDer<'_>) -> Option<String> {
    use x509_parser::extensions::GeneralName;
    let (_, parsed) = X509Certificate::from_der(root).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("spiffe://").map(str::to_owned),
        _ => None,
    })
}
