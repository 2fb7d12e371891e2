//! The command line.

use std::path::PathBuf;

use anemos_proto::config::Finish;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Turns machines that you reach by SSH into exactly what a directory describes.
///
/// `anemos up hosts.toml` connects to each host, shows what will be lost and what will be sent, asks, boots a small system
/// into the host's memory, runs your payload there and watches until the new system has proved itself.
#[derive(Debug, Parser)]
#[command(
    version = crate::embed::BUILD,
    max_term_width = 100,
    after_help = "Exit status:\n  0    all hosts deployed (or the command did what it should)\n  1    internal error\n  2    \
                  bad input or usage\n  3    the plan was refused\n  4    some host was not deployed\n  130  stopped or \
                  detached by Ctrl-C; after the boot the hosts go on alone, and `anemos attach` follows them again"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Deploy hosts: probe, show the plan, ask, build, verify
    ///
    /// Before the boot, Ctrl-C undoes everything. After it, Ctrl-C detaches, and the hosts go on alone. A second Ctrl-C ends
    /// at once.
    Up(Up),
    /// Show what `up` would do; changes nothing on the hosts
    Plan(PlanArgs),
    /// Follow a run again, from the first event to the end
    Attach(Attach),
    /// Show runs, or the hosts of one
    Status(Status),
    /// Print what a host wrote during a run
    Logs(Logs),
    /// Open a shell in a host's RAM system
    Shell(Shell),
    /// Run the payload again on hosts that are held
    Retry(Retry),
    /// End the payload: with nothing written the host goes back to its old system, else it is held
    Abort(Pick),
    /// Make a held host leave its RAM system
    Finish(FinishArgs),
    /// Make, build and check the base initramfs
    #[command(subcommand)]
    Base(Base),
}

/// `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// hosts.toml and which of its hosts.
    #[command(flatten)]
    pub which: PlanArgs,
    /// Don't ask. Without a terminal this is needed
    #[arg(long, short)]
    pub yes: bool,
    /// How hosts leave RAM, instead of what hosts.toml says
    #[arg(long, value_enum)]
    pub finish: Option<FinishHow>,
}

/// What `up` and `plan` have in common.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Describes the hosts
    pub hosts_file: PathBuf,
    /// Only these hosts of it
    pub hosts: Vec<String>,
    /// One JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
    /// Hosts at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub parallel: u32,
    /// Take the host keys of unknown hosts on trust, and remember them
    #[arg(long)]
    pub accept_new: bool,
    /// Another base.lock than the one in this executable
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
}

/// `attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// The run; its beginning or end is enough. Default: the newest
    pub run: Option<String>,
    /// One JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The run; without one, all runs
    pub run: Option<String>,
    /// One JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// The run
    pub run: String,
    /// The host
    pub host: String,
    /// Every fact, as `up` shows them when piped
    #[arg(long, conflicts_with = "raw")]
    pub all: bool,
    /// The bytes as they came, with whatever a terminal would obey
    #[arg(long)]
    pub raw: bool,
}

/// `shell`.
#[derive(Debug, Args)]
pub struct Shell {
    /// The host
    pub host: String,
    /// The run; default: the newest that has the host
    #[arg(long)]
    pub run: Option<String>,
    /// Run this instead of a login shell
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// `abort`.
#[derive(Debug, Args)]
pub struct Pick {
    /// The run; default: the newest
    pub run: Option<String>,
    /// The host; default: all of the run that are in RAM
    pub host: Option<String>,
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
    /// The host
    pub host: String,
    /// How
    #[arg(value_enum, default_value = "reboot")]
    pub how: FinishHow,
    /// The run; default: the newest that has the host
    #[arg(long)]
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

/// `base`.
#[derive(Debug, Subcommand)]
pub enum Base {
    /// Resolve a list of packages against a mirror's signed index, and write the lock
    Lock {
        /// The list of packages
        list: PathBuf,
        /// The lock to write
        #[arg(long, short, default_value = "base.lock")]
        output: PathBuf,
        /// Package archive; default: this machine's own
        #[arg(long)]
        mirror: Option<String>,
    },
    /// Build the image that a lock describes
    Build {
        /// The lock; default: the one in this executable
        lock: Option<PathBuf>,
        /// The image to write (zstd); default: the cache that uploads are taken from
        #[arg(long, short)]
        output: Option<PathBuf>,
        /// Package archive; default: this machine's own
        #[arg(long)]
        mirror: Option<String>,
    },
    /// Check an image against a lock
    Verify {
        /// The image, zstd or plain
        image: PathBuf,
        /// The lock; default: the one in this executable
        #[arg(long)]
        lock: Option<PathBuf>,
    },
}
