//! PID 1: makes the machine usable, starts the agent, reaps processes, and starts the agent again, held, if it ends.

use std::ffi::CStr;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anemos_host::deadline::within;
use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::process::{Pid, WaitOptions, wait};
use rustix::system::{RebootCommand, reboot, sethostname};

use crate::console::say;
use crate::given::{self, PROBLEMS};
use crate::paths::Paths;
use crate::reset::{self, Way};
use crate::{modules, writes};

/// Time for the modules that the network needs to load.
const FIRST_MODULES: Duration = Duration::from_secs(30);

/// How long the agent may break again and again before init goes back to the old system, where run.bin can't be read
/// for the deadline `dead_man`.
const PATIENCE: Duration = Duration::from_secs(600);

/// Time for data on its way to reach the disks before init reboots.
const SYNC: Duration = Duration::from_secs(30);

/// Share of the memory that the root file system may take.
const ROOT_SIZE: &CStr = c"size=85%";

/// Runs as PID 1, for ever.
pub fn run() -> ! {
    let mut problems = Vec::new();
    make_machine(&mut problems);
    let paths = Paths::host();
    prepare(&paths, &mut problems);
    // Loads only what the network needs; the agent loads the others once a controller has heard of it. Waits for a
    // limited time only, so that a driver that hangs can't keep the agent, and its dead-man's clock, from starting.
    match within(FIRST_MODULES, || modules::load(&Paths::host(), "modules.first")) {
        Some(more) => problems.extend(more),
        None => problems.push(format!("a module that the network needs does not load within {FIRST_MODULES:?}")),
    }
    let _ = fs::write(paths.run.join(PROBLEMS), problems.join("\n"));
    supervise(&paths)
}

fn make_machine(problems: &mut Vec<String>) {
    let usual = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let devices = MountFlags::NOSUID | MountFlags::NOEXEC;
    let shared = MountFlags::NOSUID | MountFlags::NODEV;
    let mounts: [(&str, &CStr, MountFlags, &CStr); 8] = [
        ("/proc", c"proc", usual, c""),
        ("/sys", c"sysfs", usual, c""),
        ("/dev", c"devtmpfs", MountFlags::NOSUID, c"mode=0755"),
        ("/dev/pts", c"devpts", devices, c"gid=5,mode=620,ptmxmode=666"),
        ("/dev/shm", c"tmpfs", shared, c"mode=1777"),
        ("/run", c"tmpfs", shared, c"mode=0755"),
        ("/tmp", c"tmpfs", shared, c"mode=1777"),
        ("/sys/fs/cgroup", c"cgroup2", usual, c""),
    ];
    for (path, kind, flags, data) in mounts {
        if path.starts_with("/sys/") {
            // In sysfs only the kernel can make the directory; without it there is nothing to mount.
            if !Path::new(path).exists() {
                continue;
            }
        } else {
            let _ = fs::create_dir_all(path);
        }
        if let Err(e) = mount(kind, path, kind, flags, data) {
            // The kernel may have mounted /dev itself.
            if e != rustix::io::Errno::BUSY {
                problems.push(format!("can't mount {path}: {e}"));
            }
        }
    }
    for (link, to) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let _ = symlink(to, link);
    }
    if let Ok(console) = OpenOptions::new().read(true).write(true).open("/dev/console") {
        let _ = rustix::stdio::dup2_stdin(&console);
        let _ = rustix::stdio::dup2_stdout(&console);
        let _ = rustix::stdio::dup2_stderr(&console);
    }
    // Keeps kernel messages below a warning off the screen, which is for what the agent says.
    let _ = crate::sys::set_console_level(5);
    if let Err(e) = mount_remount("/", MountFlags::empty(), ROOT_SIZE) {
        problems.push(format!("the root file system can't be given more of the memory: {e}"));
    }
    if let Err(e) = reboot(RebootCommand::CadOff) {
        problems.push(format!("Ctrl-Alt-Del still reboots: {e}"));
    }
    // When memory runs out, the kernel must not kill init or the agent, which inherits this.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
}

fn prepare(paths: &Paths, problems: &mut Vec<String>) {
    let _ = fs::create_dir_all(&paths.run);
    match given::read_host(paths) {
        Ok(host) => {
            let feed = OpenOptions::new().write(true).open("/dev/urandom");
            if let Err(e) = feed.and_then(|random| crate::sys::add_entropy(&random, host.random_seed.expose())) {
                problems.push(format!("the random seed can't be used: {e}"));
            }
            if let Err(e) = sethostname(host.network.hostname.as_bytes()) {
                problems.push(format!("the host's name can't be set: {e}"));
            }
        }
        // The agent fails by itself if it needs what is missing.
        Err(e) => problems.push(e),
    }
}

fn supervise(paths: &Paths) -> ! {
    let mut reason: Option<String> = None;
    let mut pause = Duration::from_secs(1);
    let mut breaking = Instant::now();
    let patience = given::read_run(paths).map_or(PATIENCE, |run| Duration::from_secs(run.deadlines.dead_man_s.into()));
    loop {
        let started = Instant::now();
        let _ = fs::remove_file(paths.last_words());
        let mut command = Command::new("/init");
        command.arg("serve");
        if let Some(reason) = &reason {
            command.arg("--held").arg(reason);
        }
        let how = match command.spawn() {
            Ok(child) => describe(reap(&child)),
            Err(e) => format!("can't be started: {e}"),
        };
        let last_words = fs::read_to_string(paths.last_words()).unwrap_or_default();
        let mut text = format!("the agent broke ({how})");
        if !last_words.is_empty() {
            text = format!("{text}: {}", last_words.trim());
        }
        say(&text);
        // Each restart gives the reason of the first failure, because later failures may only follow from it, unless
        // the agent has run well for long in between.
        if reason.is_none() || started.elapsed() > Duration::from_secs(600) {
            (reason, pause, breaking) = (Some(text), Duration::from_secs(1), Instant::now());
        }
        // The agent's own dead-man's clock starts anew with each agent, so init has one as well.
        if breaking.elapsed() >= patience && is_unwritten(paths) {
            say("the agent breaks again and again, and no write was counted: going back to the old system");
            within(SYNC, rustix::fs::sync);
            reset::leave(Way::Restart);
        }
        // Without a pause an agent that breaks at once each time would keep the machine too busy for a person to find
        // out why.
        std::thread::sleep(pause);
        pause = (2 * pause).min(Duration::from_secs(30));
    }
}

/// Whether no write to a disk was counted. This proves nothing, since data may still be on its way to a disk, so init
/// doesn't claim that nothing was written.
fn is_unwritten(paths: &Paths) -> bool {
    writes::baseline(paths).is_ok_and(|before| writes::touched(paths, &before).is_empty())
}

/// Reaps processes until the agent ends; returns how it ended.
fn reap(agent: &Child) -> Option<ExitStatus> {
    let agent = Pid::from_raw(agent.id().cast_signed());
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid) == agent => return Some(ExitStatus::from_raw(status.as_raw())),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

fn describe(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "it is gone".into(), |status| status.to_string())
}
