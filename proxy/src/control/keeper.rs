//! Keeps the workload's certificate: does what [`rotation`](crate::rotation) says is due, and publishes what comes.
//!
//! A key is made here for each certificate, and never leaves the process but into the state directory. Whatever fails,
//! the certificate in use stays in use.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use nix::time::{ClockId, clock_gettime};
use rand::{SeedableRng, rngs::StdRng};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};
use weft_proto::mesh::v1::{self as mesh, identity_client::IdentityClient};
use weft_tls::{Credentials, Svid, credentials::SERVER_NAME, grpc, join};
use zeroize::Zeroizing;

use super::{
    cache::{Cache, Issued},
    dial::{CONTROLLER_PATH, CallError, controller_id, dial},
    sign::{Made, join_root, read_bundle, root_of, within},
};
use crate::{
    config::{Controller, Workload},
    identity::date,
    rotation::{Ask, Rotation, Time, Warning},
};

/// How often the time is looked at: warnings are due whether something happens or not, and timers stand still while
/// the host sleeps.
const LOOK: Duration = Duration::from_secs(5);

/// What the keeper is told.
#[derive(Debug)]
pub(crate) enum Input {
    /// The controller wants the certificate renewed within this time.
    RenewSoon(Duration),
    /// The roots as the controller has them.
    Bundle(mesh::TrustBundle),
}

/// How the certificate is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RotationState {
    /// Whether there is one that peers accept.
    pub(crate) is_valid: bool,
    pub(crate) not_after: Option<SystemTime>,
    /// Since when no new one comes, after how many attempts, and why.
    pub(crate) failing: Option<(SystemTime, u32, String)>,
    pub(crate) trust_version: u64,
    /// SHA-256 of the root that it leads to.
    pub(crate) root: Bytes,
    /// Whether the state directory has it.
    pub(crate) is_kept: bool,
}

/// What others see of the keeper.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The credentials, as soon as there are any.
    pub(crate) first: oneshot::Receiver<watch::Receiver<Arc<Credentials>>>,
    pub(crate) state: watch::Receiver<RotationState>,
    pub(crate) inputs: mpsc::Sender<Input>,
}

/// Keeps one workload's certificate.
pub(crate) struct Keeper {
    workload: Workload,
    controller: Controller,
    mark: Option<u32>,
    cache: Option<Cache>,
    holder: mesh::Holder,
    rotation: Rotation,
    /// Which controller is asked next.
    turn: usize,
    output: Output,
    bundle_version: u64,
    /// To keep what is in use again when the roots change.
    in_use: Option<InUse>,
    is_kept: bool,
    state: watch::Sender<RotationState>,
    inputs: mpsc::Receiver<Input>,
    rng: StdRng,
}

/// Where credentials go.
enum Output {
    Waiting(oneshot::Sender<watch::Receiver<Arc<Credentials>>>),
    Open(watch::Sender<Arc<Credentials>>),
    /// Nobody is interested.
    Closed,
}

/// What is not in the credentials.
struct InUse {
    key: Zeroizing<Vec<u8>>,
    received: SystemTime,
    lifetime: Duration,
}

impl Keeper {
    /// Begins with what the state directory has, if it has anything.
    pub(crate) fn new(
        workload: &Workload,
        controller: &Controller,
        mark: Option<u32>,
        cache: Option<Cache>,
        instance: &str,
    ) -> (Self, Kept) {
        let (first, first_seen) = oneshot::channel();
        let (state, state_seen) = watch::channel(RotationState::default());
        let (inputs, inputs_taken) = mpsc::channel(64);
        let mut rng = StdRng::from_os_rng();
        let holder = mesh::Holder {
            workload: workload.name.to_string(),
            instance: instance.to_owned(),
        };
        let turn = rand::Rng::random_range(&mut rng, 0..controller.addresses.len().max(1));
        let mut keeper = Self {
            workload: workload.clone(),
            controller: controller.clone(),
            mark,
            cache,
            holder,
            rotation: Rotation::missing(controller.join.is_some(), clock()),
            turn,
            output: Output::Waiting(first),
            bundle_version: 0,
            in_use: None,
            is_kept: false,
            state,
            inputs: inputs_taken,
            rng,
        };
        keeper.begin_with_cache();
        let kept = Kept {
            first: first_seen,
            state: state_seen,
            inputs,
        };
        (keeper, kept)
    }

    /// An identity of another workload is of no use: the directory was another's.
    fn begin_with_cache(&mut self) {
        let Some(cached) = self.cache.as_ref().and_then(Cache::load_identity) else {
            return;
        };
        let svid = cached.credentials.svid();
        match self.workload.identity(svid.id().trust_domain()) {
            Ok(expected) if expected == *svid.id() => {}
            Ok(_) | Err(_) => {
                tracing::warn!(found = %svid.id(), "the identity in the state directory is another workload's: it is not used");
                return;
            }
        }
        let age = SystemTime::now()
            .duration_since(cached.received)
            .unwrap_or_default();
        self.rotation = Rotation::held(
            self.controller.join.is_some(),
            age,
            cached.lifetime,
            clock(),
            &mut self.rng,
        );
        tracing::info!(identity = %svid.id(), not_after = %date(svid.not_after()), "identity from the state directory");
        self.bundle_version = cached.bundle_version;
        self.is_kept = true;
        self.in_use = Some(InUse {
            key: cached.key,
            received: cached.received,
            lifetime: cached.lifetime,
        });
        self.publish(Arc::new(cached.credentials));
        self.show();
    }

    /// Keeps it until nobody is interested any more.
    pub(crate) async fn run(mut self) {
        loop {
            let now = clock();
            self.warn(now);
            self.show();
            match self.rotation.next(now) {
                Ok(ask) => self.attempt(ask).await,
                Err(due) => {
                    let pause = due.saturating_sub(now).min(LOOK);
                    tokio::select! {
                        () = sleep(pause) => {}
                        input = self.inputs.recv() => match input {
                            Some(input) => self.on_input(input).await,
                            None => return,
                        },
                    }
                }
            }
        }
    }

    async fn on_input(&mut self, input: Input) {
        match input {
            Input::RenewSoon(within) => {
                tracing::info!(?within, "the controller asks for a new certificate");
                self.rotation.on_renew_soon(within, clock(), &mut self.rng);
            }
            Input::Bundle(bundle) => self.on_bundle(&bundle).await,
        }
    }

    async fn attempt(&mut self, ask: Ask) {
        let result = match ask {
            Ask::Join => self.join().await,
            Ask::Renew => self.renew().await,
            Ask::Token => Err(CallError {
                address: "no certificate".to_owned(),
                why: "a join token is needed: `weft token create` makes one, give it by --join or the file that \
                      controller.join.tokenFile names"
                    .to_owned(),
                refused: true,
            }),
        };
        let now = clock();
        if let Err(error) = result {
            self.turn = self.turn.wrapping_add(1);
            let mut why = error.to_string();
            if ask == Ask::Renew
                && error.refused
                && !self.rotation.is_valid(now)
                && self.controller.join.is_none()
            {
                why.push_str(
                    "; the certificate has expired and can't be renewed any more: a new join token is needed",
                );
            }
            match self.rotation.failing() {
                None => tracing::warn!(%why, "no new certificate; trying again"),
                Some(failing) => tracing::debug!(%why, attempts = failing.attempts, "no new certificate"),
            }
            self.rotation.on_failed(why, error.refused, now, &mut self.rng);
        }
    }

    fn address(&self) -> String {
        let addresses = &self.controller.addresses;
        let turn = self.turn.checked_rem(addresses.len()).unwrap_or_default();
        addresses.get(turn).cloned().unwrap_or_default()
    }

    async fn join(&mut self) -> Result<(), CallError> {
        let address = self.address();
        let error = |why: String| CallError {
            address: "join token".to_owned(),
            why,
            refused: true,
        };
        let join = self
            .controller
            .join
            .as_ref()
            .ok_or_else(|| error("missing".to_owned()))?;
        let text = join.read().map_err(error)?;
        let root = join_root(&text).map_err(error)?;
        let tls = join::client_config_of_path(root, CONTROLLER_PATH);
        let tls = tls.map_err(|tls| error(tls.to_string()))?;
        let name = root.server_name().map_err(|tls| error(tls.to_string()))?;
        let dialled = dial(&address, tls, name, self.mark).await?;
        let made = Made::new().map_err(error)?;
        let request = mesh::JoinRequest {
            token: (*text).clone(),
            csr: made.csr.clone(),
            holder: Some(self.holder.clone()),
        };
        let mut client = IdentityClient::new(dialled.channel);
        let answer = within(&address, client.join(request)).await?;
        self.take(&address, answer, made).await
    }

    async fn renew(&mut self) -> Result<(), CallError> {
        let address = self.address();
        let error = |why: String| CallError {
            address: address.clone(),
            why,
            refused: false,
        };
        let credentials = match &self.output {
            Output::Open(credentials) => credentials.borrow().clone(),
            Output::Waiting(_) | Output::Closed => return Err(error("there is nothing to renew".to_owned())),
        };
        let expected = controller_id(credentials.svid().id().trust_domain());
        let expected = expected.map_err(|id| error(id.to_string()))?;
        let tls = grpc::client_config(&credentials, &expected).map_err(|tls| error(tls.to_string()))?;
        let name = ServerName::try_from(SERVER_NAME).map_err(|name| error(name.to_string()))?;
        let dialled = dial(&address, tls, name, self.mark).await?;
        let made = Made::new().map_err(error)?;
        let request = mesh::RenewRequest {
            csr: made.csr.clone(),
            holder: Some(self.holder.clone()),
        };
        let mut client = IdentityClient::new(dialled.channel);
        let answer = within(&address, client.renew(request)).await?;
        self.take(&address, answer, made).await
    }

    /// Checks a new certificate as a peer would, and publishes it.
    async fn take(&mut self, address: &str, answer: mesh::SignResponse, made: Made) -> Result<(), CallError> {
        let error = |why: String| CallError {
            address: address.to_owned(),
            why,
            refused: false,
        };
        let chain = answer
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.key.to_vec()));
        let svid = Svid::from_der(chain, key).map_err(|svid| error(svid.to_string()))?;
        let expected = self.workload.identity(svid.id().trust_domain());
        let expected = expected.map_err(|id| error(id.to_string()))?;
        if expected != *svid.id() {
            let why = format!(
                "it signed for {}, and this workload is {expected}: the token is another's",
                svid.id()
            );
            return Err(CallError {
                refused: true,
                ..error(why)
            });
        }
        let told = answer
            .bundle
            .as_ref()
            .ok_or_else(|| error("it sent no trust bundle".to_owned()))?;
        let current = self.current();
        let (bundle, version) = match &current {
            // An answer that was overtaken by an update of the roots.
            Some(current) if told.version < self.bundle_version => {
                (current.bundle().clone(), self.bundle_version)
            }
            Some(_) | None => (read_bundle(told).map_err(error)?, told.version),
        };
        let credentials =
            Credentials::new(svid, bundle).map_err(|credentials| error(credentials.to_string()))?;
        if let Some(current) = &current
            && current.svid().id() != credentials.svid().id()
        {
            return Err(error(
                "it is of another trust domain than the one in use".to_owned(),
            ));
        }
        let lifetime = Duration::from_millis(answer.lifetime_ms);
        if lifetime.is_zero() {
            return Err(error("its certificate has no life left".to_owned()));
        }
        self.bundle_version = version;
        self.rotation.on_issued(lifetime, clock(), &mut self.rng);
        self.in_use = Some(InUse {
            key: made.key,
            received: SystemTime::now(),
            lifetime,
        });
        let svid = credentials.svid();
        tracing::info!(identity = %svid.id(), not_after = %date(svid.not_after()), "new certificate");
        self.publish(Arc::new(credentials));
        self.save().await;
        Ok(())
    }

    async fn on_bundle(&mut self, told: &mesh::TrustBundle) {
        if told.version <= self.bundle_version {
            return;
        }
        let Some(current) = self.current() else { return };
        let made = read_bundle(told).and_then(|bundle| {
            Credentials::new(current.svid().clone(), bundle).map_err(|error| error.to_string())
        });
        match made {
            Ok(credentials) => {
                tracing::info!(
                    version = told.version,
                    roots = credentials.bundle().roots().len(),
                    "new trust bundle"
                );
                self.bundle_version = told.version;
                self.publish(Arc::new(credentials));
                self.save().await;
            }
            Err(why) => {
                // Without our root in it the certificate is of no use: a new one comes with the new roots.
                tracing::error!(version = told.version, %why, "the new trust bundle does not fit the certificate: asking for another");
                self.rotation
                    .on_renew_soon(Duration::ZERO, clock(), &mut self.rng);
            }
        }
    }

    fn current(&self) -> Option<Arc<Credentials>> {
        match &self.output {
            Output::Open(credentials) => Some(credentials.borrow().clone()),
            Output::Waiting(_) | Output::Closed => None,
        }
    }

    fn publish(&mut self, credentials: Arc<Credentials>) {
        self.output = match std::mem::replace(&mut self.output, Output::Closed) {
            Output::Waiting(first) => {
                let (sender, receiver) = watch::channel(credentials);
                // Nobody waits if the proxy ends.
                match first.send(receiver) {
                    Ok(()) => Output::Open(sender),
                    Err(_) => Output::Closed,
                }
            }
            Output::Open(sender) => {
                sender.send_replace(credentials);
                Output::Open(sender)
            }
            Output::Closed => Output::Closed,
        };
    }

    /// What cannot be kept is a warning: this process has it. On a thread of its own: disks may take seconds.
    async fn save(&mut self) {
        self.is_kept = false;
        let (Some(cache), Some(in_use), Some(current)) = (&self.cache, &self.in_use, self.current()) else {
            return;
        };
        let (cache, key, version) = (cache.clone(), in_use.key.clone(), self.bundle_version);
        let (received, lifetime) = (in_use.received, in_use.lifetime);
        let saved = tokio::task::spawn_blocking(move || {
            cache.save_identity(&Issued {
                key: &key,
                chain: current.svid().chain(),
                bundle: current.bundle(),
                bundle_version: version,
                received,
                lifetime,
            })
        });
        match saved.await {
            Ok(Ok(())) => self.is_kept = true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the identity can't be kept in the state directory: a restart needs a new token");
            }
            Err(error) => tracing::error!(%error, "the identity is not kept"),
        }
    }

    fn warn(&mut self, now: Time) {
        let left = self.rotation.left(now).unwrap_or_default();
        let why = self
            .rotation
            .failing()
            .map(|failing| failing.why.clone())
            .unwrap_or_default();
        match self.rotation.on_time(now) {
            None => {}
            Some(Warning::Late) => {
                tracing::warn!(?left, %why, "the certificate is not renewed yet, and half of the time for it is over");
            }
            Some(Warning::Expired) => {
                tracing::error!(%why, "the certificate has expired: no peer accepts it; still asking for a new one");
            }
        }
    }

    fn show(&self) {
        let now = clock();
        let current = self.current();
        let failing = self.rotation.failing().map(|failing| {
            let since = SystemTime::now().checked_sub(now.saturating_sub(failing.since));
            (
                since.unwrap_or(SystemTime::UNIX_EPOCH),
                failing.attempts,
                failing.why.clone(),
            )
        });
        let new = RotationState {
            is_valid: self.rotation.is_valid(now),
            not_after: current.as_ref().map(|current| current.svid().not_after()),
            failing,
            trust_version: self.bundle_version,
            root: current.as_deref().and_then(root_of).unwrap_or_default(),
            is_kept: self.is_kept,
        };
        self.state.send_if_modified(|state| {
            // The moment is computed anew each time, and differs by what the clocks differ.
            let is_other = state.is_valid != new.is_valid
                || state.not_after != new.not_after
                || state.trust_version != new.trust_version
                || state.root != new.root
                || state.is_kept != new.is_kept
                || state.failing.as_ref().map(|(_, _, why)| why)
                    != new.failing.as_ref().map(|(_, _, why)| why);
            if is_other {
                *state = new;
            }
            is_other
        });
    }
}

/// A clock that goes on while the host sleeps, counted from long before this process.
fn clock() -> Time {
    /// So that what came before the host started is no negative time.
    const BEFORE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    match clock_gettime(ClockId::CLOCK_BOOTTIME) {
        Ok(time) => BEFORE + Duration::from(time),
        // Linux has it since 2.6.39.
        Err(_) => {
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                + BEFORE
        }
    }
}
