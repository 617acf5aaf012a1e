//! `ca`: the certificate authority, and the steps of a rotation of its root.

use std::time::{Duration, SystemTime};

use clap::Subcommand;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use weft_proto::mesh::v1;

use super::{
    Outcome,
    args::{Format, WaitArgs},
    failure::{Failure, many},
    human, json as values,
    screen::{Colour, Screen, clean},
    session::Session,
    table::{Cell, Table},
};

const STATUS_HELP: &str = "\
Examples:
  weft ca status
  weft ca status -o json";

const ROTATE_HELP: &str = "\
The new root is distributed, then signs, then everyone renews, and then the old one is retired. Each step waits for every \
holder of a certificate that has not ended, connected or not; `weft ca status` names those that hold it up. A sidecar \
that will not come back is forgotten with `weft proxy evict`.

Examples:
  weft ca rotate
  weft ca rotate --wait --timeout 30m
  weft ca rotate --lifetime 10y --keep-old
  weft ca rotate --root root.pem --signer signer.pem --signer-key signer.key";

const RETIRE_HELP: &str = "\
Ends a rotation that was begun with --keep-old: the old root is trusted no more, and connections under it are closed.

Examples:
  weft ca retire --wait
  weft ca retire 4be0643f1d98573b";

const RENEW_HELP: &str = "\
Asks every sidecar for a new certificate, each at another moment.

Examples:
  weft ca renew
  weft ca renew --within 10m";

/// Between two looks while waiting.
const POLL: Duration = Duration::from_millis(200);
/// How often a connection that ended is made anew.
const REOPENS: u32 = 10;
/// The step in which no rotation is under way.
const STABLE: &str = "stable";
/// The step in which a rotation with `--keep-old` stays.
const SIGNING: &str = "signing";
/// What a root is called by in tables: enough to tell sixteen of them apart.
const SHORT_ID: usize = 16;

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Show the roots, the step of a rotation, and who holds it up
    #[command(after_help = STATUS_HELP)]
    Status {
        /// How to print it
        #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
        output: Format,
    },
    /// Begin a rotation of the root
    #[command(after_help = ROTATE_HELP)]
    Rotate(RotateArgs),
    /// End a rotation by retiring the old root
    #[command(after_help = RETIRE_HELP)]
    Retire(RetireArgs),
    /// Ask every sidecar to renew its certificate
    #[command(after_help = RENEW_HELP)]
    Renew {
        /// Within which time
        #[arg(long, value_name = "TIME", default_value = "1m", value_parser = human::parse_duration)]
        within: Duration,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RotateArgs {
    /// How long the new root is valid; as long as the last one if not given
    #[arg(long, value_name = "TIME", value_parser = human::parse_duration)]
    lifetime: Option<Duration>,
    /// A root of your own: a PEM file at the controller
    #[arg(long, value_name = "FILE", requires_all = ["signer", "signer_key"], conflicts_with = "lifetime")]
    root: Option<String>,
    /// An intermediate of it, which signs: a PEM file at the controller
    #[arg(long, value_name = "FILE", requires = "root")]
    signer: Option<String>,
    /// The intermediate's private key: a PEM file at the controller
    #[arg(long, value_name = "FILE", requires = "root")]
    signer_key: Option<String>,
    /// Stop when the new root signs: `weft ca retire` does the rest
    #[arg(long)]
    keep_old: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RetireArgs {
    /// Which root, by the beginning of its SHA-256; the one that signs no more if not given
    #[arg(value_name = "ROOT")]
    root: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Looks after the authority.
///
/// # Errors
/// It was refused, or failed.
pub(crate) async fn run(
    command: CaCommand,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    match command {
        CaCommand::Status { output } => {
            let status = fetch(session).await?;
            print(&status, output, (session.now)(), screen)?;
            Ok(Outcome::Done)
        }
        CaCommand::Rotate(args) => rotate(args, session, screen).await,
        CaCommand::Retire(args) => retire(args, session, screen).await,
        CaCommand::Renew { within } => {
            let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            let response = session
                .admin
                .renew_leaves(v1::RenewLeavesRequest { within_ms })
                .await;
            let asked = response
                .map_err(|status| session.refused(status))?
                .into_inner()
                .asked;
            screen.line(format_args!(
                "{} asked to renew within {}",
                many(asked as usize, "sidecar"),
                human::duration(within)
            ))?;
            Ok(Outcome::Done)
        }
    }
}

async fn rotate(args: RotateArgs, session: &mut Session, screen: &mut Screen) -> Result<Outcome, Failure> {
    let request = v1::RotateRootRequest {
        lifetime_seconds: args.lifetime.map_or(0, |lifetime| lifetime.as_secs()),
        root_file: args.root.unwrap_or_default(),
        signer_file: args.signer.unwrap_or_default(),
        signer_key_file: args.signer_key.unwrap_or_default(),
        keep_old: args.keep_old,
    };
    let response = session.admin.rotate_root(request).await;
    let status = response.map_err(|status| session.refused(status))?.into_inner();
    let is_done = |status: &v1::TrustStatusResponse| {
        status.step == STABLE || (args.keep_old && status.step == SIGNING && status.waiting.is_empty())
    };
    follow(status, &args.wait, is_done, session, screen).await
}

async fn retire(args: RetireArgs, session: &mut Session, screen: &mut Screen) -> Result<Outcome, Failure> {
    let id = match &args.root {
        None => Vec::new(),
        Some(prefix) => root_id(&fetch(session).await?, prefix)?,
    };
    let response = session
        .admin
        .retire_root(v1::RetireRootRequest { id: id.into() })
        .await;
    let status = response.map_err(|status| session.refused(status))?.into_inner();
    follow(
        status,
        &args.wait,
        |status| status.step == STABLE,
        session,
        screen,
    )
    .await
}

/// The root whose id begins so.
fn root_id(status: &v1::TrustStatusResponse, prefix: &str) -> Result<Vec<u8>, Failure> {
    let prefix = prefix.to_ascii_lowercase();
    let mut found = status
        .roots
        .iter()
        .filter(|root| values::hex(&root.id).starts_with(&prefix));
    match (found.next(), found.next()) {
        (Some(root), None) => Ok(root.id.to_vec()),
        (None, _) => Err(Failure::Use(format!(
            "no root begins with {prefix}: see weft ca status"
        ))),
        (Some(_), Some(_)) => Err(Failure::Use(format!(
            "several roots begin with {prefix}: give more of it"
        ))),
    }
}

/// Says what was begun; with `--wait`, each step and who holds it up, until it is done.
async fn follow(
    mut status: v1::TrustStatusResponse,
    wait: &WaitArgs,
    is_done: impl Fn(&v1::TrustStatusResponse) -> bool,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    if !wait.wait {
        print(&status, Format::Table, (session.now)(), screen)?;
        if !is_done(&status) {
            screen.note("It goes on by itself: weft ca status says how far it is.");
        }
        return Ok(Outcome::Done);
    }
    let begun = Instant::now();
    let mut told = None;
    let mut step = String::new();
    loop {
        let holders: Vec<String> = status.waiting.iter().map(holder).collect();
        let now = (status.step.clone(), holders.clone());
        if told.as_ref() != Some(&now) {
            let waiting = match holders.as_slice() {
                [] => String::new(),
                [first, rest @ ..] => {
                    let others = if rest.is_empty() {
                        String::new()
                    } else {
                        format!(" and {} more", rest.len())
                    };
                    format!(": waiting for {first}{others}")
                }
            };
            screen.note(format_args!(
                "{:>6.1}s {}{waiting}",
                begun.elapsed().as_secs_f64(),
                clean(&status.step)
            ));
            told = Some(now);
        }
        if is_done(&status) {
            print(&status, Format::Table, (session.now)(), screen)?;
            return Ok(Outcome::Done);
        }
        if timeout_at(begun + wait.timeout, sleep(POLL)).await.is_err() {
            print(&status, Format::Table, (session.now)(), screen)?;
            screen.warn("not done within --timeout; it goes on by itself");
            return Ok(Outcome::Differs);
        }
        status = fetch_through(session, screen, &mut step).await?;
    }
}

/// Asks in the middle of a rotation, which may retire the root of our own credential: that is renewed as soon as the
/// new root signs, and a connection that ends is made anew with what is kept now.
async fn fetch_through(
    session: &mut Session,
    screen: &mut Screen,
    step: &mut String,
) -> Result<v1::TrustStatusResponse, Failure> {
    let mut tries = 0;
    let status = loop {
        match fetch(session).await {
            Ok(status) => break status,
            Err(failure) if tries == REOPENS => return Err(failure),
            Err(_) => {
                tries += 1;
                sleep(POLL).await;
                // What prevents it is told by the next call.
                let _ = session.reopen().await;
            }
        }
    };
    if status.step == SIGNING
        && *step != SIGNING
        && let Err(failure) = session.renew().await
    {
        screen.warn(format_args!(
            "your own credential is of the old root, and can't be renewed: {failure}"
        ));
    }
    step.clone_from(&status.step);
    Ok(status)
}

/// What the controller says of its authority.
///
/// # Errors
/// It failed.
pub(crate) async fn fetch(session: &mut Session) -> Result<v1::TrustStatusResponse, Failure> {
    let response = session.admin.trust_status(v1::TrustStatusRequest {}).await;
    Ok(response.map_err(|status| session.refused(status))?.into_inner())
}

/// Who holds a step up, with why. A token that can still be used is nobody yet: its why names it.
fn holder(waiting: &v1::Waiting) -> String {
    match who(waiting) {
        who if who.is_empty() => clean(&waiting.why).into_owned(),
        who => format!("{} ({})", clean(&who), clean(&waiting.why)),
    }
}

/// `NAMESPACE/WORKLOAD`, or an operator's identity.
fn who(waiting: &v1::Waiting) -> String {
    match waiting.workload.as_str() {
        "" => waiting.identity.clone(),
        workload => format!("{}/{workload}", waiting.namespace),
    }
}

/// The beginning of a root's id.
pub(crate) fn short_id(id: &[u8]) -> String {
    let mut id = values::hex(id);
    id.truncate(SHORT_ID);
    id
}

fn print(
    status: &v1::TrustStatusResponse,
    format: Format,
    now: SystemTime,
    screen: &mut Screen,
) -> Result<(), Failure> {
    if let Format::Json | Format::Yaml = format {
        return values::print(screen, format, &to_json(status));
    }
    let step = clean(&status.step).into_owned();
    let colour = if step == STABLE {
        Colour::Green
    } else {
        Colour::Yellow
    };
    let step = screen.paint(colour, &step).into_owned();
    screen.line(format_args!(
        "Step:          {step}, trust bundle version {}",
        status.version
    ))?;
    screen.line(format_args!(
        "Leaves:        valid for {}; {} not expired",
        human::duration(Duration::from_secs(status.leaf_lifetime_seconds)),
        status.unexpired_leaves
    ))?;
    screen.line(format_args!(
        "Signer ends:   {}\n",
        ends(status.signer_not_after, now)
    ))?;
    let mut roots = Table::new(vec!["ROOT", "STATE", "ENDS", "LEAVES"]);
    for root in &status.roots {
        roots.row(vec![
            Cell::from(short_id(&root.id)),
            Cell::from(root.state.as_str()),
            Cell::from(ends(root.not_after, now)),
            Cell::from(root.unexpired_leaves),
        ]);
    }
    roots.print(screen, false)?;
    if status.waiting.is_empty() {
        return Ok(());
    }
    screen.line("\nThe next step waits for:")?;
    let mut table = Table::new(vec!["WHO", "WHY", "AT MOST"]);
    for waiting in &status.waiting {
        let until = match waiting.until {
            0 => String::new(),
            until => human::until(now, until),
        };
        table.row(vec![
            Cell::from(who(waiting)),
            Cell::from(waiting.why.as_str()),
            Cell::from(until),
        ]);
    }
    table.print(screen, false)
}

fn ends(seconds: u64, now: SystemTime) -> String {
    match seconds {
        0 => "-".to_owned(),
        seconds => format!("{} ({})", human::date(seconds), human::until(now, seconds)),
    }
}

fn to_json(status: &v1::TrustStatusResponse) -> Value {
    let root = |root: &v1::Root| {
        json!({
            "id": values::hex(&root.id),
            "state": root.state,
            "notBefore": values::moment(root.not_before),
            "notAfter": values::moment(root.not_after),
            "unexpiredLeaves": root.unexpired_leaves,
        })
    };
    let waiting = |waiting: &v1::Waiting| {
        json!({
            "namespace": values::text(&waiting.namespace),
            "workload": values::text(&waiting.workload),
            "identity": waiting.identity,
            "why": waiting.why,
            "until": values::moment(waiting.until),
        })
    };
    json!({
        "step": status.step,
        "version": status.version,
        "leafLifetimeSeconds": status.leaf_lifetime_seconds,
        "signerNotAfter": values::moment(status.signer_not_after),
        "unexpiredLeaves": status.unexpired_leaves,
        "roots": status.roots.iter().map(root).collect::<Vec<_>>(),
        "waiting": status.waiting.iter().map(waiting).collect::<Vec<_>>(),
    })
}
