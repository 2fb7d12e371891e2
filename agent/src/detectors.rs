//! The kernel's own detectors of hangs (Documentation/admin-guide/sysctl/kernel.rst): before the first write a lockup,
//! an oops or a task that hangs is a panic, and a panic is a reboot into the old system; after it none of them is.

use std::fs::OpenOptions;
use std::io::{self, Write};

use anemos_host::Root;

/// Longest threshold that the kernel takes.
const MAX_THRESHOLD: u32 = 60;

/// The settings before the first write: names in /proc/sys/kernel, and values. A soft lockup counts as one after twice
/// the threshold.
fn armed(hang_s: u32) -> Vec<(&'static str, u32)> {
    vec![
        ("panic", 10),
        ("watchdog_thresh", (hang_s / 2).clamp(1, MAX_THRESHOLD)),
        ("hung_task_timeout_secs", hang_s),
        ("panic_on_oops", 1),
        ("softlockup_panic", 1),
        ("hardlockup_panic", 1),
        ("hung_task_panic", 1),
    ]
}

/// The settings after it. A machine that panics all the same stays where it is, for a person to see: a reboot would
/// only lead to a disk that is half written.
fn disarmed() -> Vec<(&'static str, u32)> {
    let off = ["hung_task_panic", "hardlockup_panic", "softlockup_panic", "panic_on_oops", "panic"];
    off.map(|name| (name, 0)).into()
}

/// Makes hangs a reboot; returns what went wrong.
pub fn arm(root: &Root, hang_s: u32) -> Vec<String> {
    set(root, &armed(hang_s))
}

/// Takes that back; returns what went wrong.
pub fn disarm(root: &Root) -> Vec<String> {
    set(root, &disarmed())
}

/// Takes back only that a task that hangs is a panic, because one is known to hang; returns what went wrong.
pub fn bear_hung_tasks(root: &Root) -> Vec<String> {
    set(root, &[("hung_task_panic", 0)])
}

/// Leaves out the settings that this kernel doesn't have.
fn set(root: &Root, settings: &[(&str, u32)]) -> Vec<String> {
    let one = |(name, value): &(&str, u32)| {
        let open = OpenOptions::new().write(true).open(root.at(&format!("/proc/sys/kernel/{name}")));
        match open.and_then(|mut file| file.write_all(value.to_string().as_bytes())) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Some(format!("kernel.{name} can't be set to {value}: {e}"))
            }
            _ => None,
        }
    };
    settings.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn thresholds_follow_the_deadline() {
        let of = |name: &str, hang_s| armed(hang_s).iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
        for (hang_s, threshold) in [(1, 1), (30, 15), (120, 60), (600, 60)] {
            assert_eq!(of("watchdog_thresh", hang_s), Some(threshold), "{hang_s}");
            assert_eq!(of("hung_task_timeout_secs", hang_s), Some(hang_s));
        }
    }

    #[test]
    fn all_that_makes_a_panic_is_taken_back() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let root = Root::new(dir.path());
        let kernel = root.at("/proc/sys/kernel");
        fs::create_dir_all(&kernel)?;
        // A kernel without a detector of hard lockups.
        let names = ["panic", "panic_on_oops", "softlockup_panic", "hung_task_panic", "hung_task_timeout_secs"];
        for name in names {
            fs::write(kernel.join(name), "")?;
        }
        let now =
            || -> io::Result<Vec<String>> { names.iter().map(|name| fs::read_to_string(kernel.join(name))).collect() };
        assert_eq!(arm(&root, 90), Vec::<String>::new());
        assert_eq!(now()?, ["10", "1", "1", "1", "90"]);
        for name in names {
            fs::write(kernel.join(name), "")?;
        }
        assert_eq!(disarm(&root), Vec::<String>::new());
        assert_eq!(now()?, ["0", "0", "0", "0", ""]);
        assert!(!kernel.join("hardlockup_panic").exists(), "nothing is made that the kernel doesn't have");
        let armed = armed(90);
        let panics = armed.iter().map(|(name, _)| *name).filter(|name| name.contains("panic"));
        for name in panics {
            assert!(disarmed().iter().any(|(other, _)| *other == name), "{name} stays");
        }
        fs::remove_file(kernel.join("panic"))?;
        fs::create_dir(kernel.join("panic"))?;
        assert!(arm(&root, 90)[0].starts_with("kernel.panic can't be set to 10"));
        Ok(())
    }
}
