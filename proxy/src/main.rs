//! The binary. All of it is in the library, so that tests and fuzzing reach it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_proxy::main()
}
