//! Programs that the kernel asks about each system call (seccomp(2)): what a payload may not call, and what does
//! nothing. Pure.

use libc::sock_filter;

use crate::raw::{REQUEST_TYPES, REQUESTS};

/// Offsets in `struct seccomp_data` of <linux/seccomp.h>.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// The lower half of the second argument, on little-endian machines.
const SECOND: u32 = 24;

/// A set of system calls that the kernel offers.
struct Abi {
    /// `AUDIT_ARCH_*` of <linux/audit.h>.
    architecture: u32,
    /// Bits in the number of a call that mark it as one of another set.
    foreign: u32,
    ioctl: u32,
    setns: u32,
}

/// The sets of this processor: its own, and that of 32-bit programs. A filter that knew only the first would be passed
/// by with a call of the second, which every program can make.
#[cfg(target_arch = "x86_64")]
const ABIS: [Abi; 2] = [
    // The bit marks calls of x32, which is switched off in the kernels of distributions.
    Abi { architecture: 0xc000_003e, foreign: 0x4000_0000, ioctl: 16, setns: 308 },
    Abi { architecture: 0x4000_0003, foreign: 0, ioctl: 54, setns: 346 },
];
#[cfg(target_arch = "aarch64")]
const ABIS: [Abi; 2] = [
    Abi { architecture: 0xc000_00b7, foreign: 0, ioctl: 29, setns: 268 },
    Abi { architecture: 0x4000_0028, foreign: 0, ioctl: 54, setns: 375 },
];

/// `io_uring_setup`: the same number everywhere.
const IO_URING_SETUP: u32 = 425;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

/// Has the call fail with this error.
const fn fail(error: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | error.unsigned_abs()
}

/// Loads a word of `struct seccomp_data` into the accumulator.
fn load(offset: u32) -> sock_filter {
    sock_filter { code: 0x20, jt: 0, jf: 0, k: offset }
}

/// Jumps over so many instructions if the accumulator is equal to `value`, or else over so many.
fn if_equal(value: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter { code: 0x15, jt: then, jf: otherwise, k: value }
}

/// The same, if it is at least `value`.
fn if_least(value: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter { code: 0x35, jt: then, jf: otherwise, k: value }
}

/// The same, if it has one of the bits of `mask`.
fn if_any(mask: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter { code: 0x45, jt: then, jf: otherwise, k: mask }
}

/// Leaves only the bits of `mask` in the accumulator.
fn and(mask: u32) -> sock_filter {
    sock_filter { code: 0x54, jt: 0, jf: 0, k: mask }
}

/// Ends the program with a verdict.
fn end(verdict: u32) -> sock_filter {
    sock_filter { code: 0x06, jt: 0, jf: 0, k: verdict }
}

/// What a payload may not do, and all that it starts: enter a namespace of cgroups that is there already, which leads
/// out of its own; and, unless it has raw access, give a disk or its controller commands that the kernel doesn't count.
/// The latter have the error EPERM. `io_uring` can give them too, and is answered as by a kernel that doesn't have it,
/// so that programs do without.
pub fn for_payload(raw_access: bool) -> Vec<sock_filter> {
    let mut program = vec![load(ARCHITECTURE)];
    for abi in &ABIS {
        let calls = calls(abi, raw_access);
        program.push(if_equal(abi.architecture, 0, calls.len() as u8));
        program.extend(calls);
    }
    program.push(end(fail(libc::ENOSYS)));
    program
}

/// The verdict about the calls of one set.
fn calls(abi: &Abi, raw_access: bool) -> Vec<sock_filter> {
    let refuse = end(fail(libc::EPERM));
    let mut code = vec![load(NUMBER)];
    if abi.foreign != 0 {
        code.extend([if_any(abi.foreign, 0, 1), end(fail(libc::ENOSYS))]);
    }
    // The second argument of setns(2) names the kinds of namespaces, or is 0 for whatever the file is.
    let setns =
        [load(SECOND), if_equal(0, 1, 0), if_any(libc::CLONE_NEWCGROUP.cast_unsigned(), 0, 1), refuse, end(ALLOW)];
    code.push(if_equal(abi.setns, 0, setns.len() as u8));
    code.extend(setns);
    if !raw_access {
        code.extend([if_equal(IO_URING_SETUP, 0, 1), end(fail(libc::ENOSYS))]);
        code.extend([if_equal(abi.ioctl, 1, 0), end(ALLOW), load(SECOND)]);
        for request in REQUESTS {
            code.extend([if_equal(request, 0, 1), refuse]);
        }
        code.push(and(0xffff));
        for (first, last) in REQUEST_TYPES {
            code.extend([if_least(first.into(), 0, 2), if_least(u32::from(last) + 1, 1, 0), refuse]);
        }
    }
    code.push(end(ALLOW));
    code
}

/// Makes fsync(2) and its like succeed without doing anything.
pub fn ignoring_syncs() -> Vec<sock_filter> {
    let calls = [libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync, libc::SYS_syncfs, libc::SYS_sync_file_range];
    let others = 2 * calls.len() as u8 + 1;
    let mut program = vec![load(ARCHITECTURE), if_equal(ABIS[0].architecture, 0, others), load(NUMBER)];
    for call in calls {
        program.extend([if_equal(call as u32, 0, 1), end(fail(0))]);
    }
    program.push(end(ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The verdict of a program of the instructions above, as the kernel would come to it.
    fn run(program: &[sock_filter], architecture: u32, number: u32, second: u64) -> u32 {
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let jumps = match code {
                0x20 => {
                    accumulator = match k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        SECOND => second as u32,
                        other => panic!("offset {other}"),
                    };
                    continue;
                }
                0x54 => {
                    accumulator &= k;
                    continue;
                }
                0x06 => return k,
                0x15 => accumulator == k,
                0x35 => accumulator >= k,
                0x45 => accumulator & k != 0,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if jumps { jt } else { jf });
        }
    }

    const PASSED: [u64; 19] = [
        0x2285,
        1,
        0x31f,
        0x31e,
        0x31d,
        0xc048_4e41,
        0x4030_4e42,
        0xc048_4e43,
        0xc050_4e47,
        0xc050_4e48,
        0xc050_4e49,
        0xc048_b300,
        0xc008_b301,
        0x5393,
        0xc058_420b,
        0xc060_4212,
        0x4108_70e8,
        0x4010_1283,
        0x4010_1288,
    ];

    /// BLKROSET, BLKRRPART, BLKGETSIZE64, BLKPG, BLKDISCARD, BLKZEROOUT, HDIO_GETGEO, HDIO_GET_IDENTITY,
    /// CDROM_GET_CAPABILITY, LOOP_SET_FD, LOOP_CONFIGURE, LOOP_CTL_GET_FREE, DM_TABLE_LOAD, RUN_ARRAY, FICLONE,
    /// FS_IOC_FIEMAP, FITRIM, TCGETS, TIOCGWINSZ, TUNSETIFF, NVME_IOCTL_ID, SG_GET_VERSION_NUM, IOC_OPAL_LOCK_UNLOCK,
    /// MEMGETINFO, BTRFS_IOC_SNAP_CREATE.
    const USUAL: [u64; 25] = [
        0x125d,
        0x125f,
        0x8008_1272,
        0x1269,
        0x1277,
        0x127f,
        0x301,
        0x30d,
        0x5331,
        0x4c00,
        0x4c0a,
        0x4c82,
        0xc138_fd09,
        0x400c_0930,
        0x4004_9409,
        0xc020_660b,
        0xc018_5879,
        0x5401,
        0x5413,
        0x4004_54ca,
        0x4e40,
        0x2282,
        0x4118_70dd,
        0x8020_4d01,
        0x5000_9401,
    ];

    #[test]
    fn commands_that_nobody_counts_are_refused_and_nothing_else() {
        let (closed, open) = (for_payload(false), for_payload(true));
        let refused = fail(libc::EPERM);
        for abi in &ABIS {
            let ioctl = |program, request| run(program, abi.architecture, abi.ioctl, request);
            for request in PASSED {
                assert_eq!(ioctl(&closed, request), refused, "{request:#x}");
                // The kernel looks at the lower half only.
                assert_eq!(ioctl(&closed, request | 1 << 40), refused, "{request:#x}");
                assert_eq!(ioctl(&open, request), ALLOW, "{request:#x}");
            }
            for request in USUAL {
                assert_eq!(ioctl(&closed, request), ALLOW, "{request:#x}");
            }
            let uring = |program| run(program, abi.architecture, IO_URING_SETUP, 1);
            assert_eq!((uring(&closed), uring(&open)), (fail(libc::ENOSYS), ALLOW));
            for number in (0..500).filter(|n| ![abi.ioctl, abi.setns, IO_URING_SETUP].contains(n)) {
                assert_eq!(run(&closed, abi.architecture, number, 0x2285), ALLOW, "{number}");
            }
        }
    }

    #[test]
    fn there_is_no_way_round_with_another_set_of_calls() {
        let program = for_payload(false);
        for abi in &ABIS {
            if abi.foreign != 0 {
                assert_eq!(run(&program, abi.architecture, abi.foreign + 514, 0x2285), fail(libc::ENOSYS));
            }
        }
        assert_eq!(run(&program, 0x1234, ABIS[0].ioctl, 0), fail(libc::ENOSYS));
    }

    #[test]
    fn no_namespace_of_cgroups_is_entered() {
        let cgroup = u64::from(libc::CLONE_NEWCGROUP.cast_unsigned());
        let mount = u64::from(libc::CLONE_NEWNS.cast_unsigned());
        for program in [for_payload(false), for_payload(true)] {
            for abi in &ABIS {
                let setns = |kinds| run(&program, abi.architecture, abi.setns, kinds);
                for kinds in [0, cgroup, cgroup | mount, 1 << 32] {
                    assert_eq!(setns(kinds), fail(libc::EPERM), "{kinds:#x}");
                }
                assert_eq!(setns(mount), ALLOW);
            }
        }
    }

    #[test]
    fn requests_to_flush_succeed_at_once() {
        let program = ignoring_syncs();
        let native = ABIS[0].architecture;
        for call in [libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync, libc::SYS_syncfs, libc::SYS_sync_file_range]
        {
            assert_eq!(run(&program, native, call as u32, 0), libc::SECCOMP_RET_ERRNO);
        }
        assert_eq!(run(&program, native, libc::SYS_write as u32, 0), ALLOW);
        assert_eq!(run(&program, ABIS[1].architecture, libc::SYS_fsync as u32, 0), ALLOW);
    }

    /// Prints the errors of SG_IO, HDIO_GETGEO, setns(2) into its own cgroup namespace and into its own mount
    /// namespace, and of io_uring_setup(2) without arguments.
    #[cfg(target_arch = "x86_64")]
    const ASK: &str = "open F, '<', '/dev/null'; my $b = \"\\0\" x 64; my @e;\n\
        for (0x2285, 0x301) { push @e, ioctl(F, $_, $b) ? 0 : $! + 0 }\n\
        open C, '<', '/proc/self/ns/cgroup'; push @e, syscall(308, fileno(C), 0) < 0 ? $! + 0 : 0;\n\
        open M, '<', '/proc/self/ns/mnt'; push @e, syscall(308, fileno(M), 0x20000) < 0 ? $! + 0 : 0;\n\
        push @e, syscall(425, 0, 0) < 0 ? $! + 0 : 0; print \"@e\"";

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_kernel_refuses_it_to_what_a_filtered_process_starts() {
        if crate::skip::without_root("only root may filter system calls as the agent does it") {
            return;
        }
        // The filter is that of the thread, and of what it starts.
        let errors = |program: Option<Vec<sock_filter>>| {
            let ask = move || {
                program.map(|program| crate::sys::filter_calls(&program)).transpose()?;
                Command::new("sh").args(["-c", "perl -e \"$0\"", ASK]).output()
            };
            let output = std::thread::spawn(ask).join().unwrap().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let (no_disk, refused, missing) = (libc::ENOTTY, libc::EPERM, libc::ENOSYS);
        let unfiltered = errors(None);
        // EFAULT, or what a kernel says that has no io_uring.
        let uring = unfiltered.rsplit(' ').next().unwrap();
        assert_eq!(unfiltered, format!("{no_disk} {no_disk} 0 0 {uring}"));
        assert_eq!(errors(Some(for_payload(false))), format!("{refused} {no_disk} {refused} 0 {missing}"));
        assert_eq!(errors(Some(for_payload(true))), format!("{no_disk} {no_disk} {refused} 0 {uring}"));
    }
}
