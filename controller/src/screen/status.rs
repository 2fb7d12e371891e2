//! `anemos status`: runs, and the hosts of one, as their journals tell.

use anemos_proto::event::AgentState;
use serde::Serialize;

use super::json;
use super::table::{NAME, Table, paint_ending};
use super::text::{Paint, bytes, clip, duration, sanitise_str};
use crate::journal::{Digested, not_known};
use crate::report::{Ending, Phase};

/// Columns that a reason may take.
const REASON: usize = 60;

/// Columns that a state may take.
const STATE: usize = 40;

/// What `anemos status` says about one host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatusRow {
    /// The host's name in hosts.toml.
    pub host: String,
    /// The phase it is in, or ended in.
    pub phase: Option<Phase>,
    /// What it is doing there: the step, or the agent's state.
    pub state: String,
    /// How it ended, if it did.
    pub outcome: Option<Ending>,
    /// Why, if it ended.
    pub reason: Option<String>,
    /// Seconds since the journal's last record of it.
    pub last_event_seconds: Option<f64>,
}

impl StatusRow {
    /// What a journal says of a host. From one that is damaged nothing is concluded: the host is held.
    pub fn of(host: &str, journal: &Digested, now_ms: u64) -> Self {
        let row = |state: String, outcome, reason| Self {
            host: host.into(),
            phase: journal.phase,
            state,
            outcome,
            reason,
            last_event_seconds: journal.last_ms.map(|last| now_ms.saturating_sub(last) as f64 / 1000.0),
        };
        if let Some(doubt) = &journal.damaged {
            return row("not known".into(), Some(Ending::Held), Some(not_known(doubt)));
        }
        if let Some(summary) = &journal.summary {
            return row(summary.outcome.to_string(), Some(summary.outcome), Some(summary.reason.clone()));
        }
        let doing = match (journal.steps.last(), &journal.agent) {
            (Some((_, _, name)), _) => name.clone(),
            (None, Some(agent)) => agent_word(agent).into(),
            (None, None) if journal.last_ms.is_none() => "not begun".into(),
            (None, None) => journal.phase.map_or("begun", Phase::name).into(),
        };
        row(doing, None, None)
    }

    /// A host of which nothing can be read, because ….
    pub fn unreadable(host: &str, why: String) -> Self {
        Self {
            host: host.into(),
            phase: None,
            state: "unreadable".into(),
            outcome: None,
            reason: Some(why),
            last_event_seconds: None,
        }
    }
}

fn agent_word(state: &AgentState) -> &'static str {
    match state {
        AgentState::Starting => "starting in RAM",
        AgentState::Waiting => "ready in RAM",
        AgentState::Running => "running the payload",
        AgentState::Held(_) => "held",
        AgentState::Succeeded => "leaving for the new system",
        AgentState::Returning(_) => "going back to the old system",
    }
}

/// A table of hosts.
pub fn status(run: &str, rows: &[StatusRow], paint: Paint) -> String {
    let mut table = Table::new(&["HOST", "PHASE", "STATE", "OUTCOME"]);
    table.right("LAST EVENT").left("WHAT");
    for row in rows {
        table.rows.push(vec![
            clip(&sanitise_str(&row.host), NAME),
            row.phase.map_or("-", Phase::name).to_owned(),
            clip(&sanitise_str(&row.state), STATE),
            row.outcome.map_or("-".to_owned(), |outcome| outcome.to_string()),
            row.last_event_seconds.map_or("-".to_owned(), |age| format!("{} ago", duration(age))),
            row.reason.as_deref().map_or_else(String::new, |reason| clip(&sanitise_str(reason), REASON)),
        ]);
    }
    let body = table.render(paint, |column, row, cell| match (column, rows[row].outcome) {
        (3, Some(ending)) => paint_ending(paint, ending, cell),
        _ => cell.to_owned(),
    });
    let cut = rows.iter().filter_map(|row| {
        let reason = sanitise_str(row.reason.as_deref()?);
        (clip(&reason, REASON) != reason).then(|| format!("\n{}: {reason}\n", sanitise_str(&row.host)))
    });
    format!("run {}\n{body}{}", sanitise_str(run), cut.collect::<String>())
}

/// [`status`] as one line of JSON a host.
pub fn status_json(run: &str, row: &StatusRow) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        r#type: &'static str,
        run: &'a str,
        #[serde(flatten)]
        row: &'a StatusRow,
    }
    json::line(&Line { r#type: "status", run, row })
}

/// A run in a list of runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunRow {
    /// The run.
    pub run: String,
    /// Seconds since it began.
    pub age_seconds: Option<f64>,
    /// How its hosts ended; `None` for one that has not.
    pub endings: Vec<Option<Ending>>,
    /// The process that follows it now.
    pub follower: Option<String>,
    /// Bytes of its files.
    pub bytes: u64,
    /// The hosts.toml that it came from.
    pub hosts_file: String,
    /// Why it can't be read, if that is so.
    pub unreadable: Option<String>,
}

/// A table of runs.
pub fn runs(rows: &[RunRow], paint: Paint) -> String {
    let mut table = Table::new(&["RUN"]);
    table.right("BEGAN").left("HOSTS").right("SIZE").left("FOLLOWED BY").left("FROM");
    for row in rows {
        let count = |wanted: Option<Ending>, word: &str| {
            let count = row.endings.iter().filter(|ending| **ending == wanted).count();
            (count > 0).then(|| format!("{count} {word}"))
        };
        let hosts = [
            count(None, "on the way"),
            count(Some(Ending::Held), "held"),
            count(Some(Ending::Untouched), "untouched"),
            count(Some(Ending::Deployed), "deployed"),
            row.unreadable.as_ref().map(|_| "unreadable".to_owned()),
        ];
        table.rows.push(vec![
            sanitise_str(&row.run),
            row.age_seconds.map_or("-".to_owned(), |age| format!("{} ago", duration(age))),
            hosts.into_iter().flatten().collect::<Vec<_>>().join(", "),
            bytes(row.bytes),
            row.follower.as_deref().map_or("-".to_owned(), |pid| format!("process {pid}")),
            sanitise_str(&row.hosts_file),
        ]);
    }
    let table = table.render(paint, |_, _, cell| cell.to_owned());
    let why = rows.iter().filter_map(|row| {
        let why = row.unreadable.as_deref()?;
        Some(format!("\n{} can't be read: {}\n", sanitise_str(&row.run), sanitise_str(why)))
    });
    format!("{table}{}", why.collect::<String>())
}

/// A run of [`runs`] as one line of JSON.
pub fn run_json(row: &RunRow) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        r#type: &'static str,
        #[serde(flatten)]
        row: &'a RunRow,
    }
    json::line(&Line { r#type: "run", row })
}
