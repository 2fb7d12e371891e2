//! What follows the payload's success, and how the agent leaves.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use anemos_host::deadline::within;
use anemos_host::mounts::mounts;
use anemos_host::processes::others;
use anemos_host::{Root, host_keys, kexec};
use anemos_proto::config::Finish;
use anemos_proto::event::{EventKind, Level, StepOutcome};
use rustix::mount::{UnmountFlags, unmount};

use crate::app::App;
use crate::disks::Disks;
use crate::reset::{self, Way};
use crate::{lock, writes};

/// Space that seeding the cache leaves free in the new system, in bytes.
const SPARE: u64 = 64 << 20;

/// Time for killed processes to be gone.
const ENDING: Duration = Duration::from_secs(20);

/// Time for unmounting and writing; the machine leaves after it even if the disks have not answered.
const LEAVING: Duration = Duration::from_secs(60);

/// Finishes the new system after the payload's success: collects its host keys, seeds its cache, loads its kernel if
/// the agent is to kexec, and unmounts it. An error means that data may not have reached the disk.
pub fn seal(app: &App) -> Result<(), String> {
    let log = &app.log;
    let step = log.begin("finishing the new system", None);
    let target = &app.paths.target;
    if !app.paths.machine || is_mounted(target) {
        let keys = host_keys::public(&Root::new(target));
        if keys.is_empty() {
            let text =
                "the new system has no SSH host keys in etc/ssh, so its identity can't be checked after the reboot";
            log.note(Level::Warning, text);
        }
        log.append(EventKind::HostKeys(keys));
        let seeded = seed(app).unwrap_or_else(|why| {
            log.note(Level::Info, format!("the new system's cache was not filled: {why}"));
            0
        });
        log.append(EventKind::Seeded(seeded));
        // The kernel must be loaded now, since the new system is unmounted below.
        if matches!(app.run.finish, Finish::Kexec | Finish::Hold) {
            match load_kernel(target) {
                Ok(what) => log.note(Level::Info, format!("loaded {what} of the new system")),
                Err(why) => {
                    let text = format!(
                        "the new system's kernel can't be loaded, so instead of a kexec there would be a reboot: {why}"
                    );
                    let level = if app.run.finish == Finish::Kexec { Level::Warning } else { Level::Info };
                    log.note(level, text);
                }
            }
        }
    } else {
        let text =
            "nothing is mounted on $ANEMOS_TARGET: the new system's host keys are not known, and its cache stays empty";
        log.note(Level::Warning, text);
    }
    if !app.paths.machine {
        log.end(step, StepOutcome::Done);
        return Ok(());
    }
    let result = unmount_all(|path| path.starts_with(target)).and_then(|()| unmount_disks());
    rustix::fs::sync();
    log.end(step, result.clone().map_or_else(StepOutcome::Failed, |()| StepOutcome::Done));
    result
}

/// Copies files of this run into the new system's cache for the next deployment; returns the number of bytes.
fn seed(app: &App) -> Result<u64, String> {
    let mut files = Vec::new();
    for (from, to) in &app.host.seed_cache {
        let plain =
            |name: &str| Path::new(name).components().all(|c| matches!(c, Component::Normal(_))) && !name.contains('/');
        if !plain(from) || !plain(to) {
            return Err(format!("`{from}` or `{to}` is no file name"));
        }
        match fs::metadata(app.paths.anemos.join(from)) {
            Ok(found) => files.push((from, to, found.len())),
            Err(e) => app.log.note(Level::Info, format!("{from} is not there to be cached: {e}")),
        }
    }
    let sum: u64 = files.iter().map(|(_, _, size)| size).sum();
    let target = &app.paths.target;
    let space = rustix::fs::statvfs(target).map_err(|e| format!("{}: {e}", target.display()))?;
    let free = space.f_bavail * space.f_frsize;
    if free < sum + SPARE {
        return Err(format!("it needs {sum} bytes and {SPARE} to spare, and {free} are free"));
    }
    let dir = inside(target, &["var", "cache", "anemos"]).map_err(|e| e.to_string())?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(|e| format!("{}: {e}", dir.display()))?;
    for (from, to, _) in &files {
        let (from, partial, to) = (app.paths.anemos.join(from), dir.join(format!(".{to}.new")), dir.join(to));
        // The file gets its name only when it is whole, so that a crash can't leave half a file under that name.
        fs::copy(&from, &partial)
            .and_then(|_| fs::set_permissions(&partial, fs::Permissions::from_mode(0o600)))
            .and_then(|()| fs::rename(&partial, &to))
            .map_err(|e| {
                let _ = fs::remove_file(&partial);
                format!("{}: {e}", to.display())
            })?;
    }
    Ok(sum)
}

/// The directory `parts` below `root`; missing directories are made. Fails on a symlink, since a symlink of the new
/// system may lead out of it.
fn inside(root: &Path, parts: &[&str]) -> io::Result<PathBuf> {
    let mut path = root.to_owned();
    for part in parts {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(io::Error::other(format!("{} is not a directory", path.display()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => fs::DirBuilder::new().mode(0o755).create(&path)?,
            Err(e) => return Err(e),
        }
    }
    Ok(path)
}

/// Loads the kernel that the boot loader of the new system would boot; returns its path.
fn load_kernel(target: &Path) -> Result<String, String> {
    let path = target.join("boot/grub/grub.cfg");
    let config = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let entry = grub_entry(&config).ok_or_else(|| format!("{} has no entry with a `linux` line", path.display()))?;
    let kernel = open_in(target, &entry.kernel)?;
    let initrd = entry.initrd.as_deref().map(|path| open_in(target, path)).transpose()?;
    let words = CString::new(entry.cmdline).map_err(|e| e.to_string())?;
    kexec::file_load(kernel.as_fd(), initrd.as_ref().map(File::as_fd), &words)
        .map_err(|e| format!("kexec_file_load: {e}"))?;
    Ok(entry.kernel)
}

/// Opens a file by its path in grub.cfg. The path is relative to the file system with the file, which is that of / or
/// of /boot.
fn open_in(target: &Path, path: &str) -> Result<File, String> {
    let relative = path.trim_start_matches('/');
    File::open(target.join(relative))
        .or_else(|_| File::open(target.join("boot").join(relative)))
        .map_err(|e| format!("{path}: {e}"))
}

/// What an entry of grub.cfg boots.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub kernel: String,
    cmdline: String,
    initrd: Option<String>,
}

/// The first entry of a grub.cfg, which is what boots by default.
pub fn grub_entry(config: &str) -> Option<Entry> {
    let mut lines = config.lines().map(|line| line.split_whitespace());
    let (kernel, cmdline) = lines.by_ref().find_map(|mut words| {
        matches!(words.next(), Some("linux" | "linuxefi")).then_some(())?;
        Some((words.next()?.to_owned(), words.collect::<Vec<_>>().join(" ")))
    })?;
    let rest = lines.take_while(|words| words.clone().next() != Some("}"));
    let mut initrds = rest.filter_map(|mut words| {
        matches!(words.next(), Some("initrd" | "initrdefi")).then_some(())?;
        // Only the last file is taken. Files before it hold microcode, which the kernel does not need until it boots
        // from the firmware.
        words.last().map(str::to_owned)
    });
    Some(Entry { kernel, cmdline, initrd: initrds.next() })
}

fn is_mounted(path: &Path) -> bool {
    mounts(&Root::host()).iter().any(|mount| Path::new(&mount.target) == path)
}

/// Unmounts every mount point for which `which` is true, the last mounted first.
fn unmount_all(which: impl Fn(&Path) -> bool) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    for mount in mounts(&Root::host()).iter().rev().filter(|mount| which(Path::new(&mount.target))) {
        loop {
            match unmount(&mount.target, UnmountFlags::NOFOLLOW) {
                // EINVAL: it is no mount point any more, since it went together with another.
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
                // A process that was killed a moment ago may still be ending.
                Err(rustix::io::Errno::BUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(e) => return Err(format!("can't unmount {}: {e}", mount.target)),
            }
        }
    }
    Ok(())
}

/// Unmounts every file system on a disk.
fn unmount_disks() -> Result<(), String> {
    let mut on_disk = mounts(&Root::host());
    on_disk.retain(|mount| mount.source.starts_with("/dev/"));
    // All mounts at these paths go, because something else may be mounted over a disk's file system.
    unmount_all(|path| on_disk.iter().any(|mount| Path::new(&mount.target) == path))
}

/// Makes the counters of written sectors final: ends every process but init and this one, unmounts the disks, writes
/// out what is buffered, and sets all disks read-only. An error says why writes may have gone uncounted, or may still
/// come.
pub fn judge(app: &App) -> Result<(), String> {
    if !app.paths.machine {
        return Err("this agent runs on a machine that does other things as well".into());
    }
    end_all()?;
    unmount_disks()?;
    rustix::fs::sync();
    let disks = Disks::new(&app.paths.tree);
    let locked = lock::lock(&disks, &[]);
    let declared = writes::found(&app.paths).unwrap_or_default();
    let is_declared = |disk: &String| declared.iter().any(|found| found.name == *disk);
    if !locked.failed.is_empty() || locked.silent.iter().any(is_declared) {
        return Err(format!("can't be set read-only: {}", locked.problems().join(", ")));
    }
    if !locked.silent.is_empty() {
        // A dying disk that nobody wanted to write must not cost the proof: its counter is read like the others, and no
        // process is left that could open it.
        let text = format!("{} does not answer, so it could not be set read-only", locked.silent.join(" and "));
        app.log.note(Level::Warning, text);
    }
    rustix::fs::sync();
    let uncounted = writes::uncounted(&writes::baseline(&app.paths)?, &writes::counts(&app.paths.tree));
    if !uncounted.is_empty() {
        return Err(format!("gone, with what was counted: {}", uncounted.join(", ")));
    }
    disks.resolve(&app.run.disks, &app.host.disks).map(drop)
}

/// Kills every process but init and this one, until there are none.
fn end_all() -> Result<(), String> {
    let (mut deadline, mut fewest) = (Instant::now() + ENDING, usize::MAX);
    loop {
        crate::sys::kill_all_others();
        let left: Vec<String> = others(&Root::host()).iter().map(ToString::to_string).collect();
        // A thousand processes take long to die on a slow machine. As long as they do, they are waited for.
        if left.len() < fewest {
            (deadline, fewest) = (Instant::now() + ENDING, left.len());
        }
        match left[..] {
            [] => return Ok(()),
            _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            _ => return Err(format!("can't be killed: {}", left.join(", "))),
        }
    }
}

/// Unmounts the disks, says so to `ready`, and leaves this system. Returns only if that fails, with the reason.
pub fn leave(app: &App, finish: Finish, ready: impl FnOnce()) -> String {
    if !app.paths.machine {
        // A trial on an ordinary machine leaves by exiting.
        let _ = fs::write(app.paths.run.join("left"), format!("{finish:?}\n"));
        std::process::exit(0);
    }
    let unmounted = within(LEAVING, || {
        let unmounted = unmount_disks();
        rustix::fs::sync();
        unmounted
    });
    if let Err(why) = unmounted.unwrap_or_else(|| Err("the disks could not be written to the end".into())) {
        crate::console::say(&why);
    }
    let loaded = kexec::is_loaded(&Root::host());
    ready();
    reset::leave(match finish {
        Finish::Kexec if loaded => Way::Kexec,
        Finish::PowerOff => Way::PowerOff,
        _ => Way::Restart,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_of_grub_cfg_counts() {
        let config = "menuentry 'Debian' {\n\tlinux\t/boot/vmlinuz-6.12 root=UUID=ab ro  quiet\n\techo x\n\
                      \tinitrd\t/boot/ucode.img /boot/initrd.img-6.12\n}\n\
                      menuentry 'rescue' {\n linux /boot/vmlinuz-6.1 single\n initrd /boot/other\n}\n";
        let entry = |kernel: &str, cmdline: &str, initrd: Option<&str>| {
            Some(Entry { kernel: kernel.into(), cmdline: cmdline.into(), initrd: initrd.map(Into::into) })
        };
        let debian = entry("/boot/vmlinuz-6.12", "root=UUID=ab ro quiet", Some("/boot/initrd.img-6.12"));
        assert_eq!(grub_entry(config), debian);
        let bare = "menuentry 'a' {\n linux /vmlinuz root=/dev/vda1\n}\nmenuentry 'b' {\n initrd /other\n}\n";
        assert_eq!(grub_entry(bare), entry("/vmlinuz", "root=/dev/vda1", None));
        assert_eq!(grub_entry("set timeout=5"), None);
    }

    #[test]
    fn nothing_is_made_through_symlinks_of_the_new_system() -> io::Result<()> {
        let root = tempfile::tempdir()?;
        assert!(inside(root.path(), &["var", "cache"])?.is_dir());
        std::os::unix::fs::symlink("/tmp", root.path().join("out"))?;
        assert!(inside(root.path(), &["out", "anemos"]).is_err());
        Ok(())
    }
}
