//! A controller that says what a test told it to, and a command line typed to it.

use std::{
    io::{self, Write},
    pin::Pin,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use clap::Parser;
use futures_util::{Stream, stream};
use tokio::io::DuplexStream;
use tonic::{Request, Response, Status};
use weft_proto::mesh::v1::{
    self,
    admin_server::{Admin, AdminServer},
};
use weft_tls::Credentials;

use super::{
    args::{Cli, Command},
    check,
    connect::{self, Target},
    finish, human, online,
    screen::{Screen, Stream as Output},
    session::Session,
    version,
};

/// 2026-01-01T00:00:00Z.
pub(crate) const NOW: u64 = 1_767_225_600;

pub(crate) fn now() -> SystemTime {
    human::moment(NOW)
}

/// What the controller says. Calls are kept as text, in their order.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) applied: v1::ApplyResponse,
    /// Filtered as a controller does by kind, namespace and name.
    pub(crate) documents: Vec<v1::StoredDocument>,
    pub(crate) revision: u64,
    pub(crate) events: Vec<v1::WatchEvent>,
    pub(crate) export: Vec<&'static [u8]>,
    /// One after the other; the last one stays.
    pub(crate) fleets: Arc<Mutex<Vec<v1::FleetResponse>>>,
    pub(crate) answers: Vec<v1::Answer>,
    pub(crate) is_there: bool,
    pub(crate) resolved: v1::ResolveResponse,
    pub(crate) token: v1::CreateTokenResponse,
    pub(crate) tokens: Vec<v1::Token>,
    /// One after the other; the last one stays.
    pub(crate) trusts: Arc<Mutex<Vec<v1::TrustStatusResponse>>>,
    pub(crate) audit: Vec<v1::AuditEntry>,
    pub(crate) info: v1::InfoResponse,
    pub(crate) refusal: Option<Status>,
    pub(crate) calls: Arc<Mutex<Vec<String>>>,
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answered<T> = Result<Response<T>, Status>;

impl Fake {
    fn on<T: std::fmt::Debug>(&self, request: &Request<T>) -> Result<(), Status> {
        self.calls
            .lock()
            .unwrap()
            .push(format!("{:?}", request.get_ref()));
        match &self.refusal {
            Some(status) => Err(status.clone()),
            None => Ok(()),
        }
    }

    pub(crate) fn with_fleet(fleet: v1::FleetResponse) -> Self {
        Self {
            fleets: Arc::new(Mutex::new(vec![fleet])),
            ..Self::default()
        }
    }

    pub(crate) fn with_trust(trusts: Vec<v1::TrustStatusResponse>) -> Self {
        Self {
            trusts: Arc::new(Mutex::new(trusts)),
            ..Self::default()
        }
    }

    pub(crate) fn refusing(status: Status) -> Self {
        Self {
            refusal: Some(status),
            ..Self::default()
        }
    }

    fn trust(&self) -> v1::TrustStatusResponse {
        next(&self.trusts)
    }
}

fn next<T: Clone + Default>(queue: &Mutex<Vec<T>>) -> T {
    let mut queue = queue.lock().unwrap();
    match queue.len() {
        0 => T::default(),
        1 => queue[0].clone(),
        _ => queue.remove(0),
    }
}

fn streamed<T: Send + 'static>(items: Vec<T>) -> Answered<Streamed<T>> {
    Ok(Response::new(Box::pin(stream::iter(items.into_iter().map(Ok)))))
}

#[tonic::async_trait]
impl Admin for Fake {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Answered<v1::ApplyResponse> {
        self.on(&request)?;
        Ok(Response::new(self.applied.clone()))
    }

    async fn plan(&self, request: Request<v1::ApplyRequest>) -> Answered<v1::ApplyResponse> {
        self.on(&request)?;
        Ok(Response::new(self.applied.clone()))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Answered<v1::ApplyResponse> {
        self.on(&request)?;
        Ok(Response::new(self.applied.clone()))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Answered<v1::GetResponse> {
        self.on(&request)?;
        let request = request.into_inner();
        let is_wanted = |document: &&v1::StoredDocument| {
            let key = document.key.clone().unwrap_or_default();
            (request.kind.is_empty() || request.kind == key.kind)
                && (request.namespace.is_empty() || request.namespace == key.namespace)
                && (request.name.is_empty() || request.name == key.name)
        };
        Ok(Response::new(v1::GetResponse {
            documents: self.documents.iter().filter(is_wanted).cloned().collect(),
            revision: self.revision,
        }))
    }

    type WatchStream = Streamed<v1::WatchEvent>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answered<Self::WatchStream> {
        self.on(&request)?;
        streamed(self.events.clone())
    }

    type ExportStream = Streamed<v1::ExportPart>;

    async fn export(&self, request: Request<v1::ExportRequest>) -> Answered<Self::ExportStream> {
        self.on(&request)?;
        streamed(
            self.export
                .iter()
                .map(|part| v1::ExportPart { part: (*part).into() })
                .collect(),
        )
    }

    async fn fleet(&self, request: Request<v1::FleetRequest>) -> Answered<v1::FleetResponse> {
        self.on(&request)?;
        let request = request.into_inner();
        let mut fleet = next(&self.fleets);
        fleet.proxies.retain(|proxy| {
            (request.namespace.is_empty() || request.namespace == proxy.namespace)
                && (request.name.is_empty() || request.name == proxy.workload)
        });
        Ok(Response::new(fleet))
    }

    type AskStream = Streamed<v1::Answer>;

    async fn ask(&self, request: Request<v1::AskRequest>) -> Answered<Self::AskStream> {
        self.on(&request)?;
        streamed(self.answers.clone())
    }

    type CommandStream = Streamed<v1::Answer>;

    async fn command(&self, request: Request<v1::AskRequest>) -> Answered<Self::CommandStream> {
        self.on(&request)?;
        streamed(self.answers.clone())
    }

    async fn evict(&self, request: Request<v1::EvictRequest>) -> Answered<v1::EvictResponse> {
        self.on(&request)?;
        Ok(Response::new(v1::EvictResponse { found: self.is_there }))
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Answered<v1::ResolveResponse> {
        self.on(&request)?;
        Ok(Response::new(self.resolved.clone()))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Answered<v1::CreateTokenResponse> {
        self.on(&request)?;
        Ok(Response::new(self.token.clone()))
    }

    async fn tokens(&self, request: Request<v1::TokensRequest>) -> Answered<v1::TokensResponse> {
        self.on(&request)?;
        Ok(Response::new(v1::TokensResponse {
            tokens: self.tokens.clone(),
        }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Answered<v1::RevokeTokenResponse> {
        self.on(&request)?;
        Ok(Response::new(v1::RevokeTokenResponse {
            was_usable: self.is_there,
        }))
    }

    async fn trust_status(
        &self,
        request: Request<v1::TrustStatusRequest>,
    ) -> Answered<v1::TrustStatusResponse> {
        self.on(&request)?;
        Ok(Response::new(self.trust()))
    }

    async fn rotate_root(
        &self,
        request: Request<v1::RotateRootRequest>,
    ) -> Answered<v1::TrustStatusResponse> {
        self.on(&request)?;
        Ok(Response::new(self.trust()))
    }

    async fn retire_root(
        &self,
        request: Request<v1::RetireRootRequest>,
    ) -> Answered<v1::TrustStatusResponse> {
        self.on(&request)?;
        Ok(Response::new(self.trust()))
    }

    async fn renew_leaves(
        &self,
        request: Request<v1::RenewLeavesRequest>,
    ) -> Answered<v1::RenewLeavesResponse> {
        self.on(&request)?;
        Ok(Response::new(v1::RenewLeavesResponse { asked: 3 }))
    }

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Answered<v1::AuditResponse> {
        self.on(&request)?;
        Ok(Response::new(v1::AuditResponse {
            entries: self.audit.clone(),
        }))
    }

    async fn info(&self, request: Request<v1::InfoRequest>) -> Answered<v1::InfoResponse> {
        self.on(&request)?;
        Ok(Response::new(self.info.clone()))
    }
}

/// What a command has written, and its exit code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: u8,
}

/// How a command is run.
#[derive(Clone, Default)]
pub(crate) struct Typing {
    /// Whether a person looks on, with colours.
    pub(crate) is_terminal: bool,
    pub(crate) credentials: Option<Credentials>,
}

/// Types a line to a controller.
pub(crate) async fn type_to(fake: &Fake, line: &str) -> Said {
    Typing::default().type_to(fake, line).await
}

impl Typing {
    pub(crate) async fn type_to(&self, fake: &Fake, line: &str) -> Said {
        let (out, err) = (Buffer::default(), Buffer::default());
        let output = |buffer: &Buffer| Output::new(Box::new(buffer.clone()), self.is_terminal, true);
        let mut screen = Screen::new(output(&out), output(&err));
        let cli =
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"));
        let target = Target::new("10.0.0.1:15010", "test");
        let channel = connect::channel(serve(fake.clone())).await.unwrap();
        let session = Session::new(
            channel,
            target,
            "default".to_owned(),
            self.credentials.clone(),
            now,
        );
        let mut session = session.with_namespace(cli.global.namespace.as_deref());
        let result = match cli.command {
            Command::Version(args) => version::with(&mut session, &args, &mut screen).await,
            Command::Check(args) => check::with(&mut session, &args, &mut screen).await,
            command => online(command, &mut session, &mut screen).await,
        };
        let code = finish(result, &mut screen);
        Said {
            out: out.take(),
            err: err.take(),
            code,
        }
    }
}

/// The client's end of a connection to a controller.
fn serve(fake: Fake) -> DuplexStream {
    let (client, server) = tokio::io::duplex(1 << 16);
    let incoming = stream::iter([Ok::<_, io::Error>(server)]);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(AdminServer::new(fake))
            .serve_with_incoming(incoming),
    );
    client
}

/// Keeps what is written.
#[derive(Clone, Default)]
pub(crate) struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    pub(crate) fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut self.0.lock().unwrap())).unwrap()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A document of a kind, from its JSON.
pub(crate) fn document(
    kind: &str,
    name: &str,
    generation: u64,
    json: serde_json::Value,
) -> v1::StoredDocument {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    v1::StoredDocument {
        key: Some(v1::ResourceKey {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }),
        document: json.to_string().into(),
        generation,
        revision: 40 + generation,
        origin: "document".to_owned(),
        readiness: v1::Readiness::Unspecified.into(),
        status: Default::default(),
    }
}

/// A sidecar that is as it should be.
pub(crate) fn proxy(namespace: &str, workload: &str) -> v1::ProxyStatus {
    v1::ProxyStatus {
        namespace: namespace.to_owned(),
        workload: workload.to_owned(),
        identity: format!("spiffe://mesh.test/ns/{namespace}/sa/web"),
        version: "0.1.0".to_owned(),
        state: v1::proxy_status::State::Connected.into(),
        readiness: v1::Readiness::Ready.into(),
        acked_revision: 42,
        is_current: true,
        trust_version: 1,
        certificate_not_after: NOW + 20 * 3600,
        connected_since: NOW - 7200,
        last_seen: NOW - 3,
        address: "10.0.0.7:40000".to_owned(),
        resources: 5,
        names: vec!["web.shop".to_owned()],
        traffic: Some(v1::Traffic {
            requests: 1000,
            failed: 2,
            connections: 3,
        }),
        ..v1::ProxyStatus::default()
    }
}
