//! Runs `anemos` as a user would, with a home of its own, and keeps everything it says on file.

use crate::command::{UNDER_US, program, run, under_us};
use crate::machine::Machine;
use crate::{Context, Error, Lab, Result, bail, checkout, evidence};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A workstation: a home directory, a hosts.toml, and the `anemos` executable.
#[derive(Debug)]
pub struct Anemos {
    binary: PathBuf,
    dir: PathBuf,
    next: AtomicU32,
}

impl Anemos {
    /// A new workstation for a scenario. The executable is `$ANEMOS_BIN`, or what `make build` leaves.
    pub fn new(lab: &Lab, name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let binary = match std::env::var_os("ANEMOS_BIN") {
            Some(path) => PathBuf::from(path),
            None => checkout().join("target/release/anemos"),
        };
        if !binary.is_file() {
            bail!("there is no {}: run `make build` first", binary.display());
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = lab.path("runs").join(format!("{name}-{}-{number}", std::process::id()));
        for part in ["home", "state"] {
            let part = dir.join(part);
            fs::create_dir_all(&part).context(format!("cannot make {}", part.display()))?;
        }
        let workstation = Self { binary, dir, next: AtomicU32::new(0) };
        workstation.tell_apt("")?;
        Ok(workstation)
    }

    /// Has the workstation's apt know what this configuration says of archives of past versions, and nothing else: what
    /// it has built in leads out of the lab.
    pub fn tell_apt(&self, configuration: &str) -> Result<()> {
        self.write("apt.conf", &format!("#clear Acquire::Snapshots::URI;\n{configuration}")).map(|_| ())
    }

    /// The workstation's directory: hosts.toml, journals, transcripts.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The executable.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// What `XDG_STATE_HOME` is.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Gives the state directory a file system of its own, which can be full.
    pub fn small_state(&self) -> Result<SmallState> {
        let dir = self.state();
        run(program("mount").args(["-t", "tmpfs", "-o", "size=4m,mode=0700", "none"]).arg(&dir))?;
        Ok(SmallState { dir })
    }

    /// Writes a file in the workstation's directory, directories above it included.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        let parent = path.parent().expect("a file in a directory has a parent");
        fs::create_dir_all(parent).context(format!("cannot make {}", parent.display()))?;
        fs::write(&path, text).context(format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Writes an executable `deploy` with this text, and gives its directory.
    pub fn payload(&self, name: &str, deploy: &str) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let script = self.write(&format!("{name}/deploy"), deploy)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("cannot make deploy executable")?;
        Ok(self.dir.join(name))
    }

    /// `anemos` with the arguments, ready to be changed and started.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = under_us(&self.binary);
        command
            .args(arguments)
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.join("home"))
            .env("XDG_STATE_HOME", self.state())
            .env("APT_CONFIG", self.dir.join("apt.conf"))
            .env("TERM", "dumb")
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null());
        command
    }

    /// A shell script on a terminal of its own, ready to be started. In it `"$anemos"` is the executable; what the
    /// terminal shows comes on standard output.
    pub fn on_terminal(&self, script: &str) -> Command {
        let like = self.command::<&str>([]);
        let mut command = under_us("script");
        command
            .args(["-qec", script, "/dev/null"])
            .current_dir(&self.dir)
            .env_clear()
            .envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("anemos", &self.binary)
            .env("TERM", "xterm")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }

    /// Starts `anemos`.
    pub fn spawn<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Running> {
        self.start(self.command(arguments))
    }

    /// Starts what [`Anemos::command`] gave.
    pub fn start(&self, mut command: Command) -> Result<Running> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let first = command
            .get_args()
            .nth(UNDER_US.len() + 1)
            .map(|arg| arg.to_string_lossy().into_owned())
            .unwrap_or_default();
        let stdout = self.dir.join(format!("{number}-{first}.out"));
        let stderr = self.dir.join(format!("{number}-{first}.err"));
        for (what, path) in [("stdout", &stdout), ("stderr", &stderr)] {
            evidence::note(format!("anemos {first}, {what}"), path);
        }
        let open = |path: &Path| File::create(path).context(format!("cannot make {}", path.display()));
        let child = command
            .stdout(open(&stdout)?)
            .stderr(open(&stderr)?)
            .spawn()
            .context(format!("cannot start {}", self.binary.display()))?;
        Ok(Running { child: Some(child), what: format!("anemos {first}"), stdout, stderr })
    }

    /// Runs `anemos` to its end.
    pub fn run<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        limit: Duration,
    ) -> Result<Finished> {
        self.spawn(arguments)?.wait(limit)
    }
}

/// A file system with journals. Dropping it ends it.
#[derive(Debug)]
pub struct SmallState {
    dir: PathBuf,
}

impl SmallState {
    fn filler(&self) -> PathBuf {
        self.dir.join("fill")
    }

    /// Fills it to the last page; what lies there may still grow within its own last page.
    pub fn fill(&self) -> Result<()> {
        let path = self.filler();
        let mut file = File::create(&path).context(format!("cannot make {}", path.display()))?;
        loop {
            match file.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context(format!("cannot fill {}", path.display())),
            }
        }
    }

    /// Makes room again.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("cannot make room")
    }
}

impl Drop for SmallState {
    fn drop(&mut self) {
        // A process that was not waited for may still hold a journal open.
        if let Err(error) = run(program("umount").arg("--lazy").arg(&self.dir)) {
            eprintln!("{error}");
        }
    }
}

/// The part of a `[hosts.NAME]` table that says how to reach a machine and which disk is its own.
pub fn host_table(lab: &Lab, name: &str, machine: &Machine) -> String {
    format!(
        "[hosts.{name}]\naddress = \"127.0.0.1\"\nport = {}\nuser = \"root\"\nidentity_file = {:?}\n\
         known_hosts = {:?}\ndisk = {{ serial = \"anemos-root\" }}\n",
        machine.port(),
        lab.key().display().to_string(),
        machine.dir().join("known_hosts").display().to_string(),
    )
}

/// An `anemos` that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    what: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().ok_or_else(|| Error::new(format!("{} has ended", self.what)))?;
        let pid = Pid::from_raw(child.id().cast_signed()).ok_or_else(|| Error::new("a process without an id"))?;
        kill_process(pid, signal).context(format!("cannot signal {}", self.what))
    }

    /// The number of its process.
    pub fn id(&self) -> Result<u32> {
        self.child.as_ref().map(Child::id).ok_or_else(|| Error::new(format!("{} has ended", self.what)))
    }

    /// Waits for something in what it complains about.
    pub fn wait_stderr(&self, text: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while !self.stderr().contains(text) {
            if Instant::now() >= end {
                bail!("{}: no “{text}” within {} s:\n{}", self.what, limit.as_secs(), self.stderr());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Leaves it as a person does: with Ctrl-C until it has ended.
    pub fn leave(mut self, limit: Duration) -> Result<Finished> {
        let end = Instant::now() + limit;
        while self.ended()?.is_none() && Instant::now() < end {
            self.signal(Signal::INT)?;
            thread::sleep(Duration::from_millis(500));
        }
        self.wait(Duration::ZERO)
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        let mut child = self.child.take().ok_or_else(|| Error::new("ended twice"))?;
        child.wait().context(format!("cannot wait for {}", self.what)).map(drop)
    }

    /// What it printed so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it complained about so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// The JSON lines that it printed so far and that are complete.
    pub fn json(&self) -> Vec<Value> {
        lines_of_json(&self.stdout()).collect()
    }

    /// Waits for a JSON line that satisfies.
    pub fn wait_json(&mut self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let end = Instant::now() + limit;
        loop {
            // Asked before the output is read: what it printed last is then surely in it.
            let ended = self.ended()?;
            if let Some(value) = self.json().into_iter().find(|value| wanted(value)) {
                return Ok(value);
            }
            if let Some(status) = ended {
                bail!("{} ended ({status}) before {what}:\n{}", self.what, self.stderr());
            }
            if Instant::now() >= end {
                bail!("{}: no {what} within {} s", self.what, limit.as_secs());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for its end; at the deadline it is killed, which is an error.
    pub fn wait(mut self, limit: Duration) -> Result<Finished> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                self.child = None;
                return Ok(Finished { status, stdout: self.stdout(), stderr: self.stderr() });
            }
            if Instant::now() >= end {
                bail!("{} did not end within {} s", self.what, limit.as_secs());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => child.try_wait().context(format!("cannot wait for {}", self.what)),
            None => bail!("{} has ended", self.what),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An `anemos` that ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// Everything it printed.
    pub stdout: String,
    /// Everything it complained about.
    pub stderr: String,
}

impl Finished {
    /// The exit status, or -1 after a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// The JSON lines.
    pub fn json(&self) -> Vec<Value> {
        self.json_lines().collect()
    }

    /// The JSON lines, each parsed when it is its turn: there may be millions.
    pub fn json_lines(&self) -> impl DoubleEndedIterator<Item = Value> {
        lines_of_json(&self.stdout)
    }

    /// The summary of a host.
    pub fn summary(&self, host: &str) -> Result<Value> {
        self.json_lines()
            .rfind(|line| line["type"] == "summary" && line["host"] == host)
            .ok_or_else(|| Error::new(format!("no summary of {host} in the output\n{}", self.stderr)))
    }
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn lines_of_json(text: &str) -> impl DoubleEndedIterator<Item = Value> {
    // A last line without its end is still being written.
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete.lines().filter_map(|line| serde_json::from_str(line).ok())
}
