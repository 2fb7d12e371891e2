//! What is kept of every run, so that another process can take it up where this one stopped.
//!
//! `$XDG_STATE_HOME/anemos/runs/<run>/` (0700) holds `run.json` (what attach needs to know), `keys/` (the run's client
//! key, 0600, deleted when the run is over) and one append-only `<host>.journal` for each host, with `<host>.attempt`
//! beside it once the host was told to boot. `lock` is held by the process that writes.

mod attempt;
mod frames;
mod store;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use anemos_proto::config::Finish;
use anemos_proto::event::EventKind;
use anemos_proto::ids::RunId;
use serde::{Deserialize, Serialize};

use crate::report::{Summary, Update};
use crate::ssh::{Address, HostKey};

pub use attempt::Attempted;
pub use frames::{Appender, Contents, Follower, Tail, parse, read};
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
    /// No such run.
    #[error("there is no run {0}; `anemos status` lists them")]
    NoRun(String),
    /// No runs at all.
    #[error("there are no runs yet in {}", .0.display())]
    NoRuns(PathBuf),
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

/// One entry of a host's journal.
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

/// A host in `run.json`: everything needed to reach it again without hosts.toml. No secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEntry {
    /// Name in hosts.toml.
    pub name: String,
    /// Where its old system was and its new one will be.
    pub address: Address,
    /// User there.
    pub user: String,
    /// Socket of an SSH agent.
    pub agent_socket: Option<PathBuf>,
    /// Only the keys of `identity_files`.
    pub identities_only: bool,
    /// The user's keys.
    pub identity_files: Vec<PathBuf>,
    /// Host key of this run's agent.
    pub agent_key: HostKey,
    /// Command that must succeed on the new system.
    pub check: Option<String>,
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
}

/// What a host's journal amounts to.
#[derive(Debug, Default)]
pub struct Digested {
    /// Host key of the old system, once it let us in.
    pub met: Option<HostKey>,
    /// The old system, once everything was ready for the boot.
    pub old: Option<OldSystem>,
    /// When Boot was sent.
    pub boot_sent_ms: Option<u64>,
    /// Boot id of the RAM system.
    pub ram_boot_id: Option<String>,
    /// The agent left: where to, and why.
    pub left: Option<(u64, Option<Finish>, String)>,
    /// Seq of the newest fact of the agent.
    pub last_agent_seq: u64,
    /// Everything that was told, in order.
    pub told: Vec<(u64, Update)>,
    /// Bytes on the sockets.
    pub counted: (u64, u64),
    /// The end, unless the host was taken up again since.
    pub summary: Option<Summary>,
    /// The newest payload attempt that the agent told of; 0 if none.
    pub attempt: u32,
    /// Why nothing may be concluded from this journal, if that is so: it is damaged, or knows less than its second file.
    pub damaged: Option<String>,
}

impl Digested {
    /// What the contents of a file amount to, held against the second file beside it.
    pub(in crate::journal) fn of_contents(contents: Contents, path: &Path) -> Self {
        let mut digested = Self::of(contents.records);
        if let Tail::Damaged(_) = contents.tail {
            let name = path.file_name().unwrap_or_default().display();
            digested.damaged =
                Some(format!("the journal is damaged at byte {}, kept as {name}.damaged", contents.good));
        }
        digested.hold_against(&attempt::read(path), path);
        digested
    }

    /// Nothing may be concluded from a journal that knows less than the second file.
    fn hold_against(&mut self, attempted: &Attempted, path: &Path) {
        let (journal, second) = (path.to_owned(), attempt::path(path));
        let names = [&journal, &second].map(|path| path.file_name().unwrap_or_default().display().to_string());
        let [journal, second] = names;
        let why = match attempted {
            Attempted::Number(_) if self.boot_sent_ms.is_none() => {
                format!("{journal} and {second} disagree: only the second knows that the host was told to boot")
            }
            Attempted::Number(number) if *number > self.attempt => format!(
                "{journal} and {second} disagree: the first knows of {} payload attempts, the second of {number}",
                self.attempt
            ),
            Attempted::Never | Attempted::Number(_) => return,
            Attempted::Unreadable(why) => {
                format!("{journal} and {second} disagree: the second can't be read: {why}")
            }
        };
        self.damaged.get_or_insert(why);
    }

    /// Goes through records.
    pub fn of(records: Vec<Record>) -> Self {
        let mut digested = Self::default();
        for record in records {
            digested.take(record);
        }
        digested
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Told { wall_ms, update } => {
                match &update {
                    Update::Summary(summary) => self.summary = Some((**summary).clone()),
                    Update::Event(crate::report::Speaker::Agent, event) => {
                        self.last_agent_seq = self.last_agent_seq.max(last_seq(event));
                        if let EventKind::Attempt(number) = event.kind {
                            self.attempt = self.attempt.max(number);
                        }
                    }
                    _ => {}
                }
                self.told.push((wall_ms, update));
            }
            Record::OldSystem(old) => self.old = Some(old),
            Record::BootSent { wall_ms } => self.boot_sent_ms = Some(wall_ms),
            Record::Ram { boot_id } => self.ram_boot_id = Some(boot_id),
            Record::Left { wall_ms, finish, reason } => self.left = Some((wall_ms, finish, reason)),
            Record::Counted { sent, received } => self.counted = (sent, received),
            Record::Reopened { .. } => self.summary = None,
            Record::Met { host_key } => self.met = Some(host_key),
        }
    }
}

/// What the journal of a host amounts to. One that was never begun is empty.
pub fn digest(path: &Path) -> Result<Digested, JournalError> {
    match read(path) {
        Ok(contents) => Ok(Digested::of_contents(contents, path)),
        Err(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let mut digested = Digested::default();
            digested.hold_against(&attempt::read(path), path);
            Ok(digested)
        }
        Err(error) => Err(error),
    }
}

/// The last seq that an event stands for: a gap stands for many.
pub fn last_seq(event: &anemos_proto::event::Event) -> u64 {
    match event.kind {
        anemos_proto::event::EventKind::Gap { last, .. } => last.max(event.seq),
        _ => event.seq,
    }
}
