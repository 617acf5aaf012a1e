//! `audit`: who changed what.

use serde_json::{Value, json};
use weft_proto::mesh::v1;

use super::{
    Outcome,
    args::Format,
    failure::Failure,
    human, json as values,
    screen::Screen,
    session::Session,
    table::{Cell, Table},
};

pub(crate) const HELP: &str = "\
Examples:
  weft audit
  weft audit --limit 1000 -o json
  weft audit --after-revision 120

Exit codes: 0 shown, 1 failure, 2 wrong use.";

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AuditArgs {
    /// The last so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
    /// Only what came after this revision
    #[arg(long, value_name = "N", default_value_t = 0)]
    after_revision: u64,
    /// How to print them: table, wide, json or yaml
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Shows entries, the latest last.
///
/// # Errors
/// It failed.
pub(crate) async fn run(
    args: AuditArgs,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let request = v1::AuditRequest {
        limit: args.limit,
        after_revision: args.after_revision,
    };
    let response = session.admin.audit(request).await;
    let mut entries = response
        .map_err(|status| session.refused(status))?
        .into_inner()
        .entries;
    entries.sort_by_key(|entry| entry.revision);
    match args.output {
        Format::Json | Format::Yaml => {
            let value = json!({"entries": entries.iter().map(to_json).collect::<Vec<_>>()});
            values::print(screen, args.output, &value)?;
        }
        Format::Table | Format::Wide | Format::Name if entries.is_empty() => screen.note("no entries"),
        Format::Table | Format::Wide | Format::Name => {
            let mut table = Table::new(vec![
                "WHEN",
                "REVISION",
                "WHO",
                "WHAT",
                "TARGET",
                "GENERATION",
                "DETAIL",
            ]);
            for entry in &entries {
                table.row(vec![
                    Cell::from(human::date(entry.at_ms / 1000)),
                    Cell::from(entry.revision),
                    Cell::from(who(&entry.who)),
                    Cell::from(entry.what.as_str()),
                    Cell::from(entry.target.as_str()),
                    Cell::from(generations(entry)),
                    Cell::from(entry.detail.as_str()),
                ]);
            }
            table.print(screen, false)?;
        }
    }
    Ok(Outcome::Done)
}

/// `spiffe://mesh.test/weft/admin/ann` is `admin/ann` to people, who have one mesh before them.
fn who(id: &str) -> &str {
    match id.split_once("/weft/") {
        Some((_, rest)) if id.starts_with("spiffe://") => rest,
        _ => id,
    }
}

fn generations(entry: &v1::AuditEntry) -> String {
    match (entry.from_generation, entry.to_generation) {
        (0, 0) => String::new(),
        (0, to) => to.to_string(),
        (from, 0) => format!("{from} -> gone"),
        (from, to) => format!("{from} -> {to}"),
    }
}

fn to_json(entry: &v1::AuditEntry) -> Value {
    json!({
        "revision": entry.revision,
        "at": values::moment(entry.at_ms / 1000),
        "atMillis": entry.at_ms,
        "who": entry.who,
        "what": entry.what,
        "target": entry.target,
        "fromGeneration": entry.from_generation,
        "toGeneration": entry.to_generation,
        "detail": values::text(&entry.detail),
    })
}
