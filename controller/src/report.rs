//! What a deployment tells whoever shows or records it: plain data, no terminal in sight.

mod feed;

use std::fmt;

use anemos_proto::config::Finish;
use anemos_proto::event::{AgentState, Event, EventKind, Level, Outcome, Progress, StepOutcome};
use anemos_proto::host::HostFacts;
use anemos_proto::ids::Digest;
use serde::{Deserialize, Serialize};

use crate::plan::Plan;

pub use feed::{Feed, Reports, feed};

/// The phases of a deployment, in order. Each has a deadline, and its name is in every error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// SSH to the old system.
    Connect,
    /// Stage uploaded if need be and started; host facts.
    Probe,
    /// Blobs that the host lacks.
    Upload,
    /// The stage fetches or builds the base, composes and loads.
    Stage,
    /// From the stage's last word to the agent's first event.
    Boot,
    /// The payload.
    Build,
    /// From the agent's last word to the first answer of the new system.
    Reboot,
    /// Host key, boot id, check command.
    Verify,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 8] =
        [Self::Connect, Self::Probe, Self::Upload, Self::Stage, Self::Boot, Self::Build, Self::Reboot, Self::Verify];

    /// Its name in text and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Probe => "probe",
            Self::Upload => "upload",
            Self::Stage => "stage",
            Self::Boot => "boot",
            Self::Build => "build",
            Self::Reboot => "reboot",
            Self::Verify => "verify",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who numbered an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// The stage, under the old system.
    Stage,
    /// The agent, in RAM.
    Agent,
}

/// How a deployment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// The new system is up, and it is the one that was built.
    Deployed,
    /// The old system is up, or was never left, and it is known that its disks are as they were.
    Untouched,
    /// A person has to look; the reason says where the host is, or what is not known about it.
    Held,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deployed => "deployed",
            Self::Untouched => "untouched",
            Self::Held => "held",
        })
    }
}

/// One thing that happened to one host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The host's name in hosts.toml.
    pub host: String,
    /// Its number among all that was told of this host, from 1, if the host's journal keeps it: progress passes, and
    /// has none.
    pub number: Option<u64>,
    /// Milliseconds since the Unix epoch, by the workstation's clock.
    pub wall_ms: u64,
    /// What.
    pub update: Update,
}

/// What can happen, as the controller sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Update {
    /// A phase began.
    PhaseStarted(Phase),
    /// A phase ended well, after this many seconds.
    PhaseFinished(Phase, f64),
    /// The stage's facts about the host.
    Facts(Box<HostFacts>),
    /// What is to be done to the host.
    Planned {
        /// That.
        plan: Box<Plan>,
        /// In which order the run's hosts go, for people, if several can be deployed and this is one of them.
        order: Option<String>,
    },
    /// Bytes of blobs sent, of all that must be sent.
    Uploaded {
        /// Bytes sent.
        sent: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A numbered fact of stage or agent. New: never a second time, also after a reconnection.
    Event(Speaker, Event),
    /// Progress of a step of stage or agent.
    Progress(Speaker, Progress),
    /// The connection was lost, because …; it is being tried again.
    LinkLost(String),
    /// The connection is back.
    LinkBack,
    /// Something that the controller has to say.
    Message(Level, String),
    /// The end. The last report of a host.
    Summary(Box<Summary>),
    /// It waits: what for. Over with the next phase.
    Waiting(String),
    /// Somebody wants something of the host. Its number is the wish's own.
    Wished(Wished),
    /// Somebody decided about the plan, in a run that a daemon has.
    Decided {
        /// Who: a user of this machine and their process, for people.
        author: String,
        /// Whether the host is to be deployed.
        approved: bool,
    },
    /// A wish was answered.
    Answered {
        /// The number of the [`Update::Wished`].
        wish: u64,
        /// Why it won't be done; `None` if it is.
        refused: Option<String>,
    },
}

/// Whether it is a line of output.
pub fn is_line(update: &Update) -> bool {
    matches!(update, Update::Event(_, event) if matches!(event.kind, EventKind::Log { .. }))
}

/// Bytes of memory that an update takes, about: those of what a host says as often as it likes, and of the rest as if
/// it were empty.
pub fn size(update: &Update) -> usize {
    let text = match update {
        Update::Event(_, event) => match &event.kind {
            EventKind::Log { line, .. } => line.len(),
            EventKind::StepStarted { name: text, .. }
            | EventKind::StepFinished { outcome: StepOutcome::Skipped(text) | StepOutcome::Failed(text), .. }
            | EventKind::Note { text, .. }
            | EventKind::State(AgentState::Held(text) | AgentState::Returning(text))
            | EventKind::Outcome(Outcome::Failed { reason: text, .. }) => text.len(),
            EventKind::Written(disks) => disks.iter().map(|(name, _)| name.len() + 32).sum(),
            EventKind::HostKeys(keys) => keys.iter().map(|key| key.len() + 24).sum(),
            _ => 0,
        },
        Update::Progress(_, progress) => progress.what.as_ref().map_or(0, String::len),
        Update::Message(_, text) | Update::LinkLost(text) | Update::Waiting(text) => text.len(),
        _ => 0,
    };
    size_of::<Report>() + text
}

/// What somebody wants of a host in RAM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wished {
    /// Who: a user of this machine and their process, for people.
    pub author: String,
    /// What it is called by whoever made it, so that it is made once: random.
    pub id: String,
    /// What.
    pub what: What,
}

/// What can be wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Run the payload again, or another one.
    Retry {
        /// SHA-256 of the other one, as packed.
        payload: Option<Digest>,
    },
    /// End the payload.
    Abort,
    /// Leave RAM.
    Finish(Finish),
}

impl What {
    /// The command that wishes it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Retry { .. } => "retry",
            Self::Abort => "abort",
            Self::Finish(_) => "finish",
        }
    }
}

/// The word for a way to leave RAM, in text and JSON.
pub fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Reboot => "reboot",
        Finish::Kexec => "kexec",
        Finish::PowerOff => "poweroff",
        Finish::Hold => "hold",
    }
}

/// How one host's deployment went: the last JSON line of each host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The host's name in hosts.toml.
    pub host: String,
    /// How it ended.
    pub outcome: Ending,
    /// Why; for `deployed`, what the new system calls itself.
    pub reason: String,
    /// Bytes written to the sockets of this host's SSH connections.
    pub uploaded_bytes: u64,
    /// Bytes read from them.
    pub received_bytes: u64,
    /// Bytes that the host downloaded before the boot.
    pub host_downloaded_bytes: u64,
    /// Size of the initramfs that was booted; 0 if none was.
    pub initramfs_bytes: u64,
    /// Seconds of each phase that was reached.
    pub seconds: PhaseSeconds,
    /// Seconds from the stage's last word to the agent's first event.
    pub first_event_seconds: Option<f64>,
    /// Seconds from the beginning of the deployment to this end, also those in which no process followed it.
    pub total_seconds: f64,
}

/// Seconds per phase; `null` for a phase that was not reached.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the phase of its name")]
pub struct PhaseSeconds {
    pub connect: Option<f64>,
    pub probe: Option<f64>,
    pub upload: Option<f64>,
    pub stage: Option<f64>,
    pub boot: Option<f64>,
    pub build: Option<f64>,
    pub reboot: Option<f64>,
    pub verify: Option<f64>,
}

impl PhaseSeconds {
    /// Those of a phase.
    pub fn of(&self, phase: Phase) -> Option<f64> {
        match phase {
            Phase::Connect => self.connect,
            Phase::Probe => self.probe,
            Phase::Upload => self.upload,
            Phase::Stage => self.stage,
            Phase::Boot => self.boot,
            Phase::Build => self.build,
            Phase::Reboot => self.reboot,
            Phase::Verify => self.verify,
        }
    }
}
