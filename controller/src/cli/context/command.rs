//! `context`: choosing among controllers.

use clap::Subcommand;
use serde_json::json;
use weft_tls::clock;

use super::{Context, change, choose, load, name, path};
use crate::cli::{
    Outcome,
    args::{Format, Global},
    failure::Failure,
    human, json as values,
    screen::{Colour, Screen, clean},
    table::{Cell, Table},
};

const LIST_HELP: &str = "\
Examples:
  weft context list
  weft context list -o json";

const USE_HELP: &str = "\
Examples:
  weft context use prod
  weft context use prod -n shop      and its commands are of this namespace from now on";

const SHOW_HELP: &str = "\
Examples:
  weft context show
  weft context show prod -o json";

const DELETE_HELP: &str = "\
Examples:
  weft context delete old";

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the contexts
    #[command(after_help = LIST_HELP)]
    List {
        /// How to print them
        #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
        output: Format,
    },
    /// Make a context the current one
    #[command(after_help = USE_HELP)]
    Use {
        /// Which
        #[arg(value_parser = name)]
        name: String,
    },
    /// Show the current context, or another
    #[command(after_help = SHOW_HELP)]
    Show {
        /// Which
        name: Option<String>,
        /// How to print it: table, json or yaml
        #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
        output: Format,
    },
    /// Remove a context, and its credential
    #[command(after_help = DELETE_HELP)]
    Delete {
        /// Which
        name: String,
    },
}

/// Shows or changes contexts.
///
/// # Errors
/// The file of contexts is wrong, cannot be changed, or has no such context.
pub(crate) fn run(command: ContextCommand, global: &Global, screen: &mut Screen) -> Result<Outcome, Failure> {
    let path = path(global.config.as_deref())?;
    match command {
        ContextCommand::List { output } => list(&path, output, screen)?,
        ContextCommand::Show { name, output } => {
            let name = name.as_deref().or(global.context.as_deref());
            show(&path, &choose(&path, name)?, output, screen)?;
        }
        ContextCommand::Use { name } => {
            change(&path, |contexts| {
                contexts.choose(Some(&name))?;
                let chosen = contexts.contexts.iter_mut().find(|context| context.name == name);
                if let (Some(context), Some(namespace)) = (chosen, &global.namespace) {
                    namespace.clone_into(&mut context.namespace);
                }
                contexts.current = Some(name.clone());
                Ok(())
            })?;
            screen.line(format_args!("context {name} is the current one"))?;
        }
        ContextCommand::Delete { name } => {
            change(&path, |contexts| {
                contexts.choose(Some(&name))?;
                contexts.contexts.retain(|context| context.name != name);
                contexts.current.take_if(|current| *current == name);
                Ok(())
            })?;
            screen.line(format_args!("context {} removed", clean(&name)))?;
        }
    }
    Ok(Outcome::Done)
}

fn list(path: &std::path::Path, format: Format, screen: &mut Screen) -> Result<(), Failure> {
    let contexts = load(path)?.ok_or_else(|| Failure::NoContext(path.to_owned()))?;
    let is_current = |context: &Context| contexts.current.as_deref() == Some(&*context.name);
    match format {
        Format::Json | Format::Yaml => {
            let context = |context: &Context| {
                json!({
                    "name": context.name,
                    "controller": context.controller,
                    "namespace": context.namespace,
                    "current": is_current(context),
                })
            };
            let value = json!({"contexts": contexts.contexts.iter().map(context).collect::<Vec<_>>()});
            values::print(screen, format, &value)
        }
        Format::Name => contexts
            .contexts
            .iter()
            .try_for_each(|context| screen.line(&context.name)),
        Format::Table | Format::Wide => {
            let mut table = Table::new(vec!["CURRENT", "NAME", "CONTROLLER", "NAMESPACE"]);
            for context in &contexts.contexts {
                table.row(vec![
                    if is_current(context) {
                        Cell::painted("*", Colour::Green)
                    } else {
                        Cell::from(" ")
                    },
                    Cell::from(context.name.as_str()),
                    Cell::from(context.controller.as_str()),
                    Cell::from(context.namespace.as_str()),
                ]);
            }
            table.print(screen, false)
        }
    }
}

fn show(
    path: &std::path::Path,
    context: &Context,
    format: Format,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let credentials = context.credentials(path);
    let svid = credentials
        .as_ref()
        .ok()
        .map(|credentials| credentials.svid().clone());
    if let Format::Json | Format::Yaml = format {
        let value = json!({
            "name": context.name,
            "controller": context.controller,
            "namespace": context.namespace,
            "file": path.display().to_string(),
            "identity": svid.as_ref().map(|svid| svid.id().as_str()),
            "notAfter": svid.as_ref().map(|svid| human::date(human::seconds(svid.not_after()))),
        });
        values::print(screen, format, &value)?;
        return credentials.map(drop);
    }
    let ends = svid.as_ref().map(|svid| {
        let seconds = human::seconds(svid.not_after());
        format!(
            "{} ({})",
            human::date(seconds),
            human::until(clock::now(), seconds)
        )
    });
    for (field, value) in [
        ("Context", Some(context.name.clone())),
        ("Controller", Some(context.controller.clone())),
        ("Namespace", Some(context.namespace.clone())),
        ("File", Some(path.display().to_string())),
        ("Identity", svid.as_ref().map(|svid| svid.id().to_string())),
        ("Ends", ends),
    ] {
        if let Some(value) = value {
            screen.line(format_args!("{:<13}{}", format!("{field}:"), clean(&value)))?;
        }
    }
    credentials.map(drop)
}
