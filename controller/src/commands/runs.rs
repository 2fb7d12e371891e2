//! `anemos runs`: which runs there are, how much room they take, and deleting old ones.

use std::io::IsTerminal;
use std::time::Duration;

use super::look_back::{self, run_row};
use super::{CommandError, Status, line};
use crate::cli::{self, RunsCommand};
use crate::engine::now_ms;
use crate::journal::{HostEntry, JournalError, Keep, RunDir, RunStore, Told, digest};
use crate::report::{Ending, Update};
use crate::run::read;
use crate::screen;
use crate::screen::status::{self, RunRow};
use crate::screen::text::{Paint, Zone, bytes, sanitise_str};
use crate::select::{NoMatch, Pattern};

pub(super) fn runs(args: &cli::Runs) -> Result<Status, CommandError> {
    let store = RunStore::open()?;
    match &args.what {
        None => list(&store, &args.hosts, args.json),
        Some(RunsCommand::Show { run }) => show(&store, run.as_deref()),
        Some(RunsCommand::Prune(args)) => prune(&store, args),
    }
}

fn list(store: &RunStore, hosts: &[Pattern], json: bool) -> Result<Status, CommandError> {
    let (runs, unknown) = those_with(store.runs()?, hosts);
    let rows: Vec<RunRow> = runs.iter().filter_map(run_row).collect();
    if !unknown.is_empty() {
        let why = unknown.iter().map(|none| meant(store, none)).collect::<Vec<_>>().join("\n");
        // What can't be read may have such hosts, and is shown.
        if rows.iter().all(|row| row.unreadable.is_none()) {
            return Err(CommandError::bad_input(why));
        }
        screen::warning(&why);
    }
    if json {
        for row in &rows {
            line(status::run_json(row));
        }
    } else if rows.is_empty() {
        line("no runs yet; `anemos up hosts.toml` begins one");
    } else {
        line(status::runs(&rows, Paint::pick(std::io::stdout().is_terminal())).trim_end());
        let sum = rows.iter().map(|row| row.bytes).sum();
        line(format_args!("\n{} in all; `anemos runs prune` deletes old ones", bytes(sum)));
    }
    Ok(Status::Done)
}

/// That no run has a host that a word means, and what may have been meant instead.
fn meant(store: &RunStore, none: &NoMatch) -> String {
    let missing = format!("the journal has {}", none.missing());
    match store.find(Some(none.word())) {
        Ok(run) => format!("{missing}; `anemos runs show {}` is about the run of that name", run.id),
        Err(_) => match none.advice() {
            Some(advice) => format!("{missing}; {advice}"),
            None => missing,
        },
    }
}

/// Of these runs, those that have a host that one of the patterns means, without a pattern all; and the patterns that
/// mean none of any run. Whether one that can't be read has it is not known, so it is among them.
fn those_with(runs: Vec<RunDir>, patterns: &[Pattern]) -> (Vec<RunDir>, Vec<NoMatch>) {
    let loaded: Vec<_> = runs.into_iter().map(|run| (run.load().ok().map(|file| file.hosts), run)).collect();
    let hosts: Vec<HostEntry> = loaded.iter().filter_map(|(hosts, _)| hosts.clone()).flatten().collect();
    let unknown = patterns.iter().filter_map(|pattern| pattern.must_match(&hosts).err()).collect();
    let has = |hosts: &Option<Vec<HostEntry>>| {
        let any = |host: &HostEntry| patterns.iter().any(|pattern| pattern.matches(host));
        patterns.is_empty() || hosts.as_ref().is_none_or(|hosts| hosts.iter().any(any))
    };
    (loaded.into_iter().filter(|(hosts, _)| has(hosts)).map(|(_, run)| run).collect(), unknown)
}

/// All that is known of a run.
fn show(store: &RunStore, run: Option<&str>) -> Result<Status, CommandError> {
    let run = store.find(run)?;
    let file = run.load()?;
    let rows = look_back::rows(&run, &file.hosts);
    let paint = Paint::pick(std::io::stdout().is_terminal());
    line(status::status(run.id.as_str(), &rows, paint).trim_end());
    let zone = Zone::local();
    let key = match run.key() {
        Ok(None) => "deleted, since no host can be in RAM any more".to_owned(),
        Ok(Some(_)) => "there, since a host may be in RAM".to_owned(),
        Err(error) => format!("can't be read: {error}"),
    };
    let followed = run.follower().map_or_else(|| "nobody".to_owned(), |pid| format!("process {pid}"));
    line(format_args!("\nbegan        {} by process {}", zone.date_time(file.started_ms), file.pid));
    line(format_args!("from         {}", sanitise_str(&file.hosts_file.display().to_string())));
    line(format_args!("followed by  {followed}"));
    line(format_args!("key          {key}"));
    line(format_args!("kept in      {} ({})", run.path().display(), bytes(run.size())));
    for host in &file.hosts {
        let told = match digest(&run.journal(&host.name), Keep::Lines { last: 0, after: 0 }) {
            Ok(journal) => journal.told,
            // The table says so.
            Err(_) => continue,
        };
        for Told { wall_ms, update, .. } in &told {
            if let Some(what) = said(update) {
                line(format_args!("{}  {}  {what}", zone.date_time(*wall_ms), sanitise_str(&host.name)));
            }
        }
    }
    Ok(Status::Done)
}

/// What somebody decided or wished, and what came of that.
fn said(update: &Update) -> Option<String> {
    let text = match update {
        Update::Decided { author, approved: true } => format!("approved by {author}"),
        Update::Decided { author, approved: false } => format!("refused by {author}"),
        Update::Wished(wished) => format!("{} wished by {}", wished.what.name(), wished.author),
        Update::Answered { refused: Some(why), .. } => format!("which was refused: {why}"),
        _ => return None,
    };
    Some(sanitise_str(&text))
}

/// Why a run must not be deleted unless that is insisted on; `None` if it is over and nothing of it is needed any more.
fn needed(run: &RunDir) -> Option<String> {
    let file = match run.load() {
        Ok(file) => file,
        Err(error) => return Some(format!("it can't be read: {error}")),
    };
    for host in &file.hosts {
        let name = &host.name;
        match read(run, name) {
            Err(error) => return Some(format!("{name} can't be read: {error}")),
            Ok(journal) => match journal.end() {
                None if journal.damaged.is_some() => return Some(format!("what became of {name} is not known")),
                None => return Some(format!("{name} has no end yet")),
                Some(end) if end.outcome == Ending::Held => return Some(format!("{name} is held")),
                Some(_) => {}
            },
        }
    }
    match run.key() {
        Ok(None) => None,
        Ok(Some(_)) | Err(_) => Some("its key is still there; `anemos attach` ends it properly".into()),
    }
}

/// When a run began, by its name: milliseconds since the Unix epoch.
fn began_ms(run: &RunDir) -> Option<u64> {
    let id = run.id.as_str();
    let number = |at: std::ops::Range<usize>| id.get(at)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    // Days since the epoch in the proleptic Gregorian calendar; years begin in March, so that leap days come last.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * years + years / 4 - years / 100 + years / 400 + (153 * months + 2) / 5 + day - 1 - 719_468;
    let seconds = 86_400 * days + 3600 * number(9..11)? + 60 * number(11..13)? + number(13..15)?;
    u64::try_from(1000 * seconds).ok()
}

/// Which runs are to go, of all, the newest first: those after the newest `keep`, and of these those older than
/// `older`.
fn pick(runs: Vec<RunDir>, keep: Option<usize>, older: Option<Duration>, now_ms: u64) -> Vec<RunDir> {
    let old = |run: &RunDir| {
        older.is_none_or(|older| {
            began_ms(run).is_some_and(|began| u128::from(now_ms.saturating_sub(began)) > older.as_millis())
        })
    };
    runs.into_iter().skip(keep.unwrap_or(0)).filter(old).collect()
}

fn prune(store: &RunStore, args: &cli::Prune) -> Result<Status, CommandError> {
    store.sweep()?;
    let (mut going, mut size) = (Vec::new(), 0);
    for run in pick(store.runs()?, args.keep, args.older, now_ms()) {
        // Held until it is deleted: nobody takes it up meanwhile.
        let lock = match run.lock() {
            Ok(lock) => lock,
            Err(error @ JournalError::Locked { .. }) => {
                line(format_args!("{} stays: {error}", run.id));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(why) = needed(&run).filter(|_| !args.force) {
            line(format_args!("{} stays: {why}", run.id));
            continue;
        }
        size += run.size();
        going.push((run, lock));
    }
    if going.is_empty() {
        line("nothing to delete");
        return Ok(Status::Done);
    }
    if !args.yes {
        let names: Vec<&str> = going.iter().map(|(run, _)| run.id.as_str()).collect();
        if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
            let message =
                format!("{} would be deleted; give --yes where there is no terminal to ask on", names.join(", "));
            return Err(CommandError { status: Status::Refused, message });
        }
        if !screen::question(&format!("Delete {} ({})?", names.join(", "), bytes(size))) {
            return Err(CommandError { status: Status::Refused, message: "nothing was deleted".into() });
        }
    }
    let count = going.len();
    for (run, lock) in going {
        run.delete(lock)?;
    }
    line(format_args!("{count} run{} deleted, {}", if count == 1 { "" } else { "s" }, bytes(size)));
    Ok(Status::Done)
}

#[cfg(test)]
mod tests;
