//! The controller, as the demo's operator: with the credential that it wrote for its admin.
//!
//! A call that fails may have met a connection that ended, or a credential that was replaced with the root: the next
//! one begins anew, from the file.

use std::{path::PathBuf, time::Duration};

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Response, Status, transport::Channel};
use weft_proto::mesh::v1::{
    ApplyRequest, CreateTokenRequest, FleetRequest, FleetResponse, RenewLeavesRequest, RotateRootRequest,
    SourceText, TrustStatusRequest, TrustStatusResponse, admin_client::AdminClient,
};
use weft_tls::{Credentials, credentials::SERVER_NAME, grpc};

use super::plan::Subnet;
use crate::ca::controller_id;
use crate::cli::{
    connect::{self, Target},
    context,
    failure::{self, Failure},
};

/// How long a call may take.
const CALL: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Control {
    /// The file of contexts that the controller wrote.
    file: PathBuf,
    target: Target,
    admin: Option<AdminClient<Channel>>,
}

/// A credential and the roots of the mesh, in PEM.
pub(super) struct Pems {
    pub(super) chain: String,
    pub(super) key: String,
    pub(super) bundle: String,
}

impl Control {
    /// Nothing is called yet.
    pub(super) fn new(file: PathBuf, subnet: Subnet) -> Self {
        Self {
            file,
            target: Target::new(subnet.controller().to_string(), "admin"),
            admin: None,
        }
    }

    /// The file of contexts, for commands that the reader may type.
    pub(super) fn file(&self) -> &std::path::Path {
        &self.file
    }

    /// Applies the documents of a file; gives the revision of the store after it.
    ///
    /// # Errors
    /// It cannot be called, or it refuses.
    pub(super) async fn apply(&mut self, file: &str, text: String) -> Result<u64, String> {
        let request = ApplyRequest {
            sources: vec![SourceText {
                name: file.to_owned(),
                text,
            }],
            ..ApplyRequest::default()
        };
        let applied = self.call(async |mut admin| admin.apply(request).await).await?;
        match applied.problems.first() {
            None => Ok(applied.revision),
            Some(problem) => Err(failure::describe(problem)),
        }
    }

    /// A join token for a service account of the namespace `default`.
    ///
    /// # Errors
    /// It cannot be called, or it refuses.
    pub(super) async fn token(&mut self, account: &str) -> Result<String, String> {
        let request = CreateTokenRequest {
            namespace: context::DEFAULT_NAMESPACE.to_owned(),
            service_account: account.to_owned(),
            ..CreateTokenRequest::default()
        };
        let created = self
            .call(async |mut admin| admin.create_token(request).await)
            .await?;
        Ok(created.token)
    }

    /// What it knows of all sidecars.
    ///
    /// # Errors
    /// It cannot be called, or it refuses.
    pub(super) async fn fleet(&mut self) -> Result<FleetResponse, String> {
        self.call(async |mut admin| admin.fleet(FleetRequest::default()).await)
            .await
    }

    /// How the roots are.
    ///
    /// # Errors
    /// It cannot be called, or it refuses.
    pub(super) async fn trust(&mut self) -> Result<TrustStatusResponse, String> {
        self.call(async |mut admin| admin.trust_status(TrustStatusRequest {}).await)
            .await
    }

    /// Asks every sidecar to renew its certificate.
    ///
    /// # Errors
    /// It cannot be called, or it refuses.
    pub(super) async fn renew_leaves(&mut self, within: Duration) -> Result<u32, String> {
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let request = RenewLeavesRequest { within_ms };
        let asked = self
            .call(async |mut admin| admin.renew_leaves(request).await)
            .await?;
        Ok(asked.asked)
    }

    /// Begins a rotation to a new root, which goes on by itself.
    ///
    /// # Errors
    /// It cannot be called, or it refuses.
    pub(super) async fn rotate_root(&mut self) -> Result<TrustStatusResponse, String> {
        self.call(async |mut admin| admin.rotate_root(RotateRootRequest::default()).await)
            .await
    }

    /// The admin's credential as it is now.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn pems(&self) -> Result<Pems, String> {
        let read = || {
            let context = context::choose(&self.file, None)?;
            Ok(Pems {
                chain: context.certificate.read(&self.file)?,
                key: context.key.read(&self.file)?,
                bundle: context.trust_bundle.read(&self.file)?,
            })
        };
        read().map_err(|failure: Failure| failure.to_string())
    }

    /// Whether it takes a connection with another credential. It judges that only when our side of the handshake is done:
    /// what comes first, HTTP/2 or an alert, tells.
    ///
    /// # Errors
    /// It refuses, or cannot be reached.
    pub(super) async fn accepts(&self, credentials: &Credentials) -> Result<(), String> {
        /// The client's connection preface with empty settings (RFC 9113 section 3.4).
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let text = |failure: Failure| failure.to_string();
        let trust_domain = credentials.svid().id().trust_domain();
        let expected = controller_id(trust_domain).map_err(|error| error.to_string())?;
        let config = grpc::client_config(credentials, &expected).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(SERVER_NAME).map_err(|error| error.to_string())?;
        let mut stream = connect::dial(&self.target, config, name).await.map_err(text)?;
        // If it fails, so does reading, which knows why.
        let _ = stream.write_all(PREFACE).await;
        match tokio::time::timeout(CALL, stream.read_u8()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", CALL.as_secs())),
        }
    }

    async fn call<T>(
        &mut self,
        call: impl AsyncFnOnce(AdminClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, String> {
        let work = async {
            let admin = match self.admin.take() {
                Some(admin) => admin,
                None => self.connect().await.map_err(|failure| failure.to_string())?,
            };
            match call(admin.clone()).await {
                Ok(response) => {
                    self.admin = Some(admin);
                    Ok(response.into_inner())
                }
                Err(status) => Err(connect::refused(&self.target, status).to_string()),
            }
        };
        match tokio::time::timeout(CALL, work).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} s", CALL.as_secs())),
        }
    }

    async fn connect(&self) -> Result<AdminClient<Channel>, Failure> {
        let context = context::choose(&self.file, None)?;
        let credentials = context.credentials(&self.file)?;
        let channel = connect::connect(&self.target, &credentials).await?;
        Ok(AdminClient::new(channel))
    }
}
