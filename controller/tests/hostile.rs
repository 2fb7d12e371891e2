//! What a host can make the controller do that is in somebody else's hands: the real command, against an SSH server
//! that floods it in each phase. See docs/SECURITY.md.

#[path = "hostile/carried.rs"]
mod carried;
#[path = "hostile/host.rs"]
#[allow(dead_code, reason = "tests/serve.rs needs more of it")]
mod host;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anemos_proto::agent::{AgentReply, AgentRequest, Leaving};
use anemos_proto::codec::encode_frame;
use anemos_proto::config::Finish;
use anemos_proto::event::{Event, EventKind, Level, Outcome, Progress, Stream, Unit};
use anemos_proto::stage::{Failure, StageReply};
use host::{Boot, Host, Script, Wire, facts};
use tempfile::TempDir;

/// What the controller may take at most, in bytes, whatever a host does.
const MOST: u64 = 64 << 20;

/// How long each flood goes on: a minute, all of them together.
const FLOOD: Duration = Duration::from_secs(12);

/// It goes on for longer where the machine is so busy that less was said by then.
const LEAST: u64 = MOST;

/// Whether a flood has gone on for long enough.
fn is_over(began: Instant, how_long: Duration, said: u64) -> bool {
    began.elapsed() > how_long && said >= LEAST
}

/// A workstation: a directory that is all that the command needs to write to.
struct Workstation {
    dir: TempDir,
    /// What was there before.
    before: BTreeSet<PathBuf>,
}

/// Everything below a directory.
fn tree(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(tree(&entry.path()));
        }
        found.insert(entry.path());
    }
    found
}

fn keygen(path: &Path) {
    let status = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
    assert!(status.expect("ssh-keygen (package openssh-client) is needed by this test").success());
}

impl Workstation {
    /// One with these hosts in its hosts.toml, each with a key and a secret of its own.
    fn new(hosts: &[(&str, &Host)], deadlines: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
        fs::create_dir(dir.path().join("payload")).unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        write("payload/deploy", b"#!/bin/sh\n");
        fs::set_permissions(dir.path().join("payload/deploy"), Permissions::from_mode(0o755)).unwrap();
        let mut known = String::new();
        let mut toml = "[defaults]\npayload = \"payload\"\ndisk = \"/dev/vda\"\n".to_owned();
        toml += &format!("known_hosts = \"known_hosts\"\nuser = \"root\"\ncheck = \"true check\"\n{deadlines}\n");
        for (name, host) in hosts {
            keygen(&dir.path().join(format!("key-{name}")));
            write(&format!("secret-{name}"), format!("the secret of {name}").as_bytes());
            let port = host.address.port();
            toml += &format!(
                "[hosts.{name}]\naddress = \"127.0.0.1\"\nport = {port}\nidentity_file = [\"key-{name}\"]\nsecrets = \
                 {{ token = \"secret-{name}\" }}\n"
            );
            known += &host.known_hosts_line();
        }
        write("hosts.toml", toml.as_bytes());
        write("known_hosts", known.as_bytes());
        carried::write(dir.path());
        let before = tree(dir.path());
        Self { dir, before }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command. Whatever it makes, it says itself who may read it.
    fn anemos(&self, arguments: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("umask 0; exec \"$0\" {arguments}")).arg(executable());
        command.current_dir(self.dir.path()).env("HOME", self.dir.path()).env("TMPDIR", self.path("tmp"));
        command.env("XDG_STATE_HOME", self.path("state")).env_remove("SSH_AUTH_SOCK");
        command.env("ANEMOS_STAGE", self.path("stage")).env("ANEMOS_AGENT", self.path("agent"));
        command.stdin(Stdio::null());
        command
    }

    /// The public half of the user's key for a host, without its comment.
    fn key(&self, name: &str) -> String {
        let line = fs::read_to_string(self.path(&format!("key-{name}.pub"))).unwrap();
        line.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    /// The directory of the only run.
    fn run(&self) -> PathBuf {
        let runs: Vec<_> = fs::read_dir(self.path("state/anemos/runs")).unwrap().flatten().collect();
        assert_eq!(runs.len(), 1);
        runs[0].path()
    }

    /// Nothing was made but a run, of files that a run has, and all of it is only its owner's.
    fn assert_only_a_run(&self, hosts: &[&str]) {
        let run = self.run();
        let mut may = BTreeSet::from(["state", "state/anemos", "state/anemos/runs"].map(|name| self.path(name)));
        // Of images that are built here; there is none.
        may.extend([".cache", ".cache/anemos"].map(|name| self.path(name)));
        may.extend(["", "keys", "keys/run", "run.json", "lock"].map(|name| run.join(name)));
        may.extend(hosts.iter().flat_map(|host| [".journal", ".attempt"].map(|end| run.join(format!("{host}{end}")))));
        let made: Vec<_> = tree(self.dir.path()).difference(&self.before).cloned().collect();
        for path in made {
            assert!(may.contains(&path), "{} was made", path.display());
            let mode = fs::metadata(&path).unwrap().mode();
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
        }
    }
}

/// What is measured: the executable that users have where `$ANEMOS_BIN` names it, as `make test` does. What the tests
/// are built with takes minutes for what is said here.
fn executable() -> PathBuf {
    std::env::var_os("ANEMOS_BIN").map_or_else(|| env!("CARGO_BIN_EXE_anemos").into(), PathBuf::from)
}

/// The most memory that a process has had, in bytes, so far; `None` once it has ended.
fn peak(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// Waits for the end of a process, and says what it took at most.
fn measured(child: &mut Child, what: &str) -> u64 {
    let mut most = 0;
    let until = Instant::now() + Duration::from_secs(300);
    while child.try_wait().unwrap().is_none() {
        most = most.max(peak(child).unwrap_or(0));
        if Instant::now() > until {
            let _ = child.kill();
            panic!("{what} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    eprintln!("{what}: {:.1} MiB at most", most as f64 / f64::from(1 << 20));
    most
}

/// Holds what was measured to the limit.
fn assert_little(most: u64, what: &str) {
    assert!(most > 1 << 20, "{what} was not measured");
    assert!(most <= MOST, "{what} took {} MiB", most >> 20);
}

/// Runs a command to its end and holds it to the limit. Its output goes to files, which take it as fast as it comes.
fn run(command: &mut Command, what: &str) -> Output {
    // Beside the workstation, which is looked through for what was made.
    let outside = tempfile::tempdir().unwrap();
    let [out, err] = ["out", "err"].map(|name| outside.path().join(name));
    command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
    let mut child = command.spawn().unwrap();
    let most = measured(&mut child, what);
    let status = child.wait().unwrap();
    let output = Output { status, stdout: fs::read(&out).unwrap(), stderr: fs::read(&err).unwrap() };
    assert_little(most, &format!("{what} ({})", text(&output)));
    output
}

fn text(output: &Output) -> String {
    // The last of what may be much.
    let end = output.stdout.len().saturating_sub(4000);
    String::from_utf8_lossy(&output.stdout[end..]).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn event(seq: u64, kind: EventKind) -> Event {
    Event { seq, uptime_ms: 1, wall_ms: 1, kind }
}

fn log(line: Vec<u8>) -> EventKind {
    EventKind::Log { stream: Stream::Stdout, line }
}

/// Bytes that don't compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(next).collect()
}

/// Steps that were told of.
static STEPS: AtomicU32 = AtomicU32::new(0);

/// What may be said without end: short and long lines, of text, tabs and noise, and progress of ever new steps.
/// `wrap` makes frames of events, `tell` of progress. Each piece has a quarter of a megabyte or more.
fn endless<T: serde::Serialize>(
    wrap: impl Fn(Event) -> T,
    tell: impl Fn(Progress) -> T,
    seq: &mut u64,
) -> Vec<Vec<u8>> {
    let mut frames = |kinds: Vec<EventKind>| -> Vec<u8> {
        let mut bytes = Vec::new();
        for kind in kinds {
            *seq += 1;
            bytes.extend(encode_frame(&wrap(event(*seq, kind))).unwrap());
        }
        bytes
    };
    let mut pieces = vec![
        frames((0..2000).map(|n| log(format!("line {n} of a payload that never ends").into_bytes())).collect()),
        frames(vec![log(vec![b'\t'; 900 << 10])]),
        frames((0..200).map(|_| log(noise(1500))).collect()),
        frames(vec![log(vec![0x1b; 900 << 10])]),
        frames((0..2000).map(|_| log(Vec::new())).collect()),
    ];
    let step = |_| {
        let step = STEPS.fetch_add(1, Ordering::Relaxed);
        let progress = Progress { step, done: 1, total: None, unit: Unit::Items, what: Some("w".repeat(100)) };
        encode_frame(&tell(progress)).unwrap()
    };
    pieces.push((0..2000).flat_map(step).collect());
    pieces
}

/// Facts that take much more memory than they have bytes, and such as are long.
fn facts_without_end(seq: u64) -> EventKind {
    match seq % 64 {
        0 => EventKind::HostKeys(vec![String::new(); 200_000]),
        1 => EventKind::StepStarted { step: u32::try_from(seq).unwrap(), parent: None, name: "s".repeat(500_000) },
        2 => EventKind::Written(vec![(String::new(), 0); 100_000]),
        _ => EventKind::Note { level: Level::Error, text: "\t".repeat(20_000) },
    }
}

/// Floods while the stage runs: before it says what the host is, and while it prepares the boot.
struct FloodingStage;

impl FloodingStage {
    async fn flood(wire: &mut Wire, how_long: Duration) {
        let mut seq = 0;
        let pieces = endless(StageReply::Event, StageReply::Progress, &mut seq);
        let began = Instant::now();
        while wire.open && !is_over(began, how_long, wire.said()) {
            for piece in &pieces {
                wire.frames(piece).await;
                wire.complain(vec![b'e'; 200 << 10]).await;
            }
        }
    }
}

impl Script for FloodingStage {
    async fn probe(&self, wire: &mut Wire) -> bool {
        Self::flood(wire, FLOOD / 3).await;
        // What is as large as can be said in one frame.
        let mut facts = facts();
        facts.cmdline = "c".repeat(100 << 10);
        facts.mirrors = vec![String::new(); 100_000];
        wire.say(&StageReply::Facts(Box::new(facts))).await;
        wire.open
    }

    async fn stage(&self, wire: &mut Wire) -> bool {
        wire.say(&StageReply::Need(Vec::new())).await;
        Self::flood(wire, FLOOD - FLOOD / 3).await;
        let mut seq = 0;
        while wire.open {
            seq += 1;
            wire.say(&StageReply::Event(event(seq, facts_without_end(seq)))).await;
            // It is told to undo everything, and does not.
        }
        false
    }
}

/// Does as it should, and then says that it can't.
struct Honest;

impl Script for Honest {
    async fn stage(&self, wire: &mut Wire) -> bool {
        let failure = Failure { what: "staging".into(), why: "it is a test".into(), hint: String::new() };
        wire.say(&StageReply::Failed(failure)).await;
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_floods() {
    let hostile = Host::start(1, FloodingStage).await;
    let honest = Host::start(2, Honest).await;
    let hosts = [("bad", &*hostile), ("good", &*honest)];
    let workstation = Workstation::new(&hosts, "deadlines = { stage = \"10m\", connect = \"2m\" }");
    let output = run(&mut workstation.anemos("up --yes hosts.toml"), "a stage that floods");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("it has said more than any deployment has to say"), "{said}");
    assert!(said.contains("it is a test"), "the other host went on: {said}");
    assert!(hostile.said() > MOST, "{} bytes are no flood", hostile.said());

    // Neither host saw the other's key, or anything of what it has.
    assert_eq!(hostile.shown(), BTreeSet::from([workstation.key("bad")]));
    assert_eq!(honest.shown(), BTreeSet::from([workstation.key("good")]));
    let (bad, good) = (hostile.run().unwrap(), honest.run().unwrap());
    assert_ne!(bad.host_key.expose(), good.host_key.expose());
    let has = |heard: Vec<u8>, what: &[u8]| heard.windows(what.len()).any(|window| window == what);
    assert!(has(hostile.heard(), b"the secret of bad") && has(honest.heard(), b"the secret of good"));
    assert!(!has(hostile.heard(), b"the secret of good") && !has(hostile.heard(), good.host_key.expose()));

    // What is kept of it is read again within the same limit.
    workstation.assert_only_a_run(&["bad", "good"]);
    let logs = "logs --all $(ls state/anemos/runs) bad";
    for arguments in ["attach", "attach --all --json", logs] {
        run(&mut workstation.anemos(arguments), arguments);
    }
    workstation.assert_only_a_run(&["bad", "good"]);
}

/// Floods as the agent. Sets its flag once the controller listens no more.
#[derive(Default)]
struct FloodingAgent(Arc<AtomicBool>);

impl Script for FloodingAgent {
    async fn agent(&self, wire: &mut Wire, _: &Host) {
        if !wire.attached(1).await {
            return;
        }
        let began = Instant::now();
        let mut seq = 1;
        while wire.open && !is_over(began, FLOOD, wire.said()) {
            for piece in endless(AgentReply::Event, AgentReply::Progress, &mut seq) {
                wire.frames(&piece).await;
            }
            let state = anemos_proto::event::AgentState::Starting;
            wire.say(&AgentReply::Attached { boot_id: "b".repeat(500_000), state, last: 1 }).await;
            wire.say(&AgentReply::Refused("r".repeat(900_000))).await;
            // A few bytes that become many.
            wire.frames(&encode_frame(&AgentReply::Accepted).unwrap().repeat(200_000)).await;
        }
        if !wire.open {
            return;
        }
        while wire.open {
            seq += 1;
            wire.say(&AgentReply::Event(event(seq, facts_without_end(seq)))).await;
        }
        self.0.store(true, Ordering::Release);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_floods() {
    let hostile = Host::start(3, FloodingAgent::default()).await;
    let workstation = Workstation::new(&[("bad", &hostile)], "deadlines = { connect = \"2m\" }");
    let output = run(&mut workstation.anemos("up --yes hosts.toml"), "an agent that floods");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("HELD") && said.contains("it has said more than any deployment has to say"), "{said}");
    assert!(hostile.said() > MOST, "{} bytes are no flood", hostile.said());
    workstation.assert_only_a_run(&["bad"]);

    // Of the run's key it has the public half, as it must.
    let private = fs::read_to_string(workstation.run().join("keys/run")).unwrap();
    let private = russh::keys::decode_secret_key(&private, None).unwrap();
    let public = private.public_key().to_openssh().unwrap();
    let public = public.split(' ').take(2).collect::<Vec<_>>().join(" ");
    assert_eq!(hostile.shown(), BTreeSet::from([workstation.key("bad"), public]));
    let seed = private.key_data().ed25519().unwrap().private.to_bytes();
    assert!(!hostile.heard().windows(32).any(|window| window == seed));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_floods_somebody_who_does_not_look() {
    let over = Arc::new(AtomicBool::new(false));
    let hostile = Host::start(4, FloodingAgent(Arc::clone(&over))).await;
    let workstation = Workstation::new(&[("bad", &hostile)], "deadlines = { connect = \"2m\" }");
    let mut command = workstation.anemos("up --yes --json hosts.toml");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let what = "a flood that nobody looks at";
    let text = std::thread::scope(|scope| {
        // Nobody reads until the controller has heard all that it listens to, which is far more than can wait.
        let reading = scope.spawn(|| {
            let until = Instant::now() + Duration::from_secs(240);
            while !over.load(Ordering::Acquire) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            let mut text = String::new();
            stdout.read_to_string(&mut text).unwrap();
            text
        });
        assert_little(measured(&mut child, what), what);
        reading.join().unwrap()
    });
    assert!(over.load(Ordering::Acquire), "the controller listened for 240 s");
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!((&last["type"], &last["outcome"]), (&"summary".into(), &"held".into()), "{last}");
    let says = |what: &str| lines.iter().any(|line| line["text"].as_str().is_some_and(|text| text.contains(what)));
    assert!(says("came faster than they could be shown, and are left out here"));
}

/// Does all that is asked until it is in the new system, where each command prints for ever, but for one.
#[derive(Default)]
struct FloodingSystem {
    looks: AtomicU32,
}

impl FloodingSystem {
    async fn flood(wire: &mut Wire) {
        let until = Instant::now() + FLOOD / 2;
        while wire.open && Instant::now() < until {
            wire.send(vec![b'o'; 200 << 10]).await;
            wire.complain(vec![b'e'; 200 << 10]).await;
        }
    }
}

impl Script for FloodingSystem {
    async fn agent(&self, wire: &mut Wire, host: &Host) {
        if !wire.attached(0).await {
            return;
        }
        wire.say(&AgentReply::Event(event(1, EventKind::Attempt(1)))).await;
        wire.say(&AgentReply::Event(event(2, EventKind::Written(vec![("vda".into(), 8)])))).await;
        wire.say(&AgentReply::Event(event(3, EventKind::HostKeys(vec![host.key_line()])))).await;
        wire.say(&AgentReply::Event(event(4, EventKind::Outcome(Outcome::Succeeded)))).await;
        while let Some(request) = wire.next::<AgentRequest>().await {
            if request == (AgentRequest::Ack { seq: 4 }) {
                host.turn_into(Boot::New);
                wire.say(&AgentReply::Leaving(Leaving::Finish(Finish::Reboot))).await;
                return;
            }
        }
    }

    async fn command(&self, wire: &mut Wire, command: &str) {
        if command.contains("true check") || self.looks.fetch_add(1, Ordering::Relaxed) == 0 {
            return Self::flood(wire).await;
        }
        wire.send(b"anemos: boot new\nanemos: root 56-78\nanemos: os New\n".to_vec()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_system_that_floods() {
    let hostile = Host::start(5, FloodingSystem::default()).await;
    let deadlines = "deadlines = { connect = \"2m\", reboot = \"2m\", verify = \"6s\" }";
    let workstation = Workstation::new(&[("bad", &hostile)], deadlines);
    let output = run(&mut workstation.anemos("up --yes hosts.toml"), "a new system that floods");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("New is up, but the check `true check` failed until deadline `verify`"), "{said}");
    // How much its commands can say is up to their deadlines.
    assert!(hostile.said() > MOST / 4, "{} bytes are no flood", hostile.said());
    workstation.assert_only_a_run(&["bad"]);
}
