//! The executable `anemos-agent`: see the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    anemos_agent::main()
}
