//! System calls for which there is no safe wrapper.
#![allow(unsafe_code, reason = "these system calls have no safe wrapper")]

use std::ffi::{CStr, c_int, c_long, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// `RNDADDENTROPY` of `<linux/random.h>`.
const RNDADDENTROPY: c_ulong = 0x4008_5203;
/// `BLKROSET` of `<linux/fs.h>`.
const BLKROSET: c_ulong = 0x125d;

fn check(result: c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Loads the kernel module in `file` with these parameters, as `NAME=VALUE` separated by spaces.
pub fn load_module(file: &File, parameters: &CStr) -> io::Result<()> {
    // SAFETY: finit_module(2) with a valid descriptor, a NUL-terminated string and no flags.
    check(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), 0) })
}

/// Puts `bytes` in the kernel's pool and credits them as entropy.
pub fn add_entropy(random: &File, bytes: &[u8]) -> io::Result<()> {
    // struct rand_pool_info { int entropy_count; int buf_size; __u32 buf[]; }
    let mut pool = vec![0u32; 2 + bytes.len().div_ceil(4)];
    pool[0] = bytes.len() as u32 * 8;
    pool[1] = bytes.len() as u32;
    for (word, four) in pool[2..].iter_mut().zip(bytes.chunks(4)) {
        let mut le = [0; 4];
        le[..four.len()].copy_from_slice(four);
        *word = u32::from_ne_bytes(le);
    }
    // SAFETY: `pool` has the layout of rand_pool_info and is as long as its buf_size says.
    check(c_long::from(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, pool.as_ptr()) }))
}

/// Sets a block device read-only in the kernel, or writable again.
pub fn set_read_only(device: &File, on: bool) -> io::Result<()> {
    let on = c_int::from(on);
    // SAFETY: BLKROSET reads one int from the pointer.
    check(c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), BLKROSET as _, &raw const on) }))
}

/// Sends SIGKILL to every process but init and the caller (kill(2)).
pub fn kill_all_others() {
    // SAFETY: kill takes no pointers. It fails only where there is nobody else.
    let _ = unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// `BPF_PROG_LOAD` and `BPF_PROG_ATTACH` of `<linux/bpf.h>`.
const BPF_PROG_LOAD: c_int = 5;
const BPF_PROG_ATTACH: c_int = 8;
/// `BPF_PROG_TYPE_CGROUP_DEVICE` and `BPF_CGROUP_DEVICE`.
const PROGRAM_TYPE: u32 = 15;
const ATTACH_TYPE: u32 = 6;

/// Loads a BPF program that allows or forbids the opening of devices.
pub fn load_device_filter(code: &[u64]) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs; the kernel takes the rest as zeros.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        code: u64,
        licence: u64,
    }
    let licence = c"GPL";
    let count = u32::try_from(code.len()).map_err(io::Error::other)?;
    let load = Load { kind: PROGRAM_TYPE, count, code: code.as_ptr() as u64, licence: licence.as_ptr() as u64 };
    // SAFETY: the attributes point to `count` instructions and a NUL-terminated string, all alive during the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    check(fd)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches such a program to a cgroup, and replaces the one that was attached before.
pub fn attach_device_filter(cgroup: &File, program: &OwnedFd) -> io::Result<()> {
    let attach = [cgroup.as_raw_fd().cast_unsigned(), program.as_raw_fd().cast_unsigned(), ATTACH_TYPE, 0];
    // SAFETY: the four numbers that begin `union bpf_attr` for BPF_PROG_ATTACH, and their size.
    check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, attach.as_ptr(), size_of_val(&attach)) })
}

/// Keeps kernel messages below `level` (as in `<4>`) off the consoles; they stay in the ring buffer.
pub fn set_console_level(level: c_int) -> io::Result<()> {
    // SAFETY: SYSLOG_ACTION_CONSOLE_LEVEL takes no buffer.
    check(c_long::from(unsafe { libc::klogctl(8, std::ptr::null_mut(), level) }))
}

/// Has the kernel ask `program` about each system call of this thread, and of all that it becomes or starts. Takes
/// `CAP_SYS_ADMIN`.
pub fn filter_calls(program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    let install = |flags: c_ulong| {
        // SAFETY: the program points to `len` instructions, alive during the call, which copies them.
        check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) })
    };
    // The flag keeps kernels before 5.16 from slowing filtered programs down against attacks that they might try. Those
    // before 4.17 don't know it.
    install(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW).or_else(|_| install(0))
}

/// What a child does to itself before it becomes the program, in this order.
#[derive(Default)]
pub struct ChildSetup {
    /// Make its standard input its controlling terminal.
    pub terminal: bool,
    /// Set its `oom_score_adj` to this, because the agent's own, which it inherits, forbids the kernel to kill it.
    pub score: Option<&'static str>,
    /// `cgroup.procs` of the cgroup that it enters. That cgroup is then the root of its cgroup namespace.
    pub cgroup: Option<OwnedFd>,
    /// The program that the kernel asks about its system calls: see [`filter_calls`]. Empty: none.
    pub filter: Vec<libc::sock_filter>,
}

/// Makes `command` start in a session of its own, set up as told.
pub fn in_own_session(command: &mut tokio::process::Command, setup: ChildSetup) {
    let step = move || {
        // SAFETY: between fork and exec only async-signal-safe system calls are made, on values made before the fork.
        unsafe {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            if setup.terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            if let Some(score) = setup.score {
                let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                // Without /proc the agent's own score was never set.
                if file >= 0 {
                    let _ = write_text(file, score);
                    libc::close(file);
                }
            }
            if let Some(cgroup) = &setup.cgroup {
                write_text(cgroup.as_raw_fd(), "0")?;
                // EINVAL: a kernel before 4.6 has no such namespaces.
                if libc::unshare(libc::CLONE_NEWCGROUP) < 0
                    && io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL)
                {
                    return Err(io::Error::last_os_error());
                }
            }
        }
        if setup.filter.is_empty() { Ok(()) } else { filter_calls(&setup.filter) }
    };
    // SAFETY: see the closure.
    unsafe { command.pre_exec(step) };
}

fn write_text(file: RawFd, text: &str) -> io::Result<()> {
    // SAFETY: writes from a buffer as long as the length says.
    check(unsafe { libc::write(file, text.as_ptr().cast(), text.len()) } as c_long)
}

/// Watches a file for readiness.
pub fn watch(file: File) -> io::Result<tokio::io::unix::AsyncFd<File>> {
    // SAFETY: a File owns its descriptor, always returns the same one, and closes it only when it is dropped.
    unsafe { tokio::io::unix::AsyncFd::register(file) }.map_err(|e| io::Error::other(e.to_string()))
}

/// Has a process of its own write the bytes `letters` to `file`, each in a write(2) of its own and `pause_ms`
/// milliseconds after the one before. The process goes on whatever becomes of its parent.
pub fn write_later(file: &File, pause_ms: c_int, letters: &'static [u8]) -> io::Result<()> {
    // SAFETY: the child makes only async-signal-safe system calls, on values made before the fork, and ends with _exit.
    match unsafe { libc::fork() } {
        ..0 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: as above. Everything but the file is closed, so that no port or pipe of the parent stays open.
            unsafe {
                libc::setsid();
                libc::dup2(file.as_raw_fd(), 0);
                libc::syscall(libc::SYS_close_range, 1, c_int::MAX, 0);
                for letter in letters {
                    libc::poll(std::ptr::null_mut(), 0, pause_ms);
                    libc::write(0, std::ptr::from_ref(letter).cast(), 1);
                }
                libc::_exit(0);
            }
        }
        _ => Ok(()),
    }
}

/// Takes over a descriptor that the process that started this one has left open for it, and keeps programs that this
/// one starts from getting it as well.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD fails with EBADF if there is no such descriptor, and takes no pointers.
    check(c_long::from(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }))?;
    // SAFETY: the descriptor is open, and whoever started this process has left it to the caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// ioctls of `<linux/watchdog.h>`.
const WDIOC_GETSUPPORT: c_ulong = 0x8028_5700;
const WDIOC_SETOPTIONS: c_ulong = 0x8004_5704;
const WDIOC_SETTIMEOUT: c_ulong = 0xc004_5706;
const WDIOC_GETTIMEOUT: c_ulong = 0x8004_5707;
/// `WDIOS_DISABLECARD`.
const WDIOS_DISABLECARD: c_int = 1;

/// What a watchdog calls itself; empty if it doesn't say.
pub fn watchdog_identity(device: &File) -> String {
    /// `struct watchdog_info`.
    #[repr(C)]
    struct Info {
        options: u32,
        firmware_version: u32,
        identity: [u8; 32],
    }
    let mut info = Info { options: 0, firmware_version: 0, identity: [0; 32] };
    // SAFETY: WDIOC_GETSUPPORT writes one struct watchdog_info to the pointer.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_GETSUPPORT as _, &raw mut info) };
    let end = info.identity.iter().position(|&byte| byte == 0).unwrap_or(info.identity.len());
    if result < 0 { String::new() } else { String::from_utf8_lossy(&info.identity[..end]).trim().to_owned() }
}

/// Asks a watchdog for a timeout of so many seconds; returns the timeout that it has now, if it says. The driver may
/// round the wish, or refuse it.
pub fn set_watchdog_timeout(device: &File, seconds: u32) -> Option<u32> {
    let mut timeout = c_int::try_from(seconds).unwrap_or(c_int::MAX);
    // SAFETY: both calls read or write one int at the pointer.
    let result = unsafe {
        libc::ioctl(device.as_raw_fd(), WDIOC_SETTIMEOUT as _, &raw mut timeout);
        libc::ioctl(device.as_raw_fd(), WDIOC_GETTIMEOUT as _, &raw mut timeout)
    };
    u32::try_from(timeout).ok().filter(|_| result >= 0)
}

/// Has a watchdog stop counting. Fails where it can't be stopped.
pub fn stop_watchdog(device: &File) -> io::Result<()> {
    let options = WDIOS_DISABLECARD;
    // SAFETY: WDIOC_SETOPTIONS reads one int from the pointer.
    check(c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_SETOPTIONS as _, &raw const options) }))
}
