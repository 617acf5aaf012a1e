//! `weft-proxy demo`: the mesh at work on one machine.

use std::process::ExitCode;

/// What the demo does.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// End with a summary instead of leaving the mesh up
    #[arg(long)]
    pub(crate) once: bool,
}

/// Runs it.
pub(crate) fn run(_args: &DemoArgs) -> ExitCode {
    ExitCode::SUCCESS
}
