//! Running other programs: what they print is told line by line.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::problem::{Doing, Problem};
use crate::report::Report;

/// Lines of a failed program's output that its error repeats.
const LAST: usize = 6;
/// A line longer than this (bytes) is cut into several.
const LONGEST: u64 = 16 << 10;
/// How long the rest of a program's output is awaited after its end: a process that it left may keep the output open.
const REST: Duration = Duration::from_secs(1);
/// How long a program that was told to end gets before it is killed.
const MERCY: Duration = Duration::from_secs(5);

/// Stops a build: ends the program that runs, and no other begins.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    /// What must be done whether or not the build was stopped is being done.
    shielded: bool,
    running: Option<Pid>,
}

impl Cancel {
    /// Stops it, and waits until what runs has had time to end by itself.
    pub fn cancel(&self) {
        let running = {
            let mut state = self.state();
            state.stopped = true;
            state.running.filter(|_| !state.shielded)
        };
        if let Some(group) = running {
            let _ = kill_process_group(group, Signal::TERM);
            std::thread::sleep(MERCY);
            if self.state().running == Some(group) {
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
    }

    /// Whether it was stopped, and nothing more is to be done.
    pub fn is_cancelled(&self) -> bool {
        let state = self.state();
        state.stopped && !state.shielded
    }

    /// To be asked before what can't be undone, and in whatever takes long.
    ///
    /// # Errors
    /// It was stopped.
    pub fn check(&self) -> Result<(), Problem> {
        if self.is_cancelled() { Err(Problem::build("cancelled")) } else { Ok(()) }
    }

    /// Does what must be done, whether or not the build was or is stopped.
    pub fn shield<T>(&self, what: impl FnOnce() -> T) -> T {
        self.state().shielded = true;
        let done = what();
        self.state().shielded = false;
        done
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, command: &mut Command) -> Result<io::Result<Child>, Problem> {
        let mut state = self.state();
        if state.stopped && !state.shielded {
            return Err(Problem::build("cancelled"));
        }
        let child = command.process_group(0).spawn();
        state.running = child.as_ref().ok().map(Pid::from_child);
        Ok(child)
    }

    fn ended(&self) {
        self.state().running = None;
    }
}

/// What every step of a build needs.
#[derive(Clone)]
pub struct Context {
    /// Where it tells what it does.
    pub report: Arc<Report>,
    /// Who may stop it.
    pub cancel: Cancel,
}

/// What comes from a program that runs.
enum Heard {
    Line(String),
    /// Nobody can print any more.
    Silence,
    End,
}

/// A program to run.
pub struct Tool {
    command: Command,
    name: String,
    input: Option<Vec<u8>>,
}

/// How a program that ran to its end ended otherwise than well.
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// What it printed last.
    pub last: Vec<String>,
}

impl Ended {
    /// As a problem of nobody's file.
    pub fn problem(&self, name: &str) -> Problem {
        let said = if self.last.is_empty() { String::new() } else { format!(": {}", self.last.join(" | ")) };
        Problem::build(format!("{name} failed ({}){said}", self.status))
    }
}

impl Tool {
    /// A program, looked for in PATH, and where administrators' programs are.
    pub fn new(name: &str) -> Self {
        let path = find(name).unwrap_or_else(|| name.into());
        Self { command: Command::new(path), name: name.into(), input: None }
    }

    /// Another word for it.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// More words for it.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// An environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Without a variable of the caller's.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// No variables of the caller's.
    #[must_use]
    pub fn clean(mut self) -> Self {
        self.command.env_clear();
        self
    }

    /// Where it starts.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What it reads; nothing otherwise.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Runs it to its end. Lines of stdout and stderr go to `each`, in order.
    ///
    /// # Errors
    /// It can't be started, or the build was cancelled.
    pub fn watch(mut self, context: &Context, mut each: impl FnMut(&str)) -> Result<Result<(), Ended>, Problem> {
        let (reader, writer) = io::pipe().doing(|| format!("running {}", self.name))?;
        let output = writer.try_clone().doing(|| format!("running {}", self.name))?;
        self.command.stdout(output).stderr(writer);
        self.command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = context.cancel.start(&mut self.command)?.doing(|| format!("starting {}", self.name))?;
        // The writing ends that this process has.
        let Self { command, name, input } = self;
        drop(command);
        if let (Some(bytes), Some(mut stdin)) = (input, child.stdin.take()) {
            std::thread::spawn(move || drop(stdin.write_all(&bytes)));
        }
        let (tell, hear) = mpsc::channel();
        let lines = tell.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            while let Ok(Some(line)) = line(&mut reader) {
                if lines.send(Heard::Line(line)).is_err() {
                    return;
                }
            }
            let _ = lines.send(Heard::Silence);
        });
        let waiting = std::thread::spawn(move || {
            let status = child.wait();
            let _ = tell.send(Heard::End);
            status
        });
        let mut last = VecDeque::new();
        let mut until = None;
        loop {
            let heard = match until {
                None => hear.recv().ok(),
                Some(until) => hear.recv_timeout(Instant::saturating_duration_since(&until, Instant::now())).ok(),
            };
            match heard {
                Some(Heard::Line(line)) => {
                    each(&line);
                    last.push_back(line);
                    if last.len() > LAST {
                        last.pop_front();
                    }
                }
                Some(Heard::End) => until = Some(Instant::now() + REST),
                Some(Heard::Silence) | None => break,
            }
        }
        let status = waiting.join().map_err(|_| Problem::build(format!("waiting for {name} failed")))?;
        context.cancel.ended();
        let status = status.doing(|| format!("waiting for {name}"))?;
        context.cancel.check()?;
        Ok(if status.success() { Ok(()) } else { Err(Ended { status, last: last.into() }) })
    }

    /// Runs it to its good end; what it prints is told.
    ///
    /// # Errors
    /// It can't be started, it fails, or the build was cancelled.
    pub fn run(self, context: &Context) -> Result<(), Problem> {
        let (name, report) = (self.name.clone(), context.report.clone());
        self.watch(context, |line| report.output(line))?.map_err(|ended| ended.problem(&name))
    }

    /// Runs it to its good end, and returns what it printed on stdout; stderr is told.
    ///
    /// # Errors
    /// It can't be started, it fails, or the build was cancelled.
    pub fn output(self, context: &Context) -> Result<Vec<u8>, Problem> {
        let name = self.name.clone();
        self.try_output(context)?.map_err(|ended| ended.problem(&name))
    }

    /// Runs it with this process's terminal or whatever it has for one, and returns how it ended.
    ///
    /// # Errors
    /// It can't be started.
    pub fn on_terminal(mut self) -> Result<ExitStatus, Problem> {
        self.command.status().doing(|| format!("starting {}", self.name))
    }

    /// What it printed on stdout, however it ended. stderr is nobody's.
    ///
    /// # Errors
    /// It can't be started, or the build was cancelled.
    pub fn output_anyway(mut self, context: &Context) -> Result<Vec<u8>, Problem> {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = context.cancel.start(&mut self.command)?.doing(|| format!("starting {}", self.name))?;
        let output = child.wait_with_output();
        context.cancel.ended();
        context.cancel.check()?;
        Ok(output.doing(|| format!("waiting for {}", self.name))?.stdout)
    }

    /// What it printed on stdout, for a program that may fail; stderr is told.
    ///
    /// # Errors
    /// It can't be started, or the build was cancelled.
    pub fn try_output(mut self, context: &Context) -> Result<Result<Vec<u8>, Ended>, Problem> {
        self.command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = context.cancel.start(&mut self.command)?.doing(|| format!("starting {}", self.name))?;
        if let (Some(bytes), Some(mut stdin)) = (self.input.take(), child.stdin.take()) {
            std::thread::spawn(move || drop(stdin.write_all(&bytes)));
        }
        let output = child.wait_with_output();
        context.cancel.ended();
        let output = output.doing(|| format!("waiting for {}", self.name))?;
        context.cancel.check()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            said.lines().for_each(|line| context.report.output(line));
            return Ok(Ok(output.stdout));
        }
        let last = said.lines().rev().take(LAST).map(str::to_owned).collect::<Vec<_>>();
        Ok(Err(Ended { status: output.status, last: last.into_iter().rev().collect() }))
    }
}

/// A line, or what would be one if it were not so long.
fn line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    io::Read::take(&mut *reader, LONGEST).read_until(b'\n', &mut bytes)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// A program's place, in PATH or where administrators' programs are.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let is_program = |path: &PathBuf| {
        use std::os::unix::fs::PermissionsExt;
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(is_program)
}
