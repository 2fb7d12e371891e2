//! How far steps are. Progress passes and is in no journal, so the newest of each host is kept here for who looks on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anemos_proto::event::EventKind;

use crate::report::{Feed, Report, Update, feed};

/// The newest progress of each host of a run.
#[derive(Debug, Default)]
pub struct Latest(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// How often something was taken in.
    version: u64,
    hosts: BTreeMap<String, (u64, Report)>,
}

impl Latest {
    /// A feed, and what is kept of it. Must be called within a runtime.
    pub(super) fn of_feed() -> (Feed, Arc<Self>) {
        let (sender, mut reports) = feed();
        let latest = Arc::new(Self::default());
        let kept = Arc::clone(&latest);
        tokio::spawn(async move {
            loop {
                let batch = reports.batch().await;
                if batch.is_empty() {
                    return;
                }
                kept.take(batch);
            }
        });
        (sender, latest)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, batch: Vec<Report>) {
        let mut inner = self.inner();
        for report in batch {
            match &report.update {
                Update::Progress(..) | Update::Uploaded { .. } => {
                    inner.version += 1;
                    let version = inner.version;
                    inner.hosts.insert(report.host.clone(), (version, report));
                }
                // What comes after that is about another step.
                Update::PhaseStarted(_) | Update::Summary(_) => _ = inner.hosts.remove(&report.host),
                Update::Event(speaker, event) => {
                    if let EventKind::StepFinished { step, .. } = event.kind
                        && let Some((_, kept)) = inner.hosts.get(&report.host)
                        && matches!(&kept.update, Update::Progress(who, of) if (*who, of.step) == (*speaker, step))
                    {
                        inner.hosts.remove(&report.host);
                    }
                }
                _ => {}
            }
        }
    }

    /// What was taken in after `version`, and the version that it amounts to.
    pub fn since(&self, version: u64) -> (u64, Vec<Report>) {
        let inner = self.inner();
        let newer = inner.hosts.values().filter(|(taken, _)| *taken > version);
        (inner.version, newer.map(|(_, report)| report.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use anemos_proto::event::{Event, Progress, StepOutcome, Unit};

    use super::*;
    use crate::report::{Phase, Speaker};

    fn report(host: &str, update: Update) -> Report {
        Report { host: host.into(), number: None, wall_ms: 1, update }
    }

    fn progress(host: &str, step: u32, done: u64) -> Report {
        let progress = Progress { step, done, total: None, unit: Unit::Items, what: None };
        report(host, Update::Progress(Speaker::Agent, progress))
    }

    fn finished(host: &str, step: u32) -> Report {
        let kind = EventKind::StepFinished { step, outcome: StepOutcome::Done };
        report(host, Update::Event(Speaker::Agent, Event { seq: 1, uptime_ms: 0, wall_ms: 0, kind }))
    }

    #[test]
    fn the_newest_of_each_host_until_it_is_over() {
        let latest = Latest::default();
        let hosts = |version| {
            let (version, reports) = latest.since(version);
            (version, reports.into_iter().map(|report| report.host).collect::<Vec<_>>())
        };
        latest.take(vec![progress("a", 1, 1), progress("b", 1, 1), progress("a", 1, 2)]);
        let (seen, both) = hosts(0);
        assert_eq!(both, ["a", "b"]);
        assert_eq!(hosts(seen), (seen, Vec::new()));
        latest.take(vec![finished("a", 2), progress("b", 1, 2)]);
        assert_eq!(hosts(seen).1, ["b"]);
        latest.take(vec![finished("a", 1), report("b", Update::PhaseStarted(Phase::Reboot))]);
        assert!(hosts(0).1.is_empty());
    }
}
