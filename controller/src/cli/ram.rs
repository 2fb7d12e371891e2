//! `shell`, `ssh`, `cp`, `retry`, `abort` and `finish`: what is done to hosts in RAM.

use std::path::PathBuf;

use anemos_proto::config::Finish;
use clap::{Args, ValueEnum};

use super::which::{OfFile, OfRun};
use crate::select::Pattern;

/// `shell`.
#[derive(Debug, Args)]
pub struct Shell {
    /// The host, or a pattern that means one
    pub host: Pattern,
    /// The run; its beginning or end is enough. Default: the newest that has the host in RAM
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Run this instead of a login shell
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// `ssh`.
#[derive(Debug, Args)]
pub struct Ssh {
    /// The host: of a hosts.toml, or of a run where there is none that has it.
    #[command(flatten)]
    pub of: OfFile,
    /// Run this instead of a login shell
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// `cp`.
#[derive(Debug, Args)]
pub struct Copy {
    /// A file here, or HOST:PATH
    pub from: String,
    /// HOST:PATH, or a file or directory here
    pub to: String,
    /// The run; its beginning or end is enough. Default: the newest that has the host in RAM
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Take no more than this from a host
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = crate::config::parse_size)]
    pub max_size: u64,
}

/// `abort`.
#[derive(Debug, Args)]
pub struct Pick {
    /// Whom; without a host all of the run that are in RAM, after a question if the run has several. The others are
    /// shown as they are.
    #[command(flatten)]
    pub of: OfRun,
    /// Don't ask whether all hosts of the run are meant. Needed where there is no terminal to ask on
    #[arg(long)]
    pub all: bool,
    /// One JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
}

/// `retry`.
#[derive(Debug, Args)]
pub struct Retry {
    /// Which.
    #[command(flatten)]
    pub pick: Pick,
    /// A mended payload, instead of the one that is there
    #[arg(long, value_name = "DIR")]
    pub payload: Option<PathBuf>,
}

/// `finish`.
#[derive(Debug, Args)]
pub struct FinishArgs {
    /// The host, a pattern, or several with commas between
    #[arg(value_name = "HOST")]
    pub hosts: String,
    /// How
    #[arg(value_enum, default_value = "reboot")]
    pub how: FinishHow,
    /// The run; its beginning or end is enough. Default: the newest that has the hosts in RAM
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// One JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
}

/// Ways out of RAM.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FinishHow {
    /// Through the firmware
    Reboot,
    /// Straight into the new system's kernel
    Kexec,
    /// Power off
    #[value(name = "poweroff")]
    PowerOff,
    /// Stay in RAM until told otherwise
    Hold,
}

impl From<FinishHow> for Finish {
    fn from(how: FinishHow) -> Self {
        match how {
            FinishHow::Reboot => Self::Reboot,
            FinishHow::Kexec => Self::Kexec,
            FinishHow::PowerOff => Self::PowerOff,
            FinishHow::Hold => Self::Hold,
        }
    }
}
