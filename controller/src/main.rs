//! The executable `anemos`: see the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    anemos::main()
}
