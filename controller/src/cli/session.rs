//! A command's connection to the controller, and what it works with.

use std::{path::PathBuf, time::SystemTime};

use tonic::{Status, transport::Channel};
use weft_proto::mesh::v1::admin_client::AdminClient;
use weft_tls::{Credentials, clock};

use super::{
    args::Global,
    connect::{self, Target},
    context::{self, Context},
    credential,
    failure::Failure,
    human,
    screen::Screen,
};

/// The largest message that is taken from a controller: ten thousand documents with room to spare.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// See the module.
pub(crate) struct Session {
    pub(crate) admin: AdminClient<Channel>,
    pub(crate) target: Target,
    /// Of what is named without one.
    pub(crate) namespace: String,
    /// The one of the command line, if it has any.
    pub(crate) given_namespace: Option<String>,
    /// With which this session is; `None` in tests of what needs none.
    pub(crate) credentials: Option<Credentials>,
    /// The time, which a test may stop.
    pub(crate) now: fn() -> SystemTime,
    /// With which it can be opened again; `None` in tests.
    opening: Option<Opening>,
}

/// What a session is opened with.
pub(crate) struct Opening {
    pub(crate) path: PathBuf,
    pub(crate) context: Context,
    pub(crate) target: Target,
}

impl Opening {
    /// Chooses the context.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn choose(global: &Global) -> Result<Self, Failure> {
        let path = context::path(global.config.as_deref())?;
        let context = context::choose(&path, global.context.as_deref())?;
        let address = global
            .controller
            .clone()
            .unwrap_or_else(|| context.controller.clone());
        let target = Target::new(address, &*context.name);
        Ok(Self {
            path,
            context,
            target,
        })
    }
}

impl Session {
    /// Connects to the controller of the context. The credential is renewed if it is time.
    ///
    /// # Errors
    /// There is no context, or its credential is of no use, or the controller cannot be reached or refuses us.
    pub(crate) async fn open(global: &Global, screen: &mut Screen) -> Result<Self, Failure> {
        let opening = Opening::choose(global)?;
        let Opening {
            path,
            context,
            target,
        } = &opening;
        let mut credentials = context.credentials(path)?;
        let mut channel = connect::connect(target, &credentials).await?;
        let now = clock::now();
        if credential::is_due(credentials.svid(), now) {
            match credential::renew(target, channel.clone(), path, context).await {
                Ok(renewed) => {
                    credentials = renewed;
                    channel = connect::connect(target, &credentials).await?;
                }
                Err(failure) if now > credentials.svid().not_after() => {
                    let ended = human::date(human::seconds(credentials.svid().not_after()));
                    return Err(Failure::Credential(
                        context.name.clone(),
                        format!("it expired at {ended}, and cannot be renewed: {failure}"),
                    ));
                }
                Err(failure) => {
                    let left = human::until(now, human::seconds(credentials.svid().not_after()));
                    screen.warn(format_args!(
                        "the credential of context {} cannot be renewed, and expires {left}: {failure}",
                        context.name
                    ));
                }
            }
        }
        let (namespace, target) = (context.namespace.clone(), opening.target.clone());
        let mut session = Self::new(channel, target, namespace, Some(credentials), clock::now);
        session.opening = Some(opening);
        Ok(session.with_namespace(global.namespace.as_deref()))
    }

    /// A session over a channel that there is.
    pub(crate) fn new(
        channel: Channel,
        target: Target,
        namespace: String,
        credentials: Option<Credentials>,
        now: fn() -> SystemTime,
    ) -> Self {
        Self {
            admin: AdminClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES),
            target,
            namespace,
            given_namespace: None,
            credentials,
            now,
            opening: None,
        }
    }

    /// Renews the credential now, for one of the root that signs now, and goes on with that.
    ///
    /// # Errors
    /// It is refused, or can't be kept.
    pub(crate) async fn renew(&mut self) -> Result<(), Failure> {
        let (Some(opening), Some(credentials)) = (&self.opening, &self.credentials) else {
            return Ok(());
        };
        let Opening {
            path,
            context,
            target,
        } = opening;
        let channel = connect::connect(target, credentials).await?;
        let renewed = credential::renew(target, channel, path, context).await?;
        self.go_on_with(renewed).await
    }

    /// Connects anew, with the credential that the file has now: the controller may have written another one.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(crate) async fn reopen(&mut self) -> Result<(), Failure> {
        let Some(Opening { path, context, .. }) = &self.opening else {
            return Ok(());
        };
        let credentials = context::choose(path, Some(&context.name))?.credentials(path)?;
        self.go_on_with(credentials).await
    }

    async fn go_on_with(&mut self, credentials: Credentials) -> Result<(), Failure> {
        let channel = connect::connect(&self.target, &credentials).await?;
        self.admin = AdminClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        self.credentials = Some(credentials);
        Ok(())
    }

    /// With the namespace of the command line, if it has any.
    pub(crate) fn with_namespace(mut self, given: Option<&str>) -> Self {
        if let Some(given) = given {
            given.clone_into(&mut self.namespace);
            self.given_namespace = Some(given.to_owned());
        }
        self
    }

    /// What became of a call.
    pub(crate) fn refused(&self, status: Status) -> Failure {
        connect::refused(&self.target, status)
    }
}
