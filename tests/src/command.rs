//! Commands run through one place, so that a failure always carries the command's own words.

use crate::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Runs a command to its end and gives its standard output.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    run_with_input(command, b"")
}

/// Runs a command to its end with `input` on its standard input.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let name = shown(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context(format!("cannot run {name}"))?;
    let mut stdin = child.stdin.take().expect("stdin was piped");
    let input = input.to_vec();
    // From a thread: a command may fill its output before it has read its input.
    let writer = std::thread::spawn(move || {
        // A command that stops reading says why with its exit status.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().context(format!("cannot wait for {name}"))?;
    let _ = writer.join();
    if !output.status.success() {
        bail!("{name}: {}\n{}", output.status, tail(&String::from_utf8_lossy(&output.stderr), 20));
    }
    Ok(output.stdout)
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Where a program is on PATH, or in the places where administrators' programs are.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"])
        .filter(|dir| !dir.is_empty())
        .map(|dir| PathBuf::from(dir).join(name))
        .find(|file| file.is_file())
}

/// A command for a program that may be outside an ordinary user's PATH.
pub fn program(name: &str) -> Command {
    Command::new(find_program(name).unwrap_or_else(|| PathBuf::from(name)))
}

/// For setpriv: the program is killed when the thread that started it ends.
pub(crate) const UNDER_US: [&str; 2] = ["--pdeathsig", "KILL"];

/// A command for a program that must not outlive the thread that starts it, however that ends.
pub(crate) fn under_us(name: impl AsRef<OsStr>) -> Command {
    let mut command = program("setpriv");
    command.args(UNDER_US).arg(name);
    command
}

fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    match text.char_indices().nth(300) {
        Some((end, _)) => text[..end].to_owned() + "…",
        None => text,
    }
}

/// A random UUID from the kernel.
pub fn new_uuid() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot read a random UUID")?;
    Ok(text.trim().to_owned())
}
