//! `Control`: the stream of a proxy. Who may call is the certificate's to say: a workload, and nobody else.

use tonic::{Request, Response, Status, Streaming};
use weft_proto::mesh::v1::{self as mesh, control_server::Control};

use crate::{
    auth::Caller,
    push::{Hub, Outgoing},
    server::Peer,
};

/// Serves proxies.
#[derive(Clone, Debug)]
pub struct ControlService {
    hub: Hub,
}

impl ControlService {
    /// With this hub.
    pub fn new(hub: Hub) -> Self {
        Self { hub }
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    type ConnectStream = Outgoing;

    async fn connect(
        &self,
        request: Request<Streaming<mesh::ProxyMessage>>,
    ) -> Result<Response<Outgoing>, Status> {
        let Some(Caller::Workload(identity)) = request.extensions().get::<Caller>().cloned() else {
            return Err(Status::permission_denied(
                "only the sidecar of a workload may call this",
            ));
        };
        let peer = request.extensions().get::<Peer>();
        let address = peer.map(|peer| peer.address.to_string()).unwrap_or_default();
        let outgoing = self.hub.connect(identity, address, request.into_inner()).await?;
        Ok(Response::new(outgoing))
    }
}
