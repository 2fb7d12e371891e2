//! Reports as JSON Lines. `docs/JSON.md` describes every type and field; a test holds the two against each other.

use std::io::{self, Write};
use std::sync::Arc;

use anemos_proto::event::{AgentState, Event, EventKind, Level, Outcome, StepOutcome, Stream, Unit};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use super::json_facts::FactsJson;
use super::text::{base64, is_invisible, rfc3339};
use super::{Out, Show};
use crate::plan::Plan;
use crate::report::{Phase, Report, Speaker, Summary, Update, What, finish_name};

/// Version of the schema: it changes when a field changes its meaning or goes away, not when one is added.
pub const SCHEMA: u32 = 1;

/// What `--json` shows.
pub(super) struct JsonScreen {
    out: Out,
}

impl JsonScreen {
    pub(super) fn new(mut out: Out, run: Option<&str>, hosts: &[String], now_ms: u64) -> Self {
        out.line(&line(&Line {
            number: None,
            time: rfc3339(now_ms),
            body: Body::Start { schema: SCHEMA, run, hosts },
        }));
        Self { out }
    }
}

impl Show for JsonScreen {
    fn report(&mut self, report: &Report) {
        self.out.line(&report_line(report));
    }

    fn tick(&mut self, _now_ms: u64) {
        self.out.flush();
    }

    fn plans(&mut self, _plans: &[Arc<Plan>], _order: Option<&str>, _now_ms: u64) {
        // Each was reported.
        self.out.flush();
    }

    fn pause(&mut self) {
        self.out.flush();
    }

    fn resume(&mut self) {}

    fn finish(&mut self, _now_ms: u64) {
        self.out.flush();
    }
}

/// One report as one line of JSON, without its newline.
pub fn report_line(report: &Report) -> String {
    let host = &report.host;
    let body = match &report.update {
        Update::PhaseStarted(phase) => Body::Phase { host, phase: *phase, state: "started", seconds: None },
        Update::PhaseFinished(phase, seconds) => {
            Body::Phase { host, phase: *phase, state: "finished", seconds: Some(*seconds) }
        }
        Update::Facts(facts) => Body::Facts { host, facts: Box::new(FactsJson::from(&**facts)) },
        Update::Uploaded { sent, total } => Body::Uploaded { host, sent: *sent, total: *total },
        Update::Event(speaker, event) => Body::Event(EventJson::new(host, *speaker, event)),
        Update::Progress(speaker, progress) => Body::Progress {
            host,
            speaker: *speaker,
            step: progress.step,
            done: progress.done,
            total: progress.total,
            unit: match progress.unit {
                Unit::Bytes => "bytes",
                Unit::Items => "items",
            },
            what: progress.what.as_deref(),
        },
        Update::LinkLost(why) => Body::Link { host, state: "lost", reason: Some(why) },
        Update::LinkBack => Body::Link { host, state: "back", reason: None },
        Update::Message(level, text) => Body::Message { host, level: level_name(*level), text },
        Update::Waiting(reason) => Body::Waiting { host, reason },
        Update::Summary(summary) => Body::Summary(summary),
        Update::Planned { plan, order } => Body::Plan { plan, order: order.as_deref() },
        Update::Wished(wished) => Body::Wish {
            host,
            wish: wished.what.name(),
            finish: match wished.what {
                What::Finish(finish) => Some(finish_name(finish)),
                What::Retry { .. } | What::Abort => None,
            },
            payload: match wished.what {
                What::Retry { payload } => payload.map(|digest| digest.to_string()),
                What::Abort | What::Finish(_) => None,
            },
            author: &wished.author,
            id: &wished.id,
        },
        Update::Decided { author, approved } => Body::Decision { host, author, approved: *approved },
        Update::Answered { wish, refused } => {
            Body::Answer { host, wish: *wish, accepted: refused.is_none(), reason: refused.as_deref() }
        }
    };
    line(&Line { number: report.number, time: rfc3339(report.wall_ms), body })
}

/// What `plan` says of a host where it is asked whether a deployment would change it. `made_by` is the run that made
/// the host what it would become; without one, it would be changed.
pub fn change_line(host: &str, made_by: Option<&str>, now_ms: u64) -> String {
    let body = Body::Change { host, changed: made_by.is_none(), made_by };
    line(&Line { number: None, time: rfc3339(now_ms), body })
}

/// Any serialisable value as one line. Characters that a terminal would act on are written as `\u….`.
pub(super) fn line(value: &impl Serialize) -> String {
    let mut bytes = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, TerminalSafe);
    // Writing plain data to a Vec has no way to fail: no I/O, no maps with keys that aren't strings.
    value.serialize(&mut serializer).expect("plain data serialises");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    body: Body<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    time: String,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Body<'a> {
    Start {
        schema: u32,
        run: Option<&'a str>,
        hosts: &'a [String],
    },
    Phase {
        host: &'a str,
        phase: Phase,
        state: &'static str,
        seconds: Option<f64>,
    },
    Facts {
        host: &'a str,
        facts: Box<FactsJson<'a>>,
    },
    Uploaded {
        host: &'a str,
        sent: u64,
        total: u64,
    },
    Event(EventJson<'a>),
    Progress {
        host: &'a str,
        speaker: Speaker,
        step: u32,
        done: u64,
        total: Option<u64>,
        unit: &'static str,
        what: Option<&'a str>,
    },
    Link {
        host: &'a str,
        state: &'static str,
        reason: Option<&'a str>,
    },
    Message {
        host: &'a str,
        level: &'static str,
        text: &'a str,
    },
    Waiting {
        host: &'a str,
        reason: &'a str,
    },
    Wish {
        host: &'a str,
        wish: &'static str,
        finish: Option<&'static str>,
        payload: Option<String>,
        author: &'a str,
        id: &'a str,
    },
    Decision {
        host: &'a str,
        author: &'a str,
        approved: bool,
    },
    Answer {
        host: &'a str,
        wish: u64,
        accepted: bool,
        reason: Option<&'a str>,
    },
    Plan {
        #[serde(flatten)]
        plan: &'a Plan,
        order: Option<&'a str>,
    },
    Change {
        host: &'a str,
        changed: bool,
        made_by: Option<&'a str>,
    },
    Summary(&'a Summary),
}

#[derive(Serialize)]
struct EventJson<'a> {
    host: &'a str,
    speaker: Speaker,
    seq: u64,
    uptime_ms: u64,
    host_time: String,
    #[serde(flatten)]
    kind: KindJson<'a>,
}

impl<'a> EventJson<'a> {
    fn new(host: &'a str, speaker: Speaker, event: &'a Event) -> Self {
        Self {
            host,
            speaker,
            seq: event.seq,
            uptime_ms: event.uptime_ms,
            host_time: rfc3339(event.wall_ms),
            kind: KindJson::from(&event.kind),
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum KindJson<'a> {
    StepStarted {
        step: u32,
        parent: Option<u32>,
        name: &'a str,
    },
    StepFinished {
        step: u32,
        outcome: &'static str,
        reason: Option<&'a str>,
    },
    Log {
        stream: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
    },
    Note {
        level: &'static str,
        text: &'a str,
    },
    State {
        state: &'static str,
        reason: Option<&'a str>,
    },
    Gap {
        first: u64,
        last: u64,
        bytes: u64,
    },
    Attempt {
        attempt: u32,
    },
    Written {
        disks: Vec<WrittenJson<'a>>,
    },
    HostKeys {
        keys: &'a [String],
    },
    Seeded {
        bytes: u64,
    },
    Outcome {
        outcome: &'static str,
        reason: Option<&'a str>,
        written: Option<bool>,
    },
    NothingWritten {
        attempt: u32,
    },
    Shell,
}

#[derive(Serialize)]
struct WrittenJson<'a> {
    name: &'a str,
    sectors: u64,
}

impl<'a> From<&'a EventKind> for KindJson<'a> {
    fn from(kind: &'a EventKind) -> Self {
        match kind {
            EventKind::StepStarted { step, parent, name } => Self::StepStarted { step: *step, parent: *parent, name },
            EventKind::StepFinished { step, outcome } => {
                let (outcome, reason) = match outcome {
                    StepOutcome::Done => ("done", None),
                    StepOutcome::Skipped(why) => ("skipped", Some(why.as_str())),
                    StepOutcome::Failed(why) => ("failed", Some(why.as_str())),
                };
                Self::StepFinished { step: *step, outcome, reason }
            }
            EventKind::Log { stream, line } => {
                let stream = match stream {
                    Stream::Stdout => "stdout",
                    Stream::Stderr => "stderr",
                    Stream::Kernel => "kernel",
                };
                let text = std::str::from_utf8(line).ok();
                Self::Log { stream, text, base64: text.is_none().then(|| base64(line)) }
            }
            EventKind::Note { level, text } => Self::Note { level: level_name(*level), text },
            EventKind::State(state) => {
                let (state, reason) = match state {
                    AgentState::Starting => ("starting", None),
                    AgentState::Waiting => ("waiting", None),
                    AgentState::Running => ("running", None),
                    AgentState::Held(why) => ("held", Some(why.as_str())),
                    AgentState::Succeeded => ("succeeded", None),
                    AgentState::Returning(why) => ("returning", Some(why.as_str())),
                };
                Self::State { state, reason }
            }
            EventKind::Gap { first, last, bytes } => Self::Gap { first: *first, last: *last, bytes: *bytes },
            EventKind::Attempt(attempt) => Self::Attempt { attempt: *attempt },
            EventKind::Written(disks) => Self::Written {
                disks: disks.iter().map(|(name, sectors)| WrittenJson { name, sectors: *sectors }).collect(),
            },
            EventKind::HostKeys(keys) => Self::HostKeys { keys },
            EventKind::Seeded(bytes) => Self::Seeded { bytes: *bytes },
            EventKind::Outcome(Outcome::Succeeded) => {
                Self::Outcome { outcome: "succeeded", reason: None, written: None }
            }
            EventKind::Outcome(Outcome::Failed { reason, written }) => {
                Self::Outcome { outcome: "failed", reason: Some(reason), written: Some(*written) }
            }
            EventKind::NothingWritten { attempt } => Self::NothingWritten { attempt: *attempt },
            EventKind::Shell => Self::Shell,
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Info => "info",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}

/// Compact JSON in which C1 controls and invisible formatting characters are escaped too: the lines may end up on a
/// terminal, and `serde_json` escapes only what JSON itself must have escaped.
struct TerminalSafe;

impl Formatter for TerminalSafe {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain = 0;
        for (i, c) in fragment.char_indices() {
            if c.is_control() || is_invisible(c) || matches!(c, '\u{2028}' | '\u{2029}') {
                CompactFormatter.write_string_fragment(writer, &fragment[plain..i])?;
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
                plain = i + c.len_utf8();
            }
        }
        CompactFormatter.write_string_fragment(writer, &fragment[plain..])
    }
}
