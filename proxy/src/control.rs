//! The proxy's side of the control plane: one task that owns the stream to a controller and everything that follows
//! from it.
//!
//! | what | where |
//! |---|---|
//! | the certificate: asked for, renewed, kept | `keeper.rs`, decided by [`rotation`](mod@crate::rotation) |
//! | the stream: made, lost, made again | `link.rs`, over `dial.rs` |
//! | what this proxy has from the controller | `holdings.rs`, and what follows from it `updates.rs` |
//! | names that are asked for at first use | [`demand`](mod@crate::demand) |
//! | questions of operators | `questions.rs` |
//! | the copy in the state directory | `cache.rs` |
//!
//! Whatever the controller does, what is in use stays in use until something better is there: an update is taken whole
//! or refused, and without a controller everything goes on as it is.

pub(crate) mod cache;
mod dial;
mod holdings;
pub(crate) mod keeper;
mod link;
pub(crate) mod questions;
mod report;
pub(crate) mod sign;
#[cfg(test)]
mod tests;
mod updates;

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use weft_proto::{
    kinds::{DocumentKey, Kind},
    mesh::v1::{self as mesh, controller_message, proxy_message::Message},
    model::Name,
};
use weft_tls::Credentials;

use self::{
    cache::Cache,
    dial::CallError,
    holdings::Holdings,
    keeper::RotationState,
    link::{Backoff, Event, Link},
    questions::{LogLevel, Questions, Sources},
};
use crate::{
    config::{Config, Controller},
    demand::{self, Ask, Changes, Subject, Wanted},
    publish::Publisher,
    snapshot::Snapshot,
};

pub(crate) use self::report::{ControlState, Phase, Told, Traffic};

/// How often this proxy tells how it is, if nothing changes.
const REPORT: Duration = Duration::from_secs(10);
/// How often names that nobody uses are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// How often everything may be asked for again: more often would help nobody.
const RESYNC: Duration = Duration::from_secs(10);
/// How soon what changed is kept: a thousand changes a second are not written a thousand times.
const SAVE: Duration = Duration::from_secs(1);

/// All that the task begins with.
pub(crate) struct Start {
    pub(crate) config: Arc<Config>,
    pub(crate) controller: Controller,
    /// Random, of this process.
    pub(crate) instance: String,
    /// Where peers reach this proxy, whatever its address: its UDP port.
    pub(crate) mesh_port: Option<u16>,
    pub(crate) publisher: Publisher,
    pub(crate) credentials: watch::Receiver<Arc<Credentials>>,
    pub(crate) rotation: watch::Receiver<RotationState>,
    pub(crate) keeper: mpsc::Sender<keeper::Input>,
    pub(crate) asks: mpsc::Receiver<Ask>,
    pub(crate) told: watch::Receiver<Told>,
    pub(crate) sources: Sources,
    pub(crate) cache: Option<Cache>,
    pub(crate) state: watch::Sender<ControlState>,
}

/// The task.
pub(crate) struct Control {
    start: Start,
    own: DocumentKey,
    link: Link,
    backoff: Backoff,
    /// Which controller is tried next.
    turn: usize,
    lost: Instant,
    holdings: Holdings,
    wanted: Wanted,
    /// What is asked for whether it is used or not.
    kept: HashSet<Subject>,
    latest: Option<Arc<Snapshot>>,
    questions: Questions,
    level: LogLevel,
    answers: (mpsc::Sender<mesh::Answer>, mpsc::Receiver<mesh::Answer>),
    /// When the certificate of the stream's connection is too old to go on with.
    renew_link: Option<Instant>,
    /// What is held is to be kept then.
    save_at: Option<Instant>,
    saving: Option<JoinHandle<()>>,
    last_resync: Option<Instant>,
    rng: StdRng,
}

impl Control {
    /// Begins with what the state directory has, if it has anything.
    pub(crate) fn new(start: Start) -> Self {
        let credentials = start.credentials.borrow().clone();
        let trust_domain = credentials.svid().id().trust_domain().clone();
        let workload = &start.config.workload;
        let name = Name {
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
        };
        let now = Instant::now();
        let mut rng = StdRng::from_os_rng();
        let mut control = Self {
            own: DocumentKey::of(Kind::Workload, &name),
            link: Link::Waiting(now),
            backoff: Backoff::default(),
            turn: rng.random_range(0..start.controller.addresses.len().max(1)),
            lost: now,
            holdings: Holdings::new(trust_domain),
            wanted: Wanted::default(),
            kept: HashSet::new(),
            latest: None,
            questions: Questions::default(),
            level: LogLevel::default(),
            answers: mpsc::channel(64),
            renew_link: None,
            save_at: None,
            saving: None,
            last_resync: None,
            rng,
            start,
        };
        let binds = control.start.config.binds.iter();
        control.kept = binds
            .filter_map(|bind| Subject::name(bind.host.to_string()))
            .collect();
        for subject in control.kept.clone() {
            control.wanted.insert(subject, now);
        }
        control.begin_with_cache(now);
        control
    }

    /// Runs until nobody can ask any more.
    pub(crate) async fn run(mut self) {
        let (mut reports, mut sweeps) = (ticks(REPORT), ticks(SWEEP));
        loop {
            let now = Instant::now();
            tokio::select! {
                biased;
                event = self.link.next() => self.on_event(event),
                ask = self.start.asks.recv() => match ask {
                    Some(ask) => self.on_ask(ask, now),
                    None => return,
                },
                Some(answer) = self.answers.1.recv() => { self.send(Message::Answer(answer)); }
                Ok(()) = self.start.told.changed() => self.report(),
                Ok(()) = self.start.rotation.changed() => self.report(),
                () = at(self.renew_link) => self.on_old_link(),
                () = at(self.save_at) => self.save(),
                _ = reports.tick() => self.report(),
                _ = sweeps.tick() => self.on_sweep(),
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Due => self.connect(),
            Event::Connected(live) => {
                tracing::info!(controller = %live.address, "connected");
                self.link = Link::Live(live);
                self.report();
            }
            Event::Message(message) => self.on_message(message),
            Event::Lost(error) => self.on_lost(&error, None),
        }
    }

    /// Everything that the hello says is as it is now.
    fn connect(&mut self) {
        let credentials = self.start.credentials.borrow_and_update().clone();
        let addresses = &self.start.controller.addresses;
        let turn = self.turn.checked_rem(addresses.len()).unwrap_or_default();
        let address = addresses.get(turn).cloned().unwrap_or_default();
        let mark = self
            .start
            .config
            .capture
            .as_ref()
            .and_then(|capture| capture.mark);
        self.renew_link = self.link_ends(&credentials);
        let hello = self.hello(&credentials);
        let (config, controller, port) = (
            self.start.config.clone(),
            self.start.controller.clone(),
            self.start.mesh_port,
        );
        let readiness = self.readiness();
        let say = move |local: IpAddr| {
            let registration = report::registration(&config, &controller, port, local, readiness);
            mesh::Hello {
                registration,
                ..hello
            }
        };
        self.link = Link::Connecting(Box::pin(link::connect(address, credentials, mark, say)));
    }

    fn hello(&self, credentials: &Credentials) -> mesh::Hello {
        mesh::Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: weft_proto::wire::FEATURES.map(str::to_owned).to_vec(),
            holder: Some(mesh::Holder {
                workload: self.start.config.workload.name.to_string(),
                instance: self.start.instance.clone(),
            }),
            registration: None,
            held: self.holdings.held(),
            trust_version: self.start.rotation.borrow().trust_version,
            subscribe: Some(self.wanted.all()),
            certificate_not_after: report::seconds(credentials.svid().not_after()),
            warnings: report::warnings(),
        }
    }

    /// A controller ends a connection whose certificate has ended. Before that, another one is made with the new one.
    fn link_ends(&mut self, credentials: &Credentials) -> Option<Instant> {
        let left = credentials
            .svid()
            .not_after()
            .duration_since(SystemTime::now())
            .ok()?;
        Some(Instant::now() + left.mul_f64(self.rng.random_range(0.7..0.9)))
    }

    fn on_old_link(&mut self) {
        self.renew_link = None;
        let has_newer = self.start.credentials.has_changed().unwrap_or(false);
        if has_newer && self.link.live().is_some() {
            tracing::debug!("connecting anew with the new certificate");
            self.lost = Instant::now();
            self.questions = Questions::default();
            self.connect();
        }
    }

    fn on_lost(&mut self, error: &CallError, away: Option<Duration>) {
        let was_up = self.link.live().is_some();
        if was_up {
            self.lost = Instant::now();
            tracing::warn!(%error, "the stream to the controller is lost; going on with what is there");
        } else {
            tracing::debug!(%error, "the controller can't be reached");
        }
        if self.lost.elapsed() >= demand::LOST {
            self.wanted.on_lost();
        }
        self.turn = self.turn.wrapping_add(1);
        self.questions = Questions::default();
        self.renew_link = None;
        let pause = self.backoff.on_failure(away, &mut self.rng);
        self.link = Link::Waiting(Instant::now() + pause);
        let is_first = self
            .start
            .state
            .borrow()
            .lost
            .as_ref()
            .is_none_or(|(_, why)| *why != error.to_string());
        if is_first && !was_up {
            tracing::warn!(%error, "no controller; trying again");
        }
        self.start.state.send_modify(|state| {
            let since = state
                .lost
                .as_ref()
                .map_or_else(SystemTime::now, |(since, _)| *since);
            state.lost = Some((since, error.to_string()));
            state.controller = None;
        });
    }

    fn on_message(&mut self, message: controller_message::Message) {
        match message {
            controller_message::Message::Welcome(welcome) => self.on_welcome(welcome),
            controller_message::Message::Update(update) => self.on_update(&update),
            controller_message::Message::Trust(trust) => {
                if let Some(bundle) = trust.bundle {
                    self.to_keeper(keeper::Input::Bundle(bundle));
                }
            }
            controller_message::Message::Question(question) => {
                let (sources, answers) = (&self.start.sources, &self.answers.0);
                self.questions
                    .on_question(question, sources, &mut self.level, answers);
            }
            controller_message::Message::Renew(renew) => {
                self.to_keeper(keeper::Input::RenewSoon(Duration::from_millis(renew.within_ms)));
            }
            controller_message::Message::GoAway(away) => {
                let error = CallError {
                    address: self
                        .link
                        .live()
                        .map(|live| live.address.clone())
                        .unwrap_or_default(),
                    why: format!(
                        "it sends us away: {}",
                        away.reason.chars().take(200).collect::<String>()
                    ),
                    refused: false,
                };
                self.on_lost(&error, Some(Duration::from_millis(away.retry_after_ms)));
            }
            controller_message::Message::Heartbeat(heartbeat) => {
                if !heartbeat.digest.is_empty() && !self.holdings.is_same(&heartbeat.digest) {
                    self.resync("at a heartbeat");
                }
            }
        }
    }

    fn on_welcome(&mut self, welcome: mesh::Welcome) {
        self.backoff.on_success();
        self.holdings.on_welcome(&welcome.controller);
        if let Some(live) = self.link.live() {
            live.set_heartbeat(Duration::from_millis(welcome.heartbeat_ms));
        }
        if let Some(bundle) = welcome.bundle {
            self.to_keeper(keeper::Input::Bundle(bundle));
        }
        let address = self.link.live().map(|live| live.address.clone());
        self.start.state.send_modify(|state| {
            state.controller = address;
            state.lost = None;
        });
    }

    fn on_ask(&mut self, ask: Ask, now: Instant) {
        let link = match self.link {
            Link::Live(_) => demand::Link::Up,
            Link::Waiting(_) | Link::Connecting(_) => demand::Link::Down(self.lost),
        };
        let changes = self.wanted.on_ask(ask, link, now);
        self.subscribe(&changes);
    }

    /// Without a stream there is nobody to tell: the next hello says it.
    fn subscribe(&mut self, changes: &Changes) {
        if !changes.is_empty() {
            self.send(Message::Subscribe(changes.message()));
        }
    }

    /// Without a stream nothing is given back: what was known goes on, and may not be had again.
    fn on_sweep(&mut self) {
        if self.link.live().is_none() {
            return;
        }
        let used = self
            .latest
            .as_ref()
            .map(|snapshot| snapshot.take_used())
            .unwrap_or_default();
        let changes = self.wanted.on_time(&used, &self.kept, Instant::now());
        self.subscribe(&changes);
    }

    fn report(&mut self) {
        let told = self.start.told.borrow_and_update().clone();
        let rotation = self.start.rotation.borrow_and_update().clone();
        let report = report::report(&told, &rotation, self.readiness());
        self.send(Message::Report(report));
    }

    /// A workload is an endpoint only once its own proxy knows by which address it is: requests for another are refused.
    fn readiness(&self) -> mesh::Readiness {
        let told = self.start.told.borrow();
        let is_endpoint = self.start.mesh_port.is_some() && !self.start.config.application.ports.is_empty();
        match told.readiness() {
            mesh::Readiness::Ready if is_endpoint && self.holdings.readiness(&self.own).is_none() => {
                mesh::Readiness::NotReady
            }
            readiness => readiness,
        }
    }

    /// A stream that takes nothing is as good as lost.
    fn send(&mut self, message: Message) {
        let Some(live) = self.link.live() else { return };
        if !live.send(message) {
            let error = CallError {
                address: live.address.clone(),
                why: "it does not read".to_owned(),
                refused: false,
            };
            self.on_lost(&error, None);
        }
    }

    fn to_keeper(&self, input: keeper::Input) {
        // It has dozens to do already, or ends.
        if let Err(error) = self.start.keeper.try_send(input) {
            tracing::warn!(%error, "the certificate's keeper takes no more");
        }
    }
}

fn shown(problem: &mesh::Problem) -> String {
    let mesh::Problem {
        document,
        field,
        message,
        ..
    } = problem;
    match field.as_str() {
        "" => format!("{document}: {message}"),
        field => format!("{document}: {field}: {message}"),
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
