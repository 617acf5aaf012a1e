//! `status`: every sidecar, whether it is there, ready, and has what concerns it.

mod show;

pub(crate) use show::complaints;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use weft_proto::mesh::v1::{self, proxy_status::State};

use super::{
    Outcome,
    args::{Format, WaitArgs},
    failure::Failure,
    json as values, names,
    screen::Screen,
    session::Session,
};

pub(crate) const HELP: &str = "\
A sidecar is current if it has acknowledged all that concerns it. One that is behind or lost, or has refused what it was \
sent, makes the exit code 1.

Examples:
  weft status
  weft status shop/web-0
  weft status --wait --timeout 1m      after an apply: until every sidecar has it
  weft status -A -o json

Exit codes: 0 every sidecar is current, 1 some are not, or failure, 2 wrong use.";

/// Between two looks for someone who watches.
const WATCH: Duration = Duration::from_secs(2);
/// Between two looks while waiting.
const POLL: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// One sidecar alone, by its workload: NAME or NS/NAME
    #[arg(value_name = "WORKLOAD")]
    proxy: Option<String>,
    /// Of all namespaces, which is the default without -n and WORKLOAD
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Show it anew every two seconds
    #[arg(long, short, conflicts_with = "wait")]
    watch: bool,
    #[command(flatten)]
    wait: WaitArgs,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// How far a sidecar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has all that concerns it.
    Current,
    /// It has not acknowledged all of it yet.
    Behind,
    /// It refused what it was sent.
    Nacked,
    /// Its stream is lost.
    Lost,
    /// It is lost for longer than its grace.
    Gone,
}

impl Standing {
    /// Of a sidecar.
    pub(crate) fn of(proxy: &v1::ProxyStatus) -> Self {
        match proxy.state() {
            State::Lost => Self::Lost,
            State::Gone => Self::Gone,
            State::Connected | State::Unspecified if !proxy.nacked.is_empty() => Self::Nacked,
            State::Connected | State::Unspecified if proxy.is_current => Self::Current,
            State::Connected | State::Unspecified => Self::Behind,
        }
    }

    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Behind => "behind",
            Self::Nacked => "refused",
            Self::Lost => "lost",
            Self::Gone => "gone",
        }
    }
}

/// Shows sidecars.
///
/// # Errors
/// The one that was named is not there, or it failed.
pub(crate) async fn run(
    args: StatusArgs,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let request = request(&args, session)?;
    let mut fleet = fetch(session, &request).await?;
    if args.wait.wait {
        let deadline = Instant::now() + args.wait.timeout;
        fleet = wait(session, &request, fleet, deadline, screen).await?;
    }
    loop {
        if args.watch {
            screen.clear()?;
        }
        print(&args, &fleet, session, screen)?;
        if !args.watch {
            return Ok(outcome(&fleet));
        }
        sleep(WATCH).await;
        fleet = fetch(session, &request).await?;
    }
}

fn request(args: &StatusArgs, session: &Session) -> Result<v1::FleetRequest, Failure> {
    let (namespace, name) = match &args.proxy {
        Some(proxy) => names::workload(proxy, &session.namespace)?,
        None if args.all_namespaces => (String::new(), String::new()),
        None => (session.given_namespace.clone().unwrap_or_default(), String::new()),
    };
    Ok(v1::FleetRequest { namespace, name })
}

/// What the controller knows of sidecars, in the order of their names.
///
/// # Errors
/// The one that was named is not there, or it failed.
pub(crate) async fn fetch(
    session: &mut Session,
    request: &v1::FleetRequest,
) -> Result<v1::FleetResponse, Failure> {
    let response = session.admin.fleet(request.clone()).await;
    let mut fleet = response.map_err(|status| session.refused(status))?.into_inner();
    if fleet.proxies.is_empty() && !request.name.is_empty() {
        return Err(Failure::Other(
            format!(
                "the controller knows no sidecar of {}/{}",
                request.namespace, request.name
            ),
            Some("`weft status` has those that it knows.".to_owned()),
        ));
    }
    fleet
        .proxies
        .sort_by(|a, b| (&a.namespace, &a.workload).cmp(&(&b.namespace, &b.workload)));
    Ok(fleet)
}

/// Looks again and again until all are current.
async fn wait(
    session: &mut Session,
    request: &v1::FleetRequest,
    mut fleet: v1::FleetResponse,
    deadline: Instant,
    screen: &mut Screen,
) -> Result<v1::FleetResponse, Failure> {
    let mut told = None;
    while outcome(&fleet) == Outcome::Differs {
        let waiting = fleet
            .proxies
            .iter()
            .filter(|proxy| Standing::of(proxy) != Standing::Current)
            .count();
        if told.replace(waiting) != Some(waiting) {
            screen.note(format_args!(
                "{waiting} of {} sidecars are not current yet",
                fleet.proxies.len()
            ));
        }
        if timeout_at(deadline, sleep(POLL)).await.is_err() {
            screen.warn("waited for as long as --timeout says");
            break;
        }
        fleet = fetch(session, request).await?;
    }
    Ok(fleet)
}

fn outcome(fleet: &v1::FleetResponse) -> Outcome {
    let is_current = |proxy: &v1::ProxyStatus| Standing::of(proxy) == Standing::Current;
    if fleet.proxies.iter().all(is_current) {
        Outcome::Done
    } else {
        Outcome::Differs
    }
}

fn print(
    args: &StatusArgs,
    fleet: &v1::FleetResponse,
    session: &Session,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let now = (session.now)();
    match args.output {
        Format::Json | Format::Yaml => {
            let value = json!({
                "revision": fleet.revision,
                "trustVersion": fleet.trust_version,
                "proxies": fleet.proxies.iter().map(to_json).collect::<Vec<_>>(),
            });
            values::print(screen, args.output, &value)
        }
        Format::Name => fleet
            .proxies
            .iter()
            .try_for_each(|proxy| screen.line(super::screen::clean(&name(proxy)))),
        Format::Table | Format::Wide => match (&args.proxy, fleet.proxies.as_slice()) {
            (Some(_), [proxy]) => show::one(proxy, fleet, now, screen),
            _ => show::all(fleet, args.output == Format::Wide, now, screen),
        },
    }
}

/// `NAMESPACE/NAME`.
pub(crate) fn name(proxy: &v1::ProxyStatus) -> String {
    format!("{}/{}", proxy.namespace, proxy.workload)
}

fn to_json(proxy: &v1::ProxyStatus) -> Value {
    json!({
        "namespace": proxy.namespace,
        "workload": proxy.workload,
        "identity": proxy.identity,
        "version": proxy.version,
        "standing": Standing::of(proxy).as_str(),
        "ready": proxy.readiness() == v1::Readiness::Ready,
        "readiness": values::text(values::readiness(proxy.readiness())),
        "reason": values::text(&proxy.reason),
        "ackedRevision": proxy.acked_revision,
        "refused": values::problems(&proxy.nacked),
        "trustVersion": proxy.trust_version,
        "certificateNotAfter": values::moment(proxy.certificate_not_after),
        "certificateRoot": values::text(&values::hex(&proxy.certificate_root)),
        "renewalFailingSince": values::moment(proxy.renewal_failing_since),
        "renewalError": values::text(&proxy.renewal_error),
        "connectedSince": values::moment(proxy.connected_since),
        "lastSeen": values::moment(proxy.last_seen),
        "address": values::text(&proxy.address),
        "requests": proxy.traffic.map_or(0, |traffic| traffic.requests),
        "failed": proxy.traffic.map_or(0, |traffic| traffic.failed),
        "connections": proxy.traffic.map_or(0, |traffic| traffic.connections),
        "resources": proxy.resources,
        "names": proxy.names,
        "warnings": proxy.warnings,
    })
}
