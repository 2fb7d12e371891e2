//! The stage: what Anemos runs on a host under its old system, up to the kexec.
//!
//! The stage speaks the protocol on its standard streams. Until the boot it changes nothing on the host but its private
//! directory, which it removes, and the kernel that it loads for kexec, which it unloads.

mod base;
mod blobs;
mod boot;
mod cmdline;
mod compose;
mod error;
mod facts;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gate;
mod guardian;
mod kernel;
mod kernel_set;
mod kexec;
mod memory;
mod modules;
mod panic;
pub mod patch;
mod private_dir;
mod report;
mod serve;
mod stage;
mod sys;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use anemos_host::Root;

use serve::Options;

const USAGE: &str = "usage: anemos-stage serve --dir DIR
       anemos-stage --version

Started by `anemos` over SSH, not by people. DIR is the private directory (mode 0700) that it lies in and removes.";

/// What the executable does.
pub fn main() -> ExitCode {
    let version = format!("{} (protocol {})", env!("CARGO_PKG_VERSION"), anemos_proto::VERSION);
    match parse(std::env::args().skip(1), &version) {
        Command::Serve(options) => serve::serve(&options),
        Command::Version => {
            println!("anemos-stage {version}");
            ExitCode::SUCCESS
        }
        Command::Usage => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

enum Command {
    Serve(Options),
    Version,
    Usage,
}

fn parse(mut words: impl Iterator<Item = String>, version: &str) -> Command {
    match words.next().as_deref() {
        Some("--version") => return Command::Version,
        Some("serve") => {}
        _ => return Command::Usage,
    }
    let (mut dir, mut root) = (None, PathBuf::from("/"));
    while let Some(word) = words.next() {
        match (word.as_str(), words.next()) {
            ("--dir", Some(path)) => dir = Some(PathBuf::from(path)),
            // For tests: reads the host's files from there, and never boots.
            ("--root", Some(path)) => root = path.into(),
            _ => return Command::Usage,
        }
    }
    match dir {
        Some(dir) => Command::Serve(Options { dir, root: Root::new(root), build: version.to_owned() }),
        None => Command::Usage,
    }
}
