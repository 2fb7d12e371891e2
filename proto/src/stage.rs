//! The conversation of controller and stage, over the standard streams of an SSH exec channel.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::event::{Event, Progress};
use crate::host::HostFacts;
use crate::ids::{BlobRef, Digest};

/// What the controller says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StageRequest {
    /// Find out about the host. Answer: [`StageReply::Facts`].
    Probe,
    /// Prepare the boot. Answers: [`StageReply::Need`], events, then [`StageReply::Staged`] or [`StageReply::Failed`].
    Stage(Box<StagePlan>),
    /// The next bytes of a blob that [`StageReply::Need`] named, in order; it is whole when `size` of its
    /// [`BlobRef`] is reached.
    Blob {
        /// SHA-256 of the whole blob.
        digest: Digest,
        /// At most [`crate::ids::BLOB_CHUNK`] bytes.
        data: Vec<u8>,
    },
    /// Boot what is staged. Answer: [`StageReply::Booting`], and then the connection dies.
    Boot,
    /// Undo everything and exit. Answer: [`StageReply::Aborted`].
    Abort,
}

/// What the stage says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StageReply {
    /// The host, as it is.
    Facts(Box<HostFacts>),
    /// Blobs that aren't in the host's cache and must be sent, in this order.
    Need(Vec<Digest>),
    /// A fact.
    Event(Event),
    /// Progress.
    Progress(Progress),
    /// Ready to boot.
    Staged(Staged),
    /// The last word before the boot. The stage goes on when the controller closes its side, or after 5 s.
    Booting,
    /// Everything undone; the stage exits.
    Aborted,
    /// Could not do what was asked. Everything is undone and the old system is as it was; the stage exits.
    Failed(Failure),
}

/// What to stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePlan {
    /// base.lock with the groups that the payload needs, zstd.
    pub lock: BlobRef,
    /// The agent, as a patch to the stage's own executable.
    pub agent: BlobRef,
    /// The payload, tar.zst.
    pub payload: BlobRef,
    /// Where the base may come from, in this order.
    pub base: Vec<BaseSource>,
    /// Archive that the user named, if any. It is tried before the host's own.
    pub mirror: Option<String>,
    /// The workstation's archive, for when neither the user nor the host names one.
    pub fallback_mirror: Option<String>,
    /// Snapshot archive that the user named, if any, as a URL template with `@SNAPSHOTID@`. It is tried before the one
    /// that the host's apt knows.
    pub snapshot: Option<String>,
    /// Which kernel boots.
    pub kernel: KernelSource,
    /// Seconds for all of the staging.
    pub deadline_s: u32,
    /// The agent's configuration, which the stage passes on.
    pub run: RunConfig,
    /// The snapshot archive that the workstation knows, for when neither the user nor the host's apt names one.
    pub fallback_snapshot: Option<String>,
    /// Through what the host reaches archives.
    pub proxy: Proxy,
}

/// Through what archives are reached, by the stage and by the payload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proxy {
    /// What the host goes through itself.
    #[default]
    Own,
    /// Nothing, whatever the host goes through.
    Direct,
    /// The HTTP proxy at this URL.
    At(String),
}

/// A place that the images of the base can come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BaseSource {
    /// `/var/cache/anemos` of the host.
    Cache,
    /// Ready images at one of these URLs: a file of each group in it, if it ends with a slash, else all one after
    /// another.
    Urls(Vec<String>),
    /// Built on the host from the packages that the lock names.
    Build,
    /// Sent by the controller: the images one after another, each as zstd.
    Upload(BlobRef),
}

/// Which kernel boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelSource {
    /// The one that the host is running; the locked one if it has no readable image.
    Host,
    /// The one that base.lock names.
    Locked,
}

/// What was made ready to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Bytes of the whole initramfs as loaded.
    pub initramfs_bytes: u64,
    /// Bytes that the host downloaded for this.
    pub downloaded_bytes: u64,
}

/// How [`Failure::why`] begins where another stage is at work on the host, which keeps this one out.
pub const KEPT_OUT: &str = "another stage is at work on this host";

/// The source, as mount(8) has it, of a file system that is mounted in memory for the stage, where no other of the
/// host's can be written and holds programs. Whoever finds one of that name in the stage's directory may unmount it.
pub const MOUNTED_AS: &str = "anemos";

/// Why something could not be done. Together with host, phase and state, which the controller knows, this is the error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What failed, e.g. `fetching pool/main/b/bash/bash_5.2.37-2_amd64.deb`.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do about it, or empty.
    pub hint: String,
}
