//! `anemos status`: what the journals say. No host is asked.

use std::io::IsTerminal;

use super::{CommandError, Status, asked, line};
use crate::cli;
use crate::engine::now_ms;
use crate::journal::{self, HostEntry, RunDir, RunStore};
use crate::run::Found;
use crate::screen::status::{self, RunRow, StatusRow};
use crate::screen::text::Paint;

pub(super) fn status(args: &cli::Status) -> Result<Status, CommandError> {
    let of = &args.of;
    if of.words.is_empty() && of.run.is_none() && of.less.limit.is_empty() && of.less.exclude.is_empty() {
        return all_runs(&RunStore::open()?, args.json);
    }
    let Found { run, hosts, .. } = asked(of, false).find()?;
    let rows = rows(&run, &hosts);
    if args.json {
        for row in rows {
            line(status::status_json(run.id.as_str(), &row));
        }
    } else {
        let paint = Paint::pick(std::io::stdout().is_terminal());
        line(status::status(run.id.as_str(), &rows, paint).trim_end());
    }
    Ok(Status::Done)
}

fn all_runs(store: &RunStore, json: bool) -> Result<Status, CommandError> {
    let runs = store.runs()?;
    if json {
        for run in &runs {
            let rows = match run.load() {
                Ok(file) => rows(run, &file.hosts),
                Err(_) if run.follower().is_some() => continue,
                Err(error) => vec![StatusRow::unreadable("", error.to_string())],
            };
            for row in rows {
                line(status::status_json(run.id.as_str(), &row));
            }
        }
        return Ok(Status::Done);
    }
    let rows: Vec<RunRow> = runs.iter().filter_map(run_row).collect();
    if rows.is_empty() {
        line("no runs yet; `anemos up hosts.toml` begins one");
    } else {
        let paint = Paint::pick(std::io::stdout().is_terminal());
        line(status::runs(&rows, paint).trim_end());
        line("\n`anemos status RUN` shows the hosts of one; its last characters are enough, or a host of it");
    }
    Ok(Status::Done)
}

/// A run in a list. `None` if it is being made at this moment.
pub(super) fn run_row(run: &RunDir) -> Option<RunRow> {
    let follower = run.follower();
    let mut row = RunRow {
        run: run.id.to_string(),
        age_seconds: None,
        endings: Vec::new(),
        follower,
        bytes: run.size(),
        hosts_file: String::new(),
        unreadable: None,
    };
    match run.load() {
        Ok(file) => {
            row.age_seconds = Some(now_ms().saturating_sub(file.started_ms) as f64 / 1000.0);
            row.endings = rows(run, &file.hosts).into_iter().map(|row| row.outcome).collect();
            row.hosts_file = file.hosts_file.display().to_string();
        }
        Err(_) if row.follower.is_some() => return None,
        Err(error) => row.unreadable = Some(error.to_string()),
    }
    Some(row)
}

pub(super) fn rows(run: &RunDir, hosts: &[HostEntry]) -> Vec<StatusRow> {
    let row = |name: &str| match journal::glance(&run.journal(name)) {
        Ok(journal) => StatusRow::of(name, &journal, now_ms()),
        Err(error) => StatusRow::unreadable(name, error.to_string()),
    };
    hosts.iter().map(|host| row(&host.name)).collect()
}
