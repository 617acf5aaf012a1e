//! A peer with a certificate of the mesh that says what it likes: quinn, and frames made by hand.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use http::Method;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs::default_provider},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use weft_transport::h3::{FieldLimits, MessageReader, Part, ResponseHead};

use super::soon;

/// Types of frames and streams (RFC 9114).
pub const DATA: u64 = 0x0;
pub const HEADERS: u64 = 0x1;
pub const SETTINGS: u64 = 0x4;
pub const CONTROL: u64 = 0x0;

pub struct RawPeer {
    pub connection: quinn::Connection,
    pub endpoint: quinn::Endpoint,
}

/// How an exchange ended without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The stream was reset with this code.
    Reset(u64),
    /// The connection ended.
    Connection(quinn::ConnectionError),
    /// There was an end, or something that is no answer.
    Unanswered,
}

impl RawPeer {
    /// Connects as `account`, with the certificate that [`super::Mesh`] made for it.
    pub async fn connect(directory: &Path, account: &str, address: SocketAddr) -> Self {
        let endpoint = Self::endpoint(directory, account);
        let connecting = endpoint.connect(address, "weft.invalid").expect("a connection");
        let connection = soon("a handshake", connecting).await.expect("a handshake");
        Self { connection, endpoint }
    }

    pub fn endpoint(directory: &Path, account: &str) -> quinn::Endpoint {
        Self::endpoint_with(directory, account, default_provider(), |_| {})
    }

    /// An endpoint whose settings are changed.
    pub fn endpoint_with(
        directory: &Path,
        account: &str,
        provider: CryptoProvider,
        set: impl FnOnce(&mut quinn::TransportConfig),
    ) -> quinn::Endpoint {
        let file = |extension: &str| directory.join("certs").join(account).with_extension(extension);
        let chain = CertificateDer::pem_file_iter(file("pem")).expect("certificates");
        let key = PrivateKeyDer::from_pem_file(file("key")).expect("a key");
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_client_auth_cert(chain.map(|one| one.expect("a certificate")).collect(), key)
            .expect("a certificate with its key");
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("QUIC")));
        let mut transport = quinn::TransportConfig::default();
        transport
            .keep_alive_interval(Some(Duration::from_secs(2)))
            .send_window(64 << 20);
        set(&mut transport);
        config.transport_config(Arc::new(transport));
        let mut endpoint = quinn::Endpoint::client(SocketAddr::from(([0, 0, 0, 0], 0))).expect("a socket");
        endpoint.set_default_client_config(config);
        endpoint
    }

    /// Opens the control stream with an empty SETTINGS.
    pub async fn control(&self) -> quinn::SendStream {
        let mut control = self.connection.open_uni().await.expect("a stream");
        let mut bytes = varint(CONTROL);
        bytes.extend(frame(SETTINGS, b""));
        control.write_all(&bytes).await.expect("a write");
        control
    }

    /// Sends a request of these fields and no content, and gives the answer.
    pub async fn ask(&self, fields: &[(&str, &[u8])]) -> Result<ResponseHead, Ended> {
        let (mut send, recv) = self.connection.open_bi().await.map_err(Ended::Connection)?;
        if send.write_all(&headers(fields)).await.is_err() {
            return Err(self.ended());
        }
        // A CONNECT has no end yet; nor has any other request that is refused for its head.
        let answer = self.answer(recv).await;
        let _ = send.finish();
        answer
    }

    pub async fn answer(&self, mut recv: quinn::RecvStream) -> Result<ResponseHead, Ended> {
        let mut reader = MessageReader::response(FieldLimits::default(), Method::CONNECT);
        loop {
            match recv.read_chunk(usize::MAX, true).await {
                Ok(Some(chunk)) => reader.push(chunk.bytes),
                Ok(None) => return Err(Ended::Unanswered),
                Err(quinn::ReadError::Reset(code)) => return Err(Ended::Reset(code.into_inner())),
                Err(_) => return Err(self.ended()),
            }
            match reader.next() {
                Ok(Some(Part::Response(head))) => return Ok(head),
                Ok(None) => {}
                _ => return Err(Ended::Unanswered),
            }
        }
    }

    fn ended(&self) -> Ended {
        self.connection
            .close_reason()
            .map_or(Ended::Unanswered, Ended::Connection)
    }

    /// Waits until the other side has closed the connection, and gives its code: of HTTP/3, or of QUIC.
    pub async fn closed(&self) -> u64 {
        code(&soon("the end of the connection", self.connection.closed()).await)
    }
}

/// The code with which the other side ended a connection.
pub fn code(error: &quinn::ConnectionError) -> u64 {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        quinn::ConnectionError::ConnectionClosed(close) => close.error_code.into(),
        other => panic!("not closed by the other side: {other}"),
    }
}

pub fn varint(value: u64) -> Vec<u8> {
    match value {
        0..0x40 => vec![value as u8],
        0x40..0x4000 => (value as u16 | 0x4000).to_be_bytes().to_vec(),
        0x4000..0x4000_0000 => (value as u32 | 0x8000_0000).to_be_bytes().to_vec(),
        _ => (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
    }
}

pub fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    [varint(kind), varint(payload.len() as u64), payload.to_vec()].concat()
}

/// A HEADERS frame, with every name and value as it is (RFC 9204 section 4.5.6).
pub fn headers(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = vec![0, 0];
    for (name, value) in fields {
        prefix_int(0x20, 3, name.len(), &mut block);
        block.extend_from_slice(name.as_bytes());
        prefix_int(0, 7, value.len(), &mut block);
        block.extend_from_slice(value);
    }
    frame(HEADERS, &block)
}

/// The head of a GET of a port.
pub fn get(port: u16, path: &str) -> Vec<u8> {
    headers(&[
        (":method", b"GET"),
        (":scheme", b"http"),
        (":authority", b"web"),
        (":path", path.as_bytes()),
        ("weft-port", port.to_string().as_bytes()),
    ])
}

fn prefix_int(pattern: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
    let max = (1_usize << bits) - 1;
    if value < max {
        return out.push(pattern | value as u8);
    }
    out.push(pattern | max as u8);
    let mut rest = value - max;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Who means harm does not mind whom it meets.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
