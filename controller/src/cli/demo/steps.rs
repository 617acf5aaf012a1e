//! What is done to the mesh while requests go on, and how each is seen to be over.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    DemoError, Shop,
    board::Flow,
    call::PATIENCE,
    documents::{self, STABLE},
    fleet::{Role, STARTUP},
    pages,
    plan::{CATALOG_V1_1, MEMBERS},
    progress::{Acks, Renewals, Rotation, missing},
    report::StepReport,
    show::Colour,
    table::milliseconds,
};
use crate::cli::human;

/// How long a step may take on a machine that is busy with something else; a rotation is bounded by the lifetime of
/// a certificate and the grace after it.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// Traffic after what was done, which may show late what it broke.
const AFTER: Duration = Duration::from_secs(1);
/// Within which sidecars renew, each at a moment of its own.
const RENEW_WITHIN: Duration = Duration::from_secs(1);

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Change,
    Split,
    Testers,
    Bad,
    Leaves,
    Root,
    Controller,
    Replica,
}

impl Step {
    /// In their order.
    pub(super) const ALL: [Self; 8] = [
        Self::Change,
        Self::Split,
        Self::Testers,
        Self::Bad,
        Self::Leaves,
        Self::Root,
        Self::Controller,
        Self::Replica,
    ];

    /// From 1; also its key.
    pub(super) fn number(self) -> usize {
        self as usize + 1
    }

    /// The step of a key.
    pub(super) fn of_key(key: char) -> Option<Self> {
        let number = usize::try_from(key.to_digit(10)?).ok()?;
        Self::ALL.get(number.checked_sub(1)?).copied()
    }

    /// For programs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Split => "split",
            Self::Testers => "testers",
            Self::Bad => "bad-replica",
            Self::Leaves => "rotate-leaves",
            Self::Root => "rotate-root",
            Self::Controller => "kill-controller",
            Self::Replica => "kill-replica",
        }
    }

    /// For people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Change => "change the configuration of every sidecar",
            Self::Split => "send a tenth of the catalog's requests to its new version",
            Self::Testers => "send testers to the new version",
            Self::Bad => "let catalog-v1-1 answer 503 for a while",
            Self::Leaves => "renew every certificate",
            Self::Root => "rotate the root",
            Self::Controller => "kill the controller for a while",
            Self::Replica => "kill catalog-v1-1 with its sidecar, and start it again",
        }
    }
}

/// How long something may still take.
pub(super) struct Limit {
    begun: Instant,
    limit: Duration,
}

impl Limit {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            begun: Instant::now(),
            limit,
        }
    }

    /// # Errors
    /// The time is over: what it was for, and how far it is.
    pub(super) fn check(&self, step: &str, state: impl FnOnce() -> String) -> Result<(), DemoError> {
        match self.begun.elapsed() < self.limit {
            true => Ok(()),
            false => Err(DemoError::Step {
                step: step.to_owned(),
                message: format!("not done after {} s: {}", self.limit.as_secs(), state()),
            }),
        }
    }
}

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    MEMBERS.iter().map(|member| member.name)
}

impl Shop {
    /// Does it, and gives what became of the requests that were sent meanwhile.
    ///
    /// # Errors
    /// It could not be done, a process ended, or the demo is to end.
    pub(super) async fn step(&mut self, step: Step) -> Result<StepReport, DemoError> {
        let title = format!("\n{}. {}", step.number(), step.title());
        let title = self.show.paint(Colour::Bold, &title);
        self.show.say(title);
        let part = self.traffic.board().next_part();
        let begun = Instant::now();
        let detail = match step {
            Step::Change => self.change().await?,
            Step::Split => self.split().await?,
            Step::Testers => self.testers().await?,
            Step::Bad => self.bad_replica().await?,
            Step::Leaves => self.renew_leaves().await?,
            Step::Root => self.rotate_root().await?,
            Step::Controller => self.kill_controller().await?,
            Step::Replica => self.kill_replica().await?,
        };
        self.run_for(AFTER).await?;
        let took = begun.elapsed();
        self.traffic.board().next_part();
        // Each of its requests is answered or has failed before they are counted.
        let limit = Limit::new(PATIENCE + AFTER);
        loop {
            let count = self.traffic.board().count(part);
            if count.open() == 0 {
                let report = StepReport {
                    step,
                    took,
                    count,
                    detail,
                };
                let line = report.line(&self.show);
                self.show.say(line);
                for (reason, count) in &report.count.failures {
                    self.show.say(format_args!("    {count} x {reason}"));
                }
                return Ok(report);
            }
            limit.check("count its requests", || format!("{} are open", count.open()))?;
            self.tick().await?;
        }
    }

    async fn change(&mut self) -> Result<Value, DemoError> {
        const WHAT: &str = "apply a change";
        self.changes += 1;
        let begun = Instant::now();
        let document = documents::change(self.subnet, self.changes);
        let revision = self.control.apply(document.file, document.text).await;
        let revision = revision.map_err(failed(WHAT))?;
        self.show.say(format_args!(
            "  applied as revision {revision}: {}",
            document.names
        ));
        let mut acks = Acks::new(revision, names());
        let limit = Limit::new(LIMIT);
        while !acks.waiting().is_empty() {
            let fleet = self.control.fleet().await.map_err(failed(WHAT))?;
            let elapsed = begun.elapsed();
            for name in acks.on_fleet(&fleet, elapsed).map_err(failed(WHAT))? {
                self.show
                    .say(format_args!("  {name:<14}acked after {}", milliseconds(elapsed)));
            }
            limit.check(WHAT, || format!("no ack of {}", acks.waiting().join(", ")))?;
            self.tick().await?;
        }
        let port = documents::stable_port(self.changes);
        self.traffic.use_stable(port);
        self.show.say(format_args!(
            "  requests go to {STABLE}.default:{port} too, which only v1 answers"
        ));
        Ok(acks.to_json())
    }

    async fn renew_leaves(&mut self) -> Result<Value, DemoError> {
        const WHAT: &str = "renew the certificates";
        let fleet = self.control.fleet().await.map_err(failed(WHAT))?;
        let mut renewals = Renewals::new(&fleet, names());
        let begun = Instant::now();
        self.control
            .renew_leaves(RENEW_WITHIN)
            .await
            .map_err(failed(WHAT))?;
        let limit = Limit::new(LIMIT);
        while !renewals.waiting().is_empty() {
            let fleet = self.control.fleet().await.map_err(failed(WHAT))?;
            for renewal in renewals.on_fleet(&fleet, begun.elapsed()) {
                self.show.say(format_args!(
                    "  {:<14}valid until {}, was {}; new after {}",
                    renewal.name,
                    human::date(renewal.to),
                    human::date(renewal.from),
                    milliseconds(renewal.took),
                ));
            }
            limit.check(WHAT, || format!("none of {}", renewals.waiting().join(", ")))?;
            self.tick().await?;
        }
        Ok(renewals.to_json())
    }

    async fn rotate_root(&mut self) -> Result<Value, DemoError> {
        const WHAT: &str = "rotate the root";
        let kept = self.keep_certificate().await?;
        let before = self.control.trust().await.map_err(failed(WHAT))?;
        let mut rotation = Rotation::new(&before);
        let begun = Instant::now();
        let mut trust = self.control.rotate_root().await.map_err(failed(WHAT))?;
        let limit = Limit::new(LIMIT);
        loop {
            let elapsed = begun.elapsed();
            for line in rotation.on_trust(&trust, elapsed) {
                self.show
                    .say(format_args!("  {:>8}  {line}", milliseconds(elapsed)));
            }
            if rotation.is_done() {
                break;
            }
            limit.check(WHAT, || rotation.state())?;
            self.tick().await?;
            // With the old root, the credential of the call before may have ended: it is read anew.
            if let Ok(now) = self.control.trust().await {
                trust = now;
            }
        }
        self.show
            .say("  a certificate of the old root, which both accepted before:");
        let mut refusals = serde_json::Map::new();
        for (who, why) in self.refused(&kept).await? {
            self.show.say(format_args!("    {who}: {why}"));
            refusals.insert(who.to_owned(), why.into());
        }
        let mut detail = rotation.to_json();
        detail["retiredRootRefusedBy"] = refusals.into();
        Ok(detail)
    }

    async fn kill_controller(&mut self) -> Result<Value, DemoError> {
        const WHAT: &str = "start the controller again";
        self.fleet.kill(&[Role::Controller]);
        let pause = self.pause;
        self.show
            .say(format_args!("  killed; requests go on for {} s", pause.as_secs()));
        self.run_for(pause).await?;
        let begun = Instant::now();
        self.fleet.start_controller()?;
        self.wait_ready(&[Role::Controller]).await?;
        self.show.say(format_args!(
            "  started again, ready after {}",
            milliseconds(begun.elapsed())
        ));
        let limit = Limit::new(LIMIT);
        let mut connected = 0;
        loop {
            let state = match self.control.fleet().await {
                Ok(fleet) => missing(&fleet, names()),
                Err(error) => vec![error],
            };
            if state.is_empty() {
                break;
            }
            let now = MEMBERS.len().saturating_sub(state.len());
            if now > connected {
                connected = now;
                self.show
                    .say(format_args!("  {now} of {} are back", MEMBERS.len()));
            }
            limit.check(WHAT, || state.join(", "))?;
            self.tick().await?;
        }
        let back = begun.elapsed();
        self.show.say(format_args!(
            "  all {} are back and current after {}",
            MEMBERS.len(),
            milliseconds(back)
        ));
        Ok(json!({ "goneMillis": pause.as_millis() as u64, "backAfterMillis": back.as_millis() as u64 }))
    }

    async fn kill_replica(&mut self) -> Result<Value, DemoError> {
        const WHAT: &str = "start catalog-v1-1 again";
        let member = &CATALOG_V1_1;
        self.fleet
            .kill(&[Role::Sidecar(member), Role::Application(member)]);
        let killed = Instant::now();
        self.show
            .say(format_args!("  killed; catalog-v1-0 answers for both"));
        let limit = Limit::new(LIMIT);
        loop {
            self.tick().await?;
            let fleet = self.control.fleet().await.map_err(failed(WHAT))?;
            if !missing(&fleet, [member.name]).is_empty() {
                break;
            }
            limit.check(WHAT, || "the controller does not see that it is gone".to_owned())?;
        }
        let noticed = killed.elapsed();
        self.show.say(format_args!(
            "  the controller knows after {}",
            milliseconds(noticed)
        ));
        let pause = self.pause;
        self.run_for(pause.saturating_sub(killed.elapsed())).await?;
        let answered = self.traffic.board().answered_by(member);
        let begun = Instant::now();
        self.fleet.start_application(member)?;
        self.fleet.start_sidecar(member)?;
        self.wait_ready(&[Role::Sidecar(member)]).await?;
        let limit = Limit::new(LIMIT);
        while self.traffic.board().answered_by(member) == answered {
            limit.check(WHAT, || "it gets no request".to_owned())?;
            self.tick().await?;
        }
        let back = begun.elapsed();
        self.show.say(format_args!(
            "  started again with the identity that it kept; answers after {}",
            milliseconds(back)
        ));
        Ok(json!({
            "noticedAfterMillis": noticed.as_millis() as u64,
            "goneMillis": pause.as_millis() as u64,
            "backAfterMillis": back.as_millis() as u64,
        }))
    }

    /// Waits until processes say that they are ready.
    ///
    /// # Errors
    /// One of them is not, in time.
    pub(super) async fn wait_ready(&mut self, roles: &[Role]) -> Result<(), DemoError> {
        let limit = Limit::new(STARTUP);
        for role in roles {
            while !self.fleet.is_ready(*role).await {
                self.tick().await?;
                limit.check(&format!("wait for {role}"), || {
                    format!("it is not ready; the end of its log:\n{}", self.fleet.log(*role))
                })?;
            }
        }
        Ok(())
    }

    /// Waits until every sidecar is connected to the controller and has its configuration.
    ///
    /// # Errors
    /// One of them is not, in time.
    pub(super) async fn wait_current(&mut self) -> Result<(), DemoError> {
        let limit = Limit::new(STARTUP);
        loop {
            let state = match self.control.fleet().await {
                Ok(fleet) => missing(&fleet, names()),
                Err(error) => vec![error],
            };
            if state.is_empty() {
                return Ok(());
            }
            limit.check("wait for the sidecars", || state.join(", "))?;
            self.tick().await?;
        }
    }

    /// Waits until whoever is called has proved to be who it should be, as its caller's sidecar sees it. A sidecar that is
    /// busy shows none of its connections, and one that renews may have none for a moment.
    ///
    /// # Errors
    /// Someone has not, in time.
    pub(super) async fn prove(&mut self) -> Result<(), DemoError> {
        let limit = Limit::new(STARTUP);
        for flow in Flow::ALL.into_iter().filter(|flow| flow.is_from_the_start()) {
            let (from, members) = (flow.from(), flow.application().members().collect::<Vec<_>>());
            loop {
                let known = pages::connections(self.subnet, from, &members).await;
                let known = known.unwrap_or_default();
                let is_proved = members.iter().enumerate().all(|(index, member)| {
                    let connections = known.get(index);
                    connections.and_then(|known| known.identity.as_ref()) == Some(&member.identity())
                });
                if is_proved {
                    break;
                }
                limit.check("see who is called", || {
                    format!("{} has {known:?} with {}", from.name, flow.service())
                })?;
                self.tick().await?;
            }
        }
        Ok(())
    }

    /// Lets traffic go on.
    ///
    /// # Errors
    /// A process ended, or the demo is to end.
    pub(super) async fn run_for(&mut self, time: Duration) -> Result<(), DemoError> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.tick().await?;
        }
        Ok(())
    }
}

/// What could not be done, and why.
pub(super) fn failed(step: &str) -> impl FnOnce(String) -> DemoError {
    move |message| DemoError::Step {
        step: step.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_number_of_its_step() {
        for step in Step::ALL {
            let key = char::from_digit(step.number() as u32, 10).unwrap();
            assert_eq!(Step::of_key(key), Some(step));
        }
        for key in ['0', '9', 'q', ' '] {
            assert_eq!(Step::of_key(key), None);
        }
    }
}
