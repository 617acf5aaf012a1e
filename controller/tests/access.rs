//! Who may call what, over real TLS, at a real controller. What is expected is written here once more by hand: the
//! controller's own table is not asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Buf as _;
use futures_util::{StreamExt as _, future, stream};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint, Uri},
};
use weft_proto::{
    SpiffeId, TrustDomain,
    mesh::v1::{
        self as mesh, admin_client::AdminClient, control_client::ControlClient,
        identity_client::IdentityClient,
    },
};
use weft_tls::{
    Credentials, Svid, TrustBundle,
    credentials::SERVER_NAME,
    grpc,
    join::{self, RootHash},
    testing,
};
use x509_parser::{extensions::GeneralName, prelude::parse_x509_certificate};

/// Longer than anything here takes, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Of [`EXPECTED`], in the order of its columns.
const CALLERS: [&str; 6] = [
    "nobody",
    "expired workload",
    "expired operator",
    "workload",
    "viewer",
    "admin",
];

/// For each call whom it is open to: `x`, or `-`.
const EXPECTED: [(&str, &str); 23] = [
    ("Identity/Join", "xxxxxx"),
    ("Identity/Renew", "-xxxxx"),
    ("Control/Connect", "---x--"),
    ("Admin/Apply", "-----x"),
    ("Admin/Plan", "----xx"),
    ("Admin/Delete", "-----x"),
    ("Admin/Get", "----xx"),
    ("Admin/Watch", "----xx"),
    ("Admin/Export", "-----x"),
    ("Admin/Fleet", "----xx"),
    ("Admin/Ask", "----xx"),
    ("Admin/Command", "-----x"),
    ("Admin/Evict", "-----x"),
    ("Admin/Resolve", "----xx"),
    ("Admin/CreateToken", "-----x"),
    ("Admin/Tokens", "----xx"),
    ("Admin/RevokeToken", "-----x"),
    ("Admin/TrustStatus", "----xx"),
    ("Admin/RotateRoot", "-----x"),
    ("Admin/RetireRoot", "-----x"),
    ("Admin/RenewLeaves", "-----x"),
    ("Admin/Audit", "----xx"),
    ("Admin/Info", "----xx"),
];

/// A controller of its own, killed at the end.
struct Controller {
    child: Child,
    files: TempDir,
    address: SocketAddr,
}

impl Controller {
    /// Starts one and waits until it says that it is ready, and where.
    fn start(extra: &[&str]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_weft-controller"))
            .args(["run", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
            .args(["--log", "info", "--log-format", "json", "--data-dir"])
            .arg(files.path().join("data"))
            .args(extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let address = lines.by_ref().map(Result::unwrap).find_map(|line| {
            said += &format!("{line}\n");
            let line: Value = serde_json::from_str(&line).ok()?;
            let fields = &line["fields"];
            (fields["message"] == "ready").then(|| fields["address"].as_str().unwrap().parse().unwrap())
        });
        // A full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            files,
            address: address.unwrap_or_else(|| panic!("it is not ready: {said}")),
        }
    }

    fn data(&self) -> PathBuf {
        self.files.path().join("data")
    }

    /// A new token, as an admin makes it.
    fn token(&self, of: &[&str]) -> String {
        let made = Command::new(env!("CARGO_BIN_EXE_weft"))
            .args(["token", "create", "-q"])
            .args(of)
            .env("WEFT_CONFIG", self.data().join("admin.yaml"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    }

    async fn operator(&self, role: &str) -> Credentials {
        let token = self.token(&["--role", role, "--name", "ann"]);
        self.join(&token, "", CertificateParams::default()).await.unwrap()
    }

    async fn workload(&self, namespace: &str, account: &str, name: &str) -> Credentials {
        let token = self.token(&["-n", namespace, "--service-account", account]);
        self.join(&token, name, CertificateParams::default())
            .await
            .unwrap()
    }

    async fn join(
        &self,
        token: &str,
        workload: &str,
        asked: CertificateParams,
    ) -> Result<Credentials, Status> {
        let bytes = URL_SAFE_NO_PAD
            .decode(token.strip_prefix("weft1.").unwrap())
            .unwrap();
        let root = RootHash::new(bytes[48..].try_into().unwrap());
        let config = join::client_config(root, &controller_id()).unwrap();
        let channel = dial(self.address, config, root.server_name().unwrap()).await?;
        let key = KeyPair::generate().unwrap();
        let request = mesh::JoinRequest {
            token: token.to_owned(),
            csr: asked.serialize_request(&key).unwrap().der().to_vec().into(),
            holder: Some(holder(workload, "1")),
        };
        let signed = IdentityClient::new(channel).join(request).await?.into_inner();
        let chain = signed.chain.iter().map(|der| der.to_vec().into()).collect();
        let svid = Svid::from_der(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
        let roots = signed.bundle.unwrap().roots.into_iter();
        let bundle = TrustBundle::from_der(&trust_domain(), roots.map(|der| der.to_vec().into())).unwrap();
        Ok(Credentials::new(svid, bundle).unwrap())
    }

    /// A leaf of the controller's own signer that ended a minute ago.
    fn expired(&self, path: &str, bundle: &TrustBundle) -> Credentials {
        let signer = fs::read(only_entry(&self.data().join("ca")).join("signer.pem")).unwrap();
        let certificate = CertificateDer::from_pem_slice(&signer).unwrap();
        let signer_key = KeyPair::try_from(&PrivateKeyDer::from_pem_slice(&signer).unwrap()).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(&format!("spiffe://cluster.local{path}"))];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (SystemTime::now() - Duration::from_secs(3600)).into();
        params.not_after = (SystemTime::now() - Duration::from_secs(60)).into();
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_ca_cert_der(&certificate, signer_key).unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Credentials::unchecked(
            Svid::from_der(vec![leaf, certificate], key).unwrap(),
            bundle.clone(),
        )
    }

    async fn channel(&self, credentials: &Credentials) -> Result<Channel, Status> {
        let config = grpc::client_config(credentials, &controller_id()).unwrap();
        dial(self.address, config, ServerName::try_from(SERVER_NAME).unwrap()).await
    }

    async fn anonymous(&self, bundle: Arc<TrustBundle>) -> Channel {
        let config = grpc::anonymous_client_config(bundle, &controller_id()).unwrap();
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        dial(self.address, config, name).await.unwrap()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn only_entry(directory: &Path) -> PathBuf {
    let mut entries = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let first = entries.next().unwrap();
    assert!(entries.next().is_none(), "one root");
    first
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn controller_id() -> SpiffeId {
    "spiffe://cluster.local/ns/weft-system/sa/weft-controller"
        .parse()
        .unwrap()
}

fn holder(workload: &str, instance: &str) -> mesh::Holder {
    mesh::Holder {
        workload: workload.to_owned(),
        instance: instance.to_owned(),
    }
}

/// One connection: when it ends, the channel has ended. An error of the connection is a status with a source.
async fn dial(
    address: SocketAddr,
    config: ClientConfig,
    name: ServerName<'static>,
) -> Result<Channel, Status> {
    let failed = |error: std::io::Error| Status::from_error(error.into());
    let tcp = TcpStream::connect(address).await.map_err(failed)?;
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .map_err(failed)?;
    let mut once = Some(TokioIo::new(tls));
    let connector = tower::service_fn(move |_: Uri| {
        future::ready(
            once.take()
                .ok_or_else(|| std::io::Error::other("the connection has ended")),
        )
    });
    let endpoint = Endpoint::from_static("http://weft.invalid");
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|error| Status::from_error(error.into()))
}

/// Messages of no bytes out, of any bytes in.
struct Empty;

impl Codec for Empty {
    type Encode = ();
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Empty {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Empty {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

/// Makes a call with an empty message; the answer is that of its head.
async fn call(channel: &Channel, name: &str) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    let path = format!("/weft.mesh.v1.{name}").parse().unwrap();
    grpc.ready()
        .await
        .map_err(|error| Status::from_error(error.into()))?;
    let called = grpc.server_streaming(Request::new(()), path, Empty);
    timeout(PATIENCE, called).await.unwrap().map(drop)
}

/// Whether the error is of the connection; else the controller said it.
fn is_broken(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// The calls of all `.proto` files.
fn declared() -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/mesh/v1");
    let mut calls = BTreeSet::new();
    for file in fs::read_dir(directory).unwrap() {
        let mut service = String::new();
        for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            let words: Vec<&str> = line
                .split(|c: char| !c.is_alphanumeric())
                .filter(|word| !word.is_empty())
                .collect();
            match words[..] {
                ["service", name, ..] => name.clone_into(&mut service),
                ["rpc", name, ..] => assert!(calls.insert(format!("{service}/{name}")), "{line}"),
                _ => {}
            }
        }
    }
    calls
}

#[tokio::test]
async fn each_caller_reaches_exactly_its_calls() {
    let expected: BTreeSet<String> = EXPECTED.iter().map(|(call, _)| (*call).to_owned()).collect();
    assert_eq!(declared(), expected, "each call has a row");
    let controller = Controller::start(&[]);
    let admin = controller.operator("admin").await;
    let credentials = [
        controller.expired("/ns/shop/sa/web", admin.bundle()),
        controller.expired("/weft/admin/ann", admin.bundle()),
        controller.workload("shop", "web", "web-0").await,
        controller.operator("viewer").await,
        admin.clone(),
    ];
    let mut channels = vec![controller.anonymous(admin.shared_bundle()).await];
    for credentials in &credentials {
        channels.push(controller.channel(credentials).await.unwrap());
    }
    let mut wrong = Vec::new();
    // The admin last: its calls act.
    for (column, (caller, channel)) in CALLERS.iter().zip(&channels).enumerate() {
        for (name, open_to) in EXPECTED {
            let answer = call(channel, name).await;
            let status = answer.err().unwrap_or_else(|| Status::ok(""));
            assert!(!is_broken(&status), "{caller}: {name}: {status:?}");
            let is_denied = matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated);
            let is_unknown = status.code() == Code::Unimplemented;
            if is_unknown || is_denied == (open_to.as_bytes()[column] == b'x') {
                wrong.push(format!(
                    "{caller}: {name}: {:?} {}",
                    status.code(),
                    status.message()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_certificate_of_another_authority_reaches_nothing() {
    let controller = Controller::start(&[]);
    let viewer = controller.operator("viewer").await;
    let other = testing::Authority::with_root("cluster.local", "another root");
    let stranger = Credentials::unchecked(other.svid("shop", "web"), viewer.bundle().clone());
    for name in declared() {
        let refused = match controller.channel(&stranger).await {
            Ok(channel) => call(&channel, &name).await.unwrap_err(),
            Err(status) => status,
        };
        assert!(is_broken(&refused), "{name}: {refused:?}");
    }
    let channel = controller.channel(&viewer).await.unwrap();
    call(&channel, "Admin/Info").await.unwrap();
}

#[tokio::test]
async fn a_request_for_more_gets_the_identity_of_the_token_alone() {
    let controller = Controller::start(&[]);
    let mut asked = CertificateParams::new(["weft.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
    asked
        .subject_alt_names
        .push(uri("spiffe://cluster.local/weft/admin/ann"));
    asked
        .subject_alt_names
        .push(uri("spiffe://cluster.local/ns/shop/sa/other"));
    asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    asked.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let token = controller.token(&["-n", "shop", "--service-account", "web"]);
    let joined = controller.join(&token, "web-0", asked).await.unwrap();
    let (_, leaf) = parse_x509_certificate(&joined.svid().chain()[0]).unwrap();
    let names = &leaf
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(
        names[..],
        [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]
    );
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(!usage.key_cert_sign() && !usage.crl_sign());
    assert!(
        !leaf.subject().to_string().contains("weft.example"),
        "{}",
        leaf.subject()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_for_one_of_a_hundred_joins_at_once() {
    let controller = Controller::start(&[]);
    let token = controller.token(&["-n", "shop", "--service-account", "web"]);
    let joins = (0..100).map(|number| {
        let (controller, token) = (&controller, &token);
        async move {
            controller
                .join(token, &format!("web-{number}"), CertificateParams::default())
                .await
        }
    });
    let joins = future::join_all(joins).await;
    let refused: Vec<&Status> = joins.iter().filter_map(|join| join.as_ref().err()).collect();
    assert_eq!(refused.len(), 99);
    for status in refused {
        // That so many fail in a moment is itself bounded.
        let is_refusal = matches!(status.code(), Code::Unauthenticated | Code::ResourceExhausted);
        assert!(is_refusal && !is_broken(status), "{status:?}");
    }
}

/// Opens the stream of a proxy, which stays open from this side.
async fn connect(
    channel: &Channel,
    hello: mesh::Hello,
) -> Result<Streaming<mesh::ControllerMessage>, Status> {
    let hello = mesh::ProxyMessage {
        message: Some(mesh::proxy_message::Message::Hello(hello)),
    };
    let sent = stream::iter([hello]).chain(stream::pending());
    let connected = ControlClient::new(channel.clone()).connect(sent).await;
    connected.map(tonic::Response::into_inner)
}

fn hello(workload: &str, instance: &str, metadata: Option<Value>, names: &[&str]) -> mesh::Hello {
    let registration = metadata.map(|metadata| {
        let document = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "Workload", "metadata": metadata,
            "spec": {"address": "10.0.0.9"},
        });
        mesh::Registration {
            document: document.to_string().into(),
            readiness: mesh::Readiness::Ready.into(),
            grace_ms: 0,
        }
    });
    mesh::Hello {
        version: "test".to_owned(),
        holder: Some(holder(workload, instance)),
        registration,
        subscribe: Some(mesh::Subscribe {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            ..mesh::Subscribe::default()
        }),
        ..mesh::Hello::default()
    }
}

/// The first update.
async fn update(stream: &mut Streaming<mesh::ControllerMessage>) -> Result<mesh::Update, Status> {
    loop {
        let next = timeout(PATIENCE, stream.message()).await.unwrap()?;
        if let Some(mesh::controller_message::Message::Update(update)) = next.unwrap().message {
            return Ok(update);
        }
    }
}

/// Services `web` and `secret` in one namespace, and `web` in another.
async fn apply_services(channel: Channel) {
    let service = |namespace: &str, name: &str, ip: &str| mesh::SourceText {
        name: format!("{namespace}-{name}"),
        text: json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"selector": {"app": name}, "clusterIP": ip, "ports": [{"name": "http", "port": 80}]},
        })
        .to_string(),
    };
    let request = mesh::ApplyRequest {
        sources: vec![
            service("shop", "web", "10.96.0.10"),
            service("shop", "secret", "10.96.0.11"),
            service("bank", "web", "10.96.0.12"),
        ],
        ..mesh::ApplyRequest::default()
    };
    let applied = AdminClient::new(channel)
        .apply(request)
        .await
        .unwrap()
        .into_inner();
    assert!(applied.problems.is_empty(), "{:?}", applied.problems);
}

#[tokio::test]
async fn a_stream_is_of_its_own_namespace_and_name() {
    let controller = Controller::start(&[]);
    let admin = controller.operator("admin").await;
    apply_services(controller.channel(&admin).await.unwrap()).await;
    let web = controller.workload("shop", "web", "web-0").await;
    let web = controller.channel(&web).await.unwrap();
    let mut live = connect(
        &web,
        hello("web-0", "1", Some(json!({"name": "web-0"})), &["web"]),
    )
    .await
    .unwrap();
    let given = update(&mut live).await.unwrap();
    let keys = given.changed.iter().filter_map(|resource| resource.key.as_ref());
    let services: Vec<_> = keys
        .filter(|key| key.kind == "Service")
        .map(|key| (key.namespace.as_str(), key.name.as_str()))
        .collect();
    assert_eq!(services, [("shop", "web")]);

    let elsewhere = json!({"name": "web-1", "namespace": "bank"});
    let refused = connect(&web, hello("web-1", "1", Some(elsewhere), &[]))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let thief = controller.workload("shop", "thief", "thief-0").await;
    let thief = controller.channel(&thief).await.unwrap();
    for metadata in [Some(json!({"name": "web-0"})), None] {
        let mut taken = connect(&thief, hello("web-0", "2", metadata, &[])).await.unwrap();
        let refused = update(&mut taken).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused:?}");
    }
    // The same name of another namespace is another name.
    let bank = controller.workload("bank", "web", "web-0").await;
    let bank = controller.channel(&bank).await.unwrap();
    let mut other = connect(&bank, hello("web-0", "2", Some(json!({"name": "web-0"})), &[]))
        .await
        .unwrap();
    update(&mut other).await.unwrap();
    let fleet = AdminClient::new(controller.channel(&admin).await.unwrap());
    let fleet = fleet
        .clone()
        .fleet(mesh::FleetRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut proxies: Vec<_> = fleet
        .proxies
        .iter()
        .map(|proxy| proxy.identity.as_str())
        .collect();
    proxies.sort_unstable();
    assert_eq!(
        proxies,
        [
            "spiffe://cluster.local/ns/bank/sa/web",
            "spiffe://cluster.local/ns/shop/sa/web"
        ]
    );
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let controller = Controller::start(&["--leaf-lifetime", "10s"]);
    let web = controller.workload("shop", "web", "web-0").await;
    let channel = controller.channel(&web).await.unwrap();
    let mut stream = connect(&channel, hello("web-0", "1", None, &[])).await.unwrap();
    let ended = loop {
        match timeout(PATIENCE, stream.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream has ended, not the connection"),
            Err(status) => break status,
        }
    };
    assert!(SystemTime::now() >= web.svid().not_after(), "{ended:?}");
    assert!(is_broken(&ended), "{ended:?}");
    assert!(is_broken(&call(&channel, "Identity/Renew").await.unwrap_err()));
    // A new one is good for a renewal only.
    let channel = controller.channel(&web).await.unwrap();
    assert_eq!(
        call(&channel, "Control/Connect").await.unwrap_err().code(),
        Code::Unauthenticated
    );
    assert_eq!(
        call(&channel, "Identity/Renew").await.unwrap_err().code(),
        Code::InvalidArgument
    );
}
