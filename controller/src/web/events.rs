//! What happens to a run, as server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html
//!
//! The id of an event is the number of what was told last of each host, in the order of the run's hosts, with dots
//! between them. So whoever says it in `Last-Event-ID` misses nothing and gets nothing twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::MissedTickBehavior;

use super::clean;
use super::glances::state;
use crate::api::Fault;
use crate::journal::{Keep, RunDir};
use crate::report::{Report, Update, is_line};
use crate::serve::{Runs, Watch};

/// Time between two looks at the journals.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Whoever hears nothing for so long is told that the other side is still there.
const BEAT: Duration = Duration::from_secs(10);

/// Time between two looks at who follows a run that is not the daemon's.
const FOLLOWED: Duration = Duration::from_secs(1);

/// Lines of output that are told of a host to begin with: the newest.
const LINES: usize = 1000;

/// Bytes of an event, about.
const EVENT: usize = 32 << 10;

/// Events that wait for a reader. Whoever is slower than that is waited for, and what is not read yet is in the
/// journal.
const WAITING: usize = 4;

/// What is to be told.
pub(super) struct Wanted {
    pub run: RunDir,
    /// All that was told of this one, lines of output too; else of all hosts what is no line of output.
    pub host: Option<String>,
    /// The id of the last event that the reader has got.
    pub after: Option<String>,
}

/// Reads an id. `None`: it is none of an event of these hosts.
fn numbers(id: &str, hosts: &[String]) -> Option<BTreeMap<String, u64>> {
    let numbers: Option<Vec<u64>> = id.split('.').map(|number| number.parse().ok()).collect();
    let numbers = numbers.filter(|numbers| numbers.len() == hosts.len())?;
    Some(hosts.iter().cloned().zip(numbers).collect())
}

/// Begins to tell. An error says why it can't. `place` is given back when it ends.
pub(super) fn tell(
    runs: Arc<Runs>,
    wanted: Wanted,
    place: OwnedSemaphorePermit,
) -> Result<mpsc::Receiver<Bytes>, Fault> {
    let Wanted { run, host, after } = wanted;
    let one = host.is_some();
    let keep = move |seen: u64| if one { Keep::Lines { last: LINES, after: seen } } else { Keep::All };
    let fresh = BTreeMap::new();
    let names: Vec<String> = Watch::new(&run, host.as_deref(), &fresh, keep)?.hosts().map(str::to_owned).collect();
    let after = match after {
        // A stream that was never heard of begins at the beginning.
        None => fresh,
        Some(id) => numbers(&id, &names).ok_or_else(|| Fault::input("Last-Event-ID is of another run, or of none"))?,
    };
    let watch = Watch::new(&run, host.as_deref(), &after, keep)?;
    let seen = names.iter().map(|name| after.get(name).copied().unwrap_or(0)).collect();
    let (sender, receiver) = mpsc::channel(WAITING);
    let telling = Telling { lines: host.is_some(), seen, pending: Vec::new(), bytes: 0, sender, said: Instant::now() };
    tokio::spawn(async move {
        // Whoever listens learns of an error by the end, and asks again.
        telling.tell(&runs, &run, watch).await;
        drop(place);
    });
    Ok(receiver)
}

/// A reader, and what it has got.
struct Telling {
    lines: bool,
    /// By the place of the host.
    seen: Vec<u64>,
    /// Reports that wait to be told in one event.
    pending: Vec<Value>,
    bytes: usize,
    sender: mpsc::Sender<Bytes>,
    /// When something was told last.
    said: Instant,
}

impl Telling {
    async fn tell(mut self, runs: &Runs, run: &RunDir, mut watch: Watch) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut version, mut known) = (0, "");
        let mut elsewhere = (Instant::now(), false);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = self.sender.closed() => return,
            }
            // Before the look: nobody writes after that, so it sees the last word.
            let owned = runs.get(run.id.as_str()).ok();
            if owned.is_none() && (known.is_empty() || known == "decided" || elsewhere.0.elapsed() > FOLLOWED) {
                elsewhere = (Instant::now(), run.follower().is_some());
            }
            let is_followed = owned.is_some() || elsewhere.1;
            let now = match &owned {
                Some(_) => state(runs, run),
                None if is_followed => "elsewhere",
                None => "over",
            };
            let polled = tokio::task::block_in_place(|| {
                watch.poll(&mut |place, report, left_out| self.take(place, &report, left_out))?;
                self.flush();
                Ok::<_, Fault>(())
            });
            if let Err(fault) = polled {
                self.send("fault", &json!({ "message": clean::text(&fault.message) })).await;
                return;
            }
            if let Some(owned) = owned {
                let (newer, reports) = owned.latest.since(version);
                version = newer;
                let mine = reports.iter().filter(|report| !self.lines || watch.hosts().any(|h| h == report.host));
                let progress: Vec<Value> = mine.map(clean::report).collect();
                if !progress.is_empty() {
                    self.send("progress", &progress.into()).await;
                }
            }
            if now != known {
                known = now;
                self.send("state", &json!({ "state": now })).await;
            }
            if !is_followed {
                self.send("end", &json!({})).await;
                return;
            }
            if self.said.elapsed() > BEAT {
                self.put(Bytes::from_static(b":\n\n")).await;
            }
        }
    }

    /// Takes in a report. Blocks the thread while the reader is not ready.
    fn take(&mut self, place: usize, report: &Report, left_out: u64) {
        if self.sender.is_closed() {
            return;
        }
        let is_wanted = match &report.update {
            // The plan has what matters of it, and it is long.
            Update::Facts(_) => false,
            update => self.lines || !is_line(update),
        };
        if left_out > 0 {
            let host = clean::text(&report.host);
            self.pending.push(json!({ "type": "left-out", "host": host, "lines": left_out }));
        }
        if is_wanted {
            let value = clean::report(report);
            self.bytes += crate::report::size(&report.update);
            self.pending.push(value);
        }
        if let (Some(seen), Some(number)) = (self.seen.get_mut(place), report.number) {
            *seen = number;
        }
        if self.bytes >= EVENT {
            self.flush();
        }
    }

    /// Tells what waits. Blocks the thread while the reader is not ready.
    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.bytes = 0;
        let reports = Value::from(std::mem::take(&mut self.pending));
        let event = self.event("told", &reports, true);
        self.said = Instant::now();
        // Whoever listened has gone.
        let _ = self.sender.blocking_send(event);
    }

    fn event(&self, name: &str, data: &Value, with_id: bool) -> Bytes {
        let id: Vec<String> = self.seen.iter().map(u64::to_string).collect();
        let id = if with_id { format!("id: {}\n", id.join(".")) } else { String::new() };
        // JSON has no line breaks but as escapes.
        format!("{id}event: {name}\ndata: {data}\n\n").into()
    }

    async fn send(&mut self, name: &str, data: &Value) {
        let event = self.event(name, data, false);
        self.put(event).await;
    }

    async fn put(&mut self, event: Bytes) {
        self.said = Instant::now();
        let _ = self.sender.send(event).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_a_number_of_each_host() {
        let hosts = ["a".to_owned(), "b".to_owned()];
        let read = |id: &str| numbers(id, &hosts).map(|numbers| numbers.into_values().collect::<Vec<_>>());
        assert_eq!(read("7.0"), Some(vec![7, 0]));
        for wrong in ["", "7", "7.", "7.0.1", "7.-1", "7.x", "99999999999999999999.1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
