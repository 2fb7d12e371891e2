//! A daemon of its own with a workstation around it, and hosts that do what they are told.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anemos_proto::agent::{AgentReply, AgentRequest, Leaving};
use anemos_proto::config::Finish;
use anemos_proto::event::{AgentState, Event, EventKind, Outcome, Progress, StepOutcome, Stream, Unit};
use anemos_proto::stage::{StageReply, Staged};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::carried;
use crate::host::{Boot, Host, Script, Wire, facts};

/// Nothing here takes so long, however busy the machine is.
pub const LONG: Duration = Duration::from_secs(180);

/// Where a host waits, and where it has been.
pub struct Stops {
    /// The phase in which it waits, if any.
    at: watch::Sender<Option<&'static str>>,
    /// The phase that it has come to last.
    pub reached: watch::Sender<Option<&'static str>>,
    /// How often the payload was let begin.
    pub begun: AtomicU32,
    /// Facts that the agent has, which outlast each connection.
    pub events: Mutex<Vec<EventKind>>,
    /// What the payload prints besides, a line each. If it does, it has a step too, which is half done.
    prints: Vec<Vec<u8>>,
    /// The secret that came with it.
    pub secret: Mutex<Option<Vec<u8>>>,
}

/// A host that does what it is told, but for where it is made to wait.
#[derive(Clone)]
pub struct Obedient(pub Arc<Stops>);

impl Obedient {
    pub fn new(at: Option<&'static str>) -> Self {
        Self::printing(at, &[])
    }

    /// Its payload prints these lines, too.
    pub fn printing(at: Option<&'static str>, lines: &[&[u8]]) -> Self {
        Self(Arc::new(Stops {
            prints: lines.iter().map(|line| line.to_vec()).collect(),
            at: watch::channel(at).0,
            reached: watch::channel(None).0,
            begun: AtomicU32::new(0),
            events: Mutex::default(),
            secret: Mutex::default(),
        }))
    }

    /// Comes to a phase, and waits there if it is to. `false`: the connection ended meanwhile.
    async fn come_to(&self, phase: &'static str, wire: &mut Wire) -> bool {
        self.0.reached.send_replace(Some(phase));
        let mut at = self.0.at.subscribe();
        loop {
            tokio::select! {
                biased;
                free = at.wait_for(|at| *at != Some(phase)) => return free.is_ok(),
                request = wire.next::<AgentRequest>() => if request.is_none() {
                    return false;
                },
            }
        }
    }

    /// Returns when it has come to the phase.
    pub fn wait(&self, phase: &'static str) {
        let until = Instant::now() + LONG;
        while *self.0.reached.borrow() != Some(phase) {
            assert!(Instant::now() < until, "it never comes to {phase}, only to {:?}", self.0.reached.borrow());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn release(&self) {
        self.0.at.send_replace(None);
    }

    pub fn tell(&self, kinds: Vec<EventKind>) {
        self.0.events.lock().unwrap().extend(kinds);
    }

    fn has_ended(&self) -> bool {
        self.0.events.lock().unwrap().iter().any(|kind| matches!(kind, EventKind::Outcome(_)))
    }

    /// Sends the facts from this number on. Returns the next number.
    async fn send(&self, from: u64, wire: &mut Wire) -> u64 {
        let events = self.0.events.lock().unwrap().clone();
        for (seq, kind) in (1..).zip(events.iter()).filter(|(seq, _)| *seq >= from) {
            let event = Event { seq, uptime_ms: 10 * seq, wall_ms: 10 * seq, kind: kind.clone() };
            wire.say(&AgentReply::Event(event)).await;
        }
        from.max(events.len() as u64 + 1)
    }
}

impl Script for Obedient {
    async fn probe(&self, wire: &mut Wire) -> bool {
        if !self.come_to("probe", wire).await {
            return false;
        }
        wire.say(&StageReply::Facts(Box::new(facts()))).await;
        true
    }

    async fn stage(&self, wire: &mut Wire) -> bool {
        if !self.come_to("stage", wire).await {
            return false;
        }
        wire.say(&StageReply::Need(Vec::new())).await;
        wire.say(&StageReply::Staged(Staged { initramfs_bytes: 1, downloaded_bytes: 1 })).await;
        true
    }

    async fn agent(&self, wire: &mut Wire, host: &Host) {
        if let Some(run) = host.run() {
            *self.0.secret.lock().unwrap() = run.secrets.first().map(|(_, secret)| secret.expose().to_vec());
        }
        let after = loop {
            match wire.next().await {
                Some(AgentRequest::Attach { after, .. }) => break after,
                Some(_) => {}
                None => return,
            }
        };
        if !self.come_to("boot", wire).await {
            return;
        }
        if self.0.events.lock().unwrap().is_empty() {
            self.tell(vec![EventKind::Attempt(1)]);
        }
        let last = self.0.events.lock().unwrap().len() as u64;
        wire.say(&AgentReply::Attached { boot_id: "ram".into(), state: AgentState::Running, last }).await;
        let mut next = self.send(after + 1, wire).await;
        if last == 1 {
            // The payload begins once its attempt is acknowledged.
            loop {
                match wire.next::<AgentRequest>().await {
                    Some(AgentRequest::Ack { seq: 1.. }) => break,
                    Some(_) => {}
                    None => return,
                }
            }
            self.0.begun.fetch_add(1, Ordering::Relaxed);
            let line = |line: &[u8]| EventKind::Log { stream: Stream::Stdout, line: line.to_vec() };
            let running = EventKind::State(AgentState::Running);
            self.tell(vec![running, EventKind::Written(vec![("vda".into(), 8)]), line(b"hello from the payload")]);
            self.tell(self.0.prints.iter().map(|printed| line(printed)).collect());
            let step = EventKind::StepStarted { step: 7, parent: None, name: "install packages".into() };
            self.tell(self.0.prints.first().map(|_| step).into_iter().collect());
            next = self.send(next, wire).await;
        }
        if !self.0.prints.is_empty() {
            let what = Some("unpacking libc6".into());
            let half = Progress { step: 7, done: 60, total: Some(120), unit: Unit::Items, what };
            wire.say(&AgentReply::Progress(half)).await;
        }
        if !self.come_to("build", wire).await {
            return;
        }
        if !self.has_ended() {
            let done = EventKind::StepFinished { step: 7, outcome: StepOutcome::Done };
            self.tell(self.0.prints.first().map(|_| done).into_iter().collect());
            self.tell(vec![EventKind::HostKeys(vec![host.key_line()]), EventKind::Outcome(Outcome::Succeeded)]);
        }
        next = self.send(next, wire).await;
        while let Some(request) = wire.next::<AgentRequest>().await {
            if request == (AgentRequest::Ack { seq: next - 1 }) {
                host.turn_into(Boot::New);
                wire.say(&AgentReply::Leaving(Leaving::Finish(Finish::Reboot))).await;
                return;
            }
        }
    }

    async fn command(&self, wire: &mut Wire, command: &str) {
        if command.contains("true check") {
            // Ends well.
            return;
        }
        if self.come_to("verify", wire).await {
            wire.send(b"anemos: boot new\nanemos: root 56-78\nanemos: os New\n".to_vec()).await;
        }
    }
}

/// A workstation with a daemon.
pub struct Workstation {
    pub dir: TempDir,
    pub daemon: Option<Child>,
    log: u32,
    /// What the daemon is given on its command line.
    options: Vec<String>,
}

impl Drop for Workstation {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Workstation {
    pub fn new(hosts: &[(&str, &Host)], options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
        fs::create_dir(dir.path().join("payload")).unwrap();
        fs::create_dir(dir.path().join("runtime")).unwrap();
        write("payload/deploy", b"#!/bin/sh\n");
        fs::set_permissions(dir.path().join("payload/deploy"), Permissions::from_mode(0o755)).unwrap();
        let key = dir.path().join("key");
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(made.expect("ssh-keygen (package openssh-client) is needed by this test").success());
        let mut known = String::new();
        let mut toml = "[defaults]\npayload = \"payload\"\ndisk = \"/dev/vda\"\nidentity_file = [\"key\"]\n".to_owned();
        toml += "known_hosts = \"known_hosts\"\nuser = \"root\"\ncheck = \"true check\"\n";
        toml += "deadlines = { connect = \"2m\", verify = \"3m\" }\n";
        for (name, host) in hosts {
            let port = host.address.port();
            toml.extend([
                format!("[hosts.{name}]\naddress = \"127.0.0.1\"\nport = {port}\n"),
                format!("secrets = {{ token = \"secret-{name}\" }}\n"),
            ]);
            write(&format!("secret-{name}"), format!("the secret of {name}").as_bytes());
            known += &host.known_hosts_line();
        }
        write("hosts.toml", toml.as_bytes());
        write("known_hosts", known.as_bytes());
        carried::write(dir.path());
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut workstation = Self { dir, daemon: None, log: 0, options };
        workstation.start();
        workstation
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn anemos(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anemos"));
        command.args(arguments).current_dir(self.dir.path()).env("HOME", self.dir.path());
        command.env("XDG_STATE_HOME", self.path("state")).env("XDG_RUNTIME_DIR", self.path("runtime"));
        command.env("ANEMOS_STAGE", self.path("stage")).env("ANEMOS_AGENT", self.path("agent"));
        command.env_remove("SSH_AUTH_SOCK").env_remove("ANEMOS_SERVE").stdin(Stdio::null());
        command
    }

    /// Starts the daemon, and waits until it listens.
    pub fn start(&mut self) {
        self.log += 1;
        let log = File::create(self.path(&format!("daemon-{}.log", self.log))).unwrap();
        let mut daemon = self.anemos(&["serve"]).args(&self.options).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let until = Instant::now() + LONG;
        while UnixStream::connect(self.path("runtime/anemos/socket")).is_err() {
            assert!(daemon.try_wait().unwrap().is_none(), "{}", self.said());
            assert!(Instant::now() < until, "the daemon does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.daemon = Some(daemon);
    }

    /// Starts it with other options.
    pub fn start_with(&mut self, options: &[&str]) {
        self.options = options.iter().map(|&option| option.to_owned()).collect();
        self.start();
    }

    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// What the daemon wrote last.
    pub fn said(&self) -> String {
        fs::read_to_string(self.path(&format!("daemon-{}.log", self.log))).unwrap()
    }

    /// Hands a run over. What is said goes to files.
    pub fn up(&self) -> Child {
        self.up_with(&[])
    }

    /// Hands a run over, with these options besides.
    pub fn up_with(&self, options: &[&str]) -> Child {
        let mut up = self.anemos(&["up", "--serve", "--yes", "--json", "hosts.toml"]);
        up.args(options);
        up.stdout(File::create(self.path("up.out")).unwrap()).stderr(File::create(self.path("up.err")).unwrap());
        up.spawn().unwrap()
    }

    pub fn up_said(&self) -> String {
        ["up.out", "up.err"].map(|name| fs::read_to_string(self.path(name)).unwrap()).concat()
    }

    /// The directory of the newest run.
    pub fn run(&self) -> PathBuf {
        let mut runs: Vec<_> = fs::read_dir(self.path("state/anemos/runs")).unwrap().flatten().collect();
        runs.sort_by_key(fs::DirEntry::file_name);
        runs.last().expect("there is no run").path()
    }

    /// The secret is in no file but the one that it comes from.
    pub fn assert_secret_nowhere(&self) {
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    dirs.push(path);
                } else if path.is_file() && !path.ends_with("secret-web") {
                    let bytes = fs::read(&path).unwrap();
                    let found = [&b"the secret of web"[..], b"dGhlIHNlY3JldCBvZiB3ZWI="]
                        .iter()
                        .any(|secret| bytes.windows(secret.len()).any(|window| window == *secret));
                    assert!(!found, "{}", path.display());
                }
            }
        }
    }

    /// The hosts of the newest run, by name.
    pub fn status(&self) -> BTreeMap<String, Value> {
        let output = self.anemos(&["status", "--json"]).output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| (line["host"].as_str().unwrap().to_owned(), line)).collect()
    }

    /// All that was told of the host, as lines of JSON.
    pub fn told(&self, host: &str) -> Vec<Value> {
        let output = self.anemos(&["attach", "--json", "--all"]).output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["host"] == host && line["number"].is_u64()).collect()
    }
}

pub fn ended(child: &mut Child, what: &dyn Fn() -> String) -> i32 {
    let until = Instant::now() + LONG;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().expect("it was not killed");
        }
        if Instant::now() > until {
            let _ = child.kill();
            panic!("it does not end: {}", what());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

/// A terminal with a command on it, whose words are read.
pub struct Terminal {
    pub child: Child,
    said: Arc<Mutex<Vec<u8>>>,
    keys: File,
}

impl Terminal {
    pub fn start(command: &mut Command) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let open = || File::options().read(true).write(true).open(&name).unwrap();
        let child = command.env("TERM", "xterm").stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
        let keys = File::from(master);
        let (mut from, said) = (keys.try_clone().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let heard = Arc::clone(&said);
        // Ends with an error once nobody has the other end.
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = std::io::Read::read(&mut from, &mut piece) {
                heard.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        Self { child, said, keys }
    }

    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    pub fn type_in(&mut self, text: &str) {
        std::io::Write::write_all(&mut self.keys, text.as_bytes()).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
