//! Tells screens and journal the same things, and keeps the sums for the summary.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anemos_proto::event::Level;

use crate::config::format_bytes;
use crate::journal::{Appender, JournalError, Record, Told};
use crate::report::{Ending, Feed, Phase, PhaseSeconds, Report, Summary, Update, is_line, size};
use crate::ssh::Counters;

/// Milliseconds since the Unix epoch, by this machine's clock.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Time between two records of the sums of bytes: what a process that died had not written down is missing in the sums
/// of the next, and in nothing else.
const COUNT_EVERY: Duration = Duration::from_secs(30);

/// How much of what a host says is kept.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// A journal of so many bytes takes no more lines of output.
    lines: u64,
    /// So many bytes of facts, lines of output aside, are more than any deployment has.
    facts: u64,
}

/// Three million lines have room, as a rule. Facts are all kept, and held in memory by whoever takes the run up.
const ROOM: Room = Room { lines: 64 << 20, facts: 16 << 20 };

/// The voice of one host. Whoever follows the host and whoever takes wishes for it share it.
pub struct Reporter {
    host: String,
    screens: Feed,
    counters: Arc<Counters>,
    state: Mutex<State>,
}

struct State {
    journal: Appender,
    began: Instant,
    /// When the first that was told of the host was told, by this or an earlier process: milliseconds since the Unix
    /// epoch.
    began_ms: u64,
    phase: Option<(Phase, Instant)>,
    seconds: PhaseSeconds,
    first_event: Option<f64>,
    downloaded: u64,
    initramfs: u64,
    succeeded: bool,
    /// When the sums of bytes were written down last.
    counted: Option<Instant>,
    /// Which these were.
    written: (u64, u64),
    broken: Option<String>,
    room: Room,
    /// Lines of output that the journal had no room for.
    unkept: u64,
    /// That it has no room for more was told.
    full: bool,
    /// Why the host is not listened to any more.
    flooded: Option<String>,
}

impl Reporter {
    /// A voice for a host whose journal is open.
    pub fn new(host: &str, screens: Feed, journal: Appender) -> Self {
        let state = State {
            journal,
            began: Instant::now(),
            began_ms: now_ms(),
            phase: None,
            seconds: PhaseSeconds::default(),
            first_event: None,
            downloaded: 0,
            initramfs: 0,
            succeeded: false,
            counted: None,
            written: (0, 0),
            broken: None,
            room: ROOM,
            unkept: 0,
            full: false,
            flooded: None,
        };
        Self { host: host.into(), screens, counters: Arc::default(), state: Mutex::new(state) }
    }

    /// Whoever panicked while it spoke has said all it could.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes on this host's sockets.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Shows again what an earlier process told, but for what has a number up to `seen`, which the screens have got
    /// already. Before the first line of output comes `left_out`.
    pub fn show_again<'a>(&self, told: impl IntoIterator<Item = &'a Told>, seen: u64, left_out: &mut Option<Update>) {
        for Told { number, wall_ms, update } in told.into_iter().filter(|told| told.number > seen) {
            let report = |number, update| Report { host: self.host.clone(), number, wall_ms: *wall_ms, update };
            if is_line(update)
                && let Some(left_out) = left_out.take()
            {
                self.screens.send_all(report(None, left_out));
            }
            self.screens.send_all(report(Some(*number), update.clone()));
        }
    }

    /// Takes over the sums of an earlier process from what it told.
    pub fn take_over(&self, told: &[Told]) {
        let mut state = self.state();
        state.began_ms = told.first().map_or(state.began_ms, |told| told.wall_ms);
        let mut open: Option<(Phase, u64)> = None;
        for Told { wall_ms, update, .. } in told {
            match update {
                Update::PhaseStarted(phase) => open = Some((*phase, *wall_ms)),
                Update::PhaseFinished(phase, seconds) => {
                    state.set(*phase, *seconds);
                    open = None;
                }
                Update::Summary(summary) => state.first_event = summary.first_event_seconds,
                _ => {}
            }
        }
        if let Some((phase, since)) = open {
            // The phase went on while nobody was looking, so its clock is the wall's.
            let gone = Duration::from_millis(now_ms().saturating_sub(since));
            state.phase = Instant::now().checked_sub(gone).map(|start| (phase, start));
        }
    }

    /// Tells screens and journal.
    pub fn tell(&self, update: Update) {
        self.tell_in(&mut self.state(), update);
    }

    /// The same. Returns its number, if the journal has it.
    pub fn number(&self, update: Update) -> Option<u64> {
        self.tell_in(&mut self.state(), update)
    }

    // The screens get what the journal has in the journal's order, since the state is locked.
    fn tell_in(&self, state: &mut State, update: Update) -> Option<u64> {
        let wall_ms = now_ms();
        if !self.is_kept(state, &update) {
            self.send(None, wall_ms, update);
            return None;
        }
        let told = Record::Told { wall_ms, update };
        let number = self.record_in(state, &told);
        if let Record::Told { update, .. } = told {
            self.send(number, wall_ms, update);
        }
        number
    }

    /// Whether the journal is to have it. Progress is not worth keeping; facts are, and lines as far as there is room.
    fn is_kept(&self, state: &mut State, update: &Update) -> bool {
        match update {
            Update::Progress(..) | Update::Uploaded { .. } => false,
            update if is_line(update) => {
                let fits = state.journal.size() < state.room.lines;
                state.unkept += u64::from(!fits);
                if !fits && !std::mem::replace(&mut state.full, true) {
                    let text = format!(
                        "the journal of this host has {}: from here on it keeps what happens, and no lines of output",
                        format_bytes(state.room.lines)
                    );
                    self.tell_in(state, Update::Message(Level::Warning, text));
                }
                fits
            }
            Update::Event(..) => {
                let fits = state.journal.facts().saturating_add(size(update) as u64) <= state.room.facts;
                if !fits {
                    state.flooded.get_or_insert_with(|| {
                        format!(
                            "it has said more than any deployment has to say: {} beside lines of output",
                            format_bytes(state.room.facts)
                        )
                    });
                }
                fits
            }
            _ => true,
        }
    }

    /// Tells how many lines of output are missing in the journal.
    fn tell_unkept(&self, state: &mut State) {
        let unkept = std::mem::take(&mut state.unkept);
        if unkept > 0 {
            let text = format!("{unkept} lines of output are not in the journal, which had no room for them");
            self.tell_in(state, Update::Message(Level::Warning, text));
        }
    }

    /// Why the host is not to be listened to any more, if that is so.
    pub fn flooded(&self) -> Option<String> {
        self.state().flooded.clone()
    }

    /// A remark of the controller itself.
    pub fn say(&self, level: Level, text: impl Into<String>) {
        self.tell(Update::Message(level, text.into()));
    }

    fn send(&self, number: Option<u64>, wall_ms: u64, update: Update) {
        self.screens.send(Report { host: self.host.clone(), number, wall_ms, update });
    }

    /// Writes to the journal only; not any more once that has failed.
    pub fn record(&self, record: &Record) {
        self.record_in(&mut self.state(), record);
    }

    fn record_in(&self, state: &mut State, record: &Record) -> Option<u64> {
        if state.broken.is_some() {
            return None;
        }
        let appended = state.journal.append(record);
        appended.inspect_err(|error| self.journal_failed(state, error)).ok()
    }

    /// Makes what was written safe. `false` if it isn't: then nothing may be acknowledged.
    pub fn sync(&self) -> bool {
        self.sync_in(&mut self.state())
    }

    fn sync_in(&self, state: &mut State) -> bool {
        if state.broken.is_some() {
            return false;
        }
        if state.counted.is_none_or(|last| last.elapsed() >= COUNT_EVERY) {
            self.count(state);
        }
        // The other hosts' tasks must not wait for this one's disk.
        match tokio::task::block_in_place(|| state.journal.sync()) {
            Ok(()) => state.broken.is_none(),
            Err(error) => {
                self.journal_failed(state, &error);
                false
            }
        }
    }

    /// Writes down the sums of bytes so far.
    fn count(&self, state: &mut State) {
        let (sent, received) = (self.counters.sent(), self.counters.received());
        if state.written != (sent, received) {
            self.record_in(state, &Record::Counted { sent, received });
            state.written = (sent, received);
        }
        state.counted = Some(Instant::now());
    }

    /// Makes what was written safe, and then that the agent may begin payload attempt `number`. Only after `true` may
    /// it be told so.
    pub fn attempt(&self, number: u32) -> bool {
        let mut state = self.state();
        if !self.sync_in(&mut state) {
            return false;
        }
        match tokio::task::block_in_place(|| state.journal.attempt(number)) {
            Ok(()) => true,
            Err(error) => {
                self.journal_failed(&mut state, &error);
                false
            }
        }
    }

    /// Why the journal can't be trusted any more, if that is so.
    pub fn broken(&self) -> Option<String> {
        self.state().broken.clone()
    }

    fn journal_failed(&self, state: &mut State, error: &JournalError) {
        if state.broken.is_none() {
            state.broken = Some(error.to_string());
            let text = format!(
                "the journal can't be kept from here on, so nothing that the host says now is acknowledged to it; it \
                 keeps that, and another `anemos attach` asks for it once there is room: {error}"
            );
            self.send(None, now_ms(), Update::Message(Level::Error, text));
        }
    }

    /// Begins a phase, ending the one before well.
    pub fn phase(&self, phase: Phase) {
        let mut state = self.state();
        if state.phase.is_some_and(|(now, _)| now == phase) {
            return;
        }
        self.phase_done_in(&mut state);
        state.phase = Some((phase, Instant::now()));
        self.tell_in(&mut state, Update::PhaseStarted(phase));
    }

    /// Ends the phase well.
    pub fn phase_done(&self) {
        self.phase_done_in(&mut self.state());
    }

    fn phase_done_in(&self, state: &mut State) {
        if let Some((phase, since)) = state.phase.take() {
            let seconds = since.elapsed().as_secs_f64();
            state.set(phase, seconds);
            self.tell_in(state, Update::PhaseFinished(phase, seconds));
        }
    }

    /// The phase it is in.
    pub fn now(&self) -> Option<Phase> {
        self.state().phase.map(|(phase, _)| phase)
    }

    /// Seconds from the stage's last word to the agent's first event.
    pub fn first_event(&self, seconds: f64) {
        self.state().first_event = Some(seconds);
    }

    /// Bytes that the host downloaded before the boot, and bytes of the initramfs.
    pub fn staged(&self, downloaded: u64, initramfs: u64) {
        let mut state = self.state();
        (state.downloaded, state.initramfs) = (downloaded, initramfs);
    }

    /// Whether the payload succeeded, whatever became of the host.
    pub fn payload_succeeded(&self, succeeded: bool) {
        self.state().succeeded = succeeded;
    }

    /// What was said of that last.
    pub fn succeeded(&self) -> bool {
        self.state().succeeded
    }

    /// The end: tells the summary, and makes everything safe.
    pub fn end(&self, outcome: Ending, reason: impl Into<String>) -> Summary {
        let mut state = self.state();
        self.tell_unkept(&mut state);
        if let Some((phase, since)) = state.phase.take() {
            let seconds = since.elapsed().as_secs_f64();
            state.set(phase, seconds);
            // A phase that something went wrong in has not finished, however long it took.
            if outcome == Ending::Deployed {
                self.tell_in(&mut state, Update::PhaseFinished(phase, seconds));
            }
        }
        let summary = Summary {
            host: self.host.clone(),
            outcome,
            reason: reason.into(),
            uploaded_bytes: self.counters.sent(),
            received_bytes: self.counters.received(),
            host_downloaded_bytes: state.downloaded,
            initramfs_bytes: state.initramfs,
            seconds: state.seconds,
            first_event_seconds: state.first_event,
            total_seconds: state.total().as_secs_f64(),
        };
        self.tell_in(&mut state, Update::Summary(Box::new(summary.clone())));
        self.count(&mut state);
        self.sync_in(&mut state);
        summary
    }
}

impl State {
    /// Time since the deployment began. It went on while nobody was looking, and while this machine slept, which only
    /// the wall's clock counts; that one may also have been set back since.
    fn total(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.began_ms)).max(self.began.elapsed())
    }

    fn set(&mut self, phase: Phase, seconds: f64) {
        let slot = match phase {
            Phase::Connect => &mut self.seconds.connect,
            Phase::Probe => &mut self.seconds.probe,
            Phase::Upload => &mut self.seconds.upload,
            Phase::Stage => &mut self.seconds.stage,
            Phase::Boot => &mut self.seconds.boot,
            Phase::Build => &mut self.seconds.build,
            Phase::Reboot => &mut self.seconds.reboot,
            Phase::Verify => &mut self.seconds.verify,
        };
        *slot = Some(slot.unwrap_or(0.0) + seconds);
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let mut state = self.state();
        self.tell_unkept(&mut state);
        // Whoever detaches may come back tomorrow.
        if state.counted.is_some() {
            self.count(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use anemos_proto::event::{Event, EventKind, Stream};

    use super::*;
    use crate::journal::{Keep, digest};
    use crate::report::Speaker;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_attempt_is_let_begin_only_once_it_is_safe() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web1.journal");
        let (journal, _) = Appender::open(&path, Keep::All).unwrap();
        let (screens, mut shown) = crate::report::feed();
        let reporter = Reporter::new("web1", screens, journal);
        reporter.record(&Record::BootSent { wall_ms: 1 });
        assert!(reporter.attempt(1));
        // The agent has not told of the attempt, so the journal alone would know less.
        assert!(digest(&path, Keep::Nothing).unwrap().damaged.unwrap().contains("disagree"));

        std::fs::create_dir(dir.path().join("web1.attempt.new")).unwrap();
        assert!(!reporter.attempt(2));
        assert!(!reporter.sync(), "after a failure nothing is safe");
        let Update::Message(Level::Error, text) = shown.try_recv().unwrap().update else { panic!("no word of it") };
        assert!(text.contains("web1.attempt.new"), "{text}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_time_in_all_has_the_time_in_which_nobody_looked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web1.journal");
        let (screens, _shown) = crate::report::feed();
        let (mut journal, _) = Appender::open(&path, Keep::All).unwrap();
        // The process before this one looked on for a second, an hour ago.
        for (ago, update) in [(3_600_000, Update::LinkLost("cut".into())), (3_599_000, Update::LinkBack)] {
            journal.append(&Record::Told { wall_ms: now_ms() - ago, update }).unwrap();
        }
        journal.sync().unwrap();
        drop(journal);
        let (journal, digested) = Appender::open(&path, Keep::All).unwrap();
        let reporter = Reporter::new("web1", screens, journal);
        reporter.take_over(&digested.told);
        let seconds = reporter.end(Ending::Held, "so it went").total_seconds;
        assert!((3600.0..3700.0).contains(&seconds), "{seconds}");
    }

    fn said(seq: u64, kind: EventKind) -> Update {
        Update::Event(Speaker::Agent, Event { seq, uptime_ms: seq, wall_ms: seq, kind })
    }

    fn line(seq: u64) -> Update {
        // Of numbers that don't repeat, so that they don't compress.
        let numbers = (0..50).map(|n| (seq * 50 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let line = numbers.flat_map(|number: u64| format!("{number:x}").into_bytes()).collect();
        said(seq, EventKind::Log { stream: Stream::Stdout, line })
    }

    fn step(seq: u64) -> Update {
        said(seq, EventKind::StepStarted { step: 1, parent: None, name: "make things".into() })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_journal_takes_facts_and_no_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web1.journal");
        let (screens, mut shown) = crate::report::feed();
        let told = |keep| digest(&path, keep).unwrap().told;
        for process in 1..=2 {
            let (journal, _) = Appender::open(&path, Keep::Nothing).unwrap();
            let reporter = Reporter::new("web1", screens.clone(), journal);
            reporter.state().room.lines = 200_000;
            (1..=2000).for_each(|seq| reporter.tell(line(seq)));
            assert!(reporter.number(step(2001)).is_some() && reporter.number(line(2002)).is_none());
            assert!(reporter.sync() && reporter.flooded().is_none());
            drop(reporter);
            // What waits for the next block, and its head, come to it.
            let size = std::fs::metadata(&path).unwrap().len();
            assert!((200_000..300_000).contains(&size), "{size}");
            let texts: Vec<_> = told(Keep::Lines { last: 0, after: 0 }).into_iter().map(|told| told.update).collect();
            // Each process says once that there is no room, and at its end for how much.
            assert_eq!(texts.len(), 3 * process, "{texts:?}");
            let [Update::Message(_, full), Update::Event(..), Update::Message(_, unkept)] = &texts[texts.len() - 3..]
            else {
                panic!("{texts:?}")
            };
            assert!(full.contains("no lines of output"), "{full}");
            assert!(unkept.contains("lines of output are not in the journal"), "{unkept}");
        }
        // They are shown all the same, but for those that nobody takes.
        let mut lines = (0, 0);
        while let Some(report) = shown.try_recv() {
            if is_line(&report.update) {
                *(if report.number.is_some() { &mut lines.0 } else { &mut lines.1 }) += 1;
            }
        }
        let kept = told(Keep::All).iter().filter(|told| is_line(&told.update)).count();
        assert_eq!(lines, (kept, 2 * 2001 - kept));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_that_says_too_much_is_not_listened_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web1.journal");
        let (screens, _shown) = crate::report::feed();
        let open = || {
            let (journal, _) = Appender::open(&path, Keep::Nothing).unwrap();
            let reporter = Reporter::new("web1", screens.clone(), journal);
            reporter.state().room.facts = 100_000;
            reporter
        };
        let reporter = open();
        let kept = (1..20_000).take_while(|seq| reporter.number(step(*seq)).is_some()).count();
        assert!((100..10_000).contains(&kept), "{kept}");
        assert!(reporter.flooded().unwrap().contains("more than any deployment has to say"));
        // What the controller says has room, and so has what is printed.
        assert!(reporter.number(Update::LinkBack).is_some() && reporter.number(line(1)).is_some());
        drop(reporter);
        // Whoever comes after it knows how much there was.
        let reporter = open();
        assert!(reporter.flooded().is_none());
        assert!(reporter.number(step(1)).is_none() && reporter.flooded().is_some());
    }
}
