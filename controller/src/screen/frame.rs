//! The part of the live screen that is redrawn: one line a host, as many as there are rows for.

use anemos_proto::event::Unit;

use super::plain::phase_meaning;
use super::state::HostState;
use super::table::NAME;
use super::text::{Paint, bytes, clip, duration, fit, right, width};
use crate::report::{Ending, Phase};

/// Log lines under a failing host.
const TAIL: usize = 3;

/// A step that has taken less time yet tells nothing of how long it will take, …
const ETA_AFTER_MS: u64 = 5_000;

/// … and neither does one of which not even one of so many parts is done.
const ETA_PARTS: u64 = 50;

/// What the terminal is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub columns: usize,
    pub rows: usize,
    pub paint: Paint,
    /// Whether it shows more than ASCII.
    pub unicode: bool,
}

/// The lines to show now: at most one less than the terminal has rows, none wider than it.
pub fn frame(hosts: &[HostState], now_ms: u64, view: View) -> Vec<String> {
    let budget = view.rows.saturating_sub(1).max(1);
    let tails = |hosts: &[&HostState]| hosts.iter().map(|host| tail_wanted(host)).sum::<usize>();
    let mut order: Vec<&HostState> = hosts.iter().collect();
    let wanted = tails(&order);
    // Hosts are sorted by importance only if not all of them fit: otherwise each keeps its row.
    let all_fit = hosts.len() + wanted <= budget;
    let for_tails = if all_fit { wanted } else { wanted.min(budget / 3) };
    let rows = if hosts.len() + for_tails <= budget { hosts.len() } else { budget.saturating_sub(for_tails + 1) };
    if rows < hosts.len() {
        order.sort_by_key(|host| rank(host));
    }
    let (shown, hidden) = order.split_at(rows);

    let name = shown.iter().map(|host| width(&host.name)).max().unwrap_or(0).min(NAME);
    let failing = shown.iter().filter(|host| tail_wanted(host) > 0).count().max(1);
    let each = if all_fit { TAIL } else { (for_tails / failing).clamp(1, TAIL) };
    let mut left = for_tails;
    let mut lines = Vec::with_capacity(budget);
    for host in shown {
        lines.push(row(host, name, now_ms, view));
        let count = tail_wanted(host).min(each).min(left);
        left -= count;
        for line in host.tail.iter().skip(host.tail.len() - count) {
            let line = clip(line, view.columns.saturating_sub(4));
            lines.push(format!("    {}", view.paint.dim(&line)));
        }
    }
    if !hidden.is_empty() {
        lines.push(view.paint.dim(&clip(&more(hidden), view.columns)));
    }
    lines
}

/// How many log lines of a host are worth showing.
fn tail_wanted(host: &HostState) -> usize {
    if host.failing() { host.tail.len().min(TAIL) } else { 0 }
}

/// What is worth a row: failing hosts, then those that are at work, then those to come, then those that are done.
fn rank(host: &HostState) -> u8 {
    match host {
        _ if host.failing() => 0,
        _ if host.link_lost.is_some() => 1,
        HostState { summary: Some(_), .. } => 4,
        HostState { waiting: Some(_), .. } => 3,
        HostState { phase: Some(_), .. } => 2,
        _ => 3,
    }
}

fn more(hidden: &[&HostState]) -> String {
    let mut counts: Vec<((usize, &str), usize)> = Vec::new();
    for host in hidden {
        let key = doing(host);
        match counts.iter_mut().find(|(known, _)| *known == key) {
            Some((_, count)) => *count += 1,
            None => counts.push((key, 1)),
        }
    }
    counts.sort_unstable();
    let counts: Vec<String> = counts.iter().map(|((_, doing), count)| format!("{count} {doing}")).collect();
    format!("+{} more: {}", hidden.len(), counts.join(", "))
}

/// What a host is doing, in a word, and where that stands in a list.
fn doing(host: &HostState) -> (usize, &'static str) {
    if let Some(summary) = &host.summary {
        return match summary.outcome {
            Ending::Held => (20, "held"),
            Ending::Untouched => (21, "untouched"),
            Ending::Deployed => (22, "deployed"),
        };
    }
    if host.failing() {
        return (0, "failing");
    }
    if host.waiting.is_some() {
        return (19, "waiting");
    }
    let word = match host.phase {
        None => return (19, "waiting"),
        Some(Phase::Connect) => "connecting",
        Some(Phase::Probe) => "probing",
        Some(Phase::Upload) => "uploading",
        Some(Phase::Stage) => "staging",
        Some(Phase::Boot) => "booting",
        Some(Phase::Build) => "building",
        Some(Phase::Reboot) => "rebooting",
        Some(Phase::Verify) => "verifying",
    };
    (1 + host.phase.map_or(0, |phase| phase as usize), word)
}

/// `⠹ web1  build    3m12s  install packages           ━━━━━━━━━╌╌╌╌╌╌╌  120/351`
fn row(host: &HostState, name: usize, now_ms: u64, view: View) -> String {
    let paint = view.paint;
    let until = host.summary.as_ref().map_or(now_ms, |_| host.last_ms);
    let elapsed = host.first_ms.map_or(String::new(), |first| seconds(until.saturating_sub(first)));
    let phase = match &host.summary {
        Some(summary) => summary.outcome.to_string(),
        None if host.waiting.is_some() => "waiting".to_owned(),
        None => host.phase.map_or("", Phase::name).to_owned(),
    };
    let fixed = 2 + name + 2 + 9 + 1 + 7 + 2;
    let room = view.columns.saturating_sub(fixed);
    let head = format!(
        "{} {}  {} {}  ",
        mark(host, now_ms, view),
        paint.bold(&fit(&host.name, name)),
        paint_phase(host, paint, &fit(&phase, 9)),
        right(&clip(&elapsed, 7), 7)
    );
    if view.columns < fixed {
        // Too narrow for columns: what fits of the plain text.
        return clip(&format!("{} {phase}", host.name), view.columns);
    }
    format!("{head}{}", doing_text(host, room, now_ms, view)).trim_end().to_owned()
}

fn mark(host: &HostState, now_ms: u64, view: View) -> String {
    let pick = |unicode: &str, ascii: &str| if view.unicode { unicode.to_owned() } else { ascii.to_owned() };
    let paint = view.paint;
    match &host.summary {
        Some(summary) if summary.outcome == Ending::Deployed => paint.green(&pick("✔", "+")),
        Some(_) => paint.red(&pick("✘", "x")),
        None if host.failing() => paint.red("!"),
        None if host.link_lost.is_some() => paint.yellow("?"),
        None if host.phase.is_none() || host.waiting.is_some() => paint.dim(&pick("·", ".")),
        None => {
            let frames: &[&str] =
                if view.unicode { &["⠋", "⠙", "⠸", "⠴", "⠦", "⠇"] } else { &["|", "/", "-", "\\"] };
            paint.cyan(frames[(now_ms / 150 % frames.len() as u64) as usize])
        }
    }
}

fn paint_phase(host: &HostState, paint: Paint, text: &str) -> String {
    match host.summary.as_ref().map(|summary| summary.outcome) {
        Some(Ending::Deployed) => paint.green(text),
        Some(Ending::Untouched) => paint.yellow(text),
        Some(Ending::Held) => paint.red(text),
        None => paint.cyan(text),
    }
}

fn doing_text(host: &HostState, room: usize, now_ms: u64, view: View) -> String {
    let paint = view.paint;
    if let Some(summary) = &host.summary {
        return clip(&summary.reason, room);
    }
    if let Some((since, why)) = &host.link_lost {
        let text = format!("no connection for {}: {why}", seconds(now_ms.saturating_sub(*since)));
        return paint.yellow(&clip(&text, room));
    }
    if let Some(trouble) = &host.trouble {
        return paint.red(&clip(trouble, room));
    }
    if let Some(what) = &host.waiting {
        return paint.dim(&clip(what, room));
    }
    let step = host.current_step();
    let progress = match (step.and_then(|step| step.progress.as_ref()), host.uploaded) {
        (Some(progress), _) => Some((progress.done, progress.total, progress.unit)),
        (None, Some((sent, total))) => Some((sent, Some(total), Unit::Bytes)),
        (None, None) => None,
    };
    let mut what = step.map_or_else(String::new, |step| step.name.clone());
    if let Some(detail) = step.and_then(|step| step.detail.as_ref()) {
        what = format!("{what}: {detail}");
    }
    let Some((done, total, unit)) = progress else {
        return match (step, host.phase) {
            (Some(_), _) => clip(&what, room),
            (None, Some(phase)) => paint.dim(&clip(phase_meaning(phase), room)),
            (None, None) => paint.dim(&clip("waiting for its turn", room)),
        };
    };
    let mut amount = amount(done, total, unit);
    if let Some(left) = step.and_then(|step| time_left(now_ms.saturating_sub(step.since_ms), done, total?)) {
        amount = format!("{amount}, {left} left");
    }
    // The bar, the amount, and gaps of two columns; what remains is for the step's name.
    let bar_columns = (room / 4).clamp(8, 24);
    let amount_columns = width(&amount).max(18);
    let with_bar = bar_columns + amount_columns + 4;
    match total {
        Some(total) if total > 0 && room >= with_bar + 12 => {
            let what = fit(&what, room - with_bar);
            format!("{what}  {}  {}", bar(done, total, bar_columns, view), right(&amount, amount_columns))
        }
        _ if room >= width(&amount) + 14 => {
            let columns = room - width(&amount) - 2;
            format!("{}  {amount}", fit(&what, columns))
        }
        _ => clip(&what, room),
    }
}

/// How long the rest takes if it goes on as it went so far; `None` as long as that says little.
fn time_left(elapsed_ms: u64, done: u64, total: u64) -> Option<String> {
    if elapsed_ms < ETA_AFTER_MS || done >= total || done < total.div_ceil(ETA_PARTS) {
        return None;
    }
    let left_ms = u128::from(elapsed_ms) * u128::from(total - done) / u128::from(done);
    Some(seconds(u64::try_from(left_ms).unwrap_or(u64::MAX)))
}

fn bar(done: u64, total: u64, columns: usize, view: View) -> String {
    let full = u128::from(done.min(total)) * columns as u128 / u128::from(total);
    let full = usize::try_from(full).unwrap_or(columns).min(columns);
    let (on, off) = if view.unicode { ("━", "╌") } else { ("#", ".") };
    format!("{}{}", view.paint.green(&on.repeat(full)), view.paint.dim(&off.repeat(columns - full)))
}

fn amount(done: u64, total: Option<u64>, unit: Unit) -> String {
    let shown = |count: u64| match unit {
        Unit::Bytes => bytes(count),
        Unit::Items => count.to_string(),
    };
    total.map_or_else(|| shown(done), |total| format!("{}/{}", shown(done), shown(total)))
}

/// Whole seconds: tenths would flicker.
fn seconds(ms: u64) -> String {
    if ms < 10_000 { format!("{} s", ms / 1000) } else { duration((ms / 1000) as f64) }
}

#[cfg(test)]
mod tests {
    use super::time_left;

    #[test]
    fn the_rest_is_told_once_there_is_something_to_tell_it_by() {
        for (elapsed_ms, done, total, expected) in [
            (60_000, 50, 100, Some("1m00s")),
            (60_000, 75, 100, Some("20 s")),
            (60_000, 99, 100, Some("0 s")),
            (4_999, 50, 100, None),
            (60_000, 1, 100, None),
            (60_000, 2, 100, Some("49m00s")),
            (60_000, 100, 100, None),
            (60_000, 120, 100, None),
            (60_000, 0, 0, None),
            (u64::MAX, 1, 2, Some("213503982334d14h")),
        ] {
            assert_eq!(time_left(elapsed_ms, done, total).as_deref(), expected, "{elapsed_ms} {done}/{total}");
        }
    }
}
