//! Reports of every kind, and facts of a host.

use std::sync::{Arc, Mutex};

use anemos_proto::config::Finish;
use anemos_proto::event::{AgentState, Event, EventKind, Level, Outcome, Progress, StepOutcome, Stream, Unit};

use anemos_proto::ids::Digest;

pub use crate::plan::tests::{facts, plan};
use crate::report::{Ending, Phase, PhaseSeconds, Report, Speaker, Summary, Update, What, Wished};

/// 2026-11-23T09:30:00Z.
pub const T0: u64 = 1_795_426_200_000;

pub fn report(host: &str, after_ms: u64, update: Update) -> Report {
    Report { host: host.into(), number: None, wall_ms: T0 + after_ms, update }
}

pub fn event(host: &str, after_ms: u64, kind: EventKind) -> Report {
    let event = Event { seq: 1, uptime_ms: after_ms, wall_ms: T0 + after_ms + 7, kind };
    report(host, after_ms, Update::Event(Speaker::Agent, event))
}

pub fn log(host: &str, after_ms: u64, line: &[u8]) -> Report {
    event(host, after_ms, EventKind::Log { stream: Stream::Stdout, line: line.into() })
}

pub fn step(host: &str, after_ms: u64, step: u32, name: &str) -> Report {
    event(host, after_ms, EventKind::StepStarted { step, parent: None, name: name.into() })
}

pub fn progress(host: &str, after_ms: u64, step: u32, done: u64, total: Option<u64>, unit: Unit) -> Report {
    report(host, after_ms, Update::Progress(Speaker::Agent, Progress { step, done, total, unit, what: None }))
}

pub fn summary(host: &str, after_ms: u64, outcome: Ending, reason: &str) -> Report {
    report(host, after_ms, Update::Summary(Box::new(summary_of(host, outcome, reason))))
}

pub fn summary_of(host: &str, outcome: Ending, reason: &str) -> Summary {
    Summary {
        host: host.into(),
        outcome,
        reason: reason.into(),
        uploaded_bytes: 1_250_000,
        received_bytes: 48_000,
        host_downloaded_bytes: 61_000_000,
        initramfs_bytes: 98_000_000,
        seconds: PhaseSeconds {
            connect: Some(0.4),
            probe: Some(1.2),
            upload: Some(9.0),
            stage: Some(31.5),
            boot: Some(6.1),
            build: Some(185.0),
            ..PhaseSeconds::default()
        },
        first_event_seconds: Some(5.5),
        total_seconds: 233.2,
    }
}

/// Every kind of event, each with every shape it can have.
pub fn event_kinds() -> Vec<EventKind> {
    use EventKind as E;
    let kinds = vec![
        E::StepStarted { step: 1, parent: None, name: "partition".into() },
        E::StepStarted { step: 2, parent: Some(1), name: "mkfs".into() },
        E::StepFinished { step: 2, outcome: StepOutcome::Done },
        E::StepFinished { step: 2, outcome: StepOutcome::Skipped("there is one".into()) },
        E::StepFinished { step: 1, outcome: StepOutcome::Failed("no space left".into()) },
        E::Log { stream: Stream::Stdout, line: b"Unpacking bash".to_vec() },
        E::Log { stream: Stream::Stderr, line: b"\xff\xfe".to_vec() },
        E::Log { stream: Stream::Kernel, line: b"EXT4-fs (vda2): mounted".to_vec() },
        E::Note { level: Level::Info, text: "all well".into() },
        E::Note { level: Level::Warning, text: "no swap".into() },
        E::Note { level: Level::Error, text: "no disk".into() },
        E::State(AgentState::Starting),
        E::State(AgentState::Waiting),
        E::State(AgentState::Running),
        E::State(AgentState::Held("deploy ended with 1".into())),
        E::State(AgentState::Succeeded),
        E::State(AgentState::Returning("nobody came".into())),
        E::Gap { first: 5, last: 9, bytes: 4096 },
        E::Attempt(2),
        E::Written(vec![("/dev/vda".into(), 2048)]),
        E::HostKeys(vec![
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBvMEaYrEAoJpg0YaZD5aPahfRI1O5ZQNNGGKHzSjDzv web1".into(),
        ]),
        E::Seeded(41_000_000),
        E::Outcome(Outcome::Succeeded),
        E::Outcome(Outcome::Failed { reason: "deploy ended with 1".into(), written: true }),
        E::NothingWritten { attempt: 1 },
        E::Shell,
    ];
    // A new kind fails to compile here until somebody gives it a sample above and a line below.
    let known = |kind: &EventKind| match kind {
        E::StepStarted { .. } => 0,
        E::StepFinished { .. } => 1,
        E::Log { .. } => 2,
        E::Note { .. } => 3,
        E::State(_) => 4,
        E::Gap { .. } => 5,
        E::Attempt(_) => 6,
        E::Written(_) => 7,
        E::HostKeys(_) => 8,
        E::Seeded(_) => 9,
        E::Outcome(_) => 10,
        E::NothingWritten { .. } => 11,
        E::Shell => 12,
    };
    for number in 0..=12 {
        assert!(kinds.iter().any(|kind| known(kind) == number), "no sample of kind {number}");
    }
    kinds
}

fn wished(what: What) -> Wished {
    Wished { author: "ann (process 77)".into(), id: "0123456789abcdef".into(), what }
}

/// Every kind of report.
pub fn every_report() -> Vec<Report> {
    let mut updates = vec![
        Update::PhaseStarted(Phase::Connect),
        Update::PhaseFinished(Phase::Connect, 0.41),
        Update::Facts(Box::new(facts())),
        Update::Uploaded { sent: 500_000, total: 1_200_000 },
        Update::Progress(
            Speaker::Stage,
            Progress { step: 1, done: 3, total: None, unit: Unit::Items, what: Some("bash".into()) },
        ),
        Update::LinkLost("connection reset".into()),
        Update::LinkBack,
        Update::Message(Level::Warning, "the host's clock is 3 s off".into()),
        Update::Waiting("waits for web0, which goes alone".into()),
        Update::Wished(wished(What::Retry { payload: Some(Digest([9; 32])) })),
        Update::Answered { wish: 11, refused: Some("the payload is running".into()) },
        Update::Wished(wished(What::Finish(Finish::Kexec))),
        Update::Answered { wish: 13, refused: None },
        Update::Planned { plan: Box::new(plan()), order: Some("all 2 at once".into()) },
        Update::Decided { author: "ann (process 77)".into(), approved: true },
        Update::Summary(Box::new(summary_of("web1", Ending::Held, "deploy ended with 1"))),
    ];
    let events = event_kinds()
        .into_iter()
        .enumerate()
        .map(|(i, kind)| Update::Event(Speaker::Agent, Event { seq: i as u64 + 1, uptime_ms: 900, wall_ms: T0, kind }));
    let waiting = updates.iter().position(|update| matches!(update, Update::Waiting(_)));
    let at = waiting.unwrap_or(updates.len());
    updates.splice(at..at, events);
    let known = |update: &Update| match update {
        Update::PhaseStarted(_) => 0,
        Update::PhaseFinished(..) => 1,
        Update::Facts(_) => 2,
        Update::Uploaded { .. } => 3,
        Update::Event(..) => 4,
        Update::Progress(..) => 5,
        Update::LinkLost(_) => 6,
        Update::LinkBack => 7,
        Update::Message(..) => 8,
        Update::Summary(_) => 9,
        Update::Waiting(_) => 10,
        Update::Wished(_) => 11,
        Update::Answered { .. } => 12,
        Update::Planned { .. } => 13,
        Update::Decided { .. } => 14,
    };
    for number in 0..=14 {
        assert!(updates.iter().any(|update| known(update) == number), "no sample of update {number}");
    }
    let numbered = |(i, update)| Report { number: Some(i as u64 + 1), ..report("web1", i as u64 * 1000, update) };
    updates.into_iter().enumerate().map(numbered).collect()
}

/// A writer whose bytes can be looked at.
#[derive(Debug, Clone, Default)]
pub struct Sink(pub Arc<Mutex<Vec<u8>>>);

impl Sink {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
