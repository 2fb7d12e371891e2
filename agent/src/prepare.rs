//! Getting ready for the payload: the base unpacked, its disks found, all others guarded.

use std::fs::{self, File};
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use anemos_netstate as netstate;
use anemos_proto::event::{Level, Progress, StepOutcome, Unit};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use tokio::time::Instant;

use crate::app::App;
use crate::disks::Disks;
use crate::{cgroup, init, memory, unpack};

/// For somebody to attach before what takes the processor's time is begun.
const FIRST_WORD: Duration = Duration::from_secs(2);
/// For declared disks to show up.
const DISKS_DEADLINE: Duration = Duration::from_secs(60);
/// For the host's other disks to show up, after the declared ones have.
const OTHERS_DEADLINE: Duration = Duration::from_secs(15);
/// Memory that must be left once the base is unpacked.
const SLACK: u64 = 48 << 20;
/// What the base must not touch.
const SPARE: [&str; 2] = ["anemos", "init"];

/// Restores the network; what can't be restored is noted.
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

/// Unpacks and loads the modules that the network doesn't need, once somebody is there to whom the network has carried
/// the first word, or after a while.
pub async fn modules(app: &Arc<App>) {
    let mut met = app.met.subscribe();
    let _ = tokio::time::timeout(FIRST_WORD, met.wait_for(|met| *met)).await;
    let here = app.clone();
    let loaded = tokio::task::spawn_blocking(move || load_modules(&here)).await;
    for problem in loaded.unwrap_or_else(|e| vec![e.to_string()]) {
        app.log.note(Level::Warning, problem);
    }
}

fn load_modules(app: &App) -> Vec<String> {
    let path = app.paths.anemos.join("modules.cpio.zst");
    // An agent before this one may have been here.
    if !app.paths.machine || !path.exists() {
        return Vec::new();
    }
    let step = app.log.begin("kernel modules", None);
    let mut problems = Vec::new();
    let unpacked = File::open(&path)
        .and_then(zstd::stream::read::Decoder::new)
        .and_then(|archive| unpack::cpio(archive, &app.paths.root, &[], |_| {}));
    match unpacked {
        Ok(_) => {
            init::load_modules(&app.paths, "modules.load", &mut problems);
            // Its memory is worth more than it is.
            let _ = fs::remove_file(&path);
        }
        Err(e) => problems.push(format!("the kernel modules could not be unpacked: {e}")),
    }
    app.log.end(step, StepOutcome::Done);
    problems
}

/// Makes the index that modprobe, and the kernel through it, looks into.
async fn index_modules(app: &App) {
    if !app.paths.machine {
        return;
    }
    let made = tokio::process::Command::new("/usr/sbin/depmod").arg(&app.host.kernel_release).output().await;
    let why = match made {
        Ok(output) if output.status.success() => return static_nodes(app),
        Ok(output) => format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
        Err(e) => e.to_string(),
    };
    app.log.note(Level::Warning, format!("modprobe will find no modules, because depmod failed: {why}"));
}

/// Makes the device nodes that modules want to be found at before they are loaded, such as /dev/loop-control: whoever
/// opens one has the kernel load its module. Elsewhere kmod(8) `static-nodes` sees to it.
fn static_nodes(app: &App) {
    let path = app.paths.root.join("lib/modules").join(&app.host.kernel_release).join("modules.devname");
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        let Some((name, kind, number)) = static_node(line) else { continue };
        let node = Path::new("/dev").join(name);
        let _ = fs::create_dir_all(node.parent().unwrap_or(&node));
        match mknodat(CWD, &node, kind, Mode::RUSR | Mode::WUSR, number) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => app.log.note(Level::Warning, format!("{} can't be made: {e}", node.display())),
        }
    }
}

/// Name, kind and number of a node, from a line of modules.devname: `loop loop-control c10:237`.
fn static_node(line: &str) -> Option<(&str, FileType, u64)> {
    let [_, name, device] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let kind = match device.chars().next()? {
        'c' => FileType::CharacterDevice,
        'b' => FileType::BlockDevice,
        _ => return None,
    };
    let (major, minor) = device[1..].split_once(':')?;
    plain.then_some(())?;
    Some((name, kind, makedev(major.parse().ok()?, minor.parse().ok()?)))
}

/// Does what must be done before the payload may start; returns the declared disks' names.
pub async fn ready(app: &Arc<App>) -> Result<Vec<String>, String> {
    let here = app.clone();
    // Unpacking keeps a processor busy for seconds. The network goes on in this thread.
    let unpacked = tokio::task::spawn_blocking(move || base(&here)).await;
    unpacked.map_err(|e| e.to_string()).and_then(|done| done)?;
    let (disks, ()) = tokio::join!(disks(app), index_modules(app));
    let disks = disks?;
    if app.paths.machine
        && let Err(why) = init::mount_efivars()
    {
        app.log.note(Level::Warning, why);
    }
    let mark = app.paths.ready_mark();
    fs::write(&mark, disks.join("\n")).map_err(|e| format!("{}: {e}", mark.display()))?;
    Ok(disks)
}

/// The declared disks that an agent before this one found.
pub fn was_ready(app: &App) -> Option<Vec<String>> {
    fs::read_to_string(app.paths.ready_mark()).ok().map(|text| text.lines().map(str::to_owned).collect())
}

fn base(app: &App) -> Result<(), String> {
    let step = app.log.begin("unpacking the base", None);
    let result = unpack_base(app, step);
    app.log.end(step, result.clone().map_or_else(StepOutcome::Failed, |()| StepOutcome::Done));
    result.map_err(|why| format!("the base could not be unpacked: {why}"))
}

fn unpack_base(app: &App, step: u32) -> Result<(), String> {
    let path = app.paths.anemos.join("base.cpio.zst");
    let (size, expected) = (app.host.base_size, app.host.base);
    let free = memory::available();
    if free < size + SLACK {
        return Err(format!(
            "it takes {} MiB of memory with what the agent needs, and {} MiB are free: this host has too little memory",
            (size + SLACK) >> 20,
            free >> 20
        ));
    }
    let open = || -> std::io::Result<_> { zstd::stream::read::Decoder::new(File::open(&path)?) };
    let image = open().map_err(|e| format!("{}: {e}", path.display()))?;
    let mut shown = 0;
    let progress = |done: u64| {
        // Not for each of thousands of small files.
        if done >= shown + (1 << 20) || done == size {
            shown = done;
            app.log.progress(Progress { step, done, total: Some(size), unit: Unit::Bytes, what: None });
        }
    };
    let found = unpack::cpio(image, &app.paths.root, &SPARE, progress).map_err(|e| e.to_string())?;
    if found != expected {
        return Err(format!("its SHA-256 is {found}, expected {expected}"));
    }
    own_files(app).map_err(|e| format!("/etc of the RAM system: {e}"))?;
    let (free, total) = (memory::available(), memory::total());
    if free < (total / 5).min(256 << 20) && app.paths.machine {
        fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let text =
            format!("only {} MiB of memory are free: the base won't be kept for the new system's cache", free >> 20);
        app.log.note(Level::Info, text);
    }
    Ok(())
}

/// The files of /etc that are about this host.
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
    let disks = Disks::new(&app.paths.sys);
    let deadline = Instant::now() + DISKS_DEADLINE;
    let found = loop {
        match disks.resolve(&app.run.disks, &app.host.disks) {
            Ok(found) => break found,
            Err(why) if Instant::now() > deadline => {
                return Err(format!("{why} (waited {} s for it)", DISKS_DEADLINE.as_secs()));
            }
            // Probing a disk is over when it is over: sysfs has no end mark to wait for.
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    if app.paths.machine {
        // A disk that shows up later is guarded then, but the payload may see it a moment before.
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
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let mut failed = guard(app, &found);
        // The declared disks too, until an attempt is told to start: what nobody was told of must not be able to write.
        failed.extend(disks.guard(&[]).1);
        if !failed.is_empty() {
            return Err(format!("these disks can't be set read-only: {}", failed.join(", ")));
        }
    }
    Ok(found)
}

/// Sets all disks but `allowed` read-only, and any that has got the name of one of these since; returns those that
/// could not be.
pub fn guard(app: &App, allowed: &[String]) -> Vec<String> {
    let disks = Disks::new(&app.paths.sys);
    let (done, failed) = disks.guard(&disks.still(allowed, &app.run.disks));
    if !done.is_empty() {
        app.log.note(Level::Info, format!("set read-only: {}", done.join(", ")));
        fence(app, allowed);
    }
    failed
}

/// Keeps the payload's processes from opening any disk for writing but `allowed`, and what has got the name of one of
/// these.
pub fn fence(app: &App, allowed: &[String]) {
    if !app.paths.machine {
        return;
    }
    let disks = Disks::new(&app.paths.sys);
    let devices = disks.numbers_without(&disks.still(allowed, &app.run.disks));
    if let Err(e) = cgroup::forbid_writing(&devices) {
        let text = format!("other disks are protected from the payload only by being set read-only: {e}");
        app.log.note(Level::Warning, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_nodes_are_read() {
        let control = Some(("loop-control", FileType::CharacterDevice, makedev(10, 237)));
        assert_eq!(static_node("loop loop-control c10:237"), control);
        assert_eq!(static_node("tun net/tun c10:200").map(|(name, ..)| name), Some("net/tun"));
        for other in
            ["# Device nodes to trigger on-demand module loading.", "x ../../etc/x c1:2", "x y p1:2", "x y c1", ""]
        {
            assert_eq!(static_node(other), None, "{other}");
        }
    }
}
