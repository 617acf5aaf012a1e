//! `apply`, `diff`, `validate`, `delete` and `export`.

mod diff;
mod validate;

use std::path::PathBuf;

use weft_proto::{
    Source,
    document::split,
    mesh::v1::{self, change::Kind as ChangeKind},
    names::DnsLabel,
};

pub(crate) use self::{diff::diff, validate::validate};

use super::{
    Outcome,
    args::Format,
    failure::{Failure, describe},
    json, names,
    screen::{Colour, Screen},
    session::Session,
    sources,
};

pub(crate) const APPLY_HELP: &str = "\
All documents are checked together, and either all are applied or none. Errors are lines `FILE:LINE: FIELD: MESSAGE`. \
A warning tells of what is stored and works hardly as it was meant: such as a route whose Service is not there yet.

Examples:
  weft apply -f web.yaml
  weft apply -f mesh/ -R --dry-run
  weft apply -f - < web.yaml
  weft apply -f web.yaml --if-generation 3    only if nobody has changed it since

Exit codes: 0 applied, 1 refused or failed, 2 wrong use.";

pub(crate) const DIFF_HELP: &str = "\
Examples:
  weft diff -f web.yaml
  weft diff -f mesh/ -R

Exit codes: 0 no differences, 1 differences or failure, 2 wrong use.";

pub(crate) const VALIDATE_HELP: &str = "\
Reads what an apply would read, and asks no controller: what depends on documents that are not given is not checked. \
Errors are lines `FILE:LINE: FIELD: MESSAGE`, all of them at once.

Examples:
  weft validate -f web.yaml
  weft validate -f mesh/ -R -o json

Exit codes: 0 no errors, 1 errors, 2 wrong use.";

pub(crate) const DELETE_HELP: &str = "\
Examples:
  weft delete service web
  weft delete svc/web wl/db-0 httproute/web
  weft delete -f mesh/ -R --ignore-not-found

Exit codes: 0 removed, 1 refused or failed, 2 wrong use.";

/// Which documents.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Files {
    /// A file or directory of documents, or - for standard input; several times for several
    #[arg(long = "filename", short = 'f', value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Look into the directories of a directory as well
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    files: Files,
    /// Check everything and say what would change; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Only if the document is still in this generation; 0: only if it is new
    #[arg(long, value_name = "N")]
    if_generation: Option<u64>,
    /// How to print what was done: table, name, json or yaml
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    files: Files,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ValidateArgs {
    #[command(flatten)]
    files: Files,
    /// How to print the result: table, json or yaml
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    /// KIND NAME..., or KIND/NAME...
    #[arg(
        required_unless_present = "files",
        conflicts_with = "files",
        value_name = "KIND NAME"
    )]
    names: Vec<String>,
    /// The documents of a file or directory, or of - for standard input
    #[arg(long = "filename", short = 'f', value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Look into the directories of a directory as well
    #[arg(long, short = 'R', requires = "files")]
    recursive: bool,
    /// What is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
    /// Only if the document is still in this generation
    #[arg(long, value_name = "N")]
    if_generation: Option<u64>,
}

/// Applies.
///
/// # Errors
/// It was refused, or failed.
pub(crate) async fn apply(
    args: ApplyArgs,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let sources = sources::read(&args.files.files, args.files.recursive)?;
    let keys = keys(&sources, &session.namespace)?;
    let expected = match args.if_generation {
        None => Vec::new(),
        Some(generation) => vec![expected(&keys, generation)?],
    };
    let request = request(sources, session, expected);
    let response = if args.dry_run {
        session.admin.plan(request).await
    } else {
        session.admin.apply(request).await
    };
    let response = response.map_err(|status| session.refused(status))?.into_inner();
    report(&response, args.dry_run, args.output, screen)?;
    Ok(Outcome::Done)
}

/// Removes.
///
/// # Errors
/// It was refused, or failed.
pub(crate) async fn delete(
    args: DeleteArgs,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let keys = if args.files.is_empty() {
        names::documents(&args.names, &session.namespace)?
            .iter()
            .map(names::to_wire)
            .collect()
    } else {
        keys(&sources::read(&args.files, args.recursive)?, &session.namespace)?
    };
    let expected = match args.if_generation {
        None => Vec::new(),
        Some(generation) => vec![expected(&keys, generation)?],
    };
    let request = v1::DeleteRequest {
        keys,
        expected,
        ignore_missing: args.ignore_not_found,
    };
    let response = session.admin.delete(request).await;
    let response = response.map_err(|status| session.refused(status))?.into_inner();
    report(&response, false, Format::Table, screen)?;
    Ok(Outcome::Done)
}

/// Writes the store to standard output.
///
/// # Errors
/// It failed: what was written is not whole.
pub(crate) async fn export(session: &mut Session, screen: &mut Screen) -> Result<Outcome, Failure> {
    if screen.is_terminal() {
        return Err(Failure::Use(
            "an export is not for terminals: weft export > FILE".to_owned(),
        ));
    }
    let response = session.admin.export(v1::ExportRequest {}).await;
    let mut parts = response.map_err(|status| session.refused(status))?.into_inner();
    let mut bytes = 0;
    while let Some(part) = parts.message().await.map_err(|status| session.refused(status))? {
        bytes += part.part.len();
        screen.bytes(&part.part)?;
    }
    screen.note(format_args!("{bytes} bytes exported"));
    Ok(Outcome::Done)
}

/// What the sources hold. What is wrong with them alone is found here, before anyone is asked.
fn keys(sources: &[Source], namespace: &str) -> Result<Vec<v1::ResourceKey>, Failure> {
    let namespace = DnsLabel::parse(namespace).map_err(|error| Failure::Use(error.to_string()))?;
    let found = split(sources, &namespace)?;
    if found.is_empty() {
        return Err(Failure::other("there is no document in what was given"));
    }
    Ok(found
        .iter()
        .map(|found| names::to_wire(&found.document.key))
        .collect())
}

fn expected(keys: &[v1::ResourceKey], generation: u64) -> Result<v1::Expected, Failure> {
    match keys {
        [key] => Ok(v1::Expected {
            key: Some(key.clone()),
            generation,
        }),
        _ => Err(Failure::Use(format!(
            "--if-generation is for one document, and there are {}",
            keys.len()
        ))),
    }
}

fn request(sources: Vec<Source>, session: &Session, expected: Vec<v1::Expected>) -> v1::ApplyRequest {
    let sources = sources
        .into_iter()
        .map(|Source { name, text }| v1::SourceText { name, text });
    v1::ApplyRequest {
        sources: sources.collect(),
        expected,
        namespace: session.namespace.clone(),
    }
}

/// Says what was done, and what works but hardly as it was meant.
fn report(
    response: &v1::ApplyResponse,
    is_dry_run: bool,
    format: Format,
    screen: &mut Screen,
) -> Result<(), Failure> {
    if !response.problems.is_empty() {
        return Err(Failure::Problems(response.problems.clone()));
    }
    match format {
        Format::Table | Format::Wide => {
            for change in &response.changes {
                let (word, colour) = word(change.kind());
                let word = screen.paint(colour, word).into_owned();
                let dry_run = if is_dry_run { " (dry run)" } else { "" };
                let generation = match change.kind() {
                    ChangeKind::Created | ChangeKind::Changed => {
                        format!(", generation {}", change.generation)
                    }
                    _ => String::new(),
                };
                screen.line(format_args!("{} {word}{generation}{dry_run}", shown(change)))?;
            }
        }
        Format::Name => {
            for change in &response.changes {
                screen.line(shown(change))?;
            }
        }
        Format::Json | Format::Yaml => {
            let change = |change: &v1::Change| {
                serde_json::json!({
                    "document": names::shown(change.key.as_ref()),
                    "change": word(change.kind()).0,
                    "generation": change.generation,
                })
            };
            let value = serde_json::json!({
                "dryRun": is_dry_run,
                "revision": response.revision,
                "changes": response.changes.iter().map(change).collect::<Vec<_>>(),
                "warnings": json::problems(&response.warnings),
            });
            json::print(screen, format, &value)?;
        }
    }
    for warning in &response.warnings {
        screen.warn(describe(warning));
    }
    Ok(())
}

fn shown(change: &v1::Change) -> String {
    super::screen::clean(&names::shown(change.key.as_ref())).into_owned()
}

fn word(kind: ChangeKind) -> (&'static str, Colour) {
    match kind {
        ChangeKind::Created => ("created", Colour::Green),
        ChangeKind::Changed => ("changed", Colour::Yellow),
        ChangeKind::Unchanged => ("unchanged", Colour::Dim),
        ChangeKind::Deleted => ("deleted", Colour::Red),
        ChangeKind::Unspecified => ("done", Colour::Dim),
    }
}
