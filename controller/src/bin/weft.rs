//! The binary. All of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_controller::cli::main()
}
