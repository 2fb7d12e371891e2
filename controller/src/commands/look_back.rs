//! `anemos status` and `anemos logs`: what the journals say. Neither asks a host.

use std::io::IsTerminal;

use super::{CommandError, Status, line};
use crate::cli;
use crate::engine::now_ms;
use crate::journal::{self, Digested, JournalError, RunDir, RunFile, RunStore, Tail};
use crate::report::Report;
use crate::screen::logs::{self, Wanted};
use crate::screen::status::{self, RunRow, StatusRow};
use crate::screen::text::Paint;

pub(super) fn status(args: &cli::Status) -> Result<Status, CommandError> {
    let store = RunStore::open()?;
    let paint = Paint::pick(std::io::stdout().is_terminal());
    let chosen = match &args.run {
        Some(run) => vec![store.find(Some(run))?],
        None => store.runs()?,
    };
    if args.json {
        for run in &chosen {
            let file = run.load()?;
            for row in rows(run, &file) {
                line(status::status_json(run.id.as_str(), &row));
            }
        }
    } else if args.run.is_some() {
        for run in &chosen {
            line(status::status(run.id.as_str(), &rows(run, &run.load()?), paint).trim_end());
        }
    } else if chosen.is_empty() {
        line("no runs yet; `anemos up hosts.toml` begins one");
    } else {
        let runs = chosen.iter().map(run_row).collect::<Result<Vec<_>, _>>()?;
        line(status::runs(&runs, paint).trim_end());
        line("\n`anemos status RUN` shows the hosts of one; its last characters are enough");
    }
    Ok(Status::Done)
}

fn run_row(run: &RunDir) -> Result<RunRow, JournalError> {
    let file = run.load()?;
    Ok(RunRow {
        run: run.id.to_string(),
        age_seconds: now_ms().saturating_sub(file.started_ms) as f64 / 1000.0,
        endings: rows(run, &file).into_iter().map(|row| row.outcome).collect(),
        follower: run.follower(),
        hosts_file: file.hosts_file.display().to_string(),
    })
}

fn rows(run: &RunDir, file: &RunFile) -> Vec<StatusRow> {
    let row = |name: &str| match read(run, name) {
        Ok(journal) => StatusRow::of(name, &journal.told, journal.summary.as_ref(), now_ms()),
        Err(error) => StatusRow {
            host: name.into(),
            phase: None,
            state: "unreadable".into(),
            outcome: None,
            reason: Some(error.to_string()),
            last_event_seconds: None,
        },
    };
    file.hosts.iter().map(|host| row(&host.name)).collect()
}

/// The journal of a host; one that was never begun is empty.
pub(super) fn read(run: &RunDir, host: &str) -> Result<Digested, JournalError> {
    journal::digest(&run.journal(host))
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
    let wanted = match (args.all, args.raw) {
        (true, _) => Wanted::Everything,
        (false, true) => Wanted::RawOutput,
        (false, false) => Wanted::Output,
    };
    let told = Digested::of(contents.records).told.into_iter();
    let reports = told.map(|(wall_ms, update)| Report { host: args.host.clone(), wall_ms, update });
    // That the reader has gone is no error.
    let _ = logs::write(&mut std::io::BufWriter::new(std::io::stdout().lock()), reports, wanted);
    Ok(Status::Done)
}
