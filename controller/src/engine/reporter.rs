//! Tells screens and journal the same things, and keeps the sums for the summary.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anemos_proto::event::Level;
use tokio::sync::mpsc::UnboundedSender;

use crate::journal::{Appender, JournalError, Record};
use crate::report::{Ending, Phase, PhaseSeconds, Report, Summary, Update};
use crate::ssh::Counters;

/// Milliseconds since the Unix epoch, by this machine's clock.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Time between two records of the sums of bytes: what a process that died had not written down is missing in the sums
/// of the next, and in nothing else.
const COUNT_EVERY: Duration = Duration::from_secs(30);

/// The voice of one host.
pub struct Reporter {
    host: String,
    screens: UnboundedSender<Report>,
    journal: Appender,
    /// Bytes on this host's sockets.
    pub counters: Arc<Counters>,
    began: Instant,
    earlier_s: f64,
    phase: Option<(Phase, Instant)>,
    seconds: PhaseSeconds,
    /// Seconds from the stage's last word to the agent's first event.
    pub first_event: Option<f64>,
    /// Bytes that the host downloaded before the boot.
    pub downloaded: u64,
    /// Bytes of the initramfs.
    pub initramfs: u64,
    /// The payload succeeded, whatever became of the host.
    pub succeeded: bool,
    /// When the sums of bytes were written down last.
    counted: Option<Instant>,
    /// Which these were.
    written: (u64, u64),
    broken: Option<String>,
}

impl Reporter {
    /// A voice for a host whose journal is open.
    pub fn new(host: &str, screens: UnboundedSender<Report>, journal: Appender) -> Self {
        Self {
            host: host.into(),
            screens,
            journal,
            counters: Arc::default(),
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
        }
    }

    /// The host's name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Takes over the sums of an earlier process from what it told, and shows that again, but for the first `seen`,
    /// which the screens have got already.
    pub fn replay(&mut self, told: Vec<(u64, Update)>, seen: usize) {
        let (first, last) = (told.first().map(|(ms, _)| *ms), told.last().map(|(ms, _)| *ms));
        let mut open: Option<(Phase, u64)> = None;
        for (at, (wall_ms, update)) in told.into_iter().enumerate() {
            match &update {
                Update::PhaseStarted(phase) => open = Some((*phase, wall_ms)),
                Update::PhaseFinished(phase, seconds) => {
                    self.set(*phase, *seconds);
                    open = None;
                }
                Update::Summary(summary) => self.first_event = summary.first_event_seconds,
                _ => {}
            }
            if at >= seen {
                self.send(wall_ms, update);
            }
        }
        if let (Some(first), Some(last)) = (first, last) {
            self.earlier_s = last.saturating_sub(first) as f64 / 1000.0;
        }
        if let Some((phase, since)) = open {
            // The phase went on while nobody was looking, so its clock is the wall's.
            let gone = Duration::from_millis(now_ms().saturating_sub(since));
            self.phase = Instant::now().checked_sub(gone).map(|start| (phase, start));
        }
    }

    /// Tells screens and journal.
    pub fn tell(&mut self, update: Update) {
        let wall_ms = now_ms();
        // Progress is not worth keeping; facts are.
        if !matches!(update, Update::Progress(..) | Update::Uploaded { .. }) {
            self.record(&Record::Told { wall_ms, update: update.clone() });
        }
        self.send(wall_ms, update);
    }

    /// A remark of the controller itself.
    pub fn say(&mut self, level: Level, text: impl Into<String>) {
        self.tell(Update::Message(level, text.into()));
    }

    fn send(&self, wall_ms: u64, update: Update) {
        // A screen that has gone is no reason to stop a deployment.
        let _ = self.screens.send(Report { host: self.host.clone(), wall_ms, update });
    }

    /// Writes to the journal only; not any more once that has failed.
    pub fn record(&mut self, record: &Record) {
        if self.broken.is_none()
            && let Err(error) = self.journal.append(record)
        {
            self.journal_failed(&error);
        }
    }

    /// Makes what was written safe. `false` if it isn't: then nothing may be acknowledged.
    pub fn sync(&mut self) -> bool {
        if self.broken.is_some() {
            return false;
        }
        if self.counted.is_none_or(|last| last.elapsed() >= COUNT_EVERY) {
            self.count();
        }
        // The other hosts' tasks must not wait for this one's disk.
        match tokio::task::block_in_place(|| self.journal.sync()) {
            Ok(()) => self.broken.is_none(),
            Err(error) => {
                self.journal_failed(&error);
                false
            }
        }
    }

    /// Writes down the sums of bytes so far.
    fn count(&mut self) {
        let (sent, received) = (self.counters.sent(), self.counters.received());
        if self.written != (sent, received) {
            self.record(&Record::Counted { sent, received });
            self.written = (sent, received);
        }
        self.counted = Some(Instant::now());
    }

    /// Makes what was written safe, and then that the agent may begin payload attempt `number`. Only after `true` may
    /// it be told so.
    pub fn attempt(&mut self, number: u32) -> bool {
        if !self.sync() {
            return false;
        }
        match tokio::task::block_in_place(|| self.journal.attempt(number)) {
            Ok(()) => true,
            Err(error) => {
                self.journal_failed(&error);
                false
            }
        }
    }

    /// Why the journal can't be trusted any more, if that is so.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    fn journal_failed(&mut self, error: &JournalError) {
        if self.broken.is_none() {
            self.broken = Some(error.to_string());
            let text = format!(
                "the journal can't be kept from here on, so nothing that the host says now is acknowledged to it; it keeps \
                 that, and another `anemos attach` asks for it once there is room: {error}"
            );
            self.send(now_ms(), Update::Message(Level::Error, text));
        }
    }

    /// Begins a phase, ending the one before well.
    pub fn phase(&mut self, phase: Phase) {
        if self.phase.is_some_and(|(now, _)| now == phase) {
            return;
        }
        self.phase_done();
        self.phase = Some((phase, Instant::now()));
        self.tell(Update::PhaseStarted(phase));
    }

    /// Ends the phase well.
    pub fn phase_done(&mut self) {
        if let Some((phase, since)) = self.phase.take() {
            let seconds = since.elapsed().as_secs_f64();
            self.set(phase, seconds);
            self.tell(Update::PhaseFinished(phase, seconds));
        }
    }

    /// The phase it is in.
    pub fn now(&self) -> Option<Phase> {
        self.phase.map(|(phase, _)| phase)
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

    /// The end: tells the summary, and makes everything safe.
    pub fn end(&mut self, outcome: Ending, reason: impl Into<String>) -> Summary {
        if let Some((phase, since)) = self.phase.take() {
            let seconds = since.elapsed().as_secs_f64();
            self.set(phase, seconds);
            // A phase that something went wrong in has not finished, however long it took.
            if outcome == Ending::Deployed {
                self.tell(Update::PhaseFinished(phase, seconds));
            }
        }
        let summary = Summary {
            host: self.host.clone(),
            outcome,
            reason: reason.into(),
            uploaded_bytes: self.counters.sent(),
            received_bytes: self.counters.received(),
            host_downloaded_bytes: self.downloaded,
            initramfs_bytes: self.initramfs,
            seconds: self.seconds,
            first_event_seconds: self.first_event,
            total_seconds: self.earlier_s + self.began.elapsed().as_secs_f64(),
        };
        self.tell(Update::Summary(Box::new(summary.clone())));
        self.count();
        self.sync();
        summary
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        // Whoever detaches may come back tomorrow.
        if self.counted.is_some() {
            self.count();
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
        let (journal, _) = Appender::open(&path).unwrap();
        let (screens, mut shown) = tokio::sync::mpsc::unbounded_channel();
        let mut reporter = Reporter::new("web1", screens, journal);
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
