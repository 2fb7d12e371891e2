//! A second process of this program.
#![allow(unsafe_code, reason = "this system call has no safe wrapper")]

use std::io;

/// Starts a process that goes on from here as well. Returns its number, and nothing in the new process itself. Fails if
/// another thread runs.
pub fn fork() -> io::Result<Option<i32>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("other threads run already"));
    }
    // SAFETY: this is the only thread, so no other one can have left a lock or half a change behind in the new process.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}
