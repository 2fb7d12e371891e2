//! What the agent finds in its initramfs: one file from the controller, one from the stage.

use serde::{Deserialize, Serialize};

use crate::host::{DiskId, Firmware};
use crate::ids::{Digest, RunId};
use crate::net::NetworkState;
use crate::secret::Secret;

/// `/anemos/run.bin`: what the controller wants. The stage writes it as it received it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunConfig {
    /// The run.
    pub run: RunId,
    /// The host's name in hosts.toml.
    pub host: String,
    /// Ed25519 seed (32 bytes) of the agent's SSH host key, made for this host and run.
    pub host_key: Secret,
    /// Who may log into the agent, as `authorized_keys` lines without options: the run's key first.
    pub authorized_keys: Vec<String>,
    /// Who may log into the new system: given to the payload as `$ANEMOS_AUTHORIZED_KEYS`.
    pub target_keys: Vec<String>,
    /// Disks that the payload may write, `ANEMOS_DISK` first. All others are set read-only.
    pub disks: Vec<DiskId>,
    /// Labels of the partitions of the first disk that the plan showed as kept. The agent refuses an IMGBUILD that
    /// would not keep one of them.
    pub keeps: Vec<String>,
    /// Whether the payload may give disks and their controllers commands that the kernel does not count as writes. The
    /// agent takes the disks for written as soon as such a payload starts.
    pub raw_access: bool,
    /// `ANEMOS_VAR_<NAME>`.
    pub vars: Vec<(String, String)>,
    /// Files for `$ANEMOS_SECRETS`.
    pub secrets: Vec<(String, Secret)>,
    /// `ANEMOS_MIRROR`, if the user named one; else [`HostConfig::mirror`] counts.
    pub mirror: Option<String>,
    /// What to do when the payload has succeeded.
    pub finish: Finish,
    /// The agent's SSH port; `None`: the one on which the old system was reached.
    pub ssh_port: Option<u16>,
    /// The agent's clocks.
    pub deadlines: Deadlines,
    /// Digest of `/anemos/payload.tar.zst`.
    pub payload: Digest,
}

/// The agent's clocks, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines {
    /// The agent goes back to the old system if nothing is written and nobody is attached for this long.
    pub dead_man_s: u32,
    /// The agent ends the payload after this.
    pub payload_s: u32,
    /// The agent finishes after this if nobody is attached who could acknowledge the terminal event.
    pub ack_s: u32,
    /// The agent goes back to the old system if it isn't ready for a payload after this, also while somebody is
    /// attached.
    pub start_s: u32,
    /// A kernel, an init or an agent that gives no sign of life for this long hangs: the machine is reset, or the agent
    /// started again.
    pub hang_s: u32,
}

/// How the agent leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finish {
    /// Reboot through the firmware.
    Reboot,
    /// Boot the new system's kernel by kexec.
    Kexec,
    /// Switch the machine off.
    PowerOff,
    /// Stay in RAM until told otherwise.
    Hold,
}

/// `/anemos/host.bin`: what the stage found on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostConfig {
    /// The network, which the agent restores.
    pub network: NetworkState,
    /// Port on which the old system's sshd was reached.
    pub ssh_port: u16,
    /// The old system's SSH host key files (`ssh_host_*_key` and `.pub`), for `identity install`: name and content.
    /// They never leave the host.
    pub ssh_identity: Vec<(String, Secret)>,
    /// The machine's firmware.
    pub firmware: Firmware,
    /// `uname -m`.
    pub arch: String,
    /// `uname -r` of the kernel that boots.
    pub kernel_release: String,
    /// The mirror for `ANEMOS_MIRROR` if the user named none: the one that served the base, else the host's own.
    pub mirror: Option<String>,
    /// The archive of security updates in the host's own apt sources, for `ANEMOS_SECURITY_MIRROR`.
    pub security_mirror: Option<String>,
    /// What the images are that make the base: the SHA-256 of the SHA-256s of each, uncompressed, one after another in
    /// the order of their bytes.
    pub base: Digest,
    /// Bytes of all these images, uncompressed.
    pub base_size: u64,
    /// Every disk of the old system. The agent waits a while for those that haven't appeared yet before it starts the
    /// payload, because it can only set read-only what has appeared.
    pub disks: Vec<DiskId>,
    /// Fresh randomness for the new kernel's pool.
    pub random_seed: Secret,
    /// Files for the new system's cache: name in `/anemos`, name in the cache.
    pub seed_cache: Vec<(String, String)>,
    /// The old system's clock when this was written, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// The environment variables that tell programs of HTTP proxies. There may be a password in them, and they never
    /// leave the host.
    pub proxies: Vec<(String, Secret)>,
}
