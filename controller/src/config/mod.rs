//! hosts.toml: what the user says about hosts, read strictly and resolved completely.
//!
//! [`parse`] is pure: text in, hosts or *all* errors out, each with its line, column and a caret. [`load`] reads the
//! file and checks that the files it names exist. docs/HOSTS.md is the reference of every key.

mod disk;
mod error;
mod files;
mod layer;
mod load;
mod parse;
mod table;
mod units;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use anemos_proto::config::Finish;
use anemos_proto::stage::Proxy;
use serde::{Deserialize, Serialize};

pub use disk::{DiskSelector, select_disks};
pub use error::ConfigError;
pub use load::{LoadError, load};
pub use parse::one;
#[cfg(any(test, fuzzing))]
pub use parse::parse;
pub use units::{format_bytes, format_duration, parse_size};

use crate::known_hosts::PublicKey;
use crate::select::{Named, Selection};

/// What a hosts.toml may have, as a JSON Schema (draft 7) for editors: a first judgement only, since what hangs
/// together in a file is more than a schema can say.
pub const SCHEMA: &str = include_str!("hosts.schema.json");

/// What the names of secrets begin with that `reveal` opens; the SHA-256 of the file that hides it follows.
pub const REVEALED: &str = "revealed.";

/// A whole hosts.toml.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostsFile {
    /// Where it was read from.
    pub path: PathBuf,
    /// The hosts, in the order of the file; at least one, names unique.
    pub hosts: Vec<Host>,
}

impl HostsFile {
    /// The hosts that are meant, in the order of the file.
    pub fn pick(&self, selection: &Selection) -> Result<Vec<&Host>, String> {
        selection.pick(&self.hosts, &self.path.display().to_string())
    }
}

/// One host, `[defaults]` merged in, every value checked and every path made relative to the file's directory.
///
/// `Option`s that are `None` are left to OpenSSH's configuration (see [`crate::ssh_config`]) or to what is found on the
/// host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `NAME` of `[hosts.NAME]`.
    pub name: String,
    /// Groups that it is in, and tags that it has, by which it can be selected; sorted.
    pub labels: Vec<String>,
    /// Name or address to connect to, before `HostName` of ssh_config is applied; the host's own name if not given.
    pub address: String,
    /// Name or address at which the new system may be instead, by the same port and way.
    pub new_address: Option<String>,
    /// SSH port; `None`: ssh_config's, else 22.
    pub port: Option<u16>,
    /// SSH user; `None`: ssh_config's, else `root`.
    pub user: Option<String>,
    /// SSH user of the new system, who is tried before the others.
    pub new_user: Option<String>,
    /// Jump hosts, as `ssh -J` takes them, or `none`; `None`: ssh_config's.
    pub proxy_jump: Option<String>,
    /// How that user becomes root; `None`: by what is found to work without a password, if it must.
    pub becomes: Option<Become>,
    /// Private keys to try; empty: ssh_config's.
    pub identity_files: Vec<PathBuf>,
    /// known_hosts file to use instead of the user's own.
    pub known_hosts: Option<PathBuf>,
    /// Trust a host key never seen before, and remember it.
    pub accept_new: bool,
    /// The payload's directory.
    pub payload: PathBuf,
    /// The disk that the payload may overwrite: `ANEMOS_DISK`.
    pub disk: DiskSelector,
    /// More disks that the payload may overwrite: `ANEMOS_DISKS` after the first.
    pub disks: Vec<DiskSelector>,
    /// `ANEMOS_VAR_<NAME>`, by `<NAME>`: in upper case, however it is written. Integers and booleans as their text.
    pub vars: BTreeMap<String, String>,
    /// Files of `$ANEMOS_SECRETS`, by the name they have there.
    pub secrets: BTreeMap<String, PathBuf>,
    /// A shell command of this machine that opens the secrets of an IMGBUILD, which the host gets opened.
    #[serde(default)]
    pub reveal: Option<String>,
    /// Package archive for the base and for the payload; `None`: the host's own.
    pub mirror: Option<String>,
    /// URL template of a snapshot archive, with `@SNAPSHOTID@` where the time goes.
    pub snapshot: Option<String>,
    /// Through what the host reaches archives, before and in RAM.
    pub proxy: Proxy,
    /// Where the base initramfs comes from.
    pub base: Base,
    /// Groups of the base that the payload needs, in place of those that it names itself.
    pub needs: Option<Vec<String>>,
    /// The kernel that runs the RAM system.
    pub kernel: Kernel,
    /// The clocks of the deployment.
    pub deadlines: Deadlines,
    /// What happens when the payload has succeeded.
    pub finish: Finish,
    /// Who may log into the RAM system and the new one, besides this run's own key.
    pub authorized_keys: Vec<AuthorizedKey>,
    /// A shell command that must succeed on the new system.
    pub check: Option<String>,
    /// The agent's SSH port; `None`: the one on which the old system was reached.
    pub ssh_port_ram: Option<u16>,
    /// The payload may give disks and their controllers commands that the kernel does not count as writes.
    pub raw_access: bool,
    /// The run's own key, too, opens the new system, until the end of `verify`.
    #[serde(default)]
    pub verify_key: bool,
}

impl Host {
    /// Every disk that the payload may overwrite, `ANEMOS_DISK` first.
    pub fn all_disks(&self) -> impl Iterator<Item = &DiskSelector> {
        std::iter::once(&self.disk).chain(&self.disks)
    }
}

impl Named for Host {
    fn name(&self) -> &str {
        &self.name
    }

    fn labels(&self) -> &[String] {
        &self.labels
    }
}

/// How a user who is not root becomes root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Become {
    /// sudo(8), with the user's password if it wants one.
    Sudo,
    /// doas(1), with the user's password if it wants one.
    Doas,
    /// su(1), with root's password.
    Su,
}

impl Become {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sudo, Self::Doas, Self::Su];

    /// The command, which is also its word in hosts.toml.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sudo => "sudo",
            Self::Doas => "doas",
            Self::Su => "su",
        }
    }

    /// That of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.name() == name)
    }
}

impl fmt::Display for Become {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where the base initramfs comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Base {
    /// The way it gets to the host.
    pub source: BaseSource,
    /// Another lock than the one that ships.
    pub lock: Option<PathBuf>,
}

/// The way that the base initramfs gets to the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BaseSource {
    /// The host's cache, else built there, else uploaded if the host has no way out.
    #[default]
    Auto,
    /// Built on the host from distribution packages.
    Build,
    /// Uploaded by the controller.
    Upload,
    /// Downloaded by the host from the first of these that has it.
    Urls(Vec<String>),
}

/// The kernel that runs the RAM system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Kernel {
    /// The one the host is running.
    #[default]
    Host,
    /// The one in base.lock.
    Locked,
}

/// A key in `authorized_keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorizedKey {
    /// Written out in hosts.toml.
    Key(PublicKey),
    /// In a `.pub` file, one key a line; see [`AuthorizedKey::read`].
    File(PathBuf),
}

/// The clocks of a deployment. Each names a wait that ends, and appears by that name in errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines {
    /// Until SSH to the old system is up and authenticated.
    pub connect: Duration,
    /// From there until the new kernel is loaded: upload, download, compose.
    pub stage: Duration,
    /// From the stage's last word until the agent answers.
    pub boot: Duration,
    /// Nothing written and nobody attached for this long: the agent goes back to the old system.
    pub dead_man: Duration,
    /// From the RAM system's first moment until it is ready for the payload.
    pub start: Duration,
    /// No sign of life of the RAM system's kernel, init or agent for this long: it is taken to hang.
    pub hang: Duration,
    /// Until the payload ends.
    pub build: Duration,
    /// From the agent's last word until the new system answers.
    pub reboot: Duration,
    /// For the new system to prove who it is and to pass `check`.
    pub verify: Duration,
    /// For the payload's outcome to be acknowledged, before the agent finishes without.
    pub ack: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            connect: Duration::from_secs(30),
            stage: minutes(20),
            boot: minutes(5),
            dead_man: minutes(10),
            start: minutes(10),
            hang: minutes(2),
            build: minutes(120),
            reboot: minutes(15),
            verify: minutes(2),
            ack: minutes(2),
        }
    }
}

impl Deadlines {
    /// The names, in the order in which the clocks run.
    pub const NAMES: [&str; 10] =
        ["connect", "stage", "boot", "start", "hang", "dead_man", "build", "reboot", "verify", "ack"];

    /// Each clock by its name, in the order in which they run.
    pub fn named(mut self) -> impl Iterator<Item = (&'static str, Duration)> {
        Self::NAMES.into_iter().filter_map(move |name| Some((name, *self.get_mut(name)?)))
    }

    /// The clock of that name.
    fn get_mut(&mut self, name: &str) -> Option<&mut Duration> {
        Some(match name {
            "connect" => &mut self.connect,
            "stage" => &mut self.stage,
            "boot" => &mut self.boot,
            "start" => &mut self.start,
            "hang" => &mut self.hang,
            "dead_man" => &mut self.dead_man,
            "build" => &mut self.build,
            "reboot" => &mut self.reboot,
            "verify" => &mut self.verify,
            "ack" => &mut self.ack,
            _ => return None,
        })
    }
}

/// The directory that a file's relative paths start from.
fn dir_of(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new(""))
}
