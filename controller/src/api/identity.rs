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
