//! Plain lines, for pipes, files and terminals that can't move their cursor. Nothing is left out but progress.

use std::collections::HashMap;
use std::sync::Arc;

use anemos_proto::config::Finish;
use anemos_proto::event::{AgentState, EventKind, Level, Outcome, Progress, StepOutcome, Unit};
use anemos_proto::host::{Firmware, HostFacts};
use jiff::civil::Date;

use super::state::{HostState, Hosts};
use super::text::{Paint, Zone, bytes, clip, duration, log_line, sanitise_str};
use super::{Out, Show, table};
use crate::known_hosts::PublicKey;
use crate::plan::Plan;
use crate::report::{Ending, Phase, Report, Speaker, Summary, Update, What, Wished};

/// Milliseconds after which the progress of a step is worth a line again.
const PROGRESS_EVERY_MS: u64 = 10_000;

/// Steps whose progress is remembered.
const COUNTERS: usize = 4096;

/// What is shown without a terminal.
pub(super) struct PlainScreen {
    out: Out,
    lines: PlainLines,
    paint: Paint,
    /// Only what went wrong, and how hosts end.
    quiet: bool,
}

impl PlainScreen {
    pub(super) fn new(out: Out, lines: PlainLines, paint: Paint, quiet: bool) -> Self {
        Self { out, lines, paint, quiet }
    }
}

/// Whether a report is worth a line to whoever wants few.
fn matters(update: &Update) -> bool {
    match update {
        Update::Summary(_) => true,
        Update::Message(level, _) => *level > Level::Info,
        Update::Event(_, event) => gravity(&event.kind) > Level::Info,
        _ => false,
    }
}

/// How much an event matters.
pub(super) fn gravity(kind: &EventKind) -> Level {
    match kind {
        EventKind::StepFinished { outcome: StepOutcome::Failed(_), .. }
        | EventKind::State(AgentState::Held(_))
        | EventKind::Outcome(Outcome::Failed { .. }) => Level::Error,
        EventKind::State(AgentState::Returning(_)) | EventKind::Gap { .. } => Level::Warning,
        EventKind::Note { level, .. } => *level,
        _ => Level::Info,
    }
}

impl Show for PlainScreen {
    fn report(&mut self, report: &Report) {
        if let Some(line) = self.lines.line(report)
            && (!self.quiet || matters(&report.update))
        {
            self.out.line(&line);
        }
    }

    fn tick(&mut self, _now_ms: u64) {
        self.out.flush();
    }

    fn plans(&mut self, plans: &[Arc<Plan>], order: Option<&str>, _now_ms: u64) {
        self.out.line(super::plan::render(plans, order, self.paint, None).trim_end());
        self.out.flush();
    }

    fn pause(&mut self) {
        self.out.flush();
    }

    fn resume(&mut self) {}

    fn finish(&mut self, _now_ms: u64) {
        let summaries: Vec<&Summary> = self.lines.hosts.all().iter().filter_map(|host| host.summary.as_ref()).collect();
        match summaries[..] {
            [] => {}
            [_] if self.quiet => {}
            // The line about its end has said the rest.
            [summary] => self.out.line(&format!("{} phases: {}", sanitise_str(&summary.host), table::phases(summary))),
            _ => self.out.line(&format!("\n{}", table::summaries(&summaries, self.paint, None).trim_end())),
        }
        self.out.flush();
    }
}

/// Turns reports into lines.
pub struct PlainLines {
    hosts: Hosts,
    /// When the progress of what was last worth a line, or began.
    shown: HashMap<(String, Counter), u64>,
    /// The day of the last line that had a time.
    day: Option<Date>,
    zone: Zone,
}

/// What progress is counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Counter {
    Upload,
    Step(Speaker, u32),
}

impl PlainLines {
    /// For these hosts, and others that turn up.
    pub fn new(hosts: &[String]) -> Self {
        Self { hosts: Hosts::new(hosts), shown: HashMap::new(), day: None, zone: Zone::utc() }
    }

    /// With times of this machine's zone instead of UTC.
    pub fn local(self) -> Self {
        Self { zone: Zone::local(), ..self }
    }

    /// The line for a report, without its newline; `None` for progress that is not worth one.
    pub fn line(&mut self, report: &Report) -> Option<String> {
        let text = self.text(report);
        let host = self.hosts.get(&report.host);
        host.apply(report);
        if let Update::Event(_, event) = &report.update
            && let EventKind::Log { stream, line } = &event.kind
        {
            return Some(format!("{} | {}", host.name, log_line(*stream, line)));
        }
        let phase = host.phase.map_or("start", Phase::name);
        let (name, text) = (host.name.clone(), text?);
        // A line with a date says it for all up to the next.
        let day = self.zone.day(report.wall_ms);
        let known = self.day.replace(day) == Some(day);
        let stamp = if known { self.zone.clock(report.wall_ms) } else { self.zone.date_time(report.wall_ms) };
        Some(format!("{stamp} {name} {phase}: {text}"))
    }

    fn text(&mut self, report: &Report) -> Option<String> {
        match &report.update {
            Update::PhaseStarted(phase) => {
                // A new phase counts afresh; steps keep their ids only within one speaker's boot.
                self.shown.retain(|(host, _), _| *host != report.host);
                Some(phase_meaning(*phase).to_owned())
            }
            Update::PhaseFinished(_, seconds) => Some(format!("done in {}", duration(*seconds))),
            Update::Facts(facts) => Some(facts_text(facts)),
            Update::Uploaded { sent, total } => {
                self.due(report, Counter::Upload).then(|| format!("sent {}", amount(*sent, Some(*total), Unit::Bytes)))
            }
            Update::Event(speaker, event) => {
                if let EventKind::StepFinished { step, .. } = event.kind {
                    self.shown.remove(&(report.host.clone(), Counter::Step(*speaker, step)));
                }
                Some(event_text(self.hosts.get(&report.host), *speaker, &event.kind, report.wall_ms))
            }
            Update::Progress(speaker, progress) => {
                let counter = Counter::Step(*speaker, progress.step);
                if !self.due(report, counter) {
                    return None;
                }
                Some(progress_text(self.hosts.get(&report.host), *speaker, progress))
            }
            Update::LinkLost(why) => Some(format!("connection lost: {}; trying again", sanitise_str(why))),
            Update::LinkBack => Some("connected again".to_owned()),
            Update::Message(level, text) => Some(level_text(*level, text)),
            Update::Waiting(what) => Some(sanitise_str(what)),
            // Those of all hosts are shown together.
            Update::Planned { .. } => None,
            Update::Summary(summary) => Some(summary_text(summary)),
            Update::Wished(wished) => Some(wished_text(wished)),
            Update::Answered { refused, .. } => Some(answered_text(refused.as_deref())),
            Update::Decided { author, approved } => Some(decided_text(author, *approved)),
        }
    }

    /// Whether this progress is worth a line. A step that is over sooner is not: its end says enough.
    fn due(&mut self, report: &Report, counter: Counter) -> bool {
        if self.shown.len() >= COUNTERS {
            // Nobody has so many steps going.
            self.shown.clear();
        }
        let shown = self.shown.entry((report.host.clone(), counter)).or_insert(report.wall_ms);
        let due = report.wall_ms.saturating_sub(*shown) >= PROGRESS_EVERY_MS;
        if due {
            *shown = report.wall_ms;
        }
        due
    }
}

/// What a phase is about, for those who see it for the first time.
pub(super) fn phase_meaning(phase: Phase) -> &'static str {
    match phase {
        Phase::Connect => "connecting to the old system",
        Phase::Probe => "starting the stage and looking at the host",
        Phase::Upload => "sending what the host lacks",
        Phase::Stage => "preparing the initramfs on the host",
        Phase::Boot => "booting into RAM",
        Phase::Build => "running the payload",
        Phase::Reboot => "rebooting",
        Phase::Verify => "checking the new system",
    }
}

/// What somebody wants of the host.
pub(super) fn wished_text(wished: &Wished) -> String {
    let what = match &wished.what {
        What::Retry { payload: None } => "to run the payload again",
        What::Retry { payload: Some(_) } => "to run another payload",
        What::Abort => "to end the payload",
        What::Finish(Finish::Reboot) => "to reboot",
        What::Finish(Finish::Kexec) => "to boot the new system by kexec",
        What::Finish(Finish::PowerOff) => "to power off",
        What::Finish(Finish::Hold) => "to stay in RAM",
    };
    format!("{} asks the host {what} ({})", sanitise_str(&wished.author), wished.what.name())
}

/// Who decided about the plan, and what.
pub(super) fn decided_text(author: &str, approved: bool) -> String {
    format!("{} {} the plan", sanitise_str(author), if approved { "approved" } else { "did not approve" })
}

/// What became of that.
pub(super) fn answered_text(refused: Option<&str>) -> String {
    refused.map_or_else(|| "accepted".into(), |why| format!("refused: {}", sanitise_str(why)))
}

fn facts_text(facts: &HostFacts) -> String {
    let firmware = match facts.firmware {
        Firmware::Bios => "BIOS",
        Firmware::Uefi { secure_boot: false } => "UEFI",
        Firmware::Uefi { secure_boot: true } => "UEFI with Secure Boot",
    };
    let disks: Vec<String> =
        facts.disks.iter().map(|disk| format!("{} {}", sanitise_str(&disk.id.name), bytes(disk.id.size))).collect();
    let os = if facts.os.is_empty() { "unknown system" } else { &facts.os };
    format!(
        "{}, Linux {}, {}, {firmware}, {} of memory, {}",
        sanitise_str(os),
        sanitise_str(&facts.kernel_release),
        sanitise_str(&facts.arch),
        bytes(facts.memory_total),
        if disks.is_empty() { "no disks".to_owned() } else { disks.join(", ") }
    )
}

/// An event but for log lines, as text. `host` is as it was before the event.
pub(super) fn event_text(host: &HostState, speaker: Speaker, kind: &EventKind, now_ms: u64) -> String {
    match kind {
        EventKind::StepStarted { name, .. } => format!("{}: started", sanitise_str(name)),
        EventKind::StepFinished { step, outcome } => {
            let known = host.step(speaker, *step);
            let name = known.map_or_else(|| format!("step {step}"), |step| step.name.clone());
            let took = known.map_or_else(String::new, |step| {
                format!(" in {}", duration(now_ms.saturating_sub(step.since_ms) as f64 / 1000.0))
            });
            match outcome {
                StepOutcome::Done => format!("{name}: done{took}"),
                StepOutcome::Skipped(why) => format!("{name}: skipped: {}", sanitise_str(why)),
                StepOutcome::Failed(why) => format!("{name}: FAILED{took}: {}", sanitise_str(why)),
            }
        }
        EventKind::Log { stream, line } => log_line(*stream, line),
        EventKind::Note { level, text } => level_text(*level, text),
        EventKind::State(state) => match state {
            AgentState::Starting => "the agent is starting".to_owned(),
            AgentState::Waiting => "the agent is ready".to_owned(),
            AgentState::Running => "the payload is running".to_owned(),
            AgentState::Held(why) => format!("HELD, waiting for a person: {}", sanitise_str(why)),
            AgentState::Succeeded => "the payload succeeded".to_owned(),
            AgentState::Returning(why) => format!("going back to the old system: {}", sanitise_str(why)),
        },
        EventKind::Gap { first, last, bytes: lost } => {
            format!("events {first} to {last} ({}) were dropped on the host: its log was full", bytes(*lost))
        }
        EventKind::Attempt(attempt) => format!("attempt {attempt}"),
        EventKind::Written(disks) => {
            let disks: Vec<String> = disks
                .iter()
                .map(|(name, sectors)| format!("{} {}", sanitise_str(name), bytes(sectors.saturating_mul(512))))
                .collect();
            format!("written: {}", if disks.is_empty() { "nothing".to_owned() } else { disks.join(", ") })
        }
        EventKind::HostKeys(keys) => {
            let keys: Vec<String> = keys.iter().map(|key| fingerprint(key)).collect();
            format!(
                "host keys of the new system: {}",
                if keys.is_empty() { "none".to_owned() } else { keys.join(", ") }
            )
        }
        EventKind::Seeded(count) => format!("{} put in the new system's cache", bytes(*count)),
        EventKind::Outcome(Outcome::Succeeded) => "the payload ended well".to_owned(),
        EventKind::Outcome(Outcome::Failed { reason, written }) => {
            let disks = if *written { "disks were written" } else { "no write was counted" };
            format!("the payload FAILED: {} ({disks})", sanitise_str(reason))
        }
        EventKind::NothingWritten { .. } => "all disks are read-only, and nothing was written to any".to_owned(),
        EventKind::Shell => "somebody got a shell or ran a command in RAM".to_owned(),
    }
}

/// A public key as people compare it.
fn fingerprint(key: &str) -> String {
    match PublicKey::parse(key) {
        Ok(key) => format!("{} {}", key.algorithm(), key.fingerprint()),
        Err(_) => format!("{} (not readable)", clip(&sanitise_str(key), 40)),
    }
}

fn progress_text(host: &HostState, speaker: Speaker, progress: &Progress) -> String {
    let name = host.step(speaker, progress.step).map_or_else(|| format!("step {}", progress.step), |s| s.name.clone());
    let what = progress.what.as_deref().map_or_else(String::new, |what| format!(", {}", sanitise_str(what)));
    format!("{name}: {}{what}", amount(progress.done, progress.total, progress.unit))
}

/// `1.2 MiB of 3.4 MiB (35 %)`, `12 of 40 (30 %)`, `12`.
fn amount(done: u64, total: Option<u64>, unit: Unit) -> String {
    let shown = |count: u64| match unit {
        Unit::Bytes => bytes(count),
        Unit::Items => count.to_string(),
    };
    match total {
        Some(total) if total > 0 => {
            let percent = (u128::from(done) * 100 / u128::from(total)).min(100);
            format!("{} of {} ({percent} %)", shown(done), shown(total))
        }
        _ => shown(done),
    }
}

pub(super) fn level_text(level: Level, text: &str) -> String {
    let text = sanitise_str(text);
    match level {
        Level::Info => text,
        Level::Warning => format!("warning: {text}"),
        Level::Error => format!("ERROR: {text}"),
    }
}

fn summary_text(summary: &Summary) -> String {
    let outcome = match summary.outcome {
        Ending::Deployed => "deployed",
        Ending::Untouched => "UNTOUCHED",
        Ending::Held => "HELD",
    };
    format!(
        "{outcome}: {}; {} in all, {} sent, {} received",
        sanitise_str(&summary.reason),
        duration(summary.total_seconds),
        bytes(summary.uploaded_bytes),
        bytes(summary.received_bytes)
    )
}
