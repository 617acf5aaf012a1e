//! What a workload proves itself with and whom it believes (of `weft-tls`), as quinn-proto wants them.

use std::sync::{Arc, OnceLock};

use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::{crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256, quic::Suite};
use weft_proto::identity::SpiffeId;
#[cfg(any(test, feature = "sim"))]
pub use weft_tls::testing;
pub use weft_tls::{
    credentials::{ALPN_H3, Credentials, CredentialsError, SERVER_NAME, Svid},
    verify::{TrustBundle, TrustBundleError},
};

use crate::verify::{OnRefusal, Refusal};

/// The TLS half of one dial.
pub(crate) struct QuicDial {
    /// For quinn-proto, with [`SERVER_NAME`].
    pub(crate) config: Arc<QuicClientConfig>,
    /// Set if the listener's certificate was refused.
    pub(crate) refusal: Arc<OnceLock<Refusal>>,
}

/// What quinn-proto needs for one dial to a listener that must prove to be `expected`.
pub(crate) fn quic_client(
    credentials: &Credentials,
    expected: &SpiffeId,
) -> Result<QuicDial, CredentialsError> {
    let refusal = Arc::new(OnceLock::new());
    let on_refusal: OnRefusal = {
        let refusal = refusal.clone();
        // The first refusal ends the handshake; there is no second to keep.
        Arc::new(move |reason| {
            let _ = refusal.set(reason);
        })
    };
    let config = Arc::new(credentials.client_config(expected, ALPN_H3, on_refusal)?);
    let config = QuicClientConfig::with_initial(config, initial_suite()?).map_err(no_initial_suite)?;
    Ok(QuicDial {
        config: Arc::new(config),
        refusal,
    })
}

/// What quinn-proto needs to listen. Every refused dialler is told to `on_refusal`, but for one
/// that showed no certificate, which rustls refuses itself (alert 116).
pub(crate) fn quic_server(
    credentials: &Credentials,
    on_refusal: OnRefusal,
) -> Result<Arc<QuicServerConfig>, CredentialsError> {
    let config = Arc::new(credentials.server_config(ALPN_H3, on_refusal)?);
    let config = QuicServerConfig::with_initial(config, initial_suite()?).map_err(no_initial_suite)?;
    Ok(Arc::new(config))
}

/// QUIC protects Initial packets with AES-128-GCM whatever is negotiated (RFC 9001 section 5.2).
fn initial_suite() -> Result<Suite, CredentialsError> {
    TLS13_AES_128_GCM_SHA256
        .tls13()
        .and_then(|suite| suite.quic_suite())
        .ok_or_else(|| {
            CredentialsError::Tls(rustls::Error::General(
                "the provider has no AES-128-GCM for QUIC".into(),
            ))
        })
}

fn no_initial_suite(error: NoInitialCipherSuite) -> CredentialsError {
    CredentialsError::Tls(rustls::Error::General(error.to_string()))
}

#[cfg(test)]
mod tests;
