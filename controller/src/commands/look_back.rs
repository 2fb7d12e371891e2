//! `anemos status` and `anemos logs`: what the journals say. Neither asks a host.

use std::io::Write;

use anemos_proto::agent::AgentState;
use anemos_proto::event::{EventKind, Stream};

use super::{CommandError, Status, line};
use crate::cli;
use crate::journal::{self, Digested, JournalError, RunDir, RunStore, Tail};
use crate::report::{Speaker, Update};
use crate::screen::text::sanitise;

pub(super) fn status(args: &cli::Status) -> Result<Status, CommandError> {
    let store = RunStore::open()?;
    let Some(run) = &args.run else {
        let runs = store.runs()?;
        if runs.is_empty() && !args.json {
            line("no runs yet; `anemos up hosts.toml` begins one");
        }
        for run in runs {
            show(&run, args.json)?;
        }
        return Ok(Status::Done);
    };
    show(&store.find(Some(run))?, args.json)?;
    Ok(Status::Done)
}

fn show(run: &RunDir, json: bool) -> Result<(), CommandError> {
    let file = run.load()?;
    // Whoever has the lock is following the run now.
    let follower = match run.lock() {
        Err(JournalError::Locked { pid, .. }) => Some(pid),
        _ => None,
    };
    if !json {
        let following = follower.as_ref().map_or(String::new(), |pid| format!(", followed by process {pid}"));
        line(format_args!("{}  {}{following}", file.run, file.hosts_file.display()));
    }
    for host in &file.hosts {
        let (state, reason) = match read(run, &host.name) {
            Ok(digested) => state(&digested),
            Err(error) => ("unreadable".into(), error.to_string()),
        };
        if json {
            line(serde_json::json!({
                "type": "status", "run": file.run, "host": host.name, "state": state, "reason": reason,
                "followed": follower.is_some(),
            }));
        } else {
            line(format_args!("  {}  {state}  {}", host.name, sanitise(reason.as_bytes())));
        }
    }
    Ok(())
}

/// The journal of a host; one that was never begun is empty.
pub(super) fn read(run: &RunDir, host: &str) -> Result<Digested, JournalError> {
    match journal::read(&run.journal(host)) {
        Ok(contents) => Ok(Digested::of(contents.records)),
        Err(JournalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(Digested::default())
        }
        Err(error) => Err(error),
    }
}

fn state(digested: &Digested) -> (String, String) {
    if let Some(summary) = &digested.summary {
        return (summary.outcome.to_string(), summary.reason.clone());
    }
    let agent_state = digested.told.iter().rev().find_map(|(_, update)| match update {
        Update::Event(Speaker::Agent, event) => match &event.kind {
            EventKind::State(state) => Some(state.clone()),
            _ => None,
        },
        _ => None,
    });
    let (state, reason) = match (digested.boot_sent_ms, &digested.left, agent_state) {
        (None, ..) => ("before the boot", String::new()),
        (_, Some((_, Some(_), _)), _) => ("leaving for the new system", String::new()),
        (_, Some((_, None, reason)), _) => ("going back to the old system", reason.clone()),
        (_, None, Some(AgentState::Held(reason))) => ("held", reason),
        (_, None, Some(AgentState::Running)) => ("running the payload", String::new()),
        (_, None, Some(AgentState::Succeeded)) => ("finishing", String::new()),
        _ => ("in RAM or booting", String::new()),
    };
    (format!("{state} (when last seen)"), reason)
}

pub(super) fn logs(args: &cli::Logs) -> Result<Status, CommandError> {
    let run = RunStore::open()?.find(Some(&args.run))?;
    let file = run.load()?;
    if !file.hosts.iter().any(|host| host.name == args.host) {
        let names: Vec<&str> = file.hosts.iter().map(|host| host.name.as_str()).collect();
        return Err(CommandError::bad_input(format!(
            "run {} has no host `{}`; it has {}",
            run.id,
            args.host,
            names.join(", ")
        )));
    }
    let contents = journal::read(&run.journal(&args.host))?;
    match contents.tail {
        Tail::Damaged(bytes) => eprintln!("warning: the last {bytes} bytes of the journal are damaged and left out"),
        Tail::Clean | Tail::Torn(_) => {}
    }
    let mut stdout = std::io::stdout().lock();
    for (_, update) in Digested::of(contents.records).told {
        let Update::Event(_, event) = update else { continue };
        let text = match event.kind {
            EventKind::Log { stream: Stream::Stdout | Stream::Stderr | Stream::Kernel, line } if args.raw => line,
            EventKind::Log { line, .. } => sanitise(&line).into_bytes(),
            EventKind::Gap { first, last, bytes } => {
                format!("[{bytes} bytes, events {first} to {last}, were dropped on the host]").into_bytes()
            }
            _ => continue,
        };
        // That the reader has gone is no error.
        if stdout.write_all(&text).and_then(|()| stdout.write_all(b"\n")).is_err() {
            break;
        }
    }
    Ok(Status::Done)
}
