//! `anemos status`: runs, and the hosts of one, as their journals tell.

use anemos_proto::agent::AgentState;
use anemos_proto::event::EventKind;
use serde::Serialize;

use super::json;
use super::state::HostState;
use super::table::{NAME, Table, paint_ending};
use super::text::{Paint, clip, duration, sanitise_str};
use crate::report::{Ending, Phase, Report, Speaker, Summary, Update};

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
    /// What a journal says of a host: what it told, and how it ended unless it was taken up again since.
    pub fn of(host: &str, told: &[(u64, Update)], summary: Option<&Summary>, now_ms: u64) -> Self {
        let mut state = HostState::new(host);
        let mut agent = None;
        for (wall_ms, update) in told {
            if let Update::Event(Speaker::Agent, event) = update
                && let EventKind::State(now) = &event.kind
            {
                agent = Some(now.clone());
            }
            state.apply(&Report { host: host.into(), wall_ms: *wall_ms, update: update.clone() });
        }
        let doing = match (summary, state.current_step(), agent) {
            (Some(summary), ..) => summary.outcome.to_string(),
            (None, Some(step), _) => step.name.clone(),
            (None, None, Some(agent)) => agent_word(&agent).into(),
            (None, None, None) if told.is_empty() => "not begun".into(),
            (None, None, None) => state.phase.map_or("begun", Phase::name).into(),
        };
        Self {
            host: host.into(),
            phase: state.phase,
            state: doing,
            outcome: summary.map(|summary| summary.outcome),
            reason: summary.map(|summary| summary.reason.clone()),
            last_event_seconds: told.last().map(|(last, _)| now_ms.saturating_sub(*last) as f64 / 1000.0),
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
#[derive(Debug, Clone, PartialEq)]
pub struct RunRow {
    /// The run.
    pub run: String,
    /// Seconds since it began.
    pub age_seconds: f64,
    /// How its hosts ended; `None` for one that has not.
    pub endings: Vec<Option<Ending>>,
    /// The process that follows it now.
    pub follower: Option<String>,
    /// The hosts.toml that it came from.
    pub hosts_file: String,
}

/// A table of runs.
pub fn runs(rows: &[RunRow], paint: Paint) -> String {
    let mut table = Table::new(&["RUN"]);
    table.right("BEGAN").left("HOSTS").left("FOLLOWED BY").left("FROM");
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
        ];
        table.rows.push(vec![
            sanitise_str(&row.run),
            format!("{} ago", duration(row.age_seconds)),
            hosts.into_iter().flatten().collect::<Vec<_>>().join(", "),
            row.follower.as_deref().map_or("-".to_owned(), |pid| format!("process {pid}")),
            sanitise_str(&row.hosts_file),
        ]);
    }
    table.render(paint, |_, _, cell| cell.to_owned())
}
