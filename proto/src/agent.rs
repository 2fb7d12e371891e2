//! The conversation of controller and agent, over the SSH subsystem `anemos`.
//!
//! After the hellos, what the agent says is one zstd stream of frames, flushed after every batch; what the controller
//! says is plain frames.

use serde::{Deserialize, Serialize};

use crate::config::Finish;
use crate::event::{AgentState, Event, Progress};
use crate::ids::{BlobRef, Digest};

/// File in /sys/firmware/efi/efivars in which the agent notes that nothing was written, if it goes back to the old
/// system before anybody has acknowledged its [`crate::event::EventKind::NothingWritten`]. Content: attributes (4
/// bytes, little endian; kernel document filesystems/efivarfs), then `RUN ATTEMPT` in ASCII. The firmware belongs to
/// one machine, so the note doesn't name the host.
pub const NOTE: &str = "AnemosNothingWritten-8c1f7f3e-52a4-4b06-9f0a-6d2e94c7a1b5";

/// Name of the SSH subsystem.
pub const SUBSYSTEM: &str = "anemos";

/// What the controller says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentRequest {
    /// Send every fact after this seq, then live. Answer: [`AgentReply::Attached`] and events. The first one has
    /// the agent announce the payload ([`crate::event::EventKind::Attempt`]).
    Attach {
        /// 0 for everything.
        after: u64,
    },
    /// Every fact up to this seq is safe in the journal. The payload starts once its
    /// [`crate::event::EventKind::Attempt`] is acknowledged.
    Ack {
        /// Seq of the newest fact in the journal.
        seq: u64,
    },
    /// End the payload. If nothing was written, the host goes back to its old system; else the agent holds.
    Abort,
    /// Run the payload again: the same one, or a new one sent by [`AgentRequest::Blob`]. Refused unless the agent
    /// holds.
    Retry {
        /// The new payload; `None` for the same one.
        payload: Option<BlobRef>,
    },
    /// The next bytes of the payload that [`AgentRequest::Retry`] announced.
    Blob {
        /// SHA-256 of the whole payload.
        digest: Digest,
        /// At most [`crate::ids::BLOB_CHUNK`] bytes.
        data: Vec<u8>,
    },
    /// Leave RAM now. Refused while the payload runs.
    Finish(Finish),
}

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentReply {
    /// Answer to [`AgentRequest::Attach`].
    Attached {
        /// Boot id of the RAM system.
        boot_id: String,
        /// The state now.
        state: AgentState,
        /// Seq of the newest fact.
        last: u64,
    },
    /// A fact.
    Event(Event),
    /// Progress.
    Progress(Progress),
    /// The request will be done.
    Accepted,
    /// The request can't be done. The text says why.
    Refused(String),
    /// The agent's last word: it leaves RAM, and the connection dies.
    Leaving(Leaving),
}

/// Where the agent goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leaving {
    /// As it was told to finish.
    Finish(Finish),
    /// Back to the old system, with nothing written. The text says why.
    OldSystem(String),
}
