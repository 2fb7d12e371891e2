//! What is kept of every run, so that another process can take it up where this one stopped.
//!
//! `$XDG_STATE_HOME/anemos/runs/<run>/` (0700) holds `run.json` (what attach needs to know), `keys/` (the run's client
//! key, 0600, deleted when the run is over) and one append-only `<host>.journal` for each host, with `<host>.attempt`
//! beside it once the host was told to boot. `lock` is held by the process that writes.
//!
//! `blocks` is the form of a journal's file, `stream` its compression, `entries` what is in it. `reader` and `appender`
//! put them together, and `digest` is what it all amounts to. From a journal that is damaged nothing is concluded.

mod appender;
mod attempt;
mod blocks;
mod by_mac;
mod digest;
mod entries;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod reader;
mod store;
mod stream;
mod v3;

#[cfg(test)]
mod measure;
#[cfg(test)]
pub mod samples;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use anemos_proto::config::Finish;
use anemos_proto::ids::RunId;
use serde::{Deserialize, Serialize};

use crate::config::Become;
use crate::report::{Update, is_line};
use crate::select::Named;
use crate::ssh::{Address, HostKey};
use crate::ssh_config::Agent;

pub use appender::Appender;
pub use digest::{Digested, Keep, Told, last_seq, not_known};
pub use reader::{Follower, Reader, digest, glance};
pub use store::{Lock, RunDir, RunStore};

/// Why a journal can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system said no.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The bytes are not what was written.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How.
        what: String,
    },
    /// Another Anemos wrote it.
    #[error("{} was written by another version of anemos (format {found}); use that one for this run", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It can be read, and only the Anemos that began it can go on with it.
    #[error(
        "the run was begun by an anemos before this one ({}, format {format}), and only that one understands the agent \
         that it sent: use it for this run. Its journal and its key stay as they are",
        path.display()
    )]
    Earlier {
        /// Which file.
        path: PathBuf,
        /// Its format.
        format: u8,
    },
    /// Writing failed before, and since then nothing is written.
    #[error("{} ends where writing it failed: {why}", path.display())]
    Stopped {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No such run.
    #[error("there is no run {0}; `anemos status` lists them")]
    NoRun(String),
    /// Several runs have that in their name.
    #[error("`{name}` may be any of the runs {}; write more of the one that you mean", .runs.join(", "))]
    Ambiguous {
        /// What was given.
        name: String,
        /// Which have it.
        runs: Vec<String>,
    },
    /// What is to be known of a run can't be written down: a path that is not UTF-8.
    #[error("run {run} can't be written down, so it was not begun: {why}")]
    Unwritable {
        /// Which run.
        run: String,
        /// Why not.
        why: String,
    },
    /// No runs at all.
    #[error("there are no runs yet in {}", .0.display())]
    NoRuns(PathBuf),
    /// Somebody else may change what is in there.
    #[error(
        "{} {why}: whoever can write there can have anything done with your keys. Mend that, or name another \
         XDG_STATE_HOME",
        path.display()
    )]
    NotOurs {
        /// Which directory.
        path: PathBuf,
        /// Whose it is, in words that follow its name.
        why: String,
    },
    /// Nowhere to put it.
    #[error("neither XDG_STATE_HOME nor HOME is set, so there is nowhere to keep journals")]
    NoHome,
    /// Another process writes it.
    #[error("run {run} is being followed by another anemos (process {pid})")]
    Locked {
        /// Which run.
        run: String,
        /// Who.
        pid: String,
    },
}

impl JournalError {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.into(), source }
    }
}

/// One entry of a host's journal. In the file it is JSON for the most part: names that are in it stay as they are, and
/// a field that comes to any type in it has a `#[serde(default)]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Record {
    /// What the screens were told.
    Told {
        /// When, by the workstation's clock.
        wall_ms: u64,
        /// What.
        update: Update,
    },
    /// The old system, as it was met.
    OldSystem(OldSystem),
    /// The stage is about to be told to boot: from here on the host may be anywhere.
    BootSent {
        /// When, by the workstation's clock.
        wall_ms: u64,
    },
    /// The agent was reached.
    Ram {
        /// Boot id of the RAM system.
        boot_id: String,
    },
    /// The agent's last word: it leaves RAM.
    Left {
        /// When, by the workstation's clock.
        wall_ms: u64,
        /// Where to: `None` for the old system.
        finish: Option<Finish>,
        /// Why, for the old system.
        reason: String,
    },
    /// Bytes on the sockets so far, from all processes that followed the host.
    Counted {
        /// Sent.
        sent: u64,
        /// Received.
        received: u64,
    },
    /// A person took the host up again after its summary: retry, finish, abort.
    Reopened {
        /// When, by the workstation's clock.
        wall_ms: u64,
    },
    /// The old system let us in; the stage is about to be started.
    Met {
        /// The host key that it proved to have.
        host_key: HostKey,
    },
    /// The new system is in order; the run's key is about to be removed from it.
    Verified {
        /// What the system calls itself.
        os: String,
    },
}

impl Record {
    /// Whether it is a line of output.
    fn is_line(&self) -> bool {
        matches!(self, Self::Told { update, .. } if is_line(update))
    }
}

/// What must be known of the old system to tell it from others later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldSystem {
    /// Its boot id.
    pub boot_id: String,
    /// The host key that it proved to have.
    pub proved: HostKey,
    /// All host keys that it says it has.
    pub host_keys: Vec<HostKey>,
    /// What its root file system is, see [`crate::engine::look`].
    pub identity: String,
    /// Port of the agent.
    pub agent_port: u16,
    /// Bytes that the host downloaded while staging.
    pub downloaded: u64,
    /// Bytes of the initramfs.
    pub initramfs: u64,
}

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFile {
    /// [`RunFile::FORMAT`].
    pub format: u32,
    /// The run.
    pub run: RunId,
    /// When it began, milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// The hosts.toml that it came from.
    pub hosts_file: PathBuf,
    /// The process that began it.
    pub pid: u32,
    /// Its hosts.
    pub hosts: Vec<HostEntry>,
}

impl RunFile {
    /// Version of this file's form.
    pub const FORMAT: u32 = 1;
}

impl HostEntry {
    /// Whether one of these is where the host was, or may be once it is deployed. A name alone says little: other
    /// fleets have a host of that name too, and a machine may have been replaced by another one.
    pub fn is_at(&self, addresses: &[Address]) -> bool {
        let here = |address: &Address| addresses.contains(address);
        here(&self.address) || self.new_address.as_ref().is_some_and(here)
    }
}

impl Named for HostEntry {
    fn name(&self) -> &str {
        &self.name
    }

    fn labels(&self) -> &[String] {
        &self.labels
    }
}

/// A host in `run.json`: everything needed to reach it again without hosts.toml. No secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEntry {
    /// Name in hosts.toml.
    pub name: String,
    /// Groups that it is in there, and tags that it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Where its old system was and its new one will be.
    pub address: Address,
    /// Where its new one may be too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_address: Option<Address>,
    /// What the connection to the old system may use.
    #[serde(default, skip_serializing_if = "crate::ssh::Algorithms::is_own")]
    pub algorithms: crate::ssh::Algorithms,
    /// User there.
    pub user: String,
    /// User of its new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_user: Option<String>,
    /// How that user becomes root, if hosts.toml says so.
    #[serde(default)]
    pub becomes: Option<Become>,
    /// Which SSH agent is asked. In a run from before this was kept, that of whoever follows it.
    #[serde(default)]
    pub agent: Agent,
    /// Only the keys of `identity_files`.
    pub identities_only: bool,
    /// The user's keys.
    pub identity_files: Vec<PathBuf>,
    /// They are those of hosts.toml, and come before all others.
    #[serde(default)]
    pub identities_given: bool,
    /// The user's certificates.
    #[serde(default)]
    pub certificate_files: Vec<PathBuf>,
    /// Host key of this run's agent.
    pub agent_key: HostKey,
    /// Command that must succeed on the new system.
    pub check: Option<String>,
    /// The run's key opens the new system, until the end of `verify`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verify_key: bool,
    /// How the agent leaves.
    pub finish: Finish,
    /// Seconds from the stage's last word until the agent answers.
    pub boot_s: u64,
    /// Seconds until the payload ends.
    pub build_s: u64,
    /// Seconds from the agent's last word until the new system answers.
    pub reboot_s: u64,
    /// Seconds for the new system to prove itself.
    pub verify_s: u64,
    /// Seconds after which the agent goes on without an acknowledgement.
    pub ack_s: u64,
    /// Seconds after which the agent goes back to the old system if nobody is attached.
    pub dead_man_s: u64,
    /// What its RAM system has for payloads. A run from before this was kept has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram: Option<crate::payload::Ram>,
    /// Names what its new system is made from: `run::Wanted::digest`, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
}
