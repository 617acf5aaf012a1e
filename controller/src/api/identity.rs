//! `Identity`: first certificates for join tokens, and new ones for those who have one. Whose certificate it is, the
//! token or the certificate of the connection says, and nothing else.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use weft_proto::{
    SpiffeId,
    mesh::v1::{self as mesh, identity_server::Identity},
};

use crate::{
    attest::Tokens,
    auth::Caller,
    ca::{Authority, Issued},
};

/// The most bytes of a token's text: twice what one has.
const MAX_TOKEN: usize = 256;

/// The service. See the module.
pub struct IdentityService {
    authority: Arc<Authority>,
    tokens: Arc<Tokens>,
}

impl IdentityService {
    /// With this authority and its tokens.
    pub fn new(authority: Arc<Authority>, tokens: Arc<Tokens>) -> Self {
        Self { authority, tokens }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn join(
        &self,
        request: Request<mesh::JoinRequest>,
    ) -> Result<Response<mesh::SignResponse>, Status> {
        let from = address(&request);
        let message = request.into_inner();
        if message.token.len() > MAX_TOKEN {
            return Err(Status::invalid_argument("the token is too long to be one"));
        }
        let holder = holder(message.holder.as_ref())?;
        let joined = self.tokens.join(&message, holder).await;
        let issued = joined.map_err(|error| self.tokens.refuse(&error, &from))?;
        Ok(Response::new(answer(&issued)))
    }

    async fn renew(
        &self,
        request: Request<mesh::RenewRequest>,
    ) -> Result<Response<mesh::SignResponse>, Status> {
        let identity = renewable(request.extensions().get::<Caller>())?;
        let message = request.into_inner();
        let holder = holder(message.holder.as_ref())?;
        let issued = self
            .authority
            .sign(&identity, holder, &message.csr)
            .await
            .map_err(|error| {
                tracing::warn!(%identity, workload = holder.workload, %error, "a certificate is not renewed");
                error.status()
            })?;
        Ok(Response::new(answer(&issued)))
    }
}

/// Whose certificate a caller may renew: its own.
fn renewable(caller: Option<&Caller>) -> Result<SpiffeId, Status> {
    match caller {
        Some(Caller::Workload(id) | Caller::Operator(id, _) | Caller::Expired(id)) => Ok(id.clone()),
        Some(Caller::Anonymous) | None => Err(Status::unauthenticated(
            "only who has a certificate can renew it: join with a token first",
        )),
    }
}

fn holder(holder: Option<&mesh::Holder>) -> Result<&mesh::Holder, Status> {
    holder.ok_or_else(|| Status::invalid_argument("holder is missing: who will have the certificate"))
}

fn address<T>(request: &Request<T>) -> String {
    let peer = request.extensions().get::<crate::server::Peer>();
    peer.map_or_else(String::new, |peer| peer.address.to_string())
}

fn answer(issued: &Issued) -> mesh::SignResponse {
    let chain = issued.chain.iter();
    mesh::SignResponse {
        chain: chain.map(|certificate| certificate.to_vec().into()).collect(),
        bundle: Some(issued.bundle.to_message()),
        lifetime_ms: u64::try_from(issued.lifetime.as_millis()).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        auth::Role,
        ca::tests::{Place, holder, request},
    };

    async fn service() -> IdentityService {
        let authority = Place::new().open().await;
        IdentityService::new(authority.clone(), Arc::new(Tokens::new(authority)))
    }

    async fn renew(
        service: &IdentityService,
        caller: Option<Caller>,
        workload: &str,
    ) -> Result<String, Status> {
        let mut message = Request::new(mesh::RenewRequest {
            csr: request().into(),
            holder: Some(holder(workload)),
        });
        if let Some(caller) = caller {
            message.extensions_mut().insert(caller);
        }
        let answer = service.renew(message).await?.into_inner();
        let chain: Vec<_> = answer.chain.iter().map(|der| der.to_vec().into()).collect();
        assert_eq!((chain.len(), answer.bundle.unwrap().version), (2, 1));
        Ok(weft_tls::verify::peer_identity(&chain).unwrap().id.to_string())
    }

    #[tokio::test]
    async fn everyone_renews_its_own_identity_and_who_has_none_renews_nothing() {
        let service = service().await;
        let web: SpiffeId = "spiffe://mesh.test/ns/shop/sa/web".parse().unwrap();
        let ann: SpiffeId = "spiffe://mesh.test/weft/admin/ann".parse().unwrap();
        let own: SpiffeId = "spiffe://mesh.test/ns/weft-system/sa/weft-controller"
            .parse()
            .unwrap();
        for (caller, workload) in [
            (Caller::Workload(web.clone()), "web-1"),
            (Caller::Expired(web), "web-1"),
            (Caller::Operator(ann.clone(), Role::Admin), ""),
        ] {
            let id = renew(&service, Some(caller.clone()), workload).await.unwrap();
            assert_eq!(id, caller.name());
        }
        for (caller, workload, code) in [
            (None, "web-1", tonic::Code::Unauthenticated),
            (Some(Caller::Anonymous), "web-1", tonic::Code::Unauthenticated),
            (
                Some(Caller::Workload(own)),
                "web-1",
                tonic::Code::PermissionDenied,
            ),
            (
                Some(Caller::Operator(ann, Role::Admin)),
                "web-1",
                tonic::Code::InvalidArgument,
            ),
        ] {
            let refused = renew(&service, caller, workload).await.unwrap_err();
            assert_eq!(refused.code(), code, "{refused}");
        }
    }

    #[tokio::test]
    async fn what_is_no_token_or_says_no_holder_is_refused_before_anything_is_looked_up() {
        let service = service().await;
        let join = |token: String, holder| {
            service.join(Request::new(mesh::JoinRequest {
                token,
                csr: request().into(),
                holder,
            }))
        };
        let long = join("x".repeat(MAX_TOKEN + 1), Some(holder("web-1"))).await;
        assert_eq!(long.unwrap_err().code(), tonic::Code::InvalidArgument);
        assert_eq!(
            join("x".into(), None).await.unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
        let bad = join("x".into(), Some(holder("web-1"))).await;
        assert_eq!(bad.unwrap_err().code(), tonic::Code::Unauthenticated);
    }
}
