//! Their ends: a client and a server of quinn, h3 and h3-quinn with certificates of the mesh.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use bytes::{Buf, Bytes};
use h3::{client::SendRequest, error::Code, server::RequestResolver};
use h3_quinn::{BidiStream, OpenStreams};
use http::{HeaderMap, Method, Request, Response};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs::default_provider,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use tokio::sync::{Notify, mpsc};
use weft_transport::{credentials::testing::Authority, verify::peer_identity};

use crate::ours::{fields, pattern};

pub(crate) type TheirStream = h3::client::RequestStream<BidiStream<Bytes>, Bytes>;
type ServerStream = h3::server::RequestStream<BidiStream<Bytes>, Bytes>;
pub(crate) type StreamError = h3::error::StreamError;

/// Certificates of a workload as rustls takes them.
fn identity(authority: &Authority, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let pem = authority.svid_pem("default", name);
    let chain = CertificateDer::pem_slice_iter(pem.chain.as_bytes())
        .map(Result::unwrap)
        .collect();
    (chain, PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap())
}

fn verifier(authority: &Authority) -> Arc<dyn ClientCertVerifier> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.bundle_pem().as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap()
}

/// Checks the chain, as a client of the mesh must, and no host name: an SVID has none.
#[derive(Debug)]
struct ChainVerifier(Arc<dyn ClientCertVerifier>);

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.verify_client_cert(leaf, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

/// Who the other end of a connection proved to be.
pub(crate) fn peer_of(connection: &quinn::Connection) -> String {
    let chain = connection
        .peer_identity()
        .unwrap()
        .downcast::<Vec<CertificateDer<'static>>>()
        .unwrap();
    peer_identity(&chain).unwrap().id.to_string()
}

/// Their client, connected.
pub(crate) struct TheirClient {
    pub(crate) send: SendRequest<OpenStreams, Bytes>,
    pub(crate) connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

/// Which certificate a client shows.
pub(crate) enum Shows<'a> {
    None,
    Of(&'a Authority),
}

pub(crate) async fn connect_quic(
    server: &Authority,
    shows: Shows<'_>,
    address: SocketAddr,
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ChainVerifier(verifier(server))));
    let mut tls = match shows {
        Shows::None => tls.with_no_client_auth(),
        Shows::Of(authority) => {
            let (chain, key) = identity(authority, "client");
            tls.with_client_auth_cert(chain, key).unwrap()
        }
    };
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let mut endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(
        QuicClientConfig::try_from(tls).unwrap(),
    )));
    let connection = endpoint.connect(address, "weft.invalid").unwrap().await?;
    Ok((endpoint, connection))
}

impl TheirClient {
    pub(crate) async fn connect(authority: &Authority, address: SocketAddr) -> Self {
        let (endpoint, connection) = connect_quic(authority, Shows::Of(authority), address)
            .await
            .unwrap();
        let (mut driver, send) = h3::client::new(h3_quinn::Connection::new(connection.clone()))
            .await
            .unwrap();
        tokio::task::spawn_local(async move { driver.wait_idle().await });
        Self {
            send,
            connection,
            _endpoint: endpoint,
        }
    }

    /// Sends a head.
    pub(crate) async fn start(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<TheirStream, StreamError> {
        let mut head = Request::builder()
            .method(method)
            .uri(format!("https://server{path}"))
            .body(())
            .unwrap();
        *head.headers_mut() = headers;
        self.send.clone().send_request(head).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<(Response<()>, Vec<u8>), StreamError> {
        let mut stream = self.start(Method::GET, path, HeaderMap::new()).await?;
        stream.finish().await?;
        let head = stream.recv_response().await?;
        let body = their_body(&mut stream).await?;
        Ok((head, body))
    }
}

pub(crate) async fn their_body<S: h3::quic::RecvStream>(
    stream: &mut h3::client::RequestStream<S, Bytes>,
) -> Result<Vec<u8>, StreamError> {
    let mut body = Vec::new();
    while let Some(mut data) = stream.recv_data().await? {
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    Ok(body)
}

/// The code with which the peer ended a stream.
pub(crate) fn code_of(error: &StreamError) -> Option<u64> {
    match error {
        StreamError::RemoteTerminate { code, .. } => Some(code.value()),
        _ => None,
    }
}

/// Their server, and what its application saw.
pub(crate) struct TheirServer {
    pub(crate) address: SocketAddr,
    /// Caller, path, and the code that ended the request early.
    pub(crate) seen: mpsc::UnboundedReceiver<(String, String, Option<u64>)>,
    /// Makes the connections say GOAWAY.
    pub(crate) go_away: Rc<Notify>,
    _endpoint: quinn::Endpoint,
}

/// How many requests beyond the last their GOAWAY takes: with 0, h3 0.0.8 names the last one that it took.
pub(crate) fn serve(authority: &Authority, beyond: usize) -> TheirServer {
    let (chain, key) = identity(authority, "server");
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier(authority))
        .with_single_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let (saw, seen) = mpsc::unbounded_channel();
    let go_away = Rc::new(Notify::new());
    let (accepting, notify) = (endpoint.clone(), go_away.clone());
    tokio::task::spawn_local(async move {
        while let Some(incoming) = accepting.accept().await {
            let (saw, notify) = (saw.clone(), notify.clone());
            tokio::task::spawn_local(async move {
                if let Ok(connection) = incoming.await {
                    serve_connection(connection, saw, notify, beyond).await;
                }
            });
        }
    });
    TheirServer {
        address: endpoint.local_addr().unwrap(),
        seen,
        go_away,
        _endpoint: endpoint,
    }
}

async fn serve_connection(
    connection: quinn::Connection,
    saw: mpsc::UnboundedSender<(String, String, Option<u64>)>,
    go_away: Rc<Notify>,
    beyond: usize,
) {
    let caller = peer_of(&connection);
    let mut h3 = h3::server::Connection::new(h3_quinn::Connection::new(connection))
        .await
        .unwrap();
    loop {
        tokio::select! {
            accepted = h3.accept() => {
                let Ok(Some(resolver)) = accepted else { break };
                let (saw, caller) = (saw.clone(), caller.clone());
                tokio::task::spawn_local(async move {
                    let mut path = String::new();
                    let result = service(resolver, &mut path).await;
                    let _ = saw.send((caller, path, result.err().as_ref().and_then(code_of)));
                });
            }
            () = go_away.notified() => {
                let _ = h3.shutdown(beyond).await;
            }
        }
    }
}

/// What the cases of [`crate::dial`] need of a server.
async fn service(
    resolver: RequestResolver<h3_quinn::Connection, Bytes>,
    path: &mut String,
) -> Result<(), StreamError> {
    let (head, mut stream) = resolver.resolve_request().await?;
    head.uri().path().clone_into(path);
    let ok = || Response::builder().status(200);
    match path.as_str() {
        "/hello" => {
            stream
                .send_response(ok().header("content-length", 5).body(()).unwrap())
                .await?;
            if head.method() != Method::HEAD {
                stream.send_data(Bytes::from_static(b"hello")).await?;
            }
        }
        "/echo" => return echo(stream).await,
        "/refused" => {
            stream.stop_stream(Code::H3_REQUEST_REJECTED);
            return Ok(());
        }
        "/half" => {
            stream.send_response(ok().body(()).unwrap()).await?;
            stream.send_data(pattern(1_000)).await?;
            stream.stop_stream(Code::H3_INTERNAL_ERROR);
            return Ok(());
        }
        "/endless" => {
            stream.send_response(ok().body(()).unwrap()).await?;
            loop {
                stream.send_data(pattern(10_000)).await?;
            }
        }
        "/sink" => while stream.recv_data().await?.is_some() {},
        "/slow" => {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            stream.send_response(ok().body(()).unwrap()).await?;
            stream.send_data(Bytes::from_static(b"finished")).await?;
        }
        "/early" => {
            stream.stop_sending(Code::H3_NO_ERROR);
            stream.send_response(ok().body(()).unwrap()).await?;
            stream.send_data(Bytes::from_static(b"early")).await?;
        }
        "/short" | "/long" => {
            let mut head = ok().body(()).unwrap();
            *head.headers_mut() = fields(&[("content-length", "10")]);
            stream.send_response(head).await?;
            stream
                .send_data(pattern(if path == "/short" { 9 } else { 11 }))
                .await?;
        }
        _ => {
            stream
                .send_response(Response::builder().status(404).body(()).unwrap())
                .await?
        }
    }
    stream.finish().await
}

async fn echo(mut stream: ServerStream) -> Result<(), StreamError> {
    stream.send_response(Response::new(())).await?;
    while let Some(mut data) = stream.recv_data().await? {
        stream.send_data(data.copy_to_bytes(data.remaining())).await?;
    }
    if let Some(trailers) = stream.recv_trailers().await? {
        stream.send_trailers(trailers).await?;
    }
    stream.finish().await
}
