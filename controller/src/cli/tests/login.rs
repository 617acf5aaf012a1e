//! Joining, renewing and connecting over TLS, against a listener of the test's own authority.

use std::{
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
    time::{Duration, SystemTime},
};

use clap::Parser;
use futures_util::stream;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{Request, Response, Status, transport::server::Connected};
use weft_proto::mesh::v1::{
    self,
    admin_server::AdminServer,
    identity_server::{Identity, IdentityServer},
};
use weft_tls::{Svid, TrustBundle, grpc::Admission, join::RootHash, testing::Authority, token::JoinToken};

use crate::cli::{
    args::Cli,
    context::{self, write_admin},
    finish,
    screen::{Screen, Stream},
    testing::{Buffer, Fake, Said},
};

const LIFE: Duration = Duration::from_secs(3600);

/// Signs with the test's authority whatever key it is shown, always for the same account.
#[derive(Clone)]
struct Signer {
    authority: Arc<Authority>,
    calls: Arc<std::sync::Mutex<Vec<&'static str>>>,
}

impl Signer {
    fn sign(&self, csr: &[u8]) -> v1::SignResponse {
        let now = SystemTime::now();
        let request = rcgen::CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        let leaf = self
            .authority
            .leaf_for("weft-ops", "ann", &request.public_key, (now, now + LIFE));
        v1::SignResponse {
            chain: vec![leaf.to_vec().into()],
            bundle: Some(v1::TrustBundle {
                version: 1,
                trust_domain: "mesh.test".to_owned(),
                roots: self
                    .authority
                    .bundle()
                    .roots()
                    .map(|root| root.to_vec().into())
                    .collect(),
            }),
            lifetime_ms: 3_600_000,
        }
    }
}

#[tonic::async_trait]
impl Identity for Signer {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::SignResponse>, Status> {
        self.calls.lock().unwrap().push("join");
        Ok(Response::new(self.sign(&request.into_inner().csr)))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::SignResponse>, Status> {
        self.calls.lock().unwrap().push("renew");
        Ok(Response::new(self.sign(&request.into_inner().csr)))
    }
}

/// TLS that tonic may serve on.
struct Served(TlsStream<TcpStream>);

impl Connected for Served {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Served {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Served {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Task<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A controller of an authority, that shows `own`.
async fn controller(authority: &Arc<Authority>, own: Svid) -> (String, Signer) {
    let signer = Signer {
        authority: authority.clone(),
        calls: Arc::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let root = first_root(&authority.bundle());
    let own = own.with_root(&root).unwrap();
    let admission = Admission::new(Arc::new(authority.bundle()), Duration::from_secs(60));
    let tls = admission
        .server_config(Arc::new(move |_| Some(own.clone())))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let incoming = stream::unfold((listener, acceptor), |(listener, acceptor)| async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            if let Ok(tls) = acceptor.accept(tcp).await {
                return Some((Ok::<_, std::io::Error>(Served(tls)), (listener, acceptor)));
            }
        }
    });
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(IdentityServer::new(signer.clone()))
            .add_service(AdminServer::new(Fake::default()))
            .serve_with_incoming(incoming),
    );
    (address, signer)
}

fn first_root(bundle: &TrustBundle) -> CertificateDer<'static> {
    bundle.roots().next().unwrap().clone()
}

fn honest(authority: &Authority) -> Svid {
    authority.svid("weft-system", "weft-controller")
}

async fn run(file: &Path, line: &str) -> Said {
    let (out, err) = (Buffer::default(), Buffer::default());
    let stream = |buffer: &Buffer| Stream::new(Box::new(buffer.clone()), false, false);
    let mut screen = Screen::new(stream(&out), stream(&err));
    let line = format!("{line} --config {}", file.display());
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    let code = finish(crate::cli::dispatch(cli, &mut screen).await, &mut screen);
    Said {
        out: out.take(),
        err: err.take(),
        code,
    }
}

fn token(authority: &Authority) -> String {
    let root = first_root(&authority.bundle());
    JoinToken::generate(RootHash::of(&root)).expose().to_string()
}

#[tokio::test]
async fn a_token_becomes_a_context_that_works() {
    let authority = Arc::new(Authority::new("mesh.test"));
    let (address, signer) = controller(&authority, honest(&authority)).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    let said = run(
        &file,
        &format!("weft login {} --controller {address}", token(&authority)),
    )
    .await;
    assert_eq!((said.err.as_str(), said.code), ("", 0));
    assert!(
        said.out
            .starts_with("logged in as spiffe://mesh.test/ns/weft-ops/sa/ann, until "),
        "{}",
        said.out
    );
    let context = context::choose(&file, None).unwrap();
    assert_eq!(
        (context.name.as_str(), context.controller.as_str()),
        ("ann", address.as_str())
    );
    let said = run(&file, "weft status").await;
    assert_eq!((said.code, said.err.lines().next()), (0, Some("no sidecars")));
    assert_eq!(*signer.calls.lock().unwrap(), ["join"]);
    // The context of another controller is not replaced.
    let (other, _) = controller(&authority, honest(&authority)).await;
    let login = format!("weft login {} --controller {other}", token(&authority));
    assert_eq!(run(&file, &format!("{login} --name ann")).await.code, 2);
    assert!(run(&file, &login).await.out.contains("context ann-2 of"));
}

#[tokio::test]
async fn a_token_is_not_shown_to_a_stranger() {
    let authority = Arc::new(Authority::new("mesh.test"));
    let stranger = Arc::new(Authority::with_root("mesh.test", "another root"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    // Another root; and a workload of the right one.
    for (shown, own) in [
        (&stranger, honest(&stranger)),
        (&authority, authority.svid("shop", "web")),
        (&authority, authority.svid("weft-system", "other")),
    ] {
        let (address, signer) = controller(shown, own).await;
        let said = run(
            &file,
            &format!("weft login {} --controller {address}", token(&authority)),
        )
        .await;
        assert_eq!(said.code, 1);
        assert!(said.err.contains("no trusted connection"), "{}", said.err);
        assert!(signer.calls.lock().unwrap().is_empty());
    }
    assert!(!file.exists());
    assert_eq!(
        run(&file, "weft login weft1.abc --controller 127.0.0.1:1")
            .await
            .code,
        2
    );
}

fn admin_file(
    directory: &Path,
    authority: &Authority,
    address: &str,
    life: (SystemTime, SystemTime),
) -> std::path::PathBuf {
    let file = directory.join("admin.yaml");
    let pem = authority.svid_pem_between("weft-ops", "ann", life);
    write_admin(&file, address, &pem.chain, &pem.key, &authority.bundle_pem()).unwrap();
    file
}

#[tokio::test]
async fn a_credential_is_renewed_when_half_of_its_life_is_over() {
    let authority = Arc::new(Authority::new("mesh.test"));
    let (address, signer) = controller(&authority, honest(&authority)).await;
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let young = (now - Duration::from_secs(10), now + Duration::from_secs(60));
    let file = admin_file(directory.path(), &authority, &address, young);
    assert_eq!(run(&file, "weft status").await.code, 0);
    assert!(signer.calls.lock().unwrap().is_empty());

    let old = (now - Duration::from_secs(60), now + Duration::from_secs(10));
    let file = admin_file(directory.path(), &authority, &address, old);
    let before = context::choose(&file, None).unwrap();
    let said = run(&file, "weft status").await;
    assert_eq!((said.code, said.err.lines().next()), (0, Some("no sidecars")));
    assert_eq!(*signer.calls.lock().unwrap(), ["renew"]);
    let after = context::choose(&file, None).unwrap();
    assert!(before.key != after.key && before.certificate != after.certificate);
    let credentials = after.credentials(&file).unwrap();
    assert!(credentials.svid().not_after() > now + Duration::from_secs(3000));
    assert_eq!(run(&file, "weft status").await.code, 0);
    assert_eq!(signer.calls.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_credential_that_cannot_be_renewed_is_told_and_used_to_its_end() {
    let authority = Arc::new(Authority::new("mesh.test"));
    let (address, _) = controller(&authority, honest(&authority)).await;
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let old = (now - Duration::from_secs(600), now + Duration::from_secs(90));
    let file = admin_file(directory.path(), &authority, &address, old);
    // The renewed one cannot be stored: a directory is where the lock is to be.
    std::fs::create_dir(directory.path().join("admin.yaml.lock")).unwrap();
    let said = run(&file, "weft status").await;
    assert_eq!(said.code, 0);
    assert!(
        said.err
            .contains("warning: the credential of context admin cannot be renewed, and expires in 1m"),
        "{}",
        said.err
    );
}

#[tokio::test]
async fn who_is_not_the_controller_is_not_called() {
    let authority = Arc::new(Authority::new("mesh.test"));
    let (address, _) = controller(&authority, authority.svid("shop", "web")).await;
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let file = admin_file(directory.path(), &authority, &address, (now, now + LIFE));
    let said = run(&file, "weft status").await;
    assert_eq!(said.code, 1);
    assert!(said.err.contains("its certificate is refused"), "{}", said.err);
    // The controller of a mesh that was made anew does not accept ours, which shows only in place of the first answer.
    let anew = Arc::new(Authority::with_root("mesh.test", "anew"));
    let both = format!("{}{}", authority.bundle_pem(), anew.bundle_pem());
    let (address, _) = controller(&anew, honest(&anew)).await;
    let pem = authority.svid_pem("weft-ops", "ann");
    write_admin(&file, &address, &pem.chain, &pem.key, &both).unwrap();
    let said = run(&file, "weft status").await;
    assert_eq!(said.code, 1);
    assert!(said.err.contains("it refuses our certificate"), "{}", said.err);
}
