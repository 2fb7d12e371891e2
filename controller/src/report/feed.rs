//! How reports go from whoever tells them to whoever shows them. A screen may be slow, or its reader may have stopped,
//! and neither a deployment nor the memory of this process may depend on that: what does not fit is left out, with a
//! word, and is in the journal.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anemos_proto::event::Level;
use tokio::sync::mpsc;

use super::{Report, Update, is_line, size};

/// Bytes of reports that wait to be shown before lines of output are left out. Twice as many, and what else a host says
/// is left out too; what the controller says never is.
const WAITING: usize = 4 << 20;

/// Reports taken at once, at most so many, and so many bytes. Between two batches a screen may draw.
const BATCH: (usize, usize) = (1024, 256 << 10);

/// Takes reports. It may be cloned.
#[derive(Debug, Clone)]
pub struct Feed {
    queue: mpsc::UnboundedSender<Report>,
    shared: Arc<Shared>,
}

/// Gives them, in the order in which they were taken.
#[derive(Debug)]
pub struct Reports {
    queue: mpsc::UnboundedReceiver<Report>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something was taken out.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes in the queue.
    waiting: usize,
    /// Lines are left out until half of what waits was shown: few long gaps are better than many short ones.
    full: bool,
    /// How much was left out of what each host said, since that was told last.
    left_out: HashMap<String, u64>,
    /// Nobody shows anything any more.
    closed: bool,
}

/// A new feed, and its other end.
pub fn feed() -> (Feed, Reports) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::default());
    (Feed { queue: sender, shared: Arc::clone(&shared) }, Reports { queue: receiver, shared })
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    /// Takes a report, and never waits. That nobody shows it is no error.
    pub fn send(&self, report: Report) {
        let mut state = self.shared.state();
        let waiting = state.waiting + size(&report.update);
        let fits = match &report.update {
            Update::Progress(..) | Update::Uploaded { .. } => !state.full && waiting <= WAITING,
            update if is_line(update) => {
                state.full |= waiting > WAITING;
                !state.full
            }
            Update::Event(..) => waiting <= 2 * WAITING,
            _ => true,
        };
        if fits {
            self.put(&mut state, report);
        } else if matches!(report.update, Update::Event(..)) {
            *state.left_out.entry(report.host).or_default() += 1;
        }
    }

    /// Takes a report, and waits for room for it: for what is read from a journal. Blocks the thread.
    pub fn send_all(&self, report: Report) {
        let mut state = self.shared.state();
        while state.waiting >= WAITING && !state.closed {
            state = self.shared.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.put(&mut state, report);
    }

    fn put(&self, state: &mut State, report: Report) {
        if state.closed {
            return;
        }
        if let Some(count) = state.left_out.remove(&report.host) {
            let text = format!(
                "{count} lines or events came faster than they could be shown, and are left out here; `anemos logs` \
                 has what is kept of them"
            );
            let update = Update::Message(Level::Warning, text);
            let note = Report { host: report.host.clone(), number: None, wall_ms: report.wall_ms, update };
            state.waiting += size(&note.update);
            let _ = self.queue.send(note);
        }
        state.waiting += size(&report.update);
        // A screen that has gone is no reason to stop a deployment.
        let _ = self.queue.send(report);
    }
}

impl Reports {
    /// The next report; `None` once nobody tells anything any more. Safe to drop and call again.
    pub async fn recv(&mut self) -> Option<Report> {
        let report = self.queue.recv().await?;
        self.shared.taken(&report);
        Some(report)
    }

    /// One that is there already.
    pub fn try_recv(&mut self) -> Option<Report> {
        let report = self.queue.try_recv().ok()?;
        self.shared.taken(&report);
        Some(report)
    }

    /// The next few; none once nobody tells anything any more. Safe to drop and call again.
    pub async fn batch(&mut self) -> Vec<Report> {
        let mut batch: Vec<Report> = self.recv().await.into_iter().collect();
        let mut bytes = 0;
        while !batch.is_empty()
            && batch.len() < BATCH.0
            && bytes < BATCH.1
            && let Some(report) = self.try_recv()
        {
            bytes += size(&report.update);
            batch.push(report);
        }
        batch
    }
}

impl Shared {
    fn taken(&self, report: &Report) {
        let mut state = self.state();
        state.waiting = state.waiting.saturating_sub(size(&report.update));
        state.full &= state.waiting > WAITING / 2;
        self.room.notify_all();
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use anemos_proto::event::{Event, EventKind, Progress, Stream, Unit};

    use super::*;
    use crate::report::{Phase, Speaker};

    fn event(seq: u64, kind: EventKind) -> Report {
        let event = Event { seq, uptime_ms: 0, wall_ms: 0, kind };
        Report { host: "web1".into(), number: Some(seq), wall_ms: 7, update: Update::Event(Speaker::Agent, event) }
    }

    fn line(seq: u64) -> Report {
        event(seq, EventKind::Log { stream: Stream::Stdout, line: vec![b'x'; 1000] })
    }

    fn numbers(reports: &mut Reports) -> (Vec<Option<u64>>, usize) {
        let mut bytes = 0;
        let mut numbers = Vec::new();
        while let Some(report) = reports.try_recv() {
            bytes += size(&report.update);
            numbers.push(report.number);
        }
        (numbers, bytes)
    }

    #[test]
    fn what_nobody_takes_is_left_out_with_a_word() {
        let (feed, mut reports) = feed();
        for seq in 1..=10_000 {
            feed.send(line(seq));
        }
        let progress = Progress { step: 1, done: 1, total: None, unit: Unit::Items, what: None };
        feed.send(Report { update: Update::Progress(Speaker::Agent, progress), number: None, ..line(0) });
        // What else a host says still has room, …
        for seq in 10_001..=40_000 {
            feed.send(event(seq, EventKind::Note { level: Level::Info, text: "n".repeat(1000) }));
        }
        // … and what the controller says always has.
        feed.send(Report { update: Update::PhaseStarted(Phase::Reboot), number: Some(40_001), ..line(0) });
        let (told, bytes) = numbers(&mut reports);
        assert!(bytes <= 2 * WAITING + 1000, "{bytes}");
        let told: Vec<u64> = told.into_iter().map(Option::unwrap_or_default).collect();
        let lines = told.iter().position(|number| *number == 0).unwrap() as u64;
        assert!((3000..4500).contains(&lines), "{lines}");
        assert_eq!(told[..lines as usize], (1..=lines).collect::<Vec<_>>());
        // The first note that came had the word about the lines before it, the phase that about the notes.
        assert_eq!(told[lines as usize + 1], 10_001);
        assert_eq!(told[told.len() - 2..], [0, 40_001]);
        // Now there is room again.
        feed.send(line(40_002));
        assert_eq!(numbers(&mut reports).0, [Some(40_002)]);
    }

    #[test]
    fn who_waits_is_left_out_of_nothing() {
        let (feed, mut reports) = feed();
        let telling = std::thread::spawn(move || (1..=20_000).for_each(|seq| feed.send_all(line(seq))));
        let mut next = 1;
        while next <= 20_000 {
            let Some(report) = reports.try_recv() else { continue };
            assert_eq!(report.number, Some(next));
            assert!(reports.shared.state().waiting <= WAITING + 2000);
            next += 1;
        }
        telling.join().unwrap();
    }

    #[test]
    fn nobody_waits_for_a_screen_that_has_gone() {
        let (feed, reports) = feed();
        drop(reports);
        (1..=20_000).for_each(|seq| feed.send_all(line(seq)));
        feed.send(line(1));
    }
}
