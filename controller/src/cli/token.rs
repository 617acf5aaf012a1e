//! `token`: what sidecars and operators join with.

use std::time::{Duration, SystemTime};

use clap::{Subcommand, ValueEnum};
use serde_json::json;
use weft_proto::mesh::v1;

use super::{
    Outcome,
    args::Format,
    failure::Failure,
    human, json as values,
    screen::{Colour, Screen, clean},
    session::Session,
    table::{Cell, Table},
};

const CREATE_HELP: &str = "\
The token is shown once, and whoever has it can join as that identity: hand it over as you would a password.

Examples:
  weft token create --service-account web -n shop
  weft token create --role viewer --name ann --ttl 1h
  weft token create --service-account web -q     the token alone, for scripts";

const LIST_HELP: &str = "\
Examples:
  weft token list
  weft token list -o json";

const REVOKE_HELP: &str = "\
Examples:
  weft token revoke 5f0c7c1f9b2a4de8a3c46f1d2b7e9a05";

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token for a workload, or for an operator
    #[command(after_help = CREATE_HELP)]
    Create(CreateArgs),
    /// Show the tokens of late, and what became of them
    #[command(after_help = LIST_HELP)]
    List {
        /// How to print them
        #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
        output: Format,
    },
    /// Make a token useless
    #[command(after_help = REVOKE_HELP)]
    Revoke {
        /// Its id, as `weft token list` has it
        id: String,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// For a workload that runs as this service account
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present = "role",
        conflicts_with = "role"
    )]
    service_account: Option<String>,
    /// For an operator of this role
    #[arg(long, value_enum, requires = "name")]
    role: Option<OperatorRole>,
    /// The operator's name
    #[arg(long, value_name = "NAME", requires = "role")]
    name: Option<String>,
    /// How long it can be used; at most an hour
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = human::parse_duration)]
    ttl: Duration,
    /// Print the token and nothing else
    #[arg(long, short)]
    quiet: bool,
    /// How to print it: table, json or yaml
    #[arg(
        long,
        short,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        conflicts_with = "quiet"
    )]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OperatorRole {
    /// May do everything
    Admin,
    /// May look at everything that is no secret
    Viewer,
}

/// Makes, lists and revokes tokens.
///
/// # Errors
/// It was refused, or failed.
pub(crate) async fn run(
    command: TokenCommand,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    match command {
        TokenCommand::Create(args) => create(args, session, screen).await,
        TokenCommand::List { output } => list(output, session, screen).await,
        TokenCommand::Revoke { id } => {
            let response = session
                .admin
                .revoke_token(v1::RevokeTokenRequest { id: id.clone() })
                .await;
            let revoked = response.map_err(|status| session.refused(status))?.into_inner();
            let id = clean(&id).into_owned();
            if revoked.was_usable {
                screen.line(format_args!("{id} revoked"))?;
            } else {
                screen.line(format_args!(
                    "{id} could not be used any more: it was used, revoked or too old"
                ))?;
            }
            Ok(Outcome::Done)
        }
    }
}

async fn create(args: CreateArgs, session: &mut Session, screen: &mut Screen) -> Result<Outcome, Failure> {
    let account = args.service_account.clone().unwrap_or_default();
    let request = v1::CreateTokenRequest {
        namespace: if account.is_empty() {
            String::new()
        } else {
            session.namespace.clone()
        },
        service_account: account.clone(),
        role: args.role.map(OperatorRole::as_str).unwrap_or_default().to_owned(),
        name: args.name.clone().unwrap_or_default(),
        lifetime_seconds: args.ttl.as_secs().max(1),
    };
    let response = session.admin.create_token(request).await;
    let created = response.map_err(|status| session.refused(status))?.into_inner();
    let token = clean(&created.token).into_owned();
    let controller = &session.target.address;
    let command = match args.role {
        Some(_) => format!("weft login {token} --controller {controller}"),
        None => {
            let namespace = match session.namespace.as_str() {
                super::context::DEFAULT_NAMESPACE => String::new(),
                namespace => format!(" --namespace {namespace}"),
            };
            format!(
                "weft-proxy run --controller {controller} --join {token}{namespace} --service-account {account} \
                 --port 8080 --label app={account}"
            )
        }
    };
    if args.quiet {
        screen.line(token)?;
        return Ok(Outcome::Done);
    }
    if let Format::Json | Format::Yaml = args.output {
        let value = json!({
            "id": created.id,
            "token": created.token,
            "identity": created.identity,
            "expiresAt": values::moment(created.expires_at),
            "command": command,
        });
        values::print(screen, args.output, &value)?;
        return Ok(Outcome::Done);
    }
    screen.line(format_args!(
        "A token for {}, good for one join {}. To type there:\n",
        clean(&created.identity),
        human::until((session.now)(), created.expires_at).replacen("in ", "within ", 1),
    ))?;
    let command = screen.paint(Colour::Bold, &command).into_owned();
    screen.line(format_args!("  {command}"))?;
    Ok(Outcome::Done)
}

async fn list(format: Format, session: &mut Session, screen: &mut Screen) -> Result<Outcome, Failure> {
    let response = session.admin.tokens(v1::TokensRequest {}).await;
    let tokens = response
        .map_err(|status| session.refused(status))?
        .into_inner()
        .tokens;
    let now = (session.now)();
    match format {
        Format::Json | Format::Yaml => {
            let token = |token: &v1::Token| {
                json!({
                    "id": token.id,
                    "identity": token.identity,
                    "state": state(token, now).0,
                    "createdAt": values::moment(token.created_at),
                    "createdBy": token.created_by,
                    "expiresAt": values::moment(token.expires_at),
                    "usedAt": values::moment(token.used_at),
                    "usedBy": values::text(&token.used_by),
                })
            };
            let value = json!({"tokens": tokens.iter().map(token).collect::<Vec<_>>()});
            values::print(screen, format, &value)?;
        }
        Format::Name => tokens
            .iter()
            .try_for_each(|token| screen.line(clean(&token.id)))?,
        Format::Table | Format::Wide if tokens.is_empty() => screen.note("no tokens"),
        Format::Table | Format::Wide => table(&tokens, format == Format::Wide, now).print(screen, false)?,
    }
    Ok(Outcome::Done)
}

fn table(tokens: &[v1::Token], is_wide: bool, now: SystemTime) -> Table {
    let mut head = vec!["ID", "IDENTITY", "STATE", "AGE"];
    if is_wide {
        head.extend(["CREATED-BY", "USED-BY"]);
    }
    let mut table = Table::new(head);
    for token in tokens {
        let (word, colour) = state(token, now);
        let state = match word {
            "usable" => format!("usable, ends {}", human::until(now, token.expires_at)),
            word => word.to_owned(),
        };
        let mut row = vec![
            Cell::from(token.id.as_str()),
            Cell::from(token.identity.as_str()),
            Cell::painted(state, colour),
            Cell::from(human::ago(now, token.created_at)),
        ];
        if is_wide {
            row.extend([&token.created_by, &token.used_by].map(|by| Cell::from(by.as_str())));
        }
        table.row(row);
    }
    table
}

fn state(token: &v1::Token, now: SystemTime) -> (&'static str, Colour) {
    if token.used_at != 0 {
        ("used", Colour::Dim)
    } else if token.revoked {
        ("revoked", Colour::Dim)
    } else if human::left(now, token.expires_at).is_none() {
        ("expired", Colour::Dim)
    } else {
        ("usable", Colour::Green)
    }
}

impl OperatorRole {
    fn as_str(self) -> &'static str {
        match self {
            Self::Admin => crate::auth::Role::Admin.as_str(),
            Self::Viewer => crate::auth::Role::Viewer.as_str(),
        }
    }
}
