//! Time.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the kernel booted.
pub fn uptime_ms() -> u64 {
    millis(ClockId::Boottime)
}

/// Milliseconds since the Unix epoch.
pub fn wall_ms() -> u64 {
    millis(ClockId::Realtime)
}

fn millis(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Does something that failing hardware may keep from ever ending, in a thread of its own; `None` if it did not end in time.
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, waiting) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    waiting.recv_timeout(limit).ok()
}
