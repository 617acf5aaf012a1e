//! `diff`: what an apply would change, as a unified diff of the documents in YAML.

use similar::{ChangeTag, TextDiff};
use weft_proto::{document, mesh::v1};

use super::{DiffArgs, keys, request, shown};
use crate::cli::{
    Outcome,
    failure::{Failure, describe},
    json,
    screen::{Colour, Screen, clean},
    session::Session,
    sources,
};

/// Lines around a change, as usual.
const CONTEXT: usize = 3;

/// Shows the differences.
///
/// # Errors
/// The documents are wrong, or it failed.
pub(crate) async fn diff(
    args: DiffArgs,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let sources = sources::read(&args.files.files, args.files.recursive)?;
    keys(&sources, &session.namespace)?;
    let response = session.admin.plan(request(sources, session, Vec::new())).await;
    let response = response.map_err(|status| session.refused(status))?.into_inner();
    if !response.problems.is_empty() {
        return Err(Failure::Problems(response.problems));
    }
    let mut outcome = Outcome::Done;
    for change in &response.changes {
        if change.before != change.after {
            outcome = Outcome::Differs;
            show(change, screen)?;
        }
    }
    for warning in &response.warnings {
        screen.warn(describe(warning));
    }
    Ok(outcome)
}

fn show(change: &v1::Change, screen: &mut Screen) -> Result<(), Failure> {
    let name = shown(change);
    let (before, after) = (yaml(&name, &change.before)?, yaml(&name, &change.after)?);
    let label = |is_there: bool, what: String| if is_there { what } else { "/dev/null".to_owned() };
    let old = label(!before.is_empty(), format!("{name} (stored)"));
    let new = label(
        !after.is_empty(),
        format!("{name} (generation {})", change.generation),
    );
    for (sign, label) in [("---", old), ("+++", new)] {
        let line = format!("{sign} {label}");
        screen.line(screen.paint(Colour::Bold, &line).into_owned())?;
    }
    let diff = TextDiff::from_lines(&before, &after);
    for hunk in diff.unified_diff().context_radius(CONTEXT).iter_hunks() {
        let header = hunk.header().to_string();
        screen.line(screen.paint(Colour::Dim, &header).into_owned())?;
        for change in hunk.iter_changes() {
            let text = clean(change.value().trim_end_matches('\n')).into_owned();
            let (sign, colour) = match change.tag() {
                ChangeTag::Delete => ("-", Some(Colour::Red)),
                ChangeTag::Insert => ("+", Some(Colour::Green)),
                ChangeTag::Equal => (" ", None),
            };
            let line = format!("{sign}{text}");
            match colour {
                Some(colour) => screen.line(screen.paint(colour, &line).into_owned())?,
                None => screen.line(line)?,
            }
        }
    }
    Ok(())
}

/// A document in YAML; nothing if there is none.
fn yaml(name: &str, json: &[u8]) -> Result<String, Failure> {
    if json.is_empty() {
        return Ok(String::new());
    }
    json::document(name, json).map(|value| document::yaml(&value))
}
