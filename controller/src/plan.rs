//! What will be done to one host, worked out from hosts.toml and the host's facts before anything changes: plain data.

use anemos_proto::config::Finish;
use anemos_proto::host::{Disk, HostFacts};
use anemos_proto::ids::Digest;
use anemos_proto::stage::{BaseSource, KernelSource};

/// What will be done to one host.
#[derive(Debug, Clone)]
pub struct HostPlan {
    /// The host's name in hosts.toml.
    pub host: String,
    /// How it was reached: `user@address port N`.
    pub reached: String,
    /// Fingerprint of the host key that it proved to have: `SHA256:…`, with its algorithm before it.
    pub host_key: String,
    /// What the stage found.
    pub facts: Box<HostFacts>,
    /// Disks that the payload may overwrite, `ANEMOS_DISK` first.
    pub disks: Vec<Disk>,
    /// All other disks: set read-only before the payload starts.
    pub protected: Vec<Disk>,
    /// What has to cross the link; empty when the host has it all in its cache.
    pub uploads: Vec<Upload>,
    /// Bytes that the stage binary took to get there; 0 if the host had it in its cache.
    pub stage_uploaded: u64,
    /// The payload's directory, as hosts.toml has it.
    pub payload_dir: String,
    /// Names the packed payload.
    pub payload: Digest,
    /// Bytes of the packed payload.
    pub payload_size: u64,
    /// Where the base comes from, in this order.
    pub base: Vec<BaseSource>,
    /// SHA-256 of the base image, uncompressed.
    pub base_image: Digest,
    /// Which kernel runs the RAM system.
    pub kernel: KernelSource,
    /// Port of the agent's SSH server.
    pub agent_port: u16,
    /// What happens when the payload has succeeded.
    pub finish: Finish,
    /// What should be looked at before saying yes.
    pub warnings: Vec<String>,
    /// Why this host can't be deployed; nothing is done to it unless this is empty.
    pub refusals: Vec<String>,
}

impl HostPlan {
    /// Bytes that have yet to cross the link.
    pub fn upload_bytes(&self) -> u64 {
        self.uploads.iter().map(|upload| upload.bytes).sum()
    }
}

/// One thing that has to cross the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// What: `agent`, `base.lock`, `payload`, `base image`.
    pub what: &'static str,
    /// How many bytes.
    pub bytes: u64,
}
