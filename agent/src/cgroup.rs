//! The payload's cgroup: ends every process of the payload, and closes disks to their writing.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anemos_proto::event::Level;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::Instant;

use crate::app::App;
use crate::disks::Numbers;

const DIR: &str = "/sys/fs/cgroup/anemos-payload";

/// The payload's cgroup, which holds even daemons that the payload has started. Without cgroups only the payload's
/// process group is ended.
pub struct Cgroup(Option<PathBuf>);

impl Cgroup {
    /// Makes the cgroup, unless the agent is on trial on an ordinary machine.
    pub fn new(app: &App) -> Self {
        let dir = Path::new(DIR);
        if !app.paths.machine {
            return Self(None);
        }
        match fs::create_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                let text = format!("no cgroup for the payload, so daemons of its may outlive it: {e}");
                app.log.note(Level::Warning, text);
                Self(None)
            }
            _ => Self(Some(dir.into())),
        }
    }

    /// The file `cgroup.procs`, opened for writing: a process that writes 0 to it enters the cgroup.
    pub fn door(&self) -> Option<std::os::fd::OwnedFd> {
        let procs = self.0.as_ref()?.join("cgroup.procs");
        Some(fs::OpenOptions::new().write(true).open(procs).ok()?.into())
    }

    fn pids(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        for dir in self.0.iter().flat_map(|dir| tree(dir)) {
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

    /// Kills all processes in the cgroup, and removes it.
    pub async fn kill(&self) {
        let Some(dir) = &self.0 else { return };
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
        for dir in tree(dir).iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }
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

/// Keeps the payload from opening these for writing, be it directly, by mounting, or as part of a mapper or RAID
/// device. The kernel's read-only flag is not enough: it doesn't stop mapper and RAID devices, and a program may clear
/// it.
pub fn forbid_writing(devices: &[Numbers]) -> io::Result<()> {
    if devices.is_empty() || !Path::new(DIR).exists() {
        // As long as no payload has a cgroup, there are no processes to keep from the devices.
        return Ok(());
    }
    let program = crate::sys::load_device_filter(&program(devices))?;
    crate::sys::attach_device_filter(&File::open(DIR)?, &program)
}

/// One instruction of BPF, as in `struct bpf_insn` of `<linux/bpf.h>`.
fn instruction(code: u8, registers: u8, jump: u16, value: u32) -> u64 {
    u64::from(code) | u64::from(registers) << 8 | u64::from(jump) << 16 | u64::from(value) << 32
}

/// A program of the kind `BPF_PROG_TYPE_CGROUP_DEVICE`. The kernel gives it a `struct bpf_cgroup_dev_ctx`, and it
/// returns 1 if the access is allowed, else 0.
fn program(devices: &[Numbers]) -> Vec<u64> {
    // Register 0 holds the result, register 1 the context.
    let load = |to: u8, offset: u16| instruction(0x61, 1 << 4 | to, offset, 0);
    let jump_unless_equal = |register, value, by| instruction(0x55, register, by, value);
    let jump_if_less = |register, value, by| instruction(0xa5, register, by, value);
    let jump_if_greater = |register, value, by| instruction(0x25, register, by, value);
    let result = |value| [instruction(0xb7, 0, 0, value), instruction(0x95, 0, 0, 0)];
    let (access, kind, major, minor) = (2, 3, 4, 5);
    // The lower 16 bits of access_type are the kind of device (1: block), the upper 16 the access (4: write).
    let mut code = vec![load(access, 0), load(major, 4), load(minor, 8)];
    code.push(instruction(0xbf, access << 4 | kind, 0, 0));
    code.push(instruction(0x57, kind, 0, 0xffff));
    code.push(instruction(0x57, access, 0, 4 << 16));
    code.push(jump_unless_equal(kind, 1, 1));
    code.push(jump_unless_equal(access, 0, 2));
    code.extend(result(1));
    for device in devices {
        code.push(jump_unless_equal(major, device.major, 4));
        code.push(jump_if_less(minor, device.first, 3));
        code.push(jump_if_greater(minor, device.last, 2));
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
                0x55 => registers[to] != value,
                0xa5 => registers[to] < value,
                0x25 => registers[to] > value,
                other => panic!("instruction {other:#x}"),
            };
            at += if jumps { jump } else { 0 };
        }
    }

    #[test]
    fn only_writing_to_these_block_devices_is_forbidden() {
        let devices = [Numbers { major: 254, first: 16, last: 31 }, Numbers { major: 259, first: 3, last: 3 }];
        let program = program(&devices);
        let (block, character) = (1, 2);
        let (mknod, read, write) = (1 << 16, 2 << 16, 4 << 16);
        let cases = [
            (block | write, 254, 16, 0),
            (block | read | write, 254, 31, 0),
            (block | write, 259, 3, 0),
            (block | read, 254, 16, 1),
            (block | mknod, 254, 16, 1),
            (character | write, 254, 16, 1),
            (block | write, 254, 15, 1),
            (block | write, 254, 32, 1),
            (block | write, 8, 16, 1),
            (block | write, 259, 4, 1),
        ];
        for (access, major, minor, allowed) in cases {
            assert_eq!(run(&program, [access, major, minor]), allowed, "{access:#x} {major}:{minor}");
        }
        assert_eq!(run(&super::program(&[]), [block | write, 8, 0]), 1);
    }
}
