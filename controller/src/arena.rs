#![allow(unsafe_code, reason = "mallopt(3) has no safe wrapper")]

/// Makes all threads share one arena of the allocator, before there is a second thread.
///
/// What a host says is taken by one thread and dropped by another. With an arena for each thread, as glibc has it (up
/// to eight for each processor), each keeps what was once at its peak: a flood took 13 MiB more, and more on a busy
/// machine. Threads here wait for hosts, not for memory.
pub fn share() {
    // An allocator that does not know the parameter says so, and goes on as it was.
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers and changes only how the allocator goes on.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
