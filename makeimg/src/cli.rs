//! Words of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Builds system images from an IMGBUILD.
///
/// An IMGBUILD is a POSIX shell script in a project's directory that says what is in an image: which distribution,
/// which packages, which files. Without a command, `makeimg` builds. docs/IMGBUILD.md is the manual of the format.
#[derive(Debug, Parser)]
#[command(name = "makeimg", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub build: Build,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read everything and say what is wrong, without building
    Check(Check),
    /// Build the image
    Build(Build),
    /// Run a shell, or a command, in what there is of a failed build, or in a result that is a directory
    Shell(Shell),
    /// Open what is in secrets/ and luks/ by the command that reveals it, and say of each whether that works
    Reveal(Reveal),
    /// Boot a disk image in QEMU, with its serial console on this terminal
    Run(Run),
}

#[derive(Debug, Clone, Args)]
pub struct Inputs {
    /// Where the IMGBUILD is
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".")]
    pub directory: PathBuf,
    /// One line of JSON for each thing that happens
    #[arg(long)]
    pub json: bool,
    /// Input directories, in order [default: files, in the project's directory]
    #[arg(value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct Check {
    #[command(flatten)]
    pub inputs: Inputs,
}

#[derive(Debug, Clone, Args)]
pub struct Build {
    #[command(flatten)]
    pub inputs: Inputs,
    /// Directory for the result [default: the current one]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// What comes out, such as `dir` or `tar zst`, instead of what the IMGBUILD says
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Package archive to bootstrap from [environment: MAKEIMG_MIRROR]
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    /// Archive of Debian's security updates, or `none` [environment: MAKEIMG_SECURITY_MIRROR]
    #[arg(long, value_name = "URL")]
    pub security_mirror: Option<String>,
    /// Shell command that reads a file of secrets/ and writes what goes into the image, such as `age -d -i key.txt`
    /// [environment: MAKEIMG_REVEAL]
    #[arg(long, value_name = "COMMAND")]
    pub reveal: Option<String>,
    /// Keep what is bootstrapped for the next build, in $XDG_CACHE_HOME/makeimg or ~/.cache/makeimg if no directory is
    /// said [environment: MAKEIMG_CACHE]
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub cache: Option<String>,
    /// If the build fails, keep what there is of the image in NAME.failed beside the result
    #[arg(long)]
    pub keep_failed: bool,
    /// Show what all tools print
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Debug, Args)]
pub struct Shell {
    /// The image's root directory, such as web.failed
    #[arg(value_name = "DIR")]
    pub tree: PathBuf,
    /// What to run in place of a shell
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Reveal {
    /// Where the IMGBUILD is
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".")]
    pub directory: PathBuf,
    /// Shell command that reads a file and writes what it hides, such as `age -d -i key.txt` [environment:
    /// MAKEIMG_REVEAL]
    #[arg(long, value_name = "COMMAND")]
    pub reveal: Option<String>,
    /// Print what this file hides
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Run {
    /// The image
    pub image: PathBuf,
    /// Keep what the machine writes; otherwise the image stays as it is
    #[arg(long)]
    pub keep: bool,
    /// Boot by UEFI instead of BIOS
    #[arg(long)]
    pub uefi: bool,
    /// Memory, as QEMU has it
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub memory: String,
    /// QEMU's accelerator [default: kvm if /dev/kvm can be opened, else tcg]
    #[arg(long, value_name = "NAME")]
    pub accel: Option<String>,
    /// Forward this port of 127.0.0.1 to the machine's SSH server
    #[arg(long, value_name = "PORT")]
    pub ssh: Option<u16>,
}
