//! The agent: what runs on a host in RAM, from init to the reboot.
//!
//! One binary in three roles: as PID 1 it is init ([`init`]), which starts it again as the agent proper ([`serve`]);
//! and payloads call it to say how they are getting on and to ask for the host's network and identity ([`cli`]).

mod app;
mod attach;
mod cgroup;
mod cli;
mod clock;
mod console;
mod desk;
mod detectors;
mod disks;
mod finish;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod given;
mod guard;
mod heart;
mod helper;
mod identity;
#[cfg(feature = "imgbuild")]
mod imgbuild;
mod init;
mod kmsg;
mod limits;
mod lines;
mod lock;
mod log;
mod machine;
mod memory;
mod modules;
mod note;
mod paths;
mod payload;
mod prepare;
mod raw;
mod reset;
mod seccomp;
mod serve;
mod shell;
#[cfg(test)]
mod skip;
mod ssh;
mod supervisor;
mod sys;
mod unpack;
mod watchdog;
mod writes;

use std::process::ExitCode;

/// What the executable does.
pub fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::run();
    }
    cli::run(&std::env::args().skip(1).collect::<Vec<_>>())
}
