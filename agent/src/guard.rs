//! Keeps every disk but the declared ones from being written: read-only in the kernel, and closed to the payload's
//! processes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;
use std::time::Duration;

use anemos_host::Root;
use anemos_host::disks::dev_path;
use anemos_proto::event::Level;
use rustix::fs::{major, minor};
use tokio::task::JoinHandle;

use crate::app::App;
use crate::cgroup;
use crate::disks::Disks;
use crate::{lock, writes};

/// Deadline `disks`: time to look at every disk. Each disk has less, but asking some for their ids has no end of its
/// own.
pub const PASS: Duration = Duration::from_secs(30);

/// Does what may wait for disks in a thread of its own, since the agent's own thread serves the network and the clocks.
/// An error says which deadline passed; the thread is left behind then.
pub async fn apart<T: Send + 'static>(
    deadline: &str,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    match tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(_) => Err(format!("deadline `{deadline}` ({} s) passed", limit.as_secs())),
    }
}

/// Sets all disks but `allowed` read-only; returns failures. A name in `allowed` that another disk has got since counts
/// for nothing. Waits for disks.
pub fn guard(app: &App, allowed: &[String]) -> Vec<String> {
    let disks = Disks::new(&app.paths.tree);
    let locked = lock::lock(&disks, &disks.still(allowed, &app.run.disks));
    if !locked.done.is_empty() {
        app.log.note(Level::Info, format!("set read-only: {}", locked.done.join(", ")));
        if cgroup::is_made()
            && let Err(why) = fence(app, allowed)
        {
            let text = format!("new disks are protected from the payload only by being set read-only: {why}");
            app.log.note(Level::Warning, text);
        }
    }
    locked.problems()
}

/// Opens the disks `allowed` to the payload, and no others. An error says why the payload must not start.
pub async fn open(app: &Arc<App>, allowed: &[String]) -> Result<(), String> {
    if !app.paths.machine {
        return Ok(());
    }
    let (here, allowed) = (app.clone(), allowed.to_vec());
    let open = move || {
        // Root clears a disk's read-only flag as easily as the kernel sets it.
        fence(&here, &allowed).map_err(|why| format!("other disks can't be closed to it: {why}"))?;
        for failed in lock::unlock(&Disks::new(&here.paths.tree), &allowed) {
            here.log.note(Level::Warning, format!("can't be made writable again: {failed}"));
        }
        Ok(())
    };
    let opened = apart("disks", PASS, open).await.flatten();
    opened.map_err(|why: String| format!("the disks can't be opened to the payload: {why}"))
}

/// Keeps the payload's processes from opening any disk but `allowed` for writing, and from what passes commands on to
/// disks uncounted. A name in `allowed` that another disk has got since counts for nothing. Waits for disks.
fn fence(app: &App, allowed: &[String]) -> Result<(), String> {
    let disks = Disks::new(&app.paths.tree);
    let devices = disks.numbers_without(&disks.still(allowed, &app.run.disks));
    let closed = cgroup::forbid(&devices, app.run.raw_access);
    closed.map_err(|e| format!("the device filter of its cgroup (Linux 4.15, CONFIG_CGROUP_BPF): {e}"))
}

/// Why a payload that ended well can't have written its disks, if that is so: one is gone, or a file has its name in
/// /dev, and who writes to that fills memory and gets no error.
pub async fn missed(app: &Arc<App>) -> Option<String> {
    let here = app.clone();
    apart("disks", PASS, move || missing(&here)).await.unwrap_or_else(|why| {
        // Asking a disk for its ids may take for ever.
        Some(format!("whether its disks are still there is not known: {why}"))
    })
}

fn missing(app: &App) -> Option<String> {
    let tree = &app.paths.tree;
    let (found, counts) = (writes::found(&app.paths)?, writes::counts(tree));
    let mut lost = writes::lost(&found, &counts);
    let names: Vec<String> = found.into_iter().map(|disk| disk.name).collect();
    if !lost.is_empty() {
        // A payload may make the namespaces of its disk anew.
        let still = Disks::new(tree).still(&names, &app.run.disks);
        lost.retain(|name| !counts.contains_key(name) || !still.contains(name));
    }
    if !lost.is_empty() {
        return Some(format!("{} is gone, or another disk has its name", lost.join(" and ")));
    }
    let file = names.iter().find(|name| app.paths.machine && !is_in_dev(tree, name))?;
    Some(format!("{} is not the disk any more: what was written there may be on none", dev_path(file)))
}

/// Whether a disk's name in /dev leads to it. Where a disk goes and comes back, a payload that writes on makes a file
/// of that name in between, which then keeps the kernel from making the disk's node.
fn is_in_dev(root: &Root, name: &str) -> bool {
    let number = root.text(&format!("/sys/block/{name}/dev"));
    fs::metadata(root.at(&dev_path(name))).is_ok_and(|node| {
        let its = format!("{}:{}", major(node.rdev()), minor(node.rdev()));
        node.file_type().is_block_device() && number == Some(its)
    })
}

/// Guarding disks once a second, in a thread of its own, since a dying disk may keep it waiting. One pass at a time.
#[derive(Default)]
pub struct Pass {
    task: Option<JoinHandle<Vec<String>>>,
    /// When it was begun, in milliseconds.
    begun: u64,
    /// What was wrong last.
    problems: Vec<String>,
}

impl Pass {
    /// Begins a pass, if none is going on. Returns what is newly wrong, in words: also that the last pass hangs.
    pub fn begin(&mut self, now: u64, guard: impl FnOnce() -> Vec<String> + Send + 'static) -> Option<String> {
        if self.task.is_none() {
            (self.task, self.begun) = (Some(tokio::task::spawn_blocking(guard)), now);
            return None;
        }
        let limit = PASS.as_secs();
        let late = now.saturating_sub(self.begun) >= limit * 1000;
        late.then(|| self.news(vec![format!("looking at the disks takes more than deadline `disks` ({limit} s)")]))?
    }

    /// Waits for the end of the pass that goes on, if one does. Returns what is newly wrong, in words.
    pub async fn end(&mut self) -> Option<String> {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let problems = task.await.unwrap_or_else(|e| vec![e.to_string()]);
        self.task = None;
        self.news(problems)
    }

    fn news(&mut self, problems: Vec<String>) -> Option<String> {
        let news = !problems.is_empty() && problems != self.problems;
        let text = news.then(|| format!("can't be set read-only: {}", problems.join(", ")));
        self.problems = problems;
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn a_pass_that_hangs_is_told_once_and_is_the_only_one() {
        let (answer, wait) = channel::<()>();
        let mut pass = Pass::default();
        let hang = move || {
            let _ = wait.recv();
            Vec::new()
        };
        let second = || -> Vec<String> { panic!("two at a time") };
        assert_eq!(pass.begin(0, hang), None);
        assert_eq!(pass.begin(29_999, second), None);
        assert!(pass.begin(30_000, second).unwrap().contains("deadline `disks` (30 s)"));
        assert_eq!(pass.begin(31_000, second), None, "told already");
        drop(answer);
        assert_eq!(pass.end().await, None);

        let busy = || vec!["sda: busy".to_owned()];
        assert_eq!(pass.begin(32_000, busy), None);
        assert_eq!(pass.end().await.as_deref(), Some("can't be set read-only: sda: busy"));
        pass.begin(33_000, busy);
        assert_eq!(pass.end().await, None, "told already");
    }

    #[test]
    fn a_file_in_dev_is_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for path in ["dev", "sys/block/vdb"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        fs::write(dir.path().join("sys/block/vdb/dev"), "254:16\n").unwrap();
        let node = dir.path().join("dev/vdb");
        assert!(!is_in_dev(&root, "vdb"), "gone");
        fs::write(&node, "x").unwrap();
        assert!(!is_in_dev(&root, "vdb"), "a file");
        if crate::skip::without_root("only root may make devices") {
            return;
        }
        for (minor, its) in [(17, false), (16, true)] {
            fs::remove_file(&node).unwrap();
            let number = rustix::fs::makedev(254, minor);
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, &node, rustix::fs::FileType::BlockDevice, mode, number).unwrap();
            assert_eq!(is_in_dev(&root, "vdb"), its, "254:{minor}");
        }
    }

    #[tokio::test]
    async fn no_disk_is_opened_where_the_others_can_not_be_closed() {
        let dir = tempfile::tempdir().unwrap();
        let app = App::for_test(dir.path(), true);
        // On this machine no payload has a cgroup.
        let why = open(&app, &[]).await.unwrap_err();
        assert!(why.contains("other disks can't be closed to it") && why.contains("CONFIG_CGROUP_BPF"), "{why}");
        open(&App::for_test(dir.path(), false), &[]).await.unwrap();
    }

    #[tokio::test]
    async fn what_waits_for_a_disk_has_an_end() {
        let (answer, wait) = channel::<()>();
        let late = apart("judge", Duration::from_millis(20), move || wait.recv().is_ok()).await;
        assert_eq!(late, Err("deadline `judge` (0 s) passed".into()));
        assert_eq!(apart("judge", Duration::from_secs(60), || 7).await, Ok(7));
        drop(answer);
    }
}
