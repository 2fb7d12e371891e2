//! What is done once a run is over: reports are written, and a command is run. And `anemos report`.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::{CommandError, Status, asked};
use crate::cli::{self, AtEnd};
use crate::engine::now_ms;
use crate::journal::{HostEntry, Keep, RunDir, RunFile, RunStore, digest};
use crate::leader::Leader;
use crate::report::{Ending, Report, Summary, Update};
use crate::run::Found;
use crate::screen;
use crate::screen::json::report_line;
use crate::screen::sheet::{Form, HostSheet, Sheet};
use crate::signals::Leaving;

/// Lines of output of each host in a report.
const LINES: usize = 1000;

/// How long the command may take.
const TIME: Duration = Duration::from_secs(60);

/// How long it may take after a signal that was passed on to it: less than this process has after a second one.
const GRACE: Duration = Duration::from_secs(1);

/// What is wrong with what is wanted at the end, before anything is begun.
pub(super) fn check(wanted: &AtEnd) -> Result<(), CommandError> {
    for path in &wanted.report {
        Form::of(path).map_err(CommandError::bad_input)?;
    }
    Ok(())
}

/// Writes the reports, and runs the command. Neither changes the exit status: what became of the hosts is more than
/// that. What goes wrong is told.
pub(super) async fn done(wanted: &AtEnd, run: Option<&str>, ends: &[Option<Summary>], status: Status) {
    if let (false, Some(run)) = (wanted.report.is_empty(), run)
        && let Err(error) = write_of(run, &wanted.report)
    {
        screen::warning(&error.message);
    }
    let Some(command) = &wanted.on_end else { return };
    if let Err(why) = tell(command, run, (ends, status), TIME).await {
        screen::warning(&format!("--on-end: {why}"));
    }
}

/// Writes reports of all hosts of the run of that name.
fn write_of(run: &str, paths: &[PathBuf]) -> Result<(), CommandError> {
    let run = RunStore::open()?.find(Some(run))?;
    let file = run.load()?;
    write(&run, &file, &file.hosts, paths)
}

/// The sheet of hosts of a run.
fn sheet(run: &RunDir, file: &RunFile, hosts: &[HostEntry]) -> Sheet {
    let host = |entry: &HostEntry| {
        let address = entry.address.to_string();
        match digest(&run.journal(&entry.name), Keep::Lines { last: LINES, after: 0 }) {
            Ok(journal) => HostSheet::of(&entry.name, address, &journal),
            Err(error) => HostSheet::unreadable(&entry.name, address, error.to_string()),
        }
    };
    Sheet {
        run: run.id.to_string(),
        began_ms: file.started_ms,
        hosts_file: file.hosts_file.display().to_string(),
        hosts: hosts.iter().map(host).collect(),
    }
}

/// Writes each report, all of it or none.
fn write(run: &RunDir, file: &RunFile, hosts: &[HostEntry], paths: &[PathBuf]) -> Result<(), CommandError> {
    let sheet = sheet(run, file, hosts);
    for path in paths {
        let text = sheet.render(Form::of(path).map_err(CommandError::bad_input)?);
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".anemos-report").permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let written = builder.tempfile_in(dir).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.persist(path).map_err(|error| error.error)?;
            Ok(())
        });
        written.map_err(|error| CommandError::bad_input(format!("{}: {error}", path.display())))?;
    }
    Ok(())
}

pub(super) fn report(args: &cli::Report) -> Result<Status, CommandError> {
    for path in &args.output {
        Form::of(path).map_err(CommandError::bad_input)?;
    }
    let Found { run, file, hosts, .. } = asked(&args.of, false).find()?;
    write(&run, &file, &hosts, &args.output)?;
    Ok(Status::Done)
}

/// Runs the command with what became of the hosts: the `summary` lines of `--json` on its input, and what they amount
/// to in its environment. After that time it is killed, with all that it has started.
async fn tell(
    command: &str,
    run: Option<&str>,
    (ends, status): (&[Option<Summary>], Status),
    time: Duration,
) -> Result<(), String> {
    let count = |outcome: Ending| ends.iter().flatten().filter(|end| end.outcome == outcome).count().to_string();
    let lines: String = ends
        .iter()
        .flatten()
        .map(|end| {
            let update = Update::Summary(Box::new(end.clone()));
            report_line(&Report { host: end.host.clone(), number: None, wall_ms: now_ms(), update }) + "\n"
        })
        .collect();
    // Standard output may be read by a program.
    let output = std::io::stderr().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::piped()).stdout(output).process_group(0);
    shell.env("ANEMOS_RUN", run.unwrap_or_default()).env("ANEMOS_STATUS", status.code().to_string());
    shell.env("ANEMOS_DEPLOYED", count(Ending::Deployed)).env("ANEMOS_UNTOUCHED", count(Ending::Untouched));
    shell.env("ANEMOS_HELD", count(Ending::Held));
    shell.env("ANEMOS_LEFT", ends.iter().filter(|end| end.is_none()).count().to_string());
    // A terminal's Ctrl-C reaches this process only, since the command is in a group of its own.
    let mut leaving = Leaving::new().map_err(|error| error.to_string())?;
    let mut leader = Leader(shell.spawn().map_err(|error| format!("sh can't be started: {error}"))?);
    let stdin = leader.0.stdin.take();
    let telling = async {
        if let Some(mut stdin) = stdin {
            // A command that reads nothing is told enough by its environment.
            let _ = stdin.write_all(lines.as_bytes()).await;
        }
    };
    let both = async { tokio::join!(telling, leader.0.wait()).1 };
    let ended = tokio::select! {
        ended = timeout(time, both) => ended.map_err(|_| None),
        signal = leaving.next() => Err(Some(signal)),
    };
    match ended {
        Ok(Ok(ended)) if ended.success() => Ok(()),
        Ok(Ok(ended)) => Err(format!("the command ended with {ended}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(None) => {
            leader.signal(Signal::KILL);
            let _ = leader.0.wait().await;
            Err(format!("the command took more than {} s, and was ended with all that it had started", time.as_secs()))
        }
        Err(Some(signal)) => {
            leader.signal(Signal::from_named_raw(signal).unwrap_or(Signal::TERM));
            if timeout(GRACE, leader.0.wait()).await.is_err() {
                leader.signal(Signal::KILL);
                let _ = leader.0.wait().await;
            }
            Err("the command was ended, since this process was told to end".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// A command that is ended is ended with what it waits for. Whoever reads what that writes would wait on.
    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_left_of_a_command_that_takes_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let command = format!("exec 9> {}; echo begun >&9; (trap '' TERM; sleep 600; true) & wait", pipe.display());
        let reading = tokio::task::spawn_blocking(move || std::fs::read_to_string(pipe));
        let why = tell(&command, None, (&[], Status::Done), Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(why, "the command took more than 5 s, and was ended with all that it had started");
        let read = timeout(Duration::from_secs(60), reading).await.expect("nobody holds the pipe any more");
        assert_eq!(read.unwrap().unwrap(), "begun\n");
    }
}
