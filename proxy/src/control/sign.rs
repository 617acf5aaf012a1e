//! What a certificate is asked for with, and what comes back.

use std::time::Duration;

use bytes::Bytes;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;
use tonic::{Response, Status};
use weft_proto::{TrustDomain, mesh::v1 as mesh};
use weft_tls::{Credentials, TrustBundle, join::RootHash, token::JoinToken};
use zeroize::{Zeroize, Zeroizing};

use super::dial::CallError;

/// How long the controller may take to sign.
const SIGN: Duration = Duration::from_secs(10);

/// A key that was made for one certificate, and the request for it.
pub(super) struct Made {
    pub(super) key: Zeroizing<Vec<u8>>,
    pub(super) csr: Bytes,
}

impl Made {
    /// # Errors
    /// There is no randomness, which cannot be.
    pub(super) fn new() -> Result<Self, String> {
        let failed = |error: rcgen::Error| format!("no key could be made: {error}");
        let mut pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        // The names in it are ignored: the certificate is for whom the token or the old certificate is.
        let request = CertificateParams::default().serialize_request(&pair);
        let key = Zeroizing::new(pair.serialize_der());
        pair.zeroize();
        let csr = Bytes::copy_from_slice(request.map_err(failed)?.der());
        Ok(Self { key, csr })
    }
}

/// The answer of a call, within the time that it may take.
///
/// # Errors
/// The controller says no, or nothing.
pub(super) async fn within<T>(
    address: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    match timeout(SIGN, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(CallError::of(address, &status)),
        Err(_) => Err(CallError {
            address: address.to_owned(),
            why: format!("no certificate within {} s", SIGN.as_secs()),
            refused: false,
        }),
    }
}

/// # Errors
/// It has no roots that can be used.
pub(super) fn read_bundle(told: &mesh::TrustBundle) -> Result<TrustBundle, String> {
    let domain = TrustDomain::parse(&told.trust_domain).map_err(|error| error.to_string())?;
    let roots = told.roots.iter().map(|der| CertificateDer::from(der.to_vec()));
    TrustBundle::from_der(&domain, roots).map_err(|error| error.to_string())
}

/// The root that a join token names, by which the controller must prove itself. What is wrong with a token is not told in
/// detail, lest it be shown.
///
/// # Errors
/// It is none.
pub(crate) fn join_root(token: &str) -> Result<RootHash, String> {
    let token = JoinToken::parse(token);
    let token = token.ok_or("is no join token: `weft token create` prints one, which begins with weft1.")?;
    Ok(token.root())
}

/// The root of the bundle that the certificate leads to, by its hash.
pub(super) fn root_of(credentials: &Credentials) -> Option<Bytes> {
    let bundle = credentials.bundle();
    bundle.roots().find_map(|root| {
        let alone = TrustBundle::from_der(bundle.trust_domain(), [root.clone()]).ok()?;
        Credentials::new(credentials.svid().clone(), alone).ok()?;
        Some(Bytes::copy_from_slice(RootHash::of(root).as_bytes()))
    })
}
