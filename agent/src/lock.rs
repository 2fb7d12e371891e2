//! Sets disks read-only in the kernel, and writable again, also where one of them doesn't answer: opening a disk waits
//! for it, and a dying disk may keep whoever opens it waiting for ever. So each disk has a thread of its own, which is
//! left behind if it takes too long.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anemos_host::disks::dev_path;

use crate::disks::Disks;

/// Time for a disk to answer. One that sleeps needs up to 15 s to spin up.
const ANSWER: Duration = Duration::from_secs(20);

/// Those of this process that wait for disks.
static CREW: LazyLock<Crew> = LazyLock::new(Crew::default);

/// What came of setting disks read-only.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Locked {
    /// Devices that were not read-only before, and are now.
    pub done: Vec<String>,
    /// Devices that can't be set read-only, each with the reason.
    pub failed: Vec<String>,
    /// Disks that don't answer.
    pub silent: Vec<String>,
}

impl Locked {
    /// All that is not read-only, with the reasons.
    pub fn problems(&self) -> Vec<String> {
        self.failed.iter().cloned().chain(self.silent.iter().map(|disk| silence(disk))).collect()
    }
}

/// Sets every disk but `allowed`, and its partitions, read-only.
pub fn lock(disks: &Disks, allowed: &[String]) -> Locked {
    let names = disks.names().into_iter().filter(|name| !allowed.contains(name)).collect();
    let (answers, silent) = set(disks, names, true);
    let mut locked = Locked { silent, ..Locked::default() };
    for (device, result) in answers {
        match result {
            Ok(()) => locked.done.push(device),
            // A drive without a medium can't be set read-only, and can't be written.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOMEDIUM | libc::ENXIO)) => {}
            Err(e) => locked.failed.push(format!("{device}: {e}")),
        }
    }
    locked
}

/// Makes these disks and their partitions writable again; returns failures.
pub fn unlock(disks: &Disks, allowed: &[String]) -> Vec<String> {
    let (answers, silent) = set(disks, allowed.to_vec(), false);
    let failed = answers.into_iter().filter_map(|(device, result)| Some(format!("{device}: {}", result.err()?)));
    failed.chain(silent.iter().map(|disk| silence(disk))).collect()
}

fn silence(disk: &str) -> String {
    format!("{disk}: it does not answer within {} s", ANSWER.as_secs())
}

/// Sets those of the devices of `names` that are otherwise; returns what came of each, and the disks that don't answer.
fn set(disks: &Disks, names: Vec<String>, on: bool) -> (Vec<(String, io::Result<()>)>, Vec<String>) {
    let devices = |disk: String| {
        let mut devices = disks.with_partitions(&disk);
        devices.retain(|device| disks.is_read_only(device) != on);
        (disk, devices)
    };
    let jobs = names.into_iter().map(devices).filter(|(_, devices)| !devices.is_empty()).collect();
    let work = move |devices: Vec<String>| -> Vec<_> {
        devices.into_iter().map(|device| (device.clone(), set_read_only(&device, on))).collect()
    };
    let (answers, silent) = CREW.work(jobs, ANSWER, work);
    (answers.into_iter().flatten().collect(), silent)
}

fn set_read_only(device: &str, on: bool) -> io::Result<()> {
    // Without O_NONBLOCK a floppy drive without a disk can't be opened.
    let device = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(dev_path(device))?;
    crate::sys::set_read_only(&device, on)
}

/// Threads that each wait for one disk, and the names of the disks for which one waits now.
#[derive(Default)]
struct Crew(Arc<Mutex<BTreeSet<String>>>);

impl Crew {
    /// Does `work` for each of `jobs`, all at once; returns the results that came within `limit`, in the order of the
    /// jobs, and the names of the jobs without one. A job whose name a thread still works for is not begun again.
    fn work<J: Send + 'static, T: Send + 'static>(
        &self,
        jobs: Vec<(String, J)>,
        limit: Duration,
        work: impl Fn(J) -> T + Clone + Send + 'static,
    ) -> (Vec<T>, Vec<String>) {
        let until = Instant::now() + limit;
        let (tell, told) = mpsc::channel();
        let names: Vec<String> = jobs.iter().map(|(name, _)| name.clone()).collect();
        for (at, (name, job)) in jobs.into_iter().enumerate() {
            if !busy(&self.0).insert(name.clone()) {
                continue;
            }
            let (all, own, tell, work) = (self.0.clone(), name.clone(), tell.clone(), work.clone());
            let begun = thread::Builder::new().name(format!("disk {name}")).spawn(move || {
                let result = work(job);
                busy(&all).remove(&own);
                let _ = tell.send((at, result));
            });
            if begun.is_err() {
                busy(&self.0).remove(&name);
            }
        }
        drop(tell);
        let mut results: Vec<Option<T>> = names.iter().map(|_| None).collect();
        // Ends when every thread has answered, or when the time is over.
        while let Ok((at, result)) = told.recv_timeout(until.saturating_duration_since(Instant::now())) {
            results[at] = Some(result);
        }
        let silent = names.into_iter().zip(&results).filter(|(_, result)| result.is_none()).map(|(name, _)| name);
        let silent = silent.collect();
        (results.into_iter().flatten().collect(), silent)
    }
}

fn busy(names: &Mutex<BTreeSet<String>>) -> MutexGuard<'_, BTreeSet<String>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// Answers when told to.
    fn slow(job: (u32, Option<Receiver<()>>)) -> u32 {
        if let Some(wait) = job.1 {
            let _ = wait.recv();
        }
        job.0
    }

    #[test]
    fn a_disk_that_does_not_answer_keeps_nobody_waiting() {
        let crew = Crew::default();
        let (answer, wait) = channel();
        let jobs = vec![("sda".to_owned(), (1, None)), ("sdb".to_owned(), (2, Some(wait))), ("sdc".into(), (3, None))];
        let start = Instant::now();
        assert_eq!(crew.work(jobs, Duration::from_millis(300), slow), (vec![1, 3], vec!["sdb".to_owned()]));
        assert!(start.elapsed() < Duration::from_secs(20));

        // One thread at a time waits for it.
        let again = || vec![("sdb".to_owned(), (4, None)), ("sdc".to_owned(), (5, None))];
        assert_eq!(crew.work(again(), Duration::from_secs(60), slow), (vec![5], vec!["sdb".to_owned()]));

        // Once it has answered, it is like others.
        answer.send(()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while busy(&crew.0).contains("sdb") {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(crew.work(again(), Duration::from_secs(60), slow), (vec![4, 5], vec![]));
    }

    #[test]
    fn what_is_not_read_only_is_told() {
        let locked = Locked { failed: vec!["sda1: busy".into()], silent: vec!["sdb".into()], done: vec!["sdc".into()] };
        assert_eq!(locked.problems(), ["sda1: busy", "sdb: it does not answer within 20 s"]);
    }
}
