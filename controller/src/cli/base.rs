//! `base`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `base`.
#[derive(Debug, Subcommand)]
pub enum Base {
    /// Resolve a list of packages against a mirror's signed index, and write the lock
    ///
    /// The suite's updates and security updates are in it. While none of the archives changes, neither does the lock.
    #[command(
        after_help = "Example: anemos base lock base.toml --output base.lock, then `base = { lock = \"base.lock\" }` \
                            in hosts.toml"
    )]
    Lock {
        /// The list of packages
        list: PathBuf,
        /// The lock to write
        #[arg(long, short, default_value = "base.lock")]
        output: PathBuf,
        /// Where packages come from.
        #[command(flatten)]
        places: LockPlaces,
    },
    /// Build the images that a lock describes
    ///
    /// The same lock makes the same images everywhere, one of each group. Serve a directory that has them (`base = {
    /// urls = ["https://…/"] }` in hosts.toml), or leave them in this machine's cache, from which they are uploaded to
    /// hosts that can't come by them otherwise.
    #[command(after_help = "Examples:\n  anemos base build\n  anemos base build base.lock -o base.cpio.zst")]
    Build {
        /// The lock; default: the one in this executable
        lock: Option<PathBuf>,
        /// Build these groups only, those that they require, and `core`; default: all
        #[arg(long, value_name = "GROUP", value_delimiter = ',')]
        needs: Vec<String>,
        /// Where to: a directory, for a file of each group, or a file, for all images one after another; default: the
        /// cache that uploads are taken from
        #[arg(long, short)]
        output: Option<PathBuf>,
        /// Where packages come from.
        #[command(flatten)]
        places: BasePlaces,
    },
    /// Say which packages of a lock have left the mirror, and where they still are
    ///
    /// Asks for each package of the groups and of the kernel, and downloads none. Hosts that build their base get what
    /// has left from an archive of past versions, if one is known.
    #[command(after_help = "Example: anemos base check base.lock\n\n\
                      Exit status: 0 all are there, 1 some have left, 2 bad input, or a mirror can't be asked.")]
    Check {
        /// The lock; default: the one in this executable
        lock: Option<PathBuf>,
        /// Where packages come from.
        #[command(flatten)]
        places: BasePlaces,
    },
    /// Check images against a lock
    #[command(after_help = "Example: anemos base verify base.cpio.zst --lock base.lock")]
    Verify {
        /// The file: an image, or several one after another, as zstd
        image: PathBuf,
        /// The lock; default: the one in this executable
        #[arg(long)]
        lock: Option<PathBuf>,
    },
}

/// Where `base lock` finds packages.
#[derive(Debug, Args)]
pub struct LockPlaces {
    /// URL of a package archive; default: this machine's own
    #[arg(long)]
    pub mirror: Option<String>,
    /// URL of the archive of security updates, or `none`; default: the one beside the mirror, or this machine's own
    #[arg(long)]
    pub security_mirror: Option<String>,
    /// URL of an archive of past versions, with @SNAPSHOTID@ where the time goes, for the lock to name; default: none
    #[arg(long)]
    pub snapshot: Option<String>,
}

/// Where `base` looks for packages.
#[derive(Debug, Args)]
pub struct BasePlaces {
    /// URL of a package archive; default: this machine's own
    #[arg(long)]
    pub mirror: Option<String>,
    /// URL of the archive of security updates; default: those beside the mirror, and this machine's own
    #[arg(long)]
    pub security_mirror: Option<String>,
    /// URL of an archive of past versions, with @SNAPSHOTID@ where the time goes; default: the one that the lock
    /// names, or that this machine's apt knows
    #[arg(long)]
    pub snapshot: Option<String>,
}
