//! The command line of the mesh.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_controller::cli::main()
}
