//! `check`: what is wrong with this machine, the controller, the certificates or the sidecars, or soon will be.

mod local;
mod remote;

use serde_json::{Value, json};

use super::{
    Outcome,
    args::{Format, Global},
    failure::{Failure, many},
    json as values,
    screen::{Colour, Screen, clean},
    session::Session,
};

pub(crate) const HELP: &str = "\
Certificates are warned of when less than a quarter of their life is left, or 30 days.

Examples:
  weft check
  weft check --local
  weft check -o json

Exit codes: 0 nothing is wrong (there may be warnings), 1 something is, 2 wrong use.";

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Look at this machine alone
    #[arg(long)]
    local: bool,
    /// How to print it: table, json or yaml
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// How it is with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Good,
    Warning,
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug)]
pub(super) struct Item {
    /// Where: `machine`, `controller`, `certificates`, `sidecars`.
    pub(super) section: &'static str,
    pub(super) level: Level,
    /// What was found.
    pub(super) text: String,
    /// What to do.
    pub(super) hint: Option<String>,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Wrong => "wrong",
        }
    }

    fn colour(self) -> Colour {
        match self {
            Self::Good => Colour::Green,
            Self::Warning => Colour::Yellow,
            Self::Wrong => Colour::Red,
        }
    }
}

impl Item {
    pub(super) fn new(section: &'static str, level: Level, text: impl Into<String>) -> Self {
        Self {
            section,
            level,
            text: text.into(),
            hint: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Looks at everything.
///
/// # Errors
/// The result could not be written: what is wrong is the result.
pub(crate) async fn run(args: &CheckArgs, global: &Global, screen: &mut Screen) -> Result<Outcome, Failure> {
    let mut items = local::look();
    if !args.local {
        match Session::open(global, screen).await {
            Ok(mut session) => items.extend(remote::look(&mut session).await),
            Err(failure) => items.push(unreachable(&failure)),
        }
    }
    print(&items, args.output, screen)
}

/// The same with a session, and without this machine.
#[cfg(test)]
pub(crate) async fn with(
    session: &mut Session,
    args: &CheckArgs,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    print(&remote::look(session).await, args.output, screen)
}

fn unreachable(failure: &Failure) -> Item {
    let item = Item::new("controller", Level::Wrong, failure.to_string());
    match failure.hint() {
        Some(hint) => item.hint(hint),
        None => item,
    }
}

fn print(items: &[Item], format: Format, screen: &mut Screen) -> Result<Outcome, Failure> {
    let count = |level| items.iter().filter(|item| item.level == level).count();
    let (wrong, warnings) = (count(Level::Wrong), count(Level::Warning));
    if let Format::Json | Format::Yaml = format {
        let value = json!({
            "ok": wrong == 0,
            "wrong": wrong,
            "warnings": warnings,
            "items": items.iter().map(to_json).collect::<Vec<_>>(),
        });
        values::print(screen, format, &value)?;
    } else {
        let mut section = "";
        for item in items {
            if item.section != section {
                let separator = if section.is_empty() { "" } else { "\n" };
                section = item.section;
                let head = screen.paint(Colour::Bold, section).into_owned();
                screen.line(format_args!("{separator}{head}"))?;
            }
            let word = format!("{:<8}", item.level.as_str());
            let word = screen.paint(item.level.colour(), &word).into_owned();
            screen.line(format_args!("  {word}{}", clean(&item.text)))?;
            for line in item.hint.iter().flat_map(|hint| hint.lines()) {
                screen.line(format_args!("          {}", clean(line)))?;
            }
        }
        screen.line(format_args!("\n{wrong} wrong, {}", many(warnings, "warning")))?;
    }
    Ok(if wrong == 0 {
        Outcome::Done
    } else {
        Outcome::Differs
    })
}

fn to_json(item: &Item) -> Value {
    json!({
        "section": item.section,
        "level": item.level.as_str(),
        "text": item.text,
        "hint": item.hint,
    })
}
