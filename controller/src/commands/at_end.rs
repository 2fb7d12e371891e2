//! What is done once a run is over: reports are written, and a command is run. And `anemos report`.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
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
use crate::paths::directory_of;
use crate::report::{Ending, Report, Summary, Update};
use crate::run::{self, Found};
use crate::screen;
use crate::screen::json::report_line;
use crate::screen::sheet::{self, Form, HostSheet, Sheet};
use crate::signals::Leaving;

/// Lines of output of each host in a report.
const LINES: usize = 1000;

/// Bytes of a file in which it shows whether it is a report.
const HEAD: u64 = 4096;

/// How long the command may take.
const TIME: Duration = Duration::from_secs(60);

/// How long it may take after a signal that was passed on to it: less than this process has after a second one.
const GRACE: Duration = Duration::from_secs(1);

/// What is wrong with what is wanted at the end, before anything is begun.
pub(super) fn check(wanted: &AtEnd) -> Result<(), CommandError> {
    wanted.report.iter().try_for_each(|path| may_be_written(path).map_err(CommandError::bad_input))
}

/// Whether a report can be written there: its directory can be written to, and it is not there yet, or is an earlier
/// report. Another file is left alone.
fn may_be_written(path: &Path) -> Result<(), String> {
    let fault = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
    Form::of(path)?;
    let looked = fs::metadata(path).and_then(|found| {
        // Before anything is read: a pipe may never end.
        let head = found.is_file().then(|| {
            let mut head = Vec::new();
            File::open(path)?.take(HEAD).read_to_end(&mut head)?;
            Ok::<_, io::Error>(head)
        });
        head.transpose()
    });
    match looked {
        Ok(None) => return Err(fault(&"what is there is no regular file, and no report can take its place")),
        Ok(Some(head)) if !head.is_empty() && !sheet::is_report(&head) => {
            return Err(fault(&"there is a file that is no report; it is left as it is, so name another one"));
        }
        Ok(Some(_)) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(fault(&error)),
    }
    // Nothing but writing tells whether it can be done: there are read-only mounts, quotas, and access lists.
    unfinished(path).map(drop).map_err(|error| fault(&format!("nothing can be written into its directory: {error}")))
}

/// A file beside the report, which is gone unless it is put in its place.
fn unfinished(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let dir = directory_of(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".anemos-report").permissions(PermissionsExt::from_mode(0o666));
    builder.tempfile_in(dir)
}

/// What became of hosts, as far as it has come.
#[derive(Default)]
pub(super) struct Over {
    /// The run, if one was begun.
    pub run: Option<String>,
    /// How its hosts ended; `None`: they go on alone.
    pub ends: Vec<Option<Summary>>,
}

impl Over {
    /// What the journals say of hosts of a run.
    pub(super) fn of(run: &RunDir, hosts: &[HostEntry]) -> Self {
        // What can't be read is told by the report.
        let end = |host: &HostEntry| run::read(run, &host.name).ok().and_then(|journal| journal.end().cloned());
        Self { run: Some(run.id.to_string()), ends: hosts.iter().map(end).collect() }
    }
}

/// Writes the reports, and runs the command, however it all came out; `over` is `None` where nothing was gone about.
/// Neither changes the exit status: what became of the hosts is more than that. What goes wrong is told.
pub(super) async fn done(wanted: &AtEnd, over: Option<&Over>, came_out: Result<Status, &CommandError>) {
    let Some(over) = over else { return };
    for path in &wanted.report {
        let path_shown = path.display();
        match &over.run {
            None => screen::warning(&format!("{path_shown} is not written, since no run was begun")),
            Some(run) => {
                if let Err(error) = write_of(run, path) {
                    let again = format!("`anemos report {run} -o {path_shown}` writes it from the journals");
                    screen::warning(&format!("no report is written: {}; {again}", error.message));
                }
            }
        }
    }
    let status = came_out.unwrap_or_else(|error| error.status);
    let Some(command) = &wanted.on_end else { return };
    if let Err(why) = tell(command, over.run.as_deref(), (&over.ends, status), TIME).await {
        screen::warning(&format!("--on-end: {why}"));
    }
}

/// Writes a report of all hosts of the run of that name.
fn write_of(run: &str, path: &Path) -> Result<(), CommandError> {
    let run = RunStore::open()?.find(Some(run))?;
    let file = run.load()?;
    write(path, &sheet(&run, &file, &file.hosts))
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

/// Writes a report, all of it or none.
fn write(path: &Path, sheet: &Sheet) -> Result<(), CommandError> {
    may_be_written(path).map_err(CommandError::bad_input)?;
    let text = sheet.render(Form::of(path).map_err(CommandError::bad_input)?);
    let written = unfinished(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    });
    written.map_err(|error| CommandError::bad_input(format!("{}: {error}", path.display())))
}

pub(super) fn report(args: &cli::Report) -> Result<Status, CommandError> {
    for path in &args.output {
        Form::of(path).map_err(CommandError::bad_input)?;
    }
    let Found { run, file, hosts, .. } = asked(&args.of, false).find()?;
    let sheet = sheet(&run, &file, &hosts);
    args.output.iter().try_for_each(|path| write(path, &sheet))?;
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

    fn sheet(run: &str) -> Sheet {
        Sheet { run: run.into(), began_ms: 1, hosts_file: "/x/hosts.toml".into(), hosts: Vec::new() }
    }

    #[test]
    fn a_report_takes_the_place_of_a_report_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["a.xml", "a.html"] {
            check(&AtEnd { report: vec![path(name)], on_end: None }).unwrap();
            write(&path(name), &sheet("20261123-093000-0a1b")).unwrap();
            // Again, and in the other form.
            write(&path(name), &sheet("20261124-093000-0a1b")).unwrap();
            assert!(fs::read_to_string(path(name)).unwrap().contains("20261124"));
        }
        fs::rename(path("a.xml"), path("b.html")).unwrap();
        write(&path("b.html"), &sheet("20261123-093000-0a1b")).unwrap();
        fs::write(path("empty.xml"), "").unwrap();
        write(&path("empty.xml"), &sheet("20261123-093000-0a1b")).unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a.html", "b.html", "empty.xml"], "nothing is left beside them");

        fs::write(path("site.html"), "<!DOCTYPE html>\n<title>Run me</title>\n").unwrap();
        fs::write(path("pom.xml"), "<project/>").unwrap();
        fs::create_dir(path("dir.xml")).unwrap();
        mknodat(CWD, path("pipe.xml"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for (name, says) in [
            ("site.html", "there is a file that is no report; it is left as it is"),
            ("pom.xml", "there is a file that is no report"),
            ("dir.xml", "no regular file"),
            ("pipe.xml", "no regular file"),
            ("nodir/a.xml", "nothing can be written into its directory: No such file or directory"),
            ("pom.xml/a.xml", "Not a directory"),
        ] {
            for error in [
                check(&AtEnd { report: vec![path("a.html"), path(name)], on_end: None }).unwrap_err(),
                write(&path(name), &sheet("20261123-093000-0a1b")).unwrap_err(),
            ] {
                assert_eq!(error.status, Status::BadInput);
                assert!(error.message.contains(name) && error.message.contains(says), "{error}");
            }
        }
        assert_eq!(fs::read_to_string(path("pom.xml")).unwrap(), "<project/>");
    }
}
