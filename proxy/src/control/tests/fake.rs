//! A controller in this process: real TCP, TLS and gRPC; what it answers is the test's to say.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{copy_bidirectional, duplex},
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, Streaming, transport::Server};
use weft_proto::mesh::v1::{
    self as mesh, control_server, controller_message, identity_server, proxy_message,
};
use weft_tls::{Svid, TrustBundle, grpc::Admission, join::RootHash};

/// How long a test waits for what must happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
const DOMAIN: &str = "mesh.test";

/// A root, and what it signs.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn root(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    fn bundle(&self) -> TrustBundle {
        TrustBundle::from_der(&DOMAIN.parse().unwrap(), [self.root()]).unwrap()
    }

    /// A token with the hash of this root.
    pub(super) fn token(&self) -> String {
        let mut bytes = [3; 80];
        bytes[48..].copy_from_slice(RootHash::of(&self.root()).as_bytes());
        format!("weft1.{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    fn leaf(account: &str) -> CertificateParams {
        let (namespace, account) = account.split_once('/').unwrap();
        let id = format!("spiffe://{DOMAIN}/ns/{namespace}/sa/{account}");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = time::OffsetDateTime::now_utc() - time::Duration::minutes(1);
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::hours(1);
        params
    }

    fn controller(&self) -> Svid {
        let key = KeyPair::generate().unwrap();
        let leaf = Self::leaf("weft-system/weft-controller")
            .signed_by(&key, &self.0)
            .unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Svid::from_der(vec![leaf.der().clone()], key).unwrap()
    }

    fn sign(&self, csr: &[u8], account: &str) -> CertificateDer<'static> {
        let mut request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)).unwrap();
        request.params = Self::leaf(account);
        request.signed_by(&self.0).unwrap().der().clone()
    }
}

/// What the controller does with those who want certificates.
pub(super) struct Signing {
    /// For whom it signs.
    pub(super) account: String,
    pub(super) lifetime: Duration,
    /// So many of the next renewals fail.
    pub(super) failures: u32,
    pub(super) joins: Vec<mesh::JoinRequest>,
    /// Public keys of the requests, and the number of renewals.
    pub(super) csrs: Vec<Bytes>,
    pub(super) renewals: u32,
}

/// A stream of a proxy.
pub(super) struct Connected {
    pub(super) hello: mesh::Hello,
    incoming: Streaming<mesh::ProxyMessage>,
    out: mpsc::UnboundedSender<Result<mesh::ControllerMessage, Status>>,
    nonce: u64,
}

impl Connected {
    pub(super) fn send(&self, message: controller_message::Message) {
        let _ = self.out.send(Ok(mesh::ControllerMessage {
            message: Some(message),
        }));
    }

    pub(super) fn welcome(&self, controller: &str, heartbeat: Duration) {
        self.send(controller_message::Message::Welcome(mesh::Welcome {
            controller: controller.to_owned(),
            heartbeat_ms: heartbeat.as_millis() as u64,
            ..mesh::Welcome::default()
        }));
    }

    /// The next message that is wanted; others are passed over.
    pub(super) async fn next<T>(&mut self, mut wanted: impl FnMut(proxy_message::Message) -> Option<T>) -> T {
        let next = async {
            loop {
                let message = self
                    .incoming
                    .next()
                    .await
                    .expect("the stream goes on")
                    .expect("and is whole");
                if let Some(found) = message.message.and_then(&mut wanted) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next)
            .await
            .expect("the message comes in time")
    }

    /// Sends an update, and waits for what becomes of it.
    pub(super) async fn update(&mut self, mut update: mesh::Update) -> Result<(), Vec<mesh::Problem>> {
        self.nonce += 1;
        update.nonce = self.nonce;
        self.send(controller_message::Message::Update(update));
        let nonce = self.nonce;
        self.next(|message| match message {
            proxy_message::Message::Ack(ack) if ack.nonce == nonce => Some(Ok(())),
            proxy_message::Message::Nack(nack) if nack.nonce == nonce => Some(Err(nack.problems)),
            _ => None,
        })
        .await
    }

    pub(super) async fn subscribe(&mut self) -> mesh::Subscribe {
        self.next(|message| match message {
            proxy_message::Message::Subscribe(subscribe) => Some(subscribe),
            _ => None,
        })
        .await
    }
}

#[derive(Clone)]
struct Service {
    authority: Arc<Authority>,
    signing: Arc<Mutex<Signing>>,
    streams: mpsc::UnboundedSender<Connected>,
}

impl Service {
    fn answer(&self, csr: &Bytes) -> mesh::SignResponse {
        let mut signing = self.signing.lock().unwrap();
        signing.csrs.push(csr.clone());
        mesh::SignResponse {
            chain: vec![self.authority.sign(csr, &signing.account).to_vec().into()],
            bundle: Some(mesh::TrustBundle {
                version: 1,
                trust_domain: DOMAIN.to_owned(),
                roots: vec![self.authority.root().to_vec().into()],
            }),
            lifetime_ms: signing.lifetime.as_millis() as u64,
        }
    }
}

#[tonic::async_trait]
impl identity_server::Identity for Service {
    async fn join(
        &self,
        request: Request<mesh::JoinRequest>,
    ) -> Result<Response<mesh::SignResponse>, Status> {
        let request = request.into_inner();
        let csr = request.csr.clone();
        self.signing.lock().unwrap().joins.push(request);
        Ok(Response::new(self.answer(&csr)))
    }

    async fn renew(
        &self,
        request: Request<mesh::RenewRequest>,
    ) -> Result<Response<mesh::SignResponse>, Status> {
        {
            let mut signing = self.signing.lock().unwrap();
            signing.renewals += 1;
            if signing.failures > 0 {
                signing.failures -= 1;
                return Err(Status::unavailable("not now"));
            }
        }
        Ok(Response::new(self.answer(&request.into_inner().csr)))
    }
}

#[tonic::async_trait]
impl control_server::Control for Service {
    type ConnectStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<mesh::ControllerMessage, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<mesh::ProxyMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.next().await.unwrap()?;
        let Some(proxy_message::Message::Hello(hello)) = first.message else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (out, mut messages) = mpsc::unbounded_channel();
        let _ = self.streams.send(Connected {
            hello,
            incoming,
            out,
            nonce: 0,
        });
        Ok(Response::new(Box::pin(stream::poll_fn(move |cx| {
            messages.poll_recv(cx)
        }))))
    }
}

/// A controller. It ends with this.
pub(super) struct Fake {
    pub(super) address: SocketAddr,
    pub(super) authority: Arc<Authority>,
    pub(super) signing: Arc<Mutex<Signing>>,
    streams: mpsc::UnboundedReceiver<Connected>,
    frozen: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        // Connections that are there end as well.
        self.frozen.send_replace(true);
    }
}

impl Fake {
    pub(super) async fn start() -> Self {
        Self::with(Arc::new(Authority::new())).await
    }

    async fn with(authority: Arc<Authority>) -> Self {
        let signing = Arc::new(Mutex::new(Signing {
            account: "default/web".to_owned(),
            lifetime: Duration::from_secs(3600),
            failures: 0,
            joins: Vec::new(),
            csrs: Vec::new(),
            renewals: 0,
        }));
        let (streams, streams_seen) = mpsc::unbounded_channel();
        let service = Service {
            authority: authority.clone(),
            signing: signing.clone(),
            streams,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let svid = authority.controller();
        let shown = svid.with_root(&authority.root()).unwrap();
        let root = RootHash::of(&authority.root());
        let own = Arc::new(move |name: Option<&str>| {
            let joins = name.is_some_and(|name| root.is_asked_for_by(name));
            Some(if joins { shown.clone() } else { svid.clone() })
        });
        let admission = Admission::new(Arc::new(authority.bundle()), Duration::from_secs(3600));
        let acceptor = TlsAcceptor::from(Arc::new(admission.server_config(own).unwrap()));
        let (frozen, frozen_seen) = watch::channel(false);
        let (connections, accepted) = mpsc::unbounded_channel();
        let accepting = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, connections, mut frozen) =
                    (acceptor.clone(), connections.clone(), frozen_seen.clone());
                tokio::spawn(async move {
                    let _ = frozen.wait_for(|frozen| !*frozen).await;
                    let Ok(mut tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let (mut near, far) = duplex(64 << 10);
                    let _ = connections.send(Ok::<_, std::io::Error>(far));
                    let is_frozen = tokio::select! {
                        _ = copy_bidirectional(&mut tls, &mut near) => false,
                        frozen = frozen.wait_for(|frozen| *frozen) => frozen.is_ok(),
                    };
                    if is_frozen {
                        // As a stopped process: the kernel keeps the connection, and nobody is there.
                        let _ = frozen.wait_for(|frozen| !*frozen).await;
                    }
                });
            }
        });
        let mut accepted = accepted;
        let incoming = stream::poll_fn(move |cx| accepted.poll_recv(cx));
        let serving = tokio::spawn(async move {
            Server::builder()
                .add_service(identity_server::IdentityServer::new(service.clone()))
                .add_service(control_server::ControlServer::new(service))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self {
            address,
            authority,
            signing,
            streams: streams_seen,
            frozen,
            tasks: vec![accepting, serving],
        }
    }

    /// Stops as SIGSTOP does, or goes on.
    pub(super) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// The next stream.
    pub(super) async fn stream(&mut self) -> Connected {
        tokio::time::timeout(PATIENCE, self.streams.recv())
            .await
            .expect("a proxy connects")
            .unwrap()
    }
}
