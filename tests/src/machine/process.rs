//! The QEMU process, its watcher, and why it ended.

use super::OnPanic;
use crate::netns::Namespace;
use crate::watch::Serial;
use crate::{Context, Error, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A QEMU that is watched from its first to its last moment.
pub struct Process {
    shared: Arc<Shared>,
    watcher: Option<JoinHandle<()>>,
    log: PathBuf,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pid: Option<Pid>,
    panicked: Option<String>,
    ended: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    /// Starts QEMU from a thread that lives as long as it does.
    pub fn start(
        mut command: Command,
        dir: &Path,
        namespace: Arc<Namespace>,
        on_panic: OnPanic,
    ) -> Result<(Self, ChildStdin, ChildStdout)> {
        let log = dir.join("qemu.log");
        let stderr = File::create(&log).context(format!("cannot make {}", log.display()))?;
        command.current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        let serial = dir.join("serial.log");
        let (started, starting) = sync_channel(1);
        let watcher = thread::spawn(move || {
            let mut spawn = || -> Result<Child> {
                namespace.enter()?;
                command.spawn().context("cannot start QEMU")
            };
            let mut child = match spawn() {
                Ok(child) => child,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            watched.lock().pid = Pid::from_raw(child.id().cast_signed());
            let streams = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
            let _ = started.send(Ok(streams));
            watch(&mut child, &watched, &mut Serial::new(&serial), on_panic);
        });
        let streams = starting.recv().map_err(|_| Error::new("the thread that starts QEMU died"))?;
        let process = Self { shared, watcher: Some(watcher), log };
        let (stdin, stdout) = streams?;
        Ok((process, stdin, stdout))
    }

    /// Why it ended, if it did.
    pub fn ended(&self) -> Option<String> {
        self.shared.lock().ended.clone()
    }

    /// The first fatal line on the serial console.
    pub fn panicked(&self) -> Option<String> {
        self.shared.lock().panicked.clone()
    }

    /// Waits for its end.
    pub fn wait(&self, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            if let Some(cause) = &state.ended {
                return Ok(cause.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("QEMU did not end within {} s", limit.as_secs());
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// An error with what QEMU itself had to say.
    pub fn explain(&self, error: &Error) -> Error {
        let words = fs::read_to_string(&self.log).unwrap_or_default();
        Error::new(format!("{error}\n{}", words.trim()))
    }

    /// Ends it now and waits until it is gone.
    pub fn kill(&mut self) {
        {
            // The watcher forgets the pid under this lock before it reaps the process, so the pid is still the
            // process's own.
            let state = self.shared.lock();
            if let Some(pid) = state.pid {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

fn watch(child: &mut Child, shared: &Shared, serial: &mut Serial, on_panic: OnPanic) {
    loop {
        let fatal = serial.fatal();
        let mut state = shared.lock();
        if let Some(line) = fatal
            && state.panicked.is_none()
        {
            if on_panic == OnPanic::End {
                let _ = child.kill();
            }
            state.panicked = Some(line);
        }
        // Reaped only under the lock, so that nobody sends a signal to a pid that is somebody else's by then.
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => {
                state.pid = None;
                // Written between the last look at the log and the end.
                if state.panicked.is_none() {
                    state.panicked = serial.fatal();
                }
                let cause = match (&state.panicked, on_panic) {
                    (Some(line), OnPanic::End) => line.clone(),
                    _ => format!("QEMU ended: {status}"),
                };
                state.ended = Some(cause);
                shared.changed.notify_all();
                return;
            }
            Err(error) => {
                state.pid = None;
                state.ended = Some(format!("cannot watch QEMU: {error}"));
                shared.changed.notify_all();
                return;
            }
        }
        drop(state);
        thread::sleep(Duration::from_millis(50));
    }
}
