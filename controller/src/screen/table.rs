//! Tables: the end of a run, the status of a run, and its log.

use serde::Serialize;

use super::json;
use super::text::{Paint, bytes, clip, duration, fit, right, sanitise_str, width};
use crate::report::{Ending, Phase, PhaseSeconds, Summary};

/// Columns that a reason may take.
const REASON: usize = 60;

/// Columns that a reason must have to be worth a column of the table.
const SHORT_REASON: usize = 20;

/// Between two columns.
const GAP: &str = "  ";

/// Columns that a host's name may take.
pub(super) const NAME: usize = 24;

/// The end of a run: who, how, why, how long in which phase, how many bytes. A table if it fits into `columns`.
pub fn summaries(summaries: &[&Summary], paint: Paint, columns: Option<usize>) -> String {
    let widest = summaries.iter().map(|summary| width(&sanitise_str(&summary.reason))).max().unwrap_or(0);
    let mut reason = widest.min(REASON);
    let mut table = summary_table(summaries, reason);
    if let Some(over) = columns.and_then(|columns| table.width().checked_sub(columns + 1)) {
        // The reasons give way first: they are written in full below.
        reason = reason.saturating_sub(over + 1);
        if reason < SHORT_REASON {
            return summaries.iter().map(|summary| summary_lines(summary, paint)).collect();
        }
        table = summary_table(summaries, reason);
    }
    let text = table.render(paint, |column, row, cell| match column {
        1 => paint_ending(paint, summaries[row].outcome, cell),
        _ => cell.to_owned(),
    });
    let cut: Vec<String> = summaries
        .iter()
        .filter(|summary| width(&sanitise_str(&summary.reason)) > reason)
        .map(|summary| format!("{}: {}\n", sanitise_str(&summary.host), sanitise_str(&summary.reason)))
        .collect();
    if cut.is_empty() { text } else { format!("{text}\n{}", cut.concat()) }
}

fn summary_table(summaries: &[&Summary], reason: usize) -> Table {
    let mut table = Table::new(&["HOST", "OUTCOME"]);
    for phase in Phase::ALL {
        table.right(&phase.name().to_uppercase());
    }
    table.right("TOTAL").right("SENT").left("WHAT");
    for summary in summaries {
        let mut row = vec![clip(&sanitise_str(&summary.host), NAME), summary.outcome.to_string()];
        row.extend(Phase::ALL.map(|phase| seconds(&summary.seconds, phase).map_or("-".to_owned(), duration)));
        row.extend([duration(summary.total_seconds), bytes(summary.uploaded_bytes)]);
        row.push(clip(&sanitise_str(&summary.reason), reason));
        table.rows.push(row);
    }
    table
}

/// The same for a terminal that is too narrow for the table.
fn summary_lines(summary: &Summary, paint: Paint) -> String {
    let reached = Phase::ALL
        .into_iter()
        .filter_map(|phase| seconds(&summary.seconds, phase).map(|seconds| format!("{phase} {}", duration(seconds))));
    let phases: Vec<String> = reached.chain([format!("total {}", duration(summary.total_seconds))]).collect();
    format!(
        "{}  {}  {}\n  {}; {} sent\n",
        paint.bold(&sanitise_str(&summary.host)),
        paint_ending(paint, summary.outcome, &summary.outcome.to_string()),
        sanitise_str(&summary.reason),
        phases.join(", "),
        bytes(summary.uploaded_bytes)
    )
}

fn seconds(all: &PhaseSeconds, phase: Phase) -> Option<f64> {
    match phase {
        Phase::Connect => all.connect,
        Phase::Probe => all.probe,
        Phase::Upload => all.upload,
        Phase::Stage => all.stage,
        Phase::Boot => all.boot,
        Phase::Build => all.build,
        Phase::Reboot => all.reboot,
        Phase::Verify => all.verify,
    }
}

fn paint_ending(paint: Paint, ending: Ending, text: &str) -> String {
    match ending {
        Ending::Deployed => paint.green(text),
        Ending::Untouched => paint.yellow(text),
        Ending::Held => paint.red(text),
    }
}

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

/// A table of hosts.
pub fn status(run: &str, rows: &[StatusRow], paint: Paint) -> String {
    let mut table = Table::new(&["HOST", "PHASE", "STATE", "OUTCOME"]);
    table.right("LAST EVENT").left("WHAT");
    for row in rows {
        table.rows.push(vec![
            clip(&sanitise_str(&row.host), NAME),
            row.phase.map_or("-", Phase::name).to_owned(),
            clip(&sanitise_str(&row.state), 40),
            row.outcome.map_or("-".to_owned(), |outcome| outcome.to_string()),
            row.last_event_seconds.map_or("-".to_owned(), |age| format!("{} ago", duration(age))),
            row.reason.as_deref().map_or_else(String::new, |reason| clip(&sanitise_str(reason), REASON)),
        ]);
    }
    let body = table.render(paint, |column, row, cell| match (column, rows[row].outcome) {
        (3, Some(ending)) => paint_ending(paint, ending, cell),
        _ => cell.to_owned(),
    });
    format!("run {}\n{body}", sanitise_str(run))
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

/// Rows under headings, columns as wide as they must be.
struct Table {
    heads: Vec<(String, bool)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(heads: &[&str]) -> Self {
        Self { heads: heads.iter().map(|head| ((*head).to_owned(), false)).collect(), rows: Vec::new() }
    }

    fn left(&mut self, head: &str) -> &mut Self {
        self.heads.push((head.to_owned(), false));
        self
    }

    fn right(&mut self, head: &str) -> &mut Self {
        self.heads.push((head.to_owned(), true));
        self
    }

    fn widths(&self) -> Vec<usize> {
        let cells = |i: usize| self.rows.iter().map(move |row| width(&row[i]));
        self.heads.iter().enumerate().map(|(i, (head, _))| cells(i).fold(width(head), usize::max)).collect()
    }

    /// Columns of the widest line.
    fn width(&self) -> usize {
        let widths = self.widths();
        widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1)
    }

    /// The text, with `style` applied to each cell after it was padded: given its column, its row, and itself.
    fn render(&self, paint: Paint, style: impl Fn(usize, usize, &str) -> String) -> String {
        let widths = self.widths();
        let pad = |i: usize, cell: &str| {
            if self.heads[i].1 { right(cell, widths[i]) } else { fit(cell, widths[i]) }
        };
        let head: Vec<String> = self.heads.iter().enumerate().map(|(i, (head, _))| pad(i, head)).collect();
        let mut text = format!("{}\n", paint.bold(head.join(GAP).trim_end()));
        for (at, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> = row.iter().enumerate().map(|(i, cell)| style(i, at, &pad(i, cell))).collect();
            text.push_str(cells.join(GAP).trim_end());
            text.push('\n');
        }
        text
    }
}
