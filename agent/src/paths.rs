//! Where the agent's files are, and whether the agent has a machine of its own or is on trial on an ordinary one.

use std::net::SocketAddr;
use std::path::PathBuf;

use anemos_host::Root;

/// `PATH` of everything that the agent starts.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where init mounts the tree of all cgroups: out of the way of programs, which look for cgroups at /sys/fs/cgroup.
pub const CGROUPS: &str = "/run/anemos/cgroup";

/// Where the agent finds and puts things.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The files that the stage put into the initramfs: `/anemos`.
    pub anemos: PathBuf,
    /// The agent's own directory, in a file system of its own: `/run/anemos`.
    pub run: PathBuf,
    /// Where the base is unpacked: `/`.
    pub root: PathBuf,
    /// `$ANEMOS_TARGET`.
    pub target: PathBuf,
    /// Where `/sys` is looked for: `/`.
    pub tree: Root,
    /// Where to listen instead of on the configured port.
    pub listen: Option<SocketAddr>,
    /// Whether the machine is the agent's own: mounts, network, devices and power switch. False in a trial on an
    /// ordinary machine.
    pub machine: bool,
}

impl Paths {
    /// On a host.
    pub fn host() -> Self {
        Self {
            anemos: "/anemos".into(),
            run: "/run/anemos".into(),
            root: "/".into(),
            target: "/target".into(),
            tree: Root::host(),
            listen: None,
            machine: true,
        }
    }

    /// Everything under one directory, and nothing system-wide.
    pub fn trial(root: &std::path::Path, listen: SocketAddr) -> Self {
        Self {
            anemos: root.join("anemos"),
            run: root.join("run"),
            root: root.join("root"),
            target: root.join("target"),
            tree: Root::new(root),
            listen: Some(listen),
            machine: false,
        }
    }

    /// The helper's socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }

    /// The run's payload, packed.
    pub fn payload_archive(&self) -> PathBuf {
        self.anemos.join("payload.tar.zst")
    }

    /// The payload that came with a retry, packed. It counts instead of the run's if it is there. It is among the
    /// agent's own files, so that it can be stored where a payload has filled all the others.
    pub fn new_payload_archive(&self) -> PathBuf {
        self.run.join("payload.tar.zst")
    }

    /// Where the payload is unpacked, in a file system of its own.
    pub fn payload(&self) -> PathBuf {
        self.run.join("payload")
    }

    /// Exists until the first process starts that may write to a disk.
    pub fn unexposed(&self) -> PathBuf {
        self.run.join("unexposed")
    }

    /// Exists once the base is unpacked and the disks are guarded; lists the declared disks.
    pub fn ready_mark(&self) -> PathBuf {
        self.run.join("ready")
    }

    /// Written by init: the watchdogs that guard this machine, one a line.
    pub fn watchdogs(&self) -> PathBuf {
        self.run.join("watchdogs")
    }

    /// Exists once a payload with raw access was started: what was written can't be known from then on.
    pub fn raw_mark(&self) -> PathBuf {
        self.run.join("raw-access")
    }

    /// The text of the agent's panic, for init to show.
    pub fn last_words(&self) -> PathBuf {
        self.run.join("panic")
    }
}
