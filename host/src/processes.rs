//! Which processes there are, from `/proc/PID/stat` (proc_pid_stat(5)).

use std::fmt;

use crate::root::Root;

/// A process that may still do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its name, as the kernel has it.
    pub name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.pid)
    }
}

/// Every process but PID 1 and this one. Kernel threads and zombies are left out.
pub fn others(root: &Root) -> Vec<Process> {
    let own = std::process::id().cast_signed();
    let numbers = root.names("/proc").into_iter().filter_map(|name| name.parse::<i32>().ok());
    let stat = |pid: i32| running(&root.text(&format!("/proc/{pid}/stat"))?);
    numbers.filter(|pid| *pid != 1 && *pid != own).filter_map(stat).collect()
}

/// The process that a `stat` file is of, unless it is a thread of the kernel or a zombie.
pub(crate) fn running(stat: &str) -> Option<Process> {
    /// PF_KTHREAD, from include/linux/sched.h.
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let flags: u64 = fields.get(6)?.parse().ok()?;
    let gone = matches!(fields[0], "Z" | "X");
    (!gone && flags & KERNEL_THREAD == 0).then_some(Process { pid: pid.parse().ok()?, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_still_do_something_is_running() {
        let stat = |pid: u32, name: &str, state: char, flags: u32| {
            format!("{pid} ({name}) {state} 2 0 0 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 36 0 0\n")
        };
        let text = |stat: &str| running(stat).map(|process| process.to_string());
        assert_eq!(text(&stat(7, "sh) R (x", 'D', 4_194_560)).as_deref(), Some("sh) R (x (7)"));
        assert_eq!(text(&stat(8, "kworker/0:1", 'I', 69_238_880)), None);
        assert_eq!(text(&stat(9, "sh", 'Z', 4_194_560)), None);
        for nonsense in ["", "7 (sh", "7 (sh) R 2", "x (sh) R 2 0 0 0 -1 0"] {
            assert_eq!(running(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_process_is_found_until_it_has_ended() {
        let root = Root::host();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id().cast_signed();
        let pids = || others(&root).into_iter().map(|process| process.pid).collect::<Vec<_>>();
        assert!(pids().contains(&pid));
        assert!(!pids().contains(&std::process::id().cast_signed()) && !pids().contains(&1));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!pids().contains(&pid));
    }
}
