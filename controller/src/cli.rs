//! `weft`: the command line of the mesh.
//!
//! [`args`] is what can be typed, with its help. A command that calls the controller gets a [`Session`]; all of them
//! write to a [`Screen`] and end with an exit code.
//!
//! | commands | file |
//! |---|---|
//! | `context`, `login` | [`context`], [`login`] |
//! | `apply`, `diff`, `validate`, `delete`, `export` | [`documents`] |
//! | `get`, `describe` | [`get`], [`describe`] |
//! | `status`, `proxy` | [`status`], [`proxy`] |
//! | `token`, `ca`, `audit` | [`token`], [`ca`], [`audit`] |
//! | `explain` | [`explain`] |
//! | `check`, `probe` | [`check`], [`probe`] |
//! | `demo` | [`demo`] |

mod args;
mod attached;
mod audit;
mod ca;
mod check;
mod connect;
pub mod context;
mod credential;
mod demo;
mod describe;
mod documents;
mod explain;
mod failure;
mod get;
mod head;
pub(crate) mod human;
mod json;
mod login;
mod names;
mod probe;
mod proxy;
mod screen;
mod session;
mod sources;
mod status;
mod table;
#[cfg(test)]
mod testing;
mod token;
mod version;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use failure::Failure;
use screen::Screen;
use session::Session;

/// What a command that did what it was to do says by its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well.
    Done,
    /// There are differences, or something is not as it should be.
    Differs,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are errors to clap, of exit code 0.
        Err(error) => {
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(failure::FAILED).into();
        }
    };
    if let Command::Lab(command) = &cli.command {
        return weft_lab::cli::run(command);
    }
    let mut screen = Screen::standard();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let code = match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(run(cli, &mut screen));
            // A name that is still being resolved holds nobody up.
            runtime.shutdown_background();
            code
        }
        Err(error) => finish(Err(Failure::other(format!("cannot start: {error}"))), &mut screen),
    };
    code.into()
}

async fn run(cli: Cli, screen: &mut Screen) -> u8 {
    let result = dispatch(cli, screen).await;
    finish(result, screen)
}

fn finish(result: Result<Outcome, Failure>, screen: &mut Screen) -> u8 {
    match result {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Differs) => failure::FAILED,
        Err(failure) => {
            if !failure.is_silent() {
                screen.failure(&failure);
            }
            failure.code()
        }
    }
}

async fn dispatch(cli: Cli, screen: &mut Screen) -> Result<Outcome, Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Validate(args) => documents::validate(&args, &global, screen),
        Command::Context(command) => context::command::run(command, &global, screen),
        Command::Login(args) => login::run(args, &global, screen).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
            screen.bytes(&script)?;
            Ok(Outcome::Done)
        }
        Command::Demo(args) => Ok(match Box::pin(demo::run(&args)).await {
            true => Outcome::Done,
            false => Outcome::Differs,
        }),
        Command::Version(args) => version::run(&args, &global, screen).await,
        Command::Check(args) => check::run(&args, &global, screen).await,
        command => {
            let mut session = Session::open(&global, screen).await?;
            online(command, &mut session, screen).await
        }
    }
}

/// The commands that call the controller.
async fn online(command: Command, session: &mut Session, screen: &mut Screen) -> Result<Outcome, Failure> {
    match command {
        Command::Apply(args) => documents::apply(args, session, screen).await,
        Command::Diff(args) => documents::diff(args, session, screen).await,
        Command::Delete(args) => documents::delete(args, session, screen).await,
        Command::Export => documents::export(session, screen).await,
        Command::Get(args) => get::run(args, session, screen).await,
        Command::Describe(args) => describe::run(args, session, screen).await,
        Command::Status(args) => status::run(args, session, screen).await,
        Command::Proxy(command) => proxy::run(command, session, screen).await,
        Command::Token(command) => token::run(command, session, screen).await,
        Command::Ca(command) => ca::run(command, session, screen).await,
        Command::Audit(args) => audit::run(args, session, screen).await,
        Command::Explain(args) => explain::run(args, session, screen).await,
        Command::Probe(args) => probe::run(args, session, screen).await,
        Command::Validate(_)
        | Command::Context(_)
        | Command::Login(_)
        | Command::Completion { .. }
        | Command::Version(_)
        | Command::Check(_)
        | Command::Demo(_)
        | Command::Lab(_) => Err(Failure::other("this command calls no controller")),
    }
}

#[cfg(test)]
mod tests;
