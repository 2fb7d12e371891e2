//! Tells screens and journal the same things, and keeps the sums for the summary.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anemos_proto::event::Level;
use tokio::sync::mpsc::UnboundedSender;

use crate::journal::{Appender, JournalError, Record, Told, is_line};
use crate::report::{Ending, Phase, PhaseSeconds, Report, Summary, Update};
use crate::ssh::Counters;

/// Milliseconds since the Unix epoch, by this machine's clock.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Time between two records of the sums of bytes: what a process that died had not written down is missing in the sums
/// of the next, and in nothing else.
const COUNT_EVERY: Duration = Duration::from_secs(30);

/// The voice of one host. Whoever follows the host and whoever takes wishes for it share it.
pub struct Reporter {
    host: String,
    screens: UnboundedSender<Report>,
    counters: Arc<Counters>,
    state: Mutex<State>,
}

struct State {
    journal: Appender,
    began: Instant,
    earlier_s: f64,
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
}

impl Reporter {
    /// A voice for a host whose journal is open.
    pub fn new(host: &str, screens: UnboundedSender<Report>, journal: Appender) -> Self {
        let state = State {
            journal,
            began: Instant::now(),
            earlier_s: 0.0,
            phase: None,
            seconds: PhaseSeconds::default(),
            first_event: None,
            downloaded: 0,
            initramfs: 0,
            succeeded: false,
            counted: None,
            written: (0, 0),
            broken: None,
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

    /// Takes over the sums of an earlier process from what it told, and shows that again, but for what has a number
    /// up to `seen`, which the screens have got already. Before the first line of output comes `left_out`.
    pub fn replay(&self, told: Vec<Told>, seen: u64, mut left_out: Option<Update>) {
        let (first, last) = (told.first().map(|told| told.wall_ms), told.last().map(|told| told.wall_ms));
        let mut state = self.state();
        let mut open: Option<(Phase, u64)> = None;
        for Told { number, wall_ms, update } in told {
            match &update {
                Update::PhaseStarted(phase) => open = Some((*phase, wall_ms)),
                Update::PhaseFinished(phase, seconds) => {
                    state.set(*phase, *seconds);
                    open = None;
                }
                Update::Summary(summary) => state.first_event = summary.first_event_seconds,
                _ => {}
            }
            if number > seen {
                if is_line(&update)
                    && let Some(left_out) = left_out.take()
                {
                    self.send(None, wall_ms, left_out);
                }
                self.send(Some(number), wall_ms, update);
            }
        }
        if let (Some(first), Some(last)) = (first, last) {
            state.earlier_s = last.saturating_sub(first) as f64 / 1000.0;
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
        // Progress is not worth keeping; facts are.
        let number = if matches!(update, Update::Progress(..) | Update::Uploaded { .. }) {
            None
        } else {
            self.record_in(state, &Record::Told { wall_ms, update: update.clone() })
        };
        self.send(number, wall_ms, update);
        number
    }

    /// A remark of the controller itself.
    pub fn say(&self, level: Level, text: impl Into<String>) {
        self.tell(Update::Message(level, text.into()));
    }

    fn send(&self, number: Option<u64>, wall_ms: u64, update: Update) {
        // A screen that has gone is no reason to stop a deployment.
        let _ = self.screens.send(Report { host: self.host.clone(), number, wall_ms, update });
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
            total_seconds: state.earlier_s + state.began.elapsed().as_secs_f64(),
        };
        self.tell_in(&mut state, Update::Summary(Box::new(summary.clone())));
        self.count(&mut state);
        self.sync_in(&mut state);
        summary
    }
}

impl State {
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
        // Whoever detaches may come back tomorrow.
        if state.counted.is_some() {
            self.count(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Keep, digest};

    #[tokio::test(flavor = "multi_thread")]
    async fn an_attempt_is_let_begin_only_once_it_is_safe() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web1.journal");
        let (journal, _) = Appender::open(&path, Keep::All).unwrap();
        let (screens, mut shown) = tokio::sync::mpsc::unbounded_channel();
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
}
