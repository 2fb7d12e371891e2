//! The one way out of this system: reboot(2), and somebody outside the call who resets the machine if it hangs.
//!
//! reboot(2) first shuts every device down (`device_shutdown`), which takes each device's lock and waits for its
//! requests: a driver that hangs in probing or a dead disk keeps it from ever returning. A write to
//! /proc/sysrq-trigger (Documentation/admin-guide/sysrq.rst) resets the machine without any of this, and root may
//! always do it, whatever `kernel.sysrq` says.

use std::ffi::c_int;
use std::fs::{self, File, OpenOptions};
use std::time::Duration;

use rustix::system::{RebootCommand, reboot};

use crate::console::say;

/// Time that reboot(2) gets before the machine is reset, and after the first letter where there are two.
const LATER: Duration = Duration::from_secs(60);

/// How to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Reboot through the firmware.
    Restart,
    /// Boot the kernel that is loaded.
    Kexec,
    /// Switch the machine off.
    PowerOff,
}

impl Way {
    fn command(self) -> RebootCommand {
        match self {
            Self::Restart => RebootCommand::Restart,
            Self::Kexec => RebootCommand::Kexec,
            Self::PowerOff => RebootCommand::PowerOff,
        }
    }

    /// What is written to /proc/sysrq-trigger: `b` resets at once; `o` switches off, which shuts the devices down as
    /// well and so may hang itself.
    fn letters(self) -> &'static [u8] {
        match self {
            Self::Restart | Self::Kexec => b"b",
            Self::PowerOff => b"ob",
        }
    }
}

/// Leaves this system. Returns only if reboot(2) fails, with the reason; the machine is reset a minute later then.
///
/// Whoever wants processes to be killed first must kill them before the call, since the process that resets the machine
/// later is one of them.
pub fn leave(way: Way) -> String {
    // After this a machine that panics has nothing to show to a person: it was to reboot anyway.
    let _ = fs::write("/proc/sys/kernel/panic", "10");
    match OpenOptions::new().write(true).open("/proc/sysrq-trigger") {
        Ok(trigger) => later(&trigger, LATER, way.letters()),
        Err(e) => say(&format!("a machine that does not reboot now must be reset by hand: /proc/sysrq-trigger: {e}")),
    }
    let mut why = String::new();
    let ways = [way.command(), RebootCommand::Restart];
    // Nobody can reach this machine any more, so a plain restart is better than to stay.
    for command in &ways[..if way == Way::Restart { 1 } else { 2 }] {
        let said = match reboot(*command) {
            Ok(()) => "reboot(2) returned".into(),
            Err(e) => format!("reboot(2) failed: {e}"),
        };
        say(&said);
        why = said;
    }
    why
}

/// Has a process of its own write each of `letters` to `trigger`, `pause` before each. It needs neither memory nor a
/// file system any more, and nothing of the caller. Where no process can be made, a thread does it.
fn later(trigger: &File, pause: Duration, letters: &'static [u8]) {
    let pause_ms = c_int::try_from(pause.as_millis()).unwrap_or(c_int::MAX);
    if let Err(e) = crate::sys::write_later(trigger, pause_ms, letters) {
        say(&format!("no process can be made that resets the machine should it not reboot: {e}"));
        let Ok(mut trigger) = trigger.try_clone() else { return };
        std::thread::spawn(move || {
            for letter in letters {
                std::thread::sleep(pause);
                let _ = std::io::Write::write_all(&mut trigger, &[*letter]);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::{Path, PathBuf};
    use std::time::Instant;

    use super::*;

    #[test]
    fn somebody_else_writes_the_letters_in_their_order() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("trigger");
        let trigger = File::create(&path)?;
        let start = Instant::now();
        let pause = Duration::from_millis(200);
        later(&trigger, pause, Way::PowerOff.letters());
        drop(trigger);
        let mut seen = Vec::new();
        while seen.last() != Some(&b"ob".to_vec()) {
            assert!(start.elapsed() < Duration::from_secs(30), "{seen:?}");
            let now = fs::read(&path)?;
            if seen.last() != Some(&now) {
                seen.push(now);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(seen[0], b"", "not before its time");
        assert!(start.elapsed() >= 2 * pause);
        Ok(())
    }

    #[test]
    fn every_way_ends_in_a_reset() {
        for way in [Way::Restart, Way::Kexec, Way::PowerOff] {
            assert_eq!(way.letters().last(), Some(&b'b'), "{way:?}");
        }
    }

    fn sources(dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                found.extend(sources(&path)?);
            } else {
                found.push(path);
            }
        }
        Ok(found)
    }

    /// A call of reboot(2) elsewhere could hang for ever. Switching Ctrl-Alt-Del off is another thing that the same
    /// system call does.
    #[test]
    fn nobody_else_reboots() -> io::Result<()> {
        let mut calls = Vec::new();
        for path in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))? {
            let text = fs::read_to_string(&path)?;
            let uses = text.split("RebootCommand::").skip(1).filter(|rest| !rest.starts_with("CadOff")).count();
            if uses > 0 || text.contains("SYS_reboot") || text.contains("libc::reboot") {
                calls.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            }
        }
        assert_eq!(calls, ["reset.rs"]);
        Ok(())
    }
}
