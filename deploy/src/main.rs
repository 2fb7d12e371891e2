//! The executable `anemos-stage`: see the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    anemos_deploy::main()
}
