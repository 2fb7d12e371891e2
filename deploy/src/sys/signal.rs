//! Signals: which are ignored, which are waited for, and SIGTERM for everybody else.
#![allow(unsafe_code, reason = "these system calls have no safe wrapper")]

use std::io;

/// Signals that end the stage in an orderly way.
const ENDING: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];

fn ending() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data, and sigemptyset makes it a valid set before sigaddset reads it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in ENDING {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// Blocks ending signals in this thread and all that it starts, so that [`wait`] gets them. Must be called before any
/// other thread runs.
pub fn block() {
    let set = ending();
    // SAFETY: the set is valid, and the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Waits for an ending signal, and returns its number.
pub fn wait() -> io::Result<i32> {
    let set = ending();
    let mut signal = 0;
    // SAFETY: both pointers are to live values of the right type.
    match unsafe { libc::sigwait(&raw const set, &raw mut signal) } {
        0 => Ok(signal),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Ignores SIGHUP and the ending signals from now on.
pub fn ignore_all() {
    for signal in ENDING.into_iter().chain([libc::SIGHUP]) {
        // SAFETY: SIG_IGN is a valid disposition and runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Ignores SIGHUP. sshd sends it when the connection ends, which the stage learns from the end of standard input as
/// well.
pub fn ignore_hangup() {
    // SAFETY: SIG_IGN is a valid disposition and runs no code of ours.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}

/// Sends SIGTERM to every process but this one and PID 1.
pub fn terminate_others() -> io::Result<()> {
    // SAFETY: kill takes no pointers.
    if unsafe { libc::kill(-1, libc::SIGTERM) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
