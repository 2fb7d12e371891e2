//! Commands of the host's: run with a deadline, their last words kept for the error.

use std::io::{self, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Failure;

/// The tool of apt that fetches a file.
pub(crate) const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// How much of a command's stderr an error may quote.
const LAST_WORDS: u64 = 4096;

/// A running command's output. Reading to its end also checks that it succeeded; dropping it earlier kills it.
pub(crate) struct Output {
    name: String,
    child: Arc<Mutex<Child>>,
    stdout: ChildStdout,
    stderr: Option<JoinHandle<String>>,
    /// Dropping it tells the watchdog that the command has ended; `watchdog` then returns whether it killed the
    /// command.
    over: Option<Sender<()>>,
    watchdog: Option<JoinHandle<bool>>,
    deadline: Duration,
    finished: Option<Result<(), Failure>>,
}

fn kill(child: &Mutex<Child>) {
    // The only possible error is that the child has ended already.
    let _ = child.lock().unwrap_or_else(PoisonError::into_inner).kill();
}

impl Output {
    /// Starts `command`, to be killed after `deadline`.
    pub(crate) fn start(mut command: Command, deadline: Duration) -> Result<Self, Failure> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", "C");
        let mut child = command.spawn().map_err(|error| Failure::Connection(format!("running {name}: {error}")))?;
        let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            unreachable!("both were asked for");
        };
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            // Whatever could be read is quoted; the rest is drained so that the command never blocks on it.
            let _ = stderr.by_ref().take(LAST_WORDS).read_to_end(&mut text);
            let _ = io::copy(&mut stderr, &mut io::sink());
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        let child = Arc::new(Mutex::new(child));
        let (over, bell) = channel::<()>();
        let watched = Arc::clone(&child);
        let watchdog = std::thread::spawn(move || {
            let late = bell.recv_timeout(deadline) == Err(RecvTimeoutError::Timeout);
            if late {
                kill(&watched);
            }
            late
        });
        Ok(Self {
            name,
            child,
            stdout,
            stderr: Some(stderr),
            over: Some(over),
            watchdog: Some(watchdog),
            deadline,
            finished: None,
        })
    }

    /// Waits until the command has ended; an error says how it failed.
    fn finish(&mut self) -> Result<(), Failure> {
        if let Some(finished) = &self.finished {
            return finished.clone();
        }
        let said = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let status = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
        drop(self.over.take());
        let late = self.watchdog.take().is_some_and(|thread| thread.join().unwrap_or(false));
        let finished = match status {
            _ if late => Err(Failure::Timeout(format!("{} took more than {} s", self.name, self.deadline.as_secs()))),
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::Connection(if said.is_empty() {
                format!("{}: {status}", self.name)
            } else {
                format!("{}: {said} ({status})", self.name)
            })),
            Err(error) => Err(Failure::Connection(format!("waiting for {}: {error}", self.name))),
        };
        self.finished = Some(finished.clone());
        finished
    }
}

impl Read for Output {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.stdout.read(buf)?;
        if read == 0 && !buf.is_empty() {
            self.finish().map_err(io::Error::other)?;
        }
        Ok(read)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.finished.is_none() {
            kill(&self.child);
            let _ = self.finish();
        }
    }
}

/// Runs a command that says little, and gives what it said.
pub(crate) fn run(command: Command, deadline: Duration, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut output = Output::start(command, deadline)?;
    let mut bytes = Vec::new();
    output.by_ref().take(limit + 1).read_to_end(&mut bytes).map_err(failure_of)?;
    if bytes.len() as u64 > limit {
        return Err(Failure::TooLong { expected: limit });
    }
    Ok(bytes)
}

/// The failure that an I/O error carries, or what it says.
pub(crate) fn failure_of(error: io::Error) -> Failure {
    match error.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(error) => Failure::Connection(error.to_string()),
    }
}
