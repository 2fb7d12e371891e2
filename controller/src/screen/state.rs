//! What is known about each host from its reports so far: the memory of the screens that need one.

use std::collections::VecDeque;

use anemos_proto::event::{AgentState, EventKind, Level, Outcome, Progress, StepOutcome};

use super::text::{brief, clip, log_line, sanitise_str};
use crate::report::{Ending, Phase, Report, Speaker, Summary, Update};

/// Log lines kept per host, to be shown if it fails.
const TAIL: usize = 20;

/// Columns of each.
const TAIL_COLUMNS: usize = 500;

/// Open steps that are looked at. A host may say that it has begun more.
const STEPS: usize = 64;

/// An open step.
#[derive(Debug, Clone)]
pub struct Step {
    pub speaker: Speaker,
    pub id: u32,
    pub name: String,
    pub since_ms: u64,
    pub progress: Option<Progress>,
    /// What its progress says is being worked on.
    pub detail: Option<String>,
}

/// One host.
#[derive(Debug, Clone)]
pub struct HostState {
    pub name: String,
    pub phase: Option<Phase>,
    pub phase_since_ms: u64,
    /// Time of its first report.
    pub first_ms: Option<u64>,
    /// Time of its last one.
    pub last_ms: u64,
    /// What it waits for, for others' sake.
    pub waiting: Option<String>,
    /// Steps that have started and not ended, outermost first.
    pub steps: Vec<Step>,
    /// Bytes sent and in all, while uploading.
    pub uploaded: Option<(u64, u64)>,
    /// Since when the connection is lost, and why.
    pub link_lost: Option<(u64, String)>,
    /// Its last log lines, sanitised.
    pub tail: VecDeque<String>,
    /// What went wrong, unless a new attempt began since.
    pub trouble: Option<String>,
    pub summary: Option<Summary>,
}

impl HostState {
    pub fn new(name: &str) -> Self {
        Self {
            name: sanitise_str(name),
            phase: None,
            phase_since_ms: 0,
            first_ms: None,
            last_ms: 0,
            waiting: None,
            steps: Vec::new(),
            uploaded: None,
            link_lost: None,
            tail: VecDeque::new(),
            trouble: None,
            summary: None,
        }
    }

    /// The open step that `speaker` calls `id`.
    pub fn step(&self, speaker: Speaker, id: u32) -> Option<&Step> {
        self.steps.iter().find(|step| step.speaker == speaker && step.id == id)
    }

    /// The innermost open step that says how far it is, else the innermost one.
    pub fn current_step(&self) -> Option<&Step> {
        self.steps.iter().rev().find(|step| step.progress.is_some()).or(self.steps.last())
    }

    /// Whether it failed, or is about to.
    pub fn failing(&self) -> bool {
        self.summary.as_ref().map_or(self.trouble.is_some(), |summary| summary.outcome != Ending::Deployed)
    }

    /// Takes in one report of this host.
    pub fn apply(&mut self, report: &Report) {
        let now = report.wall_ms;
        self.first_ms.get_or_insert(now);
        self.last_ms = now;
        match &report.update {
            Update::PhaseStarted(phase) => {
                self.phase = Some(*phase);
                self.phase_since_ms = now;
                self.waiting = None;
                self.uploaded = None;
                if *phase == Phase::Boot {
                    self.steps.clear();
                }
            }
            Update::PhaseFinished(..)
            | Update::Facts(_)
            | Update::Planned { .. }
            | Update::Decided { .. }
            | Update::Answered { .. } => {}
            Update::Uploaded { sent, total } => self.uploaded = Some((*sent, *total)),
            Update::Event(speaker, event) => self.event(*speaker, &event.kind, now),
            Update::Progress(speaker, progress) => {
                let step = self.steps.iter_mut().find(|s| s.speaker == *speaker && s.id == progress.step);
                if let Some(step) = step {
                    step.detail = progress.what.as_deref().map(brief);
                    step.progress = Some(progress.clone());
                }
            }
            Update::LinkLost(why) => self.link_lost = Some((now, brief(why))),
            Update::LinkBack => self.link_lost = None,
            Update::Message(level, text) => {
                if *level == Level::Error {
                    self.trouble = Some(brief(text));
                }
            }
            Update::Waiting(what) => self.waiting = Some(brief(what)),
            // A host that was over is taken up again for a wish.
            Update::Wished(_) => self.summary = None,
            Update::Summary(summary) => {
                self.link_lost = None;
                self.waiting = None;
                self.steps.clear();
                self.summary = Some(Summary { reason: brief(&summary.reason), ..(**summary).clone() });
            }
        }
    }

    fn event(&mut self, speaker: Speaker, kind: &EventKind, now: u64) {
        match kind {
            EventKind::StepStarted { step, name, .. } if self.steps.len() < STEPS => {
                let name = brief(name);
                self.steps.push(Step { speaker, id: *step, name, since_ms: now, progress: None, detail: None });
            }
            EventKind::StepFinished { step, outcome } => {
                if let StepOutcome::Failed(why) = outcome {
                    let name = self.step(speaker, *step).map_or("a step", |step| &step.name);
                    self.trouble = Some(format!("{name}: {}", brief(why)));
                }
                self.steps.retain(|s| s.speaker != speaker || s.id != *step);
            }
            EventKind::Log { stream, line } => {
                if self.tail.len() == TAIL {
                    self.tail.pop_front();
                }
                self.tail.push_back(clip(&log_line(*stream, line), TAIL_COLUMNS));
            }
            EventKind::Note { level: Level::Error, text } => self.trouble = Some(brief(text)),
            EventKind::State(AgentState::Held(why) | AgentState::Returning(why)) => {
                self.trouble = Some(brief(why));
            }
            EventKind::Attempt(_) => {
                self.trouble = None;
                self.tail.clear();
                self.steps.retain(|step| step.speaker != Speaker::Agent);
            }
            // The payload succeeded, so a step that failed before is no trouble any more.
            EventKind::Outcome(Outcome::Succeeded) => self.trouble = None,
            EventKind::Outcome(Outcome::Failed { reason, .. }) => self.trouble = Some(brief(reason)),
            EventKind::StepStarted { .. }
            | EventKind::Note { .. }
            | EventKind::State(_)
            | EventKind::Gap { .. }
            | EventKind::Written(_)
            | EventKind::HostKeys(_)
            | EventKind::Seeded(_)
            | EventKind::NothingWritten { .. }
            | EventKind::Shell => {}
        }
    }
}

/// All hosts of a run, in the order of hosts.toml.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    all: Vec<HostState>,
    index: std::collections::HashMap<String, usize>,
}

impl Hosts {
    pub fn new(names: &[String]) -> Self {
        let mut hosts = Self::default();
        for name in names {
            hosts.get(name);
        }
        hosts
    }

    /// The host of that name; a new one if it was not announced.
    pub fn get(&mut self, name: &str) -> &mut HostState {
        let at = *self.index.entry(name.to_owned()).or_insert_with(|| {
            self.all.push(HostState::new(name));
            self.all.len() - 1
        });
        &mut self.all[at]
    }

    pub fn all(&self) -> &[HostState] {
        &self.all
    }
}
