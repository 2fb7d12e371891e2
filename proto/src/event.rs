//! What stage and agent report. *Facts* ([`Event`]) are numbered and never dropped; [`Progress`] may be coalesced.

use serde::{Deserialize, Serialize};

/// Longest line of output that is kept in one piece, in bytes.
pub const MAX_LINE: usize = 16 * 1024;

/// A numbered fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// 1, 2, 3, … within one stage or one agent.
    pub seq: u64,
    /// Milliseconds since the kernel booted (`CLOCK_BOOTTIME`).
    pub uptime_ms: u64,
    /// Milliseconds since the Unix epoch, by the host's clock.
    pub wall_ms: u64,
    /// What happened.
    pub kind: EventKind,
}

/// A kind of fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// A step began. Step ids are unique within one speaker and start at 1.
    StepStarted {
        /// Its id.
        step: u32,
        /// The step that contains it, if any.
        parent: Option<u32>,
        /// Its name, for people.
        name: String,
    },
    /// A step ended.
    StepFinished {
        /// Its id.
        step: u32,
        /// How it ended.
        outcome: StepOutcome,
    },
    /// One line of output, without its newline. Raw bytes: whoever shows them sanitises them.
    Log {
        /// Where it came from.
        stream: Stream,
        /// The bytes.
        line: Vec<u8>,
    },
    /// Something that the stage or agent itself has to say.
    Note {
        /// How grave.
        level: Level,
        /// What.
        text: String,
    },
    /// The agent's state changed.
    State(AgentState),
    /// Facts `first..=last` were dropped because the log reached its cap. This fact stands in their place.
    Gap {
        /// First dropped seq.
        first: u64,
        /// Last dropped seq.
        last: u64,
        /// Uncompressed bytes dropped.
        bytes: u64,
    },
    /// A payload attempt is about to start, 1 for the first. It starts once this fact is acknowledged, and not before.
    Attempt(u32),
    /// Disks that have been written since the boot, by name, with 512-byte sectors written. The agent says this when it
    /// notices the first write, and with each outcome. The absence of this fact proves nothing.
    Written(Vec<(String, u64)>),
    /// The SSH host keys of the new system, as `.pub` lines.
    HostKeys(Vec<String>),
    /// What the agent put in the new system's cache, in bytes; 0 if it could not (a [`EventKind::Note`] says why).
    Seeded(u64),
    /// The payload attempt ended. This is the terminal event: the agent finishes only after it is acknowledged.
    Outcome(Outcome),
    /// No disk has been written since the boot: every process but init and the agent was ended, every disk set
    /// read-only, and then the counters were read. A later attempt or shell makes this void.
    NothingWritten {
        /// The newest attempt; 0 if there was none.
        attempt: u32,
    },
    /// Somebody logged in and got a shell or ran a command. From then on they may have written anything.
    Shell,
}

/// What the agent is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentState {
    /// Bringing up network and base.
    Starting,
    /// Ready; the payload starts at the first attach.
    Waiting,
    /// The payload is running.
    Running,
    /// Waiting for a person. The text says why.
    Held(String),
    /// The payload succeeded; finishing as soon as that is acknowledged.
    Succeeded,
    /// Going back to the old system. The text says why.
    Returning(String),
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepOutcome {
    /// It succeeded.
    Done,
    /// There was nothing to do. The text says why.
    Skipped(String),
    /// It failed. The text says why.
    Failed(String),
}

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// The payload's standard output.
    Stdout,
    /// The payload's standard error.
    Stderr,
    /// The kernel's ring buffer.
    Kernel,
}

/// How grave a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Nothing is wrong.
    Info,
    /// Something is not as it should be, but the deployment goes on.
    Warning,
    /// The deployment can't go on.
    Error,
}

/// How a payload attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Exit 0.
    Succeeded,
    /// Anything else.
    Failed {
        /// What failed and why.
        reason: String,
        /// Whether any disk was written.
        written: bool,
    },
}

/// How far a step is. Coalesced to a few a second; only the latest of each step is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The step.
    pub step: u32,
    /// Units done.
    pub done: u64,
    /// Units in all, if known.
    pub total: Option<u64>,
    /// What is counted.
    pub unit: Unit,
    /// What is being worked on, for people.
    pub what: Option<String>,
}

/// What progress counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things.
    Items,
}
