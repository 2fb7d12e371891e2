//! The conversation of controller and agent, over the SSH subsystem `anemos`.
//!
//! After the hellos, what the agent says is one zstd stream of frames, flushed after every batch; what the controller
//! says is plain frames.

use serde::{Deserialize, Serialize};

use crate::config::Finish;
use crate::event::{AgentState, Event, Progress};
use crate::ids::{BlobRef, Digest};

/// File in /sys/firmware/efi/efivars in which a RAM system that leaves for the old one, before anybody has acknowledged
/// its [`crate::event::EventKind::NothingWritten`], says the same: attributes (4 bytes, little endian; kernel document
/// filesystems/efivarfs), then `RUN ATTEMPT` in ASCII. It is the machine's, so the host needs no name in it.
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
    /// Every fact up to this seq is safe in the journal. The payload starts when its attempt is.
    Ack {
        /// The seq.
        seq: u64,
    },
    /// End the payload. With nothing written the host goes back to its old system, else it holds.
    Abort,
    /// Run the payload again: the same one, or a new one sent by [`AgentRequest::Blob`]. Only when held.
    Retry {
        /// The new payload.
        payload: Option<BlobRef>,
    },
    /// The next bytes of the payload that [`AgentRequest::Retry`] announced.
    Blob {
        /// Which.
        digest: Digest,
        /// At most [`crate::ids::BLOB_CHUNK`] bytes.
        data: Vec<u8>,
    },
    /// Leave RAM now. Not while the payload runs.
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
    /// The request can't be done, because …
    Refused(String),
    /// The last word: the connection dies now, because the agent leaves like this.
    Leaving(Leaving),
}

/// Where the agent goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leaving {
    /// Into the new system, or off, as told.
    Finish(Finish),
    /// Back to the old system, nothing written, because …
    OldSystem(String),
}
