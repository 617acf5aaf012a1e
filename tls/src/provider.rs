//! The one cryptographic provider of the process, and what every TLS configuration of the mesh has in common.

use std::sync::{Arc, OnceLock};

use rustls::{
    ClientConfig, ServerConfig,
    client::{Resumption, danger::ServerCertVerifier},
    crypto::{
        CryptoProvider,
        aws_lc_rs::{
            cipher_suite::{
                TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
            },
            default_provider,
            kx_group::{X25519, X25519MLKEM768},
        },
    },
    server::{NoServerSessionStorage, ResolvesServerCert, danger::ClientCertVerifier},
    sign::SingleCertAndKey,
};

use crate::{clock::WallClock, credentials::Svid, verify::SIGNATURES};

/// AES-128-GCM first (the cheapest per packet), X25519MLKEM768 and then X25519 and no other key exchange.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            Arc::new(CryptoProvider {
                cipher_suites: vec![
                    TLS13_AES_128_GCM_SHA256,
                    TLS13_AES_256_GCM_SHA384,
                    TLS13_CHACHA20_POLY1305_SHA256,
                ],
                kx_groups: vec![X25519MLKEM768, X25519],
                signature_verification_algorithms: SIGNATURES,
                ..default_provider()
            })
        })
        .clone()
}

/// TLS for a dialler that shows `own`, or no certificate.
pub(crate) fn client_config(
    verifier: Arc<dyn ServerCertVerifier>,
    own: Option<&Svid>,
    alpn: &[u8],
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(WallClock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own {
        Some(svid) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(svid.certified_key().clone())))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.max_fragment_size = None;
    config.cert_compressors = Vec::new();
    config.cert_decompressors = Vec::new();
    Ok(config)
}

/// TLS for a listener.
pub(crate) fn server_config(
    verifier: Arc<dyn ClientCertVerifier>,
    own: Arc<dyn ResolvesServerCert>,
    alpn: &[u8],
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(WallClock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(own);
    config.alpn_protocols = vec![alpn.to_vec()];
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    // Data of ours before the client has proved who it is would go to anyone.
    config.send_half_rtt_data = false;
    config.max_fragment_size = None;
    config.cert_compressors = Vec::new();
    config.cert_decompressors = Vec::new();
    Ok(config)
}
