//! QEMU's monitor protocol, over the standard input and output of the process.

use crate::{Context, Error, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Far longer than any command takes, and still an end.
const LIMIT: Duration = Duration::from_secs(60);

/// The connection to one QEMU.
pub struct Monitor {
    inner: Mutex<Inner>,
}

struct Inner {
    stdin: ChildStdin,
    answers: Receiver<Value>,
}

impl Monitor {
    /// Takes the process's standard input and output and waits for its greeting.
    pub fn new(stdin: ChildStdin, stdout: ChildStdout) -> Result<Self> {
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { break };
                let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
                // Events are not waited for: state is asked for where it matters.
                if value.get("event").is_none() && sender.send(value).is_err() {
                    break;
                }
            }
        });
        let monitor = Self { inner: Mutex::new(Inner { stdin, answers }) };
        {
            let inner = monitor.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.answers.recv_timeout(LIMIT).map_err(|_| Error::new("QEMU ended before it answered"))?;
        }
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Runs a command and gives what it returns.
    pub fn execute(&self, command: &str, arguments: &Value) -> Result<Value> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        inner.stdin.write_all(line.as_bytes()).context(format!("QEMU is gone, cannot send {command}"))?;
        let answer = inner
            .answers
            .recv_timeout(LIMIT)
            .map_err(|error| Error::new(format!("QEMU did not answer {command}: {error}")))?;
        if let Some(error) = answer.get("error") {
            bail!("QEMU refused {command}: {}", error["desc"].as_str().unwrap_or("no reason given"));
        }
        Ok(answer["return"].clone())
    }

    /// Runs a command of the monitor that is meant for people.
    pub fn human(&self, line: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", &json!({"command-line": line}))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Asks for a status until it satisfies.
    pub fn wait(&self, command: &str, limit: Duration, done: impl Fn(&Value) -> Result<bool>) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let status = self.execute(command, &json!({}))?;
            if done(&status)? {
                return Ok(());
            }
            if Instant::now() >= end {
                bail!("QEMU's {command} did not change within {} s: {status}", limit.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
