//! Tables, and the one at the end of a run.

use super::text::{Paint, bytes, clip, duration, fit, right, sanitise_str, width, wrap};
use crate::report::{Ending, Phase, Summary};

/// Columns that a reason may take.
const REASON: usize = 60;

/// Columns that a reason must have to be worth a column of the table.
const SHORT_REASON: usize = 20;

/// Between two columns.
const GAP: &str = "  ";

/// Columns that a host's name may take.
pub(super) const NAME: usize = 24;

/// The end of a run: who, how, why, how long in which phase, how many bytes. Of what does not fit into `columns`, the
/// phases go first.
pub fn summaries(summaries: &[&Summary], paint: Paint, columns: Option<usize>) -> String {
    if let [summary] = summaries {
        return summary_lines(summary, paint, columns);
    }
    let widest = summaries.iter().map(|summary| width(&sanitise_str(&summary.reason))).max().unwrap_or(0).min(REASON);
    let fitting = [true, false].into_iter().find_map(|phases| {
        let table = summary_table(summaries, widest, phases);
        let over = columns.map_or(0, |columns| table.width().saturating_sub(columns));
        // The column of reasons gives way: the reasons are written in full below.
        let reason = widest.checked_sub(over).filter(|reason| *reason >= widest.min(SHORT_REASON))?;
        Some((summary_table(summaries, reason, phases), reason))
    });
    let Some((table, reason)) = fitting else {
        return summaries.iter().map(|summary| summary_lines(summary, paint, columns)).collect();
    };
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

fn summary_table(summaries: &[&Summary], reason: usize, phases: bool) -> Table {
    let phases = if phases { &Phase::ALL[..] } else { &[] };
    let mut table = Table::new(&["HOST", "OUTCOME"]);
    for phase in phases {
        table.right(&phase.name().to_uppercase());
    }
    table.right("TOTAL").right("SENT").left("WHAT");
    for summary in summaries {
        let mut row = vec![clip(&sanitise_str(&summary.host), NAME), summary.outcome.to_string()];
        row.extend(phases.iter().map(|phase| summary.seconds.of(*phase).map_or("-".to_owned(), duration)));
        row.extend([duration(summary.total_seconds), bytes(summary.uploaded_bytes)]);
        row.push(clip(&sanitise_str(&summary.reason), reason));
        table.rows.push(row);
    }
    table
}

/// How long each phase took, and what was sent: `connect 0.4 s, probe 1.2 s, …, 1m58s in all; 1.2 MiB sent`.
pub(super) fn phases(summary: &Summary) -> String {
    let reached = Phase::ALL
        .into_iter()
        .filter_map(|phase| summary.seconds.of(phase).map(|seconds| format!("{phase} {}", duration(seconds))));
    let phases: Vec<String> = reached.chain([format!("{} in all", duration(summary.total_seconds))]).collect();
    format!("{}; {} sent", phases.join(", "), bytes(summary.uploaded_bytes))
}

/// Breaks a list after a comma wherever it would be wider than `columns`.
fn wrapped(list: &str, columns: usize, indent: &str) -> String {
    let mut text = String::new();
    let mut used = usize::MAX;
    for part in list.split_inclusive(", ") {
        let wide = width(part.trim_end());
        if used.saturating_add(wide) > columns {
            text.truncate(text.trim_end().len());
            text.push_str(if text.is_empty() { indent } else { "\n" });
            if text.ends_with('\n') {
                text.push_str(indent);
            }
            used = width(indent);
        }
        text.push_str(part);
        used += width(part);
    }
    text
}

/// The end of one host in a few lines, for a single host or a terminal that is too narrow for the table.
fn summary_lines(summary: &Summary, paint: Paint, columns: Option<usize>) -> String {
    let (host, outcome) = (sanitise_str(&summary.host), summary.outcome.to_string());
    // The reason is wrapped behind as many `x` as host and outcome have columns, which are then painted instead.
    let head = format!("{host}  {outcome}  ");
    let reason = format!("{}{}", "x".repeat(width(&head)), sanitise_str(&summary.reason));
    let reason = wrap(&reason, columns.unwrap_or(usize::MAX), 2).join("\n");
    format!(
        "{}  {}  {}\n{}\n",
        paint.bold(&host),
        paint_ending(paint, summary.outcome, &outcome),
        reason.get(width(&head)..).unwrap_or_default(),
        wrapped(&phases(summary), columns.unwrap_or(usize::MAX), "  "),
    )
}

pub(super) fn paint_ending(paint: Paint, ending: Ending, text: &str) -> String {
    match ending {
        Ending::Deployed => paint.green(text),
        Ending::Untouched => paint.yellow(text),
        Ending::Held => paint.red(text),
    }
}

/// Rows under headings, columns as wide as they must be.
pub(super) struct Table {
    heads: Vec<(String, bool)>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heads: &[&str]) -> Self {
        Self { heads: heads.iter().map(|head| ((*head).to_owned(), false)).collect(), rows: Vec::new() }
    }

    pub(super) fn left(&mut self, head: &str) -> &mut Self {
        self.heads.push((head.to_owned(), false));
        self
    }

    pub(super) fn right(&mut self, head: &str) -> &mut Self {
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
    pub(super) fn render(&self, paint: Paint, style: impl Fn(usize, usize, &str) -> String) -> String {
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
