//! Private keys: in memory that is wiped, and shown by nothing.

use std::fmt;

use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::{Zeroize, Zeroizing};

use super::pem;

/// A private key that signs certificates, or belongs to one of the controller's own.
pub(crate) struct SecretKey(KeyPair);

impl SecretKey {
    /// A new one, ECDSA P-256.
    pub(crate) fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate().map(Self)
    }

    /// From the only private key in a PEM text (PKCS#8, SEC1 or PKCS#1), among certificates or alone. `None` if there
    /// is none, or several, or it cannot be used: what is wrong is not told, lest it be shown.
    pub(crate) fn from_pem(pem: &[u8]) -> Option<Self> {
        let mut keys = PrivateKeyDer::pem_slice_iter(pem);
        let (Some(Ok(mut key)), None) = (keys.next(), keys.next()) else {
            return None;
        };
        let pair = KeyPair::try_from(&key);
        key.zeroize();
        pair.ok().map(Self)
    }

    /// The same key once more.
    pub(crate) fn copy(&self) -> Result<Self, rcgen::Error> {
        let mut der = self.to_der();
        let copy = KeyPair::try_from(&der);
        der.zeroize();
        copy.map(Self)
    }

    /// PKCS#8 in PEM. Not by rcgen, which leaves copies behind.
    pub(crate) fn to_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", self.0.serialized_der())
    }

    /// For TLS, which keeps a copy of its own.
    pub(crate) fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}

impl PublicKeyData for SecretKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        PublicKeyData::algorithm(&self.0)
    }
}

impl SigningKey for SecretKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}
