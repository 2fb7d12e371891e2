//! Runs the payload: its environment, its output, its end.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anemos_host::disks::dev_path;
use anemos_proto::Secret;
use anemos_proto::event::{EventKind, Level, Progress, StepOutcome, Stream, Unit};
use anemos_proto::host::Firmware;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::app::App;
use crate::cgroup::Cgroup;
use crate::helper::{Call, Plea};
use crate::lines::Lines;
use crate::machine::Input;
use crate::paths::PATH;
use crate::sys::{ChildSetup, in_own_session};
use crate::{guard, memory, seccomp, unpack};

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);
/// Time after the payload's end in which output of processes that it left behind is still read.
const DRAIN: Duration = Duration::from_secs(2);
/// Bytes of output that are taken from a pipe before others of the agent's tasks have their turn.
const PIECE: usize = 16 * 1024;

/// One attempt at the payload.
pub struct Runner {
    app: Arc<App>,
    /// Disks that may be written, by name.
    disks: Vec<String>,
    step: u32,
    /// The step that the payload itself has begun last.
    inner: Option<u32>,
    stdout: Lines,
    stderr: Lines,
}

impl Runner {
    /// Begins the step of an attempt that may write `disks`.
    pub fn new(app: Arc<App>, disks: Vec<String>) -> Self {
        let step = app.log.begin("payload", None);
        Self { app, disks, step, inner: None, stdout: Lines::default(), stderr: Lines::default() }
    }

    /// Runs the payload until it ends, or ends it when a reason comes over `stop`. `calls` are what the payload says
    /// through the helper.
    pub async fn run(
        mut self,
        calls: &mut mpsc::UnboundedReceiver<Plea>,
        stop: &mut mpsc::UnboundedReceiver<String>,
    ) -> Result<(), String> {
        let result = match Cgroup::new(&self.app) {
            Ok(cgroup) => self.run_in(&cgroup, calls, stop).await,
            Err(reason) => Err(reason),
        };
        let outcome = || match &result {
            Ok(()) => StepOutcome::Done,
            Err(reason) => StepOutcome::Failed(reason.clone()),
        };
        if let Some(inner) = self.inner {
            self.app.log.end(inner, outcome());
        }
        self.app.log.end(self.step, outcome());
        result
    }

    async fn run_in(
        &mut self,
        cgroup: &Cgroup,
        calls: &mut mpsc::UnboundedReceiver<Plea>,
        stop: &mut mpsc::UnboundedReceiver<String>,
    ) -> Result<(), String> {
        guard::open(&self.app, &self.disks).await?;
        if self.app.run.raw_access {
            note_raw_access(&self.app);
        }
        let result = match self.start(cgroup).await {
            Ok(child) => self.attend(child, cgroup, calls, stop).await,
            Err(reason) => Err(reason),
        };
        cgroup.kill().await;
        self.weigh(result, cgroup)?;
        match guard::missed(&self.app).await {
            Some(why) => Err(format!("the payload ended well, but {why}")),
            None => Ok(()),
        }
    }

    /// Adds to the payload's end that it reached its limits.
    fn weigh(&self, result: Result<(), String>, cgroup: &Cgroup) -> Result<(), String> {
        if let Some(crowded) = cgroup.was_crowded() {
            self.app.log.note(Level::Warning, format!("the payload {crowded}"));
        }
        match (result, cgroup.ran_out()) {
            (Err(reason), Some(memory)) => Err(format!("{reason}, and {memory}")),
            (Ok(()), Some(memory)) => {
                self.app.log.note(Level::Warning, format!("the payload {memory}"));
                Ok(())
            }
            (result, None) => result,
        }
    }

    async fn start(&self, cgroup: &Cgroup) -> Result<Child, String> {
        let app = self.app.clone();
        let dir = self.app.paths.payload();
        let digest = self.app.payload();
        let is_new = digest != self.app.run.payload;
        let archive = if is_new { app.paths.new_payload_archive() } else { app.paths.payload_archive() };
        let (to, machine) = (dir.clone(), app.paths.machine);
        let unpacking = move || {
            if machine {
                renew(&to)?;
            }
            unpack::payload(&archive, digest, &to)
        };
        tokio::task::spawn_blocking(unpacking)
            .await
            .map_err(|e| e.to_string())
            .and_then(|done| done.map_err(|e| e.to_string()))
            .map_err(|e| format!("the payload could not be unpacked: {e}"))?;
        let environment = environment(&app, &self.disks).map_err(|e| format!("the payload's files: {e}"))?;
        let (program, arguments) = program(&dir)?;
        let mut command = Command::new(&program);
        command.args(arguments);
        command.env_clear().envs(environment).current_dir(&dir).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let cgroup = cgroup.door().map_err(|e| format!("the payload's cgroup can't be entered: {e}"))?;
        let mut setup = ChildSetup { cgroup, ..ChildSetup::default() };
        if machine {
            setup.score = Some("0");
            setup.filter = seccomp::for_payload(app.run.raw_access);
        }
        in_own_session(&mut command, setup);
        command.spawn().map_err(|e| format!("the payload's {} could not be started: {e}", program.display()))
    }

    async fn attend(
        &mut self,
        mut child: Child,
        cgroup: &Cgroup,
        calls: &mut mpsc::UnboundedReceiver<Plea>,
        stop: &mut mpsc::UnboundedReceiver<String>,
    ) -> Result<(), String> {
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let mut pipes = Pipes {
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            first: vec![0; PIECE],
            second: vec![0; PIECE],
        };
        let mut stopped: Option<String> = None;
        let (mut kill_at, mut give_up_at) = (None, None);
        let ended = loop {
            tokio::select! {
                (stream, n) = pipes.read() => self.output(stream, &mut pipes, n).await,
                Some(plea) = calls.recv() => {
                    // Reads the payload's output up to now first, so that the log has it before the call.
                    for _ in 0..64 {
                        let Some((stream, n)) = pipes.read_ready().await else { break };
                        self.output(stream, &mut pipes, n).await;
                    }
                    self.call(plea);
                }
                Some(reason) = stop.recv(), if stopped.is_none() => {
                    self.app.log.note(Level::Warning, format!("ending the payload: {reason}"));
                    stopped = Some(reason);
                    kill_at = Some(Instant::now() + GRACE);
                    cgroup.signal(group, Signal::TERM);
                }
                () = until(kill_at) => {
                    (kill_at, give_up_at) = (None, Some(Instant::now() + GRACE));
                    cgroup.signal(group, Signal::KILL);
                }
                () = until(give_up_at) => {
                    break Err(io::Error::other("it can't be killed; it may be stuck in a disk or network operation"));
                }
                status = child.wait() => break status,
            }
        };
        self.drain(&mut pipes).await;
        // Ends daemons that the payload left behind. They may hold the pipes open; once they are gone the rest of the
        // pipes can be read to the end.
        cgroup.signal(group, Signal::KILL);
        cgroup.kill().await;
        self.drain(&mut pipes).await;
        let rest = [(Stream::Stdout, self.stdout.finish()), (Stream::Stderr, self.stderr.finish())];
        for (stream, line) in rest {
            if let Some(line) = line {
                self.app.log.append(EventKind::Log { stream, line });
            }
        }
        stopped.map_or_else(|| judge(ended), Err)
    }

    async fn drain(&mut self, pipes: &mut Pipes) {
        let draining = async {
            while pipes.open() {
                let (stream, n) = pipes.read().await;
                self.output(stream, pipes, n).await;
            }
        };
        let _ = tokio::time::timeout(DRAIN, draining).await;
    }

    /// Takes what was read to the log. Then the agent's other tasks have their turn: else a flood would be read for a
    /// second and longer before anybody is served.
    async fn output(&mut self, stream: Stream, pipes: &mut Pipes, n: usize) {
        let (lines, buffer) = match stream {
            Stream::Stdout => (&mut self.stdout, &pipes.first),
            _ => (&mut self.stderr, &pipes.second),
        };
        let mut found = Vec::new();
        lines.push(&buffer[..n], |line| found.push(EventKind::Log { stream, line }));
        if n == 0 {
            match stream {
                Stream::Stdout => pipes.stdout = None,
                _ => pipes.stderr = None,
            }
        }
        if !found.is_empty() {
            self.app.log.append_all(found);
        }
        tokio::task::yield_now().await;
    }

    fn call(&mut self, plea: Plea) {
        let log = &self.app.log;
        match plea.call {
            Call::Step(name) => {
                if let Some(inner) = self.inner.take() {
                    log.end(inner, StepOutcome::Done);
                }
                self.inner = Some(log.begin(name, Some(self.step)));
            }
            Call::Progress { done, total, what } => {
                let step = self.inner.unwrap_or(self.step);
                log.progress(Progress { step, done, total, unit: Unit::Items, what });
            }
            Call::Note(text) => log.note(Level::Info, text),
        }
        let _ = plea.answer.send(Ok(()));
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The payload's output. A pipe is `None` once it is closed.
struct Pipes {
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    first: Vec<u8>,
    second: Vec<u8>,
}

impl Pipes {
    fn open(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }

    /// Reads from the pipe that has output first; 0 bytes mean that this pipe is at its end. Never returns once both
    /// are closed.
    async fn read(&mut self) -> (Stream, usize) {
        async fn one(pipe: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> usize {
            match pipe {
                Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
                None => std::future::pending().await,
            }
        }
        tokio::select! {
            n = one(&mut self.stdout, &mut self.first) => (Stream::Stdout, n),
            n = one(&mut self.stderr, &mut self.second) => (Stream::Stderr, n),
        }
    }

    /// Reads output that is there already; `None` if there is none.
    async fn read_ready(&mut self) -> Option<(Stream, usize)> {
        tokio::select! {
            biased;
            got = self.read() => Some(got),
            () = std::future::ready(()) => None,
        }
    }
}

fn judge(ended: io::Result<ExitStatus>) -> Result<(), String> {
    use std::os::unix::process::ExitStatusExt;
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(match (status.code(), status.signal()) {
            (Some(code), _) => format!("the payload exited with status {code}"),
            (None, signal) => format!("the payload was killed by signal {}", signal.unwrap_or(0)),
        }),
        Err(e) => Err(format!("the payload did not end: {e}")),
    }
}

/// The program in a payload directory that is to be run, and its arguments.
fn program(dir: &Path) -> Result<(PathBuf, &'static [&'static str]), String> {
    let deploy = dir.join("deploy");
    if let Ok(found) = fs::metadata(&deploy) {
        if found.permissions().mode() & 0o111 == 0 {
            return Err("the payload's `deploy` is not executable: chmod +x it".into());
        }
        return Ok((deploy, &[]));
    }
    if dir.join("IMGBUILD").exists() {
        if !cfg!(feature = "imgbuild") {
            return Err(
                "the payload is an IMGBUILD, and this deployment began with a script: the agent that was sent for \
                 it can't build one. Give `anemos retry` a script, or end this and begin anew with `anemos up`"
                    .into(),
            );
        }
        let agent = std::env::current_exe().map_err(|e| format!("the agent's own program can't be found: {e}"))?;
        // Requests to flush are ignored (`nosync`), because the agent flushes everything at the end.
        return Ok((agent, &["nosync", "/proc/self/exe", "imgbuild"]));
    }
    Err("the payload has neither `deploy` nor `IMGBUILD`".into())
}

/// Makes the files and directories that the payload is promised, and returns its environment.
fn environment(app: &App, disks: &[String]) -> io::Result<Vec<(String, String)>> {
    let (paths, run, host) = (&app.paths, &app.run, &app.host);
    let secrets = paths.run.join("secrets");
    private_dir(&secrets)?;
    for (name, secret) in &run.secrets {
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(io::Error::other(format!("`{name}` is no file name for a secret")));
        }
        private_file(&secrets.join(name), secret.expose())?;
    }
    let keys = paths.run.join("authorized_keys");
    fs::write(&keys, run.target_keys.join("\n") + "\n")?;
    fs::create_dir_all(&paths.target)?;
    let devices: Vec<String> = disks.iter().map(|name| dev_path(name)).collect();
    let firmware = if host.firmware == Firmware::Bios { "bios" } else { "uefi" };
    let mirror = run.mirror.as_ref().or(host.mirror.as_ref()).cloned().unwrap_or_default();
    let show = |path: &Path| path.to_string_lossy().into_owned();
    let mut environment: Vec<(String, String)> = [
        ("ANEMOS_HOST", run.host.clone()),
        ("ANEMOS_RUN", run.run.to_string()),
        ("ANEMOS_DISK", devices.first().cloned().unwrap_or_default()),
        ("ANEMOS_DISKS", devices.join(" ")),
        ("ANEMOS_TARGET", show(&paths.target)),
        ("ANEMOS_PAYLOAD", show(&paths.payload())),
        ("ANEMOS_SECRETS", show(&secrets)),
        ("ANEMOS_AUTHORIZED_KEYS", show(&keys)),
        ("ANEMOS_SSH_PORT", host.ssh_port.to_string()),
        ("ANEMOS_BOOT", firmware.into()),
        ("ANEMOS_ARCH", host.arch.clone()),
        ("ANEMOS_KERNEL", show(&paths.anemos.join("kernel"))),
        ("ANEMOS_CONSOLE", console_words(&fs::read_to_string("/proc/cmdline").unwrap_or_default())),
        ("ANEMOS_MIRROR", mirror),
        ("ANEMOS_SECURITY_MIRROR", host.security_mirror.clone().unwrap_or_default()),
        ("ANEMOS_SOCKET", show(&paths.socket())),
        ("ANEMOS_FILES", show(&paths.anemos)),
        ("PATH", PATH.into()),
        ("HOME", "/root".into()),
        ("LANG", "C.UTF-8".into()),
        ("DEBIAN_FRONTEND", "noninteractive".into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let text = |secret: &Secret| String::from_utf8_lossy(secret.expose()).into_owned();
    environment.extend(host.proxies.iter().map(|(name, value)| (name.clone(), text(value))));
    environment.extend(run.vars.iter().map(|(name, value)| (format!("ANEMOS_VAR_{name}"), value.clone())));
    Ok(environment)
}

pub fn console_words(cmdline: &str) -> String {
    let words: Vec<&str> = cmdline.split_whitespace().filter(|word| word.starts_with("console=")).collect();
    words.join(" ")
}

fn private_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

fn private_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    io::Write::write_all(&mut file, bytes)
}

/// Takes every disk for written, from before a payload with raw access starts.
fn note_raw_access(app: &App) {
    // The mark is for an agent after this one.
    if let Err(e) = fs::write(app.paths.raw_mark(), "") {
        app.log.note(Level::Warning, format!("an agent that is started again won't know of raw access: {e}"));
    }
    let text = "the payload has raw access (`raw_access` in hosts.toml): the disks are taken for written from now on";
    app.log.note(Level::Warning, text);
    app.tell(Input::Written);
}

/// Mounts an empty file system over the payload's directory in place of the one that is there, which an earlier attempt
/// may have filled, and may have mounted disks in.
fn renew(dir: &Path) -> io::Result<()> {
    // Something larger may be mounted there.
    let Some(size) = memory::size_of(dir).map(|size| size.min(memory::total() / 4)) else { return Ok(()) };
    // EINVAL: nothing is mounted there any more.
    while unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
    let data = CString::new(format!("size={size},mode=0755"))?;
    Ok(mount(c"tmpfs", dir, c"tmpfs", MountFlags::NOSUID | MountFlags::NODEV, &*data)?)
}

/// Kills the processes of a payload whose agent broke, and takes over what they may have done.
pub async fn kill_leftovers(app: &App) {
    Cgroup::left_behind(app).kill().await;
    if app.paths.raw_mark().exists() {
        app.tell(Input::Written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_words_are_found() {
        let cmdline = "BOOT_IMAGE=/vmlinuz root=UUID=1 ro console=tty0 console=ttyS0,115200n8 quiet\n";
        assert_eq!(console_words(cmdline), "console=tty0 console=ttyS0,115200n8");
        assert_eq!(console_words("quiet"), "");
    }

    #[tokio::test]
    async fn a_payload_that_nothing_would_keep_in_is_not_started() {
        let dir = tempfile::tempdir().unwrap();
        let app = App::for_test(dir.path(), true);
        let ((_call, mut calls), (_stop, mut stop)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        // On this machine no cgroups are where init mounts them. A payload that is started is unpacked first.
        let why = Runner::new(app, Vec::new()).run(&mut calls, &mut stop).await.unwrap_err();
        assert!(why.contains("there is no cgroup for the payload"), "{why}");
    }

    /// What a child can't do to itself keeps it from becoming the program.
    #[tokio::test]
    async fn nothing_starts_unfiltered_or_outside_its_cgroup() {
        let start = |setup: ChildSetup| {
            let mut command = Command::new("true");
            in_own_session(&mut command, setup);
            command.spawn().map(drop)
        };
        start(ChildSetup::default()).unwrap();
        let nonsense = libc::sock_filter { code: 0xffff, jt: 0, jf: 0, k: 0 };
        start(ChildSetup { filter: vec![nonsense], ..ChildSetup::default() }).unwrap_err();
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        start(ChildSetup { cgroup: Some(full.into()), ..ChildSetup::default() }).unwrap_err();
        let gone = Cgroup::at(Path::new("/nowhere"));
        gone.door().unwrap_err();
    }

    #[test]
    fn what_runs_is_told_plainly() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        assert!(program(dir.path()).unwrap_err().contains("neither"));
        let deploy = dir.path().join("deploy");
        fs::write(&deploy, "#!/bin/sh\n")?;
        fs::set_permissions(&deploy, fs::Permissions::from_mode(0o644))?;
        assert!(program(dir.path()).unwrap_err().contains("chmod +x"));
        fs::set_permissions(&deploy, fs::Permissions::from_mode(0o755))?;
        assert_eq!(program(dir.path()), Ok((deploy.clone(), &[][..])));
        fs::write(dir.path().join("IMGBUILD"), "target=debian\n")?;
        assert_eq!(program(dir.path()), Ok((deploy.clone(), &[][..])), "a script of one's own comes first");
        fs::remove_file(deploy)?;
        if cfg!(feature = "imgbuild") {
            assert_eq!(program(dir.path()).unwrap().1.last(), Some(&"imgbuild"));
        } else {
            assert!(program(dir.path()).unwrap_err().contains("began with a script"));
        }
        Ok(())
    }
}
