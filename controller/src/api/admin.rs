//! What operators do: documents, sidecars, tokens, the certificate authority. Each call is checked against the role
//! before it gets here; what changes anything is audited with who did it.

mod convert;
mod export;
mod resolve;
mod watch;

use std::{pin::Pin, sync::Arc, time::SystemTime};

use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status};
use weft_proto::{
    kinds::{DocumentKey, Kind},
    mesh::v1::{self as mesh, admin_server::Admin},
    names::Labels,
    parse::Model,
};

use crate::{
    attest::Tokens,
    audit::{self, Record},
    auth::Caller,
    ca::Authority,
    catalog::{self, Catalog},
    push::Hub,
    store::{SharedStore, Transaction},
    unix,
};
use convert::document_key;
pub use export::Export;

/// The most entries of the audit that are listed at once.
const MAX_AUDIT: usize = 10_000;
/// Entries when nobody says how many.
const AUDIT: usize = 100;

/// The service. See the module.
pub struct AdminService {
    /// The documents.
    pub catalog: Arc<Catalog>,
    /// The sidecars.
    pub hub: Hub,
    /// The certificate authority.
    pub authority: Arc<Authority>,
    /// Join tokens.
    pub tokens: Arc<Tokens>,
    /// For the audit.
    pub store: SharedStore,
    /// Writes all of the store but what is secret.
    pub export: Export,
    /// Of this process.
    pub started: SystemTime,
}

type Answers = Pin<Box<dyn Stream<Item = Result<mesh::Answer, Status>> + Send>>;
type Answered<T> = Result<Response<T>, Status>;

/// Who calls: the gate has put it there.
fn who<T>(request: &Request<T>) -> String {
    caller(request).name().to_owned()
}

fn caller<T>(request: &Request<T>) -> Caller {
    let caller = request.extensions().get::<Caller>();
    caller.cloned().unwrap_or(Caller::Anonymous)
}

impl AdminService {
    async fn audit(&self, record: Record) -> Result<(), Status> {
        let transaction = Transaction {
            operations: vec![record.operation()],
            ..Transaction::default()
        };
        let stored = self.store.commit(transaction).await;
        stored
            .map(drop)
            .map_err(|error| Status::unavailable(format!("not done: it could not be audited: {error}")))
    }

    async fn apply_or_plan(
        &self,
        request: Request<mesh::ApplyRequest>,
        dry_run: bool,
    ) -> Answered<mesh::ApplyResponse> {
        let who = who(&request);
        let message = request.into_inner();
        let change = catalog::Request {
            dry_run,
            expected: convert::expected(message.expected)?,
            namespace: convert::namespace(&message.namespace)?,
            ..catalog::Request::by(who)
        };
        let sources = convert::sources(message.sources)?;
        convert::applied(self.catalog.apply(&sources, &change).await)
    }

    async fn stored(&self, request: mesh::GetRequest) -> Result<mesh::GetResponse, Status> {
        let kind = match request.kind.as_str() {
            "" => None,
            word => Some(Kind::from_word(word).map_err(|error| Status::invalid_argument(error.to_string()))?),
        };
        let labels = convert::labels(&request.labels)?;
        let is_wanted = |key: &DocumentKey, model: &Model| {
            kind.is_none_or(|kind| kind == key.kind())
                && (request.namespace.is_empty()
                    || !key.kind().is_namespaced()
                    || request.namespace == key.namespace())
                && (request.name.is_empty() || request.name == key.name())
                && (labels == Labels::default() || convert::labels_of(model).are_selected_by(&labels))
        };
        let (documents, revision) = self.catalog.list(is_wanted).await;
        Ok(mesh::GetResponse {
            documents: documents
                .iter()
                .map(|listed| convert::stored(&listed.key, &listed.stored, listed.status.as_ref()))
                .collect(),
            revision,
        })
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn apply(&self, request: Request<mesh::ApplyRequest>) -> Answered<mesh::ApplyResponse> {
        self.apply_or_plan(request, false).await
    }

    async fn plan(&self, request: Request<mesh::ApplyRequest>) -> Answered<mesh::ApplyResponse> {
        self.apply_or_plan(request, true).await
    }

    async fn delete(&self, request: Request<mesh::DeleteRequest>) -> Answered<mesh::ApplyResponse> {
        let who = who(&request);
        let message = request.into_inner();
        let keys: Result<Vec<_>, _> = message.keys.iter().map(document_key).collect();
        let change = catalog::Request {
            expected: convert::expected(message.expected)?,
            ..catalog::Request::by(who)
        };
        convert::applied(self.catalog.delete(keys?, message.ignore_missing, &change).await)
    }

    async fn get(&self, request: Request<mesh::GetRequest>) -> Answered<mesh::GetResponse> {
        Ok(Response::new(self.stored(request.into_inner()).await?))
    }

    type WatchStream = watch::Events;

    async fn watch(&self, request: Request<mesh::WatchRequest>) -> Answered<watch::Events> {
        let message = request.into_inner();
        let present = match message.after_revision {
            0 => Some(
                self.stored(mesh::GetRequest {
                    kind: message.kind.clone(),
                    ..mesh::GetRequest::default()
                })
                .await?,
            ),
            _ => None,
        };
        Ok(Response::new(
            watch::events(&*self.store, self.catalog.clone(), &message, present).await?,
        ))
    }

    type ExportStream = export::Parts;

    async fn export(&self, request: Request<mesh::ExportRequest>) -> Answered<Self::ExportStream> {
        self.audit(Record::new(&who(&request), "export", "the store"))
            .await?;
        Ok(Response::new(export::parts(self.export.clone())))
    }

    async fn fleet(&self, request: Request<mesh::FleetRequest>) -> Answered<mesh::FleetResponse> {
        let mut fleet = self.hub.fleet(request.into_inner()).await?;
        fleet.trust_version = self.authority.bundle().borrow().version;
        Ok(Response::new(fleet))
    }

    type AskStream = Answers;

    async fn ask(&self, request: Request<mesh::AskRequest>) -> Answered<Answers> {
        let who = who(&request);
        let message = request.into_inner();
        let question = message
            .question
            .as_ref()
            .and_then(|question| question.question.as_ref());
        if let Some(mesh::question::Question::LogLevel(_)) = question {
            return Err(Status::permission_denied(
                "the log level is changed by Command, which takes an admin",
            ));
        }
        // Logs tell of requests, and connections of who talks to whom: it is known who has looked.
        let target = format!("proxy {}/{}", message.namespace, message.workload);
        self.audit(Record::new(&who, "proxy.ask", target).detail(convert::asked(question)))
            .await?;
        let answers = self.hub.ask(message).await?;
        Ok(Response::new(answers.map(Ok).boxed()))
    }

    type CommandStream = Answers;

    async fn command(&self, request: Request<mesh::AskRequest>) -> Answered<Answers> {
        let who = who(&request);
        let message = request.into_inner();
        let question = message
            .question
            .as_ref()
            .and_then(|question| question.question.as_ref());
        let target = format!("proxy {}/{}", message.namespace, message.workload);
        self.audit(Record::new(&who, "proxy.command", target).detail(convert::asked(question)))
            .await?;
        let answers = self.hub.ask(message).await?;
        Ok(Response::new(answers.map(Ok).boxed()))
    }

    async fn evict(&self, request: Request<mesh::EvictRequest>) -> Answered<mesh::EvictResponse> {
        let who = who(&request);
        let message = request.into_inner();
        let key = DocumentKey::new(Kind::Workload, &message.namespace, &message.workload)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let of_authority = self
            .authority
            .evict(&message.namespace, &message.workload, &who)
            .await
            .map_err(|error| error.status())?;
        let of_fleet = self.hub.evict(key.clone()).await?;
        self.audit(Record::new(&who, "proxy.evict", key.to_string()))
            .await?;
        Ok(Response::new(mesh::EvictResponse {
            found: of_fleet || of_authority,
        }))
    }

    async fn resolve(&self, request: Request<mesh::ResolveRequest>) -> Answered<mesh::ResolveResponse> {
        let service = request.into_inner().service;
        let resolved = resolve::resolve(&self.catalog, &service).await?;
        Ok(Response::new(resolved))
    }

    async fn create_token(
        &self,
        request: Request<mesh::CreateTokenRequest>,
    ) -> Answered<mesh::CreateTokenResponse> {
        let who = who(&request);
        let created = self.tokens.create(request.into_inner(), &who).await?;
        Ok(Response::new(created))
    }

    async fn tokens(&self, _: Request<mesh::TokensRequest>) -> Answered<mesh::TokensResponse> {
        Ok(Response::new(self.tokens.list().await?))
    }

    async fn revoke_token(
        &self,
        request: Request<mesh::RevokeTokenRequest>,
    ) -> Answered<mesh::RevokeTokenResponse> {
        let who = who(&request);
        let revoked = self.tokens.revoke(&request.into_inner().id, &who).await?;
        Ok(Response::new(revoked))
    }

    async fn trust_status(
        &self,
        _: Request<mesh::TrustStatusRequest>,
    ) -> Answered<mesh::TrustStatusResponse> {
        let status = self.authority.status().await;
        let unavailable = |error: crate::ca::CaError| Status::unavailable(error.to_string());
        Ok(Response::new(status.map_err(unavailable)?))
    }

    async fn rotate_root(
        &self,
        request: Request<mesh::RotateRootRequest>,
    ) -> Answered<mesh::TrustStatusResponse> {
        let who = who(&request);
        let rotated = self.authority.rotate(&request.into_inner(), &who).await;
        Ok(Response::new(rotated.map_err(|error| error.status())?))
    }

    async fn retire_root(
        &self,
        request: Request<mesh::RetireRootRequest>,
    ) -> Answered<mesh::TrustStatusResponse> {
        let who = who(&request);
        let id = crate::trust::RootId::from_slice(&request.into_inner().id)
            .ok_or_else(|| Status::invalid_argument("id: the SHA-256 of a root has 32 bytes"))?;
        let retired = self.authority.retire(id, &who).await;
        Ok(Response::new(retired.map_err(|error| error.status())?))
    }

    async fn renew_leaves(
        &self,
        request: Request<mesh::RenewLeavesRequest>,
    ) -> Answered<mesh::RenewLeavesResponse> {
        let who = who(&request);
        let within = std::time::Duration::from_millis(request.into_inner().within_ms);
        let renewed = self.authority.renew_leaves(within, &who).await;
        renewed.map_err(|error| error.status())?;
        let fleet = self.hub.fleet(mesh::FleetRequest::default()).await?;
        let connected = fleet
            .proxies
            .iter()
            .filter(|proxy| proxy.state() == mesh::proxy_status::State::Connected);
        Ok(Response::new(mesh::RenewLeavesResponse {
            asked: u32::try_from(connected.count()).unwrap_or(u32::MAX),
        }))
    }

    async fn audit(&self, request: Request<mesh::AuditRequest>) -> Answered<mesh::AuditResponse> {
        let message = request.into_inner();
        let limit = match message.limit {
            0 => AUDIT,
            limit => (limit as usize).min(MAX_AUDIT),
        };
        let entries = audit::last(&*self.store, limit, message.after_revision)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(mesh::AuditResponse { entries }))
    }

    async fn info(&self, request: Request<mesh::InfoRequest>) -> Answered<mesh::InfoResponse> {
        let caller = caller(&request);
        let peer = request.extensions().get::<crate::server::Peer>();
        let not_after = peer.and_then(|peer| peer.proof.not_after);
        let fleet = self.hub.fleet(mesh::FleetRequest::default()).await?;
        Ok(Response::new(mesh::InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_domain: self.authority.bundle().borrow().trust_domain.to_string(),
            now_ms: unix::now_ms(),
            started_at: unix::seconds(self.started),
            revision: self.store.revision().0,
            caller: caller.name().to_owned(),
            role: caller.role().to_owned(),
            proxies: u32::try_from(fleet.proxies.len()).unwrap_or(u32::MAX),
            certificate_not_after: not_after.map_or(0, unix::seconds),
        }))
    }
}
