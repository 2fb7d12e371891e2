//! Gets ready for the payload: restores the network, unpacks the base, finds the declared disks, and guards all others.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anemos_host::sha256::Hasher;
use anemos_netstate as netstate;
use anemos_proto::event::{Level, Progress, StepOutcome, Unit};
use rustix::mount::{MountFlags, mount};

use crate::app::App;
use crate::disks::Disks;
use crate::{guard, lock, memory, modules, unpack, writes};

/// Time for a controller to attach before work begins that keeps the processor busy.
const FIRST_WORD: Duration = Duration::from_secs(2);
/// Time for the declared disks to show up.
const DISKS_DEADLINE: Duration = Duration::from_secs(60);
/// Time for the host's other disks to show up, after the declared ones have.
const OTHERS_DEADLINE: Duration = Duration::from_secs(15);
/// Deadline `efivars`: time for the firmware to list its variables.
const EFIVARS: Duration = Duration::from_secs(30);
/// Time between two looks for disks.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Time for each module to load.
const MODULE_DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of memory that must be left once the base is unpacked.
const SLACK: u64 = 48 << 20;
/// Paths that unpacking the base leaves alone.
const SPARE: [&str; 2] = ["anemos", "init"];

/// Restores the network, and notes what can't be restored.
pub async fn network(app: &Arc<App>) {
    let step = app.log.begin("network", None);
    let state = app.host.network.clone();
    let applied = tokio::task::spawn_blocking(move || netstate::apply(&state, netstate::Deadlines::default())).await;
    let outcome = match applied {
        Ok(Ok(restored)) => {
            for problem in restored.problems {
                app.log.note(Level::Warning, format!("network: {problem}"));
            }
            StepOutcome::Done
        }
        Ok(Err(e)) => {
            let source = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
            StepOutcome::Failed(format!("{e}{source}"))
        }
        Err(e) => StepOutcome::Failed(e.to_string()),
    };
    if let StepOutcome::Failed(why) = &outcome {
        app.log.note(Level::Error, format!("the network could not be restored: {why}"));
    }
    app.log.end(step, outcome);
}

/// Unpacks and loads the modules that the network doesn't need. Waits until a controller has attached, or for
/// [`FIRST_WORD`], because loading keeps the processor busy.
pub async fn load_modules(app: &Arc<App>) {
    let mut met = app.met.subscribe();
    let _ = tokio::time::timeout(FIRST_WORD, met.wait_for(|met| *met)).await;
    let here = app.clone();
    let loaded = tokio::task::spawn_blocking(move || unpack_modules(&here)).await;
    for problem in loaded.unwrap_or_else(|e| vec![e.to_string()]) {
        app.log.note(Level::Warning, problem);
    }
}

fn unpack_modules(app: &App) -> Vec<String> {
    let path = app.paths.anemos.join("modules.cpio.zst");
    // An agent before this one may have done it; it removes the archive then.
    if !app.paths.machine || !path.exists() {
        return Vec::new();
    }
    let step = app.log.begin("kernel modules", None);
    let unpacked = File::open(&path)
        .and_then(zstd::stream::read::Decoder::new)
        .and_then(|archive| unpack::cpio(archive, &app.paths.root, &[], |_| {}));
    let problems = match unpacked {
        Ok(_) => {
            let problems = modules::load(&app.paths, "modules.load", MODULE_DEADLINE);
            // Frees the archive's memory; nobody reads the archive again.
            let _ = fs::remove_file(&path);
            problems
        }
        Err(e) => vec![format!("the kernel modules could not be unpacked: {e}")],
    };
    app.log.end(step, StepOutcome::Done);
    problems
}

/// Makes the index of modules for modprobe, through which the kernel loads modules as well.
async fn index_modules(app: &App) {
    if !app.paths.machine {
        return;
    }
    let made = tokio::process::Command::new("/usr/sbin/depmod").arg(&app.host.kernel_release).output().await;
    let why = match made {
        Ok(output) if output.status.success() => {
            let dir = app.paths.root.join("lib/modules").join(&app.host.kernel_release);
            for problem in modules::make_nodes(&dir) {
                app.log.note(Level::Warning, problem);
            }
            return;
        }
        Ok(output) => format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
        Err(e) => e.to_string(),
    };
    app.log.note(Level::Warning, format!("modprobe will find no modules, because depmod failed: {why}"));
}

/// Does what must be done before the payload may start; returns the declared disks' names.
pub async fn ready(app: &Arc<App>) -> Result<Vec<String>, String> {
    let here = app.clone();
    // Unpacks in another thread, since it keeps a processor busy for seconds and this thread serves the network.
    let unpacked = tokio::task::spawn_blocking(move || base(&here)).await;
    unpacked.map_err(|e| e.to_string()).and_then(|done| done)?;
    let (disks, ()) = tokio::join!(disks(app), index_modules(app));
    let disks = disks?;
    if app.paths.machine
        && let Err(why) = guard::apart("efivars", EFIVARS, mount_efivars).await.flatten()
    {
        app.log.note(Level::Warning, why);
    }
    writes::store(&app.paths, &disks).map_err(|e| format!("{}: {e}", app.paths.ready_mark().display()))?;
    note_watchdogs(app);
    Ok(disks)
}

/// Tells what becomes of this machine if its kernel hangs.
fn note_watchdogs(app: &App) {
    if !app.paths.machine {
        return;
    }
    let listed = fs::read_to_string(app.paths.watchdogs()).unwrap_or_default();
    let (level, text) = match listed.trim() {
        "" => {
            let text = "this machine has no watchdog: if its kernel hangs, and none of the kernel's own detectors sees \
                        it, somebody has to reset it";
            (Level::Warning, text.to_owned())
        }
        list => {
            let text =
                format!("until a disk is written, a machine that hangs is reset by {}", list.replace('\n', ", "));
            (Level::Info, text)
        }
    };
    app.log.note(level, text);
}

/// Mounts the firmware's variables. The kernel has modprobe load efivarfs for it, so the modules must be indexed.
fn mount_efivars() -> Result<(), String> {
    let path = "/sys/firmware/efi/efivars";
    let usual = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount(c"efivarfs", path, c"efivarfs", usual, c"") {
        Err(e) if e != rustix::io::Errno::BUSY && Path::new(path).exists() => Err(format!("can't mount {path}: {e}")),
        _ => Ok(()),
    }
}

/// The declared disks that an agent before this one found.
pub fn was_ready(app: &App) -> Option<Vec<String>> {
    Some(writes::found(&app.paths)?.into_iter().map(|disk| disk.name).collect())
}

fn base(app: &App) -> Result<(), String> {
    let step = app.log.begin("unpacking the base", None);
    let result = unpack_base(app, step);
    app.log.end(step, result.clone().map_or_else(StepOutcome::Failed, |()| StepOutcome::Done));
    result.map_err(|why| format!("the base could not be unpacked: {why}"))
}

fn unpack_base(app: &App, step: u32) -> Result<(), String> {
    let images = images(&app.paths.anemos).map_err(|e| format!("{}: {e}", app.paths.anemos.display()))?;
    let (size, expected) = (app.host.base_size, app.host.base);
    let free = memory::available();
    if free < size + SLACK {
        return Err(format!(
            "it takes {} MiB of memory with what the agent needs, and {} MiB are free: this host has too little memory",
            (size + SLACK) >> 20,
            free >> 20
        ));
    }
    let mut shown = 0;
    let mut tell = |done: u64| {
        // Reports each MiB, since a report for each of thousands of small files would cost more than the files.
        if done >= shown + (1 << 20) || done == size {
            shown = done;
            app.log.progress(Progress { step, done, total: Some(size), unit: Unit::Bytes, what: None });
        }
    };
    let (mut before, mut digests) = (0, Vec::new());
    for path in &images {
        let open = || -> std::io::Result<_> { zstd::stream::read::Decoder::new(File::open(path)?) };
        let image = open().map_err(|e| format!("{}: {e}", path.display()))?;
        let mut last = 0;
        let progress = |done: u64| {
            last = done;
            tell(before + done);
        };
        let digest = unpack::cpio(image, &app.paths.root, &SPARE, progress);
        digests.push(digest.map_err(|e| format!("{}: {e}", path.display()))?);
        before += last;
    }
    digests.sort_unstable_by_key(|digest| digest.0);
    let mut hash = Hasher::new();
    for digest in &digests {
        hash.update(&digest.0);
    }
    let found = hash.finish();
    if found != expected {
        return Err(format!("the SHA-256 of its {} images is {found}, expected {expected}", images.len()));
    }
    own_files(app).map_err(|e| format!("/etc of the RAM system: {e}"))?;
    let (free, total) = (memory::available(), memory::total());
    if free < (total / 5).min(256 << 20) && app.paths.machine {
        for path in &images {
            fs::remove_file(path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        let text =
            format!("only {} MiB of memory are free: the base won't be kept for the new system's cache", free >> 20);
        app.log.note(Level::Info, text);
    }
    Ok(())
}

/// The images that make the base, in the order of their names.
fn images(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_image = |name: &str| name.starts_with("base-") && name.ends_with(".cpio.zst");
        if path.file_name().and_then(|name| name.to_str()).is_some_and(is_image) {
            images.push(path);
        }
    }
    images.sort();
    Ok(images)
}

/// Writes the files of /etc that tell about this host, and links the helper.
fn own_files(app: &App) -> std::io::Result<()> {
    let etc = app.paths.root.join("etc");
    fs::create_dir_all(&etc)?;
    let name = &app.host.network.hostname;
    let write = |file: &str, text: String| {
        let path = etc.join(file);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => fs::write(path, text),
        }
    };
    write("resolv.conf", netstate::write_resolv_conf(&app.host.network))?;
    write("hostname", format!("{name}\n"))?;
    write("hosts", format!("127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost ip6-loopback\n"))?;
    if !etc.join("mtab").exists() {
        std::os::unix::fs::symlink("/proc/self/mounts", etc.join("mtab"))?;
    }
    if app.paths.machine {
        let tool = Path::new("/usr/bin/anemos-agent");
        if !tool.exists() {
            std::os::unix::fs::symlink("/init", tool)?;
        }
    }
    Ok(())
}

async fn disks(app: &Arc<App>) -> Result<Vec<String>, String> {
    let step = app.log.begin("finding and guarding disks", None);
    let result = find_disks(app).await;
    let outcome = match &result {
        Ok(_) => StepOutcome::Done,
        Err(why) => StepOutcome::Failed(why.clone()),
    };
    app.log.end(step, outcome);
    result
}

async fn find_disks(app: &Arc<App>) -> Result<Vec<String>, String> {
    let here = app.clone();
    let resolve = move || {
        let disks = Disks::new(&here.paths.tree);
        let deadline = Instant::now() + DISKS_DEADLINE;
        loop {
            match disks.resolve(&here.run.disks, &here.host.disks) {
                Err(why) if Instant::now() > deadline => {
                    return Err(format!("{why} (waited {} s for it)", DISKS_DEADLINE.as_secs()));
                }
                // Looks again and again, because sysfs doesn't tell when the kernel has found all disks.
                Err(_) => std::thread::sleep(LOOK_AGAIN),
                found => return found,
            }
        }
    };
    let found = guard::apart("disks", DISKS_DEADLINE + guard::PASS, resolve).await??;
    if app.paths.machine {
        let (here, declared) = (app.clone(), found.clone());
        guard::apart("disks", OTHERS_DEADLINE + 2 * guard::PASS, move || guard_all(&here, &declared)).await??;
    }
    Ok(found)
}

/// Sets all disks read-only, the declared ones too, and waits for those that haven't shown up yet.
fn guard_all(app: &App, declared: &[String]) -> Result<(), String> {
    let disks = Disks::new(&app.paths.tree);
    // A disk that shows up later is guarded within a second, but the payload could write to it before that.
    let deadline = Instant::now() + OTHERS_DEADLINE;
    loop {
        let missing = disks.missing(&app.host.disks);
        if missing.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            let names: Vec<&str> = missing.iter().map(|id| &*id.name).collect();
            let text = format!(
                "what was {} has not shown up in {} s; a disk that shows up later is set read-only within a second",
                names.join(" and "),
                OTHERS_DEADLINE.as_secs()
            );
            app.log.note(Level::Warning, text);
            break;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    let mut failed = guard::guard(app, declared);
    // The declared disks are read-only too, until a controller has acknowledged an attempt: no process may write while
    // nobody knows of an attempt.
    failed.extend(lock::lock(&disks, &[]).problems());
    failed.sort();
    failed.dedup();
    if failed.is_empty() { Ok(()) } else { Err(format!("these disks can't be set read-only: {}", failed.join(", "))) }
}
