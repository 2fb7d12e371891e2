//! The agent on this machine, in a trial that touches nothing system-wide, driven by the real OpenSSH client.

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anemos_host::sha256;
use anemos_proto::agent::{AgentReply, AgentRequest, Leaving};
use anemos_proto::codec::{Decompressor, FrameReader, encode_frame, to_bytes};
use anemos_proto::config::{Deadlines, Finish, HostConfig, RunConfig};
use anemos_proto::event::{AgentState, Event, EventKind, Outcome, Stream};
use anemos_proto::hello::{Greeting, Hello, Role};
use anemos_proto::host::{DiskId, Firmware};
use anemos_proto::ids::BlobRef;
use anemos_proto::net::NetworkState;
use anemos_proto::{RunId, Secret};

#[path = "trial/greedy.rs"]
mod greedy;

const WAIT: Duration = Duration::from_secs(30);

fn payload(script: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap());
    let mut header = tar::Header::new_ustar();
    header.set_size(script.len() as u64);
    header.set_mode(0o755);
    header.set_cksum();
    tar.append_data(&mut header, "deploy", script.as_bytes()).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

fn base() -> Vec<u8> {
    let mut image = Vec::new();
    let entry = |name: &str, mode: u32| cpio::newc::Builder::new(name).mode(mode).ino(1);
    image = entry("etc", 0o040_755).write(image, 0).finish().unwrap();
    let mut file = entry("etc/motd", 0o100_644).write(image, 6);
    file.write_all(b"hello\n").unwrap();
    image = file.finish().unwrap();
    cpio::newc::trailer(image).unwrap()
}

/// One agent and what it needs. Ends with the test.
struct Trial {
    dir: tempfile::TempDir,
    address: SocketAddr,
    agent: Child,
    /// The agent's heart, as init hears it.
    beats: Receiver<u8>,
}

struct Setup<'a> {
    script: &'a str,
    deadlines: Deadlines,
    finish: Finish,
    /// Makes the base's digest wrong.
    spoil_base: bool,
    raw_access: bool,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        let deadlines = Deadlines { dead_man_s: 600, payload_s: 600, ack_s: 600, start_s: 600, hang_s: 600 };
        Self { script: "#!/bin/sh\n", deadlines, finish: Finish::Reboot, spoil_base: false, raw_access: false }
    }
}

impl Trial {
    fn new(setup: &Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for sub in ["anemos", "root", "sys/block", "sys/devices/pci0/vda", "target/etc/ssh"] {
            fs::create_dir_all(root.join(sub)).unwrap();
        }
        for (file, text) in
            [("size", "2048\n"), ("serial", "disk\n"), ("dev", "254:0\n"), ("stat", "0 0 0 0 0 0 0 0\n")]
        {
            fs::write(root.join("sys/devices/pci0/vda").join(file), text).unwrap();
        }
        std::os::unix::fs::symlink("../devices/pci0/vda", root.join("sys/block/vda")).unwrap();
        fs::write(root.join("target/etc/ssh/ssh_host_ed25519_key.pub"), "ssh-ed25519 AAAA new\n").unwrap();
        keygen(&root.join("key"));
        keygen(&root.join("other"));
        let public = fs::read_to_string(root.join("key.pub")).unwrap();
        let archive = payload(setup.script);
        let mut digest = sha256::digest(&base());
        digest.0[0] ^= u8::from(setup.spoil_base);
        let disk = DiskId {
            name: "/dev/sda".into(),
            serial: Some("disk".into()),
            wwid: None,
            path: String::new(),
            size: 2048 * 512,
        };
        let run = RunConfig {
            run: "20261123-090000-abcd".parse::<RunId>().unwrap(),
            host: "web1".into(),
            host_key: Secret::new(vec![7; 32]),
            authorized_keys: vec![public.trim().into()],
            target_keys: vec!["ssh-ed25519 AAAA target".into()],
            disks: vec![disk],
            keeps: Vec::new(),
            raw_access: setup.raw_access,
            vars: vec![("COLOUR".into(), "blue".into())],
            secrets: vec![("token".into(), Secret::new(b"hush".to_vec()))],
            mirror: None,
            finish: setup.finish,
            ssh_port: None,
            deadlines: setup.deadlines,
            payload: sha256::digest(&archive),
        };
        let host = HostConfig {
            network: NetworkState { hostname: "web1".into(), ..NetworkState::default() },
            ssh_port: 22,
            ssh_identity: vec![("ssh_host_rsa_key".into(), Secret::new(b"private".to_vec()))],
            firmware: Firmware::Bios,
            arch: "x86_64".into(),
            kernel_release: "6.1".into(),
            mirror: None,
            security_mirror: None,
            base: sha256::digest(&digest.0),
            base_size: base().len() as u64,
            disks: Vec::new(),
            random_seed: Secret::default(),
            wall_ms: 0,
            proxies: Vec::new(),
            seed_cache: vec![("payload.tar.zst".into(), "blob-1".into()), ("missing".into(), "blob-2".into())],
        };
        fs::write(root.join("anemos/run.bin"), to_bytes(&run).unwrap()).unwrap();
        fs::write(root.join("anemos/host.bin"), to_bytes(&host).unwrap()).unwrap();
        fs::write(root.join("anemos/payload.tar.zst"), &archive).unwrap();
        fs::write(root.join("anemos/base-00.cpio.zst"), zstd::bulk::compress(&base(), 3).unwrap()).unwrap();
        // Free a moment ago; the agent binds it before anybody else is likely to.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let (agent, beats) = start(root, address, &[]);
        let trial = Self { dir, address, agent, beats };
        trial.wait_for_port();
        trial
    }

    /// Kills the agent and starts another, held, as init does.
    fn start_again(&mut self) {
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
        (self.agent, self.beats) = start(self.dir.path(), self.address, &["--held", "the agent broke (a test)"]);
        self.wait_for_port();
    }

    fn wait_for_port(&self) {
        let deadline = Instant::now() + WAIT;
        while TcpStream::connect(self.address).is_err() {
            assert!(Instant::now() < deadline, "the agent doesn't listen on {}", self.address);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ssh(&self, key: &str, options: &[&str]) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=accept-new",
            "-o",
            "LogLevel=ERROR",
        ]);
        ssh.args(["-o", "IdentitiesOnly=yes", "-o"])
            .arg(format!("UserKnownHostsFile={}", self.path("known").display()));
        ssh.arg("-i").arg(self.path(key)).args(["-p", &self.address.port().to_string()]).args(options);
        ssh.arg("root@127.0.0.1").env_remove("SSH_AUTH_SOCK");
        ssh
    }

    fn run(&self, options: &[&str], command: &str) -> Output {
        self.ssh("key", options).arg(command).stdin(Stdio::null()).output().unwrap()
    }

    fn attach(&self, after: u64) -> Controller {
        let mut ssh = self.ssh("key", &["-s"]);
        let mut child = ssh.arg("anemos").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&Hello::new(Role::Controller, "test").encode()).unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, replies) = channel();
        std::thread::spawn(move || {
            let (mut greeting, mut buffer) = (Greeting::new(Role::Agent, "test"), vec![0; 65536]);
            let mut decompressor = Decompressor::new().unwrap();
            let (mut frames, mut greeted) = (FrameReader::new(), false);
            while let Ok(n) = stdout.read(&mut buffer) {
                if n == 0 {
                    return;
                }
                let mut bytes = buffer[..n].to_vec();
                if !greeted {
                    let Some(rest) = greeting.push(&bytes).unwrap() else { continue };
                    (bytes, greeted) = (rest, true);
                }
                decompressor
                    .decompress(&bytes, |out| {
                        frames.push(out);
                        Ok(())
                    })
                    .unwrap();
                while let Some(reply) = frames.next_frame::<AgentReply>().unwrap() {
                    if sender.send(reply).is_err() {
                        return;
                    }
                }
            }
        });
        let mut controller = Controller { child, stdin, replies, events: Vec::new(), others: VecDeque::new() };
        controller.ask(&AgentRequest::Attach { after });
        controller
    }

    /// Waits for this beat of the agent's heart.
    fn hear(&self, beat: u8) {
        let deadline = Instant::now() + WAIT;
        while self.beats.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap() != beat {}
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let agent = rustix::process::Pid::from_raw(self.agent.id().cast_signed()).unwrap();
        rustix::process::kill_process(agent, signal).unwrap();
    }

    fn left(&self) -> String {
        let deadline = Instant::now() + WAIT;
        loop {
            if let Ok(text) = fs::read_to_string(self.path("run/left"))
                && text.ends_with('\n')
            {
                return text.trim().into();
            }
            assert!(Instant::now() < deadline, "the agent did not leave");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn start(root: &Path, address: SocketAddr, more: &[&str]) -> (Child, Receiver<u8>) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_anemos-agent"));
    command.arg("serve").arg("--root").arg(root).args(["--listen", &address.to_string()]).args(more);
    command.args(["--heart", &writer.as_raw_fd().to_string()]);
    let (sender, beats) = channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        while reader.read_exact(&mut byte).is_ok() && sender.send(byte[0]).is_ok() {}
    });
    (command.spawn().unwrap(), beats)
}

fn keygen(path: &Path) {
    let status = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status().unwrap();
    assert!(status.success());
}

struct Controller {
    child: Child,
    stdin: ChildStdin,
    replies: Receiver<AgentReply>,
    events: Vec<Event>,
    /// Replies that came while an event was waited for.
    others: VecDeque<AgentReply>,
}

impl Controller {
    fn ask(&mut self, request: &AgentRequest) {
        self.stdin.write_all(&encode_frame(request).unwrap()).unwrap();
        self.stdin.flush().unwrap();
    }

    /// Stops the client, or has it go on.
    fn stop(&self, stopped: bool) {
        let signal = if stopped { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        let client = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(client, signal).unwrap();
    }

    /// The next reply that is no event and no progress; events are kept.
    fn reply(&mut self) -> AgentReply {
        if let Some(reply) = self.others.pop_front() {
            return reply;
        }
        loop {
            match self.replies.recv_timeout(WAIT).unwrap() {
                AgentReply::Event(event) => self.keep(event),
                AgentReply::Progress(_) => {}
                other => return other,
            }
        }
    }

    /// As a controller does with an attempt: what it has safe it acknowledges, and only then the payload starts.
    fn keep(&mut self, event: Event) {
        if matches!(event.kind, EventKind::Attempt(_)) {
            self.ask(&AgentRequest::Ack { seq: event.seq });
        }
        self.events.push(event);
    }

    fn until(&mut self, wanted: impl Fn(&EventKind) -> bool) -> Event {
        if let Some(event) = self.events.iter().find(|event| wanted(&event.kind)) {
            return event.clone();
        }
        let deadline = Instant::now() + WAIT;
        loop {
            match self.replies.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(AgentReply::Event(event)) => {
                    self.keep(event.clone());
                    if wanted(&event.kind) {
                        return event;
                    }
                }
                Ok(AgentReply::Progress(_)) => {}
                Ok(other) => self.others.push_back(other),
                Err(e) => panic!("{e}; the last events: {:#?}", &self.events[self.events.len().saturating_sub(20)..]),
            }
        }
    }

    fn outcome(&mut self) -> (u64, Outcome) {
        let event = self.until(|kind| matches!(kind, EventKind::Outcome(_)));
        let EventKind::Outcome(outcome) = event.kind else { unreachable!() };
        (event.seq, outcome)
    }

    fn lines(&self) -> Vec<String> {
        let line = |event: &Event| match &event.kind {
            EventKind::Log { stream: Stream::Stdout, line } => Some(String::from_utf8_lossy(line).into_owned()),
            _ => None,
        };
        self.events.iter().filter_map(line).collect()
    }

    fn assert_contiguous(&self) {
        let mut next = self.events.first().map_or(1, |event| event.seq);
        for event in &self.events {
            if let EventKind::Gap { first, last, .. } = event.kind {
                assert_eq!(first, next);
                next = last + 1;
            } else {
                assert_eq!(event.seq, next);
                next += 1;
            }
        }
    }

    /// Waits for the end of the connection.
    fn ended(&mut self) -> bool {
        loop {
            match self.replies.recv_timeout(WAIT) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_payload_runs_and_the_agent_leaves_when_the_end_is_acknowledged() {
    let script = "#!/bin/sh\nset -e\nanemos=\"$AGENT\"\n\
        echo \"$ANEMOS_HOST $ANEMOS_DISK $ANEMOS_VAR_COLOUR $ANEMOS_BOOT\"\n\
        cat \"$ANEMOS_SECRETS/token\"; echo\nstat -c %a \"$ANEMOS_SECRETS\" \"$ANEMOS_SECRETS/token\"\n\
        cat \"$ANEMOS_AUTHORIZED_KEYS\"\necho oops >&2\n";
    let helper = env!("CARGO_BIN_EXE_anemos-agent");
    let script = format!(
        "{script}echo before\n{helper} step 'make things'\necho after\n{helper} progress 1/2 one\n{helper} note hi\n\
         {helper} identity install \"$ANEMOS_TARGET\"\n"
    );
    let trial = Trial::new(&Setup { script: &script, ..Setup::default() });
    let mut controller = trial.attach(0);
    let attached = controller.reply();
    assert!(matches!(attached, AgentReply::Attached { .. }), "{attached:?}");
    let (seq, outcome) = controller.outcome();
    assert_eq!(outcome, Outcome::Succeeded, "{:#?}", controller.events);
    controller.assert_contiguous();
    let lines = controller.lines();
    assert_eq!(lines[..6], ["web1 /dev/vda blue bios", "hush", "700", "400", "ssh-ed25519 AAAA target", "before"]);
    let position =
        |wanted: &dyn Fn(&EventKind) -> bool| controller.events.iter().position(|e| wanted(&e.kind)).unwrap();
    let says = |kind: &EventKind, text: &[u8]| matches!(kind, EventKind::Log { line, .. } if line == text);
    let step = position(&|kind| matches!(kind, EventKind::StepStarted { name, .. } if name == "make things"));
    assert!(position(&|kind| says(kind, b"before")) < step && step < position(&|kind| says(kind, b"after")));
    position(&|kind| matches!(kind, EventKind::Log { stream: Stream::Stderr, line } if line == b"oops"));
    position(&|kind| matches!(kind, EventKind::Note { text, .. } if text == "hi"));
    position(&|kind| matches!(kind, EventKind::HostKeys(keys) if keys == &["ssh-ed25519 AAAA new"]));
    position(&|kind| matches!(kind, EventKind::Seeded(bytes) if *bytes > 0));
    assert_eq!(fs::read(trial.path("target/etc/ssh/ssh_host_rsa_key")).unwrap(), b"private");
    assert!(trial.path("target/var/cache/anemos/blob-1").exists());
    assert_eq!(fs::read(trial.path("root/etc/motd")).unwrap(), b"hello\n");
    assert_eq!(fs::read(trial.path("root/etc/hostname")).unwrap(), b"web1\n");

    assert!(!trial.path("run/left").exists(), "nothing is acknowledged yet");
    controller.ask(&AgentRequest::Ack { seq });
    assert_eq!(controller.reply(), AgentReply::Leaving(Leaving::Finish(Finish::Reboot)));
    assert!(controller.ended());
    assert_eq!(trial.left(), "Reboot");
}

#[test]
fn people_get_commands_shells_and_exit_statuses() {
    let trial = Trial::new(&Setup::default());
    let out = trial.run(&[], "echo out; echo err >&2; exit 7");
    assert_eq!((&out.stdout[..], &out.stderr[..], out.status.code()), (&b"out\n"[..], &b"err\n"[..], Some(7)));

    // More than any window or pipe holds, both ways.
    let mut child = trial.ssh("key", &[]).arg("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let bytes: Vec<u8> = (0..4u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut stdin = child.stdin.take().unwrap();
    let copy = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&copy));
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(out.status.success() && out.stdout == bytes, "{} bytes came back", out.stdout.len());

    let out = trial.run(&["-tt"], "tty && stty size && echo $TERM");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.starts_with("/dev/pts/"), "{text}");
    let out = trial.run(&[], "kill -TERM $$");
    assert_eq!(out.status.code(), Some(255), "ssh says 255 for a program killed by a signal");

    let mut shell = trial.ssh("key", &["-tt"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(b"echo $((40 + 2)); exit 3\n").unwrap();
    let out = shell.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).contains("42"));
    assert_eq!(out.status.code(), Some(3));
    // A daemon that keeps the output open doesn't keep the command from ending.
    let started = Instant::now();
    let out = trial.run(&[], "sleep 20 & echo done");
    assert_eq!(out.stdout, b"done\n");
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[test]
fn strangers_stay_out() {
    let trial = Trial::new(&Setup::default());
    let out = trial.ssh("other", &[]).arg("true").stdin(Stdio::null()).output().unwrap();
    assert_eq!(out.status.code(), Some(255));
    let words = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(words.contains("Permission denied (publickey)"), "{words}");
    // Connections that say nothing take each other's place, and not that of those who have a key.
    let silent: Vec<TcpStream> = (0..40).filter_map(|_| TcpStream::connect(trial.address).ok()).collect();
    assert_eq!(silent.len(), 40);
    drop(silent.into_iter().take(39).collect::<Vec<_>>());
    assert_eq!(trial.run(&[], "echo in").stdout, b"in\n");
}

#[test]
fn a_failure_before_writing_goes_back_and_one_after_it_holds_until_a_mended_payload_comes() {
    let script = "#!/bin/sh\necho trying\nexit 3\n";
    let trial = Trial::new(&Setup { script, ..Setup::default() });
    let mut controller = trial.attach(0);
    let (seq, outcome) = controller.outcome();
    let Outcome::Failed { reason, written: false } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("status 3"), "{reason}");
    controller.ask(&AgentRequest::Ack { seq });
    let AgentReply::Attached { .. } = controller.reply() else { panic!() };
    let AgentReply::Leaving(Leaving::OldSystem(_)) = controller.reply() else { panic!() };
    assert_eq!(trial.left(), "Reboot");

    let sys = Setup { script, ..Setup::default() };
    let trial = Trial::new(&sys);
    fs::write(trial.path("sys/block/vda/stat"), "0 0 0 0 0 0 9 0\n").unwrap();
    let mut controller = trial.attach(0);
    let (seq, outcome) = controller.outcome();
    assert!(matches!(outcome, Outcome::Failed { written: true, .. }), "{outcome:?}");
    controller.until(|kind| matches!(kind, EventKind::State(AgentState::Held(_))));
    controller.until(|kind| *kind == EventKind::Written(vec![("vda".into(), 9)]));
    controller.ask(&AgentRequest::Ack { seq });
    controller.ask(&AgentRequest::Abort);
    let AgentReply::Attached { .. } = controller.reply() else { panic!() };
    let AgentReply::Refused(why) = controller.reply() else { panic!() };
    assert!(why.contains("written"), "{why}");
    let mended = payload("#!/bin/sh\necho mended\n");
    let blob = BlobRef { digest: sha256::digest(&mended), size: mended.len() as u64 };
    controller.ask(&AgentRequest::Retry { payload: Some(blob) });
    assert_eq!(controller.reply(), AgentReply::Accepted);
    controller.events.clear();
    controller.ask(&AgentRequest::Blob { digest: blob.digest, data: mended });
    let (_, outcome) = controller.outcome();
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(controller.lines(), ["mended"]);
    assert!(controller.events.iter().any(|event| event.kind == EventKind::Attempt(2)));
}

#[test]
fn every_fact_comes_once_whenever_one_attaches_even_after_the_agent_was_killed() {
    let script = "#!/bin/sh\ni=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done\nexec sleep 600\n";
    let mut trial = Trial::new(&Setup { script, ..Setup::default() });
    let mut first = trial.attach(0);
    first.until(|kind| matches!(kind, EventKind::Log { line, .. } if line == b"line 2999"));
    first.assert_contiguous();
    let all = first.events.clone();
    drop(first);
    for after in [0, 1, 500, all.last().unwrap().seq - 1] {
        let mut again = trial.attach(after);
        again.until(|kind| matches!(kind, EventKind::Log { line, .. } if line == b"line 2999"));
        assert_eq!(again.events, all[after as usize..], "after {after}");
    }
    trial.start_again();
    let mut after = trial.attach(0);
    after.until(|kind| *kind == EventKind::State(AgentState::Held("the agent broke (a test)".into())));
    after.assert_contiguous();
    assert_eq!(after.events[..all.len()], all);
    after.ask(&AgentRequest::Attach { after: 1 << 40 });
    let AgentReply::Attached { state: AgentState::Held(_), .. } = after.reply() else { panic!() };
    let AgentReply::Refused(why) = after.reply() else { panic!() };
    assert!(why.contains("another boot"), "{why}");
}

#[test]
fn init_hears_whether_the_agent_is_well_and_what_it_knows() {
    let trial = Trial::new(&Setup { script: "#!/bin/sh\nexec sleep 600\n", ..Setup::default() });
    trial.hear(b'a');
    let mut controller = trial.attach(0);
    trial.hear(b'b');
    controller.until(|kind| *kind == EventKind::State(AgentState::Running));
    fs::write(trial.path("sys/devices/pci0/vda/stat"), "0 0 0 0 0 0 9 0\n").unwrap();
    trial.hear(b'w');
    controller.until(|kind| *kind == EventKind::Written(vec![("vda".into(), 9)]));

    trial.signal(rustix::process::Signal::STOP);
    // What was sent before comes first.
    while trial.beats.recv_timeout(Duration::from_secs(4)).is_ok() {}
    trial.signal(rustix::process::Signal::CONT);
    trial.hear(b'w');
}

#[test]
fn a_declared_disk_that_goes_counts_as_written() {
    let script = "#!/bin/sh\nrm \"$ANEMOS_FILES/../sys/block/vda\"\nexit 1\n";
    let trial = Trial::new(&Setup { script, ..Setup::default() });
    let mut controller = trial.attach(0);
    let (_, outcome) = controller.outcome();
    assert!(matches!(outcome, Outcome::Failed { written: true, .. }), "{outcome:?}");
    assert!(controller.events.iter().any(|event| event.kind == EventKind::Written(vec![("vda".into(), 1)])));
    controller.until(|kind| matches!(kind, EventKind::State(AgentState::Held(_))));
    trial.hear(b'w');
}

/// What it wrote after that went into memory, if anywhere, and it has not noticed.
#[test]
fn a_payload_whose_disk_went_has_not_succeeded() {
    let script = "#!/bin/sh\nrm \"$ANEMOS_FILES/../sys/block/vda\"\n";
    let trial = Trial::new(&Setup { script, ..Setup::default() });
    let mut controller = trial.attach(0);
    let (_, outcome) = controller.outcome();
    let Outcome::Failed { reason, written: true } = outcome else { panic!("{outcome:?}") };
    assert_eq!(reason, "the payload ended well, but vda is gone, or another disk has its name");
    controller.until(|kind| matches!(kind, EventKind::State(AgentState::Held(_))));
}

#[test]
fn payloads_can_t_stall_the_agent() {
    // Floods, closes its output, leaves a daemon, and never ends.
    let script = "#!/bin/sh\nyes flood | head -c 1500000\nhead -c 40000 /dev/zero | tr '\\0' x\necho\n\
                  sleep 500 &\nexec >&- 2>&-\nexec sleep 500\n";
    let trial = Trial::new(&Setup { script, ..Setup::default() });
    let mut controller = trial.attach(0);
    controller.until(|kind| matches!(kind, EventKind::Log { line, .. } if line.len() == 40000 - 2 * 16384));
    controller.assert_contiguous();
    controller.ask(&AgentRequest::Finish(Finish::Reboot));
    controller.ask(&AgentRequest::Abort);
    let AgentReply::Attached { .. } = controller.reply() else { panic!() };
    let AgentReply::Refused(why) = controller.reply() else { panic!() };
    assert!(why.contains("abort it first"), "{why}");
    assert_eq!(controller.reply(), AgentReply::Accepted);
    let (_, outcome) = controller.outcome();
    let Outcome::Failed { reason, written: false } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("aborted"), "{reason}");
}

#[test]
fn deadlines_end_what_nobody_waits_for() {
    let alone = Deadlines { dead_man_s: 1, payload_s: 60, ack_s: 60, start_s: 600, hang_s: 600 };
    let trial = Trial::new(&Setup { deadlines: alone, ..Setup::default() });
    assert_eq!(trial.left(), "Reboot", "nobody attached");

    let slow = Deadlines { dead_man_s: 60, payload_s: 1, ack_s: 1, start_s: 600, hang_s: 600 };
    let trial = Trial::new(&Setup { script: "#!/bin/sh\nexec sleep 600\n", deadlines: slow, ..Setup::default() });
    let mut controller = trial.attach(0);
    let (_, outcome) = controller.outcome();
    let Outcome::Failed { reason, .. } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("deadline `build`"), "{reason}");
    drop(controller);
    assert_eq!(trial.left(), "Reboot", "nobody acknowledged");
}

#[test]
fn a_base_that_is_not_the_locked_one_runs_nothing() {
    let trial = Trial::new(&Setup { spoil_base: true, script: "#!/bin/sh\necho ran\n", ..Setup::default() });
    let mut controller = trial.attach(0);
    let (_, outcome) = controller.outcome();
    let Outcome::Failed { reason, written: false } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("SHA-256"), "{reason}");
    assert_eq!(controller.lines(), Vec::<String>::new());
}

#[test]
fn holding_keeps_the_agent_until_it_is_told_otherwise() {
    let trial = Trial::new(&Setup { finish: Finish::Hold, ..Setup::default() });
    let mut controller = trial.attach(0);
    let (seq, outcome) = controller.outcome();
    assert_eq!(outcome, Outcome::Succeeded);
    controller.ask(&AgentRequest::Ack { seq });
    controller.until(|kind| matches!(kind, EventKind::State(AgentState::Held(_))));
    let AgentReply::Attached { .. } = controller.reply() else { panic!() };
    controller.ask(&AgentRequest::Finish(Finish::PowerOff));
    let replies = [controller.reply(), controller.reply()];
    assert_eq!(replies, [AgentReply::Accepted, AgentReply::Leaving(Leaving::Finish(Finish::PowerOff))]);
    assert_eq!(trial.left(), "PowerOff");
}

/// For a person who looks at the agent at work: CONTRIBUTING.md says how. The payload is `$DEPLOY`, or prints a word.
#[test]
#[ignore = "it waits for a person"]
fn an_agent_to_look_at() {
    let script = std::env::var_os("DEPLOY").map(|path| fs::read_to_string(path).unwrap());
    // It runs on this machine, and is told a disk's name that this machine may have.
    assert!(script.is_none() || !rustix::process::geteuid().is_root(), "no payload of yours runs here as root");
    let script = script.as_deref().unwrap_or("#!/bin/sh\necho hello\n");
    let trial = Trial::new(&Setup { script, finish: Finish::Hold, ..Setup::default() });
    let (agent, root) = (env!("CARGO_BIN_EXE_anemos-agent"), trial.dir.path().display());
    println!("{agent} serve --root {root} --listen {}\n{:?}", trial.address, trial.ssh("key", &[]));
    let mut controller = trial.attach(0);
    let (_, outcome) = controller.outcome();
    for event in &controller.events {
        match &event.kind {
            EventKind::Log { stream, line } => println!("{stream:?}: {}", String::from_utf8_lossy(line)),
            kind => println!("{kind:?}"),
        }
    }
    println!("{outcome:?}. Press Enter to end the agent.");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn requests_to_flush_can_be_made_to_do_nothing() {
    if !rustix::process::geteuid().is_root() {
        let test = "requests_to_flush_can_be_made_to_do_nothing";
        // Past libtest, which shows nothing of a test that passes.
        let _ = writeln!(std::io::stderr(), "skipped: {test}: only root may filter system calls as the agent does it");
        return;
    }
    let sync = |words: &[&str]| Command::new(words[0]).args(&words[1..]).status().unwrap().code();
    let agent = env!("CARGO_BIN_EXE_anemos-agent");
    // fsync(2) on this file is an error.
    assert_eq!(sync(&["sync", "/dev/null"]), Some(1));
    assert_eq!(sync(&[agent, "nosync", "sync", "/dev/null"]), Some(0));
    assert_eq!(sync(&[agent, "nosync", "sh", "-c", "sync /dev/null && exit 7"]), Some(7));
    assert_eq!(sync(&[agent, "nosync", "/nonsense"]), Some(1));
}
