//! What all parts of the agent share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anemos_proto::agent::Leaving;
use anemos_proto::config::{HostConfig, RunConfig};
use anemos_proto::event::AgentState;
use anemos_proto::ids::Digest;
use tokio::sync::{mpsc, oneshot, watch};

use crate::log::Log;
use crate::machine::Input;
use crate::paths::Paths;
use crate::unpack::digest_of;

/// What the agent calls itself in its hello.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");

/// Shared by all tasks.
pub struct App {
    /// Where things are.
    pub paths: Paths,
    /// What the controller wants of this run.
    pub run: RunConfig,
    /// What the stage found out about the host.
    pub host: HostConfig,
    /// The event log.
    pub log: Log,
    /// Boot id of this system.
    pub boot_id: String,
    /// The state now.
    pub state: watch::Sender<AgentState>,
    /// Since when the agent wants to leave, and waits for the acknowledgement.
    leaves_since: Mutex<Option<Instant>>,
    /// Whether a controller has attached since this agent was started.
    pub met: watch::Sender<bool>,
    /// Whether processes are refused now: see [`crate::machine::Machine::is_closing`].
    pub closing: AtomicBool,
    /// Why the agent leaves; set as soon as it does.
    pub leaving: watch::Sender<Option<Leaving>>,
    /// Digest of the payload to run: the run's own, or that of a retry.
    payload: Mutex<Digest>,
    messages: mpsc::UnboundedSender<Message>,
}

/// For the driver of the state machine.
pub enum Message {
    /// Something happened.
    Happened(Input),
    /// Somebody wants something, and an answer.
    Wanted(Input, oneshot::Sender<Result<(), String>>),
}

impl App {
    /// Puts the parts together; returns the receiver from which the driver takes its messages as well.
    pub fn new(
        paths: Paths,
        run: RunConfig,
        host: HostConfig,
        log: Log,
        boot_id: String,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Message>) {
        let (messages, receiver) = mpsc::unbounded_channel();
        // An agent before this one may have received another.
        let payload = Mutex::new(digest_of(&paths.new_payload_archive()).unwrap_or(run.payload));
        let state = watch::Sender::new(AgentState::Starting);
        let (met, leaving) = (watch::Sender::new(false), watch::Sender::new(None));
        let closing = AtomicBool::new(false);
        let leaves_since = Mutex::new(None);
        let app =
            Self { paths, run, host, log, boot_id, state, leaves_since, met, closing, leaving, payload, messages };
        (Arc::new(app), receiver)
    }

    /// Shows a new state.
    pub fn enter(&self, state: AgentState) {
        let leaves = matches!(state, AgentState::Succeeded | AgentState::Returning(_));
        let mut since = self.leaves_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if leaves { since.or_else(|| Some(Instant::now())) } else { None };
        drop(since);
        self.state.send_replace(state);
    }

    /// Whether the end of the attempt has been waiting for its acknowledgement for as long as deadline `ack` says.
    pub fn is_late(&self) -> bool {
        let since = *self.leaves_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed().as_secs() >= self.run.deadlines.ack_s.into())
    }

    /// Tells the driver what happened.
    pub fn tell(&self, input: Input) {
        // Sending fails only when the driver is gone, and then the agent is ending.
        let _ = self.messages.send(Message::Happened(input));
    }

    /// Asks the driver for something; an error is its reason to refuse.
    pub async fn ask(&self, input: Input) -> Result<(), String> {
        let (sender, answer) = oneshot::channel();
        let _ = self.messages.send(Message::Wanted(input, sender));
        answer.await.unwrap_or_else(|_| Err("the agent is ending".into()))
    }

    /// Digest of the payload to run.
    pub fn payload(&self) -> Digest {
        *self.payload.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the payload to run.
    pub fn set_payload(&self, digest: Digest) {
        *self.payload.lock().unwrap_or_else(PoisonError::into_inner) = digest;
    }
}

#[cfg(test)]
impl App {
    /// One with all its files in `dir`, and no payload; `machine` as in [`Paths`].
    pub fn for_test(dir: &std::path::Path, machine: bool) -> Arc<Self> {
        use anemos_proto::config::{Deadlines, Finish};
        use anemos_proto::host::Firmware;
        use anemos_proto::{Secret, net::NetworkState};
        let paths = Paths { machine, ..Paths::trial(dir, ([127, 0, 0, 1], 0).into()) };
        let deadlines = Deadlines { dead_man_s: 600, payload_s: 600, ack_s: 600, start_s: 600, hang_s: 600 };
        let run = RunConfig {
            run: "20261123-090000-abcd".parse().unwrap(),
            host: "web1".into(),
            host_key: Secret::default(),
            authorized_keys: Vec::new(),
            target_keys: Vec::new(),
            disks: Vec::new(),
            keeps: Vec::new(),
            raw_access: false,
            vars: Vec::new(),
            secrets: Vec::new(),
            mirror: None,
            finish: Finish::Reboot,
            ssh_port: None,
            deadlines,
            payload: Digest([0; 32]),
        };
        let host = HostConfig {
            network: NetworkState::default(),
            ssh_port: 22,
            ssh_identity: Vec::new(),
            firmware: Firmware::Bios,
            arch: "x86_64".into(),
            kernel_release: "6.1".into(),
            mirror: None,
            security_mirror: None,
            base: Digest([0; 32]),
            base_size: 0,
            disks: Vec::new(),
            random_seed: Secret::default(),
            seed_cache: Vec::new(),
            wall_ms: 0,
            proxies: Vec::new(),
        };
        let log = Log::open(&dir.join("run"), u64::MAX);
        Self::new(paths, run, host, log, "boot".into()).0
    }
}
