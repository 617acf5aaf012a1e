//! An operator's credential: made with a join token, and renewed by any command once half of its life is over.

use std::{path::Path, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use tonic::{Code, transport::Channel};
use weft_proto::{
    TrustDomain,
    mesh::v1::{self, identity_client::IdentityClient},
};
use weft_tls::{
    Credentials, Svid,
    join::{self, RootHash},
    token::JoinToken,
};

use crate::auth::{CONTROLLER_ACCOUNT, SYSTEM_NAMESPACE};

use super::{
    connect::{self, Target},
    context::{self, Context, Pem},
    failure::Failure,
};

/// A credential as it is stored.
pub(crate) struct Stored {
    pub(crate) credentials: Credentials,
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) bundle: String,
}

/// The root that a token names, which is all that its bearer knows of the mesh.
fn root_of(token: &str) -> Result<RootHash, Failure> {
    let token = JoinToken::parse(token).ok_or_else(|| {
        Failure::Use("this is not a whole token: it is one word that begins with weft1.".to_owned())
    })?;
    Ok(token.root())
}

/// Trades a token for a first credential. The key is made here and never sent.
///
/// # Errors
/// The controller cannot be reached or is not the one of the token, or it refuses the token.
pub(crate) async fn join(target: &Target, token: &str) -> Result<Stored, Failure> {
    let root = root_of(token)?;
    let path = format!("/ns/{SYSTEM_NAMESPACE}/sa/{CONTROLLER_ACCOUNT}");
    let config =
        join::client_config_of_path(root, &path).map_err(|error| Failure::other(error.to_string()))?;
    let name = root
        .server_name()
        .map_err(|error| Failure::other(error.to_string()))?;
    let channel = connect::channel(connect::dial(target, config, name).await?).await?;
    let key = new_key()?;
    let request = v1::JoinRequest {
        token: token.to_owned(),
        csr: request_for(&key)?.into(),
        holder: Some(holder()),
    };
    let response = IdentityClient::new(channel)
        .join(request)
        .await
        .map_err(|status| match status.code() {
            // Of a token, not of a credential: there is none yet.
            Code::Unauthenticated | Code::PermissionDenied => {
                Failure::other(format!("the controller refuses the token: {}", status.message()))
            }
            _ => connect::refused(target, status),
        })?;
    store(response.into_inner(), &key)
}

/// Whether half of a credential's life is over.
pub(crate) fn is_due(svid: &Svid, now: SystemTime) -> bool {
    let life = svid
        .not_after()
        .duration_since(svid.not_before())
        .unwrap_or_default();
    now.duration_since(svid.not_before())
        .is_ok_and(|lived| lived >= life / 2)
}

/// Another certificate for the same identity; it is stored in the context, wherever that has it.
///
/// # Errors
/// The controller refuses, or it cannot be stored.
pub(crate) async fn renew(
    target: &Target,
    channel: Channel,
    file: &Path,
    context: &Context,
) -> Result<Credentials, Failure> {
    let key = match &context.key {
        Pem::Inline(_) => new_key()?,
        // Two files cannot be replaced at one moment; so the key stays, and the certificate alone is replaced.
        Pem::File(_) => KeyPair::from_pem(&context.key.read(file)?)
            .map_err(|error| Failure::Credential(context.name.clone(), format!("its key: {error}")))?,
    };
    let request = v1::RenewRequest {
        csr: request_for(&key)?.into(),
        holder: Some(holder()),
    };
    let response = IdentityClient::new(channel)
        .renew(request)
        .await
        .map_err(|status| connect::refused(target, status))?;
    let stored = store(response.into_inner(), &key)?;
    let name = &context.name;
    context::change(file, |contexts| {
        let context = contexts.contexts.iter_mut().find(|known| known.name == *name);
        let Some(context) = context else {
            return Err(Failure::UnknownContext(name.clone(), Vec::new()));
        };
        for (place, pem) in [
            (&mut context.certificate, &stored.chain),
            (&mut context.key, &stored.key),
            (&mut context.trust_bundle, &stored.bundle),
        ] {
            place.replace(file, pem)?;
        }
        Ok(())
    })?;
    Ok(stored.credentials)
}

fn new_key() -> Result<KeyPair, Failure> {
    KeyPair::generate().map_err(|error| Failure::other(format!("no key could be made: {error}")))
}

/// A certificate request: it proves that we have the key. The controller decides on everything else.
fn request_for(key: &KeyPair) -> Result<Vec<u8>, Failure> {
    CertificateParams::default()
        .serialize_request(key)
        .map(|request| request.der().to_vec())
        .map_err(|error| Failure::other(format!("no certificate request could be made: {error}")))
}

/// An operator's holder has no workload.
fn holder() -> v1::Holder {
    v1::Holder {
        workload: String::new(),
        instance: format!("{:016x}", rand::random::<u64>()),
    }
}

/// What the controller signed, once it is certain that it can be used.
fn store(response: v1::SignResponse, key: &KeyPair) -> Result<Stored, Failure> {
    let wrong = |what: String| Failure::other(format!("the controller's answer cannot be used: {what}"));
    let bundle = response
        .bundle
        .ok_or_else(|| wrong("it has no trust bundle".to_owned()))?;
    let chain: Vec<CertificateDer<'_>> = response.chain.iter().map(|der| der.to_vec().into()).collect();
    let roots = bundle.roots.iter().map(|der| CertificateDer::from(der.to_vec()));
    let trust_domain = TrustDomain::parse(&bundle.trust_domain).map_err(|error| wrong(error.to_string()))?;
    let trusted =
        weft_tls::TrustBundle::from_der(&trust_domain, roots).map_err(|error| wrong(error.to_string()))?;
    let (chain_pem, bundle_pem) = (to_pem(&chain), to_pem(trusted.roots()));
    let key_pem = key.serialize_pem();
    let svid =
        Svid::from_pem(chain_pem.as_bytes(), key_pem.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    let credentials = Credentials::new(svid, trusted).map_err(|error| wrong(error.to_string()))?;
    Ok(Stored {
        credentials,
        chain: chain_pem,
        key: key_pem,
        bundle: bundle_pem,
    })
}

/// Certificates in PEM (RFC 7468).
fn to_pem<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    /// Characters in a line (RFC 7468 section 2).
    const LINE: usize = 64;
    let mut pem = String::new();
    for certificate in certificates {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(certificate);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at_checked(LINE).unwrap_or((rest, ""));
            pem.push_str(line);
            pem.push('\n');
            rest = after;
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}
