//! The payload's cgroup: limits what its processes take of the machine, ends every one of them, and closes disks to
//! their writing.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anemos_host::Root;
use anemos_proto::event::Level;
use rustix::mount::mount_bind;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::Instant;

use crate::app::App;
use crate::disks::Numbers;
use crate::paths::CGROUPS;
use crate::{limits, memory, raw};

const DIR: &str = "/run/anemos/cgroup/anemos-payload";
/// Here is the payload's cgroup, as if there were no other. So whatever a program does to cgroups it does below that.
const VIEW: &str = "/sys/fs/cgroup";

/// What is asked of the kernel for the payload: a controller, one of its files, and what is written there. Where all
/// processors or disks are busy, the payload gets a fifth of what a process of the agent's or a person's gets, which
/// has the weight 100.
const WEIGHTS: [(&str, &str, &str); 2] = [("cpu", "cpu.weight", "20"), ("io", "io.weight", "20")];

/// The payload's cgroup, which holds even daemons that the payload has started. There is none, and only the payload's
/// process group is ended, where the agent is on trial on an ordinary machine.
///
/// The cgroup stays between attempts, because files in memory that an attempt leaves behind stay charged to it.
#[derive(Default)]
pub struct Cgroup {
    dir: Option<PathBuf>,
    /// Bytes of memory, and processes, that it may have.
    memory: u64,
    processes: u64,
    before: Counts,
}

/// How often limits were felt since the cgroup was made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    /// Processes that the kernel killed because memory had run out.
    killed: u64,
    /// Processes that could not be started because there were too many.
    refused: u64,
}

impl Cgroup {
    /// Makes the cgroup if it is not there, and sets its limits by what the machine has now. Does nothing if the agent
    /// is on trial on an ordinary machine. An error says why the payload must not start.
    pub fn new(app: &App) -> Result<Self, String> {
        if !app.paths.machine {
            return Ok(Self::default());
        }
        let dir = Path::new(DIR);
        make(dir).map_err(|e| {
            format!("there is no cgroup for the payload, and nothing else keeps it from other disks and ends it: {e}")
        })?;
        let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        let pid_max = number("/proc/sys/kernel/pid_max").unwrap_or(u64::MAX);
        let threads_max = number("/proc/sys/kernel/threads-max").unwrap_or(u64::MAX);
        let processes = limits::processes(pid_max, threads_max);
        let held = field(&read(dir, "memory.stat"), "shmem");
        let memory = limits::memory(memory::total(), memory::available(), held, memory::log_cap(&app.paths));
        let limits = [("memory", "memory.max", memory.to_string()), ("pids", "pids.max", processes.to_string())];
        for (controller, file, value) in limits {
            if let Err(e) = enable(controller).and_then(|()| fs::write(dir.join(file), value)) {
                app.log.note(Level::Warning, format!("the payload's {controller} has no limit: {e}"));
            }
        }
        for (controller, file, value) in WEIGHTS {
            // A kernel without the controller, or whose scheduler of disks knows no weights, treats all alike.
            let _ = enable(controller).and_then(|()| fs::write(dir.join(file), value));
        }
        Ok(Self { dir: Some(dir.into()), memory, processes, before: Counts::read(dir) })
    }

    #[cfg(test)]
    pub fn at(dir: &Path) -> Self {
        Self { dir: Some(dir.into()), ..Self::default() }
    }

    /// The cgroup as an agent before this one left it.
    pub fn left_behind(app: &App) -> Self {
        let dir = Some(DIR.into()).filter(|dir: &PathBuf| app.paths.machine && dir.exists());
        Self { dir, ..Self::default() }
    }

    /// The file `cgroup.procs`, opened for writing: a process that writes 0 to it enters the cgroup.
    pub fn door(&self) -> io::Result<Option<OwnedFd>> {
        let open = |dir: &PathBuf| fs::OpenOptions::new().write(true).open(dir.join("cgroup.procs"));
        Ok(self.dir.as_ref().map(open).transpose()?.map(OwnedFd::from))
    }

    /// Whether the payload's memory ran out since [`Cgroup::new`], in words.
    pub fn ran_out(&self) -> Option<String> {
        let killed = Counts::read(self.dir.as_ref()?).killed.saturating_sub(self.before.killed);
        let limit = self.memory >> 20;
        (killed > 0).then(|| format!("ran out of memory: limit {limit} MiB, processes killed for it: {killed}"))
    }

    /// Whether the payload had too many processes since [`Cgroup::new`], in words.
    pub fn was_crowded(&self) -> Option<String> {
        let refused = Counts::read(self.dir.as_ref()?).refused.saturating_sub(self.before.refused);
        let limit = self.processes;
        (refused > 0).then(|| format!("had too many processes: limit {limit}, processes not started for it: {refused}"))
    }

    fn pids(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        for dir in self.dir.iter().flat_map(|dir| tree(dir)) {
            let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(procs.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)));
        }
        found
    }

    /// Signals all processes in the cgroup, and the process group `group`.
    pub fn signal(&self, group: Option<Pid>, signal: Signal) {
        if let Some(group) = group {
            let _ = kill_process_group(group, signal);
        }
        for pid in self.pids() {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Kills all processes in the cgroup, and removes the cgroups that they made in it.
    pub async fn kill(&self) {
        let Some(dir) = &self.dir else { return };
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.pids().is_empty() && Instant::now() < deadline {
            // cgroup.kill came with Linux 5.14.
            if fs::write(dir.join("cgroup.kill"), "1").is_err() {
                for pid in self.pids() {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
            // The kernel reports an empty cgroup only through inotify. Polling is simpler, and killed processes are
            // gone within moments.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for dir in tree(dir)[1..].iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }
}

impl Counts {
    fn read(dir: &Path) -> Self {
        let (memory, pids) = (read(dir, "memory.events"), read(dir, "pids.events"));
        Self { killed: field(&memory, "oom_kill"), refused: field(&pids, "max") }
    }
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

/// The value of `key` in a file of lines `KEY VALUE`; 0 if it has none.
fn field(text: &str, key: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

/// Makes the payload's cgroup `dir`, and shows it where programs look for cgroups.
fn make(dir: &Path) -> io::Result<()> {
    if !Path::new(CGROUPS).join("cgroup.procs").exists() {
        return Err(io::Error::other(format!("cgroups are not mounted at {CGROUPS}")));
    }
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    // Without cgroups there, sysfs has an empty directory.
    if Path::new(VIEW).join("cgroup.procs").exists() { Ok(()) } else { Ok(mount_bind(dir, VIEW)?) }
}

/// Lets the cgroups below the root have the files of a controller.
fn enable(controller: &str) -> io::Result<()> {
    fs::write(Path::new(CGROUPS).join("cgroup.subtree_control"), format!("+{controller}"))
}

/// The cgroup `dir` and all that its processes made below it, parents before children.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(dir) = all.get(next) {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let below: Vec<_> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        all.extend(below);
        next += 1;
    }
    all
}

/// Keeps the payload from opening the block devices `disks` for writing, be it directly, by mounting, or as part of a
/// mapper or RAID device: the kernel's read-only flag doesn't stop mapper and RAID devices, and a program may clear it.
/// Unless it has raw access, it can't open character devices that pass commands on to disks either, nor write /dev/mem
/// and /dev/port.
pub fn forbid(disks: &[Numbers], raw_access: bool) -> io::Result<()> {
    forbid_in(Path::new(DIR), disks, raw_access)
}

fn forbid_in(dir: &Path, disks: &[Numbers], raw_access: bool) -> io::Result<()> {
    let cgroup = File::open(dir)?;
    let rule = |kind, access| move |numbers: &Numbers| Rule { kind, access, numbers: *numbers };
    let mut rules: Vec<Rule> = disks.iter().map(rule(BLOCK, WRITE)).collect();
    if !raw_access {
        rules.extend(raw::devices(&Root::host()).iter().map(rule(CHARACTER, READ | WRITE)));
        rules.extend(raw::MEMORY.iter().map(rule(CHARACTER, WRITE)));
    }
    let program = crate::sys::load_device_filter(&program(&rules))?;
    crate::sys::attach_device_filter(&cgroup, &program)
}

/// Whether there is a cgroup for payloads. Before the first attempt there is none, nor a process to keep from devices.
pub fn is_made() -> bool {
    Path::new(DIR).exists()
}

/// `BPF_DEVCG_DEV_BLOCK`, `BPF_DEVCG_DEV_CHAR`, `BPF_DEVCG_ACC_READ` and `BPF_DEVCG_ACC_WRITE` of <linux/bpf.h>.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// Devices that can't be opened in one of the ways `access`.
struct Rule {
    kind: u32,
    access: u32,
    numbers: Numbers,
}

/// One instruction of BPF, as in `struct bpf_insn` of `<linux/bpf.h>`.
fn instruction(code: u8, registers: u8, jump: u16, value: u32) -> u64 {
    u64::from(code) | u64::from(registers) << 8 | u64::from(jump) << 16 | u64::from(value) << 32
}

/// A program of the kind `BPF_PROG_TYPE_CGROUP_DEVICE`. The kernel gives it a `struct bpf_cgroup_dev_ctx`, and it
/// returns 1 if the access is allowed, else 0.
fn program(rules: &[Rule]) -> Vec<u64> {
    // Register 0 holds the result, register 1 the context.
    let load = |to: u8, offset: u16| instruction(0x61, 1 << 4 | to, offset, 0);
    let copy = |to: u8, from: u8| instruction(0xbf, from << 4 | to, 0, 0);
    let and = |register, value| instruction(0x57, register, 0, value);
    let jump_if_equal = |register, value, by| instruction(0x15, register, by, value);
    let jump_unless_equal = |register, value, by| instruction(0x55, register, by, value);
    let jump_if_less = |register, value, by| instruction(0xa5, register, by, value);
    let jump_if_greater = |register, value, by| instruction(0x25, register, by, value);
    let result = |value| [instruction(0xb7, 0, 0, value), instruction(0x95, 0, 0, 0)];
    let (access, kind, major, minor, common) = (2, 3, 4, 5, 6);
    // The lower 16 bits of access_type are the kind of device, the upper 16 the ways of access.
    let mut code = vec![load(access, 0), load(major, 4), load(minor, 8), copy(kind, access), and(kind, 0xffff)];
    for rule in rules {
        code.push(jump_unless_equal(kind, rule.kind, 8));
        code.push(jump_unless_equal(major, rule.numbers.major, 7));
        code.push(jump_if_less(minor, rule.numbers.first, 6));
        code.push(jump_if_greater(minor, rule.numbers.last, 5));
        code.extend([copy(common, access), and(common, rule.access << 16), jump_if_equal(common, 0, 2)]);
        code.extend(result(0));
    }
    code.extend(result(1));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program of the instructions that [`program`] uses, as the kernel would.
    fn run(program: &[u64], context: [u32; 3]) -> u64 {
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let code = program[at];
            let (to, from) = ((code >> 8 & 15) as usize, (code >> 12 & 15) as usize);
            let (jump, value) = ((code >> 16 & 0xffff) as usize, code >> 32);
            at += 1;
            let jumps = match code & 0xff {
                0x61 => {
                    registers[to] = context[jump / 4].into();
                    continue;
                }
                0xbf => {
                    registers[to] = registers[from];
                    continue;
                }
                0x57 => {
                    registers[to] &= value;
                    continue;
                }
                0xb7 => {
                    registers[to] = value;
                    continue;
                }
                0x95 => return registers[0],
                0x15 => registers[to] == value,
                0x55 => registers[to] != value,
                0xa5 => registers[to] < value,
                0x25 => registers[to] > value,
                other => panic!("instruction {other:#x}"),
            };
            at += if jumps { jump } else { 0 };
        }
    }

    #[test]
    fn a_filter_that_can_not_be_set_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        forbid_in(&dir.path().join("gone"), &[], false).unwrap_err();
        // It is no cgroup, or the kernel has no such filters, or they take root.
        forbid_in(dir.path(), &[], false).unwrap_err();
    }

    #[test]
    fn only_these_ways_to_these_devices_are_closed() {
        let disk = |major, first, last| Rule { kind: BLOCK, access: WRITE, numbers: Numbers { major, first, last } };
        let node =
            |major, first, last, access| Rule { kind: CHARACTER, access, numbers: Numbers { major, first, last } };
        let rules = [
            disk(254, 16, 31),
            disk(259, 3, 3),
            node(21, 0, 0xf_ffff, READ | WRITE),
            node(10, 221, 221, READ | WRITE),
            node(1, 1, 1, WRITE),
        ];
        let program = program(&rules);
        let (mknod, read, write) = (1 << 16, READ << 16, WRITE << 16);
        let cases = [
            (BLOCK | write, 254, 16, 0),
            (BLOCK | read | write, 254, 31, 0),
            (BLOCK | write, 259, 3, 0),
            (BLOCK | read, 254, 16, 1),
            (BLOCK | mknod, 254, 16, 1),
            (CHARACTER | write, 254, 16, 1),
            (BLOCK | write, 254, 15, 1),
            (BLOCK | write, 254, 32, 1),
            (BLOCK | write, 8, 16, 1),
            (BLOCK | write, 259, 4, 1),
            (CHARACTER | read, 21, 0, 0),
            (CHARACTER | read | write, 21, 7, 0),
            (CHARACTER | mknod, 21, 7, 1),
            (BLOCK | read, 21, 7, 1),
            (CHARACTER | write, 10, 221, 0),
            (CHARACTER | write, 10, 237, 1),
            (CHARACTER | read, 1, 1, 1),
            (CHARACTER | write, 1, 1, 0),
            (CHARACTER | write, 1, 3, 1),
        ];
        for (access, major, minor, allowed) in cases {
            assert_eq!(run(&program, [access, major, minor]), allowed, "{access:#x} {major}:{minor}");
        }
        assert_eq!(run(&super::program(&[]), [BLOCK | write, 8, 0]), 1);
    }

    #[test]
    fn the_kernel_takes_the_program() {
        if crate::skip::without_root("only root may load a filter for devices") {
            return;
        }
        let rule =
            |minor| Rule { kind: BLOCK, access: WRITE, numbers: Numbers { major: 8, first: minor, last: minor } };
        for rules in [Vec::new(), (0..300).map(rule).collect()] {
            let loaded = crate::sys::load_device_filter(&program(&rules));
            assert!(loaded.is_ok(), "{} rules: {loaded:?}", rules.len());
        }
    }

    #[test]
    fn counts_are_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Counts::read(dir.path()), Counts::default());
        // As Linux 6.1 writes them.
        let events = "low 0\nhigh 0\nmax 518\noom 9\noom_kill 7\noom_group_kill 0\n";
        fs::write(dir.path().join("memory.events"), events).unwrap();
        fs::write(dir.path().join("pids.events"), "max 4\n").unwrap();
        assert_eq!(Counts::read(dir.path()), Counts { killed: 7, refused: 4 });

        let cgroup = |killed, refused| Cgroup {
            dir: Some(dir.path().into()),
            memory: 100 << 20,
            processes: 1800,
            before: Counts { killed, refused },
        };
        let memory = "ran out of memory: limit 100 MiB, processes killed for it: 2";
        assert_eq!(cgroup(5, 4).ran_out().as_deref(), Some(memory));
        assert_eq!((cgroup(7, 4).ran_out(), cgroup(5, 4).was_crowded()), (None, None));
        let crowded = "had too many processes: limit 1800, processes not started for it: 3";
        assert_eq!(cgroup(7, 1).was_crowded().as_deref(), Some(crowded));
    }
}
