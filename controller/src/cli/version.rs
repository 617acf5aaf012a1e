//! `version`: this program's, the controller's, and as whom it is called.

use serde_json::json;
use weft_proto::mesh::v1;

use super::{
    Outcome,
    args::{Format, Global},
    failure::Failure,
    json as values,
    screen::{Screen, clean},
    session::Session,
};

pub(crate) const HELP: &str = "\
Examples:
  weft version
  weft version --client -o json

Exit codes: 0 shown, 1 the controller cannot be asked, 2 wrong use.";

/// Of this program.
pub(crate) const OWN: &str = env!("CARGO_PKG_VERSION");

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct VersionArgs {
    /// Of this program alone: ask no controller
    #[arg(long)]
    client: bool,
    /// How to print it: table, json or yaml
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Shows versions.
///
/// # Errors
/// The controller cannot be asked.
pub(crate) async fn run(
    args: &VersionArgs,
    global: &Global,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    if args.client {
        show(None, args.output, screen)?;
        return Ok(Outcome::Done);
    }
    let mut session = match Session::open(global, screen).await {
        Ok(session) => session,
        Err(failure) => {
            show(None, args.output, screen)?;
            return Err(failure);
        }
    };
    with(&mut session, args, screen).await
}

/// The same with a session.
///
/// # Errors
/// The controller cannot be asked.
pub(crate) async fn with(
    session: &mut Session,
    args: &VersionArgs,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let response = session.admin.info(v1::InfoRequest {}).await;
    let info = response.map_err(|status| session.refused(status))?.into_inner();
    show(Some(&info), args.output, screen)?;
    Ok(Outcome::Done)
}

fn show(info: Option<&v1::InfoResponse>, format: Format, screen: &mut Screen) -> Result<(), Failure> {
    if let Format::Json | Format::Yaml = format {
        let controller = info.map(|info| {
            json!({
                "version": info.version,
                "trustDomain": info.trust_domain,
                "startedAt": values::moment(info.started_at),
                "revision": info.revision,
                "caller": info.caller,
                "role": info.role,
            })
        });
        return values::print(screen, format, &json!({"client": OWN, "controller": controller}));
    }
    screen.line(format_args!("weft        {OWN}"))?;
    let Some(info) = info else {
        return Ok(());
    };
    screen.line(format_args!(
        "controller  {}, trust domain {}",
        clean(&info.version),
        clean(&info.trust_domain)
    ))?;
    screen.line(format_args!(
        "you         {} ({})",
        clean(&info.caller),
        clean(&info.role)
    ))
}
