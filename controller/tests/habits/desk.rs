//! A workstation, and hosts that do what they are told.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use anemos_proto::agent::{AgentReply, AgentRequest, Leaving};
use anemos_proto::config::Finish;
use anemos_proto::event::{AgentState, Event, EventKind, Outcome, Stream};
use anemos_proto::host::HostFacts;
use anemos_proto::stage::StageReply;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::carried;
use crate::host::{Boot, Host, Script, Wire, facts};

/// A host that is deployed, or whose payload fails.
pub struct Willing {
    /// What it tells of itself.
    pub facts: Mutex<HostFacts>,
    /// How its payload ends.
    pub outcome: Outcome,
    /// What its payload prints.
    pub prints: Vec<u8>,
    /// Where commands run in RAM, if they do.
    pub root: Option<PathBuf>,
}

impl Default for Willing {
    fn default() -> Self {
        Self {
            facts: Mutex::new(facts()),
            outcome: Outcome::Succeeded,
            prints: b"hello from the payload".to_vec(),
            root: None,
        }
    }
}

/// One host, as several scripts share it.
#[derive(Clone, Default)]
pub struct Shared(pub std::sync::Arc<Willing>);

impl Script for Shared {
    async fn probe(&self, wire: &mut Wire) -> bool {
        let facts = self.0.facts.lock().unwrap().clone();
        wire.say(&StageReply::Facts(Box::new(facts))).await;
        true
    }

    async fn agent(&self, wire: &mut Wire, host: &Host) {
        if !wire.attached(1).await {
            return;
        }
        let events = [
            EventKind::Attempt(1),
            EventKind::State(AgentState::Running),
            EventKind::Written(vec![("vda".into(), 8)]),
            EventKind::Log { stream: Stream::Stdout, line: self.0.prints.clone() },
            EventKind::HostKeys(vec![host.key_line()]),
            EventKind::Outcome(self.0.outcome.clone()),
        ];
        let failed = self.0.outcome != Outcome::Succeeded;
        for (seq, kind) in (1..).zip(events) {
            wire.say(&AgentReply::Event(Event { seq, uptime_ms: 10 * seq, wall_ms: 10 * seq, kind })).await;
        }
        if failed {
            let held = EventKind::State(AgentState::Held("the payload failed".into()));
            wire.say(&AgentReply::Event(Event { seq: 7, uptime_ms: 70, wall_ms: 70, kind: held })).await;
        }
        while let Some(request) = wire.next::<AgentRequest>().await {
            if !failed && request == (AgentRequest::Ack { seq: 6 }) {
                host.turn_into(Boot::New);
                wire.say(&AgentReply::Leaving(Leaving::Finish(Finish::Reboot))).await;
                return;
            }
        }
    }

    async fn command(&self, wire: &mut Wire, command: &str) {
        if let (Boot::Ram, Some(root)) = (wire.boot(), &self.0.root) {
            return in_ram(wire, root, command).await;
        }
        if !command.contains("true check") {
            wire.send(b"anemos: boot new\nanemos: root 56-78\nanemos: os New\n".to_vec()).await;
        }
    }
}

/// Has a shell run a command, with what comes as its input.
async fn in_ram(wire: &mut Wire, root: &Path, command: &str) {
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", command]).current_dir(root).kill_on_drop(true);
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    while let Some(bytes) = wire.bytes().await {
        if stdin.write_all(&bytes).await.is_err() {
            break;
        }
    }
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    wire.send(output.stdout).await;
    wire.complain(output.stderr).await;
    wire.status = output.status.code().unwrap_or(1).cast_unsigned();
}

/// A directory with hosts.toml, a payload, a key and known_hosts, which is the home of whoever works there.
pub struct Desk {
    pub dir: TempDir,
}

impl Desk {
    pub fn new(hosts: &[(&str, &Host)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let desk = Self { dir };
        fs::create_dir(desk.path("payload")).unwrap();
        desk.write("payload/deploy", "#!/bin/sh\n");
        fs::set_permissions(desk.path("payload/deploy"), Permissions::from_mode(0o755)).unwrap();
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(desk.path("key")).status();
        assert!(made.expect("ssh-keygen (package openssh-client) is needed by this test").success());
        let mut known = String::new();
        let mut toml = "[defaults]\npayload = \"payload\"\ndisk = \"/dev/vda\"\nidentity_file = [\"key\"]\n".to_owned();
        toml += "known_hosts = \"known_hosts\"\nuser = \"root\"\ncheck = \"true check\"\n";
        for (name, host) in hosts {
            let port = host.address.port();
            toml.extend([format!("[hosts.{name}]\naddress = \"127.0.0.1\"\nport = {port}\n")]);
            known += &host.known_hosts_line();
        }
        desk.write("hosts.toml", &toml);
        desk.write("known_hosts", &known);
        carried::write(desk.dir.path());
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn anemos(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anemos"));
        command.args(arguments).current_dir(self.dir.path()).env("HOME", self.dir.path());
        command.env("XDG_STATE_HOME", self.path("state")).env("XDG_RUNTIME_DIR", self.path("runtime"));
        command.env("ANEMOS_STAGE", self.path("stage")).env("ANEMOS_AGENT", self.path("agent"));
        for variable in ["SSH_AUTH_SOCK", "ANEMOS_SERVE", "ANEMOS_HOSTS", "ANEMOS_LOG"] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null());
        command
    }

    /// A search path on which `ssh` does something before it is what it is. Its words are `$*`.
    pub fn with_ssh(&self, first: &str) -> String {
        let path = std::env::var("PATH").unwrap();
        let ssh = path.split(':').map(|dir| Path::new(dir).join("ssh")).find(|ssh| ssh.exists());
        let ssh = ssh.expect("ssh (package openssh-client) is needed by this test");
        fs::create_dir(self.path("bin")).unwrap();
        self.write("bin/ssh", &format!("#!/bin/sh\n{first}\nexec {} \"$@\"\n", ssh.display()));
        fs::set_permissions(self.path("bin/ssh"), Permissions::from_mode(0o755)).unwrap();
        format!("{}:{path}", self.path("bin").display())
    }

    /// Runs it. Returns its exit status, and what it said on both streams.
    pub fn run(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.anemos(arguments).output().unwrap();
        (output.status.code().expect("it was not killed"), text(&output))
    }
}

pub fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}
