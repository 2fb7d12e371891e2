//! Drives `anemos-stage serve` as the controller does, over pipes.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anemos_proto::codec::{self, FrameReader};
use anemos_proto::config::{Deadlines, Finish, RunConfig};
use anemos_proto::hello::{Greeting, Hello, Role};
use anemos_proto::host::Inside;
use anemos_proto::ids::BlobRef;
use anemos_proto::stage::{KernelSource, Proxy, StagePlan, StageReply, StageRequest};
use anemos_proto::{Digest, Secret};

struct Stage {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    frames: FrameReader,
}

impl Stage {
    fn start(dir: &Path, more: &[&str]) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_anemos-stage")), dir, more)
    }

    /// Starts it by a command whose last argument, or itself, is the stage's executable.
    fn start_by(mut command: Command, dir: &Path, more: &[&str]) -> Self {
        #[expect(clippy::zombie_processes, reason = "`exit_code` waits for it, or the end of its input ends it")]
        let mut child = command
            .args(["serve", "--dir"])
            .arg(dir)
            .args(more)
            .env("SSH_CONNECTION", "10.0.2.2 51024 10.0.2.15 2222")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        input.write_all(&Hello::new(Role::Controller, "test").encode()).unwrap();
        let mut frames = FrameReader::new();
        let (mut greeting, mut buffer) = (Greeting::new(Role::Stage, "test"), [0; 4096]);
        loop {
            let got = output.read(&mut buffer).unwrap();
            assert!(got > 0, "the stage ended without a hello");
            if let Some(rest) = greeting.push(&buffer[..got]).unwrap() {
                frames.push(&rest);
                return Self { child, input: Some(input), output, frames };
            }
        }
    }

    fn say(&mut self, request: &StageRequest) {
        let frame = codec::encode_frame(request).unwrap();
        self.input.as_mut().unwrap().write_all(&frame).unwrap();
    }

    /// The next reply, or `None` at the end.
    fn hear(&mut self) -> Option<StageReply> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(reply) = self.frames.next_frame().unwrap() {
                return Some(reply);
            }
            match self.output.read(&mut buffer).unwrap() {
                0 => return None,
                got => self.frames.push(&buffer[..got]),
            }
        }
    }

    fn exit_code(mut self) -> Option<i32> {
        drop(self.input.take());
        self.child.wait().unwrap().code()
    }
}

fn private_dir() -> (tempfile::TempDir, std::path::PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("anemos");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    (parent, dir)
}

#[test]
fn probe_then_abort_leaves_nothing_behind() {
    let (_parent, dir) = private_dir();
    std::fs::write(dir.join("stage-1.packed"), "x").unwrap();
    let mut stage = Stage::start(&dir, &[]);
    stage.say(&StageRequest::Probe);
    let Some(StageReply::Facts(facts)) = stage.hear() else { panic!("no facts") };
    assert_eq!(facts.ssh_port, 2222);
    assert_eq!(facts.boot_id, std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim());
    assert!(dir.exists());
    stage.say(&StageRequest::Abort);
    assert_eq!(stage.hear(), Some(StageReply::Aborted));
    assert!(!dir.exists(), "the directory is gone before the answer comes");
    assert_eq!(stage.exit_code(), Some(0));
}

#[test]
fn the_end_of_the_connection_undoes_everything() {
    let (_parent, dir) = private_dir();
    let mut stage = Stage::start(&dir, &[]);
    drop(stage.input.take());
    assert_eq!(stage.hear(), None);
    assert_eq!(stage.exit_code(), Some(1));
    assert!(!dir.exists());
}

#[test]
fn a_second_stage_is_told_of_the_first() {
    let (_parent, dir) = private_dir();
    let mut first = Stage::start(&dir, &[]);
    first.say(&StageRequest::Probe);
    assert!(matches!(first.hear(), Some(StageReply::Facts(_))));
    let mut second = Stage::start(&dir, &[]);
    let Some(StageReply::Failed(failure)) = second.hear() else { panic!("no failure") };
    assert!(failure.why.contains(&format!("pid {}", first.child.id())), "{failure:?}");
    assert_eq!(second.exit_code(), Some(1));
    assert!(dir.exists(), "the second one leaves the first one's directory alone");
    first.say(&StageRequest::Abort);
    assert_eq!(first.hear(), Some(StageReply::Aborted));
}

#[test]
fn requests_at_the_wrong_time_are_failures() {
    for request in [StageRequest::Boot, StageRequest::Blob { digest: anemos_proto::Digest([7; 32]), data: vec![1] }] {
        let (_parent, dir) = private_dir();
        let mut stage = Stage::start(&dir, &[]);
        stage.say(&request);
        let Some(StageReply::Failed(failure)) = stage.hear() else { panic!("no failure") };
        assert!(!failure.what.is_empty() && !failure.why.is_empty());
        assert!(!dir.exists());
        assert_eq!(stage.exit_code(), Some(1));
    }
}

/// As a controller would ask that knows no better.
fn any_plan() -> StagePlan {
    let blob = BlobRef { digest: Digest([7; 32]), size: 1 };
    StagePlan {
        lock: blob,
        agent: blob,
        payload: blob,
        base: Vec::new(),
        mirror: None,
        fallback_mirror: None,
        snapshot: None,
        kernel: KernelSource::Host,
        deadline_s: 60,
        run: RunConfig {
            run: "20261130-101500-0a1b".parse().unwrap(),
            host: "web".into(),
            host_key: Secret::new(vec![1; 32]),
            authorized_keys: Vec::new(),
            target_keys: Vec::new(),
            disks: Vec::new(),
            keeps: Vec::new(),
            raw_access: false,
            vars: Vec::new(),
            secrets: Vec::new(),
            mirror: None,
            finish: Finish::Hold,
            ssh_port: None,
            deadlines: Deadlines { dead_man_s: 1, payload_s: 1, ack_s: 1, start_s: 1, hang_s: 1 },
            payload: Digest([7; 32]),
        },
        fallback_snapshot: None,
        proxy: Proxy::Own,
    }
}

/// In namespaces of its own the stage says so, and does nothing that would reach the system around it.
#[test]
fn a_container_is_no_host() {
    for (flags, said) in [
        (&["--pid", "--fork", "--mount-proc"][..], "a PID namespace"),
        (&["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"], "a PID namespace"),
        (&["--user", "--map-root-user"], "a user namespace"),
    ] {
        if !Command::new("unshare").args(flags).arg("true").status().is_ok_and(|status| status.success()) {
            println!("skipped: no namespace by unshare {}", flags.join(" "));
            continue;
        }
        for request in [StageRequest::Stage(Box::new(any_plan())), StageRequest::Boot] {
            let (_parent, dir) = private_dir();
            let mut command = Command::new("unshare");
            command.args(flags).arg(env!("CARGO_BIN_EXE_anemos-stage"));
            let mut stage = Stage::start_by(command, &dir, &[]);
            stage.say(&StageRequest::Probe);
            let Some(StageReply::Facts(facts)) = stage.hear() else { panic!("no facts") };
            // On a machine that is a container itself, it is of that kind.
            let Inside::Container(kind) = facts.inside else { panic!("{:?}", facts.inside) };
            stage.say(&request);
            let Some(StageReply::Failed(failure)) = stage.hear() else { panic!("it does what it is told") };
            assert!(failure.why.contains(&format!("a container ({kind})")), "{failure:?}");
            assert!(!dir.exists());
            assert_eq!(stage.exit_code(), Some(1));
            if !Path::new("/.dockerenv").exists() {
                assert_eq!(kind, said, "{flags:?}");
            }
        }
    }
}

#[test]
fn a_signal_is_an_orderly_end() {
    let (_parent, dir) = private_dir();
    let mut stage = Stage::start(&dir, &[]);
    stage.say(&StageRequest::Probe);
    assert!(matches!(stage.hear(), Some(StageReply::Facts(_))));
    let pid = stage.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let Some(StageReply::Failed(failure)) = stage.hear() else { panic!("no failure") };
    assert!(failure.why.contains("signal 15"), "{failure:?}");
    assert!(!dir.exists());
}

/// A stage that is killed leaves the guardian behind, which ends once it has undone what there is to undo.
#[test]
fn the_guardian_ends_after_the_stage() {
    let (_parent, dir) = private_dir();
    let mut stage = Stage::start(&dir, &[]);
    stage.say(&StageRequest::Probe);
    assert!(matches!(stage.hear(), Some(StageReply::Facts(_))));
    let pid = stage.child.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let guardian = children.split_whitespace().next().expect("no guardian").to_owned();
    stage.child.kill().unwrap();
    // The guardian has standard output open, so the end of that is the guardian's.
    assert_eq!(stage.hear(), None);
    let deadline = Instant::now() + Duration::from_secs(10);
    let gone = || {
        let stat = std::fs::read_to_string(format!("/proc/{guardian}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ") || stat.contains(") X ")
    };
    while !gone() {
        assert!(Instant::now() < deadline, "process {guardian} goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
    stage.child.wait().unwrap();
}
