//! `anemos status` and `anemos logs`: what the journals say. Neither asks a host.

use std::io::IsTerminal;

use super::{CommandError, Status, line};
use crate::cli;
use crate::engine::now_ms;
use crate::journal::{self, Reader, Record, RunDir, RunFile, RunStore};
use crate::report::Report;
use crate::screen;
use crate::screen::logs::{LogWriter, Wanted};
use crate::screen::status::{self, RunRow, StatusRow};
use crate::screen::text::Paint;

pub(super) fn status(args: &cli::Status) -> Result<Status, CommandError> {
    let store = RunStore::open()?;
    let Some(run) = &args.run else { return all_runs(&store, args.json) };
    let run = store.find(Some(run))?;
    let rows = rows(&run, &run.load()?);
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
                Ok(file) => rows(run, &file),
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
        line("\n`anemos status RUN` shows the hosts of one; its last characters are enough");
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
            row.endings = rows(run, &file).into_iter().map(|row| row.outcome).collect();
            row.hosts_file = file.hosts_file.display().to_string();
        }
        Err(_) if row.follower.is_some() => return None,
        Err(error) => row.unreadable = Some(error.to_string()),
    }
    Some(row)
}

fn rows(run: &RunDir, file: &RunFile) -> Vec<StatusRow> {
    let row = |name: &str| match journal::glance(&run.journal(name)) {
        Ok(journal) => StatusRow::of(name, &journal, now_ms()),
        Err(error) => StatusRow::unreadable(name, error.to_string()),
    };
    file.hosts.iter().map(|host| row(&host.name)).collect()
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
    let wanted = match (args.all, args.raw) {
        (true, _) => Wanted::Everything,
        (false, true) => Wanted::RawOutput,
        (false, false) => Wanted::Output,
    };
    let mut reader = Reader::new(&run.journal(&args.host))?;
    let mut log = LogWriter::new(std::io::BufWriter::new(std::io::stdout().lock()), wanted);
    reader.read_on(&mut |number, record| {
        if let Record::Told { wall_ms, update } = record {
            log.write(&Report { host: args.host.clone(), number: Some(number), wall_ms, update });
        }
    })?;
    log.finish();
    if let Some(doubt) = reader.doubt() {
        screen::warning(&format!("{doubt}; what could not be read is left out"));
    }
    Ok(Status::Done)
}
