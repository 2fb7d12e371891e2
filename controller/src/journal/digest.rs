//! What a journal amounts to: goes through records and keeps what matters.

use std::path::Path;

use anemos_proto::config::Finish;
use anemos_proto::event::{AgentState, Event, EventKind};
use serde::{Deserialize, Serialize};

use super::attempt::{self, Attempted};
use super::{OldSystem, Record};
use crate::report::{Phase, Speaker, Summary, Update, What, Wished, is_line, size};
use crate::ssh::HostKey;

/// Bytes of the newest lines of output that are kept, if not all are.
const TEXT: usize = 4 << 20;

/// Steps that are open at once, as far as anybody looks.
const STEPS: usize = 64;

/// How much of what was told is kept in [`Digested::told`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// All but lines of output, and the newest of these.
    Lines {
        /// So many.
        last: usize,
        /// The reader has got everything up to this number: what of it is not kept is not missed.
        after: u64,
    },
    /// All of it.
    All,
}

/// Something that was told of a host, as its journal has it.
#[derive(Debug, Clone)]
pub struct Told {
    /// Its number among all that was told of that host, from 1.
    pub number: u64,
    /// When, in milliseconds since the Unix epoch, by the workstation's clock.
    pub wall_ms: u64,
    /// What.
    pub update: Update,
}

/// What a host's journal amounts to. Also what stands at the beginning of each stream in a journal, in JSON, so that
/// whoever wants only the end need not read all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Digested {
    /// [`Digested::FORM`] of whoever wrote it down.
    pub(super) form: u32,
    /// Host key of the old system, once it let us in.
    pub met: Option<HostKey>,
    /// Boot id of the old system, by the stage's facts.
    pub old_boot_id: Option<String>,
    /// The old system, once everything was ready for the boot.
    pub old: Option<OldSystem>,
    /// When Boot was sent.
    pub boot_sent_ms: Option<u64>,
    /// Boot id of the RAM system.
    pub ram_boot_id: Option<String>,
    /// The agent left: where to, and why.
    pub left: Option<(u64, Option<Finish>, String)>,
    /// The new system was in order: what it calls itself. The run's key may be gone from it.
    pub verified: Option<String>,
    /// Seq of the newest fact of the agent.
    pub last_agent_seq: u64,
    /// The number of what was told last: everything that is told of a host is counted, from 1.
    pub number: u64,
    /// What was told, in order; see [`Keep`].
    #[serde(skip)]
    pub told: Vec<Told>,
    /// Lines of output that the reader has not got and that are not in `told`.
    #[serde(skip)]
    pub left_out: u64,
    /// Lines of output in `told`.
    #[serde(skip)]
    pub(super) lines: usize,
    /// Bytes of these.
    #[serde(skip)]
    pub(super) text: usize,
    /// Bytes of all that was told of what the host said, but for lines of output.
    pub facts: u64,
    /// Bytes on the sockets.
    pub counted: (u64, u64),
    /// The end, unless the host was taken up again since.
    pub summary: Option<Summary>,
    /// The newest payload attempt that the agent told of; 0 if none.
    pub attempt: u32,
    /// Why nothing may be concluded from this journal, if that is so: it is damaged, or knows less than its second
    /// file.
    #[serde(skip)]
    pub damaged: Option<String>,
    /// The journal was to say that the host was told to boot, and the second file, without which it is not told, was
    /// never written.
    #[serde(skip)]
    pub untold: bool,
    /// The format of a journal from before the present one: only the Anemos that began it can go on with it.
    #[serde(skip)]
    pub earlier: Option<u8>,
    /// Time of the last that was told.
    pub last_ms: Option<u64>,
    /// The phase it is in, or ended in.
    pub phase: Option<Phase>,
    /// Steps that have started and not ended, outermost first: who calls them what, and their names.
    pub steps: Vec<(Speaker, u32, String)>,
    /// The agent's state.
    pub agent: Option<AgentState>,
    /// What was decided about the plan, if anybody did whose word is written down.
    pub decided: Option<bool>,
    /// Wishes that were not answered: their numbers, and what they are.
    pub wishes: Vec<(u64, Wished)>,
}

impl Digested {
    /// Version of what [`Digested::take`] makes of records: one that another version wrote down is not believed.
    pub(super) const FORM: u32 = 4;

    /// Goes through records.
    #[cfg(any(test, fuzzing))]
    pub fn of(records: Vec<Record>) -> Self {
        let mut digested = Self::default();
        for record in records {
            digested.take(record, Keep::All);
        }
        digested
    }

    /// How the host ended, if it did and that can be believed.
    pub fn end(&self) -> Option<&Summary> {
        self.summary.as_ref().filter(|_| self.damaged.is_none())
    }

    /// Takes in a record.
    pub(super) fn take(&mut self, record: Record, keep: Keep) {
        self.learn(&record);
        if let Record::Told { wall_ms, update } = record {
            self.keep(wall_ms, update, keep);
        }
    }

    /// Takes in what a record amounts to, without what was told.
    pub(super) fn learn(&mut self, record: &Record) {
        match record {
            Record::Told { wall_ms, update } => {
                self.number = self.number.saturating_add(1);
                self.told(*wall_ms, update);
            }
            Record::OldSystem(old) => self.old = Some(old.clone()),
            Record::BootSent { wall_ms } => self.boot_sent_ms = Some(*wall_ms),
            Record::Ram { boot_id } => self.ram_boot_id = Some(boot_id.clone()),
            Record::Left { wall_ms, finish, reason } => self.left = Some((*wall_ms, *finish, reason.clone())),
            Record::Counted { sent, received } => self.counted = (*sent, *received),
            Record::Reopened { .. } => self.summary = None,
            Record::Met { host_key } => self.met = Some(host_key.clone()),
            Record::Verified { os } => self.verified = Some(os.clone()),
        }
    }

    fn told(&mut self, wall_ms: u64, update: &Update) {
        self.last_ms = Some(wall_ms);
        match update {
            Update::Summary(summary) => {
                self.steps.clear();
                self.summary = Some((**summary).clone());
            }
            Update::PhaseStarted(phase) => {
                self.phase = Some(*phase);
                if *phase == Phase::Boot {
                    self.steps.clear();
                }
            }
            Update::Facts(facts) => self.old_boot_id = Some(facts.boot_id.clone()),
            Update::Event(speaker, event) => self.event(*speaker, event, size(update)),
            Update::Decided { approved, .. } => self.decided = Some(*approved),
            Update::Wished(wished) => self.wishes.push((self.number, wished.clone())),
            Update::Answered { wish, .. } => self.wishes.retain(|(number, _)| number != wish),
            _ => {}
        }
    }

    fn keep(&mut self, wall_ms: u64, update: Update, keep: Keep) {
        if keep != Keep::Nothing {
            if is_line(&update) {
                self.lines += 1;
                self.text += size(&update);
            }
            self.told.push(Told { number: self.number, wall_ms, update });
        }
        if let Keep::Lines { last, after } = keep
            && (self.lines > 2 * last || self.text > 2 * TEXT)
        {
            self.leave_out(last, after);
        }
    }

    fn event(&mut self, speaker: Speaker, event: &Event, fact: usize) {
        match &event.kind {
            EventKind::StepStarted { step, name, .. } if self.steps.len() < STEPS => {
                self.steps.push((speaker, *step, name.clone()));
            }
            EventKind::StepFinished { step, .. } => self.steps.retain(|(who, id, _)| (*who, *id) != (speaker, *step)),
            _ => {}
        }
        if !matches!(event.kind, EventKind::Log { .. }) {
            self.facts = self.facts.saturating_add(fact as u64);
        }
        if speaker == Speaker::Agent {
            self.last_agent_seq = self.last_agent_seq.max(last_seq(event));
            match &event.kind {
                EventKind::Attempt(number) => {
                    self.attempt = self.attempt.max(*number);
                    self.steps.retain(|(who, ..)| *who != Speaker::Agent);
                    // That is the answer, though nobody may have written it down.
                    self.wishes.retain(|(_, wished)| !matches!(wished.what, What::Retry { .. }));
                }
                EventKind::State(state) => self.agent = Some(state.clone()),
                _ => {}
            }
        }
    }

    /// Leaves all but the last so many lines of output out of what was told. Those that the reader has got, up to
    /// number `after`, are not missed.
    pub(super) fn leave_out(&mut self, last: usize, after: u64) {
        let (mut lines, mut text, mut missed) = (self.lines, self.text, 0);
        self.told.retain(|told| {
            let goes = (lines > last || text > TEXT) && is_line(&told.update);
            if goes {
                lines -= 1;
                text -= size(&told.update);
                missed += u64::from(told.number > after);
            }
            !goes
        });
        (self.lines, self.text) = (lines, text);
        self.left_out += missed;
    }

    /// What was told since this was called last, and how many lines of output were left out of it.
    pub(super) fn take_told(&mut self) -> (Vec<Told>, u64) {
        (self.lines, self.text) = (0, 0);
        (std::mem::take(&mut self.told), std::mem::take(&mut self.left_out))
    }

    /// Nothing may be concluded from a journal that knows less than the second file beside it.
    pub(super) fn hold_against_second(&mut self, path: &Path) {
        let (journal, second) = (path.to_owned(), attempt::path(path));
        let [journal, second] =
            [&journal, &second].map(|path| path.file_name().unwrap_or_default().display().to_string());
        let why = match attempt::read(path) {
            Attempted::Number(_) if self.boot_sent_ms.is_none() => {
                format!("{journal} and {second} disagree: only the second knows that the host was told to boot")
            }
            Attempted::Number(number) if number > self.attempt => format!(
                "{journal} and {second} disagree: the first knows of {} payload attempts, the second of {number}",
                self.attempt
            ),
            Attempted::Never => {
                self.untold = self.boot_sent_ms.is_some() && self.damaged.is_none();
                return;
            }
            Attempted::Number(_) => return,
            Attempted::Unreadable(why) => {
                format!("{journal} and {second} disagree: the second can't be read: {why}")
            }
        };
        self.damaged.get_or_insert(why);
    }
}

/// The last seq that an event stands for: a gap stands for many.
pub fn last_seq(event: &Event) -> u64 {
    match event.kind {
        EventKind::Gap { last, .. } => last.max(event.seq),
        _ => event.seq,
    }
}

/// What is said of a host whose journal can't be believed.
pub fn not_known(doubt: &str) -> String {
    format!("whether a disk was written is not known: {doubt}")
}
