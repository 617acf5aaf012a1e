//! quinn, h3 and h3-quinn, in this process.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use bytes::{Buf, Bytes};
use h3::{
    client::{RequestStream, SendRequest},
    error::{Code, StreamError},
    quic,
    server::RequestResolver,
};
use h3_quinn::{BidiStream, OpenStreams};
use http::{Method, Request, Response};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs::default_provider,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use tokio::sync::{Notify, mpsc};
use weft_transport::verify::peer_identity;

use crate::{
    call::{Call, Content, End, Gate, Midway, Outcome, Seen, Then, pattern, to_fields, to_headers},
    place::Identity,
};

type ServerStream = h3::server::RequestStream<BidiStream<Bytes>, Bytes>;

/// How much content is handed over at once.
const PIECE: usize = 100_000;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Certificates of a workload as rustls takes them.
fn certificate(identity: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let (chain, key) = identity.authority.issue(identity.account).unwrap();
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap);
    (
        chain.collect(),
        PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
    )
}

fn verifier(authorities: &str) -> Arc<dyn ClientCertVerifier> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    let provider = Arc::new(default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap()
}

/// Checks the chain, as a client of the mesh must, and no host name.
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
fn peer_of(connection: &quinn::Connection) -> String {
    let chain = connection
        .peer_identity()
        .unwrap()
        .downcast::<Vec<CertificateDer<'static>>>()
        .unwrap();
    peer_identity(&chain).unwrap().id.to_string()
}

/// Their client.
pub(crate) struct Client {
    pub(crate) endpoint: quinn::Endpoint,
    /// Or why there is no connection.
    pub(crate) connection: Result<quinn::Connection, quinn::ConnectionError>,
    send: Option<SendRequest<OpenStreams, Bytes>>,
}

impl Client {
    pub(crate) async fn connect(identity: &Identity, address: SocketAddr) -> Self {
        let verifier = Arc::new(ChainVerifier(verifier(&identity.believes)));
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut tls = if identity.shows {
            let (chain, key) = certificate(identity);
            tls.with_client_auth_cert(chain, key).unwrap()
        } else {
            tls.with_no_client_auth()
        };
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let mut endpoint = quinn::Endpoint::client(ANY_PORT).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(
            QuicClientConfig::try_from(tls).unwrap(),
        )));
        let connection = endpoint.connect(address, "weft.invalid").unwrap().await;
        let mut send = None;
        if let Ok(connection) = &connection
            && let Ok((mut driver, sender)) =
                h3::client::new(h3_quinn::Connection::new(connection.clone())).await
        {
            tokio::task::spawn_local(async move { driver.wait_idle().await });
            send = Some(sender);
        }
        Self {
            endpoint,
            connection,
            send,
        }
    }

    pub(crate) async fn call(&self, call: Call) -> Outcome {
        let mut outcome = Outcome::default();
        let connection = match &self.connection {
            Ok(connection) => connection,
            Err(error) => {
                outcome.end = closed(error);
                return outcome;
            }
        };
        outcome.end = match self.exchange(connection, &call, &mut outcome).await {
            Ok(end) => end,
            // What became of the connection says more than what h3 makes of it.
            Err(StreamError::ConnectionError { .. }) => closed(&connection.closed().await),
            Err(error) => end_of(&error),
        };
        outcome
    }

    async fn exchange(
        &self,
        connection: &quinn::Connection,
        call: &Call,
        outcome: &mut Outcome,
    ) -> Result<End, StreamError> {
        let Some(sender) = &self.send else {
            return Ok(closed(&connection.closed().await));
        };
        let stream = sender.clone().send_request(head_of(call)).await?;
        let (mut send, mut recv) = stream.split();
        if matches!(call.then, Then::CancelUpload) {
            upload(&mut send, call, || {}).await?;
            recv.recv_response().await?;
            send.stop_stream(Code::H3_REQUEST_CANCELLED);
            return Ok(End::Cancelled);
        }
        let midway = || match call.midway {
            Midway::KeyUpdate => connection.force_key_update(),
            Midway::Rebind => {
                let socket = std::net::UdpSocket::bind(ANY_PORT).unwrap();
                self.endpoint.rebind(socket).unwrap();
            }
            // h3 sends one at the end of every request.
            Midway::Nothing | Midway::EmptyData | Midway::UnknownFrame => {}
        };
        let (sent, received) = tokio::join!(
            upload(&mut send, call, midway),
            download(&mut recv, call, outcome)
        );
        match sent {
            Err(StreamError::RemoteTerminate { code, .. }) => outcome.stopped = Some(code.value()),
            Err(error) if received.is_ok() => return Err(error),
            _ => {}
        }
        received
    }
}

fn head_of(call: &Call) -> Request<()> {
    let uri = if call.is_plain_connect() {
        call.target.clone()
    } else {
        format!("https://server{}", call.target)
    };
    let mut head = Request::builder().method(call.method).uri(uri).body(()).unwrap();
    *head.headers_mut() = to_headers(&call.headers);
    head
}

async fn upload<S: quic::SendStream<Bytes>>(
    send: &mut RequestStream<S, Bytes>,
    call: &Call,
    midway: impl FnOnce(),
) -> Result<(), StreamError> {
    let content = pattern(call.content);
    let (first, second) = (
        content.slice(..content.len() / 2),
        content.slice(content.len() / 2..),
    );
    send_pieces(send, &first).await?;
    midway();
    if call.midway == Midway::EmptyData {
        send.send_data(Bytes::new()).await?;
    }
    send_pieces(send, &second).await?;
    match call.then {
        Then::CancelUpload => return Ok(()),
        Then::SendUntilStopped => loop {
            send.send_data(pattern(PIECE)).await?;
        },
        Then::Finish | Then::CancelDownload => {}
    }
    if !call.trailers.is_empty() {
        send.send_trailers(to_headers(&call.trailers)).await?;
    }
    send.finish().await
}

async fn send_pieces<S: quic::SendStream<Bytes>>(
    send: &mut RequestStream<S, Bytes>,
    content: &Bytes,
) -> Result<(), StreamError> {
    for start in (0..content.len()).step_by(PIECE) {
        send.send_data(content.slice(start..content.len().min(start + PIECE)))
            .await?;
    }
    Ok(())
}

async fn download<S: quic::RecvStream>(
    recv: &mut RequestStream<S, Bytes>,
    call: &Call,
    outcome: &mut Outcome,
) -> Result<End, StreamError> {
    let head = recv.recv_response().await?;
    outcome.status = Some(head.status().as_u16());
    outcome.headers = to_fields(head.headers());
    let mut content = Content::new();
    let result = loop {
        match recv.recv_data().await {
            Ok(Some(mut data)) => content.push(&data.copy_to_bytes(data.remaining())),
            Ok(None) => break Ok(End::Complete),
            Err(error) => break Err(error),
        }
        if call.then == Then::CancelDownload {
            recv.stop_sending(Code::H3_REQUEST_CANCELLED);
            break Ok(End::Cancelled);
        }
    };
    content.tell(outcome);
    if matches!(result, Ok(End::Complete))
        && let Some(trailers) = recv.recv_trailers().await?
    {
        outcome.trailers = to_fields(&trailers);
    }
    result
}

fn end_of(error: &StreamError) -> End {
    match error {
        StreamError::RemoteTerminate { code, .. } => End::Reset(Some(code.value())),
        StreamError::RemoteClosing { .. } => End::Unprocessed,
        StreamError::HeaderTooBig { .. } => End::TooLarge,
        StreamError::ConnectionError { .. } => End::Closed(None),
        _ => End::Malformed,
    }
}

fn closed(error: &quinn::ConnectionError) -> End {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => End::Closed(Some(close.error_code.into())),
        quinn::ConnectionError::ConnectionClosed(close) => End::Closed(Some(close.error_code.into())),
        quinn::ConnectionError::LocallyClosed => End::Malformed,
        // Above all, that it refuses the certificate of the server.
        quinn::ConnectionError::TransportError(_) => End::PeerRefused,
        _ => End::Closed(None),
    }
}

/// Their server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    shared: Rc<Shared>,
    _endpoint: quinn::Endpoint,
}

struct Shared {
    saw: mpsc::UnboundedSender<Seen>,
    gate: Rc<Gate>,
    go_away: Notify,
}

impl Server {
    pub(crate) fn listen(identity: &Identity) -> Self {
        let (chain, key) = certificate(identity);
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier(&identity.believes))
            .with_single_cert(chain, key)
            .unwrap();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let endpoint = quinn::Endpoint::server(config, ANY_PORT).unwrap();
        let (saw, seen) = mpsc::unbounded_channel();
        let shared = Rc::new(Shared {
            saw,
            gate: Gate::new(),
            go_away: Notify::new(),
        });
        let (accepting, sharing) = (endpoint.clone(), shared.clone());
        tokio::task::spawn_local(async move {
            while let Some(incoming) = accepting.accept().await {
                let shared = sharing.clone();
                tokio::task::spawn_local(async move {
                    if let Ok(connection) = incoming.await {
                        serve_connection(connection, shared).await;
                    }
                });
            }
        });
        Self {
            address: endpoint.local_addr().unwrap(),
            seen,
            shared,
            _endpoint: endpoint,
        }
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.shared.gate
    }

    /// What it leaves out is h3's choice.
    pub(crate) fn go_away(&self) {
        self.shared.go_away.notify_waiters();
    }
}

async fn serve_connection(connection: quinn::Connection, shared: Rc<Shared>) {
    let caller = peer_of(&connection);
    let mut h3 = h3::server::Connection::new(h3_quinn::Connection::new(connection.clone()))
        .await
        .unwrap();
    loop {
        tokio::select! {
            accepted = h3.accept() => {
                let Ok(Some(resolver)) = accepted else { break };
                let (shared, caller, connection) = (shared.clone(), caller.clone(), connection.clone());
                tokio::task::spawn_local(async move {
                    let mut target = String::new();
                    let result = serve(resolver, &connection, &shared.gate, &mut target).await;
                    let end = result.map_or_else(|error| end_of(&error), |()| End::Complete);
                    let _ = shared.saw.send(Seen { caller, target, end });
                });
            }
            () = shared.go_away.notified() => {
                // No request beyond the last that it took.
                let _ = h3.shutdown(0).await;
            }
        }
    }
}

async fn serve(
    resolver: RequestResolver<h3_quinn::Connection, Bytes>,
    connection: &quinn::Connection,
    gate: &Gate,
    target: &mut String,
) -> Result<(), StreamError> {
    let (head, mut stream) = resolver.resolve_request().await?;
    if head.method() == Method::CONNECT {
        *target = head
            .uri()
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default();
        return echo(stream).await;
    }
    head.uri().path().clone_into(target);
    match target.as_str() {
        "/echo" => return echo(stream).await,
        "/refused" => {
            stream.stop_stream(Code::H3_REQUEST_REJECTED);
            return Ok(());
        }
        "/half" => {
            respond(&mut stream, 200, &[]).await?;
            stream.send_data(pattern(1_000)).await?;
            gate.pass().await;
            stream.stop_stream(Code::H3_INTERNAL_ERROR);
            return Ok(());
        }
        "/endless" => {
            respond(&mut stream, 200, &[]).await?;
            loop {
                stream.send_data(pattern(PIECE)).await?;
            }
        }
        "/hold" => {
            respond(&mut stream, 200, &[]).await?;
            gate.pass().await;
            stream.send_data(Bytes::from_static(b"released")).await?;
        }
        "/early" | "/denied" => {
            stream.stop_sending(Code::H3_NO_ERROR);
            let status = if target == "/early" { 200 } else { 403 };
            respond(&mut stream, status, &[]).await?;
            stream.send_data(Bytes::from(target[1..].to_owned())).await?;
        }
        "/empty-data" | "/key-update" | "/unknown-frame" => {
            respond(&mut stream, 200, &[]).await?;
            stream.send_data(Bytes::from_static(b"hel")).await?;
            match target.as_str() {
                "/empty-data" => stream.send_data(Bytes::new()).await?,
                "/key-update" => connection.force_key_update(),
                // h3 sends one at the end of every response.
                _ => {}
            }
            stream.send_data(Bytes::from_static(b"lo")).await?;
        }
        target => answer(&mut stream, head.method(), target).await?,
    }
    stream.finish().await
}

async fn answer(stream: &mut ServerStream, method: &Method, target: &str) -> Result<(), StreamError> {
    match target {
        "/hello" | "/interim" => {
            if target == "/interim" {
                respond(stream, 103, &[("link", "</style>; rel=preload")]).await?;
            }
            respond(stream, 200, &[("content-length", "5")]).await?;
            if *method != Method::HEAD {
                stream.send_data(Bytes::from_static(b"hello")).await?;
            }
            Ok(())
        }
        "/empty" => respond(stream, 204, &[("etag", "\"1\"")]).await,
        "/unchanged" => respond(stream, 304, &[("etag", "\"1\""), ("content-length", "5")]).await,
        "/short" | "/long" => {
            respond(stream, 200, &[("content-length", "10")]).await?;
            let length = if target == "/short" { 9 } else { 11 };
            stream.send_data(pattern(length)).await
        }
        "/large-head" => respond(stream, 200, &[("x-large", &"x".repeat(50_000))]).await,
        _ => respond(stream, 404, &[]).await,
    }
}

async fn respond(
    stream: &mut ServerStream,
    status: u16,
    headers: &[(&str, &str)],
) -> Result<(), StreamError> {
    let mut head = Response::builder().status(status);
    for (name, value) in headers {
        head = head.header(*name, *value);
    }
    stream.send_response(head.body(()).unwrap()).await
}

async fn echo(mut stream: ServerStream) -> Result<(), StreamError> {
    respond(&mut stream, 200, &[]).await?;
    while let Some(mut data) = stream.recv_data().await? {
        stream.send_data(data.copy_to_bytes(data.remaining())).await?;
    }
    if let Some(trailers) = stream.recv_trailers().await? {
        stream.send_trailers(trailers).await?;
    }
    stream.finish().await
}
