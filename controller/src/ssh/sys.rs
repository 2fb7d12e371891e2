//! The one system call here for which there is no safe wrapper.
#![allow(unsafe_code, reason = "what a child does before it becomes the program has no safe wrapper")]

use tokio::process::Command;

/// Makes `command` start in a session of its own: without a terminal that it could ask at, and as the first of a group
/// of processes that has its number.
pub(super) fn in_own_session(command: &mut Command) {
    // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe.
    unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) };
}
